//! One stream: a client at the consumer's agent, the service behind the provider's, and what each does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::way::{End, Way};

/// Bytes of a read.
const READ: usize = 16 << 10;
/// Bytes of a message, a pattern's head at least.
const MESSAGE: usize = 64;
/// The pause of those who chat.
const CHAT_PAUSE: Duration = Duration::from_millis(100);
/// What the side of a half-closed stream that goes on says at a time, and how often.
const TRICKLE: Pace = Pace { bytes: 1 << 10, every: Duration::from_millis(50) };
/// The kernel tells of a reset once: how long a write that was under way gets to tell of it.
const GRACE: Duration = Duration::from_millis(50);

/// What a stream is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Both sides speak all the time.
    Bulk,
    /// A question, its answer, and a pause.
    Chat,
    /// The client ends at once, and the service goes on.
    ClientEnds,
    /// The service ends at once, and the client goes on.
    ServiceEnds,
    /// A question and its answer at the beginning, and one at the end.
    Idle,
}

/// The shape of each stream by its turn: of eight, two move bulk.
const SHAPES: [Shape; 8] = [
    Shape::Bulk,
    Shape::Chat,
    Shape::ClientEnds,
    Shape::Idle,
    Shape::Chat,
    Shape::Bulk,
    Shape::ServiceEnds,
    Shape::Idle,
];

impl Shape {
    /// The shape of the stream with this number.
    #[must_use]
    pub fn of(turn: usize) -> Self {
        SHAPES[turn % SHAPES.len()]
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Chat => "chat",
            Self::ClientEnds => "half-closed by the client",
            Self::ServiceEnds => "half-closed by the service",
            Self::Idle => "idle",
        }
    }
}

/// How fast a side speaks that does not wait for answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Bytes at a time.
    pub bytes: usize,
    /// How often.
    pub every: Duration,
}

/// What one side says.
#[derive(Debug, Clone, Copy)]
enum Script {
    /// At a pace, until its time is over.
    Speak(Pace),
    /// A question, and after its answer a pause; one more when its time is over.
    Ask(Option<Duration>),
    /// As many bytes as it hears; it ends when the other side does.
    Answer,
    /// One message, and the end.
    EndAtOnce,
}

/// Which end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Whoever connects to the consumer's agent.
    Client,
    /// Whom the provider's agent connects to.
    Service,
}

/// Why a side's stream is not what it should have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The socket was reset.
    #[error("reset: {0}")]
    Reset(io::ErrorKind),
    /// A clean end where none was said, or before all bytes had come.
    #[error("a clean end that came early")]
    EarlyEnd,
    /// Neither an end nor an error.
    #[error("it did not end within {}", humantime::format_duration(*.0))]
    NoEnd(Duration),
}

/// A stream, known to both its ends.
#[derive(Debug)]
pub struct Flow {
    /// Its shape.
    pub shape: Shape,
    /// From the client to the service.
    pub up: Way,
    /// From the service to the client.
    pub down: Way,
    bulk: Pace,
    until: Instant,
    closing: watch::Receiver<bool>,
    begun: AtomicBool,
    served: watch::Sender<Option<Result<(), Broken>>>,
}

impl Flow {
    /// The stream whose directions are `number` and the one after it. It ends at `until`, or when `closing` says so.
    #[must_use]
    pub fn new(number: u64, shape: Shape, bulk: Pace, until: Instant, closing: watch::Receiver<bool>) -> Arc<Self> {
        let (up, down) = (Way::new(number), Way::new(number + 1));
        let served = watch::Sender::new(None);
        Arc::new(Self { shape, up, down, bulk, until, closing, begun: AtomicBool::new(false), served })
    }

    /// Whether it has come to the service.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Plays the client.
    ///
    /// # Errors
    /// How the stream broke.
    pub async fn call(&self, socket: &mut TcpStream) -> Result<(), Broken> {
        self.play(socket, Side::Client).await
    }

    /// Plays the service, which has heard `head` already.
    pub async fn serve(&self, socket: &mut TcpStream, head: &[u8]) {
        self.begun.store(true, Ordering::SeqCst);
        self.up.hear(head);
        let served = self.play(socket, Side::Service).await;
        self.served.send_replace(Some(served));
    }

