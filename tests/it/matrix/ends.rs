//! The project's two agents, the services behind one of them, and where their clients connect at the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrelay::agent::Agent;
use outrelay::config::agent::{AgentConfig, Consume, Expose};
use tokio::net::TcpListener;

use super::flow::{Echo, Load, Running};
use crate::harness::{Deployment, agent, soon};

/// The provider's agent, as [`agent`] numbers it.
pub const PROVIDER: u8 = 1;
/// The consumer's.
pub const CONSUMER: u8 = 2;

/// `svc` is an echo, `raw` is served by the test itself, `slow` by nobody yet.
pub struct Ends {
    pub consumer: Agent,
    pub provider: Agent,
    pub echo: Arc<Echo>,
    pub raw: TcpListener,
}

impl Ends {
    /// Both agents, registered at `relay`; `set` may change what either is told.
    pub async fn start(deployment: &Deployment, relay: SocketAddr, set: impl Fn(u8, &mut AgentConfig)) -> Self {
        let echo = Arc::new(Echo::default());
        let service = echo.start().await;
        let raw = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let expose = |name: &str, to: SocketAddr| Expose { name: name.to_owned(), to: to.to_string().parse().unwrap() };
        let consume = |name: &str| Consume {
            name: name.to_owned(),
            method: String::new(),
            listen: "127.0.0.1:0".parse().unwrap(),
        };
        let mut provider = config(deployment, PROVIDER, relay);
        provider.expose = vec![expose("svc", service), expose("raw", raw.local_addr().unwrap())];
        set(PROVIDER, &mut provider);
        let mut consumer = config(deployment, CONSUMER, relay);
        consumer.consume = ["svc", "raw", "slow"].map(consume).into();
        set(CONSUMER, &mut consumer);
        Self { provider: started(provider).await, consumer: started(consumer).await, echo, raw }
    }

    /// A stream to the echo.
    pub fn stream(&self, load: Load) -> Running {
        self.echo.stream(self.consumer.local_addr("svc").unwrap(), load)
    }

    pub async fn shutdown(self) {
        self.consumer.shutdown().await;
        self.provider.shutdown().await;
    }
}

fn config(deployment: &Deployment, n: u8, relay: SocketAddr) -> AgentConfig {
    let mut config = AgentConfig {
        relays: vec![relay.to_string().parse().unwrap()],
        tls: deployment.agent_tls(&agent(n)),
        ..AgentConfig::default()
    };
    // Connections are closed here many times a minute; an agent must not take that for a relay to be left alone.
    config.backoff.initial = Duration::from_millis(20);
    config.backoff.max = Duration::from_millis(100);
    config
}

async fn started(config: AgentConfig) -> Agent {
    let agent = Agent::start(config).await.unwrap();
    soon("the agent is registered", agent.wait_registered()).await;
    agent
}

/// What an agent shows of its sessions.
pub fn link(agent: &Agent) -> serde_json::Value {
    let tree = agent.tree();
    tree.walk().find(|actor| actor.kind == "link").unwrap().detail.clone()
}
