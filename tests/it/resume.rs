//! Resuming a stream, seen from the wire: halves driven by hand, frame by frame (wire.md §5, §9).

use std::time::{Duration, Instant};

use outrelay::core::frame::Frame;
use outrelay::core::ids::StreamId;
use outrelay::metrics::Limit;
use outrelay::net::framed::{read_frame, write_frame};
use outrelay::net::stream::{BiStream, End};
use outrelay::proto::orp;
use outrelay::relay::Relay;
use outrelay::supervise::fault::Fault;

use crate::harness::{Deployment, OPEN_WORLD, Peer, agent, agent_of, drain, eventually, hits, pair, soon, take};

const OURS: &[&str] = &["resume-code", "fin-state", "resume-call", "resume-echo"];
const RESUMABLE: End = End::Reset(outrelay::core::reject::ResetCode::RESUMABLE);
const NOT_RESUMABLE: End = End::Reset(outrelay::core::reject::ResetCode::NOT_RESUMABLE);
const DENIED: End = End::Reset(outrelay::core::reject::ResetCode::DENIED);

fn resume_frame(id: u64, my_position: u64, peer_ack_position: u64) -> orp::StreamResume {
    orp::StreamResume { stream_id: id, my_position, peer_ack_position, ..Default::default() }
}

/// A half of stream `id`: a fresh stream that begins with STREAM_RESUME.
async fn half(peer: &Peer, id: u64, my_position: u64, peer_ack_position: u64) -> BiStream {
    half_with(peer, resume_frame(id, my_position, peer_ack_position)).await
}

async fn half_with(peer: &Peer, frame: orp::StreamResume) -> BiStream {
    let mut stream = peer.fresh().await;
    write_frame(&mut stream.send, &Frame::StreamResume(frame)).await.unwrap();
    stream
}

async fn echo(half: &mut BiStream) -> orp::StreamResume {
    match soon("the echo", read_frame(&mut half.recv, 1 << 16)).await {
        Ok(Frame::StreamResume(echo)) => echo,
        other => panic!("not an echo: {other:?}"),
    }
}

async fn echoes(one: &mut BiStream, other: &mut BiStream) {
    echo(one).await;
    echo(other).await;
}

/// Both halves have their echo, and bytes flow both ways behind it.
async fn flows(one: &mut BiStream, other: &mut BiStream) {
    one.send.write_all(b"up again").await.unwrap();
    assert_eq!(take(&mut other.recv, 8).await, b"up again");
    other.send.write_all(b"down again").await.unwrap();
    assert_eq!(take(&mut one.recv, 10).await, b"down again");
}

struct Two {
    deployment: Deployment,
    relay: Relay,
    provider: Peer,
    consumer: Peer,
}

impl Two {
    async fn new(capabilities: &[&str]) -> Self {
        Self::with(capabilities, OPEN_WORLD, |_| {}).await
    }

    async fn with(
        capabilities: &[&str],
        rules: &str,
        set: impl FnOnce(&mut outrelay::config::relay::RelayConfig),
    ) -> Self {
        let deployment = Deployment::new();
        let mut config = deployment.relay_config("r1", rules);
        set(&mut config);
        let relay = Relay::start(config).await.unwrap();
        let mut provider = deployment.peer(&relay, 1, capabilities).await;
        provider.register("svc").await;
        let consumer = deployment.peer(&relay, 2, capabilities).await;
        Self { deployment, relay, provider, consumer }
    }

    /// A stream with 5 bytes sent up and 3 down, whose splice is then killed.
    async fn cut_stream(&self, id: u64) {
        let (mut up, mut down) = pair(&self.consumer, &self.provider, id).await;
        up.send.write_all(b"12345").await.unwrap();
        take(&mut down.recv, 5).await;
        down.send.write_all(b"123").await.unwrap();
        take(&mut up.recv, 3).await;
        self.kill(&format!("splice:{id}")).await;
        drain(&mut up.recv).await;
        drain(&mut down.recv).await;
    }

    async fn kill(&self, selector: &str) {
        self.relay.inject(selector, Fault::Kill).await.unwrap();
    }

