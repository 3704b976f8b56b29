//! What an admin sees: the tree and the lists as text.
//!
//! Texts that came from elsewhere (panic messages, names) are shown with their control characters escaped: a terminal obeys
//! what it is sent.

pub mod audit;
pub mod text;

use std::io::{self, Write};

use serde_json::Value;

use self::text::Align::{Left, Right};
use self::text::{Cell, Colour, Style, coloured, duration, instant, or_dash, shown, size, table};
use super::protocol::{AgentRow, AgentStreamRow, PolicyReport, RuleRow, ServiceRow, StreamRow};
use crate::core::policy::Effect;
use crate::supervise::node::Status;
use crate::supervise::recorder::Recorded;
use crate::supervise::report::{Inspection, Report};

/// The longest detail of an actor in the tree, in characters; `inspect` shows it whole.
const DETAIL_MAX_CHARS: usize = 72;

/// Writes `text` to standard output, ended by one newline; nothing for nothing. A reader that went away is no error.
///
/// # Errors
/// What the system says otherwise.
pub fn print(text: &str) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// `report` and everything below it, a line each, as of `now_ms` (milliseconds since 1970).
#[must_use]
pub fn tree(report: &Report, now_ms: u64, style: Style) -> String {
    let columns = [
        ("ACTOR", Left),
        ("ID", Right),
        ("STATUS", Left),
        ("UP", Right),
        ("RESTARTS", Right),
        ("MAILBOX", Right),
        ("BUSY", Right),
        ("DETAIL", Left),
    ];
    let mut rows = Vec::new();
    branch(report, "", "", now_ms, &mut rows);
    table(&columns, rows, style)
}

fn branch(report: &Report, lead: &str, lead_below: &str, now_ms: u64, rows: &mut Vec<Vec<Cell>>) {
    rows.push(actor_row(report, lead, now_ms));
    for (at, child) in report.children.iter().enumerate() {
        let (own, below) =
            if at + 1 == report.children.len() { ("└── ", "    ") } else { ("├── ", "│   ") };
        branch(child, &format!("{lead_below}{own}"), &format!("{lead_below}{below}"), now_ms, rows);
    }
}

fn actor_row(report: &Report, lead: &str, now_ms: u64) -> Vec<Cell> {
    let (status, colour) = status(report.status);
    let restarts = if report.restarts == 0 { Colour::None } else { Colour::Yellow };
    let busy = if report.busy_ms == 0 { "-".to_owned() } else { duration(report.busy_ms) };
    let up = report.started_at.map_or_else(|| "-".to_owned(), |since| duration(now_ms.saturating_sub(since)));
    let exit = report.last_exit.as_ref().map(|exit| format!("last exit: {exit}")).unwrap_or_default();
    // Each shortened for itself: a talkative actor must not hide why it was restarted.
    let parts = [summary(&report.detail), exit].map(|part| shortened(&shown(&part)));
    let detail = parts.iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join("  ");
    vec![
        Cell::new(format!("{lead}{}", shown(&label(report))), Colour::Bold),
        report.id.to_string().into(),
        Cell::new(status, colour),
        up.into(),
        Cell::new(report.restarts.to_string(), restarts),
        report.mailbox.to_string().into(),
        busy.into(),
        Cell::new(detail, Colour::Dim),
    ]
}

fn label(report: &Report) -> String {
    if report.name.is_empty() { report.kind.clone() } else { format!("{}:{}", report.kind, report.name) }
}

fn status(status: Status) -> (&'static str, Colour) {
    match status {
        Status::Starting => ("starting", Colour::Yellow),
        Status::Running => ("running", Colour::Green),
        Status::Restarting => ("restarting", Colour::Red),
        Status::Stopping => ("stopping", Colour::Yellow),
        Status::Stopped => ("stopped", Colour::Red),
    }
}

