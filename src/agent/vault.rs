//! What outlives the agent's actors: the endpoint, the session, local listeners, the ids of streams, and how they ended.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use self::routes::Routes;
use self::session::Session;
use super::throttle::Throttle;
use crate::config::agent::{AgentConfig, Consume, Expose};
use crate::core::identity::AgentUri;
use crate::core::ids::StreamId;
use crate::core::reject::ResetCode;
use crate::core::resume::finished::{Finished, FinishedStreams};
use crate::core::ring::{Allowance, Ring, RingLimits};

pub mod registrations;
pub mod routes;
pub mod session;

/// How many finished streams are remembered: 35 s of almost 2,000 a second.
const FINISHED: usize = 64 * 1024;

/// A local socket at which a remote service is offered. It stays bound while its actor restarts.
#[derive(Debug)]
pub struct Offer {
    /// What is consumed.
    pub consume: Consume,
    /// The listening socket.
    pub socket: TcpListener,
    /// Where it is bound.
    pub addr: SocketAddr,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct AgentVault {
    /// Who this agent is, from its certificate.
    pub agent: AgentUri,
    /// What it was told.
    pub config: AgentConfig,
    /// The UDP socket.
    pub endpoint: quinn::Endpoint,
    /// With what relays are dialled.
    pub client: quinn::ClientConfig,
    /// One for each `consume`.
    pub offers: Vec<Arc<Offer>>,
    /// The ids of the streams that live here.
    pub routes: Arc<Routes>,
    /// What the streams' clocks count from.
    pub clock: Instant,
    allowance: Allowance,
    finished: Mutex<FinishedStreams>,
    live: watch::Sender<usize>,
    places: Arc<Semaphore>,
    full: Throttle,
    session: watch::Sender<Option<Arc<Session>>>,
    sessions: AtomicU64,
    streams: AtomicU64,
}

impl AgentVault {
    /// An agent without a session.
    #[must_use]
    pub fn new(
        agent: AgentUri,
        config: AgentConfig,
        endpoint: quinn::Endpoint,
        client: quinn::ClientConfig,
        offers: Vec<Arc<Offer>>,
    ) -> Self {
        Self {
            agent,
            places: Arc::new(Semaphore::new(config.limits.streams)),
            clock: Instant::now(),
            allowance: Allowance::new(config.limits.rings),
            finished: Mutex::new(FinishedStreams::new(FINISHED)),
            live: watch::Sender::new(0),
            config,
            endpoint,
            client,
            offers,
            routes: Arc::default(),
            full: Throttle::default(),
            session: watch::Sender::new(None),
            sessions: AtomicU64::new(0),
            streams: AtomicU64::new(0),
        }
    }

    /// The session in use, if there is one.
    #[must_use]
    pub fn session(&self) -> Option<Arc<Session>> {
        self.session.borrow().clone()
    }

    /// Follows the session in use.
    #[must_use]
    pub fn watch_session(&self) -> watch::Receiver<Option<Arc<Session>>> {
        self.session.subscribe()
    }

    /// The number of the next session.
    #[must_use]
    pub fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The name of the next stream's actor.
    #[must_use]
    pub fn next_stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// From here on, streams are opened on `session`.
    pub fn begin(&self, session: Arc<Session>) {
        tracing::info!(
            relay = %session.relay,
            remote = %session.remote_addr(),
            session = session.number,
            features = %session.features,
            "session started"
        );
        self.session.send_replace(Some(session));
    }

    /// Ends the session in use, if there is one: closes its connection, unless the relay has.
    pub fn end(&self, code: ResetCode, why: &str) -> Option<Arc<Session>> {
        let session = self.session.send_replace(None)?;
        session.close(code, why);
        tracing::info!(
            relay = %session.relay,
            session = session.number,
            duration = ?session.since.elapsed(),
            reason = why,
            "session ended"
        );
        Some(session)
    }

    /// A place for one more stream; none when too many live. The warning comes at most once a second.
    #[must_use]
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        if place.is_none()
            && let Some(unsaid) = self.full.due()
        {
            let limit = self.config.limits.streams;
            tracing::warn!(limit, refused_before = unsaid, "too many streams: connection is reset");
        }
        place
    }

    /// An empty ring for one stream.
    #[must_use]
    pub fn ring(&self) -> Ring {
        let (min, max) = (self.config.limits.ring_min, self.config.limits.ring_max);
        Ring::new(RingLimits { min, max }, &self.allowance)
    }

    /// Remembers how a stream ended.
    pub fn remember(&self, finished: Finished) {
        self.finished().remember(finished, self.clock.elapsed());
    }

    /// The id is used for a new stream.
    pub fn forget(&self, id: StreamId) {
        self.finished().forget(id);
    }

    /// How a stream ended, if it is remembered.
    #[must_use]
    pub fn recall(&self, id: StreamId) -> Option<Finished> {
        self.finished().recall(id, self.clock.elapsed())
    }

    /// One more stream lives, until the result is dropped.
    pub fn lives(self: &Arc<Self>) -> Life {
        self.live.send_if_modified(|live| {
            *live += 1;
            *live == 1
        });
        Life(Arc::clone(self))
    }

    /// Follows how many streams live; woken only for the first and the last.
    #[must_use]
    pub fn watch_live(&self) -> watch::Receiver<usize> {
        self.live.subscribe()
    }

    fn finished(&self) -> MutexGuard<'_, FinishedStreams> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The local service that is exposed as `name`.
    #[must_use]
    pub fn exposed(&self, name: &str) -> Option<&Expose> {
        self.config.expose.iter().find(|expose| expose.name == name)
    }
}

/// A stream that lives.
#[derive(Debug)]
#[must_use = "the stream counts until this is dropped"]
pub struct Life(Arc<AgentVault>);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.live.send_if_modified(|live| {
            *live -= 1;
            *live == 0
        });
    }
}
