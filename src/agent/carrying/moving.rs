//! A stream leaves a path that still stands, because its relay drains: see [`leaving`](crate::agent::leaving).

use super::Carried;
use super::state::Inner;
use crate::core::ids::Capability;
use crate::core::resume::endpoint::Phase;

impl Inner {
    /// Whether the other agent comes, too, and nothing is lost on the way.
    fn is_movable_from(&self, session: u64) -> bool {
        let comes = |capability| self.knowledge.peer().is_some_and(|peer| peer.contains(capability));
        let is_here = self.dead.is_none() && self.session == session && !self.stays;
        // One that is closing ends by itself.
        let is_live = matches!(self.endpoint.phase(), Phase::Live(_)) && !self.knowledge.awaits_ready;
        let is_told = comes(Capability::GoAway) && comes(Capability::ResumeCode);
        is_here && is_live && is_told && self.is_whole() && self.endpoint.is_resumable()
    }
}

impl Carried {
    /// Whether it would go on elsewhere if it left its path on this session.
    #[must_use]
    pub fn is_movable_from(&self, session: u64) -> bool {
        self.lock().is_movable_from(session)
    }

    /// Whether it lives, and has no path.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        let inner = self.lock();
        inner.dead.is_none() && matches!(inner.endpoint.phase(), Phase::Frozen { .. })
    }

    /// Whether it has left its path on this session, or lost it, and has no other yet.
    #[must_use]
    pub fn is_on_its_way_from(&self, session: u64) -> bool {
        let inner = self.lock();
        inner.is_on(session) && matches!(inner.endpoint.phase(), Phase::Frozen { .. })
    }

    /// Leaves its path on this session, if it can be replaced; whether it did.
    #[must_use]
    pub fn move_from(&self, session: u64) -> bool {
        let mut inner = self.lock();
        if !inner.is_movable_from(session) {
            return false;
        }
        self.freeze_in(&mut inner, "its relay drains");
        inner.dead.is_none()
    }

    /// Resolves when its path is elsewhere, or the stream is over.
    pub async fn has_left(&self, session: u64) {
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            // From here on no notification is missed.
            moved.as_mut().enable();
            if !self.lock().is_on(session) {
                return;
            }
            moved.await;
        }
    }
}
