//! From a relay's name to a connection, and to who it is.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::select_ok;
use quinn_proto::TransportErrorCode;

use super::DialError;
use super::race::Ask;
use super::trust::distrust;
use crate::agent::vault::AgentVault;
use crate::config::types::HostPort;
use crate::core::identity::{Identity, RelayUri};
use crate::net::tls::peer_identity;

/// How much later each further address of one name is tried (RFC 8305 §5), the first time.
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 8;

/// A relay that has answered, and was told nothing yet.
#[derive(Debug)]
pub(super) struct Reached {
    pub quic: quinn::Connection,
    /// Who it is, from its certificate.
    pub relay: RelayUri,
}

/// Connects. Fails where a relay of this deployment is not who answers, or one that this agent is to leave.
pub(super) async fn reach(
    vault: &AgentVault,
    client: &quinn::ClientConfig,
    address: &HostPort,
    ask: Ask,
) -> Result<Reached, DialError> {
    let stagger = match ask {
        Ask::First => STAGGER,
        Ask::Again => Duration::ZERO,
    };
    let quic = connect(vault, client, address, stagger).await?;
    let relay = relay_of(&quic)?;
    if vault.leaving().iter().any(|session| session.relay == relay) {
        quic.close(0_u32.into(), b"this relay drains");
        return Err(DialError::Drains(relay));
    }
    Ok(Reached { quic, relay })
}

/// Tries all addresses of the name, each so much later than the one before, until one answers.
async fn connect(
    vault: &AgentVault,
    client: &quinn::ClientConfig,
    address: &HostPort,
    stagger: Duration,
) -> Result<quinn::Connection, DialError> {
    let addresses = resolve(vault, address).await?;
    let attempts = (0_u32..).zip(addresses).map(|(nth, addr)| Box::pin(connect_to(vault, client, addr, stagger * nth)));
    select_ok(attempts).await.map(|(connection, _slower)| connection)
}

/// A lookup needs what may be away just when it is needed most, a name server or a file descriptor: what the name stood for last is
/// better than nothing.
async fn resolve(vault: &AgentVault, address: &HostPort) -> Result<Vec<SocketAddr>, DialError> {
    let why = match tokio::net::lookup_host(address.as_str()).await {
        Ok(found) => {
            let addresses: Vec<SocketAddr> = found.take(ADDRESSES).collect();
            if !addresses.is_empty() {
                vault.names.remember(address, &addresses);
                return Ok(addresses);
            }
            "it has no address".to_owned()
        }
        Err(error) => error.to_string(),
    };
    let last = vault.names.last(address);
    if last.is_empty() {
        return Err(DialError::Name(why));
    }
    tracing::warn!(relay = %address, %why, addresses = ?last, "the relay's name is not found: dialling where it was last");
    Ok(last)
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
    connecting.await.map_err(|error| match error {
        quinn::ConnectionError::TimedOut => DialError::ConnectTimedOut(vault.config.quic.idle_timeout),
        quinn::ConnectionError::ConnectionClosed(close)
            if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
        {
            DialError::Refused(close.to_string())
        }
        error => match distrust(&error, &vault.config) {
            Some(why) => DialError::Distrust(why),
            None => DialError::Connect(error.to_string()),
        },
    })
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
