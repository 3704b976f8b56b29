use sha2::{Digest, Sha256};

use super::*;
use crate::net::block::{self, BLOCK};
use crate::net::harness::{DROPPED, Pair, is_pending, promptly, read_all, soon};
use crate::net::stream::BiStream;

const CODE: ResetCode = ResetCode(0x1F4);
const LOST: ResetCode = ResetCode::RESUMABLE;

fn codes() -> PumpCodes<impl Fn(ResetCode) -> ResetCode> {
    PumpCodes { map: |code: ResetCode| ResetCode(code.0 + 1), lost: LOST, limit: ResetCode::LIMIT }
}

/// source (client) → [relay] → sink (client of the other connection), each over its own connection.
struct Line {
    from: Pair,
    to: Pair,
    source: BiStream,
    sink: BiStream,
    relay_source: BiStream,
    relay_sink: BiStream,
}

async fn line() -> Line {
    let (from, to) = (Pair::new().await, Pair::new().await);
    let (source, relay_source) = from.stream().await;
    let (sink, relay_sink) = to.stream().await;
    Line { from, to, source, sink, relay_source, relay_sink }
}

/// Writes until the pump is blocked: everything between is full.
async fn fill(send: &mut SendHalf) {
    let chunk = vec![1; 64 * 1024];
    while tokio::time::timeout(std::time::Duration::from_millis(100), send.write(&chunk))
        .await
        .map(Result::unwrap)
        .is_ok()
    {}
}

