//! Streams whose end is always explicit.
//!
//! quinn *finishes* a `SendStream` that is merely dropped, and stops a dropped `RecvStream` with code 0: a panic, a kill or a lost
//! task would then look to the peer like a complete stream. Here both halves are wrapped, and dropping one means *reset* or *stop*
//! with the half's drop code, unless an end was already seen or said (architecture.md §5, invariant 1).
//!
//! A carrier is an enum inside each half; QUIC is the only one today.

use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use quinn::VarInt;
use tokio_util::io::poll_read_buf;

use crate::core::reject::ResetCode;
use crate::net::receive_window::{ReceiveWindow, Stall};

/// How soon [`RecvHalf::reset_received`] looks again for the first time while unread data hides the stream's end.
const FIRST_LOOK: Duration = Duration::from_millis(5);
/// The longest pause between two looks: a stream that is blocked for long costs three wake-ups per second.
const LONGEST_LOOK: Duration = Duration::from_millis(320);

/// The priority of streams that go before others, which have 0.
const FIRST: i32 = 1;

/// How a received stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The sender said that this was all.
    Fin,
    /// The sender cut the stream.
    Reset(ResetCode),
    /// The connection under it is gone.
    Lost,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes (at least one) stand at the start of the buffer.
    Data(usize),
    /// No byte will come any more. Every later read says the same.
    End(End),
}

/// Why nothing more can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteEnd {
    /// The peer does not want the rest.
    #[error("stopped by the peer with code {0}")]
    Stopped(ResetCode),
    /// The connection is gone.
    #[error("connection lost")]
    Lost,
    /// This side ended the half before, and the peer has acknowledged everything.
    #[error("already ended on this side")]
    Closed,
}

/// What several halves say when they are dropped without an end, decided late: whoever ends them all at once may have a reason.
#[derive(Clone, Debug)]
pub struct SharedDropCode(Arc<AtomicU64>);

impl SharedDropCode {
    /// `code`, until it is changed.
    #[must_use]
    pub fn new(code: ResetCode) -> Self {
        Self(Arc::new(AtomicU64::new(code.0)))
    }

    /// Changes it.
    pub fn set(&self, code: ResetCode) {
        self.0.store(code.0, Ordering::Relaxed);
    }
}

/// What a half says when it is dropped without an end.
#[derive(Clone, Debug)]
enum DropCode {
    Own(ResetCode),
    Shared(SharedDropCode),
}

impl DropCode {
    fn get(&self) -> ResetCode {
        match self {
            Self::Own(code) => *code,
            Self::Shared(shared) => ResetCode(shared.0.load(Ordering::Relaxed)),
        }
    }
}

/// A bidirectional stream: two halves that end independently.
#[derive(Debug)]
pub struct BiStream {
    /// What this side writes.
    pub send: SendHalf,
    /// What the peer writes.
    pub recv: RecvHalf,
}

impl BiStream {
    /// Wraps a QUIC stream of `connection`. `drop_code` is what both halves say when they are dropped without an end.
    #[must_use]
    pub fn from_quic(
        connection: &quinn::Connection,
        send: quinn::SendStream,
        recv: quinn::RecvStream,
        drop_code: ResetCode,
    ) -> Self {
        Self {
            send: SendHalf {
                carrier: SendCarrier::Quic(send),
                drop_code: DropCode::Own(drop_code),
                state: SendState::Open,
            },
            recv: RecvHalf {
                window: None,
                carrier: RecvCarrier::Quic { stream: recv, connection: connection.clone() },
                drop_code: DropCode::Own(drop_code),
                state: RecvState::Open,
            },
        }
    }

    /// Counts the received half's stalls against `window`.
    #[must_use]
    pub fn within(mut self, window: &ReceiveWindow) -> Self {
        self.recv.window = Some(window.clone());
        self
    }

    /// Changes what both halves say when they are dropped without an end.
    pub fn set_drop_code(&mut self, code: ResetCode) {
        self.send.set_drop_code(code);
        self.recv.set_drop_code(code);
    }

    /// Has both halves say what `code` is when they are dropped without an end.
    pub fn share_drop_code(&mut self, code: &SharedDropCode) {
        self.send.drop_code = DropCode::Shared(code.clone());
        self.recv.drop_code = DropCode::Shared(code.clone());
    }
}

