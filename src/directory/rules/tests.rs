//! Tests of the rules file: what it allows, and how it complains.

use super::*;
use crate::core::policy::Query;

const NOW: i64 = 1_700_000_000_000;
const WEB: &str = "outrelay://acme/agent/00000000-0000-4000-8000-000000000001";
const DB: &str = "outrelay://acme/agent/00000000-0000-4000-8000-000000000002";

const SAMPLE: &str = r#"
[[allow]]
tenant = "acme"
from = "outrelay://acme/agent/*"
to = "svc-*"

[[rule]]
id = "no-mallory"
tenant = "acme"
caller = "outrelay://acme/agent/00000000-0000-4000-8000-000000000003"
target = "*"
decision = "deny"
"#;

fn read(text: &str) -> Result<Rules, Vec<String>> {
    parse(text, "rules.toml", NOW).map_err(|problems| problems.0.iter().map(Problem::to_string).collect())
}

fn warnings(text: &str) -> Vec<String> {
    read(text).unwrap().warnings.iter().map(Problem::to_string).collect()
}

fn allowed(rules: &Rules, caller: &str, target: &str, method: &str) -> bool {
    let tenant = "acme".parse().unwrap();
    let query = Query { tenant: &tenant, caller, target, method };
    Snapshot::build(rules.rules.clone()).decide(&query, NOW).is_allowed()
}

#[test]
fn an_allow_writes_the_rules_of_both_sides() {
    let rules = read(SAMPLE).unwrap();
    let ids: Vec<_> = rules.rules.iter().map(|rule| &*rule.id).collect();
    assert_eq!(ids, ["allow-1", "allow-1/callee", "no-mallory"]);
    assert!(allowed(&rules, WEB, "svc-db", "any"));
    assert!(allowed(&rules, DB, WEB, "any"), "the callee's side");
    assert!(!allowed(&rules, WEB, "other", ""));
    let mallory = "outrelay://acme/agent/00000000-0000-4000-8000-000000000003";
    assert!(!allowed(&rules, mallory, "svc-db", ""));
    assert_eq!(rules.warnings, []);
}

#[test]
fn what_is_optional_is_taken_over() {
    let text = r#"
        allow = [{ id = "a", tenant = "acme", from = "outrelay://acme/agent/x", to = "s", method = "GET", p2p = "required", relay = "forward", expires = "2030-01-01T00:00:00Z" }]
        rule = [{ id = "r", tenant = "acme", caller = "c", target = "t", method = "m", decision = "allow", p2p = "forbidden", expires = 2030-01-01T01:00:00+01:00 }]
    "#;
    let rules = read(text).unwrap().rules;
    assert_eq!((&*rules[0].id, &*rules[1].id, &*rules[2].id), ("a", "a/callee", "r"));
    assert_eq!((rules[0].p2p_mode, rules[0].relay_mode), (P2pMode::Required, RelayMode::Forward));
    assert_eq!((rules[2].p2p_mode, rules[2].effect), (P2pMode::Forbidden, Effect::Allow));
    for rule in &rules {
        assert_eq!(rule.expires_unix_ms, 1_893_456_000_000, "{}", rule.id);
    }
    assert_eq!([&rules[0], &rules[1], &rules[2]].map(|rule| rule.method.as_str()), ["GET", "GET", "m"]);
}

#[test]
fn one_entrys_modes_do_not_spread_to_another_over_the_callees_side() {
    let text = r#"
        [[allow]]
        tenant = "acme"
        from = "outrelay://acme/agent/*"
        to = "secret"
        p2p = "forbidden"
        relay = "forward"
        [[allow]]
        tenant = "acme"
        from = "outrelay://acme/agent/*"
        to = "open"
    "#;
    let snapshot = Snapshot::build(read(text).unwrap().rules);
    let tenant = "acme".parse().unwrap();
    let modes = |service: &str| {
        let calling = snapshot.decide(&Query { tenant: &tenant, caller: WEB, target: service, method: "" }, NOW);
        let called = snapshot.decide(&Query { tenant: &tenant, caller: DB, target: WEB, method: "" }, NOW);
        assert!(calling.is_allowed() && called.is_allowed());
        (calling.p2p_mode.combine(called.p2p_mode), calling.relay_mode)
    };
    assert_eq!(modes("secret"), (P2pMode::Forbidden, RelayMode::Forward));
    assert_eq!(modes("open"), (P2pMode::Allowed, RelayMode::Splice));
}

#[test]
fn an_allow_for_every_caller_does_not_allow_every_service() {
    for stars in ["*", "**"] {
        let rules = read(&format!("[[allow]]\ntenant = \"acme\"\nfrom = \"{stars}\"\nto = \"svc-web\"\n")).unwrap();
        assert!(allowed(&rules, WEB, "svc-web", ""));
        assert!(allowed(&rules, DB, WEB, ""), "the callee's side");
        assert!(!allowed(&rules, WEB, "svc-db", ""), "the callee's rule must not match a service");
    }
}

#[test]
fn a_from_that_could_name_services_is_refused() {
    for from in ["out*", "*/agent/1", "svc-web"] {
        let problems = read(&format!("[[allow]]\ntenant = \"acme\"\nfrom = \"{from}\"\nto = \"a\"\n")).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("rules.toml:3: `from` must be"), "{problems:?}");
    }
}

