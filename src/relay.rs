//! The relay: a vault, and a supervision tree over it.
//!
//! [`tree`] is the table of children. Data only goes forward: `quic_listener` → `connection` (HELLO) → `handshake`
//! (policy, registry, the provider's answer) → `splice`; a stream that is resumed: `handshake` → `entry` → `splice`.
//! TLS happens in the [vault](crate::vault::arrivals), so that a listener may die meanwhile.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::now_unix_ms;
use crate::config::Problems;
use crate::config::relay::RelayConfig;
use crate::config::reload::Changes;
use crate::core::identity::RelayUri;
use crate::core::ticket::keys::FleetKeys;
use crate::metrics::{Limit, Metrics};
use crate::net::quic::{self, EndpointSecrets};
use crate::supervise::fault::Fault;
use crate::supervise::node::Node;
use crate::supervise::report::Report;
use crate::supervise::tree::{NotStarted, Tree};
use crate::throttle::Throttle;
use crate::vault::Vault;
use crate::vault::arrivals::Arrivals;
use crate::vault::audit::AuditQueue;
use crate::vault::connections::Connections;
use crate::vault::drain::Drain;
use crate::vault::flights::Flights;
use crate::vault::parking::Parking;
use crate::vault::policy::PolicyStore;
use crate::vault::settings::Settings;
use crate::vault::streams::StreamIndex;
use crate::vault::tickets::Tickets;
use crate::vault::traffic::Traffic;

pub mod admin;
pub mod audit;
pub mod credentials;
pub mod decision;
pub mod fleet_key;
pub mod http;
pub mod ingress;
pub mod policy;
pub mod provider;
pub mod refusal;
pub mod registry;
pub mod resume;
pub mod serve_http;
pub mod splices;
pub mod tickets;
pub mod tree;
pub mod watch_files;

/// How long closed connections get to tell their peers, once the tree has stopped; and how long what waits for the audit gets to be
/// written then.
const IN_ORDER: Farewell = Farewell { peers: Duration::from_secs(1), audit: Duration::from_secs(3) };
/// The same where the relay ends at once.
const AT_ONCE: Farewell = Farewell { peers: Duration::from_millis(250), audit: Duration::from_millis(250) };
/// How long a tree that is killed gets to notice.
const KILLED: Duration = Duration::from_millis(250);
/// How long agents get to hear where to go from a relay whose tree has failed.
const FAILED: Duration = Duration::from_millis(250);
/// How often a drain looks whether halves of streams still wait.
const LOOK: Duration = Duration::from_millis(50);
/// How long streams that are left at a drain's deadline get to end.
const CUT: Duration = Duration::from_millis(500);
/// How long the last words of streams are under way, at least and at most, before connections are closed, too: twice the longest round
/// trip within that.
const LINGER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

