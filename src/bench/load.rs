//! Workers that do the same thing over and over, and the window in which it counts.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout_at};

use super::failure::{Failure, Failures, Step};
use super::figures::Times;
use super::process::{Meter, Process, Window};
use super::{GRACE, Timing};

/// After a failure, so that a relay that refuses at once is not asked as fast as it can answer.
const PAUSE: Duration = Duration::from_millis(20);

/// What went wrong with one round of a worker.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The next one may go well.
    Once(Failure),
    /// There can be no next one.
    Last(Failure),
}

/// What is done over and over.
pub(super) trait Worker: Send + 'static {
    /// Does it once; how long it took.
    fn once(&mut self) -> impl Future<Output = Result<Duration, Trouble>> + Send;

    /// After the last time, if there could have been a next one.
    fn end(self) -> impl Future<Output = Result<(), Failure>> + Send
    where
        Self: Sized,
    {
        async { Ok(()) }
    }
}

/// Whether it counts now.
#[derive(Debug, Default)]
pub(super) struct Phase(AtomicU8);

const WARM_UP: u8 = 0;
const MEASURED: u8 = 1;
const OVER: u8 = 2;

impl Phase {
    fn is_measured(&self) -> bool {
        self.0.load(Ordering::Relaxed) == MEASURED
    }

    /// Whether it is time to end.
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == OVER
    }

    /// Goes through all phases, and measures the middle one. `count` is what has been done so far; what was done within the
    /// window is returned. The phase is over when this returns, also in error.
    pub(super) async fn pass(
        &self,
        timing: Timing,
        relay: Option<&Process>,
        count: impl Fn() -> u64,
    ) -> Result<(Window, u64), Failure> {
        debug_assert_eq!(self.0.load(Ordering::Relaxed), WARM_UP, "a phase is passed once");
        sleep(timing.warm_up).await;
        let (meter, before) = (Meter::start(relay), count());
        self.0.store(MEASURED, Ordering::Relaxed);
        sleep(timing.measured).await;
        self.0.store(OVER, Ordering::Relaxed);
        let (window, after) = (meter.and_then(Meter::stop), count());
        Ok((window?, after - before))
    }
}

/// What the workers did.
#[derive(Debug)]
pub(super) struct Lap {
    /// How long each round took that ended within the window.
    pub(super) times: Times,
    pub(super) failures: Failures,
    pub(super) window: Window,
}

impl Lap {
    /// Rounds per second.
    pub(super) fn rate(&self) -> f64 {
        self.count() / self.window.seconds
    }

    /// CPU seconds of the relay per round.
    pub(super) fn cpu_per_round(&self) -> Option<f64> {
        self.window.cpu_seconds.map(|cpu| cpu / self.count())
    }

    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 rounds")]
    fn count(&self) -> f64 {
        self.times.count() as f64
    }
}

/// Lets `workers` work. Whoever has not ended [`GRACE`] after the window has failed.
pub(super) async fn drive<W: Worker>(workers: Vec<W>, timing: Timing, relay: Option<&Process>) -> Result<Lap, Failure> {
    let phase = Arc::new(Phase::default());
    let mut working = JoinSet::new();
    for worker in workers {
        working.spawn(work(worker, Arc::clone(&phase)));
    }
    let (window, _) = phase.pass(timing, relay, || 0).await?;
    let (mut times, mut failures) = (Vec::new(), Failures::default());
    let deadline = tokio::time::Instant::now() + GRACE;
    while !working.is_empty() {
        match timeout_at(deadline, working.join_next()).await {
            Ok(Some(Ok((more, failed)))) => {
                times.extend(more);
                failures.merge(failed);
            }
            Ok(Some(Err(error))) => failures.add(&Failure::of(Step::Transfer)(error)),
            Ok(None) => break,
            Err(_) => {
                let what = format!("no answer {} s after the end of the run", GRACE.as_secs());
                for _ in 0..working.len() {
                    failures.add(&Failure::new(Step::Transfer, &what));
                }
                break;
            }
        }
    }
    Ok(Lap { times: Times::new(times), failures, window })
}

async fn work<W: Worker>(mut worker: W, phase: Arc<Phase>) -> (Vec<Duration>, Failures) {
    let (mut times, mut failures) = (Vec::new(), Failures::default());
    while !phase.is_over() {
        match worker.once().await {
            Ok(time) if phase.is_measured() => times.push(time),
            Ok(_) => {}
            Err(Trouble::Once(failure)) => {
                failures.add(&failure);
                sleep(PAUSE).await;
            }
            Err(Trouble::Last(failure)) => {
                failures.add(&failure);
                return (times, failures);
            }
        }
    }
    if let Err(failure) = worker.end().await {
        failures.add(&failure);
    }
    (times, failures)
}
