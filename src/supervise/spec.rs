//! One child of a supervisor: how it is started, whether it is started again, how long it may take to stop.

use std::error::Error;
use std::fmt::{self, Debug};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, SpawnErr};

use super::node::Node;
use super::slot::Slot;
use super::watched::Watched;

/// Whether a child is started again when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Permanent,
    /// Unless it ended by its own decision, or was stopped.
    Transient,
    /// Never.
    Temporary,
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It stopped, by its own decision or because it was asked to.
    Stopped(Option<String>),
    /// It was killed: its handler was dropped where it awaited.
    Killed,
    /// A panic, or an error from a handler.
    Failed(String),
    /// `pre_start` failed, panicked, was killed, or took longer than the start deadline.
    NotStarted(String),
}

impl Exit {
    /// Without ractor's words around an actor's own: they call every failure to start a panic.
    pub(super) fn not_started(why: &SpawnErr) -> Self {
        Self::NotStarted(match why {
            SpawnErr::StartupFailed(why) => in_full(why.as_ref()),
            other => other.to_string(),
        })
    }

    /// Why it ended.
    pub(super) fn into_why(self) -> String {
        match self {
            Self::NotStarted(why) | Self::Failed(why) => why,
            other => other.to_string(),
        }
    }

    /// Whether the child ended as it meant to.
    #[must_use]
    pub fn is_normal(&self) -> bool {
        matches!(self, Self::Stopped(_))
    }
}

/// An error with all that is behind it.
fn in_full(error: &(dyn Error + 'static)) -> String {
    anyhow::Chain::new(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped(None) => f.write_str("stopped"),
            Self::Stopped(Some(reason)) => write!(f, "stopped: {reason}"),
            Self::Killed => f.write_str("killed"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::NotStarted(why) => write!(f, "could not start: {why}"),
        }
    }
}

pub(super) type Starting = Pin<Box<dyn Future<Output = Result<ActorCell, SpawnErr>> + Send>>;
type StartAgain = Box<dyn Fn(ActorCell) -> Starting + Send>;
type StartOnce = Box<dyn FnOnce(ActorCell) -> Starting + Send>;
type OnGone = Box<dyn FnOnce(&Exit) + Send>;

enum Start {
    Again(StartAgain),
    Once(Option<StartOnce>),
}

/// One child. See the module's documentation.
pub struct ChildSpec {
    pub(super) node: Arc<Node>,
    pub(super) restart: Restart,
    pub(super) shutdown: Duration,
    start: Start,
    on_gone: Option<OnGone>,
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}, stops within {:?})", self.node.label(), self.restart, self.shutdown)
    }
}

impl ChildSpec {
    /// A child that can be started again: `make` gives a fresh actor and its arguments each time.
    ///
    /// It has `shutdown` to stop by itself; then it is killed.
    pub fn new<A, F>(slot: &Slot<A::Msg>, restart: Restart, shutdown: Duration, make: F) -> Self
    where
        A: Actor<Msg: Debug>,
        F: Fn() -> (A, A::Arguments) + Send + 'static,
    {
        let node = Arc::clone(slot.node());
        let start = {
            let node = Arc::clone(&node);
            Box::new(move |parent: ActorCell| {
                let (actor, args) = make();
                spawn(Arc::clone(&node), actor, args, parent)
            })
        };
        Self { node, restart, shutdown, start: Start::Again(start), on_gone: None }
    }

    /// A temporary child: its arguments are used up by the one start it gets.
    pub fn once<A>(slot: &Slot<A::Msg>, shutdown: Duration, actor: A, args: A::Arguments) -> Self
    where
        A: Actor<Msg: Debug>,
    {
        let node = Arc::clone(slot.node());
        let start = {
            let node = Arc::clone(&node);
            Box::new(move |parent: ActorCell| spawn(node, actor, args, parent))
        };
        Self { node, restart: Restart::Temporary, shutdown, start: Start::Once(Some(start)), on_gone: None }
    }

    /// Runs `then` once the child is gone for good: it ended and is not started again, or was given up.
    ///
    /// Not run when the supervisor itself is killed, nor when it ends with this spec still in its mailbox: the spec is
    /// dropped then, with what it owns, and who restarts the supervisor knows. A panic in `then` is logged.
    #[must_use]
    pub fn on_gone(mut self, then: impl FnOnce(&Exit) + Send + 'static) -> Self {
        self.on_gone = Some(Box::new(then));
        self
    }

    /// The actor's node, for reports.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// May panic: `make` is not ours.
    pub(super) fn start(&mut self, parent: ActorCell) -> Option<Starting> {
        match &mut self.start {
            Start::Again(start) => Some(start(parent)),
            Start::Once(start) => start.take().map(|start| start(parent)),
        }
    }

    pub(super) fn gone(&mut self, exit: &Exit) {
        if let Some(then) = self.on_gone.take() {
            then(exit);
        }
    }
}

fn spawn<A: Actor<Msg: Debug>>(node: Arc<Node>, actor: A, args: A::Arguments, parent: ActorCell) -> Starting {
    Box::pin(async move {
        let (actor, _joined) = Actor::spawn_linked(None, Watched::new(actor, node), args, parent).await?;
        Ok(actor.get_cell())
    })
}
