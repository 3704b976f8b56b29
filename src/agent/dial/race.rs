//! Which relay of a list is taken.
//!
//! All agents of a deployment are to meet, so the order of the list decides, and not who is quickest. But relays that are dead must not be
//! waited for in turn. So each is asked a little after the one before, while that may still answer; and once one has answered, those
//! before it are waited for only so long as they might need: [`PATIENCE`] from when they were asked where streams wait, all of the
//! connect timeout where nobody is in a hurry.
//!
//! Where it was this agent's own network that was away, those before the first that answers are back as well, but what they were sent is
//! lost, and it is long until it is sent again. So those that have had their time are asked once more. And who has refused may have room
//! in a moment: it is asked again while others are waited for.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::Instant;

use super::DialError;
use crate::agent::vault::session::Target;
use crate::clock::sleep_until_any;

/// How much later the next relay is asked while the one before has not answered (RFC 8305 §5, Connection Attempt Delay). So long, too,
/// until one that has refused is asked again.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long a relay is waited for where streams wait and another one has answered: long enough for one that a thousand agents dial at
/// once; or twice as long as the other took, or four of its own round trips as they were last, if that is longer.
const PATIENCE: Duration = Duration::from_millis(750);
/// Who was asked so long ago is asked once more when another one has answered. Not sooner: a relay that is slow because many ask it is
/// not helped by more questions, and what is lost is sent again after 300 ms.
const LOST: Duration = Duration::from_millis(500);
/// How long the answer to that is waited for at least, and at most: twice as long as the one that has answered took.
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
}

/// An answer.
pub(super) trait Answer {
    /// Whether it still holds.
    fn stands(&self) -> bool;
}

/// What a race asks with.
pub(super) struct Rules<F, W> {
    /// How long for a connection, at most.
    pub connect: Duration,
    /// Asks a relay.
    pub reach: F,
    /// Whether streams wait, now.
    pub streams_wait: W,
}

impl<F, W> Rules<F, W> {
    /// Until when a relay is waited for, where the first that answered took so long.
    fn until<S>(&self, runner: &Runner<S>, took: Option<Duration>, streams_wait: bool) -> Instant {
        let took = took.unwrap_or_default();
        let patience = PATIENCE.max(took * 2).max(runner.target.rtt * 4).min(self.connect);
        let until = runner.began + if streams_wait { patience } else { self.connect };
        runner.again_until.map_or(until, |again| again.max(until))
    }
}

/// Which relay, when it was asked, and what it said.
type Answered<S> = (usize, Instant, Result<S, DialError>);

/// See the module's documentation. `S` is a session.
pub(super) struct Race<'a, S, F, W> {
    rules: Rules<F, W>,
    runners: Vec<Runner<S>>,
    open: FuturesUnordered<BoxFuture<'a, Answered<S>>>,
    /// How long the first that answered took.
    took: Option<Duration>,
}

/// A relay of the list.
#[derive(Debug)]
struct Runner<S> {
    target: Target,
    state: State<S>,
    /// How many questions to it are open.
    open: usize,
    /// When it was asked first.
    began: Instant,
    /// Until when the answer to a second question is waited for.
    again_until: Option<Instant>,
}

