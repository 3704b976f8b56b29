//! QUIC endpoints: sockets with large buffers, and the transport settings of performance.md.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use ring::hmac;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::quic::QuicConfig;
use crate::net::connection_ids::ConnectionIds;

/// A thousand agents are told in a second; noise gets no more answers than that.
const RESETS_APART: Duration = Duration::from_millis(1);

/// What the round trip time is taken for as long as nothing was heard (RFC 9002 §6.2.2 allows a guess): a first datagram that is lost is sent
/// again after three times as long, and not after a second. On a longer way some are sent twice.
const FIRST_RTT: Duration = Duration::from_millis(100);

/// Binds an endpoint; without `tls` it only dials. Must be called inside a tokio runtime.
///
/// An unspecified IPv6 address takes IPv4 too.
///
/// # Errors
/// When the socket cannot be bound, or the TLS configuration lacks what QUIC needs.
pub fn bind(addr: SocketAddr, config: &QuicConfig, tls: Option<rustls::ServerConfig>) -> io::Result<quinn::Endpoint> {
    let server = tls.map(|tls| server_config(tls, config)).transpose().map_err(io::Error::other)?;
    bind_as(addr, config, EndpointConfig::default(), server)
}

/// What an endpoint shares with those that come after it at its address, and with nobody else (RFC 9000 §10.3.2).
#[derive(Clone)]
pub struct EndpointSecrets {
    /// From which stateless reset tokens are made.
    pub resets: [u8; 32],
    /// By which connection ids are told from noise.
    pub ids: [u8; 32],
}

impl fmt::Debug for EndpointSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointSecrets")
    }
}

/// Binds an endpoint that knows the connections of an earlier one with the same secrets, and answers what still comes for them
/// with a stateless reset (RFC 9000 §10.3): their peers need not wait to find out that they are gone.
///
/// # Errors
/// As [`bind`].
pub fn bind_again(
    addr: SocketAddr,
    config: &QuicConfig,
    secrets: &EndpointSecrets,
    server: quinn::ServerConfig,
) -> io::Result<quinn::Endpoint> {
    let mut endpoint = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &secrets.resets)));
    let ids = ConnectionIds::new(&secrets.ids);
    endpoint.cid_generator(move || Box::new(ids.clone()));
    endpoint.min_reset_interval(RESETS_APART);
    bind_as(addr, config, endpoint, Some(server))
}

fn bind_as(
    addr: SocketAddr,
    config: &QuicConfig,
    mut endpoint: EndpointConfig,
    server: Option<quinn::ServerConfig>,
) -> io::Result<quinn::Endpoint> {
    let largest = config.max_mtu.max(config.initial_mtu);
    if u64::from(largest) > endpoint.get_max_udp_payload_size() {
        endpoint.max_udp_payload_size(largest).map_err(io::Error::other)?;
    }
    let socket = bind_socket(addr, config.socket_buffer)?;
    quinn::Endpoint::new(endpoint, server, socket, Arc::new(quinn::TokioRuntime))
}

/// What connections are accepted with.
///
/// # Errors
/// When the TLS configuration lacks AES-128-GCM, with which every QUIC connection starts.
pub fn server_config(
    tls: rustls::ServerConfig,
    config: &QuicConfig,
) -> Result<quinn::ServerConfig, NoInitialCipherSuite> {
    let crypto = QuicServerConfig::try_from(tls)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(Arc::new(transport(config)));
    Ok(server)
}

/// What a connection is dialled with.
///
/// # Errors
/// When the TLS configuration lacks AES-128-GCM, with which every QUIC connection starts.
pub fn client_config(
    tls: rustls::ClientConfig,
    config: &QuicConfig,
) -> Result<quinn::ClientConfig, NoInitialCipherSuite> {
    let crypto = QuicClientConfig::try_from(tls)?;
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    client.transport_config(Arc::new(transport(config)));
    Ok(client)
}

/// The transport settings of `config`. A number that QUIC cannot say becomes the largest it can.
#[must_use]
pub fn transport(config: &QuicConfig) -> TransportConfig {
    let largest = |value: u64| VarInt::from_u64(value).unwrap_or(VarInt::MAX);
    let idle = IdleTimeout::try_from(config.idle_timeout).unwrap_or_else(|_| VarInt::MAX.into());
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(config.max_mtu);
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(largest(config.stream_window))
        .receive_window(largest(config.connection_window))
        .send_window(config.send_window)
        .max_concurrent_bidi_streams(VarInt::from_u32(config.streams_initial))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(config.keep_alive))
        .initial_rtt(FIRST_RTT)
        .initial_mtu(config.initial_mtu)
        .mtu_discovery_config(Some(discovery))
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(Arc::new(CubicConfig::default()));
    transport
}

fn bind_socket(addr: SocketAddr, buffer: usize) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.set_recv_buffer_size(buffer)?;
    socket.set_send_buffer_size(buffer)?;
    warn_when_smaller(&socket, buffer)?;
    Ok(socket.into())
}

