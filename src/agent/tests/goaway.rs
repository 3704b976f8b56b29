//! A relay that drains: where the agent goes, in which order it takes its streams along, what stays.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::harness::{
    Deployment, FakeRelay, Logged, NAMED, Peer, Stream, actor, connect, expect_tcp, reject, send_tcp, soon, until,
};
use crate::agent::Agent;
use crate::clock::now_unix_ms;
use crate::config::agent::AgentConfig;
use crate::core::frame::Frame;
use crate::proto::orp;
use crate::supervise::fault::Fault;

const RESUMABLE: u64 = 0x10;

/// An agent at the first of two relays, of which it knows as many as it is told.
struct Scene {
    _deployment: Deployment,
    first: FakeRelay,
    second: FakeRelay,
    agent: Agent,
    peer: Peer,
}

fn goaway(successors: &[&str], left: Duration) -> Frame {
    Frame::GoAway(orp::GoAway {
        reason: "the relay is draining".to_owned(),
        deadline_unix_ms: now_unix_ms() + i64::try_from(left.as_millis()).unwrap(),
        successors: successors.iter().map(ToString::to_string).collect(),
    })
}

async fn scene(known: usize, features: &[&str], change: impl FnOnce(&mut AgentConfig)) -> Scene {
    let deployment = Deployment::new();
    let (first, second) = (deployment.relay(), deployment.relay_named("r2"));
    let relays: [SocketAddr; 2] = [first.addr(), second.addr()];
    let mut config = deployment.config(&relays[..known]);
    config.consume = vec!["far=127.0.0.1:0".parse().unwrap()];
    config.backoff.goaway_jitter = Duration::from_millis(20);
    change(&mut config);
    let agent = Agent::start(config).await.unwrap();
    let peer = first.greet(features).await;
    Scene { _deployment: deployment, first, second, agent, peer }
}

impl Scene {
    async fn open(&mut self, named: &[&str]) -> (TcpStream, Stream, u64) {
        let mut local = connect(&self.agent, "far").await;
        let (mut stream, open) = self.peer.accept_open().await;
        self.peer.ready_named(open.stream_id, named).await;
        send_tcp(&mut local, b"hello").await;
        stream.expect(b"hello").await;
        (local, stream, open.stream_id)
    }

    async fn drain(&mut self, successors: &[&str]) {
        self.peer.control.write(&goaway(successors, Duration::from_secs(30))).await;
    }

    async fn drain_to_second(&mut self) {
        let second = self.second.addr().to_string();
        self.drain(&[&second]).await;
    }

    fn link(&self) -> serde_json::Value {
        actor(&self.agent, "link").detail
    }

    async fn closed(&self) -> (u64, Vec<u8>) {
        closed(&self.peer).await
    }
}

async fn closed(peer: &Peer) -> (u64, Vec<u8>) {
    match soon(peer.quic.closed()).await {
        quinn::ConnectionError::ApplicationClosed(close) => (close.error_code.into_inner(), close.reason.to_vec()),
        other => panic!("{other}"),
    }
}

async fn half(peer: &Peer) -> (Stream, orp::StreamResume) {
    let mut stream = peer.accept().await;
    match stream.frame().await {
        Frame::StreamResume(half) => (stream, half),
        other => panic!("{other:?} instead of STREAM_RESUME"),
    }
}

fn said(stream_id: u64, written: u64, consumed: u64) -> Frame {
    Frame::StreamResume(orp::StreamResume {
        stream_id,
        my_position: written,
        peer_ack_position: consumed,
        ..orp::StreamResume::default()
    })
}

