//! What the agent shows relays. It is read again each time the agent dials (once for all relays of its list), so a certificate that
//! was renewed counts from the next connection on, and no restart is needed.

use std::sync::{Arc, Mutex, PoisonError};

use super::vault::AgentVault;
use crate::config::Invalid;
use crate::config::quic::QuicConfig;
use crate::config::types::Tls;
use crate::core::identity::{AgentUri, Identity};
use crate::net::tls::TlsMaterial;
use crate::net::{quic, tls};

/// Why credentials are not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// Certificate, key or CA cannot be used.
    #[error("TLS")]
    Tls(#[from] tls::TlsError),
    /// The certificate is not an agent's.
    #[error("the certificate is not an agent's: {0}")]
    Identity(String),
    /// The certificate is another agent's than at the start: streams and registrations are that one's.
    #[error("the certificate is that of {found}, but this is {expected}: restart the agent to change who it is")]
    Another {
        /// Who it says.
        found: AgentUri,
        /// Who this agent is.
        expected: AgentUri,
    },
    /// The TLS configuration lacks what QUIC needs.
    #[error("QUIC")]
    Quic(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// What the files held.
#[derive(Debug, Clone)]
struct Read {
    material: TlsMaterial,
    client: quinn::ClientConfig,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Credentials {
    agent: AgentUri,
    files: Tls,
    quic: QuicConfig,
    /// The last that could be used.
    last: Mutex<Read>,
}

impl Credentials {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// Whatever is wrong with them.
    pub fn load(files: &Tls, quic: &QuicConfig) -> Result<Self, CredentialsError> {
        let (agent, read) = read(files, quic, None)?;
        Ok(Self { agent, files: files.clone(), quic: quic.clone(), last: Mutex::new(read) })
    }

    /// Who the certificate says that this is.
    #[must_use]
    pub fn agent(&self) -> &AgentUri {
        &self.agent
    }

    /// Reads the files again; they count from the next dial on.
    ///
    /// # Errors
    /// Whatever is wrong with them. What was read before goes on to count.
    pub fn reload(&self) -> Result<(), CredentialsError> {
        let before = self.last().material;
        let (found, read) = read(&self.files, &self.quic, Some(&before))?;
        if found != self.agent {
            return Err(CredentialsError::Another { found, expected: self.agent.clone() });
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    /// What was read last and could be used.
    fn last(&self) -> Read {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// With what a relay is dialled: as the files stand now, or as they stood when they could last be used.
pub async fn client(vault: &Arc<AgentVault>) -> quinn::ClientConfig {
    let reading = Arc::clone(vault);
    // Files are read where they keep no stream waiting.
    match tokio::task::spawn_blocking(move || reading.credentials.reload()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let error = anyhow::Error::new(error);
            tracing::warn!(
                error = format!("{error:#}"),
                "certificate, key or CA cannot be used: dialling with those of before"
            );
        }
        Err(error) => tracing::error!(%error, "reading the credentials failed: dialling with those of before"),
    }
    vault.credentials.last().client
}

/// All that is wrong with the files.
#[must_use]
pub fn problems(files: &Tls) -> Vec<Invalid> {
    match TlsMaterial::check(files) {
        Ok(material) => {
            let wrong = identity(&material).err();
            wrong.map(|error| Invalid::at("tls.cert", error.to_string())).into_iter().collect()
        }
        Err(wrong) => wrong,
    }
}

fn identity(material: &TlsMaterial) -> Result<AgentUri, CredentialsError> {
    match material.identity() {
        Ok(Identity::Agent(agent)) => Ok(agent),
        Ok(other) => Err(CredentialsError::Identity(other.to_string())),
        Err(error) => Err(CredentialsError::Identity(error.to_string())),
    }
}

/// `before` is what the files held when they were read last.
fn read(files: &Tls, quic: &QuicConfig, before: Option<&TlsMaterial>) -> Result<(AgentUri, Read), CredentialsError> {
    let material = TlsMaterial::load(files)?;
    material.warn_unless_valid(before);
    let agent = identity(&material)?;
    let client = quic::client_config(tls::client_config(&material, &[tls::ALPN_ORP])?, quic)?;
    Ok((agent, Read { material, client }))
}
