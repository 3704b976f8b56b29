//! What is known of one stream: for the tree, the admin socket, and the line in the log at its end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use crate::core::identity::RelayUri;
use crate::core::ids::{Capabilities, StreamId};
use crate::net::pump::PumpCount;
use crate::proto::orp;

/// Which end of the stream this agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It opened the stream for a local client.
    Consumer,
    /// It serves the stream with a local service.
    Provider,
}

/// See the module's documentation. Readable while the stream's actor hangs.
#[derive(Debug)]
pub struct Facts {
    /// Which end of the stream this agent is.
    pub role: Role,
    /// When the local client connected, or the relay opened the stream.
    pub since: Instant,
    /// Bytes from the local socket to the relay.
    pub to_relay: Arc<PumpCount>,
    /// Bytes from the relay to the local socket.
    pub from_relay: Arc<PumpCount>,
    learnt: Mutex<Learnt>,
}

#[derive(Debug, Clone, Default, Serialize)]
struct Learnt {
    id: u64,
    service: String,
    method: String,
    consumer: Option<String>,
    relay: Option<String>,
    peer_features: Vec<String>,
    opens: u32,
}

impl Facts {
    /// A stream that begins now, of `service` where that is known.
    #[must_use]
    pub fn new(role: Role, service: &str, method: &str) -> Arc<Self> {
        let learnt = Learnt { service: service.to_owned(), method: method.to_owned(), ..Learnt::default() };
        Arc::new(Self {
            role,
            since: Instant::now(),
            to_relay: Arc::default(),
            from_relay: Arc::default(),
            learnt: Mutex::new(learnt),
        })
    }

    /// OPEN_STREAM is sent, with this id.
    pub fn opening(&self, id: StreamId, relay: &RelayUri) {
        let mut learnt = self.lock();
        learnt.id = id.0;
        learnt.relay = Some(relay.to_string());
        learnt.opens += 1;
    }

    /// STREAM_READY came, with what the other end named.
    pub fn peer_named(&self, peer: Capabilities) {
        self.lock().peer_features = peer.names();
    }

    /// INCOMING_STREAM came.
    pub fn asked(&self, incoming: &orp::IncomingStream, relay: &RelayUri) {
        let mut learnt = self.lock();
        learnt.id = incoming.stream_id;
        learnt.service.clone_from(&incoming.target_service);
        learnt.method.clone_from(&incoming.method);
        learnt.consumer = Some(incoming.source_agent_uri.clone());
        learnt.relay = Some(relay.to_string());
    }

    /// The stream's id as it was sent; 0 before.
    #[must_use]
    pub fn id(&self) -> StreamId {
        StreamId(self.lock().id)
    }

    /// The service's name; empty before a provider was told.
    #[must_use]
    pub fn service(&self) -> String {
        self.lock().service.clone()
    }

    /// Everything, for the tree.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let learnt = self.lock().clone();
        serde_json::json!({
            "role": self.role,
            "stream": learnt,
            "bytes_to_relay": self.to_relay.bytes(),
            "bytes_from_relay": self.from_relay.bytes(),
            "age_ms": u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
