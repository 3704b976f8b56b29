//! Which relay of a list is taken.
//!
//! All agents of a deployment are to meet, so the order of the list decides, and not who is quickest. But relays that are dead must not be
//! waited for in turn. So each is asked a little after the one before, while that may still answer; and once one has answered, those
//! before it are waited for only so long as they might need: [`PATIENCE`] from when they were asked where streams wait, all of the
//! connect timeout where nobody is in a hurry.
//!
//! Where it was this agent's own network that was away, those before the first that answers are back as well, but what they were sent is
//! lost, and it is long until it is sent again. So those that have had their time are asked once more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep_until};

use super::DialError;
use crate::agent::vault::session::Target;

/// How much later the next relay is asked while the one before has not answered (RFC 8305 §5, Connection Attempt Delay).
const HEAD_START: Duration = Duration::from_millis(250);
/// How long a relay is waited for where streams wait and another one was heard; four times as long as that one took, if that is longer.
const PATIENCE: Duration = Duration::from_millis(750);
/// Who was asked so long ago is asked once more when another one has answered. Not sooner: a relay that is slow because many ask it is
/// not helped by more questions, and what is lost is sent again after 300 ms.
const LOST: Duration = Duration::from_millis(500);
/// How long the answer to that is waited for at least, and at most: four times as long as the one that has answered took.
const AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

/// How a relay is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Its addresses one after the other.
    First,
    /// All of them at once: there is little time.
    Again,
}

/// What a relay is to be asked.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub target: Target,
    pub ask: Ask,
    /// How long for a connection.
    pub within: Duration,
    hello: Arc<AtomicBool>,
}

impl Question {
    /// True once for each relay: it hears HELLO on one connection alone, and would take the later one for the agent's.
    pub(super) fn may_say_hello(&self) -> bool {
        !self.hello.swap(true, Ordering::Relaxed)
    }
}

/// How long relays are waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// At most, for a connection.
    pub connect: Duration,
    /// Whether streams live that have no session.
    pub streams_wait: bool,
}

/// See the module's documentation. `S` is a session.
pub(super) struct Race<'a, S, F> {
    pace: Pace,
    reach: F,
    runners: Vec<Runner<S>>,
    open: FuturesUnordered<BoxFuture<'a, (usize, Result<S, DialError>)>>,
    /// How long those are waited for that are asked: set when one was heard.
    patience: Option<Duration>,
}

/// A relay of the list.
#[derive(Debug)]
struct Runner<S> {
    target: Target,
    state: State<S>,
    /// How many questions to it are open.
    open: usize,
    began: Instant,
    /// It is waited for until then because it was asked again.
    until: Instant,
    hello: Arc<AtomicBool>,
}

#[derive(Debug)]
enum State<S> {
    Waits,
    Asked,
    Answered(S),
    /// Nothing was heard of it.
    Unheard,
    /// It was heard, and cannot be had.
    Out,
}

/// What is to be done now.
enum Turn {
    Ask(usize),
    Take(usize),
    Wait(Option<Instant>),
    Over,
}

/// How a race ended.
#[derive(Debug)]
pub(super) struct Outcome<S> {
    /// Who is taken; nobody, if nobody can be had.
    pub taken: Option<S>,
    /// The others that have answered.
    pub others: Vec<S>,
}

