//! The fleet's keys in use, and the tickets that are sealed under them (wire.md §9, `resume-ticket`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::streams::{Parties, StreamFacts};
use crate::clock::now_unix_ms;
use crate::core::ids::StreamId;
use crate::core::policy::RelayMode;
use crate::core::ticket::keys::{FleetKeys, KeyId};
use crate::core::ticket::{self, TicketError, TicketFacts};

/// See the module's documentation.
#[derive(Debug)]
pub struct Tickets {
    keys: ArcSwap<FleetKeys>,
    /// Where they stand; none: in memory.
    file: ArcSwapOption<PathBuf>,
    /// The newest at the start, from which the endpoint's secrets are made.
    first: KeyId,
}

impl Tickets {
    /// What the relay is started with; `file` as in [`Tickets::publish`].
    #[must_use]
    pub fn new(keys: FleetKeys, file: Option<&Path>) -> Self {
        let first = keys.newest().id();
        let file = ArcSwapOption::from_pointee(file.map(Path::to_owned));
        Self { keys: ArcSwap::from_pointee(keys), file, first }
    }

    /// From here on these keys are in use, of `file` if they stand in one; streams that live go on with the tickets that they have.
    pub fn publish(&self, keys: FleetKeys, file: Option<&Path>) {
        self.keys.store(Arc::new(keys));
        self.file.store(file.map(|file| Arc::new(file.to_owned())));
    }

    /// Whether the keys in use were read from `file`, or are in memory where that is none.
    #[must_use]
    pub fn are_of(&self, file: Option<&Path>) -> bool {
        self.file.load().as_deref().map(PathBuf::as_path) == file
    }

    /// Whether the endpoint's secrets come from the newest key: they do not change while it lives.
    #[must_use]
    pub fn endpoint_has_newest(&self) -> bool {
        self.keys.load().newest().id() == self.first
    }

    /// The keys in use.
    #[must_use]
    pub fn keys(&self) -> Arc<FleetKeys> {
        self.keys.load_full()
    }

    /// A ticket that is good for `life`. None for a stream that cannot be resumed, or of which this relay does not know what it
    /// is about: what only a rule has let pass is not to be proven from then on.
    #[must_use]
    pub fn issue(&self, id: StreamId, parties: &Parties, about: &StreamFacts, life: Duration) -> Option<Vec<u8>> {
        if !id.is_recorded() || about.target.is_empty() || parties.consumer == parties.provider {
            return None;
        }
        let now = now_unix_ms();
        let life_ms = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
        let facts = TicketFacts {
            stream_id: id,
            consumer: parties.consumer.clone(),
            provider: parties.provider.clone(),
            target: about.target.clone(),
            method: about.method.clone(),
            p2p_mode: about.p2p_mode,
            relay_mode: RelayMode::Splice,
            issued_at_unix_ms: now,
            expires_at_unix_ms: now.saturating_add(life_ms),
        };
        match ticket::seal(&self.keys.load(), &facts, rand::random()) {
            Ok(ticket) => Some(ticket),
            Err(error) => {
                tracing::error!(stream = %id, %error, "no ticket");
                None
            }
        }
    }

    /// Opens a ticket that came with a half.
    ///
    /// # Errors
    /// Why it is worth nothing.
    pub fn open(&self, ticket: &[u8]) -> Result<TicketFacts, TicketError> {
        ticket::open(&self.keys.load(), ticket, now_unix_ms())
    }
}
