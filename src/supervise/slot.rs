//! The address of an actor across its restarts.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorRef, Message, RpcReplyPort};
use tokio::time::Instant;

use super::node::{Node, Status};

/// Where messages of type `M` go, whichever incarnation of the actor runs. Cheap to clone.
pub struct Slot<M> {
    node: Arc<Node>,
    messages: PhantomData<fn(M)>,
}

impl<M> Clone for Slot<M> {
    fn clone(&self) -> Self {
        Self { node: Arc::clone(&self.node), messages: PhantomData }
    }
}

impl<M> fmt::Debug for Slot<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({})", self.node.label())
    }
}

/// The actor is not running: between two lives, or gone. The message was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the actor is not running")]
pub struct Down;

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No answer within the time given, restarts of the actor included.
    #[error("no answer in time")]
    TimedOut,
    /// The actor is gone for good.
    #[error("the actor is gone")]
    Gone,
}

impl<M: Message> Slot<M> {
    /// An address for an actor that is not started yet.
    #[must_use]
    pub fn new(kind: &'static str, name: impl Into<String>) -> Self {
        Self { node: Node::new(kind, name), messages: PhantomData }
    }

    /// The address of the actor at `node`, kept by something that does not know the actor's messages.
    #[must_use]
    pub fn at(node: Arc<Node>) -> Self {
        Self { node, messages: PhantomData }
    }

    /// The actor's node in the tree.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Sends `message` to the running actor.
    ///
    /// # Errors
    /// [`Down`] when none runs; the message is dropped, and what it owns with it.
    pub fn cast(&self, message: M) -> Result<(), Down> {
        let current = self.node.current().ok_or(Down)?;
        // First: the actor may take the message before the next line runs.
        current.queued();
        ActorRef::<M>::from(current.cell().clone()).send_message(message).map_err(|_| {
            current.unqueued();
            Down
        })
    }

    /// Sends a fact that only matters to a running actor: with none, there is nobody to tell.
    pub fn tell(&self, fact: M) {
        if self.cast(fact).is_err() {
            tracing::trace!(actor = %self.node.label(), "not running: fact dropped");
        }
    }

    /// Asks, and waits for the answer for `timeout` in all. When the actor dies before it answers, the next
    /// incarnation is asked again: so ask only what may be asked twice.
    ///
    /// # Errors
    /// [`CallError::TimedOut`], or [`CallError::Gone`] when the actor will not come back.
    pub async fn call<T: Send + 'static>(
        &self,
        question: impl Fn(RpcReplyPort<T>) -> M,
        timeout: Duration,
    ) -> Result<T, CallError> {
        let deadline = Instant::now() + timeout;
        let mut lives = self.node.watch();
        loop {
            let runs = lives.borrow_and_update().is_some();
            if runs {
                let (port, answer) = tokio::sync::oneshot::channel();
                if self.cast(question(port.into())).is_ok() {
                    match tokio::time::timeout_at(deadline, answer).await {
                        Ok(Ok(answer)) => return Ok(answer),
                        Ok(Err(_died)) => {}
                        Err(_elapsed) => return Err(CallError::TimedOut),
                    }
                }
            }
            if self.node.status() == Status::Stopped {
                return Err(CallError::Gone);
            }
            match tokio::time::timeout_at(deadline, lives.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_closed)) => return Err(CallError::Gone),
                Err(_elapsed) => return Err(CallError::TimedOut),
            }
        }
    }
}
