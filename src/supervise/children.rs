//! The children of one supervisor: started, started again, given up, stopped in reverse order, each bounded.
//!
//! Plain data owned by a supervisor's state. It is the only place in the program that restarts an actor.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ractor::{ActorCell, ActorId, Message, SupervisionEvent};
use tokio::time::Instant;

use super::intensity::{Intensity, Limits, Next};
use super::node::{Node, Status};
use super::recorder;
use super::slot::Slot;
use super::spec::{ChildSpec, Exit, Restart};
use super::task::{self, Owned};

/// How long `pre_start` may take. It never awaits a peer, so this only bounds a mistake.
const START_DEADLINE: Duration = Duration::from_secs(5);
/// How long a killed child may take to be gone. A kill acts at the next await point, so at once; a handler that
/// never awaits cannot be killed, and is left behind.
const KILL_DEADLINE: Duration = Duration::from_millis(200);

/// What an event did to the children.
#[derive(Debug)]
pub enum Change {
    /// Nothing, or a child was started again or soon will be.
    None,
    /// A child is gone, as its restart kind says.
    Gone,
    /// A child failed too often and is gone.
    GivenUp {
        /// The child, as an operator writes it.
        child: String,
        /// How it ended the last time.
        exit: Exit,
    },
}

/// A child's start failed, and it is gone.
#[derive(Debug, thiserror::Error)]
#[error("{child}: {exit}")]
pub struct StartError {
    /// The child, as an operator writes it.
    pub child: String,
    /// Why.
    pub exit: Exit,
}

struct Child {
    spec: ChildSpec,
    cell: Option<ActorCell>,
    intensity: Intensity,
    /// The wait before the next start; dropping it cancels the start.
    backoff: Option<Owned>,
}

impl Child {
    /// Asks it to stop, waits until its deadline, kills it. Borrows nothing: a `ChildSpec` is not `Sync`.
    fn stop(&self, supervisor: &ActorCell) -> impl Future<Output = Exit> + Send + use<> {
        let (node, cell, deadline) = (Arc::clone(&self.spec.node), self.cell.clone(), self.spec.shutdown);
        let supervisor = supervisor.clone();
        async move {
            let Some(cell) = cell else { return Exit::Stopped(None) };
            let current = node.current();
            // Its state must be dropped where it ends, before the next child is stopped: in an event it would wait until
            // the supervisor has stopped them all. From here on only the guard makes it die with the supervisor.
            cell.unlink(supervisor);
            let _dies_with_us = KillOnDrop(cell.clone());
            node.stop();
            if cell.wait(Some(deadline)).await.is_ok() {
                return current.map_or(Exit::Killed, |current| current.outcome());
            }
            let actor = node.label();
            tracing::warn!(%actor, ?deadline, "actor did not stop in time: killed");
            cell.kill();
            if cell.wait(Some(KILL_DEADLINE)).await.is_err() {
                tracing::error!(%actor, "actor cannot be killed: its handler never awaits; left behind");
            }
            Exit::Killed
        }
    }
}

/// Kills an actor that nothing links to its supervisor any more; one that has ended does not mind.
struct KillOnDrop(ActorCell);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// See the module's documentation.
pub struct Children {
    node: Arc<Node>,
    me: ActorCell,
    limits: Limits,
    since: Instant,
    /// By adoption, so in the order of starting.
    // Boxed: a node of the map has room for eleven, and most supervisors, one per agent connection, have one.
    children: BTreeMap<u64, Box<Child>>,
    by_actor: HashMap<ActorId, u64>,
    wake: Box<dyn Fn(Duration, u64) -> Owned + Send + Sync>,
    stopping: bool,
}

impl fmt::Debug for Children {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.children.values().map(|child| &child.spec)).finish()
    }
}

