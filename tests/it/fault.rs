//! Every actor is killed and panics, while a checksummed neighbour stream runs: what `actors.md` promises holds, and
//! the neighbour notices nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use outrelay::core::frame::Frame;
use outrelay::core::reject::ResetCode;
use outrelay::net::framed::write_frame;
use outrelay::net::stream::{BiStream, End, Read, WriteEnd};
use outrelay::relay::Relay;
use outrelay::relay::tree::KINDS;
use outrelay::supervise::fault::Fault;
use outrelay::supervise::node::Status;
use outrelay::supervise::report::Report;
use tokio::task::JoinHandle;

use crate::harness::{ALONE, Deployment, Peer, agent, drain, eventually, noise, pair, rejection, soon, take};

const FAULTS: [Fault; 2] = [Fault::Kill, Fault::Panic];
const KNOWS_CODES: &[&str] = &["resume-code"];
/// The longest time for which an untouched stream may stand still.
const LONGEST_GAP: Duration = Duration::from_millis(100);
/// How often the neighbour writes: it must never wait for its own bytes on a busy machine.
const BEAT: Duration = Duration::from_millis(2);

/// A relay with a provider and a consumer, and a neighbour stream that never rests.
struct World {
    deployment: Deployment,
    relay: Relay,
    provider: Peer,
    consumer: Peer,
    neighbour: Neighbour,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

impl World {
    async fn new() -> Self {
        let alone = ALONE.lock().await;
        let deployment = Deployment::new();
        let relay = deployment.relay().await;
        let neighbour = Neighbour::start(&deployment, &relay).await;
        let mut provider = deployment.peer(&relay, 1, KNOWS_CODES).await;
        provider.register("svc").await;
        let consumer = deployment.peer(&relay, 2, KNOWS_CODES).await;
        Self { deployment, relay, provider, consumer, neighbour, _alone: alone }
    }

    /// The actor of `kind` whose name contains `name`, once there is one.
    async fn find(&self, kind: &str, name: &str) -> Report {
        eventually(kind, || self.relay.tree().walk().find(|a| a.kind == kind && a.name.contains(name)).cloned()).await
    }

    /// Injects `fault`, and waits until the actor is started again.
    async fn strike(&self, kind: &str, name: &str, fault: Fault) {
        let before = self.find(kind, name).await;
        self.relay.inject(&before.id.to_string(), fault).await.unwrap();
        eventually("it is started again", || {
            self.relay.tree().walk().find(|a| a.id == before.id && a.restarts > before.restarts).map(|_| ())
        })
        .await;
    }

    /// A stream can be opened and carries bytes.
    async fn opens(&self, id: u64) {
        let (mut up, mut down) = pair(&self.consumer, &self.provider, id).await;
        up.send.write_all(b"through").await.unwrap();
        assert_eq!(take(&mut down.recv, 7).await, b"through");
    }

    async fn neighbour_noticed_nothing(self) {
        self.neighbour.check().await;
        self.relay.shutdown().await;
    }
}

/// A stream between two other agents: bytes in a known order for as long as it is let, with the time between them.
struct Neighbour {
    stop: Arc<AtomicBool>,
    machine: std::thread::JoinHandle<Duration>,
    writer: JoinHandle<u64>,
    reader: JoinHandle<(u64, Duration)>,
    _peers: (Peer, Peer),
}

impl Neighbour {
    async fn start(deployment: &Deployment, relay: &Relay) -> Self {
        let mut provider = deployment.peer(relay, 0x91, KNOWS_CODES).await;
        provider.register("neighbour").await;
        let consumer = deployment.peer(relay, 0x92, KNOWS_CODES).await;
        let (up, down) = tokio::join!(consumer.open("neighbour", 0xffff), provider.accept());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        // A period that is no power of two: a lost or doubled block cannot hide.
        let pattern = Arc::new(noise(7, 65_521));
        let expected = Arc::clone(&pattern);
        let writer = tokio::spawn(async move {
            let mut up = up;
            let mut written = 0;
            let mut beat = tokio::time::interval(BEAT);
            while !stopped.load(Ordering::Relaxed) {
                beat.tick().await;
                up.send.write_all(&pattern).await.unwrap();
                written += pattern.len() as u64;
            }
            up.send.finish();
            written
        });
        let reader = tokio::spawn(async move {
            let BiStream { send: _keep, mut recv } = down;
            let (mut read, mut gap) = (0, Duration::ZERO);
            let mut last = Instant::now();
            let mut buf = vec![0; 64 << 10];
            loop {
                match recv.read(&mut buf).await {
                    Read::Data(n) => {
                        gap = gap.max(last.elapsed());
                        last = Instant::now();
                        for byte in &buf[..n] {
                            assert_eq!(*byte, expected[usize::try_from(read).unwrap() % expected.len()], "at {read}");
                            read += 1;
                        }
                    }
                    Read::End(end) => {
                        assert_eq!(end, End::Fin);
                        return (read, gap);
                    }
                }
            }
        });
        let stopped = Arc::clone(&stop);
        let machine = std::thread::spawn(move || machine_lag(&stopped));
        Self { stop, machine, writer, reader, _peers: (provider, consumer) }
    }

