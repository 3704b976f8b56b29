//! What the tree knows of one actor, kept outside the actor.
//!
//! A [`Node`] is made before its actor starts and survives its restarts, so handles can be handed out before
//! anything runs, and the tree can be listed while an actor hangs: nothing here asks the actor.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ractor::ActorCell;
use tokio::sync::watch;

use super::fault::Fault;
use super::spec::Exit;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What an actor says of itself, computed on demand from shared state: it must not wait for the actor.
type Detail = Box<dyn Fn() -> serde_json::Value + Send + Sync>;
/// How a supervisor is asked to stop its children first; a leaf has none and gets ractor's stop.
type StopRequest = Box<dyn Fn() + Send + Sync>;

/// Where an actor is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not started yet, or its `pre_start` is running.
    Starting,
    /// Handling messages.
    Running,
    /// It ended and will be started again after a backoff.
    Restarting,
    /// Asked to stop, and not gone yet.
    Stopping,
    /// Gone for good.
    Stopped,
}

#[derive(Debug)]
struct Life {
    status: Status,
    restarts: u64,
    started_at: Option<SystemTime>,
    last_exit: Option<String>,
}

/// One actor as the tree sees it. See the module's documentation.
pub struct Node {
    id: u64,
    kind: &'static str,
    name: String,
    children: Mutex<BTreeMap<u64, Arc<Node>>>,
    cell: watch::Sender<Option<ActorCell>>,
    life: Mutex<Life>,
    detail: Mutex<Option<Detail>>,
    stop_request: Mutex<Option<StopRequest>>,
    mailbox: AtomicUsize,
    busy_since_ms: AtomicU64,
    spared: AtomicBool,
    fault: AtomicU8,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.label())
    }
}

