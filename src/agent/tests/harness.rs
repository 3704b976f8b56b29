//! A relay that does what a test says, and no more; certificates; an agent that is pointed at it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::agent::Agent;
use crate::config::agent::AgentConfig;
use crate::config::quic::QuicConfig;
use crate::config::types::Tls;
use crate::core::frame::{Frame, HEADER_LEN, Header};
use crate::net::{quic, tls};
use crate::pki::{Ca, Issued};
use crate::proto::orp;
use crate::supervise::report::Report;

/// Nothing here takes longer unless it is broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Comes with STREAM_READY; an agent cannot tell it from a real one.
pub(super) const TICKET: &[u8] = b"ticket";
/// What an agent names.
pub(super) const NAMED: [&str; 8] =
    ["goaway", "reject-ctrl", "resume-echo", "resume-code", "fin-state", "resume-call", "resume-ticket", "peer-caps"];
/// A relay that accepts less: the other agent confirms no end.
pub(super) const FEATURES: [&str; 3] = ["reject-ctrl", "resume-code", "peer-caps"];

/// Waits for what must happen.
pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}

/// Polls until `done`.
pub(super) async fn until(what: &str, done: impl Fn() -> bool) {
    let poll = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, poll).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A deployment's certificates, in a folder that goes with it.
pub(super) struct Deployment {
    dir: TempDir,
    ca: Ca,
}

impl Deployment {
    pub(super) fn new() -> Self {
        let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::generate().unwrap());
        std::fs::write(dir.path().join("ca.crt"), ca.cert_pem()).unwrap();
        let deployment = Self { dir, ca };
        deployment.certify(agent_uri());
        deployment
    }

    /// Gives the agent a new key and certificate.
    pub(super) fn certify(&self, uri: &str) {
        let agent = self.ca.agent(&uri.parse().unwrap()).unwrap();
        self.write_certificate(&agent.cert_pem);
        std::fs::write(self.dir.path().join("agent.key"), &agent.key_pem).unwrap();
    }

    /// What stands in the certificate's file.
    pub(super) fn write_certificate(&self, pem: &str) {
        std::fs::write(self.dir.path().join("agent.crt"), pem).unwrap();
    }

    /// An agent's configuration that points at `relays`.
    pub(super) fn config(&self, relays: &[SocketAddr]) -> AgentConfig {
        let path = |name: &str| self.dir.path().join(name);
        let mut config = AgentConfig {
            relays: relays.iter().map(|relay| relay.to_string().parse().unwrap()).collect(),
            tls: Tls { cert: path("agent.crt"), key: path("agent.key"), ca: path("ca.crt") },
            ..AgentConfig::default()
        };
        config.backoff.initial = Duration::from_millis(20);
        config
    }

    pub(super) fn relay(&self) -> FakeRelay {
        self.relay_named("r1")
    }

    pub(super) fn relay_named(&self, id: &str) -> FakeRelay {
        let uri = format!("outrelay://test/relay/{id}").parse().unwrap();
        self.listen(&self.ca.relay(&uri, &[]).unwrap())
    }

    /// Something with a good certificate that is no relay.
    pub(super) fn impostor(&self) -> FakeRelay {
        let uri = "outrelay://acme/agent/00000000-0000-4000-8000-00000000beef".parse().unwrap();
        let mut spec = crate::pki::CertSpec::agent(&uri, crate::pki::Validity::days(1).unwrap());
        spec.dns = vec!["localhost".to_owned()];
        self.listen(&self.ca.issue(&spec).unwrap())
    }

    fn listen(&self, issued: &Issued) -> FakeRelay {
        let material = tls::TlsMaterial::from_pem(&issued.cert_pem, &issued.key_pem, self.ca.cert_pem()).unwrap();
        let server = tls::server_config(&material, &[tls::ALPN_ORP]).unwrap();
        let endpoint = quic::bind("127.0.0.1:0".parse().unwrap(), &QuicConfig::default(), Some(server)).unwrap();
        FakeRelay { endpoint }
    }
}

pub(super) fn agent_uri() -> &'static str {
    "outrelay://acme/agent/00000000-0000-4000-8000-000000000001"
}

pub(super) struct FakeRelay {
    pub(super) endpoint: quinn::Endpoint,
}

