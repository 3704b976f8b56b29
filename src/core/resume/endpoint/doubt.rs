//! A FIN that may be a cut: a legacy relay passes a reset on as a FIN (wire.md §10).
//!
//! What tells is the partner's word, on the control stream, which nothing orders with the FIN. It is often there long before the bytes that it is
//! about, where these are many or their reader is slow: then it counts from when the last of them came. An echo is no word on an end: it was
//! said before there was a path.
//!
//! | its latest word | what the FIN is |
//! |---|---|
//! | none at all | an end, after the grace: it had none to send |
//! | more than what was received | a cut |
//! | all that was received, said behind the FIN | an end |
//! | the same, said, or come true, not longer than the grace before the FIN | an end, unless it says more within the time that a change is reported in |
//! | less than what was received | a cut, after the grace: it had something to say, and did not |
//! | all that was received, said long ago | after the grace: of an agent that reports its ends a cut, of another one an end |
//!
//! The last is where agents differ. Ours report at once when they write a FIN, changed or not: one that did not has not ended, its
//! connection was lost. One of version 0.1 reports only what has changed (wire.md §5), so it has none to send when it ends after a
//! pause, which every service does that closes idle connections; and to resume a stream that has ended would take it 30 s to fail, and
//! cut the other direction, which the same relay would pass on as an end. So its FIN is believed. Ours make themselves known by what
//! the other never does: saying the same again ([`Schedule`](crate::core::resume::schedule)).

use std::time::Duration;

use super::Endpoint;

/// How long the partner's word is waited for behind a FIN, and how long before it one may have come that is of the end.
const GRACE: Duration = Duration::from_millis(300);
/// How long after a change its report may take to come, where another came just before.
const REPORTED_WITHIN: Duration = Duration::from_millis(150);

/// What a FIN is that may be a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum DoubtfulFin {
    /// No more doubt: [`Endpoint::fin_read`] knows.
    Settled,
    /// To be asked again when the partner has said something, and at this moment.
    Until(Duration),
    /// A cut: the partner would have said that it ends.
    Cut,
}

impl Endpoint {
    /// What is known now of a FIN that was read at `read_at` on the current path, behind everything consumed before, if the relay may have
    /// made it of a reset.
    pub fn doubt_fin(&self, read_at: Duration, now: Duration) -> DoubtfulFin {
        let (grace_ends, heard_at) = (read_at + GRACE, self.partner.heard_at());
        let came_true_at = heard_at.max(self.consumed_at);
        let after = |until, then| if now < until { DoubtfulFin::Until(until) } else { then };
        let Some(position) = self.partner.position() else { return after(grace_ends, DoubtfulFin::Settled) };
        if position > self.consumed {
            return DoubtfulFin::Settled;
        }
        if position == self.consumed && heard_at.is_some_and(|heard_at| heard_at >= read_at) {
            return DoubtfulFin::Settled;
        }
        if position == self.consumed && came_true_at.is_some_and(|at| at + GRACE >= read_at) {
            return after(read_at + REPORTED_WITHIN, DoubtfulFin::Settled);
        }
        let is_cut = position < self.consumed || self.partner.reports_ends();
        after(grace_ends, if is_cut { DoubtfulFin::Cut } else { DoubtfulFin::Settled })
    }
}
