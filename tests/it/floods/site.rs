//! The real program as a relay, looked at from outside.

use std::net::SocketAddr;
use std::path::PathBuf;
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
    [[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"nowhere\"\n";

pub struct Site {
    pub deployment: Deployment,
    pub addr: SocketAddr,
    pub process: Process,
    pub admin: PathBuf,
    pub child: Child,
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
        let deployment = Deployment::new();
        let config = deployment.relay_config("r1", RULES);
        let path = |name: &str| deployment.dir.path().join(name);
        let (ready, admin) = (path("ready.json"), path("admin.sock"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrelay"));
        command.args(["relay", "--id", "r1", "--region", "acme", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        command.arg("--cert").arg(&config.tls.cert).arg("--key").arg(&config.tls.key).arg("--ca").arg(&config.tls.ca);
        command.arg("--rules").arg(config.directory.rules.as_ref().unwrap()).arg("--ready-file").arg(&ready);
        command.arg("--audit").arg(path("audit.jsonl")).arg("--admin-socket").arg(&admin);
        for setting in settings {
            command.arg("--set").arg(setting);
        }
        let log = std::fs::File::create(path("relay.log")).unwrap();
        let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        let ready: serde_json::Value =
            eventually("the ready file", || serde_json::from_str(&std::fs::read_to_string(&ready).ok()?).ok()).await;
        let addr = ready["quic"].as_str().unwrap().parse().unwrap();
        let process = Process::find(child.id()).unwrap();
        let site = Self { deployment, addr, process, admin, child };
        site.warm_up().await;
        site
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
