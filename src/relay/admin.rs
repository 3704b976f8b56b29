//! The admin actor: serves the admin socket.
//!
//! | | |
//! |---|---|
//! | Owns | the task that serves the socket, and through it its clients |
//! | Receives | the end of that task |
//! | Sends | nothing: it reads the tree and the vault, which wait for nobody |
//! | Restart | permanent; it binds the socket again |
//! | Lost on crash | the commands in progress; clients connect again |

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::json;

use crate::admin::protocol::{AgentRow, Draining, PolicyReport, Reply, Request, RuleRow, ServiceRow, StreamRow};
use crate::admin::{actors, server};
use crate::clock::unix_ms;
use crate::config::types::{HostPort, UNREACHABLE};
use crate::core::ids::{ServiceName, StreamId};
use crate::supervise::node::Node;
use crate::supervise::recorder;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};
use crate::vault::Vault;
use crate::vault::connections::{AgentConnection, Registration};

/// Messages of the admin actor.
#[derive(Debug)]
pub enum AdminMsg {
    /// The serving task ended, which it does only by a panic.
    ServerEnded(Result<Infallible, Panicked>),
}

/// What the admin actor is started with.
#[derive(Debug)]
pub struct AdminArgs {
    /// Its own address.
    pub slot: Slot<AdminMsg>,
    /// What it reads.
    pub vault: Arc<Vault>,
    /// The tree that it shows.
    pub root: Arc<Node>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Admin;

impl Actor for Admin {
    type Msg = AdminMsg;
    type State = Option<Owned>;
    type Arguments = AdminArgs;

    async fn pre_start(
        &self,
        _myself: ActorRef<AdminMsg>,
        args: AdminArgs,
    ) -> Result<Option<Owned>, ActorProcessingErr> {
        let Some(path) = args.vault.config.now().admin.socket.clone() else { return Ok(None) };
        let socket = server::bind_for(args.slot.node(), &path)?;
        let shown = path.display().to_string();
        args.slot.node().describe(move || json!({ "socket": shown }));
        let (vault, root) = (args.vault, args.root);
        let serve = server::serve(path, socket, move |request| {
            let (vault, root) = (Arc::clone(&vault), Arc::clone(&root));
            async move { answer(&vault, &root, request).await }
        });
        Ok(Some(task::owned(&args.slot, serve, AdminMsg::ServerEnded)))
    }

    async fn handle(
        &self,
        _myself: ActorRef<AdminMsg>,
        AdminMsg::ServerEnded(end): AdminMsg,
        _server: &mut Option<Owned>,
    ) -> Result<(), ActorProcessingErr> {
        match end? {}
    }
}

async fn answer(vault: &Vault, root: &Arc<Node>, request: Request) -> Reply {
    let faults = vault.config.now().admin.fault_injection.into();
    let about = if let Request::Inspect { actor } = &request { actor.clone() } else { String::new() };
    let request = match actors::answer(root, faults, request).await {
        Ok(Reply::Refused(why)) => return Reply::Refused(format!("{why}{}", of_gone_stream(vault, &about))),
        Ok(reply) => return reply,
        Err(request) => request,
    };
    match request {
        Request::Agents => Reply::done(&agents(vault, root)),
        Request::Streams => Reply::done(&streams(root)),
        Request::Services => Reply::done(&services(vault)),
        Request::Policy => Reply::done(&policy(vault)),
        Request::Drain { to } => drain(vault, &to),
        other => Reply::Refused(format!("a relay does not answer {other:?}")),
    }
}

/// Begins to drain. A second time changes nothing: agents have been told where to go, so another `to` is refused.
fn drain(vault: &Vault, to: &[HostPort]) -> Reply {
    if let Some(unreachable) = to.iter().find(|to| to.port() == 0) {
        return Reply::Refused(format!("{unreachable}: {UNREACHABLE}"));
    }
    tracing::info!("drain asked for by an operator");
    let configured = vault.config.get();
    vault.begin_drain(if to.is_empty() { &configured.drain.successors } else { to });
    let successors = vault.drain.successors().unwrap_or_default();
    if !to.is_empty() && successors != to {
        let listed = successors.iter().map(HostPort::as_str).collect::<Vec<_>>().join(", ");
        let they =
            if listed.is_empty() { "it has no successors".to_owned() } else { format!("its successors are {listed}") };
        return Reply::Refused(format!("it drains already, {they}: --to is not applied"));
    }
    Reply::done(&Draining { streams: vault.traffic.streams() as u64 })
}

/// What is still known of a stream whose actor is gone; nothing when `selector` names something else.
fn of_gone_stream(vault: &Vault, selector: &str) -> String {
    let id = selector.split_once(':').filter(|(kind, _)| *kind == "splice").and_then(|(_, id)| id.parse().ok());
    let events = id.map(|id| vault.flights.of_any_tenant(StreamId(id))).unwrap_or_default();
    if events.is_empty() { String::new() } else { format!("\nit carried: {}", recorder::in_a_line(&events)) }
}

fn agents(vault: &Vault, root: &Arc<Node>) -> Vec<AgentRow> {
    let mut streams_of = HashMap::<String, u64>::new();
    for stream in streams(root) {
        *streams_of.entry(stream.consumer).or_default() += 1;
        *streams_of.entry(stream.provider).or_default() += 1;
    }
    let connections = vault.connections.all();
    let row = |connection: &Arc<AgentConnection>| AgentRow {
        uri: connection.agent.to_string(),
        generation: connection.generation.0,
        remote: connection.remote_addr().to_string(),
        carrier: "quic".to_owned(),
        connected_at: unix_ms(connection.since),
        capabilities: connection.accepted().unwrap_or_default().names(),
        services: connection.services().keys().map(ToString::to_string).collect(),
        streams: streams_of.get(connection.agent.as_str()).copied().unwrap_or_default(),
    };
    connections.iter().map(row).collect()
}

/// A splice says of itself what its row holds.
fn streams(root: &Arc<Node>) -> Vec<StreamRow> {
    let Some(splices) = root.children().into_iter().find(|node| node.kind() == "splices") else { return Vec::new() };
    splices.children().iter().filter_map(|splice| serde_json::from_value(splice.detail()).ok()).collect()
}

/// The most recent first: the order in which providers are tried.
fn services(vault: &Vault) -> Vec<ServiceRow> {
    let connections = vault.connections.all();
    let mut rows: Vec<_> = connections
        .iter()
        .flat_map(|connection| connection.services().into_iter().map(move |(name, it)| (connection, name, it)))
        .collect();
    rows.sort_by_key(|(_, _, registration)| std::cmp::Reverse(registration.order));
    let row = |(connection, name, registration): (&Arc<AgentConnection>, ServiceName, Registration)| ServiceRow {
        tenant: connection.agent.tenant().to_string(),
        name: name.to_string(),
        agent: connection.agent.to_string(),
        generation: connection.generation.0,
        local_addr: registration.local_addr,
    };
    rows.into_iter().map(row).collect()
}

fn policy(vault: &Vault) -> PolicyReport {
    let published = vault.policy.current();
    PolicyReport {
        source: vault.config.now().directory.rules.as_ref().map(|file| file.display().to_string()),
        loaded_at: published.at.map_or(0, unix_ms),
        rules: published.snapshot.rules().iter().map(RuleRow::from).collect(),
        warnings: published.warnings.clone(),
    }
}
