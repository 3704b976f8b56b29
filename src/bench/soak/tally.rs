//! What came of all streams.

use std::time::Duration;

use super::flow::{Broken, Flow};
use super::pattern::Wrong;
use crate::bench::failure::{Failure, Failures, Step};

/// Times are counted by the millisecond below this; one that is longer counts as this. No stream waits for so long.
const LONGEST_MS: usize = 60_000;

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// As it should.
    Whole,
    /// It broke, for the client or for the service.
    Broken(Broken),
    /// The client's socket was reset and the service never heard of it: the open was refused.
    Refused,
}

/// What came of all streams that have ended.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Streams that were carried.
    pub streams: u64,
    /// Bytes that came out, both ways.
    pub bytes: u64,
    /// What was wrong with them.
    pub wrong: Wrong,
    /// Streams with bytes that nobody sent.
    pub corrupt: u64,
    /// Streams that were reset, or ended early, or not at all.
    pub failed: u64,
    /// Opens that came to nothing; the client tried again.
    pub refused: u64,
    /// Why streams failed.
    pub failures: Failures,
}

impl Tally {
    /// Counts a stream that has ended.
    pub fn add(&mut self, flow: &Flow, ended: &Ended) {
        let wrong = flow.up.wrong().and(flow.down.wrong());
        self.bytes += flow.up.heard() + flow.down.heard();
        self.wrong = self.wrong.and(wrong);
        self.corrupt += u64::from(wrong.corrupt > 0);
        match ended {
            Ended::Refused => {
                self.refused += 1;
                return;
            }
            Ended::Broken(broken) => {
                self.failed += 1;
                self.failures.add(&Failure::new(Step::Transfer, format!("{}: {broken}", flow.shape.name())));
            }
            Ended::Whole => {}
        }
        self.streams += 1;
        if wrong.is_anything() {
            self.failures.add(&Failure::new(Step::Transfer, format!("{}: wrong bytes", flow.shape.name())));
        }
    }

    /// Counts what came to the service and is no stream's.
    pub fn add_foreign(&mut self) {
        self.corrupt += 1;
        self.failures.add(&Failure::new(Step::Transfer, "the service heard what no client says first"));
    }

    /// Whether every byte came that was to come, once and unchanged, and every end.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.failed == 0 && self.corrupt == 0 && !self.wrong.is_anything()
    }
}

/// How long streams stood still, by the millisecond.
#[derive(Debug)]
pub struct Stalls {
    counts: Box<[u64]>,
    total: u64,
}

impl Default for Stalls {
    fn default() -> Self {
        Self { counts: vec![0; LONGEST_MS + 1].into_boxed_slice(), total: 0 }
    }
}

impl Stalls {
    /// Counts one.
    pub fn add(&mut self, stall: Duration) {
        let ms = usize::try_from(stall.as_millis()).unwrap_or(LONGEST_MS).min(LONGEST_MS);
        self.counts[ms] += 1;
        self.total += 1;
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.total
    }

    /// What `percent` of them were no longer than, in milliseconds; none when there was none.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> Option<usize> {
        let wanted = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_counted() {
        let mut stalls = Stalls::default();
        assert_eq!(stalls.percentile(50), None);
        for ms in 1..=200 {
            stalls.add(Duration::from_millis(ms));
        }
        assert_eq!([50, 99, 100].map(|percent| stalls.percentile(percent)), [Some(100), Some(198), Some(200)]);
        stalls.add(Duration::from_secs(3600));
        assert_eq!((stalls.percentile(100), stalls.count()), (Some(LONGEST_MS), 201));
    }
}
