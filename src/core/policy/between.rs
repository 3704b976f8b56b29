//! Whether the rules allow any stream at all between two agents: what a relay asks that never saw the stream which
//! they want to resume (architecture §5, invariant 3).

use super::{Effect, Query, Snapshot, Verdict, unserved};
use crate::core::glob::Pattern;
use crate::core::identity::AgentUri;

impl Snapshot {
    /// Whether there is a service and a method with which `one` may call `other`, or the other way round, as of
    /// `now_unix_ms`: the caller's rules allow the service, and the callee's side allows the caller. Whether the other
    /// provides that service is not asked.
    #[must_use]
    pub fn allows_some_stream(&self, one: &AgentUri, other: &AgentUri, now_unix_ms: i64) -> bool {
        one.tenant() == other.tenant()
            && (self.may_call(one, other, now_unix_ms) || self.may_call(other, one, now_unix_ms))
    }

    /// Each rule that could let the caller call something is tried with a service and a method that it is written for.
    fn may_call(&self, caller: &AgentUri, callee: &AgentUri, now: i64) -> bool {
        let asked = |caller: &str, target: &str, method: &str| {
            let tenant = callee.tenant();
            Some(self.decide(&Query { tenant, caller, target, method }, now)).filter(Verdict::is_allowed)
        };
        let of_caller = self.rules().iter().filter(|rule| {
            let is_about_a_service = !rule.target.as_str().starts_with("outrelay:");
            let is_callers = rule.tenant == *caller.tenant() && rule.caller.matches(caller.as_str());
            is_callers && is_about_a_service && rule.effect == Effect::Allow
        });
        of_caller.into_iter().any(|rule| {
            let (target, method) = (example(&rule.target), example(&rule.method));
            let one = asked(caller.as_str(), &target, &method);
            let other = asked(callee.as_str(), caller.as_str(), &method);
            one.zip(other)
                .is_some_and(|(one, other)| unserved(one.relay_mode, one.p2p_mode.combine(other.p2p_mode)).is_none())
        })
    }
}

/// The shortest text that a pattern matches.
fn example(pattern: &Pattern) -> String {
    pattern.as_str().replace('*', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::rules::parse;

    fn agent(n: u8) -> AgentUri {
        format!("outrelay://acme/agent/00000000-0000-0000-0000-0000000000{n:02}").parse().unwrap()
    }

    fn allows(rules: &str, one: u8, other: u8) -> bool {
        let rules = parse(rules, "rules.toml", 0).unwrap().rules;
        Snapshot::build(rules).allows_some_stream(&agent(one), &agent(other), 0)
    }

    #[test]
    fn a_pair_of_rules_is_needed_in_one_direction_or_the_other() {
        let pair = format!("[[allow]]\ntenant = \"acme\"\nfrom = \"{}\"\nto = \"svc-*\"\n", agent(1));
        assert!(allows(&pair, 1, 2) && allows(&pair, 2, 1));
        assert!(!allows(&pair, 2, 3), "neither may call");
        assert!(!allows("", 1, 2), "closed world");
    }

    #[test]
    fn a_rule_that_asks_for_what_a_relay_does_not_do_joins_nobody() {
        for way in ["relay = \"forward\"", "p2p = \"required\""] {
            assert!(
                !allows(&format!("[[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"*\"\n{way}\n"), 1, 2),
                "{way}"
            );
        }
    }

    #[test]
    fn one_side_alone_is_not_enough_and_a_deny_that_wins_counts() {
        let caller_alone = format!(
            "[[rule]]\nid = \"a\"\ntenant = \"acme\"\ncaller = \"{}\"\ntarget = \"svc\"\ndecision = \"allow\"\n",
            agent(1)
        );
        assert!(!allows(&caller_alone, 1, 2));
        let denied = format!(
            "[[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"*\"\n[[rule]]\nid = \"no\"\ntenant = \"acme\"\n\
             caller = \"*\"\ntarget = \"{}\"\ndecision = \"deny\"\n[[rule]]\nid = \"no2\"\ntenant = \"acme\"\n\
             caller = \"*\"\ntarget = \"{}\"\ndecision = \"deny\"\n",
            agent(1),
            agent(2)
        );
        assert!(!allows(&denied, 1, 2) && allows(&denied, 3, 1), "1 and 2 may not call, but may be called");
    }
}
