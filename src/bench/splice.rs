//! Payload through spliced streams, every byte of it checked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::agent::{Agent, end_text, finished};
use super::failure::{Failure, Failures, Step};
use super::figures::{Figure, Figures};
use super::load::Phase;
use super::payload::{BLOCK, Payload};
use super::process::Window;
use super::provider::Provider;
use super::report::Run;
use super::site::{Site, Use};
use super::{Direction, GRACE, Plan, STREAMS_PER_CONSUMER};
use crate::net::stream::{BiStream, End, Read, RecvHalf, SendHalf};

/// How many streams, and what is done with them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) streams: u32,
    pub(super) direction: Direction,
    pub(super) write_bytes: usize,
}

/// What the two ends of all streams share.
#[derive(Debug)]
struct Transfer {
    shape: Shape,
    phase: Phase,
    received: AtomicU64,
    ledger: Mutex<BTreeMap<(u64, Way), Booked>>,
}

/// One direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Up,
    Down,
}

/// What one end of a direction sent in all, and the other received.
#[derive(Clone, Copy, Debug, Default)]
struct Booked {
    sent: Option<u64>,
    received: Option<u64>,
}

pub(super) async fn run(plan: &Plan, shape: Shape) -> Result<Run, Failure> {
    let site = &plan.site;
    let transfer = Arc::new(Transfer {
        shape,
        phase: Phase::default(),
        received: AtomicU64::new(0),
        ledger: Mutex::new(BTreeMap::new()),
    });
    let (near, far) = (site.endpoint()?, site.endpoint()?);
    let agent = Agent::provide(site, &far, &site.identity(Use::Provide)?).await?;
    let theirs = Arc::clone(&transfer);
    let provider = Provider::serve(agent, move |id, stream| {
        let theirs = Arc::clone(&theirs);
        async move { theirs.provide(id, stream).await }
    });
    let mut failures = Failures::default();
    let (consumers, streams) = open(site, &near, shape.streams, &mut failures).await?;
    if streams.is_empty() {
        return Ok(Run { figures: Figures::default(), completed: 0, failures });
    }
    let mut ends = JoinSet::new();
    for (id, stream) in streams {
        let ours = Arc::clone(&transfer);
        ends.spawn(async move { ours.consume(id, stream).await });
    }
    let received = || transfer.received.load(Ordering::Relaxed);
    let (window, bytes) = transfer.phase.pass(plan.timing, plan.relay.as_ref(), received).await?;
    gather(&mut ends, &mut failures).await;
    failures.merge(provider.finish().await);
    drop(consumers);
    transfer.settle(&mut failures);
    Ok(Run { figures: figures(&window, bytes), completed: bytes, failures })
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
fn figures(window: &Window, bytes: u64) -> Figures {
    let mut figures = Figures::default();
    let bytes = bytes as f64;
    figures.set(Figure::MbPerS, bytes / 1e6 / window.seconds);
    if let Some(cpu) = window.cpu_seconds {
        figures.set(Figure::CpuSPerGb, cpu / (bytes / 1e9));
        figures.set(Figure::RelayCores, cpu / window.seconds);
    }
    figures.set(Figure::OwnCpuSPerGb, window.own_cpu_seconds / (bytes / 1e9));
    figures
}

/// Opens the streams; those that cannot be opened are counted, and the others carry the load.
async fn open(
    site: &Site,
    endpoint: &quinn::Endpoint,
    streams: u32,
    failures: &mut Failures,
) -> Result<(Vec<Agent>, Vec<(u64, BiStream)>), Failure> {
    let (mut consumers, mut opened) = (Vec::new(), Vec::new());
    for n in 0..streams {
        if n.is_multiple_of(STREAMS_PER_CONSUMER) {
            consumers.push(Agent::connect(site, endpoint, &site.identity(Use::Consume)?).await?);
        }
        let Some(consumer) = consumers.last() else { break };
        let id = site.stream_id();
        match consumer.open_in_time(site, id).await {
            Ok(stream) => opened.push((id, stream)),
            Err(failure) => failures.add(&failure),
        }
    }
    Ok((consumers, opened))
}

/// The consumers' ends, as they come to it; whoever is late has failed.
async fn gather(ends: &mut JoinSet<Result<(), Failure>>, failures: &mut Failures) {
    let deadline = Instant::now() + GRACE;
    loop {
        match timeout_at(deadline, ends.join_next()).await {
            Ok(None) => return,
            Ok(Some(Ok(Ok(())))) => {}
            Ok(Some(Ok(Err(failure)))) => failures.add(&failure),
            Ok(Some(Err(error))) => failures.add(&Failure::of(Step::Transfer)(error)),
            Err(_) => {
                for _ in 0..ends.len() {
                    failures.add(&Failure::new(Step::Transfer, "a stream did not end at the consumer"));
                }
                ends.abort_all();
                return;
            }
        }
    }
}

impl Transfer {
    async fn consume(&self, id: u64, stream: BiStream) -> Result<(), Failure> {
        let BiStream { send, recv } = stream;
        match self.shape.direction {
            Direction::Up => self.one_way(id, Way::Up, send, recv).await,
            Direction::Down => self.other_way(id, Way::Down, send, recv).await,
            Direction::Both => {
                tokio::try_join!(self.send(id, Way::Up, send), self.receive(id, Way::Down, recv)).map(|_| ())
            }
        }
    }

    async fn provide(&self, id: u64, stream: BiStream) -> Result<(), Failure> {
        let BiStream { send, recv } = stream;
        match self.shape.direction {
            Direction::Up => self.other_way(id, Way::Up, send, recv).await,
            Direction::Down => self.one_way(id, Way::Down, send, recv).await,
            Direction::Both => {
                tokio::try_join!(self.send(id, Way::Down, send), self.receive(id, Way::Up, recv)).map(|_| ())
            }
        }
    }

    /// Sends, then waits for the other side to say that it has all.
    async fn one_way(&self, id: u64, way: Way, send: SendHalf, mut recv: RecvHalf) -> Result<(), Failure> {
        self.send(id, way, send).await?;
        finished(&mut recv).await
    }

    /// Receives, then says that it has all.
    async fn other_way(&self, id: u64, way: Way, send: SendHalf, recv: RecvHalf) -> Result<(), Failure> {
        self.receive(id, way, recv).await?;
        send.finish();
        Ok(())
    }

    async fn send(&self, id: u64, way: Way, mut send: SendHalf) -> Result<(), Failure> {
        let mut payload = Payload::new(seed(id, way));
        while !self.phase.is_over() {
            let next = payload.next(self.shape.write_bytes);
            send.write_all(next).await.map_err(Failure::of(Step::Transfer))?;
            // A peer that always has room would keep this thread from the other streams.
            tokio::task::consume_budget().await;
        }
        self.book(id, way, |booked| booked.sent = Some(payload.position()));
        send.finish();
        Ok(())
    }

    async fn receive(&self, id: u64, way: Way, mut recv: RecvHalf) -> Result<(), Failure> {
        let mut payload = Payload::new(seed(id, way));
        let mut buf = vec![0; BLOCK];
        loop {
            match recv.read(&mut buf).await {
                Read::Data(len) => {
                    payload.check(&buf[..len]).map_err(Failure::of(Step::Transfer))?;
                    self.received.fetch_add(len as u64, Ordering::Relaxed);
                }
                Read::End(End::Fin) => {
                    self.book(id, way, |booked| booked.received = Some(payload.position()));
                    return Ok(());
                }
                Read::End(end) => return Err(Failure::new(Step::Transfer, end_text(end))),
            }
        }
    }

    fn book(&self, id: u64, way: Way, entry: impl FnOnce(&mut Booked)) {
        entry(self.ledger.lock().unwrap_or_else(PoisonError::into_inner).entry((id, way)).or_default());
    }

    /// What was sent and what was received must be the same. A direction with one side alone has told its failure.
    fn settle(&self, failures: &mut Failures) {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        for booked in ledger.values() {
            if let Booked { sent: Some(sent), received: Some(received) } = booked
                && sent != received
            {
                failures.add(&Failure::new(Step::Transfer, format!("{sent} bytes were sent, {received} received")));
            }
        }
    }
}

/// Different for every stream and direction, so that bytes of another one are noticed.
fn seed(id: u64, way: Way) -> u64 {
    match way {
        Way::Up => id.rotate_left(32),
        Way::Down => !id.rotate_left(32),
    }
}
