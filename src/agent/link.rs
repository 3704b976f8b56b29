//! The link to the relays: dials, keeps the session, dials again.
//!
//! | | |
//! |---|---|
//! | Owns | the task that dials, or those that serve the session: read control frames, accept streams, watch for silence, wait for the next REGISTER, tell how streams ended |
//! | Receives | `Dialled`, `FrameReady` one at a time, `ReaderEnded`, `AcceptEnded`, `RegisterDue`, `Silent` |
//! | Sends | streams that the relay opens to the supervisor of streams; what the relay says of our streams to the routes |
//! | Restart | permanent; it goes on with the session that is in the vault |
//! | Lost on crash | a dial in progress; the count of failures, so the next dial is made at once |
//!
//! The frame in hand is a lock on the session's reader: there is never a second one, and a killed actor gives it back unread.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::backoff::Failures;
use super::epilogue::Epilogues;
use super::streams::StreamsHandle;
use super::vault::AgentVault;
use super::vault::routes::Signal;
use super::vault::session::Session;
use super::{dial, silence};
use crate::core::frame::Frame;
use crate::core::ids::{Capabilities, Capability, StreamId};
use crate::core::reject::ResetCode;
use crate::core::resume::Fields;
use crate::core::ticket;
use crate::net::framed::{ControlReader, FrameReadError};
use crate::net::stream::BiStream;
use crate::proto::orp;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};

/// The longest pause between two dials while streams live.
const URGENT: Duration = Duration::from_secs(1);

/// Messages of the link. Those about a session carry its number: what an ended one still says is dropped.
#[derive(Debug)]
pub enum LinkMsg {
    /// A round of relays is over: a session, or none.
    Dialled(Result<Option<Arc<Session>>, Panicked>),
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
    work: Work,
    /// Rounds in which no relay answered.
    rounds: Failures,
    /// Sessions that ended soon after they started.
    short: Failures,
}

#[derive(Debug)]
enum Work {
    Dialling {
        _task: Owned,
    },
    Serving {
        session: Arc<Session>,
        _reader: Owned,
        _accept: Owned,
        _silence: Owned,
        register: Option<Owned>,
        epilogues: Epilogues,
    },
}

/// The session cannot go on: the connection is closed with this code and reason.
struct Over(ResetCode, String);

impl Actor for Link {
    type Msg = LinkMsg;
    type State = LinkState;
    type Arguments = LinkArgs;

    async fn pre_start(&self, _myself: ActorRef<LinkMsg>, args: LinkArgs) -> Result<LinkState, ActorProcessingErr> {
        describe(&args);
        let work = match args.vault.session() {
            Some(session) => serve(&args, session),
            None => dial_after(&args, 0, Duration::ZERO),
        };
        Ok(LinkState { args, work, rounds: Failures::default(), short: Failures::default() })
    }

    async fn handle(
        &self,
        _myself: ActorRef<LinkMsg>,
        message: LinkMsg,
        state: &mut LinkState,
    ) -> Result<(), ActorProcessingErr> {
        let over = match message {
            LinkMsg::Dialled(session) => {
                state.on_dialled(session?);
                return Ok(());
            }
            LinkMsg::FrameReady(number, reader) => match state.serving(number) {
                Some(session) => state.on_frame(&session, reader),
                None => return Ok(()),
            },
            LinkMsg::ReaderEnded(number, end) => match (state.serving(number), end?) {
                (Some(session), end) => Err(reader_ended(&session, &end)),
                (None, _) => return Ok(()),
            },
            LinkMsg::AcceptEnded(number, end) => match (state.serving(number), end?) {
                (Some(_), end) => Err(Over(ResetCode::UNSPECIFIED, end.to_string())),
                (None, _) => return Ok(()),
            },
            LinkMsg::RegisterDue(number, slept) => match (state.serving(number), slept?) {
                (Some(session), ()) => state.on_register_due(&session),
                (None, ()) => return Ok(()),
            },
            LinkMsg::Silent(number, watched) => match (state.serving(number), watched?) {
                (Some(_), ()) => {
                    Err(Over(ResetCode::UNSPECIFIED, format!("nothing was heard for {:?}", silence::DEAD)))
                }
                (None, ()) => return Ok(()),
            },
        };
        if let Err(Over(code, why)) = over {
            state.end(code, &why);
        }
        Ok(())
    }
}

