//! The relays' own memory and that of this process, looked at once a second.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::bench::process::Process;

/// How often.
const EVERY: Duration = Duration::from_secs(1);

/// The middle of a run and its end, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Span {
    /// The median from 40 % to 60 % of the run.
    pub middle_kib: u64,
    /// The median of its last fifth.
    pub end_kib: u64,
}

impl Span {
    /// By how much it has grown, in percent; none when nothing was seen.
    #[must_use]
    pub fn growth_percent(self) -> Option<f64> {
        let grown = |kib: u64| f64::from(u32::try_from(kib).unwrap_or(u32::MAX));
        (self.middle_kib > 0).then(|| (grown(self.end_kib) / grown(self.middle_kib) - 1.0) * 100.0)
    }
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Memory {
    relays: Mutex<Vec<u64>>,
    own: Mutex<Vec<u64>>,
}

impl Memory {
    /// Looks at these processes, and this one, for ever. A second in which one of them does not run does not count.
    pub async fn watch(self: Arc<Self>, relays: Vec<Arc<AtomicU32>>) {
        let mut beat = interval(EVERY);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            let all: Option<u64> = relays.iter().map(|pid| own_kib(pid.load(Ordering::SeqCst))).sum();
            add(&self.relays, all);
            add(&self.own, own_kib(std::process::id()));
        }
    }

    /// That of all relays together.
    #[must_use]
    pub fn relays(&self) -> Span {
        span(&self.relays.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// That of this process, with both agents, all clients and the service.
    #[must_use]
    pub fn own(&self) -> Span {
        span(&self.own.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn add(seen: &Mutex<Vec<u64>>, kib: Option<u64>) {
    seen.lock().unwrap_or_else(PoisonError::into_inner).extend(kib);
}

fn own_kib(pid: u32) -> Option<u64> {
    Process::find(pid).ok()?.own_kib().ok()
}

fn span(seen: &[u64]) -> Span {
    let part = |from: usize, to: usize| median(&seen[seen.len() * from / 100..seen.len() * to / 100]);
    Span { middle_kib: part(40, 60), end_kib: part(80, 100) }
}

fn median(seen: &[u64]) -> u64 {
    let mut sorted = seen.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_from_the_middle_to_the_end() {
        let seen: Vec<u64> = (0..100).map(|second| 1000 + second).collect();
        let span = span(&seen);
        assert_eq!(span, Span { middle_kib: 1050, end_kib: 1090 });
        assert!((span.growth_percent().unwrap() - 3.8095).abs() < 0.001);
        assert_eq!(super::span(&[]).growth_percent(), None);
    }
}
