//! The memory of finished streams: a partner that missed the end can still get it (wire.md §9, `fin-state`).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

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

#[derive(Debug)]
struct Remembered {
    fields: Fields,
    since: Duration,
}

impl FinishedStreams {
    /// An empty memory of at most `limit` streams.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, streams: HashMap::new(), order: VecDeque::new() }
    }

    /// Remembers how a stream ended. Streams without an id are not asked for, and not remembered.
    pub fn remember(&mut self, fields: Fields, now: Duration) {
        self.expire(now);
        if self.limit == 0 || !fields.stream_id.is_recorded() {
            return;
        }
        self.forget(fields.stream_id);
        if self.streams.len() >= self.limit {
            self.forget_oldest();
        }
        self.order.push_back((now, fields.stream_id));
        self.streams.insert(fields.stream_id, Remembered { fields, since: now });
    }

    /// How the stream ended; `None` when it is not remembered: the answer is then 410.
    #[must_use]
    pub fn recall(&self, stream_id: StreamId, now: Duration) -> Option<Fields> {
        let remembered = self.streams.get(&stream_id)?;
        (now.saturating_sub(remembered.since) < REMEMBERED_FOR).then_some(remembered.fields)
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
