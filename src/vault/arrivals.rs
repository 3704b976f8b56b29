//! TLS handshakes in progress. They are owned here and not by the listener, so that a listener may die while peers
//! are half-way in. Bounded: beyond the limit a connection attempt is refused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Vault;
use super::connections::AgentConnection;
use crate::core::identity::{AgentUri, Identity};
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
    #[error("{0}")]
    Identity(String),
}

impl ArrivalError {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Tls(_) => "tls",
            Self::TimedOut(_) => "timed_out",
            Self::Identity(_) => "identity",
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Arrivals {
    half_open: Arc<Semaphore>,
    handshakes: Mutex<JoinSet<()>>,
}

impl Arrivals {
    /// At most `limit` handshakes at once.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { half_open: Arc::new(Semaphore::new(limit)), handshakes: Mutex::default() }
    }

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
        let permit = match vault.arrivals.admit(vault) {
            Ok(permit) => permit,
            Err(why) => {
                tracing::debug!(remote = %incoming.remote_address(), why, "connection attempt refused");
                vault.metrics.handshake("refused");
                incoming.refuse();
                return;
            }
        };
        let arrivals = Arc::clone(vault);
        let task = arrive(Arc::clone(vault), incoming, permit, established);
        let mut handshakes = arrivals.arrivals.lock();
        while handshakes.try_join_next().is_some() {}
        handshakes.spawn(task);
    }

    fn is_busy(&self, vault: &Vault) -> bool {
        let limit = vault.config.limits.half_open_handshakes;
        limit - self.half_open.available_permits().min(limit) >= (limit / 8).max(1)
    }

    fn admit(&self, vault: &Vault) -> Result<OwnedSemaphorePermit, &'static str> {
        if vault.drain.has_begun() {
            return Err("the relay is draining");
        }
        if vault.connections.len() >= vault.config.limits.connections {
            vault.metrics.limit_hit("connections");
            return Err("too many connections");
        }
        Arc::clone(&self.half_open).try_acquire_owned().map_err(|_| {
            vault.metrics.limit_hit("half_open_handshakes");
            "too many handshakes in progress"
        })
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
    permit: OwnedSemaphorePermit,
    established: impl FnOnce(Arc<AgentConnection>) + Send + 'static,
) {
    let remote = incoming.remote_address();
    match handshake(incoming, vault.config.limits.tls_handshake).await {
        Ok((quic, agent)) => {
            let limits = &vault.config.limits;
            let streams = StreamLimit::new(
                quic.clone(),
                vault.config.quic.streams_initial,
                u32::try_from(limits.streams_per_agent).unwrap_or(u32::MAX),
            );
            let window = ReceiveWindow::new(quic.clone(), &vault.config.quic);
            let connection = vault.connections.add(agent, quic, streams, window, Instant::now() + limits.hello);
            drop(permit);
            vault.metrics.handshake("established");
            vault.metrics.connections_opened.inc();
            established(connection);
        }
        Err(error) => {
            vault.metrics.handshake(error.outcome());
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
    let refusal = match peer_identity(&quic) {
        Ok(Identity::Agent(agent)) => return Ok((quic, agent)),
        Ok(Identity::Relay(relay)) => format!("{relay} is a relay: this relay serves agents"),
        Err(error) => error.to_string(),
    };
    quic.close(0_u32.into(), refusal.as_bytes());
    Err(ArrivalError::Identity(refusal))
}
