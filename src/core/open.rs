//! Opening a stream (wire.md §4): a state machine, events in and actions out, no I/O.
//!
//! Whoever drives it performs every action of a batch in order, then hands in what came of it. One thing is under way at
//! a time: an event that does not fit the step (a late answer, an answer after the end) is ignored, so the driver need
//! not guard against races; it must only drop a provider's half at [`Action::CloseProvider`], so that nothing of that
//! provider is taken for an answer of the next one.

use std::collections::VecDeque;
use std::mem;

use crate::core::identity::AgentUri;
use crate::core::ids::{Generation, ServiceName, StreamId};
use crate::core::policy::{P2pMode, RelayMode, Verdict, unserved};
use crate::core::reject::{Reject, RejectCode};
use crate::proto::orp as pb;

/// The longest method, in bytes: it is kept for as long as a stream lives, and in every audit event. The limit of service
/// names (wire.md §2).
pub const METHOD_MAX_BYTES: usize = 255;

/// Of a reason that comes from a peer, no more than this is repeated, in bytes: the refusal that quotes it must stay
/// within the limit of a frame.
pub const QUOTED_MAX_BYTES: usize = 1024;

/// A provider of the service, as the registry resolved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The agent that registered the service.
    pub agent: AgentUri,
    /// The connection on which it did.
    pub generation: Generation,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// OPEN_STREAM stood at the head of the stream.
    FrameRead(pb::OpenStream),
    /// Something else did, or nothing in time: 400 with this text.
    FrameInvalid(String),
    /// It did, and the relay takes nothing now, whatever was asked for.
    Refused(Reject),
    /// The answer to [`Action::DecideCaller`].
    CallerDecided(Verdict),
    /// The answer to [`Action::Resolve`]: providers in order of preference; empty when there are none.
    Resolved(Vec<Candidate>),
    /// There is no answer to [`Action::Resolve`]: 502 with this text.
    ResolveFailed(String),
    /// The answer to [`Action::DecideCallee`].
    CalleeDecided(Verdict),
    /// [`Action::Reserve`] succeeded.
    Reserved,
    /// [`Action::Reserve`] found the id between two other agents.
    ReserveConflict,
    /// The provider answered STREAM_ACCEPT.
    ProviderAccepted,
    /// The provider answered STREAM_REJECT.
    ProviderRejected {
        /// Its code, whatever it means to the provider.
        code: u32,
        /// Its reason.
        reason: String,
    },
    /// The provider could not be asked, or did not answer in time; the text says which.
    ProviderUnavailable(String),
    /// The deadline of the whole open passed.
    TimedOut,
    /// The consumer reset the stream, or its connection ended.
    ConsumerGone,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Ask the policy `decide(consumer, target, method)`, audit the answer, and hand it in as [`Event::CallerDecided`].
    DecideCaller {
        /// The service asked for.
        target: ServiceName,
        /// The method asked for.
        method: String,
    },
    /// Look up the service among the consumer's tenant, and hand in [`Event::Resolved`].
    Resolve {
        /// The service asked for.
        target: ServiceName,
    },
    /// Ask the policy `decide(provider, consumer, method)`, audit the answer, and hand it in as [`Event::CalleeDecided`].
    DecideCallee {
        /// Whose side is asked.
        candidate: Candidate,
        /// The method asked for.
        method: String,
    },
    /// Reserve the id for the consumer and this provider, and hand in [`Event::Reserved`] or [`Event::ReserveConflict`].
    /// Also asked for id 0, which the index does not record.
    Reserve {
        /// The id of OPEN_STREAM.
        stream_id: StreamId,
        /// The provider to be.
        candidate: Candidate,
    },
    /// Give the reservation back, if there is one: the next provider gets its own, or the open fails.
    Release,
    /// Open a stream to the provider, write INCOMING_STREAM, and hand in what it answers.
    OpenProvider {
        /// Whom to ask.
        candidate: Candidate,
        /// What to write.
        incoming: pb::IncomingStream,
    },
    /// Reset and stop the stream to the provider, if there is one.
    CloseProvider,
    /// The end: write STREAM_REJECT on the consumer's stream and finish it.
    Reject(Reject),
    /// The end: send the mode signal to both agents and join the two streams.
    Splice {
        /// The id of OPEN_STREAM.
        stream_id: StreamId,
        /// Who accepted.
        candidate: Candidate,
        /// Both sides' modes, combined.
        p2p_mode: P2pMode,
        /// The caller side's mode.
        relay_mode: RelayMode,
    },
    /// The end: nobody is there to be answered.
    Abandon,
}

