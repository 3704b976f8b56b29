//! The link: HELLO, REGISTER, relays in order, restarts in place.

use std::time::Duration;

use super::harness::{
    Deployment, FEATURES, NAMED, actor, agent_uri, connect, expect_fin, expect_rst, expect_tcp, ready, reject,
    send_tcp, soon, until,
};
use crate::agent::Agent;
use crate::core::frame::Frame;
use crate::proto::orp;
use crate::supervise::fault::Fault;

#[tokio::test]
async fn hello_names_the_agent_and_only_what_it_uses() {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let agent = Agent::start(deployment.config(&[relay.addr()])).await.unwrap();
    let (peer, hello) = relay.meet().await;
    assert_eq!(hello.protocol_version, "orp/1");
    assert_eq!(hello.agent_uri, agent_uri());
    assert_eq!(hello.capabilities, NAMED);
    assert!(peer.quic.close_reason().is_none());
    agent.shutdown().await;
}

#[tokio::test]
async fn services_are_registered_one_after_the_other_with_other_frames_between() {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let mut config = deployment.config(&[relay.addr()]);
    config.expose = ["one=127.0.0.1:1", "two=127.0.0.1:2"].map(|text| text.parse().unwrap()).into();
    let agent = Agent::start(config).await.unwrap();
    let mut peer = relay.greet(&FEATURES).await;
    assert_eq!(peer.register().await.service_name, "one");
    // What nobody asked for must not pass for the answer.
    peer.control.write(&ready(99)).await;
    peer.control.write(&reject(404, "for a stream of old", 98)).await;
    peer.control.write(&Frame::Ping).await;
    assert_eq!(peer.control.frame().await, Frame::Pong);
    let registered = tokio::time::timeout(Duration::from_millis(50), agent.wait_registered()).await;
    assert!(registered.is_err(), "nothing is registered yet");
    peer.control.write(&Frame::RegisterAck(orp::RegisterAck::default())).await;
    let second = peer.acknowledge_register().await;
    assert_eq!((second.service_name.as_str(), second.local_addr.as_str()), ("two", "127.0.0.1:2"));
    soon(agent.wait_registered()).await;
    agent.shutdown().await;
}

#[tokio::test]
async fn a_refused_register_is_tried_again_and_ends_nothing() {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let mut config = deployment.config(&[relay.addr()]);
    config.expose = ["one=127.0.0.1:1", "two=127.0.0.1:2"].map(|text| text.parse().unwrap()).into();
    let agent = Agent::start(config).await.unwrap();
    let mut peer = relay.greet(&[]).await;
    assert_eq!(peer.register().await.service_name, "one");
    peer.control.write(&reject(429, "too many services", 0)).await;
    assert_eq!(peer.acknowledge_register().await.service_name, "two");
    assert_eq!(peer.acknowledge_register().await.service_name, "one");
    soon(agent.wait_registered()).await;
    assert!(peer.quic.close_reason().is_none());
    agent.shutdown().await;
}

#[tokio::test]
async fn a_register_that_is_never_answered_ends_the_session() {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let mut config = deployment.config(&[relay.addr()]);
    config.expose = vec!["one=127.0.0.1:1".parse().unwrap()];
    config.timeouts.hello = Duration::from_millis(300);
    let agent = Agent::start(config).await.unwrap();
    let mut first = relay.greet(&[]).await;
    assert_eq!(first.register().await.service_name, "one");
    let mut second = relay.greet(&[]).await;
    second.acknowledge_register().await;
    soon(agent.wait_registered()).await;
    agent.shutdown().await;
}

#[tokio::test]
async fn whoever_is_no_relay_is_left_for_the_next() {
    let deployment = Deployment::new();
    let (impostor, relay) = (deployment.impostor(), deployment.relay());
    let agent = Agent::start(deployment.config(&[impostor.addr(), relay.addr()])).await.unwrap();
    let refused = soon(impostor.connection()).await;
    let peer = relay.greet(&FEATURES).await;
    soon(agent.wait_registered()).await;
    let quinn::ConnectionError::ApplicationClosed(close) = soon(refused.closed()).await else { panic!("not closed") };
    assert!(String::from_utf8_lossy(&close.reason).contains("outrelay://acme/agent/"), "{close}");
    assert!(peer.quic.close_reason().is_none());
    agent.shutdown().await;
}

#[tokio::test]
async fn a_lost_session_is_followed_by_one_with_the_next_relay_and_then_by_the_first_again() {
    let deployment = Deployment::new();
    let (first, second) = (deployment.relay(), deployment.relay());
    let mut config = deployment.config(&[first.addr(), second.addr()]);
    config.expose = vec!["one=127.0.0.1:1".parse().unwrap()];
    let agent = Agent::start(config).await.unwrap();
    let mut peer = first.greet(&FEATURES).await;
    peer.acknowledge_register().await;
    peer.quic.close(0_u32.into(), b"stopping");
    let mut peer = second.greet(&FEATURES).await;
    peer.acknowledge_register().await;
    peer.quic.close(0_u32.into(), b"stopping");
    let mut peer = first.greet(&FEATURES).await;
    peer.acknowledge_register().await;
    soon(agent.wait_registered()).await;
    agent.shutdown().await;
}

