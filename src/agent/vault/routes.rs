//! Which of our opened streams a frame on the control stream is about.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::core::ids::{Capabilities, StreamId};

/// What a relay says of a stream on the control stream. The first word counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// STREAM_READY: the provider has accepted, and bytes flow.
    Ready {
        /// What the agent at the other end named; empty where the relay does not tell.
        peer: Capabilities,
    },
    /// STREAM_REJECT.
    Rejected {
        /// A [`RejectCode`](crate::core::reject::RejectCode), or a later one.
        code: u32,
        /// The relay's words.
        reason: String,
    },
    /// ALLOC_GRANTED: the stream is to run over the forward plane.
    Forward,
}

/// The ids of the streams that this agent has opened, each with who waits for the relay's word.
#[derive(Debug, Default)]
pub struct Routes(Mutex<HashMap<StreamId, Option<oneshot::Sender<Signal>>>>);

/// One stream's id, taken until this is dropped.
#[derive(Debug)]
pub struct Route {
    id: StreamId,
    signal: oneshot::Receiver<Signal>,
    table: Arc<Routes>,
}

impl Routes {
    /// A fresh id: random, so that it does not collide with those of other agents of the tenant (wire.md §4, point 4), and
    /// never 0.
    #[must_use]
    pub fn add(self: &Arc<Self>) -> Route {
        let (tell, signal) = oneshot::channel();
        let mut table = self.lock();
        let id = loop {
            let id = StreamId(rand::random());
            if id.is_recorded() && !table.contains_key(&id) {
                break id;
            }
        };
        table.insert(id, Some(tell));
        Route { id, signal, table: Arc::clone(self) }
    }

    /// Passes the relay's word on; whether somebody waited for it.
    pub fn tell(&self, id: StreamId, signal: Signal) -> bool {
        let waiting = self.lock().get_mut(&id).and_then(Option::take);
        waiting.is_some_and(|waiting| waiting.send(signal).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamId, Option<oneshot::Sender<Signal>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Route {
    /// The stream's id.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Waits for the relay's word. Cancel-safe; pending for ever once the word was taken.
    pub async fn signal(&mut self) -> Signal {
        if !self.signal.is_terminated()
            && let Ok(signal) = (&mut self.signal).await
        {
            return signal;
        }
        std::future::pending().await
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        self.table.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_word_reaches_the_stream_that_it_names_once() {
        let routes = Arc::new(Routes::default());
        let (mut one, other) = (routes.add(), routes.add());
        assert_ne!(one.id(), other.id());
        assert!(routes.tell(one.id(), Signal::Forward));
        assert!(!routes.tell(one.id(), Signal::Ready { peer: Capabilities::default() }));
        assert_eq!(one.signal().await, Signal::Forward);
        let again = tokio::time::timeout(std::time::Duration::from_millis(1), one.signal()).await;
        assert!(again.is_err());
    }

    #[test]
    fn an_id_is_free_again_once_its_stream_is_gone() {
        let routes = Arc::new(Routes::default());
        let id = routes.add().id();
        assert!(!routes.tell(id, Signal::Forward));
        assert!(routes.lock().is_empty());
    }
}
