//! The well-behaved neighbour: a consumer and a provider on a thread of their own, which open one stream after the other.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outrelay::core::frame::Frame;
use outrelay::core::identity::AgentUri;
use outrelay::net::framed::write_frame;
use outrelay::net::stream::{BiStream, End, Read};

use super::site::Site;
use crate::harness::{Peer, agent, dial, eventually};

/// Between two opens: it is there all the time, and takes hardly anything.
const BEAT: Duration = Duration::from_millis(5);
/// An open that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Phase {
    Alone = 0,
    Under = 1,
    Over = 2,
}

/// What it saw.
#[derive(Debug, Default)]
pub struct Opens {
    times: [Vec<Duration>; 2],
    pub failures: Vec<String>,
}

impl Opens {
    /// The times of a phase, the shortest first.
    pub fn times(&self, phase: Phase) -> Vec<Duration> {
        let mut times = self.times[phase as usize].clone();
        times.sort();
        times
    }
}

pub struct Neighbour {
    phase: Arc<AtomicUsize>,
    opens: Arc<Mutex<Opens>>,
    thread: std::thread::JoinHandle<()>,
}

impl Neighbour {
    pub fn start(site: &Site) -> Self {
        let (provider, consumer) = (agent(0x91), agent(0x92));
        let (addr, tls) = (site.relay.addr, [site.client(&provider), site.client(&consumer)]);
        let phase = Arc::new(AtomicUsize::new(Phase::Alone as usize));
        let opens = Arc::new(Mutex::new(Opens::default()));
        let (now, seen) = (Arc::clone(&phase), Arc::clone(&opens));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(addr, [provider, consumer], tls, &now, &seen));
        });
        Self { phase, opens, thread }
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as usize, Ordering::SeqCst);
    }

    /// Waits until it has opened as many streams in that phase, well or not.
    pub async fn has_opened(&self, phase: Phase, many: usize) {
        eventually("the neighbour opens streams", || {
            let opens = self.opens.lock().unwrap();
            assert!(!self.thread.is_finished(), "the neighbour gave up");
            (opens.times[phase as usize].len() + opens.failures.len() >= many).then_some(())
        })
        .await;
    }

    pub fn stop(self) -> Opens {
        self.enter(Phase::Over);
        self.thread.join().unwrap();
        std::mem::take(&mut self.opens.lock().unwrap())
    }
}

async fn run(
    addr: SocketAddr,
    [provider, consumer]: [AgentUri; 2],
    [provider_tls, consumer_tls]: [rustls::ClientConfig; 2],
    phase: &AtomicUsize,
    seen: &Mutex<Opens>,
) {
    let mut serving = Peer::over(dial(addr, provider_tls).await.unwrap(), &provider).await;
    serving.hello(&[]).await;
    assert!(matches!(serving.register("neighbour").await, Frame::RegisterAck(_)));
    let mut asking = Peer::over(dial(addr, consumer_tls).await.unwrap(), &consumer).await;
    asking.hello(&[]).await;
    let quic = [serving.quic.clone(), asking.quic.clone()];
    let serve = tokio::spawn(async move {
        loop {
            let (_, stream) = serving.incoming().await;
            tokio::spawn(answer(stream));
        }
    });
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for id in 1.. {
        beat.tick().await;
        // What is begun in one phase counts to it.
        let now = phase.load(Ordering::SeqCst);
        if now == Phase::Over as usize {
            break;
        }
        let opened = tokio::time::timeout(PATIENCE, open(&asking, id)).await;
        let mut seen = seen.lock().unwrap();
        match opened {
            Ok(Ok(took)) => seen.times[now].push(took),
            Ok(Err(why)) => seen.failures.push(why),
            Err(_elapsed) => seen.failures.push(format!("not open within {PATIENCE:?}")),
        }
    }
    serve.abort();
    quic.iter().for_each(|quic| quic.close(0_u32.into(), b"that is all"));
    // The runtime must live until that is said; else the relay would wait for the idle timeout.
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// From OPEN_STREAM to the provider's first byte.
async fn open(asking: &Peer, id: u64) -> Result<Duration, String> {
    let begun = Instant::now();
    let mut stream = asking.open("neighbour", id).await;
    let mut buf = [0; 64];
    let took = match stream.recv.read(&mut buf).await {
        Read::Data(1) if buf[0] == b'!' => begun.elapsed(),
        other => return Err(format!("the answer is {other:?}: {:?}", String::from_utf8_lossy(&buf))),
    };
    stream.send.finish();
    match stream.recv.read(&mut buf).await {
        Read::End(End::Fin) => Ok(took),
        other => Err(format!("the end is {other:?}")),
    }
}

async fn answer(mut stream: BiStream) {
    write_frame(&mut stream.send, &Frame::StreamAccept).await.ok();
    stream.send.write_all(b"!").await.ok();
    stream.send.finish();
    let mut buf = [0; 64];
    while let Read::Data(_) = stream.recv.read(&mut buf).await {}
}
