//! Who may open a stream to whom (wire.md §4): rules, and a snapshot of them that decides.
//!
//! A decision is made twice for every open, so a [`Snapshot`] is built once, sorted, and then only read: nothing is
//! allocated while it decides. No rule that matches means deny.

mod between;
pub mod explain;
mod index;
mod precedence;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::core::glob::Pattern;
use crate::core::identity::Tenant;
use index::TenantIndex;

/// What a rule does to what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The stream may be opened.
    Allow,
    /// It may not.
    Deny,
}

impl Effect {
    /// The effect of `PolicyRule.decision` (wire.md §8). Unspecified is deny, and so is a number that nobody knows.
    #[must_use]
    pub fn from_decision(decision: i32) -> Self {
        match decision {
            1 => Self::Allow,
            _ => Self::Deny,
        }
    }

    /// The number for `PolicyRule.decision` and `AuditEvent.decision` (wire.md §8).
    #[must_use]
    pub fn decision(self) -> i32 {
        match self {
            Self::Allow => 1,
            Self::Deny => 2,
        }
    }

    /// `allow` or `deny`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Whether a stream may, must or must not leave the relay for a direct path (wire.md §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum P2pMode {
    /// It may.
    #[default]
    Allowed,
    /// It must not: candidates are not passed on.
    Forbidden,
    /// It must, within the configured time, or it is reset.
    Required,
}

impl P2pMode {
    /// What holds for a stream when its two sides' rules say `self` and `other`: forbidden > required > allowed.
    #[must_use]
    pub fn combine(self, other: Self) -> Self {
        match (self, other) {
            (Self::Forbidden, _) | (_, Self::Forbidden) => Self::Forbidden,
            (Self::Required, _) | (_, Self::Required) => Self::Required,
            (Self::Allowed, Self::Allowed) => Self::Allowed,
        }
    }

    /// The mode with this number on the wire (wire.md §8); `None` for a number that nobody knows, which must be refused.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Allowed),
            1 => Some(Self::Forbidden),
            2 => Some(Self::Required),
            _ => None,
        }
    }

    /// The number on the wire (wire.md §8).
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Allowed => 0,
            Self::Forbidden => 1,
            Self::Required => 2,
        }
    }

    /// `allowed`, `forbidden` or `required`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Forbidden => "forbidden",
            Self::Required => "required",
        }
    }
}

/// What rules ask for that this relay does not do: such a stream must not be served by something weaker.
#[must_use]
pub fn unserved(relay_mode: RelayMode, p2p_mode: P2pMode) -> Option<&'static str> {
    match (relay_mode, p2p_mode) {
        (RelayMode::Forward, _) => Some("the rule asks for the forward plane, which this relay does not run"),
        (_, P2pMode::Required) => Some("the rule requires a direct path, to which this relay does not promote"),
        (RelayMode::Splice, P2pMode::Allowed | P2pMode::Forbidden) => None,
    }
}

/// How the relay carries a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayMode {
    /// The two agents' streams are joined (wire.md §4.7).
    #[default]
    Splice,
    /// The agents run end-to-end QUIC over the forward plane (wire.md §7).
    Forward,
}

impl RelayMode {
    /// The mode with this number on the wire (wire.md §8); `None` for a number that nobody knows, which must be refused.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Splice),
            1 => Some(Self::Forward),
            _ => None,
        }
    }

    /// The number on the wire (wire.md §8).
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Splice => 0,
            Self::Forward => 1,
        }
    }

    /// `splice` or `forward`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Splice => "splice",
            Self::Forward => "forward",
        }
    }
}

/// One rule, as `PolicyRule` carries it (wire.md §8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Unique within the tenant.
    pub id: Arc<str>,
    /// Whose rule it is; it matches nothing of another tenant.
    pub tenant: Tenant,
    /// Matched against the caller.
    pub caller: Pattern,
    /// Matched against the target: a service on the caller's side, the caller's URI on the callee's side.
    pub target: Pattern,
    /// Matched against the method; empty matches every method.
    pub method: Pattern,
    /// What it does to what it matches.
    pub effect: Effect,
    /// From this time on, in milliseconds since 1970, the rule does not exist; 0 = never expires.
    pub expires_unix_ms: i64,
    /// When it was made, in milliseconds since 1970; for people only.
    pub created_at_unix_ms: i64,
    /// What an allowed stream may do about a direct path.
    pub p2p_mode: P2pMode,
    /// How an allowed stream is carried; counts on the caller's side.
    pub relay_mode: RelayMode,
}

