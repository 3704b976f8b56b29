//! Whether the relay is draining: it takes nothing new, lets what lives come to its end, and tells the agents that understand it
//! where to go meanwhile (wire.md §9, `goaway`).

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Vault;
use crate::clock::now_unix_ms;
use crate::config::types::HostPort;
use crate::core::frame::Frame;
use crate::core::ids::Capability;
use crate::proto::orp;
use crate::vault::connections::AgentConnection;

#[derive(Debug)]
struct Begun {
    deadline: Instant,
    goaway: orp::GoAway,
    successors: Vec<HostPort>,
    /// Every agent that was here was told. Only then is anything refused, so that an agent hears why before it is refused.
    told: bool,
}

/// See the module's documentation. Draining never ends but with the relay.
#[derive(Debug)]
pub struct Drain(watch::Sender<Option<Begun>>);

impl Default for Drain {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Drain {
    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.borrow().as_ref().is_some_and(|begun| begun.told)
    }

    /// Waits until it has begun; the deadline for live streams.
    pub async fn begun(&self) -> Instant {
        let mut begun = self.0.subscribe();
        match begun.wait_for(|begun| begun.as_ref().is_some_and(|begun| begun.told)).await {
            Ok(begun) => begun.as_ref().map_or_else(Instant::now, |begun| begun.deadline),
            // The sender is in `self`, so it cannot be gone.
            Err(_) => Instant::now(),
        }
    }

    /// Tells an agent to leave, if the relay is draining and the agent understands it.
    pub fn tell(&self, connection: &AgentConnection) {
        let goaway = self.0.borrow().as_ref().map(|begun| begun.goaway.clone());
        if let Some(goaway) = goaway.filter(|_| connection.names(Capability::GoAway)) {
            connection.send_control(&Frame::GoAway(goaway));
        }
    }

    /// Where agents are told to go, once it has begun.
    #[must_use]
    pub fn successors(&self) -> Option<Vec<HostPort>> {
        self.0.borrow().as_ref().map(|begun| begun.successors.clone())
    }

    /// Whether this was the first call.
    fn begin(&self, within: Duration, successors: &[HostPort]) -> bool {
        let millis = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
        let begun = Begun {
            told: false,
            deadline: Instant::now() + within,
            goaway: orp::GoAway {
                reason: "the relay is draining".to_owned(),
                deadline_unix_ms: now_unix_ms().saturating_add(millis),
                successors: successors.iter().map(ToString::to_string).collect(),
            },
            successors: successors.to_vec(),
        };
        self.0.send_if_modified(|drain| {
            let is_first = drain.is_none();
            drain.get_or_insert(begun);
            is_first
        })
    }
}

impl Vault {
    /// Begins to drain, and tells every agent that understands it to go to `successors`, or where it likes if there are none.
    /// A second call changes nothing.
    pub fn begin_drain(&self, successors: &[HostPort]) {
        if self.drain.begin(self.config.now().drain.deadline, successors) {
            self.connections.all().iter().for_each(|connection| self.drain.tell(connection));
            self.drain.0.send_modify(|drain| drain.iter_mut().for_each(|begun| begun.told = true));
        }
    }
}
