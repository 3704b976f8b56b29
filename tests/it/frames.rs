//! Frames that break the rules: each ends what it came on, with a reason, and nothing else.

use outrelay::core::frame::Frame;
use outrelay::metrics::Limit;
use outrelay::proto::orp;

use crate::harness::{Deployment, Peer, agent, hits, rejection};

/// In the refusal of a frame of one byte more than may be.
const TOO_LONG: &str = "65537";

async fn control_bytes_close_with(bytes: &[u8], reason: &str) {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let neighbour = deployment.peer(&relay, 9, &[]).await;
    let mut peer = deployment.peer(&relay, 1, &[]).await;
    peer.control.send.write_all(bytes).await.unwrap();
    let (code, why) = peer.closed().await;
    assert_eq!(code, 0, "no reset code to a peer that named none");
    assert!(why.contains(reason), "{why:?} does not say {reason:?}");
    assert!(neighbour.quic.close_reason().is_none());
    assert_eq!(hits(&relay, Limit::FrameMaxBytes), u64::from(reason == TOO_LONG));
    assert_eq!(relay.vault().metrics.protocol_violations.get(), 1);
}

#[tokio::test]
async fn another_frame_version_closes_the_connection() {
    // Version 5 in the three high bits, type PING.
    control_bytes_close_with(&[0b1010_0000, 0x20, 0, 0, 0, 0, 0, 0], "version").await;
}

#[tokio::test]
async fn a_frame_above_the_limit_closes_the_connection_before_its_payload_is_read() {
    control_bytes_close_with(&[0x20, 0x03, 0, 0, 0, 1, 0, 1], TOO_LONG).await;
}

#[tokio::test]
async fn a_payload_that_is_no_message_closes_the_connection() {
    control_bytes_close_with(&[0x20, 0x03, 0, 0, 0, 0, 0, 2, 0x0a, 0x7f], "REGISTER").await;
}

#[tokio::test]
async fn a_second_hello_closes_the_connection() {
    let hello = Frame::Hello(orp::Hello {
        protocol_version: "orp/1".to_owned(),
        agent_uri: agent(1).to_string(),
        capabilities: vec![],
    });
    control_bytes_close_with(&hello.encode(), "HELLO").await;
}

#[tokio::test]
async fn anything_before_hello_closes_the_connection() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut peer = Peer::over(deployment.dial(&relay, 1).await, &agent(1)).await;
    peer.say(&Frame::Ping).await;
    let (_, reason) = peer.closed().await;
    assert!(reason.contains("HELLO"), "{reason}");
}

#[tokio::test]
async fn a_control_stream_that_is_finished_or_cut_ends_the_connection() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let peer = deployment.peer(&relay, 1, &[]).await;
    peer.control.send.finish();
    let (_, reason) = crate::harness::closed(&peer.quic).await;
    assert!(reason.contains("control stream"), "{reason}");
}

#[tokio::test]
async fn unknown_and_reserved_frames_on_the_control_stream_are_skipped() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut peer = deployment.peer(&relay, 1, &[]).await;
    // Type 0x7ff does not exist; 0x005 is reserved; both with a payload; the reserved bits and flags are ignored.
    peer.control.send.write_all(&[0x27, 0xff, 0, 0, 0, 0, 0, 3, 1, 2, 3]).await.unwrap();
    peer.control.send.write_all(&[0x38, 0x05, 0xff, 0xff, 0, 0, 0, 1, 9]).await.unwrap();
    peer.say(&Frame::Ping).await;
    assert_eq!(peer.hear().await, Frame::Pong);
}

#[tokio::test]
async fn a_frame_cut_off_in_the_middle_refuses_that_stream_alone() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let open = crate::harness::open_frame("svc", 1).encode();
    for cut in [1, 7, 8, open.len() - 1] {
        let mut stream = consumer.fresh().await;
        stream.send.write_all(&open[..cut]).await.unwrap();
        let outrelay::net::stream::BiStream { send, recv } = stream;
        send.finish();
        let mut refused = recv;
        let frame = outrelay::net::framed::read_frame(&mut refused, 1 << 16).await.unwrap();
        assert!(matches!(&frame, Frame::StreamReject(reject) if reject.code == 400), "{frame:?}");
    }
    let mut refused = consumer.fresh().await;
    refused.send.write_all(&[0x20, 0x10, 0, 0, 0, 1, 0, 1]).await.unwrap();
    let (code, reason) = rejection(&mut refused).await;
    assert_eq!((code, reason.contains(TOO_LONG)), (400, true), "{reason}");
    assert_eq!(hits(&relay, Limit::FrameMaxBytes), 1);
    let (_up, _down) = crate::harness::pair(&consumer, &provider, 2).await;
}

#[tokio::test]
async fn frames_in_one_byte_pieces_are_frames() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut peer = deployment.peer(&relay, 1, &[]).await;
    let register = Frame::Register(orp::Register { service_name: "svc".to_owned(), local_addr: String::new() });
    for byte in register.encode().iter().chain(Frame::Ping.encode().iter()) {
        peer.control.send.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(matches!(peer.hear().await, Frame::RegisterAck(_)));
    assert_eq!(peer.hear().await, Frame::Pong);
}
