//! What is known of one stream: for the tree, the admin socket, and the line in the log at its end.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::carrying::{Carried, Shown};
use crate::clock::unix_ms;
use crate::core::identity::RelayUri;
use crate::core::ids::{Capabilities, StreamId};
use crate::proto::orp;

/// Which end of the stream this agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It opened the stream for a local client.
    Consumer,
    /// It serves the stream with a local service.
    Provider,
}

impl Role {
    /// Either end.
    pub const BOTH: [Self; 2] = [Self::Consumer, Self::Provider];

    /// `consumer` or `provider`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Provider => "provider",
        }
    }
}

/// See the module's documentation. Readable while the stream's actor hangs.
#[derive(Debug)]
pub struct Facts {
    /// Which end of the stream this agent is.
    pub role: Role,
    /// When the local client connected, or the relay opened the stream.
    pub since: Instant,
    /// Once it is open. Weak: what describes a stream must not keep its path.
    carried: OnceLock<Weak<Carried>>,
    learnt: Mutex<Learnt>,
}

#[derive(Debug, Clone, Default, Serialize)]
struct Learnt {
    id: StreamId,
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
        Arc::new(Self { role, since: Instant::now(), carried: OnceLock::new(), learnt: Mutex::new(learnt) })
    }

    /// OPEN_STREAM is sent, with this id.
    pub fn opening(&self, id: StreamId, relay: &RelayUri) {
        let mut learnt = self.lock();
        learnt.id = id;
        learnt.relay = Some(relay.to_string());
        learnt.opens += 1;
    }

    /// It is open, and carries bytes.
    pub fn carries(&self, carried: &Arc<Carried>) {
        self.carried.get_or_init(|| Arc::downgrade(carried));
    }

    fn shown(&self) -> Option<Shown> {
        Some(self.carried.get()?.upgrade()?.shown())
    }

    /// STREAM_READY came, with what the other end named.
    pub fn peer_named(&self, peer: Capabilities) {
        self.lock().peer_features = peer.names();
    }

    /// INCOMING_STREAM came.
    pub fn asked(&self, incoming: &orp::IncomingStream, relay: &RelayUri) {
        let mut learnt = self.lock();
        learnt.id = StreamId(incoming.stream_id);
        learnt.service.clone_from(&incoming.target_service);
        learnt.method.clone_from(&incoming.method);
        learnt.consumer = Some(incoming.source_agent_uri.clone());
        learnt.relay = Some(relay.to_string());
    }

    /// The stream's id as it was sent; 0 before.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.lock().id
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
        let shown = self.shown();
        let bytes = |of: fn(&Shown) -> u64| shown.as_ref().map_or(0, of);
        serde_json::json!({
            "role": self.role,
            "stream": learnt,
            "bytes_to_relay": bytes(|shown| shown.written),
            "bytes_from_relay": bytes(|shown| shown.consumed),
            "carried": shown,
            "opened_at": unix_ms(SystemTime::now() - self.since.elapsed()),
            "age_ms": u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