/// One actor in full: its row, then all that it says of itself, then those below it.
#[must_use]
pub fn inspect(inspection: &Inspection, now_ms: u64, style: Style) -> String {
    let Inspection { report, exits, messages, stream } = inspection;
    let mut text = tree(report, now_ms, style);
    if let Some(since) = report.started_at {
        text += &format!("\nstarted at: {}\n", instant(since));
    }
    if !report.detail.is_null() {
        // JSON escapes control characters itself.
        text += &format!("\ndetail: {:#}\n", report.detail);
    }
    for (title, events) in [("earlier exits", exits), ("last messages", messages), ("its stream", stream)] {
        text += &recorded(title, events, now_ms);
    }
    text
}

/// A line per event, the oldest first; nothing when there are none.
fn recorded(title: &str, events: &[Recorded], now_ms: u64) -> String {
    let line = |event: &Recorded| {
        let took = event.took_us.map(|us| format!(" ({us} µs)")).unwrap_or_default();
        format!("  {:>8} ago  {}{took}\n", duration(now_ms.saturating_sub(event.at)), shown(&event.what))
    };
    let lines: String = events.iter().map(line).collect();
    if lines.is_empty() { lines } else { format!("\n{title}:\n{lines}") }
}

/// Connected agents.
#[must_use]
pub fn agents(agents: &[AgentRow], now_ms: u64, style: Style) -> String {
    let columns = [
        ("AGENT", Left),
        ("REMOTE", Left),
        ("VIA", Left),
        ("GENERATION", Right),
        ("UP", Right),
        ("STREAMS", Right),
        ("SERVICES", Left),
        ("CAPABILITIES", Left),
    ];
    let row = |agent: &AgentRow| -> Vec<Cell> {
        vec![
            shown(&agent.uri).into(),
            shown(&agent.remote).into(),
            shown(&agent.carrier).into(),
            agent.generation.to_string().into(),
            duration(now_ms.saturating_sub(agent.connected_at)).into(),
            agent.streams.to_string().into(),
            or_dash(&agent.services.join(",")).into(),
            or_dash(&agent.capabilities.join(",")).into(),
        ]
    };
    table(&columns, agents.iter().map(row).collect(), style)
}

/// Live streams of a relay.
#[must_use]
pub fn streams(streams: &[StreamRow], now_ms: u64, style: Style) -> String {
    let columns = [
        ("STREAM", Right),
        ("ACTOR", Right),
        ("SERVICE", Left),
        ("METHOD", Left),
        ("UP", Right),
        ("TO PROVIDER", Right),
        ("TO CONSUMER", Right),
        ("P2P", Left),
        ("RELAY", Left),
        ("CONSUMER", Left),
        ("PROVIDER", Left),
    ];
    let row = |stream: &StreamRow| -> Vec<Cell> {
        vec![
            stream.id.to_string().into(),
            stream.actor.to_string().into(),
            shown(&stream.service).into(),
            or_dash(&stream.method).into(),
            duration(now_ms.saturating_sub(stream.opened_at)).into(),
            size(stream.bytes_to_provider).into(),
            size(stream.bytes_to_consumer).into(),
            stream.p2p_mode.name().into(),
            stream.relay_mode.name().into(),
            shown(&stream.consumer).into(),
            shown(&stream.provider).into(),
        ]
    };
    table(&columns, streams.iter().map(row).collect(), style)
}

