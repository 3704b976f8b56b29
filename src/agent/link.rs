//! The link to the relays: dials, keeps the session, dials again; leaves a relay that drains for another one.
//!
//! | | |
//! |---|---|
//! | Owns | the task that dials, and those that serve each session, that in use and those whose relays drain: read control frames, accept streams, watch for silence, wait for the next REGISTER, tell how streams ended, take streams elsewhere |
//! | Receives | `Dialled`, `FrameReady` one at a time, `ReaderEnded`, `AcceptEnded`, `RegisterDue`, `Silent`, `Left` |
//! | Sends | streams that the relay opens to the supervisor of streams; what the relay says of our streams to the routes |
//! | Restart | permanent; it goes on with the sessions that are in the vault |
//! | Lost on crash | a dial in progress; the count of failures, so the next dial is made at once |
//!
//! The frame in hand is a lock on the session's reader: there is never a second one, and a killed actor gives it back unread.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::backoff::{self, Failures};
use super::dial;
use super::leaving::Leave;
use super::serving::Serving;
use super::silence;
use super::streams::StreamsHandle;
use super::vault::AgentVault;
use super::vault::routes::Signal;
use super::vault::session::Session;
use crate::clock::now_unix_ms;
use crate::config::agent::Backoff;
use crate::core::frame::Frame;
use crate::core::ids::{Capabilities, Capability, StreamId};
use crate::core::reject::ResetCode;
use crate::core::resume::Fields;
use crate::core::ticket;
use crate::net::framed::{ControlReader, FrameReadError};
use crate::proto::orp;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};

/// The longest pause between two dials while streams live.
const URGENT: Duration = Duration::from_secs(1);

/// Messages of the link. Those about a session carry its number: what an ended one still says is dropped.
#[derive(Debug)]
pub enum LinkMsg {
    /// A round of relays is over.
    Dialled(Result<Round, Panicked>),
    /// A whole frame stands in the reader, which is locked for whoever deals with it.
    FrameReady(u64, OwnedMutexGuard<ControlReader>),
    /// The control stream ended, or broke a rule.
    ReaderEnded(u64, Result<FrameReadError, Panicked>),
    /// The connection is closed.
    AcceptEnded(u64, Result<quinn::ConnectionError, Panicked>),
    /// A REGISTER is due, or its answer is overdue.
    RegisterDue(u64, Result<(), Panicked>),
    /// Nothing was heard of the relay for too long, while streams live.
    Silent(u64, Result<(), Panicked>),
    /// The relay drains, and nothing is left on its session.
    Left(u64, Result<(), Panicked>),
}

/// What a round of relays came to.
#[derive(Debug)]
pub enum Round {
    /// A relay has answered.
    Session(Arc<Session>),
    /// None of them has.
    Nobody,
    /// There is no relay but those that drain, and their sessions stand.
    NowhereToGo,
}

/// What the link is started with.
#[derive(Debug, Clone)]
pub struct LinkArgs {
    /// Its own address.
    pub slot: Slot<LinkMsg>,
    /// Where the session is kept.
    pub vault: Arc<AgentVault>,
    /// Who serves the streams that the relay opens.
    pub streams: StreamsHandle,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Link;

/// What the link holds while it runs.
#[derive(Debug)]
pub struct LinkState {
    args: LinkArgs,
    /// While there is no session in use.
    dialling: Option<Dialling>,
    /// The session in use, and those that are left.
    serving: Vec<Serving>,
    /// Rounds in which no relay answered.
    rounds: Failures,
    /// Sessions that ended soon after they started.
    short: Failures,
}

#[derive(Debug)]
struct Dialling {
    begins_at: Instant,
    _task: Owned,
}

/// What was said about a session.
enum Said {
    Frame(OwnedMutexGuard<ControlReader>),
    Ended(FrameReadError),
    Closed(String),
    Silent,
    RegisterDue,
}

/// Why a session cannot go on.
enum Over {
    /// Its connection is closed with this code and reason.
    Ends(ResetCode, String),
    /// Nothing was heard for [`silence::DEAD`].
    Silent,
}

impl Over {
    /// What the connection is closed with.
    fn into_close(self) -> (ResetCode, String) {
        match self {
            Self::Ends(code, why) => (code, why),
            Self::Silent => (ResetCode::UNSPECIFIED, format!("nothing was heard for {:?}", silence::DEAD)),
        }
    }
}

impl Actor for Link {
    type Msg = LinkMsg;
    type State = LinkState;
    type Arguments = LinkArgs;

