//! Streams that lose their path: the provider's end, and what cannot be resumed.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::harness::{
    Deployment, FakeRelay, NAMED, Peer, Stream, connect, count, expect_fin, expect_rst, expect_tcp, resume, send_tcp,
    service, soon, until,
};
use crate::agent::Agent;
use crate::core::frame::Frame;
use crate::proto::orp;

const RESUMABLE: u32 = 0x10;
const RETRY: u32 = 0x12;
/// The id of [`Peer::incoming`].
const ID: u64 = 7;

struct Provider {
    _deployment: Deployment,
    relay: FakeRelay,
    agent: Agent,
    peer: Peer,
    service: TcpListener,
}

async fn provider() -> Provider {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let (service, addr) = service().await;
    let mut config = deployment.config(&[relay.addr()]);
    config.expose = vec![format!("svc={addr}").parse().unwrap()];
    let agent = Agent::start(config).await.unwrap();
    let mut peer = relay.greet(&NAMED).await;
    peer.acknowledge_register().await;
    Provider { _deployment: deployment, relay, agent, peer, service }
}

impl Provider {
    async fn serve(&mut self) -> (Stream, TcpStream) {
        let mut stream = self.peer.incoming("svc", b"ask").await;
        assert_eq!(stream.frame().await, Frame::StreamAccept);
        let (mut served, _) = soon(self.service.accept()).await.unwrap();
        expect_tcp(&mut served, b"ask").await;
        (stream, served)
    }
}

fn said(stream_id: u64, my_position: u64, peer_ack_position: u64) -> Frame {
    Frame::StreamResume(orp::StreamResume { stream_id, my_position, peer_ack_position, ..Default::default() })
}

fn checkpoint(stream_id: u64, my_position: u64, peer_ack_position: u64) -> Frame {
    Frame::StreamCheckpoint(orp::StreamCheckpoint { stream_id, my_position, peer_ack_position, ..Default::default() })
}