#[tokio::test]
async fn relays_are_dialled_for_ever_until_one_answers() {
    let deployment = Deployment::new();
    // Bound and silent: no answer, and no refusal either.
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let relay = deployment.relay();
    let mut config = deployment.config(&[silent.local_addr().unwrap(), relay.addr()]);
    config.timeouts.connect = Duration::from_millis(100);
    config.timeouts.hello = Duration::from_millis(100);
    let agent = Agent::start(config).await.unwrap();
    // No HELLO_ACK: as good as no relay.
    let (_first, _) = relay.meet().await;
    let (_second, _) = relay.meet().await;
    let _third = relay.greet(&FEATURES).await;
    soon(agent.wait_registered()).await;
    agent.shutdown().await;
}

#[tokio::test]
async fn a_first_relay_that_is_slow_is_taken_all_the_same_and_the_second_is_told_so() {
    let deployment = Deployment::new();
    let (first, second) = (deployment.relay(), deployment.relay_named("r2"));
    let mut config = deployment.config(&[first.addr(), second.addr()]);
    config.expose = vec!["one=127.0.0.1:1".parse().unwrap()];
    let agent = Agent::start(config).await.unwrap();
    // The first takes no connection yet, so the second is asked, and answers.
    let other = second.greet(&FEATURES).await;
    let mut peer = first.greet(&FEATURES).await;
    peer.acknowledge_register().await;
    soon(agent.wait_registered()).await;
    let quinn::ConnectionError::ApplicationClosed(close) = soon(other.quic.closed()).await else {
        panic!("not closed")
    };
    assert!(String::from_utf8_lossy(&close.reason).contains("comes before this one"), "{close}");
    agent.shutdown().await;
}

#[tokio::test]
async fn a_broken_frame_ends_the_session_with_a_reason() {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let agent = Agent::start(deployment.config(&[relay.addr()])).await.unwrap();
    let mut peer = relay.greet(&FEATURES).await;
    peer.control.send.write_all(&[0xA0, 0x21, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let quinn::ConnectionError::ApplicationClosed(close) = soon(peer.quic.closed()).await else { panic!("not closed") };
    assert_eq!(close.error_code.into_inner(), 0x16, "PROTOCOL");
    assert!(String::from_utf8_lossy(&close.reason).contains("version 5"), "{close}");
    agent.shutdown().await;
}

#[tokio::test]
async fn a_killed_link_goes_on_with_session_registrations_and_streams() {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let mut config = deployment.config(&[relay.addr()]);
    config.expose = vec!["one=127.0.0.1:1".parse().unwrap()];
    config.consume = vec!["far=127.0.0.1:0".parse().unwrap()];
    let agent = Agent::start(config).await.unwrap();
    let mut peer = relay.greet(&FEATURES).await;
    assert_eq!(peer.register().await.service_name, "one");
    let mut local = connect(&agent, "far").await;
    let (mut stream, open) = peer.accept_open().await;
    peer.ready(open.stream_id).await;
    send_tcp(&mut local, b"before").await;
    stream.expect(b"before").await;

    for (fault, restarts) in [(Fault::Kill, 1), (Fault::Panic, 2)] {
        agent.inject("link", fault).await.unwrap();
        until("the link is back", || actor(&agent, "link").restarts == restarts).await;
        assert!(peer.quic.close_reason().is_none(), "{fault:?}");
    }
    // The answer to what an earlier life of the link has asked.
    peer.control.write(&Frame::RegisterAck(orp::RegisterAck::default())).await;
    soon(agent.wait_registered()).await;
    send_tcp(&mut local, b"after").await;
    stream.expect(b"after").await;
    // A frame of which the dead link had seen the first half.
    let (mut again, open) = {
        let mut other = connect(&agent, "far").await;
        send_tcp(&mut other, b"x").await;
        let (stream, open) = peer.accept_open().await;
        ((stream, other), open)
    };
    let frame = ready(open.stream_id).encode();
    peer.control.send.write_all(&frame[..5]).await.unwrap();
    agent.inject("link", Fault::Kill).await.unwrap();
    until("the link is back", || actor(&agent, "link").restarts == 3).await;
    peer.control.send.write_all(&frame[5..]).await.unwrap();
    again.0.expect(b"x").await;
    stream.send.write_all(b"end").await.unwrap();
    stream.send.finish().unwrap();
    assert_eq!(expect_fin(&mut local).await, b"end");
    agent.shutdown().await;
}

#[tokio::test]
async fn shutdown_closes_the_connection_and_resets_local_clients() {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let mut config = deployment.config(&[relay.addr()]);
    config.consume = vec!["far=127.0.0.1:0".parse().unwrap()];
    let agent = Agent::start(config).await.unwrap();
    let mut peer = relay.greet(&FEATURES).await;
    let mut local = connect(&agent, "far").await;
    let (mut stream, open) = peer.accept_open().await;
    peer.ready(open.stream_id).await;
    stream.send.write_all(b"x").await.unwrap();
    expect_tcp(&mut local, b"x").await;
    soon(agent.shutdown()).await;
    let end = soon(peer.quic.closed()).await;
    let quinn::ConnectionError::ApplicationClosed(close) = end else { panic!("{end}") };
    assert_eq!((close.error_code.into_inner(), &close.reason[..]), (0, b"the agent is stopping".as_slice()));
    expect_rst(&mut local).await;
}
