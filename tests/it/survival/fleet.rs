//! A fleet: relays as processes that share the key of their tickets, and agents that know all of them, in the same order. Relays
//! are killed and drained under streams of every shape, none of which may fail.
//!
//! The long ones print what they saw:
//!
//! ```text
//! cargo test --release --test it fleet:: -- --ignored --nocapture
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use outrelay::agent::Agent;
use outrelay::config::agent::{AgentConfig, Backoff};
use outrelay::config::relay::RelayConfig;

use crate::harness::{Deployment, OPEN_WORLD, eventually};
use crate::matrix::ends::{Ends, link};
use crate::matrix::percentile;
use crate::program::{Program, free_address};

mod drains;
mod kills;
mod legacy;
mod outage;

/// See the module's documentation.
struct Fleet {
    /// Before the files that they use: those go with the deployment.
    relays: Vec<Program>,
    deployment: Deployment,
}

impl Fleet {
    /// So many relays. What each is told, `KEY=VALUE`, may depend on which it is and on where all of them listen.
    async fn start(size: usize, settings: impl Fn(usize, &[SocketAddr]) -> Vec<String>) -> Self {
        let deployment = Deployment::new();
        let addrs: Vec<_> = (0..size).map(|_| free_address()).collect();
        let mut relays = Vec::new();
        for (nth, listen) in addrs.iter().enumerate() {
            let mut config = RelayConfig { listen: *listen, ..deployment.relay_config(&id(nth), OPEN_WORLD) };
            config.resume.fleet_key = Some(deployment.dir.path().join("fleet.key"));
            let mut settings = settings(nth, &addrs);
            settings.push("resume.allow_unproven=false".to_owned());
            relays.push(Program::start(&deployment, &config, &settings).await);
        }
        Self { relays, deployment }
    }

    /// Both agents at the first relay. They know those that `known` says, and wait between dials as they do by themselves.
    async fn ends(&self, known: &[SocketAddr]) -> Ends {
        let knows = |_, config: &mut AgentConfig| {
            config.relays = known.iter().map(|addr| addr.to_string().parse().unwrap()).collect();
            config.backoff = Backoff::default();
        };
        Ends::start(&self.deployment, self.relays[0].addr, knows).await
    }

    fn addrs(&self) -> Vec<SocketAddr> {
        self.relays.iter().map(|relay| relay.addr).collect()
    }

    /// Waits until both agents are at one relay, and have left every other; which it is.
    async fn in_use(&self, ends: &Ends) -> usize {
        eventually("both agents are at one relay", || {
            let at = [&ends.consumer, &ends.provider].map(|agent| self.relay_of(agent));
            at[0].filter(|_| at[0] == at[1])
        })
        .await
    }

    /// Where an agent is, if it is nowhere else.
    fn relay_of(&self, agent: &Agent) -> Option<usize> {
        let link = link(agent);
        let address = link["address"].as_str().filter(|_| link["leaving"].is_null())?;
        self.relays.iter().position(|relay| relay.addr.to_string() == address)
    }
}

fn id(nth: usize) -> String {
    format!("r{}", nth + 1)
}

/// `drain.successors` of these.
fn successors(addrs: &[SocketAddr]) -> String {
    let quoted: Vec<_> = addrs.iter().map(|addr| format!("\"{addr}\"")).collect();
    format!("drain.successors=[{}]", quoted.join(", "))
}

/// How long something took, many times.
#[derive(Debug, Default)]
struct Times(Vec<Duration>);

impl Times {
    fn add(&mut self, times: impl IntoIterator<Item = Duration>) {
        self.0.extend(times);
        self.0.sort_unstable();
    }

    fn p99(&self) -> Duration {
        percentile(&self.0, 0.99)
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| percentile(&self.0, share));
        write!(f, "p50 {p50:.2?}, p99 {p99:.2?}, at the longest {max:.2?} (of {})", self.0.len())
    }
}
