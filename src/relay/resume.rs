//! The supervisor of entries, one for each stream of which a half waits for its partner: pure, no logic.
//!
//! Killing it resets every half that waits; their agents send them again.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::now_unix_ms;
use crate::core::frame::Frame;
use crate::core::ids::{Capability, StreamId};
use crate::core::policy::Effect;
use crate::core::reject::{CodeAgreement, RejectCode, ResetCode};
use crate::core::resume::Fields;
use crate::core::resume::pairing::{Echo, Half, Named, Origin, Refusal, Unproven};
use crate::core::ticket::TicketFacts;
use crate::metrics::Limit;
use crate::net::stream::BiStream;
use crate::proto::orp;
use crate::relay::decision::{self, Asked};
use crate::relay::ingress::connections::connection::Fresh;
use crate::relay::splices::SplicesHandle;
use crate::supervise::dynamic::DynamicHandle;
use crate::supervise::slot::Slot;
use crate::supervise::spec::ChildSpec;
use crate::vault::Vault;
use crate::vault::connections::AgentConnection;
use crate::vault::parking::{ArrivedHalf, Delivered};

pub mod entry;

use entry::{Entry, EntryArgs, EntryMsg};

/// An entry stops by dropping its halves; this only bounds a mistake.
const ENTRY_SHUTDOWN: Duration = Duration::from_millis(500);

/// The only caller of entries and of their supervisor.
#[derive(Debug, Clone)]
pub struct ResumeHandle {
    supervisor: DynamicHandle,
    vault: Arc<Vault>,
    splices: SplicesHandle,
}

impl ResumeHandle {
    /// An address for a supervisor that is not started yet.
    #[must_use]
    pub fn new(vault: Arc<Vault>, splices: SplicesHandle) -> Self {
        Self { supervisor: DynamicHandle::new("resume", ""), vault, splices }
    }

    /// The supervisor's handle.
    #[must_use]
    pub fn supervisor(&self) -> &DynamicHandle {
        &self.supervisor
    }

    /// An agent wants to go on with a stream: its half waits for the other, or is joined to it. When nobody takes it, its
    /// stream is reset, and the agent tries again.
    pub fn arrived(
        &self,
        connection: &Arc<AgentConnection>,
        fresh: Fresh,
        fields: Fields,
        origin: Origin,
        ticket: Option<Box<TicketFacts>>,
    ) {
        let Fresh { mut stream, stream_use, .. } = fresh;
        let limit = self.vault.config.now().limits.parked_per_agent;
        let Some(place) = connection.parked.take(limit) else {
            self.vault.metrics.limit_hit(Limit::ParkedPerAgent);
            self.vault.metrics.resume("limit");
            let (agent, id) = (&connection.agent, fields.stream_id);
            tracing::info!(%agent, stream = %id, limit, "too many halves wait: reset");
            let why = format!("half reset: {limit} of the connection wait already");
            decision::by_relay(&self.vault, agent, Asked::default(), id, Effect::Deny, &why);
            // Not for good: the agent is to send another.
            stream.set_drop_code(ResetCode::RESUMABLE.for_peer(connection.codes()));
            return;
        };
        let named = |capability| if connection.names(capability) { Named::Yes } else { Named::No };
        let half = Half {
            id: self.vault.parking.next_half(),
            agent: connection.agent.clone(),
            fields,
            origin,
            echo: Echo::of(origin, named(Capability::ResumeEcho), named(Capability::FinState)),
        };
        // If this half is lost with whoever holds it, the agent is to send another.
        stream.set_drop_code(ResetCode::RESUMABLE.for_peer(connection.codes()));
        let connection = Arc::clone(connection);
        match self.vault.parking.deliver(ArrivedHalf { half, connection, stream, ticket, stream_use, place }) {
            Delivered::To(node) => Slot::<EntryMsg>::at(node).tell(EntryMsg::HalfArrived),
            Delivered::New(claim) => {
                let slot = Slot::at(Arc::clone(claim.node()));
                let args = EntryArgs { slot: slot.clone(), claim, resume: self.clone() };
                if self.supervisor.start(ChildSpec::once(&slot, ENTRY_SHUTDOWN, Entry, args)).is_err() {
                    tracing::debug!("nobody parks halves now: half is reset");
                }
            }
        }
    }

