//! When the next checkpoint is due.
//!
//! A change is reported 100 ms later, with whatever else has changed by then. Bulk is reported sooner: the partner's ring may
//! be as small as 256 KiB, so a report is due after each quarter of that, but never within 1 ms of the one before. At
//! 500 MB/s that is one frame per 500 KB instead of one per 64 KiB, and the partner's ring, which doubles whenever it is
//! found full, needs rate × (round trip + 1 ms and what a timer adds): about 1 to 2 MiB at a round trip of 1 ms. A partner
//! whose ring stays at its minimum still gets 256 KiB per (round trip + 1 ms). A FIN, written or consumed, is reported at
//! once: the end of the stream waits for it, and there are only two.
//!
//! Where it serves, a report behind which nothing changes for 100 ms is said again, [`REPEATS`] times per path.

use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(100);
const GAP: Duration = Duration::from_millis(1);
/// A quarter of the smallest ring that a partner has, in bytes.
const QUARTER_BYTES: u64 = 64 * 1024;
/// How often an unchanged report is said again. An agent of version 0.1 never does so, and twice not even by mistake.
pub(super) const REPEATS: u8 = 2;

/// What is known about reports, sent and to come.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    sent_at: Option<Duration>,
    /// The first change that is not reported.
    changed_at: Option<Duration>,
    /// Bytes consumed that are not reported.
    consumed: u64,
    urgency: Urgency,
    /// How often one was said again, in a row at the end.
    repeated: u8,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Urgency {
    #[default]
    None,
    Fin,
}

impl Schedule {
    /// Something changed.
    pub(super) fn changed(&mut self, now: Duration) {
        self.changed_at.get_or_insert(now);
    }

    /// `bytes` more were consumed.
    pub(super) fn consumed(&mut self, bytes: u64, now: Duration) {
        self.changed(now);
        self.consumed += bytes;
    }

    /// A FIN was written or consumed.
    pub(super) fn fin(&mut self, now: Duration) {
        self.changed(now);
        self.urgency = Urgency::Fin;
    }

    /// Everything as it is now was reported.
    pub(super) fn sent(&mut self, now: Duration) {
        let repeated = match self.changed_at {
            None => self.repeated.saturating_add(1),
            Some(_) if self.repeated < REPEATS => 0,
            Some(_) => self.repeated,
        };
        *self = Self { sent_at: Some(now), repeated, ..Self::default() };
    }

    /// On a new path it is said again anew.
    pub(super) fn repeat_anew(&mut self) {
        self.repeated = 0;
    }

    /// When what was reported is due again, if nothing changes until then.
    pub(super) fn repeat_at(&self) -> Option<Duration> {
        self.sent_at.filter(|_| self.changed_at.is_none() && self.repeated < REPEATS).map(|sent_at| sent_at + INTERVAL)
    }

    /// Whether a FIN is not reported yet.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgency == Urgency::Fin
    }

    /// When the next report is due; in the past when it is overdue.
    pub(super) fn due_at(&self) -> Option<Duration> {
        let changed_at = self.changed_at?;
        if self.is_urgent() {
            return Some(changed_at);
        }
        let regular = changed_at + INTERVAL;
        if self.consumed < QUARTER_BYTES {
            return Some(regular);
        }
        let early = self.sent_at.map_or(changed_at, |sent_at| sent_at + GAP);
        Some(early.min(regular))
    }
}