impl FakeRelay {
    pub(super) fn addr(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    /// The next agent that connects, up to its HELLO, which is not answered yet.
    pub(super) async fn meet(&self) -> (Peer, orp::Hello) {
        let quic = soon(self.connection()).await;
        let (send, recv) = soon(quic.accept_bi()).await.unwrap();
        let mut peer = Peer { quic, control: Stream { send, recv } };
        match peer.control.frame().await {
            Frame::Hello(hello) => (peer, hello),
            other => panic!("{other:?} instead of HELLO"),
        }
    }

    /// The next TLS connection.
    pub(super) async fn connection(&self) -> quinn::Connection {
        self.endpoint.accept().await.unwrap().await.unwrap()
    }

    /// The next agent, with its HELLO answered by `features`.
    pub(super) async fn greet(&self, features: &[&str]) -> Peer {
        let (mut peer, _hello) = self.meet().await;
        let accepted_features = features.iter().map(ToString::to_string).collect();
        let ack = orp::HelloAck { accepted_features, ..orp::HelloAck::default() };
        peer.control.write(&Frame::HelloAck(ack)).await;
        peer
    }
}

/// An agent, seen from the relay.
pub(super) struct Peer {
    pub(super) quic: quinn::Connection,
    pub(super) control: Stream,
}

impl Peer {
    /// The next stream that the agent opens.
    pub(super) async fn accept(&self) -> Stream {
        let (send, recv) = soon(self.quic.accept_bi()).await.unwrap();
        Stream { send, recv }
    }

    /// The next stream that the agent opens, past its OPEN_STREAM.
    pub(super) async fn accept_open(&self) -> (Stream, orp::OpenStream) {
        let mut stream = self.accept().await;
        match stream.frame().await {
            Frame::OpenStream(open) => (stream, open),
            other => panic!("{other:?} instead of OPEN_STREAM"),
        }
    }

    /// A stream to the agent, with INCOMING_STREAM for `service` on it and `behind` in the same write.
    pub(super) async fn incoming(&self, service: &str, behind: &[u8]) -> Stream {
        let (send, recv) = soon(self.quic.open_bi()).await.unwrap();
        let mut stream = Stream { send, recv };
        let incoming = orp::IncomingStream {
            target_service: service.to_owned(),
            method: String::new(),
            source_agent_uri: "outrelay://acme/agent/00000000-0000-4000-8000-000000000002".to_owned(),
            stream_id: 7,
        };
        let bytes = [&Frame::IncomingStream(incoming).encode()[..], behind].concat();
        stream.send.write_all(&bytes).await.unwrap();
        stream
    }

    pub(super) async fn ready(&mut self, stream_id: u64) {
        self.control.write(&ready(stream_id)).await;
    }

    /// STREAM_READY, with what the agent at the other end named.
    pub(super) async fn ready_named(&mut self, stream_id: u64, named: &[&str]) {
        let peer_capabilities = named.iter().map(ToString::to_string).collect();
        let ready = orp::StreamReady { stream_id, peer_capabilities, ticket: TICKET.to_vec() };
        self.control.write(&Frame::StreamReady(ready)).await;
    }

    pub(super) async fn acknowledge_register(&mut self) -> orp::Register {
        let register = self.register().await;
        self.control.write(&Frame::RegisterAck(orp::RegisterAck { service_id: "acme/x".to_owned() })).await;
        register
    }

    pub(super) async fn register(&mut self) -> orp::Register {
        match self.control.frame().await {
            Frame::Register(register) => register,
            other => panic!("{other:?} instead of REGISTER"),
        }
    }
}

pub(super) fn ready(stream_id: u64) -> Frame {
    let peer_capabilities = FEATURES.map(str::to_owned).to_vec();
    Frame::StreamReady(orp::StreamReady { stream_id, peer_capabilities, ..orp::StreamReady::default() })
}

pub(super) fn reject(code: u32, reason: &str, stream_id: u64) -> Frame {
    Frame::StreamReject(orp::StreamReject { code, reason: reason.to_owned(), stream_id })
}

/// A bare stream: a test sees every byte and every code.
pub(super) struct Stream {
    pub(super) send: quinn::SendStream,
    pub(super) recv: quinn::RecvStream,
}

impl Stream {
    pub(super) async fn frame(&mut self) -> Frame {
        let mut head = [0; HEADER_LEN];
        soon(self.recv.read_exact(&mut head)).await.unwrap();
        let header = Header::decode(head).unwrap();
        let mut payload = vec![0; header.len as usize];
        soon(self.recv.read_exact(&mut payload)).await.unwrap();
        Frame::decode(header.code, &payload).unwrap()
    }

    pub(super) async fn write(&mut self, frame: &Frame) {
        soon(self.send.write_all(&frame.encode())).await.unwrap();
    }

