//! The QUIC listener: takes connection attempts off the endpoint.
//!
//! | | |
//! |---|---|
//! | Owns | the task that accepts |
//! | Receives | the end of that task |
//! | Sends | `Start` to the connections' supervisor, for each established connection; `Fail` to the root, without a socket |
//! | Restart | permanent, over the same socket |
//! | Lost on crash | nothing: attempts wait in the endpoint, TLS handshakes go on in the vault |

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::connections::ConnectionsHandle;
use crate::supervise::one_for_one::OneForOneMsg;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};
use crate::vault::Vault;
use crate::vault::arrivals::Arrivals;

/// Messages of the QUIC listener.
#[derive(Debug)]
pub enum QuicListenerMsg {
    /// The accepting task ended: the endpoint is gone, or it panicked.
    AcceptEnded(Result<(), Panicked>),
}

/// What the QUIC listener is started with.
#[derive(Debug, Clone)]
pub struct QuicListenerArgs {
    /// Its own address.
    pub slot: Slot<QuicListenerMsg>,
    /// Where the endpoint is.
    pub vault: Arc<Vault>,
    /// Who starts the actor of an established connection.
    pub connections: ConnectionsHandle,
    /// Who fails with the socket.
    pub root: Slot<OneForOneMsg>,
}

/// What a QUIC listener holds while it runs.
#[derive(Debug)]
pub struct QuicListenerState {
    vault: Arc<Vault>,
    root: Slot<OneForOneMsg>,
    _accept: Owned,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct QuicListener;

impl Actor for QuicListener {
    type Msg = QuicListenerMsg;
    type State = QuicListenerState;
    type Arguments = QuicListenerArgs;

    async fn pre_start(
        &self,
        _myself: ActorRef<QuicListenerMsg>,
        args: QuicListenerArgs,
    ) -> Result<QuicListenerState, ActorProcessingErr> {
        let vault = Arc::clone(&args.vault);
        args.slot.node().describe(move || {
            let addr = vault.endpoint.local_addr().map(|addr| addr.to_string()).ok();
            serde_json::json!({ "listen": addr, "handshakes": vault.arrivals.in_progress() })
        });
        let accept = accept(Arc::clone(&args.vault), args.connections);
        let accept = task::owned(&args.slot, accept, QuicListenerMsg::AcceptEnded);
        Ok(QuicListenerState { vault: args.vault, root: args.root, _accept: accept })
    }

    async fn handle(
        &self,
        _myself: ActorRef<QuicListenerMsg>,
        QuicListenerMsg::AcceptEnded(end): QuicListenerMsg,
        state: &mut QuicListenerState,
    ) -> Result<(), ActorProcessingErr> {
        end?;
        // The relay closes its endpoint only when its tree has ended. This is the system's word, and no other socket takes the place of
        // this one: whoever is connected has lost the relay.
        let addr = state.vault.endpoint.local_addr().map_or_else(|_| String::new(), |addr| format!(" {addr}"));
        state.root.tell(OneForOneMsg::Fail(format!("the UDP socket{addr} failed")));
        Ok(())
    }
}

async fn accept(vault: Arc<Vault>, connections: ConnectionsHandle) {
    while let Some(incoming) = vault.endpoint.accept().await {
        let connections = connections.clone();
        Arrivals::begin(&vault, incoming, move |connection| connections.start(&connection));
    }
}