/// One stream on its way from OPEN_STREAM to its splice or its refusal.
#[derive(Debug)]
pub struct Open {
    consumer: AgentUri,
    step: Step,
    /// Providers not tried yet.
    waiting: VecDeque<Candidate>,
    /// Why the first provider whose side denied was passed over.
    denied: Option<String>,
    /// Why the last provider that could not be asked was passed over.
    unavailable: Option<String>,
}

/// Which answer is awaited. The request travels along, so that no step can lack what it needs.
#[derive(Debug)]
enum Step {
    Frame,
    CallerPolicy(Request),
    Resolution(Request),
    CalleePolicy(Request, Candidate),
    Reservation(Request, Attempt),
    Provider(Request, Attempt),
    Ended,
}

#[derive(Debug)]
struct Request {
    target: ServiceName,
    method: String,
    stream_id: StreamId,
    /// The caller side's modes; the defaults until its policy has answered.
    p2p_mode: P2pMode,
    relay_mode: RelayMode,
}

/// A provider whose side has agreed.
#[derive(Debug)]
struct Attempt {
    candidate: Candidate,
    /// Both sides' modes, combined.
    p2p_mode: P2pMode,
}

impl Open {
    /// Waits for [`Event::FrameRead`] on a fresh stream of `consumer`.
    #[must_use]
    pub fn new(consumer: AgentUri) -> Self {
        Self { consumer, step: Step::Frame, waiting: VecDeque::new(), denied: None, unavailable: None }
    }

