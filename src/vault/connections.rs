//! Established agent connections: what an agent's connection actor is restarted over.
//!
//! A connection is in here from the end of its TLS handshake to its end. Its *generation* grows with every
//! connection of the process, and every registration carries it, so an old connection's end never removes what a
//! newer one registered (wire.md §3, point 6).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;
use tokio::time::Instant;

use super::arrivals::Occupied;
use super::audit::AuditQueue;
use super::control_writer::{ControlSendError, ControlWriter};
use super::places::{Place, Places};
use super::routes::Routes;
use crate::core::frame::Frame;
use crate::core::identity::AgentUri;
use crate::core::ids::{Capabilities, Capability, Generation, ServiceName};
use crate::core::reject::{CodeAgreement, ResetCode};
use crate::metrics::{ActorLabel, Limit, Metrics, count_restarts};
use crate::net::framed::ControlReader;
use crate::net::receive_window::ReceiveWindow;
use crate::net::stream_limit::StreamLimit;
use crate::supervise::node::Node;

/// So many names are kept that an agent named and this program does not know.
const OTHERS: usize = 16;
/// None that is longer.
const OTHER_MAX_BYTES: usize = 64;

/// The two ends of a control stream (QUIC stream 0).
#[derive(Debug)]
pub struct Control {
    /// Held by whoever reads a frame and until it is dealt with; keeps the partial buffer across actors.
    pub reader: Arc<tokio::sync::Mutex<ControlReader>>,
    /// Whole frames out.
    pub writer: ControlWriter,
}

/// One registered service of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Grows with every registration of the process: the greatest is the most recent.
    pub order: u64,
    /// What the agent says it dials; informational.
    pub local_addr: String,
}

/// What an agent named in its HELLO.
#[derive(Debug, Default)]
pub struct Named {
    known: Capabilities,
    /// Rare, and no more than a bounded number of bounded names: they go out with each STREAM_READY.
    others: Box<[Box<str>]>,
}

impl Named {
    /// The names of a HELLO. Of those that this program does not know, 16 are kept, and none that is longer than 64 bytes.
    #[must_use]
    pub fn new(names: &[String]) -> Self {
        let is_other = |name: &&String| Capability::from_name(name).is_none() && name.len() <= OTHER_MAX_BYTES;
        let others = names.iter().filter(is_other).take(OTHERS).map(|name| name.as_str().into()).collect();
        Self { known: Capabilities::from_names(names), others }
    }

    /// Those that this program knows.
    #[must_use]
    pub fn known(&self) -> Capabilities {
        self.known
    }

    fn names(&self) -> Vec<String> {
        let others = self.others.iter().map(|name| name.to_string());
        self.known.names().into_iter().chain(others).collect()
    }
}

/// One agent's connection.
#[derive(Debug)]
pub struct AgentConnection {
    /// Which connection of the process this is.
    pub generation: Generation,
    /// Who is at the other end, from its certificate.
    pub agent: AgentUri,
    /// The QUIC connection.
    pub quic: quinn::Connection,
    /// How many streams it may have, in either role; grown at run time.
    pub streams: StreamLimit,
    /// What stalled streams may hold of what it may send.
    pub window: ReceiveWindow,
    /// The connection actor's node in the tree.
    pub node: Arc<Node>,
    /// The control actor's node below it.
    pub control_node: Arc<Node>,
    /// Its streams, and who is at their other ends.
    pub routes: Routes,
    /// Halves of streams that it has come to resume and that wait.
    pub parked: Places,
    /// When the TLS handshake was done.
    pub since: SystemTime,
    /// By when HELLO must have come.
    pub hello_deadline: Instant,
    control_queue_full: Counter,
    audit: Arc<AuditQueue>,
    control: OnceLock<Control>,
    accepted: watch::Sender<Option<Capabilities>>,
    named: OnceLock<Named>,
    services: Mutex<BTreeMap<ServiceName, Registration>>,
    half_open: Mutex<Option<Place>>,
    /// Two may find a reason at once.
    is_refused: AtomicBool,
    _place: Place,
}

