//! The rules of wire.md §4, one by one.

mod random;

use super::explain::{Outcome, Shadow};
use super::*;

const NOW_UNIX_MS: i64 = 1_000;

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

fn rule(id: &str, caller: &str, target: &str, method: &str, effect: Effect) -> Rule {
    Rule {
        id: id.into(),
        tenant: tenant("acme"),
        caller: Pattern::new(caller),
        target: Pattern::new(target),
        method: Pattern::new(method),
        effect,
        expires_unix_ms: 0,
        created_at_unix_ms: 0,
        p2p_mode: P2pMode::Allowed,
        relay_mode: RelayMode::Splice,
    }
}

fn allow(id: &str, caller: &str, target: &str, method: &str) -> Rule {
    rule(id, caller, target, method, Effect::Allow)
}

fn deny(id: &str, caller: &str, target: &str, method: &str) -> Rule {
    rule(id, caller, target, method, Effect::Deny)
}

fn ask(rules: &[Rule], caller: &str, target: &str, method: &str) -> Verdict {
    let tenant = tenant("acme");
    let query = Query { tenant: &tenant, caller, target, method };
    Snapshot::build(rules.to_vec()).decide(&query, NOW_UNIX_MS)
}

/// `winner` decides whichever of the two stands first.
#[track_caller]
fn decides(winner: Rule, loser: Rule, (caller, target, method): (&str, &str, &str)) {
    for rules in [vec![winner.clone(), loser.clone()], vec![loser.clone(), winner.clone()]] {
        let verdict = ask(&rules, caller, target, method);
        assert_eq!(verdict.rule, Some(winner.id.clone()));
        assert_eq!(verdict.effect, winner.effect);
    }
    let alone = ask(std::slice::from_ref(&loser), caller, target, method);
    assert_eq!(alone.rule, Some(loser.id), "the other would match too");
}

#[test]
fn the_next_expiry_is_that_of_a_rule_that_exists_still() {
    let rule = |expires_unix_ms| Rule { expires_unix_ms, ..allow("r", "*", "*", "") };
    let none = Snapshot::build(vec![rule(0)]);
    assert_eq!((none.has_expiring_rules(), none.next_expiry(0)), (false, None));
    let some = Snapshot::build([70, 0, 50, 60, 50].map(rule).into());
    assert!(some.has_expiring_rules());
    for (now, next) in [(0, Some(50)), (49, Some(50)), (50, Some(60)), (60, Some(70)), (70, None)] {
        assert_eq!(some.next_expiry(now), next, "at {now}");
    }
}

#[test]
fn without_a_matching_rule_the_answer_is_no() {
    let nothing = ask(&[], "c", "t", "m");
    assert_eq!(nothing, Verdict::denied("no rule matches"));
    assert_eq!(nothing.cause(), "no rule matches");
    let other = ask(&[allow("r", "c", "other", "")], "c", "t", "m");
    assert_eq!(other, Verdict::denied("no rule matches"));
    assert!(Snapshot::default().is_empty());
}

#[test]
fn a_matching_rule_hands_over_its_id_and_modes() {
    let mut matching = allow("r", "c*", "t*", "m*");
    matching.p2p_mode = P2pMode::Required;
    matching.relay_mode = RelayMode::Forward;
    let verdict = ask(&[matching], "cc", "tt", "mm");
    assert!(verdict.is_allowed());
    assert_eq!(verdict.cause(), "r");
    assert_eq!(verdict.p2p_mode, P2pMode::Required);
    assert_eq!(verdict.relay_mode, RelayMode::Forward);
}

#[test]
fn an_exact_target_goes_before_a_glob_whatever_else_the_glob_has() {
    decides(deny("z", "*", "t", ""), allow("a", "caller", "t*", "method"), ("caller", "t", "method"));
}

#[test]
fn an_exact_caller_goes_before_a_glob_when_the_targets_are_alike() {
    decides(allow("z", "caller", "t", ""), deny("a", "calle*", "t", "method"), ("caller", "t", "method"));
    decides(allow("z", "caller", "*", ""), deny("a", "calle*", "target*", "method"), ("caller", "target", "method"));
}

