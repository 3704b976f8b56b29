//! A relay, two agents of the project's own, a service and its clients; and how one actor of the relay is struck.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outrelay::config::agent::AgentConfig;
use outrelay::pki::Issued;
use outrelay::relay::Relay;
use outrelay::supervise::fault::{self, Fault};
use outrelay::supervise::node::{Node, Status};

use super::ends::Ends;
use super::flow::{Echo, End, Load, Running};
use super::handshakes::Opens;
use super::{HANG_DEADLINE, ends_for_good};
use crate::harness::{Deployment, OPEN_WORLD, agent, eventually, soon};

/// How often a condition is looked at: what is measured is no finer.
const LOOK: Duration = Duration::from_millis(1);

pub struct World {
    pub deployment: Deployment,
    pub relay: Relay,
    pub newcomer: Issued,
    pub ends: Ends,
}

/// What one strike did.
#[derive(Debug)]
pub struct Strike {
    pub recovery: Duration,
    /// Opens that were refused while the fault lasted.
    pub refused: usize,
    pub wrong: Vec<String>,
}

impl Strike {
    fn new(recovery: Duration, probes: Vec<Ended>) -> Self {
        let wrong = |probe: Ended| if let End::Wrong(why) = probe.end { Some(format!("a probe: {why}")) } else { None };
        Self {
            recovery,
            refused: probes.iter().filter(|probe| probe.end == End::Reset).count(),
            wrong: probes.into_iter().filter_map(wrong).collect(),
        }
    }
}

/// A stream that has ended.
#[derive(Debug)]
pub struct Ended {
    pub end: End,
    /// Bytes that were sent and did not come back.
    pub missing: u64,
}

impl World {
    pub async fn start() -> Self {
        // Where backtraces are on, the first panic loads the symbols, for longer than a registry call may take here.
        assert!(!std::backtrace::Backtrace::force_capture().to_string().is_empty());
        let deployment = Deployment::new();
        let mut config = deployment.relay_config("r1", OPEN_WORLD);
        config.limits.handler = HANG_DEADLINE;
        config.limits.registry_call = HANG_DEADLINE * 2 / 3;
        let relay = Relay::start(config).await.unwrap();
        Self::around(deployment, relay, |_, _| {}).await
    }

    /// Agents at `relay`; `set` may change what either is told.
    pub async fn around(deployment: Deployment, relay: Relay, set: impl Fn(u8, &mut AgentConfig)) -> Self {
        let newcomer = deployment.ca.agent(&agent(0x77)).unwrap();
        let ends = Ends::start(&deployment, relay.quic_addr().unwrap(), set).await;
        Self { deployment, relay, newcomer, ends }
    }

    /// The streams of `load`, each of which has carried a byte there and back.
    pub async fn streams(&self, load: Load) -> Streams {
        let mut streams = Streams { load, running: Vec::new(), echo: Arc::clone(&self.ends.echo) };
        streams.fill(self).await;
        streams
    }

    /// Opens a stream, and has it carry a question and its answer.
    pub async fn probe(&self) -> Ended {
        let probe = self.ends.stream(Load::Probe);
        probe.flow.end();
        over(probe, &self.ends.echo).await
    }

    /// A running actor of `kind` that the load uses, any of them.
    pub async fn pick(&self, kind: &str) -> Arc<Node> {
        let ours = [agent(1).to_string(), agent(2).to_string()];
        let fits = |node: &Arc<Node>| {
            let used = !matches!(kind, "connection" | "control") || ours.iter().any(|uri| uri == node.name());
            node.kind() == kind && node.status() == Status::Running && used
        };
        eventually(kind, || {
            let mut found: Vec<_> = walk(self.relay.root()).into_iter().filter(|node| fits(node)).collect();
            (!found.is_empty()).then(|| found.swap_remove(rand::random_range(0..found.len())))
        })
        .await
    }

    /// Does `fault` to an actor of `kind`, and waits until all is well again.
    pub async fn strike(&self, kind: &'static str, fault: Fault, streams: &Streams) -> Strike {
        let (opens, victim) = if kind == "handshake" {
            let (opens, victim) = self.opens_in_flight().await;
            (Some(opens), victim)
        } else {
            (None, self.pick(kind).await)
        };
        let restarts = victim.restarts();
        let struck = Instant::now();
        fault::inject(&victim, fault).await.unwrap();
        let during = async {
            let during = self.probe().await;
            if let Some(opens) = opens {
                Opens::are_served(opens).await;
            }
            during
        };
        let lives = eventually_soon(kind, || match ends_for_good(kind, fault) {
            true => victim.status() == Status::Stopped,
            false => victim.restarts() > restarts && victim.status() == Status::Running,
        });
        let (during, ()) = tokio::join!(during, lives);
        let marks = streams.marks();
        self.serves(kind).await;
        let probes = self.is_well(during, streams, &marks).await;
        let unnoticed = if fault == Fault::Hang { HANG_DEADLINE } else { Duration::ZERO };
        Strike::new(struck.elapsed().saturating_sub(unnoticed), probes)
    }

    /// What the same takes when nothing is struck.
    pub async fn calm(&self, streams: &Streams) -> Strike {
        let began = Instant::now();
        let during = self.probe().await;
        let probes = self.is_well(during, streams, &streams.marks()).await;
        Strike::new(began.elapsed(), probes)
    }