#[derive(Debug)]
enum State<S> {
    Waits,
    Asked,
    Answered(S),
    /// Nothing was heard of it.
    Unheard,
    /// It has refused, and may be asked again from then on.
    Refused(Instant),
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

impl<'a, S, F, W> Race<'a, S, F, W>
where
    S: Answer + Send + 'a,
    F: Fn(Question) -> BoxFuture<'a, Result<S, DialError>>,
    W: Fn() -> bool,
{
    /// Nobody is asked before [`Race::run`].
    pub(super) fn new(targets: Vec<Target>, rules: Rules<F, W>) -> Self {
        let began = Instant::now();
        let runner = |target| Runner { target, state: State::Waits, open: 0, began, again_until: None };
        let runners = targets.into_iter().map(runner).collect();
        Self { rules, runners, open: FuturesUnordered::new(), took: None }
    }

    /// To the end. What is open then is dropped.
    pub(super) async fn run(mut self) -> Outcome<S> {
        let taken = loop {
            let wake = match self.turn(Instant::now()) {
                Turn::Ask(at) => {
                    self.ask(at, Ask::First, self.rules.connect);
                    continue;
                }
                Turn::Take(at) => break Some(at),
                Turn::Over => break None,
                Turn::Wait(until) => sleep_until_any(until),
            };
            tokio::select! {
                Some((at, asked, answer)) = self.open.next() => self.on_answer(at, asked, answer),
                () = wake => {}
            }
        };
        self.say_who_is_passed_over(taken);
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

    fn turn(&mut self, now: Instant) -> Turn {
        self.forget_the_gone();
        if let Some(best) = self.runners.iter().position(|runner| matches!(runner.state, State::Answered(_))) {
            // Whether streams wait may change meanwhile: it is looked again soon.
            return match self.awaited(best) {
                Some(until) if until > now => Turn::Wait(Some(until.min(now + HEAD_START))),
                _ => Turn::Take(best),
            };
        }
        let next = self.runners.iter().position(|runner| matches!(runner.state, State::Waits));
        if let Some(next) = next {
            let last = next.checked_sub(1).and_then(|last| self.runners.get(last));
            return match last.filter(|last| last.open > 0).map(|last| last.began + HEAD_START) {
                Some(due) if due > now => Turn::Wait(Some(due)),
                _ => Turn::Ask(next),
            };
        }
        if self.open.is_empty() {
            return Turn::Over;
        }
        let refused = self.runners.iter().enumerate().filter_map(|(at, runner)| match runner.state {
            State::Refused(from) => Some((from, at)),
            _ => None,
        });
        match refused.min() {
            Some((from, at)) if from <= now => Turn::Ask(at),
            Some((from, _)) => Turn::Wait(Some(from)),
            None => Turn::Wait(None),
        }
    }

    /// Who has answered, and has gone since.
    fn forget_the_gone(&mut self) {
        for runner in &mut self.runners {
            if let State::Answered(session) = &runner.state
                && !session.stands()
            {
                tracing::warn!(relay = %runner.target.address, error = "it has closed the connection", "no session");
                runner.state = State::Out;
            }
        }
    }

    /// Until when those before `at` are waited for that are still asked. `None`: there are none.
    fn awaited(&self, at: usize) -> Option<Instant> {
        let streams_wait = (self.rules.streams_wait)();
        let open = self.runners.iter().take(at).filter(|runner| runner.open > 0);
        open.map(|runner| self.rules.until(runner, self.took, streams_wait)).max()
    }

    fn ask(&mut self, at: usize, ask: Ask, within: Duration) {
        let Some(runner) = self.runners.get_mut(at) else { return };
        let now = Instant::now();
        if matches!(runner.state, State::Waits) {
            runner.began = now;
        }
        runner.state = State::Asked;
        runner.open += 1;
        let answer = (self.rules.reach)(Question { target: runner.target.clone(), ask, within });
        self.open.push(Box::pin(async move { (at, now, answer.await) }));
    }

    fn on_answer(&mut self, at: usize, asked: Instant, answer: Result<S, DialError>) {
        let Some(runner) = self.runners.get_mut(at) else { return };
        runner.open -= 1;
        match answer {
            Ok(session) => {
                runner.state = State::Answered(session);
                let took = *self.took.get_or_insert(asked.elapsed());
                self.ask_again(at, took);
            }
            // It has answered, or is asked on another connection, too, which has the last word.
            Err(error) if runner.open > 0 || !matches!(runner.state, State::Asked) => {
                tracing::debug!(relay = %runner.target.address, error = error.to_string(), "asked twice");
            }
            Err(error) => {
                // As a quoted text: it may hold what a peer said.
                tracing::warn!(relay = %runner.target.address, error = error.to_string(), "no session");
                runner.state = match error {
                    DialError::Refused(_) => State::Refused(Instant::now() + HEAD_START),
                    error if error.is_unheard() => State::Unheard,
                    _ => State::Out,
                };
            }
        }
    }

    /// Those before the one that has answered, and took so long.
    fn ask_again(&mut self, answered: usize, took: Duration) {
        let now = Instant::now();
        let [least, most] = AGAIN;
        let again = now + (took * 2).clamp(least, most);
        let streams_wait = (self.rules.streams_wait)();
        for at in 0..answered {
            let Some(runner) = self.runners.get_mut(at) else { return };
            let is_lost = match runner.state {
                State::Unheard => true,
                // Once.
                State::Asked => runner.again_until.is_none() && runner.began + LOST <= now,
                _ => false,
            };
            if is_lost {
                runner.again_until = Some(again);
                let until = self.rules.until(runner, self.took, streams_wait);
                self.ask(at, Ask::Again, until - now);
            }
        }
    }

    fn say_who_is_passed_over(&self, taken: Option<usize>) {
        let before = taken.and_then(|taken| self.runners.get(..taken)).unwrap_or_default();
        for runner in before.iter().filter(|runner| runner.open > 0) {
            let after = runner.began.elapsed();
            tracing::warn!(relay = %runner.target.address, ?after, "not waited for any longer: another relay has answered");
        }
    }
}

#[cfg(test)]
mod tests;
