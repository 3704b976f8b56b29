//! The relay that is measured, and who its agents are.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use super::failure::{Failure, Step};
use crate::config::quic::QuicConfig;
use crate::core::identity::{AgentUri, Tenant};
use crate::core::ids::ServiceName;
use crate::net::tls::{ALPN_ORP, TlsMaterial};
use crate::net::{quic, tls};
use crate::pki::{Ca, PkiError};

/// Streams that a connection of ours takes from the relay: never what a run waits for.
const STREAMS_TAKEN: u32 = 16_384;
/// Room for all streams of a run at the window of one.
const CONNECTION_WINDOW_BYTES: u64 = 16 * 1024 * 1024;

/// The relay, and what its agents have in common.
#[derive(Debug)]
pub struct Site {
    /// Where the relay listens.
    pub relay: SocketAddr,
    /// The name that its certificate must carry.
    pub server_name: String,
    /// The tenant of all agents.
    pub tenant: Tenant,
    /// The service that the provider registers and the consumers call.
    pub service: ServiceName,
    ca: Ca,
    next_stream_id: AtomicU64,
}

/// An agent that does not exist yet.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) uri: AgentUri,
    pub(super) client: quinn::ClientConfig,
}

/// What an agent needs its connection for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// To take streams from the relay.
    Provide,
    /// To open streams, or to do nothing.
    Consume,
}

impl Site {
    /// Agents of `tenant`, certified by `ca`, at this relay.
    #[must_use]
    pub fn new(relay: SocketAddr, server_name: String, ca: Ca, tenant: Tenant, service: ServiceName) -> Self {
        // A relay may remember the streams of an earlier benchmark, by other agents of the same tenant (wire.md §4.4).
        let next_stream_id = AtomicU64::new(rand::random());
        Self { relay, server_name, tenant, service, ca, next_stream_id }
    }

    /// The CA in these two files, which certifies the agents.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load_ca(cert: &Path, key: &Path) -> Result<Ca, PkiError> {
        Ca::load_files(cert, key)
    }

    /// A stream id that this process has not used; never 0, which relays do not record.
    pub(super) fn stream_id(&self) -> u64 {
        self.next_stream_id.fetch_add(1, Ordering::Relaxed).max(1)
    }

    /// A new agent with its certificate.
    pub(super) fn identity(&self, r#use: Use) -> Result<Identity, Failure> {
        let uri = AgentUri::new(&self.tenant, &Uuid::now_v7().to_string()).map_err(Failure::of(Step::Prepare))?;
        let issued = self.ca.agent(&uri).map_err(Failure::of(Step::Prepare))?;
        let material = TlsMaterial::from_pem(&issued.cert_pem, &issued.key_pem, self.ca.cert_pem())
            .map_err(Failure::of(Step::Prepare))?;
        let tls = tls::client_config(&material, &[ALPN_ORP]).map_err(Failure::of(Step::Prepare))?;
        let client = quic::client_config(tls, &settings(r#use)).map_err(Failure::of(Step::Prepare))?;
        Ok(Identity { uri, client })
    }

    /// A socket for agents.
    pub(super) fn endpoint(&self) -> Result<quinn::Endpoint, Failure> {
        let unspecified = match self.relay {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        quic::bind(unspecified, &settings(Use::Consume), None).map_err(Failure::of(Step::Prepare))
    }
}

fn settings(r#use: Use) -> QuicConfig {
    let mut settings = QuicConfig { connection_window: CONNECTION_WINDOW_BYTES, ..QuicConfig::default() };
    settings.send_window = CONNECTION_WINDOW_BYTES;
    if r#use == Use::Provide {
        settings.streams_initial = STREAMS_TAKEN;
    }
    settings
}
