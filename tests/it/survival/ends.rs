//! How streams end around a cut: a FIN just before it, during it and after it, by either side and both; and where nothing more
//! than a reset can be promised.

use outrelay::core::frame::Frame;
use outrelay::core::reject::ResetCode;
use outrelay::net::framed::write_frame;
use outrelay::net::stream::{End, WriteEnd};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::forwarder::Wire;
use super::raw::{Raw, Side};
use super::{NO_REASON, Wired, resumed};
use crate::harness::{Deployment, Peer, drain, eventually, pair, soon, take};
use crate::matrix::ends::{CONSUMER, PROVIDER};
use crate::matrix::flow::is_reset;
use crate::matrix::world::World;

/// What each side says before its end: more than is under way at once, so that the cut is somewhere in it.
const BYTES: u64 = 200_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Consumer,
    Provider,
    Both,
}

/// When a FIN is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// So long before the cut that the other side has it.
    HeardBefore,
    /// At the cut, with all that goes before it still under way.
    JustBefore,
    /// While there is no path.
    During,
    /// When the stream has gone on.
    After,
}

/// What the other direction does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Other {
    Flows,
    IsSilent,
}

#[derive(Debug)]
struct Case {
    who: Who,
    when: When,
    other: Other,
    raw: Raw,
    /// Whoever finishes has said all.
    finished: bool,
}

impl Case {
    fn sides(&mut self) -> Vec<(&mut Side, &mut Side)> {
        let Raw { client, served, .. } = &mut self.raw;
        match self.who {
            Who::Consumer => vec![(client, served)],
            Who::Provider => vec![(served, client)],
            // What one hears of the other is looked at when both have spoken.
            Who::Both => vec![(client, served)],
        }
    }

    async fn finish(&mut self) {
        for (says, _) in self.sides() {
            says.say(BYTES).await;
            says.finish().await;
        }
        if self.who == Who::Both {
            self.raw.served.say(BYTES).await;
            self.raw.served.finish().await;
        }
        self.finished = true;
    }

    async fn at(&mut self, when: When) {
        if self.when == when {
            self.finish().await;
        }
        if when == When::HeardBefore && self.when == when {
            for (_, hears) in self.sides() {
                hears.hears_the_end().await;
            }
        }
        if self.other == Other::Flows && self.who != Who::Both {
            for (_, other) in self.sides() {
                other.say(BYTES / 4).await;
            }
        }
    }

    /// Every byte and the end, where it was said; then the direction that is left, and its end.
    async fn complete(mut self) {
        assert!(self.finished);
        let heard_before = self.when == When::HeardBefore;
        let Raw { client, served, .. } = &mut self.raw;
        let (says, hears) = if self.who == Who::Provider { (served, client) } else { (client, served) };
        if !heard_before {
            hears.hears_the_end().await;
        }
        if self.who != Who::Both {
            hears.say(BYTES).await;
            hears.finish().await;
        }
        says.hears_the_end().await;
    }
}

async fn cases(world: &World) -> Vec<Case> {
    let mut cases = Vec::new();
    for when in [When::HeardBefore, When::JustBefore, When::During, When::After] {
        for who in [Who::Consumer, Who::Provider, Who::Both] {
            for other in [Other::Flows, Other::IsSilent] {
                cases.push(Case { who, when, other, raw: world.raw().await, finished: false });
            }
        }
    }
    cases
}

/// How all streams lose their paths at once, with one agent held back so that they have none for a while.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Splices,
    Connections,
}

