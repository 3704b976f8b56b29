//! What the partner has said so far.

use crate::core::resume::Fields;

/// The latest word of the partner; nothing it says takes an earlier word back.
#[derive(Debug, Default)]
pub(super) struct Partner {
    latest: Option<Fields>,
    checkpoints: Checkpoints,
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

    pub(super) fn heard_checkpoint(&mut self) {
        self.checkpoints = Checkpoints::Heard;
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