    /// Whether the last action was the end; from then on every event is ignored.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.step, Step::Ended)
    }

    /// What is being waited for, in words.
    #[must_use]
    pub fn stage(&self) -> &'static str {
        match self.step {
            Step::Frame => "waiting for OPEN_STREAM",
            Step::CallerPolicy(_) => "deciding the caller's side",
            Step::Resolution(_) => "resolving the service",
            Step::CalleePolicy(..) => "deciding the callee's side",
            Step::Reservation(..) => "reserving the stream id",
            Step::Provider(..) => "waiting for the provider's answer",
            Step::Ended => "ended",
        }
    }

    /// Takes in what happened, and says what to do about it, in this order. The batch that holds one of
    /// [`Action::Reject`], [`Action::Splice`] and [`Action::Abandon`], always as its last action, is the last batch.
    #[must_use]
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        let stage = self.stage();
        match (mem::replace(&mut self.step, Step::Ended), event) {
            (Step::Ended, _) => Vec::new(),
            (step, Event::TimedOut) => {
                let reason = format!("timed out while {stage}");
                ended(&step, reject(RejectCode::BadGateway, reason))
            }
            (step, Event::ConsumerGone) => ended(&step, Action::Abandon),
            (Step::Frame, Event::FrameRead(frame)) => self.on_frame(frame),
            (Step::Frame, Event::FrameInvalid(why)) => {
                vec![reject(RejectCode::BadRequest, quoted(&why))]
            }
            (Step::Frame, Event::Refused(refusal)) => vec![Action::Reject(refusal)],
            (Step::CallerPolicy(request), Event::CallerDecided(verdict)) => self.on_caller_decided(request, &verdict),
            (Step::Resolution(request), Event::Resolved(candidates)) => self.on_resolved(request, candidates),
            (Step::Resolution(_), Event::ResolveFailed(why)) => vec![reject(RejectCode::BadGateway, quoted(&why))],
            (Step::CalleePolicy(request, candidate), Event::CalleeDecided(verdict)) => {
                self.on_callee_decided(request, candidate, &verdict)
            }
            (Step::Reservation(request, attempt), Event::Reserved) => self.on_reserved(request, attempt),
            (Step::Reservation(request, _), Event::ReserveConflict) => {
                let id = request.stream_id;
                let reason = format!("stream id {id} is in use between other agents");
                vec![reject(RejectCode::Conflict, reason)]
            }
            (Step::Provider(request, attempt), Event::ProviderAccepted) => {
                vec![splice(&request, attempt)]
            }
            (step @ Step::Provider(..), Event::ProviderRejected { code, reason }) => {
                let reason = format!("provider rejected: {code} {}", quoted(&reason));
                ended(&step, reject(RejectCode::ProviderRejected, reason))
            }
            (Step::Provider(request, _), Event::ProviderUnavailable(why)) => {
                self.unavailable = Some(why);
                let mut actions = vec![Action::CloseProvider, Action::Release];
                actions.push(self.try_next(request));
                actions
            }
            (step, _) => {
                self.step = step;
                Vec::new()
            }
        }
    }

    fn on_frame(&mut self, frame: pb::OpenStream) -> Vec<Action> {
        let target = match frame.target_service.parse::<ServiceName>() {
            Ok(target) => target,
            Err(error) => return vec![reject(RejectCode::BadRequest, error.to_string())],
        };
        if frame.method.len() > METHOD_MAX_BYTES {
            let reason = format!("a method is at most {METHOD_MAX_BYTES} bytes, not {}", frame.method.len());
            return vec![reject(RejectCode::BadRequest, reason)];
        }
        let ask = Action::DecideCaller { target: target.clone(), method: frame.method.clone() };
        self.step = Step::CallerPolicy(Request {
            target,
            method: frame.method,
            stream_id: StreamId(frame.stream_id),
            p2p_mode: P2pMode::default(),
            relay_mode: RelayMode::default(),
        });
        vec![ask]
    }

    fn on_caller_decided(&mut self, mut request: Request, verdict: &Verdict) -> Vec<Action> {
        if !verdict.is_allowed() {
            let reason = format!("denied: {}", verdict.cause());
            return vec![reject(RejectCode::Denied, reason)];
        }
        // What the other side's rules say of direct paths is not known yet.
        if let Some(why) = unserved(verdict.relay_mode, P2pMode::Allowed) {
            return vec![reject(RejectCode::BadGateway, why)];
        }
        request.p2p_mode = verdict.p2p_mode;
        request.relay_mode = verdict.relay_mode;
        let target = request.target.clone();
        self.step = Step::Resolution(request);
        vec![Action::Resolve { target }]
    }

    fn on_resolved(&mut self, request: Request, candidates: Vec<Candidate>) -> Vec<Action> {
        // Tenants do not meet: should a directory ever name another tenant's agent, it is not there for this consumer.
        let tenant = self.consumer.tenant();
        let own = |candidate: &Candidate| candidate.agent.tenant() == tenant;
        self.waiting = candidates.into_iter().filter(own).collect();
        if self.waiting.is_empty() {
            let reason = format!("no provider of {}", request.target);
            return vec![reject(RejectCode::NotFound, reason)];
        }
        vec![self.try_next(request)]
    }

    fn on_callee_decided(&mut self, request: Request, candidate: Candidate, verdict: &Verdict) -> Vec<Action> {
        if !verdict.is_allowed() {
            self.denied.get_or_insert_with(|| format!("denied (callee): {}", verdict.cause()));
            return vec![self.try_next(request)];
        }
        let p2p_mode = request.p2p_mode.combine(verdict.p2p_mode);
        if let Some(why) = unserved(request.relay_mode, p2p_mode) {
            return vec![reject(RejectCode::BadGateway, why)];
        }
        let reserve = Action::Reserve { stream_id: request.stream_id, candidate: candidate.clone() };
        let attempt = Attempt { candidate, p2p_mode };
        self.step = Step::Reservation(request, attempt);
        vec![reserve]
    }

    fn on_reserved(&mut self, request: Request, attempt: Attempt) -> Vec<Action> {
        let open = Action::OpenProvider {
            candidate: attempt.candidate.clone(),
            incoming: pb::IncomingStream {
                target_service: request.target.to_string(),
                method: request.method.clone(),
                source_agent_uri: self.consumer.to_string(),
                stream_id: request.stream_id.0,
            },
        };
        self.step = Step::Provider(request, attempt);
        vec![open]
    }

    /// The next provider, or the refusal that says what became of them all: 403 only if every one's side denied.
    fn try_next(&mut self, request: Request) -> Action {
        if let Some(candidate) = self.waiting.pop_front() {
            let ask = Action::DecideCallee { candidate: candidate.clone(), method: request.method.clone() };
            self.step = Step::CalleePolicy(request, candidate);
            return ask;
        }
        match (self.unavailable.take(), self.denied.take()) {
            (None, Some(denied)) => reject(RejectCode::Denied, denied),
            (why, _) => {
                let why = why.unwrap_or_default();
                let reason = format!("no provider could be reached: {}", quoted(&why));
                reject(RejectCode::BadGateway, reason)
            }
        }
    }
}

/// The last batch: what `step` holds of a provider is given back first.
fn ended(step: &Step, end: Action) -> Vec<Action> {
    match step {
        // The reservation was asked for; whether it was made is not known yet.
        Step::Reservation(..) => vec![Action::Release, end],
        Step::Provider(..) => vec![Action::CloseProvider, Action::Release, end],
        _ => vec![end],
    }
}

fn reject(code: RejectCode, reason: impl Into<String>) -> Action {
    Action::Reject(Reject::new(code, reason))
}

fn splice(request: &Request, attempt: Attempt) -> Action {
    Action::Splice {
        stream_id: request.stream_id,
        candidate: attempt.candidate,
        p2p_mode: attempt.p2p_mode,
        relay_mode: request.relay_mode,
    }
}

fn quoted(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(QUOTED_MAX_BYTES)]
}

#[cfg(test)]
mod tests;
