//! Every refusal: its code, its reason, its audit events, in band and mirrored.

use outrelay::core::frame::Frame;
use outrelay::core::reject::ResetCode;
use outrelay::metrics::Limit;
use outrelay::net::framed::write_frame;
use outrelay::net::stream::BiStream;
use outrelay::proto::orp;
use outrelay::relay::Relay;

use crate::harness::{Deployment, Peer, agent, asking_for, eventually, hits, pair, rejection};

#[tokio::test]
async fn a_caller_that_no_rule_allows_is_denied_with_403() {
    let deployment = Deployment::new();
    let relay = deployment.relay_with("").await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (code, reason) = rejection(&mut consumer.open("svc", 1).await).await;
    assert_eq!(code, 403);
    assert!(reason.starts_with("denied: "), "{reason}");
}

#[tokio::test]
async fn a_deny_rule_is_named_to_the_caller() {
    let deployment = Deployment::new();
    let rules = format!(
        "{}[[rule]]\nid = \"no-mallory\"\ntenant = \"acme\"\ncaller = \"{}\"\ntarget = \"svc\"\ndecision = \"deny\"\n",
        crate::harness::OPEN_WORLD,
        agent(2)
    );
    let relay = deployment.relay_with(&rules).await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (code, reason) = rejection(&mut consumer.open("svc", 1).await).await;
    assert_eq!((code, reason.as_str()), (403, "denied: no-mallory"));
}

#[tokio::test]
async fn a_callee_that_may_not_serve_the_caller_is_denied_with_403() {
    let deployment = Deployment::new();
    // Only the caller's side is allowed.
    let rules = "[[rule]]\nid = \"up\"\ntenant = \"acme\"\ncaller = \"*\"\ntarget = \"svc\"\ndecision = \"allow\"\n";
    let relay = deployment.relay_with(rules).await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (code, reason) = rejection(&mut consumer.open("svc", 1).await).await;
    assert_eq!(code, 403);
    assert!(reason.starts_with("denied (callee): "), "{reason}");
}

#[tokio::test]
async fn a_service_that_nobody_registered_is_404() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    assert_eq!(rejection(&mut consumer.open("nowhere", 1).await).await.0, 404);
}

#[tokio::test]
async fn a_stream_id_of_another_pair_is_409_and_the_provider_is_not_asked() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let one = deployment.peer(&relay, 2, &[]).await;
    let other = deployment.peer(&relay, 3, &[]).await;
    let (_up, _down) = pair(&one, &provider, 42).await;
    assert_eq!(rejection(&mut other.open("svc", 42).await).await.0, 409);
    // The next stream that the provider sees is another one.
    let _next = other.open("svc", 43).await;
    assert_eq!(provider.incoming().await.0.stream_id, 43);
}

#[tokio::test]
async fn the_same_id_from_the_same_pair_is_accepted_and_id_zero_never_collides() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let one = deployment.peer(&relay, 2, &[]).await;
    let other = deployment.peer(&relay, 3, &[]).await;
    let _a = pair(&one, &provider, 42).await;
    let _b = pair(&one, &provider, 42).await;
    let _c = pair(&one, &provider, 0).await;
    let _d = pair(&other, &provider, 0).await;
    eventually("four splices", || (relay.tree().walk().filter(|a| a.kind == "splice").count() == 4).then_some(()))
        .await;
    assert_eq!(relay.vault().streams.len(), 1);
}

/// An open whose provider is asked, and has not answered.
struct Asked {
    relay: Relay,
    _deployment: Deployment,
    _peers: [Peer; 2],
    /// The consumer's.
    stream: BiStream,
    /// The provider's.
    asked: BiStream,
}

impl Asked {
    async fn open() -> Self {
        let deployment = Deployment::new();
        let relay = deployment.relay().await;
        let mut provider = deployment.peer(&relay, 1, &[]).await;
        provider.register("svc").await;
        let consumer = deployment.peer(&relay, 2, &[]).await;
        let stream = consumer.open("svc", 1).await;
        let (_, asked) = provider.incoming().await;
        Self { relay, _deployment: deployment, _peers: [provider, consumer], stream, asked }
    }
}

#[tokio::test]
async fn a_provider_that_rejects_is_503_with_its_own_code_and_reason() {
    let mut open = Asked::open().await;
    let reject = orp::StreamReject { code: 4711, reason: "backend is down".to_owned(), stream_id: 0 };
    write_frame(&mut open.asked.send, &Frame::StreamReject(reject)).await.unwrap();
    let (code, reason) = rejection(&mut open.stream).await;
    assert_eq!((code, reason.as_str()), (503, "provider rejected: 4711 backend is down"));
}

#[tokio::test]
async fn a_provider_that_closes_without_an_answer_is_502() {
    let mut open = Asked::open().await;
    // A bare FIN, as legacy providers leave.
    open.asked.send.finish();
    assert_eq!(rejection(&mut open.stream).await.0, 502);
}

