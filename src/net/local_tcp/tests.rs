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
    soon(poll_fn(|cx| source.poll_read_buf(cx, &mut BytesMut::with_capacity(1024)))).await
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
    sink.write_bytes(Bytes::from_static(b"answer")).await.unwrap();
    sink.finish();
    assert_eq!(application_reads(&mut application).await, (b"answer".to_vec(), Ok(())));
}

#[tokio::test]
async fn a_half_dropped_without_an_end_resets_and_wakes_the_other() {
    let (mut application, ours) = connection().await;
    let (mut source, sink) = split(ours);
    let mut reading = pin!(poll_fn(|cx| source.poll_read_buf(cx, &mut BytesMut::with_capacity(8))));
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
    let chunk = Bytes::from(vec![0; 64 * 1024]);
    let written = soon(async {
        let mut source = Some(source);
        loop {
            match tokio::time::timeout(Duration::from_millis(50), sink.write_bytes(chunk.clone())).await {
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
            if let Err(end) = sink.write_bytes(Bytes::from_static(b"x")).await {
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
            if let Err(end) = sink.write_bytes(Bytes::from_static(b"x")).await {
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
    sink.write_bytes(Bytes::from_static(b"answer")).await.unwrap();
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

fn spawn_pumps(pumps: &mut JoinSet<(&'static str, PumpEnd)>, names: [&'static str; 2], tcp: TcpStream, quic: BiStream) {
    const CODES: PumpCodes<fn(ResetCode) -> ResetCode> =
        PumpCodes { map: |code| code, lost: ResetCode::RESUMABLE, limit: ResetCode::LIMIT };
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

#[tokio::test]
async fn a_peer_that_has_vanished_is_noticed_within_two_minutes() {
    let (_application, ours) = connection().await;
    let socket = SockRef::from(&ours);
    assert!(!socket.keepalive().unwrap());
    tune(&ours);
    assert!(socket.keepalive().unwrap() && ours.nodelay().unwrap());
    let asked = socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
    assert_eq!(socket.tcp_keepalive_time().unwrap() + asked, Duration::from_secs(120));
}
