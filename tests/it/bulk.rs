//! Much at once: bytes, and streams.

use std::sync::Arc;

use outrelay::net::stream::{BiStream, End};
use tokio::task::JoinSet;

use crate::harness::{Deployment, drain, noise, pair, send_all, sha256};

const BULK: usize = 100 << 20;
const STREAMS: u64 = 2_000;
const SMALL: usize = 64 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_each_way_at_once_arrive_unchanged() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (up, down) = pair(&consumer, &provider, 1).await;
    let (to_provider, to_consumer) = (Arc::new(noise(1, BULK)), Arc::new(noise(2, BULK)));
    let consumer = exchange(up, Arc::clone(&to_provider));
    let provider = exchange(down, Arc::clone(&to_consumer));
    let (at_consumer, at_provider) = tokio::join!(consumer, provider);
    assert_eq!(sha256(&at_provider), sha256(&to_provider));
    assert_eq!(sha256(&at_consumer), sha256(&to_consumer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_streams_at_once_each_carry_their_own_bytes() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    // The hand-driven provider, too, must take more than the hundred streams that a connection starts with.
    provider.quic.set_max_concurrent_bi_streams(4_096_u32.into());
    let consumer = deployment.peer(&relay, 2, &[]).await;

    let mut ends = JoinSet::new();
    let (open, accepted) = tokio::join!(
        async {
            let mut streams = Vec::new();
            for id in 1..=STREAMS {
                streams.push((id, consumer.open("svc", id).await));
            }
            streams
        },
        async {
            let mut streams = Vec::new();
            for _ in 0..STREAMS {
                let (incoming, mut stream) = provider.incoming().await;
                let accept = outrelay::core::frame::Frame::StreamAccept;
                outrelay::net::framed::write_frame(&mut stream.send, &accept).await.unwrap();
                streams.push((incoming.stream_id, stream));
            }
            streams
        }
    );
    assert_eq!(relay.vault().streams.len(), usize::try_from(STREAMS).unwrap(), "all at once");
    for (id, stream) in open {
        ends.spawn(async move { (exchange(stream, Arc::new(noise(id, SMALL))).await, noise(id + STREAMS, SMALL)) });
    }
    for (id, stream) in accepted {
        ends.spawn(async move { (exchange(stream, Arc::new(noise(id + STREAMS, SMALL))).await, noise(id, SMALL)) });
    }
    let mut done = 0;
    while let Some(end) = ends.join_next().await {
        let (got, wanted) = end.unwrap();
        assert!(got == wanted, "a stream carried something else");
        done += 1;
    }
    assert_eq!(done, 2 * STREAMS);
}

/// Sends `bytes` and reads to the end meanwhile.
async fn exchange(stream: BiStream, bytes: Arc<Vec<u8>>) -> Vec<u8> {
    let BiStream { send, mut recv } = stream;
    let ((), (got, end)) = tokio::join!(send_all(send, bytes), drain(&mut recv));
    assert_eq!(end, End::Fin);
    got
}