    async fn pre_start(&self, _myself: ActorRef<LinkMsg>, args: LinkArgs) -> Result<LinkState, ActorProcessingErr> {
        describe(&args);
        let (in_use, leaving) = (args.vault.session(), args.vault.leaving());
        let is_dialling = in_use.is_none();
        let serving = leaving.into_iter().chain(in_use).map(|session| Serving::start(&args, session)).collect();
        let (rounds, short) = (Failures::default(), Failures::default());
        let mut state = LinkState { args, dialling: None, serving, rounds, short };
        if is_dialling {
            state.dial_at(0, Instant::now());
        }
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<LinkMsg>,
        message: LinkMsg,
        state: &mut LinkState,
    ) -> Result<(), ActorProcessingErr> {
        if let LinkMsg::Dialled(round) = message {
            state.on_dialled(round?);
        } else if let Some((number, over)) = state.on_session(message)? {
            state.end(number, over);
        }
        Ok(())
    }
}
impl LinkState {
    /// What is said about a session. Some: it is over.
    fn on_session(&mut self, message: LinkMsg) -> Result<Option<(u64, Over)>, Panicked> {
        let (number, said) = match message {
            LinkMsg::Dialled(_) => return Ok(None),
            LinkMsg::FrameReady(number, reader) => (number, Said::Frame(reader)),
            LinkMsg::ReaderEnded(number, end) => (number, Said::Ended(end?)),
            LinkMsg::AcceptEnded(number, end) => (number, Said::Closed(end?.to_string())),
            LinkMsg::RegisterDue(number, slept) => {
                slept?;
                (number, Said::RegisterDue)
            }
            LinkMsg::Silent(number, watched) => {
                watched?;
                (number, Said::Silent)
            }
            LinkMsg::Left(number, left) => {
                left?;
                (number, Said::Closed("moved".to_owned()))
            }
        };
        let Some(session) = self.of(number).map(|serving| Arc::clone(&serving.session)) else { return Ok(None) };
        let dealt = match said {
            Said::Frame(reader) => self.on_frame(&session, reader),
            Said::Ended(end) => Err(reader_ended(&session, &end)),
            Said::Closed(why) => Err(Over::Ends(ResetCode::UNSPECIFIED, why)),
            Said::Silent => Err(Over::Silent),
            Said::RegisterDue => self.on_register_due(&session),
        };
        Ok(dealt.err().map(|over| (number, over)))
    }

    fn of(&mut self, number: u64) -> Option<&mut Serving> {
        self.serving.iter_mut().find(|serving| serving.session.number == number)
    }

    fn dial_at(&mut self, first: usize, begins_at: Instant) {
        let vault = Arc::clone(&self.args.vault);
        let dial = async move {
            tokio::time::sleep_until(begins_at).await;
            // Only now: a session that was left may have ended meanwhile.
            let targets = vault.targets(first);
            if targets.is_empty() {
                return Round::NowhereToGo;
            }
            dial::round(&vault, targets).await.map_or(Round::Nobody, Round::Session)
        };
        self.dialling = Some(Dialling { begins_at, _task: task::owned(&self.args.slot, dial, LinkMsg::Dialled) });
    }

    fn on_dialled(&mut self, round: Round) {
        self.dialling = None;
        let session = match round {
            Round::Session(session) => session,
            Round::Nobody => {
                // While the relay that drains still stands, nobody waits.
                let backoff =
                    if self.serving.is_empty() { self.backoff() } else { self.args.vault.config.backoff.clone() };
                // The first round that fails is a failure, too: nothing is gained by asking the same relays again at once.
                let wait = self.rounds.next_wait(&backoff).max(backoff.initial / 2);
                tracing::warn!(?wait, "no relay could be reached: dialling again");
                return self.dial_at(0, Instant::now() + wait);
            }
            // One of those sessions may have ended meanwhile, and its end takes what has begun to dial for a round that goes on.
            Round::NowhereToGo if !self.args.vault.targets(0).is_empty() => return self.dial_at(0, Instant::now()),
            Round::NowhereToGo => {
                tracing::info!("no other relay to go to: waiting for this one's end");
                return;
            }
        };
        self.rounds.forget();
        self.args.vault.begin(Arc::clone(&session));
        self.serving.push(Serving::start(&self.args, session));
    }