    async fn parked(&self, streams: usize) {
        eventually("halves wait", || (self.relay.vault().parking.len() == streams).then_some(())).await;
    }

    /// Everything of resuming is over: nothing waits, no entry is left.
    async fn nothing_is_left(&self) {
        self.parked(0).await;
        eventually("no entry", || (!self.relay.tree().walk().any(|a| a.kind == "entry")).then_some(())).await;
    }
}

#[tokio::test]
async fn a_killed_splice_is_resumable_and_two_halves_in_either_order_go_on_with_each_others_numbers() {
    let two = Two::new(OURS).await;
    for (id, provider_first) in [(1, false), (2, true)] {
        let (mut up, mut down) = pair(&two.consumer, &two.provider, id).await;
        up.send.write_all(b"12345").await.unwrap();
        take(&mut down.recv, 5).await;
        two.kill(&format!("splice:{id}")).await;
        assert_eq!((drain(&mut up.recv).await.1, drain(&mut down.recv).await.1), (RESUMABLE, RESUMABLE));

        let (first, second) =
            if provider_first { (&two.provider, &two.consumer) } else { (&two.consumer, &two.provider) };
        let of = |peer: &Peer| if std::ptr::eq(peer, &two.consumer) { (5, 0) } else { (0, 5) };
        let mut one = half(first, id, of(first).0, of(first).1).await;
        two.parked(1).await;
        let mut other = half(second, id, of(second).0, of(second).1).await;
        assert_eq!(echo(&mut one).await, resume_frame(id, of(second).0, of(second).1));
        assert_eq!(echo(&mut other).await, resume_frame(id, of(first).0, of(first).1));
        flows(&mut one, &mut other).await;
        one.send.finish();
        assert_eq!(drain(&mut other.recv).await, (Vec::new(), End::Fin));
        other.send.finish();
        assert_eq!(drain(&mut one.recv).await.1, End::Fin);
        two.nothing_is_left().await;
    }
}

#[tokio::test]
async fn the_partner_is_called_while_a_half_waits_and_its_refusal_ends_it() {
    let mut two = Two::new(OURS).await;
    two.cut_stream(7).await;
    assert!(matches!(two.provider.hear().await, Frame::StreamReady(_)));
    let mut waits = half(&two.consumer, 7, 5, 3).await;
    for call in ["at once", "and again"] {
        let Frame::ResumeWanted(wanted) = two.provider.hear().await else { panic!("not called {call}") };
        assert_eq!(wanted.stream_id, 7);
    }
    // Another agent's word counts for nothing.
    let gone = Frame::StreamReject(orp::StreamReject { code: 410, reason: "gone".into(), stream_id: 7 });
    let mut third = two.deployment.peer(&two.relay, 3, OURS).await;
    third.say(&gone).await;
    third.say(&Frame::Ping).await;
    assert_eq!(third.hear().await, Frame::Pong);
    two.parked(1).await;
    two.provider.say(&gone).await;
    assert_eq!(drain(&mut waits.recv).await.1, NOT_RESUMABLE);
    two.nothing_is_left().await;
}

#[tokio::test]
async fn a_valid_half_ends_the_splice_that_lives_and_the_partner_comes_too() {
    let two = Two::new(OURS).await;
    let (mut up, mut down) = pair(&two.consumer, &two.provider, 7).await;
    up.send.write_all(b"12345").await.unwrap();
    take(&mut down.recv, 5).await;
    let mut one = half(&two.consumer, 7, 5, 0).await;
    assert_eq!(drain(&mut down.recv).await.1, RESUMABLE);
    let mut other = half(&two.provider, 7, 0, 5).await;
    echoes(&mut one, &mut other).await;
    flows(&mut one, &mut other).await;
}

