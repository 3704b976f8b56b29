//! The thread of a flood, with a runtime of its own.

use std::process::Command;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Scale;
use super::kinds::Flood;
use super::site::Site;

/// A flood that has come, and keeps up what it keeps up.
pub struct Attack {
    /// Who waits for its end lets go of everything.
    holds: Option<oneshot::Sender<()>>,
    /// Who waits for its end is gone.
    lives: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Attack {
    /// Runs it; and how many there were. What fails on its thread fails here.
    pub async fn start(flood: Flood, scale: Scale, site: &Arc<Site>) -> (Self, u64) {
        let (holds, held) = oneshot::channel::<()>();
        let (lives, alive) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        let site = Arc::clone(site);
        let thread = std::thread::spawn(move || {
            if scale == Scale::Whole {
                only_when_idle();
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (kept, many) = flood.run(&site, scale).await;
                done.send(many).unwrap();
                held.await.ok();
                drop(kept);
                // Else nobody would say that its connections are closed.
                alive.await.ok();
            });
        });
        let mut attack = Self { holds: Some(holds), lives: Some(lives), thread: Some(thread) };
        match is_done.await {
            Ok(many) => (attack, many),
            Err(_failed) => std::panic::resume_unwind(attack.thread.take().unwrap().join().unwrap_err()),
        }
    }

    /// Closes everything that it holds.
    pub fn give_up(&mut self) {
        self.holds = None;
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        (self.holds, self.lives) = (None, None);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// From here on the system runs this thread when no other wants the core: `SCHED_IDLE`, by `chrt` of util-linux. A
/// thread may give itself up so without privileges, and not come back.
fn only_when_idle() {
    let this = std::fs::read_link("/proc/thread-self").unwrap();
    let status = Command::new("chrt").args(["--idle", "--pid", "0"]).arg(this.file_name().unwrap()).status();
    assert!(status.expect("chrt, of util-linux").success());
}
