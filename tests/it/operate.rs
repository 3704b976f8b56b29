//! What an operator relies on: health, metrics that add up, a drain.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::Either;
use outrelay::core::frame::Frame;
use outrelay::core::reject::ResetCode;
use outrelay::net::stream::End;
use outrelay::relay::Relay;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Deployment, Peer, drain, eventually, noise, pair, rejection, send_all, sha256, soon, take};
use crate::survival::forwarder::{Forwarder, Wire};

/// What does not come to pass within this time is taken not to come to pass.
const SHORTLY: Duration = Duration::from_millis(200);

/// Status and body of `GET path`.
pub async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    soon("the response", socket.read_to_string(&mut text)).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Every sample of `/metrics`, by name and labels.
pub async fn metrics(relay: &Relay) -> HashMap<String, f64> {
    let (status, text) = get(relay.http_addr().unwrap(), "/metrics").await;
    assert_eq!(status, 200);
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

#[tokio::test]
async fn metrics_add_up() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let leaver = deployment.peer(&relay, 3, &[]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;
    up.send.write_all(&[7; 1000]).await.unwrap();
    take(&mut down.recv, 1000).await;
    let (ended, mut other) = pair(&consumer, &provider, 2).await;
    drop(ended);
    drain(&mut other.recv).await;
    drop(other);
    assert_eq!(rejection(&mut consumer.open("nowhere", 3).await).await.0, 404);
    leaver.quic.close(0_u32.into(), b"bye");
    eventually("it has left", || (relay.vault().connections.len() == 2).then_some(())).await;
    eventually("one stream is left", || (relay.vault().streams.len() == 1).then_some(())).await;

    let m = metrics(&relay).await;
    let of = |name: &str| m.get(name).copied().unwrap_or_else(|| panic!("no {name} in {m:#?}"));
    assert_eq!(of("outrelay_connections"), 2.0);
    assert_eq!(of("outrelay_connections_opened_total") - of("outrelay_connections_ended_total"), 2.0);
    assert_eq!(of("outrelay_handshakes_total{outcome=\"established\"}"), 3.0);
    assert_eq!(of("outrelay_streams"), 1.0);
    assert_eq!(of("outrelay_streams_opened_total") - of("outrelay_streams_ended_total"), 1.0);
    assert_eq!(of("outrelay_opens_total{outcome=\"spliced\",code=\"0\"}"), of("outrelay_streams_opened_total"));
    assert_eq!(of("outrelay_opens_total{outcome=\"rejected\",code=\"404\"}"), 1.0);
    assert_eq!(of("outrelay_open_latency_seconds_count"), 3.0);
    assert_eq!(of("outrelay_traffic_bytes_total{direction=\"to_provider\"}"), 1000.0);
    assert_eq!(of("outrelay_decisions_total{side=\"caller\",decision=\"allow\"}"), 3.0);
    assert_eq!(of("outrelay_decisions_total{side=\"callee\",decision=\"allow\"}"), 2.0);
    let many = ["splice", "entry", "connection", "control", "handshake"];
    for (kind, _) in outrelay::relay::tree::KINDS {
        let mailbox = m.get(&format!("outrelay_actor_mailbox{{actor=\"{kind}\"}}"));
        assert_eq!(mailbox.is_some(), !many.contains(&kind), "{kind}");
    }
    assert_eq!(of("outrelay_limits_hit_total{limit=\"hello\"}"), 0.0);
    assert_eq!(of("outrelay_policy_rules"), 2.0);
}

#[tokio::test]
async fn rules_that_cannot_be_read_are_a_metric_until_they_can() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let outdated = async || metrics(&relay).await["outrelay_policy_outdated_seconds"];
    assert_eq!(outdated().await, 0.0);
    let since = Instant::now();
    deployment.write("r1-rules.toml", "[[rule]]\nid = 5\n");
    relay.reload();
    eventually("they are not in force", || relay.vault().policy.current().outdated).await;
    let first = outdated().await;
    assert!(first > 0.0 && first <= since.elapsed().as_secs_f64(), "{first} s");
    assert!(outdated().await > first, "it grows");
    deployment.write("r1-rules.toml", crate::harness::OPEN_WORLD);
    relay.reload();
    let newest = || relay.vault().policy.current().outdated.is_none().then_some(());
    eventually("the newest are in force", newest).await;
    assert_eq!(outdated().await, 0.0);
}