    /// A session is over. Where none is in use any more: dials again, at once the first time. In the listed order, so that all
    /// agents of a deployment meet on the same relay; but not first the relay that has just sent this agent away.
    fn end(&mut self, number: u64, over: Over) {
        // Before it is closed from here.
        let closed = self.of(number).and_then(|serving| serving.session.quic.close_reason());
        let sent_away = matches!(closed, Some(quinn::ConnectionError::ApplicationClosed(_)));
        let was_silent = matches!(over, Over::Silent) || matches!(closed, Some(quinn::ConnectionError::TimedOut));
        self.serving.retain(|serving| serving.session.number != number);
        let vault = Arc::clone(&self.args.vault);
        let (code, why) = over.into_close();
        let Some(session) = vault.end(number, code, &why) else { return };
        let now = Instant::now();
        // A dial that has begun goes on: it asks who should be asked.
        if vault.session().is_some() || self.dialling.as_ref().is_some_and(|dialling| dialling.begins_at <= now) {
            return;
        }
        if session.since.elapsed() >= vault.config.backoff.max {
            self.short.forget();
        }
        let next = if sent_away { session.target.at.map_or(0, |at| at + 1) } else { 0 };
        // Not at once where a relay has drained: its other agents come, too.
        let begins_at = match session.leave() {
            Some(leave) => leave.dial_at(rand::random()).max(now),
            // To find out took longer than any pause while streams live.
            None if was_silent => now,
            None => {
                let backoff = self.backoff();
                now + self.short.next_wait(&backoff)
            }
        };
        self.rounds.forget();
        let planned = self.dialling.as_ref().map_or(begins_at, |dialling| dialling.begins_at);
        self.dial_at(next % vault.config.relays.len().max(1), begins_at.min(planned));
    }

    /// GOAWAY: the session is kept for what is on it, and another one is looked for (see [`leaving`](super::leaving)).
    fn on_goaway(&mut self, session: &Arc<Session>, goaway: &orp::GoAway) {
        let vault = &self.args.vault;
        let leave = Leave::new(goaway, Instant::now(), now_unix_ms(), vault.config.backoff.goaway_jitter);
        if !vault.leave(session, leave.clone()) {
            tracing::debug!(relay = %session.relay, "GOAWAY again");
            return;
        }
        let successors: Vec<_> = leave.successors.iter().map(ToString::to_string).collect();
        tracing::info!(
            relay = %session.relay,
            reason = ?leave.reason,
            ?successors,
            paths = session.paths(),
            within = ?leave.deadline.saturating_duration_since(leave.told),
            "relay drains: moving"
        );
        let args = self.args.clone();
        if let Some(serving) = self.of(session.number) {
            serving.leave(&args);
        }
        if args.vault.session().is_none() && self.dialling.is_none() {
            self.dial_at(0, leave.dial_at(rand::random()));
        }
    }

    /// The pauses between dials. Streams that live wait for a session, and not for long.
    fn backoff(&self) -> Backoff {
        let backoff = &self.args.vault.config.backoff;
        if *self.args.vault.watch_live().borrow() > 0 { backoff::at_most(backoff, URGENT) } else { backoff.clone() }
    }

    fn on_frame(&mut self, session: &Arc<Session>, mut reader: OwnedMutexGuard<ControlReader>) -> Result<(), Over> {
        // Nothing awaits from here to the end, so no kill comes between what a frame does and its being consumed.
        match reader.peek() {
            Some(Ok(Frame::RegisterAck(_))) => self.on_registered(session),
            Some(Ok(Frame::StreamReject(reject))) if reject.stream_id == 0 => {
                self.on_register_refused(session, &reject)
            }
            Some(Ok(Frame::StreamReject(orp::StreamReject { code, reason, stream_id }))) => {
                self.tell(stream_id, Signal::Rejected { code, reason });
            }
            Some(Ok(Frame::StreamReady(ready))) => {
                let peer = Capabilities::from_names(&ready.peer_capabilities);
                let peer = if session.features.contains(Capability::PeerCaps) { peer } else { Capabilities::default() };
                // First: whoever hears that the stream is open has its ticket.
                self.keep_ticket(session, ready.stream_id, ready.ticket);
                self.tell(ready.stream_id, Signal::Ready { peer });
            }
            Some(Ok(Frame::Ticket(orp::Ticket { stream_id, ticket }))) => self.keep_ticket(session, stream_id, ticket),
            Some(Ok(Frame::StreamCheckpoint(checkpoint))) => {
                if !self.args.vault.routes.checkpoint(&Fields::from(&checkpoint)) {
                    tracing::debug!(stream = %checkpoint.stream_id, "checkpoint for no stream of ours");
                }
            }
            Some(Ok(Frame::ResumeWanted(wanted))) if session.features.contains(Capability::ResumeCall) => {
                let vault = Arc::clone(&self.args.vault);
                if let Some(serving) = self.of(session.number) {
                    serving.epilogues.on_wanted(&vault, session, StreamId(wanted.stream_id));
                }
            }
            Some(Ok(Frame::GoAway(goaway))) if session.features.contains(Capability::GoAway) => {
                self.on_goaway(session, &goaway);
            }
            Some(Ok(Frame::AllocGranted(granted))) => self.tell(granted.stream_id, Signal::Forward),
            Some(Ok(Frame::Ping)) => session.send_control(&Frame::Pong),
            Some(Ok(Frame::Pong)) | None => {}
            Some(Ok(other)) => {
                if session.first_unknown() {
                    tracing::warn!(relay = %session.relay, frame = ?other.frame_type(), "frame skipped: not served by an agent");
                }
            }
            Some(Err(error)) => return Err(Over::Ends(ResetCode::PROTOCOL, error.to_string())),
        }
        reader.consume();
        drop(reader);
        self.register(session);
        Ok(())
    }

