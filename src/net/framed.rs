//! Frames on a stream (wire.md §2).
//!
//! Two readers, for two kinds of stream. [`read_frame`] is for the head of a data stream: application bytes may stand right
//! behind the frame, so it takes exactly the frame. [`ControlReader`] is for the control stream, which carries frames alone: it reads
//! ahead, survives being cancelled, and keeps a frame until it is consumed, so that an actor that dies over one finds it again.
//!
//! Neither allocates from the length that a header claims: memory follows the bytes that came.

use std::future::poll_fn;
use std::task::{Poll, ready};

use bytes::{Buf, BytesMut};

use crate::core::frame::{Frame, FrameError, HEADER_LEN, Header};
use crate::net::stream::{End, Read, RecvHalf, SendHalf, WriteEnd};

/// Bytes read at once: what memory a claimed length costs before its bytes have come.
const STEP: usize = 4096;

/// The part of a frame at which a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The 8 bytes at its start.
    Header,
    /// What the header announced.
    Payload,
}

/// Why no frame could be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameReadError {
    /// The bytes are no frame, or one that is too large.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream ended before the frame did.
    #[error("the stream ended ({}) after {got} of {want} bytes of a frame's {}", end_text(*.end), part_text(*.part))]
    Ended {
        /// How it ended.
        end: End,
        /// Where.
        part: Part,
        /// How many bytes of that part came.
        got: usize,
        /// How many it has.
        want: usize,
    },
}

impl FrameReadError {
    /// How the stream ended, if it did so *between* two frames.
    #[must_use]
    pub fn end_between_frames(&self) -> Option<End> {
        match self {
            Self::Ended { end, part: Part::Header, got: 0, .. } => Some(*end),
            _ => None,
        }
    }
}

fn end_text(end: End) -> String {
    match end {
        End::Fin => "finished".to_owned(),
        End::Reset(code) => format!("reset with code {code}"),
        End::Lost => "connection lost".to_owned(),
    }
}

fn part_text(part: Part) -> &'static str {
    match part {
        Part::Header => "header",
        Part::Payload => "payload",
    }
}

/// Reads one frame and not a byte past it. `limit` is the longest payload accepted, in bytes.
///
/// Not cancel-safe: what was read of the frame goes with the future. The half can then only be stopped.
///
/// # Errors
/// When the stream ends first, or the bytes are no frame within the limit.
pub async fn read_frame(recv: &mut RecvHalf, limit: u32) -> Result<Frame, FrameReadError> {
    let mut head = [0; HEADER_LEN];
    let mut got = 0;
    while got < HEADER_LEN {
        match recv.read(&mut head[got..]).await {
            Read::Data(read) => got += read,
            Read::End(end) => {
                return Err(FrameReadError::Ended { end, part: Part::Header, got, want: HEADER_LEN });
            }
        }
    }
    let header = checked_header(head, limit)?;
    let want = header.len as usize;
    let mut payload = Vec::new();
    let mut got = 0;
    while got < want {
        if got == payload.len() {
            payload.resize(want.min(got + STEP), 0);
        }
        match recv.read(&mut payload[got..]).await {
            Read::Data(read) => got += read,
            Read::End(end) => {
                return Err(FrameReadError::Ended { end, part: Part::Payload, got, want });
            }
        }
    }
    Ok(Frame::decode(header.code, &payload)?)
}

/// Writes one frame. Not cancel-safe: a frame that was cut midway makes the stream useless.
///
/// # Errors
/// When the peer stopped the stream or the connection is gone.
pub async fn write_frame(send: &mut SendHalf, frame: &Frame) -> Result<(), WriteEnd> {
    send.write_all(&frame.encode()).await
}

fn checked_header(head: [u8; HEADER_LEN], limit: u32) -> Result<Header, FrameError> {
    let header = Header::decode(head)?;
    if header.len > limit {
        return Err(FrameError::TooLarge { len: header.len, limit });
    }
    Ok(header)
}

/// Reads the frames of a control stream, one at a time.
#[derive(Debug)]
pub struct ControlReader {
    recv: RecvHalf,
    limit: u32,
    buffer: BytesMut,
}

impl ControlReader {
    /// `limit` is the longest payload accepted, in bytes. At most that, a header and 4 KiB are ever buffered.
    #[must_use]
    pub fn new(recv: RecvHalf, limit: u32) -> Self {
        Self { recv, limit, buffer: BytesMut::new() }
    }

    /// Waits until one whole frame is buffered; at once when the last one was not consumed.
    ///
    /// Cancel-safe: what was read stays in the reader.
    ///
    /// # Errors
    /// When the stream ends first, or the bytes are no frame within the limit. The error comes again on every call.
    pub async fn fill(&mut self) -> Result<(), FrameReadError> {
        loop {
            let header = self.header()?;
            let want = header.map_or(HEADER_LEN, |header| HEADER_LEN + header.len as usize);
            if header.is_some() && self.buffer.len() >= want {
                return Ok(());
            }
            if let Err(end) = self.read_more().await {
                return Err(self.ended(end, want));
            }
        }
    }

    /// The buffered frame, decoded; none when no whole frame is buffered. It stays until [`ControlReader::consume`].
    #[must_use]
    pub fn peek(&self) -> Option<Result<Frame, FrameError>> {
        let header = match self.header() {
            Ok(header) => header?,
            Err(error) => return Some(Err(error)),
        };
        let payload = self.buffer.get(HEADER_LEN..HEADER_LEN + header.len as usize)?;
        Some(Frame::decode(header.code, payload))
    }

    /// Drops the buffered frame. Without a whole frame in the buffer it does nothing.
    pub fn consume(&mut self) {
        if let Ok(Some(header)) = self.header() {
            let len = HEADER_LEN + header.len as usize;
            if self.buffer.len() >= len {
                self.buffer.advance(len);
            }
        }
        if self.buffer.is_empty() {
            // An idle connection holds no buffer.
            self.buffer = BytesMut::new();
        }
    }

    fn header(&self) -> Result<Option<Header>, FrameError> {
        match self.buffer.first_chunk::<HEADER_LEN>() {
            Some(head) => checked_header(*head, self.limit).map(Some),
            None => Ok(None),
        }
    }

    async fn read_more(&mut self) -> Result<(), End> {
        let Self { recv, buffer, .. } = self;
        poll_fn(|cx| {
            // On the stack, and only while there is something to read: a future that waits holds no buffer.
            let mut step = [0; STEP];
            Poll::Ready(match ready!(recv.poll_read(cx, &mut step)) {
                Read::Data(read) => {
                    buffer.extend_from_slice(&step[..read]);
                    Ok(())
                }
                Read::End(end) => Err(end),
            })
        })
        .await
    }

    fn ended(&self, end: End, want: usize) -> FrameReadError {
        let buffered = self.buffer.len();
        if buffered < HEADER_LEN {
            FrameReadError::Ended { end, part: Part::Header, got: buffered, want: HEADER_LEN }
        } else {
            FrameReadError::Ended { end, part: Part::Payload, got: buffered - HEADER_LEN, want: want - HEADER_LEN }
        }
    }
}

#[cfg(test)]
mod tests {
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
}
