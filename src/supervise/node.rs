//! What the tree knows of one actor, kept outside the actor.
//!
//! A [`Node`] is made before its actor starts and survives its restarts, so handles can be handed out before
//! anything runs, and the tree can be listed while an actor hangs: nothing here asks the actor.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use ractor::ActorCell;
use tokio::sync::watch;

use super::incarnation::Incarnation;
use super::recorder::{Recorded, Recorder};
use super::spec::Exit;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static NEXT_ADOPTION: AtomicU64 = AtomicU64::new(1);

/// What an actor says of itself, computed on demand from shared state: it must not wait for the actor.
type Detail = Box<dyn Fn() -> serde_json::Value + Send + Sync>;
/// What is recorded elsewhere of what the actor carries.
type Elsewhere = Box<dyn Fn() -> Vec<Recorded> + Send + Sync>;
/// Told of each restart; must be quick.
type OnRestart = Box<dyn Fn() + Send + Sync>;
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
    current: Option<Arc<Incarnation>>,
    restarts: u64,
    started_at: Option<SystemTime>,
    /// Grows with each adoption, by whichever supervisor: siblings' order of starting. Ids do not tell that: a node is
    /// often made long before its actor is started.
    adoption: u64,
    /// Its supervisor ended, and nobody has adopted it since.
    orphaned: bool,
}