#[tokio::test]
async fn eight_mebibytes_arrive_unchanged_and_then_the_fin() {
    let mut line = line().await;
    let bytes: Vec<u8> = (0..8 * 1024 * 1024_u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let count = PumpCount::default();
    let write = async {
        line.source.send.write_all(&bytes).await.unwrap();
        line.source.send.finish();
    };
    let (end, (), (got, got_end)) = soon(async {
        tokio::join!(
            pump(line.relay_source.recv, line.relay_sink.send, &count, codes()),
            write,
            read_all(&mut line.sink.recv)
        )
    })
    .await;
    assert_eq!((end, got_end), (PumpEnd::Fin, End::Fin));
    assert_eq!(count.bytes(), bytes.len() as u64);
    assert_eq!(Sha256::digest(&got), Sha256::digest(&bytes));
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset_with_its_mapped_code() {
    let mut line = line().await;
    let count = PumpCount::default();
    line.source.send.write_all(b"half").await.unwrap();
    let feed = async {
        let mut buf = [0; 4];
        assert_eq!(soon(line.sink.recv.read(&mut buf)).await, Read::Data(4));
        line.source.send.reset(CODE);
        read_all(&mut line.sink.recv).await.1
    };
    let (end, seen) =
        soon(async { tokio::join!(pump(line.relay_source.recv, line.relay_sink.send, &count, codes()), feed) }).await;
    assert_eq!(end, PumpEnd::SourceReset(CODE));
    assert_eq!(seen, End::Reset(ResetCode(CODE.0 + 1)));
}

#[tokio::test]
async fn a_reset_is_passed_on_promptly_while_the_sink_is_blocked() {
    let mut line = line().await;
    let count = PumpCount::default();
    let feed = async {
        fill(&mut line.source.send).await;
        line.source.send.reset(CODE);
    };
    let pumping = pump(line.relay_source.recv, line.relay_sink.send, &count, codes());
    let (end, ()) = soon(async { tokio::join!(pumping, feed) }).await;
    assert_eq!(end, PumpEnd::SourceReset(CODE));
    let reset = End::Reset(ResetCode(CODE.0 + 1));
    assert_eq!(promptly(line.sink.recv.reset_received()).await, reset);
}

#[tokio::test]
async fn a_lost_source_is_passed_on_promptly_while_the_sink_is_blocked() {
    let mut line = line().await;
    let count = PumpCount::default();
    let feed = async {
        fill(&mut line.source.send).await;
        line.from.client.close(0u32.into(), b"");
    };
    let pumping = pump(line.relay_source.recv, line.relay_sink.send, &count, codes());
    let (end, ()) = soon(async { tokio::join!(pumping, feed) }).await;
    assert_eq!(end, PumpEnd::SourceLost);
    assert_eq!(promptly(line.sink.recv.reset_received()).await, End::Reset(LOST));
}

#[tokio::test]
async fn a_stop_is_passed_on_promptly_while_the_source_is_idle() {
    let line = line().await;
    let count = PumpCount::default();
    let pumping = pump(line.relay_source.recv, line.relay_sink.send, &count, codes());
    line.sink.recv.stop(CODE);
    assert_eq!(promptly(pumping).await, PumpEnd::SinkStopped(CODE));
    let stopped = WriteEnd::Stopped(ResetCode(CODE.0 + 1));
    assert_eq!(promptly(line.source.send.stopped()).await, stopped);
}

#[tokio::test]
async fn a_stop_is_passed_on_while_the_sink_is_blocked() {
    let mut line = line().await;
    let count = PumpCount::default();
    let feed = async {
        fill(&mut line.source.send).await;
        line.sink.recv.stop(CODE);
    };
    let pumping = pump(line.relay_source.recv, line.relay_sink.send, &count, codes());
    let (end, ()) = soon(async { tokio::join!(pumping, feed) }).await;
    assert_eq!(end, PumpEnd::SinkStopped(CODE));
    let stopped = WriteEnd::Stopped(ResetCode(CODE.0 + 1));
    assert_eq!(promptly(line.source.send.stopped()).await, stopped);
}

#[tokio::test]
async fn a_lost_sink_stops_an_idle_source() {
    let line = line().await;
    let count = PumpCount::default();
    let pumping = pump(line.relay_source.recv, line.relay_sink.send, &count, codes());
    line.to.client.close(0u32.into(), b"");
    assert_eq!(promptly(pumping).await, PumpEnd::SinkLost);
    assert_eq!(promptly(line.source.send.stopped()).await, WriteEnd::Stopped(LOST));
}

#[tokio::test]
async fn a_dropped_pump_cuts_both_sides() {
    let mut line = line().await;
    let count = PumpCount::default();
    let mut pumping = Box::pin(pump(line.relay_source.recv, line.relay_sink.send, &count, codes()));
    assert!(is_pending(pumping.as_mut()).await);
    drop(pumping);
    assert_eq!(promptly(line.sink.recv.reset_received()).await, End::Reset(DROPPED));
    assert_eq!(promptly(line.source.send.stopped()).await, WriteEnd::Stopped(DROPPED));
}

#[tokio::test]
async fn an_idle_pump_holds_no_buffer() {
    let mut line = line().await;
    let count = PumpCount::default();
    let mut pumping = Box::pin(pump(line.relay_source.recv, line.relay_sink.send, &count, codes()));
    line.source.send.write_all(b"hello").await.unwrap();
    let mut buf = [0; 5];
    let read = soon(async {
        tokio::select! {
            end = pumping.as_mut() => panic!("ended: {end:?}"),
            read = line.sink.recv.read(&mut buf) => read,
        }
    })
    .await;
    assert_eq!(read, Read::Data(5));
    assert!(is_pending(pumping.as_mut()).await);
    // This runtime has one thread, and so have the counts.
    let (taken, pooled) = block::counts();
    assert_eq!(taken, 0);
    assert!(pooled >= 1, "it was given back");
}

/// Whole blocks for ever.
struct Endless;

impl Source for Endless {
    fn poll_read_buf(&mut self, _: &mut Context<'_>, buf: &mut BytesMut) -> Poll<Read> {
        buf.resize(BLOCK, 7);
        Poll::Ready(Read::Data(BLOCK))
    }
    async fn reset_received(&mut self) -> End {
        std::future::pending().await
    }
    fn stop(self, _: ResetCode) {}
}

/// Keeps what is written until so much more has been, as QUIC does until it is acknowledged; ends after so many writes.
struct Unacknowledged {
    held: std::collections::VecDeque<Bytes>,
    left: usize,
}

impl Sink for Unacknowledged {
    async fn write_bytes(&mut self, bytes: Bytes) -> Result<(), WriteEnd> {
        if self.held.len() == self.held.capacity() {
            self.held.pop_front();
        }
        self.held.push_back(bytes);
        self.left -= 1;
        if self.left == 0 { Err(WriteEnd::Lost) } else { Ok(()) }
    }
    fn stopped(&self) -> impl Future<Output = WriteEnd> + Send + 'static {
        std::future::pending()
    }
    fn finish(self) {}
    fn reset(self, _: ResetCode) {}
}

#[tokio::test]
async fn in_steady_state_nothing_is_allocated_per_chunk() {
    let run = |chunks: usize| {
        let count = PumpCount::default();
        let sink = Unacknowledged { held: std::collections::VecDeque::with_capacity(32), left: chunks };
        let allocated = allocation_counter::measure(|| {
            // One poll is enough: neither side ever waits, and nobody makes it share the thread.
            let pumping = tokio::task::unconstrained(pump(Endless, sink, &count, codes()));
            assert_eq!(futures_util::FutureExt::now_or_never(pumping), Some(PumpEnd::SinkLost));
        });
        assert_eq!(count.bytes(), ((chunks - 1) * BLOCK) as u64);
        allocated.count_total
    };
    run(100);
    assert_eq!(run(10_000), run(100), "ten thousand chunks cost no more allocations than a hundred");
}
