//! The credentials actor: serves new connections with the certificate, key and CA as their files stand now.
//!
//! | | |
//! |---|---|
//! | Owns | the task that watches the files |
//! | Receives | `FilesChanged`, and the end of its task |
//! | Sends | nothing: it hands the endpoint its configuration |
//! | Restart | permanent; a restart reads the files again |
//! | Lost on crash | nothing: the endpoint keeps what it was given last |
//!
//! Established connections keep the certificates with which they came in.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::watch_files::Files;
use crate::config::relay::RelayConfig;
use crate::core::identity::{Identity, IdentityError, RelayUri};
use crate::net::{quic, tls};
use crate::supervise::slot::Slot;
use crate::supervise::task::{self, Owned, Panicked};
use crate::vault::Vault;

/// Messages of the credentials actor.
#[derive(Debug)]
pub enum CredentialsMsg {
    /// A file changed, or a reload was asked for.
    FilesChanged,
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
    vault: Arc<Vault>,
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
        let watch = watch(args.slot.clone(), Arc::clone(&args.vault));
        let watch = task::owned(&args.slot, watch, CredentialsMsg::WatchEnded);
        renew(&args.vault);
        Ok(CredentialsState { vault: args.vault, _watch: watch })
    }

    async fn handle(
        &self,
        _myself: ActorRef<CredentialsMsg>,
        message: CredentialsMsg,
        state: &mut CredentialsState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            CredentialsMsg::FilesChanged => renew(&state.vault),
            CredentialsMsg::WatchEnded(end) => match end? {},
        }
        Ok(())
    }
}

async fn watch(slot: Slot<CredentialsMsg>, vault: Arc<Vault>) -> std::convert::Infallible {
    let tls = &vault.config.tls;
    let mut files = Files::new(vec![tls.cert.clone(), tls.key.clone(), tls.ca.clone()]);
    let mut asked = vault.reload.subscribe();
    loop {
        files.changed(&mut asked).await;
        slot.tell(CredentialsMsg::FilesChanged);
    }
}

/// Certificate and key are two files: between two writes they may not fit. Then the old ones serve on, and the next
/// change is looked at again.
fn renew(vault: &Vault) {
    match server_config(&vault.config) {
        Ok((_, server)) => {
            vault.endpoint.set_server_config(Some(server));
            tracing::info!("credentials in use for new connections");
        }
        Err(error) => tracing::error!(%error, "credentials cannot be used: the old ones stay in use"),
    }
}

/// What a relay of this configuration serves connections with, and who it is, from the files as they are now.
///
/// # Errors
/// What is wrong with the files.
pub fn server_config(config: &RelayConfig) -> Result<(RelayUri, quinn::ServerConfig), CredentialsError> {
    let material = tls::TlsMaterial::load(&config.tls)?;
    let configured = config.uri()?;
    match material.identity() {
        Ok(Identity::Relay(certified)) if certified == configured => {}
        Ok(other) => return Err(CredentialsError::Identity { certificate: other.to_string(), configured }),
        Err(error) => return Err(CredentialsError::Identity { certificate: error.to_string(), configured }),
    }
    let server = quic::server_config(tls::server_config(&material, &[tls::ALPN_ORP])?, &config.quic)?;
    Ok((configured, server))
}
