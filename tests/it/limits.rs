//! Every limit is a refusal with a code and a metric, and what is below it goes on.

use outrelay::config::relay::Limits;
use outrelay::core::reject::ResetCode;
use outrelay::metrics::Limit;
use outrelay::net::stream::End;
use outrelay::relay::Relay;

use crate::harness::{
    Deployment, OPEN_WORLD, Peer, agent, audited, drain, eventually, handshakes, hits, pair, rejection, take,
};

async fn relay_with(deployment: &Deployment, set: impl Fn(&mut Limits)) -> Relay {
    let mut config = deployment.relay_config("r1", OPEN_WORLD);
    set(&mut config.limits);
    Relay::start(config).await.unwrap()
}

#[tokio::test]
async fn one_stream_more_than_the_relay_carries_is_429_and_a_place_is_free_when_one_ends() {
    let deployment = Deployment::new();
    let relay = relay_with(&deployment, |limits| limits.streams = 1).await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;
    up.send.write_all(b"x").await.unwrap();
    take(&mut down.recv, 1).await;
    assert_eq!(rejection(&mut consumer.open("svc", 2).await).await.0, 429);
    assert_eq!(hits(&relay, Limit::Streams), 1);
    drop((up, down));
    eventually("it has ended", || (relay.vault().traffic.streams() == 0).then_some(())).await;
    let (mut up, mut down) = pair(&consumer, &provider, 3).await;
    up.send.write_all(b"x").await.unwrap();
    take(&mut down.recv, 1).await;
}

#[tokio::test]
async fn one_stream_more_than_an_agent_may_have_is_reset_with_limit() {
    let deployment = Deployment::new();
    let relay = relay_with(&deployment, |limits| limits.streams_per_agent = 2).await;
    let consumer = deployment.peer(&relay, 2, &["resume-code"]).await;
    // Opens that wait for their first frame count too.
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut stream = consumer.fresh().await;
        stream.send.write_all(&[0x20]).await.unwrap();
        waiting.push(stream);
    }
    eventually("two opens wait", || {
        (relay.tree().walk().filter(|actor| actor.kind == "handshake").count() == 2).then_some(())
    })
    .await;
    let mut third = consumer.open("svc", 3).await;
    assert_eq!(drain(&mut third.recv).await.1, End::Reset(ResetCode::LIMIT));
    assert_eq!(hits(&relay, Limit::StreamsPerAgent), 1);
}

#[tokio::test]
async fn a_provider_that_has_as_many_streams_as_it_may_is_not_asked_for_one_more() {
    let deployment = Deployment::new();
    let relay = relay_with(&deployment, |limits| limits.streams_per_agent = 1).await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let other = deployment.peer(&relay, 3, &[]).await;
    let held = pair(&consumer, &provider, 1).await;
    let (code, reason) = rejection(&mut other.open("svc", 2).await).await;
    assert_eq!((code, reason.contains("as many streams as it may")), (502, true), "{reason}");
    assert_eq!(hits(&relay, Limit::StreamsPerAgent), 1);
    drop(held);
    eventually("it has ended", || (relay.vault().traffic.streams() == 0).then_some(())).await;
    let _next = pair(&other, &provider, 3).await;
}

