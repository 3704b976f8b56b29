//! The admin actor: serves the admin socket.
//!
//! | | |
//! |---|---|
//! | Owns | the task that serves the socket, and through it its clients |
//! | Receives | the end of that task |
//! | Sends | nothing: it reads the tree, which waits for nobody |
//! | Restart | permanent; it binds the socket again |
//! | Lost on crash | the commands in progress; clients connect again |

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::{Value, json};

use super::vault::AgentVault;
use crate::admin::protocol::{Reply, Request};
use crate::admin::{actors, server};
use crate::supervise::node::Node;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};

/// Messages of the admin actor.
#[derive(Debug)]
pub enum AdminMsg {
    /// The serving task ended, which it does only when the socket is unusable.
    ServerEnded(Result<std::io::Error, Panicked>),
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
        let socket = server::bind(&path)?;
        args.slot.node().describe(move || json!({ "socket": path.display().to_string() }));
        let slot = args.slot.clone();
        let serve = server::serve(socket, move |request| {
            let args = args.clone();
            async move { answer(&args, request).await }
        });
        Ok(Some(task::owned(&slot, serve, AdminMsg::ServerEnded)))
    }

    async fn handle(
        &self,
        _myself: ActorRef<AdminMsg>,
        AdminMsg::ServerEnded(why): AdminMsg,
        _server: &mut Option<Owned>,
    ) -> Result<(), ActorProcessingErr> {
        Err(match why {
            Ok(error) => format!("the admin socket: {error}").into(),
            Err(panicked) => panicked.into(),
        })
    }
}

async fn answer(args: &AdminArgs, request: Request) -> Reply {
    match actors::answer(&args.root, args.vault.config.admin.fault_injection.into(), request).await {
        Ok(reply) => reply,
        Err(Request::Streams) => Reply::Done(streams(&args.root)),
        Err(_) => Reply::Refused("this is an agent; a relay knows that".to_owned()),
    }
}

fn streams(root: &Arc<Node>) -> Value {
    let streams = root.children().into_iter().find(|node| node.kind() == "streams");
    streams.map_or_else(Vec::new, |streams| streams.children()).iter().map(|stream| stream.detail()).collect()
}