impl Rule {
    /// Whether the rule does not exist any more at `now_unix_ms`.
    #[must_use]
    pub fn is_expired(&self, now_unix_ms: i64) -> bool {
        self.expires_unix_ms != 0 && self.expires_unix_ms <= now_unix_ms
    }

    /// Whether the rule says something about any method.
    fn has_method(&self) -> bool {
        !self.method.as_str().is_empty()
    }

    fn method_matches(&self, method: &str) -> bool {
        !self.has_method() || self.method.matches(method)
    }
}

/// One side's question: may `caller` use `method` of `target`?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// Whose rules are asked.
    pub tenant: &'a Tenant,
    /// The side that asks: the consumer's URI, or on the callee's side the provider's.
    pub caller: &'a str,
    /// The service, or on the callee's side the consumer's URI.
    pub target: &'a str,
    /// The method of OPEN_STREAM.
    pub method: &'a str,
}

/// The answer to a [`Query`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether the stream may be opened.
    pub effect: Effect,
    /// The id of the rule that decided; `None` when no rule did.
    pub rule: Option<Arc<str>>,
    /// In words: which kind of decision this was.
    pub reason: Cow<'static, str>,
    /// The deciding rule's mode.
    pub p2p_mode: P2pMode,
    /// The deciding rule's mode.
    pub relay_mode: RelayMode,
}

impl Verdict {
    /// A deny that no rule stands behind: no snapshot, too old a snapshot.
    #[must_use]
    pub fn denied(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            effect: Effect::Deny,
            rule: None,
            reason: reason.into(),
            p2p_mode: P2pMode::default(),
            relay_mode: RelayMode::default(),
        }
    }

    fn by_rule(rule: &Rule) -> Self {
        let reason = match rule.effect {
            Effect::Allow => "allowed by rule",
            Effect::Deny => "denied by rule",
        };
        Self {
            effect: rule.effect,
            rule: Some(Arc::clone(&rule.id)),
            reason: Cow::Borrowed(reason),
            p2p_mode: rule.p2p_mode,
            relay_mode: rule.relay_mode,
        }
    }

    /// Whether the stream may be opened.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.effect == Effect::Allow
    }

    /// What a 403 names (wire.md §4): the rule's id, or the reason when no rule decided.
    #[must_use]
    pub fn cause(&self) -> &str {
        self.rule.as_deref().unwrap_or(&self.reason)
    }
}

/// All rules at one moment. The default is the closed world: no rules, everything denied.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Sorted by tenant, then by precedence.
    rules: Vec<Rule>,
    tenants: HashMap<Tenant, TenantIndex>,
    /// When rules expire, in milliseconds since 1970, ascending.
    expiries: Vec<i64>,
}

impl Snapshot {
    /// Sorts and indexes the rules. Their order does not matter.
    #[must_use]
    pub fn build(mut rules: Vec<Rule>) -> Self {
        rules.sort_by(precedence::compare);
        let mut expiries: Vec<_> = rules.iter().map(|rule| rule.expires_unix_ms).filter(|at| *at != 0).collect();
        expiries.sort_unstable();
        let mut tenants = HashMap::<Tenant, TenantIndex>::new();
        for (at, rule) in rules.iter().enumerate() {
            tenants.entry(rule.tenant.clone()).or_default().add(at, rule);
        }
        Self { rules, tenants, expiries }
    }

    /// The rules, sorted by tenant and then by precedence: of several that match, the first decides.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// How many rules there are, the expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether this is the closed world.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether what it allows may change by itself.
    #[must_use]
    pub fn has_expiring_rules(&self) -> bool {
        !self.expiries.is_empty()
    }

    /// When the first of the rules expires that exist at `now_unix_ms`; both in milliseconds since 1970.
    #[must_use]
    pub fn next_expiry(&self, now_unix_ms: i64) -> Option<i64> {
        self.expiries.get(self.expiries.partition_point(|at| *at <= now_unix_ms)).copied()
    }

    /// Answers `query` as of `now_unix_ms`, in milliseconds since 1970 (wire.md §4).
    #[must_use]
    pub fn decide(&self, query: &Query<'_>, now_unix_ms: i64) -> Verdict {
        match self.deciding_rule(query, now_unix_ms) {
            Some(rule) => Verdict::by_rule(rule),
            None => Verdict::denied("no rule matches"),
        }
    }

    fn deciding_rule<'a>(&'a self, query: &'a Query<'_>, now_unix_ms: i64) -> Option<&'a Rule> {
        let tenant = self.tenants.get(query.tenant)?;
        let decides = |rule: &&Rule| rule.method_matches(query.method) && !rule.is_expired(now_unix_ms);
        tenant.in_order(&self.rules, query).find(decides)
    }
}

#[cfg(test)]
mod tests;
