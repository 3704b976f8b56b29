//! A local TCP connection as a [`Source`] and a [`Sink`], so that an agent pumps between an application's socket and a stream.
//!
//! TCP says less than QUIC: a FIN per direction, and one RST for both. So:
//!
//! | stream | TCP |
//! |---|---|
//! | FIN | `shutdown(Write)`; an EOF that was read |
//! | reset of the sink | RST, which cuts the other direction too: the source then reads [`End::Reset`] |
//! | RST received | source: [`End::Reset`], sink: [`WriteEnd::Stopped`], both with [`ResetCode::APPLICATION`] |
//! | stop of the source | not sayable: nothing is read any more, the sink goes on; the close that follows is an RST |
//! | a half dropped without an end | as a reset of the sink |
//!
//! **The close** happens when both halves are gone. It is orderly only if the source read its EOF *and* the sink was finished; else it is
//! an RST (linger zero). After a stop this discards what the peer has not acknowledged yet: the same happens to any
//! TCP server that closes with unread input.
//!
//! **A cut** by one half must not wait for the other: a cancellation token wakes it out of whatever it waits for. In a pump it then ends
//! at once, and the RST leaves with the last of them.
//!
//! **An EOF may be a lie.** The kernel reports a received RST once, to whichever call comes first; after that, reads return 0 as if a FIN had
//! come. When the *sink's* write takes the error, the source would take the cut for a clean end. So the error is taken and recorded
//! under one lock, and the source consults the record (under the same lock) before it believes an EOF. The error also says which it was: `EPIPE`
//! when the RST followed a FIN (a peer that closed everything after its last byte: its EOF is true, and what is still
//! unread is delivered), anything else for a cut.

use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::core::reject::ResetCode;
use crate::net::pump::{Sink, Source};
use crate::net::stream::{End, Read, WriteEnd};

const CUT: End = End::Reset(ResetCode::APPLICATION);
const STOPPED: WriteEnd = WriteEnd::Stopped(ResetCode::APPLICATION);

/// How long nothing may come of a local peer before it is asked whether it is there; how often it is asked again; and how often in vain
/// before it is taken for gone. A peer that lost its power, or whose way was cut, would otherwise keep its stream for ever.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(6);

/// Sets what a local connection needs, whoever connected: what is written leaves at once, and a peer that is gone is noticed.
pub fn tune(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE) {
        tracing::debug!(%error, "SO_KEEPALIVE");
    }
}

/// Splits a connection into its two directions. The source must be read or dropped, the sink finished or dropped.
#[must_use]
pub fn split(stream: TcpStream) -> (TcpSource, TcpSink) {
    let socket = Arc::new(Socket {
        stream,
        cut: CancellationToken::new(),
        state: Mutex::new(State { peer: Peer::Alive, eof: false, finished: false }),
    });
    let wait = || Box::pin(socket.cut.clone().cancelled_owned());
    let source = TcpSource { cut: wait(), socket: socket.clone(), end: None };
    let sink = TcpSink { cut: wait(), socket: socket.clone(), ended: SinkState::Open };
    (source, sink)
}

/// What the kernel has told about the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Alive,
    /// It closed both directions after its FIN: what it sent is complete.
    GoneAfterFin,
    /// It reset the connection, or cannot be reached any more.
    Cut,
}

#[derive(Debug)]
struct State {
    peer: Peer,
    eof: bool,
    finished: bool,
}

impl State {
    /// Only the first error tells anything: after it, every write fails with `EPIPE`.
    fn record(&mut self, error: &io::Error) {
        if self.peer == Peer::Alive {
            let after_fin = error.kind() == io::ErrorKind::BrokenPipe;
            self.peer = if after_fin { Peer::GoneAfterFin } else { Peer::Cut };
        }
    }
}

#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    cut: CancellationToken,
    state: Mutex<State>,
}

