//! The audit of a running relay: numbered without a gap, rotated, and patient while its files cannot be.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use outrelay::config::relay::RelayConfig;
use outrelay::core::frame::Frame;
use outrelay::net::framed::write_frame;
use outrelay::proto::orp;
use outrelay::relay::Relay;
use serde_json::Value;

use crate::harness::{Deployment, Peer, agent, audited, drain, eventually, handshakes, rejection};

/// What the program says about `file`, a value a line.
fn query(file: &Path, flags: &[&str]) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_outrelay"))
        .args(["audit", "query", "--json", "--limit", "0", "--file"])
        .arg(file)
        .args(flags)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_whose_audit_cannot_be_rotated_goes_on_and_then_writes_every_decision() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", crate::harness::OPEN_WORLD);
    config.directory.audit_max_bytes = 1_024;
    config.directory.audit_keep = 50;
    let file = config.directory.audit.clone().unwrap();
    // Nothing can be put in the place of a folder, nor can it be removed as a file: the chain is full up to the folder.
    let rotated = |n: usize| deployment.dir.path().join(format!("r1-audit.jsonl.{n}"));
    std::fs::create_dir(rotated(50)).unwrap();
    (1..50).for_each(|n| std::fs::write(rotated(n), "").unwrap());
    let relay = Relay::start(config).await.unwrap();
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let started = Instant::now();
    for stream_id in 1..=20 {
        assert_eq!(rejection(&mut consumer.open("nobody", stream_id).await).await.0, 404, "opens are still decided");
    }
    // Without its pause the writer would have been given up by now, and the relay with it.
    while started.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!relay.vault().audit.is_empty(), "the queue stays");
    }
    assert_eq!(rejection(&mut consumer.open("nobody", 21).await).await.0, 404, "it is still there");
    assert!(query(&file, &[]).len() < 20);

    std::fs::remove_dir(rotated(50)).unwrap();
    eventually("everything is written", || relay.vault().audit.is_empty().then_some(())).await;
    let lines = query(&file, &["--caller", "outrelay://acme/*", "--decision", "allow"]);
    // A batch that broke off half-way is written again: some may be there twice, with the same number.
    let numbers: std::collections::BTreeSet<_> = lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    // Each open is a decision, and the refusal of a service that nobody provides.
    assert_eq!(numbers, (0..21).map(|n| 2 * n + 1).collect());
    let refused = query(&file, &["--decision", "deny"]);
    let numbers: std::collections::BTreeSet<_> = refused.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=21).map(|n| 2 * n).collect());
    assert!(refused.iter().all(|line| line["side"] == "relay" && line["reason"].as_str().unwrap().starts_with("404")));
    assert!(lines.iter().all(|line| line["run"] == lines[0]["run"] && line["run"].as_i64() > Some(0)));
    assert!(std::fs::metadata(rotated(1)).unwrap().len() > 0, "it was rotated");
    assert_eq!(query(&file, &["--stream", "21"]).len(), 2);
}

/// Has the audit in a folder of its own: that folder, where it may be moved to, and the file.
fn in_a_folder(deployment: &Deployment, config: &mut RelayConfig) -> [PathBuf; 3] {
    let [folder, away] = ["audit", "archive"].map(|name| deployment.dir.path().join(name));
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("audit.jsonl");
    config.directory.audit = Some(file.clone());
    [folder, away, file]
}

