//! The wrapper around every supervised actor: counts its mailbox, times its handler, records what it dealt with and how it
//! ends, takes injected faults.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};

use super::fault;
use super::incarnation::Incarnation;
use super::node::Node;
use super::spec::Exit;

/// An actor, watched through its [`Node`]. Its messages are the inner actor's: nothing is wrapped.
///
/// What handles a message is boxed: ractor keeps room for it in the actor for as long as that lives, some kilobytes of an
/// actor that does nothing.
pub(super) struct Watched<A> {
    inner: A,
    node: Arc<Node>,
    incarnation: OnceLock<Arc<Incarnation>>,
}

impl<A: Actor> Watched<A> {
    pub(super) fn new(inner: A, node: Arc<Node>) -> Self {
        Self { inner, node, incarnation: OnceLock::new() }
    }

    fn incarnation(&self, myself: &ActorRef<A::Msg>) -> &Arc<Incarnation> {
        self.incarnation.get_or_init(|| Arc::new(Incarnation::new(myself.get_cell())))
    }
}

/// Runs one of the actor's functions, busy meanwhile; an error is the actor's end.
async fn watch(
    incarnation: &Incarnation,
    function: impl Future<Output = Result<(), ActorProcessingErr>>,
) -> Result<(), ActorProcessingErr> {
    let _busy = incarnation.begin();
    let done = function.await;
    if let Err(error) = &done {
        incarnation.ends(Exit::Failed(error.to_string()));
    }
    done
}

impl<A: Actor<Msg: Debug>> Actor for Watched<A> {
    type Msg = A::Msg;
    type State = A::State;
    type Arguments = A::Arguments;

    async fn pre_start(&self, myself: ActorRef<A::Msg>, args: A::Arguments) -> Result<A::State, ActorProcessingErr> {
        let incarnation = self.incarnation(&myself);
        // Reachable from here on: tasks that pre_start makes may report before it returns.
        self.node.appeared(Arc::clone(incarnation));
        let _busy = incarnation.begin();
        self.inner.pre_start(myself, args).await
    }

    async fn post_start(&self, myself: ActorRef<A::Msg>, state: &mut A::State) -> Result<(), ActorProcessingErr> {
        self.node.forget_orphans();
        let incarnation = Arc::clone(self.incarnation(&myself));
        watch(&incarnation, self.inner.post_start(myself, state)).await
    }

    async fn post_stop(&self, myself: ActorRef<A::Msg>, state: &mut A::State) -> Result<(), ActorProcessingErr> {
        let incarnation = Arc::clone(self.incarnation(&myself));
        watch(&incarnation, self.inner.post_stop(myself, state)).await?;
        // ractor comes here on a stop only, never on a kill.
        incarnation.ends(Exit::Stopped(None));
        Ok(())
    }

    fn handle(
        &self,
        myself: ActorRef<A::Msg>,
        message: A::Msg,
        state: &mut A::State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        Box::pin(async move {
            let incarnation = Arc::clone(self.incarnation(&myself));
            incarnation.unqueued();
            self.node.recorder().begins(&message);
            let done = watch(&incarnation, self.inner.handle(myself, message, state)).await;
            self.node.recorder().done();
            done
        })
    }

    fn handle_supervisor_evt(
        &self,
        myself: ActorRef<A::Msg>,
        event: SupervisionEvent,
        state: &mut A::State,
    ) -> impl Future<Output = Result<(), ActorProcessingErr>> + Send {
        Box::pin(async move {
            let incarnation = Arc::clone(self.incarnation(&myself));
            if fault::is_probe(&event) {
                if let SupervisionEvent::ActorStarted(_) = event {
                    watch(&incarnation, fault::strike(&incarnation)).await?;
                }
                return Ok(());
            }
            // Its `Debug` starts with its name, as that of a message does.
            self.node.recorder().begins(&event);
            let done = watch(&incarnation, self.inner.handle_supervisor_evt(myself, event, state)).await;
            self.node.recorder().done();
            done
        })
    }
}
