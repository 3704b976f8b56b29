//! Bytes right behind a frame, in one packet and one by one: none is lost, none is swallowed.

use outrelay::core::frame::Frame;
use outrelay::net::stream::End;

use crate::harness::{Deployment, drain, open_frame, soon};

const EARLY: &[u8] = b"said before anybody answered";

#[tokio::test]
async fn a_consumer_may_send_right_behind_open_and_a_provider_right_behind_accept() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    // In one write, and one byte at a time with a flush between: the whole, then halves of it.
    for (id, pieces) in [(1_u64, usize::MAX), (2, 1), (3, 5)] {
        let mut up = consumer.fresh().await;
        let mut said = open_frame("svc", id).encode().to_vec();
        said.extend_from_slice(EARLY);
        write_pieces(&mut up.send, &said, pieces).await;
        up.send.finish();

        let (_, mut down) = provider.incoming().await;
        let mut answered = Frame::StreamAccept.encode().to_vec();
        answered.extend_from_slice(EARLY);
        write_pieces(&mut down.send, &answered, pieces).await;
        down.send.finish();

        assert_eq!(drain(&mut down.recv).await, (EARLY.to_vec(), End::Fin), "upwards, stream {id}");
        assert_eq!(drain(&mut up.recv).await, (EARLY.to_vec(), End::Fin), "downwards, stream {id}");
    }
}

async fn write_pieces(send: &mut outrelay::net::stream::SendHalf, bytes: &[u8], size: usize) {
    for piece in bytes.chunks(size.min(bytes.len())) {
        soon("taken", send.write_all(piece)).await.unwrap();
        // Lets the endpoint send what it has, so that pieces travel alone.
        tokio::task::yield_now().await;
    }
}
