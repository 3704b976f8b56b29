//! Relays that are drained (SIGTERM) under streams of every shape, while others are opened: agents take the streams along, and
//! the process is gone with exit code 0 long before its deadline.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Fleet, successors};
use crate::crowd::{Crowd, Shapes, longest_stall, opens};
use crate::harness::ALONE;
use crate::matrix::ends::Ends;
use crate::program::Program;

/// `drain.deadline` by itself.
const DEADLINE: Duration = Duration::from_secs(30);

/// Drains one process; how long that took.
async fn drained(relay: &mut Program) -> Duration {
    let began = Instant::now();
    relay.terminate();
    let status = relay.exited().await;
    let took = began.elapsed();
    assert_eq!(status.code(), Some(0), "{}: {}", relay.id, relay.log());
    assert!(took < DEADLINE, "{} had nothing to wait for, and yet took {took:?}", relay.id);
    took
}

/// Does `work` under streams of every shape and while others are opened, none of which may fail.
#[allow(clippy::print_stdout, reason = "figures for whoever reads the output")]
async fn under_load<T>(ends: &Ends, shapes: Shapes, work: impl AsyncFnOnce() -> T) -> (T, Duration) {
    let mut crowd = Crowd::open(ends, shapes).await;
    let done = AtomicBool::new(false);
    let work = async {
        let result = work().await;
        done.store(true, Ordering::SeqCst);
        result
    };
    let (result, (opened, longest_open), stall) =
        tokio::join!(work, opens(ends, &done), longest_stall(crowd.talkers(), &done));
    println!(
        "{} streams: longest stall {stall:.2?}; {opened} opens meanwhile, the longest {longest_open:.2?}",
        crowd.len()
    );
    crowd.moves_since(Instant::now()).await;
    crowd.complete().await;
    (result, stall)
}

/// Drains and starts each of the relays again, one after the other.
#[allow(clippy::print_stdout, reason = "figures for whoever reads the output")]
async fn rolled(mut fleet: Fleet) {
    let ends = fleet.ends(&fleet.addrs()).await;
    let shapes = Shapes { bulk: 4, chats: 30, idle: 6, half_closed: 6 };
    let restart = async || {
        for relay in &mut fleet.relays {
            let took = drained(relay).await;
            println!("{} drained in {took:.2?}", relay.id);
            relay.start_again().await;
        }
    };
    let (_, stall) = under_load(&ends, shapes, restart).await;
    assert!(stall < Duration::from_secs(5), "{stall:?}");
    ends.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_costs_no_stream_and_no_open_where_each_relay_names_the_next() {
    let _alone = ALONE.lock().await;
    let next = |nth: usize, addrs: &[_]| vec![successors(&[addrs[(nth + 1) % addrs.len()]])];
    rolled(Fleet::start(3, next).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_costs_no_stream_and_no_open_where_agents_go_by_their_list() {
    let _alone = ALONE.lock().await;
    rolled(Fleet::start(2, |_, _| Vec::new()).await).await;
}

/// Agents that know the first relay alone follow its GOAWAY to the second.
#[allow(clippy::print_stdout, reason = "figures for whoever reads the output")]
async fn moved(shapes: Shapes) {
    let second = |nth: usize, addrs: &[_]| if nth == 0 { vec![successors(&addrs[1..])] } else { Vec::new() };
    let mut fleet = Fleet::start(2, second).await;
    let ends = fleet.ends(&fleet.addrs()[..1]).await;
    let (took, stall) = under_load(&ends, shapes, async || drained(&mut fleet.relays[0]).await).await;
    println!("drained in {took:.2?}");
    assert!(stall < Duration::from_secs(5), "{stall:?}");
    assert_eq!(fleet.in_use(&ends).await, 1);
    ends.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_streams_go_along_to_a_successor_and_none_fails() {
    let _alone = ALONE.lock().await;
    moved(Shapes { bulk: 4, chats: 76, idle: 12, half_closed: 8 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute in a debug build: the command is at the head of fleet.rs"]
async fn five_hundred_streams_go_along_to_a_successor_and_none_fails() {
    let _alone = ALONE.lock().await;
    moved(Shapes { bulk: 20, chats: 380, idle: 60, half_closed: 40 }).await;
}