    /// An agent has answered RESUME_WANTED with a refusal: it does not have the stream any more.
    pub fn refused_by(&self, connection: &AgentConnection, id: StreamId, code: u32) {
        if code != RejectCode::Gone.code() {
            return;
        }
        if let Some(node) = self.vault.parking.entry(connection.agent.tenant(), id) {
            Slot::<EntryMsg>::at(node).tell(EntryMsg::PartnerRefused(connection.agent.clone()));
        }
    }

    /// Whether two agents may go on with a stream that this relay never saw.
    fn unproven(&self, half: &Half, waiting: Option<&Half>) -> Unproven {
        if !self.vault.config.now().resume.allow_unproven {
            return Unproven::Off;
        }
        // Rules are asked only about two: what is said of one alone does not matter.
        let policy = self.vault.policy.current();
        if decision::are_too_old(&self.vault) {
            return Unproven::TooOld;
        }
        match waiting.filter(|waiting| waiting.agent != half.agent) {
            Some(waiting) if policy.snapshot.allows_some_stream(&waiting.agent, &half.agent, now_unix_ms()) => {
                Unproven::Allowed
            }
            _ => Unproven::NoRule,
        }
    }
}

/// Ends a half, in the way that its agent understands: with a code, or with a bare FIN before any echo (wire.md §5).
///
/// A half of MIGRATE_TO_RELAY that waits for no echo would take a FIN for the end of its stream: it is reset.
pub fn turn_away(
    vault: &Vault,
    connection: &AgentConnection,
    id: StreamId,
    stream: BiStream,
    origin: Origin,
    why: Refusal,
) {
    let agent = &connection.agent;
    vault.metrics.resume(why.name());
    vault.flights.note(agent.tenant(), id, format!("half of {agent} is refused: {why}"));
    tracing::info!(%agent, stream = %id, %why, "resume refused");
    // What the rules deny is audited where they are asked.
    if why != Refusal::RulesDeny {
        decision::by_relay(vault, agent, Asked::default(), id, Effect::Deny, &why.reject().to_string());
    }
    match (connection.codes(), origin) {
        (CodeAgreement::Both, _) => {
            stream.send.reset(why.reset());
            stream.recv.stop(why.reset());
        }
        (CodeAgreement::None, Origin::Demotion) => {
            stream.send.reset(ResetCode::UNSPECIFIED);
            stream.recv.stop(ResetCode::UNSPECIFIED);
        }
        (CodeAgreement::None, Origin::Resume) => {
            stream.send.finish();
            stream.recv.stop(ResetCode::UNSPECIFIED);
        }
    }
}

/// The connection at a stream's other end. Where nothing carries the stream any more, its agents still tell one another how it
/// ended (wire.md §9, `fin-state`).
fn partner_of(vault: &Vault, connection: &AgentConnection, id: StreamId) -> Option<Arc<AgentConnection>> {
    connection.routes.partner(id).or_else(|| {
        let known = vault.streams.known(connection.agent.tenant(), id)?;
        let partner = known.parties.partner_of(&connection.agent).filter(|partner| **partner != connection.agent)?;
        // It has something to do with an end only if it knows what one is.
        vault.connections.latest_of(partner).filter(|partner| partner.names(Capability::FinState))
    })
}

/// Passes a checkpoint on to the agent at the other end; what that one has not named stays here (wire.md §9).
pub fn pass_on_checkpoint(vault: &Vault, connection: &AgentConnection, mut checkpoint: orp::StreamCheckpoint) {
    let Some(partner) = partner_of(vault, connection, StreamId(checkpoint.stream_id)) else { return };
    if !partner.names(Capability::FinState) {
        (checkpoint.fin_sent, checkpoint.fin_consumed) = (false, false);
    }
    partner.send_control(&Frame::StreamCheckpoint(checkpoint));
}
