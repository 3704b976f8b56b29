//! `outrelay policy`: which rule decides and why, answered from a rules file alone.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::admin::draw;
use crate::admin::draw::text::{Style, shown};
use crate::admin::protocol::RuleRow;
use crate::clock::now_unix_ms;
use crate::config::{Problem, Problems};
use crate::core::identity::{AgentUri, Tenant};
use crate::core::ids::ServiceName;
use crate::core::policy::explain::{Considered, Explanation, Outcome, Shadow};
use crate::core::policy::{Effect, P2pMode, Query, RelayMode, Rule, Snapshot, unserved};
use crate::directory::rules;

/// The program was asked something that makes no sense, or the rules file cannot be read.
const USAGE: u8 = 2;
/// Any agent of the tenant, when no provider is named.
const SOME_UUID: &str = "00000000-0000-0000-0000-000000000000";

/// Explains and lists the rules of a rules file.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// What `outrelay policy` can do.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Which rule decides an open, and why.
    Check(CheckArgs),
    /// The rules, in the order in which they decide.
    List(ListArgs),
}

/// An open to be decided.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The rules file.
    #[arg(long, value_name = "FILE")]
    pub rules: PathBuf,
    /// Who opens the stream: outrelay://TENANT/agent/UUID.
    #[arg(long, value_name = "URI")]
    pub caller: AgentUri,
    /// The service that is asked for.
    #[arg(long, value_name = "SERVICE")]
    pub target: ServiceName,
    /// The method that is asked for.
    #[arg(long, default_value = "")]
    pub method: String,
    /// Whose rules decide; the caller's tenant unless given.
    #[arg(long)]
    pub tenant: Option<Tenant>,
    /// Who offers the service; some agent of the tenant unless given.
    #[arg(long, value_name = "URI")]
    pub provider: Option<AgentUri>,
    /// One JSON object, and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// What to list.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// The rules file.
    #[arg(long, value_name = "FILE")]
    pub rules: PathBuf,
    /// Only this tenant's.
    #[arg(long)]
    pub tenant: Option<Tenant>,
    /// One JSON object per rule, and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Answers from the rules file. Exit code 0 when there is an answer, deny included, and 2 when the file or a flag is wrong.
