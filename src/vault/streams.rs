//! The stream index: who may act on a stream id (wire.md §4, step 4).
//!
//! The key is (tenant, stream id): ids of different tenants never meet. An entry belongs to the [`Reservation`] that
//! made it, by epoch: a reservation that is dropped late, after the same pair has reserved the id again, removes
//! nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::core::identity::{AgentUri, Tenant};
use crate::core::ids::StreamId;

/// A power of two, so that a hash picks a shard by its low bits; enough for two cores by far.
const SHARDS: usize = 16;

/// A stream's two agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parties {
    /// Who opened it.
    pub consumer: AgentUri,
    /// Who serves it.
    pub provider: AgentUri,
}

#[derive(Debug)]
struct Record {
    parties: Parties,
    epoch: u64,
}

type Key = (Tenant, StreamId);

/// The id is in use between two other agents of the tenant: 409.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream id is in use between other agents")]
pub struct Conflict;

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StreamIndex(Arc<Shards>);

#[derive(Debug)]
struct Shards {
    shards: [Mutex<HashMap<Key, Record>>; SHARDS],
    hasher: RandomState,
    epoch: AtomicU64,
}

impl Default for StreamIndex {
    fn default() -> Self {
        Self(Arc::new(Shards {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            epoch: AtomicU64::new(1),
        }))
    }
}

impl StreamIndex {
    /// Reserves `id` for `parties`. The same pair may reserve it again: the newest holds it, the older stream goes on
    /// unrecorded. Id 0 is never recorded.
    ///
    /// # Errors
    /// [`Conflict`] when it is mapped to another pair.
    pub fn reserve(&self, id: StreamId, parties: Parties) -> Result<Reservation, Conflict> {
        if !id.is_recorded() {
            return Ok(Reservation { held: None });
        }
        let key = (parties.consumer.tenant().clone(), id);
        let epoch = self.0.epoch.fetch_add(1, Ordering::Relaxed);
        match self.0.shard(&key).entry(key.clone()) {
            Entry::Occupied(mut taken) if taken.get().parties == parties => taken.get_mut().epoch = epoch,
            Entry::Occupied(_) => return Err(Conflict),
            Entry::Vacant(free) => {
                free.insert(Record { parties, epoch });
            }
        }
        Ok(Reservation { held: Some((Arc::clone(&self.0), key, epoch)) })
    }

    /// The two agents of a stream.
    #[must_use]
    pub fn parties(&self, tenant: &Tenant, id: StreamId) -> Option<Parties> {
        let key = (tenant.clone(), id);
        self.0.shard(&key).get(&key).map(|record| record.parties.clone())
    }

    /// How many streams are recorded.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shards {
    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Record>> {
        let hash = self.hasher.hash_one(key);
        #[allow(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
        let index = hash as usize % SHARDS;
        lock(&self.shards[index])
    }
}

/// Holds an id in the index until dropped.
#[derive(Debug)]
#[must_use = "dropping it frees the id"]
pub struct Reservation {
    held: Option<(Arc<Shards>, Key, u64)>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some((index, key, epoch)) = self.held.take() else { return };
        if let Entry::Occupied(record) = index.shard(&key).entry(key.clone())
            && record.get().epoch == epoch
        {
            record.remove();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(tenant: &str, n: u8) -> AgentUri {
        format!("outrelay://{tenant}/agent/00000000-0000-0000-0000-0000000000{n:02}").parse().unwrap()
    }

    fn parties(tenant: &str, consumer: u8, provider: u8) -> Parties {
        Parties { consumer: agent(tenant, consumer), provider: agent(tenant, provider) }
    }

    #[test]
    fn an_id_of_another_pair_is_a_conflict_until_it_is_free() {
        let index = StreamIndex::default();
        let held = index.reserve(StreamId(7), parties("acme", 1, 2)).unwrap();
        assert!(index.reserve(StreamId(7), parties("acme", 1, 3)).is_err());
        assert!(index.reserve(StreamId(7), parties("acme", 2, 1)).is_err(), "the roles count");
        drop(held);
        let _held = index.reserve(StreamId(7), parties("acme", 1, 3)).unwrap();
    }

    #[test]
    fn tenants_do_not_meet() {
        let index = StreamIndex::default();
        let _one = index.reserve(StreamId(7), parties("acme", 1, 2)).unwrap();
        let _two = index.reserve(StreamId(7), parties("beta", 3, 4)).unwrap();
        assert_eq!(index.len(), 2);
        assert_eq!(index.parties(agent("beta", 3).tenant(), StreamId(7)), Some(parties("beta", 3, 4)));
    }

    #[test]
    fn the_same_pair_again_takes_the_record_and_the_older_one_frees_nothing() {
        let index = StreamIndex::default();
        let older = index.reserve(StreamId(7), parties("acme", 1, 2)).unwrap();
        let newer = index.reserve(StreamId(7), parties("acme", 1, 2)).unwrap();
        drop(older);
        assert_eq!(index.len(), 1);
        drop(newer);
        assert!(index.is_empty());
    }

    #[test]
    fn id_zero_is_never_recorded_and_never_collides() {
        let index = StreamIndex::default();
        let _one = index.reserve(StreamId(0), parties("acme", 1, 2)).unwrap();
        let _two = index.reserve(StreamId(0), parties("acme", 3, 4)).unwrap();
        assert!(index.is_empty());
    }
}
