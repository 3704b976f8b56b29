//! Two agents meet: HELLO, REGISTER, OPEN_STREAM, INCOMING_STREAM, STREAM_ACCEPT, STREAM_READY, raw bytes.

use outrelay::core::frame::Frame;
use outrelay::net::framed::write_frame;
use outrelay::net::stream::End;
use outrelay::proto::orp;

use crate::harness::{Deployment, agent, drain, eventually, pair, send_all, take};

#[tokio::test]
async fn bytes_flow_both_ways_between_two_agents() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    let mut consumer = deployment.peer(&relay, 2, &[]).await;
    let registered = provider.register("svc").await;
    assert_eq!(registered, Frame::RegisterAck(orp::RegisterAck { service_id: "acme/svc".to_owned() }));

    let mut up = consumer.open("svc", 7).await;
    let (incoming, mut down) = provider.incoming().await;
    assert_eq!(incoming.target_service, "svc");
    assert_eq!(incoming.source_agent_uri, agent(2).as_str());
    assert_eq!(incoming.stream_id, 7);
    write_frame(&mut down.send, &Frame::StreamAccept).await.unwrap();

    // The mode signal: exactly one, to both, on their control streams.
    let ready = Frame::StreamReady(orp::StreamReady { stream_id: 7, ..Default::default() });
    assert_eq!(consumer.hear().await, ready);
    assert_eq!(provider.hear().await, ready);

    up.send.write_all(b"ping").await.unwrap();
    assert_eq!(take(&mut down.recv, 4).await, b"ping");
    down.send.write_all(b"pong").await.unwrap();
    assert_eq!(take(&mut up.recv, 4).await, b"pong", "STREAM_ACCEPT is not passed on");

    up.send.finish();
    assert_eq!(drain(&mut down.recv).await, (Vec::new(), End::Fin));
    down.send.finish();
    assert_eq!(drain(&mut up.recv).await, (Vec::new(), End::Fin));

    // Nothing stays behind.
    eventually("the splice is gone", || relay.tree().walk().all(|a| a.kind != "splice").then_some(())).await;
    assert!(relay.vault().streams.is_empty());
    for peer in [&mut consumer, &mut provider] {
        peer.say(&Frame::Ping).await;
        assert_eq!(peer.hear().await, Frame::Pong, "no second mode signal");
    }
    relay.shutdown().await;
}

#[tokio::test]
async fn the_most_recently_registered_provider_is_asked_first_and_the_next_when_it_is_unavailable() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut older = deployment.peer(&relay, 1, &[]).await;
    let mut newer = deployment.peer(&relay, 2, &[]).await;
    let consumer = deployment.peer(&relay, 3, &[]).await;
    older.register("svc").await;
    newer.register("svc").await;

    let mut stream = consumer.open("svc", 1).await;
    let (_, unanswered) = newer.incoming().await;
    drop(unanswered);
    let mut accepted = older.accept().await;
    stream.send.write_all(b"x").await.unwrap();
    assert_eq!(take(&mut accepted.recv, 1).await, b"x");

    // Registering again makes it the most recent.
    older.register("svc").await;
    let _stream = consumer.open("svc", 2).await;
    assert_eq!(older.incoming().await.0.stream_id, 2);
}

#[tokio::test]
async fn tenants_do_not_meet_even_by_the_same_service_name_and_stream_id() {
    let deployment = Deployment::new();
    let rules = "[[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"*\"\n[[allow]]\ntenant = \"beta\"\nfrom = \"*\"\nto = \"*\"\n";
    let relay = deployment.relay_with(rules).await;
    let mut ours = deployment.peer(&relay, 1, &[]).await;
    ours.register("svc").await;
    let beta = |n| crate::harness::agent_of("beta", n);
    let theirs = deployment.peer_as(&relay, &beta(2), &[]).await;

    let mut refused = theirs.open("svc", 5).await;
    assert_eq!(crate::harness::rejection(&mut refused).await.0, 404);

    let mut their_provider = deployment.peer_as(&relay, &beta(3), &[]).await;
    their_provider.register("svc").await;
    let our_consumer = deployment.peer(&relay, 4, &[]).await;
    let (_a, _b) = pair(&our_consumer, &ours, 5).await;
    let (mut up, mut down) = pair(&theirs, &their_provider, 5).await;
    up.send.write_all(b"beta").await.unwrap();
    assert_eq!(take(&mut down.recv, 4).await, b"beta");
}

#[tokio::test]
async fn two_relays_in_one_process_do_not_know_of_each_other() {
    let deployment = Deployment::new();
    let one = deployment.relay().await;
    let two = outrelay::relay::Relay::start(deployment.relay_config("r2", crate::harness::OPEN_WORLD)).await.unwrap();
    let mut provider = deployment.peer(&one, 1, &[]).await;
    provider.register("svc").await;
    let elsewhere = deployment.peer(&two, 2, &[]).await;
    let mut refused = elsewhere.open("svc", 1).await;
    assert_eq!(crate::harness::rejection(&mut refused).await.0, 404);
    two.shutdown().await;

    let consumer = deployment.peer(&one, 3, &[]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;
    up.send.write_all(b"x").await.unwrap();
    assert_eq!(take(&mut down.recv, 1).await, b"x");
}

#[tokio::test]
async fn an_agent_may_consume_what_it_provides_itself() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut both = deployment.peer(&relay, 1, &[]).await;
    both.register("svc").await;
    let (up, mut down) = pair(&both, &both, 9).await;
    send_all(up.send, std::sync::Arc::new(b"myself".to_vec())).await;
    assert_eq!(drain(&mut down.recv).await, (b"myself".to_vec(), End::Fin));
}

#[tokio::test]
async fn the_agent_learns_its_address_as_the_relay_sees_it() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut peer = deployment.peer(&relay, 1, &[]).await;
    peer.say(&Frame::ObservedAddrQuery(orp::ObservedAddrQuery { request_id: 77 })).await;
    let Frame::ObservedAddrResp(seen) = peer.hear().await else { panic!("no answer") };
    assert_eq!((seen.request_id, seen.ip.as_str()), (77, "127.0.0.1"));
    assert_ne!(seen.port, 0);
}
