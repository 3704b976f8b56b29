//! Decisions that are not recorded yet: a bounded queue that outlives the actor which empties it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;

use crate::directory::audit_log::AuditEvent;

/// See the module's documentation.
#[derive(Debug)]
pub struct AuditQueue {
    waiting: Mutex<VecDeque<AuditEvent>>,
    arrived: Notify,
    limit: usize,
    dropped: Counter,
}

impl AuditQueue {
    /// A queue for at most `limit` events; those beyond are counted in `dropped`.
    #[must_use]
    pub fn new(limit: usize, dropped: Counter) -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new(), limit, dropped }
    }

    /// Queues one decision. When the queue is full the event is dropped and counted: a relay that cannot write its
    /// audit must not stop relaying.
    pub fn push(&self, event: AuditEvent) {
        let mut waiting = self.lock();
        if waiting.len() >= self.limit {
            let dropped = self.dropped.inc() + 1;
            if dropped.is_power_of_two() {
                tracing::error!(dropped, limit = self.limit, "audit queue is full: events are lost");
            }
            return;
        }
        waiting.push_back(event);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits until something is queued; copies at most `limit` of the oldest events, which stay queued.
    pub async fn peek(&self, limit: usize) -> Vec<AuditEvent> {
        loop {
            let batch: Vec<_> = self.lock().iter().take(limit).cloned().collect();
            if !batch.is_empty() {
                return batch;
            }
            self.arrived.notified().await;
        }
    }

    /// Drops the `count` oldest events: they are recorded.
    pub fn recorded(&self, count: usize) {
        let mut waiting = self.lock();
        let count = count.min(waiting.len());
        waiting.drain(..count);
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// How many were dropped because the queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<AuditEvent>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