async fn ends_around(cut: Cut) {
    let wired = Wired::start().await;
    let world = &wired.world;
    let mut cases = cases(world).await;
    for when in [When::HeardBefore, When::JustBefore] {
        for case in &mut cases {
            case.at(when).await;
        }
    }
    match cut {
        Cut::Splices => {
            wired.provider.set(Wire::Holds);
            world.kill("splices").await;
        }
        Cut::Connections => {
            world.close(CONSUMER, NO_REASON);
            world.close(PROVIDER, NO_REASON);
            wired.provider.set(Wire::Holds);
        }
    }
    for case in &mut cases {
        case.at(When::During).await;
    }
    wired.provider.set(Wire::Passes);
    // Those that had both their ends before the cut need not go on.
    let go_on = cases.iter().filter(|case| case.who != Who::Both || case.when == When::After).count() as u64;
    for n in [CONSUMER, PROVIDER] {
        eventually("the streams go on", || (resumed(world.agent(n)) >= go_on).then_some(())).await;
    }
    for case in &mut cases {
        case.at(When::After).await;
    }
    for case in cases {
        let what = format!("{:?} {:?}, other {:?}", case.who, case.when, case.other);
        let completed = tokio::spawn(case.complete()).await;
        assert!(completed.is_ok(), "{cut:?}: {what}");
    }
    world.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_before_during_and_after_a_cut_of_the_splices_is_heard_where_it_was_said() {
    ends_around(Cut::Splices).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_before_during_and_after_a_cut_of_both_connections_is_heard_where_it_was_said() {
    ends_around(Cut::Connections).await;
}

#[tokio::test]
async fn an_agent_that_leaves_its_path_for_another_one_does_not_look_like_an_application_that_cuts() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let legacy = [&["resume-code"][..], &[]];
    for (capabilities, code) in legacy.into_iter().zip([ResetCode::RESUMABLE, ResetCode::UNSPECIFIED]) {
        let mut provider = deployment.peer(&relay, 1, &["resume-code"]).await;
        provider.register("svc").await;
        let consumer = deployment.peer(&relay, 2, capabilities).await;
        let (mut up, mut down) = pair(&consumer, &provider, 7).await;
        up.send.write_all(b"x").await.unwrap();
        take(&mut down.recv, 1).await;
        down.send.reset(ResetCode::RESUMABLE);
        down.recv.stop(ResetCode::RESUMABLE);
        assert_eq!(drain(&mut up.recv).await, (Vec::new(), End::Reset(code)));
        assert_eq!(soon("it is stopped", up.send.stopped()).await, WriteEnd::Stopped(code));
        provider.quic.close(NO_REASON.into(), b"");
    }
}

/// What a local socket hears of a stream that nobody can resume: what had come, and a reset.
pub async fn local_reset(mut socket: TcpStream) {
    let mut rest = Vec::new();
    let error = soon("the local socket ends", socket.read_to_end(&mut rest)).await.unwrap_err();
    assert!(is_reset(&error), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_legacy_agent_at_one_end_a_killed_splice_is_a_reset_to_both_and_never_an_end() {
    let world = World::start().await;
    let code_0 = End::Reset(ResetCode::UNSPECIFIED);

    let legacy: Peer = world.deployment.peer(&world.relay, 9, &[]).await;
    let mut stream = legacy.open("raw", 7).await;
    let (served, _) = soon("the service is called", world.ends.raw.accept()).await.unwrap();
    stream.send.write_all(b"12345").await.unwrap();
    let mut served = served;
    served.read_exact(&mut [0; 5]).await.unwrap();
    world.kill("splice").await;
    assert_eq!(drain(&mut stream.recv).await.1, code_0);
    local_reset(served).await;

    let mut legacy = world.deployment.peer(&world.relay, 9, &[]).await;
    legacy.register("slow").await;
    let client = TcpStream::connect(world.ends.consumer.local_addr("slow").unwrap()).await.unwrap();
    let (_, mut stream) = legacy.incoming().await;
    write_frame(&mut stream.send, &Frame::StreamAccept).await.unwrap();
    client.try_write(b"12345").unwrap();
    assert_eq!(take(&mut stream.recv, 5).await, b"12345");
    world.kill("splice").await;
    assert_eq!(drain(&mut stream.recv).await.1, code_0);
    local_reset(client).await;
    world.nothing_is_left().await;
    world.shutdown().await;
}
