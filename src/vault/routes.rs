//! Which connection holds the other end of a stream: how what one agent says of a stream on its control stream (checkpoints,
//! wire.md §5) reaches the other, from connection to connection and past no actor.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::connections::AgentConnection;
use crate::core::ids::StreamId;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// The streams of one connection.
#[derive(Debug, Default)]
pub struct Routes(Mutex<HashMap<StreamId, (u64, Weak<AgentConnection>)>>);

impl Routes {
    /// The connection at the other end of a stream.
    #[must_use]
    pub fn partner(&self, id: StreamId) -> Option<Arc<AgentConnection>> {
        self.lock().get(&id).and_then(|(_, partner)| partner.upgrade())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamId, (u64, Weak<AgentConnection>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's route, both ways, until this is dropped or the stream gets another.
#[derive(Debug)]
#[must_use = "the route ends when this is dropped"]
pub struct Routed {
    id: StreamId,
    number: u64,
    ends: [Weak<AgentConnection>; 2],
}

impl Routed {
    /// Routes what is said of stream `id` between two connections. Nothing is said of a stream without an id, nor by an agent
    /// to itself.
    pub fn between(id: StreamId, one: &Arc<AgentConnection>, other: &Arc<AgentConnection>) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let ends = [Arc::downgrade(one), Arc::downgrade(other)];
        if id.is_recorded() && !Arc::ptr_eq(one, other) {
            one.routes.lock().insert(id, (number, Weak::clone(&ends[1])));
            other.routes.lock().insert(id, (number, Weak::clone(&ends[0])));
        }
        Self { id, number, ends }
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        for end in self.ends.iter().filter_map(Weak::upgrade) {
            let mut routes = end.routes.lock();
            if routes.get(&self.id).is_some_and(|(number, _)| *number == self.number) {
                routes.remove(&self.id);
            }
        }
    }
}
