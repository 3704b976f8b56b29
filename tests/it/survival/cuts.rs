//! Connections that are closed, or fall silent, while bytes flow both ways; and actors of the relay that are struck again
//! and again.

use std::time::{Duration, Instant};

use outrelay::supervise::fault::Fault;

use super::forwarder::Wire;
use super::{BOTH, NO_REASON, RESUMABLE, Wired, is_at, resumed, session};
use crate::harness::{ALONE, eventually};
use crate::matrix::HANG_DEADLINE;
use crate::matrix::ends::{CONSUMER, PROVIDER};
use crate::matrix::world::World;

const MIB: u64 = 1 << 20;
/// What of the relay is struck under a transfer; `entry` has a test of its own.
const VICTIMS: [&str; 8] =
    ["splice", "splices", "resume", "connection", "connections", "control", "registry", "ingress"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_closed_in_mid_transfer_costs_no_byte_at_either_end_or_both() {
    let _alone = ALONE.lock().await;
    let world = World::start().await;
    for whose in [&[CONSUMER][..], &[PROVIDER], &BOTH] {
        for code in [RESUMABLE, NO_REASON] {
            let transfer = world.raw().await.transfer_of(6 * MIB, 6 * MIB, 1);
            for percent in [20, 60] {
                transfer.may_move(percent + 20);
                is_at(&transfer, percent).await;
                let before = BOTH.map(|n| resumed(world.agent(n)));
                whose.iter().for_each(|n| world.close(*n, code));
                eventually("it goes on on a new path", || {
                    let now = BOTH.map(|n| resumed(world.agent(n)));
                    (now[0] > before[0] && now[1] > before[1]).then_some(())
                })
                .await;
            }
            transfer.may_move(100);
            transfer.complete().await;
            world.nothing_is_left().await;
        }
    }
    world.shutdown().await;
}

/// From the last datagram to the end of the session.
async fn given_up(wired: &Wired, n: u8) -> Duration {
    let (cut, before) = (Instant::now(), session(wired.world.agent(n)));
    wired.wire(n).set(Wire::Drops);
    eventually("the agent gives its session up", || (session(wired.world.agent(n)) != before).then_some(())).await;
    cut.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_falls_silent_in_mid_transfer_is_left_after_a_second_and_a_half_and_costs_no_byte() {
    let silenced = async |whose: &'static [u8]| {
        let wired = Wired::start().await;
        let transfer = wired.world.raw().await.transfer_of(8 * MIB, 8 * MIB, 80);
        is_at(&transfer, 20).await;
        let all = whose.iter().map(|n| given_up(&wired, *n));
        for took in futures_util::future::join_all(all).await {
            assert!(took > Duration::from_millis(1_300), "{whose:?}: after {took:?}");
            assert!(took < Duration::from_secs(4), "{whose:?}: after {took:?}");
        }
        assert!(!transfer.is_over());
        for n in whose {
            // The old connection stays cut for ever: at the relay it lives for some time yet.
            wired.wire(*n).moves().await;
            wired.wire(*n).set(Wire::Passes);
        }
        transfer.may_move(100);
        transfer.complete().await;
        wired.world.nothing_is_left().await;
    };
    tokio::join!(silenced(&[CONSUMER]), silenced(&[PROVIDER]), silenced(&BOTH));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_silence_costs_neither_the_session_nor_a_byte() {
    let wired = Wired::start().await;
    let transfer = wired.world.raw().await.transfer_of(8 * MIB, 8 * MIB, 80);
    is_at(&transfer, 20).await;
    let before = BOTH.map(|n| session(wired.world.agent(n)));
    BOTH.iter().for_each(|n| wired.wire(*n).set(Wire::Drops));
    let cut = Instant::now();
    // Longer than it takes until the agent asks.
    eventually("the silence is over", || (cut.elapsed() > Duration::from_millis(600)).then_some(())).await;
    BOTH.iter().for_each(|n| wired.wire(*n).set(Wire::Passes));
    assert!(!transfer.is_over());
    transfer.may_move(100);
    transfer.complete().await;
    assert_eq!(BOTH.map(|n| session(wired.world.agent(n))), before);
}

/// Strikes in one transfer, each after another part of it has come through. How often that was.
async fn struck_again_and_again(world: &World, kinds: &[&str], faults: &[Fault], strikes: u64, bytes: u64) {
    let transfer = world.raw().await.transfer_of(bytes / 2, bytes / 2, 1);
    let victims = kinds.iter().flat_map(|kind| faults.iter().map(move |fault| (*kind, *fault)));
    for (n, (kind, fault)) in (1..=strikes).zip(victims.cycle()) {
        // However fast it is, it does not run away from the strikes.
        transfer.may_move(((n + 2) * 100 / (strikes + 1)).min(99));
        is_at(&transfer, n * 100 / (strikes + 1)).await;
        let tried = Instant::now();
        // What is between two lives is struck in the next one.
        while !world.has_struck(kind, fault).await {
            assert!(tried.elapsed() < crate::harness::SOON, "no {kind} to strike");
            tokio::task::yield_now().await;
        }
    }
    transfer.may_move(100);
    transfer.complete().await;
    world.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_and_panics_of_the_relays_actors_in_one_transfer_cost_no_byte() {
    let _alone = ALONE.lock().await;
    let world = World::start().await;
    struck_again_and_again(&world, &VICTIMS, &[Fault::Kill, Fault::Panic], 20, 40 * MIB).await;
    struck_again_and_again(&world, &["splice"], &[Fault::Kill, Fault::Panic], 20, 24 * MIB).await;
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: the command is at the head of survival.rs"]
#[allow(clippy::print_stdout, reason = "a long run says where it is")]
async fn twenty_kills_of_each_kind_and_twenty_panics_cost_no_byte() {
    let _alone = ALONE.lock().await;
    let world = World::start().await;
    for kind in VICTIMS {
        for fault in [Fault::Kill, Fault::Panic] {
            let begun = Instant::now();
            struck_again_and_again(&world, &[kind], &[fault], 20, 48 * MIB).await;
            println!("{kind} {fault:?} 20 times in {:.1?}", begun.elapsed());
        }
    }
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_is_struck_again_and_again_while_a_half_waits_costs_no_byte() {
    let wired = Wired::with(|config| config.limits.handler = HANG_DEADLINE, |_, _| {}).await;
    let transfer = wired.world.raw().await.transfer_of(4 * MIB, 4 * MIB, 80);
    is_at(&transfer, 20).await;
    let before = BOTH.map(|n| session(wired.world.agent(n)));
    // One agent is held back, but not for so long that it gives its session up.
    wired.provider.set(Wire::Holds);
    wired.world.kill("splice").await;
    let mut entries = Vec::new();
    let quick = [Fault::Kill, Fault::Panic, Fault::Stop].into_iter().cycle().take(6);
    // The last hangs when the other half comes, which is sent again.
    for fault in quick.chain([Fault::Hang]) {
        let next = eventually("an entry", || {
            let tree = wired.world.relay.tree();
            let entry = tree.walk().find(|actor| actor.kind == "entry" && !entries.contains(&actor.id))?;
            Some(entry.id)
        })
        .await;
        wired.world.relay.inject(&next.to_string(), fault).await.unwrap();
        entries.push(next);
    }
    wired.provider.set(Wire::Passes);
    transfer.may_move(100);
    transfer.complete().await;
    assert_eq!(BOTH.map(|n| session(wired.world.agent(n))), before);
    wired.world.nothing_is_left().await;
}
