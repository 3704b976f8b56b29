//! The registry: which agent connection serves which service.
//!
//! | | |
//! |---|---|
//! | Owns | the index (tenant, service) → connections, built from the vault's connections |
//! | Receives | register and deregister from control, resolve from handshakes, `ConnectionEnded` |
//! | Sends | nothing |
//! | Restart | permanent; the index is rebuilt |
//! | Lost on crash | nothing: registrations are kept with their connections in the vault |

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

use crate::core::identity::Tenant;
use crate::core::ids::ServiceName;
use crate::core::reject::{Reject, RejectCode};
use crate::metrics::Limit;
use crate::supervise::slot::{CallError, Slot};
use crate::vault::Vault;
use crate::vault::connections::{AgentConnection, Registration};

/// Messages of the registry.
#[derive(Debug)]
pub enum RegistryMsg {
    /// Record that `connection` serves `service`; again makes it the most recent.
    Register {
        /// Whose service it is.
        connection: Arc<AgentConnection>,
        /// Its name.
        service: ServiceName,
        /// What the agent says it dials.
        local_addr: String,
        /// The service id, or why not.
        reply: RpcReplyPort<Result<String, Reject>>,
    },
    /// Forget that `connection` serves `service`. Fine if it did not.
    Deregister {
        /// Whose service it is.
        connection: Arc<AgentConnection>,
        /// Its name.
        service: ServiceName,
        /// When it is done.
        reply: RpcReplyPort<()>,
    },
    /// Who serves `service`, the most recently registered first.
    Resolve {
        /// The caller's tenant.
        tenant: Tenant,
        /// The service.
        service: ServiceName,
        /// The providers; none is an empty list.
        reply: RpcReplyPort<Vec<Arc<AgentConnection>>>,
    },
    /// That connection ended, and was removed from the vault before this was sent.
    ConnectionEnded(Arc<AgentConnection>),
}

/// The only caller of the registry.
#[derive(Debug, Clone)]
pub struct RegistryHandle {
    slot: Slot<RegistryMsg>,
    timeout: Duration,
    overdue: Counter,
}

impl RegistryHandle {
    /// An address for a registry that is not started yet; its calls wait for `timeout`, restarts included. Those in vain are counted
    /// in `overdue`.
    #[must_use]
    pub fn new(timeout: Duration, overdue: Counter) -> Self {
        Self { slot: Slot::new("registry", ""), timeout, overdue }
    }

    /// The registry's address.
    #[must_use]
    pub fn slot(&self) -> &Slot<RegistryMsg> {
        &self.slot
    }

    /// Records a service; the service id, or why not.
    ///
    /// # Errors
    /// When the registry does not answer in time.
    pub async fn register(
        &self,
        connection: &Arc<AgentConnection>,
        service: &ServiceName,
        local_addr: &str,
    ) -> Result<Result<String, Reject>, CallError> {
        let ask = |reply| RegistryMsg::Register {
            connection: Arc::clone(connection),
            service: service.clone(),
            local_addr: local_addr.to_owned(),
            reply,
        };
        self.call(ask).await
    }

    /// Forgets a service.
    ///
    /// # Errors
    /// When the registry does not answer in time.
    pub async fn deregister(&self, connection: &Arc<AgentConnection>, service: &ServiceName) -> Result<(), CallError> {
        let ask =
            |reply| RegistryMsg::Deregister { connection: Arc::clone(connection), service: service.clone(), reply };
        self.call(ask).await
    }

    /// Who serves `service` in `tenant`, the most recently registered first.
    ///
    /// # Errors
    /// When the registry does not answer in time.
    pub async fn resolve(
        &self,
        tenant: &Tenant,
        service: &ServiceName,
    ) -> Result<Vec<Arc<AgentConnection>>, CallError> {
        let ask = |reply| RegistryMsg::Resolve { tenant: tenant.clone(), service: service.clone(), reply };
        self.call(ask).await
    }

    async fn call<T: Send + 'static>(&self, ask: impl Fn(RpcReplyPort<T>) -> RegistryMsg) -> Result<T, CallError> {
        let answer = self.slot.call(ask, self.timeout).await;
        if matches!(answer, Err(CallError::TimedOut)) {
            self.overdue.inc();
        }
        answer
    }

    /// That connection ended. A registry between two lives rebuilds itself without it.
    pub fn connection_ended(&self, connection: &Arc<AgentConnection>) {
        self.slot.tell(RegistryMsg::ConnectionEnded(Arc::clone(connection)));
    }
}

