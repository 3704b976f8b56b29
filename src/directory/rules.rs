//! The rules file of the embedded directory: TOML in, [`Rule`]s out, or everything that is wrong with it.
//!
//! `[[rule]]` is one rule as on the wire. `[[allow]]` is what people mean by a rule: it writes the two that an open needs,
//! because the callee's side is asked as `decide(provider, caller, method)` (wire.md §4, §10).

mod entries;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use self::entries::{AllowEntry, Entries, RuleEntry};
use crate::config::document::Document;
use crate::config::{Problem, Problems};
use crate::core::glob::Pattern;
use crate::core::identity::Tenant;
use crate::core::ids::ServiceName;
use crate::core::policy::{Effect, P2pMode, RelayMode, Rule, Snapshot, unserved};

/// Beyond so many rules they are not compared each with each: reading them again must stay quick.
const SHADOWS_RULES_MAX: usize = 2_000;

/// What a rules file holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// In the order of the file; the two of an `[[allow]]` side by side.
    pub rules: Vec<Rule>,
    /// What is allowed, but hardly meant, with its line.
    pub warnings: Vec<Problem>,
}

/// The pattern that matches every agent of `tenant`.
#[must_use]
pub fn agents_of(tenant: &Tenant) -> Pattern {
    Pattern::new(&format!("outrelay://{tenant}/agent/*"))
}

/// The rules in the file at `path`, as of `now_unix_ms` (milliseconds since 1970). Blocks on the file.
///
/// # Errors
/// That the file cannot be read, or everything that is wrong with it; a file with an error counts for nothing.
pub fn load(path: &Path, now_unix_ms: i64) -> Result<Rules, Problems> {
    let file = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|error| Problem::new(&file, format!("cannot be read: {error}")))?;
    parse(&text, &file, now_unix_ms)
}

/// The rules in `text`, as of `now_unix_ms` (milliseconds since 1970); `file` is the name that problems carry.
///
/// # Errors
/// Everything that is wrong, with its line: a file with an error counts for nothing.
pub fn parse(text: &str, file: &str, now_unix_ms: i64) -> Result<Rules, Problems> {
    let mut document = Document::parse(file, text).map_err(Problems)?;
    let (entries, problems) = document.read::<Entries>();
    let mut reading = Reading {
        file,
        now_unix_ms,
        lines: document.lines(),
        ids: BTreeMap::new(),
        rules: Vec::new(),
        warnings: Vec::new(),
        problems,
    };
    let entries = entries.unwrap_or_default();
    for (at, entry) in entries.allow.into_iter().enumerate() {
        reading.allow(at, entry);
    }
    for (at, entry) in entries.rule.into_iter().enumerate() {
        reading.rule(at, entry);
    }
    reading.finish()
}

struct Reading<'a> {
    file: &'a str,
    now_unix_ms: i64,
    lines: BTreeMap<String, usize>,
    /// Where each id stands.
    ids: BTreeMap<(Tenant, Arc<str>), usize>,
    rules: Vec<Rule>,
    warnings: Vec<Problem>,
    problems: Vec<Problem>,
}