#[tokio::test]
async fn a_stream_moves_once_the_new_session_stands_and_then_the_old_one_is_closed() {
    let mut scene = scene(1, &NAMED, |config| config.expose = vec!["one=127.0.0.1:1".parse().unwrap()]).await;
    scene.peer.acknowledge_register().await;
    let (mut local, mut stream, id) = scene.open(&NAMED).await;
    // What is no host:port is skipped.
    let second = scene.second.addr().to_string();
    scene.drain(&["nonsense", &second]).await;
    let (mut new, _hello) = scene.second.meet().await;
    // No answer to HELLO yet: the stream goes on where it is.
    send_tcp(&mut local, b" old").await;
    stream.expect(b" old").await;
    let features = NAMED.map(str::to_owned).to_vec();
    let ack = orp::HelloAck { accepted_features: features, ..orp::HelloAck::default() };
    new.control.write(&Frame::HelloAck(ack)).await;
    assert_eq!(new.acknowledge_register().await.service_name, "one");
    let (mut path, numbers) = half(&new).await;
    assert_eq!((numbers.stream_id, numbers.my_position, numbers.peer_ack_position), (id, 9, 0));
    assert_eq!((stream.reset_code().await, stream.stop_code().await), (RESUMABLE, RESUMABLE));
    assert!(scene.peer.quic.close_reason().is_none(), "the stream may have to come back");
    let link = scene.link();
    assert_eq!((&link["address"], &link["leaving"][0]["paths"]), (&second.as_str().into(), &1.into()), "{link}");
    path.write(&said(id, 0, 5)).await;
    path.expect(b" old").await;
    send_tcp(&mut local, b" new").await;
    path.expect(b" new").await;
    path.send.write_all(b"answer").await.unwrap();
    expect_tcp(&mut local, b"answer").await;
    assert_eq!(scene.closed().await, (0, b"moved".to_vec()));
    until("one session is shown", || scene.link()["leaving"].is_null()).await;
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn only_the_first_goaway_counts_and_none_that_was_not_agreed_on() {
    let without: Vec<&str> = NAMED.into_iter().filter(|name| *name != "goaway").collect();
    for (features, is_obeyed) in [(&without[..], false), (&NAMED[..], true)] {
        let mut scene = scene(1, features, |_| {}).await;
        let third = scene._deployment.relay();
        let (_local, _stream, _id) = scene.open(&[]).await;
        scene.drain_to_second().await;
        let other = third.addr().to_string();
        scene.drain(&[&other]).await;
        scene.peer.control.write(&Frame::Ping).await;
        while scene.peer.control.frame().await != Frame::Pong {}
        let leaving = scene.link()["leaving"].clone();
        if is_obeyed {
            assert_eq!(leaving[0]["goaway"]["successors"], serde_json::json!([scene.second.addr().to_string()]));
            scene.second.greet(&NAMED).await;
        } else {
            assert!(leaving.is_null(), "{leaving}");
        }
        scene.agent.shutdown().await;
    }
}

#[tokio::test]
async fn a_stream_whose_partner_would_not_come_stays_until_the_relay_closes() {
    let mut scene = scene(1, &NAMED, |_| {}).await;
    let without: Vec<&str> = NAMED.into_iter().filter(|name| *name != "goaway").collect();
    let (mut local, mut stream, id) = scene.open(&without).await;
    let (mut other, mut moves, moved) = scene.open(&NAMED).await;
    scene.drain_to_second().await;
    let new = scene.second.greet(&NAMED).await;
    let (mut path, numbers) = half(&new).await;
    assert_eq!(numbers.stream_id, moved, "this one moves");
    assert_eq!(moves.reset_code().await, RESUMABLE);
    path.write(&said(moved, 0, 5)).await;
    send_tcp(&mut other, b"there").await;
    path.expect(b"there").await;
    send_tcp(&mut local, b"here").await;
    stream.expect(b"here").await;
    assert_eq!(scene.link()["leaving"][0]["paths"], 1);
    scene.peer.quic.close(0_u32.into(), b"the relay is stopping");
    let (_path, numbers) = half(&new).await;
    assert_eq!((numbers.stream_id, numbers.my_position), (id, 9));
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn a_successor_that_refuses_or_is_no_relay_is_passed_over_and_so_is_the_one_that_drains() {
    let deployment = Deployment::new();
    let (first, impostor, full, third) =
        (deployment.relay(), deployment.impostor(), deployment.relay_named("r2"), deployment.relay_named("r3"));
    let mut config = deployment.config(&[first.addr(), third.addr()]);
    config.backoff.goaway_jitter = Duration::from_millis(20);
    let agent = Agent::start(config).await.unwrap();
    let mut peer = first.greet(&NAMED).await;
    // The draining relay under its own name, and under another.
    let own = first.addr().to_string();
    let other_name = format!("localhost:{}", first.addr().port());
    let (impostor_addr, full_addr) = (impostor.addr().to_string(), full.addr().to_string());
    let successors = [own.as_str(), &impostor_addr, &other_name, &full_addr];
    peer.control.write(&goaway(&successors, Duration::from_secs(30))).await;
    let refused = soon(impostor.connection()).await;
    soon(refused.closed()).await;
    let again = soon(first.connection()).await;
    soon(again.closed()).await;
    let (refusing, _hello) = full.meet().await;
    refusing.quic.close(0x15_u32.into(), b"too many connections");
    let _there = third.greet(&NAMED).await;
    assert_eq!(closed(&peer).await, (0, b"moved".to_vec()), "nothing was on it");
    agent.shutdown().await;
}

#[tokio::test]
async fn without_a_successor_the_next_of_its_own_relays_is_dialled_and_the_draining_one_last() {
    let mut scene = scene(2, &NAMED, |_| {}).await;
    scene.drain(&[]).await;
    let second = scene.second.greet(&NAMED).await;
    scene.closed().await;
    // Lost: the second is the first choice now, although the first stands before it in the list.
    second.quic.close(0_u32.into(), b"gone");
    scene.second.greet(&NAMED).await;
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn a_successor_is_dialled_first_even_if_it_has_drained_itself_a_moment_ago() {
    let mut scene = scene(2, &NAMED, |_| {}).await;
    let third = scene._deployment.relay_named("r3");
    scene.drain(&[]).await;
    let mut second = scene.second.greet(&NAMED).await;
    scene.closed().await;
    let [first, other] = [scene.first.addr().to_string(), third.addr().to_string()];
    second.control.write(&goaway(&[&first, &other], Duration::from_secs(30))).await;
    tokio::select! {
        _there = scene.first.greet(&NAMED) => {}
        _elsewhere = third.connection() => panic!("the order is the relay's"),
    }
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn what_is_opened_while_relays_are_changed_waits_for_the_new_one_and_for_its_provider() {
    let mut scene = scene(1, &NAMED, |_| {}).await;
    // Asked for before GOAWAY, refused after it.
    let mut early = connect(&scene.agent, "far").await;
    let (_early_stream, refused) = scene.peer.accept_open().await;
    scene.drain_to_second().await;
    scene.peer.control.write(&reject(502, "the relay is draining", refused.stream_id)).await;
    until("it leaves", || !scene.link()["leaving"].is_null()).await;
    let mut late = connect(&scene.agent, "far").await;
    let mut new = scene.second.greet(&NAMED).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        // The provider is not there yet.
        let (_stream, open) = new.accept_open().await;
        new.control.write(&reject(404, "no such service", open.stream_id)).await;
    }
    for _ in 0..2 {
        let (stream, open) = new.accept_open().await;
        new.ready_named(open.stream_id, &NAMED).await;
        streams.push(stream);
    }
    send_tcp(&mut early, b"x").await;
    send_tcp(&mut late, b"x").await;
    for stream in &mut streams {
        stream.expect(b"x").await;
    }
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn a_stream_that_is_cut_while_there_is_no_new_session_waits_for_one() {
    let mut scene = scene(1, &NAMED, |_| {}).await;
    let (mut local, mut stream, id) = scene.open(&NAMED).await;
    scene.drain_to_second().await;
    let (mut new, _hello) = scene.second.meet().await;
    // Its partner has moved already.
    stream.send.reset(0x10_u32.into()).unwrap();
    assert_eq!(stream.reset_code().await, RESUMABLE);
    let back = tokio::time::timeout(Duration::from_millis(100), scene.peer.quic.accept_bi()).await;
    assert!(back.is_err(), "the halves would not meet there");
    let features = NAMED.map(str::to_owned).to_vec();
    new.control
        .write(&Frame::HelloAck(orp::HelloAck { accepted_features: features, ..orp::HelloAck::default() }))
        .await;
    let (mut path, _numbers) = half(&new).await;
    path.write(&said(id, 0, 5)).await;
    send_tcp(&mut local, b"on").await;
    path.expect(b"on").await;
    scene.agent.shutdown().await;
}

/// A stream whose partner was out of reach when its relay drained, and which has gone back there, for another stream keeps that
/// relay.
struct WentBack {
    scene: Scene,
    /// The relay that it was to go to.
    new: Peer,
    /// Its half at the relay that drains.
    half: Stream,
    local: TcpStream,
    id: u64,
    /// That stay.
    _others: (TcpStream, Stream),
}

impl WentBack {
    /// With a new relay that accepts `features`.
    async fn start(features: &[&str]) -> Self {
        let mut scene = scene(1, &NAMED, |_| {}).await;
        let without: Vec<&str> = NAMED.into_iter().filter(|name| *name != "goaway").collect();
        let (other, stays, _) = scene.open(&without).await;
        let (local, _stream, id) = scene.open(&NAMED).await;
        scene.drain_to_second().await;
        let new = scene.second.greet(features).await;
        let (_unanswered, numbers) = half(&new).await;
        assert_eq!(numbers.stream_id, id);
        let (half, numbers) = half(&scene.peer).await;
        assert_eq!(numbers.stream_id, id);
        Self { scene, new, half, local, id, _others: (other, stays) }
    }

    /// The other agent is at the new relay: the stream goes on there.
    async fn goes_on(&mut self, mut path: Stream) {
        assert_eq!(self.half.reset_code().await, RESUMABLE);
        path.write(&said(self.id, 0, 5)).await;
        send_tcp(&mut self.local, b"on").await;
        path.expect(b"on").await;
    }
}

#[tokio::test]
async fn a_stream_that_went_back_comes_when_its_partner_waits_at_the_new_relay() {
    let logged = Logged::start();
    let mut went_back = WentBack::start(&NAMED).await;
    // From the relay where it is: it is there.
    let wanted = Frame::ResumeWanted(orp::ResumeWanted { stream_id: went_back.id });
    went_back.scene.peer.control.write(&wanted).await;
    went_back.scene.peer.control.write(&Frame::Ping).await;
    while went_back.scene.peer.control.frame().await != Frame::Pong {}
    went_back.new.control.write(&wanted).await;
    let called = tokio::time::timeout(Duration::from_secs(1), half(&went_back.new)).await;
    let (path, _numbers) = called.expect("its partner waits for it");
    let early = tokio::time::timeout(Duration::from_millis(1), went_back.scene.peer.quic.accept_bi()).await;
    assert!(early.is_err(), "it had no reason to send another half there");
    went_back.goes_on(path).await;
    until("the move is told", || logged.count("moved 1 streams") == 1).await;
    assert_eq!(logged.count("moved 0 streams"), 0);
    went_back.scene.agent.shutdown().await;
}

#[tokio::test]
async fn a_stream_that_went_back_looks_at_the_new_relay_again_where_nobody_calls_it() {
    let without: Vec<&str> = NAMED.into_iter().filter(|name| *name != "resume-call").collect();
    let mut went_back = WentBack::start(&without).await;
    let (path, _numbers) = half(&went_back.new).await;
    went_back.goes_on(path).await;
    went_back.scene.agent.shutdown().await;
}

#[tokio::test]
async fn a_killed_link_serves_both_sessions_and_goes_on_moving() {
    let mut scene = scene(1, &NAMED, |config| config.backoff.goaway_jitter = Duration::from_millis(200)).await;
    let (mut local, mut stream, id) = scene.open(&NAMED).await;
    scene.drain_to_second().await;
    let mut new = scene.second.greet(&NAMED).await;
    until("both sessions stand", || scene.link()["session"] == 2).await;
    for (fault, restarts) in [(Fault::Kill, 1), (Fault::Panic, 2)] {
        scene.agent.inject("link", fault).await.unwrap();
        until("the link is back", || actor(&scene.agent, "link").restarts == restarts).await;
    }
    for peer in [&mut scene.peer, &mut new] {
        peer.control.write(&Frame::Ping).await;
        while peer.control.frame().await != Frame::Pong {}
    }
    let (mut path, _numbers) = half(&new).await;
    assert_eq!(stream.reset_code().await, RESUMABLE);
    path.write(&said(id, 0, 5)).await;
    send_tcp(&mut local, b"on").await;
    path.expect(b"on").await;
    assert_eq!(scene.closed().await, (0, b"moved".to_vec()));
    scene.agent.shutdown().await;
}

#[tokio::test]
async fn the_only_relay_is_dialled_again_when_it_has_closed_and_no_round_is_made_before() {
    let logged = Logged::start();
    let mut scene = scene(1, &NAMED, |_| {}).await;
    let (mut local, mut stream, id) = scene.open(&NAMED).await;
    scene.drain(&[]).await;
    until("it says so", || logged.count("no other relay to go to") == 1).await;
    assert!(!scene.link()["leaving"].is_null());
    send_tcp(&mut local, b"on").await;
    stream.expect(b"on").await;
    scene.peer.quic.close(0_u32.into(), b"the relay is stopping");
    let again = scene.first.greet(&NAMED).await;
    let (mut path, _numbers) = half(&again).await;
    path.write(&said(id, 0, 5)).await;
    path.expect(b"on").await;
    scene.agent.shutdown().await;
    assert_eq!((logged.count("no other relay to go to"), logged.count("no relay could be reached")), (1, 0));
}
