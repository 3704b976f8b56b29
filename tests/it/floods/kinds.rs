//! The floods.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use outrelay::core::frame::Frame;
use outrelay::core::identity::AgentUri;
use outrelay::core::reject::ResetCode;
use outrelay::net::framed::write_frame;
use outrelay::net::quic;
use outrelay::net::stream::BiStream;
use quinn::{ConnectionError, TransportErrorCode};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::Scale;
use super::site::Site;
use crate::harness::{Peer, agent, closed, dial, eventually, pair, rejection, soon};

/// How long the flood waits for what is not given.
const SHORT: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// QUIC Initials, each from a port of its own, of peers that say nothing more; every other one takes the trouble of
    /// answering a Retry first.
    Handshakes,
    /// Connections with good certificates that never say HELLO.
    Silent,
    /// Opens to a service that nobody has, and to one that no rule allows.
    Nowhere,
    /// Streams whose consumer reads nothing and whose provider writes what it can.
    Unread,
    /// Streams that carry one byte at a time, each in a packet of its own.
    OneByte,
}

/// What the flood keeps up until it is dropped.
#[derive(Default)]
pub struct Held {
    peers: Vec<Peer>,
    streams: Vec<BiStream>,
    tasks: JoinSet<()>,
}

impl Held {
    fn of<const N: usize>(peers: [Peer; N]) -> Self {
        Self { peers: peers.into(), streams: Vec::new(), tasks: JoinSet::new() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.streams.clear();
        self.tasks.abort_all();
        self.peers.iter().for_each(|peer| peer.quic.close(0_u32.into(), b"that is all"));
    }
}

impl Flood {
    pub const ALL: [Self; 5] = [Self::Handshakes, Self::Silent, Self::Nowhere, Self::Unread, Self::OneByte];

    pub fn name(self) -> &'static str {
        match self {
            Self::Handshakes => "unfinished handshakes",
            Self::Silent => "no HELLO",
            Self::Nowhere => "opens to nowhere",
            Self::Unread => "unread streams",
            Self::OneByte => "one-byte writes",
        }
    }

    /// How many: handshakes, connections, opens, streams, bytes.
    fn many(self, scale: Scale) -> u64 {
        match (self, scale) {
            (Self::Handshakes, Scale::Reduced) => 500,
            (Self::Handshakes, Scale::Whole) => 5_000,
            (Self::Silent, Scale::Reduced) => 200,
            (Self::Silent, Scale::Whole) => 2_000,
            (Self::Nowhere, Scale::Reduced) => 5_000,
            (Self::Nowhere, Scale::Whole) => 100_000,
            (Self::Unread, Scale::Reduced) => 24,
            (Self::Unread, Scale::Whole) => 200,
            (Self::OneByte, Scale::Reduced) => 2_000,
            (Self::OneByte, Scale::Whole) => 50_000,
        }
    }

    /// How many of them in a second.
    fn rate(self, scale: Scale) -> u64 {
        match (self, scale) {
            (Self::Handshakes, _) => 1_000,
            (Self::Silent, _) => 200,
            (Self::Nowhere, Scale::Reduced) => 5_000,
            (Self::Nowhere, Scale::Whole) => 3_000,
            (Self::Unread, _) => 100,
            (Self::OneByte, _) => 5_000,
        }
    }

    /// What the relay may have at the peak, at least twice of what was measured: 38, 45, 22, 94 and 17 MiB at full size;
    /// it starts with 14.
    pub fn bound_mib(self) -> u64 {
        match self {
            Self::Handshakes => 96,
            Self::Silent => 160,
            Self::Nowhere | Self::OneByte => 64,
            Self::Unread => 200,
        }
    }

    /// The relay's settings: at the reduced size, shorter deadlines, so that the end is seen soon.
    pub fn settings(self, scale: Scale) -> Vec<&'static str> {
        match scale {
            Scale::Whole => vec![],
            Scale::Reduced => vec!["limits.tls_handshake=1s", "limits.hello=1s"],
        }
    }

    /// Runs it; what it keeps up, and how many there were.
    pub async fn run(self, site: &Site, scale: Scale) -> (Held, u64) {
        let (many, rate) = (self.many(scale), self.rate(scale));
        let held = match self {
            Self::Handshakes => handshakes(site, many, rate).await,
            Self::Silent => silent(site, many, rate).await,
            Self::Nowhere => nowhere(site, many, rate).await,
            Self::Unread => unread(site, many, rate).await,
            Self::OneByte => one_byte(site, many, rate).await,
        };
        (held, many)
    }
}

