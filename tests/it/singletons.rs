//! The fixed actors, killed again and again under bulk and opens: nothing but what `actors.md` promises, and no kill by an
//! operator counts as a failure. And one that fails for real, until the root gives up: the process says which, and exits
//! with 1.
//!
//! Five kills each here; a hundred with
//!
//! ```text
//! cargo test --release --test it singletons::a_hundred -- --ignored
//! ```

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use outrelay::admin::client::Client;
use outrelay::admin::protocol::{Request, Struck};
use outrelay::core::frame::Frame;
use outrelay::supervise::fault::{self, Fault};
use outrelay::supervise::node::Status;

use crate::floods::site::Site;
use crate::harness::{ALONE, Peer, SOON, agent, dial, eventually};
use crate::matrix::flow::{End, Load};
use crate::matrix::may_refuse;
use crate::matrix::world::World;

const SINGLETONS: [&str; 11] = [
    "audit",
    "policy",
    "credentials",
    "registry",
    "splices",
    "resume",
    "ingress",
    "connections",
    "quic_listener",
    "admin",
    "http",
];

/// Kills `kind` that often, each time once it runs again and an open has gone through, while two streams move.
async fn killed(world: &World, kind: &'static str, times: u64) {
    let node = world.pick(kind).await;
    let before = node.restarts();
    let (over, opened, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let open = async {
        while !over.load(Ordering::SeqCst) {
            match world.probe().await.end {
                End::Complete => opened.fetch_add(1, Ordering::SeqCst),
                End::Reset => refused.fetch_add(1, Ordering::SeqCst),
                End::Wrong(why) => panic!("{kind}: {why}"),
            };
        }
    };
    let kill = async {
        let mut streams = world.streams(Load::Bulk).await;
        let mut ends = Vec::new();
        for n in 1..=times {
            let already = opened.load(Ordering::SeqCst);
            fault::inject(&node, Fault::Kill).await.unwrap();
            eventually("it runs again", || {
                (node.restarts() == before + n && node.status() == Status::Running).then_some(())
            })
            .await;
            eventually("an open goes through", || (opened.load(Ordering::SeqCst) > already).then_some(())).await;
            ends.extend(streams.refill(world).await);
        }
        world.serves(kind).await;
        ends.extend(streams.finish().await);
        over.store(true, Ordering::SeqCst);
        ends
    };
    let (ends, ()) = tokio::join!(kill, open);
    let failed = ends.iter().filter(|it| it.end == End::Reset).count();
    for ended in &ends {
        assert!(!matches!(ended.end, End::Wrong(_)), "{kind}: {ended:?}");
    }
    assert!(failed == 0, "{kind}: {failed} of {} streams failed", ends.len());
    let refused = refused.into_inner();
    assert!(refused == 0 || may_refuse(kind, Fault::Kill), "{kind}: {refused} opens refused");
    assert_eq!(node.restarts(), before + times, "{kind}");
    assert_eq!(world.relay.root().status(), Status::Running, "{kind}");
    world.is_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_kills_of_each_under_load_cost_what_is_said_and_no_more() {
    let _alone = ALONE.lock().await;
    let world = World::start().await;
    for kind in SINGLETONS {
        killed(&world, kind, 5).await;
    }
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: the command is at the head of this file"]
#[allow(clippy::print_stdout, reason = "a long run says where it is")]
async fn a_hundred_kills_of_each_under_load_cost_what_is_said_and_no_more() {
    let _alone = ALONE.lock().await;
    let world = World::start().await;
    for kind in SINGLETONS {
        let begun = std::time::Instant::now();
        killed(&world, kind, 100).await;
        println!("{kind}: 100 kills in {:.1?}", begun.elapsed());
    }
    world.shutdown().await;
}

/// The failures are real: the process may have no file descriptor more, and `http` needs one to start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_singleton_that_cannot_be_started_again_ends_the_process_with_exit_code_1_and_its_name() {
    let mut site = Site::start(&["admin.fault_injection=true", "drain.successors=[\"r2.example:7443\"]"]).await;
    let uri = agent(1);
    let mut peer = Peer::over(dial(site.relay.addr, site.client(&uri)).await.unwrap(), &uri).await;
    peer.hello(&["goaway"]).await;
    // Connected before the limit: an answer needs no new descriptor.
    let mut admin = Client::connect(&site.relay.admin, SOON).await.unwrap();
    let _answer: outrelay::supervise::report::Report = admin.data(&Request::Tree).await.unwrap();
    // What is open stays open.
    let pid = site.process.pid().to_string();
    let limited = Command::new("prlimit").args(["--pid", &pid, "--nofile=4:"]).status().unwrap();
    assert!(limited.success());

    let struck: Struck = admin.data(&Request::Kill { actor: "http".to_owned() }).await.unwrap();
    assert_eq!(struck.actor, "http");
    let status = site.relay.exited().await;
    assert_eq!(status.code(), Some(1));
    let log = site.relay.log();
    let last = log.lines().rev().find(|line| line.contains("the supervision tree has failed")).unwrap_or_default();
    assert!(last.contains("http failed too often, at last: ") && last.contains("Too many open files"), "{log}");
    // The agents hear of it, and where to go: they need not wait for a timeout.
    let Frame::GoAway(goaway) = peer.hear().await else { panic!("no GOAWAY") };
    assert_eq!(goaway.successors, ["r2.example:7443"]);
    assert_eq!(peer.closed().await.1, "connection ended by the relay");
}
