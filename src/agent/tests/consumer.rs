//! Streams that a local client begins, with a relay of this project's kind.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::harness::{
    Deployment, FEATURES, FakeRelay, Peer, actor, connect, count, expect_fin, expect_rst, expect_tcp, reject, send_tcp,
    soon, until,
};
use crate::agent::Agent;
use crate::config::agent::AgentConfig;
use crate::supervise::fault::Fault;

const APPLICATION: u64 = 0x100;
const RETRY: u32 = 0x12;

/// A relay, and an agent that consumes `far` through it.
pub(super) struct Scene {
    pub(super) _deployment: Deployment,
    pub(super) relay: FakeRelay,
    pub(super) agent: Agent,
    pub(super) peer: Peer,
}

pub(super) async fn scene(features: &[&str], change: impl FnOnce(&mut AgentConfig)) -> Scene {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let mut config = deployment.config(&[relay.addr()]);
    config.consume = vec!["far=127.0.0.1:0".parse().unwrap()];
    change(&mut config);
    let agent = Agent::start(config).await.unwrap();
    let peer = relay.greet(features).await;
    Scene { _deployment: deployment, relay, agent, peer }
}

#[tokio::test]
async fn hundreds_of_clients_may_come_at_once() {
    let scene = scene(&FEATURES, |_| {}).await;
    let addr = scene.agent.local_addr("far").unwrap();
    // Nobody takes them meanwhile: this thread is the only one.
    let come = |_| std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(500)).unwrap();
    let clients: Vec<_> = (0..500).map(come).collect();
    drop(clients);
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn nothing_is_sent_before_ready_and_everything_after_it() {
    let Scene { agent, mut peer, .. } = scene(&FEATURES, |config| config.consume[0].method = "GET".into()).await;
    let mut local = connect(&agent, "far").await;
    send_tcp(&mut local, b"early").await;
    let (mut stream, open) = peer.accept_open().await;
    assert_eq!((open.target_service.as_str(), open.method.as_str()), ("far", "GET"));
    assert_ne!(open.stream_id, 0);
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(100), stream.recv.read(&mut byte)).await;
    assert!(early.is_err(), "{early:?} before STREAM_READY");
    peer.ready(open.stream_id).await;
    stream.expect(b"early").await;
    // Half-close, one way and then the other.
    local.shutdown().await.unwrap();
    assert_eq!(soon(stream.recv.read(&mut byte)).await, Ok(None));
    stream.send.write_all(b"answer").await.unwrap();
    stream.send.finish().unwrap();
    assert_eq!(expect_fin(&mut local).await, b"answer");
    until("the stream is gone", || count(&agent, "stream") == 0).await;
    agent.shutdown().await;
}

#[tokio::test]
async fn bytes_that_come_before_ready_are_kept_even_when_they_look_like_a_reject() {
    let Scene { agent, mut peer, .. } = scene(&FEATURES, |_| {}).await;
    let mut local = connect(&agent, "far").await;
    let (mut stream, open) = peer.accept_open().await;
    let looks = reject(403, "no", 0).encode();
    stream.send.write_all(&looks).await.unwrap();
    stream.send.finish().unwrap();
    peer.ready(open.stream_id).await;
    assert_eq!(expect_fin(&mut local).await, looks);
    agent.shutdown().await;
}

#[tokio::test]
async fn a_reject_on_the_control_stream_resets_the_client() {
    let Scene { agent, mut peer, .. } = scene(&FEATURES, |_| {}).await;
    let mut local = connect(&agent, "far").await;
    let (mut stream, open) = peer.accept_open().await;
    // As this project's relay does: in band, no more is taken, and on the control stream.
    stream.write(&reject(404, "no provider", 0)).await;
    stream.send.finish().unwrap();
    stream.recv.stop(0_u32.into()).unwrap();
    peer.control.write(&reject(404, "no provider", open.stream_id)).await;
    assert_eq!(expect_rst(&mut local).await, b"");
    until("the stream is gone", || count(&agent, "stream") == 0).await;
    agent.shutdown().await;
}

