//! Random sets of rules over so few texts that they collide: the index against a plain scan.

use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::core::glob::tests::naive;
use crate::core::policy::explain;

fn any_rule() -> impl Strategy<Value = Rule> {
    let patterns = || select(vec!["", "a", "b", "ab", "*", "a*", "*b", "a*b", "**", "*a*"]);
    let names = (select(vec!["t1", "t2"]), "[a-c]{1,2}");
    let texts = (patterns(), patterns(), patterns());
    let effects = select(vec![Effect::Allow, Effect::Deny]);
    let expiries = select(vec![0, 0, 0, 0, NOW_UNIX_MS - 1, NOW_UNIX_MS, NOW_UNIX_MS + 1]);
    let modes = (0..3u32, 0..2u32);
    (names, texts, effects, expiries, modes).prop_map(
        |((owner, id), (caller, target, method), effect, expires_unix_ms, (p2p, relay))| Rule {
            tenant: tenant(owner),
            expires_unix_ms,
            p2p_mode: P2pMode::from_code(p2p).unwrap(),
            relay_mode: RelayMode::from_code(relay).unwrap(),
            ..rule(&id, caller, target, method, effect)
        },
    )
}

/// Ids are unique in a tenant: of two rules with one id the later is left out.
fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    vec(any_rule(), 0..30).prop_map(|mut rules| {
        let mut seen = HashSet::new();
        rules.retain(|rule| seen.insert((rule.tenant.clone(), rule.id.clone())));
        rules
    })
}

fn any_text() -> impl Strategy<Value = &'static str> {
    select(vec!["", "a", "b", "ab", "aab", "ba", "c"])
}

/// wire.md §4 as it is written, from texts alone.
fn scan<'a>(rules: &'a [Rule], query: &Query<'_>) -> Option<&'a Rule> {
    let mut best: Option<&Rule> = None;
    for rule in rules {
        let method = rule.method.as_str();
        let matches = rule.tenant == *query.tenant
            && naive(rule.caller.as_str(), query.caller)
            && naive(rule.target.as_str(), query.target)
            && (method.is_empty() || naive(method, query.method));
        let exists = rule.expires_unix_ms == 0 || rule.expires_unix_ms > NOW_UNIX_MS;
        if matches && exists && best.is_none_or(|best| goes_before(rule, best)) {
            best = Some(rule);
        }
    }
    best
}

fn goes_before(a: &Rule, b: &Rule) -> bool {
    let exact = |pattern: &Pattern| !pattern.as_str().contains('*');
    let literal = |rule: &Rule| {
        let all = format!("{}{}{}", rule.caller, rule.target, rule.method);
        all.replace('*', "").len()
    };
    if exact(&a.target) != exact(&b.target) {
        return exact(&a.target);
    }
    if exact(&a.caller) != exact(&b.caller) {
        return exact(&a.caller);
    }
    if literal(a) != literal(b) {
        return literal(a) > literal(b);
    }
    if a.method.as_str().is_empty() != b.method.as_str().is_empty() {
        return b.method.as_str().is_empty();
    }
    if a.effect != b.effect {
        return a.effect == Effect::Deny;
    }
    a.id.as_bytes() < b.id.as_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn the_index_decides_as_a_scan_of_all_rules_does(
        rules in any_rules(), caller in any_text(), target in any_text(), method in any_text(),
    ) {
        for owner in ["t1", "t2", "t3"] {
            let tenant = tenant(owner);
            let query = Query { tenant: &tenant, caller, target, method };
            let snapshot = Snapshot::build(rules.clone());
            let verdict = snapshot.decide(&query, NOW_UNIX_MS);
            let expected = scan(&rules, &query).map_or(Verdict::denied("no rule matches"), Verdict::by_rule);
            prop_assert_eq!(&verdict, &expected);

            let explanation = snapshot.explain(&query, NOW_UNIX_MS);
            let decides = |considered: &&explain::Considered| considered.outcome == Outcome::Decides;
            let deciding: Vec<_> = explanation.considered.iter().filter(decides).collect();
            prop_assert_eq!(deciding.len(), usize::from(verdict.rule.is_some()));
            prop_assert_eq!(deciding.first().map(|it| it.rule.clone()), verdict.rule.clone());
            prop_assert_eq!(&explanation.verdict, &verdict);
        }
    }

    #[test]
    fn the_order_in_which_rules_arrive_does_not_matter(
        // Ids twice on purpose: even then.
        (rules, shuffled) in vec(any_rule(), 0..12)
            .prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
    ) {
        let (one, other) = (Snapshot::build(rules), Snapshot::build(shuffled));
        prop_assert_eq!(one.rules(), other.rules());
    }

    #[test]
    fn a_decision_taken_from_a_deny_is_always_a_named_shadow(
        rules in any_rules(), caller in any_text(), target in any_text(), method in any_text(),
    ) {
        let tenant = tenant("t1");
        let query = Query { tenant: &tenant, caller, target, method };
        let snapshot = Snapshot::build(rules);
        let explanation = snapshot.explain(&query, NOW_UNIX_MS);
        let shadows = snapshot.shadowed(NOW_UNIX_MS);
        if explanation.verdict.is_allowed() {
            let by = explanation.verdict.rule.clone().unwrap();
            for outranked in &explanation.considered {
                if outranked.outcome == Outcome::Outranked && outranked.effect == Effect::Deny {
                    let shadow = Shadow { deny: outranked.rule.clone(), by: by.clone() };
                    prop_assert!(shadows.contains(&shadow), "{:?}", shadow);
                }
            }
        }
    }
}
