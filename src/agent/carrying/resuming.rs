//! From a lost path to the next one: STREAM_RESUME on a fresh stream, the echo, and both halves for the copying tasks. Where the
//! stream's half is sent is decided in [`search`](super::search).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, sleep_until};

use super::keeping::OnSession;
use super::search::Search;
use super::verdict::{Verdict, verdict};
use super::{Carried, FinTrust, PathHalf};
use crate::agent::backoff::shortened;
use crate::agent::leaving::FALLS_BACK;
use crate::agent::opening::agreement;
use crate::agent::vault::AgentVault;
use crate::agent::vault::session::{FRAME_MAX_BYTES, Session};
use crate::core::frame::Frame;
use crate::core::reject::{CodeAgreement, ResetCode};
use crate::core::resume::Fields;
use crate::net::framed::{FrameReadError, read_frame, write_frame};
use crate::net::stream::{BiStream, End, WriteEnd};
use crate::proto::orp;

/// The pause before the second attempt; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The pause after a relay has said that it is full, the first time: then twice as long, up to the longest.
const FULL: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

enum Attempt {
    Path(OnSession),
    /// For a reason that may pass.
    Again(String),
    /// The relay is full: it must not be asked often.
    Full,
    /// For good.
    Refused(String),
}

/// Finds a new path within the time that a stream may be without one. None: the stream is lost, or was ended meanwhile.
pub async fn resume(shared: &Carried, vault: &AgentVault, since: Duration) -> Option<OnSession> {
    let within = vault.config.timeouts.resume;
    tokio::select! {
        found = attempts(shared, vault, Search::new(shared.clock + since + FALLS_BACK)) => match found {
            Ok(path) => return Some(path),
            Err(why) => shared.lose(format!("not resumed: {why}")),
        },
        () = sleep_until(shared.clock + since + within) => shared.lose(format!("not resumed within {within:?}")),
        () = shared.ended() => {}
    }
    None
}

