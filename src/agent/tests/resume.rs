//! Streams that lose their path: with a relay of this project's kind.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::consumer::{Scene, scene};
use super::harness::{
    Deployment, NAMED, PATIENCE, Peer, Stream, TICKET, connect, count, expect_fin, expect_rst, expect_tcp, resume,
    send_tcp, soon, until,
};
use crate::agent::Agent;
use crate::core::frame::Frame;
use crate::proto::orp;

const RESUMABLE: u32 = 0x10;
const RETRY: u32 = 0x12;
const NOT_RESUMABLE: u32 = 0x14;
const LIMIT: u32 = 0x15;

/// A stream that is open, and has carried nothing.
struct Open {
    local: TcpStream,
    stream: Stream,
    id: u64,
}

impl Scene {
    async fn open(&mut self) -> Open {
        let local = connect(&self.agent, "far").await;
        let (stream, open) = self.peer.accept_open().await;
        self.peer.ready_named(open.stream_id, &NAMED).await;
        until("it is open", || !self.stream()["carried"].is_null()).await;
        Open { local, stream, id: open.stream_id }
    }

    fn stream(&self) -> serde_json::Value {
        let tree = self.agent.tree();
        let found = tree.walk().find(|report| report.kind == "stream").map(|report| report.detail.clone());
        found.unwrap_or_default()
    }
}

/// What the other agent says: it has written `written` bytes, and consumed `consumed`.
fn said(stream_id: u64, written: u64, consumed: u64) -> orp::StreamResume {
    orp::StreamResume { stream_id, my_position: written, peer_ack_position: consumed, ..orp::StreamResume::default() }
}

fn checkpoint(stream_id: u64, written: u64, consumed: u64, fins: [bool; 2]) -> Frame {
    Frame::StreamCheckpoint(orp::StreamCheckpoint {
        stream_id,
        my_position: written,
        peer_ack_position: consumed,
        fin_sent: fins[0],
        fin_consumed: fins[1],
    })
}

