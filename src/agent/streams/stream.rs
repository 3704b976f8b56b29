//! One stream, of either side: from the local client's connect, or the relay's INCOMING_STREAM, to its end.
//!
//! | | |
//! |---|---|
//! | Owns | the task that opens it; then the two that copy and the one that keeps it, and through them the local socket and the path |
//! | Receives | `Opened`, `Served`, and the ends of its tasks |
//! | Sends | nothing |
//! | Restart | temporary: a stream cannot be continued by an actor that does not know what was written |
//! | Lost on crash | the stream: the local socket is reset (RST) and so is the path; never a clean end |
//!
//! No byte passes through the mailbox. The path may be lost and replaced without this actor: see [`carrying`].

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::OwnedSemaphorePermit;

use crate::agent::carrying::keeping::{self, OnSession};
use crate::agent::carrying::receiving::{self, Head};
use crate::agent::carrying::{self, Carried, PathHalf, sending};
use crate::agent::incoming::{self, Accepted, NotServed};
use crate::agent::opening::{self, Answer, Open, Refused};
use crate::agent::stream_facts::{Facts, Role};
use crate::agent::vault::routes::Route;
use crate::agent::vault::{AgentVault, Life, Offer};
use crate::core::ids::Capabilities;
use crate::core::reject::{CodeAgreement, ResetCode};
use crate::core::resume::endpoint::Epoch;
use crate::net::local_tcp::{TcpSink, TcpSource};
use crate::net::stream::BiStream;
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
        on: OnSession,
        /// The stream; not one byte of it was read.
        stream: BiStream,
    },
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
    on: OnSession,
    accepted: Result<Accepted, NotServed>,
}

/// Messages of a stream.
#[derive(Debug)]
pub enum StreamMsg {
    /// The consumer's open came to an end; the local client's socket comes back with it.
    Opened(Result<Opened, Panicked>),
    /// The provider's answer was given.
    Served(Result<Served, Panicked>),
    /// One of the tasks that copy has ended.
    LaneEnded(Result<(), Panicked>),
    /// The stream is over.
    Over(Result<(), Panicked>),
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
    vault: Arc<AgentVault>,
    facts: Arc<Facts>,
    work: Work,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Work {
    Opening { _task: Owned },
    Refused(String),
    Carrying { carried: Arc<Carried>, _lanes: [Owned; 2], _keeper: Owned, _route: Route, _life: Life },
}

/// A stream that is open, on its first path.
struct First {
    stream: BiStream,
    local: (TcpSource, TcpSink),
    route: Route,
    codes: CodeAgreement,
    on: OnSession,
    peer: Option<Capabilities>,
    head: Head,
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
            work: Work::Opening { _task: begin(&slot, Arc::clone(&vault), origin, Arc::clone(&facts)) },
            slot,
            vault,
            facts,
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
            // Why stands with what the tasks share, and its keeper draws the conclusion.
            StreamMsg::LaneEnded(end) => end.map(|()| Progress::Waiting)?,
            StreamMsg::Over(end) => end.map(|()| Progress::Done)?,
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
    fn on_opened(&mut self, Opened { local, open }: Opened) -> Progress {
        let Open { stream, route, codes, on, answer } = match open {
            Ok(open) => open,
            // Dropping the two resets the local socket.
            Err(refused) => return self.refused(refused.to_string()),
        };
        let (peer, head) = match answer {
            Answer::Ready { peer } => (Some(peer), Head::Bytes),
            Answer::InBand(word) => (None, Head::Unknown(word)),
        };
        self.carry(Role::Consumer, First { stream, local, route, codes, on, peer, head })
    }

    fn on_served(&mut self, Served { on, accepted }: Served) -> Progress {
        let Accepted { stream, local, route } = match accepted {
            Ok(accepted) => accepted,
            Err(why) => return self.refused(why.to_string()),
        };
        let codes = on.session.codes();
        self.carry(Role::Provider, First { stream, local, route, codes, on, peer: None, head: Head::Bytes })
    }

    fn carry(&mut self, role: Role, first: First) -> Progress {
        let First { mut stream, local: (source, sink), route, codes, on, peer, head } = first;
        // What is said when the actor dies: the local socket is reset, so to the other end it is the application's reset.
        stream.set_drop_code(ResetCode::APPLICATION.for_peer(codes));
        let (vault, session) = (&self.vault, &on.session);
        let carried = Carried::new(role, route.resumable_id(), vault.ring(), vault.clock, session, peer);
        self.facts.carries(&carried);
        let (epoch, fin) = (Epoch::FIRST, session.trust_in_fin());
        let BiStream { send, recv } = stream;
        let to_path = sending::run(Arc::clone(&carried), source, PathHalf { epoch, half: send, codes, fin });
        let from_path = receiving::run(Arc::clone(&carried), sink, PathHalf { epoch, half: recv, codes, fin }, head);
        let keeper = keeping::run(Arc::clone(&carried), Arc::clone(vault), on);
        route.attach(&carried);
        self.work = Work::Carrying {
            carried,
            _lanes: [
                task::owned(&self.slot, to_path, StreamMsg::LaneEnded),
                task::owned(&self.slot, from_path, StreamMsg::LaneEnded),
            ],
            _keeper: task::owned(&self.slot, keeper, StreamMsg::Over),
            _route: route,
            _life: vault.lives(),
        };
        Progress::Waiting
    }

    fn refused(&mut self, why: String) -> Progress {
        self.work = Work::Refused(why);
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
        Origin::Relay { on, stream } => {
            let serve = async move {
                let accepted = incoming::answer(&vault, &on.session, stream, &facts).await;
                Served { on, accepted }
            };
            task::owned(slot, serve, StreamMsg::Served)
        }
    }
}

/// The one line that an operator gets per stream. Written however the stream ends.
impl Drop for StreamState {
    fn drop(&mut self) {
        let (outcome, shown) = match &self.work {
            Work::Opening { .. } => ("cut while it was opened".to_owned(), None),
            Work::Refused(why) => (why.clone(), None),
            Work::Carrying { carried, .. } => (carried.outcome(), Some(carried.shown())),
        };
        let figure = |of: fn(&carrying::Shown) -> u64| shown.as_ref().map_or(0, of);
        tracing::info!(
            stream = %self.facts.id(),
            service = self.facts.service(),
            role = ?self.facts.role,
            bytes_to_relay = figure(|shown| shown.written),
            bytes_from_relay = figure(|shown| shown.consumed),
            resumed = figure(|shown| shown.resumed),
            duration = ?self.facts.since.elapsed(),
            outcome,
            "stream ended"
        );
    }
}
