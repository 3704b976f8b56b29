//! Rules, credentials and limits follow their files, and no live stream notices.

use std::time::{Duration, Instant, SystemTime};

use outrelay::config::relay::RelayConfig;
use outrelay::core::frame::Frame;
use outrelay::core::ids::StreamId;
use outrelay::core::reject::ResetCode;
use outrelay::net::stream::{BiStream, End};
use outrelay::pki::{CertSpec, Validity};
use outrelay::proto::orp;
use outrelay::relay::Relay;
use time::OffsetDateTime;

use crate::harness::{
    Deployment, OPEN_WORLD, Peer, agent, asking_for, audited, dial, drain, eventually, pair, rejection, soon, take,
};

mod program;

#[tokio::test]
async fn rules_follow_their_file_and_a_bad_file_keeps_the_old_ones_and_says_why() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", OPEN_WORLD);
    config.directory.continuous = false;
    let relay = Relay::start(config).await.unwrap();
    let rules = deployment.dir.path().join("r1-rules.toml");
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;
    let published = || relay.vault().policy.current();

    // Noticed without being asked.
    std::fs::write(&rules, "").unwrap();
    eventually("the empty file is in force", || published().snapshot.is_empty().then_some(())).await;
    assert_eq!(rejection(&mut consumer.open("svc", 2).await).await.0, 403);
    up.send.write_all(b"on").await.unwrap();
    assert_eq!(take(&mut down.recv, 2).await, b"on", "a live stream goes on, since it was allowed when it was opened");

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
async fn rules_that_cannot_be_renewed_for_too_long_deny_what_begins_and_leave_live_streams() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", OPEN_WORLD);
    config.directory.max_staleness = std::time::Duration::from_millis(1);
    let relay = Relay::start(config).await.unwrap();
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;

    std::fs::write(deployment.dir.path().join("r1-rules.toml"), "[[rule]]\nid = 5\n").unwrap();
    relay.reload();
    let published = || relay.vault().policy.current();
    eventually("they are too old", || published().is_too_old(std::time::Duration::from_millis(1)).then_some(())).await;
    let (code, reason) = rejection(&mut consumer.open("svc", 2).await).await;
    assert_eq!((code, reason.contains("too old")), (403, true), "{reason}");
    up.send.write_all(b"on").await.unwrap();
    assert_eq!(take(&mut down.recv, 2).await, b"on");

    std::fs::write(deployment.dir.path().join("r1-rules.toml"), OPEN_WORLD).unwrap();
    relay.reload();
    eventually("new ones are in force", || published().outdated.is_none().then_some(())).await;
    pair(&consumer, &provider, 3).await;
}

#[tokio::test]
async fn a_rule_that_expires_ends_the_live_streams_that_it_allowed_and_no_other() {
    let deployment = Deployment::new();
    let (expires, (brief, other)) = (SystemTime::now() + Duration::from_secs(1), (agent(2), agent(3)));
    let rules = format!(
        "[[rule]]\nid = \"brief\"\ntenant = \"acme\"\ncaller = \"{brief}\"\ntarget = \"svc\"\ndecision = \"allow\"\nexpires = \"{}\"\n\
         [[rule]]\nid = \"other\"\ntenant = \"acme\"\ncaller = \"{other}\"\ntarget = \"svc\"\ndecision = \"allow\"\n\
         [[rule]]\nid = \"called\"\ntenant = \"acme\"\ncaller = \"*\"\ntarget = \"outrelay://*\"\ndecision = \"allow\"\n",
        humantime::format_rfc3339_millis(expires)
    );
    let relay = deployment.relay_with(&rules).await;
    let mut provider = deployment.peer(&relay, 1, &["resume-code"]).await;
    provider.register("svc").await;
    let brief = deployment.peer(&relay, 2, &["resume-code"]).await;
    let other = deployment.peer(&relay, 3, &["resume-code"]).await;
    let (mut up, mut down) = pair(&brief, &provider, 7).await;
    let (mut stays_up, mut stays_down) = pair(&other, &provider, 8).await;
    up.send.write_all(b"on").await.unwrap();
    assert_eq!(take(&mut down.recv, 2).await, b"on");

    let code = End::Reset(ResetCode::DENIED);
    assert_eq!((drain(&mut up.recv).await.1, drain(&mut down.recv).await.1), (code, code));
    let late = SystemTime::now().duration_since(expires).expect("not before it expires");
    assert!(late < Duration::from_secs(5), "{late:?} after it has expired");
    stays_up.send.write_all(b"on").await.unwrap();
    assert_eq!(take(&mut stays_down.recv, 2).await, b"on", "the other one has noticed nothing");
    let audit = deployment.dir.path().join("r1-audit.jsonl");
    let denied = || {
        let text = std::fs::read_to_string(&audit).unwrap();
        let mut lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.find(|line| line["stream_id"] == "7" && line["decision"] == "deny")
    };
    assert_eq!(eventually("it is in the audit", denied).await["reason"], "no rule matches");
    let noted = || {
        let events = relay.vault().flights.of_any_tenant(StreamId(7));
        events.into_iter().map(|event| event.what).find(|what| what.contains("denied"))
    };
    let why = eventually("it is noted", noted).await;
    assert!(why.contains("a rule has expired") && !why.contains("new rules"), "{why}");
}

