//! Which of our streams a frame on the control stream is about, whichever end of it this agent is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::agent::carrying::{Called, Carried};
use crate::agent::stream_facts::Role;
use crate::core::ids::{Capabilities, StreamId};
use crate::core::resume::Fields;

/// What a relay says on the control stream of a stream that is opened. The first word counts.
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

/// The ids of the streams that live here, each with who is told what the relay says of it.
#[derive(Debug, Default)]
pub struct Routes(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    slots: HashMap<(StreamId, Role), Slot>,
    next: u64,
}

#[derive(Debug, Default)]
struct Slot {
    /// Told from a later stream with the same id.
    serial: u64,
    word: Option<oneshot::Sender<Signal>>,
    stream: Option<Arc<Carried>>,
    /// What came before the stream was attached.
    peer: Option<Capabilities>,
    checkpoint: Option<Fields>,
    ticket: Option<Bytes>,
}

/// One stream's id, taken until this is dropped.
#[derive(Debug)]
pub struct Route {
    key: (StreamId, Role),
    serial: u64,
    table: Arc<Routes>,
}

/// Waits for the relay's word on an open.
#[derive(Debug)]
pub struct Word(oneshot::Receiver<Signal>);

impl Routes {
    /// A fresh id: random, so that it does not collide with those of other agents of the tenant (wire.md §4, point 4), and
    /// never 0.
    #[must_use]
    pub fn add(self: &Arc<Self>) -> (Route, Word) {
        let (tell, signal) = oneshot::channel();
        let mut table = self.lock();
        let id = loop {
            let id = StreamId(rand::random());
            if id.is_recorded() && Role::BOTH.iter().all(|role| !table.slots.contains_key(&(id, *role))) {
                break id;
            }
        };
        let serial = table.insert((id, Role::Consumer), Some(tell));
        (Route { key: (id, Role::Consumer), serial, table: Arc::clone(self) }, Word(signal))
    }

    /// The id under which the relay has opened a stream to us. One that it has used before is the newer stream's from now on.
    #[must_use]
    pub fn serve(self: &Arc<Self>, id: StreamId) -> Route {
        let key = (id, Role::Provider);
        let serial = self.lock().insert(key, None);
        Route { key, serial, table: Arc::clone(self) }
    }

    /// Passes the relay's word on; whether there is such a stream.
    pub fn tell(&self, id: StreamId, signal: Signal) -> bool {
        let mut table = self.lock();
        let ready = match &signal {
            Signal::Ready { peer } => Some(*peer),
            _ => None,
        };
        let mut streams = Vec::new();
        let mut is_known = false;
        for role in Role::BOTH {
            let Some(slot) = table.slots.get_mut(&(id, role)) else { continue };
            is_known |= role == Role::Consumer || ready.is_some();
            if ready.is_some() {
                slot.peer = ready;
                streams.extend(slot.stream.clone());
            }
        }
        let word = table.slots.get_mut(&(id, Role::Consumer)).and_then(|slot| slot.word.take());
        drop(table);
        if let Some(peer) = ready {
            streams.iter().for_each(|stream| stream.on_ready(peer));
        }
        if let Some(word) = word
            && word.send(signal).is_err()
        {
            tracing::debug!(stream = %id, "nobody waits for the relay's word any more");
        }
        is_known
    }

    /// The relay's ticket of a stream came.
    pub fn keep_ticket(&self, id: StreamId, ticket: &Bytes) {
        let mut table = self.lock();
        let slots = Role::BOTH.map(|role| (id, role));
        let mut streams = Vec::new();
        for key in slots {
            let Some(slot) = table.slots.get_mut(&key) else { continue };
            match &slot.stream {
                Some(stream) => streams.push(Arc::clone(stream)),
                None => slot.ticket = Some(ticket.clone()),
            }
        }
        drop(table);
        streams.iter().for_each(|stream| stream.keep_ticket(ticket.clone()));
    }

    /// The partner's checkpoint came; whether there is such a stream.
    pub fn checkpoint(&self, fields: &Fields) -> bool {
        let mut table = self.lock();
        let Some(slot) = table.only(fields.stream_id) else { return false };
        let stream = slot.stream.clone();
        if stream.is_none() {
            slot.checkpoint = Some(*fields);
        }
        drop(table);
        if let Some(stream) = stream {
            stream.on_checkpoint(fields);
        }
        true
    }

    /// RESUME_WANTED came on the session with this number. None: there is no such stream.
    #[must_use]
    pub fn called(&self, id: StreamId, session: u64) -> Option<Called> {
        let mut table = self.lock();
        let stream = table.only(id)?.stream.clone();
        drop(table);
        // One that is not open yet is asked for again.
        Some(stream.map_or(Called::Coming, |stream| stream.on_called(session)))
    }

