//! Where a stream without a path looks for the other agent: see [`leaving`](crate::agent::leaving).
//!
//! On the session in use; and if it is not found there in time, at the relay that drains, if the last path was there and it still
//! stands. From then on in turns: an agent that was out of reach comes to the new relay alone, and may come at any time. A call from
//! there says that it has.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Carried;
use crate::agent::vault::AgentVault;
use crate::agent::vault::session::Session;

/// How long a half waits on the session in use between two waits at the relay that drains.
const LOOKS: Duration = Duration::from_secs(2);
/// How long it waits at the relay that drains. Longer than [`LOOKS`]: so two agents that take turns are there together for a while,
/// whenever each of them began.
const WAITS: Duration = Duration::from_secs(4);

/// Where a half is sent.
#[derive(Debug)]
pub enum Place {
    /// To the relay in use.
    InUse(Arc<Session>),
    /// To the one that drains.
    Drains(Arc<Session>),
}

impl Place {
    /// The session with that relay.
    #[must_use]
    pub fn session(&self) -> &Arc<Session> {
        match self {
            Self::InUse(session) | Self::Drains(session) => session,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    InUse,
    Drains,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Search {
    turn: Turn,
    until: Instant,
}

impl Search {
    /// Begins on the session in use.
    #[must_use]
    pub fn new(falls_back_at: Instant) -> Self {
        Self { turn: Turn::InUse, until: falls_back_at }
    }

    /// Where to look now. Waits for a session as long as there is none.
    pub async fn place(&mut self, shared: &Carried, vault: &AgentVault) -> Place {
        loop {
            let old = shared.old_session(vault);
            let may_fall_back = old.is_some();
            if self.turn == Turn::Drains
                && let Some(old) = old
            {
                return Place::Drains(old);
            }
            tokio::select! {
                biased;
                () = sleep_until(self.until), if may_fall_back => self.fall_back(shared),
                session = in_use(vault) => return Place::InUse(session),
            }
        }
    }

    /// Resolves when it is time to look elsewhere than at `place`: why. Cancel-safe.
    pub async fn over(&mut self, shared: &Carried, vault: &AgentVault, place: &Place) -> &'static str {
        match place {
            Place::InUse(session) => tokio::select! {
                () = vault.is_replaced(session.number) => "another session is used now",
                () = sleep_until(self.until), if shared.old_session(vault).is_some() => {
                    self.fall_back(shared);
                    "the other agent is not here: back to the relay that drains"
                }
            },
            Place::Drains(_) => {
                let why = tokio::select! {
                    () = shared.is_called_to_session_in_use(vault) => "the other agent waits at the new relay",
                    () = sleep_until(self.until) => "the other agent may have come to the new relay",
                };
                // Without one there is nowhere to look.
                drop(in_use(vault).await);
                (self.turn, self.until) = (Turn::InUse, Instant::now() + LOOKS);
                why
            }
        }
    }

    fn fall_back(&mut self, shared: &Carried) {
        // What was said before does not count: that half was looked for.
        shared.lock().called_on = None;
        (self.turn, self.until) = (Turn::Drains, Instant::now() + WAITS);
    }
}

/// Waits for a session in use that stands.
async fn in_use(vault: &AgentVault) -> Arc<Session> {
    let mut sessions = vault.watch_session();
    let stands = |session: &Option<Arc<Session>>| session.as_ref().is_some_and(|one| one.quic.close_reason().is_none());
    loop {
        // The sender is in the vault, so it cannot be gone.
        if let Some(session) = sessions.wait_for(stands).await.ok().and_then(|session| session.clone()) {
            return session;
        }
    }
}

impl Carried {
    /// The session on which its last path was, if its relay drains and still stands.
    fn old_session(&self, vault: &AgentVault) -> Option<Arc<Session>> {
        let number = self.lock().session;
        vault.leaving().into_iter().find(|session| session.number == number && session.quic.close_reason().is_none())
    }

    /// Resolves when the other agent's half waits at the relay in use.
    async fn is_called_to_session_in_use(&self, vault: &AgentVault) {
        loop {
            let in_use = vault.session().map(|session| session.number);
            if in_use.is_some() && self.lock().called_on == in_use {
                return;
            }
            self.called.notified().await;
        }
    }
}
