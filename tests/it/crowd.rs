//! Streams of every shape at once, through the project's own agents: that all of them move, for how long they stood still, and
//! that each ends where it was ended, with every byte right.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::harness::{SOON, eventually, soon};
use crate::matrix::ends::Ends;
use crate::matrix::flow::{End, Load, Running};
use crate::survival::raw::{Raw, Side};

/// How often streams are looked at: what is measured is no finer.
const LOOK: Duration = Duration::from_millis(1);
/// What the open direction of a half-closed stream says when it is made to speak.
const WORD: u64 = 1 << 10;

/// How many streams of each shape.
#[derive(Debug, Clone, Copy)]
pub struct Shapes {
    /// They move without a pause, both ways.
    pub bulk: usize,
    /// A small question and its answer now and then.
    pub chats: usize,
    /// Silent until asked.
    pub idle: usize,
    /// One side has said all that it had to say: every second time the client.
    pub half_closed: usize,
}

/// The direction that is left of a stream.
#[derive(Debug)]
struct HalfClosed {
    says: Side,
    hears: Side,
}

/// See the module's documentation.
pub struct Crowd {
    pub bulk: Vec<Running>,
    pub chats: Vec<Running>,
    pub idle: Vec<Running>,
    half_closed: Vec<HalfClosed>,
}

impl HalfClosed {
    async fn open(ends: &Ends, nth: usize) -> Self {
        let Raw { client, served, .. } = Raw::open(ends).await;
        let (mut ends_here, mut goes_on) = if nth.is_multiple_of(2) { (client, served) } else { (served, client) };
        ends_here.say(WORD).await;
        ends_here.finish().await;
        goes_on.hears_the_end().await;
        Self { says: goes_on, hears: ends_here }
    }

    async fn speaks(&mut self) {
        self.says.say(WORD).await;
        self.hears.hear(WORD).await;
    }
}

impl Crowd {
    /// All are open, and have carried something.
    pub async fn open(ends: &Ends, shapes: Shapes) -> Self {
        let many = |load, streams| (0..streams).map(|_| ends.stream(load)).collect();
        let mut crowd = Self {
            bulk: many(Load::Bulk, shapes.bulk),
            chats: many(Load::Small, shapes.chats),
            idle: many(Load::Idle, shapes.idle),
            half_closed: Vec::new(),
        };
        for nth in 0..shapes.half_closed {
            crowd.half_closed.push(HalfClosed::open(ends, nth).await);
        }
        crowd.moves_since(Instant::now()).await;
        crowd
    }

    pub fn len(&self) -> usize {
        self.bulk.len() + self.chats.len() + self.idle.len() + self.half_closed.len()
    }

    /// Those that speak by themselves: bulk, and chats, which pause for 50 ms after each answer.
    pub fn talkers(&self) -> impl Iterator<Item = &Running> {
        self.bulk.iter().chain(&self.chats)
    }

    /// Waits until every stream has carried something that was said after this was called; how long after `since` each did.
    pub async fn moves_since(&mut self, since: Instant) -> Vec<Duration> {
        let (bulk, chats, idle) = (&self.bulk, &self.chats, &self.idle);
        let echoed = moved(bulk.iter().chain(chats).chain(idle), since);
        let spoken = join_all(self.half_closed.iter_mut().map(async |stream| {
            stream.speaks().await;
            since.elapsed()
        }));
        let (mut took, spoken) = tokio::join!(echoed, spoken);
        took.extend(spoken);
        took
    }

    /// Has every stream end: every byte has come out, and then the end.
    pub async fn complete(self) {
        complete(self.bulk.into_iter().chain(self.chats).chain(self.idle)).await;
        for HalfClosed { mut says, mut hears } in self.half_closed {
            says.say(WORD).await;
            says.finish().await;
            hears.hears_the_end().await;
        }
    }
}

/// Waits until every stream has carried something that was sent after this was called; how long after `since` each did.
async fn moved(streams: impl Iterator<Item = &Running>, since: Instant) -> Vec<Duration> {
    let mut left: Vec<_> = streams.map(|stream| (stream, stream.flow.sent())).collect();
    left.iter().for_each(|(stream, _)| stream.flow.poke());
    let mut took = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let now = since.elapsed();
        left.retain(|(stream, mark)| {
            assert!(!stream.client.is_finished(), "a stream has ended");
            let has_moved = stream.flow.echoed() > *mark;
            if has_moved {
                took.push(now);
            }
            !has_moved
        });
        assert!(now < SOON, "{} streams do not move", left.len());
        tokio::time::sleep(LOOK).await;
    }
    took
}

/// Every stream carries something that was sent after this was called.
pub async fn moves(streams: &[Running]) {
    moved(streams.iter(), Instant::now()).await;
}

/// Has every stream end: every byte has come back, and then the end.
pub async fn complete(streams: impl IntoIterator<Item = Running>) {
    let streams: Vec<_> = streams.into_iter().collect();
    streams.iter().for_each(|stream| stream.flow.end());
    for stream in streams {
        assert_eq!(soon("the stream ends", stream.client).await.unwrap(), End::Complete);
        eventually("the service is done with it", || (!stream.flow.is_in_service()).then_some(())).await;
        assert_eq!(stream.flow.wrong(), None);
    }
}

/// The longest time for which one of these streams carried nothing, until `done`.
pub async fn longest_stall(streams: impl IntoIterator<Item = &Running>, done: &AtomicBool) -> Duration {
    let now = Instant::now();
    let mut seen: Vec<_> = streams.into_iter().map(|it| (Arc::clone(&it.flow), it.flow.echoed(), now)).collect();
    let mut longest = Duration::ZERO;
    while !done.load(Ordering::SeqCst) {
        tokio::time::sleep(LOOK).await;
        for (flow, at, since) in &mut seen {
            longest = longest.max(since.elapsed());
            if flow.echoed() != *at {
                (*at, *since) = (flow.echoed(), Instant::now());
            }
        }
    }
    longest
}

/// Opens stream after stream until `done`; each must be served. How many there were, and the longest time that one took.
pub async fn opens(ends: &Ends, done: &AtomicBool) -> (usize, Duration) {
    let (mut opens, mut longest) = (0, Duration::ZERO);
    while !done.load(Ordering::SeqCst) {
        let began = Instant::now();
        let probe = ends.stream(Load::Probe);
        probe.flow.end();
        assert_eq!(soon("a new stream ends", probe.client).await.unwrap(), End::Complete);
        ends.echo.forget(&probe.flow);
        opens += 1;
        longest = longest.max(began.elapsed());
    }
    (opens, longest)
}