    async fn check(self) {
        self.stop.store(true, Ordering::Relaxed);
        let written = soon("the neighbour's writer", self.writer).await.unwrap();
        let (read, gap) = soon("the neighbour's reader", self.reader).await.unwrap();
        assert_eq!(read, written, "the neighbour lost bytes");
        let lag = self.machine.join().unwrap();
        // Writer, relay and reader may each be kept off the processor for as long.
        assert!(gap <= LONGEST_GAP + lag * 3, "the neighbour stood still for {gap:?}; the machine itself for {lag:?}");
    }
}

/// The longest time for which this machine did not let a thread run that only wakes up now and then: whoever shares
/// it with other work must not take that for a gap.
fn machine_lag(stop: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let asleep = Instant::now();
        std::thread::sleep(BEAT);
        longest = longest.max(asleep.elapsed().saturating_sub(BEAT));
    }
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn singletons_are_restarted_and_nobody_notices() {
    for fault in FAULTS {
        let world = World::new().await;
        let (mut up, mut down) = pair(&world.consumer, &world.provider, 1).await;
        up.send.write_all(b"x").await.unwrap();
        assert_eq!(take(&mut down.recv, 1).await, b"x", "it is spliced");
        for (n, kind) in
            ["audit", "policy", "credentials", "registry", "ingress", "connections", "quic_listener", "admin", "http"]
                .iter()
                .enumerate()
        {
            world.strike(kind, "", fault).await;
            up.send.write_all(&[1]).await.unwrap();
            assert_eq!(take(&mut down.recv, 1).await, [1], "{kind} {fault:?}: a live stream");
            world.opens(100 + n as u64).await;
            // New agents come in, and what they register is found.
            let newcomer = u8::try_from(10 + n).unwrap();
            let mut newcomer = world.deployment.peer(&world.relay, newcomer, &[]).await;
            newcomer.register(kind).await;
            let _stream = world.consumer.open(kind, 200 + n as u64).await;
            assert_eq!(newcomer.incoming().await.0.target_service, *kind);
        }
        world.neighbour_noticed_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_splice_resets_both_halves_resumable_and_never_finishes_them() {
    for fault in FAULTS {
        let world = World::new().await;
        let (mut up, mut down) = pair(&world.consumer, &world.provider, 77).await;
        up.send.write_all(b"x").await.unwrap();
        assert_eq!(take(&mut down.recv, 1).await, b"x");
        let splice = world.find("splice", "77").await;
        world.relay.inject(&splice.id.to_string(), fault).await.unwrap();
        for side in [&mut up, &mut down] {
            assert_eq!(drain(&mut side.recv).await, (Vec::new(), End::Reset(ResetCode::RESUMABLE)), "{fault:?}");
            let stop = soon("the sender is told too", side.send.stopped()).await;
            assert_eq!(stop, WriteEnd::Stopped(ResetCode::RESUMABLE));
        }
        eventually("the id is free", || (world.relay.vault().streams.len() == 1).then_some(())).await;
        world.opens(77).await;
        world.neighbour_noticed_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_splices_supervisor_cuts_every_stream_with_a_reset_and_new_ones_open() {
    for fault in FAULTS {
        let deployment = Deployment::new();
        let relay = deployment.relay().await;
        let mut provider = deployment.peer(&relay, 1, KNOWS_CODES).await;
        provider.register("svc").await;
        let consumer = deployment.peer(&relay, 2, KNOWS_CODES).await;
        let mut pairs = Vec::new();
        for id in 1..=20 {
            let (mut up, mut down) = pair(&consumer, &provider, id).await;
            up.send.write_all(b"x").await.unwrap();
            assert_eq!(take(&mut down.recv, 1).await, b"x");
            pairs.push((up, down));
        }
        relay.inject("splices", fault).await.unwrap();
        for (up, down) in &mut pairs {
            assert_eq!(drain(&mut up.recv).await.1, End::Reset(ResetCode::RESUMABLE), "{fault:?}");
            assert_eq!(drain(&mut down.recv).await.1, End::Reset(ResetCode::RESUMABLE), "{fault:?}");
        }
        eventually("the index is empty", || relay.vault().streams.is_empty().then_some(())).await;
        let (mut up, mut down) = pair(&consumer, &provider, 99).await;
        up.send.write_all(b"x").await.unwrap();
        assert_eq!(take(&mut down.recv, 1).await, b"x");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_connection_is_restarted_over_the_same_quic_connection() {
    for fault in FAULTS {
        let mut world = World::new().await;
        let (mut up, mut down) = pair(&world.consumer, &world.provider, 1).await;
        up.send.write_all(b"x").await.unwrap();
        assert_eq!(take(&mut down.recv, 1).await, b"x", "it is spliced");
        // An open in progress, on the connection that is struck: it is reset RETRY.
        let mut opening = world.consumer.open("svc", 2).await;
        let (_, asked) = world.provider.incoming().await;
        for agent in [agent(2), agent(1)] {
            world.strike("connection", agent.as_str(), fault).await;
        }
        assert_eq!(drain(&mut opening.recv).await.1, End::Reset(ResetCode::RETRY), "{fault:?}");
        drop(asked);
        up.send.write_all(b"on").await.unwrap();
        assert_eq!(take(&mut down.recv, 2).await, b"on", "a spliced stream goes on");
        for peer in [&mut world.consumer, &mut world.provider] {
            while !matches!(peer.hear().await, Frame::StreamReady(_)) {}
            peer.say(&Frame::Ping).await;
            assert_eq!(peer.hear().await, Frame::Pong, "the control stream goes on");
        }
        world.opens(3).await;
        world.neighbour_noticed_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_control_goes_on_in_the_middle_of_a_frame() {
    for fault in FAULTS {
        let mut world = World::new().await;
        let register = outrelay::proto::orp::Register { service_name: "late".to_owned(), local_addr: String::new() };
        let frame = Frame::Register(register).encode();
        let (head, tail) = frame.split_at(11);
        let provider = agent(1);
        world.provider.control.send.write_all(head).await.unwrap();
        for _ in 0..5 {
            world.strike("control", provider.as_str(), fault).await;
        }
        world.provider.control.send.write_all(tail).await.unwrap();
        assert!(matches!(world.provider.hear().await, Frame::RegisterAck(_)), "{fault:?}");
        world.provider.say(&Frame::Ping).await;
        assert_eq!(world.provider.hear().await, Frame::Pong, "one answer, no more");
        world.neighbour_noticed_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_that_an_operator_stops_ends_its_connection_for_nobody_would_answer_on_it() {
    let world = World::new().await;
    let control = world.find("control", agent(1).as_str()).await;
    world.relay.inject(&control.id.to_string(), Fault::Stop).await.unwrap();
    assert_eq!(world.provider.closed().await.1, "connection ended by the relay");
    let mut again = world.deployment.peer(&world.relay, 1, KNOWS_CODES).await;
    assert!(matches!(again.register("svc").await, Frame::RegisterAck(_)));
    let _stream = world.consumer.open("svc", 8).await;
    assert_eq!(again.incoming().await.0.stream_id, 8);
    world.neighbour_noticed_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_handshake_resets_that_open_for_another_try() {
    for fault in FAULTS {
        let world = World::new().await;
        let mut opening = world.consumer.open("svc", 5).await;
        let (_, mut asked) = world.provider.incoming().await;
        let handshake = world.find("handshake", "").await;
        world.relay.inject(&handshake.id.to_string(), fault).await.unwrap();
        assert_eq!(drain(&mut opening.recv).await, (Vec::new(), End::Reset(ResetCode::RETRY)), "{fault:?}");
        assert!(matches!(drain(&mut asked.recv).await.1, End::Reset(_)));
        world.opens(5).await;
        world.neighbour_noticed_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_hangs_is_killed_and_started_again() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", crate::harness::OPEN_WORLD);
    config.limits.handler = Duration::from_millis(300);
    config.limits.registry_call = Duration::from_millis(200);
    let relay = Relay::start(config).await.unwrap();
    let mut provider = deployment.peer(&relay, 1, KNOWS_CODES).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, KNOWS_CODES).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;
    up.send.write_all(b"x").await.unwrap();
    assert_eq!(take(&mut down.recv, 1).await, b"x");
    let lives =
        ["audit", "policy", "credentials", "registry", "ingress", "connections", "quic_listener", "admin", "http"];
    let agents = ["connection", "control"].map(|kind| format!("{kind}:{}", agent(1)));
    for selector in lives.into_iter().chain(agents.iter().map(String::as_str)) {
        let kind = selector.split(':').next().unwrap();
        let restarts = || {
            let label = outrelay::metrics::ActorLabel { actor: KINDS.iter().find(|(k, _)| *k == kind).unwrap().0 };
            relay.vault().metrics.actor_restarts.get_or_create(&label).get()
        };
        let before = restarts();
        relay.inject(selector, Fault::Hang).await.unwrap();
        eventually("it is killed and started again", || (restarts() > before).then_some(())).await;
        up.send.write_all(b"y").await.unwrap();
        assert_eq!(take(&mut down.recv, 1).await, b"y", "{selector}: a live stream goes on");
    }
    provider.say(&Frame::Ping).await;
    while provider.hear().await != Frame::Pong {}
    let splice = relay.tree().walk().find(|actor| actor.kind == "splice").unwrap().id;
    relay.inject(&splice.to_string(), Fault::Hang).await.unwrap();
    assert_eq!(drain(&mut up.recv).await.1, End::Reset(ResetCode::RESUMABLE), "a splice that hangs is cut");
    relay.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_root_ends_the_relay_and_every_connection_with_a_reason() {
    for fault in FAULTS {
        let deployment = Deployment::new();
        let mut relay = deployment.relay().await;
        let mut provider = deployment.peer(&relay, 1, KNOWS_CODES).await;
        provider.register("svc").await;
        let consumer = deployment.peer(&relay, 2, KNOWS_CODES).await;
        let (mut up, mut down) = pair(&consumer, &provider, 1).await;
        up.send.write_all(b"x").await.unwrap();
        assert_eq!(take(&mut down.recv, 1).await, b"x");
        relay.inject("relay", fault).await.unwrap();
        let why = soon("the relay has failed", relay.failed()).await;
        assert!(!why.is_empty());
        soon("it says good-bye", relay.kill()).await;
        assert!(!matches!(drain(&mut up.recv).await.1, End::Fin), "{fault:?}");
        assert!(!matches!(drain(&mut down.recv).await.1, End::Fin), "{fault:?}");
        soon("the connection is closed", consumer.quic.closed()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_has_failed_before_it_is_stopped_has_failed() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let root = Arc::clone(relay.root());
    relay.inject("relay", Fault::Kill).await.unwrap();
    eventually("the tree has ended", || (root.status() == Status::Stopped).then_some(())).await;
    let stopped = soon("it ends", relay.shutdown_unless(std::future::pending())).await;
    assert_eq!(stopped, Err("killed".to_owned()));
    let relay = deployment.relay().await;
    assert_eq!(soon("it ends", relay.shutdown_unless(std::future::pending())).await, Ok(()));
}

/// As quinn leaves it when its socket fails for good: nothing comes any more, and nobody says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_whose_socket_fails_fails_at_once() {
    let deployment = Deployment::new();
    let mut relay = deployment.relay().await;
    let addr = relay.quic_addr().unwrap();
    let _consumer = deployment.peer(&relay, 2, KNOWS_CODES).await;
    relay.vault().endpoint.close(0_u32.into(), b"");
    let failed = tokio::time::timeout(Duration::from_secs(1), relay.failed()).await;
    let why = failed.expect("not within a second");
    assert!(why.contains(&format!("the UDP socket {addr} failed")), "{why}");
    soon("it ends", relay.kill()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_asked_by_a_killed_registry_is_found_all_the_same() {
    let world = World::new().await;
    for round in 0..50 {
        // The open arrives while the registry is between two lives.
        world.relay.inject("registry", Fault::Kill).await.ok();
        world.opens(1_000 + round).await;
    }
    let mut nobody = world.consumer.open("nobody", 1).await;
    assert_eq!(rejection(&mut nobody).await.0, 404);
    world.neighbour_noticed_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_in_one_agents_connection_leaves_the_registrations_of_all() {
    let mut world = World::new().await;
    world.strike("connection", agent(1).as_str(), Fault::Kill).await;
    world.strike("connections", "", Fault::Kill).await;
    let mut stream = world.consumer.open("svc", 9).await;
    let (incoming, mut asked) = world.provider.incoming().await;
    assert_eq!(incoming.stream_id, 9);
    write_frame(&mut asked.send, &Frame::StreamAccept).await.unwrap();
    asked.send.write_all(b"here").await.unwrap();
    assert_eq!(take(&mut stream.recv, 4).await, b"here");
    assert!(matches!(world.provider.register("more").await, Frame::StreamReady(_)));
    assert!(matches!(world.provider.hear().await, Frame::RegisterAck(_)));
    world.neighbour_noticed_nothing().await;
}