#[tokio::test]
async fn retry_opens_again_with_another_id_and_the_same_client() {
    let Scene { agent, mut peer, .. } = scene(&FEATURES, |_| {}).await;
    let mut local = connect(&agent, "far").await;
    send_tcp(&mut local, b"hello").await;
    let mut ids = Vec::new();
    for stopped in [false, true, false] {
        let (mut stream, open) = peer.accept_open().await;
        ids.push(open.stream_id);
        if stopped {
            stream.recv.stop(RETRY.into()).unwrap();
        }
        stream.send.reset(RETRY.into()).unwrap();
    }
    let (mut stream, open) = peer.accept_open().await;
    ids.push(open.stream_id);
    peer.ready(open.stream_id).await;
    stream.expect(b"hello").await;
    stream.send.write_all(b"welcome").await.unwrap();
    expect_tcp(&mut local, b"welcome").await;
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    agent.shutdown().await;
}

#[tokio::test]
async fn a_session_lost_before_ready_means_another_open_on_the_next_session() {
    let Scene { agent, peer, relay, .. } = scene(&FEATURES, |_| {}).await;
    let mut local = connect(&agent, "far").await;
    send_tcp(&mut local, b"hello").await;
    peer.accept_open().await;
    peer.quic.close(0_u32.into(), b"stopping");
    let mut peer = relay.greet(&FEATURES).await;
    let (mut stream, open) = peer.accept_open().await;
    peer.ready(open.stream_id).await;
    stream.expect(b"hello").await;
    agent.shutdown().await;
}

#[tokio::test]
async fn an_open_that_is_never_answered_resets_the_client_in_time() {
    let Scene { agent, peer, .. } = scene(&FEATURES, |config| config.timeouts.open = Duration::from_millis(200)).await;
    let mut local = connect(&agent, "far").await;
    let (mut stream, _open) = peer.accept_open().await;
    expect_rst(&mut local).await;
    assert_eq!(stream.reset_code().await, 0);
    agent.shutdown().await;
}

#[tokio::test]
async fn a_client_waits_for_a_session_and_no_longer_than_an_open_may_take() {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let mut config = deployment.config(&[relay.addr()]);
    config.consume = vec!["far=127.0.0.1:0".parse().unwrap()];
    config.timeouts.open = Duration::from_millis(300);
    let agent = Agent::start(config).await.unwrap();
    expect_rst(&mut connect(&agent, "far").await).await;
    let _waiting = connect(&agent, "far").await;
    let peer = relay.greet(&FEATURES).await;
    peer.accept_open().await;
    agent.shutdown().await;
}

#[tokio::test]
async fn a_client_that_is_gone_takes_its_open_with_it() {
    let Scene { agent, peer, .. } = scene(&FEATURES, |_| {}).await;
    let local = connect(&agent, "far").await;
    let (mut stream, _open) = peer.accept_open().await;
    rst(local);
    assert_eq!(stream.reset_code().await, 0);
    until("the stream is gone", || count(&agent, "stream") == 0).await;
    agent.shutdown().await;
}

#[tokio::test]
async fn resets_pass_both_ways_with_the_applications_code() {
    let Scene { agent, mut peer, .. } = scene(&FEATURES, |_| {}).await;
    let mut local = connect(&agent, "far").await;
    let (mut stream, open) = peer.accept_open().await;
    peer.ready(open.stream_id).await;
    stream.send.write_all(b"x").await.unwrap();
    expect_tcp(&mut local, b"x").await;
    rst(local);
    assert_eq!((stream.reset_code().await, stream.stop_code().await), (APPLICATION, APPLICATION));

    let mut local = connect(&agent, "far").await;
    let (mut stream, open) = peer.accept_open().await;
    peer.ready(open.stream_id).await;
    stream.send.write_all(b"x").await.unwrap();
    expect_tcp(&mut local, b"x").await;
    stream.send.reset(0x1f4_u32.into()).unwrap();
    expect_rst(&mut local).await;
    assert_eq!(stream.reset_code().await, APPLICATION);
    until("the streams are gone", || count(&agent, "stream") == 0).await;
    agent.shutdown().await;
}

