//! Serves HTTP to strangers: a bounded number of them, each for a bounded time, and one exchange with each.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// The pause after what passes by itself, such as a lack of file descriptors.
const RETRY: Duration = Duration::from_secs(1);

/// What one who asks may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at once; with one more, the oldest is closed: who only asks is done before that.
    pub connections: usize,
    /// From the connection to the whole head of its request.
    pub head: Duration,
    /// From the connection to its end.
    pub exchange: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connections: 64, head: Duration::from_secs(5), exchange: Duration::from_secs(15) }
    }
}

/// Serves `app` for ever. Dropping the future ends every client.
pub async fn serve(listener: TcpListener, app: Router, bounds: Bounds) -> Infallible {
    let mut clients = JoinSet::new();
    let mut oldest = VecDeque::new();
    loop {
        let (client, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            // That one went before it was taken.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                tracing::warn!(%error, "http: no client can be taken now");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        while clients.try_join_next().is_some() {}
        oldest.retain(|client: &AbortHandle| !client.is_finished());
        if oldest.len() >= bounds.connections
            && let Some(slow) = oldest.pop_front()
        {
            tracing::debug!(limit = bounds.connections, "http: too many connections, the oldest is closed");
            slow.abort();
        }
        let exchange = exchange(client, app.clone(), bounds);
        oldest.push_back(clients.spawn(async move {
            if let Err(error) = exchange.await {
                tracing::debug!(%remote, error = format!("{error:#}"), "http client");
            }
        }));
    }
}

async fn exchange(client: TcpStream, app: Router, bounds: Bounds) -> anyhow::Result<()> {
    let mut http = http1::Builder::new();
    // Between two requests of one connection nobody would know for how long it may be silent.
    http.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(bounds.head);
    let served = http.serve_connection(TokioIo::new(client), TowerToHyperService::new(app));
    Ok(tokio::time::timeout(bounds.exchange, served).await??)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::supervise::task;

    /// More than the sockets take of an answer that nobody reads.
    const LARGE: usize = 64 << 20;

    async fn ask(addr: SocketAddr, path: &str) -> TcpStream {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(format!("GET {path} HTTP/1.1\r\nhost: relay\r\n\r\n").as_bytes()).await.unwrap();
        client
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_its_answer_makes_room_for_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let app = Router::new().route("/large", get(async || vec![7; LARGE])).route("/small", get(async || "heard"));
        let bounds = Bounds { connections: 1, ..Bounds::default() };
        let _server = task::run(async move { match serve(listener, app, bounds).await {} });
        let mut deaf = ask(addr, "/large").await;
        deaf.readable().await.unwrap();
        let mut heard = String::new();
        ask(addr, "/small").await.read_to_string(&mut heard).await.unwrap();
        assert!(heard.ends_with("heard"), "{heard}");
        // It has lost its place.
        let mut part = Vec::new();
        drop(deaf.read_to_end(&mut part).await);
        assert!(part.len() < LARGE);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_its_answer_has_bounded_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let app = Router::new().route("/large", get(async || vec![7; LARGE]));
        let bounds = Bounds { exchange: Duration::from_millis(100), ..Bounds::default() };
        let _server = task::run(async move { match serve(listener, app, bounds).await {} });
        let mut deaf = ask(addr, "/large").await;
        tokio::time::sleep(bounds.exchange * 2).await;
        let mut part = Vec::new();
        drop(deaf.read_to_end(&mut part).await);
        assert!(part.len() < LARGE, "all of it came");
    }
}
