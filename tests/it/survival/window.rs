//! Halves that come far apart, within the window and past it; and agents that want a stream which is not theirs.

use std::time::{Duration, Instant};

use outrelay::core::frame::Frame;
use outrelay::core::reject::ResetCode;
use outrelay::net::framed::write_frame;
use outrelay::net::stream::{BiStream, End};
use outrelay::proto::orp;

use super::forwarder::Wire;
use super::{BOTH, NO_REASON, Wired, is_at, session};
use crate::harness::{Peer, agent_of, drain, eventually, soon};
use crate::matrix::ends::{CONSUMER, PROVIDER};
use crate::matrix::world::walk;

const MIB: u64 = 1 << 20;
const OURS: &[&str] = &["resume-code", "fin-state", "resume-call", "resume-echo"];
/// What counts as past the window, in here.
const WINDOW: Duration = Duration::from_secs(1);

/// One agent has no wire to the relay; the other's half waits there.
async fn apart(wired: &Wired, late: u8) {
    wired.wire(late).set(Wire::Drops);
    BOTH.iter().for_each(|n| wired.world.close(*n, NO_REASON));
    wired.world.is_parked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_comes_back_late_within_the_window_costs_a_stall_and_no_byte() {
    let late = async |n: u8| {
        let wired = Wired::start().await;
        let transfer = wired.world.raw().await.transfer_of(4 * MIB, 4 * MIB, 60);
        is_at(&transfer, 20).await;
        apart(&wired, n).await;
        let waits = Instant::now();
        eventually("it gives its session up", || session(wired.world.agent(n)).is_none().then_some(())).await;
        eventually("a while", || (waits.elapsed() > Duration::from_secs(2)).then_some(())).await;
        assert_eq!(wired.world.relay.vault().parking.len(), 1, "the other half still waits");
        wired.wire(n).set(Wire::Passes);
        transfer.may_move(100);
        transfer.complete().await;
        wired.world.nothing_is_left().await;
    };
    tokio::join!(late(CONSUMER), late(PROVIDER));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_window_both_local_sockets_are_reset_and_nothing_is_left() {
    let late = async |n: u8, relay: Duration, agents: Duration| {
        let set = |_, config: &mut outrelay::config::agent::AgentConfig| config.timeouts.resume = agents;
        let wired = Wired::with(|config| config.resume.window = relay, set).await;
        let actors = walk(wired.world.relay.root()).len();
        let mut raw = wired.world.raw().await;
        // All that was said has come, so an end here would look like the true one.
        raw.client.say(1_000).await;
        raw.served.hear(1_000).await;
        raw.served.finish().await;
        raw.client.hears_the_end().await;
        raw.client.say(1_000).await;
        apart(&wired, n).await;
        // Whose half was refused, and whose time is over.
        raw.served.is_reset().await;
        eventually("the streams are gone", || {
            BOTH.iter().all(|n| super::streams(wired.world.agent(*n)).is_empty()).then_some(())
        })
        .await;
        let written = tokio::spawn(async move { raw.client.is_cut().await });
        written.await.unwrap();
        wired.wire(n).set(Wire::Passes);
        for n in BOTH {
            soon("both are back", wired.world.agent(n).wait_registered()).await;
        }
        wired.world.nothing_is_left().await;
        // Until the connection that the relay could not close is gone for it, too.
        eventually("no more actors than before", || (walk(wired.world.relay.root()).len() <= actors).then_some(()))
            .await;
        wired.world.raw().await.complete().await;
    };
    let long = Duration::from_secs(30);
    tokio::join!(late(PROVIDER, WINDOW, WINDOW), late(CONSUMER, WINDOW, WINDOW), late(PROVIDER, long, WINDOW),);
}

async fn half(peer: &Peer, id: u64) -> BiStream {
    let mut stream = peer.fresh().await;
    let resume = orp::StreamResume { stream_id: id, my_position: u64::MAX >> 2, ..Default::default() };
    write_frame(&mut stream.send, &Frame::StreamResume(resume)).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_its_two_agents_gets_a_stream_that_is_resumed() {
    let wired = Wired::with(|config| config.resume.window = Duration::from_secs(3), |_, _| {}).await;
    let world = &wired.world;
    let mut third = world.deployment.peer(&world.relay, 5, OURS).await;
    let foreign = world.deployment.peer_as(&world.relay, &agent_of("beta", 2), OURS).await;
    let raw = world.raw().await;
    let id = world.only_stream().await;
    let transfer = raw.transfer_of(4 * MIB, 4 * MIB, 60);
    is_at(&transfer, 20).await;
    wired.provider.set(Wire::Holds);
    world.kill("splice").await;
    world.is_parked().await;

    assert_eq!(drain(&mut half(&third, id).await.recv).await, (Vec::new(), End::Reset(ResetCode::DENIED)));
    // Nor is it heard.
    let (ack, end) = (u64::MAX >> 2, true);
    let lie = orp::StreamCheckpoint {
        stream_id: id,
        my_position: ack,
        peer_ack_position: ack,
        fin_sent: end,
        fin_consumed: end,
    };
    third.say(&Frame::StreamCheckpoint(lie)).await;
    third.say(&Frame::Ping).await;
    assert_eq!(third.hear().await, Frame::Pong);
    // In another tenant the number is another stream's: what is parked there waits for nobody, and is refused in the end.
    let mut elsewhere = half(&foreign, id).await;
    eventually("it waits beside the other", || (world.relay.vault().parking.len() == 2).then_some(())).await;

    wired.provider.set(Wire::Passes);
    transfer.may_move(100);
    transfer.complete().await;
    assert_eq!(drain(&mut elsewhere.recv).await, (Vec::new(), End::Reset(ResetCode::NOT_RESUMABLE)));
    world.nothing_is_left().await;
}