/// Ticks `many` times, `rate` times a second and as a rule in tens: a timer has no finer grain than a millisecond.
async fn paced(many: u64, rate: u64, mut tick: impl AsyncFnMut(u64)) {
    let burst = (rate / 500).max(1);
    let mut beat = tokio::time::interval(Duration::from_nanos(1_000_000_000 * burst / rate));
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for n in 0..many {
        if n % burst == 0 {
            beat.tick().await;
        }
        tick(n).await;
    }
}

fn quinn_client(site: &Site, uri: &AgentUri) -> quinn::ClientConfig {
    quic::client_config(site.client(uri), &outrelay::config::quic::QuicConfig::default()).unwrap()
}

async fn handshakes(site: &Site, many: u64, rate: u64) -> Held {
    let client = quinn_client(site, &agent(0xf0));
    let mut waiting = JoinSet::new();
    paced(many, rate, async |n| {
        waiting.spawn(first_flight(site.relay.addr, client.clone(), n % 2 == 0));
        while waiting.try_join_next().is_some() {}
    })
    .await;
    while waiting.join_next().await.is_some() {}
    let half_open = site.half_open().await;
    assert!(half_open >= 64, "only {half_open} wait");
    Held::default()
}

/// Sends the first packet of a connection; after a Retry, if `stubborn`, the second one too. Then not a word more.
async fn first_flight(relay: SocketAddr, client: quinn::ClientConfig, stubborn: bool) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut endpoint = quinn_proto::Endpoint::new(Arc::default(), None, false, None);
    let (_, mut connection) = endpoint.connect(Instant::now(), client, relay, "localhost").unwrap();
    let mut packet = Vec::new();
    let size = connection.poll_transmit(Instant::now(), 1, &mut packet).unwrap().size;
    socket.send_to(&packet[..size], relay).await.unwrap();
    if !stubborn {
        return;
    }
    let mut answer = vec![0; 2048];
    let heard = tokio::time::timeout(Duration::from_millis(500), socket.recv(&mut answer)).await;
    // The first byte of a Retry (RFC 9000 §17.2.5); to anything else this peer has nothing to say.
    let Ok(Ok(len)) = heard else { return };
    if answer[0] & 0xf0 != 0xf0 {
        return;
    }
    let data = BytesMut::from(&answer[..len]);
    let event = endpoint.handle(Instant::now(), relay, None, None, data, &mut Vec::new());
    let Some(quinn_proto::DatagramEvent::ConnectionEvent(_, event)) = event else { return };
    connection.handle_event(event);
    packet.clear();
    if let Some(second) = connection.poll_transmit(Instant::now(), 1, &mut packet) {
        socket.send_to(&packet[..second.size], relay).await.unwrap();
    }
}

async fn silent(site: &Site, many: u64, rate: u64) -> Held {
    const REFUSED: &str = "refused";
    let client = quinn_client(site, &agent(0xf0));
    let settings = outrelay::config::quic::QuicConfig::default();
    let endpoint = quic::bind(SocketAddr::from(([127, 0, 0, 1], 0)), &settings, None).unwrap();
    let mut ends = JoinSet::new();
    paced(many, rate, async |_| {
        let connecting = endpoint.connect_with(client.clone(), site.relay.addr, "localhost").unwrap();
        ends.spawn(async move {
            match soon("a connection, or a refusal", connecting).await {
                Ok(quic) => closed(&quic).await.1,
                // As many as may be half open are.
                Err(ConnectionError::ConnectionClosed(end))
                    if end.error_code == TransportErrorCode::CONNECTION_REFUSED =>
                {
                    REFUSED.to_owned()
                }
                Err(other) => panic!("{other}"),
            }
        });
    })
    .await;
    let mut closed = 0;
    for end in ends.join_all().await {
        let silent = end.starts_with("no HELLO within");
        assert!(silent || end == REFUSED, "{end}");
        closed += u64::from(silent);
    }
    assert!(closed >= many / 4, "only {closed} of {many} came in");
    Held::default()
}

