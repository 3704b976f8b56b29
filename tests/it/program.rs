//! The real program as a relay: one process after another at one address.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use outrelay::bench::process::Process;
use outrelay::config::relay::RelayConfig;

use crate::harness::{Deployment, eventually};

pub struct Program {
    pub id: String,
    /// Where it listens, whichever process it is.
    pub addr: SocketAddr,
    pub admin: PathBuf,
    pub child: Child,
    args: Vec<OsString>,
    backtrace: &'static str,
    ready: PathBuf,
    log: PathBuf,
}

/// Nothing listens there. Below the ports that the system hands out by itself: none of the agents' is among them.
pub fn free_address() -> SocketAddr {
    let mut ports = std::iter::repeat_with(|| SocketAddr::from(([127, 0, 0, 1], rand::random_range(10_000..30_000))));
    ports.find(|addr| UdpSocket::bind(addr).is_ok()).unwrap()
}

impl Program {
    /// A process with the files of `config`, at its address; and with `settings`, `KEY=VALUE`.
    pub async fn start(deployment: &Deployment, config: &RelayConfig, settings: &[String]) -> Self {
        let settings: Vec<_> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        Self::start_with(deployment, config, &settings).await
    }

    /// The same with these flags, which come last.
    pub async fn start_with(deployment: &Deployment, config: &RelayConfig, flags: &[&str]) -> Self {
        Self::start_traced(deployment, config, flags, "0").await
    }

    /// The same with `RUST_BACKTRACE`.
    pub async fn start_traced(
        deployment: &Deployment,
        config: &RelayConfig,
        flags: &[&str],
        backtrace: &'static str,
    ) -> Self {
        let (id, admin) = (config.id.clone(), config.admin.socket.clone().unwrap());
        let path = |suffix: &str| deployment.dir.path().join(format!("{id}.{suffix}"));
        let (ready, log) = (path("ready"), path("log"));
        let mut args = Vec::<OsString>::new();
        args.extend(["relay", "--id", &id, "--region", &config.region, "--http", "127.0.0.1:0"].map(OsString::from));
        let mut file = |flag: &str, path: &Path| args.extend([flag.into(), path.into()]);
        file("--cert", &config.tls.cert);
        file("--key", &config.tls.key);
        file("--ca", &config.tls.ca);
        file("--rules", config.directory.rules.as_ref().unwrap());
        file("--audit", config.directory.audit.as_ref().unwrap());
        file("--ready-file", &ready);
        file("--admin-socket", &admin);
        config.resume.fleet_key.iter().for_each(|key| file("--fleet-key", key));
        args.extend(flags.iter().map(OsString::from));
        let child = spawn(&args, backtrace, config.listen, &ready, &log);
        let mut program = Self { id, addr: config.listen, admin, child, args, backtrace, ready, log };
        program.listens().await;
        program
    }

    /// Starts it again, at the address where it was.
    pub async fn start_again(&mut self) {
        self.child = spawn(&self.args, self.backtrace, self.addr, &self.ready, &self.log);
        self.listens().await;
    }

    async fn listens(&mut self) {
        let ready: serde_json::Value = eventually("the ready file", || {
            assert!(self.child.try_wait().unwrap().is_none(), "{} exited at its start: {}", self.id, self.log());
            serde_json::from_str(&std::fs::read_to_string(&self.ready).ok()?).ok()
        })
        .await;
        self.addr = ready["quic"].as_str().unwrap().parse().unwrap();
    }

    /// The process is killed (SIGKILL): no peer hears a word.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        self.signal("-HUP");
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    fn signal(&self, which: &str) {
        let killed = Command::new("kill").arg(which).arg(self.child.id().to_string()).status().unwrap();
        assert!(killed.success());
    }

    /// Waits until it has said a line with all of `words`; that line.
    pub async fn said(&self, words: &[&str]) -> String {
        let line = || self.log().lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned);
        eventually(&format!("{words:?} in the log"), line).await
    }

    /// Waits until the process has exited by itself; how.
    pub async fn exited(&mut self) -> ExitStatus {
        eventually("the process has exited", || self.child.try_wait().unwrap()).await
    }

    pub fn process(&self) -> Process {
        Process::find(self.child.id()).unwrap()
    }

    /// What it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

fn spawn(args: &[OsString], backtrace: &str, listen: SocketAddr, ready: &Path, log: &Path) -> Child {
    std::fs::remove_file(ready).ok();
    let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrelay"));
    command
        .env_remove("RUST_LOG")
        .env("RUST_BACKTRACE", backtrace)
        .args(args)
        .arg("--listen")
        .arg(listen.to_string())
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Program {
    #[allow(clippy::print_stderr, reason = "why a test fails stands there")]
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let log = self.log();
            let end: Vec<_> = log.lines().rev().take(6).collect();
            eprintln!("the last words of {}:\n{}", self.id, end.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}
