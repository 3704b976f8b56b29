//! One TCP stream through both agents of which the test holds both ends: what each says, and hears, is checked byte for byte
//! by its position, each direction for itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::soon;
use crate::matrix::ends::Ends;
use crate::matrix::flow::{CHUNK, check, expected, is_reset};

/// The streams of this binary, each with bytes of its own.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// One direction of one stream.
#[derive(Debug)]
pub struct Way {
    number: u64,
    said: AtomicU64,
    heard: AtomicU64,
    /// What may be said.
    most: watch::Sender<u64>,
    still: Mutex<Still>,
}

#[derive(Debug)]
struct Still {
    since: Instant,
    longest: Duration,
}

impl Way {
    fn new() -> Arc<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let still = Mutex::new(Still { since: Instant::now(), longest: Duration::ZERO });
        Arc::new(Self {
            number,
            said: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            most: watch::Sender::new(u64::MAX),
            still,
        })
    }

    /// Bytes that the socket at its beginning has taken.
    pub fn said(&self) -> u64 {
        self.said.load(Ordering::SeqCst)
    }

    /// Bytes that came out at its end.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::SeqCst)
    }

    /// For how long nothing came out, at the longest.
    pub fn stood_still(&self) -> Duration {
        self.still.lock().unwrap().longest
    }

    fn hear(&self, bytes: &[u8]) {
        check(self.number, self.heard(), bytes).unwrap();
        self.heard.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        let mut still = self.still.lock().unwrap();
        still.longest = still.longest.max(still.since.elapsed());
        still.since = Instant::now();
    }
}

/// One end of a stream, in the test's hand.
#[derive(Debug)]
pub struct Side {
    mouth: OwnedWriteHalf,
    ear: OwnedReadHalf,
    out: Arc<Way>,
    into: Arc<Way>,
}

impl Side {
    fn new(socket: TcpStream, out: &Arc<Way>, into: &Arc<Way>) -> Self {
        socket.set_nodelay(true).unwrap();
        let (ear, mouth) = socket.into_split();
        Self { mouth, ear, out: Arc::clone(out), into: Arc::clone(into) }
    }

    /// Says so many bytes more.
    pub async fn say(&mut self, bytes: u64) {
        soon("bytes are taken", say(&mut self.mouth, &self.out, bytes)).await;
    }

    /// It says no more.
    pub async fn finish(&mut self) {
        self.mouth.shutdown().await.unwrap();
    }

    /// Hears exactly so many bytes more.
    pub async fn hear(&mut self, bytes: u64) {
        let until = self.into.heard() + bytes;
        let mut buf = vec![0; CHUNK];
        while self.into.heard() < until {
            let most = usize::try_from(until - self.into.heard()).unwrap_or(usize::MAX).min(CHUNK);
            let read = soon("bytes", self.ear.read(&mut buf[..most])).await.unwrap();
            assert!(read > 0, "an end after {} bytes, {until} were to come", self.into.heard());
            self.into.hear(&buf[..read]);
        }
    }

    /// Hears all that was said, then the end, and nothing more.
    pub async fn hears_the_end(&mut self) {
        soon("the end", hear_out(&mut self.ear, &self.into)).await;
        assert_eq!(self.into.heard(), self.into.said(), "the end stands where it was said");
    }

