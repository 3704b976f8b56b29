//! One stream, of either side: from the local client's connect, or the relay's INCOMING_STREAM, to its end.
//!
//! | | |
//! |---|---|
//! | Owns | the task that opens it; then both pump tasks, and through them the local socket and the relay's stream |
//! | Receives | `Opened`, `Served`, and the ends of its two directions |
//! | Sends | nothing |
//! | Restart | temporary: a stream cannot be continued by an actor that does not know what was written |
//! | Lost on crash | the stream: the local socket is reset (RST) and so is the relay's stream; never a clean end |
//!
//! No byte passes through the mailbox.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::OwnedSemaphorePermit;

use crate::agent::incoming::{self, Accepted, NotServed};
use crate::agent::legacy::{self, Headed, Judged};
use crate::agent::opening::{self, Answer, Open, Refused};
use crate::agent::stream_facts::{Facts, Role};
use crate::agent::vault::routes::Route;
use crate::agent::vault::session::Session;
use crate::agent::vault::{AgentVault, Offer};
use crate::core::reject::{CodeAgreement, ResetCode};
use crate::net::local_tcp::{TcpSink, TcpSource};
use crate::net::pump::{self, PumpCodes, PumpCount, PumpEnd, Sink, Source};
use crate::net::stream::{BiStream, RecvHalf};
use crate::net::stream_limit::StreamUse;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};

/// Where a stream comes from.
#[derive(Debug)]
pub enum Origin {
    /// A local client: this agent is the consumer.
    Local {
        /// Where it connected.
        offer: Arc<Offer>,
        /// What it sends.
        source: TcpSource,
        /// What it receives.
        sink: TcpSink,
    },
    /// The relay: this agent is the provider.
    Relay {
        /// On which session.
        session: Arc<Session>,
        /// The stream; not one byte of it was read.
        stream: BiStream,
        /// It counts toward the session's limit.
        stream_use: StreamUse,
    },
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the local socket to the relay.
    ToRelay,
    /// From the relay to the local socket.
    FromRelay,
}

/// How a direction ended.
#[derive(Debug)]
pub enum LaneEnd {
    /// Its pump did.
    Pumped(PumpEnd),
    /// It never began: a legacy relay has refused the stream, in band.
    Refused(Refused),
}

/// What came of a consumer's open.
#[derive(Debug)]
pub struct Opened {
    local: (TcpSource, TcpSink),
    open: Result<Open, Refused>,
}

/// What came of a provider's answer.
#[derive(Debug)]
pub struct Served {
    session: Arc<Session>,
    stream_use: StreamUse,
    accepted: Result<Accepted, NotServed>,
}

/// Messages of a stream.
#[derive(Debug)]
pub enum StreamMsg {
    /// The consumer's open came to an end; the local client's socket comes back with it.
    Opened(Result<Opened, Panicked>),
    /// The provider's answer was given.
    Served(Result<Served, Panicked>),
    /// One direction has ended.
    LaneEnded(Direction, Result<LaneEnd, Panicked>),
}

/// What a stream is started with.
#[derive(Debug)]
pub struct StreamArgs {
    /// Its own address.
    pub slot: Slot<StreamMsg>,
    /// The session and the deadlines.
    pub vault: Arc<AgentVault>,
    /// Where it comes from.
    pub origin: Origin,
    /// Its place among the streams that may live at once.
    pub place: OwnedSemaphorePermit,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Stream;

/// What a stream holds while it runs.
#[derive(Debug)]
pub struct StreamState {
    slot: Slot<StreamMsg>,
    facts: Arc<Facts>,
    work: Work,
    outcome: Outcome,
    _stream_use: Option<StreamUse>,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Work {
    Opening { _task: Owned },
    Pumping { _to_relay: Owned, _from_relay: Owned },
}

/// What the line at the stream's end says.
#[derive(Debug, Default)]
struct Outcome {
    refused: Option<String>,
    to_relay: Option<PumpEnd>,
    from_relay: Option<PumpEnd>,
}

impl Outcome {
    fn text(&self) -> String {
        if let Some(refused) = &self.refused {
            return refused.clone();
        }
        match (self.to_relay, self.from_relay) {
            (Some(PumpEnd::Fin), Some(PumpEnd::Fin)) => "complete".to_owned(),
            (to_relay, from_relay) => {
                let text = |end: Option<PumpEnd>| end.map_or_else(|| "cut".to_owned(), |end| end.to_string());
                format!("to relay: {}; from relay: {}", text(to_relay), text(from_relay))
            }
        }
    }
}

impl Actor for Stream {
    type Msg = StreamMsg;
    type State = StreamState;
    type Arguments = StreamArgs;