#[tokio::test]
async fn new_rules_end_the_live_streams_that_they_deny_and_no_other() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let rules = deployment.dir.path().join("r1-rules.toml");
    let mut provider = deployment.peer(&relay, 1, &["resume-code"]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &["resume-code"]).await;
    let other = deployment.peer(&relay, 3, &["resume-code"]).await;
    // One without an id is watched as well.
    let mut denied = vec![pair(&consumer, &provider, 7).await, pair(&consumer, &provider, 0).await];
    let (mut up, mut down) = pair(&other, &provider, 8).await;

    let deny = format!(
        "[[rule]]\nid = \"no-2\"\ntenant = \"acme\"\ncaller = \"{}\"\ntarget = \"svc\"\ndecision = \"deny\"\n",
        agent(2)
    );
    std::fs::write(&rules, format!("{OPEN_WORLD}{deny}")).unwrap();
    relay.reload();
    let code = End::Reset(outrelay::core::reject::ResetCode::DENIED);
    for (up, down) in &mut denied {
        assert_eq!((drain(&mut up.recv).await.1, drain(&mut down.recv).await.1), (code, code));
    }
    up.send.write_all(b"on").await.unwrap();
    assert_eq!(take(&mut down.recv, 2).await, b"on", "the other one has noticed nothing");
    let audit = deployment.dir.path().join("r1-audit.jsonl");
    let audited = || std::fs::read_to_string(&audit).unwrap().matches("\"rule\":\"no-2\"").count();
    eventually("both ends are in the audit", || (audited() == 2).then_some(())).await;

    // Nor does what is remembered of it let it go on.
    let deny = "[[rule]]\nid = \"no\"\ntenant = \"acme\"\ncaller = \"*\"\ntarget = \"*\"\ndecision = \"deny\"\n";
    std::fs::write(&rules, deny).unwrap();
    relay.reload();
    assert_eq!(drain(&mut up.recv).await.1, code);
    let mut halves = Vec::new();
    for (peer, (written, consumed)) in [(&other, (2, 0)), (&provider, (0, 2))] {
        let mut half = peer.fresh().await;
        let resume = outrelay::proto::orp::StreamResume {
            stream_id: 8,
            my_position: written,
            peer_ack_position: consumed,
            ..Default::default()
        };
        let resume = outrelay::core::frame::Frame::StreamResume(resume);
        outrelay::net::framed::write_frame(&mut half.send, &resume).await.unwrap();
        halves.push(half);
        eventually("it waits", || (relay.vault().parking.len() == 1).then_some(())).await;
    }
    assert_eq!(drain(&mut halves[1].recv).await.1, code);
}

#[tokio::test]
async fn new_rules_that_ask_for_what_the_relay_does_not_do_end_live_streams_too() {
    for way in ["relay = \"forward\"", "p2p = \"required\""] {
        let deployment = Deployment::new();
        let relay = deployment.relay().await;
        let mut provider = deployment.peer(&relay, 1, &["resume-code"]).await;
        provider.register("svc").await;
        let consumer = deployment.peer(&relay, 2, &["resume-code"]).await;
        let (mut up, mut down) = pair(&consumer, &provider, 7).await;
        std::fs::write(deployment.dir.path().join("r1-rules.toml"), asking_for(way)).unwrap();
        relay.reload();
        let code = End::Reset(outrelay::core::reject::ResetCode::DENIED);
        assert_eq!((drain(&mut up.recv).await.1, drain(&mut down.recv).await.1), (code, code), "{way}");
    }
}

