//! The wrapper around every supervised actor: counts its mailbox, times its handler, takes injected faults.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::fault;
use super::node::Node;

/// An actor, watched through its [`Node`]. Its messages are the inner actor's: nothing is wrapped.
pub(super) struct Watched<A> {
    inner: A,
    node: Arc<Node>,
}

impl<A> Watched<A> {
    pub(super) fn new(inner: A, node: Arc<Node>) -> Self {
        Self { inner, node }
    }
}

impl<A: Actor> Actor for Watched<A> {
    type Msg = A::Msg;
    type State = A::State;
    type Arguments = A::Arguments;

    async fn pre_start(&self, myself: ActorRef<A::Msg>, args: A::Arguments) -> Result<A::State, ActorProcessingErr> {
        // Reachable from here on: tasks that pre_start makes may report before it returns.
        self.node.appeared(myself.get_cell());
        let _busy = self.node.begin();
        self.inner.pre_start(myself, args).await
    }

    async fn post_start(&self, myself: ActorRef<A::Msg>, state: &mut A::State) -> Result<(), ActorProcessingErr> {
        self.inner.post_start(myself, state).await
    }

    async fn post_stop(&self, myself: ActorRef<A::Msg>, state: &mut A::State) -> Result<(), ActorProcessingErr> {
        self.inner.post_stop(myself, state).await
    }

    async fn handle(
        &self,
        myself: ActorRef<A::Msg>,
        message: A::Msg,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        self.node.unqueued();
        let _busy = self.node.begin();
        self.inner.handle(myself, message, state).await
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<A::Msg>,
        event: SupervisionEvent,
        state: &mut A::State,
    ) -> Result<(), ActorProcessingErr> {
        let _busy = self.node.begin();
        if fault::is_probe(&event) {
            if let SupervisionEvent::ActorStarted(_) = event {
                fault::strike(&self.node).await;
            }
            return Ok(());
        }
        self.inner.handle_supervisor_evt(myself, event, state).await
    }
}
