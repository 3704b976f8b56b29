//! Relays as processes of this program, which are killed when they are dropped.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rand::{Rng, RngExt as _};
use tokio::time::{Instant, sleep};

use super::place::Place;
use crate::admin::client::{Client, ClientError};
use crate::admin::protocol::{Draining, Request, Struck};
use crate::supervise::report::Report;

/// Ports that the system does not hand out by itself: none of the agents' is among them.
const PORTS: std::ops::Range<u16> = 10_000..30_000;
/// Ports that are tried.
const TRIES: usize = 1_000;
/// How long a process may take to listen.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it may take to stop in order: longer than it waits for its streams and its actors.
const STOPPING: Duration = Duration::from_secs(20);
/// How long an answer on the admin socket may take.
const ADMIN: Duration = Duration::from_secs(5);
/// How often a process is looked at while something is awaited of it.
const LOOK: Duration = Duration::from_millis(10);

/// What must be the same at the end as it was at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Actors of its tree.
    pub actors: usize,
    /// Open file descriptors.
    pub fds: usize,
}

/// A relay, and the process that it is at the moment.
#[derive(Debug)]
pub struct RelayProcess {
    /// Its name.
    pub id: String,
    /// Where it listens, whichever process it is.
    pub addr: SocketAddr,
    args: Vec<OsString>,
    ready: PathBuf,
    admin: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// It was killed, or told to stop: that it exits is no surprise.
    leaving: bool,
    /// 0 while there is none.
    pid: Arc<AtomicU32>,
}

impl RelayProcess {
    /// Starts a relay.
    ///
    /// # Errors
    /// When it does not listen in time.
    pub async fn start(place: &Place, id: String, level: &str, rng: &mut impl Rng) -> anyhow::Result<Self> {
        let addr = free_address(rng)?;
        let file = |suffix: &str| place.file(&format!("{id}.{suffix}"));
        let mut relay = Self {
            args: place.relay_args(&id, addr, level)?,
            ready: file("ready"),
            admin: file("sock"),
            log: file("log"),
            id,
            addr,
            child: None,
            leaving: false,
            pid: Arc::default(),
        };
        relay.start_again().await?;
        Ok(relay)
    }

    /// Starts it again, if it does not run, at the address where it was. One that is to leave is waited for.
    ///
    /// # Errors
    /// When it does not listen in time.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        if self.leaving {
            self.gone().await?;
        }
        if self.child.is_some() {
            return Ok(());
        }
        std::fs::remove_file(&self.ready).ok();
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(std::env::current_exe()?);
        // A group of its own: what the terminal sends to interrupt the soak is not for the relays.
        command.args(&self.args).process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // A panic with a backtrace keeps the program's debug information in memory: that would be measured as the relay's.
        command.env("RUST_BACKTRACE", "0");
        let child = self.child.insert(command.spawn().context("a relay's process")?);
        self.pid.store(child.id(), Ordering::SeqCst);
        let deadline = Instant::now() + PATIENCE;
        while !self.ready.exists() {
            if let Some(status) = self.exited() {
                bail!("relay {} exited at its start: {status}", self.id);
            }
            if Instant::now() > deadline {
                bail!("relay {} does not listen within {PATIENCE:?}", self.id);
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// How it has exited, if it was not told to; none when that was told before.
    pub fn has_exited(&mut self) -> Option<ExitStatus> {
        if self.leaving { None } else { self.exited() }
    }

    /// Kills the process (SIGKILL): no peer hears a word.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child {
            self.leaving = true;
            child.kill().context("a relay's process")?;
        }
        self.gone().await.map(|_status| ())
    }

    /// Has it stop in order, and waits until it has.
    ///
    /// # Errors
    /// When it does not.
    pub async fn drain(&mut self) -> anyhow::Result<ExitStatus> {
        let mut admin = {
            let deadline = Instant::now() + ADMIN;
            // Its admin socket may be about to be bound again.
            loop {
                match self.admin().await {
                    Err(ClientError::Connect { .. }) if Instant::now() < deadline => sleep(LOOK).await,
                    admin => break admin?,
                }
            }
        };
        self.leaving = true;
        match admin.data::<Draining>(&Request::Drain { to: Vec::new() }).await {
            // It may be gone before it answers.
            Ok(_) | Err(ClientError::Broken { .. }) => {}
            Err(error) => {
                self.leaving = false;
                return Err(error.into());
            }
        }
        self.gone().await?.context("it was gone already")
    }

    async fn gone(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + STOPPING;
        while self.child.is_some() {
            if let Some(status) = self.exited() {
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                bail!("relay {} does not exit within {STOPPING:?}", self.id);
            }
            sleep(LOOK).await;
        }
        Ok(None)
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.forget();
        Some(status)
    }

    /// Its actors.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn tree(&self) -> Result<Report, ClientError> {
        self.admin().await?.data(&Request::Tree).await
    }

    /// Strikes an actor.
    ///
    /// # Errors
    /// When it is not there any more, or the answer is lost.
    pub async fn strike(&self, request: &Request) -> Result<Struck, ClientError> {
        self.admin().await?.data(request).await
    }

    /// What it has now.
    ///
    /// # Errors
    /// When it does not run, or does not answer.
    pub async fn counts(&self) -> anyhow::Result<Counts> {
        let actors = self.tree().await?.walk().count();
        let child = self.child.as_ref().context("it does not run")?;
        let mut least = descriptors(child.id())?;
        // That of the question itself is gone a moment after it.
        for _ in 0..10 {
            sleep(Duration::from_millis(2)).await;
            least = least.min(descriptors(child.id())?);
        }
        Ok(Counts { actors, fds: least })
    }

    /// Its process, whichever it is at the moment; 0 for none.
    #[must_use]
    pub fn pid(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.pid)
    }

    fn forget(&mut self) {
        self.child = None;
        self.leaving = false;
        self.pid.store(0, Ordering::SeqCst);
    }

    async fn admin(&self) -> Result<Client, ClientError> {
        Client::connect(&self.admin, ADMIN).await
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take()
            && child.kill().is_ok()
        {
            child.wait().ok();
        }
    }
}

/// How many descriptors a process has.
///
/// # Errors
/// When it is gone.
pub fn descriptors(pid: u32) -> std::io::Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

fn free_address(rng: &mut impl Rng) -> anyhow::Result<SocketAddr> {
    let mut found = (0..TRIES).map(|_| SocketAddr::from(([127, 0, 0, 1], rng.random_range(PORTS))));
    found.find(|addr| UdpSocket::bind(addr).is_ok()).context("no free port")
}
