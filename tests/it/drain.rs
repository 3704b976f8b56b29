//! A relay that drains, under streams whose every byte is checked: its agents take them along to another relay while the old
//! paths still stand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use outrelay::agent::Agent;
use outrelay::config::agent::{AgentConfig, Consume, Expose};
use outrelay::config::relay::RelayConfig;
use outrelay::relay::Relay;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{ALONE, Deployment, OPEN_WORLD, agent, eventually, noise, soon};
use crate::matrix::flow::{Echo, End, Load, Running};

/// A short one, so that tests are.
const JITTER: Duration = Duration::from_millis(100);

struct World {
    deployment: Deployment,
    provider: Agent,
    consumer: Agent,
    echo: Arc<Echo>,
    half: TcpListener,
}

fn addr(relay: &Relay) -> String {
    relay.quic_addr().unwrap().to_string()
}

async fn relay(deployment: &Deployment, id: &str, change: impl FnOnce(&mut RelayConfig)) -> Relay {
    let mut config = deployment.relay_config(id, OPEN_WORLD);
    change(&mut config);
    Relay::start(config).await.unwrap()
}

fn to(successors: &[&Relay]) -> impl FnOnce(&mut RelayConfig) {
    let successors = successors.iter().map(|relay| addr(relay).parse().unwrap()).collect();
    |config| config.drain.successors = successors
}

impl World {
    /// Two agents that know these relays, and use the first.
    async fn start(deployment: Deployment, relays: &[&Relay], jitter: Duration) -> Self {
        let echo = Arc::new(Echo::default());
        let half = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = |n| {
            let relays = relays.iter().map(|relay| addr(relay).parse().unwrap()).collect();
            let mut config = AgentConfig { relays, tls: deployment.agent_tls(&agent(n)), ..AgentConfig::default() };
            config.backoff.initial = Duration::from_millis(20);
            config.backoff.goaway_jitter = jitter;
            config
        };
        let expose = |name: &str, to: SocketAddr| Expose { name: name.to_owned(), to: to.to_string().parse().unwrap() };
        let consume = |name: &str| Consume {
            name: name.to_owned(),
            method: String::new(),
            listen: "127.0.0.1:0".parse().unwrap(),
        };
        let mut provides = config(1);
        provides.expose = vec![expose("svc", echo.start().await), expose("half", half.local_addr().unwrap())];
        let mut consumes = config(2);
        consumes.consume = vec![consume("svc"), consume("half")];
        let provider = Agent::start(provides).await.unwrap();
        soon("the provider is registered", provider.wait_registered()).await;
        let consumer = Agent::start(consumes).await.unwrap();
        soon("the consumer is there", consumer.wait_registered()).await;
        Self { deployment, provider, consumer, echo, half }
    }

    fn stream(&self, load: Load) -> Running {
        self.echo.stream(self.consumer.local_addr("svc").unwrap(), load)
    }

    async fn streams(&self, loads: &[Load]) -> Vec<Running> {
        let all = loads.iter().flat_map(|load| (0..load.streams()).map(|_| self.stream(*load)));
        let streams: Vec<_> = all.collect();
        moves(&streams).await;
        streams
    }

    /// A stream whose client has said all that it has to say; the service has read it to its end.
    async fn half_closed(&self) -> (TcpStream, TcpStream) {
        let mut client = TcpStream::connect(self.consumer.local_addr("half").unwrap()).await.unwrap();
        client.write_all(b"that is all").await.unwrap();
        client.shutdown().await.unwrap();
        let (mut service, _) = soon("it is open", self.half.accept()).await.unwrap();
        let mut said = Vec::new();
        soon("the service hears the end", service.read_to_end(&mut said)).await.unwrap();
        assert_eq!(said, b"that is all");
        (client, service)
    }

    /// Opens stream after stream until `done`; each must be served. How many there were, and the longest time that one took.
    async fn opens(&self, done: &AtomicBool) -> (usize, Duration) {
        let (mut opens, mut longest) = (0, Duration::ZERO);
        while !done.load(Ordering::SeqCst) {
            let began = Instant::now();
            let probe = self.stream(Load::Probe);
            probe.flow.end();
            assert_eq!(soon("a new stream ends", probe.client).await.unwrap(), End::Complete);
            self.echo.forget(&probe.flow);
            opens += 1;
            longest = longest.max(began.elapsed());
        }
        (opens, longest)
    }

