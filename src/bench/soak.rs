//! Streams of every shape through relays that are killed, drained and disturbed all the while, each byte of them checked.
//!
//! The relays are processes of this program; both agents, the clients and the service are in this one.
//!
//! | file | what it is |
//! |---|---|
//! | [`pattern`] | bytes that say where they belong, and the check that tells lost from duplicated from corrupt |
//! | [`way`], [`flow`] | one direction of a stream; a stream, and what its two sides say |
//! | [`load`] | so many streams at any moment |
//! | [`tally`], [`memory`], [`outcome`] | what is counted, and what is said of it |
//! | [`place`], [`relays`] | the deployment's files; the relays' processes |
//! | [`chaos`] | what is done to the relays |

pub mod chaos;
pub mod flow;
pub mod load;
pub mod memory;
pub mod outcome;
pub mod pattern;
pub mod place;
pub mod relays;
pub mod tally;
pub mod way;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use self::chaos::{Chaos, Done};
use self::load::{ENDING, Load, Volume};
use self::memory::Memory;
use self::outcome::{Kept, Outcome, StallMs};
use self::place::Place;
use self::relays::{Counts, RelayProcess, descriptors};
use crate::agent::Agent;
use crate::supervise::task;

/// How long the agents may take to reach a relay.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long what streams leave behind may take to go: longer than anything waits for an agent that is gone.
const LEFT: Duration = Duration::from_secs(45);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// All that a soak does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// For how long.
    pub lasting: Duration,
    /// What is carried.
    pub volume: Volume,
    /// Relays: the agents know all of them, in the same order.
    pub relays: usize,
    /// How often something is done to a relay; none: never.
    pub chaos: Option<Duration>,
    /// The log level of the relays.
    pub relay_log: String,
}

/// Everything that runs.
struct Stage {
    relays: Vec<RelayProcess>,
    provider: Agent,
    consumer: Agent,
    load: Arc<Load>,
    service: task::Owned,
    clients: task::Owned,
    memory: Arc<Memory>,
}

/// Does what `plan` says, with its files in `dir`; ends before its time when `stop` does.
///
/// # Errors
/// When it cannot be set up, or a relay does not come back. What goes wrong with streams is in the outcome.
pub async fn run(plan: &Plan, dir: &Path, stop: impl Future) -> anyhow::Result<Outcome> {
    let place = Place::make(dir)?;
    let mut rng = StdRng::seed_from_u64(plan.volume.seed);
    let mut relays = Vec::new();
    for n in 1..=plan.relays {
        relays.push(RelayProcess::start(&place, format!("r{n}"), &plan.relay_log, &mut rng).await?);
    }
    let mut before = Vec::new();
    for relay in &relays {
        before.push((relay.id.clone(), relay.counts().await.context("a relay's counts")?));
    }
    let own = Counts { actors: 0, fds: descriptors(std::process::id())? };
    let mut stage = Stage::set_up(plan, &place, relays).await?;
    let begun = Instant::now();
    let done = stage.play(plan, &place, stop).await?;
    let lasted = begun.elapsed();
    let mut outcome = stage.wind_up(done, lasted).await;
    let mut kept = Vec::new();
    let relays = stage.strike().await;
    for (relay, (whose, start)) in relays.iter().zip(before) {
        let end = is_back_at(start, || relay.counts()).await.context("a relay's counts at the end")?;
        kept.push(Kept { whose, start, end });
    }
    let fds = || async { Ok(Counts { actors: 0, fds: descriptors(std::process::id())? }) };
    kept.push(Kept { whose: "bench".to_owned(), start: own, end: is_back_at(own, fds).await? });
    outcome.kept = kept;
    Ok(outcome)
}

impl Stage {
    async fn set_up(plan: &Plan, place: &Place, relays: Vec<RelayProcess>) -> anyhow::Result<Self> {
        let addresses: Vec<_> = relays.iter().map(|relay| relay.addr).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let provider = place.provider(&addresses, listener.local_addr()?).await?;
        let (consumer, offered) = place.consumer(&addresses).await?;
        let up = async { tokio::join!(provider.wait_registered(), consumer.wait_registered()) };
        timeout(PATIENCE, up).await.context("the agents do not reach a relay")?;
        let load = Load::new(plan.volume);
        let memory = Arc::new(Memory::default());
        let service = task::run(Arc::clone(&load).serve(listener));
        let clients = task::run(Arc::clone(&load).call(offered));
        Ok(Self { relays, provider, consumer, load, service, clients, memory })
    }

    /// Streams are carried, and relays are struck, until it is time.
    async fn play(&mut self, plan: &Plan, place: &Place, stop: impl Future) -> anyhow::Result<Done> {
        let pids = self.relays.iter().map(RelayProcess::pid).collect();
        let _watch = task::run(Arc::clone(&self.memory).watch(pids));
        let look = async {
            let mut beat = interval(plan.chaos.unwrap_or(Duration::from_secs(2)));
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                beat.tick().await;
                self.load.look();
            }
        };
        let mut chaos = Chaos::new(place, &self.consumer, plan.volume.seed);
        let strikes = async {
            match plan.chaos {
                Some(every) => chaos.run(&mut self.relays, every).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            failed = strikes => failed?,
            () = look => {}
            () = sleep(plan.lasting) => {}
            _ = stop => {}
        }
        chaos.restore(&mut self.relays).await?;
        Ok(chaos.done)
    }

    /// Every stream ends.
    async fn wind_up(&mut self, done: Done, lasted: Duration) -> Outcome {
        self.load.close();
        let mut problems = Vec::new();
        // Each has a bound of its own, so this one is not reached.
        if timeout(ENDING * 3, async {
            while !self.clients.is_finished() {
                sleep(LOOK).await
            }
        })
        .await
        .is_err()
        {
            problems.push(format!("{} streams do not end", self.load.live()));
        }
        let streams = || async { [&self.provider, &self.consumer].map(streams).iter().sum::<usize>() };
        let deadline = Instant::now() + LEFT;
        while streams().await > 0 && Instant::now() < deadline {
            sleep(LOOK).await;
        }
        let left = streams().await;
        if left > 0 {
            problems.push(format!("the agents still have {left} actors of streams that have ended"));
        }
        for relay in &mut self.relays {
            if let Some(status) = relay.has_exited() {
                problems.push(format!("relay {} exited by itself: {status}", relay.id));
            }
        }
        let stalls = self.load.stalls();
        let percentile = |percent| stalls.percentile(percent);
        let stalls = StallMs { p50: percentile(50), p99: percentile(99), max: percentile(100), count: stalls.count() };
        let (tally, relays_memory, own_memory) = (self.load.tally(), self.memory.relays(), self.memory.own());
        Outcome { lasted, tally, stalls, done, relays_memory, own_memory, kept: Vec::new(), problems }
    }

    /// All but the relays are gone.
    async fn strike(self) -> Vec<RelayProcess> {
        drop((self.clients, self.service));
        self.consumer.shutdown().await;
        self.provider.shutdown().await;
        self.relays
    }
}

fn streams(agent: &Agent) -> usize {
    agent.tree().walk().filter(|actor| actor.kind == "stream").count()
}

/// Waits until there is as much as at the start. What there is then.
async fn is_back_at<F>(start: Counts, now: impl Fn() -> F) -> anyhow::Result<Counts>
where
    F: Future<Output = anyhow::Result<Counts>>,
{
    let deadline = Instant::now() + LEFT;
    loop {
        let found = now().await;
        match found {
            Ok(found) if found == start => return Ok(found),
            found if Instant::now() > deadline => return found,
            _ => sleep(LOOK).await,
        }
    }
}
