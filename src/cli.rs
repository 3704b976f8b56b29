//! The command line: one file per subcommand. Exit codes: 0 done, 1 failed at run time, 2 usage or configuration.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

use crate::config::Problems;

pub mod admin;
pub mod agent;
pub mod audit;
pub mod bench;
pub mod demo;
pub mod pki;
pub mod policy;
pub mod relay;
pub mod stop;
pub mod systemd;

/// How long a process that has ended waits for its threads: one may be stuck in a file system that does not answer.
const LAST_THREADS: Duration = Duration::from_millis(500);

/// An outbound-only relay: services in private networks reach each other with no inbound port.
#[derive(Debug, clap::Parser)]
#[command(name = "outrelay", version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the whole system at work in one process
    Demo(demo::DemoArgs),
    /// Run the relay service
    Relay(relay::RelayArgs),
    /// Run the agent beside a service
    Agent(agent::AgentArgs),
    /// Look into a running relay or agent, over its admin socket
    Admin(admin::AdminArgs),
    /// Read the rules: which one decides, and why
    Policy(policy::PolicyArgs),
    /// Read the audit: which decisions fell
    Audit(audit::AuditArgs),
    /// Make certificates
    Pki(pki::PkiArgs),
    /// Measure a relay, this project's or a legacy one, under load
    Bench(bench::BenchArgs),
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("the runtime does not start")),
    };
    let code = runtime.block_on(run(cli.command)).unwrap_or_else(|error| fail(&error));
    runtime.shutdown_timeout(LAST_THREADS);
    code
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => demo::run(args).await,
        Command::Relay(args) => relay::run(args).await,
        Command::Agent(args) => agent::run(args).await,
        Command::Admin(args) => admin::run(args).await,
        Command::Policy(args) => policy::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Pki(args) => pki::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(args).await,
    }
}

/// Configuration problems are listed one a line, and are the user's: exit code 2.
#[allow(clippy::print_stderr, reason = "errors of a command go to standard error")]
fn fail(error: &anyhow::Error) -> ExitCode {
    if let Some(problems) = error.downcast_ref::<Problems>() {
        eprintln!("{problems}");
        return ExitCode::from(2);
    }
    eprintln!("outrelay: {error:#}");
    ExitCode::FAILURE
}
