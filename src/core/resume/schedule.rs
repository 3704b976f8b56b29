//! When the next checkpoint is due.
//!
//! A change is reported 100 ms later, with whatever else has changed by then. Bulk is reported sooner: the partner's ring may
//! be as small as 256 KiB, so a report is due after each quarter of that, but never within 1 ms of the one before. At
//! 500 MB/s that is one frame per 500 KB instead of one per 64 KiB, and the partner's ring, which doubles whenever it is
//! found full, needs rate × (round trip + 1 ms and what a timer adds): about 1 to 2 MiB at a round trip of 1 ms. A partner
//! whose ring stays at its minimum still gets 256 KiB per (round trip + 1 ms). A FIN, written or consumed, is reported at
//! once: the end of the stream waits for it, and there are only two.

use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(100);
const GAP: Duration = Duration::from_millis(1);
/// A quarter of the smallest ring that a partner has, in bytes.
const QUARTER_BYTES: u64 = 64 * 1024;

/// What is known about reports, sent and to come.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    sent_at: Option<Duration>,
    /// The first change that is not reported.
    changed_at: Option<Duration>,
    /// Bytes consumed that are not reported.
    consumed: u64,
    urgency: Urgency,
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
        *self = Self { sent_at: Some(now), ..Self::default() };
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
