//! The stream index: who may act on a stream id (wire.md §4, step 4), and what is known of the stream.
//!
//! The key is (tenant, stream id): ids of different tenants never meet. An entry belongs to the [`Reservation`] that
//! made it, by epoch: a reservation that is dropped late, after the same pair has reserved the id again, changes
//! nothing.
//!
//! A stream that was carried and is no more is remembered for a while, so that its two agents can resume it (wire.md §5).
//! The id of one that was cut is kept from others for a minute; that of one that came to its end is free at once.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use crate::core::identity::{AgentUri, Tenant};
use crate::core::ids::StreamId;
use crate::core::policy::P2pMode;
use crate::supervise::node::Node;

/// A power of two, so that a hash picks a shard by its low bits; enough for two cores by far.
const SHARDS: usize = 16;
/// How long a stream is remembered that nothing carries: longer than any resume window, and than the agents' own memory of
/// finished streams (35 s, wire.md §9).
const REMEMBERED_FOR: Duration = Duration::from_secs(120);
/// How long the id of a stream that was cut is kept from others: its agents may come to resume it.
const KEPT_FROM_OTHERS: Duration = Duration::from_secs(60);
/// How many such streams are remembered, in each shard; the oldest go first. In all more than `limits.streams` allows to live by
/// default, so that all of them may be cut at once; about 32 MB.
const REMEMBERED: usize = 8_192;

/// A stream's two agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parties {
    /// Who opened it.
    pub consumer: AgentUri,
    /// Who serves it.
    pub provider: AgentUri,
}

impl Parties {
    /// The agent at the other end; none when `agent` is not one of the two.
    #[must_use]
    pub fn partner_of(&self, agent: &AgentUri) -> Option<&AgentUri> {
        if *agent == self.consumer { Some(&self.provider) } else { (*agent == self.provider).then_some(&self.consumer) }
    }
}

/// What a stream is about; the same for every splice that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFacts {
    /// The service asked for; empty where this relay never saw the stream opened.
    pub target: String,
    /// As the consumer named it; may be empty.
    pub method: String,
    /// What both sides' rules say of a direct path.
    pub p2p_mode: P2pMode,
    /// When it was opened, or first resumed here.
    pub opened_at: SystemTime,
}

/// What the index knows of a stream.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its two agents.
    pub parties: Parties,
    /// What it is about; none while it is being opened.
    pub facts: Option<Arc<StreamFacts>>,
    /// The splice that carries it now.
    pub splice: Option<Arc<Node>>,
}

#[derive(Debug)]
struct Record {
    parties: Parties,
    epoch: u64,
    facts: Option<Arc<StreamFacts>>,
    carrier: Carrier,
    /// When this relay last sent its agents a ticket of it.
    ticketed_at: Option<Instant>,
}

/// A live stream whose agents are to get a new ticket.
#[derive(Debug)]
pub struct TicketDue {
    /// Which stream, in the tenant of its agents.
    pub id: StreamId,
    /// Its two agents.
    pub parties: Parties,
    /// What it is about.
    pub facts: Arc<StreamFacts>,
    epoch: u64,
}

#[derive(Debug)]
enum Carrier {
    /// It is being opened or resumed.
    None,
    /// Weak: what a splice's node shows leads back here.
    Splice(Weak<Node>),
    /// It came to its end in both directions; what carries it is about to go.
    Finished,
    /// Nothing carries it any more, since then.
    Gone(Instant, HowGone),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HowGone {
    Finished,
    Cut,
}

impl Record {
    fn is_live(&self) -> bool {
        !matches!(self.carrier, Carrier::Gone(..))
    }

    fn is_kept_from_others(&self) -> bool {
        match self.carrier {
            Carrier::Gone(at, HowGone::Cut) => at.elapsed() < KEPT_FROM_OTHERS,
            Carrier::Gone(_, HowGone::Finished) => false,
            _ => true,
        }
    }
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
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    epoch: AtomicU64,
    live: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shard {
    records: HashMap<Key, Record>,
    /// Those that nothing carries, the oldest first; some may have been taken up again since.
    gone: VecDeque<(Key, u64)>,
}

impl Shard {
    /// Forgets what was remembered for long enough, and what is too much.
    fn forget(&mut self) {
        while let Some((key, epoch)) = self.gone.front() {
            let record = self.records.get(key).filter(|record| record.epoch == *epoch);
            match record.map(|record| &record.carrier) {
                Some(Carrier::Gone(at, _)) if at.elapsed() < REMEMBERED_FOR && self.gone.len() <= REMEMBERED => return,
                Some(Carrier::Gone(..)) => drop(self.records.remove(key)),
                _ => {}
            }
            self.gone.pop_front();
        }
    }
}

impl Default for StreamIndex {
    fn default() -> Self {
        Self(Arc::new(Shards {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            epoch: AtomicU64::new(1),
            live: AtomicUsize::new(0),
        }))
    }
}

impl StreamIndex {
    /// Reserves `id` for `parties`. The same pair may reserve it again: the newest holds it, the older stream goes on
    /// unrecorded. Id 0 is never recorded.
    ///
    /// # Errors
    /// [`Conflict`] when it is in use between another pair.
    pub fn reserve(&self, id: StreamId, parties: Parties) -> Result<Reservation, Conflict> {
        if !id.is_recorded() {
            return Ok(Reservation { held: None });
        }
        let key = (parties.consumer.tenant().clone(), id);
        let epoch = self.0.epoch.fetch_add(1, Ordering::Relaxed);
        let mut shard = self.0.shard(&key);
        shard.forget();
        let mut record = Record { parties, epoch, facts: None, carrier: Carrier::None, ticketed_at: None };
        match shard.records.entry(key.clone()) {
            Entry::Occupied(taken) if taken.get().is_kept_from_others() && taken.get().parties != record.parties => {
                return Err(Conflict);
            }
            Entry::Occupied(mut taken) => {
                if taken.get().parties == record.parties {
                    // The stream goes on, and so does its ticket.
                    record.ticketed_at = taken.get().ticketed_at;
                    // Should this come to nothing, it is still known for what it was.
                    record.facts.clone_from(&taken.get().facts);
                }
                let was_live = taken.insert(record).is_live();
                self.0.live.fetch_add(usize::from(!was_live), Ordering::Relaxed);
            }
            Entry::Vacant(free) => {
                free.insert(record);
                self.0.live.fetch_add(1, Ordering::Relaxed);
            }
        }
        drop(shard);
        Ok(Reservation { held: Some((Arc::clone(&self.0), key, epoch)) })
    }