impl Children {
    /// No children yet. `restart` makes the message by which the supervisor is told, after a backoff, to call
    /// [`Children::restart`] with that id.
    #[must_use]
    pub fn new<M: Message>(
        supervisor: &Slot<M>,
        me: ActorCell,
        limits: Limits,
        restart: impl Fn(u64) -> M + Send + Sync + 'static,
    ) -> Self {
        let node = Arc::clone(supervisor.node());
        let slot = supervisor.clone();
        let restart = Arc::new(restart);
        let wake = move |wait, id| {
            let (slot, restart) = (slot.clone(), Arc::clone(&restart));
            task::run(async move {
                tokio::time::sleep(wait).await;
                slot.tell(restart(id));
            })
        };
        Self {
            node,
            me,
            limits,
            since: Instant::now(),
            children: BTreeMap::new(),
            by_actor: HashMap::new(),
            wake: Box::new(wake),
            stopping: false,
        }
    }

    /// How many children there are, those between two lives included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.children.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// Starts one more child. One that is there already is left as it is: a supervisor that revives its children may
    /// be told of one of them a second time.
    ///
    /// # Errors
    /// When it could not be started; it is gone then.
    pub async fn start(&mut self, mut spec: ChildSpec) -> Result<(), StartError> {
        if self.children.contains_key(&spec.node.adoption()) {
            return Ok(());
        }
        // A supervisor may start thousands in a row: others want the thread too, and it must notice a kill.
        tokio::task::consume_budget().await;
        self.node.adopt(&spec.node);
        let launched = if self.stopping {
            Err(Exit::NotStarted("its supervisor is stopping".to_owned()))
        } else {
            launch(&mut spec, &self.me).await
        };
        match launched {
            Ok(cell) => {
                let id = spec.node.adoption();
                self.by_actor.insert(cell.get_id(), id);
                let intensity = Intensity::new(self.limits);
                let child = Child { spec, cell: Some(cell), intensity, backoff: None };
                self.children.insert(id, Box::new(child));
                Ok(())
            }
            Err(exit) => {
                self.bury(&mut spec, &exit);
                Err(StartError { child: spec.node.label(), exit })
            }
        }
    }

    /// Takes a supervision event: a child that ended is started again, or buried.
    pub async fn on_event(&mut self, event: SupervisionEvent) -> Change {
        let (actor, end) = match event {
            SupervisionEvent::ActorTerminated(actor, state, reason) => {
                // Here and now: what it owns must not outlive the actor in a queue.
                contain("dropping its state", move || drop(state));
                (actor, Ok(reason))
            }
            SupervisionEvent::ActorFailed(actor, why) => (actor, Err(why.to_string())),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Change::None,
        };
        let Some(id) = self.by_actor.remove(&actor.get_id()) else { return Change::None };
        let seen = self.children.get(&id).and_then(|child| child.spec.node.current()).map(|current| current.outcome());
        let exit = match (end, seen) {
            (Err(why), _) => {
                if let Some(child) = self.children.get(&id) {
                    recorder::dump(&child.spec.node, &why);
                }
                Exit::Failed(why)
            }
            // The event alone does not tell: ractor's reason for a kill is a word that a stop may give too.
            (Ok(reason), Some(Exit::Stopped(_))) => Exit::Stopped(reason),
            (Ok(_), _) => Exit::Killed,
        };
        self.ended(id, exit).await
    }

    /// A backoff is over: starts child `id` if it still waits.
    pub async fn restart(&mut self, id: u64) -> Change {
        let Some(child) = self.children.get_mut(&id).filter(|child| child.cell.is_none()) else {
            return Change::None;
        };
        child.backoff = None;
        match launch(&mut child.spec, &self.me).await {
            Ok(cell) => self.restarted(id, cell),
            Err(exit) => self.ended(id, exit).await,
        }
    }

    /// Stops all, the last started first, each within its own deadline. Nothing is started afterwards.
    pub async fn stop_in_reverse(&mut self) {
        self.stopping = true;
        self.by_actor.clear();
        while let Some((_, mut child)) = self.children.pop_last() {
            let exit = child.stop(&self.me).await;
            self.bury(&mut child.spec, &exit);
        }
    }

