//! The other end of the admin socket: what `outrelay admin` speaks through.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time;

use super::protocol::{REPLY_MAX_BYTES, Reply, Request, read_line};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens there, or may be spoken to.
    #[error("cannot reach a relay at {}: {hint}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What to check.
        hint: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Nothing came in time.
    #[error("no answer from {} within {}", path.display(), humantime::format_duration(*after))]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The conversation broke off.
    #[error("{} closed the connection before it answered", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What came is not a reply.
    #[error("{} answered something else than a reply: is it an outrelay of another version?", path.display())]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// Why it is none.
        source: serde_json::Error,
    },
    /// The relay says no; its own words.
    #[error("{0}")]
    Refused(String),
}

/// A connection to an admin socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    patience: Duration,
}

impl Client {
    /// Connects to the socket at `path`; this and each request may take as long as `patience`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] says what to check.
    pub async fn connect(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let connected = time::timeout(patience, UnixStream::connect(path)).await;
        let stream = connected.map_err(|_| ClientError::Timeout { path: path.to_owned(), after: patience })?;
        let stream = stream.map_err(|source| ClientError::Connect {
            path: path.to_owned(),
            hint: hint(path, source.kind()),
            source,
        })?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream), patience })
    }

    /// Sends `request` and reads the reply.
    ///
    /// # Errors
    /// Everything but [`ClientError::Refused`].
    pub async fn ask(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let patience = self.patience;
        let line = time::timeout(patience, self.exchange(request)).await;
        let line = line.map_err(|_| ClientError::Timeout { path: self.path.clone(), after: patience })?;
        let line = line.map_err(|source| ClientError::Broken { path: self.path.clone(), source })?;
        serde_json::from_slice(&line).map_err(|source| ClientError::Garbled { path: self.path.clone(), source })
    }

    /// As [`Self::ask`], for the data of a reply that is not a refusal.
    ///
    /// # Errors
    /// [`ClientError::Refused`] too.
    pub async fn data<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        match self.ask(request).await? {
            Reply::Refused(why) => Err(ClientError::Refused(why)),
            Reply::Done(data) => {
                serde_json::from_value(data).map_err(|source| ClientError::Garbled { path: self.path.clone(), source })
            }
        }
    }

    async fn exchange(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.write_all(&line).await?;
        self.stream.flush().await?;
        let reply = read_line(&mut self.stream, REPLY_MAX_BYTES).await?;
        reply.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

fn hint(path: &Path, kind: io::ErrorKind) -> &'static str {
    if std::fs::metadata(path).is_ok_and(|file| !file.file_type().is_socket()) {
        return "it is no socket. --socket is the path of admin.socket (--admin-socket) of a running relay or agent";
    }
    match kind {
        io::ErrorKind::NotFound => {
            "there is no such socket. Is the relay running, with admin.socket (--admin-socket) at this path? --socket names another"
        }
        io::ErrorKind::ConnectionRefused => "the socket is there, but nobody listens: the relay that made it is gone",
        io::ErrorKind::PermissionDenied => "you may not open it: run as the relay's user, or as root",
        _ => "is it the admin socket (admin.socket, --admin-socket) of a running relay?",
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::super::protocol::Struck;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// What a client gets to hear when the other side answers with `reply` and then hangs up.
    async fn heard(reply: &[u8]) -> Result<Struck, ClientError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.split();
            let line = read_line(&mut BufReader::new(read), 1024).await.unwrap().unwrap();
            write.write_all(reply).await.unwrap();
            Request::from_line(&line).unwrap()
        };
        let client = async {
            let mut client = Client::connect(&path, PATIENCE).await.unwrap();
            client.data::<Struck>(&Request::Kill { actor: "registry".into() }).await
        };
        let (request, heard) = tokio::join!(server, client);
        assert_eq!(request, Request::Kill { actor: "registry".into() });
        heard
    }

    #[tokio::test]
    async fn an_answer_is_read() {
        let struck = Struck { id: 3, actor: "registry".into() };
        assert_eq!(heard(&Reply::done(&struck).to_line()).await.unwrap(), struck);
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_words_of_the_relay() {
        let refused = heard(&Reply::Refused("not allowed here".into()).to_line()).await.unwrap_err();
        assert_eq!(refused.to_string(), "not allowed here");
    }

    #[tokio::test]
    async fn other_answers_are_told_apart() {
        assert!(matches!(heard(b"").await, Err(ClientError::Broken { .. })));
        assert!(matches!(heard(b"{\"ok\":tr").await, Err(ClientError::Broken { .. })));
        assert!(matches!(heard(b"hello\n").await, Err(ClientError::Garbled { .. })));
        assert!(matches!(heard(b"{\"ok\":true,\"data\":5}\n").await, Err(ClientError::Garbled { .. })));
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_named_with_what_to_check() {
        let error = Client::connect(Path::new("/nonexistent/admin.sock"), PATIENCE).await.unwrap_err().to_string();
        assert!(error.contains("/nonexistent/admin.sock") && error.contains("--admin-socket"), "{error}");
    }

    #[tokio::test]
    async fn a_socket_without_a_listener_is_told_from_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        let error = Client::connect(&path, PATIENCE).await.unwrap_err().to_string();
        assert!(error.contains("nobody listens"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_does_not_answer_is_not_waited_for_forever() {
        let (mine, theirs) = UnixStream::pair().unwrap();
        let mut client = Client { path: "a.sock".into(), stream: BufReader::new(mine), patience: PATIENCE };
        let error = client.ask(&Request::Tree).await.unwrap_err();
        drop(theirs);
        assert_eq!(error.to_string(), "no answer from a.sock within 5s");
    }
}
