//! What the tests share: a deployment with its own certificates, relays in this process, and hand-driven peers.
//!
//! A [`Peer`] is an agent that does exactly what a test says, frame by frame, like a legacy one in the field.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outrelay::config::relay::RelayConfig;
use outrelay::config::types::Tls;
use outrelay::core::frame::Frame;
use outrelay::core::identity::{AgentUri, RelayUri};
use outrelay::core::reject::ResetCode;
use outrelay::metrics::{Limit, OutcomeLabel};
use outrelay::net::framed::{FrameReadError, read_frame, write_frame};
use outrelay::net::stream::{BiStream, End, Read, RecvHalf, SendHalf};
use outrelay::net::tls::{ALPN_ORP, TlsMaterial};
use outrelay::net::{quic, tls};
use outrelay::pki::{Ca, Issued};
use outrelay::proto::orp;
use outrelay::relay::Relay;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// For anything that should happen at once; far longer than it takes.
pub const SOON: Duration = Duration::from_secs(30);
/// Everyone of the tenant `acme` may call everyone of it.
pub const OPEN_WORLD: &str = "[[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"*\"\n";

/// For tests that measure time or load the machine: one at a time.
pub static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Waits for `what`, polling; fails the test when it does not come.
pub async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Bounds a wait of the test itself.
pub async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, wait).await {
        Ok(value) => value,
        Err(_) => panic!("not within {SOON:?}: {what}"),
    }
}

/// A deployment: a CA and a directory of files that goes with the test.
pub struct Deployment {
    pub dir: TempDir,
    pub ca: Ca,
}

impl Deployment {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), ca: Ca::generate().unwrap() }
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn tls(&self, name: &str, issued: &Issued) -> Tls {
        Tls {
            cert: self.write(&format!("{name}.crt"), &issued.cert_pem),
            key: self.write(&format!("{name}.key"), &issued.key_pem),
            ca: self.write("ca.crt", self.ca.cert_pem()),
        }
    }

    pub fn agent_tls(&self, uri: &AgentUri) -> Tls {
        self.tls(uri.uuid(), &self.ca.agent(uri).unwrap())
    }

    /// A configuration for a relay that listens on a free loopback port, with `rules`.
    pub fn relay_config(&self, id: &str, rules: &str) -> RelayConfig {
        let uri: RelayUri = RelayUri::new(&"acme".parse().unwrap(), &id.parse().unwrap());
        let mut config = RelayConfig {
            id: id.to_owned(),
            region: "acme".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: self.tls(id, &self.ca.relay(&uri, &[]).unwrap()),
            ..RelayConfig::default()
        };
        config.directory.rules = Some(self.write(&format!("{id}-rules.toml"), rules));
        config.directory.audit = Some(self.dir.path().join(format!("{id}-audit.jsonl")));
        config.admin.socket = Some(self.dir.path().join(format!("{id}.sock")));
        config.admin.fault_injection = true;
        config.http.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        config
    }

    /// A relay in which everyone of `acme` may call everyone.
    pub async fn relay(&self) -> Relay {
        self.relay_with(OPEN_WORLD).await
    }

    pub async fn relay_with(&self, rules: &str) -> Relay {
        Relay::start(self.relay_config("r1", rules)).await.unwrap()
    }

    /// Connects as agent `n` of `acme`, without a word on the control stream.
    pub async fn dial(&self, relay: &Relay, n: u8) -> quinn::Connection {
        self.dial_as(relay, &agent(n)).await
    }

    pub async fn dial_as(&self, relay: &Relay, uri: &AgentUri) -> quinn::Connection {
        self.try_dial(relay, &self.ca.agent(uri).unwrap()).await.unwrap()
    }

    pub async fn try_dial(
        &self,
        relay: &Relay,
        identity: &Issued,
    ) -> Result<quinn::Connection, quinn::ConnectionError> {
        dial(relay.quic_addr().unwrap(), self.client(identity)).await
    }

    /// What `identity` dials a relay with.
    pub fn client(&self, identity: &Issued) -> rustls::ClientConfig {
        let material = TlsMaterial::from_pem(&identity.cert_pem, &identity.key_pem, self.ca.cert_pem()).unwrap();
        tls::client_config(&material, &[ALPN_ORP]).unwrap()
    }

    /// Connects as agent `n` of `acme` and says HELLO, naming `capabilities`.
    pub async fn peer(&self, relay: &Relay, n: u8, capabilities: &[&str]) -> Peer {
        self.peer_as(relay, &agent(n), capabilities).await
    }

    /// Connects as agent `n` of `acme` to a relay that listens at `addr`, and says HELLO.
    pub async fn peer_at(&self, addr: SocketAddr, n: u8, capabilities: &[&str]) -> Peer {
        let uri = agent(n);
        let identity = self.client(&self.ca.agent(&uri).unwrap());
        let mut peer = Peer::over(dial(addr, identity).await.unwrap(), &uri).await;
        peer.hello(capabilities).await;
        peer
    }

    pub async fn peer_as(&self, relay: &Relay, uri: &AgentUri, capabilities: &[&str]) -> Peer {
        let mut peer = Peer::over(self.dial_as(relay, uri).await, uri).await;
        peer.hello(capabilities).await;
        peer
    }
}

