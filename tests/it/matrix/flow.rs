//! One TCP stream from a client at the consumer's agent to an echo behind the provider's, every byte of it checked in
//! both directions: a byte lost, doubled, changed or cut off cannot hide.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::harness::noise;

/// A prime: a block that is lost or doubled does not fit what is expected next.
const PERIOD: usize = 65_521;
pub const CHUNK: usize = 16 << 10;
const SMALL: usize = 64;
/// What a bulk stream has under way: enough to move continuously, little enough that a fault is not hidden behind seconds of queue.
const UNDER_WAY: u64 = 256 << 10;
/// How often a small stream speaks when nobody asks it to.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a write that was under way gets to say how it ended.
const GRACE: Duration = Duration::from_millis(50);

/// The pattern of every stream, each from its own start.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut pattern = noise(11, PERIOD);
    pattern.extend_from_within(..CHUNK);
    pattern
});

/// What stream `number` carries at `at`; at most [`CHUNK`] bytes of it.
pub fn expected(number: u64, at: u64, len: usize) -> &'static [u8] {
    let from = usize::try_from((number * 7_919 + at) % PERIOD as u64).unwrap();
    &PATTERN[from..from + len]
}

/// Whether `got` is what stream `number` carries at `at`.
pub fn check(number: u64, at: u64, got: &[u8]) -> Result<(), String> {
    let fits = got.chunks(CHUNK).scan(at, |at, part| {
        let expected = expected(number, *at, part.len());
        *at += part.len() as u64;
        Some(part == expected)
    });
    if fits.into_iter().all(|fits| fits) { Ok(()) } else { Err(format!("other bytes than sent at {at}")) }
}

/// What the streams do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Four open and silent, until asked.
    Idle,
    /// Two that move without a pause, both ways.
    Bulk,
    /// A hundred with a small question and its answer now and then.
    Small,
    /// One question, one answer, and the end.
    Probe,
}

impl Load {
    /// How many streams.
    pub fn streams(self) -> usize {
        match self {
            Self::Idle => 4,
            Self::Bulk => 2,
            Self::Small => 100,
            Self::Probe => 1,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Bulk => "bulk",
            Self::Small => "small",
            Self::Probe => "probe",
        }
    }
}

/// How a client saw its stream end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// All came back, then the end.
    Complete,
    /// A reset: the stream is known to have failed.
    Reset,
    /// What must never be seen.
    Wrong(String),
}

/// What both ends of one stream know.
#[derive(Debug, Default)]
pub struct Flow {
    number: u64,
    sent: AtomicU64,
    served: AtomicU64,
    echoed: AtomicU64,
    /// The client is to end.
    ending: AtomicBool,
    /// The client has said all that it will.
    finished: AtomicBool,
    /// The client has seen an end, and must not write any more.
    halted: AtomicBool,
    /// Until the service is done with it.
    in_service: AtomicBool,
    wrong: Mutex<Option<String>>,
    poke: Notify,
    moved: Notify,
}

impl Flow {
    /// Bytes that the client has sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Bytes that came back to it.
    pub fn echoed(&self) -> u64 {
        self.echoed.load(Ordering::SeqCst)
    }

    /// Has a silent stream speak.
    pub fn poke(&self) {
        self.poke.notify_one();
    }

