//! From a list of relays to a session: [who answers first](race), [QUIC and who it is](reach), [HELLO](greet).

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::timeout;

use self::race::{Pace, Question, Race};
use super::credentials;
use super::vault::AgentVault;
use super::vault::session::{Session, Target};
use crate::core::identity::RelayUri;
use crate::core::ids::Capability;
use crate::core::reject::ResetCode;

mod greet;
mod race;
mod reach;

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
    /// Whoever is there is no relay of this deployment.
    #[error("it is no relay: {0}")]
    Identity(String),
    /// It is under another address the relay that we are to leave.
    #[error("it is {0}, which drains")]
    Drains(RelayUri),
    /// HELLO came to nothing.
    #[error("HELLO: {0}")]
    Hello(String),
    /// It is being told HELLO on another connection.
    #[error("it was asked twice")]
    Twice,
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
    // While a relay that drains still stands, streams go on there.
    let streams_wait = *vault.watch_live().borrow() > 0 && vault.leaving().is_empty();
    let pace = Pace { connect: vault.config.timeouts.connect, streams_wait };
    let outcome = Race::new(targets, pace, |question| ask(vault, &client, question).boxed()).run().await;
    for session in outcome.others {
        session.close(ResetCode::UNSPECIFIED, "a relay that comes before this one has answered");
    }
    outcome.taken.map(Arc::new)
}

async fn ask(vault: &AgentVault, client: &quinn::ClientConfig, question: Question) -> Result<Session, DialError> {
    let within = question.within;
    let reached = timeout(within, reach::reach(vault, client, &question.target.address, question.ask)).await;
    let reached = reached.map_err(|_elapsed| DialError::ConnectTimedOut(within))??;
    if !question.may_say_hello() {
        return Err(DialError::Twice);
    }
    greet::greet(vault, &question.target, reached).await
}