    /// What is known of a stream that lives, or did a short while ago.
    #[must_use]
    pub fn known(&self, tenant: &Tenant, id: StreamId) -> Option<Known> {
        let key = (tenant.clone(), id);
        let shard = self.0.shard(&key);
        let record = shard.records.get(&key)?;
        let splice = match &record.carrier {
            Carrier::Gone(at, _) if at.elapsed() >= REMEMBERED_FOR => return None,
            Carrier::Splice(node) => node.upgrade(),
            Carrier::None | Carrier::Finished | Carrier::Gone(..) => None,
        };
        Some(Known { parties: record.parties.clone(), facts: record.facts.clone(), splice })
    }

    /// The live streams whose ticket is older than `age`, or that have none.
    #[must_use]
    pub fn tickets_due(&self, age: Duration) -> Vec<TicketDue> {
        let due = |((_, id), record): (&Key, &Record)| {
            let facts = record.facts.as_ref().filter(|_| matches!(record.carrier, Carrier::Splice(_)))?;
            record.ticketed_at.is_none_or(|at| at.elapsed() >= age).then(|| TicketDue {
                id: *id,
                parties: record.parties.clone(),
                facts: Arc::clone(facts),
                epoch: record.epoch,
            })
        };
        let shards = self.0.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        shards.flat_map(|shard| shard.records.iter().filter_map(due).collect::<Vec<_>>()).collect()
    }

    /// The ticket of a stream is renewed now.
    pub fn ticketed(&self, due: &TicketDue) {
        self.0.ticketed(&(due.parties.consumer.tenant().clone(), due.id), due.epoch);
    }

    /// How many streams live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.live.load(Ordering::Relaxed)
    }

    /// Whether none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shards {
    fn ticketed(&self, key: &Key, epoch: u64) {
        if let Some(record) = self.shard(key).records.get_mut(key).filter(|record| record.epoch == epoch) {
            record.ticketed_at = Some(Instant::now());
        }
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(key);
        #[allow(clippy::cast_possible_truncation, reason = "any bits of a hash do")]
        let index = hash as usize % SHARDS;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds an id in the index until dropped; what was carried is remembered for a while from then on.
#[derive(Debug)]
#[must_use = "dropping it frees the id"]
pub struct Reservation {
    held: Option<(Arc<Shards>, Key, u64)>,
}

impl Reservation {
    /// The splice at `node` carries the stream from now on.
    pub fn carried_by(&self, node: &Arc<Node>, facts: &Arc<StreamFacts>) {
        let Some((index, key, epoch)) = &self.held else { return };
        if let Some(record) = index.shard(key).records.get_mut(key).filter(|record| record.epoch == *epoch) {
            record.carrier = Carrier::Splice(Arc::downgrade(node));
            record.facts = Some(Arc::clone(facts));
        }
    }

    /// The stream's agents get a ticket now.
    pub fn ticketed(&self) {
        if let Some((index, key, epoch)) = &self.held {
            index.ticketed(key, *epoch);
        }
    }

    /// The stream has come to its end in both directions.
    pub fn finished(&self) {
        let Some((index, key, epoch)) = &self.held else { return };
        if let Some(record) = index.shard(key).records.get_mut(key).filter(|record| record.epoch == *epoch) {
            record.carrier = Carrier::Finished;
        }
    }

    /// Nothing is remembered of the stream once this is dropped.
    pub fn forget(&self) {
        let Some((index, key, epoch)) = &self.held else { return };
        if let Some(record) = index.shard(key).records.get_mut(key).filter(|record| record.epoch == *epoch) {
            record.facts = None;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some((index, key, epoch)) = self.held.take() else { return };
        let mut shard = index.shard(&key);
        let Entry::Occupied(mut record) = shard.records.entry(key.clone()) else { return };
        if record.get().epoch != epoch {
            return;
        }
        index.live.fetch_sub(1, Ordering::Relaxed);
        if record.get().facts.is_none() {
            record.remove();
            return;
        }
        let how = if matches!(record.get().carrier, Carrier::Finished) { HowGone::Finished } else { HowGone::Cut };
        record.get_mut().carrier = Carrier::Gone(Instant::now(), how);
        shard.gone.push_back((key, epoch));
        shard.forget();
    }
}

#[cfg(test)]
mod tests;