    fn on_registered(&self, session: &Session) {
        match session.register_acknowledged() {
            Some(service) => tracing::info!(%service, relay = %session.relay, "service registered"),
            None => tracing::debug!(relay = %session.relay, "REGISTER_ACK for nothing"),
        }
    }

    /// Not the end of the session: other services go on, and this one is tried again.
    fn on_register_refused(&self, session: &Session, reject: &orp::StreamReject) {
        let orp::StreamReject { code, reason, .. } = reject;
        match session.register_refused(&self.args.vault.config.backoff) {
            Some((service, retry_in)) => {
                tracing::warn!(%service, relay = %session.relay, code, ?reason, ?retry_in, "REGISTER refused");
            }
            None => tracing::warn!(relay = %session.relay, code, ?reason, "rejected, but nothing was asked"),
        }
    }

    fn on_register_due(&mut self, session: &Session) -> Result<(), Over> {
        if session.register_overdue() {
            let within = self.args.vault.config.timeouts.hello;
            return Err(Over::Ends(ResetCode::PROTOCOL, format!("REGISTER was not answered within {within:?}")));
        }
        self.register(session);
        Ok(())
    }

    fn register(&mut self, session: &Session) {
        let args = self.args.clone();
        if let Some(serving) = self.of(session.number) {
            serving.register_next(&args);
        }
    }

    /// What is longer than a ticket can be is none.
    fn keep_ticket(&self, session: &Session, stream_id: u64, ticket: Vec<u8>) {
        let is_one = (1..=ticket::MAX_BYTES).contains(&ticket.len());
        if is_one && session.features.contains(Capability::ResumeTicket) {
            self.args.vault.routes.keep_ticket(StreamId(stream_id), &ticket.into());
        }
    }

    fn tell(&self, stream_id: u64, signal: Signal) {
        let name = match &signal {
            Signal::Ready { .. } => "STREAM_READY",
            Signal::Rejected { .. } => "STREAM_REJECT",
            Signal::Forward => "ALLOC_GRANTED",
        };
        if !self.args.vault.routes.tell(StreamId(stream_id), signal) {
            tracing::debug!(stream = %stream_id, frame = name, "no stream of ours waits for this");
        }
    }
}

fn reader_ended(session: &Session, end: &FrameReadError) -> Over {
    if let Some(closed) = session.quic.close_reason() {
        return Over::Ends(ResetCode::UNSPECIFIED, closed.to_string());
    }
    Over::Ends(ResetCode::PROTOCOL, format!("control stream: {end}"))
}

fn describe(args: &LinkArgs) {
    // Weak: the vault must not be kept by what describes it.
    let vault = Arc::downgrade(&args.vault);
    args.slot.node().describe(move || {
        let Some(vault) = vault.upgrade() else { return serde_json::Value::Null };
        let leaving: Vec<_> = vault.leaving().iter().map(|session| session.to_json()).collect();
        let mut shown = vault.session().map_or_else(|| serde_json::json!({ "session": null }), |it| it.to_json());
        if !leaving.is_empty() {
            shown["leaving"] = leaving.into();
        }
        shown
    });
}
