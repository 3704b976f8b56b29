//! Agents of version 0.1 at a relay that drains (wire.md §9, §10): they are told nothing that they would not understand, keep their
//! streams to the deadline, and hear then what version 1 knows.

use std::time::{Duration, Instant};

use outrelay::core::frame::Frame;
use outrelay::core::reject::ResetCode;
use outrelay::net::framed::write_frame;
use outrelay::net::stream::{BiStream, End};
use outrelay::proto::orp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Fleet, successors};
use crate::crowd::{Crowd, Shapes};
use crate::harness::{ALONE, Deployment, Peer, agent, dial, drain, eventually, pair, rejection, soon, take};
use crate::matrix::ends::{Ends, link};
use crate::program::Program;
use crate::survival::ends::local_reset;

/// What is done before takes far less.
const DEADLINE: Duration = Duration::from_secs(5);

async fn fleet() -> Fleet {
    let settings = |nth: usize, addrs: &[_]| match nth {
        0 => vec![successors(&addrs[1..]), format!("drain.deadline={DEADLINE:?}")],
        _ => Vec::new(),
    };
    Fleet::start(2, settings).await
}

/// An agent that names nothing.
pub(super) async fn legacy(deployment: &Deployment, relay: &Program, n: u8) -> Peer {
    let uri = agent(n);
    let client = deployment.client(&deployment.ca.agent(&uri).unwrap());
    let mut peer = Peer::over(dial(relay.addr, client).await.unwrap(), &uri).await;
    peer.hello(&[]).await;
    assert!(peer.features.is_empty());
    peer
}

/// The relay has closed the connection with a code and a reason. On the control stream it has said that these streams are ready,
/// and has passed checkpoints on: nothing that version 1 does not know.
async fn was_told_of(mut peer: Peer, streams: &[u64]) {
    assert_eq!(peer.closed().await, (0, "connection ended by the relay".to_owned()));
    let mut ready = Vec::new();
    while let Ok(frame) = peer.try_hear().await {
        match frame {
            Frame::StreamCheckpoint(it) if !it.fin_sent && !it.fin_consumed => {}
            Frame::StreamReady(it) => ready.push(it),
            other => panic!("version 1 does not know {other:?}"),
        }
    }
    // Each comes from a splice of its own.
    ready.sort_by_key(|it| it.stream_id);
    let mut expected: Vec<_> =
        streams.iter().map(|id| orp::StreamReady { stream_id: *id, ..Default::default() }).collect();
    expected.sort_by_key(|it| it.stream_id);
    assert_eq!(ready, expected);
}

pub(super) async fn begins_to_drain(relay: &Program) {
    relay.terminate();
    eventually("it drains", || relay.log().contains("draining").then_some(())).await;
}

