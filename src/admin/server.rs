//! The admin socket's server side: a unix socket of mode 0600, JSON lines in and out.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, BufReader, Interest};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use crate::config::Invalid;
use crate::config::types::folder_of;
use crate::supervise::node::Node;

use super::protocol::{REQUEST_MAX_BYTES, Reply, Request, read_line};

/// Clients served at once; with one more, one that is silent is closed.
pub const CLIENTS: usize = 32;
/// How long a client must have said nothing, since it came or was answered, to be silent.
const SILENT: Duration = Duration::from_secs(1);
/// How long a client may take to say what it wants, and what it wants next.
const REQUEST_DEADLINE: Duration = Duration::from_secs(60);
/// The pause after what passes by itself, such as a lack of file descriptors.
const RETRY: Duration = Duration::from_secs(1);
/// How long a client may take to read a reply.
const REPLY_DEADLINE: Duration = Duration::from_secs(10);

/// The longest temporary name of a socket, in bytes.
const TEMPORARY_NAME_MAX: usize = 12;
/// How often another temporary name is tried where one is taken.
const TRIES: usize = 100;

/// A bound socket. Its file is removed with it, unless another socket has taken the path meanwhile.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

/// Held while a socket file is put in its place or taken away: an earlier life's socket may be dropped on another thread while the
/// next one is bound, and must not take that one's file for its own.
static PLACING: Mutex<()> = Mutex::new(());

fn placing() -> MutexGuard<'static, ()> {
    PLACING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let _placing = placing();
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "admin socket stays behind");
        }
    }
}

/// What is wrong with the configured path: there is no folder for it, or something stands there that is no socket.
#[must_use]
pub fn problem(path: Option<&Path>) -> Option<Invalid> {
    let path = path?;
    let what = match std::fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => return None,
        Ok(_) => format!("{} exists and is no socket", path.display()),
        Err(_) => format!("{}: {}", path.display(), folder_of(path).err()?),
    };
    Some(Invalid::at("admin.socket", what))
}

/// Refuses a path at which a live process listens.
///
/// # Errors
/// `AddrInUse`, with the path.
pub fn check_free(path: &Path) -> io::Result<()> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let why = format!("admin socket: another process listens on {}", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    }
    Ok(())
}

/// Binds `path`, replacing the socket file of an earlier life. Only the owner can ever connect: the file gets its
/// mode before it gets its name.
///
/// # Errors
/// When the directory does not exist or cannot be written; the message names the path.
pub fn bind(path: &Path) -> io::Result<AdminSocket> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("admin.socket {}: {error}", path.display()));
    let (listener, temporary) = bind_beside(path).map_err(named)?;
    let placed = std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::symlink_metadata(&temporary))
        .and_then(|file| {
            let _placing = placing();
            std::fs::rename(&temporary, path).map(|()| file.ino())
        });
    match placed {
        Ok(inode) => Ok(AdminSocket { listener, path: path.to_owned(), inode }),
        Err(error) => {
            if let Err(left) = std::fs::remove_file(&temporary) {
                tracing::debug!(%left, "temporary admin socket stays behind");
            }
            Err(named(error))
        }
    }
}

/// A socket in the same folder under a name that nothing had. It is not longer than the path's own, for a socket's address holds few
/// bytes: whatever path fits does.
fn bind_beside(path: &Path) -> io::Result<(UnixListener, PathBuf)> {
    let length = path.file_name().map_or(1, |name| name.len().clamp(1, TEMPORARY_NAME_MAX));
    let mut tries = 0;
    loop {
        let name: String =
            std::iter::repeat_with(|| char::from(rand::random_range(b'a'..=b'z'))).take(length).collect();
        let temporary = path.with_file_name(name);
        if temporary == path {
            continue;
        }
        match UnixListener::bind(&temporary) {
            Ok(listener) => return Ok((listener, temporary)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// The socket for an actor's start. At the first one, what is wrong is the mistake of whoever started it; later it
/// passes (no file descriptor left, say), and the server tries again by itself: `None`.
///
/// # Errors
/// As [`bind`], at the first start.
pub fn bind_for(node: &Node, path: &Path) -> io::Result<Option<AdminSocket>> {
    match bind(path) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if node.started_at().is_none() => Err(error),
        Err(error) => {
            tracing::warn!(%error, "admin socket cannot be bound now");
            Ok(None)
        }
    }
}

/// Serves clients for ever, on `socket` or on one that is bound at `path`. Dropping the future ends every client.
pub async fn serve<F, A>(path: PathBuf, socket: Option<AdminSocket>, answer: F) -> Infallible
where
    F: Fn(Request) -> A + Send + Sync + 'static,
    A: Future<Output = Reply> + Send + 'static,
{
    let socket = match socket {
        Some(socket) => socket,
        None => bind_in_time(&path).await,
    };
    let (answer, room) = (Arc::new(answer), Arc::new(Room::default()));
    let mut clients = JoinSet::new();
    loop {
        let client = match socket.listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::warn!(%error, "admin socket: no client can be taken now");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let place = room.place().await;
        while clients.try_join_next().is_some() {}
        let (answer, room) = (Arc::clone(&answer), Arc::clone(&room));
        clients.spawn(async move {
            let _place = place;
            if let Err(error) = serve_client(client, answer.as_ref(), &room).await {
                tracing::debug!(%error, "admin client");
            }
        });
    }
}

/// The places of clients. Whoever says nothing must not keep others out; whoever has asked keeps its place until it is answered.
#[derive(Debug)]
struct Room {
    places: Arc<Semaphore>,
    /// A permit for each client that is to leave. Those that are silent wait for one in turn; who asks after all leaves it to the next.
    leave: Semaphore,
}

impl Default for Room {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(CLIENTS)), leave: Semaphore::new(0) }
    }
}