#[tokio::test]
async fn where_many_are_half_open_an_address_must_prove_itself_and_beyond_the_limit_it_is_refused() {
    let deployment = Deployment::new();
    let relay = relay_with(&deployment, |limits| limits.half_open_handshakes = 2).await;
    let counts = || ["retry", "refused", "established"].map(|outcome| handshakes(&relay, outcome));
    let mut first = Peer::over(deployment.dial(&relay, 1).await, &agent(1)).await;
    eventually("it is established", || (counts() == [0, 0, 1]).then_some(())).await;
    // Its HELLO is not there yet, and one is an eighth of the limit, or more.
    let _second = deployment.dial(&relay, 2).await;
    eventually("it came again", || (counts() == [1, 0, 2]).then_some(())).await;
    let third = deployment.ca.agent(&agent(3)).unwrap();
    let refused = deployment.try_dial(&relay, &third).await.unwrap_err();
    assert!(matches!(refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused}");
    assert_eq!((counts(), hits(&relay, Limit::HalfOpenHandshakes)), ([2, 1, 2], 1));
    first.hello(&[]).await;
    let _third = deployment.peer(&relay, 3, &[]).await;
}

#[tokio::test]
async fn one_connection_more_than_the_limit_is_refused_before_any_tls() {
    let deployment = Deployment::new();
    let relay = relay_with(&deployment, |limits| limits.connections = 1).await;
    let first = deployment.peer(&relay, 1, &[]).await;
    let second = deployment.ca.agent(&agent(2)).unwrap();
    let refused = deployment.try_dial(&relay, &second).await.unwrap_err();
    assert!(matches!(refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused}");
    assert_eq!((hits(&relay, Limit::Connections), handshakes(&relay, "refused")), (1, 1));
    drop(first);
    eventually("it has ended", || relay.vault().connections.is_empty().then_some(())).await;
    let _second = deployment.peer(&relay, 2, &[]).await;
}

#[tokio::test]
async fn one_connection_more_than_an_agent_may_have_is_closed_and_disturbs_none_that_stands() {
    let deployment = Deployment::new();
    let relay = relay_with(&deployment, |limits| limits.connections_per_agent = 2).await;
    let other = deployment.peer(&relay, 2, &[]).await;
    let first = deployment.peer(&relay, 1, &[]).await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    // It counts from its HELLO on.
    let mut silent = Peer::over(deployment.dial(&relay, 1).await, &agent(1)).await;
    eventually("four are established", || (relay.vault().connections.len() == 4).then_some(())).await;
    assert_eq!(hits(&relay, Limit::ConnectionsPerAgent), 0);
    silent.say_hello(&[]).await;
    let (_, reason) = silent.closed().await;
    assert_eq!(reason, "this agent has 2 connections, and may have no more");
    assert_eq!(hits(&relay, Limit::ConnectionsPerAgent), 1);
    let _pair = pair(&other, &provider, 1).await;
    assert!(first.quic.close_reason().is_none() && other.quic.close_reason().is_none());

    first.quic.close(0_u32.into(), b"bye");
    eventually("there is room", || (relay.vault().connections.count_of(&agent(1)) == 1).then_some(())).await;
    deployment.peer(&relay, 1, &[]).await;
}

#[tokio::test]
async fn an_agent_that_does_not_read_its_control_stream_is_cut_off_and_its_neighbour_is_not() {
    let deployment = Deployment::new();
    let relay = relay_with(&deployment, |limits| limits.control_queue = 16).await;
    let neighbour = deployment.peer(&relay, 2, &[]).await;
    let mut deaf = deployment.peer(&relay, 1, &[]).await;
    // A question with a long answer: what the agent's window holds is soon full.
    let query = outrelay::proto::orp::ObservedAddrQuery { request_id: u64::MAX };
    let query = outrelay::core::frame::Frame::ObservedAddrQuery(query).encode();
    let many: Vec<u8> = query.iter().copied().cycle().take(query.len() * 1024).collect();
    // It asks and asks, and never reads an answer; sooner or later nothing more is taken, or the connection is closed.
    let shout = async { while deaf.control.send.write_all(&many).await.is_ok() {} };
    crate::harness::soon("it is cut off", shout).await;
    let (_, reason) = deaf.closed().await;
    assert!(reason.contains("not read"), "{reason}");
    assert_eq!(hits(&relay, Limit::ControlQueue), 1);
    audited(&deployment, deaf.uri.as_str(), "connection closed: control stream is not read").await;
    assert!(neighbour.quic.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_reads_do_not_starve_their_neighbours_and_the_longest_stalled_is_cut() {
    const MIB: u64 = 1 << 20;
    const STALLED: u64 = 12;
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", OPEN_WORLD);
    // Room for ten stalled streams beside what flows.
    config.quic.stream_window = MIB / 4;
    config.quic.connection_window = MIB;
    config.quic.connection_window_max = MIB + 10 * MIB / 4;
    config.quic.stall_deadline = std::time::Duration::from_millis(300);
    let relay = Relay::start(config).await.unwrap();
    let mut provider = deployment.peer(&relay, 1, &["resume-code"]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &["resume-code"]).await;
    // The neighbour's other end is another connection: what the consumer does not read must not be in its way there.
    let neighbour = deployment.peer(&relay, 3, &["resume-code"]).await;
    let (mut live, mut live_end) = pair(&neighbour, &provider, 1_000).await;

    let mut stalled = Vec::new();
    for id in 1..=STALLED {
        // The provider sends for as long as something is taken; the consumer reads nothing.
        let (unread, down) = pair(&consumer, &provider, id).await;
        let outrelay::net::stream::BiStream { mut send, recv } = down;
        let sender = tokio::spawn(async move {
            let _keep = recv;
            loop {
                if let Err(end) = send.write_all(&[0; 64 << 10]).await {
                    return end;
                }
            }
        });
        stalled.push((unread, sender));
        eventually("it stalls, or the first was cut for it", || {
            let provider = &relay.vault().connections.all()[0];
            (provider.window.stalled() as u64 >= id.min(10)).then_some(())
        })
        .await;
        live_end.send.write_all(b"alive").await.unwrap();
        assert_eq!(take(&mut live.recv, 5).await, b"alive", "with {id} streams stalled");
    }
    // The sender is told first: reading would end the stall.
    let (mut unread, sender) = stalled.remove(0);
    let stopped = crate::harness::soon("the longest stalled is cut", sender).await.unwrap();
    assert_eq!(stopped, outrelay::net::stream::WriteEnd::Stopped(ResetCode::LIMIT));
    assert_eq!(drain(&mut unread.recv).await.1, End::Reset(ResetCode::LIMIT));
    eventually("it is counted", || (hits(&relay, Limit::ConnectionWindowMax) > 0).then_some(())).await;
    let event =
        audited(&deployment, consumer.uri.as_str(), "to the consumer: cut: the reader stalled for too long").await;
    assert_eq!((&event["target"], &event["stream_id"]), (&"svc".into(), &"1".into()));
    provider.say(&outrelay::core::frame::Frame::Ping).await;
    while provider.hear().await != outrelay::core::frame::Frame::Pong {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_flows_on_beside_many_that_nobody_reads_on_the_same_connection() {
    const STALLED: u64 = 40;
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", OPEN_WORLD);
    config.quic.stream_window = 64 << 10;
    config.quic.connection_window = 256 << 10;
    let relay = Relay::start(config).await.unwrap();
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let neighbour = deployment.peer(&relay, 3, &[]).await;
    let (mut live, live_end) = pair(&neighbour, &provider, 1_000).await;
    let mut unread = Vec::new();
    for id in 1..=STALLED {
        let (up, mut down) = pair(&consumer, &provider, id).await;
        unread.push(up);
        tokio::spawn(async move { while down.send.write_all(&[0; 64 << 10]).await.is_ok() {} });
    }
    let all = relay.vault().connections.all();
    let from = all.iter().find(|connection| connection.agent == agent(1)).unwrap();
    // What the consumer's own window takes is not stalled.
    eventually("they stall", || (from.window.stalled() >= 32).then_some(())).await;
    // Many times what is left for it: credit that is given back must be told to the provider.
    let bytes = std::sync::Arc::new(crate::harness::noise(5, 4 << 20));
    let sent = tokio::spawn(crate::harness::send_all(live_end.send, std::sync::Arc::clone(&bytes)));
    let (got, end) = drain(&mut live.recv).await;
    assert_eq!((got.len(), end), (bytes.len(), End::Fin));
    assert!(got == *bytes);
    sent.await.unwrap();
}