#[tokio::test]
async fn who_is_no_party_is_refused_and_disturbs_nothing() {
    let two = Two::new(OURS).await;
    let third = two.deployment.peer(&two.relay, 3, OURS).await;
    let foreign = two.deployment.peer_as(&two.relay, &agent_of("beta", 1), OURS).await;
    let (mut up, mut down) = pair(&two.consumer, &two.provider, 7).await;
    assert_eq!(drain(&mut half(&third, 7, 0, 0).await.recv).await.1, DENIED);
    // In another tenant the same number is another stream, of which nothing is known.
    let foreign_half = half(&foreign, 7, 0, 0).await;
    two.parked(1).await;
    up.send.write_all(b"on").await.unwrap();
    assert_eq!(take(&mut down.recv, 2).await, b"on", "the stream has not noticed");

    two.kill("splice:7").await;
    let mut one = half(&two.consumer, 7, 2, 0).await;
    assert_eq!(drain(&mut half(&third, 7, 0, 0).await.recv).await.1, DENIED);
    let mut other = half(&two.provider, 7, 0, 2).await;
    echoes(&mut one, &mut other).await;
    flows(&mut one, &mut other).await;
    drop(foreign_half);
    two.nothing_is_left().await;
    let audit = two.deployment.dir.path().join("r1-audit.jsonl");
    let refused = || std::fs::read_to_string(&audit).unwrap().matches("between other agents").count();
    eventually("both refusals are audited", || (refused() == 2).then_some(())).await;
}

#[tokio::test]
async fn the_same_agents_newer_half_takes_the_place_of_its_older_one() {
    let two = Two::new(OURS).await;
    two.cut_stream(7).await;
    let mut older = half(&two.consumer, 7, 5, 3).await;
    two.parked(1).await;
    let mut newer = half(&two.consumer, 7, 5, 3).await;
    assert_eq!(drain(&mut older.recv).await.1, RESUMABLE);
    let mut other = half(&two.provider, 7, 3, 5).await;
    echoes(&mut newer, &mut other).await;
    flows(&mut newer, &mut other).await;
}

#[tokio::test]
async fn numbers_that_cannot_be_those_of_one_stream_are_refused() {
    let two = Two::new(OURS).await;
    two.cut_stream(7).await;
    let mut one = half(&two.consumer, 7, 5, 3).await;
    let mut other = half(&two.provider, 7, 3, 6).await;
    assert_eq!((drain(&mut one.recv).await.1, drain(&mut other.recv).await.1), (RESUMABLE, RESUMABLE));
    two.nothing_is_left().await;
}

#[tokio::test]
async fn past_the_window_a_half_is_told_no_in_the_way_that_it_understands() {
    for (capabilities, end) in [(OURS, NOT_RESUMABLE), (&[][..], End::Fin)] {
        let two = Two::with(capabilities, OPEN_WORLD, |config| config.resume.window = Duration::from_millis(300)).await;
        two.cut_stream(7).await;
        let since = Instant::now();
        let mut late = half(&two.consumer, 7, 5, 3).await;
        assert_eq!(drain(&mut late.recv).await, (Vec::new(), end));
        assert!(since.elapsed() >= Duration::from_millis(300));
        two.nothing_is_left().await;
        // Then there is nobody to be joined to.
        let _alone = half(&two.provider, 7, 3, 5).await;
        two.parked(1).await;
    }
}

#[tokio::test]
async fn a_legacy_demotion_that_is_refused_is_reset_and_not_ended() {
    let two = Two::with(&[], OPEN_WORLD, |config| config.resume.window = Duration::from_millis(100)).await;
    two.cut_stream(7).await;
    let mut half = two.consumer.fresh().await;
    let demotion = orp::MigrateToRelay { stream_id: 7, my_position: 5, peer_ack_position: 3, ..Default::default() };
    write_frame(&mut half.send, &Frame::MigrateToRelay(demotion)).await.unwrap();
    // It waits for no echo: a FIN would be its end of stream.
    assert_eq!(drain(&mut half.recv).await.1, End::Reset(Default::default()));
}

#[tokio::test]
async fn a_half_whose_agent_goes_away_waits_no_longer() {
    let two = Two::new(OURS).await;
    two.cut_stream(7).await;
    let gives_up = half(&two.consumer, 7, 5, 3).await;
    two.parked(1).await;
    drop(gives_up);
    two.nothing_is_left().await;
    let _half = half(&two.consumer, 7, 5, 3).await;
    two.parked(1).await;
    two.consumer.quic.close(0_u32.into(), b"");
    two.nothing_is_left().await;
}

