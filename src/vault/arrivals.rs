//! TLS handshakes in progress. They are owned here and not by the listener, so that a listener may die while peers
//! are half-way in. Bounded: beyond the limit a connection attempt is refused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Vault;
use super::connections::AgentConnection;
use super::places::{Place, Places};
use crate::core::identity::{AgentUri, Identity};
use crate::metrics::Limit;
use crate::net::receive_window::ReceiveWindow;
use crate::net::stream_limit::StreamLimit;
use crate::net::tls::peer_identity;

/// Why a connection attempt came to nothing.
#[derive(Debug, thiserror::Error)]
enum ArrivalError {
    #[error("TLS handshake failed")]
    Tls(#[source] quinn::ConnectionError),
    #[error("TLS handshake took longer than {0:?}")]
    TimedOut(Duration),
    #[error("{why}")]
    Identity {
        /// What its certificate names, if it is something.
        who: String,
        why: String,
    },
}

impl ArrivalError {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Tls(_) => "tls",
            Self::TimedOut(_) => "timed_out",
            Self::Identity { .. } => "identity",
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Arrivals {
    connections: Places,
    half_open: Places,
    handshakes: Mutex<JoinSet<()>>,
}

/// What a connection occupies: a place among all for as long as it lives, and one among the half-open ones until its HELLO was
/// answered.
#[derive(Debug)]
pub struct Occupied {
    /// Among all.
    pub place: Place,
    /// Among the half-open.
    pub half_open: Place,
}

impl Arrivals {
    /// Takes one connection attempt in: TLS, identity, then the vault's connections, then `established` is told.
    pub fn begin(
        vault: &Arc<Vault>,
        incoming: quinn::Incoming,
        established: impl FnOnce(Arc<AgentConnection>) + Send + 'static,
    ) {
        // Under load an address must first prove that it is real: a stateless retry costs nothing here (RFC 9000 §8.1.2).
        if vault.arrivals.is_busy(vault) && !incoming.remote_address_validated() && incoming.may_retry() {
            vault.metrics.handshake("retry");
            if let Err(error) = incoming.retry() {
                tracing::debug!(%error, "no retry for a connection attempt");
            }
            return;
        }
        let occupied = match vault.arrivals.admit(vault) {
            Ok(occupied) => occupied,
            Err(why) => {
                tracing::debug!(remote = %incoming.remote_address(), why, "connection attempt refused");
                vault.metrics.handshake("refused");
                incoming.refuse();
                return;
            }
        };
        let arrivals = Arc::clone(vault);
        let task = arrive(Arc::clone(vault), incoming, occupied, established);
        let mut handshakes = arrivals.arrivals.lock();
        while handshakes.try_join_next().is_some() {}
        handshakes.spawn(task);
    }

    fn is_busy(&self, vault: &Vault) -> bool {
        let limit = vault.config.now().limits.half_open_handshakes;
        self.half_open.taken() >= (limit / 8).max(1)
    }

    fn admit(&self, vault: &Vault) -> Result<Occupied, &'static str> {
        if vault.drain.has_begun() {
            return Err("the relay is draining");
        }
        let config = vault.config.now();
        let Some(half_open) = self.half_open.take(config.limits.half_open_handshakes) else {
            vault.metrics.limit_hit(Limit::HalfOpenHandshakes);
            return Err("too many half-open connections");
        };
        let Some(place) = self.connections.take(config.limits.connections) else {
            vault.metrics.limit_hit(Limit::Connections);
            return Err("too many connections");
        };
        Ok(Occupied { place, half_open })
    }

    /// How many are in progress.
    #[must_use]
    pub fn in_progress(&self) -> usize {
        let mut handshakes = self.lock();
        while handshakes.try_join_next().is_some() {}
        handshakes.len()
    }

    /// Ends them all: the relay stops.
    pub fn abort(&self) {
        self.lock().abort_all();
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.handshakes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn arrive(
    vault: Arc<Vault>,
    incoming: quinn::Incoming,
    occupied: Occupied,
    established: impl FnOnce(Arc<AgentConnection>) + Send + 'static,
) {
    let remote = incoming.remote_address();
    let config = vault.config.get();
    match handshake(incoming, config.limits.tls_handshake).await {
        Ok((quic, agent)) => {
            let limits = &config.limits;
            let streams = StreamLimit::new(
                quic.clone(),
                config.quic.streams_initial,
                u32::try_from(limits.streams_per_agent).unwrap_or(u32::MAX),
            );
            let window = ReceiveWindow::new(quic.clone(), &config.quic);
            let hello_deadline = Instant::now() + limits.hello;
            let connection = vault.connections.add(agent, quic, streams, window, occupied, hello_deadline);
            vault.metrics.handshake("established");
            vault.metrics.connections_opened.inc();
            established(connection);
        }
        Err(error) => {
            vault.metrics.handshake(error.outcome());
            match &error {
                ArrivalError::TimedOut(_) => vault.metrics.limit_hit(Limit::TlsHandshake),
                // Of those who have not proven a certificate there may be any number: they are counted only.
                ArrivalError::Identity { who, why } => {
                    vault.audit.refused("", who, &format!("connection from {remote} refused: {why}"));
                }
                ArrivalError::Tls(_) => {}
            }
            let error = anyhow::Error::new(error);
            tracing::info!(%remote, error = format!("{error:#}"), "connection refused");
        }
    }
}

async fn handshake(
    incoming: quinn::Incoming,
    deadline: Duration,
) -> Result<(quinn::Connection, AgentUri), ArrivalError> {
    let connecting = incoming.accept().map_err(ArrivalError::Tls)?;
    let quic = match tokio::time::timeout(deadline, connecting).await {
        Ok(Ok(quic)) => quic,
        Ok(Err(error)) => return Err(ArrivalError::Tls(error)),
        Err(_elapsed) => return Err(ArrivalError::TimedOut(deadline)),
    };
    let (who, why) = match peer_identity(&quic) {
        Ok(Identity::Agent(agent)) => return Ok((quic, agent)),
        Ok(Identity::Relay(relay)) => (relay.to_string(), format!("{relay} is a relay: this relay serves agents")),
        Err(error) => (String::new(), error.to_string()),
    };
    quic.close(0_u32.into(), why.as_bytes());
    Err(ArrivalError::Identity { who, why })
}
