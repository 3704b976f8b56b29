//! From a lost path to the next one, and whether a partner's numbers fit.

use std::time::Duration;

use super::{Endpoint, FreezeError, Keeping, Loss, OurFin, PartnerFin, Path, PeerFin, Plan, ResumeError};
use crate::core::resume::Fields;
use crate::core::ring::NotHeld;

impl Endpoint {
    /// Ends the current path for good: what still arrives on it is refused as stale, so the numbers of
    /// [`Endpoint::fields`] are final for our acknowledgement. Freezing twice is freezing once.
    ///
    /// # Errors
    /// [`FreezeError`] when there is nothing to resume; then [`Endpoint::lose`].
    pub fn freeze(&mut self, now: Duration) -> Result<(), FreezeError> {
        match self.path {
            Path::Lost => return Err(FreezeError::Lost),
            Path::Frozen(_) => return Ok(()),
            Path::Live => {}
        }
        if self.is_finished() {
            return Err(FreezeError::Finished);
        }
        if self.keeping == Keeping::UntilHanded {
            return Err(FreezeError::RingGivenUp);
        }
        self.path = Path::Frozen(now);
        self.full_since = None;
        self.closing_since = None;
        Ok(())
    }

    /// The partner's numbers came on a new path: it becomes the current one.
    ///
    /// # Errors
    /// [`ResumeError`]: the numbers do not fit, nothing has changed, and the stream cannot be resumed.
    pub fn on_echo(&mut self, theirs: &Fields, now: Duration) -> Result<Plan, ResumeError> {
        if !matches!(self.path, Path::Frozen(_)) {
            return Err(ResumeError::NotFrozen);
        }
        self.validate(theirs)?;
        let (ack, start, end) = (theirs.peer_ack_position, self.ring.start(), self.ring.end());
        if ack < start {
            return Err(ResumeError::PositionGone(NotHeld { position: ack, start, end }));
        }
        if theirs.my_position < self.consumed {
            let (said, consumed) = (theirs.my_position, self.consumed);
            return Err(ResumeError::PartnerBehind { said, consumed });
        }
        self.acknowledge(ack, now)?;
        self.partner.learn(theirs);
        self.partner.on_new_path();
        self.consumed_at = None;
        self.schedule.repeat_anew();
        self.path = Path::Live;
        self.epoch = self.epoch.next();
        self.handed = ack;
        self.path_since = Some(now);
        self.partner_fin = PartnerFin::Unread;
        if self.our_fin == OurFin::Written {
            self.our_fin = OurFin::Taken;
        }
        // The partner may know less than the echo says: a half of MIGRATE_TO_RELAY has no room for FINs.
        if self.fin_sent || self.fin_consumed {
            self.schedule.fin(now)
        } else {
            self.schedule.changed(now)
        }
        Ok(Plan {
            epoch: self.epoch,
            resend_from: ack,
            resend_bytes: end - ack,
            partner_fin: if self.fin_consumed { PeerFin::Consumed } else { PeerFin::Expected },
        })
    }

    /// No new path came in time, or it was refused: the stream ends here. What the ring holds is let go.
    pub fn lose(&mut self) -> Loss {
        let is_exchanged = self.fin_sent && self.fin_consumed;
        self.path = Path::Lost;
        self.ring.give_up();
        if is_exchanged { Loss::Confirmation } else { Loss::Stream }
    }

    /// What must hold of a partner's numbers wherever they come from.
    pub(super) fn validate(&self, theirs: &Fields) -> Result<(), ResumeError> {
        let end = self.ring.end();
        if theirs.stream_id != self.stream_id {
            return Err(ResumeError::OtherStream(theirs.stream_id));
        }
        if theirs.peer_ack_position > end {
            return Err(ResumeError::AckBeyondEnd { ack: theirs.peer_ack_position, end });
        }
        if theirs.fin_consumed && !(self.fin_sent && theirs.peer_ack_position == end) {
            return Err(ResumeError::FinNotSent);
        }
        let (said, consumed) = (theirs.my_position, self.consumed);
        let final_position = if self.fin_consumed { Some(consumed) } else { self.partner.end() };
        if final_position.is_some_and(|position| said > position) {
            return Err(ResumeError::PartnerBeyondFin { said });
        }
        if theirs.fin_sent && said < consumed {
            return Err(ResumeError::PartnerBehind { said, consumed });
        }
        Ok(())
    }
}
