//! The relay's rules for halves of one stream that wait for their partner (wire.md §5).
//!
//! A [`Pairing`] is that of one (tenant, stream id), from the first half's arrival to the match or the end of the window.
//! At most one half waits at a time. It is driven by the relay: what an [`Outcome`] names is done to the halves' streams,
//! and a half whose stream ends while it waits is reported by [`Pairing::on_lost`].
//!
//! Who may act on a stream (architecture §5, invariant 3): one of its two agents, as the index or a ticket has it
//! ([`Known::Parties`]). One such proof covers both halves, so a half of which nothing is known is not refused before its
//! partner has come: the partner may bring the ticket. If neither is proven, `resume.allow_unproven` decides, and a rule must
//! allow a stream between the two.
//!
//! The window is 30 s from the arrival of the half that waits. A newer half of the same agent replaces the older and has
//! a window of its own: the agent has just said that it still wants the stream, and how many halves it may park is limited
//! elsewhere.

use std::time::Duration;

use super::Fields;
use crate::core::identity::{AgentUri, Tenant};
use crate::core::ids::StreamId;

mod refusal;

pub use refusal::Refusal;

/// How long a half waits for its partner (ResumeWindow).
pub const WINDOW: Duration = Duration::from_secs(30);

/// How often the partner of a half that waits is sent RESUME_WANTED, from the half's arrival on: an agent takes no notice of one
/// that may be older than its path. A partner that connects meanwhile hears it that much later at the most; what it has lost
/// itself it resumes without being asked.
pub const CALL_EVERY: Duration = Duration::from_secs(1);

/// Which half, among all that ever arrived at this relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HalfId(pub u64);

/// One agent's fresh stream that waits to be joined to its partner's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Half {
    /// The relay's number for it.
    pub id: HalfId,
    /// Whose it is: the URI of the certificate.
    pub agent: AgentUri,
    /// What it said.
    pub fields: Fields,
    /// By which frame it came.
    pub origin: Origin,
    /// What is written to it when it is matched.
    pub echo: Echo,
}

/// By which frame a half came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// STREAM_RESUME.
    Resume,
    /// MIGRATE_TO_RELAY.
    Demotion,
}

/// What a half is told of its partner's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Echo {
    /// Nothing: raw bytes at once.
    Nothing,
    /// A STREAM_RESUME without the FIN state.
    Positions,
    /// A STREAM_RESUME with it.
    PositionsAndFin,
}

/// Whether an agent named a capability that its relay uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Named {
    /// It did.
    Yes,
    /// It did not.
    No,
}

impl Echo {
    /// What a half gets: one of STREAM_RESUME always an echo, one of MIGRATE_TO_RELAY only with `resume-echo`; the FIN
    /// state only with `fin-state` (wire.md §5, §9).
    #[must_use]
    pub fn of(origin: Origin, resume_echo: Named, fin_state: Named) -> Self {
        match (origin, resume_echo, fin_state) {
            (Origin::Demotion, Named::No, _) => Self::Nothing,
            (_, _, Named::No) => Self::Positions,
            (_, _, Named::Yes) => Self::PositionsAndFin,
        }
    }
}

/// What the relay knows of the stream when a half arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Its two agents, from the index or from a valid ticket that came with this half.
    Parties(AgentUri, AgentUri),
    /// Nothing.
    Nothing(Unproven),
}

/// Whether a stream that is not known may be resumed between the agent that waits and the one that arrives. Evaluated for the
/// first half too, where it does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unproven {
    /// `resume.allow_unproven` is on, and some rule pair allows a stream between the two in either direction.
    Allowed,
    /// It is off.
    Off,
    /// It is on, but no rule pair allows a stream between the two.
    NoRule,
    /// It is on, but the rules are too old to be asked.
    TooOld,
}

impl Known {
    /// Whether `agent` may act on the stream, as far as can be said without its partner. Asked before the splice that still
    /// lives is ended for the sake of an arriving half.
    ///
    /// # Errors
    /// [`Refusal::NotAParty`].
    pub fn admits(&self, agent: &AgentUri) -> Result<(), Refusal> {
        match self {
            Self::Parties(one, other) if agent != one && agent != other => Err(Refusal::NotAParty),
            Self::Parties(..) | Self::Nothing(_) => Ok(()),
        }
    }
}

/// What is to be done when a half has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It waits.
    Parked,
    /// It waits in the place of this one, which is refused: an older half of the same agent ([`Refusal::Replaced`]), or one
    /// of an agent that is not a party, as only now is known.
    ParkedInsteadOf(Half, Refusal),
    /// The two are joined: each is written its echo, if it gets one, then raw bytes flow. Nothing waits any more.
    Matched(Box<Match>),
    /// The one that arrived is refused; whichever waits goes on waiting.
    Refused(Half, Refusal),
    /// Both are refused: their numbers cannot be those of one stream, or one of the two is out of date. Nothing waits any more.
    BothRefused(Box<[Half; 2]>, Refusal),
}

/// Two halves of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The one that waited.
    pub first: Half,
    /// The one that arrived.
    pub second: Half,
    /// Whether the two are known to be the stream's agents.
    pub proof: Proof,
}

/// On what the match rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proof {
    /// The index or a ticket names both.
    Parties,
    /// Only a rule: counted, audited, and the stream is p2p-forbidden.
    Rule,
}