    fn link(agent: &Agent) -> serde_json::Value {
        let tree = agent.tree();
        tree.walk().find(|report| report.kind == "link").unwrap().detail.clone()
    }

    /// Both agents are at `relay`, and nowhere else.
    async fn are_at(&self, relay: &str) {
        for agent in [&self.provider, &self.consumer] {
            eventually("the agent is there and nowhere else", || {
                let link = Self::link(agent);
                let is_there = link["relay"].as_str().is_some_and(|uri| uri.ends_with(relay));
                (is_there && link["leaving"].is_null()).then_some(())
            })
            .await;
        }
    }

    async fn shutdown(self) -> Deployment {
        self.consumer.shutdown().await;
        self.provider.shutdown().await;
        self.deployment
    }
}

/// Every stream carries something that was sent after this was called.
async fn moves(streams: &[Running]) {
    let marks: Vec<_> = streams.iter().map(|stream| stream.flow.sent()).collect();
    streams.iter().for_each(|stream| stream.flow.poke());
    let has_moved = |(stream, mark): (&Running, &u64)| {
        assert!(!stream.client.is_finished(), "a stream has ended");
        stream.flow.echoed() > *mark
    };
    eventually("every stream moves", || streams.iter().zip(&marks).all(has_moved).then_some(())).await;
}

async fn complete(streams: Vec<Running>) {
    streams.iter().for_each(|stream| stream.flow.end());
    for stream in streams {
        assert_eq!(soon("the stream ends", stream.client).await.unwrap(), End::Complete);
        assert_eq!(stream.flow.wrong(), None);
    }
}

/// The longest time for which one of these streams, which never pause, carried nothing.
async fn longest_stall(streams: &[Running], done: &AtomicBool) -> Duration {
    let bulk: Vec<_> = streams.iter().map(|stream| Arc::clone(&stream.flow)).collect();
    let mut seen: Vec<_> = bulk.iter().map(|flow| (flow.echoed(), Instant::now())).collect();
    let mut longest = Duration::ZERO;
    while !done.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        for (flow, (at, since)) in bulk.iter().zip(&mut seen) {
            longest = longest.max(since.elapsed());
            if flow.echoed() != *at {
                (*at, *since) = (flow.echoed(), Instant::now());
            }
        }
    }
    longest
}

