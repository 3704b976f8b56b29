//! The relays that have said that they drain, for as long as they said.

use tokio::time::Instant;

use crate::agent::leaving::Leave;
use crate::config::types::HostPort;
use crate::core::identity::RelayUri;

/// More are not remembered: the oldest is forgotten.
const MOST: usize = 16;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Draining(Vec<Drains>);

#[derive(Debug)]
struct Drains {
    address: HostPort,
    relay: RelayUri,
    deadline: Instant,
    gathers_until: Instant,
}

impl Draining {
    /// The relay at `address` has said so.
    pub fn add(&mut self, address: HostPort, relay: RelayUri, leave: &Leave) {
        let now = Instant::now();
        self.0.retain(|drains| drains.relay != relay && (now < drains.deadline || now < drains.gathers_until));
        if self.0.len() == MOST {
            self.0.remove(0);
        }
        self.0.push(Drains { address, relay, deadline: leave.deadline, gathers_until: leave.gathers_until() });
    }

    /// Whether it still drains.
    #[must_use]
    pub fn is_draining(&self, address: &HostPort, now: Instant) -> bool {
        self.0.iter().any(|drains| drains.address == *address && now < drains.deadline)
    }

    /// Until when agents that one of them has sent away may be on their way; none when they should all have arrived.
    #[must_use]
    pub fn gathers_until(&self, now: Instant) -> Option<Instant> {
        self.0.iter().map(|drains| drains.gathers_until).filter(|until| now < *until).max()
    }
}
