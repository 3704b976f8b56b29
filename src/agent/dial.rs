//! From a relay's address to a session: name, QUIC, who it is, HELLO.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, select_ok};
use tokio::time::{Instant, timeout};

use super::vault::AgentVault;
use super::vault::registrations::Registrations;
use super::vault::session::{CONTROL_QUEUE, FRAME_MAX_BYTES, Parting, Registered, Session, Target};
use crate::config::types::HostPort;
use crate::core::frame::Frame;
use crate::core::identity::{Identity, RelayUri};
use crate::core::ids::{Capabilities, Capability};
use crate::core::reject::ResetCode;
use crate::net::framed::{ControlReader, write_frame};
use crate::net::receive_window::ReceiveWindow;
use crate::net::stream::BiStream;
use crate::net::stream_limit::StreamLimit;
use crate::net::tls::peer_identity;
use crate::proto::orp;
use crate::vault::control_writer::ControlWriter;

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
/// The only protocol version (wire.md §2, HELLO).
const PROTOCOL_VERSION: &str = "orp/1";
/// How much later each further address of one name is tried.
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 8;
/// Relays that are remembered as silent; the last ones count.
const REMEMBERED: usize = 8;
/// How long a relay is waited for that was given up because it was silent, or four round trips if that is longer: it has had its time.
const SILENT: Duration = Duration::from_millis(500);
/// A relay that comes before the one that has answered is asked once more for so long, or for four times as long as the answer
/// took, up to [`SILENT`].
const AGAIN: Duration = Duration::from_millis(100);

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
    /// No HELLO_ACK in time.
    #[error("no HELLO_ACK within {0:?}")]
    HelloTimedOut(Duration),
}

/// Relays that were given up because nothing was heard of them, and how long each is waited for.
#[derive(Debug, Clone, Default)]
pub struct Silent(Vec<(HostPort, Duration)>);

impl Silent {
    /// This one was given up; its round trip time was `rtt`.
    pub fn add(&mut self, relay: &HostPort, rtt: Duration) {
        self.remove(relay);
        if self.0.len() == REMEMBERED {
            self.0.remove(0);
        }
        self.0.push((relay.clone(), SILENT.max(rtt * 4)));
    }

    /// This one was heard.
    pub fn remove(&mut self, relay: &HostPort) {
        self.0.retain(|(silent, _)| silent != relay);
    }

    /// Whether nothing was heard of this one since it was given up.
    #[must_use]
    pub fn contains(&self, relay: &HostPort) -> bool {
        self.patience(relay).is_some()
    }

    fn patience(&self, relay: &HostPort) -> Option<Duration> {
        self.0.iter().find(|(silent, _)| silent == relay).map(|(_, patience)| *patience)
    }
}

/// Dials `targets` in order, each once, until one has answered HELLO. `None` when none did.
///
/// Those before it that were not heard are asked once more then: where it was this agent's own network that was away, they answer now,
/// and the agents of a deployment stay together.
pub async fn round(vault: &AgentVault, targets: Vec<Target>, silent: &Silent) -> Option<Arc<Session>> {
    let longest = vault.config.timeouts.connect;
    // Once for all of them.
    let client = vault.credentials.client();
    let mut unheard = Vec::new();
    for target in targets {
        let began = Instant::now();
        let patience = silent.patience(&target.address).map_or(longest, |patience| patience.min(longest));
        match dial(vault, &client, &target, patience).await {
            Ok(session) => {
                let within = (began.elapsed() * 4).clamp(AGAIN, SILENT);
                let earlier = again(vault, &client, &unheard, within).await;
                return Some(Arc::new(first_of(earlier.into_iter().chain([session]))?));
            }
            Err(error) => {
                // As a quoted text: it may hold what a peer said.
                tracing::warn!(relay = %target.address, error = error.to_string(), "no session");
                if matches!(error, DialError::ConnectTimedOut(_)) {
                    unheard.push(target);
                }
            }
        }
    }
    None
}

/// Dials all of `targets` at once; the sessions with those that answer in time, in order.
async fn again(vault: &AgentVault, client: &quinn::ClientConfig, targets: &[Target], within: Duration) -> Vec<Session> {
    let dials = targets.iter().map(|target| timeout(within, dial(vault, client, target, within)));
    join_all(dials).await.into_iter().flatten().flatten().collect()
}

/// The others are closed.
fn first_of(mut sessions: impl Iterator<Item = Session>) -> Option<Session> {
    let first = sessions.next();
    sessions
        .for_each(|session| session.close(ResetCode::UNSPECIFIED, "a relay that comes before this one has answered"));
    first
}

