//! Rules and credentials follow their files, and no live stream notices.

use outrelay::pki::Ca;

use crate::harness::{Deployment, OPEN_WORLD, agent, eventually, pair, rejection, soon, take};

#[tokio::test]
async fn rules_follow_their_file_and_a_bad_file_keeps_the_old_ones_and_says_why() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let rules = deployment.dir.path().join("r1-rules.toml");
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;
    let published = || relay.vault().policy.current();

    // Noticed without being asked.
    std::fs::write(&rules, "").unwrap();
    eventually("the empty file is in force", || (published().snapshot.len() == 0).then_some(())).await;
    assert_eq!(rejection(&mut consumer.open("svc", 2).await).await.0, 403);
    up.send.write_all(b"on").await.unwrap();
    assert_eq!(take(&mut down.recv, 2).await, b"on", "a live stream goes on");

    std::fs::write(&rules, OPEN_WORLD).unwrap();
    relay.reload();
    eventually("the rules are in force again", || (published().snapshot.len() == 2).then_some(())).await;

    std::fs::write(&rules, "[[rule]]\nid = 5\n").unwrap();
    relay.reload();
    let why =
        eventually("it is said", || published().warnings.iter().find(|w| w.contains("not in force")).cloned()).await;
    assert!(why.contains("r1-rules.toml:2"), "{why}");
    assert_eq!(published().snapshot.len(), 2, "the old ones stay");
    let (mut up, mut down) = pair(&consumer, &provider, 3).await;
    up.send.write_all(b"x").await.unwrap();
    take(&mut down.recv, 1).await;

    std::fs::write(&rules, OPEN_WORLD).unwrap();
    relay.reload();
    eventually("nothing is wrong any more", || published().warnings.is_empty().then_some(())).await;
}

#[tokio::test]
async fn new_connections_meet_the_new_credentials_and_old_ones_go_on() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;

    // Another authority, and a relay certificate from it; then a key that does not fit, which changes nothing.
    let next = Deployment { dir: tempfile::tempdir().unwrap(), ca: Ca::generate().unwrap() };
    let renewed = next.relay_config("r1", "").tls;
    let current = &relay.vault().config.tls;
    for (from, to) in [(&renewed.cert, &current.cert), (&renewed.key, &current.key), (&renewed.ca, &current.ca)] {
        std::fs::copy(from, to).unwrap();
    }
    relay.reload();
    let newcomer = next.ca.agent(&agent(3)).unwrap();
    let accepted = async {
        loop {
            match next.try_dial(&relay, &newcomer).await {
                Ok(quic) if tokio::time::timeout(SETTLED, quic.closed()).await.is_err() => return quic,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let _connection = soon("the new authority's agents come in", accepted).await;
    let outdated = deployment.ca.agent(&agent(4)).unwrap();
    assert!(
        deployment.try_dial(&relay, &outdated).await.is_err(),
        "the relay shows a certificate of the new authority"
    );

    std::fs::write(&current.key, "nonsense").unwrap();
    relay.reload();
    let _still = soon("and still do", next.try_dial(&relay, &newcomer)).await.unwrap();
    up.send.write_all(b"on").await.unwrap();
    assert_eq!(take(&mut down.recv, 2).await, b"on");
}

/// A connection that was not closed within this was accepted.
const SETTLED: std::time::Duration = std::time::Duration::from_millis(200);
