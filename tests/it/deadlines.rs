//! Silence, at every point at which a peer may fall silent, ends in bounded time and leaves nothing behind.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use outrelay::core::frame::Frame;
use outrelay::core::reject::ResetCode;
use outrelay::metrics::Limit;
use outrelay::net::stream::{BiStream, End};
use outrelay::relay::Relay;
use outrelay::supervise::fault::Fault;

use crate::harness::{
    Deployment, OPEN_WORLD, Peer, agent, closed, drain, eventually, handshakes, hits, pair, rejection, soon, take,
};

const SHORT: Duration = Duration::from_millis(300);

async fn relay_with(deployment: &Deployment, limits: impl Fn(&mut outrelay::config::relay::Limits)) -> Relay {
    let mut config = deployment.relay_config("r1", OPEN_WORLD);
    limits(&mut config.limits);
    Relay::start(config).await.unwrap()
}

#[tokio::test]
async fn a_tls_handshake_that_never_finishes_is_given_up() {
    let deployment = Deployment::new();
    let relay = relay_with(&deployment, |limits| limits.tls_handshake = SHORT).await;
    // A proxy that passes on a client's first datagram and then nothing.
    let proxy = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = proxy.local_addr().unwrap();
    let issued = deployment.ca.agent(&agent(1)).unwrap();
    let material =
        outrelay::net::tls::TlsMaterial::from_pem(&issued.cert_pem, &issued.key_pem, deployment.ca.cert_pem()).unwrap();
    let client = outrelay::net::tls::client_config(&material, &[outrelay::net::tls::ALPN_ORP]).unwrap();
    let silent = tokio::spawn(crate::harness::dial(to, client));
    let first = tokio::task::spawn_blocking(move || {
        let mut datagram = [0; 2048];
        let (len, _) = proxy.recv_from(&mut datagram).unwrap();
        (proxy, datagram[..len].to_vec())
    });
    let (proxy, datagram) = soon("a first datagram", first).await.unwrap();
    proxy.send_to(&datagram, relay.quic_addr().unwrap()).unwrap();
    eventually("half open", || (relay.vault().arrivals.in_progress() == 1).then_some(())).await;
    let since = Instant::now();
    eventually("given up", || (relay.vault().arrivals.in_progress() == 0).then_some(())).await;
    assert!(since.elapsed() < SHORT * 10);
    assert_eq!((handshakes(&relay, "timed_out"), hits(&relay, Limit::TlsHandshake)), (1, 1));
    silent.abort();
}

