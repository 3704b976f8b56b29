use std::time::Duration;

use super::*;
use crate::core::reject::ResetCode;
use crate::net::harness::{Pair, soon};
use crate::net::stream::BiStream;
use crate::proto::orp as pb;

const LIMIT: u32 = 64 * 1024;

fn open_stream(service: &str) -> Frame {
    Frame::OpenStream(pb::OpenStream { target_service: service.to_owned(), method: "GET".to_owned(), stream_id: 7 })
}

fn header(code: u16, len: u32) -> [u8; HEADER_LEN] {
    Header { code, len }.encode()
}

async fn write_byte_by_byte(pair: &Pair, near: &mut BiStream, bytes: &[u8]) {
    for byte in bytes {
        let packets = pair.client.stats().udp_tx.datagrams;
        near.send.write_all(&[*byte]).await.unwrap();
        // The next byte only once this one is on its way, so that it travels alone.
        soon(async {
            while pair.client.stats().udp_tx.datagrams == packets {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_frame_that_comes_byte_by_byte_is_read_and_nothing_past_it() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.stream().await;
    let mut bytes = open_stream("db").encode().to_vec();
    bytes.extend_from_slice(b"application bytes");
    let reading = async {
        assert_eq!(read_frame(&mut far.recv, LIMIT).await.unwrap(), open_stream("db"));
        let mut rest = Vec::new();
        while rest.len() < 17 {
            let mut buf = [0; 32];
            match far.recv.read(&mut buf).await {
                Read::Data(read) => rest.extend_from_slice(&buf[..read]),
                Read::End(end) => panic!("ended: {end:?}"),
            }
        }
        assert_eq!(rest, b"application bytes");
    };
    soon(async { tokio::join!(write_byte_by_byte(&pair, &mut near, &bytes), reading) }).await;
}

#[tokio::test]
async fn application_bytes_behind_a_frame_in_one_write_are_not_swallowed() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.stream().await;
    let mut bytes = Frame::StreamAccept.encode().to_vec();
    bytes.extend_from_slice(b"hello");
    near.send.write_all(&bytes).await.unwrap();
    near.send.finish();
    assert_eq!(soon(read_frame(&mut far.recv, LIMIT)).await.unwrap(), Frame::StreamAccept);
    assert_eq!(crate::net::harness::read_all(&mut far.recv).await.0, b"hello");
}

#[tokio::test]
async fn a_frame_larger_than_the_step_is_read_whole() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.stream().await;
    let frame = open_stream(&"x".repeat(3 * STEP + 1));
    write_frame(&mut near.send, &frame).await.unwrap();
    assert_eq!(soon(read_frame(&mut far.recv, LIMIT)).await.unwrap(), frame);
}

#[tokio::test]
async fn a_frame_above_the_limit_is_refused_before_its_payload_comes() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.stream().await;
    near.send.write_all(&header(0x010, LIMIT + 1)).await.unwrap();
    let error = soon(read_frame(&mut far.recv, LIMIT)).await.unwrap_err();
    let too_large = FrameError::TooLarge { len: LIMIT + 1, limit: LIMIT };
    assert_eq!(error, FrameReadError::Frame(too_large.clone()));
    let mut control = ControlReader::new(near.recv, LIMIT);
    far.send.write_all(&header(0x010, LIMIT + 1)).await.unwrap();
    for _ in 0..2 {
        let error = soon(control.fill()).await.unwrap_err();
        assert_eq!(error, FrameReadError::Frame(too_large.clone()));
        assert_eq!(control.peek(), Some(Err(too_large.clone())));
    }
}

#[tokio::test]
async fn an_ended_stream_says_how_much_of_a_frame_had_come() {
    let pair = Pair::new().await;
    let (mut near, mut far) = pair.stream().await;
    near.send.write_all(&header(0x010, 100)).await.unwrap();
    near.send.write_all(b"abc").await.unwrap();
    near.send.finish();
    let error = soon(read_frame(&mut far.recv, LIMIT)).await.unwrap_err();
    let text = "the stream ended (finished) after 3 of 100 bytes of a frame's payload";
    assert_eq!(error.to_string(), text);
    assert_eq!(error.end_between_frames(), None);

    far.send.write_all(&header(0x010, 100)[..5]).await.unwrap();
    let mut control = ControlReader::new(near.recv, LIMIT);
    assert!(tokio::time::timeout(Duration::from_millis(20), control.fill()).await.is_err());
    far.send.reset(ResetCode::RETRY);
    let error = soon(control.fill()).await.unwrap_err();
    // A reset discards what was not read yet: it may have overtaken the five bytes.
    let FrameReadError::Ended { end, part: Part::Header, want: HEADER_LEN, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(end, End::Reset(ResetCode::RETRY));
}

#[tokio::test]
async fn an_end_between_frames_is_told_apart() {
    let pair = Pair::new().await;
    let (near, far) = pair.stream().await;
    near.send.finish();
    let mut control = ControlReader::new(far.recv, LIMIT);
    let error = soon(control.fill()).await.unwrap_err();
    assert_eq!(error.end_between_frames(), Some(End::Fin));
}

#[tokio::test]
async fn an_unknown_frame_is_read_to_its_end() {
    let pair = Pair::new().await;
    let (mut near, far) = pair.stream().await;
    let mut bytes = header(0x7AB, 3).to_vec();
    bytes.extend_from_slice(b"???");
    bytes.extend_from_slice(&Frame::Ping.encode());
    near.send.write_all(&bytes).await.unwrap();
    let mut control = ControlReader::new(far.recv, LIMIT);
    soon(control.fill()).await.unwrap();
    assert_eq!(control.peek(), Some(Ok(Frame::Unknown(0x7AB))));
    control.consume();
    soon(control.fill()).await.unwrap();
    assert_eq!(control.peek(), Some(Ok(Frame::Ping)));
}

#[tokio::test]
async fn a_fill_that_is_cancelled_midway_loses_nothing() {
    let pair = Pair::new().await;
    let (mut near, far) = pair.stream().await;
    let mut control = ControlReader::new(far.recv, LIMIT);
    let bytes = open_stream("db").encode();
    for piece in bytes.chunks(3) {
        assert_eq!(control.peek(), None);
        near.send.write_all(piece).await.unwrap();
        let had = control.buffer.len();
        soon(async {
            while control.buffer.len() < had + piece.len() {
                // Every one but the last of these is dropped while it waits for the rest.
                if tokio::time::timeout(Duration::from_millis(1), control.fill()).await.is_ok() {
                    break;
                }
            }
        })
        .await;
    }
    soon(control.fill()).await.unwrap();
    assert_eq!(control.peek(), Some(Ok(open_stream("db"))));
}

#[tokio::test]
async fn a_frame_stays_until_it_is_consumed() {
    let pair = Pair::new().await;
    let (mut near, far) = pair.stream().await;
    for frame in [Frame::Ping, open_stream("db")] {
        write_frame(&mut near.send, &frame).await.unwrap();
    }
    let mut control = ControlReader::new(far.recv, LIMIT);
    control.consume();
    for _ in 0..2 {
        soon(control.fill()).await.unwrap();
        assert_eq!(control.peek(), Some(Ok(Frame::Ping)));
    }
    control.consume();
    soon(control.fill()).await.unwrap();
    assert_eq!(control.peek(), Some(Ok(open_stream("db"))));
    control.consume();
    assert_eq!(control.peek(), None);
    assert_eq!(control.buffer.capacity(), 0, "an idle reader holds no buffer");
}
