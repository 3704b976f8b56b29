//! What an operator and a caller see of supervised actors, whatever happens to them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::dynamic::{Dynamic, DynamicArgs, DynamicHandle};
use super::fault::{self, Fault};
use super::intensity::Limits;
use super::node::{Node, Status};
use super::one_for_one::{OneForOne, OneForOneArgs, OneForOneMsg, start_root};
use super::report::{Report, find};
use super::slot::Slot;
use super::spec::{ChildSpec, Exit, Restart};

mod addresses;
mod dynamics;
mod escalation;
mod exits;
mod faults;
mod orphans;
mod reports;
mod stops;
mod tasks;

const SECOND: Duration = Duration::from_secs(1);
/// What a test's actor gets to stop.
const DEADLINE: Duration = Duration::from_millis(100);

/// Polls until `holds`. Under the paused clock the polls cost no time.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + 60 * SECOND;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What happened, in order, over several actors.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// What a `pre_start` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Fine,
    Panic,
    Fail,
    /// Waits for ever.
    Wait,
    /// Starts, and panics at its first message.
    Doomed,
}

#[derive(Debug)]
enum SubjectMsg {
    Stop(&'static str),
    Panic,
    Fail,
    /// Waits for ever, or until told.
    Wait(Option<oneshot::Receiver<()>>),
    /// Never awaits, until told.
    Block(Arc<AtomicBool>),
    /// Which incarnation is it? The first is 1.
    Ask(RpcReplyPort<usize>),
    /// Takes a question and never answers.
    Ignore(#[allow(dead_code, reason = "only dropped")] RpcReplyPort<usize>),
    /// A task's outcome.
    Reported(Result<u32, super::task::Panicked>),
    Carry(#[allow(dead_code, reason = "only owned")] Arc<()>),
}

/// One test actor over all its incarnations.
struct Subject {
    slot: Slot<SubjectMsg>,
    log: Log,
    starts: Mutex<VecDeque<Start>>,
    default_start: Mutex<Start>,
    /// Runs in the next `pre_start`, before anything else.
    at_start: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    started: AtomicUsize,
    post_stops: AtomicUsize,
    /// States that are not dropped yet.
    alive: AtomicUsize,
    blocks: AtomicBool,
    panics_when_dropped: AtomicBool,
    gone: Mutex<Vec<String>>,
}

impl Subject {
    fn new(name: &str) -> Arc<Self> {
        Self::logging(name, &Log::default())
    }

    fn logging(name: &str, log: &Log) -> Arc<Self> {
        Arc::new(Self {
            slot: Slot::new("subject", name),
            log: log.clone(),
            starts: Mutex::default(),
            default_start: Mutex::new(Start::Fine),
            at_start: Mutex::default(),
            started: AtomicUsize::new(0),
            post_stops: AtomicUsize::new(0),
            alive: AtomicUsize::new(0),
            blocks: AtomicBool::new(false),
            panics_when_dropped: AtomicBool::new(false),
            gone: Mutex::default(),
        })
    }

    fn spec(self: &Arc<Self>, restart: Restart) -> ChildSpec {
        let (own, gone) = (Arc::clone(self), Arc::clone(self));
        ChildSpec::new(&self.slot, restart, DEADLINE, move || (Worker, Arc::clone(&own)))
            .on_gone(move |exit| gone.gone.lock().unwrap().push(exit.to_string()))
    }

    fn once(self: &Arc<Self>) -> ChildSpec {
        ChildSpec::once(&self.slot, DEADLINE, Worker, Arc::clone(self))
    }

    fn node(&self) -> &Arc<Node> {
        self.slot.node()
    }

    fn starts_next(&self, start: Start) {
        self.starts.lock().unwrap().push_back(start);
    }

    fn always_starts(&self, start: Start) {
        *self.default_start.lock().unwrap() = start;
    }

    fn next_start(&self) -> Start {
        self.starts.lock().unwrap().pop_front().unwrap_or(*self.default_start.lock().unwrap())
    }

    fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    fn gone(&self) -> Vec<String> {
        self.gone.lock().unwrap().clone()
    }

    async fn runs_again(&self, incarnation: usize) {
        let runs = || self.started() == incarnation && self.node().status() == Status::Running;
        eventually("it runs again", runs).await;
    }

    async fn is_busy(&self) {
        eventually("it is busy", || self.node().mailbox() == 0 && !self.node().busy().is_zero()).await;
    }

    async fn hangs(&self) {
        self.slot.cast(SubjectMsg::Wait(None)).unwrap();
        self.is_busy().await;
    }

    async fn blocks_until(&self, release: &Arc<AtomicBool>) {
        self.slot.cast(SubjectMsg::Block(Arc::clone(release))).unwrap();
        eventually("it blocks", || self.blocks.load(Ordering::SeqCst)).await;
    }

    async fn inject(&self, fault: Fault) {
        fault::inject(self.node(), fault).await.unwrap();
    }

    async fn ask(&self) -> usize {
        self.slot.call(SubjectMsg::Ask, SECOND).await.unwrap()
    }

    fn snapshot(&self) -> (Option<ractor::ActorId>, Option<std::time::SystemTime>, u64) {
        let node = self.node();
        (node.cell().map(|cell| cell.get_id()), node.started_at(), node.restarts())
    }
}

struct Worker;

/// The state of one incarnation.
struct Work {
    subject: Arc<Subject>,
    incarnation: usize,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.subject.alive.fetch_sub(1, Ordering::SeqCst);
        self.subject.log.add(format!("{} dropped", self.subject.node().name()));
        if self.subject.panics_when_dropped.load(Ordering::SeqCst) {
            panic!("dropped badly");
        }
    }
}

impl Actor for Worker {
    type Msg = SubjectMsg;
    type State = Work;
    type Arguments = Arc<Subject>;

    async fn pre_start(
        &self,
        _myself: ActorRef<SubjectMsg>,
        subject: Arc<Subject>,
    ) -> Result<Work, ActorProcessingErr> {
        let incarnation = subject.started.fetch_add(1, Ordering::SeqCst) + 1;
        let at_start = subject.at_start.lock().unwrap().take();
        if let Some(run) = at_start {
            // As in `Block`: whom the supervisor woke before must not wait behind this.
            tokio::task::yield_now().await;
            run();
        }
        match subject.next_start() {
            Start::Fine => {}
            Start::Panic => panic!("boom at start"),
            Start::Fail => return Err("refused at start".into()),
            Start::Wait => std::future::pending().await,
            Start::Doomed => subject.slot.cast(SubjectMsg::Panic).unwrap(),
        }
        subject.alive.fetch_add(1, Ordering::SeqCst);
        subject.log.add(format!("{} started", subject.node().name()));
        Ok(Work { subject, incarnation })
    }

    async fn post_stop(&self, _myself: ActorRef<SubjectMsg>, work: &mut Work) -> Result<(), ActorProcessingErr> {
        work.subject.post_stops.fetch_add(1, Ordering::SeqCst);
        work.subject.log.add(format!("{} stopped", work.subject.node().name()));
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<SubjectMsg>,
        message: SubjectMsg,
        work: &mut Work,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SubjectMsg::Stop(reason) => myself.stop(Some(reason.to_owned())),
            SubjectMsg::Panic => panic!("boom"),
            SubjectMsg::Fail => return Err("refused".into()),
            SubjectMsg::Wait(None) => std::future::pending().await,
            SubjectMsg::Wait(Some(until)) => until.await?,
            SubjectMsg::Block(until) => {
                // The task that it woke last, its supervisor, stands in the LIFO slot of this thread, and no other thread
                // steals from there: let it run first.
                tokio::task::yield_now().await;
                work.subject.blocks.store(true, Ordering::SeqCst);
                while !until.load(Ordering::SeqCst) {
                    std::thread::park_timeout(Duration::from_millis(1));
                }
            }
            SubjectMsg::Ask(reply) => reply.send(work.incarnation)?,
            SubjectMsg::Ignore(_) | SubjectMsg::Carry(_) => {}
            SubjectMsg::Reported(outcome) => work.subject.log.add(format!("{outcome:?}")),
        }
        Ok(())
    }
}

/// A running root.
#[derive(Debug)]
struct Tree {
    root: Slot<OneForOneMsg>,
    ended: JoinHandle<Exit>,
}

impl Tree {
    async fn start(children: Vec<ChildSpec>) -> Self {
        Self::limited(Limits::default(), children).await
    }