#[tokio::test]
async fn a_connection_that_says_no_hello_is_closed_with_the_reason() {
    let deployment = Deployment::new();
    let relay = relay_with(&deployment, |limits| limits.hello = SHORT).await;
    // Not even a control stream; a control stream with nothing on it; half a header.
    let silent = deployment.dial(&relay, 1).await;
    let opened = Peer::over(deployment.dial(&relay, 2).await, &agent(2)).await;
    let mut half = Peer::over(deployment.dial(&relay, 3).await, &agent(3)).await;
    half.control.send.write_all(&[0x20, 0x01, 0, 0]).await.unwrap();
    for quic in [&silent, &opened.quic, &half.quic] {
        let (code, reason) = closed(quic).await;
        assert_eq!((code, reason.as_str()), (0, "no HELLO within 300ms"));
    }
    assert_eq!(hits(&relay, Limit::Hello), 3);
    eventually("nothing stays", || relay.vault().connections.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_stream_without_a_first_frame_is_refused() {
    let deployment = Deployment::new();
    let relay = relay_with(&deployment, |limits| limits.first_frame = SHORT).await;
    let peer = deployment.peer(&relay, 1, &[]).await;
    let mut silent = peer.fresh().await;
    // A stream exists for the other side only once a byte was sent.
    silent.send.write_all(&[0x20]).await.unwrap();
    let (code, reason) = rejection(&mut silent).await;
    assert_eq!((code, reason.contains("no frame within 300ms")), (400, true), "{reason}");
    assert_eq!(hits(&relay, Limit::FirstFrame), 1);
}

#[tokio::test]
async fn a_provider_that_never_answers_is_502_and_its_stream_is_reset() {
    let deployment = Deployment::new();
    let relay = relay_with(&deployment, |limits| limits.provider_answer = SHORT).await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let mut stream = consumer.open("svc", 1).await;
    let (_, silent) = provider.incoming().await;
    assert_eq!(rejection(&mut stream).await.0, 502);
    assert_eq!(hits(&relay, Limit::ProviderAnswer), 1);
    let BiStream { mut recv, .. } = silent;
    assert_eq!(crate::harness::drain(&mut recv).await.1, outrelay::net::stream::End::Reset(ResetCode(0)));
    eventually("the id is free", || relay.vault().streams.is_empty().then_some(())).await;
}

#[tokio::test]
async fn the_whole_open_has_one_deadline_for_all_providers_together() {
    let deployment = Deployment::new();
    let relay = relay_with(&deployment, |limits| {
        limits.provider_answer = SHORT;
        limits.open = SHORT * 3 / 2;
    })
    .await;
    let mut providers = Vec::new();
    for n in 1..=4 {
        let mut provider = deployment.peer(&relay, n, &[]).await;
        provider.register("svc").await;
        providers.push(provider);
    }
    let consumer = deployment.peer(&relay, 9, &[]).await;
    let since = Instant::now();
    let (code, reason) = rejection(&mut consumer.open("svc", 1).await).await;
    assert_eq!(code, 502, "{reason}");
    assert!(since.elapsed() < SHORT * 3, "four providers one after the other would take longer");
    assert_eq!((hits(&relay, Limit::ProviderAnswer), hits(&relay, Limit::Open)), (1, 1), "{reason}");
}

#[tokio::test]
async fn a_registry_that_does_not_answer_is_502_in_time() {
    let deployment = Deployment::new();
    let relay = relay_with(&deployment, |limits| limits.registry_call = SHORT).await;
    let mut peer = deployment.peer(&relay, 1, &[]).await;
    relay.inject("registry", Fault::Hang).await.unwrap();
    let (code, reason) = rejection(&mut peer.open("svc", 1).await).await;
    assert_eq!((code, reason.as_str()), (502, "the registry: no answer in time"));
    let Frame::StreamReject(reject) = peer.register("svc").await else { panic!("it was registered") };
    assert_eq!(reject.code, 502);
    assert_eq!(hits(&relay, Limit::RegistryCall), 2);
}

#[tokio::test]
async fn a_provider_that_grants_no_stream_is_502_in_time() {
    let deployment = Deployment::new();
    let relay = relay_with(&deployment, |limits| limits.provider_answer = SHORT).await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    // A legacy agent takes a hundred streams, and this one never accepts any.
    let mut open = Vec::new();
    for id in 1..=101 {
        open.push(consumer.open("svc", id).await);
    }
    for stream in &mut open {
        assert_eq!(rejection(stream).await.0, 502);
    }
}

#[tokio::test]
async fn a_consumer_that_goes_away_meanwhile_ends_the_open() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let stream = consumer.open("svc", 1).await;
    let (_, asked) = provider.incoming().await;
    drop(stream);
    let BiStream { mut recv, .. } = asked;
    assert!(matches!(crate::harness::drain(&mut recv).await.1, outrelay::net::stream::End::Reset(_)));
    eventually("no handshake stays", || relay.tree().walk().all(|actor| actor.kind != "handshake").then_some(())).await;
    assert!(relay.vault().streams.is_empty());
}

#[tokio::test]
async fn a_splice_that_hangs_is_killed_and_counted() {
    let deployment = Deployment::new();
    let relay = relay_with(&deployment, |limits| limits.handler = SHORT).await;
    let mut provider = deployment.peer(&relay, 1, &["resume-code"]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &["resume-code"]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 7).await;
    up.send.write_all(b"x").await.unwrap();
    take(&mut down.recv, 1).await;
    assert_eq!(hits(&relay, Limit::Handler), 0);
    relay.inject("splice:7", Fault::Hang).await.unwrap();
    assert_eq!(drain(&mut up.recv).await.1, End::Reset(ResetCode::RESUMABLE));
    assert_eq!(drain(&mut down.recv).await.1, End::Reset(ResetCode::RESUMABLE));
    assert_eq!(hits(&relay, Limit::Handler), 1);
}