    /// Hears perhaps something more, and then a reset: never an end.
    pub async fn is_reset(&mut self) {
        let mut buf = vec![0; CHUNK];
        loop {
            match soon("a reset", self.ear.read(&mut buf)).await {
                Ok(0) => panic!("a clean end after {} of {} bytes", self.into.heard(), self.into.said()),
                Ok(read) => self.into.hear(&buf[..read]),
                Err(error) if is_reset(&error) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The socket is cut: one that has heard the other's end can tell by what it says.
    pub async fn is_cut(&mut self) {
        let cut = async {
            loop {
                if let Err(error) = self.mouth.write(&[0]).await {
                    assert!(is_reset(&error), "{error}");
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        soon("a reset", cut).await;
    }
}

async fn say(mouth: &mut OwnedWriteHalf, way: &Way, bytes: u64) {
    let (until, mut most) = (way.said() + bytes, way.most.subscribe());
    while way.said() < until {
        let now = *most.wait_for(|most| *most > way.said()).await.unwrap();
        let until = until.min(now);
        let len = usize::try_from(until - way.said()).unwrap_or(usize::MAX).min(CHUNK);
        let wrote = mouth.write(expected(way.number, way.said(), len)).await.unwrap();
        way.said.fetch_add(wrote as u64, Ordering::SeqCst);
    }
}

fn may_move(way: &Way, total: u64, percent: u64) {
    way.most.send_replace(if percent < 100 { total * percent / 100 } else { u64::MAX });
}

async fn hear_out(ear: &mut OwnedReadHalf, way: &Way) {
    let mut buf = vec![0; CHUNK];
    loop {
        match ear.read(&mut buf).await.unwrap() {
            0 => return,
            read => way.hear(&buf[..read]),
        }
    }
}

/// A stream, both its ends.
#[derive(Debug)]
pub struct Raw {
    pub client: Side,
    pub served: Side,
    /// From the client.
    pub up: Arc<Way>,
    /// To it.
    pub down: Arc<Way>,
}

impl Raw {
    /// A stream to `raw` that has carried a byte each way. One at a time: the service takes whoever comes.
    pub async fn open(ends: &Ends) -> Self {
        let client = TcpStream::connect(ends.consumer.local_addr("raw").unwrap()).await.unwrap();
        let (served, _) = soon("the service is called", ends.raw.accept()).await.unwrap();
        let (up, down) = (Way::new(), Way::new());
        let (client, served) = (Side::new(client, &up, &down), Side::new(served, &down, &up));
        let mut raw = Self { client, served, up, down };
        raw.client.say(1).await;
        raw.served.hear(1).await;
        raw.served.say(1).await;
        raw.client.hear(1).await;
        raw
    }

    /// Both say so many bytes more and end, and hear the other out, all at once.
    pub fn transfer(self, up: u64, down: u64) -> Transfer {
        self.transfer_of(up, down, 100)
    }

    /// As [`Self::transfer`]; only so much of it is said before [`Transfer::may_move`] is called.
    pub fn transfer_of(self, up: u64, down: u64, percent: u64) -> Transfer {
        let Self { client, served, up: way_up, down: way_down } = self;
        let totals = (way_up.said() + up, way_down.said() + down);
        may_move(&way_up, totals.0, percent);
        may_move(&way_down, totals.1, percent);
        let side = |side: Side, bytes: u64| {
            let Side { mut mouth, mut ear, out, into } = side;
            let says = tokio::spawn(async move {
                say(&mut mouth, &out, bytes).await;
                mouth.shutdown().await.unwrap();
                mouth
            });
            let hears = tokio::spawn(async move {
                hear_out(&mut ear, &into).await;
                ear
            });
            (says, hears)
        };
        Transfer { sides: [side(client, up), side(served, down)], up: way_up, down: way_down, totals }
    }

    /// Both say their end, hear all that there is, and the other's.
    pub async fn complete(self) {
        self.transfer(0, 0).complete().await;
    }
}

/// Bytes under way, both ways.
#[derive(Debug)]
pub struct Transfer {
    sides: [(JoinHandle<OwnedWriteHalf>, JoinHandle<OwnedReadHalf>); 2],
    pub up: Arc<Way>,
    pub down: Arc<Way>,
    totals: (u64, u64),
}

impl Transfer {
    /// Bytes that came out, both ways together.
    pub fn moved(&self) -> u64 {
        self.up.heard() + self.down.heard()
    }

    /// Bytes that are to come out in all.
    pub fn total(&self) -> u64 {
        self.totals.0 + self.totals.1
    }

    /// Only so much of it is said until this is called again.
    pub fn may_move(&self, percent: u64) {
        may_move(&self.up, self.totals.0, percent);
        may_move(&self.down, self.totals.1, percent);
    }

    pub fn is_over(&self) -> bool {
        self.sides.iter().all(|(says, hears)| says.is_finished() && hears.is_finished())
    }

    /// Every byte has come out at the other end, and then the end.
    pub async fn complete(self) {
        let mut open = Vec::new();
        for (says, hears) in self.sides {
            let ends = (soon("all is said", says).await.unwrap(), soon("all is heard", hears).await.unwrap());
            open.push(ends);
        }
        assert_eq!((self.up.heard(), self.down.heard()), self.totals, "the ends stand where they were said");
    }
}