#[tokio::test]
async fn new_connections_meet_the_new_credentials_and_old_ones_go_on() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;

    // Then a key that does not fit, which changes nothing.
    let current = &relay.vault().config.get();
    let next = other_authority(current);
    relay.reload();
    let newcomer = next.ca.agent(&agent(3)).unwrap();
    let _connection = accepted(&next, &relay).await;
    let outdated = deployment.ca.agent(&agent(4)).unwrap();
    assert!(
        deployment.try_dial(&relay, &outdated).await.is_err(),
        "the relay shows a certificate of the new authority"
    );

    std::fs::write(&current.tls.key, "nonsense").unwrap();
    relay.reload();
    let _still = soon("and still do", next.try_dial(&relay, &newcomer)).await.unwrap();
    up.send.write_all(b"on").await.unwrap();
    assert_eq!(take(&mut down.recv, 2).await, b"on");
}

/// A connection that was not closed within this was accepted.
const SETTLED: Duration = Duration::from_millis(200);

/// Puts another authority, and a certificate from it, in the place of the relay's.
fn other_authority(current: &RelayConfig) -> Deployment {
    let next = Deployment::new();
    let (renewed, current) = (next.relay_config(&current.id, "").tls, &current.tls);
    for (from, to) in [(&renewed.cert, &current.cert), (&renewed.key, &current.key), (&renewed.ca, &current.ca)] {
        std::fs::copy(from, to).unwrap();
    }
    next
}

/// Waits until an agent of `next` comes in.
async fn accepted(next: &Deployment, relay: &Relay) -> quinn::Connection {
    let newcomer = next.ca.agent(&agent(3)).unwrap();
    let accepted = async {
        loop {
            match next.try_dial(relay, &newcomer).await {
                Ok(quic) if tokio::time::timeout(SETTLED, quic.closed()).await.is_err() => return quic,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    soon("the new authority's agents come in", accepted).await
}

#[tokio::test]
async fn limits_change_while_streams_live_and_what_needs_a_restart_is_named() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;

    let mut config = deployment.relay_config("r1", OPEN_WORLD);
    config.limits.streams = 1;
    config.limits.services_per_agent = 1;
    config.limits.connections = 2;
    config.http.listen = None;
    let changes = relay.configure(&config).unwrap();
    assert_eq!(changes.applied, ["limits.connections", "limits.services_per_agent", "limits.streams"]);
    assert_eq!(changes.needs_restart, ["http.listen"]);
    assert_eq!(rejection(&mut consumer.open("svc", 2).await).await.0, 429);
    let newcomer = deployment.ca.agent(&agent(3)).unwrap();
    assert!(deployment.try_dial(&relay, &newcomer).await.is_err(), "two connections are enough now");
    assert!(relay.http_addr().is_some(), "the old value stays");

    config.limits.streams = 10;
    config.limits.connections = 10;
    relay.configure(&config).unwrap();
    let (mut two, mut other) = pair(&consumer, &provider, 3).await;
    two.send.write_all(b"x").await.unwrap();
    take(&mut other.recv, 1).await;
    let _newcomer = deployment.try_dial(&relay, &newcomer).await.unwrap();
    up.send.write_all(b"on").await.unwrap();
    assert_eq!(take(&mut down.recv, 2).await, b"on", "the first stream has noticed nothing");
}

/// A stream whose first frame has no end yet.
async fn waiting(peer: &Peer) -> BiStream {
    let mut stream = peer.fresh().await;
    stream.send.write_all(&[0x20]).await.unwrap();
    stream
}

#[tokio::test]
async fn an_agent_that_is_there_may_have_more_or_fewer_streams_at_once() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let consumer = deployment.peer(&relay, 2, &["resume-code"]).await;
    let may_have = |streams| {
        let mut config = deployment.relay_config("r1", OPEN_WORLD);
        config.limits.streams_per_agent = streams;
        assert_eq!(relay.configure(&config).unwrap().applied, ["limits.streams_per_agent"]);
    };
    let opens = || relay.tree().walk().filter(|actor| actor.kind == "handshake").count();
    let mut open = Vec::new();
    for limit in [2, 3, 1] {
        may_have(limit);
        for n in open.len()..limit {
            open.push(waiting(&consumer).await);
            eventually("it is let in", || (opens() == n + 1).then_some(())).await;
        }
        let mut beyond = consumer.open("svc", 1).await;
        assert_eq!(drain(&mut beyond.recv).await.1, End::Reset(ResetCode::LIMIT), "{limit}");
    }
    assert_eq!(opens(), 3, "those that live stay");
}

#[tokio::test]
async fn an_agent_that_has_used_up_what_it_may_open_is_told_when_it_may_have_more() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", OPEN_WORLD);
    // The control stream is one of them.
    config.quic.streams_initial = 4;
    config.limits.streams_per_agent = 3;
    let relay = Relay::start(config.clone()).await.unwrap();
    let consumer = deployment.peer(&relay, 2, &["resume-code"]).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(waiting(&consumer).await);
    }
    let opens = || relay.tree().walk().filter(|actor| actor.kind == "handshake").count();
    eventually("they are let in", || (opens() == 3).then_some(())).await;
    let mut fourth = Box::pin(consumer.quic.open_bi());
    assert!(tokio::time::timeout(Duration::from_millis(100), fourth.as_mut()).await.is_err(), "it waits");
    config.limits.streams_per_agent = 10;
    relay.configure(&config).unwrap();
    soon("it may be opened", fourth).await.unwrap();
}