/// One actor as the tree sees it. See the module's documentation.
pub struct Node {
    id: u64,
    kind: &'static str,
    name: String,
    /// By adoption.
    children: Mutex<BTreeMap<u64, Arc<Node>>>,
    /// The running actor, for those who wait for the next one; there from the first of them on.
    cell: OnceLock<watch::Sender<Option<ActorCell>>>,
    life: Mutex<Life>,
    recorder: Recorder,
    elsewhere: OnceLock<Elsewhere>,
    on_restart: OnceLock<OnRestart>,
    detail: Mutex<Option<Detail>>,
    stop_request: Mutex<Option<StopRequest>>,
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
            cell: OnceLock::new(),
            life: Mutex::new(Life {
                status: Status::Starting,
                current: None,
                restarts: 0,
                started_at: None,
                adoption: 0,
                orphaned: false,
            }),
            recorder: Recorder::default(),
            elsewhere: OnceLock::new(),
            on_restart: OnceLock::new(),
            detail: Mutex::new(None),
            stop_request: Mutex::new(None),
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
        self.current().map(|current| current.cell().clone())
    }

    /// Follows the running actor across restarts.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<ActorCell>> {
        let life = lock(&self.life);
        let now = || life.current.as_ref().map(|current| current.cell().clone());
        self.cell.get_or_init(|| watch::Sender::new(now())).subscribe()
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
        self.recorder.last_end()
    }

    /// Its last messages, and how its earlier incarnations ended.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Says where more is recorded of what the actor carries. The first one set stays; it must not own what owns this node.
    pub fn also_recorded(&self, elsewhere: impl Fn() -> Vec<Recorded> + Send + Sync + 'static) {
        self.elsewhere.get_or_init(|| Box::new(elsewhere));
    }

    /// What is recorded elsewhere of what the actor carries, the oldest first.
    #[must_use]
    pub fn recorded_elsewhere(&self) -> Vec<Recorded> {
        self.elsewhere.get().map_or_else(Vec::new, |elsewhere| elsewhere())
    }

    /// Messages sent through a handle and not yet taken.
    #[must_use]
    pub fn mailbox(&self) -> usize {
        self.current().map_or(0, |current| current.mailbox())
    }

    /// For how long the message in hand has been handled; zero while idle.
    #[must_use]
    pub fn busy(&self) -> Duration {
        self.current().map_or(Duration::ZERO, |current| current.busy())
    }

    /// Children in the order in which they were started.
    #[must_use]
    pub fn children(&self) -> Vec<Arc<Node>> {
        lock(&self.children).values().cloned().collect()
    }

    /// Sets what the actor says of itself. `detail` must be quick, must not wait for the actor, and must not own what
    /// owns this node: it is kept for as long as the node is.
    pub fn describe(&self, detail: impl Fn() -> serde_json::Value + Send + Sync + 'static) {
        *lock(&self.detail) = Some(Box::new(detail));
    }

    /// What the actor says of itself; null if it said nothing.
    #[must_use]
    pub fn detail(&self) -> serde_json::Value {
        lock(&self.detail).as_ref().map_or(serde_json::Value::Null, |detail| detail())
    }

    /// Has `told` called at each restart. The first one set stays.
    pub fn on_restart(&self, told: impl Fn() + Send + Sync + 'static) {
        self.on_restart.get_or_init(|| Box::new(told));
    }

    /// Sets how a supervisor is asked to stop: it must end its children first, in order. Forgotten when the actor ends,
    /// so `request` may own the actor's address.
    pub fn stop_by(&self, request: impl Fn() + Send + Sync + 'static) {
        *lock(&self.stop_request) = Some(Box::new(request));
    }

    /// Asks the actor to stop: a supervisor stops its children first. Its own supervisor, if any, decides what follows.
    pub fn stop(&self) {
        let current = {
            let mut life = lock(&self.life);
            // One that does not run stays restarting, or stopped.
            let Some(current) = life.current.clone() else { return };
            life.status = Status::Stopping;
            current
        };
        match lock(&self.stop_request).as_ref() {
            Some(request) => request(),
            None => current.cell().stop(None),
        }
    }

    /// Kills the actor, and with it everything below it.
    pub fn kill(&self) {
        if let Some(cell) = self.cell() {
            cell.kill();
        }
    }

    /// The running incarnation, or the one that ended and whose end was not noticed yet.
    pub(super) fn current(&self) -> Option<Arc<Incarnation>> {
        lock(&self.life).current.clone()
    }

    /// Takes `child` in as the last of the children.
    pub(super) fn adopt(&self, child: &Arc<Node>) {
        let adoption = NEXT_ADOPTION.fetch_add(1, Ordering::Relaxed);
        let earlier = {
            let mut life = lock(&child.life);
            life.orphaned = false;
            std::mem::replace(&mut life.adoption, adoption)
        };
        let mut children = lock(&self.children);
        children.remove(&earlier);
        children.insert(adoption, Arc::clone(child));
    }

    pub(super) fn adoption(&self) -> u64 {
        lock(&self.life).adoption
    }

    pub(super) fn disown(&self, adoption: u64) {
        lock(&self.children).remove(&adoption);
    }

    /// The actor exists and its mailbox takes messages; `pre_start` runs next.
    pub(super) fn appeared(&self, incarnation: Arc<Incarnation>) {
        let cell = incarnation.cell().clone();
        {
            let mut life = lock(&self.life);
            life.status = Status::Starting;
            life.current = Some(incarnation);
        }
        self.tell_watchers(Some(cell));
    }

    pub(super) fn running(&self) {
        let mut life = lock(&self.life);
        let again = life.started_at.is_some();
        life.restarts += u64::from(again);
        life.started_at = Some(SystemTime::now());
        life.status = Status::Running;
        drop(life);
        if again && let Some(told) = self.on_restart.get() {
            told();
        }
    }

    /// The actor ended. Whatever was below it was killed with it, and nobody is left to say so of those.
    pub(super) fn ended(&self, exit: &Exit, next: Status) {
        self.end(Some(exit.to_string()), next);
        for child in self.children() {
            child.orphaned(next);
        }
    }

    /// Its supervisor ended: `next` is what becomes of that.
    fn orphaned(&self, next: Status) {
        if self.status() != Status::Stopped {
            let killed = self.current().map(|_| "killed with its supervisor".to_owned());
            self.end(killed, next);
        }
        lock(&self.life).orphaned = true;
        for child in self.children() {
            child.orphaned(next);
        }
    }

    /// This supervisor has started: what an earlier incarnation had and nobody has adopted since is gone.
    pub(super) fn forget_orphans(&self) {
        let mut children = lock(&self.children);
        let orphans: Vec<_> = children.extract_if(.., |_, child| lock(&child.life).orphaned).collect();
        drop(children);
        for (_, orphan) in orphans {
            orphan.end(None, Status::Stopped);
            orphan.forget_orphans();
        }
    }

    fn end(&self, exit: Option<String>, next: Status) {
        *lock(&self.stop_request) = None;
        if let Some(exit) = exit {
            self.recorder.ended(exit);
        }
        {
            let mut life = lock(&self.life);
            life.status = next;
            life.current = None;
        }
        // Last: who waits for the next incarnation looks at the status when this changes.
        self.tell_watchers(None);
    }

    fn tell_watchers(&self, cell: Option<ActorCell>) {
        if let Some(watched) = self.cell.get() {
            watched.send_replace(cell);
        }
    }
}

/// No code panics while it holds one of these locks but a `detail` closure, which leaves nothing half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
