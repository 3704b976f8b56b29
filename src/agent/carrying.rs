//! A stream that outlives its paths: what its tasks share (wire.md §5).
//!
//! The local socket lives as long as the stream; the path, a bidirectional stream of one session, is replaced when it is lost.
//! Both directions' numbers are in one [`Endpoint`] behind one lock, which is never held over an await. The concerns:
//!
//! | file | what it does |
//! |---|---|
//! | [`sending`] | the task local socket → path |
//! | [`receiving`] | the task path → local socket |
//! | [`keeping`] | the task that reports to the partner, and lets time pass |
//! | [`resuming`] | from a lost path to the next one |
//! | [`search`] | on which session the next one is looked for |
//! | [`moving`] | leaves a path that stands, because its relay drains |
//!
//! A new path's halves are laid down here for the two copying tasks, which are woken and take them. Whoever finds a path to
//! be over says so here, once: the numbers are final from then on, and all three tasks are woken.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::stream_facts::Role;
use super::vault::session::Session;
use crate::core::ids::{Capabilities, Capability, StreamId};
use crate::core::reject::{CodeAgreement, ResetCode};
use crate::core::resume::Fields;
use crate::core::resume::endpoint::{Endpoint, Epoch, FreezeError, Loss, PeerKind, Phase, Wanted};
use crate::core::ring::Ring;

pub mod keeping;
pub mod moving;
pub mod receiving;
pub mod resuming;
pub mod search;
pub mod sending;
mod state;
pub mod verdict;

use state::{Dead, Inner, Knowledge};
pub use state::{LaneEnd, Shown};

/// One half of a path, and how it is to be used.
#[derive(Debug)]
pub struct PathHalf<H> {
    /// Which path.
    pub epoch: Epoch,
    /// The half.
    pub half: H,
    /// Whether reset codes are used on it.
    pub codes: CodeAgreement,
    /// What a FIN on it says.
    pub fin: FinTrust,
}

/// What a FIN from the relay is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinTrust {
    /// The partner's end of stream.
    End,
    /// A legacy relay passes a reset on as a FIN, too (wire.md §10).
    EndOrCut,
}

/// What RESUME_WANTED came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// A half is under way, or about to be.
    Coming,
    /// The stream has finished.
    Finished,
    /// The stream is lost.
    Gone,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Carried {
    /// Which end of the stream this agent is.
    pub role: Role,
    /// When the clock of the endpoint was at 0.
    clock: Instant,
    inner: Mutex<Inner>,
    sender: Notify,
    receiver: Notify,
    keeper: Notify,
    /// Told when the stream has another path, and when it is over.
    moved: Notify,
    /// The other agent's half waits: an attempt that pauses is made at once, and where its half waits.
    called: Notify,
}

impl Carried {
    /// A stream on its first path, which was opened on `session`. What the other end named is known, or comes with STREAM_READY.
    #[must_use]
    pub fn new(
        role: Role,
        id: StreamId,
        ring: Ring,
        clock: Instant,
        session: &Session,
        peer: Option<Capabilities>,
    ) -> Arc<Self> {
        let knowledge = Knowledge::new(session.features, peer);
        let endpoint = Endpoint::new(id, knowledge.kind(session.features), ring);
        let inner = Mutex::new(Inner::new(endpoint, knowledge, session));
        let (sender, receiver, keeper, moved, called) = Default::default();
        Arc::new(Self { role, clock, inner, sender, receiver, keeper, moved, called })
    }

    /// What is shown of it.
    #[must_use]
    pub fn shown(&self) -> Shown {
        self.lock().shown()
    }

    /// How it ended, in words.
    #[must_use]
    pub fn outcome(&self) -> String {
        self.lock().outcome()
    }

    /// STREAM_READY came, with what the other end named.
    pub fn on_ready(&self, peer: Capabilities) {
        let mut inner = self.lock();
        let features = inner.features;
        inner.knowledge.ready(features, peer);
        inner.settle_kind();
        drop(inner);
        self.keeper.notify_one();
    }

    /// A ticket of the stream came: it proves the stream to a relay that never saw it.
    pub fn keep_ticket(&self, ticket: Bytes) {
        self.lock().ticket = ticket;
    }

    /// The partner's checkpoint came.
    pub fn on_checkpoint(&self, theirs: &Fields) {
        let now = self.now();
        let mut inner = self.lock();
        inner.hear(theirs);
        match inner.endpoint.on_checkpoint(theirs, now) {
            Ok(freed) => {
                if freed > 0 {
                    self.sender.notify_one();
                }
                if inner.holds_fin {
                    self.receiver.notify_one();
                }
                if inner.endpoint.is_finished() {
                    self.keeper.notify_one();
                }
                inner.poke(&self.keeper);
            }
            Err(error) if inner.is_modern() => {
                self.lose_in(&mut inner, format!("the partner's checkpoint does not fit: {error}"));
            }
            // It changes nothing; how a legacy agent counts is not ours to judge.
            Err(error) => tracing::debug!(stream = %theirs.stream_id, %error, "checkpoint ignored"),
        }
    }

