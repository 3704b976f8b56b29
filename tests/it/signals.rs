//! The real program is told to stop: once, twice, by an operator first; and what it does last.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use outrelay::config::relay::RelayConfig;
use outrelay::core::frame::Frame;
use outrelay::core::ids::StreamId;
use outrelay::core::policy::Effect;
use outrelay::directory::audit_log::record::{AuditEvent, Side};
use outrelay::net::stream::{BiStream, End};
use outrelay::supervise::node::Status;

use crate::admin::admin;
use crate::harness::{Deployment, OPEN_WORLD, Peer, drain, eventually, pair, rejection, soon, take};
use crate::program::Program;

/// The program with two agents, and a stream between them.
struct World {
    program: Program,
    provider: Peer,
    consumer: Peer,
    stream: Option<(BiStream, BiStream)>,
    _deployment: Deployment,
}

impl World {
    async fn start(change: impl FnOnce(&mut RelayConfig)) -> Self {
        Self::start_with(change, &[]).await
    }

    /// The same with `settings`, `KEY=VALUE`.
    async fn start_with(change: impl FnOnce(&mut RelayConfig), settings: &[&str]) -> Self {
        let deployment = Deployment::new();
        let mut config = deployment.relay_config("r1", OPEN_WORLD);
        change(&mut config);
        let settings: Vec<_> =
            std::iter::once("admin.fault_injection=true").chain(settings.iter().copied()).map(str::to_owned).collect();
        let program = Program::start(&deployment, &config, &settings).await;
        let mut provider = deployment.peer_at(program.addr, 1, &["goaway"]).await;
        provider.register("svc").await;
        let consumer = deployment.peer_at(program.addr, 2, &[]).await;
        let stream = Some(pair(&consumer, &provider, 1).await);
        Self { program, provider, consumer, stream, _deployment: deployment }
    }