    /// The streams that are open, in no order.
    #[must_use]
    pub fn carried(&self) -> Vec<Arc<Carried>> {
        self.lock().slots.values().filter_map(|slot| slot.stream.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert(&mut self, key: (StreamId, Role), word: Option<oneshot::Sender<Signal>>) -> u64 {
        self.next += 1;
        self.slots.insert(key, Slot { serial: self.next, word, ..Slot::default() });
        self.next
    }

    fn is_self_call(&self, id: StreamId) -> bool {
        Role::BOTH.iter().all(|role| self.slots.contains_key(&(id, *role)))
    }

    /// The stream's slot; none also where both its ends are here, since nobody can tell whose word it is.
    fn only(&mut self, id: StreamId) -> Option<&mut Slot> {
        if !id.is_recorded() || self.is_self_call(id) {
            return None;
        }
        let role = Role::BOTH.into_iter().find(|role| self.slots.contains_key(&(id, *role)))?;
        self.slots.get_mut(&(id, role))
    }
}

impl Route {
    /// The stream's id.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.key.0
    }

    /// The id under which the stream can be resumed: 0, which is none, where this agent is both its ends, for nobody can tell
    /// which of them a frame is about.
    #[must_use]
    pub fn resumable_id(&self) -> StreamId {
        if self.table.lock().is_self_call(self.id()) { StreamId(0) } else { self.id() }
    }

    /// What the relay says of the id from now on is told to `stream`, and what it has said already.
    pub fn attach(&self, stream: &Arc<Carried>) {
        let mut table = self.table.lock();
        let Some(slot) = table.slots.get_mut(&self.key).filter(|slot| slot.serial == self.serial) else { return };
        slot.stream = Some(Arc::clone(stream));
        let (peer, checkpoint, ticket) = (slot.peer, slot.checkpoint.take(), slot.ticket.take());
        drop(table);
        if let Some(ticket) = ticket {
            stream.keep_ticket(ticket);
        }
        if let Some(peer) = peer {
            stream.on_ready(peer);
        }
        if let Some(fields) = checkpoint {
            stream.on_checkpoint(&fields);
        }
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        if table.slots.get(&self.key).is_some_and(|slot| slot.serial == self.serial) {
            table.slots.remove(&self.key);
        }
    }
}

impl Word {
    /// Waits for the relay's word. Cancel-safe; pending for ever once the word was taken.
    pub async fn signal(&mut self) -> Signal {
        if !self.0.is_terminated()
            && let Ok(signal) = (&mut self.0).await
        {
            return signal;
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_word_reaches_the_stream_that_it_names_once() {
        let routes = Arc::new(Routes::default());
        let ((one, mut word), (other, _)) = (routes.add(), routes.add());
        assert_ne!(one.id(), other.id());
        assert!(routes.tell(one.id(), Signal::Forward));
        assert!(routes.tell(one.id(), Signal::Ready { peer: Capabilities::default() }));
        assert_eq!(word.signal().await, Signal::Forward);
        let again = tokio::time::timeout(std::time::Duration::from_millis(1), word.signal()).await;
        assert!(again.is_err());
    }

    #[test]
    fn an_id_is_free_again_once_its_stream_is_gone() {
        let routes = Arc::new(Routes::default());
        let id = routes.add().0.id();
        assert!(!routes.tell(id, Signal::Forward));
        assert_eq!(routes.called(id, 1), None);
        assert!(routes.lock().slots.is_empty());
    }

    #[test]
    fn an_id_that_the_relay_uses_again_is_the_newer_streams() {
        let routes = Arc::new(Routes::default());
        let older = routes.serve(StreamId(7));
        let newer = routes.serve(StreamId(7));
        drop(older);
        assert_eq!(routes.called(StreamId(7), 1), Some(Called::Coming));
        drop(newer);
        assert_eq!(routes.called(StreamId(7), 1), None);
    }

    #[test]
    fn a_stream_whose_both_ends_are_here_is_not_resumable() {
        let routes = Arc::new(Routes::default());
        let (consumer, _word) = routes.add();
        let id = consumer.id();
        assert_eq!(consumer.resumable_id(), id);
        let provider = routes.serve(id);
        assert_eq!((consumer.resumable_id(), provider.resumable_id()), (StreamId(0), StreamId(0)));
        assert_eq!(routes.called(id, 1), None);
        assert!(routes.tell(id, Signal::Ready { peer: Capabilities::default() }));
    }
}
