//! Actors of the agents that are struck: a stream's own is the only one whose death a user sees.

use std::time::Duration;

use outrelay::agent::Agent;
use outrelay::supervise::fault::Fault;

use super::{BOTH, is_at};
use crate::harness::{SOON, eventually};
use crate::matrix::ends::{CONSUMER, PROVIDER};
use crate::matrix::world::World;

const MIB: u64 = 1 << 20;

/// The actor that carries stream `id`.
fn carrier(agent: &Agent, id: u64) -> String {
    let (tree, id) = (agent.tree(), id.to_string());
    let carries = tree.walk().find(|actor| actor.kind == "stream" && actor.detail["stream"]["id"] == id.as_str());
    format!("stream:{}", carries.unwrap().name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_stream_that_is_struck_is_a_reset_to_both_its_ends_and_its_neighbours_go_on() {
    let world = World::start().await;
    for n in BOTH {
        for fault in [Fault::Kill, Fault::Panic] {
            let mut victim = world.raw().await;
            let id = world.only_stream().await;
            let neighbours = [world.raw().await, world.raw().await].map(|raw| raw.transfer_of(2 * MIB, 2 * MIB, 60));
            victim.client.say(100_000).await;
            victim.served.say(100_000).await;
            for neighbour in &neighbours {
                is_at(neighbour, 30).await;
            }
            let actor = carrier(world.agent(n), id);
            world.agent(n).inject(&actor, fault).await.unwrap();
            victim.client.is_reset().await;
            victim.served.is_reset().await;
            for neighbour in neighbours {
                neighbour.may_move(100);
                neighbour.complete().await;
            }
            world.nothing_is_left().await;
        }
    }
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_supervisor_of_an_agents_streams_takes_them_with_it_and_none_of_them_looks_complete() {
    let world = World::start().await;
    for n in BOTH {
        let mut victims = Vec::new();
        for _ in 0..10 {
            let mut raw = world.raw().await;
            raw.client.say(10_000).await;
            raw.served.say(10_000).await;
            victims.push(raw);
        }
        world.agent(n).inject("streams", Fault::Kill).await.unwrap();
        for mut raw in victims {
            raw.client.is_reset().await;
            raw.served.is_reset().await;
        }
        world.nothing_is_left().await;
        eventually("it runs again", || {
            let tree = world.agent(n).tree();
            let runs = |actor: &outrelay::supervise::report::Report| {
                actor.kind == "streams" && actor.status == outrelay::supervise::node::Status::Running
            };
            tree.walk().any(runs).then_some(())
        })
        .await;
        world.raw().await.complete().await;
    }
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_other_actors_that_are_struck_again_and_again_cost_nothing() {
    const STRIKES: u64 = 20;
    let world = World::start().await;
    let transfer = world.raw().await.transfer_of(10 * MIB, 10 * MIB, 1);
    let victims = [
        (CONSUMER, "link"),
        (PROVIDER, "link"),
        (CONSUMER, "listeners"),
        (CONSUMER, "listener:raw"),
        (PROVIDER, "admin"),
    ];
    let sessions = BOTH.map(|n| super::session(world.agent(n)));
    let faults = [Fault::Kill, Fault::Panic].into_iter().cycle();
    for ((strike, (n, victim)), fault) in (1..=STRIKES).zip(victims.into_iter().cycle()).zip(faults) {
        transfer.may_move(((strike + 2) * 100 / (STRIKES + 1)).min(99));
        is_at(&transfer, strike * 100 / (STRIKES + 1)).await;
        let struck = async {
            // What is between two lives is struck in the next one.
            while world.agent(n).inject(victim, fault).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, struck).await.unwrap();
        if strike % 4 == 0 {
            // Who comes meanwhile is served, and what it is told by the relay reaches it.
            world.raw().await.complete().await;
        }
    }
    assert_eq!(BOTH.map(|n| super::resumed(world.agent(n))), [0, 0], "the stream has not noticed");
    transfer.may_move(100);
    let stalled = (transfer.up.clone(), transfer.down.clone());
    transfer.complete().await;
    assert!(stalled.0.stood_still().max(stalled.1.stood_still()) < Duration::from_secs(5));
    assert_eq!(BOTH.map(|n| super::session(world.agent(n))), sessions, "the session is not in an actor");
    world.nothing_is_left().await;
    world.shutdown().await;
}