impl Socket {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and a half-changed state cannot be.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One write; an error is recorded before the other half can see what it left behind.
    fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        let mut state = self.state();
        let result = self.stream.try_write(buf);
        if let Err(error) = &result
            && !is_transient(error)
        {
            state.record(error);
        }
        result
    }

    /// What a read of 0 bytes means.
    fn eof(&self) -> End {
        let mut state = self.state();
        if state.peer == Peer::Cut || self.cut.is_cancelled() {
            return CUT;
        }
        state.eof = true;
        End::Fin
    }

    /// Waits until the kernel has told an error of the connection, without reading or writing.
    async fn peer_gone(&self) -> Peer {
        let ready = self.stream.ready(Interest::ERROR).await;
        let mut state = self.state();
        match ready.and_then(|_| self.stream.take_error()) {
            Ok(Some(error)) | Err(error) => state.record(&error),
            // A read or a write took it before. A read would have ended the source; a write has recorded it.
            Ok(None) if state.peer == Peer::Alive => state.peer = Peer::Cut,
            Ok(None) => {}
        }
        state.peer
    }

    /// Cuts both directions, unless the peer is gone anyway: then the other half is told by the kernel, and may have a true
    /// end still to read.
    fn cut(&self) {
        if self.state().peer == Peer::Alive {
            self.cut.cancel();
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !(state.eof && state.finished)
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::debug!(%error, "a local socket could not be set to close with a reset");
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// What the application sends.
#[derive(Debug)]
pub struct TcpSource {
    socket: Arc<Socket>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    end: Option<End>,
}

impl TcpSource {
    /// As [`Source::poll_read_buf`], but no more than `most` bytes, which must not be 0.
    pub fn poll_read_at_most(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut, most: usize) -> Poll<Read> {
        if let Some(end) = self.end {
            return Poll::Ready(Read::End(end));
        }
        loop {
            if self.socket.cut.is_cancelled() {
                return self.ended(CUT);
            }
            match self.socket.stream.poll_read_ready(cx) {
                Poll::Pending if self.cut.as_mut().poll(cx).is_ready() => return self.ended(CUT),
                Poll::Pending => return Poll::Pending,
                // The runtime is shutting down.
                Poll::Ready(Err(_)) => return self.ended(End::Lost),
                Poll::Ready(Ok(())) => {}
            }
            match self.socket.stream.try_read_buf(&mut (&mut *buf).limit(most)) {
                Ok(0) => {
                    let end = self.socket.eof();
                    return self.ended(end);
                }
                Ok(read) => return Poll::Ready(Read::Data(read)),
                Err(error) if is_transient(&error) => {}
                Err(error) => {
                    self.socket.state().record(&error);
                    return self.ended(CUT);
                }
            }
        }
    }

    fn ended(&mut self, end: End) -> Poll<Read> {
        self.end = Some(end);
        Poll::Ready(Read::End(end))
    }
}

impl Source for TcpSource {
    fn poll_read_buf(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<Read> {
        self.poll_read_at_most(cx, buf, usize::MAX)
    }

    async fn reset_received(&mut self) -> End {
        match self.end {
            Some(End::Fin) => pending().await,
            Some(end) => end,
            None => {
                tokio::select! {
                    () = self.socket.cut.cancelled() => {}
                    () = peer_cut(&self.socket) => {}
                }
                self.end = Some(CUT);
                CUT
            }
        }
    }

    fn stop(mut self, _code: ResetCode) {
        // Nothing can be said on TCP but an RST, and that would cut what the sink still writes. `eof` stays false: the close is an RST.
        self.end = Some(End::Lost);
    }
}

/// Resolves when what the peer sent is incomplete; never when it closed after its FIN.
async fn peer_cut(socket: &Socket) {
    if socket.peer_gone().await == Peer::GoneAfterFin {
        pending::<()>().await;
    }
}

impl Drop for TcpSource {
    fn drop(&mut self) {
        if self.end.is_none() {
            self.socket.cut();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SinkState {
    Open,
    Ended,
}

/// What the application receives.
#[derive(Debug)]
pub struct TcpSink {
    socket: Arc<Socket>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: SinkState,
}

impl TcpSink {
    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize, WriteEnd>> {
        loop {
            if self.socket.cut.is_cancelled() {
                return Poll::Ready(Err(STOPPED));
            }
            match self.socket.stream.poll_write_ready(cx) {
                Poll::Pending if self.cut.as_mut().poll(cx).is_ready() => {
                    return Poll::Ready(Err(STOPPED));
                }
                Poll::Pending => return Poll::Pending,
                // The runtime is shutting down.
                Poll::Ready(Err(_)) => return Poll::Ready(Err(WriteEnd::Lost)),
                Poll::Ready(Ok(())) => {}
            }
            match self.socket.try_write(buf) {
                Ok(written) => return Poll::Ready(Ok(written)),
                Err(error) if is_transient(&error) => {}
                Err(_) => return Poll::Ready(Err(STOPPED)),
            }
        }
    }
}

impl Sink for TcpSink {
    async fn write_bytes(&mut self, mut bytes: Bytes) -> Result<(), WriteEnd> {
        while !bytes.is_empty() {
            let written = poll_fn(|cx| self.poll_write(cx, &bytes)).await?;
            bytes.advance(written);
        }
        Ok(())
    }

    /// Unlike QUIC, TCP does not tell when everything was acknowledged: after a finish it resolves only when the peer is gone.
    fn stopped(&self) -> impl Future<Output = WriteEnd> + Send + 'static {
        let socket = self.socket.clone();
        async move {
            tokio::select! {
                () = socket.cut.cancelled() => {}
                _ = socket.peer_gone() => {}
            }
            STOPPED
        }
    }

    fn finish(mut self) {
        self.ended = SinkState::Ended;
        match SockRef::from(&self.socket.stream).shutdown(Shutdown::Write) {
            Ok(()) => self.socket.state().finished = true,
            // The peer has reset the connection: the source tells.
            Err(error) => tracing::debug!(%error, "a local socket could not be finished"),
        }
    }

    fn reset(mut self, _code: ResetCode) {
        self.ended = SinkState::Ended;
        self.socket.cut();
    }
}

impl Drop for TcpSink {
    fn drop(&mut self) {
        if self.ended == SinkState::Open {
            self.socket.cut();
        }
    }
}

#[cfg(test)]
mod tests;
