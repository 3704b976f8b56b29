//! An entry: the halves of one stream that wait for one another, from the first one's arrival to the match.
//!
//! | | |
//! |---|---|
//! | Owns | the half that waits, with its stream; the stream's inbox |
//! | Receives | `HalfArrived`, `HalfLost`, `PartnerRefused`, `Beat` |
//! | Sends | a matched pair to the splices; RESUME_WANTED to the partner's connection |
//! | Restart | temporary: agents send their halves again |
//! | Lost on crash | the half that waits: its stream is reset `RESUMABLE` |
//!
//! Who fits whom is decided by [`core::resume::pairing`](crate::core::resume::pairing); this actor performs it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::ResumeHandle;
use crate::core::frame::Frame;
use crate::core::identity::AgentUri;
use crate::core::ids::Capability;
use crate::core::policy::{Effect, P2pMode};
use crate::core::resume::pairing::{CALL_EVERY, Half, HalfId, Known, Match, Outcome, Pairing, Proof, Refusal};
use crate::core::ticket::TicketFacts;
use crate::metrics::Limit;
use crate::net::stream::WriteEnd;
use crate::proto::orp;
use crate::relay::decision::{self, Asked, Of};
use crate::relay::splices::splice::Pair;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};
use crate::vault::Vault;
use crate::vault::connections::agreement;
use crate::vault::parking::{ArrivedHalf, Claim};
use crate::vault::routes::Routed;
use crate::vault::streams::{Known as Indexed, Parties, StreamFacts};

/// Messages of an entry.
#[derive(Debug)]
pub enum EntryMsg {
    /// There is something in the inbox.
    HalfArrived,
    /// The agent has given up the half, or its connection is gone.
    HalfLost(HalfId, Result<WriteEnd, Panicked>),
    /// This agent does not have the stream any more.
    PartnerRefused(AgentUri),
    /// Time to call the partner again, or to give up.
    Beat(Result<(), Panicked>),
}

/// What an entry is started with.
#[derive(Debug)]
pub struct EntryArgs {
    /// Its own address.
    pub slot: Slot<EntryMsg>,
    /// The stream's inbox.
    pub claim: Claim,
    /// Where the vault and the splices are.
    pub resume: ResumeHandle,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Entry;

/// What a matched pair is, and how that is known.
struct Joined {
    parties: Parties,
    facts: Arc<StreamFacts>,
    /// The outcome in metrics.
    how: &'static str,
}

fn parties(ticket: &TicketFacts) -> Parties {
    Parties { consumer: ticket.consumer.clone(), provider: ticket.provider.clone() }
}

/// What an entry holds while it runs.
#[derive(Debug)]
pub struct EntryState {
    slot: Slot<EntryMsg>,
    claim: Claim,
    resume: ResumeHandle,
    pairing: Pairing,
    held: HashMap<HalfId, Held>,
    /// What a ticket has shown of a stream that this relay does not know.
    proven: Option<Box<TicketFacts>>,
    since: Instant,
    /// When the partner was called last.
    called_at: Option<Instant>,
    beat: Option<Owned>,
}

#[derive(Debug)]
struct Held {
    arrived: ArrivedHalf,
    _watch: Owned,
}

impl Actor for Entry {
    type Msg = EntryMsg;
    type State = EntryState;
    type Arguments = EntryArgs;