/// Dials with a client's own endpoint, which lives as long as its connection.
pub async fn dial(addr: SocketAddr, client: rustls::ClientConfig) -> Result<quinn::Connection, quinn::ConnectionError> {
    let settings = outrelay::config::quic::QuicConfig::default();
    let endpoint = quic::bind(SocketAddr::from(([127, 0, 0, 1], 0)), &settings, None).unwrap();
    let config = quic::client_config(client, &settings).unwrap();
    endpoint.connect_with(config, addr, "localhost").unwrap().await
}

/// How often something was refused because of this limit.
pub fn hits(relay: &Relay, limit: Limit) -> u64 {
    relay.vault().metrics.limit(limit).get()
}

/// How many connection attempts had this outcome.
pub fn handshakes(relay: &Relay, outcome: &'static str) -> u64 {
    relay.vault().metrics.handshakes.get_or_create(&OutcomeLabel { outcome }).get()
}

/// What relay `r1` itself has refused to `caller`, once one of the reasons begins with `reason`: that event of the audit.
pub async fn audited(deployment: &Deployment, caller: &str, reason: &str) -> serde_json::Value {
    let file = deployment.dir.path().join("r1-audit.jsonl");
    eventually(&format!("{reason:?} is in the audit of {caller}"), || {
        let text = std::fs::read_to_string(&file).ok()?;
        let mut events = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        events.find(|event| {
            event["side"] == "relay"
                && event["decision"] == "deny"
                && event["caller"] == caller
                && event["reason"].as_str().is_some_and(|why| why.starts_with(reason))
        })
    })
    .await
}

/// Rules by which everyone of `acme` may call everyone, in this way.
pub fn asking_for(way: &str) -> String {
    format!("{OPEN_WORLD}{way}\n")
}

pub fn agent(n: u8) -> AgentUri {
    agent_of("acme", n)
}

pub fn agent_of(tenant: &str, n: u8) -> AgentUri {
    format!("outrelay://{tenant}/agent/00000000-0000-4000-8000-0000000000{n:02x}").parse().unwrap()
}

/// An agent driven by hand.
pub struct Peer {
    pub uri: AgentUri,
    pub quic: quinn::Connection,
    pub control: BiStream,
    pub features: Vec<String>,
}

impl Peer {
    /// Opens the control stream of `quic`, and says nothing.
    pub async fn over(quic: quinn::Connection, uri: &AgentUri) -> Self {
        let (send, recv) = quic.open_bi().await.unwrap();
        let control = BiStream::from_quic(&quic, send, recv, ResetCode::UNSPECIFIED);
        Self { uri: uri.clone(), quic, control, features: Vec::new() }
    }

    /// HELLO, which is not answered yet.
    pub async fn say_hello(&mut self, capabilities: &[&str]) {
        let hello = orp::Hello {
            protocol_version: "orp/1".to_owned(),
            agent_uri: self.uri.to_string(),
            capabilities: capabilities.iter().map(ToString::to_string).collect(),
        };
        self.say(&Frame::Hello(hello)).await;
    }

    pub async fn hello(&mut self, capabilities: &[&str]) -> orp::HelloAck {
        self.say_hello(capabilities).await;
        match self.hear().await {
            Frame::HelloAck(ack) => {
                self.features.clone_from(&ack.accepted_features);
                ack
            }
            other => panic!("HELLO was answered {other:?}"),
        }
    }

    /// Sends a frame on the control stream.
    pub async fn say(&mut self, frame: &Frame) {
        soon("control frame is taken", write_frame(&mut self.control.send, frame)).await.unwrap();
    }

    /// The next frame on the control stream.
    pub async fn hear(&mut self) -> Frame {
        self.try_hear().await.unwrap()
    }

    pub async fn try_hear(&mut self) -> Result<Frame, FrameReadError> {
        soon("a control frame", read_frame(&mut self.control.recv, 1 << 16)).await
    }

