//! The supervisor of connections: pure, no logic. A new incarnation starts every connection's actor again, in place,
//! from the vault.

use std::sync::Arc;
use std::time::Duration;

use crate::core::reject::ResetCode;
use crate::relay::registry::RegistryHandle;
use crate::relay::resume::ResumeHandle;
use crate::relay::splices::SplicesHandle;
use crate::supervise::dynamic::{Dynamic, DynamicArgs, DynamicHandle};
use crate::supervise::slot::Slot;
use crate::supervise::spec::{ChildSpec, Exit, Restart};
use crate::vault::Vault;
use crate::vault::connections::AgentConnection;

pub mod connection;

use connection::{Connection, ConnectionArgs};

/// A connection stops its own children first, each bounded by [`connection::CHILD_SHUTDOWN`].
const CONNECTION_SHUTDOWN: Duration = Duration::from_secs(2);

/// The only caller of the supervisor of connections; makes the actors of connections.
#[derive(Debug, Clone)]
pub struct ConnectionsHandle {
    supervisor: DynamicHandle,
    vault: Arc<Vault>,
    registry: RegistryHandle,
    splices: SplicesHandle,
    resume: ResumeHandle,
}

impl ConnectionsHandle {
    /// An address for a supervisor that is not started yet.
    #[must_use]
    pub fn new(vault: Arc<Vault>, registry: RegistryHandle, splices: SplicesHandle, resume: ResumeHandle) -> Self {
        Self { supervisor: DynamicHandle::new("connections", ""), vault, registry, splices, resume }
    }

    /// The supervisor's handle.
    #[must_use]
    pub fn supervisor(&self) -> &DynamicHandle {
        &self.supervisor
    }

    /// The supervisor, with an actor for every connection that is established.
    #[must_use]
    pub fn make(&self) -> (Dynamic, DynamicArgs) {
        let this = self.clone();
        let revive = move || this.vault.connections.all().iter().map(|connection| this.spec(connection)).collect();
        (Dynamic, DynamicArgs { handle: self.supervisor.clone(), revive: Box::new(revive) })
    }

    /// Starts the actor of a connection that is in the vault.
    pub fn start(&self, connection: &Arc<AgentConnection>) {
        // A supervisor between two lives finds the connection in the vault when it starts.
        if self.supervisor.start(self.spec(connection)).is_err() {
            tracing::debug!(agent = %connection.agent, "connection waits for its supervisor");
        }
    }

    fn spec(&self, connection: &Arc<AgentConnection>) -> ChildSpec {
        let slot = Slot::at(Arc::clone(&connection.node));
        let (this, over, own) = (self.clone(), Arc::clone(connection), slot.clone());
        let spec = ChildSpec::new(&slot, Restart::Transient, CONNECTION_SHUTDOWN, move || {
            let args = ConnectionArgs {
                slot: own.clone(),
                vault: Arc::clone(&this.vault),
                connection: Arc::clone(&over),
                registry: this.registry.clone(),
                splices: this.splices.clone(),
                resume: this.resume.clone(),
            };
            (Connection, args)
        });
        let (this, over) = (self.clone(), Arc::clone(connection));
        spec.on_gone(move |exit| this.ended(&over, exit))
    }

    /// A connection's actor is gone for good, so the connection is.
    fn ended(&self, connection: &Arc<AgentConnection>, exit: &Exit) {
        if !self.vault.connections.remove(connection.generation) {
            return;
        }
        self.vault.metrics.connections_ended.inc();
        self.registry.connection_ended(connection);
        let why = connection.quic.close_reason().map(|reason| reason.to_string());
        if why.is_none() {
            // Streams that are spliced are cut with it.
            connection.close(ResetCode::RESUMABLE, "connection ended by the relay");
        }
        tracing::info!(
            agent = %connection.agent,
            generation = %connection.generation,
            remote = %connection.remote_addr(),
            duration = ?connection.since.elapsed().unwrap_or_default(),
            reason = why,
            actor = %exit,
            "connection ended"
        );
    }
}
