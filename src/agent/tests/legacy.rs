//! A relay of version 0.1: nothing of the extensions on the wire, refusals in band.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::harness::{
    Deployment, NAMED, Peer, agent_uri, connect, expect_fin, expect_rst, expect_tcp, reject, send_tcp, service, soon,
};
use crate::agent::Agent;

async fn scene() -> (Deployment, Agent, Peer) {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let mut config = deployment.config(&[relay.addr()]);
    config.consume = vec!["far=127.0.0.1:0".parse().unwrap()];
    let agent = Agent::start(config).await.unwrap();
    let peer = relay.greet(&[]).await;
    (deployment, agent, peer)
}

/// A frame written out by hand from wire.md §2.
fn frame(code: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).unwrap();
    [&[0x20, code, 0, 0, 0, 0, 0, len], payload].concat()
}

fn long_frame(code: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x20, code, 0, 0, 0, 0, high, low], payload].concat()
}

fn text(field: u8, text: &str) -> Vec<u8> {
    [&[field << 3 | 2, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

#[tokio::test]
async fn a_legacy_relay_reads_version_1_frames_and_not_a_byte_more() {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let (local, addr) = service().await;
    let mut config = deployment.config(&[relay.addr()]);
    config.expose = vec![format!("svc={addr}").parse().unwrap()];
    config.consume = vec!["far=127.0.0.1:0".parse().unwrap()];
    let agent = Agent::start(config).await.unwrap();

    let quic = soon(relay.connection()).await;
    let (mut send, recv) = soon(quic.accept_bi()).await.unwrap();
    let mut control = super::harness::Stream { send, recv };
    let hello = [text(1, "orp/1"), text(2, agent_uri()), NAMED.map(|name| text(3, name)).concat()].concat();
    control.expect(&long_frame(0x01, &hello)).await;
    control.send.write_all(&frame(0x02, b"")).await.unwrap();
    control.expect(&frame(0x03, &[text(1, "svc"), text(2, &addr)].concat())).await;
    control.send.write_all(&frame(0x04, &text(1, "acme/svc"))).await.unwrap();

    let mut client = connect(&agent, "far").await;
    send_tcp(&mut client, b"bytes").await;
    let peer = Peer { quic, control };
    let (mut stream, open) = peer.accept_open().await;
    stream.expect(b"bytes").await;
    client.set_zero_linger().unwrap();
    drop(client);
    // No code that a legacy peer does not know.
    assert_eq!((stream.reset_code().await, stream.stop_code().await), (0, 0));
    assert_ne!(open.stream_id, 0);

    let mut incoming = peer.incoming("svc", b"right behind").await;
    incoming.expect(&frame(0x12, b"")).await;
    let (mut served, _) = soon(local.accept()).await.unwrap();
    expect_tcp(&mut served, b"right behind").await;
    served.set_zero_linger().unwrap();
    drop(served);
    assert_eq!((incoming.reset_code().await, incoming.stop_code().await), (0, 0));

    let mut refused = peer.incoming("unknown", b"").await;
    let reason = text(2, "\"unknown\" is not exposed here");
    refused.expect(&frame(0x13, &[vec![0x08, 0x94, 0x03], reason].concat())).await;
    assert_eq!(soon(refused.recv.read(&mut [0])).await, Ok(None));
    let Peer { control: super::harness::Stream { send: control_send, recv: mut control_recv }, quic } = peer;
    send = control_send;
    send.finish().unwrap();
    let mut rest = [0; 2];
    let more = tokio::time::timeout(Duration::from_millis(50), control_recv.read(&mut rest)).await;
    // A checkpoint (wire.md §5) may have been due; it is of version 1, too.
    assert!(!matches!(more, Ok(Ok(Some(_)))) || rest == [0x21, 0x10], "{rest:?} on the control stream");
    drop(quic);
    agent.shutdown().await;
}

#[tokio::test]
async fn a_legacy_stream_is_used_at_once_and_its_first_bytes_are_not_held_back() {
    let (_deployment, agent, peer) = scene().await;
    let mut local = connect(&agent, "far").await;
    send_tcp(&mut local, b"request").await;
    let (mut stream, _open) = peer.accept_open().await;
    stream.expect(b"request").await;
    // No STREAM_READY, as between two legacy relays.
    stream.send.write_all(b"HTTP/1.1").await.unwrap();
    expect_tcp(&mut local, b"HTTP/1.1").await;
    stream.send.finish().unwrap();
    assert_eq!(expect_fin(&mut local).await, b"");
    agent.shutdown().await;
}

#[tokio::test]
async fn a_reject_in_band_and_then_fin_resets_the_client() {
    let (_deployment, agent, peer) = scene().await;
    let mut local = connect(&agent, "far").await;
    let (mut stream, _open) = peer.accept_open().await;
    stream.write(&reject(404, "no provider", 0)).await;
    stream.send.finish().unwrap();
    assert_eq!(expect_rst(&mut local).await, b"");
    agent.shutdown().await;
}

#[tokio::test]
async fn bytes_that_look_like_a_reject_and_go_on_are_the_providers() {
    let (_deployment, agent, peer) = scene().await;
    let mut local = connect(&agent, "far").await;
    let (mut stream, _open) = peer.accept_open().await;
    let looks = reject(404, "no provider", 0).encode();
    // One byte at a time: at every step it may still become a reject.
    for byte in &looks {
        stream.send.write_all(&[*byte]).await.unwrap();
    }
    stream.send.write_all(b" and more").await.unwrap();
    expect_tcp(&mut local, &[&looks[..], b" and more"].concat()).await;
    stream.send.finish().unwrap();
    assert_eq!(expect_fin(&mut local).await, b"");
    agent.shutdown().await;
}

#[tokio::test]
async fn ready_makes_what_looks_like_a_reject_the_providers_before_and_after_it() {
    let (_deployment, agent, mut peer) = scene().await;
    let looks = reject(404, "no provider", 0).encode();
    for ready_first in [true, false] {
        let mut local = connect(&agent, "far").await;
        let (mut stream, open) = peer.accept_open().await;
        if ready_first {
            peer.ready(open.stream_id).await;
        }
        stream.send.write_all(&looks).await.unwrap();
        stream.send.finish().unwrap();
        if !ready_first {
            peer.ready(open.stream_id).await;
        }
        assert_eq!(expect_fin(&mut local).await, looks, "ready first: {ready_first}");
    }
    agent.shutdown().await;
}

#[tokio::test]
async fn a_stream_that_ends_before_a_byte_is_an_end_only_if_it_was_open() {
    let (_deployment, agent, mut peer) = scene().await;
    // What a provider leaves that closes without an answer.
    let mut local = connect(&agent, "far").await;
    let (mut stream, _open) = peer.accept_open().await;
    stream.send.finish().unwrap();
    assert_eq!(expect_rst(&mut local).await, b"");
    // STREAM_READY may come behind the FIN.
    for ready_first in [true, false] {
        let mut local = connect(&agent, "far").await;
        let (mut stream, open) = peer.accept_open().await;
        if ready_first {
            peer.ready(open.stream_id).await;
        }
        stream.send.finish().unwrap();
        if !ready_first {
            peer.ready(open.stream_id).await;
        }
        assert_eq!(expect_fin(&mut local).await, b"", "ready first: {ready_first}");
    }
    agent.shutdown().await;
}

#[tokio::test]
async fn half_a_reject_and_then_fin_is_no_answer() {
    let (_deployment, agent, peer) = scene().await;
    let whole = reject(404, "no provider", 0).encode();
    for len in [2, whole.len() - 1] {
        let mut local = connect(&agent, "far").await;
        let (mut stream, _open) = peer.accept_open().await;
        stream.send.write_all(&whole[..len]).await.unwrap();
        stream.send.finish().unwrap();
        assert_eq!(expect_rst(&mut local).await, b"", "{len} bytes of it");
    }
    agent.shutdown().await;
}

#[tokio::test]
async fn one_byte_that_may_be_the_start_of_a_reject_is_delivered_with_its_end() {
    let (_deployment, agent, peer) = scene().await;
    let mut local = connect(&agent, "far").await;
    let (mut stream, _open) = peer.accept_open().await;
    stream.send.write_all(b" ").await.unwrap();
    stream.send.finish().unwrap();
    assert_eq!(expect_fin(&mut local).await, b" ", "one byte and FIN is a complete stream");
    let mut local = connect(&agent, "far").await;
    let (mut stream, _open) = peer.accept_open().await;
    stream.send.write_all(b" ").await.unwrap();
    stream.send.reset(0_u32.into()).unwrap();
    expect_rst(&mut local).await;
    agent.shutdown().await;
}

#[tokio::test]
async fn what_comes_no_further_is_delivered_after_a_while() {
    let (_deployment, agent, peer) = scene().await;
    let mut local = connect(&agent, "far").await;
    let (mut stream, _open) = peer.accept_open().await;
    // A provider that says this much and then waits for the client.
    stream.send.write_all(b" ").await.unwrap();
    expect_tcp(&mut local, b" ").await;
    local.shutdown().await.unwrap();
    agent.shutdown().await;
}