#[tokio::test]
async fn the_longest_frame_on_a_control_stream_changes_while_it_lives() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", OPEN_WORLD);
    config.limits.frame_max_bytes = 1_024;
    let relay = Relay::start(config.clone()).await.unwrap();
    let mut peer = deployment.peer(&relay, 1, &["resume-code"]).await;
    let long = orp::Register { service_name: "svc".to_owned(), local_addr: "x".repeat(2_000) };
    config.limits.frame_max_bytes = 4_096;
    assert_eq!(relay.configure(&config).unwrap().applied, ["limits.frame_max_bytes"]);
    peer.say(&Frame::Register(long.clone())).await;
    assert!(matches!(peer.hear().await, Frame::RegisterAck(_)));
    config.limits.frame_max_bytes = 1_024;
    relay.configure(&config).unwrap();
    peer.say(&Frame::Register(long)).await;
    let (code, why) = peer.closed().await;
    assert!(code == ResetCode::PROTOCOL.0 && why.contains("at most 1024"), "{code} {why}");
}

#[tokio::test]
async fn a_connection_whose_authority_is_no_longer_trusted_is_closed_after_its_grace() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", OPEN_WORLD);
    config.limits.certificate_grace = Duration::from_millis(300);
    let relay = Relay::start(config.clone()).await.unwrap();
    let peer = deployment.peer(&relay, 1, &["resume-code"]).await;
    relay.reload();
    other_authority(&config);
    let since = Instant::now();
    relay.reload();
    is_invalid(&peer.quic).await;
    assert!(since.elapsed() >= config.limits.certificate_grace, "not before its grace is over");
    audited(&deployment, agent(1).as_str(), "connection closed: certificate is no longer valid").await;
}

/// Waits until the relay has closed it for its certificate.
async fn is_invalid(quic: &quinn::Connection) {
    let (code, why) = crate::harness::closed(quic).await;
    assert!(code == 0x13 && why.starts_with("certificate is no longer valid"), "{code} {why}");
}

#[tokio::test]
async fn a_connection_whose_certificate_has_expired_is_closed_after_its_grace_and_no_other() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", OPEN_WORLD);
    config.limits.certificate_grace = Duration::from_millis(300);
    let relay = Relay::start(config.clone()).await.unwrap();
    let other = deployment.peer(&relay, 2, &[]).await;
    // Certificates know whole seconds.
    let not_after = OffsetDateTime::now_utc() + Duration::from_secs(2);
    let validity = Validity { not_after, ..Validity::days(1).unwrap() };
    let short = deployment.ca.issue(&CertSpec::agent(&agent(1), validity)).unwrap();
    let quic = dial(relay.quic_addr().unwrap(), deployment.client(&short)).await.unwrap();
    let mut peer = Peer::over(quic, &agent(1)).await;
    peer.hello(&["resume-code"]).await;
    // Looked at while it is good: it stays.
    relay.reload();
    let has_expired = || OffsetDateTime::now_utc().unix_timestamp() > not_after.unix_timestamp();
    eventually("it has expired", || has_expired().then_some(())).await;
    assert_eq!(peer.quic.close_reason(), None);
    let since = Instant::now();
    relay.reload();
    is_invalid(&peer.quic).await;
    assert!(since.elapsed() >= config.limits.certificate_grace, "not before its grace is over");
    assert_eq!(other.quic.close_reason(), None);
}
