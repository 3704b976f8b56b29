//! Which of several matching rules wins: the most specific (wire.md §4).

use std::cmp::{Ordering, Reverse};

use crate::core::glob::Pattern;
use crate::core::policy::{Effect, Rule};

/// A rule's place among its tenant's: the lesser wins. The fields stand in the order of wire.md §4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence<'a> {
    target: Kind,
    caller: Kind,
    literals: Reverse<usize>,
    method: Scope,
    effect: Weight,
    id: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Exact,
    Glob,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    OneMethod,
    EveryMethod,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Deny,
    Allow,
}

impl<'a> Precedence<'a> {
    pub(super) fn of(rule: &'a Rule) -> Self {
        Self {
            target: kind(&rule.target),
            caller: kind(&rule.caller),
            literals: Reverse(literals(rule)),
            method: if rule.has_method() { Scope::OneMethod } else { Scope::EveryMethod },
            effect: match rule.effect {
                Effect::Deny => Weight::Deny,
                Effect::Allow => Weight::Allow,
            },
            id: &rule.id,
        }
    }

    /// Why a rule with this precedence goes before one with `other`: the first field that differs, in words.
    pub(super) fn reason_over(&self, other: &Self) -> &'static str {
        if self.target != other.target {
            "an exact target goes before a pattern"
        } else if self.caller != other.caller {
            "an exact caller goes before a pattern"
        } else if self.literals != other.literals {
            "more literal bytes go before fewer"
        } else if self.method != other.method {
            "a rule with a method goes before one without"
        } else if self.effect != other.effect {
            "deny goes before allow"
        } else {
            "the smaller id goes first"
        }
    }
}

fn kind(pattern: &Pattern) -> Kind {
    if pattern.is_exact() { Kind::Exact } else { Kind::Glob }
}

fn literals(rule: &Rule) -> usize {
    [&rule.caller, &rule.target, &rule.method].map(Pattern::literal_len).iter().sum()
}

/// The order of [`Snapshot::rules`](super::Snapshot::rules). Ids are unique, so precedence alone tells two rules of a
/// tenant apart; should a directory hand out an id twice, the other fields keep the order independent of arrival.
pub(super) fn compare(a: &Rule, b: &Rule) -> Ordering {
    let rest = |rule: &Rule| {
        let expires_unix_ms = rule.expires_unix_ms;
        let modes = (rule.p2p_mode.code(), rule.relay_mode.code());
        (expires_unix_ms, rule.created_at_unix_ms, modes)
    };
    a.tenant
        .cmp(&b.tenant)
        .then_with(|| Precedence::of(a).cmp(&Precedence::of(b)))
        .then_with(|| a.target.cmp(&b.target))
        .then_with(|| a.caller.cmp(&b.caller))
        .then_with(|| a.method.cmp(&b.method))
        .then_with(|| rest(a).cmp(&rest(b)))
}
