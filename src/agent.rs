//! The agent: a vault, and a small supervision tree over it.
//!
//! It dials out to a relay and keeps the connection. Local clients connect to its listeners and come out at the remote service;
//! what the relay opens goes to the local service that is exposed. [`tree`] is the table of children; what is no actor:
//!
//! | file | what it is |
//! |---|---|
//! | [`vault`] | what outlives actors: the session, the listening sockets |
//! | [`dial`] | from a relay's address to a session |
//! | [`carrying`] | a stream that outlives its paths: the copying tasks, checkpoints, resume |
//! | [`opening`], [`incoming`] | how a stream begins, for the consumer and for the provider |
//! | [`serving`] | how a session is served |
//! | [`leaving`] | from a relay that drains to the next one |
//! | [`epilogue`] | how a finished stream is answered for |
//! | [`legacy`] | how a relay of version 0.1 refuses a stream |
//! | [`silence`] | notices a lost relay fast while streams live |
//! | [`stream_facts`] | what is known of a stream |
//! | [`backoff`] | when to try again |

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::config::agent::{AgentConfig, Consume};
use crate::config::types::HostPort;
use crate::core::identity::AgentUri;
use crate::core::reject::ResetCode;
use crate::net::quic;
use crate::supervise::fault::Fault;
use crate::supervise::report::Report;
use crate::supervise::tree::{NotStarted, Tree};

pub mod admin;
pub mod backoff;
pub mod carrying;
pub mod credentials;
pub mod dial;
pub mod epilogue;
pub mod incoming;
pub mod leaving;
pub mod legacy;
pub mod link;
pub mod listeners;
pub mod opening;
pub mod serving;
pub mod silence;
pub mod stream_facts;
pub mod streams;
pub mod tree;
pub mod vault;

#[cfg(test)]
mod tests;

use credentials::Credentials;
use vault::{AgentVault, Offer};

/// How long the closed connection gets to tell the relay, once the tree has stopped.
const FAREWELL: Duration = Duration::from_secs(1);

/// Local clients that may wait to be taken: what a socket has by itself, 128, is less than a burst, and whoever comes then is reset.
const BACKLOG: i32 = 1024;

/// An actor that is busy with one message for longer hangs, and is killed.
const HANG_DEADLINE: Duration = Duration::from_secs(10);

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Its certificate, key or CA cannot be used.
    #[error(transparent)]
    Credentials(#[from] credentials::CredentialsError),
    /// No UDP socket can be had.
    #[error("no UDP socket")]
    Endpoint(#[source] std::io::Error),
    /// A local address cannot be listened on.
    #[error("cannot listen on {addr} for {service}")]
    Listen {
        /// The service that was to be offered there.
        service: String,
        /// Where.
        addr: HostPort,
        /// Why not.
        source: std::io::Error,
    },
    /// A fixed child did not start.
    #[error("the supervision tree")]
    Tree(#[from] NotStarted),
}

/// A running agent. Dropping it kills the tree; [`Agent::shutdown`] ends it in order.
pub struct Agent {
    vault: Arc<AgentVault>,
    tree: Tree,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Agent({})", self.vault.agent())
    }
}

impl Agent {
    /// Binds the local listeners and starts the tree. It does not wait for a relay: see [`Agent::wait_registered`].
    ///
    /// # Errors
    /// Whatever keeps it from working; nothing runs then.
    pub async fn start(config: AgentConfig) -> Result<Self, StartError> {
        let credentials = Credentials::load(&config.tls, &config.quic)?;
        let mut offers = Vec::new();
        for consume in &config.consume {
            offers.push(Arc::new(offer(consume).await?));
        }
        let endpoint = endpoint(&config).map_err(StartError::Endpoint)?;
        let vault = Arc::new(AgentVault::new(credentials, config, endpoint, offers));
        match Tree::start(tree::root(&vault), HANG_DEADLINE, || {}).await {
            Ok(tree) => Ok(Self { vault, tree }),
            Err(error) => {
                vault.endpoint.close(0_u32.into(), b"the agent did not start");
                Err(error.into())
            }
        }
    }

    /// Who it is, from its certificate.
    #[must_use]
    pub fn uri(&self) -> &AgentUri {
        self.vault.agent()
    }

    /// Where the remote service `name` is offered: the address that is bound, also where port 0 was asked for.
    #[must_use]
    pub fn local_addr(&self, name: &str) -> Option<SocketAddr> {
        self.vault.offers.iter().find(|offer| offer.consume.name == name).map(|offer| offer.addr)
    }

    /// Every remote service and where it is offered.
    pub fn offers(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.vault.offers.iter().map(|offer| (offer.consume.name.as_str(), offer.addr))
    }

    /// Waits for a session on which everything that is exposed is registered; with nothing exposed, for a session.
    pub async fn wait_registered(&self) {
        let mut sessions = self.vault.watch_session();
        loop {
            let session = sessions.borrow_and_update().clone();
            let complete = async {
                match session {
                    Some(session) => session.registrations.watch().wait_for(|complete| *complete).await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // The sender is in the vault, so it cannot be gone.
                _next = sessions.changed() => {}
                complete = complete => if complete { return },
            }
        }
    }

    /// Reads certificate, key and CA again: they count from the next connection on.
    ///
    /// # Errors
    /// What is wrong with them; those of before go on to count.
    pub fn reload(&self) -> Result<(), credentials::CredentialsError> {
        self.vault.credentials.reload()
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
    /// The result says why.
    pub async fn failed(&mut self) -> String {
        let why = self.tree.ended().await;
        self.farewell("the agent has failed").await;
        why
    }

    /// Stops the tree, the last started first, each actor within its deadline; then closes the connection to the relay,
    /// which deregisters everything. Streams that still run are reset.
    pub async fn shutdown(mut self) {
        if let Err(why) = self.tree.stop().await {
            tracing::error!(%why, "the supervision tree has failed");
        }
        self.farewell("the agent is stopping").await;
    }

    async fn farewell(&self, why: &str) {
        let had_session = self.vault.end_all(ResetCode::UNSPECIFIED, why);
        self.vault.endpoint.close(0_u32.into(), why.as_bytes());
        // A dial in progress has nobody to tell.
        if had_session && tokio::time::timeout(FAREWELL, self.vault.endpoint.wait_idle()).await.is_err() {
            tracing::debug!(within = ?FAREWELL, "not every peer is known to have heard that the agent stops");
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tree.kill();
        self.vault.endpoint.close(0_u32.into(), b"the agent is gone");
    }
}

async fn offer(consume: &Consume) -> Result<Offer, StartError> {
    let failed = |source| StartError::Listen { service: consume.name.clone(), addr: consume.listen.clone(), source };
    let socket = TcpListener::bind(consume.listen.as_str()).await.map_err(failed)?;
    socket2::SockRef::from(&socket).listen(BACKLOG).map_err(failed)?;
    let addr = socket.local_addr().map_err(failed)?;
    Ok(Offer { consume: consume.clone(), socket, addr })
}

/// One socket for relays of both address families, where the machine has both.
fn endpoint(config: &AgentConfig) -> std::io::Result<quinn::Endpoint> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    quic::bind(both, &config.quic, None).or_else(|error| {
        tracing::debug!(%error, "no IPv6: dialling over IPv4 alone");
        quic::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), &config.quic, None)
    })
}