#[test]
fn more_literal_bytes_of_all_three_patterns_go_before_fewer() {
    // The sum counts, not one pattern: 1 + 3 + 0 against 2 + 1 + 0.
    decides(allow("z", "c*", "tar*", ""), deny("a", "ca*", "t*", ""), ("caller", "target", "method"));
    // The method's bytes count as the others do: 1 + 1 + 3 against 2 + 2 + 0.
    decides(allow("z", "c*", "t*", "met*"), deny("a", "ca*", "ta*", ""), ("caller", "target", "method"));
    // And they go before having a method at all: 2 + 2 + 0 against 1 + 1 + 1.
    decides(allow("z", "ca*", "ta*", ""), deny("a", "c*", "t*", "m*"), ("caller", "target", "method"));
}

#[test]
fn literal_length_is_counted_in_bytes() {
    decides(allow("z", "é*", "t", ""), deny("a", "*x", "t", ""), ("éx", "t", ""));
}

#[test]
fn a_rule_with_a_method_goes_before_one_without() {
    decides(allow("z", "c", "t", "*"), deny("a", "c", "t", ""), ("c", "t", "m"));
}

#[test]
fn deny_goes_before_allow_when_nothing_else_tells_them_apart() {
    decides(deny("z", "c", "t", "m"), allow("a", "c", "t", "m"), ("c", "t", "m"));
    decides(deny("z", "ca*", "t*", ""), allow("a", "*ca", "*t", ""), ("ca", "t", "m"));
}

#[test]
fn the_bytewise_smaller_id_goes_first_at_last() {
    decides(allow("10", "c*", "t", ""), allow("9", "*c", "t", ""), ("c", "t", ""));
    decides(allow("B", "c*", "t", ""), allow("a", "*c", "t", ""), ("c", "t", ""));
}

#[test]
fn an_empty_method_pattern_matches_every_method_and_others_do_not_match_the_empty_one() {
    assert!(ask(&[allow("r", "c", "t", "")], "c", "t", "any/thing").is_allowed());
    assert!(ask(&[allow("r", "c", "t", "")], "c", "t", "").is_allowed());
    assert!(ask(&[allow("r", "c", "t", "*")], "c", "t", "").is_allowed());
    assert!(!ask(&[allow("r", "c", "t", "m")], "c", "t", "").is_allowed());
    assert!(!ask(&[allow("r", "c", "t", "m")], "c", "t", "mm").is_allowed());
}

#[test]
fn an_empty_caller_or_target_pattern_matches_the_empty_text_alone() {
    let rules = [allow("no-caller", "", "t", ""), allow("no-target", "c", "", "")];
    assert!(!ask(&rules, "c", "t", "").is_allowed());
    assert_eq!(ask(&rules, "", "t", "").cause(), "no-caller");
    assert_eq!(ask(&rules, "c", "", "").cause(), "no-target");
}

#[test]
fn an_expired_rule_does_not_exist_and_uncovers_what_it_outranked() {
    let mut specific = deny("specific", "c", "t", "");
    let rules = |specific: &Rule| [specific.clone(), allow("general", "*", "*", "")];
    for (expires_unix_ms, cause) in
        [(0, "specific"), (NOW_UNIX_MS + 1, "specific"), (NOW_UNIX_MS, "general"), (1, "general"), (-1, "general")]
    {
        specific.expires_unix_ms = expires_unix_ms;
        let verdict = ask(&rules(&specific), "c", "t", "");
        assert_eq!(verdict.cause(), cause, "expires at {expires_unix_ms}");
    }
}

#[test]
fn an_unspecified_decision_is_deny_and_so_is_an_unknown_one() {
    let effects = [0, 1, 2, 3, -1].map(Effect::from_decision);
    let (yes, no) = (Effect::Allow, Effect::Deny);
    assert_eq!(effects, [no, yes, no, no, no]);
    assert_eq!([yes, no].map(Effect::decision), [1, 2]);
}

#[test]
fn forbidden_beats_required_beats_allowed_from_either_side() {
    use P2pMode::{Allowed, Forbidden, Required};
    for (one, other, both) in [
        (Allowed, Allowed, Allowed),
        (Allowed, Required, Required),
        (Allowed, Forbidden, Forbidden),
        (Required, Required, Required),
        (Required, Forbidden, Forbidden),
        (Forbidden, Forbidden, Forbidden),
    ] {
        assert_eq!(one.combine(other), both);
        assert_eq!(other.combine(one), both);
    }
}