    async fn pre_start(
        &self,
        _myself: ActorRef<EntryMsg>,
        EntryArgs { slot, claim, resume }: EntryArgs,
    ) -> Result<EntryState, ActorProcessingErr> {
        let window = resume.vault.config.now().resume.window;
        let pairing = Pairing::new(claim.tenant().clone(), claim.stream_id()).with_window(window);
        // Weak: what the vault keeps of this entry leads to its node.
        let (vault, tenant, id) = (Arc::downgrade(&resume.vault), claim.tenant().clone(), claim.stream_id());
        slot.node().also_recorded(move || vault.upgrade().map_or_else(Vec::new, |vault| vault.flights.of(&tenant, id)));
        // What made the inbox is in it.
        slot.tell(EntryMsg::HalfArrived);
        let (held, since) = (HashMap::new(), Instant::now());
        Ok(EntryState { slot, claim, resume, pairing, held, proven: None, since, called_at: None, beat: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<EntryMsg>,
        message: EntryMsg,
        state: &mut EntryState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            EntryMsg::HalfArrived => state.take_arrived(),
            EntryMsg::HalfLost(id, end) => state.on_lost(id, &end?),
            EntryMsg::PartnerRefused(agent) => state.on_partner_refused(&agent),
            EntryMsg::Beat(slept) => {
                slept?;
                state.on_beat();
            }
        }
        // Whatever arrives after the inbox was closed makes another.
        if state.pairing.waiting().is_none() && state.claim.close() {
            myself.stop(None);
        }
        Ok(())
    }
}

impl EntryState {
    fn vault(&self) -> &Arc<Vault> {
        &self.resume.vault
    }

    fn take_arrived(&mut self) {
        for arrived in self.claim.take() {
            self.on_half(arrived);
        }
        self.describe();
    }

    fn on_half(&mut self, mut arrived: ArrivedHalf) {
        let half = arrived.half.clone();
        let ticket = arrived.ticket.take();
        let known = self.known(&half, ticket.as_deref());
        let (written, consumed) = (half.fields.my_position, half.fields.peer_ack_position);
        self.note(format!("half of {}: has written {written}, consumed {consumed}", half.agent));
        let id = half.id;
        let stopped = arrived.stream.send.stopped();
        let watch = task::owned(&self.slot, stopped, move |end| EntryMsg::HalfLost(id, end));
        self.held.insert(id, Held { arrived, _watch: watch });
        if let (Some(shown), Some(proven)) = (&ticket, &self.proven)
            && (shown.consumer != proven.consumer || shown.provider != proven.provider)
        {
            // Two streams with one id, at relays apart: the one whose half waits goes on.
            return self.refuse(id, Refusal::NotAParty);
        }
        self.proven = self.proven.take().or(ticket);
        if let Known::Parties(one, other) = &known
            && one == other
        {
            // Its two halves could not be told apart.
            return self.refuse(id, Refusal::PartnerGone);
        }
        match self.pairing.on_half(half, &known, self.since.elapsed()) {
            Outcome::Parked => self.on_beat(),
            Outcome::ParkedInsteadOf(older, why) => {
                self.refuse(older.id, why);
                self.on_beat();
            }
            Outcome::Refused(half, why) => self.refuse(half.id, why),
            Outcome::BothRefused(halves, why) => halves.iter().for_each(|half| self.refuse(half.id, why)),
            Outcome::Matched(matched) => self.join(&matched),
        }
    }

    /// The index knows best; then a ticket counts.
    fn known(&self, half: &Half, ticket: Option<&TicketFacts>) -> Known {
        match (self.indexed(), ticket) {
            (Some(known), _) => Known::Parties(known.parties.consumer, known.parties.provider),
            (None, Some(ticket)) => Known::Parties(ticket.consumer.clone(), ticket.provider.clone()),
            (None, None) => Known::Nothing(self.resume.unproven(half, self.pairing.waiting())),
        }
    }

    fn indexed(&self) -> Option<Indexed> {
        self.vault().streams.known(self.claim.tenant(), self.claim.stream_id())
    }

    fn on_lost(&mut self, id: HalfId, end: &WriteEnd) {
        if self.pairing.on_lost(id) {
            self.note(format!("the half that waited is gone: {end}"));
            self.vault().metrics.resume("lost");
        }
        self.held.remove(&id);
    }

