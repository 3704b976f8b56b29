//! A consumer's open: from an accepted local connection to a stream that a provider has accepted.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::carrying::keeping::OnSession;
use super::carrying::verdict::{Verdict, verdict};
use super::stream_facts::Facts;
use super::vault::AgentVault;
use super::vault::routes::{Route, Signal, Word};
use super::vault::session::Session;
use crate::agent::backoff::shortened;
use crate::config::agent::Consume;
use crate::core::frame::Frame;
use crate::core::ids::{Capabilities, Capability};
use crate::core::reject::{CodeAgreement, RejectCode, ResetCode};
use crate::net::framed::write_frame;
use crate::net::local_tcp::TcpSource;
use crate::net::pump::Source as _;
use crate::net::stream::{BiStream, End, WriteEnd};
use crate::proto::orp;

/// The pause before an open is made again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Why a stream did not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// STREAM_REJECT.
    #[error("rejected with {code} {reason:?}")]
    Rejected {
        /// A [`RejectCode`], or a later one.
        code: u32,
        /// The relay's words.
        reason: String,
    },
    /// There was no session to open it on.
    #[error("no session with a relay within {0:?}")]
    NoSession(Duration),
    /// No answer, or opens that the relay asked to be made again, until the time was over.
    #[error("not open within {0:?}")]
    TimedOut(Duration),
    /// The relay cut the stream before it was open.
    #[error("reset by the relay with {0}")]
    Reset(ResetCode),
    /// The relay ended the stream, and had not said that it was open.
    #[error("ended by the relay before it was open")]
    Unanswered,
    /// ALLOC_GRANTED.
    #[error("the rules ask for the forward plane, which this agent does not speak")]
    Forward,
    /// The application has closed its socket.
    #[error("the local client is gone")]
    LocalGone,
}

/// A stream that carries application bytes from here on.
#[derive(Debug)]
pub struct Open {
    /// The stream, past its OPEN_STREAM.
    pub stream: BiStream,
    /// Keeps the stream's id taken.
    pub route: Route,
    /// Whether reset codes are used on it.
    pub codes: CodeAgreement,
    /// The session on which it was opened.
    pub on: OnSession,
    /// Whether the provider is known to have accepted.
    pub answer: Answer,
}

/// Whether the relay has said that the provider accepts.
#[derive(Debug)]
pub enum Answer {
    /// It has: all bytes are the provider's.
    Ready {
        /// What the provider's agent named.
        peer: Capabilities,
    },
    /// A legacy relay does not say it before bytes flow: the stream's head tells, see [`legacy`](super::legacy).
    InBand(Word),
}