    /// Waits until the service is done with it.
    ///
    /// # Errors
    /// How the stream broke for the service.
    pub async fn served(&self, within: Duration) -> Result<(), Broken> {
        let mut served = self.served.subscribe();
        let done = timeout(within, served.wait_for(Option::is_some)).await;
        match done {
            Ok(Ok(served)) => served.clone().unwrap_or(Ok(())),
            _ => Err(Broken::NoEnd(within)),
        }
    }

    fn script(&self, side: Side) -> Script {
        match (self.shape, side) {
            (Shape::Bulk, _) => Script::Speak(self.bulk),
            (Shape::Chat, Side::Client) => Script::Ask(Some(CHAT_PAUSE)),
            (Shape::Idle, Side::Client) => Script::Ask(None),
            (Shape::Chat | Shape::Idle, Side::Service) => Script::Answer,
            (Shape::ClientEnds, Side::Client) | (Shape::ServiceEnds, Side::Service) => Script::EndAtOnce,
            (Shape::ClientEnds, Side::Service) | (Shape::ServiceEnds, Side::Client) => Script::Speak(TRICKLE),
        }
    }

    async fn play(&self, socket: &mut TcpStream, side: Side) -> Result<(), Broken> {
        let (out, into) = match side {
            Side::Client => (&self.up, &self.down),
            Side::Service => (&self.down, &self.up),
        };
        let over = Over { until: self.until, closing: self.closing.clone() };
        let (heard, hears) = watch::channel(into.heard());
        let (mut ear, mut mouth) = socket.split();
        let speak = speak(&mut mouth, self.script(side), out, over, hears);
        let listen = listen(&mut ear, into, heard);
        let (mut speak, mut listen) = (std::pin::pin!(speak), std::pin::pin!(listen));
        let (heard, said) = tokio::select! {
            said = &mut speak => (listen.await, Some(said)),
            heard = &mut listen => {
                let whole = matches!(heard, Ok(End::Whole));
                // A side whose ear is broken says no more; one that has heard a whole end may still have much to say.
                let said = if whole { Some(speak.await) } else { timeout(GRACE, speak).await.ok() };
                (heard, said)
            }
        };
        match (heard, said) {
            (Ok(End::Whole), Some(Ok(()))) => Ok(()),
            (Err(error), _) | (_, Some(Err(error))) => Err(Broken::Reset(error.kind())),
            (Ok(_), _) => Err(Broken::EarlyEnd),
        }
    }
}

/// When a side has said enough.
struct Over {
    until: Instant,
    closing: watch::Receiver<bool>,
}