/// Drains `relay` while streams are opened and move. How long it took, and the longest stall.
#[allow(clippy::print_stdout, reason = "figures for whoever reads the output")]
async fn drained(world: &World, relay: &Relay, bulk: &[Running]) -> (Duration, Duration) {
    let done = AtomicBool::new(false);
    let began = Instant::now();
    let drain = async {
        soon("the drain ends", relay.drain()).await;
        let took = began.elapsed();
        done.store(true, Ordering::SeqCst);
        took
    };
    let (took, (opens, longest_open), stall) = tokio::join!(drain, world.opens(&done), longest_stall(bulk, &done));
    println!("drained in {took:?}; longest stall {stall:?}; {opens} opens meanwhile, the longest {longest_open:?}");
    (took, stall)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stream_moves_to_the_successor_and_none_fails() {
    let _alone = ALONE.lock().await;
    let deployment = Deployment::new();
    let second = relay(&deployment, "r2", |_| {}).await;
    let first = relay(&deployment, "r1", to(&[&second])).await;
    // Only GOAWAY tells them of the second. With the jitter that an agent has by itself.
    let world = World::start(deployment, &[&first], AgentConfig::default().backoff.goaway_jitter).await;
    let bulk = world.streams(&[Load::Bulk]).await;
    let others = world.streams(&[Load::Idle, Load::Small]).await;
    let (mut client, mut service) = world.half_closed().await;
    let answer = noise(5, 300_000);
    service.write_all(&answer[..100_000]).await.unwrap();

    let (took, stall) = drained(&world, &first, &bulk).await;
    assert!(took < Duration::from_secs(10), "{took:?}, long before the deadline of 30 s");
    assert!(stall < Duration::from_secs(2), "{stall:?}");
    world.are_at("/r2").await;
    assert_eq!(second.vault().traffic.streams(), bulk.len() + others.len() + 1);
    soon("the first goes", first.shutdown()).await;

    moves(&bulk).await;
    moves(&others).await;
    service.write_all(&answer[100_000..]).await.unwrap();
    drop(service);
    let mut heard = Vec::new();
    soon("the answer ends", client.read_to_end(&mut heard)).await.unwrap();
    assert!(heard == answer, "the half-closed stream lost or changed something");
    complete(bulk).await;
    complete(others).await;
    eventually("nothing stays at the second", || (second.vault().traffic.streams() == 0).then_some(())).await;
    world.shutdown().await;
    second.shutdown().await;
}

/// Streams that live while `first` drains go on at the relay `r2`.
async fn goes_to_r2(world: World, first: &Relay) {
    let streams = world.streams(&[Load::Bulk, Load::Idle]).await;
    drained(&world, first, &streams[..2]).await;
    world.are_at("/r2").await;
    moves(&streams).await;
    complete(streams).await;
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_is_full_is_passed_over_for_the_next() {
    let _alone = ALONE.lock().await;
    let deployment = Deployment::new();
    let full = relay(&deployment, "full", |config| config.limits.connections = 1).await;
    let _guest = deployment.peer(&full, 9, &[]).await;
    let second = relay(&deployment, "r2", |_| {}).await;
    let first = relay(&deployment, "r1", to(&[&full, &second])).await;
    let world = World::start(deployment, &[&first], JITTER).await;
    goes_to_r2(world, &first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_successors_agents_go_to_the_next_relay_of_their_own_list() {
    let _alone = ALONE.lock().await;
    let deployment = Deployment::new();
    let second = relay(&deployment, "r2", |_| {}).await;
    let first = relay(&deployment, "r1", |_| {}).await;
    let world = World::start(deployment, &[&first, &second], JITTER).await;
    goes_to_r2(world, &first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_an_agent_that_finds_no_other_relay_go_on_where_they_are() {
    let _alone = ALONE.lock().await;
    let deployment = Deployment::new();
    let small = relay(&deployment, "small", |config| config.limits.connections = 1).await;
    let first = relay(&deployment, "r1", to(&[&small])).await;
    let world = World::start(deployment, &[&first], JITTER).await;
    let streams = world.streams(&[Load::Bulk, Load::Idle]).await;
    let moved_to_small = || small.vault().connections.len() == 1;
    let mut drain = Box::pin(first.drain());
    assert!(futures_util::poll!(drain.as_mut()).is_pending());
    eventually("one agent has a place at the successor", || moved_to_small().then_some(())).await;
    // It leaves its paths; its partner cannot come, and both go back.
    eventually("streams are cut", || (first.vault().traffic.streams() == 0).then_some(())).await;
    moves(&streams).await;
    assert_eq!(first.vault().traffic.streams(), streams.len());
    complete(streams).await;
    soon("nothing is left", drain).await;
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_relay_keeps_its_streams_to_the_deadline_and_they_go_on_when_it_is_back() {
    let _alone = ALONE.lock().await;
    let deployment = Deployment::new();
    let first = relay(&deployment, "r1", |config| config.drain.deadline = Duration::from_secs(2)).await;
    let world = World::start(deployment, &[&first], JITTER).await;
    let streams = world.streams(&[Load::Bulk, Load::Idle]).await;
    let listen = first.quic_addr().unwrap();
    let began = Instant::now();
    let mut drain = Box::pin(first.drain());
    assert!(futures_util::poll!(drain.as_mut()).is_pending());
    eventually("both are told", || {
        let is_told = |agent| !World::link(agent)["leaving"].is_null();
        (is_told(&world.consumer) && is_told(&world.provider)).then_some(())
    })
    .await;
    moves(&streams).await;
    // Opened now, it waits for a relay.
    let late = world.stream(Load::Probe);
    late.flow.end();
    soon("the deadline", drain).await;
    assert!(began.elapsed() >= Duration::from_millis(1_900), "streams were not left alone");
    soon("the relay goes", first.shutdown()).await;
    let again = async {
        loop {
            let mut config = world.deployment.relay_config("r1", OPEN_WORLD);
            config.listen = listen;
            match Relay::start(config).await {
                Ok(relay) => break relay,
                Err(_in_use) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let again = soon("the relay is back", again).await;
    moves(&streams).await;
    complete(streams).await;
    assert_eq!(soon("the late one", late.client).await.unwrap(), End::Complete);
    world.are_at("/r1").await;
    world.shutdown().await;
    again.shutdown().await;
}
