//! Copies one direction of a stream, and passes its end on (performance.md, setting 1; architecture.md §5, invariant 1).
//!
//! A pump owns its source and its sink. Whatever ends it ends both, explicitly; when the pump itself is dropped (its task was killed),
//! the halves' own drop resets and stops them. It waits in one of two places, and watches the other side in both:
//!
//! - for data, holding no block; meanwhile the sink may be stopped, and the stop is passed on at once;
//! - for the sink's window, holding what was read; meanwhile the source may be reset or lost, and that is passed on within milliseconds (at most
//!   320 when it has been blocked for long), so that
//!   a stalled reader does not hide a cut.
//!
//! A FIN is written only after every byte before it was.

use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::core::reject::ResetCode;
use crate::net::block::Block;
use crate::net::receive_window::Stall;
use crate::net::stream::{End, Read, RecvHalf, SendHalf, WriteEnd};

/// How long a write may be blocked before the source is watched. Under load nearly every write blocks for a moment, and watching
/// takes the lock of the source's connection, which is just then busy receiving.
pub const PATIENCE: Duration = Duration::from_millis(5);

/// What a pump reads.
pub trait Source: Send {
    /// As [`RecvHalf::poll_read_buf`].
    fn poll_read_buf(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<Read>;
    /// As [`RecvHalf::reset_received`].
    fn reset_received(&mut self) -> impl Future<Output = End> + Send;
    /// As [`RecvHalf::stall`].
    fn stall(&self) -> Option<Stall> {
        None
    }
    /// As [`RecvHalf::stop`].
    fn stop(self, code: ResetCode);
}

/// What a pump writes.
pub trait Sink: Send {
    /// As [`SendHalf::write_bytes`].
    fn write_bytes(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), WriteEnd>> + Send;
    /// As [`SendHalf::stopped`].
    fn stopped(&self) -> impl Future<Output = WriteEnd> + Send + 'static;
    /// As [`SendHalf::finish`].
    fn finish(self);
    /// As [`SendHalf::reset`].
    fn reset(self, code: ResetCode);
}

impl Source for RecvHalf {
    fn poll_read_buf(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<Read> {
        Self::poll_read_buf(self, cx, buf)
    }
    fn reset_received(&mut self) -> impl Future<Output = End> + Send {
        Self::reset_received(self)
    }
    fn stall(&self) -> Option<Stall> {
        Self::stall(self)
    }
    fn stop(self, code: ResetCode) {
        Self::stop(self, code);
    }
}

impl Sink for SendHalf {
    fn write_bytes(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), WriteEnd>> + Send {
        Self::write_bytes(self, bytes)
    }
    fn stopped(&self) -> impl Future<Output = WriteEnd> + Send + 'static {
        Self::stopped(self)
    }
    fn finish(self) {
        Self::finish(self);
    }
    fn reset(self, code: ResetCode) {
        Self::reset(self, code);
    }
}

/// How many bytes a pump has written; read by others while it runs.
#[derive(Debug, Default)]
pub struct PumpCount(AtomicU64);

impl PumpCount {
    /// Bytes that the sink has taken.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The codes a pump passes on.
#[derive(Clone, Copy, Debug)]
pub struct PumpCodes<M> {
    /// What becomes of the code of a reset or stop on its way through (wire.md §9).
    pub map: M,
    /// What one side is told when the connection of the other is gone.
    pub lost: ResetCode,
    /// What both are told when the stream holds what others need.
    pub limit: ResetCode,
}

/// How a direction ended. What was seen is told; the other side has been told what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PumpEnd {
    /// The source finished, everything was written, and the sink was finished.
    Fin,
    /// The source was reset with this code; the sink was reset.
    SourceReset(ResetCode),
    /// The sink was stopped with this code; the source was stopped.
    SinkStopped(ResetCode),
    /// The source's connection is gone; the sink was reset.
    SourceLost,
    /// The sink's connection is gone; the source was stopped.
    SinkLost,
    /// The sink was not read for longest of all, and both were cut.
    Stalled,
}

impl fmt::Display for PumpEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fin => f.write_str("finished"),
            Self::SourceReset(code) => write!(f, "reset by the sender with {code}"),
            Self::SinkStopped(code) => write!(f, "stopped by the reader with {code}"),
            Self::SourceLost => f.write_str("the sender's connection was lost"),
            Self::SinkLost => f.write_str("the reader's connection was lost"),
            Self::Stalled => f.write_str("cut: the reader stalled for too long"),
        }
    }
}

/// Why a pump goes no further.
enum Halt {
    Source(End),
    Sink(WriteEnd),
    /// Nobody reads the sink, and the source's connection needs what the stream holds.
    Stalled,
}

