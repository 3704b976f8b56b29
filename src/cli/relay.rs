//! `outrelay relay`: the relay service.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::Signal;
use tracing::field::display;

use super::stop::{self, StopSignals};
use super::systemd;
use crate::admin::server;
use crate::clock::now_unix_ms;
use crate::config::layers::{Origins, Overlay};
use crate::config::relay::RelayConfig;
use crate::config::types::LogFormat;
use crate::config::{Invalid, Problem, Problems};
use crate::directory::embedded::Embedded;
use crate::net::descriptors;
use crate::relay::watch_files::Files;
use crate::relay::{Relay, credentials, fleet_key};
use crate::telemetry::{self, LogFilter};

/// Runs the relay service until SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
pub struct RelayArgs {
    /// Configuration file (TOML); a flag wins over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The relay's name, the last part of its certificate's URI
    #[arg(long)]
    id: Option<String>,
    /// The relay's region, the first part of its certificate's URI
    #[arg(long)]
    region: Option<String>,
    /// UDP address for QUIC; port 0 takes a free one [default: 0.0.0.0:7443]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where other relays reach it, if that is another address (NAT); nobody is told yet
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Certificate chain (PEM)
    #[arg(long, value_name = "FILE")]
    cert: Option<String>,
    /// Private key (PEM)
    #[arg(long, value_name = "FILE")]
    key: Option<String>,
    /// Certificate authority of the deployment (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<String>,
    /// Rules (TOML); without them every open is denied
    #[arg(long, value_name = "FILE")]
    rules: Option<String>,
    /// Keys that seal resume tickets, the same file at every relay of a fleet; made if it is not there
    #[arg(long, value_name = "FILE")]
    fleet_key: Option<String>,
    /// File to which every decision is appended as a JSON line
    #[arg(long, value_name = "FILE")]
    audit: Option<String>,
    /// Path of the admin socket
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<String>,
    /// TCP address of /metrics, /healthz and /readyz; empty for none [default: 127.0.0.1:9100]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// File that gets the bound addresses as JSON once the relay listens
    #[arg(long, value_name = "FILE")]
    ready_file: Option<String>,
    /// Format of the log on standard error
    #[arg(long, value_enum)]
    log: Option<LogFormat>,
    /// Any configuration key, such as limits.open=20s; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl RelayArgs {
    /// The file to be looked at for changes.
    fn watched(&self) -> Files {
        Files::new(self.config.iter().cloned().collect())
    }

    fn configuration(&self) -> Result<RelayConfig, Problems> {
        self.with_origins().map(|(config, _)| config)
    }

    fn with_origins(&self) -> Result<(RelayConfig, Origins), Problems> {
        let log = self.log.map(|format| match format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        });
        let flags = [
            Overlay::optional("--id", "id", self.id.as_ref()),
            Overlay::optional("--region", "region", self.region.as_ref()),
            Overlay::optional("--listen", "listen", self.listen.as_ref()),
            Overlay::optional("--advertise", "advertise", self.advertise.as_ref()),
            Overlay::optional("--cert", "tls.cert", self.cert.as_ref()),
            Overlay::optional("--key", "tls.key", self.key.as_ref()),
            Overlay::optional("--ca", "tls.ca", self.ca.as_ref()),
            Overlay::optional("--rules", "directory.rules", self.rules.as_ref()),
            Overlay::optional("--fleet-key", "resume.fleet_key", self.fleet_key.as_ref()),
            Overlay::optional("--audit", "directory.audit", self.audit.as_ref()),
            Overlay::optional("--admin-socket", "admin.socket", self.admin_socket.as_ref()),
            Overlay::optional("--http", "http.listen", self.http.as_ref()),
            Overlay::optional("--ready-file", "ready_file", self.ready_file.as_ref()),
            Overlay::optional("--log", "log.format", log.as_ref()),
        ];
        let set = self.set.iter().map(|assignment| Overlay::set(assignment));
        let overlays: Vec<_> = set.chain(flags.into_iter().flatten()).collect();
        RelayConfig::load_with_origins(self.config.as_deref(), &overlays)
    }

    /// The files that it names are configuration: what is wrong with any of them is said before anything starts.
    fn load(&self) -> Result<RelayConfig, Problems> {
        let (config, origins) = self.with_origins()?;
        let directory = Embedded::from(&config.directory);
        let mut problems = origins.locate_all(&credentials::problems(&config));
        let others = [
            fleet_key::problem(config.resume.fleet_key.as_deref()),
            directory.audit_problem(),
            server::problem(config.admin.socket.as_deref()),
        ];
        problems.extend(origins.locate_all(&others.into_iter().flatten().collect::<Vec<_>>()));
        if let Err(Problems(rules)) = directory.load_rules(now_unix_ms()) {
            problems.extend(rules.into_iter().filter_map(|problem| of_rules(&config, &origins, problem)));
        }
        if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) }
    }
}

/// Files that a relay has open at most, its clients of HTTP and of the admin socket included. Agents need none.
const FILES: usize = 128;

/// A file that cannot be read has no line: the place is where it is named.
fn of_rules(config: &RelayConfig, origins: &Origins, problem: Problem) -> Option<Problem> {
    let file = config.directory.rules.as_ref().map(|file| file.display().to_string());
    if file.as_ref() == Some(&problem.source) {
        return origins.locate(&Invalid::at("directory.rules", problem.to_string()));
    }
    Some(problem)
}

