//! An agent that may have few files open, and has more clients than that.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use outrelay::agent::Agent;
use outrelay::config::agent::{AgentConfig, Expose};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::harness::{Deployment, OPEN_WORLD, agent, eventually, soon};
use crate::program::{Program, free_address};

const FILES: usize = 64;

/// An agent as a process of its own.
struct Limited {
    child: Child,
    log: std::path::PathBuf,
}

impl Limited {
    fn start(deployment: &Deployment, ulimit: &str, relay: &str, listen: SocketAddr) -> Self {
        let log = deployment.dir.path().join("agent.log");
        let tls = deployment.agent_tls(&agent(2));
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit {ulimit} {FILES} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_outrelay")]);
        command.args(["agent", "--relay", relay, "--consume", &format!("echo={listen}")]);
        command.arg("--cert").arg(&tls.cert).arg("--key").arg(&tls.key).arg("--ca").arg(&tls.ca);
        let stderr = std::fs::File::create(&log).unwrap();
        let child = command.env_remove("RUST_LOG").stdin(Stdio::null()).stderr(stderr).spawn().unwrap();
        Self { child, log }
    }

    async fn said(&self, words: &str) {
        eventually(words, || self.log().contains(words).then_some(())).await;
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

async fn echo(listener: TcpListener) {
    let mut serving = JoinSet::new();
    while let Ok((mut socket, _)) = listener.accept().await {
        serving.spawn(async move {
            let (mut read, mut write) = socket.split();
            tokio::io::copy(&mut read, &mut write).await
        });
    }
}

/// Whether one byte goes there and comes back.
async fn answers(client: &mut TcpStream) -> bool {
    let mut back = [0];
    client.write_all(b"?").await.is_ok() && client.read_exact(&mut back).await.is_ok()
}

/// An agent with an echo behind it, through a relay to one that has so few files, and many clients of it.
struct Scene {
    relay: Program,
    limited: Limited,
    provider: Agent,
    listen: SocketAddr,
    _serving: JoinSet<()>,
    _deployment: Deployment,
}

impl Scene {
    async fn start(ulimit: &str) -> Self {
        let deployment = Deployment::new();
        let relay = Program::start(&deployment, &deployment.relay_config("r1", OPEN_WORLD), &[]).await;
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = service.local_addr().unwrap().to_string().parse().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(echo(service));
        let config = AgentConfig {
            relays: vec![relay.addr.to_string().parse().unwrap()],
            tls: deployment.agent_tls(&agent(1)),
            expose: vec![Expose { name: "echo".to_owned(), to }],
            ..AgentConfig::default()
        };
        let provider = Agent::start(config).await.unwrap();
        soon("the provider is registered", provider.wait_registered()).await;
        let listen = free_address();
        let limited = Limited::start(&deployment, ulimit, &format!("localhost:{}", relay.addr.port()), listen);
        limited.said("session").await;
        Self { relay, limited, provider, listen, _serving: serving, _deployment: deployment }
    }

    /// Twice as many clients as there are files: those that are served, and the others.
    async fn clients(&self) -> (Vec<TcpStream>, Vec<TcpStream>) {
        let many = join_all((0..2 * FILES).map(|_| async {
            let mut client = TcpStream::connect(self.listen).await.ok()?;
            // One that is neither refused nor served waits to be accepted.
            let is_served = tokio::time::timeout(Duration::from_secs(2), answers(&mut client)).await == Ok(true);
            Some((is_served, client))
        }));
        let (served, others): (Vec<_>, Vec<_>) =
            many.await.into_iter().flatten().partition(|(is_served, _)| *is_served);
        let clients = |them: Vec<(bool, TcpStream)>| them.into_iter().map(|(_, client)| client).collect();
        (clients(served), clients(others))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_clients_leave_no_file_finds_its_relay_again_by_name_and_resumes_every_stream() {
    let mut scene = Scene::start("-n").await;
    scene.limited.said("fewer streams may live at once than are allowed").await;
    let (served, others) = scene.clients().await;
    assert!((8..FILES).contains(&served.len()), "{} clients are served\n{}", served.len(), scene.limited.log());
    scene.relay.kill();
    scene.relay.start_again().await;
    let go_on = served.into_iter().map(|mut client| async move { answers(&mut client).await });
    let gone_on = soon("every stream goes on", join_all(go_on)).await;
    assert!(gone_on.iter().all(|goes_on| *goes_on), "{gone_on:?}\n{}", scene.limited.log());
    drop(others);
    scene.provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_takes_as_many_files_as_the_hard_limit_lets_it() {
    let scene = Scene::start("-S -n").await;
    let (served, _) = scene.clients().await;
    assert_eq!(served.len(), 2 * FILES, "{}", scene.limited.log());
    scene.provider.shutdown().await;
}