#[tokio::test]
async fn a_lost_connection_is_followed_by_a_resume_that_resends_exactly_what_is_missing() {
    let mut scene = scene(&NAMED, |_| {}).await;
    let Open { mut local, mut stream, id } = scene.open().await;
    send_tcp(&mut local, b"0123456789").await;
    stream.expect(b"0123456789").await;
    stream.send.write_all(b"abcde").await.unwrap();
    expect_tcp(&mut local, b"abcde").await;
    local.shutdown().await.unwrap();
    assert_eq!(soon(stream.recv.read(&mut [0])).await, Ok(None));
    scene.peer.quic.close(0_u32.into(), b"gone");

    let peer = scene.relay.greet(&NAMED).await;
    let (mut stream, half) = resume(&peer).await;
    assert_eq!((half.stream_id, half.my_position, half.peer_ack_position), (id, 10, 5));
    assert_eq!((half.fin_sent, half.fin_consumed, half.ticket.as_slice()), (true, false, TICKET));
    // The other agent has consumed 4 of the 10, and written 7, of which 2 were lost.
    stream.write(&Frame::StreamResume(said(id, 7, 4))).await;
    stream.send.write_all(b"fg").await.unwrap();
    stream.send.finish().unwrap();
    assert_eq!(soon(stream.recv.read_to_end(100)).await.unwrap(), b"456789");
    assert_eq!(expect_fin(&mut local).await, b"fg");
    let shown = scene.stream();
    assert_eq!((&shown["role"], &shown["stream"]["id"]), (&"consumer".into(), &id.to_string().into()));
    let carried = &shown["carried"];
    assert_eq!((&carried["phase"], &carried["peer"]), (&"closing".into(), &"fin-state".into()));
    assert_eq!(carried["relay"], "outrelay://test/relay/r1");
    let numbers = ["resumed", "written", "acknowledged", "consumed", "ring_bytes", "ring_capacity_bytes"];
    assert_eq!(numbers.map(|name| carried[name].as_u64().unwrap()), [1, 10, 4, 7, 6, 256 << 10]);
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn a_stream_that_is_cut_resumes_on_the_same_session_and_the_old_path_is_void() {
    let mut scene = scene(&NAMED, |_| {}).await;
    let Open { mut local, mut stream, id } = scene.open().await;
    send_tcp(&mut local, b"one").await;
    stream.expect(b"one").await;
    // Only what it reads is cut: what it writes on the old path afterwards must not count.
    stream.recv.stop(RESUMABLE.into()).unwrap();
    let (mut new, half) = resume(&scene.peer).await;
    assert_eq!((half.my_position, half.peer_ack_position), (3, 0));
    let late = stream.send.write_all(b"late").await;
    assert!(late.is_ok() || stream.stop_code().await == u64::from(RESUMABLE));
    assert_eq!(stream.stop_code().await, u64::from(RESUMABLE), "the old path is left");
    send_tcp(&mut local, b"two").await;
    new.write(&Frame::StreamResume(said(id, 4, 3))).await;
    new.expect(b"two").await;
    new.send.write_all(b"good").await.unwrap();
    expect_tcp(&mut local, b"good").await;
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn a_refused_resume_resets_the_local_socket() {
    for refusal in [None, Some(NOT_RESUMABLE), Some(0)] {
        let mut scene = scene(&NAMED, |_| {}).await;
        let Open { mut local, mut stream, .. } = scene.open().await;
        stream.send.write_all(b"x").await.unwrap();
        expect_tcp(&mut local, b"x").await;
        stream.send.reset(RESUMABLE.into()).unwrap();
        let (mut half, _) = resume(&scene.peer).await;
        match refusal {
            None => half.send.finish().unwrap(),
            Some(code) => half.send.reset(code.into()).unwrap(),
        }
        assert_eq!(expect_rst(&mut local).await, b"");
        until("the stream is gone", || count(&scene.agent, "stream") == 0).await;
        scene.agent.shutdown().await;
    }
}

#[tokio::test]
async fn a_half_that_is_cut_itself_is_sent_again() {
    let mut scene = scene(&NAMED, |_| {}).await;
    let Open { mut local, mut stream, id } = scene.open().await;
    stream.send.reset(RESUMABLE.into()).unwrap();
    for code in [RESUMABLE, RETRY, LIMIT] {
        let (mut half, _) = resume(&scene.peer).await;
        half.send.reset(code.into()).unwrap();
    }
    // An echo from before what the agent has consumed.
    let (mut half, _) = resume(&scene.peer).await;
    half.write(&Frame::StreamResume(said(id, 0, 0))).await;
    half.send.write_all(b"x").await.unwrap();
    expect_tcp(&mut local, b"x").await;
    half.send.reset(RESUMABLE.into()).unwrap();
    let (mut old, _) = resume(&scene.peer).await;
    old.write(&Frame::StreamResume(said(id, 0, 0))).await;
    assert_eq!(old.reset_code().await, u64::from(RESUMABLE));
    let (mut half, _) = resume(&scene.peer).await;
    half.write(&Frame::StreamResume(said(id, 1, 0))).await;
    send_tcp(&mut local, b"y").await;
    half.expect(b"y").await;
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn a_stream_that_nobody_takes_up_is_reset_when_its_time_is_over() {
    let mut scene = scene(&NAMED, |config| config.timeouts.resume = Duration::from_millis(300)).await;
    let Open { mut local, mut stream, .. } = scene.open().await;
    stream.send.reset(RESUMABLE.into()).unwrap();
    let (_parked, _) = resume(&scene.peer).await;
    expect_rst(&mut local).await;
    // Without a session, too.
    let Open { mut local, .. } = scene.open().await;
    scene.peer.quic.close(0_u32.into(), b"gone");
    expect_rst(&mut local).await;
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn without_a_path_the_application_is_read_until_the_ring_is_full_and_a_checkpoint_frees_it() {
    const RING: usize = 256 << 10;
    let mut scene = scene(&NAMED, |config| config.limits.ring_max = RING).await;
    let Open { local, mut stream, id } = scene.open().await;
    stream.send.reset(RESUMABLE.into()).unwrap();
    let (mut half, _) = resume(&scene.peer).await;
    let (mut read, mut write) = local.into_split();
    let mut sending = tokio::task::JoinSet::new();
    sending.spawn(async move {
        write.write_all(&vec![b'x'; 8 << 20]).await.unwrap();
        write.shutdown().await.unwrap();
    });
    until("the ring is full", || scene.stream()["carried"]["ring_bytes"] == RING).await;
    half.write(&Frame::StreamResume(said(id, 0, 0))).await;
    let mut got = vec![0; RING];
    soon(half.recv.read_exact(&mut got)).await.unwrap();
    let more = tokio::time::timeout(Duration::from_millis(50), half.recv.read(&mut got)).await;
    assert!(more.is_err(), "{more:?}, but nothing was acknowledged");
    assert!(sending.try_join_next().is_none());
    let mut total = RING as u64;
    while total < 8 << 20 {
        scene.peer.control.write(&checkpoint(id, 0, total, [false; 2])).await;
        total += soon(half.recv.read(&mut got)).await.unwrap().unwrap() as u64;
    }
    assert_eq!(soon(half.recv.read(&mut got)).await, Ok(None));
    soon(sending.join_next()).await.unwrap().unwrap();
    half.send.finish().unwrap();
    let mut rest = Vec::new();
    soon(tokio::io::AsyncReadExt::read_to_end(&mut read, &mut rest)).await.unwrap();
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn checkpoints_report_what_changed_and_a_fin_at_once() {
    let mut scene = scene(&NAMED, |_| {}).await;
    let Open { mut local, mut stream, id } = scene.open().await;
    send_tcp(&mut local, b"abc").await;
    stream.send.write_all(b"hello").await.unwrap();
    expect_tcp(&mut local, b"hello").await;
    let all = orp::StreamCheckpoint { stream_id: id, my_position: 3, peer_ack_position: 5, ..Default::default() };
    let mut last = orp::StreamCheckpoint::default();
    while last != all {
        last = next_checkpoint(&mut scene.peer).await;
    }
    stream.send.finish().unwrap();
    assert_eq!(expect_fin(&mut local).await, b"", "what is closed is closed before it is confirmed");
    assert_eq!(next_checkpoint(&mut scene.peer).await, orp::StreamCheckpoint { fin_consumed: true, ..all });
    local.shutdown().await.unwrap();
    assert_eq!(
        next_checkpoint(&mut scene.peer).await,
        orp::StreamCheckpoint { fin_consumed: true, fin_sent: true, ..all }
    );
    assert_eq!(count(&scene.agent, "stream"), 1, "it waits for the other agent's word");
    scene.peer.control.write(&checkpoint(id, 5, 3, [true, true])).await;
    until("the stream is gone", || count(&scene.agent, "stream") == 0).await;
    scene.agent.shutdown().await;
}

async fn next_checkpoint(peer: &mut Peer) -> orp::StreamCheckpoint {
    loop {
        match peer.control.frame().await {
            Frame::StreamCheckpoint(checkpoint) => return checkpoint,
            Frame::Ping => peer.control.write(&Frame::Pong).await,
            other => panic!("{other:?} instead of STREAM_CHECKPOINT"),
        }
    }
}

async fn finish(scene: &mut Scene) -> u64 {
    let Open { mut local, mut stream, id } = scene.open().await;
    send_tcp(&mut local, b"abc").await;
    local.shutdown().await.unwrap();
    assert_eq!(soon(stream.recv.read_to_end(10)).await.unwrap(), b"abc");
    stream.send.write_all(b"hello").await.unwrap();
    stream.send.finish().unwrap();
    assert_eq!(expect_fin(&mut local).await, b"hello");
    scene.peer.control.write(&checkpoint(id, 5, 3, [true, true])).await;
    until("the stream is gone", || count(&scene.agent, "stream") == 0).await;
    id
}

#[tokio::test]
async fn a_finished_stream_is_answered_for_and_one_that_is_not_known_is_gone() {
    let mut scene = scene(&NAMED, |_| {}).await;
    let id = finish(&mut scene).await;
    scene.peer.control.write(&Frame::ResumeWanted(orp::ResumeWanted { stream_id: id })).await;
    let (mut half, numbers) = resume(&scene.peer).await;
    assert_eq!((numbers.my_position, numbers.peer_ack_position), (3, 5));
    assert_eq!(numbers.ticket, TICKET, "this half needs a proof, too");
    assert!(numbers.fin_sent && numbers.fin_consumed);
    let theirs = orp::StreamResume { fin_sent: true, ..said(id, 5, 3) };
    half.write(&Frame::StreamResume(theirs)).await;
    assert_eq!(soon(half.recv.read(&mut [0])).await, Ok(None), "the FIN again");
    half.send.finish().unwrap();
    assert_eq!(soon(half.send.stopped()).await, Ok(None), "read to its end");

    scene.peer.control.write(&Frame::ResumeWanted(orp::ResumeWanted { stream_id: 12345 })).await;
    let gone = loop {
        match scene.peer.control.frame().await {
            Frame::StreamReject(reject) => break reject,
            Frame::StreamCheckpoint(_) | Frame::Ping => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((gone.code, gone.stream_id), (410, 12345));
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn a_stream_whose_partner_waits_for_it_leaves_its_path_and_comes() {
    let mut scene = scene(&NAMED, |_| {}).await;
    let Open { mut local, mut stream, id } = scene.open().await;
    scene.peer.control.write(&Frame::ResumeWanted(orp::ResumeWanted { stream_id: id })).await;
    let (mut half, _) = resume(&scene.peer).await;
    assert_eq!(stream.reset_code().await, u64::from(RESUMABLE));
    half.write(&Frame::StreamResume(said(id, 0, 0))).await;
    send_tcp(&mut local, b"x").await;
    half.expect(b"x").await;
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn an_applications_own_reset_ends_the_stream_and_what_is_lost_is_told_as_one() {
    for code in [0x100_u32, 0x1f4, 0, NOT_RESUMABLE, 0x13, 0x15, 0x16] {
        let mut scene = scene(&NAMED, |_| {}).await;
        let Open { mut local, mut stream, .. } = scene.open().await;
        stream.send.write_all(b"x").await.unwrap();
        expect_tcp(&mut local, b"x").await;
        stream.send.reset(code.into()).unwrap();
        expect_rst(&mut local).await;
        assert_eq!(stream.reset_code().await, 0x100, "{code:#x}");
        until("the stream is gone", || count(&scene.agent, "stream") == 0).await;
        scene.agent.shutdown().await;
    }
}

#[tokio::test]
async fn a_client_that_goes_while_there_is_no_path_takes_its_half_with_it() {
    let mut scene = scene(&NAMED, |_| {}).await;
    let Open { local, mut stream, id } = scene.open().await;
    stream.send.reset(RESUMABLE.into()).unwrap();
    let (mut half, _) = resume(&scene.peer).await;
    local.set_zero_linger().unwrap();
    drop(local);
    assert_eq!(half.reset_code().await, u64::from(RESUMABLE));
    until("the stream is gone", || count(&scene.agent, "stream") == 0).await;
    scene.peer.control.write(&Frame::ResumeWanted(orp::ResumeWanted { stream_id: id })).await;
    let gone = loop {
        if let Frame::StreamReject(reject) = scene.peer.control.frame().await {
            break reject;
        }
    };
    assert_eq!((gone.code, gone.stream_id), (410, id));
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn a_silent_relay_is_left_within_two_seconds_while_a_stream_lives() {
    let deployment = Deployment::new();
    let (first, second) = (deployment.relay(), deployment.relay());
    let proxy = super::harness::Proxy::start(first.addr()).await;
    let mut config = deployment.config(&[proxy.addr(), second.addr()]);
    config.consume = vec!["far=127.0.0.1:0".parse().unwrap()];
    config.timeouts.connect = Duration::from_millis(200);
    let agent = Agent::start(config).await.unwrap();
    let peer = first.greet(&NAMED).await;
    let mut scene = Scene { _deployment: deployment, relay: second, agent, peer };
    let Open { mut local, mut stream, id } = scene.open().await;
    send_tcp(&mut local, b"one").await;
    stream.expect(b"one").await;
    proxy.swallow();
    send_tcp(&mut local, b"two").await;
    let start = tokio::time::Instant::now();
    let peer = scene.relay.greet(&NAMED).await;
    assert!(start.elapsed() < PATIENCE / 3, "noticed after {:?}", start.elapsed());
    let (mut half, numbers) = resume(&peer).await;
    assert_eq!(numbers.my_position, 6);
    half.write(&Frame::StreamResume(said(id, 0, 3))).await;
    half.expect(b"two").await;
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn the_newest_ticket_is_shown_to_a_relay_that_knows_tickets_and_to_no_other() {
    let mut scene = scene(&NAMED, |_| {}).await;
    let _local = connect(&scene.agent, "far").await;
    let (_stream, open) = scene.peer.accept_open().await;
    let id = open.stream_id;
    let ready = orp::StreamReady { stream_id: id, ticket: b"first".to_vec(), ..orp::StreamReady::default() };
    scene.peer.control.write(&Frame::StreamReady(ready)).await;
    until("it is open", || !scene.stream()["carried"].is_null()).await;
    let renewal = |stream_id, ticket: &[u8]| Frame::Ticket(orp::Ticket { stream_id, ticket: ticket.to_vec() });
    scene.peer.quic.close(0_u32.into(), b"gone");

    let mut peer = scene.relay.greet(&NAMED).await;
    let (_half, numbers) = resume(&peer).await;
    assert_eq!(numbers.ticket, b"first");
    peer.control.write(&renewal(id, b"second")).await;
    // Of another stream, and longer than any: neither counts.
    peer.control.write(&renewal(id.wrapping_add(1), b"other")).await;
    peer.control.write(&renewal(id, &[7; 5_000])).await;
    peer.control.write(&Frame::Ping).await;
    assert_eq!(peer.control.frame().await, Frame::Pong);
    peer.quic.close(0_u32.into(), b"gone");

    let peer = scene.relay.greet(&["reject-ctrl", "resume-code", "fin-state"]).await;
    let (_half, numbers) = resume(&peer).await;
    assert_eq!(numbers.ticket, b"");
    peer.quic.close(0_u32.into(), b"gone");
    let peer = scene.relay.greet(&NAMED).await;
    let (_half, numbers) = resume(&peer).await;
    assert_eq!(numbers.ticket, b"second");
}