enum Attempt {
    Open(Box<Open>),
    /// Nothing was delivered: it may be made again.
    Again(&'static str),
}

/// Opens a stream for the application behind `local`. Nothing is read from it before the stream is open, so the open can be
/// made again, on another session if need be, until `timeouts.open` is over.
///
/// # Errors
/// Why there is no stream.
pub async fn open(
    vault: &AgentVault,
    consume: &Consume,
    local: &mut TcpSource,
    facts: &Facts,
) -> Result<Open, Refused> {
    let within = vault.config.timeouts.open;
    let deadline = Instant::now() + within;
    tokio::select! {
        open = attempts(vault, consume, facts, deadline) => open,
        _gone = local.reset_received() => Err(Refused::LocalGone),
        () = sleep_until(deadline) => {
            Err(if vault.session().is_some() { Refused::TimedOut(within) } else { Refused::NoSession(within) })
        }
    }
}

async fn attempts(vault: &AgentVault, consume: &Consume, facts: &Facts, deadline: Instant) -> Result<Open, Refused> {
    let mut sessions = vault.watch_session();
    let mut pause = FIRST_PAUSE;
    // Bounded by the caller's deadline.
    loop {
        // The sender is in the vault, so it cannot be gone.
        let session = sessions.wait_for(Option::is_some).await.ok().and_then(|session| session.clone());
        let Some(session) = session else { continue };
        match attempt(vault, &session, consume, facts, deadline).await? {
            Attempt::Open(open) => return Ok(*open),
            Attempt::Again(why) => {
                tracing::debug!(service = consume.name, why, "opening again");
                sleep(shortened(pause, rand::random())).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn attempt(
    vault: &AgentVault,
    session: &Arc<Session>,
    consume: &Consume,
    facts: &Facts,
    deadline: Instant,
) -> Result<Attempt, Refused> {
    let on = OnSession::new(Arc::clone(session), None);
    let (route, word) = vault.routes.add();
    facts.opening(route.id(), &session.relay);
    // A relay that lets us open no more streams is bounded by the deadline, like everything here.
    let (send, recv) = match timeout_at(deadline, session.quic.open_bi()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) => return Ok(Attempt::Again("the session ended")),
        Err(_elapsed) => return Err(Refused::TimedOut(vault.config.timeouts.open)),
    };
    let stream = BiStream::from_quic(&session.quic, send, recv, ResetCode::UNSPECIFIED);
    let mut stream = stream.within(&session.window);
    let open = Frame::OpenStream(orp::OpenStream {
        target_service: consume.name.clone(),
        method: consume.method.clone(),
        stream_id: route.id().0,
    });
    match write_frame(&mut stream.send, &open).await {
        Ok(()) => {}
        Err(WriteEnd::Lost) => return Ok(Attempt::Again("the session ended")),
        Err(WriteEnd::Stopped(code)) if verdict(code) == Verdict::Path => {
            return Ok(Attempt::Again("the relay asks for it"));
        }
        // What the relay has to say of it comes on another way.
        Err(WriteEnd::Stopped(_) | WriteEnd::Closed) => {}
    }
    if !session.answers_opens() {
        let codes = session.codes();
        return Ok(Attempt::Open(Box::new(Open { stream, route, codes, on, answer: Answer::InBand(word) })));
    }
    wait_for_answer(on, stream, route, word, facts).await
}

/// Nothing is written before the answer, and nothing is read: the provider's first bytes may be here already.
async fn wait_for_answer(
    on: OnSession,
    mut stream: BiStream,
    route: Route,
    mut word: Word,
    facts: &Facts,
) -> Result<Attempt, Refused> {
    let mut stopped = std::pin::pin!(stream.send.stopped());
    let mut listening = true;
    loop {
        // Biased: where a cut and STREAM_READY are here at once, an open that is made again is better than a stream that is cut.
        tokio::select! {
            biased;
            end = stream.recv.reset_received() => return match end {
                // With RETRY, and also where it was open for the relay already: nothing was written, so nothing was delivered.
                End::Reset(code) if verdict(code) == Verdict::Path => Ok(Attempt::Again("the relay asks for it")),
                End::Reset(code) => Err(Refused::Reset(code)),
                End::Lost | End::Fin => Ok(Attempt::Again("the session ended")),
            },
            end = &mut stopped, if listening => match end {
                WriteEnd::Stopped(code) if verdict(code) == Verdict::Path => return Ok(Attempt::Again("the relay asks for it")),
                WriteEnd::Lost => return Ok(Attempt::Again("the session ended")),
                // A relay that rejects takes nothing more either; why it does stands on the control stream.
                _ => listening = false,
            },
            signal = word.signal() => return match signal {
                Signal::Ready { peer } => {
                    facts.peer_named(peer);
                    let codes = agreement(&on.session, Some(peer));
                    Ok(Attempt::Open(Box::new(Open { stream, route, codes, on, answer: Answer::Ready { peer } })))
                }
                Signal::Rejected { code, .. } if is_for_now(&on.session, code) => Ok(Attempt::Again("relays are changed")),
                Signal::Rejected { code, reason } => Err(Refused::Rejected { code, reason }),
                Signal::Forward => Err(Refused::Forward),
            },
        }
    }
}

/// Whether an open is refused only because agents are on their way from one relay to another: the old one takes nothing any
/// more, and at the new one the provider may not be registered yet.
fn is_for_now(session: &Session, code: u32) -> bool {
    let is = |known: RejectCode| code == known.code();
    let is_left = session.leave().is_some() && is(RejectCode::BadGateway);
    is_left || session.is_gathering() && (is(RejectCode::NotFound) || is(RejectCode::BadGateway))
}

/// Reset codes are used on a stream when both its agents know them (wire.md §9). A relay that does not tell what the other
/// end named, or has not yet, sees to it itself.
#[must_use]
pub fn agreement(session: &Session, peer: Option<Capabilities>) -> CodeAgreement {
    let is_told = session.features.contains(Capability::PeerCaps);
    match peer {
        Some(peer) if is_told && !peer.contains(Capability::ResumeCode) => CodeAgreement::None,
        _ => session.codes(),
    }
}
