//! The credentials actor: serves new connections with the certificate, key and CA as their files stand now, and seals tickets
//! under the fleet key as its file stands now. It also renews the tickets of streams that live for long.
//!
//! | | |
//! |---|---|
//! | Owns | the task that watches the files, and the one that looks at the certificates of connections |
//! | Receives | `FilesChanged`, `Rechecked`, `LookForTickets`, and the end of its task |
//! | Sends | TICKET to the connections of streams whose ticket is due; else nothing: it hands the endpoint its configuration, and the vault the fleet's keys |
//! | Restart | permanent; a restart reads the files again |
//! | Lost on crash | since when a connection's certificate has been invalid: its grace begins anew |
//!
//! Established connections keep the certificates with which they came in; where `limits.certificate_grace` is given, one whose
//! certificate is no longer valid is closed after that time.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use super::watch_files;
use super::{fleet_key, tickets};
use crate::config::Invalid;
use crate::config::relay::RelayConfig;
use crate::config::types::Tls;
use crate::core::identity::{Identity, IdentityError, RelayUri};
use crate::core::ids::Generation;
use crate::core::reject::ResetCode;
use crate::net::tls::{ClientCheck, TlsMaterial};
use crate::net::{quic, tls};
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};
use crate::vault::Vault;
use crate::vault::connections::AgentConnection;

/// How often the certificates of established connections are looked at, where that is asked for.
const RECHECK: Duration = Duration::from_secs(60);

/// Messages of the credentials actor.
#[derive(Debug)]
pub enum CredentialsMsg {
    /// A file changed, or a reload was asked for.
    FilesChanged,
    /// The connections whose certificates are not valid any more, and why.
    Rechecked(Result<Vec<(Arc<AgentConnection>, rustls::Error)>, Panicked>),
    /// It is time to look which tickets are due.
    LookForTickets(Result<(), Panicked>),
    /// The watching task ended, which it does only by a panic.
    WatchEnded(Result<std::convert::Infallible, Panicked>),
}

/// What the credentials actor is started with.
#[derive(Debug, Clone)]
pub struct CredentialsArgs {
    /// Its own address.
    pub slot: Slot<CredentialsMsg>,
    /// Where the endpoint is.
    pub vault: Arc<Vault>,
}