/// Live streams of an agent.
#[must_use]
pub fn agent_streams(streams: &[AgentStreamRow], now_ms: u64, style: Style) -> String {
    let columns = [
        ("STREAM", Right),
        ("ACTOR", Right),
        ("ROLE", Left),
        ("SERVICE", Left),
        ("METHOD", Left),
        ("PHASE", Left),
        ("UP", Right),
        ("TO RELAY", Right),
        ("FROM RELAY", Right),
        ("RESUMED", Right),
        ("RELAY", Left),
        ("CONSUMER", Left),
    ];
    let row = |stream: &AgentStreamRow| -> Vec<Cell> {
        let phase = if stream.phase == "live" && !stream.resumable { "live, not resumable" } else { &stream.phase };
        vec![
            stream.id.to_string().into(),
            stream.actor.to_string().into(),
            stream.role.name().into(),
            or_dash(&stream.service).into(),
            or_dash(&stream.method).into(),
            shown(phase).into(),
            duration(now_ms.saturating_sub(stream.opened_at)).into(),
            size(stream.bytes_to_relay).into(),
            size(stream.bytes_from_relay).into(),
            stream.resumed.to_string().into(),
            or_dash(stream.relay.as_deref().unwrap_or_default()).into(),
            or_dash(stream.consumer.as_deref().unwrap_or_default()).into(),
        ]
    };
    table(&columns, streams.iter().map(row).collect(), style)
}

/// Registered services.
#[must_use]
pub fn services(services: &[ServiceRow], style: Style) -> String {
    let columns =
        [("TENANT", Left), ("SERVICE", Left), ("AGENT", Left), ("GENERATION", Right), ("LOCAL ADDRESS", Left)];
    let row = |service: &ServiceRow| -> Vec<Cell> {
        vec![
            shown(&service.tenant).into(),
            shown(&service.name).into(),
            shown(&service.agent).into(),
            service.generation.to_string().into(),
            or_dash(&service.local_addr).into(),
        ]
    };
    table(&columns, services.iter().map(row).collect(), style)
}

/// The rules in force, and what is odd about them.
#[must_use]
pub fn policy(policy: &PolicyReport, now_ms: u64, style: Style) -> String {
    let mut text = match &policy.source {
        Some(source) => {
            let age = duration(now_ms.saturating_sub(policy.loaded_at));
            format!("{} rules from {}, read {age} ago\n", policy.rules.len(), shown(source))
        }
        None => "no rules file: closed world, every open is denied\n".to_owned(),
    };
    if !policy.rules.is_empty() {
        text += &format!("\n{}", rules(&policy.rules, style));
    }
    text + &warnings(&policy.warnings, style)
}

/// Rules in the order given.
#[must_use]
pub fn rules(rules: &[RuleRow], style: Style) -> String {
    let columns = [
        ("TENANT", Left),
        ("RULE", Left),
        ("DECISION", Left),
        ("CALLER", Left),
        ("TARGET", Left),
        ("METHOD", Left),
        ("P2P", Left),
        ("RELAY", Left),
        ("EXPIRES", Left),
    ];
    let row = |rule: &RuleRow| -> Vec<Cell> {
        let colour = match rule.decision {
            Effect::Allow => Colour::Green,
            Effect::Deny => Colour::Red,
        };
        vec![
            shown(&rule.tenant).into(),
            shown(&rule.id).into(),
            Cell::new(rule.decision.name(), colour),
            or_dash(&rule.caller).into(),
            or_dash(&rule.target).into(),
            or_dash(&rule.method).into(),
            rule.p2p.name().into(),
            rule.relay.name().into(),
            u64::try_from(rule.expires_unix_ms).ok().filter(|at| *at != 0).map_or("-".to_owned(), instant).into(),
        ]
    };
    table(&columns, rules.iter().map(row).collect(), style)
}