    async fn pre_start(
        &self,
        _myself: ActorRef<StreamMsg>,
        StreamArgs { slot, vault, origin, place }: StreamArgs,
    ) -> Result<StreamState, ActorProcessingErr> {
        let facts = match &origin {
            Origin::Local { offer, .. } => Facts::new(Role::Consumer, &offer.consume.name, &offer.consume.method),
            Origin::Relay { .. } => Facts::new(Role::Provider, "", ""),
        };
        let described = Arc::clone(&facts);
        slot.node().describe(move || described.to_json());
        Ok(StreamState {
            work: Work::Opening { _task: begin(&slot, vault, origin, Arc::clone(&facts)) },
            slot,
            facts,
            outcome: Outcome::default(),
            _stream_use: None,
            _place: place,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<StreamMsg>,
        message: StreamMsg,
        state: &mut StreamState,
    ) -> Result<(), ActorProcessingErr> {
        // A task that panicked fails the stream: both its ends are reset.
        let progress = match message {
            StreamMsg::Opened(opened) => state.on_opened(opened?),
            StreamMsg::Served(served) => state.on_served(served?),
            StreamMsg::LaneEnded(direction, end) => state.on_lane_ended(direction, end?),
        };
        if progress == Progress::Done {
            myself.stop(None);
        }
        Ok(())
    }
}

/// Whether the actor has more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waiting,
    Done,
}

impl StreamState {
    fn on_opened(&mut self, Opened { local: (source, sink), open }: Opened) -> Progress {
        let Open { stream, route, codes, answer } = match open {
            Ok(open) => open,
            // Dropping the two resets the local socket.
            Err(refused) => return self.refused(refused.to_string()),
        };
        let BiStream { send, recv } = prepared(stream, codes);
        let to_relay = lane(source, send, &self.facts.to_relay, codes);
        let from_relay = from_relay(recv, sink, Arc::clone(&self.facts.from_relay), codes, route, answer);
        self.pump(to_relay, from_relay);
        Progress::Waiting
    }

    fn on_served(&mut self, Served { session, stream_use, accepted }: Served) -> Progress {
        let Accepted { stream, local: (source, sink) } = match accepted {
            Ok(accepted) => accepted,
            Err(why) => return self.refused(why.to_string()),
        };
        self._stream_use = Some(stream_use);
        let codes = session.codes();
        let BiStream { send, recv } = prepared(stream, codes);
        let to_relay = lane(source, send, &self.facts.to_relay, codes);
        let from_relay = lane(recv, sink, &self.facts.from_relay, codes);
        self.pump(to_relay, from_relay);
        Progress::Waiting
    }

    fn pump(
        &mut self,
        to_relay: impl Future<Output = LaneEnd> + Send + 'static,
        from_relay: impl Future<Output = LaneEnd> + Send + 'static,
    ) {
        let ended = |direction| move |end| StreamMsg::LaneEnded(direction, end);
        self.work = Work::Pumping {
            _to_relay: task::owned(&self.slot, to_relay, ended(Direction::ToRelay)),
            _from_relay: task::owned(&self.slot, from_relay, ended(Direction::FromRelay)),
        };
    }

