//! A local listener: takes the connections of local clients for one remote service.
//!
//! | | |
//! |---|---|
//! | Owns | the task that accepts |
//! | Receives | the end of that task |
//! | Sends | each connection to the supervisor of streams |
//! | Restart | permanent, over the same socket: it is in the vault |
//! | Lost on crash | nothing: clients wait in the socket's queue |

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::agent::streams::StreamsHandle;
use crate::agent::vault::{AgentVault, Offer};
use crate::net::local_tcp;
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};
use crate::throttle::Throttle;

/// How long a failed accept (no file descriptor is left, say) is not tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// Messages of a listener.
#[derive(Debug)]
pub enum ListenerMsg {
    /// The accepting task ended, which it does only by a panic.
    AcceptEnded(Result<Infallible, Panicked>),
}

/// What a listener is started with.
#[derive(Debug, Clone)]
pub struct ListenerArgs {
    /// Its own address.
    pub slot: Slot<ListenerMsg>,
    /// The streams' places.
    pub vault: Arc<AgentVault>,
    /// The socket, and what it offers.
    pub offer: Arc<Offer>,
    /// Who takes connections over.
    pub streams: StreamsHandle,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Listener;

impl Actor for Listener {
    type Msg = ListenerMsg;
    type State = Owned;
    type Arguments = ListenerArgs;

    async fn pre_start(&self, _myself: ActorRef<ListenerMsg>, args: ListenerArgs) -> Result<Owned, ActorProcessingErr> {
        let offer = Arc::clone(&args.offer);
        args.slot.node().describe(move || {
            serde_json::json!({
                "listen": offer.addr.to_string(),
                "service": offer.consume.name,
                "method": offer.consume.method,
            })
        });
        let slot = args.slot.clone();
        Ok(task::owned(&slot, accept(args), ListenerMsg::AcceptEnded))
    }

    async fn handle(
        &self,
        _myself: ActorRef<ListenerMsg>,
        ListenerMsg::AcceptEnded(end): ListenerMsg,
        _accept: &mut Owned,
    ) -> Result<(), ActorProcessingErr> {
        match end? {}
    }
}

async fn accept(args: ListenerArgs) -> Infallible {
    let failing = Throttle::default();
    loop {
        let local = match args.offer.socket.accept().await {
            Ok((local, _client)) => local,
            Err(error) => {
                if let Some(unsaid) = failing.due() {
                    tracing::warn!(addr = %args.offer.addr, %error, failed_before = unsaid, "cannot accept");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        local_tcp::tune(&local);
        match args.vault.place() {
            Some(place) => args.streams.consume(&args.vault, &args.offer, local, place),
            // Split and dropped: reset, not closed.
            None => drop(local_tcp::split(local)),
        }
    }
}
