//! Rules and credentials follow their files, and no live stream notices.

use outrelay::pki::Ca;
use outrelay::relay::Relay;

use outrelay::net::stream::End;

use crate::harness::{
    Deployment, OPEN_WORLD, agent, asking_for, audited, drain, eventually, pair, rejection, soon, take,
};

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

    // Another authority, and a relay certificate from it; then a key that does not fit, which changes nothing.
    let next = Deployment { dir: tempfile::tempdir().unwrap(), ca: Ca::generate().unwrap() };
    let renewed = next.relay_config("r1", "").tls;
    let current = &relay.vault().config.get().tls;
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

#[tokio::test]
async fn a_connection_whose_authority_is_no_longer_trusted_is_closed_after_its_grace() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", OPEN_WORLD);
    config.limits.certificate_grace = std::time::Duration::from_millis(300);
    let relay = Relay::start(config.clone()).await.unwrap();
    let peer = deployment.peer(&relay, 1, &["resume-code"]).await;
    relay.reload();
    let next = Deployment { dir: tempfile::tempdir().unwrap(), ca: Ca::generate().unwrap() };
    let renewed = next.relay_config("r1", "").tls;
    for (from, to) in
        [(&renewed.cert, &config.tls.cert), (&renewed.key, &config.tls.key), (&renewed.ca, &config.tls.ca)]
    {
        std::fs::copy(from, to).unwrap();
    }
    let since = std::time::Instant::now();
    relay.reload();
    let closed = soon("it is closed", peer.quic.closed()).await;
    assert!(since.elapsed() >= config.limits.certificate_grace, "not before its grace is over");
    let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
    let why = String::from_utf8_lossy(&close.reason).into_owned();
    assert_eq!(
        (close.error_code.into_inner(), why.starts_with("certificate is no longer valid")),
        (0x13, true),
        "{why}"
    );
    audited(&deployment, agent(1).as_str(), "connection closed: certificate is no longer valid").await;
}

/// The program itself: its file changes, and it hears SIGHUP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_reads_its_file_again_on_sighup() {
    let deployment = Deployment::new();
    let config = deployment.relay_config("r1", OPEN_WORLD);
    let text = |limits: &str, level: &str, listen: &str| {
        let (tls, rules) = (&config.tls, config.directory.rules.as_ref().unwrap());
        format!(
            "id = \"r1\"\nregion = \"acme\"\nlisten = \"{listen}\"\ntls = {{ cert = {:?}, key = {:?}, ca = {:?} }}\n\
             http.listen = \"127.0.0.1:0\"\ndirectory.rules = {rules:?}\nlog.level = \"{level}\"\n[limits]\n{limits}\n",
            tls.cert, tls.key, tls.ca
        )
    };
    let file = deployment.write("relay.toml", &text("", "info", "127.0.0.1:0"));
    let log = deployment.dir.path().join("log");
    let mut running = std::process::Command::new(env!("CARGO_BIN_EXE_outrelay"))
        .args(["relay", "--config"])
        .arg(&file)
        .env_remove("RUST_LOG")
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let said = |words: &[&str]| {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
    };
    let pid = running.id().to_string();
    let hup = || assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    eventually("it listens", || said(&["listening"])).await;

    deployment.write("relay.toml", &text("opne = 1", "info", "127.0.0.1:0"));
    hup();
    let why = eventually("a bad file is refused", || said(&["ERROR", "old one stays in force"])).await;
    assert!(why.contains("relay.toml:9") || said(&["relay.toml:9"]).is_some(), "{why}");

    deployment.write("relay.toml", &text("streams = 5", "warn", "127.0.0.1:1"));
    hup();
    eventually("what needs a restart is named", || said(&["WARN", "need a restart", "listen"])).await;
    deployment.write("relay.toml", &text("streams = 6", "info", "127.0.0.1:0"));
    hup();
    let changed = eventually("and what does not", || said(&["INFO", "configuration changed", "limits.streams"])).await;
    assert!(changed.contains("log.level"), "{changed}");
    assert!(said(&["configuration changed", "limits.streams, log.level"]).is_some());
    running.kill().unwrap();
    running.wait().unwrap();
}