#[tokio::test]
async fn a_killed_stream_is_reset_on_both_sides_and_its_neighbour_goes_on() {
    let Scene { agent, mut peer, .. } = scene(&FEATURES, |_| {}).await;
    let mut neighbour = connect(&agent, "far").await;
    let (mut neighbours, open) = peer.accept_open().await;
    peer.ready(open.stream_id).await;
    for fault in [Fault::Kill, Fault::Panic] {
        let mut local = connect(&agent, "far").await;
        let (mut stream, open) = peer.accept_open().await;
        peer.ready(open.stream_id).await;
        stream.send.write_all(b"x").await.unwrap();
        expect_tcp(&mut local, b"x").await;
        let newest = agent.tree().walk().filter(|report| report.kind == "stream").last().unwrap().id;
        agent.inject(&newest.to_string(), fault).await.unwrap();
        expect_rst(&mut local).await;
        assert_eq!((stream.reset_code().await, stream.stop_code().await), (APPLICATION, APPLICATION));
    }
    send_tcp(&mut neighbour, b"still").await;
    neighbours.expect(b"still").await;
    agent.shutdown().await;
}

#[tokio::test]
async fn a_listener_that_dies_keeps_its_port_and_its_clients() {
    let Scene { agent, mut peer, .. } = scene(&FEATURES, |_| {}).await;
    let addr = agent.local_addr("far").unwrap();
    let mut before = connect(&agent, "far").await;
    let (mut stream, open) = peer.accept_open().await;
    peer.ready(open.stream_id).await;
    for (kind, restarts) in [("listener", 1), ("listener", 2), ("listeners", 1)] {
        let fault = if restarts == 2 { Fault::Panic } else { Fault::Kill };
        agent.inject(kind, fault).await.unwrap();
        until("it is back", || actor(&agent, kind).restarts == restarts).await;
        assert_eq!(agent.local_addr("far"), Some(addr));
        let _after = soon(TcpStream::connect(addr)).await.unwrap();
        peer.accept_open().await;
    }
    send_tcp(&mut before, b"still").await;
    stream.expect(b"still").await;
    agent.shutdown().await;
}

#[tokio::test]
async fn the_supervisor_of_streams_takes_them_with_it_and_the_session_stays() {
    let Scene { agent, mut peer, .. } = scene(&FEATURES, |_| {}).await;
    let mut local = connect(&agent, "far").await;
    let (mut stream, open) = peer.accept_open().await;
    peer.ready(open.stream_id).await;
    stream.send.write_all(b"x").await.unwrap();
    expect_tcp(&mut local, b"x").await;
    agent.inject("streams", Fault::Kill).await.unwrap();
    expect_rst(&mut local).await;
    until("it is back", || actor(&agent, "streams").restarts == 1).await;
    let _again = connect(&agent, "far").await;
    peer.accept_open().await;
    assert!(peer.quic.close_reason().is_none());
    agent.shutdown().await;
}

#[tokio::test]
async fn a_client_beyond_the_limit_is_reset_and_the_others_go_on() {
    let Scene { agent, mut peer, .. } = scene(&FEATURES, |config| config.limits.streams = 1).await;
    let mut local = connect(&agent, "far").await;
    let (mut stream, open) = peer.accept_open().await;
    peer.ready(open.stream_id).await;
    expect_rst(&mut connect(&agent, "far").await).await;
    send_tcp(&mut local, b"x").await;
    stream.expect(b"x").await;
    stream.send.reset(0_u32.into()).unwrap();
    expect_rst(&mut local).await;
    until("the stream is gone", || count(&agent, "stream") == 0).await;
    let _again = connect(&agent, "far").await;
    peer.accept_open().await;
    agent.shutdown().await;
}

fn rst(local: TcpStream) {
    local.set_zero_linger().unwrap();
    drop(local);
}