impl LinkState {
    fn serving(&self, number: u64) -> Option<Arc<Session>> {
        match &self.work {
            Work::Serving { session, .. } if session.number == number => Some(Arc::clone(session)),
            _ => None,
        }
    }

    fn on_dialled(&mut self, session: Option<Arc<Session>>) {
        self.work = match session {
            Some(session) => {
                self.rounds.forget();
                self.args.vault.begin(Arc::clone(&session));
                serve(&self.args, session)
            }
            None => {
                // The first round that fails is a failure, too: nothing is gained by asking the same relays again at once.
                let backoff = &self.args.vault.config.backoff;
                let wait = self.rounds.next_wait(backoff).max(backoff.initial / 2);
                let wait = self.urgent(wait);
                tracing::warn!(?wait, "no relay could be reached: dialling again");
                dial_after(&self.args, 0, wait)
            }
        };
    }

    /// The session is over: dials again, at once the first time. In the listed order, so that all agents of a deployment
    /// meet on the same relay; but not first the relay that has just sent this agent away.
    fn end(&mut self, code: ResetCode, why: &str) {
        let vault = &self.args.vault;
        let closed = vault.session().and_then(|session| session.quic.close_reason());
        let sent_away = matches!(closed, Some(quinn::ConnectionError::ApplicationClosed(_)));
        let (at, lasted) = match vault.end(code, why) {
            Some(session) => (session.at, session.since.elapsed()),
            None => (0, Duration::ZERO),
        };
        if lasted >= vault.config.backoff.max {
            self.short.forget();
        }
        let next = if sent_away { at + 1 } else { 0 };
        let wait = self.short.next_wait(&vault.config.backoff);
        let wait = self.urgent(wait);
        self.work = dial_after(&self.args, next % vault.config.relays.len().max(1), wait);
    }

    /// Streams that live wait for a session, and not for long.
    fn urgent(&self, wait: Duration) -> Duration {
        if *self.args.vault.watch_live().borrow() > 0 { wait.min(URGENT) } else { wait }
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
                    tracing::debug!(stream = checkpoint.stream_id, "checkpoint for no stream of ours");
                }
            }
            Some(Ok(Frame::ResumeWanted(wanted))) if session.features.contains(Capability::ResumeCall) => {
                if let Work::Serving { epilogues, .. } = &mut self.work {
                    epilogues.on_wanted(&self.args.vault, session, StreamId(wanted.stream_id));
                }
            }
            Some(Ok(Frame::AllocGranted(granted))) => self.tell(granted.stream_id, Signal::Forward),
            Some(Ok(Frame::Ping)) => session.send_control(&Frame::Pong),
            Some(Ok(Frame::Pong)) | None => {}
            Some(Ok(other)) => {
                if session.first_unknown() {
                    tracing::warn!(relay = %session.relay, frame = ?other.frame_type(), "frame skipped: not served by an agent");
                }
            }
            Some(Err(error)) => return Err(Over(ResetCode::PROTOCOL, error.to_string())),
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
            return Err(Over(ResetCode::PROTOCOL, format!("REGISTER was not answered within {within:?}")));
        }
        self.register(session);
        Ok(())
    }

    fn register(&mut self, session: &Session) {
        if let Work::Serving { register, .. } = &mut self.work {
            *register = register_next(&self.args, session);
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
            tracing::debug!(stream = stream_id, frame = name, "no stream of ours waits for this");
        }
    }
}

