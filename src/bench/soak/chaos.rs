//! What is done to the relays: actors are killed, or panic; processes are killed, or drained; rules change.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::place::{Place, Rules};
use super::relays::RelayProcess;
use crate::admin::client::ClientError;
use crate::admin::protocol::Request;
use crate::agent::Agent;
use crate::supervise::node::Status;
use crate::supervise::report::Report;

/// How long a relay that was killed stays away, when it does: the agents have met at another one long before.
const AWAY: Duration = Duration::from_secs(6);

/// What is done next. Processes die about every tenth time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strike {
    Actor,
    Kill,
    Drain,
    Rules,
}

const STRIKES: [(Strike, u32); 4] = [(Strike::Actor, 16), (Strike::Kill, 1), (Strike::Drain, 1), (Strike::Rules, 2)];

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// Kills and panics of actors by kind, and `process` and `drain` of whole relays.
    pub kills: BTreeMap<String, u64>,
    /// How often rules were changed.
    pub rule_changes: u64,
    /// What should not have happened: a relay that exited by itself, or does not do as it is told.
    pub problems: Vec<String>,
}

/// Who does it.
#[derive(Debug)]
pub struct Chaos<'a> {
    place: &'a Place,
    /// Whose relay is in use.
    agent: &'a Agent,
    rng: StdRng,
    rules: Rules,
    /// What it has done.
    pub done: Done,
}

impl<'a> Chaos<'a> {
    /// Nothing is done yet. `seed` decides what will be.
    #[must_use]
    pub fn new(place: &'a Place, agent: &'a Agent, seed: u64) -> Self {
        Self { place, agent, rng: StdRng::seed_from_u64(seed), rules: Rules::Needed, done: Done::default() }
    }

    /// Does something every so often, for ever. It may be dropped at any moment: [`Self::restore`] is for after that.
    ///
    /// # Errors
    /// When a relay cannot be started again.
    pub async fn run(&mut self, relays: &mut [RelayProcess], every: Duration) -> anyhow::Result<()> {
        let mut beat = interval_at(Instant::now() + every, every);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            self.restore(relays).await?;
            let Ok((strike, _)) = STRIKES.choose_weighted(&mut self.rng, |(_, weight)| *weight) else { continue };
            let strike = *strike;
            let used = used(relays, self.agent);
            match strike {
                Strike::Actor => self.strike_actor(relays, used).await,
                Strike::Kill => self.kill(relays, used).await?,
                Strike::Drain => self.drain(relays, used).await?,
                Strike::Rules => {
                    self.rules = self.rules.other();
                    self.place.write_rules(self.rules).context("the rules")?;
                    self.done.rule_changes += 1;
                }
            }
        }
    }

    /// Every relay runs again; one that nobody has ended is a problem.
    ///
    /// # Errors
    /// When a relay cannot be started again.
    pub async fn restore(&mut self, relays: &mut [RelayProcess]) -> anyhow::Result<()> {
        for relay in relays {
            if let Some(status) = relay.has_exited() {
                self.done.problems.push(format!("relay {} exited by itself: {status}", relay.id));
            }
            relay.start_again().await?;
        }
        Ok(())
    }

    /// That of the relay in use more often than that of another, which has little to lose.
    async fn strike_actor(&mut self, relays: &[RelayProcess], used: usize) {
        let at = if self.rng.random_bool(0.75) { used } else { self.rng.random_range(0..relays.len()) };
        let tree = match relays[at].tree().await {
            Ok(tree) => tree,
            // Its admin socket is being bound again, perhaps.
            Err(error) => return tracing::debug!(%error, "no strike"),
        };
        let Some((id, kind)) = self.victim(&tree) else { return };
        let actor = id.to_string();
        let request = if self.rng.random() { Request::Kill { actor } } else { Request::Panic { actor } };
        match relays[at].strike(&request).await {
            Ok(_) => {}
            // It was the one that answers.
            Err(ClientError::Broken { .. }) if kind == "admin" => {}
            // It has ended by itself meanwhile.
            Err(error) => return tracing::debug!(%error, kind, "no strike"),
        }
        tracing::info!(relay = relays[at].id, kind, ?request, "struck");
        *self.done.kills.entry(kind).or_default() += 1;
    }

    /// Any kind as likely as any other, but never the root: its end is that of the process.
    fn victim(&mut self, tree: &Report) -> Option<(u64, String)> {
        let mut kinds: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for actor in tree.walk().skip(1).filter(|actor| actor.status == Status::Running) {
            kinds.entry(&actor.kind).or_default().push(actor.id);
        }
        let kinds: Vec<_> = kinds.into_iter().collect();
        let (kind, ids) = kinds.choose(&mut self.rng)?;
        Some((*ids.choose(&mut self.rng)?, (*kind).to_owned()))
    }

    async fn kill(&mut self, relays: &mut [RelayProcess], used: usize) -> anyhow::Result<()> {
        // The only relay is started again at once.
        let stays_away = relays.len() > 1 && self.rng.random();
        relays[used].kill().await?;
        tracing::info!(relay = relays[used].id, stays_away, "killed");
        *self.done.kills.entry("process".to_owned()).or_default() += 1;
        if stays_away {
            sleep(AWAY).await;
        }
        relays[used].start_again().await
    }

    async fn drain(&mut self, relays: &mut [RelayProcess], used: usize) -> anyhow::Result<()> {
        *self.done.kills.entry("drain".to_owned()).or_default() += 1;
        tracing::info!(relay = relays[used].id, "drained");
        match relays[used].drain().await {
            Ok(status) if status.success() => {}
            Ok(status) => self.done.problems.push(format!("a drained relay exited with {status}")),
            Err(error) => self.done.problems.push(format!("a drain: {error:#}")),
        }
        relays[used].start_again().await
    }
}

/// The relay that `agent` has a session with; the first one while it has none.
fn used(relays: &[RelayProcess], agent: &Agent) -> usize {
    let tree = agent.tree();
    let link = tree.walk().find(|actor| actor.kind == "link");
    let address = link.and_then(|link| link.detail["address"].as_str()).unwrap_or_default();
    relays.iter().position(|relay| relay.addr.to_string() == address).unwrap_or(0)
}
