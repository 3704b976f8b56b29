//! Streams outlive what carries them: the project's own agents at both ends of a real relay, which is cut, killed and silenced
//! under them. What the local clients and services say and hear is checked byte for byte, both ways, and so is where it ends.
//!
//! The long ones print what they saw:
//!
//! ```text
//! cargo test --release --test it survival:: -- --ignored --nocapture
//! ```

use outrelay::agent::Agent;
use outrelay::config::agent::AgentConfig;
use outrelay::config::relay::RelayConfig;
use outrelay::relay::Relay;
use outrelay::supervise::fault::{self, Fault};
use serde_json::Value;

use self::forwarder::Forwarder;
use self::raw::{Raw, Transfer};
use crate::harness::{Deployment, OPEN_WORLD, agent, eventually};
use crate::matrix::ends::{CONSUMER, PROVIDER};
use crate::matrix::world::{World, walk};

mod actors;
mod cuts;
mod ends;
mod fleet;
pub mod forwarder;
mod many;
mod process;
pub mod raw;
mod window;

/// The connection's close says nothing.
const NO_REASON: u32 = 0;
/// It says RESUMABLE (wire.md §9).
const RESUMABLE: u32 = 0x10;
const BOTH: [u8; 2] = [CONSUMER, PROVIDER];

/// Each agent behind a wire of its own.
struct Wired {
    world: World,
    consumer: Forwarder,
    provider: Forwarder,
}

impl Wired {
    async fn start() -> Self {
        Self::with(|_| {}, |_, _| {}).await
    }

    async fn with(set: impl FnOnce(&mut RelayConfig), set_agent: impl Fn(u8, &mut AgentConfig)) -> Self {
        let deployment = Deployment::new();
        let mut config = deployment.relay_config("r1", OPEN_WORLD);
        set(&mut config);
        let relay = Relay::start(config).await.unwrap();
        let addr = relay.quic_addr().unwrap();
        let (consumer, provider) = (Forwarder::to(addr).await, Forwarder::to(addr).await);
        let at = [(CONSUMER, consumer.addr), (PROVIDER, provider.addr)];
        let behind = |n: u8, config: &mut AgentConfig| {
            let addr = at.iter().find(|(whose, _)| *whose == n).unwrap().1;
            config.relays = vec![addr.to_string().parse().unwrap()];
            set_agent(n, config);
        };
        let world = World::around(deployment, relay, behind).await;
        Self { world, consumer, provider }
    }

    fn wire(&self, n: u8) -> &Forwarder {
        if n == CONSUMER { &self.consumer } else { &self.provider }
    }
}

impl World {
    async fn raw(&self) -> Raw {
        Raw::open(&self.ends).await
    }

    fn agent(&self, n: u8) -> &Agent {
        if n == CONSUMER { &self.ends.consumer } else { &self.ends.provider }
    }

    /// The relay closes the connection of agent `n`.
    fn close(&self, n: u8, code: u32) {
        let connection = self.relay.vault().connections.latest_of(&agent(n)).unwrap();
        connection.quic.close(code.into(), b"");
    }

    async fn kill(&self, selector: &str) {
        self.relay.inject(selector, Fault::Kill).await.unwrap();
    }

    /// Whether a fault has met any running actor of `kind`.
    async fn has_struck(&self, kind: &str, fault: Fault) -> bool {
        for node in walk(self.relay.root()) {
            if node.kind() == kind && fault::inject(&node, fault).await.is_ok() {
                return true;
            }
        }
        false
    }

    /// The id of the only stream.
    async fn only_stream(&self) -> u64 {
        let found = streams(&self.ends.consumer);
        assert_eq!(found.len(), 1);
        found[0]["stream"]["id"].as_str().unwrap().parse().unwrap()
    }

    /// Waits until a half waits at the relay.
    async fn is_parked(&self) {
        eventually("a half waits", || (self.relay.vault().parking.len() == 1).then_some(())).await;
    }

    /// Nothing is left of any stream, in the relay or in the agents.
    async fn nothing_is_left(&self) {
        self.is_clean().await;
        let vault = self.relay.vault();
        eventually("no half waits", || vault.parking.is_empty().then_some(())).await;
        eventually("no stream counts", || (vault.traffic.streams() == 0).then_some(())).await;
        let has = |kind: &str| walk(self.relay.root()).iter().any(|node| node.kind() == kind);
        eventually("no entry, no handshake", || (!has("entry") && !has("handshake")).then_some(())).await;
        for n in BOTH {
            eventually("no stream in the agents", || streams(self.agent(n)).is_empty().then_some(())).await;
        }
    }
}

/// The streams of an agent, as its tree shows them.
fn streams(agent: &Agent) -> Vec<Value> {
    agent.tree().walk().filter(|actor| actor.kind == "stream").map(|actor| actor.detail.clone()).collect()
}

/// How often the streams of an agent have gone on on a new path, together.
fn resumed(agent: &Agent) -> u64 {
    streams(agent).iter().map(|stream| stream["carried"]["resumed"].as_u64().unwrap_or(0)).sum()
}

/// The agent's session; none while it has none.
fn session(agent: &Agent) -> Option<u64> {
    agent.tree().walk().find(|actor| actor.kind == "link")?.detail["session"].as_u64()
}

/// Waits until a part of a transfer has come through, and it is still under way.
async fn is_at(transfer: &Transfer, percent: u64) {
    eventually("bytes move", || (transfer.moved() >= transfer.total() * percent / 100).then_some(())).await;
    assert!(!transfer.is_over(), "too late to be a test");
}
