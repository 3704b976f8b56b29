//! `outrelay agent`: the agent beside a service, or beside its users.

use std::path::PathBuf;
use std::process::ExitCode;

use tracing::field::display;

use super::stop::{self, StopSignals};
use crate::admin::server;
use crate::agent::{Agent, credentials};
use crate::config::Problems;
use crate::config::agent::{AgentConfig, Consume, Expose};
use crate::config::layers::{Origins, Overlay};
use crate::config::types::LogFormat;
use crate::net::descriptors;
use crate::telemetry;

/// Runs the agent until SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    /// Configuration file (TOML); a flag wins over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Relays, tried in this order
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    relay: Vec<String>,
    /// Certificate chain (PEM)
    #[arg(long, value_name = "FILE")]
    cert: Option<String>,
    /// Private key (PEM)
    #[arg(long, value_name = "FILE")]
    key: Option<String>,
    /// Certificate authority of the deployment (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<String>,
    /// Local TCP service that others may reach by this name; may be repeated
    #[arg(long, value_name = "NAME=HOST:PORT")]
    expose: Vec<Expose>,
    /// Remote service that is offered at a local address; port 0 takes a free one; may be repeated
    #[arg(long, value_name = "NAME=BIND:PORT")]
    consume: Vec<Consume>,
    /// Path of the admin socket
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<String>,
    /// Format of the log on standard error
    #[arg(long, value_enum)]
    log: Option<LogFormat>,
    /// Any configuration key, such as timeouts.open=30s; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl AgentArgs {
    /// The files that it names are configuration: what is wrong with any of them is said before anything starts.
    fn load(&self) -> Result<AgentConfig, Problems> {
        let (config, origins) = self.configuration()?;
        let mut found = credentials::problems(&config.tls);
        found.extend(server::problem(config.admin.socket.as_deref()));
        let problems = origins.locate_all(&found);
        if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) }
    }

    fn configuration(&self) -> Result<(AgentConfig, Origins), Problems> {
        let log = self.log.map(|format| match format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        });
        let flags = [
            list("--relay", "relays", self.relay.iter().map(|relay| relay.as_str().into())),
            Overlay::optional("--cert", "tls.cert", self.cert.as_ref()),
            Overlay::optional("--key", "tls.key", self.key.as_ref()),
            Overlay::optional("--ca", "tls.ca", self.ca.as_ref()),
            list("--expose", "expose", self.expose.iter().map(exposed)),
            list("--consume", "consume", self.consume.iter().map(consumed)),
            Overlay::optional("--admin-socket", "admin.socket", self.admin_socket.as_ref()),
            Overlay::optional("--log", "log.format", log.as_ref()),
        ];
        let set = self.set.iter().map(|assignment| Overlay::set(assignment));
        let overlays: Vec<_> = set.chain(flags.into_iter().flatten()).collect();
        AgentConfig::load_with_origins(self.config.as_deref(), &overlays)
    }
}

/// A flag that may be repeated: what is given takes the place of the file's list.
fn list(flag: &str, key: &str, values: impl Iterator<Item = toml::Value>) -> Option<Overlay> {
    let values: Vec<_> = values.collect();
    if values.is_empty() { None } else { Some(Overlay::flag(flag, key, values)) }
}

fn exposed(Expose { name, to }: &Expose) -> toml::Value {
    table([("name", name), ("to", to.as_str())])
}

fn consumed(Consume { name, method, listen }: &Consume) -> toml::Value {
    table([("name", name), ("method", method), ("listen", listen.as_str())])
}

fn table<const N: usize>(entries: [(&str, &str); N]) -> toml::Value {
    toml::Table::from_iter(entries.map(|(key, value)| (key.to_owned(), value.into()))).into()
}

/// Runs the agent.
///
/// # Errors
/// Configuration problems as [`Problems`]; anything else that keeps it from running.
pub async fn run(args: AgentArgs) -> anyhow::Result<ExitCode> {
    let config = args.load()?;
    telemetry::init(&config.log)?;
    descriptors::raise();
    let mut signals = StopSignals::new()?;
    if let Some(socket) = &config.admin.socket {
        server::check_free(socket)?;
    }
    let admin = config.admin.socket.clone();
    let mut agent = Agent::start(config).await?;
    for (service, addr) in agent.offers() {
        tracing::info!(service, %addr, "listening");
    }
    let admin = admin.as_ref().map(|path| display(path.display()));
    tracing::info!(agent = %agent.uri(), admin, "agent started");
    let mut hangup = stop::reload_signal()?;
    loop {
        tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal, "stopping");
                break;
            }
            _ = hangup.recv() => reload(&agent),
            why = agent.failed() => {
                tracing::error!(%why, "the supervision tree has failed");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    tokio::select! {
        () = agent.shutdown() => tracing::info!("stopped"),
        signal = signals.next() => tracing::warn!(signal, "second signal: stopping at once"),
    }
    Ok(ExitCode::SUCCESS)
}

fn reload(agent: &Agent) {
    match agent.reload() {
        Ok(()) => tracing::info!(
            "SIGHUP: certificate, key and CA read again, for the next connection; all else needs a restart"
        ),
        Err(error) => {
            let error = anyhow::Error::new(error);
            tracing::error!(
                error = format!("{error:#}"),
                "SIGHUP: certificate, key or CA cannot be used; those of before go on"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        agent: AgentArgs,
    }

    fn load(line: &str) -> Result<AgentConfig, Problems> {
        Line::try_parse_from(std::iter::once("agent").chain(line.split(' ')))
            .unwrap()
            .agent
            .configuration()
            .map(|(config, _)| config)
    }

    #[test]
    fn repeated_flags_make_lists() {
        let config = load(
            "--relay r1:7443,r2:7443 --cert c --key k --ca a --expose web=127.0.0.1:80 --expose db=db:5432 \
             --consume far=127.0.0.1:0 --set timeouts.open=30s",
        );
        let config = config.unwrap();
        assert_eq!(config.relays.iter().map(ToString::to_string).collect::<Vec<_>>(), ["r1:7443", "r2:7443"]);
        assert_eq!(config.expose.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["web", "db"]);
        assert_eq!(config.consume[0].listen.as_str(), "127.0.0.1:0");
        assert_eq!(config.timeouts.open.as_secs(), 30);
    }

    #[test]
    fn every_problem_names_its_flag() {
        let problems =
            load("--relay nowhere --expose web=h:1 --expose web=h:2 --cert c --key k").unwrap_err().to_string();
        assert!(problems.contains("--relay") && problems.contains("`nowhere` is not host:port"), "{problems}");
        let problems = load("--relay r:1 --expose web=h:1 --expose web=h:2 --cert c --key k").unwrap_err().to_string();
        assert!(problems.contains("--expose") && problems.contains("exposed twice"), "{problems}");
        assert!(problems.contains("--ca"), "{problems}");
    }
}
