//! What outlives the agent's actors: the endpoint, the session, local listeners, the ids of streams, and how they ended.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use self::draining::Draining;
use self::names::Names;
use self::routes::Routes;
use self::session::{Session, Target};
use super::credentials::Credentials;
use super::leaving::Leave;
use crate::admin::server::CLIENTS;
use crate::config::agent::{AgentConfig, Consume, Expose};
use crate::config::types::HostPort;
use crate::core::identity::AgentUri;
use crate::core::ids::StreamId;
use crate::core::reject::ResetCode;
use crate::core::resume::finished::{Finished, FinishedStreams};
use crate::core::ring::{Allowance, Ring, RingLimits};
use crate::net::descriptors;
use crate::throttle::Throttle;

pub mod draining;
pub mod names;
mod places;
pub mod registrations;
pub mod routes;
pub mod session;

/// How many finished streams are remembered: 35 s of almost 2,000 a second.
const FINISHED: usize = 64 * 1024;
/// More sessions than these are not kept beside the one in use.
const LEAVING: usize = 4;
/// Of so many relays the round trip time is remembered.
const RTTS: usize = 32;

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
    /// What it was told.
    pub config: AgentConfig,
    /// The UDP socket.
    pub endpoint: quinn::Endpoint,
    /// With what relays are dialled.
    pub credentials: Credentials,
    /// What the names of relays stood for.
    pub names: Names,
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
    places_most: usize,
    full: Throttle,
    session: watch::Sender<Option<Arc<Session>>>,
    /// Those whose relays drain, the last to be told so last.
    leaving: Mutex<Vec<Arc<Session>>>,
    draining: Mutex<Draining>,
    /// The round trip times of the last sessions, the last one last.
    rtts: Mutex<Vec<(HostPort, Duration)>>,
    sessions: AtomicU64,
    streams: AtomicU64,
}

impl AgentVault {
    /// An agent without a session.
    #[must_use]
    pub fn new(
        credentials: Credentials,
        config: AgentConfig,
        endpoint: quinn::Endpoint,
        offers: Vec<Arc<Offer>>,
    ) -> Self {
        let others = offers.len() + if config.admin.socket.is_some() { CLIENTS } else { 0 };
        let places_most = places::most(config.limits.streams, descriptors::limit(), others);
        Self {
            places: Arc::new(Semaphore::new(places_most)),
            places_most,
            clock: Instant::now(),
            allowance: Allowance::new(config.limits.rings),
            finished: Mutex::new(FinishedStreams::new(FINISHED)),
            live: watch::Sender::new(0),
            config,
            endpoint,
            credentials,
            offers,
            routes: Arc::default(),
            full: Throttle::default(),
            session: watch::Sender::new(None),
            leaving: Mutex::default(),
            draining: Mutex::default(),
            rtts: Mutex::default(),
            names: Names::default(),
            sessions: AtomicU64::new(0),
            streams: AtomicU64::new(0),
        }
    }

    /// Who this agent is, from its certificate.
    #[must_use]
    pub fn agent(&self) -> &AgentUri {
        self.credentials.agent()
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
        if let Some(until) = self.draining().gathers_until(Instant::now()) {
            session.gather(until);
        }
        self.session.send_replace(Some(session));
    }

    /// The relay of `session` drains: nothing is opened on it any more, and its relay is not dialled. False when it was told before.
    #[must_use]
    pub fn leave(&self, session: &Arc<Session>, leave: Leave) -> bool {
        if !session.told_to_leave(leave.clone()) {
            return false;
        }
        let mut leaving = self.leaving_sessions();
        leaving.push(Arc::clone(session));
        if leaving.len() > LEAVING {
            // Whoever serves it hears that, and ends it.
            leaving[0].close(ResetCode::UNSPECIFIED, "too many relays drain at once");
        }
        self.draining().add(session.target.address.clone(), session.relay.clone(), &leave);
        drop(leaving);
        // Only now: a stream that finds no session in use finds this one.
        self.session.send_if_modified(|in_use| {
            let is_it = in_use.as_ref().is_some_and(|in_use| in_use.number == session.number);
            if is_it {
                *in_use = None;
            }
            is_it
        });
        true
    }

    /// The sessions whose relays drain, the last to be told so last.
    #[must_use]
    pub fn leaving(&self) -> Vec<Arc<Session>> {
        self.leaving_sessions().clone()
    }

