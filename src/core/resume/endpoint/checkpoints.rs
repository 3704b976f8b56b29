//! What is told to the partner and heard from it while a path lives, and what time alone brings about.

use std::time::Duration;

use super::{Endpoint, Keeping, Path, PeerKind, Phase, ResumeError, Tick, Wanted};
use crate::core::resume::Fields;

/// How long a ring may be full before a peer from which no checkpoint ever came is taken for one that sends none.
const GIVE_UP_AFTER: Duration = Duration::from_secs(2);
/// How long both FINs may have been exchanged before the stream is resumed, only to learn how it ended.
const ASK_AFTER: Duration = Duration::from_secs(2);
/// The same while the partner has not consumed everything, from the last that it has.
const ASK_SLOW_AFTER: Duration = Duration::from_secs(10);
/// How long a ring may be empty before its growth is given back.
const REST_AFTER: Duration = Duration::from_secs(1);

/// How long after a new path began RESUME_WANTED is taken for one that was sent before it: nothing orders the control stream
/// and the path, and two agents that took each such call at its word would tear down one another's path for ever.
const DEAF_FOR: Duration = Duration::from_secs(1);

impl Endpoint {
    /// The partner's checkpoint came. One that is older than what is known is ignored. Returns how many bytes of the ring
    /// are free again: if there are any, the local side may be read on.
    ///
    /// # Errors
    /// [`ResumeError`]: the partner breaks the protocol; nothing has changed.
    pub fn on_checkpoint(&mut self, theirs: &Fields, now: Duration) -> Result<usize, ResumeError> {
        if self.path == Path::Lost {
            return Ok(0);
        }
        self.validate(theirs)?;
        if !self.partner.hear(theirs, now) {
            return Ok(0);
        }
        self.acknowledge(theirs.peer_ack_position, now)
    }

    /// RESUME_WANTED came: the partner's half is parked. The relay repeats it while the half waits.
    pub fn on_wanted(&self, now: Duration) -> Wanted {
        let is_new = self.path_since.is_some_and(|since| now < since + DEAF_FOR);
        match self.path {
            Path::Lost => Wanted::Gone,
            Path::Live if !is_new && self.is_resumable() => Wanted::Resume,
            Path::Live if !self.is_resumable() => Wanted::Gone,
            Path::Live | Path::Frozen(_) => Wanted::Ignore,
        }
    }

    /// The checkpoint to send, if one is due. It counts as sent.
    pub fn checkpoint(&mut self, now: Duration) -> Option<Fields> {
        let is_due = self.path == Path::Live && self.report_at().is_some_and(|due| due <= now);
        if !is_due {
            return None;
        }
        self.schedule.sent(now);
        Some(self.fields())
    }

    /// When to call [`Endpoint::checkpoint`] and [`Endpoint::tick`] next, unless something happens before.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        if self.path != Path::Live {
            return None;
        }
        let times = [self.report_at(), self.give_up_at(), self.ask_at(), self.rest_at()];
        times.into_iter().flatten().min()
    }

    /// Does what time alone brings about; at most one thing is told per call.
    pub fn tick(&mut self, now: Duration) -> Option<Tick> {
        let is_past = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if self.path != Path::Live {
            return None;
        }
        if is_past(self.rest_at()) {
            self.ring.rest();
            self.empty_since = None;
        }
        if is_past(self.give_up_at()) {
            self.full_since = None;
            self.keeping = Keeping::UntilHanded;
            self.ring.release(self.handed);
            self.ring.rest();
            return Some(Tick::RingGivenUp);
        }
        if is_past(self.ask_at()) {
            self.closing_since = Some(now);
            return Some(Tick::AskForEnd);
        }
        None
    }

    fn give_up_at(&self) -> Option<Duration> {
        let is_silent = self.peer == PeerKind::Legacy && !self.partner.sends_checkpoints();
        // While a new path still lacks bytes, they can as well be kept for yet another one.
        let is_spare = self.handed == self.ring.end() && self.keeping == Keeping::UntilAcknowledged;
        self.full_since.filter(|_| is_silent && is_spare).map(|since| since + GIVE_UP_AFTER)
    }

    fn ask_at(&self) -> Option<Duration> {
        let is_closing = matches!(self.phase(), Phase::Closing(_));
        // A partner that has bytes still to consume may only be slow; but where nobody is called, it may have lost its path.
        let patience = if self.ring.is_empty() { ASK_AFTER } else { ASK_SLOW_AFTER };
        self.closing_since.filter(|_| is_closing).map(|since| since + patience)
    }

    fn rest_at(&self) -> Option<Duration> {
        self.empty_since.map(|since| since + REST_AFTER)
    }

    /// Of a stream without an id nothing can be reported. To a partner that may have only a legacy relay between us, what was said is
    /// said again, by which it knows us ([`Endpoint::doubt_fin`]).
    fn report_at(&self) -> Option<Duration> {
        let repeat = || self.schedule.repeat_at().filter(|_| self.peer == PeerKind::Legacy);
        self.schedule.due_at().or_else(repeat).filter(|_| self.stream_id.is_recorded())
    }
}