#[tokio::test]
async fn what_is_decided_after_the_file_was_moved_or_removed_stands_in_a_new_one_at_its_path() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", crate::harness::OPEN_WORLD);
    let [folder, away, file] = in_a_folder(&deployment, &mut config);
    let relay = Relay::start(config).await.unwrap();
    let consumer = deployment.peer(&relay, 2, &[]).await;
    // Each is two events: it is allowed, and nobody serves it.
    let decide = async |stream_id| {
        assert_eq!(rejection(&mut consumer.open("nobody", stream_id).await).await.0, 404);
        eventually("it is written", || relay.vault().audit.is_empty().then_some(())).await;
        query(&file, &[]).iter().map(|line| line["seq"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(decide(1).await, [1, 2]);
    std::fs::rename(&file, folder.join("audit-moved")).unwrap();
    assert_eq!(decide(2).await, [3, 4]);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(decide(3).await, [5, 6]);
    std::fs::rename(&folder, &away).unwrap();
    std::fs::create_dir(&folder).unwrap();
    assert_eq!(decide(4).await, [7, 8]);
    std::fs::rename(&file, folder.join("audit-moved")).unwrap();
    std::fs::write(&file, "").unwrap();
    assert_eq!(decide(5).await, [9, 10], "another file is there already");
    // Whoever has moved it says so, as logrotate does, and may use the old one from then on.
    std::fs::rename(&file, away.join("audit-moved")).unwrap();
    relay.reload();
    eventually("there is a new one before anything is decided", || file.exists().then_some(())).await;
    assert_eq!(decide(6).await, [11, 12]);
    let moved = query(&away.join("audit.jsonl"), &[]).len() + query(&away.join("audit-moved"), &[]).len();
    assert_eq!(moved, 4, "nothing more came into the old ones");
}

#[tokio::test]
async fn while_there_is_no_folder_for_a_new_file_decisions_stand_in_the_old_one() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", crate::harness::OPEN_WORLD);
    // One open, and no more.
    config.limits.audit_queue = 2;
    let [folder, away, file] = in_a_folder(&deployment, &mut config);
    let relay = Relay::start(config).await.unwrap();
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let decide = async |stream_id| {
        assert_eq!(rejection(&mut consumer.open("nobody", stream_id).await).await.0, 404);
        eventually("it is written", || relay.vault().audit.is_empty().then_some(())).await;
    };
    let numbers = |file: &Path| query(file, &[]).iter().map(|line| line["seq"].as_u64().unwrap()).collect::<Vec<_>>();
    std::fs::rename(&folder, &away).unwrap();
    for stream_id in 1..=5 {
        decide(stream_id).await;
    }
    assert_eq!(numbers(&away.join("audit.jsonl")), (1..=10).collect::<Vec<_>>());
    std::fs::create_dir(&folder).unwrap();
    decide(6).await;
    assert_eq!(numbers(&file), [11, 12]);
    assert_eq!(numbers(&away.join("audit.jsonl")).len(), 10, "nothing more comes into the old one");
    assert_eq!(crate::operate::metrics(&relay).await["outrelay_audit_dropped_total"], 0.0);
}

#[tokio::test]
async fn what_finds_the_queue_full_is_counted_and_the_log_says_where_it_is_missing() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", crate::harness::OPEN_WORLD);
    config.limits.audit_queue = 4;
    config.directory.audit_max_bytes = 10_000;
    config.directory.audit_keep = 1;
    let file = config.directory.audit.clone().unwrap();
    // The file is full, and cannot be put where a folder is.
    std::fs::write(&file, "\n".repeat(10_000)).unwrap();
    let in_the_way = deployment.dir.path().join("r1-audit.jsonl.1");
    std::fs::create_dir(&in_the_way).unwrap();
    let relay = Relay::start(config).await.unwrap();
    let consumer = deployment.peer(&relay, 2, &[]).await;
    // Each is two events, and neither can be written.
    for stream_id in 1..=5 {
        assert_eq!(rejection(&mut consumer.open("nobody", stream_id).await).await.0, 404, "opens are still decided");
    }
    assert_eq!(crate::operate::metrics(&relay).await["outrelay_audit_dropped_total"], 6.0);
    std::fs::remove_dir(&in_the_way).unwrap();
    eventually("what was kept is written", || relay.vault().audit.is_empty().then_some(())).await;
    assert_eq!(rejection(&mut consumer.open("nobody", 6).await).await.0, 404);
    eventually("it goes on", || relay.vault().audit.is_empty().then_some(())).await;
    let numbers: Vec<_> = query(&file, &[]).iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 11, 12]);
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Between the two that it is missing between; what an attempt in the meantime has counted has a line of its own.
    let dropped = lines[4..lines.len() - 2].iter().map(|line| line["dropped"].as_u64().unwrap());
    assert_eq!(dropped.sum::<u64>(), 6);
}

