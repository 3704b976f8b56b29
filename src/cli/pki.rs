//! `outrelay pki`: a CA, relay and agent certificates.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use uuid::Uuid;

use crate::core::identity::{AgentUri, Region, RelayId, RelayUri, Tenant};
use crate::pki::files::{self, Existing, Options, Written};
use crate::pki::{PkiError, Validity, check_dns};

/// Arguments of `outrelay pki`.
#[derive(Args, Clone, Debug)]
pub struct PkiArgs {
    /// What to make.
    #[command(subcommand)]
    pub command: PkiCommand,
}

/// What `outrelay pki` makes.
#[derive(Subcommand, Clone, Debug)]
pub enum PkiCommand {
    /// Make a CA: ca.crt and ca.key in DIR
    Init(InitArgs),
    /// Issue a relay certificate by the CA in DIR: relay-ID.crt and .key
    Relay(RelayArgs),
    /// Issue an agent certificate by the CA in DIR: agent-NAME.crt and .key; prints the agent's URI
    Agent(AgentArgs),
}

/// What the three commands have in common.
#[derive(Args, Clone, Debug)]
pub struct CommonArgs {
    /// Where the CA lies
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Days of validity [default: 3650 for a CA, else 365]
    #[arg(long, value_name = "N", value_parser = parse_days)]
    pub days: Option<u32>,
    /// Replace existing files
    #[arg(long)]
    pub force: bool,
    /// Print one JSON object: uri, cert, key
    #[arg(long)]
    pub json: bool,
}

impl CommonArgs {
    fn options(&self) -> Options {
        Options { days: self.days, existing: if self.force { Existing::Replace } else { Existing::Keep } }
    }
}

/// Arguments of `outrelay pki init`.
#[derive(Args, Clone, Debug)]
pub struct InitArgs {
    /// Directory, validity, force.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Arguments of `outrelay pki relay`.
#[derive(Args, Clone, Debug)]
pub struct RelayArgs {
    /// Directory, validity, force.
    #[command(flatten)]
    pub common: CommonArgs,
    /// The relay's region
    #[arg(long)]
    pub region: Region,
    /// The relay's id
    #[arg(long)]
    pub id: RelayId,
    /// A DNS name or IP address that agents dial, beside localhost; may be repeated
    #[arg(long, value_name = "NAME", value_parser = parse_dns)]
    pub dns: Vec<String>,
}

/// Arguments of `outrelay pki agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// Directory, validity, force.
    #[command(flatten)]
    pub common: CommonArgs,
    /// The agent's tenant
    #[arg(long)]
    pub tenant: Tenant,
    /// What the files are called
    #[arg(long, value_parser = parse_name)]
    pub name: String,
    /// The agent's UUID [default: a new one]
    #[arg(long, value_parser = parse_uuid)]
    pub uuid: Option<String>,
}

/// The text stays as given: it is part of the identity, which is compared byte by byte.
fn parse_uuid(text: &str) -> Result<String, uuid::Error> {
    Uuid::try_parse(text).map(|_| text.to_owned())
}

fn parse_days(text: &str) -> Result<u32, String> {
    let days = text.parse().map_err(|error: std::num::ParseIntError| error.to_string())?;
    Validity::days(days).map(|_| days).map_err(|error| error.to_string())
}

fn parse_dns(text: &str) -> Result<String, PkiError> {
    check_dns(text).map(|()| text.to_owned())
}

fn parse_name(text: &str) -> Result<String, PkiError> {
    files::check_name(text).map(|()| text.to_owned())
}

/// Makes what was asked for, and prints what was written.
///
/// # Errors
/// When the CA is unusable, or a file exists already or cannot be written.
pub fn run(args: &PkiArgs) -> anyhow::Result<()> {
    match &args.command {
        PkiCommand::Init(init) => {
            let written = files::create_ca(&init.common.dir, &init.common.options())?;
            report(&init.common, None, &written)
        }
        PkiCommand::Relay(relay) => {
            let uri = RelayUri::new(&relay.region, &relay.id);
            let dns: Vec<&str> = relay.dns.iter().map(String::as_str).collect();
            let written = files::issue_relay(&relay.common.dir, &uri, &dns, &relay.common.options())?;
            report(&relay.common, Some(uri.as_str()), &written)
        }
        PkiCommand::Agent(agent) => {
            let uuid = agent.uuid.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
            let uri = AgentUri::new(&agent.tenant, &uuid)?;
            let written = files::issue_agent(&agent.common.dir, &agent.name, &uri, &agent.common.options())?;
            report(&agent.common, Some(uri.as_str()), &written)
        }
    }
}

/// Only the URI on stdout, so that a script can take it; the files are on stderr.
fn report(common: &CommonArgs, uri: Option<&str>, written: &Written) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    if common.json {
        let object = serde_json::json!({ "uri": uri, "cert": written.cert, "key": written.key });
        writeln!(stdout, "{object}")?;
        return Ok(());
    }
    if let Some(uri) = uri {
        writeln!(stdout, "{uri}")?;
    }
    writeln!(std::io::stderr(), "written: {}, {}", written.cert.display(), written.key.display())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        pki: PkiArgs,
    }

    fn parse(args: &[&str]) -> Result<PkiArgs, clap::Error> {
        Cli::try_parse_from(std::iter::once("pki").chain(args.iter().copied())).map(|cli| cli.pki)
    }

    #[test]
    fn the_documented_commands_make_the_documented_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        run(&parse(&["init", path]).unwrap()).unwrap();
        run(&parse(&["relay", path, "--region", "acme", "--id", "r1", "--dns", "a.example", "--dns", "b.example"])
            .unwrap())
        .unwrap();
        run(&parse(&["agent", path, "--tenant", "acme", "--name", "web"]).unwrap()).unwrap();
        for file in ["ca.crt", "ca.key", "relay-r1.crt", "relay-r1.key", "agent-web.crt", "agent-web.key"] {
            assert!(dir.path().join(file).is_file(), "{file}");
        }
        let again = run(&parse(&["init", path]).unwrap()).unwrap_err().to_string();
        assert!(again.contains("ca.crt: exists already (--force replaces it)"), "{again}");
        run(&parse(&["init", path, "--force", "--days", "30", "--json"]).unwrap()).unwrap();
    }

    #[test]
    fn names_that_break_a_rule_are_usage_errors() {
        assert!(parse(&["relay", "d", "--region", "Acme", "--id", "r1"]).is_err());
        assert!(parse(&["relay", "d", "--region", "acme", "--id", "r/1"]).is_err());
        assert!(parse(&["agent", "d", "--tenant", "acme", "--name", "web", "--uuid", "no"]).is_err());
    }
}