/// Why credentials are not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// Certificate, key or CA is unusable.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The certificate names something else than the configuration.
    #[error("the certificate says {certificate}, but the configuration says {configured}")]
    Identity {
        /// From the certificate's URI SAN, or why there is none.
        certificate: String,
        /// From `id` and `region`.
        configured: RelayUri,
    },
    /// `id` or `region` is no label.
    #[error(transparent)]
    Name(#[from] IdentityError),
    /// The TLS configuration lacks what QUIC needs.
    #[error(transparent)]
    Quic(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Credentials;

/// What the credentials actor holds while it runs.
#[derive(Debug)]
pub struct CredentialsState {
    slot: Slot<CredentialsMsg>,
    vault: Arc<Vault>,
    check: Option<ClientCheck>,
    /// The certificate and CA that are in use.
    material: Option<TlsMaterial>,
    /// Since when a connection's certificate has been known to be invalid.
    invalid: HashMap<Generation, Instant>,
    recheck: Option<Owned>,
    look: Option<Owned>,
    _watch: Owned,
}

impl Actor for Credentials {
    type Msg = CredentialsMsg;
    type State = CredentialsState;
    type Arguments = CredentialsArgs;

    async fn pre_start(
        &self,
        _myself: ActorRef<CredentialsMsg>,
        args: CredentialsArgs,
    ) -> Result<CredentialsState, ActorProcessingErr> {
        let slot = args.slot.clone();
        let watch =
            watch_files::follow(Arc::clone(&args.vault), paths, move || slot.tell(CredentialsMsg::FilesChanged));
        let watch = task::owned(&args.slot, watch, CredentialsMsg::WatchEnded);
        let mut state = CredentialsState {
            slot: args.slot,
            vault: args.vault,
            check: None,
            material: None,
            invalid: HashMap::new(),
            recheck: None,
            look: None,
            _watch: watch,
        };
        state.renew();
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<CredentialsMsg>,
        message: CredentialsMsg,
        state: &mut CredentialsState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            CredentialsMsg::FilesChanged => state.renew(),
            CredentialsMsg::Rechecked(invalid) => state.on_rechecked(invalid?),
            CredentialsMsg::LookForTickets(slept) => {
                slept?;
                state.renew_tickets();
            }
            CredentialsMsg::WatchEnded(end) => match end? {},
        }
        Ok(())
    }
}

/// Which connections' certificates are not valid any more. There may be twenty thousand, and each takes its time.
async fn look(vault: Arc<Vault>, check: ClientCheck, wait: Duration) -> Vec<(Arc<AgentConnection>, rustls::Error)> {
    tokio::time::sleep(wait).await;
    let mut invalid = Vec::new();
    for connection in vault.connections.all() {
        tokio::task::yield_now().await;
        if let Err(why) = check.check(&connection.quic) {
            invalid.push((connection, why));
        }
    }
    invalid
}

/// Certificate, key, CA and the fleet's keys.
fn paths(config: &RelayConfig) -> Vec<PathBuf> {
    let Tls { cert, key, ca } = config.tls.clone();
    [cert, key, ca].into_iter().chain(config.resume.fleet_key.clone()).collect()
}

impl CredentialsState {
    /// Certificate and key are two files: between two writes they may not fit. Then the old ones serve on, and the next
    /// change is looked at again.
    fn renew(&mut self) {
        match read(&self.vault.config.now()) {
            Ok(Read { server, check, material, .. }) => {
                material.warn_unless_valid(self.material.as_ref());
                self.vault.endpoint.set_server_config(Some(server));
                self.check = Some(check);
                self.material = Some(material);
                tracing::info!("credentials in use for new connections");
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::error!(error = format!("{error:#}"), "credentials cannot be used: the old ones stay in use");
            }
        }
        self.recheck_after(Duration::ZERO);
        self.read_fleet_key();
        self.renew_tickets();
    }

    /// Another file than before is treated as at the start. A file that is gone is not made again: it would be another key.
    fn read_fleet_key(&self) {
        let file = self.vault.config.now().resume.fleet_key.clone();
        let keys = match (self.vault.tickets.are_of(file.as_deref()), &file) {
            (true, None) => return,
            (true, Some(file)) => fleet_key::load(file),
            (false, file) => fleet_key::of(file.as_deref()),
        };
        match keys {
            Ok(keys) => {
                tracing::info!(newest = %keys.newest().id(), keys = keys.ids().count(), "fleet keys in use");
                self.vault.tickets.publish(keys, file.as_deref());
                if !self.vault.tickets.endpoint_has_newest() {
                    tracing::info!("connections still have the resets of the key that was the newest at the start");
                }
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::error!(error = format!("{error:#}"), "the fleet key cannot be used: the old keys stay in use");
            }
        }
    }

    fn renew_tickets(&mut self) {
        tickets::renew_due(&self.vault);
        let look = tokio::time::sleep(tickets::look_in(self.vault.config.now().resume.ticket_life));
        self.look = Some(task::owned(&self.slot, look, CredentialsMsg::LookForTickets));
    }

    /// Has the certificates of all connections looked at, where that is asked for.
    fn recheck_after(&mut self, wait: Duration) {
        let is_wanted = !self.vault.config.now().limits.certificate_grace.is_zero();
        let Some(check) = self.check.clone().filter(|_| is_wanted) else {
            self.recheck = None;
            self.invalid.clear();
            return;
        };
        let look = look(Arc::clone(&self.vault), check, wait);
        self.recheck = Some(task::owned(&self.slot, look, CredentialsMsg::Rechecked));
    }

    /// Closes the connections whose grace is over, and sees to it that all are looked at again.
    fn on_rechecked(&mut self, found: Vec<(Arc<AgentConnection>, rustls::Error)>) {
        let grace = self.vault.config.now().limits.certificate_grace;
        let (now, mut next) = (Instant::now(), RECHECK);
        let mut invalid = HashMap::new();
        for (connection, why) in found {
            let since = self.invalid.get(&connection.generation).copied().unwrap_or(now);
            let left = grace.saturating_sub(now - since);
            if left.is_zero() {
                if connection.refuse(ResetCode::DENIED, &format!("certificate is no longer valid: {why}")) {
                    tracing::warn!(agent = %connection.agent, %why, "certificate is no longer valid: closed");
                    self.vault.metrics.connections_invalid.inc();
                }
            } else {
                invalid.insert(connection.generation, since);
                next = next.min(left);
            }
        }
        self.invalid = invalid;
        self.recheck_after(next);
    }
}

/// What a relay of this configuration serves connections with, and who it is, from the files as they are now.
///
/// # Errors
/// What is wrong with the files.
pub fn server_config(config: &RelayConfig) -> Result<(RelayUri, quinn::ServerConfig), CredentialsError> {
    read(config).map(|read| (read.relay, read.server))
}

/// All that is wrong with the files of certificate, key and CA.
#[must_use]
pub fn problems(config: &RelayConfig) -> Vec<Invalid> {
    match TlsMaterial::check(&config.tls) {
        Ok(material) => {
            let wrong = identity(config, &material).err();
            wrong.map(|error| Invalid::between("tls.cert", "id", error.to_string())).into_iter().collect()
        }
        Err(wrong) => wrong,
    }
}

fn identity(config: &RelayConfig, material: &TlsMaterial) -> Result<RelayUri, CredentialsError> {
    let configured = config.uri()?;
    match material.identity() {
        Ok(Identity::Relay(certified)) if certified == configured => Ok(configured),
        Ok(other) => Err(CredentialsError::Identity { certificate: other.to_string(), configured }),
        Err(error) => Err(CredentialsError::Identity { certificate: error.to_string(), configured }),
    }
}

/// What the files give.
struct Read {
    relay: RelayUri,
    server: quinn::ServerConfig,
    check: ClientCheck,
    material: TlsMaterial,
}

fn read(config: &RelayConfig) -> Result<Read, CredentialsError> {
    let material = TlsMaterial::load(&config.tls)?;
    let relay = identity(config, &material)?;
    let server = quic::server_config(tls::server_config(&material, &[tls::ALPN_ORP])?, &config.quic)?;
    Ok(Read { relay, server, check: ClientCheck::new(&material)?, material })
}
