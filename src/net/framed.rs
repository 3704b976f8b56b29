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
    /// Whether it was one that is longer than the limit.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Frame(FrameError::TooLarge { .. }))
    }

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

    /// From here on this is the longest payload accepted.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
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
mod tests;