/// The kernel cuts a request silently to its limit: too small a buffer loses packets in every burst.
fn warn_when_smaller(socket: &Socket, asked: usize) -> io::Result<()> {
    let sizes = [
        ("receive", "net.core.rmem_max", socket.recv_buffer_size()?),
        ("send", "net.core.wmem_max", socket.send_buffer_size()?),
    ];
    for (direction, sysctl, reported) in sizes {
        // Linux reports twice what it grants: the rest is for its own bookkeeping.
        let granted = if cfg!(target_os = "linux") { reported / 2 } else { reported };
        if granted < asked {
            tracing::warn!(
                direction,
                asked_bytes = asked,
                granted_bytes = granted,
                "the kernel grants a smaller UDP socket buffer than asked for; run: sysctl -w {sysctl}={asked}"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::net::harness::{self, LOOPBACK, soon};

    #[tokio::test]
    async fn the_first_stream_limit_holds_and_no_unidirectional_stream_is_allowed() {
        let config = QuicConfig { streams_initial: 2, ..QuicConfig::default() };
        let pair = harness::pair(&config).await;
        let _first = soon(pair.client.open_bi()).await.unwrap();
        let _second = soon(pair.client.open_bi()).await.unwrap();
        let third = tokio::time::timeout(Duration::from_millis(50), pair.client.open_bi()).await;
        assert!(third.is_err(), "the third waits");
        let uni = tokio::time::timeout(Duration::from_millis(50), pair.client.open_uni()).await;
        assert!(uni.is_err(), "none can be opened");
    }

    #[tokio::test]
    async fn an_idle_connection_is_kept_alive_past_its_idle_timeout() {
        let config = QuicConfig {
            idle_timeout: Duration::from_millis(300),
            keep_alive: Duration::from_millis(100),
            ..QuicConfig::default()
        };
        let pair = harness::pair(&config).await;
        // Three times the idle timeout: the keepalive works.
        assert!(tokio::time::timeout(Duration::from_millis(900), pair.client.closed()).await.is_err());
    }

    #[tokio::test]
    async fn a_larger_mtu_is_used_on_a_path_that_carries_it() {
        let config = QuicConfig { initial_mtu: 6500, max_mtu: 6500, ..QuicConfig::default() };
        let pair = harness::pair(&config).await;
        soon(async {
            while pair.client.stats().path.current_mtu < 6500 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// At an address that another endpoint has just left, perhaps.
    async fn again(addr: SocketAddr, secret: u8) -> quinn::Endpoint {
        let config = QuicConfig::default();
        // The ids of all of them are told from noise alike.
        let secrets = EndpointSecrets { resets: [secret; 32], ids: [1; 32] };
        let server = server_config(harness::relay_tls(), &config).unwrap();
        let bound = async {
            loop {
                match bind_again(addr, &config, &secrets, server.clone()) {
                    Ok(endpoint) => break endpoint,
                    Err(_in_use) => tokio::task::yield_now().await,
                }
            }
        };
        soon(bound).await
    }

    #[tokio::test]
    async fn an_endpoint_with_the_secret_of_an_earlier_one_resets_its_connections() {
        let first = again(LOOPBACK, 7).await;
        let addr = first.local_addr().unwrap();
        let pair = harness::pair_at(first.clone(), &QuicConfig::default()).await;
        // From here on it hears nothing more, as if its process had been killed. Twice: it keeps the socket before.
        for _ in 0..2 {
            first.rebind(std::net::UdpSocket::bind(LOOPBACK).unwrap()).unwrap();
        }
        let (mut send, _recv) = pair.client.open_bi().await.unwrap();
        let stranger = again(addr, 8).await;
        send.write_all(b"are you there?").await.unwrap();
        let told = tokio::time::timeout(Duration::from_millis(300), pair.client.closed()).await;
        assert!(told.is_err(), "a stranger knows nothing of it");
        drop(stranger);
        let _second = again(addr, 7).await;
        assert_eq!(soon(pair.client.closed()).await, quinn::ConnectionError::Reset);
    }

    #[tokio::test]
    async fn an_unspecified_ipv6_address_takes_ipv4_too() {
        let unspecified = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
        let Ok(endpoint) = bind(unspecified, &QuicConfig::default(), None) else {
            // No IPv6 on this machine.
            return;
        };
        let port = endpoint.local_addr().unwrap().port();
        let taken = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
        assert!(taken.is_err(), "the IPv4 port is this endpoint's");
    }

    #[tokio::test]
    async fn the_socket_has_the_buffers_that_were_asked_for() {
        let asked = 64 * 1024;
        let socket = bind_socket(LOOPBACK, asked).unwrap();
        let socket = socket2::SockRef::from(&socket);
        assert!(socket.recv_buffer_size().unwrap() >= asked);
        assert!(socket.send_buffer_size().unwrap() >= asked);
    }
}