/// Runs the relay.
///
/// # Errors
/// Configuration problems as [`Problems`]; anything else that keeps it from running.
pub async fn run(args: RelayArgs) -> anyhow::Result<ExitCode> {
    let mut file = args.watched();
    let config = args.load()?;
    let log = telemetry::init(&config.log)?;
    descriptors::raise();
    if descriptors::limit() < FILES {
        tracing::warn!(
            open_files = descriptors::limit(),
            needed = FILES,
            "few files may be open (ulimit -n, LimitNOFILE)"
        );
    }
    let mut signals = StopSignals::new()?;
    let mut reload = stop::reload_signal()?;
    if let Some(socket) = &config.admin.socket {
        server::check_free(socket)?;
    }
    let ready_file = config.ready_file.clone();
    let mut relay = Relay::start(config).await?;
    let quic = relay.quic_addr()?;
    let admin = relay.vault().config.now().admin.socket.clone();
    let http = relay.http_addr();
    let (shown_http, shown_admin) = (http.map(display), admin.as_ref().map(|path| display(path.display())));
    tracing::info!(relay = %relay.vault().relay, %quic, http = shown_http, admin = shown_admin, "listening");
    if let Some(file) = &ready_file {
        let ready = serde_json::json!({ "quic": quic, "http": http, "admin": admin, "pid": std::process::id() });
        write_ready(file, &ready)?;
    }
    let vault = Arc::clone(relay.vault());
    let watchdog = systemd::ready(relay.root());
    let mut asked = loop {
        tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal, "stopping");
                break Asked::BySignal;
            }
            _ = vault.drain.begun() => {
                tracing::info!("stopping: drained by an operator");
                break Asked::ByOperator;
            }
            _ = reload.recv() => {
                tracing::info!("SIGHUP: reading configuration, rules and credentials again");
                file = args.watched();
                reconfigure(&args, &relay, &log);
            }
            () = file.changed() => {
                tracing::info!("the configuration file has changed: reading it again");
                file = args.watched();
                reconfigure(&args, &relay, &log);
            }
            why = relay.failed() => return Ok(fail(relay, &why).await),
        }
    };
    systemd::stopping();
    let drained = tokio::select! {
        drained = relay.drain_unless_failed() => Some(drained),
        () = second(&mut signals, &mut reload, &mut asked) => None,
    };
    drop(watchdog);
    let stopped = match drained {
        Some(Ok(())) => relay.shutdown_unless(second(&mut signals, &mut reload, &mut asked)).await,
        Some(Err(why)) => return Ok(fail(relay, &why).await),
        None => {
            relay.kill().await;
            Ok(())
        }
    };
    if let Err(why) = stopped {
        return Ok(failed(&why));
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Whatever is asked for meanwhile, it has failed.
async fn fail(relay: Relay, why: &str) -> ExitCode {
    let code = failed(why);
    relay.fail().await;
    code
}

fn failed(why: &str) -> ExitCode {
    tracing::error!(%why, "the supervision tree has failed");
    ExitCode::FAILURE
}

/// Who has asked the relay to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    BySignal,
    ByOperator,
}

/// Waits for a second signal. After an operator's drain the first is only the system's part in the same stop.
async fn second(signals: &mut StopSignals, reload: &mut Signal, asked: &mut Asked) {
    loop {
        let signal = tokio::select! {
            signal = signals.next() => signal,
            Some(()) = reload.recv() => {
                tracing::warn!("SIGHUP: the relay is draining, and its configuration is not read again");
                continue;
            }
        };
        if *asked == Asked::BySignal {
            tracing::warn!(signal, "second signal: stopping at once");
            return;
        }
        *asked = Asked::BySignal;
        tracing::info!(signal, "the drain goes on; a second signal ends it at once");
    }
}

/// What is wrong is said, and nothing changes.
fn reconfigure(args: &RelayArgs, relay: &Relay, log: &LogFilter) {
    let changes = match args.configuration().and_then(|config| relay.configure(&config)) {
        Ok(changes) => changes,
        Err(problems) => {
            tracing::error!(%problems, "the configuration cannot be used: the old one stays in force");
            // Rules and credentials may be good all the same; each says for itself what is wrong with it.
            relay.reload();
            return;
        }
    };
    if let Err(error) = log.set(&relay.vault().config.now().log) {
        tracing::error!(%error, "the log level stays as it is");
    }
    let (applied, needs_restart) = (changes.applied.join(", "), changes.needs_restart.join(", "));
    if !applied.is_empty() {
        tracing::info!(keys = applied, "configuration changed");
    }
    if !needs_restart.is_empty() {
        tracing::warn!(keys = needs_restart, "these need a restart: the old values stay in force");
    }
}

/// Written beside and renamed, so that a reader never sees half of it.
fn write_ready(file: &Path, ready: &serde_json::Value) -> anyhow::Result<()> {
    let beside = file.with_extension("tmp");
    std::fs::write(&beside, format!("{ready}\n"))
        .and_then(|()| std::fs::rename(&beside, file))
        .with_context(|| format!("ready file {}", file.display()))
}