    async fn limited(limits: Limits, children: Vec<ChildSpec>) -> Self {
        let root = Slot::new("root", "");
        let ended = start_root(OneForOneArgs { slot: root.clone(), children, limits, last_words: None }).await.unwrap();
        Self { root, ended }
    }

    fn node(&self) -> &Arc<Node> {
        self.root.node()
    }

    fn find(&self, selector: &str) -> Arc<Node> {
        find(self.node(), selector).unwrap()
    }

    /// Every actor from the root down, `label status`.
    fn statuses(&self) -> Vec<String> {
        let report = Report::of(self.node());
        let line = |actor: &Report| format!("{}:{} {:?}", actor.kind, actor.name, actor.status).to_lowercase();
        report.walk().map(line).collect()
    }

    async fn stop(self) {
        self.node().stop();
        self.ended.await.unwrap();
    }
}

/// A nested one-for-one, its children made anew for each of its incarnations.
fn nested(
    name: &str,
    restart: Restart,
    shutdown: Duration,
    limits: Limits,
    children: impl Fn() -> Vec<ChildSpec> + Send + 'static,
) -> ChildSpec {
    let slot = Slot::new("nested", name);
    let own = slot.clone();
    ChildSpec::new(&slot, restart, shutdown, move || {
        (OneForOne, OneForOneArgs { slot: own.clone(), children: children(), limits, last_words: None })
    })
}

/// A dynamic supervisor that revives `children`.
fn dynamic(
    handle: &DynamicHandle,
    shutdown: Duration,
    children: impl Fn() -> Vec<ChildSpec> + Send + Sync + 'static,
) -> ChildSpec {
    let (own, children) = (handle.clone(), Arc::new(children));
    ChildSpec::new(handle.slot(), Restart::Permanent, shutdown, move || {
        let children = Arc::clone(&children);
        (Dynamic, DynamicArgs { handle: own.clone(), revive: Box::new(move || children()) })
    })
}

/// One failure is forgiven.
fn strict() -> Limits {
    Limits { failures: 1, window: 60 * SECOND, ..Limits::default() }
}
