//! The children of one supervisor: started, started again, given up, stopped in reverse order, each bounded.
//!
//! Plain data owned by a supervisor's state. It is the only place in the program that restarts an actor.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ractor::{ActorCell, ActorId, Message, SupervisionEvent};
use tokio::time::Instant;

use super::intensity::{Intensity, Limits, Next};
use super::node::{Node, Status};
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
    fn stop(&self) -> impl Future<Output = Exit> + Send + use<> {
        let (node, cell, deadline) = (Arc::clone(&self.spec.node), self.cell.clone(), self.spec.shutdown);
        async move {
            let Some(cell) = cell else { return Exit::Stopped(None) };
            node.ask_to_stop();
            if cell.wait(Some(deadline)).await.is_ok() {
                return Exit::Stopped(None);
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

/// See the module's documentation.
pub struct Children {
    node: Arc<Node>,
    me: ActorCell,
    limits: Limits,
    since: Instant,
    // Node ids grow, so this is the order of starting.
    children: BTreeMap<u64, Child>,
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
        // What an earlier incarnation had died with it.
        node.disown_all();
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
        if self.children.contains_key(&spec.node.id()) {
            return Ok(());
        }
        self.node.adopt(&spec.node);
        let launched = if self.stopping {
            Err(Exit::NotStarted("its supervisor is stopping".to_owned()))
        } else {
            launch(&mut spec, &self.me).await
        };
        match launched {
            Ok(cell) => {
                let id = spec.node.id();
                self.by_actor.insert(cell.get_id(), id);
                let intensity = Intensity::new(self.limits);
                self.children.insert(id, Child { spec, cell: Some(cell), intensity, backoff: None });
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
        let (actor, exit) = match event {
            // The state is dropped here and now: what it owns must not outlive the actor in a queue.
            SupervisionEvent::ActorTerminated(actor, state, reason) => (actor, Exit::terminated(state, reason)),
            SupervisionEvent::ActorFailed(actor, why) => (actor, Exit::Failed(why.to_string())),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Change::None,
        };
        match self.by_actor.remove(&actor.get_id()) {
            Some(id) => self.ended(id, exit).await,
            None => Change::None,
        }
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
            let exit = child.stop().await;
            self.bury(&mut child.spec, &exit);
        }
    }

    /// Stops all at once: for children that do not depend on each other. Nothing is started afterwards.
    pub async fn stop_together(&mut self) {
        self.stopping = true;
        self.by_actor.clear();
        let mut children: Vec<_> = std::mem::take(&mut self.children).into_values().collect();
        let exits = join_all(children.iter().map(Child::stop)).await;
        for (child, exit) in children.iter_mut().zip(exits) {
            self.bury(&mut child.spec, &exit);
        }
    }

    async fn ended(&mut self, id: u64, mut exit: Exit) -> Change {
        let Some(child) = self.children.get_mut(&id) else { return Change::None };
        child.cell = None;
        // Asked for by an operator: no failure, so no wait and no count.
        let mut spared = child.spec.node.take_spared();
        let again = match child.spec.restart {
            Restart::Permanent => true,
            Restart::Transient => !exit.is_normal(),
            Restart::Temporary => false,
        };
        if !again || self.stopping {
            self.remove(id, &exit);
            return Change::Gone;
        }
        // Bounded by the intensity: each turn records a failure, or is the first and spared.
        loop {
            let wait = if std::mem::take(&mut spared) {
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
        self.node.disown(spec.node.id());
        spec.gone(exit);
    }
}

async fn launch(spec: &mut ChildSpec, parent: &ActorCell) -> Result<ActorCell, Exit> {
    let Some(starting) = spec.start(parent.clone()) else {
        return Err(Exit::NotStarted("it can be started only once".to_owned()));
    };
    match tokio::time::timeout(START_DEADLINE, starting).await {
        Ok(Ok(cell)) => {
            spec.node.running();
            Ok(cell)
        }
        Ok(Err(why)) => Err(Exit::NotStarted(why.to_string())),
        Err(_elapsed) => Err(Exit::NotStarted(format!("pre_start took longer than {START_DEADLINE:?}"))),
    }
}