#[derive(Debug, Clone, Copy)]
struct Farewell {
    peers: Duration,
    audit: Duration,
}

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Its certificate, key or CA cannot be used.
    #[error("credentials")]
    Credentials(#[from] credentials::CredentialsError),
    /// The fleet's key file cannot be used.
    #[error("fleet key")]
    FleetKey(#[from] fleet_key::FleetKeyError),
    /// The UDP socket cannot be had.
    #[error("cannot listen on udp {addr}")]
    Bind {
        /// Where.
        addr: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The HTTP side's TCP socket cannot be had.
    #[error("cannot listen on http {addr}")]
    Http {
        /// Where.
        addr: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A fixed child did not start.
    #[error("the supervision tree")]
    Tree(#[from] NotStarted),
}

/// A running relay. Dropping it kills the tree; [`Relay::shutdown`] ends it in order.
pub struct Relay {
    vault: Arc<Vault>,
    tree: Tree,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Relay({})", self.vault.relay)
    }
}

impl Relay {
    /// Binds, loads the rules, and starts the tree.
    ///
    /// # Errors
    /// Whatever keeps it from serving; nothing runs then.
    pub async fn start(config: RelayConfig) -> Result<Self, StartError> {
        let (relay, server) = credentials::server_config(&config)?;
        let keys = fleet_key::of(config.resume.fleet_key.as_deref())?;
        let endpoint = quic::bind_again(config.listen, &config.quic, &secrets_of(&relay, &keys), server)
            .map_err(|source| StartError::Bind { addr: config.listen, source })?;
        let http = config.http.listen.map(bind_http).transpose()?;
        let metrics = Metrics::default();
        let audit = AuditQueue::new(config.limits.audit_queue, metrics.audit_dropped.clone(), now_unix_ms());
        let audit = Arc::new(audit);
        let vault = Arc::new(Vault {
            relay,
            endpoint,
            policy: PolicyStore::default(),
            audit_log: std::sync::Mutex::default(),
            audit_moved: Throttle::default(),
            streams: StreamIndex::default(),
            tickets: Tickets::new(keys, config.resume.fleet_key.as_deref()),
            connections: Connections::new(&metrics, &audit),
            audit,
            arrivals: Arrivals::default(),
            parking: Parking::default(),
            flights: Flights::default(),
            traffic: Traffic::new(&metrics),
            drain: Drain::default(),
            metrics,
            http,
            reload: watch::Sender::new(0),
            config: Settings::new(config),
        });
        let (handler, killed) = (vault.config.now().limits.handler, vault.metrics.limit(Limit::Handler));
        let killed = move || {
            killed.inc();
        };
        match Tree::start(tree::root(&vault), handler, killed).await {
            Ok(tree) => Ok(Self { vault, tree }),
            Err(error) => {
                vault.endpoint.close(0_u32.into(), b"the relay did not start");
                Err(error.into())
            }
        }
    }

    /// Where it listens for QUIC.
    ///
    /// # Errors
    /// When the socket does not say.
    pub fn quic_addr(&self) -> std::io::Result<SocketAddr> {
        self.vault.endpoint.local_addr()
    }

    /// Where it listens for HTTP, if it does.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.vault.http.as_ref().and_then(|socket| socket.local_addr().ok())
    }

    /// What outlives its actors.
    #[must_use]
    pub fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    /// Goes on with `loaded`, as far as a running relay can, and has rules and credentials read again.
    ///
    /// # Errors
    /// When the configuration cannot be taken over; nothing changes then.
    pub fn configure(&self, loaded: &RelayConfig) -> Result<Changes, Problems> {
        let changes = self.vault.config.replace(loaded)?;
        let streams = self.vault.config.now().limits.streams_per_agent;
        self.vault.connections.all().iter().for_each(|connection| connection.streams.allow(streams));
        self.reload();
        Ok(changes)
    }

    /// Has rules and credentials read again, changed or not. What cannot be used is logged, and the old goes on.
    pub fn reload(&self) {
        self.vault.reload.send_modify(|asked| *asked = asked.wrapping_add(1));
    }

    /// The root actor's node.
    #[must_use]
    pub fn root(&self) -> &Arc<Node> {
        self.tree.root()
    }

    /// The live tree.
    #[must_use]
    pub fn tree(&self) -> Report {
        self.tree.report()
    }

    /// Does `fault` to the actor that `selector` names.
    ///
    /// # Errors
    /// A sentence: no such actor, several, or it does not run.
    pub async fn inject(&self, selector: &str, fault: Fault) -> Result<(), String> {
        self.tree.inject(selector, fault).await
    }

    /// Waits until the tree has ended by itself: a singleton failed too often, or the root was killed.
    /// The result says why. Then [`Relay::fail`] is due. Cancel-safe: it may be asked again.
    pub async fn failed(&mut self) -> String {
        self.tree.ended().await
    }

    /// Takes nothing new, and waits until the last stream has ended or `drain.deadline` is over, at which the rest is reset; then
    /// [`Relay::shutdown`] is due. [`Vault::begin_drain`] may have been called before, by an operator.
    pub async fn drain(&self) {
        drain(&self.vault).await;
    }

    /// As [`Relay::drain`], but that it ends with the tree.
    ///
    /// # Errors
    /// As [`Relay::failed`] says it.
    pub async fn drain_unless_failed(&mut self) -> Result<(), String> {
        tokio::select! {
            biased;
            why = self.tree.ended() => Err(why),
            () = drain(&self.vault) => Ok(()),
        }
    }

    /// Stops the tree, the last started first, each actor within its deadline; closes every connection, and writes what waits for the
    /// audit. Streams that still run are reset.
    pub async fn shutdown(self) {
        if let Err(why) = self.shutdown_unless(std::future::pending()).await {
            tracing::error!(%why, "the supervision tree has failed");
        }
    }

    /// As [`Relay::shutdown`], until `at_once` comes to pass: from then on as [`Relay::kill`].
    ///
    /// # Errors
    /// Why the tree has failed before it was stopped; the relay has ended all the same.
    pub async fn shutdown_unless(mut self, at_once: impl Future<Output = ()>) -> Result<(), String> {
        let in_order = async {
            let stopped = self.tree.stop().await;
            Self::farewell(&self.vault, IN_ORDER).await;
            stopped
        };
        tokio::select! {
            stopped = in_order => stopped,
            () = at_once => {
                self.kill().await;
                Ok(())
            }
        }
    }

    /// Ends a relay whose tree has failed, in about a second: what it carried is cut already; agents still hear where to go. Where a child
    /// of the root was given up they have heard it from the root.
    pub async fn fail(self) {
        tell_where_to_go(&self.vault).await;
        self.kill().await;
    }

    /// Ends it at once, in about a second at most: no actor is stopped in order, no stream is ended. Its address is free a moment later.
    pub async fn kill(mut self) {
        self.tree.kill();
        if tokio::time::timeout(KILLED, self.tree.ended()).await.is_err() {
            tracing::warn!(within = ?KILLED, "the tree does not end");
        }
        Self::farewell(&self.vault, AT_ONCE).await;
    }

    async fn farewell(vault: &Arc<Vault>, within: Farewell) {
        vault.arrivals.abort();
        vault.endpoint.close(0_u32.into(), b"the relay is stopping");
        if tokio::time::timeout(within.peers, vault.endpoint.wait_idle()).await.is_err() {
            tracing::warn!(within = ?within.peers, "some peers did not hear that the relay stops");
        }
        audit::finish(vault, within.audit).await;
    }
}

async fn drain(vault: &Vault) {
    vault.begin_drain(&vault.config.get().drain.successors);
    let deadline = vault.drain.begun().await;
    tracing::info!(streams = vault.traffic.streams(), "draining");
    if tokio::time::timeout_at(deadline, wait_idle(vault)).await.is_err() {
        cut(vault).await;
    }
    if vault.metrics.streams_opened.get() > 0 {
        linger(vault, LINGER.1).await;
    }
}

/// Resets every stream while its connections stand: a code tells an agent more than that its connection is gone.
async fn cut(vault: &Vault) {
    let live = vault.traffic.live();
    tracing::warn!(streams = live.len(), "drain deadline is over: streams are reset");
    live.iter().filter_map(|stream| stream.splice.upgrade()).for_each(|splice| splice.stop());
    if tokio::time::timeout(CUT, vault.traffic.wait_idle()).await.is_err() {
        tracing::debug!(streams = vault.traffic.streams(), "these end with their connections");
    }
}

/// What agents hear of a relay that fails. What writes to them is in the vault, and needs no actor; their connections must still stand.
async fn tell_where_to_go(vault: &Vault) {
    vault.begin_drain(&vault.config.get().drain.successors);
    linger(vault, FAILED).await;
}

/// A peer may throw away what its application has not read yet when its connection is closed.
async fn linger(vault: &Vault, most: Duration) {
    let longest = vault.connections.all().iter().map(|connection| connection.quic.rtt()).max();
    tokio::time::sleep((longest.unwrap_or_default() * 2).clamp(LINGER.0, most)).await;
}

/// Until no stream lives, is being opened, or waits with one half for the other.
async fn wait_idle(vault: &Vault) {
    vault.traffic.wait_idle().await;
    while !vault.parking.is_empty() {
        tokio::time::sleep(LOOK).await;
        vault.traffic.wait_idle().await;
    }
}

/// Those of the relay that had this name before it.
fn secrets_of(relay: &RelayUri, keys: &FleetKeys) -> EndpointSecrets {
    let secret = |purpose| keys.newest().derive(purpose, &relay.to_string());
    EndpointSecrets { resets: secret("stateless reset"), ids: secret("connection ids") }
}

fn bind_http(addr: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    let bound = std::net::TcpListener::bind(addr).and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
    bound.map_err(|source| StartError::Http { addr, source })
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tree.kill();
        self.vault.endpoint.close(0_u32.into(), b"the relay is gone");
    }
}