#[tokio::test]
async fn a_provider_resumes_as_a_consumer_does() {
    let mut scene = provider().await;
    let (mut stream, mut served) = scene.serve().await;
    scene.peer.ready_named(ID, &NAMED).await;
    send_tcp(&mut served, b"answer").await;
    stream.expect(b"answer").await;
    scene.peer.quic.close(0_u32.into(), b"gone");
    let mut peer = scene.relay.greet(&NAMED).await;
    let (mut half, numbers) = resume(&peer).await;
    assert_eq!((numbers.stream_id, numbers.my_position, numbers.peer_ack_position), (ID, 6, 3));
    peer.acknowledge_register().await;
    half.write(&said(ID, 5, 2)).await;
    half.expect(b"swer").await;
    half.send.write_all(b"!!").await.unwrap();
    half.send.finish().unwrap();
    assert_eq!(expect_fin(&mut served).await, b"!!");
    served.shutdown().await.unwrap();
    assert_eq!(soon(half.recv.read(&mut [0])).await, Ok(None));
    drop(served);
    // The consumer has not said that it has the end.
    assert_eq!(count(&scene.agent, "stream"), 1);
    let last = orp::StreamCheckpoint {
        stream_id: ID,
        my_position: 5,
        peer_ack_position: 6,
        fin_sent: true,
        fin_consumed: true,
    };
    peer.control.write(&Frame::StreamCheckpoint(last)).await;
    until("the stream is gone", || count(&scene.agent, "stream") == 0).await;
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn a_provider_of_an_open_that_is_made_again_gives_up_at_once() {
    let mut scene = provider().await;
    let (mut stream, mut served) = {
        let mut stream = scene.peer.incoming("svc", b"").await;
        assert_eq!(stream.frame().await, Frame::StreamAccept);
        (stream, soon(scene.service.accept()).await.unwrap().0)
    };
    stream.send.reset(RETRY.into()).unwrap();
    expect_rst(&mut served).await;
    // But once it is open, RETRY is a lost path like any other; so is a cut before it.
    let (mut stream, served) = scene.serve().await;
    scene.peer.ready_named(ID, &NAMED).await;
    stream.send.reset(RETRY.into()).unwrap();
    let (half, _) = resume(&scene.peer).await;
    drop((half, served));
    let mut stream = scene.peer.incoming("svc", b"").await;
    assert_eq!(stream.frame().await, Frame::StreamAccept);
    let _served = soon(scene.service.accept()).await.unwrap().0;
    until("it carries", || scene.agent.tree().walk().any(|it| it.detail["carried"]["phase"] == "live")).await;
    stream.send.reset(RESUMABLE.into()).unwrap();
    let (_half, numbers) = resume(&scene.peer).await;
    assert_eq!((numbers.my_position, numbers.peer_ack_position), (0, 0));
    scene.agent.shutdown().await;
}

/// A consumer, and its stream that is open.
struct Consumer {
    _deployment: Deployment,
    relay: FakeRelay,
    agent: Agent,
    peer: Peer,
    local: TcpStream,
    stream: Stream,
    id: u64,
}

async fn consumer(features: &[&str]) -> Consumer {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let mut config = deployment.config(&[relay.addr()]);
    config.consume = vec!["far=127.0.0.1:0".parse().unwrap()];
    let agent = Agent::start(config).await.unwrap();
    let peer = relay.greet(features).await;
    let mut local = connect(&agent, "far").await;
    send_tcp(&mut local, b"ask").await;
    let (stream, open) = peer.accept_open().await;
    Consumer { _deployment: deployment, relay, agent, peer, local, stream, id: open.stream_id }
}

#[tokio::test]
async fn an_open_that_is_cut_before_it_is_known_to_be_open_is_made_again() {
    let Consumer { agent, mut peer, local: _local, mut stream, id, .. } = consumer(&NAMED).await;
    stream.send.reset(RESUMABLE.into()).unwrap();
    let (mut again, open) = peer.accept_open().await;
    assert_ne!(open.stream_id, id);
    peer.ready(open.stream_id).await;
    again.expect(b"ask").await;
    agent.shutdown().await;
}

#[tokio::test]
async fn a_peer_that_sends_no_checkpoints_stalls_nobody_and_its_streams_are_not_resumed() {
    const RING: usize = 256 << 10;
    let Consumer { agent, peer, local, mut stream, .. } = consumer(&[]).await;
    stream.expect(b"ask").await;
    let (mut read, mut write) = local.into_split();
    let mut sending = tokio::task::JoinSet::new();
    sending.spawn(async move { write.write_all(&vec![b'x'; 4 * RING]).await.map(|()| write) });
    let mut got = vec![0; RING - 3];
    soon(stream.recv.read_exact(&mut got)).await.unwrap();
    let more = tokio::time::timeout(Duration::from_secs(1), stream.recv.read(&mut got)).await;
    assert!(more.is_err(), "the ring is full");
    for _ in 0..3 {
        soon(stream.recv.read_exact(&mut got)).await.unwrap();
    }
    let _write = soon(sending.join_next()).await.unwrap().unwrap().unwrap();
    peer.quic.close(0_u32.into(), b"gone");
    let end = soon(tokio::io::AsyncReadExt::read_to_end(&mut read, &mut Vec::new())).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    agent.shutdown().await;
}

#[tokio::test]
async fn the_fin_of_a_legacy_relay_is_an_end_only_if_the_partner_does_not_say_otherwise() {
    // The partner has said that this is all.
    let Consumer { agent, mut peer, mut local, mut stream, id, .. } = consumer(&[]).await;
    stream.send.write_all(b"all").await.unwrap();
    expect_tcp(&mut local, b"all").await;
    peer.control.write(&checkpoint(id, 3, 0)).await;
    stream.send.finish().unwrap();
    assert_eq!(expect_fin(&mut local).await, b"");
    agent.shutdown().await;

    // It says so behind the FIN that there is more.
    let Consumer { agent, mut peer, mut local, mut stream, id, .. } = consumer(&[]).await;
    stream.send.write_all(b"not ").await.unwrap();
    stream.send.finish().unwrap();
    expect_tcp(&mut local, b"not ").await;
    peer.control.write(&checkpoint(id, 7, 0)).await;
    let (mut half, numbers) = resume(&peer).await;
    assert_eq!((numbers.my_position, numbers.peer_ack_position), (3, 4));
    assert!(!numbers.fin_sent && !numbers.fin_consumed, "{numbers:?} is of version 1");
    half.write(&said(id, 7, 3)).await;
    half.send.write_all(b"all").await.unwrap();
    half.send.finish().unwrap();
    assert_eq!(expect_fin(&mut local).await, b"all");
    agent.shutdown().await;
}

/// For long enough that a checkpoint which came before is old news.
async fn stays_open(local: &mut TcpStream, within_ms: u64) {
    let end = tokio::time::timeout(Duration::from_millis(within_ms), local.read(&mut [0])).await;
    assert!(end.is_err(), "the local client is told {end:?}");
}

#[tokio::test]
async fn a_partner_that_says_behind_an_old_word_and_a_fin_that_there_is_more_is_heard() {
    let Consumer { agent, mut peer, mut local, mut stream, id, .. } = consumer(&[]).await;
    stream.send.write_all(b"all").await.unwrap();
    expect_tcp(&mut local, b"all").await;
    peer.control.write(&checkpoint(id, 3, 0)).await;
    stays_open(&mut local, 400).await;
    // A reset behind four more bytes, passed on as a FIN; the report of the four is under way.
    stream.send.finish().unwrap();
    stays_open(&mut local, 50).await;
    peer.control.write(&checkpoint(id, 7, 0)).await;
    let (mut half, numbers) = resume(&peer).await;
    assert_eq!((numbers.my_position, numbers.peer_ack_position), (3, 3));
    half.write(&said(id, 7, 3)).await;
    half.send.write_all(b"more").await.unwrap();
    expect_tcp(&mut local, b"more").await;
    agent.shutdown().await;
}

#[tokio::test]
async fn a_fin_without_a_word_of_a_partner_that_reports_its_ends_is_a_cut() {
    let Consumer { agent, mut peer, mut local, mut stream, id, .. } = consumer(&[]).await;
    stream.send.write_all(b"all").await.unwrap();
    expect_tcp(&mut local, b"all").await;
    // Twice without a change more: an agent of this project, whose connection is lost on a stream on which nothing flows.
    for _ in 0..3 {
        peer.control.write(&checkpoint(id, 3, 0)).await;
    }
    stays_open(&mut local, 400).await;
    stream.send.finish().unwrap();
    let (mut half, numbers) = resume(&peer).await;
    assert_eq!((numbers.my_position, numbers.peer_ack_position), (3, 3));
    half.write(&said(id, 3, 3)).await;
    half.send.write_all(b" of it").await.unwrap();
    half.send.finish().unwrap();
    peer.control.write(&checkpoint(id, 9, 3)).await;
    assert_eq!(expect_fin(&mut local).await, b" of it");
    agent.shutdown().await;
}

#[tokio::test]
async fn bytes_that_come_long_after_the_word_of_their_end_and_a_fin_are_an_end() {
    let Consumer { agent, mut peer, mut local, mut stream, id, .. } = consumer(&[]).await;
    // It has ended, has said so, and said it again: an agent of this project on a slow way.
    for _ in 0..3 {
        peer.control.write(&checkpoint(id, 3, 0)).await;
    }
    stays_open(&mut local, 400).await;
    stream.send.write_all(b"all").await.unwrap();
    stream.send.finish().unwrap();
    assert_eq!(expect_fin(&mut local).await, b"all");
    agent.shutdown().await;
}

#[tokio::test]
async fn a_fin_without_a_word_of_a_partner_that_reports_only_changes_is_its_end() {
    let Consumer { agent, mut peer, mut local, mut stream, id, .. } = consumer(&[]).await;
    stream.send.write_all(b"all").await.unwrap();
    expect_tcp(&mut local, b"all").await;
    // An agent of version 0.1 has nothing to send when it ends what it has reported.
    peer.control.write(&checkpoint(id, 3, 0)).await;
    stays_open(&mut local, 400).await;
    stream.send.finish().unwrap();
    assert_eq!(expect_fin(&mut local).await, b"");
    agent.shutdown().await;
}

#[tokio::test]
async fn a_legacy_relay_that_parks_in_vain_ends_with_a_fin_which_is_no_end() {
    let Consumer { agent, peer, relay, mut local, .. } = consumer(&[]).await;
    peer.quic.close(0_u32.into(), b"gone");
    let peer = relay.greet(&[]).await;
    let (mut half, _) = resume(&peer).await;
    half.send.finish().unwrap();
    assert_eq!(expect_rst(&mut local).await, b"");
    until("the stream is gone", || count(&agent, "stream") == 0).await;
    agent.shutdown().await;
}
