//! `outrelay audit`: which decisions fell, answered from the audit file and those that were rotated before it.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::admin::draw::audit::decisions;
use crate::admin::draw::text::{Style, shown};
use crate::clock::now_unix_ms;
use crate::config::{Problem, Problems};
use crate::core::glob::Pattern;
use crate::core::identity::Tenant;
use crate::core::ids::StreamId;
use crate::core::policy::Effect;
use crate::directory::audit_log::read::{AuditReader, Line};
use crate::directory::audit_log::record::{AuditEvent, Numbered, Record};

/// Where there is no limit, the table is drawn in pieces of so many lines: it is not held as a whole.
const PIECE: usize = 1_000;

/// Reads the audit.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: AuditCommand,
}

/// What `outrelay audit` can do.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// The decisions that match, the newest last.
    Query(QueryArgs),
}

/// What to look for; a decision must match all of it. In a GLOB, `*` stands for any run of characters.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The audit file; FILE.1, FILE.2 and so on are read before it.
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// Whose rules were asked.
    #[arg(long)]
    pub tenant: Option<Tenant>,
    /// Who asked: on the caller's side the consumer, on the callee's side the provider.
    #[arg(long, value_name = "GLOB", value_parser = pattern)]
    pub caller: Option<Pattern>,
    /// For what: on the caller's side the service, on the callee's side the consumer.
    #[arg(long, value_name = "GLOB", value_parser = pattern)]
    pub target: Option<Pattern>,
    /// Not earlier than this RFC 3339 time, or than this long ago: 2026-01-31T12:00:00Z, 90m, "1h 30m ago".
    #[arg(long, value_name = "TIME|DURATION")]
    pub since: Option<Since>,
    /// What was decided.
    #[arg(long, value_parser = PossibleValuesParser::new(["allow", "deny"]).map(effect))]
    pub decision: Option<Effect>,
    /// The stream that was to be opened.
    #[arg(long, value_name = "ID")]
    pub stream: Option<u64>,
    /// The newest so many; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// One JSON object per decision, as it stands in the file, and nothing else.
    #[arg(long)]
    pub json: bool,
}

#[allow(clippy::unnecessary_wraps, reason = "what clap asks for")]
fn pattern(text: &str) -> Result<Pattern, std::convert::Infallible> {
    Ok(Pattern::new(text))
}

fn effect(text: String) -> Effect {
    if text == Effect::Allow.name() { Effect::Allow } else { Effect::Deny }
}

/// The earliest time asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// In milliseconds since 1970.
    At(i64),
    /// Before now.
    Ago(Duration),
}

/// Why a text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("neither an RFC 3339 time nor a duration such as 90m")]
pub struct SinceError;

impl FromStr for Since {
    type Err = SinceError;

    fn from_str(text: &str) -> Result<Self, SinceError> {
        if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
            let ms = at.unix_timestamp_nanos().div_euclid(1_000_000);
            return i64::try_from(ms).map(Self::At).map_err(|_| SinceError);
        }
        let duration = text.strip_suffix("ago").unwrap_or(text).trim_end_matches(['-', ' ']);
        humantime::parse_duration(duration).map(Self::Ago).map_err(|_| SinceError)
    }
}

impl Since {
    fn unix_ms(self, now_unix_ms: i64) -> i64 {
        match self {
            Self::At(ms) => ms,
            Self::Ago(duration) => now_unix_ms.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        }
    }
}

