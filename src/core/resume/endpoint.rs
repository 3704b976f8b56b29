//! One agent's side of a stream that can be resumed: both directions' counters, the ring, and which path counts.
//!
//! It stands behind one lock, shared by the task that copies local → path, the task that copies path → local, and
//! whoever reads the control stream. Nothing here waits; time is a [`Duration`] since any fixed start.
//!
//! **Writing.** The local side is read only after [`Endpoint::room`]; what was read goes to [`Endpoint::take`] before it is
//! written to the path, so an acknowledgement can never be ahead of us. Bytes that a new path still lacks, and the FIN, come
//! from [`Endpoint::next_write`].
//!
//! **Reading.** A chunk from the path goes to [`Endpoint::consumed`] *before* it is passed on to the local side. Refused as
//! stale it is thrown away: the partner sends it again. Accepted it is in our custody, and must reach the local side even
//! if the path is lost meanwhile; the next path's reader starts behind it.
//!
//! **A lost path.** [`Endpoint::freeze`], send [`Endpoint::fields`], give the answer to [`Endpoint::on_echo`], start the
//! two tasks anew with the [`Plan`]'s epoch. A task of the old path that comes late is refused by its epoch.

use std::time::Duration;

use bytes::Bytes;

use super::Fields;
use super::schedule::{REPEATS, Schedule};
use crate::core::ids::StreamId;
use crate::core::ring::Ring;

mod checkpoints;
mod doubt;
mod partner;
mod switch;
mod types;

pub use doubt::DoubtfulFin;
use partner::Partner;
pub use types::{
    Epoch, FinRead, FreezeError, Loss, PathError, PeerFin, PeerKind, Phase, Plan, ResumeError, Taken, Tick, ToWrite,
    Wanted,
};

/// See the module.
#[derive(Debug)]
pub struct Endpoint {
    stream_id: StreamId,
    peer: PeerKind,
    path: Path,
    /// The number of the current or, while there is none, the latest path.
    epoch: Epoch,
    ring: Ring,
    keeping: Keeping,
    /// How much of our direction was handed out for writing on the current path.
    handed: u64,
    our_fin: OurFin,
    /// Our FIN was written, on this path or an earlier one.
    fin_sent: bool,
    consumed: u64,
    /// When the latest of it came on the current path.
    consumed_at: Option<Duration>,
    fin_consumed: bool,
    partner: Partner,
    schedule: Schedule,
    full_since: Option<Duration>,
    empty_since: Option<Duration>,
    closing_since: Option<Duration>,
    /// When the current path began; unknown of the first.
    path_since: Option<Duration>,
    partner_fin: PartnerFin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Live,
    Frozen(Duration),
    Lost,
}

/// Where our FIN is, seen from the current path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OurFin {
    /// The local side has not ended.
    Open,
    /// It has; the FIN is not written on this path.
    Taken,
    Written,
}

/// How long the ring keeps what was taken from the local side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeping {
    UntilAcknowledged,
    /// The stream is not resumable: what was handed out for writing is let go. What was not is nowhere else.
    UntilHanded,
}

/// Whether the partner's FIN came on the current path, where it comes again if it was consumed on an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartnerFin {
    Unread,
    Read,
}

impl Endpoint {
    /// A stream on its first path, whose epoch is [`Epoch::FIRST`]. A stream with id 0 is never resumable.
    #[must_use]
    pub fn new(stream_id: StreamId, peer: PeerKind, ring: Ring) -> Self {
        let is_recorded = stream_id.is_recorded();
        Self {
            stream_id,
            peer,
            path: Path::Live,
            epoch: Epoch::FIRST,
            ring,
            keeping: if is_recorded { Keeping::UntilAcknowledged } else { Keeping::UntilHanded },
            handed: 0,
            our_fin: OurFin::Open,
            fin_sent: false,
            consumed: 0,
            consumed_at: None,
            fin_consumed: false,
            partner: Partner::default(),
            schedule: Schedule::default(),
            full_since: None,
            empty_since: None,
            closing_since: None,
            path_since: None,
            partner_fin: PartnerFin::Unread,
        }
    }

