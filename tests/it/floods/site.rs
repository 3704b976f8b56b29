//! The real program as a relay, looked at from outside.

use std::time::Duration;

use outrelay::admin::client::Client;
use outrelay::admin::protocol::Request;
use outrelay::bench::process::Process;
use outrelay::core::identity::AgentUri;
use outrelay::supervise::report::Report;

use crate::harness::{Deployment, Peer, SOON, agent, dial, eventually, rejection};
use crate::program::Program;

/// Opens to `forbidden` are 403, those to `nowhere` 404.
const RULES: &str = "\
    [[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"neighbour\"\n\
    [[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"svc\"\n\
    [[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"nowhere\"\n";

pub struct Site {
    /// Before the files that it uses: they go with the deployment.
    pub relay: Program,
    pub deployment: Deployment,
    pub process: Process,
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
        let settings: Vec<_> = settings.iter().map(ToString::to_string).collect();
        let relay = Program::start(&deployment, &config, &settings).await;
        let process = relay.process();
        let site = Self { relay, deployment, process };
        site.warm_up().await;
        site
    }

    /// One decision, so that the audit file is open.
    async fn warm_up(&self) {
        let uri = agent(0xff);
        let mut peer = Peer::over(dial(self.relay.addr, self.client(&uri)).await.unwrap(), &uri).await;
        peer.hello(&[]).await;
        assert_eq!(rejection(&mut peer.open("nowhere", 1).await).await.0, 404);
        let audit = self.deployment.dir.path().join("r1-audit.jsonl");
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
        let mut client = Client::connect(&self.relay.admin, SOON).await.unwrap();
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