#[tokio::test]
async fn a_provider_whose_answer_is_longer_than_a_frame_may_be_is_502() {
    let mut open = Asked::open().await;
    open.asked.send.write_all(&[0x20, 0x13, 0, 0, 0, 1, 0, 1]).await.unwrap();
    let (code, reason) = rejection(&mut open.stream).await;
    assert_eq!((code, reason.contains("65537")), (502, true), "{reason}");
    assert_eq!(hits(&open.relay, Limit::FrameMaxBytes), 1);
}

#[tokio::test]
async fn a_stream_that_starts_with_something_else_is_400() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    for frame in [Frame::Ping, Frame::StreamAccept, crate::harness::open_frame("no such name!", 1)] {
        let mut stream = consumer.fresh().await;
        write_frame(&mut stream.send, &frame).await.unwrap();
        let (code, reason) = rejection(&mut stream).await;
        assert_eq!(code, 400, "{frame:?}: {reason}");
    }
}

#[tokio::test]
async fn every_decision_of_both_sides_is_one_audit_event() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let _pair = pair(&consumer, &provider, 8).await;
    let log = deployment.dir.path().join("r1-audit.jsonl");
    let lines = eventually("two audit lines", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() == 2).then_some(lines)
    })
    .await;
    for (line, side, caller, target) in
        [(&lines[0], "caller", agent(2), "svc".to_owned()), (&lines[1], "callee", agent(1), agent(2).to_string())]
    {
        assert_eq!(line["side"], side, "{line}");
        assert_eq!(line["caller"], caller.as_str(), "{line}");
        assert_eq!(line["target"], target.as_str(), "{line}");
        assert_eq!(line["tenant"], "acme");
        assert_eq!(line["stream_id"], "8");
    }
}

#[tokio::test]
async fn a_service_name_that_breaks_the_rule_is_refused_on_the_control_stream() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    for name in ["", "outrelay:svc", "two words", &"x".repeat(256)] {
        let Frame::StreamReject(reject) = provider.register(name).await else { panic!("{name:?} was registered") };
        assert_eq!((reject.code, reject.stream_id), (400, 0), "{name:?}");
    }
    assert!(matches!(provider.register("svc").await, Frame::RegisterAck(_)), "the connection goes on");
}

#[tokio::test]
async fn one_service_more_than_the_limit_is_refused_with_429() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", crate::harness::OPEN_WORLD);
    config.limits.services_per_agent = 2;
    let relay = outrelay::relay::Relay::start(config).await.unwrap();
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    for name in ["a", "b", "a"] {
        assert!(matches!(provider.register(name).await, Frame::RegisterAck(_)), "{name}");
    }
    let Frame::StreamReject(reject) = provider.register("c").await else { panic!("one too many") };
    assert_eq!(reject.code, 429);
    assert_eq!(hits(&relay, Limit::ServicesPerAgent), 1);
}

#[tokio::test]
async fn a_rule_that_asks_for_what_this_relay_does_not_do_refuses_the_stream() {
    for mode in ["relay = \"forward\"", "p2p = \"required\""] {
        let deployment = Deployment::new();
        let relay = deployment.relay_with(&asking_for(mode)).await;
        let mut provider = deployment.peer(&relay, 1, &[]).await;
        provider.register("svc").await;
        let consumer = deployment.peer(&relay, 2, &[]).await;
        let mut stream = consumer.open("svc", 1).await;
        let (code, reason) = rejection(&mut stream).await;
        assert_eq!(code, 502, "{mode}: {reason}");
        assert!(tokio::time::timeout(UNASKED, provider.quic.accept_bi()).await.is_err(), "{mode}: nobody is asked");
    }
}

/// A provider that was not asked within this is not asked.
const UNASKED: std::time::Duration = std::time::Duration::from_millis(100);

#[tokio::test]
async fn an_open_that_a_full_relay_refuses_is_counted_once_also_when_nobody_waits_for_the_answer() {
    const OPENS: u64 = 40;
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", crate::harness::OPEN_WORLD);
    config.limits.streams = 0;
    let relay = Relay::start(config).await.unwrap();
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let mut opened = Vec::new();
    for stream_id in 1..=OPENS {
        let BiStream { mut send, recv } = consumer.fresh().await;
        recv.stop(ResetCode::UNSPECIFIED);
        write_frame(&mut send, &crate::harness::open_frame("svc", stream_id)).await.unwrap();
        opened.push(send);
    }
    let counted = || {
        let text = relay.vault().metrics.render().unwrap();
        let opens = text.lines().filter(|line| line.starts_with("outrelay_opens_total{"));
        opens.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum::<u64>()
    };
    let opening = || relay.tree().walk().any(|actor| actor.kind == "handshake");
    eventually("each has come to its end", || (counted() >= OPENS && !opening()).then_some(())).await;
    assert_eq!(counted(), OPENS);
    assert_eq!(hits(&relay, Limit::Streams), OPENS);
}
