//! Two QUIC endpoints on loopback, for the tests of this folder.

use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::Poll;
use std::time::Duration;

use crate::config::quic::QuicConfig;
use crate::core::identity::{AgentUri, RelayUri};
use crate::core::reject::ResetCode;
use crate::net::quic;
use crate::net::stream::{BiStream, End, Read, RecvHalf};
use crate::net::tls::{self, TlsMaterial};
use crate::pki::{Ca, Issued};

pub(crate) const DROPPED: ResetCode = ResetCode(0x777);
pub(crate) const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
pub(crate) const AGENT: &str = "outrelay://acme/agent/0190b3f0-6c1e-7c3a-9f59-0123456789ab";
pub(crate) const RELAY: &str = "outrelay://acme/relay/r1";

pub(crate) static CA: LazyLock<Ca> = LazyLock::new(|| Ca::generate().unwrap());
static RELAY_TLS: LazyLock<TlsMaterial> =
    LazyLock::new(|| material(&CA, &CA.relay(&RELAY.parse::<RelayUri>().unwrap(), &[]).unwrap()));
static AGENT_TLS: LazyLock<TlsMaterial> =
    LazyLock::new(|| material(&CA, &CA.agent(&AGENT.parse::<AgentUri>().unwrap()).unwrap()));

pub(crate) fn material(ca: &Ca, issued: &Issued) -> TlsMaterial {
    TlsMaterial::from_pem(&issued.cert_pem, &issued.key_pem, ca.cert_pem()).unwrap()
}

/// Fails the test instead of hanging it.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what).await.expect("within 10 s")
}

/// Whether `what` resolves within 2 s: for what must happen without anything else happening.
pub(crate) async fn promptly<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(2), what).await.expect("promptly")
}

/// Polls once.
pub(crate) async fn is_pending<T>(mut what: Pin<&mut impl Future<Output = T>>) -> bool {
    poll_fn(|cx| Poll::Ready(what.as_mut().poll(cx).is_pending())).await
}

pub(crate) struct Pair {
    pub(crate) client: quinn::Connection,
    pub(crate) server: quinn::Connection,
    endpoints: [quinn::Endpoint; 2],
}

impl Drop for Pair {
    fn drop(&mut self) {
        for endpoint in &self.endpoints {
            endpoint.close(0u32.into(), b"");
        }
    }
}

/// A connection of an agent (the client) to a relay.
pub(crate) async fn pair(config: &QuicConfig) -> Pair {
    pair_at(quic::bind(LOOPBACK, config, Some(relay_tls())).unwrap(), config).await
}

/// What a relay listens with.
pub(crate) fn relay_tls() -> rustls::ServerConfig {
    tls::server_config(&RELAY_TLS, &[tls::ALPN_ORP]).unwrap()
}

/// A connection of an agent to the relay behind this endpoint.
pub(crate) async fn pair_at(listener: quinn::Endpoint, config: &QuicConfig) -> Pair {
    let dialer = quic::bind(LOOPBACK, config, None).unwrap();
    let tls = tls::client_config(&AGENT_TLS, &[tls::ALPN_ORP]).unwrap();
    let client = quic::client_config(tls, config).unwrap();
    let connecting = dialer.connect_with(client, listener.local_addr().unwrap(), "localhost").unwrap();
    let (client, server) =
        soon(async { tokio::join!(connecting, async { listener.accept().await.unwrap().await }) }).await;
    Pair { client: client.unwrap(), server: server.unwrap(), endpoints: [dialer, listener] }
}

impl Pair {
    pub(crate) async fn new() -> Self {
        pair(&QuicConfig::default()).await
    }

    /// A fresh stream, seen from the client and from the server. One byte was sent to make it known.
    pub(crate) async fn stream(&self) -> (BiStream, BiStream) {
        let (send, recv) = soon(self.client.open_bi()).await.unwrap();
        let mut near = BiStream::from_quic(&self.client, send, recv, DROPPED);
        near.send.write_all(b"!").await.unwrap();
        let (send, recv) = soon(self.server.accept_bi()).await.unwrap();
        let mut far = BiStream::from_quic(&self.server, send, recv, DROPPED);
        assert_eq!(soon(far.recv.read(&mut [0; 1])).await, Read::Data(1));
        (near, far)
    }
}

/// Everything up to the end.
pub(crate) async fn read_all(recv: &mut RecvHalf) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    let mut buf = vec![0; 16 * 1024];
    loop {
        match soon(recv.read(&mut buf)).await {
            Read::Data(read) => bytes.extend_from_slice(&buf[..read]),
            Read::End(end) => return (bytes, end),
        }
    }
}
