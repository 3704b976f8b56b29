//! `outrelay bench`: load against a relay, from a process that plays provider and consumer.

mod soak;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::admin::draw;
use crate::bench::figures::{Figure, Figures};
use crate::bench::payload::BLOCK;
use crate::bench::process::Process;
use crate::bench::report::Report;
use crate::bench::site::Site;
use crate::bench::{self, Direction, Mode, Plan, Timing};
use crate::config::{Problem, Problems};
use crate::core::identity::Tenant;
use crate::core::ids::ServiceName;

/// Before a run is measured: windows open, MTU discovery ends, caches fill.
const WARM_UP: Duration = Duration::from_secs(1);
/// The longest run; the times of every round are kept in memory.
const LONGEST_SECS: f64 = 600.0;

/// Arguments of `outrelay bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// What is measured.
    #[command(subcommand)]
    mode: ModeArgs,
}

#[derive(Subcommand, Clone, Debug)]
enum ModeArgs {
    /// Payload through spliced streams: MB/s, relay CPU per GB
    Splice(SpliceArgs),
    /// A message there and back on one stream: p50, p99, relay CPU per round trip
    Rtt(RttArgs),
    /// Streams are opened, bring one byte back and end: opens/s, p50, p99, relay CPU per stream
    Open(OpenArgs),
    /// Agents connect, say HELLO and leave: connects/s, p50, p99, relay CPU per agent
    Connect(ConnectArgs),
    /// Agents and streams that do nothing: relay memory per unit, relay CPU. Each run adds to the ones before
    Idle(IdleArgs),
    /// Streams of every shape through relays of its own that are killed, drained and disturbed: nothing may be lost
    Soak(soak::SoakArgs),
}

/// What all modes but `soak` take.
#[derive(Args, Clone, Debug)]
struct Common {
    /// The relay
    #[arg(long, value_name = "HOST:PORT")]
    relay: String,
    /// Certificate authority of the deployment (PEM)
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// Its private key (PEM): certificates for the agents are made on the spot
    #[arg(long, value_name = "FILE")]
    ca_key: PathBuf,
    /// Tenant of the agents; its rules must allow each to call the service of any other
    #[arg(long)]
    tenant: Tenant,
    /// Service that the provider registers
    #[arg(long, value_name = "NAME", default_value = "bench")]
    service: ServiceName,
    /// Name in the relay's certificate
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    server_name: String,
    /// Process of the relay, on this machine: its CPU time and memory are measured
    #[arg(long, value_name = "PID")]
    relay_pid: Option<u32>,
    /// Seconds that each run is measured
    #[arg(long, default_value_t = 5.0)]
    secs: f64,
    /// Runs, one after the other; the result is the median of each figure
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct SpliceArgs {
    #[command(flatten)]
    common: Common,
    /// Streams at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8192))]
    streams: u32,
    /// Which way the payload goes
    #[arg(long, value_enum, default_value_t = Direction::Up)]
    direction: Direction,
    /// Bytes of each write
    #[arg(long, value_name = "BYTES", default_value_t = BLOCK as u64, value_parser = clap::value_parser!(u64).range(1..=BLOCK as u64))]
    size: u64,
}

#[derive(Args, Clone, Debug)]
struct RttArgs {
    #[command(flatten)]
    common: Common,
    /// Bytes of the message
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    size: u64,
}

#[derive(Args, Clone, Debug)]
struct OpenArgs {
    #[command(flatten)]
    common: Common,
    /// Streams at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=8192))]
    streams: u32,
}

#[derive(Args, Clone, Debug)]
struct ConnectArgs {
    #[command(flatten)]
    common: Common,
    /// Connections at once
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    conns: u32,
}

#[derive(Args, Clone, Debug)]
struct IdleArgs {
    #[command(flatten)]
    common: Common,
    /// Idle connections that each run adds [default: 500, with --streams 0]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    conns: Option<u32>,
    /// Idle spliced streams that each run adds; they are then the unit
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=8192))]
    streams: u32,
}

/// What is asked for: a relay to be measured, or a soak.
enum Asked {
    Measure(Common, Mode),
    Soak(soak::SoakArgs),
}

impl ModeArgs {
    fn split(self) -> anyhow::Result<Asked> {
        let (common, mode) = match self {
            Self::Soak(args) => return Ok(Asked::Soak(args)),
            Self::Splice(args) => {
                let write_bytes = usize::try_from(args.size)?;
                (args.common, Mode::Splice { streams: args.streams, direction: args.direction, write_bytes })
            }
            Self::Rtt(args) => (args.common, Mode::Rtt { bytes: usize::try_from(args.size)? }),
            Self::Open(args) => (args.common, Mode::Open { at_once: args.streams }),
            Self::Connect(args) => (args.common, Mode::Connect { at_once: args.conns }),
            Self::Idle(args) => {
                let connections = args.conns.unwrap_or(if args.streams > 0 { 0 } else { 500 });
                (args.common, Mode::Idle { connections, streams: args.streams })
            }
        };
        Ok(Asked::Measure(common, mode))
    }
}