impl Over {
    /// Waits for it, and for no longer than `pause`. Whether it has come.
    async fn within(&mut self, pause: Option<Duration>) -> bool {
        let pause = async {
            match pause {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // A sender that is gone closes, too.
            _ = self.closing.wait_for(|closing| *closing) => true,
            () = sleep_until(self.until) => true,
            () = pause => false,
        }
    }
}

async fn speak(
    mouth: &mut (impl AsyncWrite + Unpin),
    script: Script,
    way: &Way,
    mut over: Over,
    mut hears: watch::Receiver<u64>,
) -> io::Result<()> {
    match script {
        Script::EndAtOnce => say(mouth, way, MESSAGE).await?,
        Script::Speak(pace) => {
            say(mouth, way, pace.bytes).await?;
            while !over.within(Some(pace.every)).await {
                say(mouth, way, pace.bytes).await?;
            }
        }
        Script::Ask(pause) => {
            ask(mouth, way, &mut hears).await?;
            while !over.within(pause).await {
                ask(mouth, way, &mut hears).await?;
            }
            ask(mouth, way, &mut hears).await?;
        }
        Script::Answer => answer(mouth, way, &mut hears).await?,
    }
    way.finish();
    mouth.shutdown().await
}

/// A question; as many bytes are to come back.
async fn ask(mouth: &mut (impl AsyncWrite + Unpin), way: &Way, hears: &mut watch::Receiver<u64>) -> io::Result<()> {
    say(mouth, way, MESSAGE).await?;
    let said = way.said();
    // Where nothing more will be heard, there is nothing to wait for.
    hears.wait_for(|heard| *heard >= said).await.ok();
    Ok(())
}

/// As many bytes as are heard, until the other side has ended.
async fn answer(mouth: &mut (impl AsyncWrite + Unpin), way: &Way, hears: &mut watch::Receiver<u64>) -> io::Result<()> {
    loop {
        let said = way.said();
        let Ok(heard) = hears.wait_for(|heard| *heard > said).await.map(|heard| *heard) else { return Ok(()) };
        let bytes = usize::try_from(heard - said).unwrap_or(READ).min(READ);
        say(mouth, way, bytes).await?;
    }
}

async fn say(mouth: &mut (impl AsyncWrite + Unpin), way: &Way, bytes: usize) -> io::Result<()> {
    let mut message = vec![0; bytes];
    way.say(&mut message);
    mouth.write_all(&message).await
}

async fn listen(ear: &mut (impl AsyncRead + Unpin), way: &Way, heard: watch::Sender<u64>) -> io::Result<End> {
    let mut buf = vec![0; READ];
    loop {
        match ear.read(&mut buf).await? {
            0 => return Ok(way.hear_end()),
            read => {
                way.hear(&buf[..read]);
                heard.send_replace(way.heard());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::bench::soak::pattern::{HEAD, Wrong};

    const PACE: Pace = Pace { bytes: 1000, every: Duration::from_millis(1) };

    /// A client's end of a stream of this shape, the service's, and the stream.
    async fn stream(shape: Shape, life: Duration) -> (Arc<Flow>, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, service) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        // A sender that is gone closes.
        let closing = Box::leak(Box::new(watch::Sender::new(false))).subscribe();
        (Flow::new(1, shape, PACE, Instant::now() + life, closing), client.unwrap(), service.unwrap().0)
    }

    #[tokio::test]
    async fn every_shape_ends_whole_on_a_wire_that_does_no_harm() {
        for turn in 0..SHAPES.len() {
            let (flow, mut client, mut service) = stream(Shape::of(turn), Duration::from_millis(30)).await;
            let serve = async {
                let mut head = [0; HEAD];
                service.read_exact(&mut head).await.unwrap();
                flow.serve(&mut service, &head).await;
            };
            let (called, ()) = tokio::join!(flow.call(&mut client), serve);
            assert_eq!(called.and(flow.served(GRACE).await), Ok(()), "{:?}", flow.shape);
            for way in [&flow.up, &flow.down] {
                assert!(way.heard() > 0 && way.heard() == way.said(), "{:?}", flow.shape);
                assert_eq!(way.wrong(), Wrong::default(), "{:?}", flow.shape);
            }
        }
    }

    #[tokio::test]
    async fn a_clean_end_that_nobody_said_is_early() {
        let (flow, mut client, mut service) = stream(Shape::Chat, Duration::from_secs(60)).await;
        service.shutdown().await.unwrap();
        assert_eq!(flow.call(&mut client).await, Err(Broken::EarlyEnd));
    }

    #[tokio::test]
    async fn a_reset_is_no_end_and_what_was_under_way_is_not_lost_silently() {
        let (flow, mut client, service) = stream(Shape::Bulk, Duration::from_secs(60)).await;
        service.set_zero_linger().unwrap();
        drop(service);
        assert!(matches!(flow.call(&mut client).await, Err(Broken::Reset(_))));
        assert_eq!(flow.up.wrong().lost, 0);
    }

    #[tokio::test]
    async fn what_another_stream_said_is_corrupt() {
        let (flow, mut client, mut service) = stream(Shape::Idle, Duration::ZERO).await;
        let mut answer = [0; 2 * MESSAGE];
        crate::bench::soak::pattern::Pattern::new(7).fill(0, &mut answer);
        service.write_all(&answer).await.unwrap();
        service.shutdown().await.unwrap();
        assert_eq!(flow.call(&mut client).await, Err(Broken::EarlyEnd));
        assert!(flow.down.wrong().corrupt > 100, "{:?}", flow.down.wrong());
    }
}