    fn on_lane_ended(&mut self, direction: Direction, end: LaneEnd) -> Progress {
        let end = match end {
            LaneEnd::Pumped(end) => end,
            LaneEnd::Refused(refused) => return self.refused(refused.to_string()),
        };
        match direction {
            Direction::ToRelay => self.outcome.to_relay = Some(end),
            Direction::FromRelay => self.outcome.from_relay = Some(end),
        }
        // A pump has told its own two sides, and a local socket that is cut one way is cut both ways.
        if self.outcome.to_relay.is_some() && self.outcome.from_relay.is_some() {
            Progress::Done
        } else {
            Progress::Waiting
        }
    }

    fn refused(&mut self, why: String) -> Progress {
        self.outcome.refused = Some(why);
        Progress::Done
    }
}

fn begin(slot: &Slot<StreamMsg>, vault: Arc<AgentVault>, origin: Origin, facts: Arc<Facts>) -> Owned {
    match origin {
        Origin::Local { offer, mut source, sink } => {
            let open = async move {
                let open = opening::open(&vault, &offer.consume, &mut source, &facts).await;
                Opened { local: (source, sink), open }
            };
            task::owned(slot, open, StreamMsg::Opened)
        }
        Origin::Relay { session, stream, stream_use } => {
            let serve = async move {
                let accepted = incoming::answer(&vault, &session, stream, &facts).await;
                Served { session, stream_use, accepted }
            };
            task::owned(slot, serve, StreamMsg::Served)
        }
    }
}

/// What a stream says when its actor dies: its local socket is reset, so to the other end it is the application's reset.
fn prepared(mut stream: BiStream, codes: CodeAgreement) -> BiStream {
    stream.set_drop_code(ResetCode::APPLICATION.for_peer(codes));
    stream
}

fn lane(
    source: impl Source + 'static,
    sink: impl Sink + 'static,
    count: &Arc<PumpCount>,
    codes: CodeAgreement,
) -> impl Future<Output = LaneEnd> + Send + 'static {
    let count = Arc::clone(count);
    // A local socket has no codes of its own: its reset is an application's. `lost` only ever goes to a local socket.
    let codes = PumpCodes {
        map: move |code: ResetCode| code.for_peer(codes),
        lost: ResetCode::UNSPECIFIED,
        limit: ResetCode::LIMIT.for_peer(codes),
    };
    async move { LaneEnd::Pumped(pump::pump(source, sink, &count, codes).await) }
}

/// From the relay to the local client. The stream's id stays taken until then.
async fn from_relay(
    recv: RecvHalf,
    sink: TcpSink,
    count: Arc<PumpCount>,
    codes: CodeAgreement,
    mut route: Route,
    answer: Answer,
) -> LaneEnd {
    let source = match answer {
        Answer::Ready => Headed::untouched(recv),
        Answer::InBand => {
            let stopped = sink.stopped();
            let judged = tokio::select! {
                judged = legacy::judge(recv, &mut route) => judged,
                _gone = stopped => return LaneEnd::Pumped(PumpEnd::SinkStopped(ResetCode::APPLICATION)),
            };
            match judged {
                Judged::Raw(source) => source,
                // Returning drops the sink, which resets the local socket.
                Judged::Rejected { code, reason } => return LaneEnd::Refused(Refused::Rejected { code, reason }),
                Judged::Forward => return LaneEnd::Refused(Refused::Forward),
            }
        }
    };
    let end = lane(source, sink, &count, codes).await;
    drop(route);
    end
}

/// The one line that an operator gets per stream. Written however the stream ends.
impl Drop for StreamState {
    fn drop(&mut self) {
        tracing::info!(
            stream = %self.facts.id(),
            service = self.facts.service(),
            role = ?self.facts.role,
            bytes_to_relay = self.facts.to_relay.bytes(),
            bytes_from_relay = self.facts.from_relay.bytes(),
            duration = ?self.facts.since.elapsed(),
            outcome = self.outcome.text(),
            "stream ended"
        );
    }
}