    /// What was learned of the partner after the stream began (STREAM_READY may come late).
    pub fn learn_peer(&mut self, peer: PeerKind) {
        self.peer = peer;
    }

    /// Which stream it is.
    #[must_use]
    pub fn stream_id(&self) -> StreamId {
        self.stream_id
    }

    /// What the stream is doing.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.path {
            Path::Lost => Phase::Lost,
            Path::Frozen(since) => Phase::Frozen { since },
            Path::Live if !self.both_fins() => Phase::Live(self.epoch),
            Path::Live if self.is_unconfirmed() || self.is_to_be_told() => Phase::Closing(self.epoch),
            Path::Live => Phase::Finished,
        }
    }

    /// Whether the stream has ended on both sides as far as can be known, and nothing is left to be said about it: the
    /// endpoint may be dropped, and [`Endpoint::fields`] put into the memory of finished streams.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.phase() == Phase::Finished
    }

    /// Whether a lost path can be replaced.
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.keeping == Keeping::UntilAcknowledged && self.path != Path::Lost
    }

    /// How many of the partner's bytes were consumed.
    #[must_use]
    pub fn consumed_position(&self) -> u64 {
        self.consumed
    }

    /// What we have written and the partner is not known to have consumed; to be looked at.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Our numbers as STREAM_RESUME and STREAM_CHECKPOINT carry them. Final once the path is frozen.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let fields = Fields {
            stream_id: self.stream_id,
            my_position: self.ring.end(),
            peer_ack_position: self.consumed,
            fin_sent: self.fin_sent,
            fin_consumed: self.fin_consumed,
        };
        match self.peer {
            PeerKind::FinState => fields,
            PeerKind::Legacy => fields.without_fin(),
        }
    }

    // Writing: local → path.

    /// How many bytes may be read from the local side now. 0: wait until [`Endpoint::on_checkpoint`] has freed some, or
    /// [`Tick::RingGivenUp`]. A frozen stream goes on filling its ring.
    pub fn room(&mut self, now: Duration) -> usize {
        let room = self.ring.room();
        if room == 0 {
            self.full_since.get_or_insert(now);
        }
        room
    }

    /// Takes bytes of the local side, at most [`Endpoint::room`], into the ring. Never refused: what was read must not be
    /// lost. On [`Taken::Write`] the caller writes them to the path of `epoch` itself; on [`Taken::Kept`] it does not.
    pub fn take(&mut self, epoch: Epoch, bytes: Bytes, now: Duration) -> Taken {
        debug_assert!(self.our_fin == OurFin::Open, "nothing comes after the local end");
        let before = self.ring.end();
        self.ring.append(bytes);
        self.empty_since = None;
        self.schedule.changed(now);
        if self.check(epoch).is_err() || self.handed != before {
            return Taken::Kept;
        }
        self.hand_out(self.ring.end());
        Taken::Write
    }

    /// The local side has ended. The FIN comes from [`Endpoint::next_write`], behind everything taken before.
    pub fn take_fin(&mut self) {
        if self.our_fin == OurFin::Open {
            self.our_fin = OurFin::Taken;
        }
    }

    /// What has to be written next on the path of `epoch` that [`Endpoint::take`] did not leave to its caller: the bytes
    /// that the partner lacks, then our FIN. Bytes that are handed out count as written.
    ///
    /// # Errors
    /// [`PathError::Stale`]: write nothing, this path is over.
    pub fn next_write(&mut self, epoch: Epoch) -> Result<ToWrite, PathError> {
        self.check(epoch)?;
        // What the partner has acknowledged it does not lack.
        self.handed = self.handed.max(self.ring.start());
        if let Ok(Some(bytes)) = self.ring.piece(self.handed) {
            self.hand_out(self.handed + bytes.len() as u64);
            return Ok(ToWrite::Bytes(bytes));
        }
        Ok(if self.our_fin == OurFin::Taken { ToWrite::Fin } else { ToWrite::Nothing })
    }

    /// Our FIN was written on the path of `epoch`.
    ///
    /// # Errors
    /// [`PathError::Stale`]: it was not, as far as the stream is concerned.
    pub fn fin_written(&mut self, epoch: Epoch, now: Duration) -> Result<(), PathError> {
        self.check(epoch)?;
        self.our_fin = OurFin::Written;
        self.fin_sent = true;
        self.schedule.fin(now);
        self.note_closing(now);
        Ok(())
    }

    // Reading: path → local.

    /// `bytes` more arrived on the path of `epoch`, and are now in our custody.
    ///
    /// # Errors
    /// [`PathError::Stale`]: throw them away. [`PathError::AfterFin`]: the partner breaks the protocol.
    pub fn consumed(&mut self, epoch: Epoch, bytes: usize, now: Duration) -> Result<(), PathError> {
        self.check(epoch)?;
        let position = self.consumed + bytes as u64;
        if bytes > 0 && (self.fin_consumed || self.partner.end().is_some_and(|end| position > end)) {
            return Err(PathError::AfterFin);
        }
        self.consumed = position;
        self.consumed_at = Some(now);
        self.schedule.consumed(bytes as u64, now);
        Ok(())
    }

    /// A FIN arrived on the path of `epoch`, behind everything consumed before. Only on [`FinRead::End`] is it passed on
    /// to the local side.
    ///
    /// # Errors
    /// [`PathError::Stale`]: it says nothing.
    pub fn fin_read(&mut self, epoch: Epoch, now: Duration) -> Result<FinRead, PathError> {
        self.check(epoch)?;
        if self.fin_consumed {
            self.partner_fin = PartnerFin::Read;
            self.note_closing(now);
            return Ok(FinRead::Again);
        }
        let missing = self.partner.position().unwrap_or(0).saturating_sub(self.consumed);
        if missing > 0 {
            return Ok(FinRead::Cut { missing });
        }
        self.fin_consumed = true;
        self.partner_fin = PartnerFin::Read;
        self.schedule.fin(now);
        self.note_closing(now);
        Ok(FinRead::End)
    }

    fn hand_out(&mut self, position: u64) {
        self.handed = position;
        if self.keeping == Keeping::UntilHanded {
            self.ring.release(position);
        }
    }

    fn check(&self, epoch: Epoch) -> Result<(), PathError> {
        if self.path == Path::Live && epoch == self.epoch { Ok(()) } else { Err(PathError::Stale) }
    }

    fn acknowledge(&mut self, position: u64, now: Duration) -> Result<usize, ResumeError> {
        let end = self.ring.end();
        let freed = self.ring.acknowledge(position).map_err(|_| ResumeError::AckBeyondEnd { ack: position, end })?;
        if freed > 0 {
            self.full_since = None;
            self.empty_since = (self.ring.is_empty() && self.ring.has_grown()).then_some(now);
            if self.closing_since.is_some() {
                self.closing_since = Some(now);
            }
        }
        Ok(freed)
    }

    fn note_closing(&mut self, now: Duration) {
        if self.both_fins() {
            self.closing_since = Some(now);
        }
    }

    /// Whether the current path has carried both FINs, so that it ends by itself. A legacy partner's may have come on an
    /// earlier one: it is not known to write it again.
    fn both_fins(&self) -> bool {
        let theirs = match self.peer {
            PeerKind::FinState => self.partner_fin == PartnerFin::Read,
            PeerKind::Legacy => self.fin_consumed,
        };
        theirs && self.our_fin == OurFin::Written
    }

    /// Whether the partner's word that it has our FIN is still awaited.
    fn is_unconfirmed(&self) -> bool {
        let confirms = self.peer == PeerKind::FinState && self.keeping == Keeping::UntilAcknowledged;
        confirms && !self.partner.has_consumed_fin()
    }

    /// Whether a FIN is not reported yet.
    fn is_to_be_told(&self) -> bool {
        self.stream_id.is_recorded() && self.schedule.is_urgent()
    }
}

#[cfg(test)]
mod tests;
