//! What outlives actors: plain data behind one `Arc`, owned by whoever started the relay.
//!
//! Actors are behaviour and may die at any await point. Whatever must not die with them is here, each part with a
//! small interface of its own:
//!
//! | file | what it keeps | who writes it |
//! |---|---|---|
//! | [`settings`] | the configuration in use | who reloads it |
//! | [`policy`] | the published rules | the policy actor |
//! | [`audit`] | decisions and refusals not recorded yet, bounded | whoever decides or refuses pushes, the audit actor takes |
//! | [`streams`] | (tenant, stream id) → who may act on it | handshakes reserve, splices hold |
//! | [`connections`] | established agent connections, with their control stream | arrivals add, connections remove |
//! | [`arrivals`] | TLS handshakes in progress, bounded | the listener adds |
//! | [`parking`] | halves of streams on their way to the entry of their stream | handshakes deliver, entries take |
//! | [`routes`] | which connection holds the other end of a stream | splices |
//! | [`flights`] | what happened to each stream, bounded | handshakes and splices |
//! | [`tickets`] | the fleet's keys | the credentials actor |
//! | [`traffic`] | live streams and their bytes | splices register |
//! | [`places`] | how many connections there are, and how many of them are half-open | arrivals take, connections hold |
//! | [`drain`] | whether the relay takes nothing new | whoever asks it to stop |
//! | [`control_writer`] | the queue and task that write one control stream, whole frames only | everyone sends |

use std::fmt;
use std::sync::Arc;

use crate::core::identity::RelayUri;
use crate::directory::audit_log::AuditLog;
use crate::metrics::Metrics;
use crate::throttle::Throttle;

pub mod arrivals;
pub mod audit;
pub mod connections;
pub mod control_writer;
pub mod drain;
pub mod flights;
pub mod parking;
pub mod places;
pub mod policy;
pub mod routes;
pub mod settings;
pub mod streams;
pub mod tickets;
pub mod traffic;

/// See the module's documentation.
pub struct Vault {
    /// This relay's identity, from its certificate.
    pub relay: RelayUri,
    /// The configuration in use.
    pub config: settings::Settings,
    /// The QUIC endpoint: its sockets stay open while listeners come and go.
    pub endpoint: quinn::Endpoint,
    /// The published rules.
    pub policy: policy::PolicyStore,
    /// Decisions not recorded yet.
    pub audit: Arc<audit::AuditQueue>,
    /// The open audit log. Whoever writes holds it, on a thread that may wait for a disk: writers never mix, whichever actor sent them.
    pub audit_log: std::sync::Mutex<Option<AuditLog>>,
    /// How often it is said that the audit log was moved and there is no other.
    pub audit_moved: Throttle,
    /// Who may act on which stream.
    pub streams: streams::StreamIndex,
    /// The fleet's keys, and tickets under them.
    pub tickets: tickets::Tickets,
    /// Established agent connections.
    pub connections: connections::Connections,
    /// TLS handshakes in progress.
    pub arrivals: arrivals::Arrivals,
    /// Halves of streams that are to be resumed.
    pub parking: parking::Parking,
    /// What happened to each stream lately.
    pub flights: flights::Flights,
    /// Live streams and their bytes.
    pub traffic: traffic::Traffic,
    /// Whether the relay takes nothing new.
    pub drain: drain::Drain,
    /// What is counted.
    pub metrics: Metrics,
    /// Changes whenever somebody asks for files to be read again.
    pub reload: tokio::sync::watch::Sender<u64>,
    /// The socket of the HTTP side, if there is one: it stays open while its actor comes and goes.
    pub http: Option<std::net::TcpListener>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({})", self.relay)
    }
}
