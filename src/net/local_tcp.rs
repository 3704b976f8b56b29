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

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::core::reject::ResetCode;
use crate::net::pump::{Sink, Source};
use crate::net::stream::{End, Read, WriteEnd};

const CUT: End = End::Reset(ResetCode::APPLICATION);
const STOPPED: WriteEnd = WriteEnd::Stopped(ResetCode::APPLICATION);

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
    fn ended(&mut self, end: End) -> Poll<Read> {
        self.end = Some(end);
        Poll::Ready(Read::End(end))
    }
}

impl Source for TcpSource {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Read> {
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
            match self.socket.stream.try_read(buf) {
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
    async fn write_all(&mut self, mut buf: &[u8]) -> Result<(), WriteEnd> {
        while !buf.is_empty() {
            let written = poll_fn(|cx| self.poll_write(cx, buf)).await?;
            buf = &buf[written..];
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
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;
    use crate::net::harness::{LOOPBACK, Pair, promptly, read_all, soon};
    use crate::net::pump::{PumpCodes, PumpCount, PumpEnd, pump};
    use crate::net::stream::BiStream;

    const APPLICATION: ResetCode = ResetCode::APPLICATION;

    /// An application's end of a connection, and ours.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let application = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (application, listener.accept().await.unwrap().0)
    }

    async fn read(source: &mut TcpSource) -> Read {
        soon(poll_fn(|cx| source.poll_read(cx, &mut [0; 1024]))).await
    }

    /// What the application reads: everything, then an orderly end or an error.
    async fn application_reads(application: &mut TcpStream) -> (Vec<u8>, Result<(), io::ErrorKind>) {
        let mut bytes = Vec::new();
        let result = promptly(application.read_to_end(&mut bytes)).await;
        (bytes, result.map(|_| ()).map_err(|error| error.kind()))
    }

    const RST: Result<(), io::ErrorKind> = Err(io::ErrorKind::ConnectionReset);

    #[tokio::test]
    async fn a_fin_in_each_direction_makes_an_orderly_close() {
        let (mut application, ours) = connection().await;
        let (mut source, mut sink) = split(ours);
        application.write_all(b"request").await.unwrap();
        application.shutdown().await.unwrap();
        assert_eq!(read(&mut source).await, Read::Data(7));
        assert_eq!(read(&mut source).await, Read::End(End::Fin));
        drop(source);
        sink.write_all(b"answer").await.unwrap();
        sink.finish();
        assert_eq!(application_reads(&mut application).await, (b"answer".to_vec(), Ok(())));
    }

    #[tokio::test]
    async fn a_half_dropped_without_an_end_resets_and_wakes_the_other() {
        let (mut application, ours) = connection().await;
        let (mut source, sink) = split(ours);
        let mut reading = pin!(poll_fn(|cx| source.poll_read(cx, &mut [0; 8])));
        assert!(crate::net::harness::is_pending(reading.as_mut()).await);
        drop(sink);
        assert_eq!(promptly(reading).await, Read::End(CUT));
        drop(source);
        assert_eq!(application_reads(&mut application).await.1, RST);

        let (mut application, ours) = connection().await;
        let (source, sink) = split(ours);
        let stopped = sink.stopped();
        drop(source);
        assert_eq!(promptly(stopped).await, STOPPED);
        drop(sink);
        assert_eq!(application_reads(&mut application).await.1, RST);
    }

    #[tokio::test]
    async fn a_dropped_source_wakes_a_blocked_write() {
        let (_application, ours) = connection().await;
        let (source, mut sink) = split(ours);
        let chunk = vec![0; 64 * 1024];
        let written = soon(async {
            let mut source = Some(source);
            loop {
                match tokio::time::timeout(Duration::from_millis(50), sink.write_all(&chunk)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(end)) => return end,
                    Err(_) => drop(source.take()),
                }
            }
        });
        assert_eq!(written.await, STOPPED);
    }

    #[tokio::test]
    async fn a_reset_sink_closes_with_a_reset() {
        let (mut application, ours) = connection().await;
        let (mut source, sink) = split(ours);
        sink.reset(ResetCode::UNSPECIFIED);
        assert_eq!(promptly(source.reset_received()).await, CUT);
        drop(source);
        assert_eq!(application_reads(&mut application).await.1, RST);
    }

    #[tokio::test]
    async fn a_received_reset_is_noticed_by_an_idle_sink_and_by_the_source() {
        let (application, ours) = connection().await;
        let (mut source, sink) = split(ours);
        let stopped = sink.stopped();
        application.set_zero_linger().unwrap();
        drop(application);
        assert_eq!(promptly(stopped).await, STOPPED);
        assert_eq!(read(&mut source).await, Read::End(CUT));
    }

    #[tokio::test]
    async fn a_received_reset_is_noticed_behind_unread_data() {
        let (mut application, ours) = connection().await;
        let (mut source, _sink) = split(ours);
        application.write_all(b"unread").await.unwrap();
        application.set_zero_linger().unwrap();
        drop(application);
        assert_eq!(promptly(source.reset_received()).await, CUT);
    }

    #[tokio::test]
    async fn a_reset_that_a_write_took_is_no_end_of_stream_for_the_reader() {
        let (application, ours) = connection().await;
        let (mut source, mut sink) = split(ours);
        application.set_zero_linger().unwrap();
        drop(application);
        let end = soon(async {
            loop {
                if let Err(end) = sink.write_all(b"x").await {
                    return end;
                }
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(end.await, STOPPED);
        assert_eq!(source.socket.state().peer, Peer::Cut, "the write took the error");
        assert_eq!(read(&mut source).await, Read::End(CUT));
    }

    #[tokio::test]
    async fn what_was_sent_before_an_orderly_close_is_read_though_writes_fail() {
        let (mut application, ours) = connection().await;
        let (mut source, mut sink) = split(ours);
        application.write_all(b"all there is").await.unwrap();
        // Nothing unread on its side: a FIN. Only what we write afterwards is answered by an RST.
        drop(application);
        let end = soon(async {
            loop {
                if let Err(end) = sink.write_all(b"x").await {
                    return end;
                }
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(end.await, STOPPED);
        sink.reset(APPLICATION);
        let looked = tokio::time::timeout(Duration::from_millis(20), source.reset_received());
        assert!(looked.await.is_err(), "nothing is cut");
        assert_eq!(read(&mut source).await, Read::Data(12));
        assert_eq!(read(&mut source).await, Read::End(End::Fin));
    }

    #[tokio::test]
    async fn after_a_stop_the_sink_goes_on_and_the_close_is_a_reset() {
        let (mut application, ours) = connection().await;
        let (source, mut sink) = split(ours);
        application.write_all(b"not wanted").await.unwrap();
        source.stop(APPLICATION);
        sink.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        promptly(application.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"answer");
        // The FIN comes, and then the RST: which of them the application sees is a matter of when it looks.
        sink.finish();
        let refused = soon(async {
            loop {
                if let Err(error) = application.write_all(b"more").await {
                    return error.kind();
                }
                tokio::task::yield_now().await;
            }
        });
        assert!(matches!(refused.await, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe));
    }

    /// An application's socket on each side of a QUIC stream, with both directions of both sides pumped.
    struct Tunnel {
        _pair: Pair,
        left: TcpStream,
        right: TcpStream,
        pumps: JoinSet<(&'static str, PumpEnd)>,
    }

    fn spawn_pumps(
        pumps: &mut JoinSet<(&'static str, PumpEnd)>,
        names: [&'static str; 2],
        tcp: TcpStream,
        quic: BiStream,
    ) {
        const CODES: PumpCodes<fn(ResetCode) -> ResetCode> = PumpCodes { map: |code| code, lost: ResetCode::RESUMABLE };
        let (source, sink) = split(tcp);
        let BiStream { send, recv } = quic;
        let [up, down] = names;
        pumps.spawn(async move { (up, pump(source, send, &PumpCount::default(), CODES).await) });
        pumps.spawn(async move { (down, pump(recv, sink, &PumpCount::default(), CODES).await) });
    }

    async fn tunnel() -> Tunnel {
        let pair = Pair::new().await;
        let (near, far) = pair.stream().await;
        let (left, left_ours) = connection().await;
        let (right, right_ours) = connection().await;
        let mut pumps = JoinSet::new();
        spawn_pumps(&mut pumps, ["left up", "left down"], left_ours, near);
        spawn_pumps(&mut pumps, ["right up", "right down"], right_ours, far);
        Tunnel { _pair: pair, left, right, pumps }
    }

    impl Tunnel {
        async fn all_ended(&mut self) -> Vec<(&'static str, PumpEnd)> {
            let mut ends = Vec::new();
            while let Some(end) = promptly(self.pumps.join_next()).await {
                ends.push(end.unwrap());
            }
            ends
        }
    }

    #[tokio::test]
    async fn a_half_close_goes_through_a_tunnel() {
        let mut tunnel = tunnel().await;
        let request = vec![1; 1_000_000];
        let answer = vec![2; 1_000_000];
        let (left, right) = (&mut tunnel.left, &mut tunnel.right);
        let client = async {
            left.write_all(&request).await.unwrap();
            left.shutdown().await.unwrap();
            let mut got = Vec::new();
            left.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, answer);
        };
        let server = async {
            let mut got = Vec::new();
            right.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, request);
            right.write_all(&answer).await.unwrap();
            right.shutdown().await.unwrap();
        };
        soon(async { tokio::join!(client, server) }).await;
        assert!(tunnel.all_ended().await.iter().all(|(_, end)| *end == PumpEnd::Fin));
    }

    #[tokio::test]
    async fn a_reset_goes_through_a_tunnel_in_both_directions() {
        let mut tunnel = tunnel().await;
        tunnel.left.write_all(b"hello").await.unwrap();
        promptly(tunnel.right.read_exact(&mut [0; 5])).await.unwrap();
        tunnel.left.set_zero_linger().unwrap();
        let Tunnel { _pair, left, mut right, pumps } = tunnel;
        drop(left);
        assert_eq!(application_reads(&mut right).await.1, RST);
        let mut tunnel = Tunnel { _pair, left: right, right: connection().await.0, pumps };
        assert!(tunnel.all_ended().await.iter().all(|(_, end)| *end != PumpEnd::Fin));
    }

    #[tokio::test]
    async fn a_reset_goes_through_a_tunnel_that_is_full() {
        let mut tunnel = tunnel().await;
        let chunk = vec![0; 256 * 1024];
        // The application on the right reads nothing: everything up to the left one fills.
        while tokio::time::timeout(Duration::from_millis(200), tunnel.left.write(&chunk)).await.is_ok() {}
        let Tunnel { _pair, left, mut right, mut pumps } = tunnel;
        left.set_zero_linger().unwrap();
        drop(left);
        let mut ends = Vec::new();
        while let Some(end) = promptly(pumps.join_next()).await {
            ends.push(end.unwrap());
        }
        assert!(ends.contains(&("left up", PumpEnd::SourceReset(APPLICATION))), "{ends:?}");
        assert!(ends.contains(&("right down", PumpEnd::SourceReset(APPLICATION))), "{ends:?}");
        assert_eq!(application_reads(&mut right).await.1, RST);
    }

    #[tokio::test]
    async fn a_cut_stream_resets_the_local_socket() {
        let pair = Pair::new().await;
        let (near, far) = pair.stream().await;
        let (mut left, left_ours) = connection().await;
        let mut pumps = JoinSet::new();
        spawn_pumps(&mut pumps, ["up", "down"], left_ours, near);
        drop(far);
        assert_eq!(application_reads(&mut left).await.1, RST);
    }

    #[tokio::test]
    async fn a_socket_whose_pumps_are_killed_closes_with_a_reset() {
        let pair = Pair::new().await;
        let (near, mut far) = pair.stream().await;
        let (mut left, left_ours) = connection().await;
        let mut pumps = JoinSet::new();
        spawn_pumps(&mut pumps, ["up", "down"], left_ours, near);
        left.write_all(b"x").await.unwrap();
        assert_eq!(soon(far.recv.read(&mut [0; 1])).await, Read::Data(1));
        pumps.abort_all();
        assert_eq!(application_reads(&mut left).await.1, RST);
        assert!(matches!(read_all(&mut far.recv).await.1, End::Reset(_)));
    }
}