/// Answers from the audit files. Exit code 0 when there is an answer, an empty one included, 1 when a file cannot be read to its
/// end, and 2 when it cannot be opened or a flag is wrong.
///
/// # Errors
/// When a file cannot be opened or read, or the answer cannot be printed.
pub fn run(args: AuditArgs) -> Result<ExitCode> {
    let AuditCommand::Query(args) = args.command;
    let reader = open(&args)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut answer = Answer::new(&args, Style::of_stdout(), now_unix_ms());
    let printed = answer.read(reader, &mut out).and_then(|()| Ok(out.flush()?));
    match printed {
        // A reader that has seen enough is no error.
        Err(error) if broken_pipe(&error) => return Ok(ExitCode::SUCCESS),
        printed => printed?,
    }
    for note in answer.notes() {
        writeln!(io::stderr(), "{note}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn open(args: &QueryArgs) -> Result<AuditReader, Problems> {
    AuditReader::open(&args.file)
        .map_err(|error| Problems(vec![Problem::new("--file", format!("{:#}", anyhow::Error::new(error)))]))
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A line that matches, and what it holds.
struct Hit {
    line: String,
    numbered: Numbered,
}

/// Lines of a file that are not of the audit.
struct Foreign {
    path: PathBuf,
    /// The number of the first.
    first: u64,
    count: u64,
}

/// What was found so far.
struct Answer<'a> {
    args: &'a QueryArgs,
    style: Style,
    since_unix_ms: i64,
    held: VecDeque<Hit>,
    /// Matches that were printed, and those that the limit leaves out.
    printed: u64,
    left_out: u64,
    /// Lines that are not of the audit, a file after the other.
    foreign: Vec<Foreign>,
    /// Decisions that are not in it.
    lost: u64,
}

impl<'a> Answer<'a> {
    fn new(args: &'a QueryArgs, style: Style, now_unix_ms: i64) -> Self {
        let since_unix_ms = args.since.map_or(i64::MIN, |since| since.unix_ms(now_unix_ms));
        Self {
            args,
            style,
            since_unix_ms,
            held: VecDeque::new(),
            printed: 0,
            left_out: 0,
            foreign: Vec::new(),
            lost: 0,
        }
    }

    fn read(&mut self, mut reader: AuditReader, out: &mut impl Write) -> Result<()> {
        while let Some(line) = reader.next_line()? {
            match line {
                Line::Foreign { path, number } => self.skip(path, number),
                Line::Record(_, Record::Dropped(dropped)) if dropped.ts_unix_ms >= self.since_unix_ms => {
                    self.lost = self.lost.saturating_add(dropped.dropped);
                }
                Line::Record(line, Record::Event(numbered)) if self.wants(&numbered.event) => {
                    self.hold(Hit { line, numbered }, out)?;
                }
                Line::Record(..) => {}
            }
        }
        self.print(out)?;
        Ok(())
    }

    fn skip(&mut self, path: PathBuf, number: u64) {
        match self.foreign.last_mut().filter(|foreign| foreign.path == path) {
            Some(foreign) => foreign.count += 1,
            None => self.foreign.push(Foreign { path, first: number, count: 1 }),
        }
    }

    fn wants(&self, event: &AuditEvent) -> bool {
        let QueryArgs { tenant, caller, target, decision, stream, .. } = self.args;
        event.ts_unix_ms >= self.since_unix_ms
            && tenant.as_ref().is_none_or(|tenant| *tenant.as_str() == *event.tenant)
            && caller.as_ref().is_none_or(|caller| caller.matches(&event.caller))
            && target.as_ref().is_none_or(|target| target.matches(&event.target))
            && decision.is_none_or(|decision| decision == event.decision)
            && stream.is_none_or(|stream| Some(StreamId(stream)) == event.stream_id)
    }

    fn hold(&mut self, hit: Hit, out: &mut impl Write) -> io::Result<()> {
        self.held.push_back(hit);
        if self.args.limit == 0 {
            return if self.held.len() >= PIECE { self.print(out) } else { Ok(()) };
        }
        if self.held.len() > self.args.limit {
            self.held.pop_front();
            self.left_out += 1;
        }
        Ok(())
    }

    fn print(&mut self, out: &mut impl Write) -> io::Result<()> {
        let hits = std::mem::take(&mut self.held);
        if self.args.json {
            hits.iter().try_for_each(|hit| writeln!(out, "{}", hit.line))?;
        } else if self.printed == 0 || !hits.is_empty() {
            out.write_all(decisions(hits.iter().map(|hit| &hit.numbered), self.style).as_bytes())?;
        }
        self.printed += u64::try_from(hits.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// What the reader of the answer should know about it, a line each.
    fn notes(&self) -> Vec<String> {
        let foreign = self.foreign.iter().map(|Foreign { path, first, count }| {
            let file = shown(&path.display().to_string());
            format!("{file}:{first}: torn or not of the audit: skipped; such lines in this file: {count}")
        });
        let notes = [
            (self.lost, "decisions of that time missing, because the relay's audit queue was full"),
            (self.left_out, "older matches not shown (--limit 0 shows all)"),
        ];
        let told = notes.into_iter().filter(|(count, _)| *count > 0);
        foreign.chain(told.map(|(count, what)| format!("{what}: {count}"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    #[derive(Debug, Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: AuditArgs,
    }

    fn line(seq: u64, tenant: &str, caller: &str, target: &str, decision: &str) -> String {
        let at = NOW - 10_000 + i64::try_from(seq).unwrap() * 1_000;
        let event = json!({
            "run": 1, "seq": seq, "ts_unix_ms": at, "tenant": tenant, "side": "caller", "caller": caller, "target": target,
            "method": "", "decision": decision, "rule": null, "reason": "no\u{1b}[2Jrule", "stream_id": (seq * 10).to_string(),
        });
        event.to_string()
    }

    /// Three files with a line each of an own kind, a torn one in the oldest, missing decisions in the next.
    fn audit() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let dropped = |at: i64| format!("{{\"ts_unix_ms\":{at},\"run\":1,\"dropped\":3}}\n");
        let oldest = [line(1, "acme", "a/1", "svc-web", "allow"), line(2, "acme", "a/2", "svc-db", "deny")].join("\n");
        fs::write(path.with_extension("jsonl.2"), format!("{oldest}\n{{\"run\":1,\"se")).unwrap();
        let older = format!("{}{}\n", dropped(NOW - 7_500), line(3, "other", "b/1", "svc-web", "allow"));
        fs::write(path.with_extension("jsonl.1"), older).unwrap();
        let newest = [line(4, "acme", "a/1", "svc-db", "deny"), line(5, "acme", "a/1", "svc-web", "allow")].join("\n");
        fs::write(&path, format!("hello\n{newest}\n\n{{}}\n")).unwrap();
        (folder, path)
    }

    /// What goes to standard output, and what to standard error.
    fn ask(path: &Path, flags: &[&str]) -> Result<(String, Vec<String>), String> {
        let line = ["audit", "query", "--file", path.to_str().unwrap()].into_iter().chain(flags.iter().copied());
        let AuditCommand::Query(args) =
            CommandLine::try_parse_from(line).map_err(|error| error.to_string())?.args.command;
        let mut out = Vec::new();
        let mut answer = Answer::new(&args, Style::Plain, NOW);
        answer.read(open(&args).map_err(|problems| problems.to_string())?, &mut out).unwrap();
        Ok((String::from_utf8(out).unwrap(), answer.notes()))
    }

    fn numbers(flags: &[&str]) -> Vec<u64> {
        let (_folder, path) = audit();
        let (text, _) = ask(&path, &[flags, &["--json"]].concat()).unwrap();
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap()).collect()
    }

    #[test]
    fn decisions_come_oldest_first_from_the_rotated_files_on_as_they_are_written() {
        let (_folder, path) = audit();
        let (text, notes) = ask(&path, &["--json"]).unwrap();
        let expected = [
            line(1, "acme", "a/1", "svc-web", "allow"),
            line(2, "acme", "a/2", "svc-db", "deny"),
            line(3, "other", "b/1", "svc-web", "allow"),
            line(4, "acme", "a/1", "svc-db", "deny"),
            line(5, "acme", "a/1", "svc-web", "allow"),
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        let file = path.display();
        let expected = [
            format!("{file}.2:3: torn or not of the audit: skipped; such lines in this file: 1"),
            format!("{file}:1: torn or not of the audit: skipped; such lines in this file: 2"),
            "decisions of that time missing, because the relay's audit queue was full: 3".to_owned(),
        ];
        assert_eq!(notes, expected);
    }

    #[test]
    fn every_flag_narrows_the_answer_and_all_of_them_count() {
        assert_eq!(numbers(&["--tenant", "other"]), [3]);
        assert_eq!(numbers(&["--caller", "a/*"]), [1, 2, 4, 5]);
        assert_eq!(numbers(&["--caller", "a/"]), [0; 0], "a glob matches the whole");
        assert_eq!(numbers(&["--target", "*-db"]), [2, 4]);
        assert_eq!(numbers(&["--decision", "deny"]), [2, 4]);
        assert_eq!(numbers(&["--decision", "allow"]), [1, 3, 5]);
        assert_eq!(numbers(&["--stream", "40"]), [4]);
        assert_eq!(numbers(&["--decision", "deny", "--caller", "a/1"]), [4]);
    }

    #[test]
    fn the_earliest_time_is_given_as_such_or_as_a_duration_and_is_part_of_the_answer() {
        for since in ["6s", "6s ago", "6s-ago", "2023-11-14T22:13:14Z", "2023-11-14T23:13:14+01:00"] {
            assert_eq!(numbers(&["--since", since]), [4, 5], "{since}");
        }
        assert_eq!(numbers(&["--since", "2023-11-14T22:13:14.001Z"]), [5]);
        let (_folder, path) = audit();
        assert_eq!(ask(&path, &["--since", "8s"]).unwrap().1.len(), 3);
        assert_eq!(ask(&path, &["--since", "7s"]).unwrap().1.len(), 2, "decisions that were lost earlier are not told");
    }

    #[test]
    fn the_limit_keeps_the_newest_and_says_how_many_are_left_out() {
        assert_eq!(numbers(&["--limit", "2"]), [4, 5]);
        assert_eq!(numbers(&["--limit", "2", "--decision", "allow"]), [3, 5]);
        assert_eq!(numbers(&["--limit", "5"]), [1, 2, 3, 4, 5]);
        let (_folder, path) = audit();
        let notes = ask(&path, &["--limit", "2"]).unwrap().1;
        assert_eq!(notes[3], "older matches not shown (--limit 0 shows all): 3");
    }

    #[test]
    fn a_hundred_are_shown_unless_told_otherwise_and_0_shows_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let lines: Vec<_> = (1..=2_500).map(|seq| line(seq, "acme", "a", "b", "allow")).collect();
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        assert_eq!(ask(&path, &["--json"]).unwrap().0.lines().collect::<Vec<_>>(), lines[2_400..]);
        assert_eq!(ask(&path, &["--json", "--limit", "0"]).unwrap().0.lines().collect::<Vec<_>>(), lines);
        let table = ask(&path, &["--limit", "0"]).unwrap().0;
        assert_eq!(table.lines().filter(|line| line.starts_with("TIME")).count(), 3, "in pieces");
        assert_eq!(table.lines().count(), 2_503);
    }

    #[test]
    fn the_table_is_for_people_and_commands_no_terminal() {
        let (_folder, path) = audit();
        let (text, _) = ask(&path, &["--stream", "20"]).unwrap();
        let rows: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0][..4], ["TIME", "SEQ", "TENANT", "SIDE"]);
        assert_eq!(rows[1][..4], ["2023-11-14T22:13:12Z", "2", "acme", "caller"]);
        assert_eq!(rows[1][4..], ["deny", "a/2", "svc-db", "-", "20", "-", "no\\u{1b}[2Jrule"]);
        assert_eq!(ask(&path, &["--stream", "21"]).unwrap().0.lines().count(), 1, "a header alone");
        assert_eq!(ask(&path, &["--stream", "21", "--json"]).unwrap().0, "");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let (folder, path) = audit();
        for flags in
            [["--since", "soon"], ["--decision", "maybe"], ["--stream", "x"], ["--limit", "-1"], ["--tenant", "A"]]
        {
            assert!(ask(&path, &flags).is_err(), "{flags:?}");
        }
        let absent = folder.path().join("absent");
        let problem = ask(&absent, &[]).unwrap_err();
        let expected = format!("--file: the audit file {} cannot be opened: No such file", absent.display());
        assert!(problem.starts_with(&expected), "{problem}");
    }
}
