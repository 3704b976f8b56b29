use super::*;
use crate::net::harness::{DROPPED, Pair, promptly, read_all, soon};

const CODE: ResetCode = ResetCode(0x123);

#[tokio::test]
async fn a_dropped_send_half_is_a_reset_and_never_a_fin() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.stream().await;
    near.send.write_all(b"half a sentence").await.unwrap();
    drop(near.send);
    assert_eq!(read_all(&mut far.recv).await.1, End::Reset(DROPPED));
}

#[tokio::test]
async fn a_send_half_dropped_with_its_task_is_a_reset() {
    let pair = Pair::new().await;
    let (near, mut far) = pair.stream().await;
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move {
        let _held = near;
        pending::<()>().await;
    });
    task.abort_all();
    assert_eq!(read_all(&mut far.recv).await.1, End::Reset(DROPPED));
    assert_eq!(soon(far.send.stopped()).await, WriteEnd::Stopped(DROPPED));
}

#[tokio::test]
async fn a_dropped_recv_half_stops_with_its_drop_code() {
    let pair = Pair::new().await;
    let (mut near, far) = pair.stream().await;
    near.set_drop_code(CODE);
    drop(near.recv);
    assert_eq!(promptly(far.send.stopped()).await, WriteEnd::Stopped(CODE));
}

#[tokio::test]
async fn a_fin_ends_one_direction_only() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.stream().await;
    near.send.write_all(b"request").await.unwrap();
    near.send.finish();
    assert_eq!(read_all(&mut far.recv).await, (b"request".to_vec(), End::Fin));
    assert_eq!(soon(far.recv.read(&mut [0; 1])).await, Read::End(End::Fin));
    far.send.write_all(b"answer").await.unwrap();
    far.send.finish();
    assert_eq!(read_all(&mut near.recv).await, (b"answer".to_vec(), End::Fin));
}

#[tokio::test]
async fn a_finished_half_tells_when_everything_was_delivered() {
    let pair = Pair::new().await;
    let (near, mut far) = pair.stream().await;
    let delivered = near.send.stopped();
    near.send.finish();
    assert_eq!(read_all(&mut far.recv).await.1, End::Fin);
    assert_eq!(soon(delivered).await, WriteEnd::Closed);
}

#[tokio::test]
async fn the_codes_of_reset_and_stop_arrive() {
    let pair = Pair::new().await;
    let (near, mut far) = pair.stream().await;
    near.send.reset(CODE);
    near.recv.stop(ResetCode(0x456));
    assert_eq!(promptly(far.recv.reset_received()).await, End::Reset(CODE));
    assert_eq!(soon(far.recv.read(&mut [0; 1])).await, Read::End(End::Reset(CODE)));
    let stopped = WriteEnd::Stopped(ResetCode(0x456));
    assert_eq!(promptly(far.send.stopped()).await, stopped);
    assert_eq!(far.send.write_all(b"x").await, Err(stopped));
}

#[tokio::test]
async fn a_lost_connection_ends_every_half() {
    let pair = Pair::new().await;
    let (near, mut far) = pair.stream().await;
    pair.client.close(0u32.into(), b"");
    assert_eq!(promptly(far.recv.reset_received()).await, End::Lost);
    assert_eq!(promptly(far.send.stopped()).await, WriteEnd::Lost);
    assert_eq!(far.send.write_all(b"x").await, Err(WriteEnd::Lost));
    drop(near);
}

#[tokio::test]
async fn a_reset_behind_unread_data_is_noticed_without_reading() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.stream().await;
    near.send.write_all(&[7; 4096]).await.unwrap();
    let mut looking = pin!(far.recv.reset_received());
    // It has looked, and has seen data.
    assert!(tokio::time::timeout(Duration::from_millis(50), looking.as_mut()).await.is_err());
    near.send.reset(CODE);
    assert_eq!(promptly(looking).await, End::Reset(CODE));
}

#[tokio::test]
async fn looking_for_a_reset_takes_no_data_and_leaves_the_fin() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.stream().await;
    near.send.write_all(&[7; 4096]).await.unwrap();
    near.send.finish();
    for _ in 0..3 {
        let looked = tokio::time::timeout(Duration::from_millis(20), far.recv.reset_received());
        assert!(looked.await.is_err());
    }
    assert_eq!(read_all(&mut far.recv).await, (vec![7; 4096], End::Fin));
}

#[tokio::test]
async fn a_lost_connection_behind_incomplete_data_is_noticed_without_reading() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.stream().await;
    near.send.write_all(&[7; 4096]).await.unwrap();
    assert_eq!(soon(far.recv.read(&mut [0; 1])).await, Read::Data(1));
    pair.client.close(0u32.into(), b"");
    assert_eq!(promptly(far.recv.reset_received()).await, End::Lost);
}

#[tokio::test]
async fn what_had_arrived_completely_outlives_its_connection() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.stream().await;
    let delivered = near.send.stopped();
    near.send.write_all(&[7; 40_000]).await.unwrap();
    near.send.finish();
    assert_eq!(soon(delivered).await, WriteEnd::Closed);
    pair.client.close(0u32.into(), b"");
    soon(pair.server.closed()).await;
    let looked = tokio::time::timeout(Duration::from_millis(50), far.recv.reset_received());
    assert!(looked.await.is_err(), "nothing is lost");
    assert_eq!(read_all(&mut far.recv).await, (vec![7; 40_000], End::Fin));
}
