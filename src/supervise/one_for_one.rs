//! A supervisor of a fixed list of children: started in order, each restarted alone, stopped in reverse.
//!
//! A child that fails too often takes its supervisor with it, so failure escalates to the root, and from there to
//! the process's exit code.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use ractor::{Actor, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::task::JoinHandle;

use super::children::{Change, Children};
use super::intensity::Limits;
use super::node::Status;
use super::slot::Slot;
use super::spec::{ChildSpec, Exit};
use super::watched::Watched;

/// Messages of a [`OneForOne`].
#[derive(Debug)]
pub enum OneForOneMsg {
    /// The backoff of that child is over.
    Restart(u64),
    /// Stop the children, the last one first, then yourself.
    Shutdown,
    /// What they all live from is gone, for this reason: fail, at once.
    Fail(String),
}

/// What a [`OneForOne`] is started with.
#[derive(Debug)]
pub struct OneForOneArgs {
    /// Its own address.
    pub slot: Slot<OneForOneMsg>,
    /// Its children, in the order of starting.
    pub children: Vec<ChildSpec>,
    /// How often a child may fail. A child that is itself a supervisor fails only once its own limits are used up, with
    /// the backoffs in between: for it to be given up in turn, `window` must hold `failures` times that.
    pub limits: Limits,
    /// What is said before the children are stopped because one of them was given up.
    pub last_words: Option<LastWords>,
}

/// What a supervisor that gives up does while its children still run. It must end soon: they are stopped only then.
pub struct LastWords(Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send + Sync>);

impl LastWords {
    /// These.
    #[must_use]
    pub fn new<F: Future<Output = ()> + Send + 'static>(say: impl FnOnce() -> F + Send + Sync + 'static) -> Self {
        Self(Box::new(move || Box::pin(say())))
    }
}

impl fmt::Debug for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LastWords")
    }
}

/// What a [`OneForOne`] holds while it runs.
#[derive(Debug)]
pub struct OneForOneState {
    slot: Slot<OneForOneMsg>,
    children: Children,
    last_words: Option<LastWords>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct OneForOne;

/// Starts a tree's root, with nobody above it. Its end is the end of the tree; once the result ends, it and the node say why.
///
/// # Errors
/// When a child could not be started; those started before it are stopped then.
#[allow(clippy::disallowed_methods, reason = "ends with the root, whose end it records")]
pub async fn start_root(args: OneForOneArgs) -> Result<JoinHandle<Exit>, SpawnErr> {
    let node = Arc::clone(args.slot.node());
    let joined = match Actor::spawn(None, Watched::new(OneForOne, Arc::clone(&node)), args).await {
        Ok((_root, joined)) => joined,
        Err(error) => {
            node.ended(&Exit::not_started(&error), Status::Stopped);
            return Err(error);
        }
    };
    node.running();
    Ok(tokio::spawn(async move {
        if let Err(error) = joined.await {
            tracing::error!(%error, "the root's task");
        }
        let exit = node.current().map_or(Exit::Killed, |root| root.outcome());
        node.ended(&exit, Status::Stopped);
        exit
    }))
}

/// Starts `children` below `me`, in order.
///
/// # Errors
/// When one could not be started.
async fn start_all(children: &mut Children, specs: Vec<ChildSpec>) -> Result<(), ActorProcessingErr> {
    for spec in specs {
        children.start(spec).await?;
    }
    Ok(())
}

impl Actor for OneForOne {
    type Msg = OneForOneMsg;
    type State = OneForOneState;
    type Arguments = OneForOneArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<OneForOneMsg>,
        args: OneForOneArgs,
    ) -> Result<Self::State, ActorProcessingErr> {
        let slot = args.slot.clone();
        args.slot.node().stop_by(move || slot.tell(OneForOneMsg::Shutdown));
        let mut children = Children::new(&args.slot, myself.get_cell(), args.limits, OneForOneMsg::Restart);
        if let Err(error) = start_all(&mut children, args.children).await {
            children.stop_in_reverse().await;
            return Err(error);
        }
        Ok(OneForOneState { slot: args.slot, children, last_words: args.last_words })
    }

    async fn handle(
        &self,
        myself: ActorRef<OneForOneMsg>,
        message: OneForOneMsg,
        state: &mut OneForOneState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            OneForOneMsg::Restart(id) => {
                let change = state.children.restart(id).await;
                state.escalate(change).await
            }
            OneForOneMsg::Shutdown => {
                state.children.stop_in_reverse().await;
                myself.stop(None);
                Ok(())
            }
            OneForOneMsg::Fail(why) => Err(why.into()),
        }
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<OneForOneMsg>,
        event: SupervisionEvent,
        state: &mut OneForOneState,
    ) -> Result<(), ActorProcessingErr> {
        let change = state.children.on_event(event).await;
        state.escalate(change).await
    }
}

impl OneForOneState {
    /// A child that was given up ends its supervisor, which first says what it has to say, and stops what it still can.
    async fn escalate(&mut self, change: Change) -> Result<(), ActorProcessingErr> {
        let Change::GivenUp { child, exit } = change else { return Ok(()) };
        let why = format!("{child} failed too often, at last: {exit}");
        tracing::error!(supervisor = %self.slot.node().label(), %why, "escalating");
        if let Some(LastWords(say)) = self.last_words.take() {
            say().await;
        }
        self.children.stop_in_reverse().await;
        Err(why.into())
    }
}