    fn on_partner_refused(&mut self, agent: &AgentUri) {
        let Some(waiting) = self.pairing.waiting() else { return };
        let is_partner = self.partner_of(&waiting.agent).is_some_and(|partner| partner == *agent);
        let id = waiting.id;
        if is_partner && self.pairing.on_lost(id) {
            self.refuse(id, Refusal::PartnerGone);
        }
    }

    /// Sees to it that the partner of the half that waits comes: ends the splice that still lives, and calls the partner, if it is known
    /// and here. Ends the half when its window is over.
    fn on_beat(&mut self) {
        self.beat = None;
        let now = self.since.elapsed();
        if let Some(late) = self.pairing.on_time(now) {
            self.refuse(late.id, Refusal::WindowOver);
        }
        let (Some(waiting), Some(ends)) = (self.pairing.waiting(), self.pairing.window_ends_at()) else { return };
        if let Some(indexed) = self.indexed().filter(|known| known.parties.partner_of(&waiting.agent).is_some()) {
            indexed.splice.iter().for_each(|splice| splice.stop());
        }
        if self.called_at.is_none_or(|at| at.elapsed() >= CALL_EVERY)
            && let Some(partner) = self.partner_of(&waiting.agent)
            && let Some(connection) = self.vault().connections.latest_of(&partner)
            && connection.names(Capability::ResumeCall)
        {
            connection.send_control(&Frame::ResumeWanted(orp::ResumeWanted { stream_id: self.claim.stream_id().0 }));
            self.called_at = Some(Instant::now());
        }
        let next = CALL_EVERY.min(ends.saturating_sub(now));
        self.beat = Some(task::owned(&self.slot, tokio::time::sleep(next), EntryMsg::Beat));
    }

    fn partner_of(&self, agent: &AgentUri) -> Option<AgentUri> {
        match (self.indexed(), &self.proven) {
            (Some(known), _) => known.parties.partner_of(agent).cloned(),
            (None, Some(ticket)) => parties(ticket).partner_of(agent).cloned(),
            (None, None) => None,
        }
    }

    fn refuse_both(&mut self, matched: &Match, why: Refusal) {
        [&matched.first, &matched.second].iter().for_each(|half| self.refuse(half.id, why));
    }

    fn refuse(&mut self, id: HalfId, why: Refusal) {
        let Some(Held { arrived, .. }) = self.held.remove(&id) else { return };
        let ArrivedHalf { half, connection, stream, .. } = arrived;
        super::turn_away(self.vault(), &connection, self.claim.stream_id(), stream, half.origin, why);
    }

