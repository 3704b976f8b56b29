//! A relay that drains, under streams whose every byte is checked: its agents take them along to another relay while the old
//! paths still stand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use outrelay::config::agent::{AgentConfig, Backoff};
use outrelay::config::relay::RelayConfig;
use outrelay::config::types::HostPort;
use outrelay::relay::Relay;

use crate::crowd::{complete, longest_stall, moves, opens};
use crate::harness::{ALONE, Deployment, OPEN_WORLD, eventually, soon};
use crate::matrix::ends::{Ends, link};
use crate::matrix::flow::{End, Load, Running};
use crate::survival::raw::Raw;

/// A short one, so that tests are.
const JITTER: Duration = Duration::from_millis(100);

struct World {
    deployment: Deployment,
    ends: Ends,
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
        let relays: Vec<HostPort> = relays.iter().map(|relay| addr(relay).parse().unwrap()).collect();
        let knows = |_, config: &mut AgentConfig| {
            config.relays.clone_from(&relays);
            config.backoff =
                Backoff { initial: Duration::from_millis(20), goaway_jitter: jitter, ..Backoff::default() };
        };
        let first = relays[0].as_str().parse().unwrap();
        let ends = Ends::start(&deployment, first, knows).await;
        Self { deployment, ends }
    }

    async fn streams(&self, loads: &[Load]) -> Vec<Running> {
        let all = loads.iter().flat_map(|load| (0..load.streams()).map(|_| self.ends.stream(*load)));
        let streams: Vec<_> = all.collect();
        moves(&streams).await;
        streams
    }

    /// Both agents are at `relay`, and nowhere else.
    async fn are_at(&self, relay: &str) {
        for agent in [&self.ends.provider, &self.ends.consumer] {
            eventually("the agent is there and nowhere else", || {
                let link = link(agent);
                let is_there = link["relay"].as_str().is_some_and(|uri| uri.ends_with(relay));
                (is_there && link["leaving"].is_null()).then_some(())
            })
            .await;
        }
    }

    async fn shutdown(self) -> Deployment {
        self.ends.shutdown().await;
        self.deployment
    }
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
    let (took, (opened, longest_open), stall) =
        tokio::join!(drain, opens(&world.ends, &done), longest_stall(bulk, &done));
    println!("drained in {took:?}; longest stall {stall:?}; {opened} opens meanwhile, the longest {longest_open:?}");
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
    // Its client has said all that it has to say, and its service has read it to the end.
    let Raw { mut client, mut served, .. } = Raw::open(&world.ends).await;
    client.finish().await;
    served.hears_the_end().await;
    served.say(100_000).await;

    let (took, stall) = drained(&world, &first, &bulk).await;
    assert!(took < Duration::from_secs(10), "{took:?}, long before the deadline of 30 s");
    assert!(stall < Duration::from_secs(2), "{stall:?}");
    world.are_at("/r2").await;
    assert_eq!(second.vault().traffic.streams(), bulk.len() + others.len() + 1);
    soon("the first goes", first.shutdown()).await;

    moves(&bulk).await;
    moves(&others).await;
    served.say(200_000).await;
    served.finish().await;
    client.hears_the_end().await;
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
        let is_told = |agent| !link(agent)["leaving"].is_null();
        (is_told(&world.ends.consumer) && is_told(&world.ends.provider)).then_some(())
    })
    .await;
    moves(&streams).await;
    // Opened now, it waits for a relay.
    let late = world.ends.stream(Load::Probe);
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