/// What the registry is started with.
#[derive(Debug)]
pub struct RegistryArgs {
    /// Its own address.
    pub handle: RegistryHandle,
    /// Where connections and their registrations are.
    pub vault: Arc<Vault>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Registry;

/// Providers of one service by order of registration: the last is the most recent.
type Providers = BTreeMap<u64, Arc<AgentConnection>>;

/// The registry's index.
#[derive(Debug)]
pub struct RegistryState {
    vault: Arc<Vault>,
    services: HashMap<(Tenant, ServiceName), Providers>,
}

impl Actor for Registry {
    type Msg = RegistryMsg;
    type State = RegistryState;
    type Arguments = RegistryArgs;

    async fn pre_start(
        &self,
        _myself: ActorRef<RegistryMsg>,
        args: RegistryArgs,
    ) -> Result<RegistryState, ActorProcessingErr> {
        let vault = Arc::clone(&args.vault);
        args.handle.slot().node().describe(move || {
            let connections = vault.connections.all();
            let services: usize = connections.iter().map(|connection| connection.services().len()).sum();
            serde_json::json!({ "connections": connections.len(), "services": services })
        });
        Ok(RegistryState::rebuilt(args.vault))
    }

    async fn handle(
        &self,
        _myself: ActorRef<RegistryMsg>,
        message: RegistryMsg,
        state: &mut RegistryState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RegistryMsg::Register { connection, service, local_addr, reply } => {
                answer(reply, state.on_register(&connection, service, local_addr));
            }
            RegistryMsg::Deregister { connection, service, reply } => {
                state.on_deregister(&connection, &service);
                answer(reply, ());
            }
            RegistryMsg::Resolve { tenant, service, reply } => answer(reply, state.on_resolve(tenant, service)),
            RegistryMsg::ConnectionEnded(connection) => state.on_connection_ended(&connection),
        }
        Ok(())
    }
}

impl RegistryState {
    fn rebuilt(vault: Arc<Vault>) -> Self {
        let mut state = Self { vault, services: HashMap::new() };
        for connection in state.vault.connections.all() {
            for (service, registration) in connection.services() {
                state.index(&connection, service, registration.order);
            }
        }
        state
    }

    fn on_register(
        &mut self,
        connection: &Arc<AgentConnection>,
        service: ServiceName,
        local_addr: String,
    ) -> Result<String, Reject> {
        // It may have ended while this message waited; then nobody would remove what is added now.
        if !self.vault.connections.contains(connection.generation) {
            return Err(Reject { code: RejectCode::Gone, reason: "the connection has ended".to_owned() });
        }
        if let Some(earlier) = connection.registration_order(&service) {
            self.unindex(connection, &service, earlier);
        }
        let order = self.vault.connections.next_registration();
        let limit = self.vault.config.now().limits.services_per_agent;
        if !connection.register(service.clone(), Registration { order, local_addr }, limit) {
            self.vault.metrics.limit_hit(Limit::ServicesPerAgent);
            let reason = format!("at most {limit} services for one agent");
            return Err(Reject { code: RejectCode::Limit, reason });
        }
        let service_id = format!("{}/{service}", connection.agent.tenant());
        self.index(connection, service, order);
        Ok(service_id)
    }

    fn on_deregister(&mut self, connection: &Arc<AgentConnection>, service: &ServiceName) {
        if let Some(earlier) = connection.registration_order(service) {
            self.unindex(connection, service, earlier);
        }
        connection.deregister(service);
    }

    fn on_resolve(&self, tenant: Tenant, service: ServiceName) -> Vec<Arc<AgentConnection>> {
        let providers = self.services.get(&(tenant, service));
        providers.map(|providers| providers.values().rev().cloned().collect()).unwrap_or_default()
    }

    fn on_connection_ended(&mut self, connection: &AgentConnection) {
        for (service, registration) in connection.services() {
            self.unindex(connection, &service, registration.order);
        }
    }

    fn index(&mut self, connection: &Arc<AgentConnection>, service: ServiceName, order: u64) {
        let key = (connection.agent.tenant().clone(), service);
        self.services.entry(key).or_default().insert(order, Arc::clone(connection));
    }

    fn unindex(&mut self, connection: &AgentConnection, service: &ServiceName, order: u64) {
        let key = (connection.agent.tenant().clone(), service.clone());
        if let Some(providers) = self.services.get_mut(&key) {
            providers.remove(&order);
            if providers.is_empty() {
                self.services.remove(&key);
            }
        }
    }
}

/// A caller that no longer waits is no failure of the registry.
fn answer<T>(reply: RpcReplyPort<T>, value: T) {
    if reply.send(value).is_err() {
        tracing::trace!("the caller no longer waits");
    }
}
