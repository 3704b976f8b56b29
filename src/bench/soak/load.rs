//! So many streams at any moment: each that ends is followed by another.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::flow::{Broken, Flow, Pace, Shape};
use super::pattern::{HEAD, NUMBERS, Pattern};
use super::tally::{Ended, Stalls, Tally};

/// How long a stream lives.
const LIFE_MS: std::ops::Range<u64> = 2_000..20_000;
/// How long a stream whose time is over may take to end: more than the agents look for another path.
pub const ENDING: Duration = Duration::from_secs(45);
/// Before an open that came to nothing is tried again.
const AGAIN: Duration = Duration::from_millis(200);
/// Bytes that a bulk stream says at a time.
const BULK_BYTES: u32 = 8 << 10;

/// How much there is to do.
#[derive(Debug, Clone, Copy)]
pub struct Volume {
    /// Streams at any moment.
    pub streams: usize,
    /// What bulk streams move together, both ways, in bytes a second.
    pub bytes_per_second: u32,
    /// Decides what is left to chance.
    pub seed: u64,
}

/// Clients, and the service.
#[derive(Debug)]
pub struct Load {
    volume: Volume,
    bulk: Pace,
    next: AtomicU64,
    live: Mutex<HashMap<u64, Arc<Flow>>>,
    tally: Mutex<Tally>,
    stalls: Mutex<Stalls>,
    closing: watch::Sender<bool>,
}

impl Load {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(volume: Volume) -> Arc<Self> {
        let bulk = (0..volume.streams).filter(|turn| Shape::of(*turn) == Shape::Bulk).count();
        // Two directions each. Below 2^32, as the rate is.
        let ways = u32::try_from(bulk * 2).unwrap_or(u32::MAX).max(1);
        let every = Duration::from_secs(1) * BULK_BYTES * ways / volume.bytes_per_second.max(1);
        Arc::new(Self {
            volume,
            bulk: Pace { bytes: BULK_BYTES as usize, every },
            next: AtomicU64::new(1),
            live: Mutex::default(),
            tally: Mutex::default(),
            stalls: Mutex::default(),
            closing: watch::Sender::new(false),
        })
    }

    /// Plays the service on `listener`, for ever.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut serving = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((socket, _)) => { serving.spawn(Arc::clone(&self).serve_one(socket)); }
                    // No descriptor, for one: it passes.
                    Err(_) => sleep(AGAIN).await,
                },
                Some(_) = serving.join_next() => {}
            }
        }
    }

    /// Plays the clients, at the consumer's agent, until [`Self::close`] is called and all streams have ended.
    pub async fn call(self: Arc<Self>, agent: SocketAddr) {
        let mut calling = JoinSet::new();
        for turn in 0..self.volume.streams {
            calling.spawn(Arc::clone(&self).client(turn, agent));
        }
        while calling.join_next().await.is_some() {}
    }

    /// Every stream ends, and none follows.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Looks at every stream for how long it stood still since the last look.
    pub fn look(&self) {
        let found: Vec<Arc<Flow>> = locked(&self.live).values().cloned().collect();
        found.iter().for_each(|flow| self.add_stall(flow));
    }

    fn add_stall(&self, flow: &Flow) {
        let stall = flow.up.stood_still().max(flow.down.stood_still());
        if let Some(stall) = stall.filter(|_| flow.has_begun()) {
            locked(&self.stalls).add(stall);
        }
    }

    /// What came of the streams that have ended.
    #[must_use]
    pub fn tally(&self) -> Tally {
        locked(&self.tally).clone()
    }

    /// How long streams stood still.
    pub fn stalls(&self) -> MutexGuard<'_, Stalls> {
        locked(&self.stalls)
    }

    /// Streams that live now.
    #[must_use]
    pub fn live(&self) -> usize {
        locked(&self.live).len()
    }

    async fn client(self: Arc<Self>, turn: usize, agent: SocketAddr) {
        let mut rng = StdRng::seed_from_u64(self.volume.seed.wrapping_add(turn as u64));
        while !*self.closing.borrow() {
            let life = Duration::from_millis(rng.random_range(LIFE_MS));
            let number = self.next.fetch_add(2, Ordering::Relaxed) % NUMBERS;
            let until = Instant::now() + life;
            let flow = Flow::new(number, Shape::of(turn), self.bulk, until, self.closing.subscribe());
            locked(&self.live).insert(number, Arc::clone(&flow));
            let ended = run(&flow, agent, life + ENDING).await;
            locked(&self.live).remove(&number);
            self.add_stall(&flow);
            locked(&self.tally).add(&flow, &ended);
            if let Ended::Broken(broken) = &ended {
                tracing::error!(stream = number, shape = flow.shape.name(), %broken, "a stream has failed");
            }
            if ended != Ended::Whole {
                sleep(AGAIN).await;
            }
        }
    }

    async fn serve_one(self: Arc<Self>, mut socket: TcpStream) {
        socket.set_nodelay(true).ok();
        let mut head = [0; HEAD];
        // A connection that says nothing belongs to an open that was made again.
        let heard = timeout(ENDING, socket.read_exact(&mut head)).await;
        if !matches!(heard, Ok(Ok(_))) {
            return;
        }
        let Some(pattern) = Pattern::that_begins(&head) else {
            locked(&self.tally).add_foreign();
            return;
        };
        let flow = locked(&self.live).get(&pattern.number()).cloned();
        if let Some(flow) = flow {
            flow.serve(&mut socket, &head).await;
        }
    }
}

/// One stream from its beginning to its end at both sides.
async fn run(flow: &Flow, agent: SocketAddr, within: Duration) -> Ended {
    let Ok(mut socket) = TcpStream::connect(agent).await else { return Ended::Refused };
    socket.set_nodelay(true).ok();
    let called = timeout(within, flow.call(&mut socket)).await.unwrap_or(Err(Broken::NoEnd(within)));
    if called.is_err() && !flow.has_begun() {
        return Ended::Refused;
    }
    if called.is_err() {
        drop(socket);
    }
    match called.and(flow.served(ENDING).await) {
        Ok(()) => Ended::Whole,
        Err(broken) => Ended::Broken(broken),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
