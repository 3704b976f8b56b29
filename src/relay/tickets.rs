//! What a relay does with tickets (wire.md §9, `resume-ticket`): hands them out, renews them, and looks at those that come back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::core::frame::Frame;
use crate::core::identity::AgentUri;
use crate::core::ids::{Capability, StreamId};
use crate::core::ticket::{TicketError, TicketFacts};
use crate::proto::orp;
use crate::vault::Vault;
use crate::vault::connections::AgentConnection;
use crate::vault::streams::{Parties, Reservation, StreamFacts};

/// Tickets are looked through that often, within reason, in each life of one.
const LOOKS_PER_LIFE: u32 = 32;
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(60);
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(50);

/// What an agent has shown for its half.
#[derive(Debug)]
pub enum Presented {
    /// No ticket, or none that changes anything.
    Nothing,
    /// A valid ticket of this stream and this agent.
    Proof(Box<TicketFacts>),
    /// A ticket for which the half is refused.
    Worthless(TicketError),
}

/// Looks at the ticket that came with a half of `agent`.
///
/// A ticket that only somebody can have who cheats is refused, whatever else is known. One that an honest agent may come
/// with, too ([`TicketError::may_be_honest`]), changes nothing where the index knows the stream. Where it does not, it is
/// refused as well; but one under a lost key counts as none where none is needed: with `resume.allow_unproven` the streams of a relay
/// that kept its key in memory outlive that relay.
pub fn examine(vault: &Vault, agent: &AgentUri, id: StreamId, ticket: &[u8]) -> Presented {
    if ticket.is_empty() {
        return Presented::Nothing;
    }
    let error = match vault.tickets.open(ticket).and_then(|facts| facts.admits(id, agent).map(|()| facts)) {
        Ok(facts) => return Presented::Proof(Box::new(facts)),
        Err(error) => error,
    };
    let is_lost_key = matches!(error, TicketError::UnknownKey | TicketError::UnknownVersion);
    let is_needless =
        vault.streams.known(agent.tenant(), id).is_some() || (is_lost_key && vault.config.now().resume.allow_unproven);
    if error.may_be_honest() && is_needless {
        tracing::debug!(%agent, stream = %id, %error, "the ticket counts for nothing");
        return Presented::Nothing;
    }
    Presented::Worthless(error)
}

/// The first ticket of a stream, if one of its agents takes tickets.
#[must_use]
pub fn first(
    vault: &Vault,
    id: StreamId,
    parties: &Parties,
    about: &StreamFacts,
    reservation: &Reservation,
    ends: [&AgentConnection; 2],
) -> Option<Vec<u8>> {
    if !ends.iter().any(|end| end.names(Capability::ResumeTicket)) {
        return None;
    }
    let ticket = vault.tickets.issue(id, parties, about, vault.config.now().resume.ticket_life)?;
    reservation.ticketed();
    Some(ticket)
}

/// STREAM_READY for `to`: what the agent at the other end named, and the ticket, each only to an agent that asked (wire.md §9).
#[must_use]
pub fn ready(id: StreamId, to: &AgentConnection, other_end: &AgentConnection, ticket: Option<&[u8]>) -> Frame {
    let peer_capabilities = if to.names(Capability::PeerCaps) { other_end.named() } else { Vec::new() };
    let ticket = ticket.filter(|_| to.names(Capability::ResumeTicket)).unwrap_or_default().to_vec();
    Frame::StreamReady(orp::StreamReady { stream_id: id.0, ticket, peer_capabilities })
}

/// When to look again which tickets are due.
#[must_use]
pub fn look_in(life: Duration) -> Duration {
    (life / LOOKS_PER_LIFE).clamp(LOOK_AT_MOST_EVERY, LOOK_AT_LEAST_EVERY)
}

/// Sends a new ticket to the agents of every live stream whose ticket has passed half its life, or that has none from this
/// relay, since it was opened at another. No agent gets more at once than its control stream takes: the rest is for the next
/// look.
pub fn renew_due(vault: &Vault) {
    let config = vault.config.get();
    let life = config.resume.ticket_life;
    let at_once = (config.limits.control_queue / 4).max(1);
    let mut sent: HashMap<AgentUri, usize> = HashMap::new();
    for due in vault.streams.tickets_due(life / 2) {
        let agents = [&due.parties.consumer, &due.parties.provider];
        if agents.iter().any(|agent| sent.get(*agent).is_some_and(|sent| *sent >= at_once)) {
            continue;
        }
        // Even where nobody takes it: this one need not be looked at again for a while.
        vault.streams.ticketed(&due);
        let takers =
            agents.map(|agent| vault.connections.latest_of(agent).filter(|end| end.names(Capability::ResumeTicket)));
        let takers: Vec<Arc<AgentConnection>> = takers.into_iter().flatten().collect();
        if takers.is_empty() {
            continue;
        }
        let Some(ticket) = vault.tickets.issue(due.id, &due.parties, &due.facts, life) else { continue };
        for taker in takers {
            taker.send_control(&Frame::Ticket(orp::Ticket { stream_id: due.id.0, ticket: ticket.clone() }));
            *sent.entry(taker.agent.clone()).or_default() += 1;
        }
    }
}
