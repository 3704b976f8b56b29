//! What the partner has said so far.

use std::time::Duration;

use super::REPEATS;
use crate::core::resume::Fields;

/// The latest word of the partner; nothing it says takes an earlier word back.
#[derive(Debug, Default)]
pub(super) struct Partner {
    latest: Option<Fields>,
    /// When its latest checkpoint came that was not older than what was known.
    heard_at: Option<Duration>,
    checkpoints: Checkpoints,
    repeats: Repeats,
}

/// How often the partner has said the same on one path, for nothing that changed.
#[derive(Debug, Default)]
struct Repeats {
    last: Option<Fields>,
    times: u8,
    /// As often as only an agent of this project does.
    enough: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Checkpoints {
    #[default]
    None,
    Heard,
}

impl Partner {
    /// Takes the word in, unless it is older than the latest. Returns whether it was taken.
    pub(super) fn learn(&mut self, said: &Fields) -> bool {
        let mut merged = *said;
        if let Some(latest) = &self.latest {
            if said.my_position < latest.my_position || said.peer_ack_position < latest.peer_ack_position {
                return false;
            }
            // A word that says nothing of FINs does not undo one that did.
            merged.fin_sent |= latest.fin_sent;
            merged.fin_consumed |= latest.fin_consumed;
        }
        self.latest = Some(merged);
        true
    }

    /// As [`Partner::learn`], of a checkpoint.
    pub(super) fn hear(&mut self, said: &Fields, now: Duration) -> bool {
        self.note_checkpoint(said);
        let is_taken = self.learn(said);
        if is_taken {
            self.heard_at = Some(now);
        }
        is_taken
    }

    fn note_checkpoint(&mut self, said: &Fields) {
        self.checkpoints = Checkpoints::Heard;
        let repeats = &mut self.repeats;
        repeats.times = if repeats.last == Some(*said) { repeats.times.saturating_add(1) } else { 0 };
        repeats.last = Some(*said);
        repeats.enough |= repeats.times >= REPEATS;
    }

    /// On a new path it may say anew what it has said on an earlier one. What it has said before is no word on an end of this one.
    pub(super) fn on_new_path(&mut self) {
        self.repeats.last = None;
        self.heard_at = None;
    }

    /// Whether it is known to report that it ends, changed or not.
    pub(super) fn reports_ends(&self) -> bool {
        self.repeats.enough
    }

    /// When its latest checkpoint came on this path; none is a word on an end if it is older than what was known.
    pub(super) fn heard_at(&self) -> Option<Duration> {
        self.heard_at
    }

    pub(super) fn sends_checkpoints(&self) -> bool {
        self.checkpoints == Checkpoints::Heard
    }

    pub(super) fn position(&self) -> Option<u64> {
        self.latest.map(|latest| latest.my_position)
    }

    /// Where its direction ends, if it has said so.
    pub(super) fn end(&self) -> Option<u64> {
        self.latest.filter(|latest| latest.fin_sent).map(|latest| latest.my_position)
    }

    pub(super) fn has_consumed_fin(&self) -> bool {
        self.latest.is_some_and(|latest| latest.fin_consumed)
    }
}