#[tokio::test]
async fn what_the_relay_itself_refuses_is_in_the_audit_if_it_knows_to_whom() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", crate::harness::OPEN_WORLD);
    config.limits.hello = Duration::from_secs(2);
    config.limits.services_per_agent = 1;
    config.limits.streams_per_agent = 2;
    config.limits.parked_per_agent = 1;
    config.limits.connections_per_agent = 1;
    let relay = Relay::start(config).await.unwrap();

    // Who has no certificate of the deployment is no more than counted.
    let foreign = outrelay::pki::Ca::generate().unwrap().agent(&agent(9)).unwrap();
    let unheard = deployment.try_dial(&relay, &foreign).await;
    eventually("it is counted", || (handshakes(&relay, "tls") == 1).then_some(())).await;
    let stranger = outrelay::core::identity::RelayUri::new(&"acme".parse().unwrap(), &"r9".parse().unwrap());
    let of_stranger = deployment.ca.relay(&stranger, &[]).unwrap();
    let turned_away = deployment.try_dial(&relay, &of_stranger).await;
    let silent = deployment.dial(&relay, 3).await;
    let mut twice = deployment.peer(&relay, 2, &[]).await;
    twice.say_hello(&[]).await;

    let mut peer = deployment.peer(&relay, 1, &["resume-code", "deregister"]).await;
    peer.register("svc").await;
    peer.register("one-too-many").await;
    peer.register("two words").await;
    peer.say(&Frame::Deregister(orp::Deregister { service_name: "no name".into() })).await;
    peer.hear().await;
    let resume = |stream_id| Frame::StreamResume(orp::StreamResume { stream_id, ..Default::default() });
    let mut halves = Vec::new();
    for id in [7, 8] {
        let mut half = peer.fresh().await;
        write_frame(&mut half.send, &resume(id)).await.unwrap();
        halves.push(half);
        eventually("it waits", || (relay.vault().parking.len() == 1).then_some(())).await;
    }
    drain(&mut halves[1].recv).await;
    // One more beside the half that waits; a third has no place.
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = peer.fresh().await;
        stream.send.write_all(&[0x20]).await.unwrap();
        streams.push(stream);
    }
    drain(&mut streams[1].recv).await;
    let mut newer = Peer::over(deployment.dial(&relay, 1).await, &agent(1)).await;
    newer.say_hello(&[]).await;
    newer.closed().await;

    let uri = |n| agent(n).to_string();
    for (caller, reason, target, stream) in [
        (stranger.to_string(), "connection from 127.0.0.1", "", ""),
        (uri(3), "connection closed: no HELLO within 2s", "", ""),
        (uri(2), "connection closed: HELLO was sent already", "", ""),
        (uri(1), "REGISTER: 429 ", "one-too-many", ""),
        (uri(1), "REGISTER: 400 ", "two words", ""),
        (uri(1), "DEREGISTER: 400 ", "no name", ""),
        (uri(1), "half reset: 1 of the connection wait already", "", "8"),
        (uri(1), "stream reset unread: ", "", ""),
        (uri(1), "connection closed: this agent has 1 connections", "", ""),
    ] {
        let event = audited(&deployment, &caller, reason).await;
        assert_eq!((&event["target"], &event["stream_id"]), (&target.into(), &stream.into()), "{event}");
    }
    let file = deployment.dir.path().join("r1-audit.jsonl");
    let known = [1, 2, 3].map(uri).into_iter().chain([stranger.to_string()]).collect::<Vec<_>>();
    let foreign = |line: &Value| !known.iter().any(|caller| line["caller"] == caller.as_str());
    assert!(!query(&file, &[]).iter().any(foreign), "nothing of one who has proven nothing");
    assert_eq!(query(&file, &["--stream", "8"]).len(), 1);
    drop((unheard, turned_away, silent, halves));
}

#[tokio::test]
async fn no_more_is_kept_of_what_a_peer_says_than_a_line_holds() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let long = "\u{1}x".repeat(30_000);
    for (n, version, uri, reason) in [
        (1, long.as_str(), agent(1).to_string(), "connection closed: protocol version"),
        (2, "orp/1", long.clone(), "connection closed: HELLO says"),
    ] {
        let mut peer = Peer::over(deployment.dial(&relay, n).await, &agent(n)).await;
        let hello = orp::Hello { protocol_version: version.to_owned(), agent_uri: uri, capabilities: Vec::new() };
        peer.say(&Frame::Hello(hello)).await;
        let (_, why) = peer.closed().await;
        assert!(why.len() < 1_024, "{} bytes of reason", why.len());
        audited(&deployment, agent(n).as_str(), reason).await;
    }
    let mut peer = deployment.peer(&relay, 3, &[]).await;
    peer.register(&long).await;
    audited(&deployment, agent(3).as_str(), "REGISTER: 400").await;
    let text = std::fs::read_to_string(deployment.dir.path().join("r1-audit.jsonl")).unwrap();
    let longest = text.lines().map(str::len).max().unwrap();
    assert!(longest < 4_096, "a line of {longest} bytes");
}

#[test]
fn an_audit_that_is_not_there_is_a_mistake_of_the_command_line() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_outrelay")).args(["audit", "query", "--file", "/absent"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("--file: the audit file /absent cannot be opened"));
}
