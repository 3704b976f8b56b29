//! Many streams that are cut at once, and streams that nobody reads for a while.

use std::time::{Duration, Instant};

use super::raw::{Raw, Transfer};
use super::{BOTH, NO_REASON, Wired, resumed, streams};
use crate::harness::{ALONE, eventually};
use crate::matrix::ends::{CONSUMER, PROVIDER};
use crate::matrix::world::World;

const MIB: u64 = 1 << 20;
/// What each of many streams carries, each way.
const BYTES: u64 = 64 << 10;

/// Each has said a third, when the other two are still to come.
async fn transfers(world: &World, streams: usize) -> Vec<Transfer> {
    let mut transfers = Vec::new();
    for _ in 0..streams {
        transfers.push(world.raw().await.transfer_of(BYTES, BYTES, 33));
    }
    transfers
}

fn may_move(transfers: &[Transfer], percent: u64) {
    transfers.iter().for_each(|transfer| transfer.may_move(percent));
}

/// So many streams that are cut together, twice; how long that took.
async fn cut_at_once(many: usize) -> [Duration; 2] {
    let world = World::start().await;
    let transfers = transfers(&world, many).await;
    let mut took = [Duration::ZERO; 2];
    for (cut, percent) in [66, 99].into_iter().enumerate() {
        let done = BOTH.map(|n| resumed(world.agent(n)));
        may_move(&transfers, percent);
        let begun = Instant::now();
        if cut == 0 {
            world.kill("splices").await;
        } else {
            BOTH.iter().for_each(|n| world.close(*n, NO_REASON));
        }
        for (at, n) in BOTH.into_iter().enumerate() {
            let all = || resumed(world.agent(n)) >= done[at] + many as u64;
            eventually("all go on on a new path", || all().then_some(())).await;
        }
        let part = |transfer: &Transfer| transfer.moved() >= transfer.total() * (percent - 1) / 100;
        eventually("all move", || transfers.iter().all(part).then_some(())).await;
        took[cut] = begun.elapsed();
    }
    may_move(&transfers, 100);
    for transfer in transfers {
        transfer.complete().await;
    }
    world.nothing_is_left().await;
    world.shutdown().await;
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_streams_that_are_cut_at_once_all_arrive_with_every_byte() {
    let _alone = ALONE.lock().await;
    cut_at_once(200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a thousand streams: the command is at the head of survival.rs"]
#[allow(clippy::print_stdout, reason = "a figure that is worth knowing")]
async fn a_thousand_streams_that_are_cut_at_once_all_arrive_with_every_byte() {
    let _alone = ALONE.lock().await;
    let [splices, connections] = cut_at_once(1_000).await;
    println!("1000 streams: {splices:.2?} after splices was killed, {connections:.2?} after both connections were cut");
}

/// Waits until the ring of the agent's only stream is full: its local side is not read any more.
async fn is_full(world: &World, n: u8) {
    let full = || {
        let streams = streams(world.agent(n));
        let carried = &streams.first()?["carried"];
        (carried["ring_bytes"].as_u64()? >= carried["ring_capacity_bytes"].as_u64()?).then_some(())
    };
    eventually("the ring is full", full).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stalls_across_cuts_stalls_the_writer_and_loses_nothing() {
    let small = |_, config: &mut outrelay::config::agent::AgentConfig| {
        config.limits.ring_min = 256 << 10;
        config.limits.ring_max = 256 << 10;
    };
    let wired = Wired::with(|_| {}, small).await;
    let world = &wired.world;
    for n in BOTH {
        let Raw { mut client, mut served, up, down } = world.raw().await;
        let (says, hears, way) =
            if n == CONSUMER { (&mut client, &mut served, up) } else { (&mut served, &mut client, down) };
        let total = way.said() + 24 * MIB;
        let writing = async {
            says.say(24 * MIB).await;
            says.finish().await;
        };
        let cutting = async {
            is_full(world, n).await;
            for cut in ["splice", "connections"] {
                let before = resumed(world.agent(PROVIDER));
                match cut {
                    "splice" => world.kill(cut).await,
                    _ => BOTH.iter().for_each(|n| world.close(*n, NO_REASON)),
                }
                eventually("it goes on", || (resumed(world.agent(PROVIDER)) > before).then_some(())).await;
                is_full(world, n).await;
                assert!(way.said() < total, "the writer is stalled");
                assert_eq!(way.heard(), 1, "and nobody reads");
            }
            hears.hear(24 * MIB).await;
        };
        tokio::join!(writing, cutting);
        hears.hears_the_end().await;
        hears.finish().await;
        says.hears_the_end().await;
        world.nothing_is_left().await;
    }
}