#[tokio::test]
async fn a_killed_entry_and_its_killed_supervisor_reset_their_halves_and_the_next_ones_go_on() {
    let two = Two::new(OURS).await;
    two.cut_stream(7).await;
    for selector in ["entry:7", "resume"] {
        let mut waits = half(&two.consumer, 7, 5, 3).await;
        eventually("an entry", || two.relay.tree().walk().any(|a| a.kind == "entry").then_some(())).await;
        two.kill(selector).await;
        assert_eq!(drain(&mut waits.recv).await.1, RESUMABLE, "{selector}");
        two.parked(0).await;
    }
    let mut one = half(&two.consumer, 7, 5, 3).await;
    let mut other = half(&two.provider, 7, 3, 5).await;
    echoes(&mut one, &mut other).await;
    flows(&mut one, &mut other).await;
}

#[tokio::test]
async fn a_relay_that_never_saw_the_stream_joins_agents_between_whom_a_rule_allows_one() {
    let two = Two::new(OURS).await;
    let mut one = half(&two.consumer, 99, 5, 3).await;
    let mut other = half(&two.provider, 99, 3, 5).await;
    echoes(&mut one, &mut other).await;
    flows(&mut one, &mut other).await;
    let known = two.relay.vault().streams.known(agent(1).tenant(), StreamId(99)).unwrap();
    assert_eq!(known.facts.unwrap().p2p_mode, outrelay::core::policy::P2pMode::Forbidden);
    let audit = two.deployment.dir.path().join("r1-audit.jsonl");
    let told = || std::fs::read_to_string(&audit).unwrap().contains("never saw it");
    eventually("it is audited", || told().then_some(())).await;
}

#[tokio::test]
async fn without_a_rule_or_leave_a_stream_that_the_relay_never_saw_stays_unjoined() {
    let closed = Two::with(OURS, "", |_| {}).await;
    let off = Two::with(OURS, OPEN_WORLD, |config| config.resume.allow_unproven = false).await;
    for two in [closed, off] {
        let _first = half(&two.consumer, 99, 5, 3).await;
        two.parked(1).await;
        assert_eq!(drain(&mut half(&two.provider, 99, 3, 5).await.recv).await.1, DENIED);
        two.parked(1).await;
    }
}

#[tokio::test]
async fn checkpoints_reach_the_other_agent_and_nothing_of_an_extension_one_that_did_not_name_it() {
    let mut two = Two::new(&["resume-code"]).await;
    let mut modern = two.deployment.peer(&two.relay, 3, OURS).await;
    let mut third = two.deployment.peer(&two.relay, 4, OURS).await;
    let (mut up, mut down) = tokio::join!(modern.open("svc", 7), two.provider.accept());
    up.send.write_all(b"x").await.unwrap();
    take(&mut down.recv, 1).await;
    for peer in [&mut modern, &mut two.provider] {
        assert!(matches!(peer.hear().await, Frame::StreamReady(_)));
    }
    let checkpoint = |fin_sent| {
        Frame::StreamCheckpoint(orp::StreamCheckpoint {
            stream_id: 7,
            my_position: 1,
            peer_ack_position: 0,
            fin_sent,
            fin_consumed: fin_sent,
        })
    };
    // Who is no party is not heard.
    third.say(&checkpoint(true)).await;
    third.say(&Frame::Ping).await;
    assert_eq!(third.hear().await, Frame::Pong);
    modern.say(&checkpoint(true)).await;
    assert_eq!(two.provider.hear().await, checkpoint(false), "it did not name fin-state");
    two.provider.say(&checkpoint(true)).await;
    assert_eq!(modern.hear().await, checkpoint(true));

    // Also when the stream has come to its end, so that each knows that the other has it.
    up.send.finish();
    assert_eq!(drain(&mut down.recv).await.1, End::Fin);
    down.send.finish();
    assert_eq!(drain(&mut up.recv).await.1, End::Fin);
    eventually("it has ended", || two.relay.vault().streams.is_empty().then_some(())).await;
    two.provider.say(&checkpoint(false)).await;
    assert_eq!(modern.hear().await, checkpoint(false));

    // On a resumed stream too.
    let mut one = half_with(&modern, orp::StreamResume { fin_sent: true, ..resume_frame(7, 1, 0) }).await;
    let mut other = half(&two.provider, 7, 0, 1).await;
    echo(&mut one).await;
    assert_eq!(echo(&mut other).await, resume_frame(7, 1, 0), "nor in an echo");
    modern.say(&checkpoint(false)).await;
    assert_eq!(two.provider.hear().await, checkpoint(false), "and no RESUME_WANTED, which it did not name");
}