async fn attempts(shared: &Carried, vault: &AgentVault, mut search: Search) -> Result<OnSession, String> {
    let mut pause = FIRST_PAUSE;
    let [mut full, longest_full] = FULL;
    // Bounded by the caller's deadline.
    loop {
        let place = search.place(shared, vault).await;
        let id = shared.fields().stream_id;
        let attempt = tokio::select! {
            attempt = attempt(shared, Arc::clone(place.session())) => attempt,
            why = search.over(shared, vault, &place) => {
                tracing::debug!(stream = %id, why, "resuming elsewhere");
                continue;
            }
        };
        match attempt {
            Attempt::Path(path) => return Ok(path),
            Attempt::Refused(why) => return Err(why),
            Attempt::Again(why) => {
                tracing::debug!(stream = %id, why, "resuming again");
                tokio::select! {
                    () = sleep(shortened(pause, rand::random())) => {}
                    // The other agent's half waits, and may not for long.
                    () = shared.called.notified() => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Attempt::Full => {
                tracing::debug!(stream = %id, "resuming again: the relay is full");
                tokio::select! {
                    () = sleep(shortened(full, rand::random())) => {}
                    // The partner that calls has found no room either: it is not hurried to.
                    _why = search.over(shared, vault, &place) => {}
                }
                full = (full * 2).min(longest_full);
            }
        }
    }
}

async fn attempt(shared: &Carried, session: Arc<Session>) -> Attempt {
    let Some(stream_use) = session.streams.take() else { return Attempt::Again("too many streams".to_owned()) };
    let (half, codes) = shared.half(&session);
    let (stream, theirs) = match exchange(&session, half, codes).await {
        Ok(answer) => answer,
        Err(refused) => return refused,
    };
    match shared.go_on(&session, stream, codes, &theirs) {
        Ok(()) => Attempt::Path(OnSession::new(session, Some(stream_use))),
        Err(refused) => refused,
    }
}

/// Sends a half on a fresh stream of `session` and reads the echo.
async fn exchange(
    session: &Session,
    half: orp::StreamResume,
    codes: CodeAgreement,
) -> Result<(BiStream, Fields), Attempt> {
    let again = |why: &dyn std::fmt::Display| Attempt::Again(why.to_string());
    let (send, recv) = session.quic.open_bi().await.map_err(|error| again(&error))?;
    let stream = BiStream::from_quic(&session.quic, send, recv, ResetCode::RESUMABLE.for_peer(codes));
    let mut stream = stream.within(&session.window);
    match write_frame(&mut stream.send, &Frame::StreamResume(half)).await {
        Ok(()) => {}
        Err(WriteEnd::Stopped(code)) => return Err(refusal(&End::Reset(code))),
        Err(end) => return Err(again(&end)),
    }
    match read_frame(&mut stream.recv, FRAME_MAX_BYTES).await {
        Ok(Frame::StreamResume(theirs)) => Ok((stream, Fields::from(&theirs))),
        Ok(Frame::StreamReject(reject)) => {
            Err(Attempt::Refused(format!("rejected with {} {:?}", reject.code, reject.reason)))
        }
        Ok(other) => Err(Attempt::Refused(format!("the answer is {}", other.name()))),
        Err(FrameReadError::Ended { end, .. }) => Err(refusal(&end)),
        Err(error) => Err(Attempt::Refused(error.to_string())),
    }
}

/// A half that ends before its echo: a FIN is never the end of the stream.
fn refusal(end: &End) -> Attempt {
    match end {
        End::Fin => Attempt::Refused("refused by the relay".to_owned()),
        End::Lost => Attempt::Again("the session ended".to_owned()),
        End::Reset(code) if verdict(*code) == Verdict::Path => Attempt::Again(format!("reset with {code}")),
        // Perhaps not in a moment: the stream has time.
        End::Reset(ResetCode::LIMIT) => Attempt::Full,
        End::Reset(code) => Attempt::Refused(format!("reset by the relay with {code}")),
    }
}

impl Carried {
    /// What is said on a fresh path of `session`.
    fn half(&self, session: &Session) -> (orp::StreamResume, CodeAgreement) {
        let mut inner = self.lock();
        inner.features = session.features;
        inner.settle_kind();
        let half = inner.endpoint.fields().to_resume(session.shown(&inner.ticket));
        (half, agreement(session, inner.knowledge.peer()))
    }

    /// The partner's numbers came: the path is the stream's from here on.
    fn go_on(&self, session: &Session, stream: BiStream, codes: CodeAgreement, theirs: &Fields) -> Result<(), Attempt> {
        let now = self.now();
        let mut inner = self.lock();
        inner.hear(theirs);
        let plan = match inner.endpoint.on_echo(theirs, now) {
            Ok(plan) => plan,
            // Dropped, the stream says RESUMABLE.
            Err(error) if error.may_be_stale() => return Err(Attempt::Again(error.to_string())),
            Err(error) => {
                let code = ResetCode::PROTOCOL.for_peer(codes);
                stream.send.reset(code);
                stream.recv.stop(code);
                return Err(Attempt::Refused(error.to_string()));
            }
        };
        let id = inner.endpoint.stream_id();
        tracing::debug!(stream = %id, from = plan.resend_from, bytes = plan.resend_bytes, "the stream goes on on a new path");
        let mut stream = stream;
        stream.set_drop_code(ResetCode::APPLICATION.for_peer(codes));
        let fin = session.trust_in_fin();
        inner.send = Some(PathHalf { epoch: plan.epoch, half: stream.send, codes, fin });
        inner.recv = Some(PathHalf { epoch: plan.epoch, half: stream.recv, codes, fin });
        inner.knowledge.has_flowed = true;
        inner.resumed += 1;
        inner.relay = session.relay.clone();
        inner.session = session.number;
        inner.stays = session.leave().is_some();
        drop(inner);
        self.wake_all();
        Ok(())
    }

    /// Resolves when the stream was ended while it has no path.
    async fn ended(&self) {
        while self.lock().dead.is_none() {
            self.keeper.notified().await;
        }
    }
}

impl Session {
    /// What a FIN on a stream of this session is worth.
    #[must_use]
    pub fn trust_in_fin(&self) -> FinTrust {
        match self.codes() {
            CodeAgreement::Both => FinTrust::End,
            CodeAgreement::None => FinTrust::EndOrCut,
        }
    }
}