#[tokio::test]
async fn whoever_asks_half_a_question_or_too_often_at_once_does_not_keep_others_from_an_answer() {
    const AT_ONCE: usize = 64;
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let http = relay.http_addr().unwrap();
    let mut slow = Vec::new();
    for _ in 0..AT_ONCE {
        let mut socket = TcpStream::connect(http).await.unwrap();
        socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: rel").await.unwrap();
        slow.push(socket);
    }
    let since = Instant::now();
    // The oldest makes room for whoever asks.
    assert_eq!(get(http, "/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(soon("it is closed", slow.remove(0).read(&mut [0])).await.unwrap(), 0, "unheard");
    assert!(since.elapsed() < Duration::from_secs(4), "before its time is over");
    for mut socket in slow {
        let mut heard = String::new();
        // Whether it hears why, or is just cut off, is all the same.
        drop(soon("half a head is not waited for", socket.read_to_string(&mut heard)).await);
        assert!(!heard.contains("200"), "{heard}");
    }
    let waited = since.elapsed();
    assert!(
        waited > SHORTLY && waited < Duration::from_secs(12),
        "{waited:?}: 5 s for a head, not 15 s as for the whole"
    );
}

#[tokio::test]
async fn a_ready_relay_says_so_and_a_draining_one_takes_nothing_new_but_lets_streams_end() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let http = relay.http_addr().unwrap();
    assert_eq!(get(http, "/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(get(http, "/readyz").await.0, 200);
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;
    up.send.write_all(b"x").await.unwrap();
    take(&mut down.recv, 1).await;

    let drained = relay.drain();
    tokio::pin!(drained);
    // Polled once, so that it has begun.
    assert!(futures_util::poll!(drained.as_mut()).is_pending());
    assert_eq!(get(http, "/readyz").await, (503, "draining\n".to_owned()));
    assert_eq!(get(http, "/healthz").await.0, 200);
    let (code, reason) = rejection(&mut consumer.open("svc", 2).await).await;
    assert_eq!((code, reason.contains("draining")), (502, true), "{reason}");
    let newcomer = deployment.ca.agent(&crate::harness::agent(3)).unwrap();
    assert!(deployment.try_dial(&relay, &newcomer).await.is_err(), "a new connection is refused");

    up.send.write_all(b"y").await.unwrap();
    assert_eq!(take(&mut down.recv, 1).await, b"y", "a live stream goes on");
    up.send.finish();
    assert_eq!(drain(&mut down.recv).await.1, End::Fin);
    down.send.finish();
    assert_eq!(drain(&mut up.recv).await.1, End::Fin);
    soon("the drain is over with the last stream", drained).await;
}

#[tokio::test]
async fn a_drain_waits_for_an_open_in_progress() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let up = consumer.open("svc", 1).await;
    let (_, mut down) = provider.incoming().await;
    let drained = relay.drain();
    tokio::pin!(drained);
    assert!(futures_util::poll!(drained.as_mut()).is_pending(), "the provider has not answered yet");
    outrelay::net::framed::write_frame(&mut down.send, &outrelay::core::frame::Frame::StreamAccept).await.unwrap();
    up.send.finish();
    assert_eq!(drain(&mut down.recv).await.1, End::Fin, "it is spliced all the same");
    assert!(futures_util::poll!(drained.as_mut()).is_pending(), "and lives");
    drop((down, up.recv));
    soon("the drain is over", drained).await;
}

#[tokio::test]
async fn a_drain_waits_until_the_last_byte_has_arrived_over_a_slow_way() {
    const BYTES: u32 = 600_000;
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let way = Forwarder::to(relay.quic_addr().unwrap()).await;
    let consumer = deployment.peer_at(way.addr, 2, &[]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;
    up.send.finish();
    assert_eq!(drain(&mut down.recv).await.1, End::Fin);
    let bytes = Arc::new(noise(1, BYTES as usize));
    way.set(Wire::Holds);
    send_all(down.send, Arc::clone(&bytes)).await;
    let said = "outrelay_traffic_bytes_total{direction=\"to_consumer\"}";
    soon("the relay has said everything", async {
        while metrics(&relay).await[said] < f64::from(BYTES) {
            tokio::task::yield_now().await;
        }
    })
    .await;

    let drained = Box::pin(relay.drain());
    let drained = match futures_util::future::select(drained, Box::pin(tokio::time::sleep(SHORTLY))).await {
        Either::Left(_) => panic!("the consumer has not had it yet"),
        Either::Right((_, drained)) => drained,
    };
    way.set(Wire::Passes);
    let reader = tokio::spawn(async move { drain(&mut up.recv).await });
    soon("the drain is over with the last byte", drained).await;
    soon("the relay stops", relay.shutdown()).await;
    let (got, end) = reader.await.unwrap();
    assert_eq!((end, sha256(&got)), (End::Fin, sha256(&bytes)));
}

#[tokio::test]
async fn what_lives_at_the_drains_deadline_is_reset() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", crate::harness::OPEN_WORLD);
    config.drain.deadline = std::time::Duration::from_millis(200);
    let relay = Relay::start(config).await.unwrap();
    let mut provider = deployment.peer(&relay, 1, &["resume-code"]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &["resume-code"]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;
    up.send.write_all(b"x").await.unwrap();
    take(&mut down.recv, 1).await;
    soon("the deadline", relay.drain()).await;
    soon("the relay stops", relay.shutdown()).await;
    for end in [drain(&mut up.recv).await.1, drain(&mut down.recv).await.1] {
        assert_eq!(end, End::Reset(ResetCode::RESUMABLE), "its agents may go on with it elsewhere");
    }
}

/// The program itself: started, drained by a signal, gone with exit code 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_the_program_with_exit_code_0_and_bad_input_with_2() {
    let deployment = Deployment::new();
    let config = deployment.relay_config("r1", crate::harness::OPEN_WORLD);
    let ready = deployment.dir.path().join("ready.json");
    let relay = |rules: &std::path::Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrelay"));
        command.args(["relay", "--id", "r1", "--region", "acme", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        command.arg("--cert").arg(&config.tls.cert).arg("--key").arg(&config.tls.key).arg("--ca").arg(&config.tls.ca);
        command.arg("--rules").arg(rules).arg("--ready-file").arg(&ready).stderr(std::process::Stdio::piped());
        command
    };
    let systemd = UnixDatagram::bind(deployment.dir.path().join("notify")).unwrap();
    systemd.set_nonblocking(true).unwrap();
    let mut said = HashSet::new();
    let mut hear = |word: &str| {
        let mut message = [0; 64];
        while let Ok(len) = systemd.recv(&mut message) {
            said.insert(String::from_utf8_lossy(&message[..len]).trim().to_owned());
        }
        said.contains(word).then_some(())
    };
    let mut running = relay(config.directory.rules.as_ref().unwrap())
        .env("NOTIFY_SOCKET", deployment.dir.path().join("notify"))
        .env("WATCHDOG_USEC", "100000")
        .spawn()
        .unwrap();
    let written: serde_json::Value =
        eventually("the ready file", || serde_json::from_str(&std::fs::read_to_string(&ready).ok()?).ok()).await;
    assert_eq!(written["pid"], running.id());
    let http: SocketAddr = written["http"].as_str().unwrap().parse().unwrap();
    assert_eq!(get(http, "/readyz").await.0, 200);
    eventually("systemd hears READY", || hear("READY=1")).await;
    eventually("systemd hears the watchdog", || hear("WATCHDOG=1")).await;
    let killed = Command::new("kill").arg("-TERM").arg(running.id().to_string()).status().unwrap();
    assert!(killed.success());
    let status = eventually("it has exited", || running.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
    eventually("systemd hears STOPPING", || hear("STOPPING=1")).await;

    let bad = deployment.write("bad.toml", "[[rule]]\nid = 7\n[[allow]]\ntenant = \"A\"\n");
    let output = relay(&bad).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("bad.toml:2") && said.contains("bad.toml:4"), "{said}");
}

#[tokio::test]
async fn a_drain_tells_the_agents_that_understand_it_where_to_go_and_no_others() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", crate::harness::OPEN_WORLD);
    config.drain.successors = vec!["r2.example:7443".parse().unwrap()];
    let relay = Relay::start(config).await.unwrap();
    let mut modern = deployment.peer(&relay, 1, &["goaway"]).await;
    let mut legacy = deployment.peer(&relay, 2, &[]).await;
    // Established, and greeted only once the drain has begun.
    let mut late = Peer::over(deployment.dial(&relay, 3).await, &crate::harness::agent(3)).await;
    eventually("three connections", || (relay.vault().connections.len() == 3).then_some(())).await;
    let before = outrelay::clock::now_unix_ms();
    let drained = relay.drain();
    tokio::pin!(drained);
    assert!(futures_util::poll!(drained.as_mut()).is_ready(), "no stream lives");
    late.hello(&["goaway"]).await;
    for peer in [&mut modern, &mut late] {
        let Frame::GoAway(goaway) = peer.hear().await else { panic!("no GOAWAY") };
        assert_eq!(goaway.successors, ["r2.example:7443"]);
        assert!((before + 29_000..before + 60_000).contains(&goaway.deadline_unix_ms), "{goaway:?}");
    }
    legacy.say(&Frame::Ping).await;
    assert_eq!(legacy.hear().await, Frame::Pong);
}