async fn peer(site: &Site, n: u8) -> Peer {
    let uri = agent(n);
    let mut peer = Peer::over(dial(site.relay.addr, site.client(&uri)).await.unwrap(), &uri).await;
    peer.hello(&[]).await;
    peer
}

async fn nowhere(site: &Site, many: u64, rate: u64) -> Held {
    const IN_FLIGHT: usize = 64;
    let peer = Arc::new(peer(site, 0xf0).await);
    let mut opens = JoinSet::new();
    paced(many, rate, async |n| {
        let (target, code) = if n % 2 == 0 { ("nowhere", 404) } else { ("forbidden", 403) };
        let peer = Arc::clone(&peer);
        opens.spawn(async move {
            let mut stream = peer.open(target, n + 1).await;
            assert_eq!(rejection(&mut stream).await.0, code, "{target}");
        });
        while opens.len() >= IN_FLIGHT {
            opens.join_next().await.unwrap().unwrap();
        }
    })
    .await;
    while let Some(open) = opens.join_next().await {
        open.unwrap();
    }
    Held::of([Arc::into_inner(peer).unwrap()])
}

async fn unread(site: &Site, many: u64, rate: u64) -> Held {
    let (mut provider, consumer) = (peer(site, 0xf1).await, peer(site, 0xf2).await);
    provider.register("svc").await;
    let taken = Arc::new(AtomicU64::new(0));
    let (counted, quic) = (Arc::clone(&taken), provider.quic.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut writers = JoinSet::new();
        while let Ok((send, recv)) = quic.accept_bi().await {
            let stream = BiStream::from_quic(&quic, send, recv, ResetCode::UNSPECIFIED);
            writers.spawn(write_for_ever(stream, Arc::clone(&counted)));
        }
    });
    let mut streams = Vec::new();
    paced(many, rate, async |n| {
        // Beyond some number the relay lets it wait, or refuses: all the same to a flood.
        if let Ok(stream) = tokio::time::timeout(SHORT, consumer.open("svc", n + 1)).await {
            streams.push(stream);
        }
    })
    .await;
    let (mut last, mut since) = (0, Instant::now());
    eventually("nothing more is taken", || {
        let now = taken.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_millis(300)).then_some(())
    })
    .await;
    let taken = taken.load(Ordering::Relaxed) >> 20;
    assert!(taken >= many.min(64) / 2, "only {taken} MiB are under way");
    Held { peers: vec![provider, consumer], streams, tasks }
}

/// Accepts a stream and writes to it until it is cut for all that it holds.
async fn write_for_ever(mut stream: BiStream, taken: Arc<AtomicU64>) {
    if write_frame(&mut stream.send, &Frame::StreamAccept).await.is_err() {
        return;
    }
    while stream.send.write_all(&[7; 16 << 10]).await.is_ok() {
        taken.fetch_add(16 << 10, Ordering::Relaxed);
    }
}

async fn one_byte(site: &Site, many: u64, rate: u64) -> Held {
    const STREAMS: u64 = 50;
    let (mut provider, consumer) = (peer(site, 0xf1).await, peer(site, 0xf2).await);
    provider.register("svc").await;
    let (mut writers, mut readers) = (Vec::new(), JoinSet::new());
    for id in 1..=STREAMS {
        let (up, mut down) = pair(&consumer, &provider, id).await;
        writers.push(up);
        readers.spawn(async move {
            let (all, end) = crate::harness::drain(&mut down.recv).await;
            down.send.finish();
            (all.len() as u64, end)
        });
    }
    paced(many, rate, async |n| {
        let at = usize::try_from(n % STREAMS).unwrap();
        soon("a byte is taken", writers[at].send.write_all(b"1")).await.unwrap();
    })
    .await;
    writers.into_iter().for_each(|up| up.send.finish());
    let mut got = 0;
    while let Some(read) = readers.join_next().await {
        let (bytes, end) = read.unwrap();
        assert_eq!(end, outrelay::net::stream::End::Fin);
        got += bytes;
    }
    assert_eq!(got, many, "every byte, and no other");
    Held::of([provider, consumer])
}
