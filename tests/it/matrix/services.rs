//! What each kind of actor is there for, asked from outside until it works.

use std::time::Duration;

use outrelay::admin::client::Client;
use outrelay::admin::protocol::Request;
use outrelay::supervise::node::Status;
use outrelay::supervise::report::Report;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::world::World;
use crate::harness::{Peer, agent, eventually, soon};

/// How long one question may take before it is asked again.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(1);

impl World {
    /// Waits until what `kind` serves works, as far as it is something else than an open.
    pub async fn serves(&self, kind: &str) {
        match kind {
            "admin" => soon("the admin socket answers", self.admin_answers()).await,
            "http" => soon("HTTP answers", self.http_answers()).await,
            "audit" => {
                eventually("the audit is written", || self.relay.vault().audit.is_empty().then_some(())).await;
            }
            "quic_listener" | "ingress" | "connections" | "credentials" => {
                soon("a new agent comes in", self.takes_a_newcomer()).await;
            }
            "control" => {
                eventually("every connection has its control actor", || self.controls_run().then_some(())).await;
            }
            _ => {}
        }
    }

    fn controls_run(&self) -> bool {
        let tree = self.relay.tree();
        let mut connections = tree.walk().filter(|actor| actor.kind == "connection");
        connections.all(|it| it.children.iter().any(|below| below.kind == "control" && below.status == Status::Running))
    }

    async fn admin_answers(&self) {
        let socket = self.deployment.dir.path().join("r1.sock");
        loop {
            if let Ok(mut client) = Client::connect(&socket, PATIENCE).await
                && client.data::<Report>(&Request::Tree).await.is_ok()
            {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn http_answers(&self) {
        let ask = async || {
            let mut socket = TcpStream::connect(self.relay.http_addr().unwrap()).await?;
            socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n").await?;
            let mut text = String::new();
            socket.read_to_string(&mut text).await?;
            std::io::Result::Ok(text.starts_with("HTTP/1.1 200"))
        };
        while !matches!(tokio::time::timeout(PATIENCE, ask()).await, Ok(Ok(true))) {
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn takes_a_newcomer(&self) {
        let quic = self.deployment.try_dial(&self.relay, &self.newcomer).await.unwrap();
        let mut peer = Peer::over(quic, &agent(0x77)).await;
        peer.hello(&[]).await;
        peer.quic.close(0_u32.into(), b"that is all");
    }
}