    async fn admin(&self, args: &[&str]) {
        let output = admin(&self.program.admin, args).await;
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    async fn flows(&mut self) {
        let (up, down) = self.stream.as_mut().unwrap();
        up.send.write_all(b"on").await.unwrap();
        assert_eq!(take(&mut down.recv, 2).await, b"on");
    }

    /// Both sides have said everything.
    async fn ends(&mut self) {
        let (mut up, mut down) = self.stream.take().unwrap();
        up.send.finish();
        assert_eq!(drain(&mut down.recv).await.1, End::Fin);
        down.send.finish();
        assert_eq!(drain(&mut up.recv).await.1, End::Fin);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_program_at_once_whatever_hangs() {
    let mut world = World::start(|_| {}).await;
    // To stop these in order takes seven seconds.
    for actor in ["http", "resume", "splices", "registry", "credentials", "policy"] {
        world.admin(&["hang", actor]).await;
    }
    world.program.terminate();
    world.program.said(&["draining"]).await;
    world.flows().await;
    let second = Instant::now();
    world.program.terminate();
    let status = world.program.exited().await;
    assert!(second.elapsed() < Duration::from_secs(4), "{:?}", second.elapsed());
    assert_eq!(status.code(), Some(0));
    world.program.said(&["WARN", "second signal: stopping at once", "SIGTERM"]).await;
    for peer in [&world.provider, &world.consumer] {
        assert_eq!(peer.closed().await.1, "the relay is stopping");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_also_ends_what_stops_in_order() {
    let mut world = World::start(|_| {}).await;
    world.ends().await;
    // To stop these in order takes seven seconds.
    for actor in ["http", "resume", "splices", "registry", "credentials", "policy"] {
        world.admin(&["hang", actor]).await;
    }
    world.program.terminate();
    // The drain is over: the tree is being stopped.
    soon("the connections are closed", world.consumer.quic.closed()).await;
    let second = Instant::now();
    world.program.terminate();
    assert_eq!(world.program.exited().await.code(), Some(0));
    assert!(second.elapsed() < Duration::from_secs(4), "{:?}", second.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_operators_drain_the_first_signal_lets_it_go_on() {
    let mut world = World::start(|_| {}).await;
    world.admin(&["drain", "--to", "r2.example:7443"]).await;
    world.program.said(&["stopping: drained by an operator"]).await;
    assert!(matches!(world.provider.hear().await, Frame::StreamReady(_)));
    let Frame::GoAway(goaway) = world.provider.hear().await else { panic!("no GOAWAY") };
    assert_eq!(goaway.successors, ["r2.example:7443"]);
    world.program.terminate();
    world.program.said(&["the drain goes on", "SIGTERM"]).await;
    world.flows().await;
    world.ends().await;
    assert_eq!(world.program.exited().await.code(), Some(0));
    assert!(!world.program.log().contains("stopping at once"), "{}", world.program.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_operators_drain_the_second_signal_ends_it() {
    let mut world = World::start(|_| {}).await;
    world.admin(&["drain"]).await;
    world.program.terminate();
    world.program.said(&["the drain goes on"]).await;
    world.program.terminate();
    assert_eq!(world.program.exited().await.code(), Some(0));
    world.program.said(&["second signal: stopping at once"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_that_fails_during_a_drain_fails_the_program() {
    let mut world = World::start(|_| {}).await;
    world.program.terminate();
    world.program.said(&["draining"]).await;
    world.flows().await;
    // Who answers is killed, too.
    drop(admin(&world.program.admin, &["kill", "relay"]).await);
    assert_eq!(world.program.exited().await.code(), Some(1));
    world.program.said(&["ERROR", "the supervision tree has failed"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_is_killed_still_tells_agents_where_to_go() {
    let mut world = World::start_with(|_| {}, &["drain.successors=[\"r2.example:7443\"]"]).await;
    assert!(matches!(world.provider.hear().await, Frame::StreamReady(_)));
    drop(admin(&world.program.admin, &["kill", "relay"]).await);
    let Frame::GoAway(goaway) = world.provider.hear().await else { panic!("no GOAWAY") };
    assert_eq!(goaway.successors, ["r2.example:7443"]);
    assert_eq!(world.program.exited().await.code(), Some(1));
    world.program.said(&["ERROR", "the supervision tree has failed"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_is_asked_for_during_a_drain_is_not_done_and_that_is_said() {
    let mut world = World::start(|_| {}).await;
    world.program.terminate();
    world.program.said(&["draining"]).await;
    world.program.hang_up();
    world.program.said(&["WARN", "SIGHUP", "draining", "not read again"]).await;
    world.flows().await;
    world.ends().await;
    assert_eq!(world.program.exited().await.code(), Some(0));
}

fn decision(n: u64) -> AuditEvent {
    AuditEvent {
        ts_unix_ms: 1,
        tenant: "acme".into(),
        side: Side::Caller,
        caller: "a".into(),
        target: "b".into(),
        method: "".into(),
        decision: Effect::Allow,
        rule: None,
        reason: "".into(),
        stream_id: Some(StreamId(n)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_the_audit_when_the_tree_has_stopped_is_written() {
    const DECISIONS: u64 = 2_000;
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let (vault, root) = (Arc::clone(relay.vault()), Arc::clone(relay.root()));
    // A disk that takes its time.
    let (is_held, held) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let disk = Arc::clone(&vault);
    let thread = std::thread::spawn(move || {
        let _log = disk.audit_log.lock().unwrap();
        is_held.send(()).unwrap();
        released.recv().ok();
    });
    held.recv().unwrap();
    (0..DECISIONS).for_each(|n| vault.audit.push(decision(n)));
    let let_go = async {
        eventually("the tree has stopped", || (root.status() == Status::Stopped).then_some(())).await;
        assert_eq!(vault.audit.len() as u64, DECISIONS);
        release.send(()).unwrap();
    };
    tokio::join!(soon("the relay stops", relay.shutdown()), let_go);
    thread.join().unwrap();
    assert!(vault.audit.is_empty());
    let text = std::fs::read_to_string(deployment.dir.path().join("r1-audit.jsonl")).unwrap();
    let numbers: Vec<_> = text.lines().map(|line| line.split("\"seq\":").nth(1).unwrap()).collect();
    let numbers: Vec<u64> = numbers.iter().map(|rest| rest.split(',').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=DECISIONS).collect::<Vec<_>>(), "each once, in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_written_to_the_audit_at_the_end_is_said_with_its_number() {
    let mut world = World::start(|config| config.directory.audit = Some("/dev/full".into())).await;
    assert_eq!(rejection(&mut world.consumer.open("nobody", 2).await).await.0, 404);
    world.ends().await;
    world.program.terminate();
    assert_eq!(world.program.exited().await.code(), Some(0));
    // Each side's of the stream; and of the open, that it was allowed and that nobody serves it.
    world.program.said(&["ERROR", "not in the audit", "lost=4"]).await;
}
