//! Notices that files have changed, by looking: no file system is too odd for that (bind mounts, symbolic links that
//! are swapped), and a look every few seconds costs nothing.

use std::convert::Infallible;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::beat;
use crate::config::relay::RelayConfig;
use crate::vault::Vault;

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(10);

/// How long files that have changed must then stay as they are.
const SETTLE: Duration = Duration::from_millis(500);

/// What a look tells of a file; `None` when it is not there.
type Stamp = Option<(u64, u64, i64, i64)>;

/// A set of files, and what they looked like when this was made: make it before they are read.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    seen: Vec<Stamp>,
}

impl Files {
    /// As they look now.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let seen = look(&paths);
        Self { paths, seen }
    }

    /// Waits until one of them looks different, and then stays so.
    pub async fn changed(&self) {
        loop {
            tokio::time::sleep_until(beat(EVERY)).await;
            if look(&self.paths) != self.seen {
                return settled(&self.paths).await;
            }
        }
    }
}

/// Calls `tell` whenever one of the files changes, or somebody asks for a reload: from this call on, and not from when the result is first
/// polled. `paths` says which they are now: a reload may have changed that, too.
pub fn follow(
    vault: Arc<Vault>,
    paths: impl Fn(&RelayConfig) -> Vec<PathBuf>,
    tell: impl Fn(),
) -> impl Future<Output = Infallible> {
    let now = move |vault: &Vault| Files::new(paths(&vault.config.now()));
    let mut files = now(&vault);
    let mut asked = vault.reload.subscribe();
    async move {
        loop {
            tokio::select! {
                () = files.changed() => {}
                asked = asked.changed() => if asked.is_err() {
                    // Nobody can ask any more: the relay is going down.
                    std::future::pending::<()>().await;
                },
            }
            // Before they are read: what changes from here on is seen.
            files = now(&vault);
            tell();
        }
    }
}

/// Waits until two looks in a row find the same: whoever writes the file may be in the midst of it.
async fn settled(paths: &[PathBuf]) {
    let mut seen = look(paths);
    loop {
        tokio::time::sleep(SETTLE).await;
        let again = look(paths);
        if again == seen {
            return;
        }
        seen = again;
    }
}

fn look(paths: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
    };
    paths.iter().map(stamp).collect()
}