impl Reading<'_> {
    fn line(&self, key: &str) -> usize {
        // A key with a default may not be there: then its table is.
        let table = key.split('.').next().unwrap_or(key);
        self.lines.get(key).or_else(|| self.lines.get(table)).copied().unwrap_or(1)
    }

    fn problem(&mut self, key: &str, what: impl Into<String>) {
        self.problems.push(Problem::at_line(self.file, self.line(key), what));
    }

    fn warn(&mut self, key: &str, what: impl Into<String>) {
        self.warnings.push(Problem::at_line(self.file, self.line(key), what));
    }

    fn allow(&mut self, at: usize, entry: AllowEntry) {
        let key = |field: &str| format!("allow[{at}].{field}");
        let id = entry.id.unwrap_or_else(|| format!("allow-{}", at + 1));
        let agents = agents_of(&entry.tenant);
        let from = Pattern::new(&entry.from);
        match callers(&from, &agents) {
            Callers::Agents => {}
            Callers::Nobody => {
                let tenant = &entry.tenant;
                self.warn(&key("from"), format!("`from` matches no agent of the tenant {tenant}: it allows nothing"));
            }
            Callers::Unclear => {
                self.problem(
                    &key("from"),
                    "`from` must be `*` or start with `outrelay://`: it is matched against the callers' URIs",
                );
            }
        }
        if let Some(why) = no_service(&entry.to) {
            self.warn(&key("to"), format!("`to` matches no service: {why}"));
        }
        self.expires(&key("expires"), entry.expires);
        let calling = Rule {
            id: id.as_str().into(),
            tenant: entry.tenant,
            caller: from.clone(),
            target: Pattern::new(&entry.to),
            method: Pattern::new(&entry.method),
            effect: Effect::Allow,
            expires_unix_ms: entry.expires,
            created_at_unix_ms: 0,
            p2p_mode: entry.p2p,
            relay_mode: entry.relay,
        };
        self.warn_unless_served("allow", at, &calling);
        // Any string of stars matches services too, and would allow everybody to call them all.
        let target = if is_stars(&from) { agents.clone() } else { from };
        let called = Rule {
            id: format!("{id}/callee").into(),
            caller: agents,
            target,
            // Neutral: for one caller the callee's side of several entries is the same question, so one of them answers for
            // all. The modes that count are the calling side's.
            p2p_mode: P2pMode::Allowed,
            relay_mode: RelayMode::Splice,
            ..calling.clone()
        };
        self.add(&key("id"), calling);
        self.add(&key("id"), called);
    }

    fn rule(&mut self, at: usize, entry: RuleEntry) {
        let key = |field: &str| format!("rule[{at}].{field}");
        for (field, pattern) in [("caller", &entry.caller), ("target", &entry.target)] {
            if pattern.is_empty() {
                self.warn(
                    &key(field),
                    format!("an empty `{field}` matches only the empty text: the rule does nothing"),
                );
            }
        }
        self.expires(&key("expires"), entry.expires);
        let rule = Rule {
            id: entry.id.into(),
            tenant: entry.tenant,
            caller: Pattern::new(&entry.caller),
            target: Pattern::new(&entry.target),
            method: Pattern::new(&entry.method),
            effect: entry.decision,
            expires_unix_ms: entry.expires,
            created_at_unix_ms: 0,
            p2p_mode: entry.p2p,
            relay_mode: entry.relay,
        };
        self.warn_unless_served("rule", at, &rule);
        self.add(&key("id"), rule);
    }

    /// Rather said here than found out by who opens a stream.
    fn warn_unless_served(&mut self, list: &str, at: usize, rule: &Rule) {
        let is_in_force = rule.expires_unix_ms == 0 || rule.expires_unix_ms > self.now_unix_ms;
        // A rule for the callee's side, whose targets are callers, does not say how a stream is carried.
        let is_callees = rule.target.as_str().starts_with("outrelay:");
        let relay_mode = if is_callees { RelayMode::Splice } else { rule.relay_mode };
        let why = unserved(relay_mode, rule.p2p_mode).filter(|_| is_in_force && rule.effect == Effect::Allow);
        if let Some(why) = why {
            let field = if relay_mode == RelayMode::Forward { "relay" } else { "p2p" };
            self.warn(&format!("{list}[{at}].{field}"), format!("what `{}` allows is refused: {why}", rule.id));
        }
    }

    fn expires(&mut self, key: &str, expires_unix_ms: i64) {
        if expires_unix_ms != 0 && expires_unix_ms <= self.now_unix_ms {
            self.warn(key, "has expired: it does nothing any more");
        }
    }

    fn add(&mut self, key: &str, rule: Rule) {
        let line = self.line(key);
        if rule.id.is_empty() || rule.id.chars().any(char::is_control) {
            self.problem(key, "an `id` must not be empty and must not hold control characters");
        } else if let Some(first) = self.ids.insert((rule.tenant.clone(), Arc::clone(&rule.id)), line) {
            let what = format!("the id `{}` is taken by the entry at line {first}", rule.id);
            self.problem(key, what);
        }
        self.rules.push(rule);
    }

    fn finish(mut self) -> Result<Rules, Problems> {
        if !self.problems.is_empty() {
            return Err(Problems(self.problems));
        }
        if self.rules.is_empty() {
            self.warnings.push(Problem::new(self.file, "holds no rules: every open is denied"));
        }
        self.warn_of_shadows();
        Ok(Rules { rules: self.rules, warnings: self.warnings })
    }

    fn warn_of_shadows(&mut self) {
        if self.rules.len() > SHADOWS_RULES_MAX {
            let what = format!(
                "more than {SHADOWS_RULES_MAX} rules: not checked for denies that an allow takes the decision from"
            );
            self.warnings.push(Problem::new(self.file, what));
            return;
        }
        let tenants: BTreeSet<&Tenant> = self.rules.iter().map(|rule| &rule.tenant).collect();
        for tenant in tenants {
            let rules = self.rules.iter().filter(|rule| rule.tenant == *tenant).cloned().collect();
            for shadow in Snapshot::build(rules).shadowed(self.now_unix_ms) {
                let line = self.ids.get(&(tenant.clone(), Arc::clone(&shadow.deny))).copied().unwrap_or(1);
                let what = format!("deny {} is shadowed by more specific allow {}", shadow.deny, shadow.by);
                self.warnings.push(Problem::at_line(self.file, line, what));
            }
        }
    }
}

enum Callers {
    /// Some agents of the tenant, and nothing else.
    Agents,
    /// URIs, but of no agent of the tenant.
    Nobody,
    /// Perhaps a service's name as well: on the callee's side, where `from` is a target, it would allow calls to it.
    Unclear,
}

fn callers(from: &Pattern, agents: &Pattern) -> Callers {
    if from.as_str().starts_with("outrelay:") {
        if from.overlaps(agents) { Callers::Agents } else { Callers::Nobody }
    } else if from.as_str().is_empty() {
        Callers::Nobody
    } else if is_stars(from) {
        Callers::Agents
    } else {
        Callers::Unclear
    }
}

fn is_stars(pattern: &Pattern) -> bool {
    pattern.literal_len() == 0 && !pattern.as_str().is_empty()
}

/// Why the pattern `to` can match no service, where that is plain.
fn no_service(to: &str) -> Option<String> {
    if to.contains('*') {
        // Any star may stand for nothing, so what is left must be made of a name's characters.
        let literal = to.replace('*', "");
        return (!literal.is_empty()).then(|| literal.parse::<ServiceName>().err().map(|error| error.to_string()))?;
    }
    to.parse::<ServiceName>().err().map(|error| error.to_string())
}

#[cfg(test)]
mod tests;