#[test]
fn every_error_comes_with_its_line() {
    let text = r#"
[[allow]]
tenant = "Acme"
from = "outrelay://acme/agent/*"
to = "a"
[[allow]]
tenant = "acme"
form = "outrelay://acme/agent/*"
to = "a"
[[rule]]
id = "r"
tenant = "acme"
caller = "*"
target = "*"
decision = "perhaps"
[[rule]]
id = "r2"
tenant = "acme"
caller = "*"
target = "*"
decision = "deny"
expires = "tomorrow"
[[rule]]
id = "r2"
tenant = "acme"
caller = "*"
target = "*"
decision = "deny"
expires = 2030-01-01T00:00:00
[[rule]]
id = "r2"
tenant = "acme"
caller = "*"
target = "*"
decision = "deny"
p2p = "maybe"
[[rule]]
id = "r2"
tenant = "acme"
caller = "*"
target = "*"
decision = "deny"
[[rule]]
id = ""
tenant = "acme"
caller = "*"
target = "*"
decision = "deny"
[[deny]]
id = "x"
"#;
    let problems = read(text).unwrap_err();
    for start in [
        "3: `allow.tenant`: the tenant \"Acme\" does not match",
        "6: `allow`: missing field `from`",
        "8: in `allow`: unknown field `form`",
        "15: `rule.decision`: unknown variant `perhaps`",
        "22: `rule.expires`: `tomorrow` is not a time",
        "29: `rule.expires`: `2030-01-01T00:00:00` is not a time",
        "36: `rule.p2p`: unknown variant `maybe`",
        "24: the id `r2` is taken by the entry at line 17",
        "31: the id `r2` is taken by",
        "38: the id `r2` is taken by",
        "44: an `id` must not be empty",
        "49: unknown field `deny`",
    ] {
        assert!(
            problems.iter().any(|problem| problem.starts_with(&format!("rules.toml:{start}"))),
            "{start}: {problems:#?}"
        );
    }
    assert_eq!(problems.len(), 12, "{problems:#?}");
}

#[test]
fn a_given_id_may_not_be_one_that_an_allow_gets() {
    let text = "[[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"a\"\n[[rule]]\nid = \"allow-1/callee\"\ntenant = \"acme\"\ncaller = \"*\"\ntarget = \"*\"\ndecision = \"deny\"\n";
    let problems = read(text).unwrap_err();
    assert_eq!(problems, ["rules.toml:6: the id `allow-1/callee` is taken by the entry at line 1"]);
    let other_tenant = text.replacen("acme", "other", 1);
    assert!(read(&other_tenant).is_ok(), "ids are unique within a tenant");
}

#[test]
fn what_is_hardly_meant_is_warned_of() {
    let text = r#"
[[allow]]
tenant = "acme"
from = "outrelay://other/agent/*"
to = "a b"
expires = "2020-01-01T00:00:00Z"
[[rule]]
id = "empty"
tenant = "acme"
caller = ""
target = ""
decision = "allow"
"#;
    let warnings = warnings(text);
    for start in [
        "4: `from` matches no agent of the tenant acme",
        "5: `to` matches no service: the service name holds ' '",
        "6: has expired",
        "10: an empty `caller`",
        "11: an empty `target`",
    ] {
        assert!(
            warnings.iter().any(|warning| warning.starts_with(&format!("rules.toml:{start}"))),
            "{start}: {warnings:#?}"
        );
    }
    assert_eq!(warnings.len(), 5, "{warnings:#?}");
    assert_eq!(self::warnings(""), ["rules.toml: holds no rules: every open is denied"]);
}

#[test]
fn a_deny_that_an_allow_takes_the_decision_from_is_warned_of() {
    let text = "[[rule]]\nid = \"no-web\"\ntenant = \"acme\"\ncaller = \"*\"\ntarget = \"svc-*\"\ndecision = \"deny\"\n[[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"svc-web\"\n";
    assert_eq!(warnings(text), ["rules.toml:2: deny no-web is shadowed by more specific allow allow-1"]);
}

#[test]
fn a_rule_that_is_not_served_is_warned_of_where_it_decides() {
    let rule = |target: &str, more: &str| {
        format!("[[rule]]\nid = \"r\"\ntenant = \"acme\"\ncaller = \"*\"\ntarget = \"{target}\"\n{more}\n")
    };
    let warned = |target: &str, more: &str| !warnings(&rule(target, more)).is_empty();
    assert!(warned("web", "decision = \"allow\"\nrelay = \"forward\""));
    assert!(warned("outrelay://acme/agent/*", "decision = \"allow\"\np2p = \"required\""));
    // The callee's side does not say how a stream is carried; a deny carries none.
    assert!(!warned("outrelay://acme/agent/*", "decision = \"allow\"\nrelay = \"forward\""));
    assert!(!warned("web", "decision = \"deny\"\nrelay = \"forward\""));
}

#[test]
fn a_time_that_is_the_start_of_1970_is_not_never() {
    let text = SAMPLE.replace("to = ", "expires = \"1970-01-01T00:00:00Z\"\nto = ");
    assert!(!allowed(&read(&text).unwrap(), WEB, "svc-db", ""));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let problems = load(Path::new("/nonexistent/rules.toml"), NOW).unwrap_err();
    assert!(problems.to_string().starts_with("/nonexistent/rules.toml: cannot be read: "), "{problems}");
}