    /// Hands the pair over to a splice of its own. When nobody takes it, both are reset `RESUMABLE`.
    fn join(&mut self, matched: &Match) {
        let indexed = self.indexed();
        // A stream that was opened here was let in then; this only keeps a drain waiting until it is counted again.
        let limit = if indexed.is_some() { usize::MAX } else { self.vault().config.now().limits.streams };
        let Some(admitted) = self.vault().traffic.admit(limit) else {
            self.vault().metrics.limit_hit(Limit::Streams);
            return self.refuse_both(matched, Refusal::Limit);
        };
        if indexed.is_none() && decision::are_too_old(self.vault()) {
            return self.refuse_both(matched, Refusal::RulesTooOld);
        }
        let origin = match (indexed, self.proven.take().filter(|_| matched.proof == Proof::Parties)) {
            (Some(Indexed { parties, facts, .. }), _) => {
                let facts = facts.unwrap_or_else(|| self.unseen(&parties));
                Ok(Joined { parties, facts, how: "matched" })
            }
            (None, Some(ticket)) => self.proven_by(&ticket),
            (None, None) => {
                // Who opened it is not known, and does not matter to its bytes.
                let (consumer, provider) = (matched.first.agent.clone(), matched.second.agent.clone());
                let parties = Parties { consumer, provider };
                Ok(Joined { facts: self.unseen(&parties), parties, how: "matched_unproven" })
            }
        };
        let Joined { parties, facts, how } = match origin {
            Ok(joined) => joined,
            Err(why) => return self.refuse_both(matched, why),
        };
        let (Some(first), Some(second)) = (self.held.remove(&matched.first.id), self.held.remove(&matched.second.id))
        else {
            return;
        };
        let (first, second) = (first.arrived, second.arrived);
        let (first_echo, second_echo) = matched.echoes();
        let ((consumer, to_consumer), (provider, to_provider)) = if parties.consumer == first.half.agent {
            ((first, first_echo), (second, second_echo))
        } else {
            ((second, second_echo), (first, first_echo))
        };
        let Ok(reservation) = self.vault().streams.reserve(self.claim.stream_id(), parties.clone()) else {
            tracing::warn!(stream = %self.claim.stream_id(), "id was taken by others meanwhile: both halves are reset");
            return;
        };
        self.vault().metrics.resume(how);
        self.note(format!("joined after {:?}: {how}", self.since.elapsed()));
        let pair = Pair {
            stream_id: self.claim.stream_id(),
            parties,
            facts,
            codes: agreement(&consumer.connection, &provider.connection),
            routed: Routed::between(self.claim.stream_id(), &consumer.connection, &provider.connection),
            consumer: consumer.stream,
            provider: provider.stream,
            to_consumer,
            to_provider,
            reservation,
            stream_uses: [consumer.stream_use, provider.stream_use],
            vault: Arc::clone(self.vault()),
            rules: None,
            admitted: Some(admitted),
            opening: None,
        };
        if self.resume.splices.start(pair).is_err() {
            tracing::debug!("nobody splices now: both halves are reset");
        }
    }

    /// Asks the rules again for a stream that was opened at another relay, or before this one was restarted: both sides, as for
    /// an open. A direct path is what both the ticket and the rules say now.
    fn proven_by(&self, ticket: &TicketFacts) -> Result<Joined, Refusal> {
        let parties = parties(ticket);
        let mut facts = StreamFacts {
            target: ticket.target.clone(),
            method: ticket.method.clone(),
            p2p_mode: ticket.p2p_mode,
            opened_at: SystemTime::now(),
        };
        let asked = decision::ask_both(self.vault(), &parties, &facts, self.claim.stream_id(), Of::Arriving);
        facts.p2p_mode = asked.map_err(|why| {
            self.note(why);
            Refusal::RulesDeny
        })?;
        Ok(Joined { parties, facts: Arc::new(facts), how: "matched_ticket" })
    }

    /// What is known of a stream that this relay never saw: it must not leave the relay (architecture §5, invariant 3).
    fn unseen(&self, parties: &Parties) -> Arc<StreamFacts> {
        let reason = "resumed, although this relay never saw it: a rule allows a stream between the two";
        let (caller, asked) = (&parties.consumer, Asked { target: parties.provider.as_str(), method: "" });
        decision::by_relay(self.vault(), caller, asked, self.claim.stream_id(), Effect::Allow, reason);
        Arc::new(StreamFacts {
            target: String::new(),
            method: String::new(),
            p2p_mode: P2pMode::Forbidden,
            opened_at: SystemTime::now(),
        })
    }

    fn note(&self, what: String) {
        self.vault().flights.note(self.claim.tenant(), self.claim.stream_id(), what);
    }

    fn describe(&self) {
        let since = SystemTime::now() - self.since.elapsed();
        let waits = self.pairing.waiting().map(|half| (half.agent.to_string(), half.fields));
        self.slot.node().describe(move || {
            let Some((agent, fields)) = &waits else { return serde_json::Value::Null };
            serde_json::json!({
                "waits": agent,
                "since_ms": u64::try_from(since.elapsed().unwrap_or_default().as_millis()).unwrap_or(u64::MAX),
                "written": fields.my_position,
                "consumed": fields.peer_ack_position,
            })
        });
    }
}
