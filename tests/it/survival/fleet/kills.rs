//! The relay in use is killed (SIGKILL) in the midst of everything: its agents meet at another one, and no stream notices more
//! than a stall.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Fleet, Times};
use crate::crowd::{Crowd, Shapes};
use crate::harness::ALONE;

const SHAPES: Shapes = Shapes { bulk: 4, chats: 20, idle: 6, half_closed: 6 };
/// From the kill to bytes on a stream, 99 times of 100, with agents as they are by themselves.
const TARGET: Duration = Duration::from_secs(3);
/// Too much, even for a debug build among other tests.
const MUCH: Duration = Duration::from_secs(5);

/// When a relay that was killed is there again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    /// Before the next is killed: there is one that runs, and it may be the first of the list.
    BeforeTheNext,
    /// When the next is killed, and its streams have gone on without both: of three, each has its turn.
    AfterTheNext,
    /// Before the next is killed; but the second of the agents' list is one that nobody ever heard.
    BesideOneNeverHeard,
}

/// Kills the relay in use `times` times. From each kill to bytes that were sent after it, on each stream.
#[allow(clippy::print_stdout, reason = "figures for whoever reads the output")]
async fn killed(size: usize, times: usize, back: Back) -> Times {
    let mut fleet = Fleet::start(size, |_, _| Vec::new()).await;
    let never_heard = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut known = fleet.addrs();
    if back == Back::BesideOneNeverHeard {
        known.insert(1, never_heard.local_addr().unwrap());
    }
    let ends = fleet.ends(&known).await;
    let mut crowd = Crowd::open(&ends, SHAPES).await;
    let (mut all, mut used, mut dead) = (Times::default(), BTreeSet::new(), None);
    for nth in 1..=times {
        let victim = fleet.in_use(&ends).await;
        used.insert(victim);
        let struck = Instant::now();
        fleet.relays[victim].kill();
        let took = crowd.moves_since(struck).await;
        let mut these = Times::default();
        these.add(took.iter().copied());
        println!("{size} relays, kill {nth}, of {}: bytes again after {these}", fleet.relays[victim].id);
        all.add(took);
        let returns = match back {
            Back::BeforeTheNext | Back::BesideOneNeverHeard => Some(victim),
            Back::AfterTheNext => dead.replace(victim),
        };
        if let Some(returns) = returns {
            fleet.relays[returns].start_again().await;
        }
    }
    println!("{size} relays, killed {times} times, {back:?}: bytes again after {all}");
    if back == Back::AfterTheNext && times >= size {
        assert_eq!(used.len(), size, "the streams were everywhere");
    }
    crowd.complete().await;
    ends.shutdown().await;
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_relays_either_may_be_killed_in_mid_transfer_and_no_stream_fails() {
    let _alone = ALONE.lock().await;
    let times = killed(2, 2, Back::BeforeTheNext).await;
    assert!(times.p99() < MUCH, "{times}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_three_relays_each_may_be_killed_in_mid_transfer_and_no_stream_fails() {
    let _alone = ALONE.lock().await;
    let times = killed(3, 3, Back::AfterTheNext).await;
    assert!(times.p99() < MUCH, "{times}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute or two: the command is at the head of fleet.rs"]
async fn forty_kills_cost_stalls_of_less_than_three_seconds_and_no_stream() {
    let _alone = ALONE.lock().await;
    let all =
        [(2, Back::BeforeTheNext), (3, Back::BeforeTheNext), (3, Back::AfterTheNext), (2, Back::BesideOneNeverHeard)];
    for (size, back) in all {
        let times = killed(size, 10, back).await;
        assert!(times.p99() <= TARGET, "{size} relays, {back:?}: {times}");
    }
}
