//! `outrelay admin`: looks into a running relay or agent, and strikes its actors.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admin::client::Client;
use crate::admin::draw;
use crate::admin::draw::text::Style;
use crate::admin::protocol::{
    AgentRow, DEFAULT_SOCKET, Draining, PolicyReport, Request, ServiceRow, StreamRows, Struck,
};
use crate::clock::unix_ms;
use crate::config::types::HostPort;
use crate::supervise::report::{Inspection, Report};

/// Looks into a running relay or agent over its unix socket.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// The admin socket.
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// One JSON object, or one per line for lists, and nothing else.
    #[arg(long, global = true)]
    pub json: bool,
    /// How long to wait for an answer.
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// What to do.
    #[command(subcommand)]
    pub command: AdminCommand,
}

/// What `outrelay admin` can do. ACTOR is an id, a kind, or kind:name, as `tree` shows them.
#[derive(Debug, Clone, Subcommand)]
pub enum AdminCommand {
    /// The supervision tree, live.
    Tree,
    /// Connected agents.
    Agents,
    /// Live streams.
    Streams,
    /// Registered services.
    Services,
    /// The rules in force.
    Policy,
    /// One actor in full.
    Inspect {
        /// An id, a kind, or kind:name.
        actor: String,
    },
    /// End an actor where it awaits (needs admin.fault_injection).
    Kill {
        /// An id, a kind, or kind:name.
        actor: String,
    },
    /// Make an actor panic (needs admin.fault_injection).
    Panic {
        /// An id, a kind, or kind:name.
        actor: String,
    },
    /// Take nothing new, let live streams end or go elsewhere, then stop the relay.
    Drain {
        /// Where agents are to go, in order of preference [default: drain.successors of the configuration]
        #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = HostPort::reachable)]
        to: Vec<HostPort>,
    },
    /// Make an actor hang (needs admin.fault_injection).
    Hang {
        /// An id, a kind, or kind:name.
        actor: String,
    },
}

impl AdminCommand {
    fn request(&self) -> Request {
        match self.clone() {
            Self::Tree => Request::Tree,
            Self::Agents => Request::Agents,
            Self::Streams => Request::Streams,
            Self::Services => Request::Services,
            Self::Policy => Request::Policy,
            Self::Inspect { actor } => Request::Inspect { actor },
            Self::Kill { actor } => Request::Kill { actor },
            Self::Panic { actor } => Request::Panic { actor },
            Self::Hang { actor } => Request::Hang { actor },
            Self::Drain { to } => Request::Drain { to },
        }
    }
}

/// Asks the relay and prints what it answers.
///
/// # Errors
/// When the relay cannot be reached, does not answer, or refuses.
pub async fn run(args: AdminArgs) -> Result<ExitCode> {
    let mut client = Client::connect(&args.socket, args.timeout).await?;
    let request = args.command.request();
    let output = if args.json { as_json(&mut client, &request).await? } else { as_text(&mut client, &request).await? };
    draw::print(&output)?;
    Ok(ExitCode::SUCCESS)
}

async fn as_text(client: &mut Client, request: &Request) -> Result<String> {
    let (now_ms, style) = (unix_ms(SystemTime::now()), Style::of_stdout());
    Ok(match request {
        Request::Tree => draw::tree(&client.data::<Report>(request).await?, now_ms, style),
        Request::Inspect { .. } => draw::inspect(&client.data::<Inspection>(request).await?, now_ms, style),
        Request::Agents => draw::agents(&client.data::<Vec<AgentRow>>(request).await?, now_ms, style),
        Request::Streams => match client.data(request).await? {
            StreamRows::Relay(rows) => draw::streams(&rows, now_ms, style),
            StreamRows::Agent(rows) => draw::agent_streams(&rows, now_ms, style),
        },
        Request::Services => draw::services(&client.data::<Vec<ServiceRow>>(request).await?, style),
        Request::Policy => draw::policy(&client.data::<PolicyReport>(request).await?, now_ms, style),
        Request::Kill { .. } => struck("killed", client, request).await?,
        Request::Panic { .. } => struck("made to panic:", client, request).await?,
        Request::Hang { .. } => struck("made to hang:", client, request).await?,
        Request::Drain { .. } => format!("draining: {} live streams", client.data::<Draining>(request).await?.streams),
    })
}

async fn struck(what: &str, client: &mut Client, request: &Request) -> Result<String> {
    let Struck { id, actor } = client.data(request).await?;
    Ok(format!("{what} {} (id {id})", draw::text::shown(&actor)))
}

// Read into types and written again: what is printed has the documented fields, whoever answered.
async fn as_json(client: &mut Client, request: &Request) -> Result<String> {
    match request {
        Request::Tree => object::<Report>(client, request).await,
        Request::Inspect { .. } => object::<Inspection>(client, request).await,
        Request::Policy => object::<PolicyReport>(client, request).await,
        Request::Kill { .. } | Request::Panic { .. } | Request::Hang { .. } => object::<Struck>(client, request).await,
        Request::Drain { .. } => object::<Draining>(client, request).await,
        Request::Agents => lines(&client.data::<Vec<AgentRow>>(request).await?),
        Request::Streams => match client.data(request).await? {
            StreamRows::Relay(rows) => lines(&rows),
            StreamRows::Agent(rows) => lines(&rows),
        },
        Request::Services => lines(&client.data::<Vec<ServiceRow>>(request).await?),
    }
}

async fn object<T: DeserializeOwned + Serialize>(client: &mut Client, request: &Request) -> Result<String> {
    Ok(serde_json::to_string(&client.data::<T>(request).await?)?)
}

fn lines(rows: &[impl Serialize]) -> Result<String> {
    let lines = rows.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: AdminArgs,
    }

    #[test]
    fn flags_may_stand_before_and_behind_the_command() {
        for line in ["admin --socket a.sock --json kill splice:42", "admin kill splice:42 --json --socket a.sock"] {
            let args = Line::try_parse_from(line.split(' ')).unwrap().args;
            assert_eq!((args.socket, args.json), ("a.sock".into(), true));
            assert_eq!(args.command.request(), Request::Kill { actor: "splice:42".into() });
        }
    }

    #[test]
    fn the_socket_has_a_default() {
        let args = Line::try_parse_from(["admin", "tree"]).unwrap().args;
        assert_eq!(args.socket, PathBuf::from("/run/outrelay/admin.sock"));
    }
}
