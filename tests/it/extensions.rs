//! wire.md §9: what an agent has named is used, and not a byte of it goes to one that has not.

use outrelay::core::frame::Frame;
use outrelay::proto::orp;

use crate::harness::{Deployment, pair, rejection};

#[tokio::test]
async fn hello_ack_names_only_what_both_know() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let legacy = deployment.peer(&relay, 1, &[]).await;
    assert!(legacy.features.is_empty());
    let modern = deployment.peer(&relay, 2, &["resume-code", "reject-ctrl", "teleport", "datagrams"]).await;
    let mut features = modern.features.clone();
    features.sort();
    assert_eq!(features, ["reject-ctrl", "resume-code"], "what this relay does not do, it does not accept");
}

#[tokio::test]
async fn a_reject_is_mirrored_on_the_control_stream_of_an_agent_that_named_it_only() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut modern = deployment.peer(&relay, 1, &["reject-ctrl"]).await;
    let mut legacy = deployment.peer(&relay, 2, &[]).await;
    for (peer, mirrored) in [(&mut modern, true), (&mut legacy, false)] {
        let mut stream = peer.open("nowhere", 99).await;
        assert_eq!(rejection(&mut stream).await.0, 404);
        peer.say(&Frame::Ping).await;
        if mirrored {
            let Frame::StreamReject(reject) = peer.hear().await else { panic!("not mirrored") };
            assert_eq!((reject.code, reject.stream_id), (404, 99));
        }
        assert_eq!(peer.hear().await, Frame::Pong);
    }
}

#[tokio::test]
async fn what_the_other_end_named_is_told_to_an_agent_that_named_peer_caps_only() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &["resume-code"]).await;
    provider.register("svc").await;
    let mut consumer = deployment.peer(&relay, 2, &["peer-caps"]).await;
    let _pair = pair(&consumer, &provider, 5).await;
    let told = vec!["resume-code".to_owned()];
    assert_eq!(
        consumer.hear().await,
        Frame::StreamReady(orp::StreamReady { stream_id: 5, peer_capabilities: told, ..Default::default() })
    );
    assert_eq!(provider.hear().await, Frame::StreamReady(orp::StreamReady { stream_id: 5, ..Default::default() }));
}

/// This relay need not know it, nor do it itself.
#[tokio::test]
async fn all_that_an_agent_named_is_told_to_the_other_end() {
    let named = ["peer-caps", "datagrams", "x-new"];
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &named).await;
    provider.register("svc").await;
    let mut consumer = deployment.peer(&relay, 2, &named).await;
    assert_eq!(consumer.features, ["peer-caps"]);
    let _pair = pair(&consumer, &provider, 5).await;
    for peer in [&mut consumer, &mut provider] {
        let Frame::StreamReady(ready) = peer.hear().await else { panic!("not STREAM_READY") };
        assert_eq!(ready.peer_capabilities, named);
    }
}

#[tokio::test]
async fn names_beyond_all_reason_are_not_passed_on() {
    let unknown: Vec<_> = (0..100).map(|n| format!("x-{n}")).chain(["y".repeat(65)]).collect();
    let named: Vec<_> = unknown.iter().rev().map(String::as_str).collect();
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &named).await;
    provider.register("svc").await;
    let mut consumer = deployment.peer(&relay, 2, &["peer-caps"]).await;
    let _pair = pair(&consumer, &provider, 5).await;
    let Frame::StreamReady(ready) = consumer.hear().await else { panic!("not STREAM_READY") };
    assert_eq!((ready.peer_capabilities.len(), ready.peer_capabilities[0].as_str()), (16, "x-99"));
}

#[tokio::test]
async fn a_local_addr_of_any_length_is_no_reason_to_refuse_a_service() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    // Cut at 262 bytes it would end in the middle of a character.
    let local_addr = format!("x{}", "é".repeat(200));
    provider.say(&Frame::Register(orp::Register { service_name: "svc".to_owned(), local_addr })).await;
    assert!(matches!(provider.hear().await, Frame::RegisterAck(_)));
}

#[tokio::test]
async fn a_service_that_was_deregistered_is_no_longer_found() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &["deregister"]).await;
    let mut consumer = deployment.peer(&relay, 2, &[]).await;
    provider.register("svc").await;
    provider.say(&Frame::Deregister(orp::Deregister { service_name: "svc".to_owned() })).await;
    assert!(matches!(provider.hear().await, Frame::RegisterAck(_)));
    assert_eq!(rejection(&mut consumer.open("svc", 1).await).await.0, 404);

    // An agent that has not named it is not served it.
    consumer.register("svc").await;
    consumer.say(&Frame::Deregister(orp::Deregister { service_name: "svc".to_owned() })).await;
    consumer.say(&Frame::Ping).await;
    assert_eq!(consumer.hear().await, Frame::Pong, "skipped");
    let _stream = provider.open("svc", 2).await;
    assert_eq!(consumer.incoming().await.0.stream_id, 2);
}