impl Room {
    /// A place, once there is one.
    async fn place(&self) -> OwnedSemaphorePermit {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return place;
        }
        tracing::debug!(limit = CLIENTS, "admin socket: too many clients, one that is silent is closed");
        self.leave.add_permits(1);
        // Neither semaphore is ever closed.
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return std::future::pending().await };
        // Where one has left by itself no other need.
        self.leave.forget_permits(1);
        place
    }

    /// Until a client that says nothing from now on is to leave.
    async fn leave(&self) {
        // It takes its turn now.
        match tokio::join!(self.leave.acquire(), tokio::time::sleep(SILENT)) {
            (Ok(permit), ()) => permit.forget(),
            (Err(_closed), ()) => std::future::pending().await,
        }
    }
}

async fn bind_in_time(path: &Path) -> AdminSocket {
    loop {
        tokio::time::sleep(RETRY).await;
        match bind(path) {
            Ok(socket) => return socket,
            Err(error) => tracing::debug!(%error, "admin socket cannot be bound yet"),
        }
    }
}

async fn serve_client<F, A>(client: UnixStream, answer: &F, room: &Room) -> io::Result<()>
where
    F: Fn(Request) -> A,
    A: Future<Output = Reply>,
{
    let (read, mut write) = client.into_split();
    let mut read = BufReader::new(read);
    loop {
        let line = tokio::select! {
            biased;
            line = tokio::time::timeout(REQUEST_DEADLINE, read_line(&mut read, REQUEST_MAX_BYTES)) => line?,
            () = room.leave() => return Ok(()),
        };
        // A line that is too long, or has no end, is the last one: where the next begins is not known.
        let (reply, last) = match line {
            Ok(None) => return Ok(()),
            Ok(Some(_)) if has_gone(&write).await? => return Ok(()),
            Ok(Some(line)) => match Request::from_line(&line) {
                Ok(request) => (answer(request).await, false),
                Err(why) => (Reply::Refused(why), false),
            },
            Err(error) => (Reply::Refused(error.to_string()), true),
        };
        tokio::time::timeout(REPLY_DEADLINE, write.write_all(&reply.to_line())).await??;
        if last {
            return Ok(());
        }
    }
}

/// Whether nobody would hear the answer: who has been told that there is none must not be obeyed later. One that has only said all that it
/// has to say still waits.
async fn has_gone(client: &OwnedWriteHalf) -> io::Result<bool> {
    // What has happened to the socket meanwhile is known afterwards.
    tokio::task::yield_now().await;
    let ready = tokio::time::timeout(REPLY_DEADLINE, client.ready(Interest::WRITABLE)).await??;
    Ok(ready.is_write_closed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_path_that_a_socket_can_have_is_bound_and_so_is_the_shortest_name() {
        let dir = tempfile::tempdir().unwrap();
        let room = 107 - dir.path().as_os_str().len() - "/".len();
        let folder = dir.path().join("d".repeat(room - "/s".len()));
        std::fs::create_dir(&folder).unwrap();
        for path in [dir.path().join("s".repeat(room)), folder.join("s")] {
            assert_eq!(path.as_os_str().len(), 107);
            let socket = bind(&path).unwrap();
            assert!(UnixStream::connect(&path).await.is_ok());
            drop(socket);
            let sockets =
                std::fs::read_dir(path.parent().unwrap()).unwrap().map(|file| file.unwrap().file_type().unwrap());
            assert_eq!(sockets.filter(|kind| kind.is_socket()).count(), 0, "nothing is left beside it");
        }
    }

    #[tokio::test]
    async fn a_socket_that_goes_while_the_next_one_is_bound_leaves_that_ones_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let mut socket = bind(&path).unwrap();
        for round in 0..2_000 {
            let earlier = std::thread::spawn(move || drop(socket));
            socket = bind(&path).unwrap();
            earlier.join().unwrap();
            assert!(path.exists(), "round {round}: nobody can connect any more");
        }
        drop(socket);
        assert!(!path.exists(), "the last one takes its file along");
    }
}