    /// The next bytes are exactly these.
    pub(super) async fn expect(&mut self, bytes: &[u8]) {
        let mut read = vec![0; bytes.len()];
        soon(self.recv.read_exact(&mut read)).await.unwrap();
        assert_eq!(Bytes::from(read), Bytes::copy_from_slice(bytes));
    }

    /// The code with which the agent resets what it sends.
    pub(super) async fn reset_code(&mut self) -> u64 {
        let mut sink = [0; 64];
        loop {
            match soon(self.recv.read(&mut sink)).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("finished instead of reset"),
                Err(quinn::ReadError::Reset(code)) => return code.into_inner(),
                Err(other) => panic!("{other} instead of a reset"),
            }
        }
    }

    /// The code with which the agent stops what is sent to it.
    pub(super) async fn stop_code(&self) -> u64 {
        soon(self.send.stopped()).await.unwrap().expect("all was taken instead of stopped").into_inner()
    }
}

/// A local service with one client at a time.
pub(super) async fn service() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (listener, addr)
}

pub(super) async fn connect(agent: &Agent, service: &str) -> TcpStream {
    soon(TcpStream::connect(agent.local_addr(service).unwrap())).await.unwrap()
}

/// The next bytes are exactly these.
pub(super) async fn expect_tcp(socket: &mut TcpStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    soon(socket.read_exact(&mut read)).await.unwrap();
    assert_eq!(Bytes::from(read), Bytes::copy_from_slice(bytes));
}

pub(super) async fn send_tcp(socket: &mut TcpStream, bytes: &[u8]) {
    soon(socket.write_all(bytes)).await.unwrap();
}

/// The socket ends with an RST and not with a FIN; what came before it is returned.
pub(super) async fn expect_rst(socket: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let end = soon(socket.read_to_end(&mut read)).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    read
}

/// The socket ends with a FIN; what came before it is returned.
pub(super) async fn expect_fin(socket: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    soon(socket.read_to_end(&mut read)).await.unwrap();
    read
}

/// How many actors of `kind` there are.
pub(super) fn count(agent: &Agent, kind: &str) -> usize {
    agent.tree().walk().filter(|report| report.kind == kind).count()
}

/// The one actor of `kind`.
pub(super) fn actor(agent: &Agent, kind: &str) -> Report {
    agent.tree().walk().find(|report| report.kind == kind).unwrap_or_else(|| panic!("no {kind}")).clone()
}

/// Passes datagrams on between one agent and a relay, until it swallows them.
pub(super) struct Proxy {
    addr: SocketAddr,
    swallows: std::sync::Arc<std::sync::atomic::AtomicBool>,
    _task: crate::supervise::task::Owned,
}

impl Proxy {
    pub(super) async fn start(relay: SocketAddr) -> Self {
        let (near, far) = (udp().await, udp().await);
        let addr = near.local_addr().unwrap();
        let swallows = std::sync::Arc::<std::sync::atomic::AtomicBool>::default();
        let swallowed = swallows.clone();
        let task = crate::supervise::task::run(async move {
            let (mut up, mut down) = (vec![0; 65536], vec![0; 65536]);
            let mut agent = None;
            loop {
                let (socket, bytes, to) = tokio::select! {
                    got = near.recv_from(&mut up) => {
                        let (len, from) = got.unwrap();
                        agent = Some(from);
                        (&far, &up[..len], Some(relay))
                    }
                    got = far.recv_from(&mut down) => (&near, &down[..got.unwrap().0], agent),
                };
                if let Some(to) = to
                    && !swallowed.load(std::sync::atomic::Ordering::Relaxed)
                {
                    socket.send_to(bytes, to).await.unwrap();
                }
            }
        });
        Self { addr, swallows, _task: task }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn swallow(&self) {
        self.swallows.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// What is logged on this thread from here on, at `info` and above.
pub(super) struct Logged {
    lines: Lines,
    _guard: tracing::subscriber::DefaultGuard,
}

#[derive(Clone, Default)]
struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Logged {
    pub(super) fn start() -> Self {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        Self { lines, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// How many lines have these words in them.
    pub(super) fn count(&self, words: &str) -> usize {
        let lines = self.lines.0.lock().unwrap();
        String::from_utf8_lossy(&lines).lines().filter(|line| line.contains(words)).count()
    }
}

async fn udp() -> tokio::net::UdpSocket {
    tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

/// The next stream that the agent opens, which goes on with one that has lost its path.
pub(super) async fn resume(peer: &Peer) -> (Stream, orp::StreamResume) {
    let mut stream = peer.accept().await;
    match stream.frame().await {
        Frame::StreamResume(half) => (stream, half),
        other => panic!("{other:?} instead of STREAM_RESUME"),
    }
}
