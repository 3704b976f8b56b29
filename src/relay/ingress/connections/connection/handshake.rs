//! The opening of one stream: from its first frame to a splice, or to a refusal.
//!
//! | | |
//! |---|---|
//! | Owns | the consumer's stream, the provider's while it is asked, the stream's place in the index |
//! | Receives | `FirstFrame`, `ProviderAnswered`, `ConsumerGone`, `TimedOut`, `RejectWritten` |
//! | Sends | resolve to the registry; a pair to the splices; a half that goes on to the entry of its stream; mirrored rejects to control writers |
//! | Restart | temporary |
//! | Lost on crash | that open: the consumer's stream is reset `RETRY`, and nothing was delivered on it |
//!
//! What happens when is decided by [`core::open`](crate::core::open); this actor performs it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use super::{ConnectionArgs, Fresh};
use crate::core::frame::Frame;
use crate::core::identity::AgentUri;
use crate::core::ids::{Capability, StreamId};
use crate::core::open::{Action, Candidate, Event, Open};
use crate::core::policy::{P2pMode, Verdict};
use crate::core::reject::{Reject, RejectCode};
use crate::core::resume::Fields;
use crate::core::resume::pairing::{Origin, Refusal};
use crate::directory::audit_log::record::Side;
use crate::metrics::Limit;
use crate::net::framed::read_frame;
use crate::net::stream::{BiStream, WriteEnd};
use crate::net::stream_limit::StreamUse;
use crate::proto::orp;
use crate::relay::decision::Question;
use crate::relay::provider::{self, ProviderAnswer};
use crate::relay::splices::splice::{Opening, Pair};
use crate::relay::tickets::{self, Presented};
use crate::relay::{refusal, resume};
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};
use crate::vault::Vault;
use crate::vault::connections::{AgentConnection, agreement};
use crate::vault::policy::Published;
use crate::vault::routes::Routed;
use crate::vault::streams::{Parties, Reservation, StreamFacts};
use crate::vault::traffic::Admitted;

/// Messages of a handshake.
#[derive(Debug)]
pub enum HandshakeMsg {
    /// The stream's first frame, or why there is none; and the stream.
    FirstFrame(Result<(Fresh, Result<Frame, String>), Panicked>),
    /// The provider that was asked has answered.
    ProviderAnswered(Result<ProviderAnswer, Panicked>),
    /// The consumer no longer wants an answer, or is gone.
    ConsumerGone(Result<WriteEnd, Panicked>),
    /// The time for the whole open is over.
    TimedOut(Result<(), Panicked>),
    /// The refusal is written, or could not be.
    RejectWritten(Result<(), Panicked>),
}

/// What a handshake is started with.
#[derive(Debug)]
pub struct HandshakeArgs {
    /// Its own address.
    pub slot: Slot<HandshakeMsg>,
    /// The consumer's connection and what comes with it.
    pub from: ConnectionArgs,
    /// The stream that is opened.
    pub fresh: Fresh,
    /// By when it must be paired or refused.
    pub deadline: Instant,
}