    /// Has the stream end, once what is under way has come back.
    pub fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        self.poke();
    }

    pub fn is_in_service(&self) -> bool {
        self.in_service.load(Ordering::SeqCst)
    }

    /// What the service saw that must never be seen.
    pub fn wrong(&self) -> Option<String> {
        self.wrong.lock().unwrap().clone()
    }

    fn expected(&self, at: u64, len: usize) -> &'static [u8] {
        expected(self.number, at, len)
    }

    fn check(&self, at: u64, got: &[u8]) -> Result<(), String> {
        check(self.number, at, got)
    }

    async fn next(&self, load: Load) {
        match load {
            _ if self.ending.load(Ordering::SeqCst) => {}
            Load::Bulk | Load::Probe => {}
            Load::Idle => self.poke.notified().await,
            Load::Small => {
                tokio::time::timeout(PAUSE, self.poke.notified()).await.ok();
            }
        }
    }

    async fn write(&self, mut socket: OwnedWriteHalf, load: Load) -> io::Result<OwnedWriteHalf> {
        let (len, under_way) = if load == Load::Bulk { (CHUNK, UNDER_WAY) } else { (SMALL, 0) };
        socket.write_all(&self.number.to_le_bytes()).await?;
        loop {
            self.next(load).await;
            if self.ending.load(Ordering::SeqCst) && (load != Load::Probe || self.sent() > 0) {
                break;
            }
            if self.halted.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let at = self.sent.fetch_add(len as u64, Ordering::SeqCst);
            socket.write_all(self.expected(at, len)).await?;
            while self.sent() - self.echoed() > under_way {
                self.moved.notified().await;
            }
        }
        self.finished.store(true, Ordering::SeqCst);
        socket.shutdown().await?;
        Ok(socket)
    }

    async fn read(&self, mut socket: OwnedReadHalf) -> End {
        let mut buf = vec![0; CHUNK];
        loop {
            match socket.read(&mut buf).await {
                Ok(0) if self.finished.load(Ordering::SeqCst) && self.echoed() == self.sent() => return End::Complete,
                Ok(0) => return End::Wrong(format!("a clean end after {} of {} bytes", self.echoed(), self.sent())),
                Ok(n) => {
                    if let Err(why) = self.check(self.echoed(), &buf[..n]) {
                        return End::Wrong(format!("the client got {why}"));
                    }
                    self.echoed.fetch_add(n as u64, Ordering::SeqCst);
                    self.moved.notify_one();
                }
                Err(error) if is_reset(&error) => return End::Reset,
                Err(error) => return End::Wrong(error.to_string()),
            }
        }
    }

    async fn run(self: Arc<Self>, addr: SocketAddr, load: Load) -> End {
        let socket = match TcpStream::connect(addr).await {
            Ok(socket) => socket,
            Err(error) if is_reset(&error) => return End::Reset,
            Err(error) => return End::Wrong(error.to_string()),
        };
        socket.set_nodelay(true).ok();
        let (read, write) = socket.into_split();
        let writer = {
            let flow = Arc::clone(&self);
            tokio::spawn(async move { flow.write(write, load).await })
        };
        let end = self.read(read).await;
        self.halted.store(true, Ordering::SeqCst);
        let aborting = writer.abort_handle();
        let end = match end {
            // The kernel tells of a reset once: when a write has heard of it, a read that follows sees an end.
            End::Wrong(_) => match tokio::time::timeout(GRACE, writer).await {
                Ok(Ok(Err(error))) if is_reset(&error) => End::Reset,
                _ => end,
            },
            End::Complete | End::Reset => end,
        };
        aborting.abort();
        end
    }

    /// The other end: sends back what comes.
    async fn serve(&self, mut socket: TcpStream) -> Result<(), String> {
        let mut buf = vec![0; CHUNK];
        loop {
            match socket.read(&mut buf).await {
                Ok(0) if self.finished.load(Ordering::SeqCst) && self.served.load(Ordering::SeqCst) == self.sent() => {
                    socket.shutdown().await.ok();
                    return Ok(());
                }
                Ok(0) => {
                    let served = self.served.load(Ordering::SeqCst);
                    return Err(format!("the service saw a clean end after {served} of {} bytes", self.sent()));
                }
                Ok(n) => {
                    self.check(self.served.load(Ordering::SeqCst), &buf[..n])
                        .map_err(|why| format!("the service got {why}"))?;
                    self.served.fetch_add(n as u64, Ordering::SeqCst);
                    if socket.write_all(&buf[..n]).await.is_err() {
                        return Ok(());
                    }
                }
                Err(_reset) => return Ok(()),
            }
        }
    }
}

pub fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)
}

/// A stream, and its client.
#[derive(Debug)]
pub struct Running {
    pub flow: Arc<Flow>,
    pub client: JoinHandle<End>,
}

/// The service behind the provider's agent, which knows every stream by its number.
#[derive(Debug, Default)]
pub struct Echo {
    flows: Mutex<HashMap<u64, Arc<Flow>>>,
    last: AtomicU64,
}

impl Echo {
    /// Where it listens.
    pub async fn start(self: &Arc<Self>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // Hundreds come at once.
        socket2::SockRef::from(&listener).listen(1024).unwrap();
        let addr = listener.local_addr().unwrap();
        let echo = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(Arc::clone(&echo).serve(socket));
            }
        });
        addr
    }

    /// A new stream through the consumer's agent at `addr`.
    pub fn stream(&self, addr: SocketAddr, load: Load) -> Running {
        let flow = Arc::new(Flow { number: self.last.fetch_add(1, Ordering::SeqCst) + 1, ..Flow::default() });
        self.flows.lock().unwrap().insert(flow.number, Arc::clone(&flow));
        let client = tokio::spawn(Arc::clone(&flow).run(addr, load));
        Running { flow, client }
    }

    pub fn forget(&self, flow: &Flow) {
        self.flows.lock().unwrap().remove(&flow.number);
    }

    async fn serve(self: Arc<Self>, mut socket: TcpStream) {
        socket.set_nodelay(true).ok();
        let mut number = [0; 8];
        // A stream may be cut before it has said who it is.
        if socket.read_exact(&mut number).await.is_err() {
            return;
        }
        let flow = self.flows.lock().unwrap().get(&u64::from_le_bytes(number)).cloned();
        let Some(flow) = flow else { return };
        flow.in_service.store(true, Ordering::SeqCst);
        let served = flow.serve(socket).await;
        if let Err(why) = served {
            flow.wrong.lock().unwrap().get_or_insert(why);
        }
        flow.in_service.store(false, Ordering::SeqCst);
    }
}
