//! The admin actor: serves the admin socket.
//!
//! | | |
//! |---|---|
//! | Owns | the task that serves the socket, and through it its clients |
//! | Receives | the end of that task |
//! | Sends | nothing: it reads the tree, which waits for nobody |
//! | Restart | permanent; it binds the socket again |
//! | Lost on crash | the commands in progress; clients connect again |

use std::convert::Infallible;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::Deserialize;
use serde_json::json;

use super::stream_facts::Role;
use super::vault::AgentVault;
use crate::admin::protocol::{AgentStreamRow, Reply, Request};
use crate::admin::{actors, server};
use crate::core::ids::StreamId;
use crate::supervise::node::Node;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};

/// Messages of the admin actor.
#[derive(Debug)]
pub enum AdminMsg {
    /// The serving task ended, which it does only by a panic.
    ServerEnded(Result<Infallible, Panicked>),
}

/// What the admin actor is started with.
#[derive(Debug, Clone)]
pub struct AdminArgs {
    /// Its own address.
    pub slot: Slot<AdminMsg>,
    /// The configuration.
    pub vault: Arc<AgentVault>,
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
        let Some(path) = args.vault.config.admin.socket.clone() else { return Ok(None) };
        let socket = server::bind_for(args.slot.node(), &path)?;
        let shown = path.display().to_string();
        args.slot.node().describe(move || json!({ "socket": shown }));
        let slot = args.slot.clone();
        let serve = server::serve(path, socket, move |request| {
            let args = args.clone();
            async move { answer(&args, request).await }
        });
        Ok(Some(task::owned(&slot, serve, AdminMsg::ServerEnded)))
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

async fn answer(args: &AdminArgs, request: Request) -> Reply {
    match actors::answer(&args.root, args.vault.config.admin.fault_injection.into(), request).await {
        Ok(reply) => reply,
        Err(Request::Streams) => Reply::done(&streams(&args.root)),
        Err(_) => Reply::Refused("this is an agent; a relay knows that".to_owned()),
    }
}

/// What a stream's actor says of itself, as far as it is in the stream's row.
#[derive(Debug, Deserialize)]
struct Detail {
    role: Role,
    stream: Asked,
    carried: Option<Carried>,
    opened_at: u64,
    bytes_to_relay: u64,
    bytes_from_relay: u64,
}

#[derive(Debug, Deserialize)]
struct Asked {
    id: StreamId,
    service: String,
    method: String,
    consumer: Option<String>,
    relay: Option<String>,
}

/// Once it is open.
#[derive(Debug, Deserialize)]
struct Carried {
    relay: String,
    phase: String,
    resumable: bool,
    resumed: u64,
}

fn streams(root: &Arc<Node>) -> Vec<AgentStreamRow> {
    let Some(streams) = root.children().into_iter().find(|node| node.kind() == "streams") else { return Vec::new() };
    streams.children().iter().filter_map(row).collect()
}

fn row(stream: &Arc<Node>) -> Option<AgentStreamRow> {
    let detail: Detail = serde_json::from_value(stream.detail()).ok()?;
    let carried = detail.carried.as_ref();
    Some(AgentStreamRow {
        id: detail.stream.id,
        actor: stream.id(),
        role: detail.role,
        service: detail.stream.service,
        method: detail.stream.method,
        consumer: detail.stream.consumer,
        phase: carried.map_or_else(|| "opening".to_owned(), |carried| carried.phase.clone()),
        resumable: carried.is_some_and(|carried| carried.resumable),
        resumed: carried.map_or(0, |carried| carried.resumed),
        relay: detail.carried.map(|carried| carried.relay).or(detail.stream.relay),
        opened_at: detail.opened_at,
        bytes_to_relay: detail.bytes_to_relay,
        bytes_from_relay: detail.bytes_from_relay,
    })
}