    /// Until a fresh open echoes, and every live stream has moved past its mark. All probes, the one `during` the fault included.
    async fn is_well(&self, during: Ended, streams: &Streams, marks: &[u64]) -> Vec<Ended> {
        let mut probes = vec![during];
        // Until one goes through: the first may still meet what the fault has left.
        loop {
            let probe = self.probe().await;
            let works = probe.end == End::Complete;
            probes.push(probe);
            if works {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        eventually_soon("every live stream moves", || streams.have_moved(marks)).await;
        probes
    }

    /// Nothing stays behind of streams that have ended, and whoever reads the metrics can tell: what was opened is what
    /// has ended and what is there.
    pub async fn is_clean(&self) {
        eventually("no stream stays", || self.relay.vault().streams.is_empty().then_some(())).await;
        eventually("no splice stays", || {
            walk(self.relay.root()).iter().all(|node| node.kind() != "splice").then_some(())
        })
        .await;
        eventually("the metrics add up", || {
            let (vault, metrics) = (self.relay.vault(), &self.relay.vault().metrics);
            let connections = metrics.connections_opened.get() - metrics.connections_ended.get();
            let streams = metrics.streams_opened.get() - metrics.streams_ended.get();
            (connections == vault.connections.len() as u64 && streams == 0).then_some(())
        })
        .await;
    }

    pub async fn shutdown(self) {
        self.ends.shutdown().await;
        self.relay.shutdown().await;
    }
}

/// The streams of a cell.
pub struct Streams {
    load: Load,
    running: Vec<Running>,
    echo: Arc<Echo>,
}

impl Streams {
    async fn fill(&mut self, world: &World) {
        while self.running.len() < self.load.streams() {
            self.running.push(world.ends.stream(self.load));
        }
        self.running.iter().for_each(|stream| stream.flow.poke());
        eventually("every stream moves", || self.running.iter().all(|it| it.flow.echoed() > 0).then_some(())).await;
        let ended = self.are_all(world).await;
        assert!(ended.is_empty(), "nothing was struck, and yet: {ended:?}");
    }

    /// Waits until the relay carries these streams and no others: no probe's that is about to end, none that is cut and
    /// whose client has not heard of it. What has ended is the result.
    async fn are_all(&mut self, world: &World) -> Vec<Running> {
        let mut ended = Vec::new();
        eventually("the relay carries these streams and no others", || {
            ended.extend(self.running.extract_if(.., |stream| stream.client.is_finished()));
            (world.relay.vault().traffic.streams() == self.running.len()).then_some(())
        })
        .await;
        ended
    }

    /// What each had sent by now; a silent one is made to speak.
    fn marks(&self) -> Vec<u64> {
        let mark = |stream: &Running| {
            let mark = stream.flow.sent();
            stream.flow.poke();
            mark
        };
        self.running.iter().map(mark).collect()
    }

    /// Whether each has got back something that it sent after `marks`, or has ended.
    fn have_moved(&self, marks: &[u64]) -> bool {
        let mut both = self.running.iter().zip(marks);
        both.all(|(stream, mark)| stream.client.is_finished() || stream.flow.echoed() > *mark)
    }

    /// Puts a new stream in the place of each that has ended.
    pub async fn replace_ended(&mut self, world: &World) -> Vec<Ended> {
        let mut ends = Vec::new();
        for stream in self.are_all(world).await {
            ends.push(over(stream, &self.echo).await);
        }
        self.fill(world).await;
        ends
    }

    /// As [`Self::replace_ended`], beside other streams.
    pub async fn refill(&mut self, world: &World) -> Vec<Ended> {
        let mut ends = Vec::new();
        for stream in Vec::from_iter(self.running.extract_if(.., |stream| stream.client.is_finished())) {
            ends.push(over(stream, &self.echo).await);
        }
        while self.running.len() < self.load.streams() {
            self.running.push(world.ends.stream(self.load));
        }
        ends
    }

    /// Has every stream end, exactly where its client ends it.
    pub async fn finish(self) -> Vec<Ended> {
        self.running.iter().for_each(|stream| stream.flow.end());
        let mut ends = Vec::new();
        for stream in self.running {
            ends.push(over(stream, &self.echo).await);
        }
        ends
    }
}

/// Waits until both ends are done with a stream.
pub async fn over(Running { flow, client }: Running, echo: &Echo) -> Ended {
    let end = soon("the stream ends", client).await.unwrap();
    eventually("the service is done with it", || (!flow.is_in_service()).then_some(())).await;
    echo.forget(&flow);
    let end = flow.wrong().map_or(end, End::Wrong);
    Ended { end, missing: flow.sent() - flow.echoed() }
}

async fn eventually_soon(what: &str, mut holds: impl FnMut() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(LOOK).await;
        }
    };
    soon(what, looking).await;
}

pub fn walk(root: &Arc<Node>) -> Vec<Arc<Node>> {
    let mut found = vec![Arc::clone(root)];
    let mut next = 0;
    while let Some(node) = found.get(next) {
        let below = node.children();
        found.extend(below);
        next += 1;
    }
    found
}
