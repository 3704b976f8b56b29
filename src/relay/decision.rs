//! One question to the rules in force: asked, audited and counted.

use crate::clock::now_unix_ms;
use crate::core::identity::Tenant;
use crate::core::ids::StreamId;
use crate::core::policy::{Query, Verdict};
use crate::directory::audit_log::record::{AuditEvent, Side};
use crate::metrics::DecisionLabel;
use crate::vault::Vault;

/// What is to be decided (wire.md §4).
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Whose rules are asked.
    pub tenant: &'a Tenant,
    /// Which side of the stream.
    pub side: Side,
    /// Who asks: on the callee's side, the provider.
    pub caller: &'a str,
    /// For what: on the callee's side, the consumer.
    pub target: &'a str,
    /// With which method.
    pub method: &'a str,
    /// For which stream.
    pub stream_id: StreamId,
}

/// What the rules say now.
pub fn decide(vault: &Vault, question: Question<'_>) -> Verdict {
    let Question { tenant, side, caller, target, method, stream_id } = question;
    let now = now_unix_ms();
    let published = vault.policy.current();
    let verdict = published.snapshot.decide(&Query { tenant, caller, target, method }, now);
    vault.audit.push(AuditEvent {
        ts_unix_ms: now,
        tenant: tenant.as_str().into(),
        side,
        caller: caller.into(),
        target: target.into(),
        method: method.into(),
        decision: verdict.effect,
        rule: verdict.rule.clone(),
        reason: verdict.reason.as_ref().into(),
        stream_id,
    });
    let label = DecisionLabel { side: side.name(), decision: verdict.effect.name() };
    vault.metrics.decisions.get_or_create(&label).inc();
    verdict
}
