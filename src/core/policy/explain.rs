//! Answers for the person who writes the rules: why a decision fell as it did, and which denies never get to decide.

use std::sync::Arc;

use serde::Serialize;

use crate::core::policy::precedence::Precedence;
use crate::core::policy::{Effect, Query, Rule, Snapshot, Verdict};

/// What became of one rule when a query was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It matches and goes before every other that does: its effect is the verdict.
    Decides,
    /// It matches, but a more specific rule decides.
    Outranked,
    /// It would match, but does not exist any more.
    Expired,
    /// Its target pattern does not match.
    OtherTarget,
    /// Its caller pattern does not match.
    OtherCaller,
    /// Its method pattern does not match.
    OtherMethod,
}

/// One rule in an [`Explanation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// The rule's id.
    pub rule: Arc<str>,
    /// What it would do.
    pub effect: Effect,
    /// What became of it.
    pub outcome: Outcome,
}

/// A decision with everything that led to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What [`Snapshot::decide`] answers.
    pub verdict: Verdict,
    /// One sentence.
    pub why: String,
    /// Every rule of the tenant, in order of precedence.
    pub considered: Vec<Considered>,
}

/// A deny that a more specific allow takes the decision from, for at least one query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shadow {
    /// The id of the deny.
    pub deny: Arc<str>,
    /// The id of the allow.
    pub by: Arc<str>,
}

impl Snapshot {
    /// Answers `query` as of `now_unix_ms` like [`decide`](Self::decide), and says why.
    ///
    /// It walks every rule of the tenant one by one, without the index: for people, not for the path of an open.
    #[must_use]
    pub fn explain(&self, query: &Query<'_>, now_unix_ms: i64) -> Explanation {
        let mut deciding = None;
        let mut runner_up = None;
        let mut considered = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.tenant == *query.tenant) {
            let outcome = match miss(rule, query, now_unix_ms) {
                Some(miss) => miss,
                None if deciding.is_none() => {
                    deciding = Some(rule);
                    Outcome::Decides
                }
                None => {
                    runner_up = runner_up.or(Some(rule));
                    Outcome::Outranked
                }
            };
            considered.push(Considered { rule: Arc::clone(&rule.id), effect: rule.effect, outcome });
        }
        Explanation {
            verdict: self.decide(query, now_unix_ms),
            why: why(deciding, runner_up, considered.len()),
            considered,
        }
    }

    /// The denies that do not deny everything they match, because a more specific allow matches some of it too.
    ///
    /// A pair is named exactly when at least one query matches both rules, rules expired at `now_unix_ms` left out. It may
    /// still be harmless: a third rule, more specific than both, may decide those queries. The work grows with the
    /// square of a tenant's rules: for people, not for the path of an open.
    #[must_use]
    pub fn shadowed(&self, now_unix_ms: i64) -> Vec<Shadow> {
        let of_one_tenant = self.rules.chunk_by(|a, b| a.tenant == b.tenant);
        of_one_tenant.flat_map(|rules| shadows(rules, now_unix_ms)).collect()
    }
}

/// `rules` are one tenant's, in order of precedence: only what stands before a deny can take a decision from it.
fn shadows(rules: &[Rule], now_unix_ms: i64) -> Vec<Shadow> {
    let mut shadows = Vec::new();
    let mut allows = Vec::<&Rule>::new();
    for rule in rules.iter().filter(|rule| !rule.is_expired(now_unix_ms)) {
        match rule.effect {
            Effect::Allow => allows.push(rule),
            Effect::Deny => {
                let before = allows.iter().filter(|allow| overlap(allow, rule));
                shadows.extend(before.map(|allow| Shadow { deny: Arc::clone(&rule.id), by: Arc::clone(&allow.id) }));
            }
        }
    }
    shadows
}

fn overlap(a: &Rule, b: &Rule) -> bool {
    let same_method = !a.has_method() || !b.has_method() || a.method.overlaps(&b.method);
    same_method && a.target.overlaps(&b.target) && a.caller.overlaps(&b.caller)
}

fn miss(rule: &Rule, query: &Query<'_>, now_unix_ms: i64) -> Option<Outcome> {
    if !rule.target.matches(query.target) {
        Some(Outcome::OtherTarget)
    } else if !rule.caller.matches(query.caller) {
        Some(Outcome::OtherCaller)
    } else if !rule.method_matches(query.method) {
        Some(Outcome::OtherMethod)
    } else if rule.is_expired(now_unix_ms) {
        Some(Outcome::Expired)
    } else {
        None
    }
}

fn why(deciding: Option<&Rule>, runner_up: Option<&Rule>, rules: usize) -> String {
    let Some(rule) = deciding else {
        return format!("none of the tenant's {rules} rules matches, so it is denied");
    };
    let (id, effect) = (&rule.id, rule.effect.name());
    match runner_up {
        Some(next) => {
            let reason = Precedence::of(rule).reason_over(&Precedence::of(next));
            let (next_id, next_effect) = (&next.id, next.effect.name());
            format!("rule {id} ({effect}) decides before rule {next_id} ({next_effect}): {reason}")
        }
        None => format!("rule {id} ({effect}) is the only one that matches"),
    }
}
