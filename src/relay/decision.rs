//! Asking the rules, and leaving a trace of what they said (architecture §5, invariant 9).

use crate::clock::now_unix_ms;
use crate::core::identity::AgentUri;
use crate::core::ids::StreamId;
use crate::core::policy::{Effect, P2pMode, Query, RelayMode, Verdict, unserved};
use crate::core::resume::pairing::Refusal;
use crate::directory::audit_log::record::{AuditEvent, Side};
use crate::metrics::DecisionLabel;
use crate::vault::Vault;
use crate::vault::streams::{Parties, StreamFacts};
use crate::vault::traffic::LiveStream;

/// What the rules are asked about one side of a stream (wire.md §4).
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Which side.
    pub side: Side,
    /// Who acts: of the callee's side, the provider. Its tenant's rules are asked.
    pub caller: &'a AgentUri,
    /// What it acts on: a service, or of the callee's side the consumer.
    pub target: &'a str,
    /// As the consumer named it; may be empty.
    pub method: &'a str,
    /// For the audit.
    pub stream_id: StreamId,
}

impl<'a> Question<'a> {
    /// May the consumer of a stream use its service, and may the provider be called by it?
    #[must_use]
    pub fn of_stream(parties: &'a Parties, facts: &'a StreamFacts, stream_id: StreamId) -> [Self; 2] {
        let method = &facts.method;
        let consumer = parties.consumer.as_str();
        [
            Self { side: Side::Caller, caller: &parties.consumer, target: &facts.target, method, stream_id },
            Self { side: Side::Callee, caller: &parties.provider, target: consumer, method, stream_id },
        ]
    }

    /// What the rules in force say, with no trace.
    #[must_use]
    pub fn ask(&self, vault: &Vault) -> Verdict {
        let Self { caller, target, method, .. } = *self;
        let query = Query { tenant: caller.tenant(), caller: caller.as_str(), target, method };
        vault.policy.current().snapshot.decide(&query, now_unix_ms())
    }

    /// What the rules in force say of what begins now, unless they are too old; audited and counted.
    #[must_use]
    pub fn decide(&self, vault: &Vault) -> Verdict {
        let verdict = if are_too_old(vault) { Verdict::denied(Refusal::RulesTooOld.reason()) } else { self.ask(vault) };
        self.record(vault, &verdict);
        verdict
    }

    /// Audits and counts an answer.
    pub fn record(&self, vault: &Vault, verdict: &Verdict) {
        vault.audit.push(AuditEvent {
            ts_unix_ms: now_unix_ms(),
            tenant: self.caller.tenant().as_str().into(),
            side: self.side,
            caller: self.caller.as_str().into(),
            target: self.target.into(),
            method: self.method.into(),
            decision: verdict.effect,
            rule: verdict.rule.clone(),
            reason: verdict.reason.as_ref().into(),
            stream_id: Some(self.stream_id),
        });
        let label = DecisionLabel { side: self.side.name(), decision: verdict.effect.name() };
        vault.metrics.decisions.get_or_create(&label).inc();
    }
}

/// Whether newer rules could not be used for so long that nothing may begin under these.
#[must_use]
pub fn are_too_old(vault: &Vault) -> bool {
    vault.policy.current().is_too_old(vault.config.now().directory.max_staleness)
}

/// What has changed since a stream was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Other rules are in force.
    NewRules,
    /// The same, of which one or the other exists no more.
    Expiry,
}

/// Why the rules in force do not allow a stream that lives; audited.
#[must_use]
pub fn denied(vault: &Vault, stream: &LiveStream, change: Change) -> Option<String> {
    let LiveStream { id, parties, facts, .. } = stream;
    if facts.target.is_empty() {
        let Parties { consumer, provider } = parties;
        if vault.policy.current().snapshot.allows_some_stream(consumer, provider, now_unix_ms()) {
            return None;
        }
        let why = "no rule allows a stream between its agents any more";
        by_relay(vault, consumer, Asked { target: provider.as_str(), method: "" }, *id, Effect::Deny, why);
        return Some(why.to_owned());
    }
    let denied = ask_both(vault, parties, facts, *id, Of::Living).err()?;
    Some(match change {
        Change::NewRules => format!("{denied} by new rules"),
        Change::Expiry => format!("{denied}, since a rule has expired"),
    })
}

/// What a stream is to those who ask about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// It comes here now: every answer is audited, and rules may be too old.
    Arriving,
    /// It lives here: an answer that ends it is audited.
    Living,
}

/// What the rules in force say of a stream that was let in once, both sides: whether it may leave the relay, which must have been so
/// when it was let in, too; or why it is denied.
///
/// # Errors
/// Why the stream is denied. It is audited.
pub fn ask_both(
    vault: &Vault,
    parties: &Parties,
    facts: &StreamFacts,
    id: StreamId,
    stream: Of,
) -> Result<P2pMode, String> {
    let (mut p2p_mode, mut relay_mode) = (P2pMode::Allowed, RelayMode::Splice);
    for question in Question::of_stream(parties, facts, id) {
        let verdict = match stream {
            Of::Arriving => question.decide(vault),
            Of::Living => question.ask(vault),
        };
        if !verdict.is_allowed() {
            if stream == Of::Living {
                question.record(vault, &verdict);
            }
            return Err(format!("denied ({}): {}", question.side.name(), verdict.cause()));
        }
        p2p_mode = p2p_mode.combine(verdict.p2p_mode);
        if question.side == Side::Caller {
            relay_mode = verdict.relay_mode;
        }
    }
    let Some(why) = unserved(relay_mode, p2p_mode) else { return Ok(p2p_mode.combine(facts.p2p_mode)) };
    let asked = Asked { target: &facts.target, method: &facts.method };
    by_relay(vault, &parties.consumer, asked, id, Effect::Deny, why);
    Err(format!("denied: {why}"))
}

/// What a stream is asked for, as far as the relay knows: empty where it does not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// The service, or the agent at the other end.
    pub target: &'a str,
    /// As the consumer named it.
    pub method: &'a str,
}

/// Audits what the relay itself lets pass or refuses; `id` is none where the stream is not known.
pub fn by_relay(
    vault: &Vault,
    caller: &AgentUri,
    asked: Asked<'_>,
    id: impl Into<Option<StreamId>>,
    decision: Effect,
    reason: &str,
) {
    vault.audit.push(AuditEvent {
        target: asked.target.into(),
        method: asked.method.into(),
        stream_id: id.into(),
        ..AuditEvent::by_relay(caller.tenant().as_str(), caller.as_str(), decision, reason)
    });
}