#[tokio::test]
async fn a_demotion_is_matched_like_a_resume_and_echoed_to_who_named_it_only() {
    let two = Two::new(OURS).await;
    let legacy = two.deployment.peer(&two.relay, 3, &[]).await;
    let (mut up, mut down) = tokio::join!(legacy.open("svc", 7), two.provider.accept());
    up.send.write_all(b"12345").await.unwrap();
    take(&mut down.recv, 5).await;
    two.kill("splice:7").await;
    let demotion = |my_position, peer_ack_position| {
        Frame::MigrateToRelay(orp::MigrateToRelay {
            stream_id: 7,
            my_position,
            peer_ack_position,
            reason: "peer_close".into(),
            ..Default::default()
        })
    };
    let (mut one, mut other) = (legacy.fresh().await, two.provider.fresh().await);
    write_frame(&mut one.send, &demotion(5, 0)).await.unwrap();
    write_frame(&mut other.send, &demotion(0, 5)).await.unwrap();
    assert_eq!(echo(&mut other).await, resume_frame(7, 5, 0));
    flows(&mut one, &mut other).await;
}

#[tokio::test]
async fn a_thousand_streams_that_are_cut_at_once_all_go_on() {
    const STREAMS: u64 = 1_000;
    let two = Two::new(OURS).await;
    two.provider.quic.set_max_concurrent_bi_streams(2_000_u32.into());
    let mut streams = Vec::new();
    for id in 1..=STREAMS {
        streams.push(pair(&two.consumer, &two.provider, id).await);
    }
    let spliced = || two.relay.vault().traffic.streams() as u64 == STREAMS;
    eventually("all are spliced", || spliced().then_some(())).await;
    two.kill("splices").await;
    eventually("all are cut", || two.relay.vault().streams.is_empty().then_some(())).await;
    drop(streams);
    let halves = |peer: &Peer| {
        let quic = peer.quic.clone();
        async move {
            let mut halves = Vec::new();
            for id in 1..=STREAMS {
                let (send, recv) = soon("stream credit", quic.open_bi()).await.unwrap();
                let mut stream = BiStream::from_quic(&quic, send, recv, Default::default());
                write_frame(&mut stream.send, &Frame::StreamResume(resume_frame(id, 0, 0))).await.unwrap();
                halves.push(stream);
            }
            halves
        }
    };
    let (ones, others) = tokio::join!(halves(&two.consumer), halves(&two.provider));
    for (mut one, mut other) in ones.into_iter().zip(others) {
        echoes(&mut one, &mut other).await;
        flows(&mut one, &mut other).await;
    }
    two.nothing_is_left().await;
}

#[tokio::test]
async fn halves_beyond_the_limit_are_reset() {
    let two = Two::with(OURS, OPEN_WORLD, |config| config.limits.parked_per_agent = 1).await;
    let _first = half(&two.consumer, 1, 0, 0).await;
    two.parked(1).await;
    // Not for good: the agent sends another.
    assert_eq!(drain(&mut half(&two.consumer, 2, 0, 0).await.recv).await.1, RESUMABLE);
    assert_eq!(hits(&two.relay, Limit::ParkedPerAgent), 1);
    let _other = half(&two.provider, 3, 0, 0).await;
    two.parked(2).await;
}