impl<'a, S, F> Race<'a, S, F>
where
    S: Send + 'a,
    F: Fn(Question) -> BoxFuture<'a, Result<S, DialError>>,
{
    /// Nobody is asked before [`Race::run`].
    pub(super) fn new(targets: Vec<Target>, pace: Pace, reach: F) -> Self {
        let now = Instant::now();
        let runner = |target| {
            let (state, hello) = (State::Waits, Arc::default());
            Runner { target, state, open: 0, began: now, until: now, hello }
        };
        let runners = targets.into_iter().map(runner).collect();
        Self { pace, reach, runners, open: FuturesUnordered::new(), patience: None }
    }

    /// To the end. What is open then is dropped.
    pub(super) async fn run(mut self) -> Outcome<S> {
        let taken = loop {
            let wake = match self.turn(Instant::now()) {
                Turn::Ask(at) => {
                    self.ask(at, Ask::First, self.pace.connect);
                    continue;
                }
                Turn::Take(at) => break Some(at),
                Turn::Over => break None,
                Turn::Wait(until) => wait(until),
            };
            tokio::select! {
                Some((at, answer)) = self.open.next() => self.on_answer(at, answer),
                () = wake => {}
            }
        };
        self.told_how_it_ended(taken);
        let mut outcome = Outcome { taken: None, others: Vec::new() };
        for (at, runner) in self.runners.into_iter().enumerate() {
            match runner.state {
                State::Answered(session) if taken == Some(at) => outcome.taken = Some(session),
                State::Answered(session) => outcome.others.push(session),
                _ => {}
            }
        }
        outcome
    }

    fn turn(&self, now: Instant) -> Turn {
        if let Some(best) = self.runners.iter().position(|runner| matches!(runner.state, State::Answered(_))) {
            return match self.awaited(best) {
                Some(until) if until > now => Turn::Wait(Some(until)),
                _ => Turn::Take(best),
            };
        }
        let Some(next) = self.runners.iter().position(|runner| matches!(runner.state, State::Waits)) else {
            // Where one has refused, those that are not heard are not waited for longer than where one has answered.
            return match self.awaited(self.runners.len()) {
                Some(until) if self.patience.is_none() || until > now => Turn::Wait(self.patience.map(|_| until)),
                _ => Turn::Over,
            };
        };
        match next.checked_sub(1).and_then(|last| self.runners.get(last)) {
            Some(last) if last.open > 0 && last.began + HEAD_START > now => Turn::Wait(Some(last.began + HEAD_START)),
            _ => Turn::Ask(next),
        }
    }

    /// Until when those before `at` are waited for that are still asked. `None`: there are none.
    fn awaited(&self, at: usize) -> Option<Instant> {
        let patience = self.patience.unwrap_or(self.pace.connect);
        let open = self.runners.iter().take(at).filter(|runner| runner.open > 0);
        open.map(|runner| runner.until.max(runner.began + patience)).max()
    }

    fn ask(&mut self, at: usize, ask: Ask, within: Duration) {
        let Some(runner) = self.runners.get_mut(at) else { return };
        if ask == Ask::First {
            runner.began = Instant::now();
        }
        runner.state = State::Asked;
        runner.open += 1;
        let question = Question { target: runner.target.clone(), ask, within, hello: Arc::clone(&runner.hello) };
        let answer = (self.reach)(question);
        self.open.push(Box::pin(async move { (at, answer.await) }));
    }

    fn on_answer(&mut self, at: usize, answer: Result<S, DialError>) {
        let Some(runner) = self.runners.get_mut(at) else { return };
        runner.open -= 1;
        let took = runner.began.elapsed();
        match answer {
            Ok(session) => {
                runner.state = State::Answered(session);
                if self.patience.is_none() {
                    self.be_patient(took);
                }
                self.ask_again(at, took);
            }
            // The other connection to it goes on.
            Err(DialError::Twice) => {}
            Err(error) => {
                // As a quoted text: it may hold what a peer said.
                tracing::warn!(relay = %runner.target.address, error = error.to_string(), "no session");
                if runner.open == 0 && matches!(runner.state, State::Asked) {
                    runner.state = if error.is_unheard() { State::Unheard } else { State::Out };
                }
                if self.patience.is_none() && !error.is_unheard() {
                    self.be_patient(took);
                }
            }
        }
    }

    /// One was heard after so long: our network is there.
    fn be_patient(&mut self, took: Duration) {
        let Pace { connect, streams_wait } = self.pace;
        self.patience = Some(if streams_wait { PATIENCE.max(took * 4).min(connect) } else { connect });
    }

    /// Those before the one that has answered, and took so long.
    fn ask_again(&mut self, answered: usize, took: Duration) {
        let now = Instant::now();
        let [least, most] = AGAIN;
        let patience = self.patience.unwrap_or(self.pace.connect);
        for at in 0..answered {
            let Some(runner) = self.runners.get_mut(at) else { return };
            let is_lost = match runner.state {
                State::Unheard => true,
                // Once.
                State::Asked => runner.open == 1 && runner.until <= runner.began && runner.began + LOST <= now,
                _ => false,
            };
            if is_lost {
                runner.until = (runner.began + patience).max(now + (took * 4).clamp(least, most));
                let within = runner.until - now;
                self.ask(at, Ask::Again, within);
            }
        }
    }

    fn told_how_it_ended(&self, taken: Option<usize>) {
        let passed_over = taken.map_or(self.runners.as_slice(), |taken| self.runners.get(..taken).unwrap_or_default());
        for runner in passed_over.iter().filter(|runner| runner.open > 0) {
            let within = runner.began.elapsed();
            tracing::warn!(relay = %runner.target.address, error = format!("no answer within {within:?}"), "no session");
        }
    }
}

async fn wait(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
