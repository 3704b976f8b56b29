//! Halves of streams that have just arrived to be resumed (wire.md §5), on their way to the entry of their stream.
//!
//! Two halves of one stream come through two connections at any two moments. The first makes the stream's inbox and has an
//! entry started over it; whatever comes later goes into the same inbox, whether the entry runs yet or not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connections::AgentConnection;
use super::places::Place;
use crate::core::identity::Tenant;
use crate::core::ids::StreamId;
use crate::core::resume::pairing::{Half, HalfId};
use crate::core::ticket::TicketFacts;
use crate::net::stream::BiStream;
use crate::net::stream_limit::StreamUse;
use crate::supervise::node::Node;

type Key = (Tenant, StreamId);

/// A half with its stream. Dropped, the stream is reset with the code that it was given for that.
#[derive(Debug)]
pub struct ArrivedHalf {
    /// Who it is and what it said.
    pub half: Half,
    /// The connection that it came on.
    pub connection: Arc<AgentConnection>,
    /// The stream, past its first frame.
    pub stream: BiStream,
    /// What its ticket says, if it came with a valid one.
    pub ticket: Option<Box<TicketFacts>>,
    /// It counts toward the connection's limit.
    pub stream_use: StreamUse,
    /// It counts toward the halves that its agent may park.
    pub place: Place,
}

#[derive(Debug)]
struct Inbox {
    epoch: u64,
    node: Arc<Node>,
    halves: Vec<ArrivedHalf>,
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Parking(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    inboxes: Mutex<HashMap<Key, Inbox>>,
    last: AtomicU64,
}

/// Where a half has gone.
#[derive(Debug)]
pub enum Delivered {
    /// Into an inbox that is served at this node, which is to be told.
    To(Arc<Node>),
    /// Into a new inbox, for which an entry is to be started.
    New(Claim),
}

impl Parking {
    /// The number of the next half.
    #[must_use]
    pub fn next_half(&self) -> HalfId {
        HalfId(self.0.last.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Puts a half into the inbox of its stream.
    pub fn deliver(&self, arrived: ArrivedHalf) -> Delivered {
        let key = (arrived.half.agent.tenant().clone(), arrived.half.fields.stream_id);
        let mut inboxes = self.0.lock();
        if let Some(inbox) = inboxes.get_mut(&key) {
            inbox.halves.push(arrived);
            return Delivered::To(Arc::clone(&inbox.node));
        }
        let (epoch, node) = (arrived.half.id.0, Node::new("entry", key.1.to_string()));
        inboxes.insert(key.clone(), Inbox { epoch, node: Arc::clone(&node), halves: vec![arrived] });
        Delivered::New(Claim { parking: Arc::clone(&self.0), key, epoch, node })
    }

    /// The entry at which halves of a stream wait.
    #[must_use]
    pub fn entry(&self, tenant: &Tenant, id: StreamId) -> Option<Arc<Node>> {
        self.0.lock().get(&(tenant.clone(), id)).map(|inbox| Arc::clone(&inbox.node))
    }

    /// How many streams have halves that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether none has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Inbox>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to an inbox, held by the stream's entry. Dropped, the inbox is gone, and what was in it is reset: the
/// agents send their halves again.
#[derive(Debug)]
pub struct Claim {
    parking: Arc<Inner>,
    key: Key,
    epoch: u64,
    node: Arc<Node>,
}

impl Claim {
    /// The entry's node.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Whose stream it is.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.key.0
    }

    /// Which stream.
    #[must_use]
    pub fn stream_id(&self) -> StreamId {
        self.key.1
    }

    /// Takes what has arrived.
    #[must_use]
    pub fn take(&self) -> Vec<ArrivedHalf> {
        let mut inboxes = self.parking.lock();
        let own = inboxes.get_mut(&self.key).filter(|inbox| inbox.epoch == self.epoch);
        own.map(|inbox| std::mem::take(&mut inbox.halves)).unwrap_or_default()
    }

    /// Closes the inbox unless something has arrived meanwhile; whether it is closed.
    #[must_use]
    pub fn close(&self) -> bool {
        let mut inboxes = self.parking.lock();
        let arrived = inboxes.get(&self.key).is_some_and(|inbox| inbox.epoch == self.epoch && !inbox.halves.is_empty());
        if !arrived {
            self.remove(&mut inboxes);
        }
        !arrived
    }

    fn remove(&self, inboxes: &mut HashMap<Key, Inbox>) -> Option<Inbox> {
        let own = inboxes.get(&self.key).is_some_and(|inbox| inbox.epoch == self.epoch);
        if own { inboxes.remove(&self.key) } else { None }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let removed = self.remove(&mut self.parking.lock());
        // Outside the lock: what is in it resets streams.
        drop(removed);
    }
}
