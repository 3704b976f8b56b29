//! One incarnation of an actor: what is counted anew each time it starts.
//!
//! Kept apart from the [`Node`](super::node::Node), which outlives it: a killed actor may still be dropping its
//! handler, or a sender be between its two steps, while the next incarnation already runs. Neither may touch the
//! next one's counts.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use ractor::{ActorCell, ActorStatus};

use super::fault::Fault;
use super::spec::Exit;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Incarnation {
    cell: ActorCell,
    mailbox: AtomicUsize,
    busy_since_ms: AtomicU64,
    spared: AtomicBool,
    fault: AtomicU8,
    outcome: OnceLock<Exit>,
}

impl Incarnation {
    pub(super) fn new(cell: ActorCell) -> Self {
        Self {
            cell,
            mailbox: AtomicUsize::new(0),
            busy_since_ms: AtomicU64::new(0),
            spared: AtomicBool::new(false),
            fault: AtomicU8::new(0),
            outcome: OnceLock::new(),
        }
    }

    pub(super) fn cell(&self) -> &ActorCell {
        &self.cell
    }

    /// Whether it has ended, or is about to and takes nothing any more.
    pub(super) fn is_over(&self) -> bool {
        self.cell.get_status() >= ActorStatus::Draining
    }

    pub(super) fn mailbox(&self) -> usize {
        self.mailbox.load(Ordering::Relaxed)
    }

    pub(super) fn queued(&self) {
        self.mailbox.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unqueued(&self) {
        // Saturating: a message that an actor sends to itself through ractor was never counted.
        let mut depth = self.mailbox.load(Ordering::Relaxed);
        while depth > 0 {
            match self.mailbox.compare_exchange_weak(depth, depth - 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => depth = now,
            }
        }
    }

    /// For how long it has been busy; zero only while idle.
    pub(super) fn busy(&self) -> Duration {
        match self.busy_since_ms.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(now_ms().saturating_sub(since).max(1)),
        }
    }

    pub(super) fn begin(&self) -> Busy<'_> {
        self.busy_since_ms.store(now_ms(), Ordering::Relaxed);
        Busy(self)
    }

    /// Its exit was asked for by an operator, and does not count as a failure. Says whether that was known.
    pub(super) fn spare(&self) -> bool {
        self.spared.swap(true, Ordering::Relaxed)
    }

    /// Nothing reached it, so its exit is its own.
    pub(super) fn spare_no_more(&self) {
        self.spared.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_spared(&self) -> bool {
        self.spared.load(Ordering::Relaxed)
    }

    pub(super) fn set_fault(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::Relaxed);
    }

    pub(super) fn take_fault(&self) -> Option<Fault> {
        Fault::from_u8(self.fault.swap(0, Ordering::Relaxed))
    }

    /// Records how it ends, as seen from within. The first word counts.
    pub(super) fn ends(&self, exit: Exit) {
        self.outcome.get_or_init(|| exit);
    }

    /// How it ended. A kill leaves no word: nothing of the actor runs any more.
    pub(super) fn outcome(&self) -> Exit {
        self.outcome.get().cloned().unwrap_or(Exit::Killed)
    }
}

/// Marks the actor busy until dropped, so also when its handler is killed or panics.
pub(super) struct Busy<'a>(&'a Incarnation);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.ends(Exit::Failed("a panic".to_owned()));
        }
        self.0.busy_since_ms.store(0, Ordering::Relaxed);
    }
}

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the process first asked, plus one: 0 means idle.
fn now_ms() -> u64 {
    u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}