/// A paragraph of warnings; nothing when there are none.
#[must_use]
pub fn warnings(warnings: &[String], style: Style) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let mark = coloured(&Cell::new("warning:", Colour::Yellow), style);
    let lines = warnings.iter().map(|warning| format!("{mark} {}\n", shown(warning)));
    "\n".to_owned() + &lines.collect::<String>()
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(DETAIL_MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// `key=value` of an object's plain members, the text of anything else.
fn summary(detail: &Value) -> String {
    match detail {
        Value::Null => String::new(),
        Value::Object(members) => {
            let plain = members.iter().filter(|(_, value)| !value.is_null());
            plain.map(|(key, value)| format!("{key}={}", scalar(value))).collect::<Vec<_>>().join(" ")
        }
        other => scalar(other),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(elements) => format!("[{}]", elements.len()),
        Value::Object(members) => format!("{{{}}}", members.len()),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(kind: &str, name: &str, children: Vec<Report>) -> Report {
        Report {
            id: 1,
            kind: kind.into(),
            name: name.into(),
            status: Status::Running,
            restarts: 0,
            started_at: Some(1_000),
            last_exit: None,
            mailbox: 0,
            busy_ms: 0,
            detail: Value::Null,
            children,
        }
    }

    #[test]
    fn the_tree_shows_who_is_below_whom() {
        let splice = Report {
            id: 12,
            restarts: 2,
            mailbox: 3,
            busy_ms: 1_500,
            status: Status::Restarting,
            last_exit: Some("panicked: \u{1b}[31mred".into()),
            detail: json!({"service": "svc-web", "bytes": 7, "peer": null, "names": ["a", "b"]}),
            ..report("splice", "42", Vec::new())
        };
        let splices = report("splices", "", vec![splice.clone(), report("splice", "43", Vec::new())]);
        let root = report("relay", "r1", vec![splices, report("admin", "", Vec::new())]);
        let expected = "\
ACTOR              ID  STATUS      UP  RESTARTS  MAILBOX  BUSY  DETAIL
relay:r1            1  running     4s         0        0     -
├── splices         1  running     4s         0        0     -
│   ├── splice:42  12  restarting  4s         2        3    1s  bytes=7 names=[2] service=svc-web  last exit: panicked: \\u{1b}[31mred
│   └── splice:43   1  running     4s         0        0     -
└── admin           1  running     4s         0        0     -
";
        assert_eq!(tree(&root, 5_000, Style::Plain), expected);
        let recorded = |at, what: &str, took_us| Recorded { at, what: what.into(), took_us };
        let splice = Inspection {
            report: splice,
            exits: vec![recorded(2_000, "panicked: \u{1b}[31mred", None)],
            messages: vec![recorded(4_500, "PumpEnded", Some(12))],
            stream: vec![],
        };
        let whole = inspect(&splice, 5_000, Style::Plain);
        assert!(whole.contains("earlier exits:\n        3s ago  panicked: \\u{1b}[31mred\n"), "{whole}");
        assert!(whole.contains("last messages:\n     500ms ago  PumpEnded (12 µs)\n"), "{whole}");
        assert!(!whole.contains("its stream"), "{whole}");
        assert!(whole.contains("\"service\": \"svc-web\""), "{whole}");
    }

    #[test]
    fn a_closed_world_is_called_one() {
        let closed = PolicyReport { source: None, loaded_at: 0, rules: Vec::new(), warnings: vec!["odd".into()] };
        let text = policy(&closed, 0, Style::Plain);
        assert_eq!(text, "no rules file: closed world, every open is denied\n\nwarning: odd\n");
    }

    #[test]
    fn the_lists_show_what_stands_out() {
        let stream = StreamRow {
            id: crate::core::ids::StreamId(42),
            actor: 17,
            consumer: "outrelay://acme/agent/a".into(),
            provider: "outrelay://acme/agent/b".into(),
            service: "svc-web".into(),
            method: String::new(),
            p2p_mode: crate::core::policy::P2pMode::Forbidden,
            relay_mode: crate::core::policy::RelayMode::Splice,
            opened_at: 0,
            bytes_to_provider: 2_048,
            bytes_to_consumer: 0,
        };
        let text = streams(&[stream], 1_000, Style::Plain);
        let line = text.lines().nth(1).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(
            words[..11],
            ["42", "17", "svc-web", "-", "1s", "2.0", "KiB", "0", "B", "forbidden", "splice"],
            "{text}"
        );
    }
}