///
/// # Errors
/// When the answer cannot be printed.
pub fn run(args: PolicyArgs) -> Result<ExitCode> {
    let now_unix_ms = now_unix_ms();
    let answer = match args.command {
        PolicyCommand::Check(args) => check(&args, now_unix_ms),
        PolicyCommand::List(args) => list(&args, now_unix_ms),
    };
    match answer? {
        Ok(text) => {
            draw::print(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => {
            writeln!(io::stderr(), "{problems}")?;
            Ok(ExitCode::from(USAGE))
        }
    }
}

/// One side of an answer, as `--json` prints it.
#[derive(Debug, Serialize)]
struct SideAnswer {
    rule: Option<String>,
    decision: Effect,
    why: String,
    considered: Vec<Considered>,
}

impl From<Explanation> for SideAnswer {
    fn from(explanation: Explanation) -> Self {
        Self {
            rule: explanation.verdict.rule.as_deref().map(str::to_owned),
            decision: explanation.verdict.effect,
            why: explanation.why,
            considered: explanation.considered,
        }
    }
}

/// The whole answer, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Answer {
    decision: Effect,
    caller: String,
    target: String,
    method: String,
    tenant: String,
    /// The provider that the callee's side was asked for.
    provider: String,
    /// Whether somebody named that provider.
    provider_given: bool,
    caller_side: SideAnswer,
    callee_side: SideAnswer,
    p2p_mode: P2pMode,
    relay_mode: RelayMode,
    /// Why the relay refuses what the rules allow: they ask for something that it does not do.
    unserved: Option<&'static str>,
    /// The ids of the tenant's denies that a more specific allow overrides for some open.
    shadowed: Vec<String>,
    warnings: Vec<String>,
    #[serde(skip)]
    shadows: Vec<Shadow>,
}

fn check(args: &CheckArgs, now_unix_ms: i64) -> Result<Result<String, Problems>> {
    let answer = match answer(args, now_unix_ms) {
        Ok(answer) => answer,
        Err(problems) => return Ok(Err(problems)),
    };
    let text = if args.json { serde_json::to_string(&answer)? } else { describe(&answer, Style::of_stdout()) };
    Ok(Ok(text))
}

fn answer(args: &CheckArgs, now_unix_ms: i64) -> Result<Answer, Problems> {
    let tenant = args.tenant.as_ref().unwrap_or(args.caller.tenant());
    let (rules, warnings, mut problems) = match rules::load(&args.rules, now_unix_ms) {
        Ok(rules) => (rules.rules, rules.warnings, Vec::new()),
        Err(Problems(problems)) => (Vec::new(), Vec::new(), problems),
    };
    for (flag, uri) in [("--caller", Some(&args.caller)), ("--provider", args.provider.as_ref())] {
        if let Some(uri) = uri.filter(|uri| uri.tenant() != tenant) {
            problems.push(Problem::new(flag, format!("{uri} is not of the tenant {tenant}: tenants do not meet")));
        }
    }
    let some_provider = AgentUri::new(tenant, SOME_UUID);
    let some_provider = some_provider.map_err(|error| problems.push(Problem::new("--tenant", error.to_string()))).ok();
    let Some(provider) = args.provider.clone().or(some_provider).filter(|_| problems.is_empty()) else {
        return Err(Problems(problems));
    };
    let snapshot = Snapshot::build(rules.into_iter().filter(|rule| rule.tenant == *tenant).collect());
    let ask = |caller: &str, target: &str| {
        let query = Query { tenant, caller, target, method: &args.method };
        snapshot.explain(&query, now_unix_ms)
    };
    let calling = ask(args.caller.as_str(), args.target.as_str());
    let called = ask(provider.as_str(), args.caller.as_str());
    let both = calling.verdict.is_allowed() && called.verdict.is_allowed();
    let (relay_mode, p2p_mode) =
        (calling.verdict.relay_mode, calling.verdict.p2p_mode.combine(called.verdict.p2p_mode));
    let shadows = snapshot.shadowed(now_unix_ms);
    let mut shadowed: Vec<String> = shadows.iter().map(|shadow| shadow.deny.to_string()).collect();
    shadowed.dedup();
    Ok(Answer {
        decision: if both { Effect::Allow } else { Effect::Deny },
        caller: args.caller.to_string(),
        target: args.target.to_string(),
        method: args.method.clone(),
        tenant: tenant.to_string(),
        provider: provider.to_string(),
        provider_given: args.provider.is_some(),
        p2p_mode,
        relay_mode,
        unserved: both.then(|| unserved(relay_mode, p2p_mode)).flatten(),
        caller_side: calling.into(),
        callee_side: called.into(),
        shadowed,
        warnings: warnings.iter().map(Problem::to_string).collect(),
        shadows,
    })
}

fn describe(answer: &Answer, style: Style) -> String {
    let method =
        if answer.method.is_empty() { String::new() } else { format!(" with method {}", shown(&answer.method)) };
    let provider =
        if answer.provider_given { "" } else { " (no provider was named: this stands for any agent of the tenant)" };
    let mut text = format!("{}: {} to {}{method}\n", answer.decision.name(), answer.caller, answer.target);
    text += &format!("\ncaller side: {}\n{}", answer.caller_side.decision.name(), describe_side(&answer.caller_side));
    text += &format!("\ncallee side: {}\n", answer.callee_side.decision.name());
    text += &format!("  provider {}{provider}\n{}", answer.provider, describe_side(&answer.callee_side));
    if answer.decision == Effect::Allow {
        text += &format!("\np2p {}, relay {}\n", answer.p2p_mode.name(), answer.relay_mode.name());
    }
    if let Some(why) = answer.unserved {
        text += &format!("the relay refuses it all the same: {why}\n");
    }
    let mut warnings = answer.warnings.clone();
    // The file's own warnings leave these out where there are too many rules.
    let sentence = |shadow: &Shadow| format!("deny {} is shadowed by more specific allow {}", shadow.deny, shadow.by);
    let unsaid = answer
        .shadows
        .iter()
        .map(sentence)
        .filter(|sentence| !answer.warnings.iter().any(|said| said.ends_with(sentence)));
    warnings.extend(unsaid);
    text + &draw::warnings(&warnings, style)
}

fn describe_side(side: &SideAnswer) -> String {
    let mut text = format!("  {}\n", shown(&side.why));
    for considered in &side.considered {
        let outcome = match considered.outcome {
            Outcome::Decides => "decides",
            Outcome::Outranked => "matches, but a more specific rule decides",
            Outcome::Expired => "would match, but has expired",
            Outcome::OtherTarget | Outcome::OtherCaller | Outcome::OtherMethod => continue,
        };
        text += &format!("    {} ({}): {outcome}\n", shown(&considered.rule), considered.effect.name());
    }
    text
}

fn list(args: &ListArgs, now_unix_ms: i64) -> Result<Result<String, Problems>> {
    let (rules, warnings) = match rules::load(&args.rules, now_unix_ms) {
        Ok(loaded) => (loaded.rules, loaded.warnings),
        Err(problems) => return Ok(Err(problems)),
    };
    let snapshot = Snapshot::build(rules);
    let wanted = |rule: &&Rule| args.tenant.as_ref().is_none_or(|tenant| rule.tenant == *tenant);
    let rows: Vec<_> = snapshot.rules().iter().filter(wanted).map(RuleRow::from).collect();
    if args.json {
        let lines = rows.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
        return Ok(Ok(lines.join("\n")));
    }
    let (style, warnings) = (Style::of_stdout(), warnings.iter().map(Problem::to_string).collect::<Vec<_>>());
    Ok(Ok(draw::rules(&rows, style) + &draw::warnings(&warnings, style)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_700_000_000_000;
    const WEB: &str = "outrelay://acme/agent/00000000-0000-4000-8000-000000000001";
    const DB: &str = "outrelay://acme/agent/00000000-0000-4000-8000-000000000002";

    const RULES: &str = r#"
        [[allow]]
        tenant = "acme"
        from = "outrelay://acme/agent/*"
        to = "svc-*"
        p2p = "required"
        relay = "forward"
        [[rule]]
        id = "no-db"
        tenant = "acme"
        caller = "outrelay://acme/agent/*"
        target = "svc-db*"
        decision = "deny"
        [[allow]]
        id = "db"
        tenant = "acme"
        from = "outrelay://acme/agent/*"
        to = "svc-db"
        method = "read"
        [[rule]]
        id = "other"
        tenant = "other"
        caller = "*"
        target = "*"
        decision = "deny"
    "#;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: PolicyArgs,
    }

    /// The outcome of a command line behind `policy`, with `RULES` as the file.
    fn outcome(line: &str, rules: &str) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.toml");
        std::fs::write(&path, rules).unwrap();
        let path = path.to_str().unwrap();
        let line = ["policy"].into_iter().chain(line.split(' ')).chain(["--rules", path]);
        let args = Line::try_parse_from(line).map_err(|error| error.to_string())?.args;
        let answer = match args.command {
            PolicyCommand::Check(args) => check(&args, NOW),
            PolicyCommand::List(args) => list(&args, NOW),
        };
        answer.unwrap().map_err(|problems| problems.to_string().replace(path, "rules.toml"))
    }

    fn checked(flags: &str) -> Value {
        let text = outcome(&format!("check --json --caller {WEB} {flags}"), RULES).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn an_allow_is_explained_on_both_sides() {
        let answer = checked("--target svc-web");
        assert_eq!(answer["decision"], "allow");
        assert_eq!(answer["caller_side"]["rule"], "allow-1");
        assert_eq!(answer["caller_side"]["decision"], "allow");
        assert_eq!(answer["callee_side"]["rule"], "allow-1/callee");
        assert_eq!(answer["provider"], "outrelay://acme/agent/00000000-0000-0000-0000-000000000000");
        assert_eq!((&answer["p2p_mode"], &answer["relay_mode"]), (&json!("required"), &json!("forward")));
        let considered = answer["caller_side"]["considered"].as_array().unwrap();
        assert!(considered.iter().all(|rule| rule["rule"] != "other"), "another tenant's rules are not considered");
        assert!(
            considered
                .iter()
                .any(|rule| *rule == json!({"rule": "no-db", "effect": "deny", "outcome": "other_target"}))
        );
    }

    #[test]
    fn a_deny_is_explained_and_what_overrides_it_named() {
        let denied = checked("--target svc-db");
        assert_eq!((&denied["decision"], &denied["caller_side"]["rule"]), (&json!("deny"), &json!("no-db")));
        assert_eq!(denied["shadowed"], json!(["no-db"]));
        let allowed = checked("--target svc-db --method read");
        assert_eq!((&allowed["decision"], &allowed["caller_side"]["rule"]), (&json!("allow"), &json!("db")));
        let unknown = checked("--target other");
        assert_eq!((&unknown["decision"], &unknown["caller_side"]["rule"]), (&json!("deny"), &Value::Null));
    }

    #[test]
    fn a_service_that_is_allowed_on_one_side_only_is_denied() {
        let one_sided =
            "[[rule]]\nid = \"a\"\ntenant = \"acme\"\ncaller = \"*\"\ntarget = \"svc-web\"\ndecision = \"allow\"\n";
        let text = outcome(&format!("check --caller {WEB} --target svc-web --provider {DB}"), one_sided).unwrap();
        assert!(text.starts_with("deny: "), "{text}");
        assert!(text.contains("caller side: allow\n") && text.contains("callee side: deny\n"), "{text}");
        assert!(text.contains(&format!("provider {DB}\n")), "{text}");
    }

    #[test]
    fn the_text_says_which_provider_was_assumed_and_warns() {
        let text = outcome(&format!("check --caller {WEB} --target svc-web"), RULES).unwrap();
        assert!(text.contains("no provider was named"), "{text}");
        assert_eq!(text.matches("deny no-db is shadowed by more specific allow db").count(), 1, "{text}");
        assert!(text.contains("p2p required, relay forward"), "{text}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let other = "outrelay://other/agent/00000000-0000-4000-8000-000000000001";
        let problems =
            outcome(&format!("check --caller {WEB} --target a --provider {other} --tenant acme"), "rule = 5")
                .unwrap_err();
        let lines: Vec<_> = problems.lines().collect();
        assert!(lines[0].starts_with("rules.toml:1: `rule`: invalid type"), "{problems}");
        assert!(lines[1].starts_with("--provider: ") && lines[1].ends_with("tenants do not meet"), "{problems}");
        for bad in ["--caller acme --target a", &format!("--caller {WEB} --target a:b"), &format!("--caller {WEB}")] {
            assert!(outcome(&format!("check {bad}"), RULES).is_err(), "{bad}");
        }
    }

    #[test]
    fn rules_are_listed_in_the_order_in_which_they_decide() {
        let text = outcome("list --json --tenant acme", RULES).unwrap();
        let rows: Vec<RuleRow> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let ids: Vec<_> = rows.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(ids, ["db", "db/callee", "allow-1/callee", "no-db", "allow-1"]);
        let text = outcome("list", RULES).unwrap();
        assert_eq!(text.lines().next().map(|line| line.split_whitespace().next()), Some(Some("TENANT")));
        assert!(text.contains("warning: ") && text.contains("no-db"), "{text}");
    }
}
