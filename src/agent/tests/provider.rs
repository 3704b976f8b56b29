//! Streams that the relay opens.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::harness::{
    Deployment, FEATURES, Peer, count, expect_fin, expect_rst, expect_tcp, send_tcp, service, soon, until,
};
use crate::agent::Agent;
use crate::config::agent::AgentConfig;
use crate::core::frame::Frame;

async fn scene(change: impl FnOnce(&mut AgentConfig)) -> (Deployment, Agent, Peer, TcpListener) {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let (local, addr) = service().await;
    let mut config = deployment.config(&[relay.addr()]);
    config.expose = vec![format!("svc={addr}").parse().unwrap()];
    change(&mut config);
    let agent = Agent::start(config).await.unwrap();
    let mut peer = relay.greet(&FEATURES).await;
    peer.acknowledge_register().await;
    (deployment, agent, peer, local)
}

#[tokio::test]
async fn a_stream_reaches_the_local_service_and_both_ways_end_for_themselves() {
    let (_deployment, agent, peer, local) = scene(|_| {}).await;
    // A consumer that writes right behind its open: not a byte is swallowed.
    let mut stream = peer.incoming("svc", b"in the same packet").await;
    assert_eq!(stream.frame().await, Frame::StreamAccept);
    let (mut served, _) = soon(local.accept()).await.unwrap();
    expect_tcp(&mut served, b"in the same packet").await;
    stream.send.finish().unwrap();
    assert_eq!(expect_fin(&mut served).await, b"");
    send_tcp(&mut served, b"answer").await;
    stream.expect(b"answer").await;
    served.shutdown().await.unwrap();
    assert_eq!(soon(stream.recv.read(&mut [0])).await, Ok(None));
    until("the stream is gone", || count(&agent, "stream") == 0).await;
    agent.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_served_is_rejected_with_the_reason() {
    let (_deployment, agent, peer, local) = scene(|_| {}).await;
    let mut unknown = peer.incoming("other", b"").await;
    let Frame::StreamReject(reject) = unknown.frame().await else { panic!("not rejected") };
    assert_eq!((reject.code, reject.stream_id), (404, 0));
    drop(local);
    let mut down = peer.incoming("svc", b"").await;
    let Frame::StreamReject(reject) = down.frame().await else { panic!("not rejected") };
    assert_eq!(reject.code, 502);
    assert!(reject.reason.contains("refused"), "{}", reject.reason);
    assert_eq!(soon(down.recv.read(&mut [0])).await, Ok(None));
    agent.shutdown().await;
}

#[tokio::test]
async fn a_stream_without_incoming_stream_is_reset() {
    let (_deployment, agent, peer, _local) = scene(|config| config.timeouts.hello = Duration::from_millis(200)).await;
    let (mut send, recv) = soon(peer.quic.open_bi()).await.unwrap();
    send.write_all(&Frame::Ping.encode()).await.unwrap();
    let mut wrong = super::harness::Stream { send, recv };
    assert_eq!(wrong.reset_code().await, 0x16, "PROTOCOL");
    let (mut send, recv) = soon(peer.quic.open_bi()).await.unwrap();
    send.write_all(&[0x20]).await.unwrap();
    let mut silent = super::harness::Stream { send, recv };
    assert_eq!(silent.reset_code().await, 0x16, "PROTOCOL");
    agent.shutdown().await;
}

#[tokio::test]
async fn resets_pass_both_ways() {
    let (_deployment, agent, peer, local) = scene(|_| {}).await;
    let mut stream = peer.incoming("svc", b"x").await;
    let (mut served, _) = soon(local.accept()).await.unwrap();
    expect_tcp(&mut served, b"x").await;
    served.set_zero_linger().unwrap();
    drop(served);
    assert_eq!(stream.frame().await, Frame::StreamAccept);
    assert_eq!((stream.reset_code().await, stream.stop_code().await), (0x100, 0x100));
    let mut stream = peer.incoming("svc", b"x").await;
    let (mut served, _) = soon(local.accept()).await.unwrap();
    expect_tcp(&mut served, b"x").await;
    stream.send.reset(0x1f4_u32.into()).unwrap();
    expect_rst(&mut served).await;
    until("the streams are gone", || count(&agent, "stream") == 0).await;
    agent.shutdown().await;
}

#[tokio::test]
async fn more_streams_are_accepted_than_quic_starts_with() {
    let (_deployment, agent, peer, local) = scene(|config| config.quic.streams_initial = 4).await;
    let mut held = Vec::new();
    for _ in 0..40 {
        let stream = peer.incoming("svc", b"x").await;
        held.push((stream, soon(local.accept()).await.unwrap()));
    }
    assert_eq!(count(&agent, "stream"), 40);
    agent.shutdown().await;
}
