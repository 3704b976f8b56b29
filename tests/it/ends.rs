//! How a stream ends: FIN, reset and STOP_SENDING are passed on as what they are, and a lost connection is no end.

use outrelay::core::reject::ResetCode;
use outrelay::net::stream::{BiStream, End, WriteEnd};
use outrelay::relay::Relay;

use crate::harness::{Deployment, Peer, drain, pair, soon, take};

const KNOWS_CODES: &[&str] = &["resume-code"];

struct Spliced {
    _deployment: Deployment,
    _relay: Relay,
    consumer: Peer,
    provider: Peer,
    up: BiStream,
    down: BiStream,
}

async fn spliced(consumer: &[&str], provider: &[&str]) -> Spliced {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, provider).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, consumer).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;
    up.send.write_all(b"a").await.unwrap();
    down.send.write_all(b"b").await.unwrap();
    assert_eq!(take(&mut down.recv, 1).await, b"a");
    assert_eq!(take(&mut up.recv, 1).await, b"b");
    Spliced { _deployment: deployment, _relay: relay, consumer, provider, up, down }
}

#[tokio::test]
async fn a_fin_ends_one_direction_only() {
    for provider_first in [false, true] {
        let Spliced { up, down, _relay, _deployment, consumer: _c, provider: _p, .. } = spliced(&[], &[]).await;
        let (first, second) = if provider_first { (down, up) } else { (up, down) };
        let (mut first, mut second) = (first, second);
        first.send.finish();
        assert_eq!(drain(&mut second.recv).await, (Vec::new(), End::Fin));
        second.send.write_all(b"still here").await.unwrap();
        assert_eq!(take(&mut first.recv, 10).await, b"still here");
        second.send.finish();
        assert_eq!(drain(&mut first.recv).await, (Vec::new(), End::Fin));
    }
}

#[tokio::test]
async fn a_reset_is_a_reset_both_ways_and_an_application_code_is_kept_between_agents_that_know_codes() {
    for (caps, sent, seen) in
        [(KNOWS_CODES, 0x1234, 0x1234), (KNOWS_CODES, 0x10, 0x10), (KNOWS_CODES, 0x12, 0), (&[], 0x1234, 0)]
    {
        for provider_resets in [false, true] {
            let it = spliced(caps, caps).await;
            let (resets, mut sees) = if provider_resets { (it.down, it.up) } else { (it.up, it.down) };
            resets.send.reset(ResetCode(sent));
            assert_eq!(drain(&mut sees.recv).await.1, End::Reset(ResetCode(seen)), "{caps:?} {provider_resets}");
            // The other direction goes on.
            let mut resets_recv = resets.recv;
            sees.send.write_all(b"on").await.unwrap();
            assert_eq!(take(&mut resets_recv, 2).await, b"on");
        }
    }
}

#[tokio::test]
async fn a_stop_is_a_stop_both_ways_with_its_code() {
    for (caps, sent, seen) in [(KNOWS_CODES, 0x777, 0x777), (&[], 0x777, 0)] {
        for provider_stops in [false, true] {
            let it = spliced(caps, caps).await;
            let (stops, sees) = if provider_stops { (it.down, it.up) } else { (it.up, it.down) };
            stops.recv.stop(ResetCode(sent));
            let end = soon("the stop arrives at an idle sender", sees.send.stopped()).await;
            assert_eq!(end, WriteEnd::Stopped(ResetCode(seen)), "{caps:?} {provider_stops}");
        }
    }
}

#[tokio::test]
async fn one_legacy_agent_is_enough_for_no_code_to_be_passed_on() {
    for (consumer, provider) in [(KNOWS_CODES, &[][..]), (&[][..], KNOWS_CODES)] {
        let mut it = spliced(consumer, provider).await;
        it.up.send.reset(ResetCode(0x1234));
        assert_eq!(drain(&mut it.down.recv).await.1, End::Reset(ResetCode(0)));
    }
}

#[tokio::test]
async fn a_connection_lost_in_mid_stream_is_a_reset_at_the_other_side_never_a_fin() {
    for (caps, code) in [(KNOWS_CODES, ResetCode::RESUMABLE), (&[], ResetCode(0))] {
        for consumer_lost in [true, false] {
            let it = spliced(caps, caps).await;
            let (lost, mut sees) = if consumer_lost { (it.consumer, it.down) } else { (it.provider, it.up) };
            lost.quic.close(0_u32.into(), b"gone");
            assert_eq!(drain(&mut sees.recv).await, (Vec::new(), End::Reset(code)), "{caps:?} {consumer_lost}");
            let stop = soon("the sender is told too", sees.send.stopped()).await;
            assert_eq!(stop, WriteEnd::Stopped(code));
        }
    }
}

#[tokio::test]
async fn a_relay_that_stops_resets_what_still_runs() {
    let Spliced { _relay: relay, mut up, mut down, _deployment, consumer: _c, provider: _p } = spliced(&[], &[]).await;
    soon("the relay stops", relay.shutdown()).await;
    for end in [drain(&mut up.recv).await.1, drain(&mut down.recv).await.1] {
        assert!(matches!(end, End::Reset(_) | End::Lost), "{end:?}");
    }
}