impl HandshakeArgs {
    /// For a stream that has just arrived on `from`.
    #[must_use]
    pub fn new(from: &ConnectionArgs, fresh: Fresh) -> Self {
        let deadline = Instant::now() + from.vault.config.now().limits.open;
        Self {
            slot: Slot::new("handshake", format!("{}/{}", from.connection.generation, fresh.number)),
            from: from.clone(),
            fresh,
            deadline,
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Handshake;

/// What a handshake holds while it runs.
#[derive(Debug)]
pub struct HandshakeState {
    slot: Slot<HandshakeMsg>,
    from: ConnectionArgs,
    since: std::time::Instant,
    /// Whether the open came to an end that was counted.
    counted: bool,
    open: Open,
    asked: orp::OpenStream,
    consumer: Option<Fresh>,
    providers: Vec<Arc<AgentConnection>>,
    provider: Option<(BiStream, StreamUse)>,
    reservation: Option<Reservation>,
    /// In force when the caller's side was decided.
    rules: Option<Arc<Published>>,
    admitted: Option<Admitted>,
    /// Reads the first frame, then asks providers, then writes a refusal: one at a time.
    work: Owned,
    _timer: Owned,
    _consumer_watch: Option<Owned>,
}

impl Actor for Handshake {
    type Msg = HandshakeMsg;
    type State = HandshakeState;
    type Arguments = HandshakeArgs;

    async fn pre_start(
        &self,
        _myself: ActorRef<HandshakeMsg>,
        HandshakeArgs { slot, from, fresh, deadline }: HandshakeArgs,
    ) -> Result<HandshakeState, ActorProcessingErr> {
        let first = first_frame(Arc::clone(&from.vault), fresh);
        Ok(HandshakeState {
            since: std::time::Instant::now(),
            counted: false,
            open: Open::new(from.connection.agent.clone()),
            asked: orp::OpenStream::default(),
            consumer: None,
            providers: Vec::new(),
            provider: None,
            reservation: None,
            rules: None,
            admitted: None,
            work: task::owned(&slot, first, HandshakeMsg::FirstFrame),
            _timer: task::owned(&slot, tokio::time::sleep_until(deadline), HandshakeMsg::TimedOut),
            _consumer_watch: None,
            slot,
            from,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<HandshakeMsg>,
        message: HandshakeMsg,
        state: &mut HandshakeState,
    ) -> Result<(), ActorProcessingErr> {
        let event = match message {
            HandshakeMsg::FirstFrame(read) => {
                let (fresh, frame) = read?;
                match state.on_first_frame(fresh, frame) {
                    Head::Read(event) => event,
                    Head::NoOpen => {
                        myself.stop(None);
                        return Ok(());
                    }
                }
            }
            HandshakeMsg::ProviderAnswered(answer) => state.on_provider_answered(answer?),
            HandshakeMsg::ConsumerGone(_) => Event::ConsumerGone,
            HandshakeMsg::TimedOut(slept) => {
                slept?;
                if state.consumer.is_none() {
                    // The task that waits for the first frame has the stream, and a deadline of its own.
                    return Ok(());
                }
                state.from.vault.metrics.limit_hit(Limit::Open);
                Event::TimedOut
            }
            HandshakeMsg::RejectWritten(written) => {
                written?;
                myself.stop(None);
                return Ok(());
            }
        };
        if state.perform(event).await == Progress::Done {
            myself.stop(None);
        }
        Ok(())
    }
}

/// What stands at the head of a stream.
enum Head {
    /// Something for the state machine.
    Read(Event),
    /// No open: it is dealt with elsewhere.
    NoOpen,
}

/// Whether the actor has more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waiting,
    Done,
}

impl HandshakeState {
    fn on_first_frame(&mut self, fresh: Fresh, frame: Result<Frame, String>) -> Head {
        let agent = &self.from.connection.agent;
        let head = match frame {
            Ok(Frame::OpenStream(open)) => {
                self.asked = open.clone();
                self.note(format!("opened by {agent} for {:?}", open.target_service));
                Head::Read(self.refused_unread().map_or(Event::FrameRead(open), Event::Refused))
            }
            Ok(Frame::StreamResume(resume)) => {
                return self.resume(fresh, (&resume).into(), Origin::Resume, &resume.ticket);
            }
            Ok(Frame::MigrateToRelay(demotion)) => {
                return self.resume(fresh, (&demotion).into(), Origin::Demotion, &demotion.ticket);
            }
            Ok(other) => {
                let why = format!("a stream must start with OPEN_STREAM, not {}", other.name());
                Head::Read(Event::FrameInvalid(why))
            }
            Err(why) => Head::Read(Event::FrameInvalid(why)),
        };
        let stopped = fresh.stream.send.stopped();
        self._consumer_watch = Some(task::owned(&self.slot, stopped, HandshakeMsg::ConsumerGone));
        self.consumer = Some(fresh);
        head
    }

    /// A stream that goes on, if nothing speaks against it at once.
    fn resume(&mut self, fresh: Fresh, fields: Fields, origin: Origin, ticket: &[u8]) -> Head {
        self.counted = true;
        let connection = &self.from.connection;
        let ticket = if connection.names(Capability::ResumeTicket) { ticket } else { &[] };
        let proof = match tickets::examine(&self.from.vault, &connection.agent, fields.stream_id, ticket) {
            Presented::Nothing => None,
            Presented::Proof(facts) => Some(facts),
            Presented::Worthless(error) => {
                let Fresh { stream, .. } = fresh;
                let why = Refusal::Ticket(error);
                resume::turn_away(&self.from.vault, connection, fields.stream_id, stream, origin, why);
                return Head::NoOpen;
            }
        };
        self.from.resume.arrived(connection, fresh, fields, origin, proof);
        Head::NoOpen
    }

    /// What is refused whatever it asks for.
    fn refused_unread(&mut self) -> Option<Reject> {
        let vault = &self.from.vault;
        if vault.drain.has_begun() {
            return Some(Reject::new(RejectCode::BadGateway, "the relay is draining"));
        }
        let limit = vault.config.now().limits.streams;
        self.admitted = vault.traffic.admit(limit);
        self.admitted.is_none().then(|| {
            vault.metrics.limit_hit(Limit::Streams);
            Reject::new(RejectCode::Limit, format!("this relay carries at most {limit} streams"))
        })
    }

    fn on_provider_answered(&mut self, answer: ProviderAnswer) -> Event {
        match answer {
            ProviderAnswer::Accepted(stream, stream_use) => {
                self.provider = Some((stream, stream_use));
                Event::ProviderAccepted
            }
            ProviderAnswer::Rejected(reject) => Event::ProviderRejected { code: reject.code, reason: reject.reason },
            ProviderAnswer::Unavailable(why) => Event::ProviderUnavailable(why),
        }
    }

    /// Tells the state machine, does what it says, and tells it what came of that.
    async fn perform(&mut self, event: Event) -> Progress {
        let mut actions: std::collections::VecDeque<Action> = self.open.on(event).into();
        let mut progress = Progress::Waiting;
        // Bounded: the machine asks each provider once, and ends.
        while let Some(action) = actions.pop_front() {
            let follow_up = match action {
                Action::DecideCaller { target, method } => {
                    // Before they are asked: what changes from here on is noticed.
                    self.rules = Some(self.from.vault.policy.current());
                    let caller = &self.from.connection.agent;
                    Some(Event::CallerDecided(self.decide(Side::Caller, caller, target.as_str(), &method)))
                }
                Action::Resolve { target } => {
                    let tenant = self.from.connection.agent.tenant();
                    Some(match self.from.registry.resolve(tenant, &target).await {
                        Ok(providers) => {
                            self.providers = providers;
                            Event::Resolved(self.providers.iter().map(|provider| candidate(provider)).collect())
                        }
                        Err(error) => Event::ResolveFailed(format!("the registry: {error}")),
                    })
                }
                Action::DecideCallee { candidate, method } => {
                    let consumer = self.from.connection.agent.as_str();
                    Some(Event::CalleeDecided(self.decide(Side::Callee, &candidate.agent, consumer, &method)))
                }
                Action::Reserve { stream_id, candidate } => Some(self.reserve(stream_id, &candidate)),
                Action::Release => {
                    self.reservation = None;
                    None
                }
                Action::OpenProvider { candidate, incoming } => {
                    self.open_provider(&candidate, incoming);
                    None
                }
                Action::CloseProvider => {
                    self.provider = None;
                    self.work = task::run(std::future::ready(()));
                    None
                }
                Action::Reject(reject) => {
                    self.reject(reject);
                    None
                }
                Action::Splice { stream_id, candidate, p2p_mode, relay_mode: _splice } => {
                    self.splice(stream_id, &candidate, p2p_mode);
                    progress = Progress::Done;
                    None
                }
                Action::Abandon => {
                    self.count("abandoned", 0);
                    progress = Progress::Done;
                    None
                }
            };
            if let Some(event) = follow_up {
                actions.extend(self.open.on(event));
            }
        }
        progress
    }

    fn decide(&self, side: Side, caller: &AgentUri, target: &str, method: &str) -> Verdict {
        let stream_id = StreamId(self.asked.stream_id);
        Question { side, caller, target, method, stream_id }.decide(&self.from.vault)
    }

    fn reserve(&mut self, stream_id: StreamId, candidate: &Candidate) -> Event {
        let parties = self.parties(candidate);
        match self.from.vault.streams.reserve(stream_id, parties) {
            Ok(reservation) => {
                self.reservation = Some(reservation);
                Event::Reserved
            }
            Err(_conflict) => Event::ReserveConflict,
        }
    }

    fn open_provider(&mut self, candidate: &Candidate, incoming: orp::IncomingStream) {
        let config = self.from.vault.config.get();
        let limits = &config.limits;
        self.note(format!("asking {}", candidate.agent));
        // The deadline of the whole open has a timer of its own.
        let within = limits.provider_answer;
        let provider = self.provider_connection(candidate);
        let frame_max = limits.frame_max_bytes;
        let (vault, consumer) = (Arc::clone(&self.from.vault), Arc::clone(&self.from.connection));
        let ask = async move {
            let Some(provider) = provider else { return ProviderAnswer::Unavailable("it is gone".to_owned()) };
            let codes = agreement(&consumer, &provider);
            match tokio::time::timeout(within, provider::ask(&vault, &provider, codes, incoming, frame_max)).await {
                Ok(answer) => answer,
                Err(_elapsed) => {
                    vault.metrics.limit_hit(Limit::ProviderAnswer);
                    ProviderAnswer::Unavailable("no answer in time".to_owned())
                }
            }
        };
        self.work = task::owned(&self.slot, ask, HandshakeMsg::ProviderAnswered);
    }

    fn reject(&mut self, reject: Reject) {
        self.count("rejected", reject.code.code());
        self.note(format!("refused: {reject}"));
        refusal::told(&self.from.vault, &self.from.connection, &self.asked, &reject);
        let within = self.from.vault.config.now().limits.first_frame;
        let write = refusal::write(self.consumer.take(), reject, within);
        self.work = task::owned(&self.slot, write, HandshakeMsg::RejectWritten);
    }

    /// Hands the pair over. When nobody takes it, both streams are reset by being dropped.
    fn splice(&mut self, stream_id: StreamId, candidate: &Candidate, p2p_mode: P2pMode) {
        let (Some(consumer), Some((provider, provider_use)), Some(reservation), Some(served_by)) =
            (self.consumer.take(), self.provider.take(), self.reservation.take(), self.provider_connection(candidate))
        else {
            tracing::error!(stream = %stream_id, "nothing to splice");
            return;
        };
        let (vault, opened_by, parties) = (&self.from.vault, &self.from.connection, self.parties(candidate));
        let facts = Arc::new(StreamFacts {
            target: self.asked.target_service.clone(),
            method: self.asked.method.clone(),
            p2p_mode,
            opened_at: SystemTime::now(),
        });
        let ticket = tickets::first(vault, stream_id, &parties, &facts, &reservation, [opened_by, &served_by]);
        let ticket = ticket.as_deref();
        let ready = [
            (Arc::clone(opened_by), tickets::ready(stream_id, opened_by, &served_by, ticket)),
            (Arc::clone(&served_by), tickets::ready(stream_id, &served_by, opened_by, ticket)),
        ];
        let pair = Pair {
            stream_id,
            parties,
            facts,
            routed: Routed::between(stream_id, &self.from.connection, &served_by),
            to_consumer: None,
            to_provider: None,
            codes: agreement(&self.from.connection, &served_by),
            consumer: consumer.stream,
            provider,
            reservation,
            stream_uses: [consumer.stream_use, provider_use],
            rules: self.rules.take(),
            vault: Arc::clone(&self.from.vault),
            admitted: self.admitted.take(),
            opening: Some(Opening::new(vault, self.since, ready)),
        };
        // From here on whoever has the pair counts it.
        self.counted = true;
        // Before the splice has a word to say.
        self.note("accepted");
        if self.from.splices.start(pair).is_err() {
            tracing::warn!(stream = %stream_id, "nobody splices now: stream is reset");
        }
    }

    fn count(&mut self, outcome: &'static str, code: u32) {
        self.counted = true;
        self.from.vault.metrics.open_answered(outcome, code, self.since);
    }

    fn note(&self, what: impl Into<Cow<'static, str>>) {
        let id = StreamId(self.asked.stream_id);
        self.from.vault.flights.note(self.from.connection.agent.tenant(), id, what);
    }

    fn parties(&self, candidate: &Candidate) -> Parties {
        Parties { consumer: self.from.connection.agent.clone(), provider: candidate.agent.clone() }
    }

    fn provider_connection(&self, candidate: &Candidate) -> Option<Arc<AgentConnection>> {
        self.providers.iter().find(|provider| provider.generation == candidate.generation).cloned()
    }
}

/// However it ends, it is counted.
impl Drop for HandshakeState {
    fn drop(&mut self) {
        if !self.counted {
            self.from.vault.metrics.open("aborted", 0);
        }
    }
}

fn candidate(provider: &AgentConnection) -> Candidate {
    Candidate { agent: provider.agent.clone(), generation: provider.generation }
}

async fn first_frame(vault: Arc<Vault>, mut fresh: Fresh) -> (Fresh, Result<Frame, String>) {
    let (max, within) = {
        let limits = &vault.config.now().limits;
        (limits.frame_max_bytes, limits.first_frame.min(limits.open))
    };
    let read = tokio::time::timeout(within, read_frame(&mut fresh.stream.recv, max)).await;
    let frame = match read {
        Ok(Ok(frame)) => Ok(frame),
        Ok(Err(error)) => {
            if error.is_too_large() {
                vault.metrics.limit_hit(Limit::FrameMaxBytes);
            }
            Err(error.to_string())
        }
        Err(_elapsed) => {
            vault.metrics.limit_hit(Limit::FirstFrame);
            Err(format!("no frame within {within:?}"))
        }
    };
    (fresh, frame)
}