async fn dial(
    vault: &AgentVault,
    client: &quinn::ClientConfig,
    target: &Target,
    patience: Duration,
) -> Result<Session, DialError> {
    let timeouts = &vault.config.timeouts;
    let connected = timeout(patience, connect(vault, client, &target.address)).await;
    let quic = connected.map_err(|_elapsed| DialError::ConnectTimedOut(patience))??;
    let relay = relay_of(&quic)?;
    if vault.leaving().iter().any(|session| session.relay == relay) {
        quic.close(0_u32.into(), b"this relay drains");
        return Err(DialError::Drains(relay));
    }
    let greeted = timeout(timeouts.hello, hello(vault, target, relay, &quic)).await;
    let session = greeted.unwrap_or(Err(DialError::HelloTimedOut(timeouts.hello)));
    if let Err(error) = &session {
        quic.close(0_u32.into(), error.to_string().as_bytes());
    }
    session
}

/// Tries all addresses of the name, each a little later than the one before, until one answers.
async fn connect(
    vault: &AgentVault,
    client: &quinn::ClientConfig,
    address: &HostPort,
) -> Result<quinn::Connection, DialError> {
    let found = tokio::net::lookup_host(address.as_str()).await;
    let addresses: Vec<SocketAddr> =
        found.map_err(|error| DialError::Name(error.to_string()))?.take(ADDRESSES).collect();
    if addresses.is_empty() {
        return Err(DialError::Name("it has no address".to_owned()));
    }
    let attempts = (0_u32..).zip(addresses).map(|(nth, addr)| Box::pin(connect_to(vault, client, addr, STAGGER * nth)));
    select_ok(attempts).await.map(|(connection, _slower)| connection)
}

async fn connect_to(
    vault: &AgentVault,
    client: &quinn::ClientConfig,
    addr: SocketAddr,
    after: Duration,
) -> Result<quinn::Connection, DialError> {
    tokio::time::sleep(after).await;
    let connecting = vault.endpoint.connect_with(client.clone(), addr, &vault.config.server_name);
    let connecting = connecting.map_err(|error| DialError::Connect(error.to_string()))?;
    connecting.await.map_err(|error| DialError::Connect(error.to_string()))
}

/// TLS has proven a certificate of the deployment; that of another *agent* must not pass for a relay's.
fn relay_of(quic: &quinn::Connection) -> Result<RelayUri, DialError> {
    let why = match peer_identity(quic) {
        Ok(Identity::Relay(relay)) => return Ok(relay),
        Ok(Identity::Agent(agent)) => format!("its certificate says {agent}"),
        Err(error) => error.to_string(),
    };
    quic.close(0_u32.into(), why.as_bytes());
    Err(DialError::Identity(why))
}

async fn hello(
    vault: &AgentVault,
    target: &Target,
    relay: RelayUri,
    quic: &quinn::Connection,
) -> Result<Session, DialError> {
    let failed = |why: &dyn std::fmt::Display| DialError::Hello(why.to_string());
    let (send, recv) = quic.open_bi().await.map_err(|error| failed(&error))?;
    let mut stream = BiStream::from_quic(quic, send, recv, ResetCode::UNSPECIFIED);
    let named: Capabilities = CAPABILITIES.into_iter().collect();
    let hello = Frame::Hello(orp::Hello {
        protocol_version: PROTOCOL_VERSION.to_owned(),
        agent_uri: vault.agent().to_string(),
        capabilities: named.names(),
    });
    if let Err(end) = write_frame(&mut stream.send, &hello).await {
        return Err(failed(&closed(quic).unwrap_or_else(|| end.to_string())));
    }
    let mut reader = ControlReader::new(stream.recv, FRAME_MAX_BYTES);
    if let Err(error) = reader.fill().await {
        return Err(failed(&closed(quic).unwrap_or_else(|| error.to_string())));
    }
    let ack = match reader.peek() {
        Some(Ok(Frame::HelloAck(ack))) => ack,
        Some(Ok(other)) => return Err(failed(&format!("the answer is {}", other.name()))),
        Some(Err(error)) => return Err(failed(&error)),
        None => return Err(failed(&"no answer")),
    };
    reader.consume();
    let now = Instant::now();
    let cap = u32::try_from(vault.config.limits.streams).unwrap_or(u32::MAX);
    Ok(Session {
        number: vault.next_session(),
        target: target.clone(),
        relay,
        // What was not named must not be used, whatever the relay says.
        features: Capabilities::from_names(&ack.accepted_features).intersection(named),
        reader: Arc::new(tokio::sync::Mutex::new(reader)),
        writer: ControlWriter::new(stream.send, CONTROL_QUEUE),
        window: ReceiveWindow::new(quic.clone(), &vault.config.quic),
        streams: StreamLimit::new(quic.clone(), vault.config.quic.streams_initial, cap),
        quic: quic.clone(),
        since: now,
        registrations: Registered::new(Registrations::new(&vault.config.expose, now)),
        unknown_logged: false.into(),
        parting: Parting::default(),
    })
}

/// What the relay said when it closed the connection tells more than the stream's end.
fn closed(quic: &quinn::Connection) -> Option<String> {
    quic.close_reason().map(|reason| reason.to_string())
}