async fn exits(relay: &mut Program) {
    assert_eq!(relay.exited().await.code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn legacy_agents_keep_their_streams_to_the_deadline_and_are_told_nothing_that_version_1_does_not_know() {
    let _alone = ALONE.lock().await;
    let Fleet { mut relays, deployment } = fleet().await;
    let mut provider = legacy(&deployment, &relays[0], 1).await;
    assert!(matches!(provider.register("svc").await, Frame::RegisterAck(_)));
    let consumer = legacy(&deployment, &relays[0], 2).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;
    let (mut ending_up, mut ending_down) = pair(&consumer, &provider, 2).await;

    let began = Instant::now();
    begins_to_drain(&relays[0]).await;
    let (code, reason) = rejection(&mut consumer.open("svc", 3).await).await;
    assert_eq!((code, reason.contains("draining")), (502, true), "{reason}");
    for (up, down) in [(&mut up, &mut down), (&mut ending_up, &mut ending_down)] {
        up.send.write_all(b"question").await.unwrap();
        assert_eq!(take(&mut down.recv, 8).await, b"question");
        down.send.write_all(b"answer").await.unwrap();
        assert_eq!(take(&mut up.recv, 6).await, b"answer");
    }
    ending_up.send.finish();
    assert_eq!(drain(&mut ending_down.recv).await, (Vec::new(), End::Fin));
    ending_down.send.write_all(b"last words").await.unwrap();
    ending_down.send.finish();
    assert_eq!(drain(&mut ending_up.recv).await, (b"last words".to_vec(), End::Fin));

    for end in [drain(&mut up.recv).await, drain(&mut down.recv).await] {
        assert_eq!(end, (Vec::new(), End::Reset(ResetCode::UNSPECIFIED)));
    }
    assert!(began.elapsed() >= DEADLINE, "they had their time");
    was_told_of(consumer, &[1, 2]).await;
    was_told_of(provider, &[1, 2]).await;
    exits(&mut relays[0]).await;
}

/// A stream between a legacy agent and one of ours.
struct Shared {
    id: u64,
    legacy: BiStream,
    local: TcpStream,
}

impl Shared {
    /// The legacy agent is the consumer.
    async fn consumed(ends: &Ends, consumer: &Peer, id: u64) -> Self {
        let legacy = consumer.open("raw", id).await;
        let (local, _) = soon("the service is called", ends.raw.accept()).await.unwrap();
        Self { id, legacy, local }
    }

    /// The legacy agent is the provider.
    async fn provided(ends: &Ends, provider: &Peer) -> Self {
        let local = TcpStream::connect(ends.consumer.local_addr("slow").unwrap()).await.unwrap();
        let (incoming, mut legacy) = provider.incoming().await;
        write_frame(&mut legacy.send, &Frame::StreamAccept).await.unwrap();
        Self { id: incoming.stream_id, legacy, local }
    }

    async fn flows(&mut self) {
        self.legacy.send.write_all(b"question").await.unwrap();
        self.hears(b"question").await;
        self.local.write_all(b"answer").await.unwrap();
        assert_eq!(take(&mut self.legacy.recv, 6).await, b"answer");
    }

    /// At our end.
    async fn hears(&mut self, bytes: &[u8]) {
        let mut heard = vec![0; bytes.len()];
        soon("bytes", self.local.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, bytes);
    }

    async fn ends_in_order(mut self) {
        self.legacy.send.finish();
        assert_eq!(soon("the end", self.local.read(&mut [0])).await.unwrap(), 0);
        self.local.write_all(b"last words").await.unwrap();
        self.local.shutdown().await.unwrap();
        assert_eq!(drain(&mut self.legacy.recv).await, (b"last words".to_vec(), End::Fin));
    }

    /// To both ends, and never as if it were complete.
    async fn ends_cut(mut self) {
        assert_eq!(drain(&mut self.legacy.recv).await, (Vec::new(), End::Reset(ResetCode::UNSPECIFIED)));
        local_reset(self.local).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_agents_leave_with_what_is_theirs_and_stay_to_the_deadline_for_what_they_share_with_legacy_ones() {
    let _alone = ALONE.lock().await;
    let mut fleet = fleet().await;
    let ends = fleet.ends(&fleet.addrs()[..2]).await;
    let mut crowd = Crowd::open(&ends, Shapes { bulk: 2, chats: 4, idle: 2, half_closed: 2 }).await;
    let consumer = legacy(&fleet.deployment, &fleet.relays[0], 8).await;
    let mut provider = legacy(&fleet.deployment, &fleet.relays[0], 9).await;
    assert!(matches!(provider.register("slow").await, Frame::RegisterAck(_)));
    let [mut up, ending_up] =
        [Shared::consumed(&ends, &consumer, 1).await, Shared::consumed(&ends, &consumer, 2).await];
    let [mut down, ending_down] = [Shared::provided(&ends, &provider).await, Shared::provided(&ends, &provider).await];
    let provided = [down.id, ending_down.id];

    let began = Instant::now();
    begins_to_drain(&fleet.relays[0]).await;
    // Each is at the second relay with what it has with the other, and at the first with two streams that cannot come.
    let second = fleet.relays[1].addr.to_string();
    for agent in [&ends.consumer, &ends.provider] {
        eventually("it has moved all but two", || {
            let link = link(agent);
            let left = &link["leaving"][0];
            let has_moved = link["address"] == second.as_str() && left["paths"] == 2;
            has_moved.then(|| assert_eq!(left["goaway"]["reason"], "the relay is draining"))
        })
        .await;
    }
    crowd.moves_since(Instant::now()).await;
    for shared in [&mut up, &mut down] {
        shared.flows().await;
    }
    ending_up.ends_in_order().await;
    ending_down.ends_in_order().await;

    up.ends_cut().await;
    down.ends_cut().await;
    assert!(began.elapsed() >= DEADLINE, "they had their time");
    was_told_of(consumer, &[1, 2]).await;
    was_told_of(provider, &provided).await;
    exits(&mut fleet.relays[0]).await;
    crowd.moves_since(Instant::now()).await;
    crowd.complete().await;
    assert_eq!(fleet.in_use(&ends).await, 1);
    ends.shutdown().await;
}
