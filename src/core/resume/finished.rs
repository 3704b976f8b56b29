//! The memory of finished streams: a partner that missed the end can still get it (wire.md §9, `fin-state`).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::Fields;
use crate::core::ids::StreamId;

/// How long a finished stream is remembered: the resume window and a margin.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(35);

/// The last numbers of streams that have finished here, for [`REMEMBERED_FOR`], and no more than a given number of them:
/// the oldest are forgotten first.
#[derive(Debug)]
pub struct FinishedStreams {
    limit: usize,
    streams: HashMap<StreamId, Remembered>,
    /// In the order in which they finished.
    order: VecDeque<(Duration, StreamId)>,
}

/// How a stream ended, and how its partner's half is joined to that again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Finished {
    /// Its last numbers.
    pub fields: Fields,
    /// Its last ticket; empty where there is none.
    pub ticket: Bytes,
}

#[derive(Debug)]
struct Remembered {
    finished: Finished,
    since: Duration,
}

impl FinishedStreams {
    /// An empty memory of at most `limit` streams.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, streams: HashMap::new(), order: VecDeque::new() }
    }

    /// Remembers how a stream ended. Streams without an id are not asked for, and not remembered.
    pub fn remember(&mut self, finished: Finished, now: Duration) {
        let fields = finished.fields;
        self.expire(now);
        if self.limit == 0 || !fields.stream_id.is_recorded() {
            return;
        }
        self.forget(fields.stream_id);
        if self.streams.len() >= self.limit {
            self.forget_oldest();
        }
        self.order.push_back((now, fields.stream_id));
        self.streams.insert(fields.stream_id, Remembered { finished, since: now });
    }

    /// How the stream ended; `None` when it is not remembered: the answer is then 410.
    #[must_use]
    pub fn recall(&self, stream_id: StreamId, now: Duration) -> Option<Finished> {
        let remembered = self.streams.get(&stream_id)?;
        (now.saturating_sub(remembered.since) < REMEMBERED_FOR).then(|| remembered.finished.clone())
    }

    /// The id is used for a new stream.
    pub fn forget(&mut self, stream_id: StreamId) {
        if self.streams.remove(&stream_id).is_some() {
            self.order.retain(|(_, other)| *other != stream_id);
        }
    }

    /// How many are remembered, the overdue ones included that [`FinishedStreams::expire`] has not seen.
    #[must_use]
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Forgets what is overdue.
    pub fn expire(&mut self, now: Duration) {
        while self.order.front().is_some_and(|(since, _)| now.saturating_sub(*since) >= REMEMBERED_FOR) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, stream_id)) = self.order.pop_front() {
            self.streams.remove(&stream_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(id: u64) -> Finished {
        let fields = Fields { stream_id: StreamId(id), my_position: 10 * id, fin_sent: true, ..Fields::default() };
        Finished { fields, ticket: Bytes::from(vec![7; usize::from(id > 1)]) }
    }

    fn at(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn recalled(memory: &FinishedStreams, ids: std::ops::Range<u64>, s: u64) -> Vec<u64> {
        ids.filter(|id| memory.recall(StreamId(*id), at(s)) == Some(ended(*id))).collect()
    }

    #[test]
    fn a_finished_stream_is_remembered_for_35_s() {
        let mut memory = FinishedStreams::new(10);
        memory.remember(ended(1), at(100));
        assert_eq!(recalled(&memory, 0..9, 134), [1]);
        assert_eq!(recalled(&memory, 0..9, 135), [0; 0]);
        assert_eq!(memory.len(), 1);
        memory.expire(at(135));
        assert!(memory.is_empty());
    }

    #[test]
    fn the_oldest_are_forgotten_when_there_are_too_many() {
        let mut memory = FinishedStreams::new(3);
        (1..=5).for_each(|id| memory.remember(ended(id), at(0)));
        assert_eq!(recalled(&memory, 0..9, 1), [3, 4, 5]);
        memory.remember(ended(3), at(1));
        memory.remember(ended(6), at(1));
        assert_eq!(recalled(&memory, 0..9, 1), [3, 5, 6], "4 was the oldest, for 3 has finished again");
        assert_eq!((memory.len(), memory.order.len()), (3, 3));
    }

    #[test]
    fn a_stream_that_begins_anew_or_has_no_id_is_not_remembered() {
        let mut memory = FinishedStreams::new(10);
        memory.remember(ended(0), at(0));
        memory.remember(ended(1), at(0));
        memory.forget(StreamId(1));
        assert!(memory.is_empty() && memory.order.is_empty());
        FinishedStreams::new(0).remember(ended(1), at(0));
    }
}
