//! The demo's web server and its client.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::routing::get;
use futures_util::stream;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};

use crate::supervise::task::{self, Owned};

/// Bytes of a download that are made at once.
const CHUNK: usize = 64 << 10;
/// No page of the demo is longer.
const PAGE_MAX_BYTES: usize = 64 << 10;

type Digest = [u8; 32];
type Sent = Arc<Mutex<Option<Digest>>>;

/// A web server on a free port of this host.
pub(super) struct Server {
    pub(super) addr: SocketAddr,
    sent: Sent,
    _task: Owned,
}

impl Server {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let sent = Sent::default();
        let app = Router::new()
            .route("/", get(|| async { "Hello from behind the relay.\n" }))
            .route("/hello/{n}", get(|Path(n): Path<u32>| async move { greeting(n) }))
            .route("/download/{bytes}", get(download))
            .with_state(Arc::clone(&sent));
        let task = task::run(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "the demo's web server ended");
            }
        });
        Ok(Self { addr, sent, _task: task })
    }

    /// The digest of the last download that was sent in full.
    pub(super) fn sent_digest(&self) -> Option<Digest> {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn greeting(n: u32) -> String {
    format!("Hello number {n} from behind the relay.\n")
}

/// Bytes that a lost or doubled block would change the digest of: each chunk starts with its position.
async fn download(State(sent): State<Sent>, Path(bytes): Path<u64>) -> Body {
    let start = (0_u64, Sha256::new());
    Body::from_stream(stream::unfold(start, move |(at, mut digest)| {
        let sent = Arc::clone(&sent);
        async move {
            if at >= bytes {
                *sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(digest.finalize().into());
                return None;
            }
            let len = CHUNK.min(usize::try_from(bytes - at).unwrap_or(CHUNK));
            let mut chunk = vec![0; len];
            for (word, n) in chunk.chunks_mut(8).zip(0_u64..) {
                let value = (at + 8 * n).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
                word.copy_from_slice(&value[..word.len()]);
            }
            digest.update(&chunk);
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(chunk)), (at + len as u64, digest)))
        }
    }))
}

/// One request over a connection of its own.
async fn request(to: SocketAddr, path: &str) -> anyhow::Result<(Response<Incoming>, Owned)> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = task::run(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the demo's HTTP connection");
        }
    });
    let request = Request::get(path).header("host", to.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    ensure!(response.status().is_success(), "{path} was answered {}", response.status());
    Ok((response, driver))
}

/// A page as text.
pub(super) async fn get_page(to: SocketAddr, path: &str) -> anyhow::Result<String> {
    let (response, _driver) = request(to, path).await?;
    let page = http_body_util::Limited::new(response.into_body(), PAGE_MAX_BYTES).collect().await;
    let page = page.map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
    Ok(String::from_utf8(page.to_bytes().to_vec())?)
}

/// A download in progress.
pub(super) struct Download {
    body: Incoming,
    digest: Sha256,
    bytes: u64,
    last: Instant,
    longest_stall: Duration,
    _driver: Owned,
}

impl Download {
    pub(super) async fn start(from: SocketAddr, bytes: u64) -> anyhow::Result<Self> {
        let (response, driver) = request(from, &format!("/download/{bytes}")).await?;
        Ok(Self {
            body: response.into_body(),
            digest: Sha256::new(),
            bytes: 0,
            last: Instant::now(),
            longest_stall: Duration::ZERO,
            _driver: driver,
        })
    }

    /// Takes what has come; how much came so far, or `None` at the end.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<u64>> {
        let Some(frame) = self.body.frame().await else { return Ok(None) };
        if let Ok(data) = frame?.into_data() {
            self.digest.update(&data);
            self.bytes += data.len() as u64;
        }
        self.longest_stall = self.longest_stall.max(self.last.elapsed());
        self.last = Instant::now();
        Ok(Some(self.bytes))
    }

    pub(super) fn digest(&self) -> Digest {
        self.digest.clone().finalize().into()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn longest_stall(&self) -> Duration {
        self.longest_stall
    }
}
