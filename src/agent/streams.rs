//! The supervisor of all streams, of either side: pure, no logic. Killing it cuts every stream, with a reset.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::carrying::keeping::OnSession;
use super::vault::session::Session;
use super::vault::{AgentVault, Offer};
use crate::net::local_tcp::split;
use crate::net::stream::BiStream;
use crate::net::stream_limit::StreamUse;
use crate::supervise::dynamic::DynamicHandle;
use crate::supervise::slot::Slot;
use crate::supervise::spec::ChildSpec;

pub mod stream;

use stream::{Origin, Stream, StreamArgs};

/// A stream stops by dropping its halves; this only bounds a mistake.
const STREAM_SHUTDOWN: Duration = Duration::from_millis(500);

/// The only caller of the supervisor of streams.
#[derive(Debug, Clone)]
pub struct StreamsHandle(DynamicHandle);

impl Default for StreamsHandle {
    fn default() -> Self {
        Self(DynamicHandle::new("streams", ""))
    }
}

impl StreamsHandle {
    /// The supervisor's handle.
    #[must_use]
    pub fn supervisor(&self) -> &DynamicHandle {
        &self.0
    }

    /// A local client has connected to `offer`.
    pub fn consume(&self, vault: &Arc<AgentVault>, offer: &Arc<Offer>, local: TcpStream, place: OwnedSemaphorePermit) {
        // Split at once: from here on, a socket that is dropped is reset.
        let (source, sink) = split(local);
        self.start(vault, Origin::Local { offer: Arc::clone(offer), source, sink }, place);
    }

    /// The relay has opened `stream`.
    pub fn provide(
        &self,
        vault: &Arc<AgentVault>,
        session: &Arc<Session>,
        stream: BiStream,
        stream_use: StreamUse,
        place: OwnedSemaphorePermit,
    ) {
        self.start(vault, Origin::Relay { on: OnSession::new(Arc::clone(session), Some(stream_use)), stream }, place);
    }

    fn start(&self, vault: &Arc<AgentVault>, origin: Origin, place: OwnedSemaphorePermit) {
        let slot = Slot::new("stream", vault.next_stream().to_string());
        let args = StreamArgs { slot: slot.clone(), vault: Arc::clone(vault), origin, place };
        if self.0.start(ChildSpec::once(&slot, STREAM_SHUTDOWN, Stream, args)).is_err() {
            tracing::warn!("the supervisor of streams is between two lives: connection is reset");
        }
    }
}