    /// RESUME_WANTED came on the session with this number: the partner's half is parked there.
    pub fn on_called(&self, session: u64) -> Called {
        let now = self.now();
        let mut inner = self.lock();
        if inner.dead.is_none() && inner.endpoint.is_finished() {
            return Called::Finished;
        }
        match inner.endpoint.on_wanted(now) {
            Wanted::Ignore => {
                inner.called_on = Some(session);
                self.called.notify_one();
                Called::Coming
            }
            Wanted::Gone => Called::Gone,
            Wanted::Resume => {
                self.freeze_in(&mut inner, "the other agent asks for a new path");
                if inner.dead.is_some() { Called::Gone } else { Called::Coming }
            }
        }
    }

    /// The numbers as a finished stream's are remembered.
    #[must_use]
    pub fn fields(&self) -> Fields {
        self.lock().endpoint.fields()
    }

    fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        self.sender.notify_one();
        self.receiver.notify_one();
        self.keeper.notify_one();
        self.moved.notify_waiters();
    }

    /// The path of `epoch` is over. Said of one that is over already, it says nothing.
    fn path_over(&self, epoch: Epoch, why: &str) {
        let mut inner = self.lock();
        if inner.is_current(epoch) {
            self.freeze_in(&mut inner, why);
        }
    }

    /// The path of `epoch` was cut with a code that says so.
    fn path_cut(&self, epoch: Epoch, code: ResetCode) {
        let is_final = code == ResetCode::RETRY && self.is_retry_final();
        if is_final {
            // Nothing was delivered: the other agent opens again, and nobody would resume this.
            self.lose("cut before it was open, with RETRY");
        } else {
            self.path_over(epoch, &format!("cut with {code}"));
        }
    }

    fn is_current(&self, epoch: Epoch) -> bool {
        let inner = self.lock();
        inner.dead.is_none() && inner.is_current(epoch)
    }

    fn freeze_in(&self, inner: &mut Inner, why: &str) {
        let id = inner.endpoint.stream_id();
        if !inner.is_whole() {
            self.lose_in(inner, format!("{why}, and one direction had ended before"));
            return;
        }
        // A late STREAM_READY is not waited for on another session.
        inner.knowledge.awaits_ready = false;
        match inner.endpoint.freeze(self.now()) {
            Ok(()) => tracing::debug!(stream = %id, why, "the path is over"),
            Err(FreezeError::Finished) => {}
            Err(error) => self.lose_in(inner, format!("{why}, and {error}")),
        }
        inner.discard_untaken();
        self.wake_all();
    }

    /// The path of `epoch` has ended, and the stream with it.
    fn lose_path(&self, epoch: Epoch, why: String) {
        let mut inner = self.lock();
        if inner.is_current(epoch) && !inner.endpoint.is_finished() {
            self.lose_in(&mut inner, why);
        }
    }

    /// The stream ends here, in order only if all that is missing is the partner's confirmation.
    fn lose(&self, why: impl Into<String>) {
        self.lose_in(&mut self.lock(), why.into());
    }

    fn lose_in(&self, inner: &mut Inner, why: String) {
        if inner.dead.is_none() {
            let loss = inner.endpoint.lose();
            inner.dead = Some(Dead { loss, why });
            inner.discard_untaken();
        }
        self.wake_all();
    }

    /// A direction has ended otherwise than with its FIN; there is no path but this one from now on.
    fn lane_broken(&self, role_of_lane: Lane, end: LaneEnd) {
        let mut inner = self.lock();
        match role_of_lane {
            Lane::ToPath => {
                inner.to_path = Some(end);
                // Nobody takes them any more.
                if let Some(path) = inner.send.take() {
                    path.half.reset(ResetCode::APPLICATION.for_peer(path.codes));
                }
            }
            Lane::FromPath => {
                inner.from_path = Some(end);
                if let Some(path) = inner.recv.take() {
                    path.half.stop(ResetCode::APPLICATION.for_peer(path.codes));
                }
            }
        }
        if matches!(inner.endpoint.phase(), Phase::Frozen { .. }) {
            self.lose_in(&mut inner, "the local side ended while there was no path".to_owned());
        }
        self.wake_all();
    }

    fn is_retry_final(&self) -> bool {
        let inner = self.lock();
        self.role == Role::Provider && !inner.knowledge.is_ready()
    }
}

/// Which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    ToPath,
    FromPath,
}

/// The code with which a path is left for another one.
fn leaving(codes: CodeAgreement) -> ResetCode {
    ResetCode::RESUMABLE.for_peer(codes)
}

/// Whether the partner may be told, and tells, how the stream ends.
fn kind(features: Capabilities, peer: Capabilities) -> PeerKind {
    let both = features.intersection(peer);
    if both.contains(Capability::FinState) { PeerKind::FinState } else { PeerKind::Legacy }
}

fn is_lost(loss: Loss) -> bool {
    loss == Loss::Stream
}