#[test]
fn modes_keep_their_numbers_and_unknown_numbers_have_none() {
    for mode in [P2pMode::Allowed, P2pMode::Forbidden, P2pMode::Required] {
        assert_eq!(P2pMode::from_code(mode.code()), Some(mode));
    }
    for mode in [RelayMode::Splice, RelayMode::Forward] {
        assert_eq!(RelayMode::from_code(mode.code()), Some(mode));
    }
    assert_eq!(P2pMode::from_code(1), Some(P2pMode::Forbidden));
    assert_eq!(P2pMode::from_code(3), None);
    assert_eq!(RelayMode::from_code(2), None);
}

#[test]
fn rules_of_another_tenant_say_nothing() {
    let mut foreign = allow("foreign", "*", "*", "");
    foreign.tenant = tenant("umbrella");
    let own = deny("own", "c", "t", "");
    assert_eq!(ask(&[foreign.clone()], "c", "t", ""), Verdict::denied("no rule matches"));
    assert_eq!(ask(&[foreign.clone(), own.clone()], "c", "t", "").cause(), "own");

    let snapshot = Snapshot::build(vec![foreign, own]);
    let umbrella = tenant("umbrella");
    let query = Query { tenant: &umbrella, caller: "c", target: "t", method: "" };
    assert_eq!(snapshot.decide(&query, NOW_UNIX_MS).cause(), "foreign");
    assert_eq!(snapshot.explain(&query, NOW_UNIX_MS).considered.len(), 1);
}

#[test]
fn the_explanation_says_what_became_of_every_rule() {
    let mut expired = allow("expired", "c", "t", "m");
    expired.expires_unix_ms = 1;
    let snapshot = Snapshot::build(vec![
        deny("wide", "*", "*", ""),
        allow("exact", "*", "t", ""),
        allow("elsewhere", "*", "x", ""),
        allow("someone", "x", "t", ""),
        allow("somehow", "*", "t", "x"),
        expired,
    ]);
    let tenant = tenant("acme");
    let query = Query { tenant: &tenant, caller: "c", target: "t", method: "m" };
    let explanation = snapshot.explain(&query, NOW_UNIX_MS);
    let outcomes: Vec<_> =
        explanation.considered.iter().map(|considered| (&*considered.rule, considered.outcome)).collect();
    assert_eq!(
        outcomes,
        [
            ("expired", Outcome::Expired),
            ("someone", Outcome::OtherCaller),
            ("somehow", Outcome::OtherMethod),
            ("elsewhere", Outcome::OtherTarget),
            ("exact", Outcome::Decides),
            ("wide", Outcome::Outranked),
        ]
    );
    assert_eq!(
        explanation.why,
        "rule exact (allow) decides before rule wide (deny): an exact target goes before a pattern"
    );
    assert_eq!(explanation.verdict.cause(), "exact");
}

#[test]
fn a_shadow_is_a_deny_that_a_more_specific_allow_gets_round() {
    let shadowed = |rules: &[Rule]| Snapshot::build(rules.to_vec()).shadowed(NOW_UNIX_MS);
    let wide = deny("wide", "mallory", "*", "");
    let hole = allow("hole", "*", "svc", "");
    let found = Shadow { deny: "wide".into(), by: "hole".into() };
    assert_eq!(shadowed(&[wide.clone(), hole.clone()]), [found]);
    // An exact deny of the same service goes first, and a disjoint allow takes nothing.
    let exact = deny("exact", "mallory", "svc", "");
    assert_eq!(shadowed(&[exact.clone(), hole.clone()]), []);
    assert_eq!(shadowed(&[wide.clone(), allow("other", "bob", "svc", "")]), []);
    // Nor does an expired one, or one of another tenant.
    let mut gone = hole.clone();
    gone.expires_unix_ms = 1;
    assert_eq!(shadowed(&[wide.clone(), gone]), []);
    let mut foreign = hole;
    foreign.tenant = tenant("umbrella");
    assert_eq!(shadowed(&[wide, foreign]), []);
}
