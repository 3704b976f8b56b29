//! An agent that reconnects: the newer registration stays, in whichever order things arrive.

use crate::harness::{Deployment, drain, eventually, pair, take};

#[tokio::test]
async fn the_end_of_an_old_connection_does_not_remove_what_the_newer_one_registered() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut old = deployment.peer(&relay, 1, &[]).await;
    old.register("svc").await;
    let mut new = deployment.peer(&relay, 1, &[]).await;
    new.register("svc").await;
    old.quic.close(0_u32.into(), b"superseded");
    eventually("the old connection is gone", || (relay.vault().connections.len() == 1).then_some(())).await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (mut up, mut down) = pair(&consumer, &new, 1).await;
    up.send.write_all(b"x").await.unwrap();
    assert_eq!(take(&mut down.recv, 1).await, b"x");
}

#[tokio::test]
async fn an_old_connection_that_ends_before_the_newer_one_registers_leaves_nothing_behind() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut old = deployment.peer(&relay, 1, &[]).await;
    old.register("svc").await;
    let mut new = deployment.peer(&relay, 1, &[]).await;
    old.quic.close(0_u32.into(), b"superseded");
    eventually("the old connection is gone", || (relay.vault().connections.len() == 1).then_some(())).await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    assert_eq!(crate::harness::rejection(&mut consumer.open("svc", 1).await).await.0, 404);
    new.register("svc").await;
    let (mut up, mut down) = pair(&consumer, &new, 2).await;
    up.send.write_all(b"x").await.unwrap();
    assert_eq!(take(&mut down.recv, 1).await, b"x");
}

#[tokio::test]
async fn a_provider_whose_connection_ends_is_no_longer_found_and_its_streams_are_reset() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;
    up.send.write_all(b"x").await.unwrap();
    assert_eq!(take(&mut down.recv, 1).await, b"x");
    provider.quic.close(0_u32.into(), b"bye");
    assert!(matches!(drain(&mut up.recv).await.1, outrelay::net::stream::End::Reset(_)));
    eventually("it is gone", || (relay.vault().connections.len() == 1).then_some(())).await;
    assert_eq!(crate::harness::rejection(&mut consumer.open("svc", 2).await).await.0, 404);
    eventually("nothing stays", || relay.vault().streams.is_empty().then_some(())).await;
}
