//! Where a snapshot looks first: exact targets and exact callers are found by hash, the rest is walked.
//!
//! Nothing is lost of the order of wire.md §4, because its first two criteria are just these: exact before pattern, of the
//! target and then of the caller. Each list holds its rules in order of precedence, so the first that matches decides.

use std::collections::HashMap;
use std::iter;

use crate::core::policy::{Query, Rule};

/// The rules of one tenant, as positions in the snapshot's sorted list.
#[derive(Debug, Clone, Default)]
pub(super) struct TenantIndex {
    by_target: HashMap<Box<str>, Callers>,
    target_patterns: Callers,
}

#[derive(Debug, Clone, Default)]
struct Callers {
    by_caller: HashMap<Box<str>, Vec<usize>>,
    caller_patterns: Vec<usize>,
}

impl TenantIndex {
    /// Adds the rule that stands at position `at`. Positions must come in ascending order.
    pub(super) fn add(&mut self, at: usize, rule: &Rule) {
        let callers = if rule.target.is_exact() {
            self.by_target.entry(rule.target.as_str().into()).or_default()
        } else {
            &mut self.target_patterns
        };
        let positions = if rule.caller.is_exact() {
            callers.by_caller.entry(rule.caller.as_str().into()).or_default()
        } else {
            &mut callers.caller_patterns
        };
        positions.push(at);
    }

    /// The rules whose target and caller match, in order of precedence. `rules` is the list that the positions point into.
    pub(super) fn in_order<'a>(&'a self, rules: &'a [Rule], query: &'a Query<'_>) -> impl Iterator<Item = &'a Rule> {
        self.by_target
            .get(query.target)
            .into_iter()
            .chain(iter::once(&self.target_patterns))
            .flat_map(|callers| callers.in_order(query.caller))
            .filter_map(|at| rules.get(*at))
            .filter(|rule| rule.caller.matches(query.caller) && rule.target.matches(query.target))
    }
}

impl Callers {
    fn in_order(&self, caller: &str) -> impl Iterator<Item = &usize> {
        let exact = self.by_caller.get(caller).into_iter().flatten();
        exact.chain(&self.caller_patterns)
    }
}
