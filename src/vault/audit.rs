//! Decisions and refusals that are not recorded yet: a bounded queue that outlives the actor which empties it. Here they get their numbers.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;

use crate::core::policy::Effect;
use crate::directory::audit_log::record::{AuditEvent, Dropped, Numbered, Record};

/// See the module's documentation.
#[derive(Debug)]
pub struct AuditQueue {
    state: Mutex<State>,
    arrived: Notify,
    limit: usize,
    run: i64,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Record>,
    /// How many records have left the queue: the place of the first one in it.
    recorded: u64,
    /// The number of the latest decision.
    seq: u64,
    /// Decisions dropped since the last that was queued, and when the latest of them fell.
    lost: u64,
    lost_at_unix_ms: i64,
}

/// The oldest records of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The records, oldest first.
    pub records: Vec<Record>,
    /// The place behind the last of them.
    end: u64,
}

impl AuditQueue {
    /// A queue for at most `limit` events of the run that began at `run` (milliseconds since 1970); those beyond are counted
    /// in `dropped`.
    #[must_use]
    pub fn new(limit: usize, dropped: Counter, run: i64) -> Self {
        Self { state: Mutex::default(), arrived: Notify::new(), limit, run, dropped }
    }

    /// Numbers one decision and queues it. When the queue is full the event is dropped, which is counted and will stand in
    /// the audit: a relay that cannot write its audit must not stop relaying.
    pub fn push(&self, event: AuditEvent) {
        let mut state = self.lock();
        state.seq += 1;
        if state.waiting.len() >= self.limit {
            state.lost += 1;
            state.lost_at_unix_ms = event.ts_unix_ms;
            let dropped = self.dropped.inc() + 1;
            if dropped.is_power_of_two() {
                tracing::error!(dropped, limit = self.limit, "audit queue is full: events are lost");
            }
            return;
        }
        state.queue_lost(self.run);
        let seq = state.seq;
        state.waiting.push_back(Record::Event(Numbered { run: self.run, seq, event }));
        drop(state);
        self.arrived.notify_one();
    }

    /// Queues that the relay itself refused something to `caller`, a peer of `tenant`, that is about no stream.
    pub fn refused(&self, tenant: &str, caller: &str, reason: &str) {
        self.push(AuditEvent::by_relay(tenant, caller, Effect::Deny, reason));
    }

    /// Waits until something is queued; copies at most `limit` of the oldest records, which stay queued.
    pub async fn peek(&self, limit: usize) -> Batch {
        loop {
            let batch = self.oldest(limit);
            if !batch.records.is_empty() {
                return batch;
            }
            self.arrived.notified().await;
        }
    }

    fn oldest(&self, limit: usize) -> Batch {
        let mut state = self.lock();
        // What was lost last is told even if nothing follows. Not twice in a row: while nothing can be written every attempt
        // would add another line, and the queue would have no bound.
        if state.waiting.len() <= limit && !matches!(state.waiting.back(), Some(Record::Dropped(_))) {
            state.queue_lost(self.run);
        }
        let records: Vec<_> = state.waiting.iter().take(limit).cloned().collect();
        let end = state.recorded + u64::try_from(records.len()).unwrap_or(u64::MAX);
        Batch { records, end }
    }

