//! What goes into an endpoint and comes out of it.

use std::time::Duration;

use bytes::Bytes;

use crate::core::ids::StreamId;
use crate::core::ring::NotHeld;

/// Which of a stream's paths, in the order in which they became current.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// The path on which the stream was opened.
    pub const FIRST: Self = Self(1);

    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What the agent at the other end understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// It named `fin-state`: the end of the stream is confirmed both ways (wire.md §9), and it sends checkpoints.
    FinState,
    /// It did not, or it is not known: the stream ends when both FINs were exchanged, and checkpoints may never come.
    Legacy,
}

/// What a stream is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Bytes flow on this path.
    Live(Epoch),
    /// The path is over and the positions are final; the partner's are awaited on a new one.
    Frozen {
        /// When the path ended.
        since: Duration,
    },
    /// Both FINs were exchanged on this path; whether the partner has consumed ours, or knows that we have its, is open.
    Closing(Epoch),
    /// Nothing is left to do or say.
    Finished,
    /// It ended without being resumed.
    Lost,
}

/// What to do with bytes that were taken from the local side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Taken {
    /// Write them to the path.
    Write,
    /// Do not: that path is over, or earlier bytes come first. [`Endpoint::next_write`](super::Endpoint::next_write) on the
    /// current path hands them out.
    Kept,
}

/// What to write to the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToWrite {
    /// These bytes.
    Bytes(Bytes),
    /// The FIN; then [`Endpoint::fin_written`](super::Endpoint::fin_written).
    Fin,
    /// Nothing for now.
    Nothing,
}

/// What a FIN on the path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum FinRead {
    /// The partner's direction ends here: pass it on.
    End,
    /// It was consumed on an earlier path already.
    Again,
    /// Not an end: the partner has said that there is more (a legacy relay passes a reset on as a FIN, wire.md §10). Treat
    /// the path as lost.
    Cut {
        /// How many bytes the partner has written beyond what arrived, at least.
        missing: u64,
    },
}

/// Why something on a path is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The path is not the current one: whatever came from it is void.
    #[error("the path is over")]
    Stale,
    /// Bytes arrived beyond the partner's FIN.
    #[error("bytes arrived behind the partner's end of stream")]
    AfterFin,
}

/// Why a path's end is not the beginning of a resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FreezeError {
    /// The stream has finished.
    #[error("the stream has finished")]
    Finished,
    /// The ring was given up, or the stream has no id.
    #[error("the stream is not resumable")]
    RingGivenUp,
    /// It was lost before.
    #[error("the stream is lost")]
    Lost,
}

/// How to go on on a new path. Everything to be written comes from
/// [`Endpoint::next_write`](super::Endpoint::next_write), the FIN included; the numbers are for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// The new path's epoch.
    pub epoch: Epoch,
    /// The first position that is sent again.
    pub resend_from: u64,
    /// How many bytes are sent again.
    pub resend_bytes: u64,
    /// Whether anything but a repeated FIN can come.
    pub partner_fin: PeerFin,
}

/// Where the partner's FIN is when a path begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerFin {
    /// It is still to come.
    Expected,
    /// It was consumed on an earlier path: the partner writes it again, and the path is read to that end, but nothing is
    /// passed on.
    Consumed,
}

/// What was left when a stream could not be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Loss {
    /// Both FINs were exchanged; only the partner's confirmation is missing. The local side has everything.
    Confirmation,
    /// The local side must be reset.
    Stream,
}

/// What time has brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tick {
    /// The peer sends no checkpoints: the ring was given up, the stream goes on and is not resumable any more. The local
    /// side may be read on.
    RingGivenUp,
    /// The stream has been closing for long, and no path is left that could fail: freeze and resume it, to learn from the
    /// partner's half, or from its memory of finished streams, how it ended.
    AskForEnd,
}

/// What to do about RESUME_WANTED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Wanted {
    /// Freeze, and send a half.
    Resume,
    /// Nothing: a half is under way, or was joined just now.
    Ignore,
    /// Answer 410: the stream is lost here.
    Gone,
}

/// Why a partner's numbers do not fit ours. Those that may come of a half which the partner has long given up
/// ([`ResumeError::may_be_stale`]) end this attempt, the others the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// They came while no resume was under way.
    #[error("the stream is not waiting for a new path")]
    NotFrozen,
    /// They are of another stream.
    #[error("the numbers are of stream {0}")]
    OtherStream(StreamId),
    /// More is acknowledged than was written.
    #[error("byte {ack} is acknowledged, but only {end} were written")]
    AckBeyondEnd {
        /// What is acknowledged.
        ack: u64,
        /// What was written.
        end: u64,
    },
    /// Our FIN is said to be consumed, but it was not sent, or not everything before it was consumed.
    #[error("the end of stream is acknowledged before it was sent")]
    FinNotSent,
    /// The partner has written less than we have consumed.
    #[error("the partner has written {said} bytes, but {consumed} were consumed")]
    PartnerBehind {
        /// The partner's position.
        said: u64,
        /// What we have consumed.
        consumed: u64,
    },
    /// The partner has written more than its FIN allowed.
    #[error("the partner has written {said} bytes, beyond its own end of stream")]
    PartnerBeyondFin {
        /// The partner's position.
        said: u64,
    },
    /// What the partner lacks was let go: it has acknowledged it before.
    #[error("the partner lacks bytes that it had acknowledged")]
    PositionGone(#[source] NotHeld),
}

impl ResumeError {
    /// Whether an older half of the partner, late in the network, explains it: drop this path and send a fresh half, for as
    /// long as the window allows.
    #[must_use]
    pub fn may_be_stale(&self) -> bool {
        matches!(self, Self::PartnerBehind { .. } | Self::PositionGone(_))
    }
}
