//! What went wrong, counted by reason.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Different reasons that are kept; a relay that says something new each time must not fill the memory.
const REASONS: usize = 32;
/// What every further reason is counted under.
const OTHERS: &str = "other reasons";

/// Where something went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Making an agent's certificate or its socket.
    Prepare,
    /// The TLS handshake.
    Connect,
    /// HELLO.
    Hello,
    /// REGISTER.
    Register,
    /// From OPEN_STREAM to the provider's first byte.
    Open,
    /// From INCOMING_STREAM to STREAM_ACCEPT, at the provider.
    Accept,
    /// Payload.
    Transfer,
    /// Reading what the relay's process used.
    Process,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Connect => "connect",
            Self::Hello => "HELLO",
            Self::Register => "REGISTER",
            Self::Open => "open",
            Self::Accept => "provider",
            Self::Transfer => "transfer",
            Self::Process => "relay process",
        }
    }
}

/// One thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", step.name())]
pub struct Failure {
    step: Step,
    what: String,
}

impl Failure {
    /// `what` went wrong at `step`.
    #[must_use]
    pub fn new(step: Step, what: impl fmt::Display) -> Self {
        Self { step, what: what.to_string() }
    }

    /// For `map_err`: the error and its sources, in one line.
    pub fn of<E: std::error::Error>(step: Step) -> impl Fn(E) -> Self {
        move |error| {
            let mut what = error.to_string();
            let mut source = error.source();
            while let Some(inner) = source {
                what.push_str(": ");
                what.push_str(&inner.to_string());
                source = inner.source();
            }
            Self::new(step, what)
        }
    }
}

/// Failures by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures(BTreeMap<String, u64>);

/// One reason, and how often it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Where, and what.
    pub reason: String,
    /// How often.
    pub count: u64,
}

impl Failures {
    /// Counts one.
    pub fn add(&mut self, failure: &Failure) {
        self.add_many(failure.to_string(), 1);
    }

    /// Counts all of `other`.
    pub fn merge(&mut self, other: Self) {
        for (reason, count) in other.0 {
            self.add_many(reason, count);
        }
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The reasons, the most frequent first.
    #[must_use]
    pub fn reasons(&self) -> Vec<Reason> {
        let mut all: Vec<_> =
            self.0.iter().map(|(reason, count)| Reason { reason: reason.clone(), count: *count }).collect();
        all.sort_by_key(|reason| std::cmp::Reverse(reason.count));
        all
    }

    fn add_many(&mut self, reason: String, count: u64) {
        let full = self.0.len() >= REASONS && !self.0.contains_key(&reason);
        *self.0.entry(if full { OTHERS.to_owned() } else { reason }).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_reason_and_the_most_frequent_comes_first() {
        let mut failures = Failures::default();
        failures.add(&Failure::new(Step::Connect, "timed out"));
        for _ in 0..2 {
            failures.add(&Failure::new(Step::Open, "403 denied"));
        }
        let mut more = Failures::default();
        more.add(&Failure::new(Step::Open, "403 denied"));
        failures.merge(more);
        assert_eq!(failures.count(), 4);
        let reasons: Vec<_> = failures.reasons().into_iter().map(|reason| (reason.reason, reason.count)).collect();
        assert_eq!(reasons, [("open: 403 denied".to_owned(), 3), ("connect: timed out".to_owned(), 1)]);
    }

    #[test]
    fn reasons_that_differ_each_time_do_not_fill_the_memory() {
        let mut failures = Failures::default();
        for n in 0..1000 {
            failures.add(&Failure::new(Step::Open, n));
        }
        assert_eq!(failures.count(), 1000);
        assert_eq!(failures.reasons().len(), REASONS + 1);
        assert_eq!(failures.reasons()[0].reason, OTHERS);
    }

    #[test]
    fn the_sources_of_an_error_are_told() {
        let inner = crate::net::stream::WriteEnd::Lost;
        assert_eq!(Failure::of(Step::Hello)(inner).to_string(), "HELLO: connection lost");
    }
}