    /// Drops the records of `batch`: they are written. Saying it twice, or of a batch that another one covers, is safe: a
    /// writer that is replaced while it writes may say it late.
    pub fn recorded(&self, batch: &Batch) {
        let mut state = self.lock();
        while state.recorded < batch.end && state.waiting.pop_front().is_some() {
            state.recorded += 1;
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let state = self.lock();
        state.waiting.is_empty() && state.lost == 0
    }

    /// How many will be missing from the log if nothing more is written: those that wait, and those whose loss was not told yet.
    #[must_use]
    pub fn missing(&self) -> u64 {
        let state = self.lock();
        state.lost.saturating_add(u64::try_from(state.waiting.len()).unwrap_or(u64::MAX))
    }

    /// How many were dropped because the queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Queues a line about what was lost, if anything was. At most two such lines make the queue longer than its limit: one
    /// before an event that was let in, one at the end.
    fn queue_lost(&mut self, run: i64) {
        let dropped = std::mem::take(&mut self.lost);
        if dropped > 0 {
            self.waiting.push_back(Record::Dropped(Dropped { ts_unix_ms: self.lost_at_unix_ms, run, dropped }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::StreamId;
    use crate::directory::audit_log::AuditLog;
    use crate::directory::audit_log::record::Side;
    use crate::directory::audit_log::rotation::Rotation;

    fn event(ts_unix_ms: i64) -> AuditEvent {
        AuditEvent {
            ts_unix_ms,
            tenant: "acme".into(),
            side: Side::Caller,
            caller: "a".into(),
            target: "b".into(),
            method: "".into(),
            decision: Effect::Allow,
            rule: None,
            reason: "".into(),
            stream_id: Some(StreamId(1)),
        }
    }

    fn queue(limit: usize) -> AuditQueue {
        AuditQueue::new(limit, Counter::default(), 5)
    }

    fn push(queue: &AuditQueue, times: std::ops::RangeInclusive<i64>) {
        times.for_each(|at| queue.push(event(at)));
    }

    /// Events as `seq`, lines about lost ones as `-count@time`.
    fn shown(batch: &Batch) -> String {
        let one = |record: &Record| match record {
            Record::Event(numbered) => {
                assert_eq!(numbered.run, 5);
                numbered.seq.to_string()
            }
            Record::Dropped(Dropped { ts_unix_ms, run, dropped }) => {
                assert_eq!(*run, 5);
                format!("-{dropped}@{ts_unix_ms}")
            }
        };
        batch.records.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn events_are_numbered_from_1_and_stay_until_they_are_recorded() {
        let queue = queue(9);
        push(&queue, 1..=3);
        let batch = queue.peek(2).await;
        assert_eq!(shown(&batch), "1 2");
        assert_eq!(queue.peek(2).await, batch, "they are still there for another writer");
        queue.recorded(&batch);
        queue.recorded(&batch);
        assert_eq!(shown(&queue.peek(9).await), "3", "a late writer takes nothing that it did not write");
        queue.recorded(&queue.peek(9).await);
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn what_is_dropped_uses_up_numbers_and_stands_before_the_next_event() {
        let queue = queue(2);
        push(&queue, 1..=5);
        assert_eq!(queue.dropped(), 3);
        queue.recorded(&queue.peek(1).await);
        push(&queue, 6..=7);
        assert_eq!(shown(&queue.peek(3).await), "2 -3@5 6");
        assert_eq!(shown(&queue.peek(9).await), "2 -3@5 6 -1@7", "the last is told although nothing follows it");
        queue.recorded(&queue.peek(9).await);
        push(&queue, 8..=8);
        assert_eq!(shown(&queue.peek(9).await), "8");
        assert_eq!(queue.dropped(), 4);
    }

    #[tokio::test]
    async fn what_was_lost_behind_a_batch_that_took_all_is_still_to_be_told() {
        let queue = queue(2);
        push(&queue, 1..=5);
        assert_eq!(queue.missing(), 5);
        let mut told = Vec::new();
        while !queue.is_empty() {
            let batch = queue.peek(2).await;
            told.push(shown(&batch));
            queue.recorded(&batch);
        }
        assert_eq!((told.join(" "), queue.missing()), ("1 2 -3@5".to_owned(), 0));
    }

    #[tokio::test]
    async fn while_nothing_can_be_written_the_queue_stays_bounded_and_no_count_is_lost() {
        let queue = queue(2);
        for attempt in 1..=50 {
            push(&queue, attempt..=attempt);
            assert!(!queue.peek(512).await.records.is_empty());
            assert!(queue.len() <= 4, "{}", queue.len());
        }
        let mut told = 0;
        for _ in 0..2 {
            let batch = queue.peek(512).await;
            told += batch.records.iter().map(|r| if let Record::Dropped(d) = r { d.dropped } else { 0 }).sum::<u64>();
            queue.recorded(&batch);
        }
        assert!(queue.is_empty());
        assert_eq!((told, queue.dropped()), (48, 48));
    }

    #[tokio::test]
    async fn the_queue_survives_a_writer_that_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let queue = queue(2);
        push(&queue, 1..=3);
        let batch = queue.peek(512).await;
        let mut full = AuditLog::open(std::path::Path::new("/dev/full"), Rotation::default()).unwrap();
        assert!(full.append(&batch.records).is_err());
        push(&queue, 4..=4);
        let mut log = AuditLog::open(&path, Rotation::default()).unwrap();
        for _ in 0..2 {
            let batch = queue.peek(512).await;
            log.append(&batch.records).unwrap();
            queue.recorded(&batch);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[0].starts_with("{\"run\":5,\"seq\":1,") && lines[1].starts_with("{\"run\":5,\"seq\":2,"),
            "{text}"
        );
        let lost = ["{\"ts_unix_ms\":3,\"run\":5,\"dropped\":1}", "{\"ts_unix_ms\":4,\"run\":5,\"dropped\":1}"];
        assert_eq!(lines[2..], lost, "{text}");
    }
}