impl Node {
    /// A node for an actor of `kind`; `name` tells it from others of the kind and may be empty.
    #[must_use]
    pub fn new(kind: &'static str, name: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            kind,
            name: name.into(),
            children: Mutex::default(),
            cell: watch::Sender::new(None),
            life: Mutex::new(Life { status: Status::Starting, restarts: 0, started_at: None, last_exit: None }),
            detail: Mutex::new(None),
            stop_request: Mutex::new(None),
            mailbox: AtomicUsize::new(0),
            busy_since_ms: AtomicU64::new(0),
            spared: AtomicBool::new(false),
            fault: AtomicU8::new(0),
        })
    }

    /// Unique in the process, and the same across restarts.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The actor's kind: its file's name.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// What tells it from others of its kind: a stream id, an agent's URI. Empty for singletons.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `kind` or `kind:name`, as an operator writes it.
    #[must_use]
    pub fn label(&self) -> String {
        if self.name.is_empty() { self.kind.to_owned() } else { format!("{}:{}", self.kind, self.name) }
    }

    /// The running actor, if there is one now.
    #[must_use]
    pub fn cell(&self) -> Option<ActorCell> {
        self.cell.borrow().clone()
    }

    /// Follows the running actor across restarts.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<ActorCell>> {
        self.cell.subscribe()
    }

    /// Where it is in its life.
    #[must_use]
    pub fn status(&self) -> Status {
        lock(&self.life).status
    }

    /// How often it was started again.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        lock(&self.life).restarts
    }

    /// When the running incarnation started.
    #[must_use]
    pub fn started_at(&self) -> Option<SystemTime> {
        lock(&self.life).started_at
    }

    /// Why the incarnation before this one ended.
    #[must_use]
    pub fn last_exit(&self) -> Option<String> {
        lock(&self.life).last_exit.clone()
    }

    /// Messages sent through a handle and not yet taken.
    #[must_use]
    pub fn mailbox(&self) -> usize {
        self.mailbox.load(Ordering::Relaxed)
    }

    /// For how long the message in hand has been handled; zero while idle.
    #[must_use]
    pub fn busy(&self) -> Duration {
        match self.busy_since_ms.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(now_ms().saturating_sub(since)),
        }
    }

    /// Children in the order in which they were started.
    #[must_use]
    pub fn children(&self) -> Vec<Arc<Node>> {
        lock(&self.children).values().cloned().collect()
    }

    /// Sets what the actor says of itself. `detail` must be quick and must not wait for the actor.
    pub fn describe(&self, detail: impl Fn() -> serde_json::Value + Send + Sync + 'static) {
        *lock(&self.detail) = Some(Box::new(detail));
    }

    /// What the actor says of itself; null if it said nothing.
    #[must_use]
    pub fn detail(&self) -> serde_json::Value {
        lock(&self.detail).as_ref().map_or(serde_json::Value::Null, |detail| detail())
    }

    /// Sets how a supervisor is asked to stop: it must end its children first, in order.
    pub fn stop_by(&self, request: impl Fn() + Send + Sync + 'static) {
        *lock(&self.stop_request) = Some(Box::new(request));
    }

    /// Asks the actor to stop: a supervisor stops its children first. Its own supervisor, if any, decides what follows.
    pub fn stop(&self) {
        self.ask_to_stop();
    }

    /// Kills the actor, and with it everything below it.
    pub fn kill(&self) {
        if let Some(cell) = self.cell() {
            cell.kill();
        }
    }

    /// Records why a root ended: nobody above it would.
    pub(super) fn note_exit(&self, why: String) {
        let mut life = lock(&self.life);
        life.status = Status::Stopped;
        life.last_exit = Some(why);
    }

    pub(super) fn ask_to_stop(&self) {
        lock(&self.life).status = Status::Stopping;
        if let Some(request) = lock(&self.stop_request).as_ref() {
            request();
        } else if let Some(cell) = self.cell() {
            cell.stop(None);
        }
    }

    pub(super) fn adopt(&self, child: &Arc<Node>) {
        lock(&self.children).insert(child.id, Arc::clone(child));
    }

    pub(super) fn disown(&self, child: u64) {
        lock(&self.children).remove(&child);
    }

    pub(super) fn disown_all(&self) {
        lock(&self.children).clear();
    }

    /// The actor exists and its mailbox takes messages; `pre_start` runs next.
    pub(super) fn appeared(&self, cell: ActorCell) {
        self.mailbox.store(0, Ordering::Relaxed);
        self.fault.store(0, Ordering::Relaxed);
        self.cell.send_replace(Some(cell));
    }

    pub(super) fn running(&self) {
        let mut life = lock(&self.life);
        if life.started_at.is_some() {
            life.restarts += 1;
        }
        life.started_at = Some(SystemTime::now());
        life.status = Status::Running;
    }

    pub(super) fn ended(&self, exit: &Exit, next: Status) {
        *lock(&self.stop_request) = None;
        {
            let mut life = lock(&self.life);
            life.status = next;
            life.last_exit = Some(exit.to_string());
        }
        self.mailbox.store(0, Ordering::Relaxed);
        self.busy_since_ms.store(0, Ordering::Relaxed);
        // Last: who waits for the next life looks at the status when this changes.
        self.cell.send_replace(None);
    }

    /// The next exit was asked for by an operator, and does not count as a failure.
    pub(super) fn spare(&self) {
        self.spared.store(true, Ordering::Relaxed);
    }

    pub(super) fn take_spared(&self) -> bool {
        self.spared.swap(false, Ordering::Relaxed)
    }

    pub(super) fn set_fault(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::Relaxed);
    }

    pub(super) fn take_fault(&self) -> Option<Fault> {
        Fault::from_u8(self.fault.swap(0, Ordering::Relaxed))
    }

    pub(super) fn queued(&self) {
        self.mailbox.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unqueued(&self) {
        // Saturating: a restart sets the count to 0 while a sender may still be between its two steps.
        let mut depth = self.mailbox.load(Ordering::Relaxed);
        while depth > 0 {
            match self.mailbox.compare_exchange_weak(depth, depth - 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => depth = now,
            }
        }
    }

    pub(super) fn begin(&self) -> Busy<'_> {
        self.busy_since_ms.store(now_ms(), Ordering::Relaxed);
        Busy(self)
    }
}

/// Marks the actor busy until dropped, so also when its handler is killed or panics.
pub(super) struct Busy<'a>(&'a Node);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy_since_ms.store(0, Ordering::Relaxed);
    }
}

/// Milliseconds since the process first asked, plus one: 0 means idle.
fn now_ms() -> u64 {
    u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// No code panics while it holds one of these locks but a `detail` closure, which leaves nothing half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