fn reader_ended(session: &Session, end: &FrameReadError) -> Over {
    if let Some(closed) = session.quic.close_reason() {
        return Over(ResetCode::UNSPECIFIED, closed.to_string());
    }
    Over(ResetCode::PROTOCOL, format!("control stream: {end}"))
}

fn dial_after(args: &LinkArgs, first: usize, wait: Duration) -> Work {
    let vault = Arc::clone(&args.vault);
    let dial = async move {
        tokio::time::sleep(wait).await;
        dial::round(&vault, first).await
    };
    Work::Dialling { _task: task::owned(&args.slot, dial, LinkMsg::Dialled) }
}

fn serve(args: &LinkArgs, session: Arc<Session>) -> Work {
    let number = session.number;
    let reader = read(args.slot.clone(), Arc::clone(&session));
    let accept = accept(args.clone(), Arc::clone(&session));
    let silence = silence::watch(Arc::clone(&session), args.vault.watch_live());
    Work::Serving {
        _reader: task::owned(&args.slot, reader, move |end| LinkMsg::ReaderEnded(number, end)),
        _accept: task::owned(&args.slot, accept, move |end| LinkMsg::AcceptEnded(number, end)),
        _silence: task::owned(&args.slot, silence, move |end| LinkMsg::Silent(number, end)),
        epilogues: Epilogues::default(),
        register: register_next(args, &session),
        session,
    }
}

/// Sends what is due, and waits for what will be.
fn register_next(args: &LinkArgs, session: &Session) -> Option<Owned> {
    let wake_at: Instant = session.register_next(args.vault.config.timeouts.hello)?;
    let number = session.number;
    Some(task::owned(&args.slot, tokio::time::sleep_until(wake_at), move |slept| LinkMsg::RegisterDue(number, slept)))
}

/// Hands over whole frames, one at a time, until the stream ends. The end is the result.
async fn read(slot: Slot<LinkMsg>, session: Arc<Session>) -> FrameReadError {
    loop {
        let mut locked = Arc::clone(&session.reader).lock_owned().await;
        if let Err(end) = locked.fill().await {
            return end;
        }
        if slot.cast(LinkMsg::FrameReady(session.number, locked)).is_err() {
            // Our actor is gone, and this task is about to be aborted.
            std::future::pending::<()>().await;
        }
    }
}

/// Hands over the streams that the relay opens, until the connection is closed. Not a byte is read here.
async fn accept(args: LinkArgs, session: Arc<Session>) -> quinn::ConnectionError {
    let code = |code: ResetCode| code.for_peer(session.codes());
    loop {
        let (send, recv) = match session.quic.accept_bi().await {
            Ok(stream) => stream,
            Err(end) => return end,
        };
        let stream = BiStream::from_quic(&session.quic, send, recv, code(ResetCode::RETRY));
        let mut stream = stream.within(&session.window);
        match (args.vault.place(), session.streams.take()) {
            (Some(place), Some(stream_use)) => args.streams.provide(&args.vault, &session, stream, stream_use, place),
            _ => stream.set_drop_code(code(ResetCode::LIMIT)),
        }
    }
}

fn describe(args: &LinkArgs) {
    // Weak: the vault must not be kept by what describes it.
    let vault = Arc::downgrade(&args.vault);
    args.slot.node().describe(move || {
        let Some(vault) = vault.upgrade() else { return serde_json::Value::Null };
        let Some(session) = vault.session() else { return serde_json::json!({ "session": null }) };
        let (streams, limit) = session.streams.usage();
        serde_json::json!({
            "session": session.number,
            "relay": session.relay.as_str(),
            "address": vault.config.relays.get(session.at).map(ToString::to_string),
            "remote": session.remote_addr().to_string(),
            "features": session.features.names(),
            "registered": session.registrations.names(),
            "streams_from_relay": streams,
            "streams_limit": limit,
            "rtt_us": u64::try_from(session.quic.rtt().as_micros()).unwrap_or(u64::MAX),
        })
    });
}