impl Match {
    /// What is written to the first and to the second half: the other's numbers.
    #[must_use]
    pub fn echoes(&self) -> (Option<Fields>, Option<Fields>) {
        (echo(&self.first, &self.second), echo(&self.second, &self.first))
    }
}

fn echo(to: &Half, of: &Half) -> Option<Fields> {
    match to.echo {
        Echo::Nothing => None,
        Echo::Positions => Some(of.fields.without_fin()),
        Echo::PositionsAndFin => Some(of.fields),
    }
}

/// The halves of one stream; see the module.
#[derive(Debug)]
pub struct Pairing {
    tenant: Tenant,
    stream_id: StreamId,
    window: Duration,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    half: Half,
    since: Duration,
    /// The stream's agents, if they were known when the half arrived.
    parties: Option<(AgentUri, AgentUri)>,
}

impl Pairing {
    /// Nothing waits yet.
    #[must_use]
    pub fn new(tenant: Tenant, stream_id: StreamId) -> Self {
        Self { tenant, stream_id, window: WINDOW, waiting: None }
    }

    /// With another window than [`WINDOW`].
    #[must_use]
    pub fn with_window(self, window: Duration) -> Self {
        Self { window, ..self }
    }

    /// The half that waits.
    #[must_use]
    pub fn waiting(&self) -> Option<&Half> {
        self.waiting.as_ref().map(|waiting| &waiting.half)
    }

    /// When the window of the half that waits is over.
    #[must_use]
    pub fn window_ends_at(&self) -> Option<Duration> {
        self.waiting.as_ref().map(|waiting| waiting.since + self.window)
    }

    /// A half arrives.
    pub fn on_half(&mut self, half: Half, known: &Known, now: Duration) -> Outcome {
        if let Err(refusal) = self.admit(&half, known) {
            return Outcome::Refused(half, refusal);
        }
        let Some(waiting) = self.waiting.take() else {
            self.park(half, known, None, now);
            return Outcome::Parked;
        };
        if waiting.half.agent == half.agent {
            self.park(half, known, waiting.parties, now);
            return Outcome::ParkedInsteadOf(waiting.half, Refusal::Replaced);
        }
        if known.admits(&waiting.half.agent).is_err() {
            self.park(half, known, None, now);
            return Outcome::ParkedInsteadOf(waiting.half, Refusal::NotAParty);
        }
        match prove(&waiting, &half, known) {
            Err(refusal) => {
                self.waiting = Some(waiting);
                Outcome::Refused(half, refusal)
            }
            Ok(proof) => joined(waiting.half, half, proof),
        }
    }

    /// The stream of a half has ended while it waited. Returns whether it was the one that waits; then nothing does.
    pub fn on_lost(&mut self, id: HalfId) -> bool {
        self.waiting.take_if(|waiting| waiting.half.id == id).is_some()
    }

    /// Time has passed. Returns the half whose window is over, to be refused with [`Refusal::WindowOver`].
    pub fn on_time(&mut self, now: Duration) -> Option<Half> {
        let window = self.window;
        self.waiting.take_if(|waiting| waiting.since + window <= now).map(|waiting| waiting.half)
    }

    fn park(&mut self, half: Half, known: &Known, before: Option<(AgentUri, AgentUri)>, now: Duration) {
        let parties = match known {
            Known::Parties(one, other) => Some((one.clone(), other.clone())),
            // A proof that came with an older half of the agent still holds.
            Known::Nothing(_) => before,
        };
        self.waiting = Some(Waiting { half, since: now, parties });
    }

    fn admit(&self, half: &Half, known: &Known) -> Result<(), Refusal> {
        if !self.stream_id.is_recorded() {
            return Err(Refusal::NoStreamId);
        }
        if half.fields.stream_id != self.stream_id {
            return Err(Refusal::OtherStream);
        }
        if *half.agent.tenant() != self.tenant {
            return Err(Refusal::OtherTenant);
        }
        known.admits(&half.agent)
    }
}

/// What shows that the two are the stream's agents. That the one which waits is a party as the one which arrives knows
/// them has been seen to.
fn prove(waiting: &Waiting, half: &Half, known: &Known) -> Result<Proof, Refusal> {
    match (known, &waiting.parties) {
        (Known::Parties(..), _) => Ok(Proof::Parties),
        (Known::Nothing(_), Some((one, other))) if half.agent == *one || half.agent == *other => Ok(Proof::Parties),
        (Known::Nothing(_), Some(_)) => Err(Refusal::NotAParty),
        (Known::Nothing(Unproven::Allowed), None) => Ok(Proof::Rule),
        (Known::Nothing(Unproven::Off), None) => Err(Refusal::Unproven),
        (Known::Nothing(Unproven::NoRule), None) => Err(Refusal::NoRule),
        (Known::Nothing(Unproven::TooOld), None) => Err(Refusal::RulesTooOld),
    }
}

fn joined(first: Half, second: Half, proof: Proof) -> Outcome {
    // What one has consumed, the other has written.
    let fits = |ack: &Fields, wrote: &Fields| ack.peer_ack_position <= wrote.my_position;
    if fits(&first.fields, &second.fields) && fits(&second.fields, &first.fields) {
        return Outcome::Matched(Box::new(Match { first, second, proof }));
    }
    Outcome::BothRefused(Box::new([first, second]), Refusal::PositionsDoNotFit)
}

#[cfg(test)]
mod tests;
