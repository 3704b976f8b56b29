//! The QUIC listener: takes connection attempts off the endpoint.
//!
//! | | |
//! |---|---|
//! | Owns | the task that accepts |
//! | Receives | the end of that task |
//! | Sends | `Start` to the connections' supervisor, for each established connection |
//! | Restart | permanent, over the same socket |
//! | Lost on crash | nothing: attempts wait in the endpoint, TLS handshakes go on in the vault |

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::connections::ConnectionsHandle;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};
use crate::vault::Vault;
use crate::vault::arrivals::Arrivals;

/// Messages of the QUIC listener.
#[derive(Debug)]
pub enum QuicListenerMsg {
    /// The accepting task ended: the endpoint is closed, or it panicked.
    AcceptEnded(Result<(), Panicked>),
}

/// What the QUIC listener is started with.
#[derive(Debug)]
pub struct QuicListenerArgs {
    /// Its own address.
    pub slot: Slot<QuicListenerMsg>,
    /// Where the endpoint is.
    pub vault: Arc<Vault>,
    /// Who starts the actor of an established connection.
    pub connections: ConnectionsHandle,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct QuicListener;

impl Actor for QuicListener {
    type Msg = QuicListenerMsg;
    type State = Owned;
    type Arguments = QuicListenerArgs;

    async fn pre_start(
        &self,
        _myself: ActorRef<QuicListenerMsg>,
        args: QuicListenerArgs,
    ) -> Result<Owned, ActorProcessingErr> {
        let vault = Arc::clone(&args.vault);
        args.slot.node().describe(move || {
            let addr = vault.endpoint.local_addr().map(|addr| addr.to_string()).ok();
            serde_json::json!({ "listen": addr, "handshakes": vault.arrivals.in_progress() })
        });
        let accept = accept(args.vault, args.connections);
        Ok(task::owned(&args.slot, accept, QuicListenerMsg::AcceptEnded))
    }

    async fn handle(
        &self,
        myself: ActorRef<QuicListenerMsg>,
        QuicListenerMsg::AcceptEnded(end): QuicListenerMsg,
        _accept: &mut Owned,
    ) -> Result<(), ActorProcessingErr> {
        end?;
        myself.stop(Some("the endpoint is closed".to_owned()));
        Ok(())
    }
}

async fn accept(vault: Arc<Vault>, connections: ConnectionsHandle) {
    while let Some(incoming) = vault.endpoint.accept().await {
        let connections = connections.clone();
        Arrivals::begin(&vault, incoming, move |connection| connections.start(&connection));
    }
}
