//! The task that reports to the partner, lets time pass, and sees to it that a lost path is replaced. It ends when the stream
//! is over.

use std::sync::Arc;
use std::time::Duration;

use super::{Carried, resuming};
use crate::agent::vault::AgentVault;
use crate::agent::vault::session::{PathOn, Session};
use crate::clock::sleep_until_any;
use crate::core::frame::Frame;
use crate::core::resume::Fields;
use crate::core::resume::endpoint::{Epoch, Loss, Phase, Tick};
use crate::core::resume::finished::Finished;
use crate::net::stream_limit::StreamUse;

/// How often a stream without STREAM_READY looks at the time.
const UNREADY: Duration = Duration::from_secs(1);

/// The session on which a stream's path is.
#[derive(Debug)]
pub struct OnSession {
    /// The session.
    pub session: Arc<Session>,
    /// The path counts toward its limit, if it does.
    pub stream_use: Option<StreamUse>,
    _path: PathOn,
}

impl OnSession {
    /// A path on `session`, which is kept for it even if its relay drains.
    #[must_use]
    pub fn new(session: Arc<Session>, stream_use: Option<StreamUse>) -> Self {
        Self { _path: session.path(), session, stream_use }
    }
}

/// What the keeper does next.
#[derive(Debug)]
enum Chore {
    Report(Fields),
    Resume { since: Duration },
    Sleep { until: Option<Duration>, closing: bool },
    Over,
}

/// Keeps a stream until it is over; one that has finished is remembered.
pub async fn run(shared: Arc<Carried>, vault: Arc<AgentVault>, mut on: OnSession) {
    loop {
        match shared.chore() {
            Chore::Over => break,
            Chore::Report(fields) => report(&on.session, &fields),
            Chore::Resume { since } => {
                // The old path's use is given back first.
                on.stream_use = None;
                if let Some(new) = resuming::resume(&shared, &vault, since).await {
                    if on.session.number != new.session.number {
                        on.session.note_moved();
                    }
                    on = new;
                }
            }
            Chore::Sleep { until, closing } => {
                let slept = sleep_until_any(until.map(|until| shared.clock + until));
                tokio::select! {
                    () = slept => {}
                    () = shared.keeper.notified() => {}
                    // Both halves have ended: nobody else would notice.
                    _ = on.session.quic.closed(), if closing => {
                        if let Some(epoch) = shared.current_epoch() {
                            shared.path_over(epoch, "the connection was lost");
                        }
                    }
                }
            }
        }
    }
    if let Some(finished) = shared.finished() {
        vault.remember(finished);
    }
}

fn report(session: &Session, fields: &Fields) {
    session.send_control(&Frame::StreamCheckpoint(fields.to_checkpoint()));
}

impl Carried {
    fn chore(&self) -> Chore {
        let now = self.now();
        let mut inner = self.lock();
        if inner.is_over() || inner.endpoint.is_finished() {
            return Chore::Over;
        }
        match inner.endpoint.tick(now) {
            Some(Tick::RingGivenUp) => {
                tracing::debug!(stream = %inner.endpoint.stream_id(), "no checkpoints come: not resumable any more");
                self.sender.notify_one();
            }
            Some(Tick::AskForEnd) => self.freeze_in(&mut inner, "the end was not confirmed"),
            None => {}
        }
        if let Phase::Frozen { since } = inner.endpoint.phase() {
            return Chore::Resume { since };
        }
        // What may be said is not known before STREAM_READY.
        if !inner.knowledge.awaits_ready
            && let Some(fields) = inner.endpoint.checkpoint(now)
        {
            return Chore::Report(fields);
        }
        // Should STREAM_READY never come, time goes on all the same.
        let until = if inner.knowledge.awaits_ready { Some(now + UNREADY) } else { inner.endpoint.wake_at() };
        inner.keeper_wakes = until;
        Chore::Sleep { until, closing: matches!(inner.endpoint.phase(), Phase::Closing(_)) }
    }

    fn current_epoch(&self) -> Option<Epoch> {
        match self.lock().endpoint.phase() {
            Phase::Live(epoch) | Phase::Closing(epoch) => Some(epoch),
            _ => None,
        }
    }

    /// Its last numbers, if it has finished, confirmed or not.
    fn finished(&self) -> Option<Finished> {
        let inner = self.lock();
        let is_finished = match &inner.dead {
            Some(dead) => dead.loss == Loss::Confirmation,
            None => inner.endpoint.is_finished(),
        };
        is_finished.then(|| Finished { fields: inner.endpoint.fields(), ticket: inner.ticket.clone() })
    }
}