/// Copies `source` to `sink` until one of them ends. Not cancel-safe: dropping it cuts both.
pub fn pump<M>(
    source: impl Source,
    sink: impl Sink,
    count: impl Deref<Target = PumpCount> + Send,
    codes: PumpCodes<M>,
) -> impl Future<Output = PumpEnd> + Send
where
    M: Fn(ResetCode) -> ResetCode + Send,
{
    pump_behind(None, source, sink, count, codes)
}

/// As [`pump`], behind `head`, which comes from nobody and does not count.
#[allow(
    clippy::manual_async_fn,
    reason = "an `async fn` keeps room for what it is given twice, and every stream has two of these"
)]
pub fn pump_behind<M>(
    head: Option<Bytes>,
    mut source: impl Source,
    mut sink: impl Sink,
    count: impl Deref<Target = PumpCount> + Send,
    codes: PumpCodes<M>,
) -> impl Future<Output = PumpEnd> + Send
where
    M: Fn(ResetCode) -> ResetCode + Send,
{
    async move {
        if let Some(head) = head
            && let Err(halt) = write_chunk(&mut source, &mut sink, head).await
        {
            return pass_on(halt, source, sink, &codes);
        }
        let mut stopped = pin!(sink.stopped());
        let halt = loop {
            let chunk = match poll_fn(|cx| poll_chunk(&mut source, stopped.as_mut(), cx)).await {
                Ok(chunk) => chunk,
                Err(halt) => break halt,
            };
            let len = chunk.len();
            if let Err(halt) = write_chunk(&mut source, &mut sink, chunk).await {
                break halt;
            }
            count.add(len);
            // Two sides that are always ready would keep a runtime thread to themselves.
            tokio::task::consume_budget().await;
        };
        pass_on(halt, source, sink, &codes)
    }
}

fn pass_on<M>(halt: Halt, source: impl Source, sink: impl Sink, codes: &PumpCodes<M>) -> PumpEnd
where
    M: Fn(ResetCode) -> ResetCode,
{
    match halt {
        Halt::Source(End::Fin) => {
            sink.finish();
            PumpEnd::Fin
        }
        Halt::Source(End::Reset(code)) => {
            sink.reset((codes.map)(code));
            PumpEnd::SourceReset(code)
        }
        Halt::Source(End::Lost) => {
            sink.reset(codes.lost);
            PumpEnd::SourceLost
        }
        Halt::Sink(WriteEnd::Stopped(code)) => {
            source.stop((codes.map)(code));
            // The peer asked for it: its own code back (RFC 9000 §3.5).
            sink.reset(code);
            PumpEnd::SinkStopped(code)
        }
        Halt::Stalled => {
            source.stop(codes.limit);
            sink.reset(codes.limit);
            PumpEnd::Stalled
        }
        // Closed cannot be: nothing else ends the pump's own sink.
        Halt::Sink(WriteEnd::Lost | WriteEnd::Closed) => {
            source.stop(codes.lost);
            sink.reset(codes.lost);
            PumpEnd::SinkLost
        }
    }
}

/// Waits for data without holding a block: one is taken for each try, and given back when there was nothing.
fn poll_chunk(
    source: &mut impl Source,
    stopped: Pin<&mut impl Future<Output = WriteEnd>>,
    cx: &mut Context<'_>,
) -> Poll<Result<Bytes, Halt>> {
    let mut block = Block::take();
    match source.poll_read_buf(cx, block.buffer()) {
        Poll::Ready(Read::Data(_)) => Poll::Ready(Ok(block.into_bytes())),
        Poll::Ready(Read::End(end)) => Poll::Ready(Err(Halt::Source(end))),
        Poll::Pending => stopped.poll(cx).map(|end| Err(Halt::Sink(end))),
    }
}

async fn write_chunk(source: &mut impl Source, sink: &mut impl Sink, bytes: Bytes) -> Result<(), Halt> {
    let mut write = pin!(sink.write_bytes(bytes));
    let mut cut_short = pin!(async {
        tokio::time::sleep(PATIENCE).await;
        // It is seldom that a write is blocked for so long, and an idle stream keeps no room for it.
        Box::pin(async {
            let Some(stall) = source.stall() else { return Halt::Source(source.reset_received().await) };
            tokio::select! {
                end = source.reset_received() => Halt::Source(end),
                () = stall.cut() => Halt::Stalled,
            }
        })
        .await
    });
    poll_fn(|cx| match write.as_mut().poll(cx) {
        Poll::Ready(written) => Poll::Ready(written.map_err(Halt::Sink)),
        Poll::Pending => cut_short.as_mut().poll(cx).map(Err),
    })
    .await
}

#[cfg(test)]
mod tests;