#[derive(Debug)]
enum SendCarrier {
    Quic(quinn::SendStream),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendState {
    Open,
    Ended,
}

/// The half this side writes.
#[derive(Debug)]
pub struct SendHalf {
    carrier: SendCarrier,
    drop_code: DropCode,
    state: SendState,
}

impl SendHalf {
    /// Writes all of `buf`, waiting for the peer's window.
    ///
    /// Not cancel-safe: when the future is dropped midway, some prefix has been written. The half can then only be reset.
    ///
    /// # Errors
    /// When the peer stopped the stream or the connection is gone.
    pub async fn write_all(&mut self, buf: &[u8]) -> Result<(), WriteEnd> {
        match &mut self.carrier {
            SendCarrier::Quic(stream) => stream.write_all(buf).await.map_err(write_end),
        }
    }

    /// Writes all of `bytes`, as [`SendHalf::write_all`] does, without copying them.
    ///
    /// # Errors
    /// As [`SendHalf::write_all`].
    pub async fn write_bytes(&mut self, bytes: Bytes) -> Result<(), WriteEnd> {
        match &mut self.carrier {
            SendCarrier::Quic(stream) => stream.write_chunk(bytes).await.map_err(write_end),
        }
    }

    /// Writes some prefix of `buf` and returns its length. Cancel-safe: when the future is dropped, nothing was written.
    ///
    /// # Errors
    /// As [`SendHalf::write_all`].
    pub async fn write(&mut self, buf: &[u8]) -> Result<usize, WriteEnd> {
        match &mut self.carrier {
            SendCarrier::Quic(stream) => stream.write(buf).await.map_err(write_end),
        }
    }

    /// From here on what is written goes out before what is written to other streams of the connection.
    pub fn go_first(&mut self) {
        match &mut self.carrier {
            SendCarrier::Quic(stream) => ignore_already_over(stream.set_priority(FIRST)),
        }
    }

    /// Says that this was all. What was written is still delivered, also after the half is gone.
    pub fn finish(mut self) {
        self.state = SendState::Ended;
        match &mut self.carrier {
            SendCarrier::Quic(stream) => ignore_already_over(stream.finish()),
        }
    }

    /// Cuts the stream: what the peer has not read yet is discarded.
    pub fn reset(mut self, code: ResetCode) {
        self.reset_now(code);
    }

    /// Changes what is said when the half is dropped without an end.
    pub fn set_drop_code(&mut self, code: ResetCode) {
        self.drop_code = DropCode::Own(code);
    }

    /// Resolves when the peer stopped the stream ([`WriteEnd::Stopped`]), when the connection is gone ([`WriteEnd::Lost`]), or
    /// when the half was finished and the peer has acknowledged everything ([`WriteEnd::Closed`]).
    ///
    /// It borrows nothing and outlives the half: taken before [`SendHalf::finish`], it tells when all was delivered. After
    /// a reset on this side it stays pending until the connection ends.
    pub fn stopped(&self) -> impl Future<Output = WriteEnd> + Send + 'static {
        let stopped = match &self.carrier {
            SendCarrier::Quic(stream) => stream.stopped(),
        };
        async move {
            match stopped.await {
                Ok(Some(code)) => WriteEnd::Stopped(reset_code(code)),
                Ok(None) => WriteEnd::Closed,
                Err(_) => WriteEnd::Lost,
            }
        }
    }

    fn reset_now(&mut self, code: ResetCode) {
        self.state = SendState::Ended;
        match &mut self.carrier {
            SendCarrier::Quic(stream) => ignore_already_over(stream.reset(var_int(code))),
        }
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if self.state == SendState::Open {
            self.reset_now(self.drop_code.get());
        }
    }
}

#[derive(Debug)]
enum RecvCarrier {
    // The connection is kept because a lost one is not visible on a stream that still holds unread data.
    Quic { stream: quinn::RecvStream, connection: quinn::Connection },
}

#[derive(Debug)]
enum RecvState {
    Open,
    /// The connection is gone, but everything up to the FIN had arrived: this is the rest, then FIN.
    Rest(VecDeque<Bytes>),
    Ended(End),
}

