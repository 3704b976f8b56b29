//! A supervisor of children that come and go: started by message, never escalating. A child that fails too often
//! is given up, alone: a peer that can provoke a panic loses its own actor, nothing more.

use std::fmt;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::children::{Change, Children};
use super::intensity::Limits;
use super::slot::{Down, Slot};
use super::spec::ChildSpec;

/// Messages of a [`Dynamic`].
#[derive(Debug)]
pub enum DynamicMsg {
    /// Start one more child.
    Start(ChildSpec),
    /// The backoff of that child is over.
    Restart(u64),
    /// Stop the children, all at once, then yourself.
    Shutdown,
}

/// The children that a new incarnation starts with, rebuilt from what outlives actors.
pub type Revive = Box<dyn Fn() -> Vec<ChildSpec> + Send>;

/// What a [`Dynamic`] is started with.
pub struct DynamicArgs {
    /// Its own address.
    pub handle: DynamicHandle,
    /// The children to start with.
    pub revive: Revive,
}

/// The only caller of a dynamic supervisor.
#[derive(Debug, Clone)]
pub struct DynamicHandle(Slot<DynamicMsg>);

impl DynamicHandle {
    /// An address for a supervisor that is not started yet.
    #[must_use]
    pub fn new(kind: &'static str, name: impl Into<String>) -> Self {
        Self(Slot::new(kind, name))
    }

    /// The supervisor's address.
    #[must_use]
    pub fn slot(&self) -> &Slot<DynamicMsg> {
        &self.0
    }

    /// Has `child` started. A start that fails is reported to the child's `on_gone`.
    ///
    /// # Errors
    /// [`Down`] when the supervisor is between two lives; the spec is dropped, and what it owns with it.
    pub fn start(&self, child: ChildSpec) -> Result<(), Down> {
        self.0.cast(DynamicMsg::Start(child))
    }
}

impl fmt::Debug for DynamicArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DynamicArgs({:?})", self.handle)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Dynamic;

impl Actor for Dynamic {
    type Msg = DynamicMsg;
    type State = Children;
    type Arguments = DynamicArgs;

    async fn pre_start(&self, myself: ActorRef<DynamicMsg>, args: DynamicArgs) -> Result<Children, ActorProcessingErr> {
        let slot = args.handle.slot().clone();
        let mut children = Children::new(&slot, myself.get_cell(), Limits::default(), DynamicMsg::Restart);
        slot.clone().node().stop_by(move || slot.tell(DynamicMsg::Shutdown));
        for child in (args.revive)() {
            start(&mut children, child).await;
        }
        Ok(children)
    }

    async fn handle(
        &self,
        myself: ActorRef<DynamicMsg>,
        message: DynamicMsg,
        children: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            DynamicMsg::Start(child) => start(children, child).await,
            DynamicMsg::Restart(id) => note(children.restart(id).await),
            DynamicMsg::Shutdown => {
                children.stop_together().await;
                myself.stop(None);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<DynamicMsg>,
        event: SupervisionEvent,
        children: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        note(children.on_event(event).await);
        Ok(())
    }
}

async fn start(children: &mut Children, child: ChildSpec) {
    if let Err(error) = children.start(child).await {
        tracing::warn!(%error, "actor did not start");
    }
}

/// Never escalates: what was given up is said, and that is all.
pub fn note(change: Change) {
    if let Change::GivenUp { child, exit } = change {
        tracing::error!(%child, %exit, "failed too often: given up");
    }
}