/// Runs the benchmark and prints what came out. Exit code 1 when anything failed.
///
/// # Errors
/// Flags that make no sense as [`Problems`]; a relay whose name cannot be resolved.
#[allow(clippy::print_stderr, reason = "a warning to the person at the terminal; standard output is the result")]
pub async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let (common, mode) = match args.mode.split()? {
        Asked::Measure(common, mode) => (common, mode),
        Asked::Soak(args) => return soak::run(args).await,
    };
    let json = common.json;
    let plan = plan(common, mode).await?;
    if cfg!(debug_assertions) {
        eprintln!("outrelay: this is a debug build: build with --release before believing a figure");
    }
    let report = bench::run(&plan).await;
    draw::print(&if json { report.to_json(&plan).to_string() } else { text(&plan, &report) })?;
    Ok(if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn plan(args: Common, mode: Mode) -> anyhow::Result<Plan> {
    let mut problems = Problems::default();
    let mut problem = |flag: &str, what: String| problems.0.push(Problem::new(flag, what));
    if !has_port(&args.relay) {
        problem("--relay", format!("`{}` is not HOST:PORT", args.relay));
    }
    if !(0.1..=LONGEST_SECS).contains(&args.secs) {
        problem("--secs", format!("must be 0.1 to {LONGEST_SECS}, is {}", args.secs));
    }
    let ca = Site::load_ca(&args.ca, &args.ca_key);
    let ca = ca.map_err(|error| problem("--ca, --ca-key", format!("{:#}", anyhow::Error::new(error))));
    let relay = args.relay_pid.map(Process::find).transpose();
    match &relay {
        Err(failure) => problem("--relay-pid", failure.to_string()),
        Ok(None) if matches!(mode, Mode::Idle { .. }) => {
            problem("--relay-pid", "missing: idle measures the relay's process".to_owned());
        }
        Ok(_) => {}
    }
    let (Ok(ca), Ok(relay), true) = (ca, relay, problems.0.is_empty()) else {
        return Err(problems.into());
    };
    let resolved = tokio::net::lookup_host(&args.relay).await.map(|mut all| all.next());
    let addr = resolved
        .with_context(|| format!("--relay {}", args.relay))?
        .with_context(|| format!("--relay {}: no such host", args.relay))?;
    let site = Arc::new(Site::new(addr, args.server_name, ca, args.tenant, args.service));
    let timing = Timing { warm_up: WARM_UP, measured: Duration::from_secs_f64(args.secs) };
    Ok(Plan { site, mode, timing, runs: args.runs, relay })
}

fn has_port(relay: &str) -> bool {
    relay
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// What was run, a table of the figures, and what failed.
fn text(plan: &Plan, report: &Report) -> String {
    let mut out = format!("{}: {}\n", plan.mode.name(), described(plan));
    let mut rows = vec![header(report)];
    for (figure, median) in report.medians.iter() {
        rows.push(row(figure, median, report));
    }
    let completed = report.each.iter().map(|run| run.completed.to_string());
    rows.push(
        ["completed".to_owned(), completed_unit(plan.mode).to_owned(), String::new()]
            .into_iter()
            .chain(completed)
            .collect(),
    );
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Words to the left, numbers to the right.
            let padded = if at < 2 { format!("{cell:<width$}  ") } else { format!("{cell:>width$}  ") };
            line.push_str(&padded);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    if !report.is_ok() {
        out.push_str(&format!("\nFAILED {} times:\n", report.failures.count()));
        for reason in report.failures.reasons() {
            out.push_str(&format!("  {} × {}\n", reason.count, reason.reason));
        }
    }
    out
}

fn header(report: &Report) -> Vec<String> {
    let fixed = ["figure", "unit", "median"].map(str::to_owned);
    fixed.into_iter().chain((1..=report.each.len()).map(|n| format!("run {n}"))).collect()
}

fn row(figure: Figure, median: f64, report: &Report) -> Vec<String> {
    let each = report.each.iter().map(|run: &bench::report::Run| shown(&run.figures, figure));
    let fixed = [figure.label().to_owned(), figure.unit().to_owned(), number(median)];
    fixed.into_iter().chain(each).collect()
}

fn shown(figures: &Figures, figure: Figure) -> String {
    figures.get(figure).map_or_else(|| "-".to_owned(), number)
}

/// Three digits that mean something, or all before the point.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.1 => 3,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

fn described(plan: &Plan) -> String {
    let what = match plan.mode {
        Mode::Splice { streams, direction, write_bytes } => {
            let way = match direction {
                Direction::Up => "consumer to provider",
                Direction::Down => "provider to consumer",
                Direction::Both => "both ways at once",
            };
            format!("{}, {way}, writes of {write_bytes} bytes", many(streams, "stream"))
        }
        Mode::Rtt { bytes } => format!("{bytes} bytes there and back, one stream"),
        Mode::Open { at_once } => format!("{} at once", many(at_once, "stream")),
        Mode::Connect { at_once } => format!("{} at once", many(at_once, "connection")),
        Mode::Idle { connections, streams: 0 } => format!("{} more each run", many(connections, "connection")),
        Mode::Idle { connections, streams } => {
            format!("{} and {} more each run", many(connections, "connection"), many(streams, "stream"))
        }
    };
    let secs = plan.timing.measured.as_secs_f64();
    format!("QUIC, {what}; {} of {secs} s at {}", many(plan.runs, "run"), plan.site.relay)
}

fn many(count: u32, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn completed_unit(mode: Mode) -> &'static str {
    match mode {
        Mode::Splice { .. } => "bytes",
        Mode::Rtt { .. } => "round trips",
        Mode::Open { .. } => "streams",
        Mode::Connect { .. } => "connections",
        Mode::Idle { .. } => "held",
    }
}