/// The half the peer writes.
#[derive(Debug)]
pub struct RecvHalf {
    window: Option<ReceiveWindow>,
    carrier: RecvCarrier,
    drop_code: DropCode,
    state: RecvState,
}

/// What stands at the head of a received stream.
enum Head {
    Data,
    End(End),
}

impl RecvHalf {
    /// Reads into `buf`, which must not be empty. Cancel-safe: a pending read has taken nothing.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Read> {
        debug_assert!(!buf.is_empty(), "a read into an empty buffer would look like an end");
        match &mut self.state {
            RecvState::Ended(end) => Poll::Ready(Read::End(*end)),
            RecvState::Rest(rest) => {
                let mut free = &mut buf[..];
                let read = read_rest(rest, free.len(), |part| free.put_slice(part));
                Poll::Ready(if read == 0 { self.ended(End::Fin) } else { Read::Data(read) })
            }
            RecvState::Open => {
                let RecvCarrier::Quic { stream, .. } = &mut self.carrier;
                Poll::Ready(match ready!(stream.poll_read(cx, buf)) {
                    Ok(0) => self.ended(End::Fin),
                    Ok(read) => Read::Data(read),
                    Err(error) => self.ended(read_end(&error)),
                })
            }
        }
    }

    /// Appends to `buf`, within its capacity, of which some must be left. Cancel-safe: a pending read has taken nothing.
    pub fn poll_read_buf(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<Read> {
        debug_assert!(buf.len() < buf.capacity(), "a read into a full buffer would look like an end");
        match &mut self.state {
            RecvState::Ended(end) => Poll::Ready(Read::End(*end)),
            RecvState::Rest(rest) => {
                let read = read_rest(rest, buf.capacity() - buf.len(), |part| buf.extend_from_slice(part));
                Poll::Ready(if read == 0 { self.ended(End::Fin) } else { Read::Data(read) })
            }
            RecvState::Open => {
                let RecvCarrier::Quic { stream, .. } = &mut self.carrier;
                Poll::Ready(match ready!(poll_read_buf(Pin::new(stream), cx, buf)) {
                    Ok(0) => self.ended(End::Fin),
                    Ok(read) => Read::Data(read),
                    // quinn wraps its own error; anything else cannot be.
                    Err(error) => self.ended(error.downcast().map_or(End::Lost, |error| read_end(&error))),
                })
            }
        }
    }

    /// Reads into `buf`, which must not be empty. Cancel-safe.
    pub async fn read(&mut self, buf: &mut [u8]) -> Read {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Nothing is read until the result is dropped; `None` where nobody counts.
    #[must_use]
    pub fn stall(&self) -> Option<Stall> {
        self.window.as_ref().map(ReceiveWindow::stall)
    }

    /// Tells the peer that the rest is not wanted.
    pub fn stop(mut self, code: ResetCode) {
        self.stop_now(code);
    }

    /// Changes what is said when the half is dropped without an end.
    pub fn set_drop_code(&mut self, code: ResetCode) {
        self.drop_code = DropCode::Own(code);
    }

    /// Resolves when the stream was reset or its connection is gone, *without reading*: for whoever cannot take data right now.
    /// Takes no data. Cancel-safe. Never resolves with [`End::Fin`]: once everything has arrived, no reset can follow.
    ///
    /// When the connection is lost after everything up to the FIN has arrived, nothing is lost: it stays pending, and reads
    /// bring the rest.
    ///
    /// quinn's own `received_reset` is not used: it leaves a waker behind when the FIN has already arrived, which is never
    /// removed (and fails a debug assertion when the stream is dropped). So while unread data hides the end, this looks again
    /// after 5 ms, then twice as long each time up to 320 ms; with nothing unread it is woken at once.
    pub async fn reset_received(&mut self) -> End {
        let mut pause = FIRST_LOOK;
        loop {
            match poll_fn(|cx| self.poll_head(cx)).await {
                Head::End(End::Fin) => pending().await,
                Head::End(end) => return end,
                Head::Data => {}
            }
            let RecvCarrier::Quic { connection, .. } = &self.carrier;
            match tokio::time::timeout(pause, connection.closed()).await {
                Ok(_) => self.settle(),
                Err(_) => pause = (pause * 2).min(LONGEST_LOOK),
            }
        }
    }

    /// Ready as soon as there is data or an end; takes no data.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Head> {
        match &self.state {
            RecvState::Ended(end) => return Poll::Ready(Head::End(*end)),
            RecvState::Rest(_) => return Poll::Ready(Head::End(End::Fin)),
            RecvState::Open => {}
        }
        let RecvCarrier::Quic { stream, .. } = &mut self.carrier;
        // A chunk of at most no bytes is an empty one when there is data, and leaves the data there.
        let end = match ready!(pin!(stream.read_chunk(0, true)).poll(cx)) {
            Ok(Some(_)) => return Poll::Ready(Head::Data),
            Ok(None) => End::Fin,
            Err(error) => read_end(&error),
        };
        self.ended(end);
        Poll::Ready(Head::End(end))
    }

    /// The connection is gone: takes what had arrived (at most the stream's window), to know whether it is complete.
    fn settle(&mut self) {
        if !matches!(self.state, RecvState::Open) {
            return;
        }
        let RecvCarrier::Quic { stream, .. } = &mut self.carrier;
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut rest = VecDeque::new();
        loop {
            match pin!(stream.read_chunk(usize::MAX, true)).poll(&mut cx) {
                Poll::Ready(Ok(Some(chunk))) => rest.push_back(chunk.bytes),
                Poll::Ready(Ok(None)) => {
                    self.state = RecvState::Rest(rest);
                    return;
                }
                Poll::Ready(Err(error)) => {
                    self.state = RecvState::Ended(read_end(&error));
                    return;
                }
                // Cannot be: a stream of a lost connection has data, an end or an error.
                Poll::Pending => {
                    self.state = RecvState::Ended(End::Lost);
                    return;
                }
            }
        }
    }

    fn ended(&mut self, end: End) -> Read {
        self.state = RecvState::Ended(end);
        Read::End(end)
    }

    fn stop_now(&mut self, code: ResetCode) {
        if matches!(self.state, RecvState::Open) {
            let RecvCarrier::Quic { stream, .. } = &mut self.carrier;
            ignore_already_over(stream.stop(var_int(code)));
            self.state = RecvState::Ended(End::Lost);
        }
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        self.stop_now(self.drop_code.get());
    }
}