impl AgentConnection {
    /// Where the agent is now, as the relay sees it.
    #[must_use]
    pub fn remote_addr(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// The control stream, once the agent has opened it.
    #[must_use]
    pub fn control(&self) -> Option<&Control> {
        self.control.get()
    }

    /// The agent opened its control stream. A second time changes nothing.
    pub fn control_opened(&self, control: Control) {
        if self.control.set(control).is_err() {
            tracing::debug!(agent = %self.agent, "control stream was there already");
        }
    }

    /// The features in use on this connection, once HELLO was answered.
    #[must_use]
    pub fn accepted(&self) -> Option<Capabilities> {
        *self.accepted.borrow()
    }

    /// Whether the agent named this capability, and this relay uses it.
    #[must_use]
    pub fn names(&self, capability: Capability) -> bool {
        self.accepted().is_some_and(|accepted| accepted.contains(capability))
    }

    /// Whether reset codes may be used toward this agent.
    #[must_use]
    pub fn codes(&self) -> CodeAgreement {
        if self.names(Capability::ResumeCode) { CodeAgreement::Both } else { CodeAgreement::None }
    }

    /// What the agent named in its HELLO, whether this relay knows it or not: for the agent at a stream's other end (wire.md §9).
    #[must_use]
    pub fn named(&self) -> Vec<String> {
        self.named.get().map(Named::names).unwrap_or_default()
    }

    /// HELLO named this, and was answered with these features. A second HELLO, which is refused, changes nothing of the former.
    pub fn greeted(&self, named: Named, accepted: Capabilities) {
        self.named.get_or_init(|| named);
        self.accepted.send_replace(Some(accepted));
        drop(self.half_open.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Waits until HELLO was answered.
    pub async fn wait_greeted(&self) -> Capabilities {
        let mut accepted = self.accepted.subscribe();
        match accepted.wait_for(Option::is_some).await {
            Ok(features) => features.unwrap_or_default(),
            // The sender is in `self`, so it cannot be gone.
            Err(_) => Capabilities::default(),
        }
    }

    /// Sends an unsolicited frame on the control stream; it waits while an answer is due. Before HELLO was answered there is nothing
    /// to be said.
    pub fn send_control(&self, frame: &Frame) {
        if self.accepted().is_some() {
            self.sent(frame, self.with_writer(|writer| writer.send_unsolicited(frame)));
        }
    }

    /// Sends the answer to a frame of the agent's.
    pub fn answer_control(&self, frame: &Frame) {
        self.sent(frame, self.with_writer(|writer| writer.send(frame)));
    }

    /// From here on unsolicited frames wait: the agent's next frame must be an answer.
    pub fn hold_unsolicited(&self) {
        if let Some(control) = self.control() {
            control.writer.hold();
        }
    }

    /// The answer is queued: what waited follows it. Fine if nothing was held.
    pub fn release_unsolicited(&self) {
        if self.with_writer(ControlWriter::release) == Err(ControlSendError::Full) {
            self.cut_off();
        }
    }

    fn with_writer(
        &self,
        with: impl FnOnce(&ControlWriter) -> Result<(), ControlSendError>,
    ) -> Result<(), ControlSendError> {
        self.control().map_or(Err(ControlSendError::Closed), |control| with(&control.writer))
    }

    /// An agent that does not read its control stream is cut off: nothing may pile up for it.
    fn sent(&self, frame: &Frame, sent: Result<(), ControlSendError>) {
        match sent {
            Ok(()) => {}
            Err(ControlSendError::Full) => self.cut_off(),
            Err(ControlSendError::Closed) => {
                tracing::debug!(agent = %self.agent, frame = ?frame.frame_type(), "control stream is closed");
            }
        }
    }

    fn cut_off(&self) {
        if self.refuse(ResetCode::LIMIT, "control stream is not read") {
            tracing::warn!(agent = %self.agent, generation = %self.generation, "control queue is full: closing");
            self.control_queue_full.inc();
        }
    }

    /// Closes the connection for what its agent does, or is, and tells the audit why. `false` if it was closed before.
    pub fn refuse(&self, code: ResetCode, reason: &str) -> bool {
        if self.quic.close_reason().is_some() || self.is_refused.swap(true, Ordering::Relaxed) {
            return false;
        }
        let (tenant, agent) = (self.agent.tenant().as_str(), self.agent.as_str());
        self.audit.refused(tenant, agent, &format!("connection closed: {reason}"));
        self.close(code, reason);
        true
    }

    /// Closes the connection. The code is sent only to an agent that knows reset codes, else 0 (wire.md §9).
    pub fn close(&self, code: ResetCode, reason: &str) {
        crate::net::stream::close(&self.quic, code.for_peer(self.codes()), reason);
    }

    /// What it has registered, by name.
    #[must_use]
    pub fn services(&self) -> BTreeMap<ServiceName, Registration> {
        self.lock_services().clone()
    }

    /// The order of a registration, if there is one.
    #[must_use]
    pub fn registration_order(&self, service: &ServiceName) -> Option<u64> {
        self.lock_services().get(service).map(|registration| registration.order)
    }

    /// Records a registration; the same name again becomes the most recent. `false` when `limit` is reached.
    #[must_use]
    pub fn register(&self, service: ServiceName, registration: Registration, limit: usize) -> bool {
        let mut services = self.lock_services();
        if !services.contains_key(&service) && services.len() >= limit {
            return false;
        }
        services.insert(service, registration);
        true
    }

    /// Forgets a registration; whether there was one.
    pub fn deregister(&self, service: &ServiceName) -> bool {
        self.lock_services().remove(service).is_some()
    }

    fn lock_services(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Registration>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether both agents of a stream know reset codes (wire.md §9).
#[must_use]
pub fn agreement(one: &AgentConnection, other: &AgentConnection) -> CodeAgreement {
    match (one.codes(), other.codes()) {
        (CodeAgreement::Both, CodeAgreement::Both) => CodeAgreement::Both,
        _ => CodeAgreement::None,
    }
}

#[derive(Debug, Default)]
struct Established {
    by_generation: BTreeMap<Generation, Arc<AgentConnection>>,
    /// Ascending.
    by_agent: HashMap<AgentUri, Vec<Generation>>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Connections {
    control_queue_full: Counter,
    audit: Arc<AuditQueue>,
    restarts: Family<ActorLabel, Counter>,
    established: Mutex<Established>,
    last_generation: AtomicU64,
    last_registration: AtomicU64,
}

impl Connections {
    /// None yet; what happens to them is counted in `metrics`, and those that are refused are told to `audit`.
    #[must_use]
    pub fn new(metrics: &Metrics, audit: &Arc<AuditQueue>) -> Self {
        Self {
            audit: Arc::clone(audit),
            control_queue_full: metrics.limit(Limit::ControlQueue),
            restarts: metrics.actor_restarts.clone(),
            established: Mutex::default(),
            last_generation: AtomicU64::new(0),
            last_registration: AtomicU64::new(0),
        }
    }

    /// Adds a connection whose TLS handshake is done.
    pub fn add(
        &self,
        agent: AgentUri,
        quic: quinn::Connection,
        streams: StreamLimit,
        window: ReceiveWindow,
        occupied: Occupied,
        hello_deadline: Instant,
    ) -> Arc<AgentConnection> {
        let generation = Generation(self.last_generation.fetch_add(1, Ordering::Relaxed) + 1);
        let connection = Arc::new(AgentConnection {
            generation,
            node: Node::new("connection", agent.as_str()),
            control_node: Node::new("control", agent.as_str()),
            agent,
            quic,
            streams,
            window,
            since: SystemTime::now(),
            hello_deadline,
            control_queue_full: self.control_queue_full.clone(),
            audit: Arc::clone(&self.audit),
            control: OnceLock::new(),
            accepted: watch::Sender::new(None),
            named: OnceLock::new(),
            services: Mutex::default(),
            routes: Routes::default(),
            parked: Places::default(),
            half_open: Mutex::new(Some(occupied.half_open)),
            is_refused: AtomicBool::new(false),
            _place: occupied.place,
        });
        for node in [&connection.node, &connection.control_node] {
            count_restarts(&self.restarts, node);
        }
        let mut established = self.lock();
        established.by_generation.insert(generation, Arc::clone(&connection));
        let generations = established.by_agent.entry(connection.agent.clone()).or_default();
        // Two that are added at once may come here in either order.
        generations.insert(generations.partition_point(|earlier| *earlier < generation), generation);
        drop(established);
        connection
    }

    /// Removes a connection; whether it was there.
    pub fn remove(&self, generation: Generation) -> bool {
        let mut established = self.lock();
        let Some(connection) = established.by_generation.remove(&generation) else { return false };
        if let Entry::Occupied(mut generations) = established.by_agent.entry(connection.agent.clone()) {
            generations.get_mut().retain(|other| *other != generation);
            if generations.get().is_empty() {
                generations.remove();
            }
        }
        true
    }

    /// Whether the connection is still established.
    #[must_use]
    pub fn contains(&self, generation: Generation) -> bool {
        self.lock().by_generation.contains_key(&generation)
    }

    /// All of them, the oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<AgentConnection>> {
        self.lock().by_generation.values().cloned().collect()
    }

    /// How many connections of an agent stand on which HELLO was answered.
    #[must_use]
    pub fn count_of(&self, agent: &AgentUri) -> usize {
        let established = self.lock();
        let of_agent = established.by_agent.get(agent).into_iter().flatten();
        of_agent
            .filter_map(|generation| established.by_generation.get(generation))
            .filter(|connection| connection.accepted().is_some() && connection.quic.close_reason().is_none())
            .count()
    }

    /// The newest connection of an agent on which HELLO was answered: on others it hears nothing yet.
    #[must_use]
    pub fn latest_of(&self, agent: &AgentUri) -> Option<Arc<AgentConnection>> {
        let established = self.lock();
        let mut newest_first = established.by_agent.get(agent)?.iter().rev();
        newest_first.find_map(|generation| {
            established.by_generation.get(generation).filter(|connection| connection.accepted().is_some()).cloned()
        })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().by_generation.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().by_generation.is_empty()
    }

    /// The order of the next registration.
    #[must_use]
    pub fn next_registration(&self) -> u64 {
        self.last_registration.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn lock(&self) -> MutexGuard<'_, Established> {
        self.established.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
