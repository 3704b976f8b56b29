//! Asking the rules, and leaving a trace of what they said (architecture §5, invariant 9).

use crate::clock::now_unix_ms;
use crate::core::identity::AgentUri;
use crate::core::ids::StreamId;
use crate::core::policy::{Effect, Query, Verdict};
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

    /// What the rules in force say; audited and counted.
    #[must_use]
    pub fn decide(&self, vault: &Vault) -> Verdict {
        let verdict = self.ask(vault);
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

/// Why the rules in force do not allow a stream that lives; audited.
#[must_use]
pub fn denied(vault: &Vault, stream: &LiveStream) -> Option<String> {
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
    Question::of_stream(parties, facts, *id).into_iter().find_map(|question| {
        let verdict = question.ask(vault);
        (!verdict.is_allowed()).then(|| {
            question.record(vault, &verdict);
            format!("denied ({}) by new rules: {}", question.side.name(), verdict.cause())
        })
    })
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
        ts_unix_ms: now_unix_ms(),
        tenant: caller.tenant().as_str().into(),
        side: Side::Relay,
        caller: caller.as_str().into(),
        target: asked.target.into(),
        method: asked.method.into(),
        decision,
        rule: None,
        reason: reason.into(),
        stream_id: id.into(),
    });
}
