//! From a list of relays to a session: `race` (who is taken), `reach` (QUIC and who it is), `greet` (HELLO), `trust` (whose certificate is wrong).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::timeout;

use self::race::{Answer, Question, Race, Rules};
use super::credentials;
use super::vault::AgentVault;
use super::vault::session::{Session, Target};
use crate::core::identity::RelayUri;
use crate::core::ids::Capability;
use crate::core::reject::ResetCode;

mod greet;
mod race;
mod reach;
mod trust;

/// What this agent uses of wire.md §9.
pub const CAPABILITIES: [Capability; 8] = [
    Capability::GoAway,
    Capability::RejectCtrl,
    Capability::ResumeEcho,
    Capability::ResumeCode,
    Capability::FinState,
    Capability::ResumeCall,
    Capability::ResumeTicket,
    Capability::PeerCaps,
];

/// Why there is no session with a relay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The name has no address.
    #[error("its name: {0}")]
    Name(String),
    /// No QUIC connection.
    #[error("no connection: {0}")]
    Connect(String),
    /// No QUIC connection in time.
    #[error("no connection within {0:?}")]
    ConnectTimedOut(Duration),
    /// One of the two does not trust the other's certificate.
    #[error("{0}")]
    Distrust(String),
    /// Whoever is there is no relay of this deployment.
    #[error("it is no relay: {0}")]
    Identity(String),
    /// It is under another address the relay that we are to leave.
    #[error("it is {0}, which drains")]
    Drains(RelayUri),
    /// HELLO came to nothing.
    #[error("HELLO: {0}")]
    Hello(String),
    /// It is told HELLO on another connection.
    #[error("it is {0}, which is asked on another connection, too")]
    Twice(RelayUri),
    /// It takes no connection now: it is full, or drains.
    #[error("refused: {0}")]
    Refused(String),
    /// No HELLO_ACK in time.
    #[error("no HELLO_ACK within {0:?}")]
    HelloTimedOut(Duration),
}

impl DialError {
    /// Whether nobody was heard: it may be our own network that is away.
    fn is_unheard(&self) -> bool {
        matches!(self, Self::Name(_) | Self::ConnectTimedOut(_))
    }
}

/// Dials `targets`, the order of which is that of preference, until one has answered HELLO. `None` when none did.
pub async fn round(vault: &Arc<AgentVault>, targets: Vec<Target>) -> Option<Arc<Session>> {
    // Once for all of them.
    let client = credentials::client(vault).await;
    let greeted = Greeted::default();
    let rules = Rules {
        connect: vault.config.timeouts.connect,
        reach: |question| ask(vault, &client, &greeted, question).boxed(),
        streams_wait: || vault.streams_wait(),
    };
    let outcome = Race::new(targets, rules).run().await;
    for session in outcome.others {
        session.close(ResetCode::UNSPECIFIED, "a relay that comes before this one has answered");
    }
    outcome.taken.map(Arc::new)
}

/// The relays that are being told HELLO: each on one connection alone, for it would take a later one for the agent's.
#[derive(Debug, Default)]
struct Greeted(Mutex<HashSet<RelayUri>>);

impl Greeted {
    fn relays(&self) -> MutexGuard<'_, HashSet<RelayUri>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer for Session {
    fn stands(&self) -> bool {
        self.quic.close_reason().is_none()
    }
}

async fn ask(
    vault: &AgentVault,
    client: &quinn::ClientConfig,
    greeted: &Greeted,
    question: Question,
) -> Result<Session, DialError> {
    let within = question.within;
    let reached = timeout(within, reach::reach(vault, client, &question.target.address, question.ask)).await;
    let reached = reached.map_err(|_elapsed| DialError::ConnectTimedOut(within))??;
    let relay = reached.relay.clone();
    if !greeted.relays().insert(relay.clone()) {
        return Err(DialError::Twice(relay));
    }
    let session = greet::greet(vault, &question.target, reached).await;
    if session.is_err() {
        greeted.relays().remove(&relay);
    }
    session
}
