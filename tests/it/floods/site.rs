//! The real program as a relay, looked at from outside.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outrelay::admin::client::Client;
use outrelay::admin::protocol::Request;
use outrelay::bench::process::Process;
use outrelay::core::identity::AgentUri;
use outrelay::supervise::report::Report;

use crate::harness::{Deployment, Peer, SOON, agent, dial, eventually, rejection};

/// Opens to `forbidden` are 403, those to `nowhere` 404.
const RULES: &str = "\
    [[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"neighbour\"\n\
    [[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"svc\"\n\
    [[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"raw\"\n\
    [[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"nowhere\"\n";

pub struct Site {
    pub deployment: Deployment,
    pub addr: SocketAddr,
    pub process: Process,
    pub admin: PathBuf,
    pub child: Child,
    args: Vec<OsString>,
}

/// What must come back to what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub actors: usize,
    pub fds: usize,
}

impl Site {
    /// A relay with these settings, `KEY=VALUE`.
    pub async fn start(settings: &[&str]) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), settings).await
    }

    /// One that listens at this address.
    pub async fn start_at(listen: SocketAddr, settings: &[&str]) -> Self {
        let deployment = Deployment::new();
        let config = deployment.relay_config("r1", RULES);
        let path = |name: &str| deployment.dir.path().join(name);
        let admin = path("admin.sock");
        let mut args = Vec::<OsString>::new();
        args.extend(["relay", "--id", "r1", "--region", "acme", "--http", "127.0.0.1:0"].map(OsString::from));
        let mut file = |flag: &str, path: &Path| args.extend([flag.into(), path.into()]);
        file("--cert", &config.tls.cert);
        file("--key", &config.tls.key);
        file("--ca", &config.tls.ca);
        file("--rules", config.directory.rules.as_ref().unwrap());
        file("--ready-file", &path("ready.json"));
        file("--audit", &path("audit.jsonl"));
        file("--admin-socket", &admin);
        args.extend(settings.iter().flat_map(|setting| ["--set", setting].map(OsString::from)));
        let (child, addr) = spawn(&args, &deployment, listen).await;
        let process = Process::find(child.id()).unwrap();
        let site = Self { deployment, addr, process, admin, child, args };
        site.warm_up().await;
        site
    }

    /// The process is killed (SIGKILL): no peer hears a word.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, at the address where it was.
    pub async fn start_again(&mut self) {
        (self.child, _) = spawn(&self.args, &self.deployment, self.addr).await;
        self.process = Process::find(self.child.id()).unwrap();
    }

    /// One decision, so that the audit file is open.
    async fn warm_up(&self) {
        let uri = agent(0xff);
        let mut peer = Peer::over(dial(self.addr, self.client(&uri)).await.unwrap(), &uri).await;
        peer.hello(&[]).await;
        assert_eq!(rejection(&mut peer.open("nowhere", 1).await).await.0, 404);
        let audit = self.deployment.dir.path().join("audit.jsonl");
        eventually("the audit is written", || (std::fs::metadata(&audit).ok()?.len() > 0).then_some(())).await;
        peer.quic.close(0_u32.into(), b"that is all");
        while self.tree().await.walk().any(|actor| actor.kind == "connection") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// TLS handshakes that are not finished.
    pub async fn half_open(&self) -> u64 {
        let tree = self.tree().await;
        let listener = tree.walk().find(|actor| actor.kind == "quic_listener").unwrap();
        listener.detail["handshakes"].as_u64().unwrap()
    }

    async fn tree(&self) -> Report {
        let mut client = Client::connect(&self.admin, SOON).await.unwrap();
        client.data::<Report>(&Request::Tree).await.unwrap()
    }

    /// What `uri` dials with.
    pub fn client(&self, uri: &AgentUri) -> rustls::ClientConfig {
        self.deployment.client(&self.deployment.ca.agent(uri).unwrap())
    }

    pub fn rss_mib(&self) -> u64 {
        self.process.rss_kib().unwrap() >> 10
    }

    /// The most that it ever had.
    pub fn peak_rss_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10
    }

    fn fds(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.pid())).unwrap().count()
    }

    /// What it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.deployment.dir.path().join("relay.log")).unwrap_or_default()
    }

    pub async fn counts(&self) -> Counts {
        let actors = self.tree().await.walk().count();
        // The admin client's own is gone a moment after it.
        let mut fds = self.fds();
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            fds = fds.min(self.fds());
        }
        Counts { actors, fds }
    }

    /// Waits until it has no more than `before`.
    pub async fn is_back_at(&self, before: Counts) {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let now = self.counts().await;
            if now == before {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{before:?} before, and still {now:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A new process, once it is ready; and where it listens.
async fn spawn(args: &[OsString], deployment: &Deployment, listen: SocketAddr) -> (Child, SocketAddr) {
    let path = |name: &str| deployment.dir.path().join(name);
    std::fs::remove_file(path("ready.json")).ok();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(path("relay.log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrelay"));
    let child =
        command.args(args).arg("--listen").arg(listen.to_string()).stdin(Stdio::null()).stderr(log).spawn().unwrap();
    let ready: serde_json::Value =
        eventually("the ready file", || serde_json::from_str(&std::fs::read_to_string(path("ready.json")).ok()?).ok())
            .await;
    (child, ready["quic"].as_str().unwrap().parse().unwrap())
}

impl Drop for Site {
    #[allow(clippy::print_stderr, reason = "why a test fails stands there")]
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let log = self.log();
            let end: Vec<_> = log.lines().rev().take(6).collect();
            eprintln!("the relay's last words:\n{}", end.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}