    pub async fn register(&mut self, service: &str) -> Frame {
        let register = orp::Register { service_name: service.to_owned(), local_addr: "127.0.0.1:1".to_owned() };
        self.say(&Frame::Register(register)).await;
        self.hear().await
    }

    /// A fresh stream, with nothing written.
    pub async fn fresh(&self) -> BiStream {
        let (send, recv) = soon("stream credit", self.quic.open_bi()).await.unwrap();
        BiStream::from_quic(&self.quic, send, recv, ResetCode::UNSPECIFIED)
    }

    /// A fresh stream with OPEN_STREAM written.
    pub async fn open(&self, target: &str, id: u64) -> BiStream {
        let mut stream = self.fresh().await;
        write_frame(&mut stream.send, &open_frame(target, id)).await.unwrap();
        stream
    }

    /// The next stream from the relay, and its INCOMING_STREAM.
    pub async fn incoming(&self) -> (orp::IncomingStream, BiStream) {
        let (send, recv) = soon("a stream from the relay", self.quic.accept_bi()).await.unwrap();
        let mut stream = BiStream::from_quic(&self.quic, send, recv, ResetCode::UNSPECIFIED);
        match soon("INCOMING_STREAM", read_frame(&mut stream.recv, 1 << 16)).await.unwrap() {
            Frame::IncomingStream(incoming) => (incoming, stream),
            other => panic!("{other:?} at the head of a stream from the relay"),
        }
    }

    /// Takes the next stream from the relay, and accepts it.
    pub async fn accept(&self) -> BiStream {
        let (_, mut stream) = self.incoming().await;
        write_frame(&mut stream.send, &Frame::StreamAccept).await.unwrap();
        stream
    }

    /// Waits until the relay has closed the connection; why, in the relay's words.
    pub async fn closed(&self) -> (u64, String) {
        closed(&self.quic).await
    }
}

/// Waits until the peer has closed the connection; its code and reason.
pub async fn closed(quic: &quinn::Connection) -> (u64, String) {
    match soon("the connection is closed", quic.closed()).await {
        quinn::ConnectionError::ApplicationClosed(close) => {
            (close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into_owned())
        }
        other => panic!("closed otherwise: {other}"),
    }
}

pub fn open_frame(target: &str, id: u64) -> Frame {
    Frame::OpenStream(orp::OpenStream { target_service: target.to_owned(), method: String::new(), stream_id: id })
}

/// A consumer and a provider of `svc`, spliced; the consumer's stream first.
pub async fn pair(consumer: &Peer, provider: &Peer, id: u64) -> (BiStream, BiStream) {
    let (open, accepted) = tokio::join!(consumer.open("svc", id), provider.accept());
    (open, accepted)
}

/// Everything up to the end, and the end.
pub async fn drain(recv: &mut RecvHalf) -> (Vec<u8>, End) {
    let mut all = Vec::new();
    let mut buf = vec![0; 64 << 10];
    loop {
        match soon("bytes or an end", recv.read(&mut buf)).await {
            Read::Data(n) => all.extend_from_slice(&buf[..n]),
            Read::End(end) => return (all, end),
        }
    }
}

/// Exactly `n` bytes.
pub async fn take(recv: &mut RecvHalf, n: usize) -> Vec<u8> {
    let mut all = vec![0; n];
    let mut got = 0;
    while got < n {
        match soon("bytes", recv.read(&mut all[got..])).await {
            Read::Data(more) => got += more,
            Read::End(end) => panic!("ended with {end:?} after {got} of {n} bytes"),
        }
    }
    all
}

/// The refusal at the head of a consumer's stream, which then ends with FIN.
pub async fn rejection(stream: &mut BiStream) -> (u32, String) {
    match soon("a refusal", read_frame(&mut stream.recv, 1 << 16)).await {
        Ok(Frame::StreamReject(reject)) => {
            let (rest, end) = drain(&mut stream.recv).await;
            assert_eq!((rest.len(), end), (0, End::Fin), "a refusal is the last thing on its stream");
            (reject.code, reject.reason)
        }
        other => panic!("not a refusal: {other:?}"),
    }
}

/// `len` bytes that differ by `seed` and do not compress into a pattern a bug could get right by chance.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Writes all of `bytes`, then FIN.
pub async fn send_all(mut send: SendHalf, bytes: Arc<Vec<u8>>) {
    for chunk in bytes.chunks(64 << 10) {
        soon("the peer reads", send.write_all(chunk)).await.unwrap();
    }
    send.finish();
}
