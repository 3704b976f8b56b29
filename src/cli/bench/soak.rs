//! `outrelay bench soak`: no stream is lost, whatever happens to the relays.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::admin::draw;
use crate::bench::soak::load::Volume;
use crate::bench::soak::memory::Span;
use crate::bench::soak::outcome::Outcome;
use crate::bench::soak::{self, Plan};
use crate::cli::stop::StopSignals;
use crate::config::types::Log;
use crate::config::{Problem, Problems};
use crate::telemetry;

/// A day.
const LONGEST_MINUTES: f64 = 1440.0;

#[derive(Args, Clone, Debug)]
pub(super) struct SoakArgs {
    /// For how long; Ctrl-C ends it before, with a verdict
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Kill and panic actors, kill and drain relays, change rules
    #[arg(long)]
    chaos: bool,
    /// How often one of those, such as 500ms
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    every: Duration,
    /// Streams at any moment: bulk, chat, half-closed and idle ones
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    streams: u32,
    /// What the bulk streams move together
    #[arg(long, default_value_t = 8, value_name = "MB/S", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Relays, each a process that knows nothing of the others
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    relays: u32,
    /// Decides what happens when [default: a random one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Keep the folder with the relays' logs, and say where it is
    #[arg(long)]
    keep: bool,
    /// Log level of the relays
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    relay_log: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it, and prints the verdict. Exit code 1 when anything is wrong.
///
/// # Errors
/// Flags that make no sense as [`Problems`]; relays or agents that cannot be started.
#[allow(clippy::print_stderr, reason = "standard output is the result")]
pub(super) async fn run(args: SoakArgs) -> anyhow::Result<ExitCode> {
    let plan = plan(&args)?;
    telemetry::init(&Log { level: "error".to_owned(), ..Log::default() })?;
    let mut signals = StopSignals::new()?;
    let mut dir = tempfile::Builder::new().prefix("outrelay-soak-").tempdir()?;
    dir.disable_cleanup(args.keep);
    if args.keep {
        eprintln!("outrelay: the logs of the relays are in {}", dir.path().display());
    }
    eprintln!("outrelay: seed {}", plan.volume.seed);
    let outcome = soak::run(&plan, dir.path(), signals.next()).await?;
    let wrong = outcome.wrong(&plan);
    draw::print(&if args.json { outcome.to_json(&plan).to_string() } else { text(&plan, &outcome, &wrong) })?;
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn plan(args: &SoakArgs) -> Result<Plan, Problems> {
    let mut problems = Problems::default();
    if !(0.05..=LONGEST_MINUTES).contains(&args.minutes) {
        let what = format!("must be 0.05 to {LONGEST_MINUTES}, is {}", args.minutes);
        problems.0.push(Problem::new("--minutes", what));
    }
    if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&args.every) {
        problems.0.push(Problem::new("--every", "must be 100ms to 1h".to_owned()));
    }
    if !problems.0.is_empty() {
        return Err(problems);
    }
    let volume = Volume {
        streams: args.streams as usize,
        bytes_per_second: args.rate * 1_000_000,
        seed: args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>())),
    };
    Ok(Plan {
        lasting: Duration::from_secs_f64(args.minutes * 60.0),
        volume,
        relays: args.relays as usize,
        chaos: args.chaos.then_some(args.every),
        relay_log: args.relay_log.clone(),
    })
}

fn text(plan: &Plan, outcome: &Outcome, wrong: &[String]) -> String {
    let tally = &outcome.tally;
    let ms = |ms: Option<usize>| ms.map_or_else(|| "-".to_owned(), |ms| ms.to_string());
    let stalls = outcome.stalls;
    let kills: Vec<_> = outcome.done.kills.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let rows = [
        ("streams", format!("{} carried, {} at any moment", tally.streams, plan.volume.streams)),
        ("bytes", format!("{:.1} MB", bytes_mb(tally.bytes))),
        ("lost bytes", tally.wrong.lost.to_string()),
        ("duplicated bytes", tally.wrong.duplicated.to_string()),
        ("corrupt streams", tally.corrupt.to_string()),
        ("failed streams", tally.failed.to_string()),
        ("refused opens", tally.refused.to_string()),
        ("kills", if kills.is_empty() { "none".to_owned() } else { kills.join(", ") }),
        ("rule changes", outcome.done.rule_changes.to_string()),
        ("stalls", format!("p50 {} ms, p99 {} ms, max {} ms", ms(stalls.p50), ms(stalls.p99), ms(stalls.max))),
        ("memory, relays", memory(outcome.relays_memory)),
        ("memory, bench", memory(outcome.own_memory)),
    ];
    let lasted = humantime::format_duration(Duration::from_secs(outcome.lasted.as_secs()));
    let relays = if plan.relays == 1 { "1 relay".to_owned() } else { format!("{} relays", plan.relays) };
    let mut out = format!("soak: {relays}, {lasted}, seed {}\n", plan.volume.seed);
    for (name, value) in rows {
        out.push_str(&format!("{name:<18}{value}\n"));
    }
    for kept in &outcome.kept {
        let (start, end) = (kept.start, kept.end);
        out.push_str(&format!(
            "left, {:<12}{} of {} actors, {} of {} descriptors\n",
            kept.whose, end.actors, start.actors, end.fds, start.fds
        ));
    }
    if wrong.is_empty() {
        out.push_str("ok\n");
    } else {
        out.push_str(&format!("\nNOT OK:\n  {}\n", wrong.join("\n  ")));
    }
    out
}

fn memory(span: Span) -> String {
    let growth = span.growth_percent().map_or_else(|| "-".to_owned(), |percent| format!("{percent:+.1} %"));
    format!("{:.1} MiB in the middle, {:.1} MiB at the end, {growth}", mib(span.middle_kib), mib(span.end_kib))
}

#[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

#[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn bytes_mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