/// Takes at most `room` bytes off `rest`, piece by piece; how many.
fn read_rest(rest: &mut VecDeque<Bytes>, room: usize, mut take: impl FnMut(&[u8])) -> usize {
    let mut read = 0;
    while let Some(chunk) = rest.front_mut() {
        let part = chunk.split_to(chunk.len().min(room - read));
        take(&part);
        read += part.len();
        if chunk.has_remaining() {
            break;
        }
        rest.pop_front();
    }
    read
}

/// Ending a half, or having it go first, fails only when the stream is over already, which is as good.
fn ignore_already_over(result: Result<(), quinn::ClosedStream>) {
    if result.is_err() {
        tracing::trace!("the stream was over already");
    }
}

fn read_end(error: &quinn::ReadError) -> End {
    match error {
        quinn::ReadError::Reset(code) => End::Reset(reset_code(*code)),
        // The last three cannot be: nothing reads after a stop or unordered, and 0-RTT is off.
        quinn::ReadError::ConnectionLost(_)
        | quinn::ReadError::ClosedStream
        | quinn::ReadError::IllegalOrderedRead
        | quinn::ReadError::ZeroRttRejected => End::Lost,
    }
}

fn write_end(error: quinn::WriteError) -> WriteEnd {
    match error {
        quinn::WriteError::Stopped(code) => WriteEnd::Stopped(reset_code(code)),
        quinn::WriteError::ClosedStream => WriteEnd::Closed,
        quinn::WriteError::ConnectionLost(_) | quinn::WriteError::ZeroRttRejected => WriteEnd::Lost,
    }
}

/// Closes a connection; what is said goes to the peer.
pub fn close(connection: &quinn::Connection, code: ResetCode, reason: &str) {
    connection.close(var_int(code), reason.as_bytes());
}

/// A code beyond QUIC's 62 bits cannot be said: the peer gets the unspecified one.
fn var_int(code: ResetCode) -> VarInt {
    VarInt::from_u64(code.0).unwrap_or_default()
}

fn reset_code(code: VarInt) -> ResetCode {
    ResetCode(code.into_inner())
}

#[cfg(test)]
mod tests;
