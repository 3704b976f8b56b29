//! The relay's process is killed (SIGKILL) and started again at its address, while streams of every sort live.

use std::time::{Duration, Instant};

use outrelay::config::relay::RelayConfig;

use super::raw::{Raw, Transfer};
use super::{BOTH, is_at, resumed, session, streams};
use crate::harness::{ALONE, Deployment, OPEN_WORLD, eventually, soon};
use crate::matrix::ends::{CONSUMER, Ends};
use crate::matrix::flow::{End, Load};
use crate::program::{Program, free_address};

const MIB: u64 = 1 << 20;
/// Streams with a small question and its answer now and then.
const CHATS: usize = 50;

/// Whether the relay that is started again knows the connections of its earlier life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// By its fleet key: it resets them.
    Key,
    /// Agents have to find out.
    Nothing,
}

/// Kills and starts the relay again `times` times under everything at once. The longest stand of the bulk streams.
async fn killed(times: u64, memory: Memory) -> Duration {
    let deployment = Deployment::new();
    let mut config = RelayConfig { listen: free_address(), ..deployment.relay_config("r1", OPEN_WORLD) };
    if memory == Memory::Key {
        config.resume.fleet_key = Some(deployment.dir.path().join("fleet.key"));
    }
    let mut relay = Program::start(&deployment, &config, &[]).await;
    let ends = Ends::start(&deployment, relay.addr, |_, _| {}).await;
    let bulk: Vec<Transfer> = {
        let streams = [Raw::open(&ends).await, Raw::open(&ends).await];
        streams.into_iter().map(|raw| raw.transfer_of(12 * MIB, 12 * MIB, 1)).collect()
    };
    let mut idle = Raw::open(&ends).await;
    let mut half_closed = Raw::open(&ends).await;
    half_closed.client.say(MIB).await;
    half_closed.client.finish().await;
    half_closed.served.hears_the_end().await;
    half_closed.served.say(1).await;
    let chats: Vec<_> = (0..CHATS).map(|_| ends.stream(Load::Small)).collect();
    eventually("everybody speaks", || chats.iter().all(|chat| chat.flow.echoed() > 0).then_some(())).await;
    for n in 1..=times {
        bulk.iter().for_each(|it| it.may_move((n + 1) * 100 / (times + 2)));
        for it in &bulk {
            is_at(it, n * 100 / (times + 2)).await;
        }
        let agents = || BOTH.map(|n| if n == CONSUMER { &ends.consumer } else { &ends.provider });
        let before = agents().map(session);
        let killed = Instant::now();
        relay.kill();
        bulk.iter().for_each(|it| it.may_move((n + 2) * 100 / (times + 2)));
        relay.start_again().await;
        eventually("both are back", || {
            let now = agents().map(session);
            (0..2).all(|at| now[at].is_some() && now[at] != before[at]).then_some(())
        })
        .await;
        let all = |agent| {
            let streams = streams(agent);
            streams.iter().all(|stream| stream["carried"]["phase"] != "resuming") && resumed(agent) >= n
        };
        eventually("every stream goes on", || agents().into_iter().all(all).then_some(())).await;
        assert!(killed.elapsed() < Duration::from_secs(20));
    }
    bulk.iter().for_each(|it| it.may_move(100));
    idle.client.say(100).await;
    idle.served.hear(100).await;
    idle.served.say(100).await;
    idle.client.hear(100).await;
    idle.complete().await;
    half_closed.served.say(2 * MIB).await;
    half_closed.served.finish().await;
    half_closed.client.hears_the_end().await;
    let mut longest = Duration::ZERO;
    for it in bulk {
        let (up, down) = (it.up.clone(), it.down.clone());
        it.complete().await;
        longest = longest.max(up.stood_still()).max(down.stood_still());
    }
    chats.iter().for_each(|chat| chat.flow.end());
    for chat in chats {
        assert_eq!(soon("the chat ends", chat.client).await.unwrap(), End::Complete);
        eventually("the service is done with it", || (!chat.flow.is_in_service()).then_some(())).await;
        assert_eq!(chat.flow.wrong(), None);
    }
    ends.shutdown().await;
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "a figure that is worth knowing")]
async fn a_relay_process_that_is_killed_and_started_again_costs_a_stall_and_no_byte() {
    let _alone = ALONE.lock().await;
    let longest = killed(1, Memory::Nothing).await;
    println!("relay killed (SIGKILL) and started again: bytes stood still for {longest:.2?} at the longest");
    assert!(longest < Duration::from_secs(10), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "a figure that is worth knowing")]
async fn a_relay_process_that_knows_its_earlier_lifes_connections_has_agents_back_before_they_miss_it() {
    let _alone = ALONE.lock().await;
    let longest = killed(1, Memory::Key).await;
    println!("the same with a fleet key: {longest:.2?} at the longest");
    // After so long without a word an agent gives its session up by itself.
    assert!(longest < outrelay::agent::silence::DEAD, "{longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute: the command is at the head of survival.rs"]
#[allow(clippy::print_stdout, reason = "a figure that is worth knowing")]
async fn a_relay_process_that_is_killed_ten_times_costs_stalls_and_no_byte() {
    let _alone = ALONE.lock().await;
    let longest = killed(10, Memory::Key).await;
    println!("relay killed (SIGKILL) and started again 10 times: bytes stood still for {longest:.2?} at the longest");
}
