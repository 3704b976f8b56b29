//! Which relay of a list is taken.
//!
//! All agents of a deployment are to meet, so the order of the list decides, and not who is quickest. But a relay that is dead must not
//! be waited for in turn. So each is asked a little after the one before, while that may still answer; and once one has answered, those
//! before it are waited for only so long as they might need: [`PATIENCE`] from when they were asked where streams wait, all of the
//! connect timeout where nobody is in a hurry. Nothing but a connection is made here: one relay alone hears HELLO.
//!
//! Where it was this agent's own network that was away, those before the first that answers are back as well, but their first datagrams
//! are lost, and the next are a second away. So they are asked once more.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep_until, timeout};

use super::{DialError, no_session};
use crate::agent::vault::session::Target;

/// How much later the next relay is asked while the one before has not answered (RFC 8305 §5, Connection Attempt Delay).
const HEAD_START: Duration = Duration::from_millis(250);
/// How long a relay is waited for where streams wait and one that comes after it has answered; four times as long as that one took, if
/// that is longer. Enough for a relay that a thousand agents dial at once after its restart.
const PATIENCE: Duration = Duration::from_millis(750);
/// How long a relay that is asked once more is waited for: four times as long as the one that has answered took, within this.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

/// How a relay is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Its addresses one after the other.
    First,
    /// All of them at once: there is little time.
    Again,
}

/// How long relays are waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// At most.
    pub connect: Duration,
    /// Whether streams live that have no session.
    pub streams_wait: bool,
}

/// See the module's documentation. `C` is a connection.
pub(super) struct Race<'a, C, F> {
    pace: Pace,
    reach: F,
    runners: Vec<Runner<C>>,
    asked: FuturesUnordered<BoxFuture<'a, (usize, Result<C, DialError>)>>,
    one_has_answered: bool,
}

/// A relay of the list.
#[derive(Debug)]
struct Runner<C> {
    target: Target,
    state: State<C>,
    /// How often it is being asked just now.
    open: usize,
    began: Instant,
    /// How long it is waited for once another has answered.
    until: Instant,
}

#[derive(Debug)]
enum State<C> {
    Waits,
    Asked,
    Answered(C),
    /// Nothing was heard of it.
    Unheard,
    /// It cannot be had, or was taken.
    Out,
}

/// What is to be done now.
enum Turn {
    Ask(usize),
    Take(usize),
    Wait(Option<Instant>),
    Over,
}

impl<'a, C, F> Race<'a, C, F>
where
    C: Send + 'a,
    F: Fn(Target, Ask) -> BoxFuture<'a, Result<C, DialError>>,
{
    /// Nobody is asked before [`Race::next`].
    pub(super) fn new(targets: Vec<Target>, pace: Pace, reach: F) -> Self {
        let now = Instant::now();
        let runner = |target| Runner { target, state: State::Waits, open: 0, began: now, until: now };
        let runners = targets.into_iter().map(runner).collect();
        Self { pace, reach, runners, asked: FuturesUnordered::new(), one_has_answered: false }
    }

    /// The relay to take; once more, if that came to nothing. `None` when there is none left. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<(Target, C)> {
        loop {
            let wake = match self.turn(Instant::now()) {
                Turn::Ask(at) => {
                    self.ask(at, Ask::First, self.pace.connect);
                    continue;
                }
                Turn::Take(at) => return self.take(at),
                Turn::Over => return None,
                Turn::Wait(until) => {
                    async move {
                        match until {
                            Some(until) => sleep_until(until).await,
                            None => std::future::pending().await,
                        }
                    }
                }
            };
            tokio::select! {
                Some((at, reached)) = self.asked.next() => self.on_reached(at, reached),
                () = wake => {}
            }
        }
    }

    /// The others that have answered.
    pub(super) fn others(self) -> impl Iterator<Item = C> {
        self.runners.into_iter().filter_map(|runner| match runner.state {
            State::Answered(connection) => Some(connection),
            _ => None,
        })
    }

    fn turn(&self, now: Instant) -> Turn {
        if let Some(best) = self.runners.iter().position(|runner| matches!(runner.state, State::Answered(_))) {
            let earlier = self.runners.iter().take(best).filter(|runner| runner.open > 0);
            return match earlier.map(|runner| runner.until).max() {
                Some(until) if until > now => Turn::Wait(Some(until)),
                _ => Turn::Take(best),
            };
        }
        let Some(next) = self.runners.iter().position(|runner| matches!(runner.state, State::Waits)) else {
            return if self.asked.is_empty() { Turn::Over } else { Turn::Wait(None) };
        };
        match next.checked_sub(1).and_then(|last| self.runners.get(last)) {
            Some(last) if last.open > 0 && last.began + HEAD_START > now => Turn::Wait(Some(last.began + HEAD_START)),
            _ => Turn::Ask(next),
        }
    }

    fn ask(&mut self, at: usize, ask: Ask, within: Duration) {
        let Some(runner) = self.runners.get_mut(at) else { return };
        if ask == Ask::First {
            runner.began = Instant::now();
        }
        runner.state = State::Asked;
        runner.open += 1;
        let reached = (self.reach)(runner.target.clone(), ask);
        let reached = async move {
            let reached = timeout(within, reached).await;
            (at, reached.unwrap_or(Err(DialError::ConnectTimedOut(within))))
        };
        self.asked.push(Box::pin(reached));
    }

    fn on_reached(&mut self, at: usize, reached: Result<C, DialError>) {
        let Some(runner) = self.runners.get_mut(at) else { return };
        runner.open -= 1;
        match reached {
            Ok(connection) => {
                if !matches!(runner.state, State::Asked) {
                    tracing::trace!(relay = %runner.target.address, "answered twice");
                    return;
                }
                runner.state = State::Answered(connection);
                let took = runner.began.elapsed();
                if !std::mem::replace(&mut self.one_has_answered, true) {
                    self.ask_again(at, took);
                }
            }
            Err(error) => {
                no_session(&runner.target, &error);
                if runner.open == 0 && matches!(runner.state, State::Asked) {
                    runner.state = if error.is_unheard() { State::Unheard } else { State::Out };
                }
            }
        }
    }

    /// All before `first`, which was the first to answer and took so long.
    fn ask_again(&mut self, first: usize, took: Duration) {
        let now = Instant::now();
        let Pace { connect, streams_wait } = self.pace;
        let patience = if streams_wait { PATIENCE.max(took * 4).min(connect) } else { connect };
        let [least, most] = AGAIN;
        let again = (took * 4).clamp(least, most);
        for at in 0..first {
            let Some(runner) = self.runners.get_mut(at) else { return };
            if matches!(runner.state, State::Asked | State::Unheard) {
                runner.until = (runner.began + patience).max(now + again);
                self.ask(at, Ask::Again, again);
            }
        }
    }

    fn take(&mut self, at: usize) -> Option<(Target, C)> {
        for earlier in self.runners.iter().take(at).filter(|runner| runner.open > 0) {
            let within = earlier.began.elapsed();
            tracing::warn!(relay = %earlier.target.address, ?within, "no session: no answer yet, but another relay has answered");
        }
        let runner = self.runners.get_mut(at)?;
        match std::mem::replace(&mut runner.state, State::Out) {
            State::Answered(connection) => Some((runner.target.clone(), connection)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