    /// Resolves when another session than this one is in use, or none while this one is left.
    pub async fn is_replaced(&self, number: u64) {
        let is_left = || self.leaving_sessions().iter().any(|session| session.number == number);
        let is_other = |session: &Option<Arc<Session>>| match session {
            Some(session) => session.number != number,
            None => is_left(),
        };
        if self.session.subscribe().wait_for(is_other).await.is_err() {
            tracing::trace!("the sender is in the vault, so it cannot be gone");
        }
    }

    /// The relays to dial, in order: where a relay that drains has sent us, then the configured ones from `first` on. One of those
    /// that drains is the last resort until its deadline has passed, and none while its session stands: it takes nobody. But who was
    /// named as a successor is back already.
    #[must_use]
    pub fn targets(&self, first: usize) -> Vec<Target> {
        let (relays, leaving) = (&self.config.relays, self.leaving());
        // All agents that were sent away are to meet, whenever each of them dials: what counts is what was when they were told.
        let (successors, first, now) = match leaving.last().and_then(|session| Some((session, session.leave()?))) {
            Some((session, leave)) => (leave.successors.clone(), session.target.at.map_or(0, |at| at + 1), leave.told),
            None => (Vec::new(), first, Instant::now()),
        };
        let named = successors.iter().map(|address| self.target(address, None));
        let configured = (0..relays.len()).map(|step| (first + step) % relays.len());
        let configured = configured.map(|at| self.target(&relays[at], Some(at)));
        let stands = |target: &Target| leaving.iter().any(|session| session.target.address == target.address);
        let mut targets: Vec<Target> = Vec::new();
        for target in named.chain(configured).filter(|target| !stands(target)) {
            match targets.iter_mut().find(|earlier| earlier.address == target.address) {
                Some(earlier) => earlier.at = earlier.at.or(target.at),
                None => targets.push(target),
            }
        }
        let draining = self.draining();
        // Stable: the order is otherwise as it was.
        targets
            .sort_by_key(|target| !successors.contains(&target.address) && draining.is_draining(&target.address, now));
        targets
    }

    fn target(&self, address: &HostPort, at: Option<usize>) -> Target {
        let rtts = self.rtts.lock().unwrap_or_else(PoisonError::into_inner);
        let rtt = rtts.iter().find(|(whose, _)| whose == address).map(|(_, rtt)| *rtt);
        Target { address: address.clone(), at, rtt: rtt.unwrap_or_default() }
    }

    fn remember_rtt(&self, session: &Session) {
        let mut rtts = self.rtts.lock().unwrap_or_else(PoisonError::into_inner);
        rtts.retain(|(whose, _)| *whose != session.target.address);
        if rtts.len() == RTTS {
            rtts.remove(0);
        }
        rtts.push((session.target.address.clone(), session.quic.rtt()));
    }

    /// Whether streams live that have no path, nor a session to come to one: they stall.
    #[must_use]
    pub fn streams_wait(&self) -> bool {
        if *self.live.borrow() == 0 {
            return false;
        }
        // Where a relay drains, streams go on there as long as it stands.
        self.leaving().is_empty() || self.routes.carried().iter().any(|stream| stream.is_frozen())
    }

    /// Ends a session: closes its connection, unless the relay has. None: it had ended before.
    pub fn end(&self, number: u64, code: ResetCode, why: &str) -> Option<Arc<Session>> {
        let session = self.take(number)?;
        self.remember_rtt(&session);
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

    /// Ends every session; whether there was one.
    pub fn end_all(&self, code: ResetCode, why: &str) -> bool {
        let sessions: Vec<_> = self.session().into_iter().chain(self.leaving()).collect();
        sessions.iter().filter(|session| self.end(session.number, code, why).is_some()).count() > 0
    }

    fn take(&self, number: u64) -> Option<Arc<Session>> {
        let mut leaving = self.leaving_sessions();
        if let Some(at) = leaving.iter().position(|session| session.number == number) {
            return Some(leaving.remove(at));
        }
        drop(leaving);
        let mut taken = None;
        self.session.send_if_modified(|in_use| {
            taken = in_use.take_if(|session| session.number == number);
            taken.is_some()
        });
        taken
    }

    fn leaving_sessions(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The relays that are known to drain.
    pub fn draining(&self) -> MutexGuard<'_, Draining> {
        self.draining.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more stream; none when too many live. The warning comes at most once a second.
    #[must_use]
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        if place.is_none()
            && let Some(unsaid) = self.full.due()
        {
            let limit = self.places_most;
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