    /// Stops all at once: for children that do not depend on each other. Nothing is started afterwards.
    pub async fn stop_together(&mut self) {
        self.stopping = true;
        self.by_actor.clear();
        let mut children: Vec<_> = std::mem::take(&mut self.children).into_values().collect();
        let exits = join_all(children.iter().map(|child| child.stop(&self.me))).await;
        for (child, exit) in children.iter_mut().zip(exits) {
            self.bury(&mut child.spec, &exit);
        }
    }

    async fn ended(&mut self, id: u64, mut exit: Exit) -> Change {
        let Some(child) = self.children.get_mut(&id) else { return Change::None };
        child.cell = None;
        let again = match child.spec.restart {
            Restart::Permanent => true,
            Restart::Transient => !exit.is_normal(),
            Restart::Temporary => false,
        };
        if !again || self.stopping {
            self.remove(id, &exit);
            return Change::Gone;
        }
        // Bounded by the intensity: each turn records a failure, but for one whose end an operator asked for.
        loop {
            let wait = if child.spec.node.current().is_some_and(|current| current.is_spared()) {
                Duration::ZERO
            } else {
                match child.intensity.failed(self.since.elapsed()) {
                    Next::RestartAfter(wait) => wait,
                    Next::GiveUp => {
                        let label = child.spec.node.label();
                        self.remove(id, &exit);
                        return Change::GivenUp { child: label, exit };
                    }
                }
            };
            tracing::warn!(actor = %child.spec.node.label(), %exit, ?wait, "actor ended: restarting");
            child.spec.node.ended(&exit, Status::Restarting);
            if !wait.is_zero() {
                child.backoff = Some((self.wake)(wait, id));
                return Change::None;
            }
            match launch(&mut child.spec, &self.me).await {
                Ok(cell) => return self.restarted(id, cell),
                Err(failed) => exit = failed,
            }
        }
    }

    fn restarted(&mut self, id: u64, cell: ActorCell) -> Change {
        self.by_actor.insert(cell.get_id(), id);
        if let Some(child) = self.children.get_mut(&id) {
            child.cell = Some(cell);
        }
        Change::None
    }

    fn remove(&mut self, id: u64, exit: &Exit) {
        if let Some(mut child) = self.children.remove(&id) {
            self.bury(&mut child.spec, exit);
        }
    }

    fn bury(&self, spec: &mut ChildSpec, exit: &Exit) {
        spec.node.ended(exit, Status::Stopped);
        self.node.disown(spec.node.adoption());
        contain("on_gone", || spec.gone(exit));
    }
}

/// Runs what a child brought along: its panic must not end the supervisor, and with it the child's siblings.
fn contain(what: &str, run: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        tracing::error!(panic = task::panic_text(panic.as_ref()), "{what} panicked");
    }
}

async fn launch(spec: &mut ChildSpec, parent: &ActorCell) -> Result<ActorCell, Exit> {
    let started = match catch_unwind(AssertUnwindSafe(|| spec.start(parent.clone()))) {
        Ok(Some(starting)) => tokio::time::timeout(START_DEADLINE, starting).await,
        Ok(None) => return Err(Exit::NotStarted("it can be started only once".to_owned())),
        Err(panic) => return Err(Exit::NotStarted(task::panic_text(panic.as_ref()))),
    };
    let exit = match started {
        Ok(Ok(cell)) => {
            spec.node.running();
            return Ok(cell);
        }
        Ok(Err(why)) => Exit::not_started(&why),
        Err(_elapsed) => Exit::NotStarted(format!("pre_start took longer than {START_DEADLINE:?}")),
    };
    // Nothing can be linked to a supervisor that is being killed. That is no failure of the child: the kill takes
    // effect at this await, before anybody is told that the child is gone.
    tokio::task::yield_now().await;
    Err(exit)
}
