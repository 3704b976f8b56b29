//! The program's own agents, end to end: local TCP in, local TCP out.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use outrelay::agent::Agent;
use outrelay::config::agent::{AgentConfig, Consume, Expose};
use outrelay::relay::Relay;
use outrelay::supervise::fault::Fault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::admin::admin;
use crate::harness::{Deployment, OPEN_WORLD, agent, eventually, noise, sha256, soon};

/// A local service, and its clients as they come.
struct Service {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Service {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        Self { listener, addr }
    }

    async fn accept(&self) -> TcpStream {
        soon("a connection to the service", self.listener.accept()).await.unwrap().0
    }
}

fn config(deployment: &Deployment, n: u8, relays: &[&Relay]) -> AgentConfig {
    AgentConfig {
        relays: relays.iter().map(|relay| relay.quic_addr().unwrap().to_string().parse().unwrap()).collect(),
        tls: deployment.agent_tls(&agent(n)),
        ..AgentConfig::default()
    }
}

async fn provider(deployment: &Deployment, relays: &[&Relay], services: &[(&str, SocketAddr)]) -> Agent {
    let mut config = config(deployment, 1, relays);
    let expose =
        |(name, to): &(&str, SocketAddr)| Expose { name: (*name).to_owned(), to: to.to_string().parse().unwrap() };
    config.expose = services.iter().map(expose).collect();
    started(config).await
}

async fn consumer(deployment: &Deployment, relays: &[&Relay], services: &[&str]) -> Agent {
    let mut config = config(deployment, 2, relays);
    let consume = |name: &&str| Consume {
        name: (*name).to_owned(),
        method: String::new(),
        listen: "127.0.0.1:0".parse().unwrap(),
    };
    config.consume = services.iter().map(consume).collect();
    started(config).await
}

async fn started(config: AgentConfig) -> Agent {
    let agent = Agent::start(config).await.unwrap();
    soon("the agent is registered", agent.wait_registered()).await;
    agent
}

async fn connect(consumer: &Agent, service: &str) -> TcpStream {
    TcpStream::connect(consumer.local_addr(service).unwrap()).await.unwrap()
}

async fn is_reset(mut socket: TcpStream) -> bool {
    let mut rest = Vec::new();
    match soon("the socket ends", socket.read_to_end(&mut rest)).await {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// A client of a service that refuses is reset, be it while it still connects.
async fn is_refused(consumer: &Agent, service: &str) -> bool {
    match TcpStream::connect(consumer.local_addr(service).unwrap()).await {
        Ok(client) => is_reset(client).await,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_services_of_one_agent_are_reached_each_at_its_own_port() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let (one, two) = (Service::new().await, Service::new().await);
    let provider = provider(&deployment, &[&relay], &[("one", one.addr), ("two", two.addr)]).await;
    let consumer = consumer(&deployment, &[&relay], &["one", "two"]).await;
    for (name, service) in [("two", &two), ("one", &one)] {
        let mut client = connect(&consumer, name).await;
        client.write_all(name.as_bytes()).await.unwrap();
        let mut served = service.accept().await;
        let mut got = [0; 3];
        served.read_exact(&mut got).await.unwrap();
        assert_eq!(got, name.as_bytes());
    }
    consumer.shutdown().await;
    provider.shutdown().await;
}

/// A number of 64 bits is a text in JSON: not every reader has as many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_streams_are_listed_and_named_as_at_the_relay() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let service = Service::new().await;
    let provider = provider(&deployment, &[&relay], &[("web", service.addr)]).await;
    let socket = deployment.dir.path().join("agent.sock");
    let mut config = config(&deployment, 2, &[&relay]);
    config.consume = vec!["web=127.0.0.1:0".parse().unwrap()];
    config.admin.socket = Some(socket.clone());
    let consumer = started(config).await;
    assert!(admin(&socket, &["streams"]).await.status.success(), "while there is none");
    let mut client = connect(&consumer, "web").await;
    client.write_all(b"hello").await.unwrap();
    let mut served = service.accept().await;
    served.read_exact(&mut [0; 5]).await.unwrap();

    let row = async |socket: &Path| {
        let output = admin(socket, &["streams", "--json"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let here = row(&socket).await;
    let id = here["id"].as_str().expect("a text").to_owned();
    assert_eq!(
        (&here["role"], &here["service"], &here["bytes_to_relay"]),
        (&"consumer".into(), &"web".into(), &5.into())
    );
    assert_eq!(here["relay"], "outrelay://acme/relay/r1");
    let there = deployment.dir.path().join("r1.sock");
    assert_eq!(row(&there).await["id"], id);
    let text = String::from_utf8(admin(&socket, &["streams"]).await.stdout).unwrap();
    let words: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((words[0], &words[2..4]), (id.as_str(), &["consumer", "web"][..]), "{text}");
    assert!(text.contains("5 B") && text.contains("outrelay://acme/relay/r1"), "{text}");
    // What is printed is taken.
    let splice = format!("splice:{id}");
    let splice = admin(&there, &["inspect", &splice, "--json"]).await;
    let splice: serde_json::Value = serde_json::from_slice(&splice.stdout).unwrap();
    assert_eq!(splice["detail"]["id"], id);
    let one = admin(&socket, &["inspect", &here["actor"].to_string(), "--json"]).await;
    let one: serde_json::Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!(one["detail"]["stream"]["id"], id);
    consumer.shutdown().await;
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_close_arrives_as_a_half_close_both_ways() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let service = Service::new().await;
    let _provider = provider(&deployment, &[&relay], &[("svc", service.addr)]).await;
    let consumer = consumer(&deployment, &[&relay], &["svc"]).await;
    for server_first in [false, true] {
        let mut client = connect(&consumer, "svc").await;
        let mut served = service.accept().await;
        let (first, second) = if server_first { (&mut served, &mut client) } else { (&mut client, &mut served) };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        let mut all = Vec::new();
        soon("the question", second.read_to_end(&mut all)).await.unwrap();
        assert_eq!(all, b"question");
        second.write_all(b"answer").await.unwrap();
        second.shutdown().await.unwrap();
        all.clear();
        soon("the answer", first.read_to_end(&mut all)).await.unwrap();
        assert_eq!(all, b"answer");
    }
    eventually("no stream stays", || relay.vault().streams.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_reset_arrives_as_a_reset_never_as_an_end() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let service = Service::new().await;
    let _provider = provider(&deployment, &[&relay], &[("svc", service.addr)]).await;
    let consumer = consumer(&deployment, &[&relay], &["svc"]).await;
    for server_resets in [false, true] {
        let mut client = connect(&consumer, "svc").await;
        let mut served = service.accept().await;
        client.write_all(b"x").await.unwrap();
        served.read_exact(&mut [0]).await.unwrap();
        let (resets, sees) = if server_resets { (served, client) } else { (client, served) };
        resets.set_zero_linger().unwrap();
        drop(resets);
        assert!(is_reset(sees).await, "server resets: {server_resets}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_stream_resets_the_local_connection() {
    let deployment = Deployment::new();
    let relay = deployment.relay_with("").await;
    let service = Service::new().await;
    let _provider = provider(&deployment, &[&relay], &[("svc", service.addr)]).await;
    let consumer = consumer(&deployment, &[&relay], &["svc"]).await;
    assert!(is_refused(&consumer, "svc").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_does_not_answer_locally_is_refused_with_503() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let gone = Service::new().await.addr;
    let _provider = provider(&deployment, &[&relay], &[("svc", gone)]).await;
    let consumer = consumer(&deployment, &[&relay], &["svc"]).await;
    assert!(is_refused(&consumer, "svc").await);
    let peer = deployment.peer(&relay, 7, &[]).await;
    let (code, reason) = crate::harness::rejection(&mut peer.open("svc", 1).await).await;
    assert_eq!((code, reason.starts_with("provider rejected: 502")), (503, true), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_relay_actors_in_mid_transfer_lose_not_a_byte() {
    const BYTES: usize = 24 << 20;
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let service = Service::new().await;
    let _provider = provider(&deployment, &[&relay], &[("svc", service.addr)]).await;
    let consumer = consumer(&deployment, &[&relay], &["svc"]).await;
    let client = connect(&consumer, "svc").await;
    let served = service.accept().await;
    let bytes = std::sync::Arc::new(noise(3, BYTES));
    let (mut reading, mut writing) = client.into_split();
    let sent = std::sync::Arc::clone(&bytes);
    let send = tokio::spawn(async move {
        writing.write_all(&sent).await.unwrap();
        writing.shutdown().await.unwrap();
    });
    let echo = tokio::spawn(async move {
        let (mut read, mut write) = served.into_split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let receive = tokio::spawn(async move {
        let mut all = Vec::new();
        reading.read_to_end(&mut all).await.unwrap();
        all
    });
    let victims = [
        "registry",
        "splice",
        "policy",
        "audit",
        "splices",
        "connections",
        "ingress",
        "quic_listener",
        "resume",
        "admin",
        "http",
    ];
    let links = [agent(1), agent(2)].map(|agent| format!("connection:{agent}"));
    let kills = victims.iter().copied().chain(links.iter().map(String::as_str)).map(|victim| (victim, Fault::Kill));
    // Stopped in order, a connection is closed.
    let stops = links.iter().map(|link| (link.as_str(), Fault::Stop));
    let kills: Vec<_> = kills.collect();
    let mut round = kills.clone().into_iter().chain(stops).chain(kills.into_iter().cycle());
    while !receive.is_finished() {
        let (victim, fault) = round.next().unwrap();
        // Between two lives there is nothing to kill.
        if relay.inject(victim, fault).await.is_err() {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let all = soon("the echo", receive).await.unwrap();
    assert_eq!(sha256(&all), sha256(&bytes));
    soon("the writer", send).await.unwrap();
    soon("the service", echo).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_streams_under_a_hail_of_kills_all_come_to_their_true_end() {
    const CLIENTS: u64 = 6;
    const STREAMS: u64 = 12;
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let service = Service::new().await;
    let _provider = provider(&deployment, &[&relay], &[("svc", service.addr)]).await;
    let consumer = std::sync::Arc::new(consumer(&deployment, &[&relay], &["svc"]).await);
    let mut services = tokio::task::JoinSet::new();
    services.spawn(async move {
        loop {
            let mut served = service.accept().await;
            tokio::spawn(async move {
                let (mut read, mut write) = served.split();
                // An open that was made again has left one behind that nobody resumes.
                if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                    drop(write.shutdown().await);
                }
            });
        }
    });
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let consumer = std::sync::Arc::clone(&consumer);
        clients.spawn(async move {
            for nth in 0..STREAMS {
                let bytes = noise((client << 8) | nth, usize::try_from(2000 * (nth + 1) * (client + 1)).unwrap());
                let (mut reading, mut writing) = connect(&consumer, "svc").await.into_split();
                let send = async {
                    writing.write_all(&bytes).await?;
                    writing.shutdown().await
                };
                let mut got = Vec::new();
                let (sent, received) = tokio::join!(send, reading.read_to_end(&mut got));
                assert!(sent.is_ok() && received.is_ok(), "{client}.{nth}: {sent:?} {received:?}");
                assert_eq!(sha256(&got), sha256(&bytes), "{client}.{nth}");
            }
        });
    }
    // Not the provider's: while it is away, opens are refused.
    let link = format!("connection:{}", agent(2));
    let mut strikes = 0;
    let all = async {
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
    };
    let hail = async {
        loop {
            strikes += 1;
            let (victim, fault) = match strikes % 60 {
                30 => (link.clone(), Fault::Stop),
                n if n % 10 == 5 => ("splices".to_owned(), Fault::Kill),
                n if n % 10 == 7 => ("resume".to_owned(), Fault::Kill),
                _ => {
                    let tree = relay.tree();
                    let splice = tree.walk().find(|actor| actor.kind == "splice").map(|actor| actor.id.to_string());
                    (splice.unwrap_or_default(), Fault::Kill)
                }
            };
            // Between two lives there is nothing to kill.
            drop(relay.inject(&victim, fault).await);
            tokio::time::sleep(Duration::from_millis(8)).await;
        }
    };
    tokio::select! {
        () = all => {}
        () = hail => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("they do not come to their end"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_reaches_its_own_service_and_such_a_stream_is_not_resumed() {
    const BYTES: usize = 4 << 20;
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let service = Service::new().await;
    let mut config = config(&deployment, 1, &[&relay]);
    config.expose = vec![format!("svc={}", service.addr).parse().unwrap()];
    config.consume = vec!["svc=127.0.0.1:0".parse().unwrap()];
    let agent = Agent::start(config).await.unwrap();
    soon("registered", agent.wait_registered()).await;
    let client = connect(&agent, "svc").await;
    let served = service.accept().await;
    let bytes = noise(5, BYTES);
    let (mut reading, mut writing) = client.into_split();
    let (mut asked, mut answer) = served.into_split();
    // More than any ring holds: nobody waits for a checkpoint.
    let send = async { writing.write_all(&bytes).await.unwrap() };
    let echo = async { tokio::io::copy(&mut (&mut asked).take(BYTES as u64), &mut answer).await.unwrap() };
    let mut got = vec![0; BYTES];
    let receive = async { reading.read_exact(&mut got).await.unwrap() };
    soon("the echo", async { tokio::join!(send, echo, receive) }).await;
    assert_eq!(sha256(&got), sha256(&bytes));
    relay.inject("splice", Fault::Kill).await.unwrap();
    let end = soon("the client's end", reading.read(&mut [0])).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    agent.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_that_is_told_to_retry_is_opened_again_and_the_client_does_not_notice() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    // A provider that lets the first open wait, so that its handshake can be killed.
    let mut slow = deployment.peer(&relay, 1, &["resume-code"]).await;
    slow.register("svc").await;
    let consumer = consumer(&deployment, &[&relay], &["svc"]).await;
    let mut client = connect(&consumer, "svc").await;
    client.write_all(b"said once").await.unwrap();
    let (first, unanswered) = slow.incoming().await;
    let handshake =
        eventually("a handshake", || relay.tree().walk().find(|actor| actor.kind == "handshake").map(|actor| actor.id))
            .await;
    relay.inject(&handshake.to_string(), Fault::Kill).await.unwrap();
    let (second, mut asked) = slow.incoming().await;
    assert_ne!(first.stream_id, second.stream_id);
    drop(unanswered);
    outrelay::net::framed::write_frame(&mut asked.send, &outrelay::core::frame::Frame::StreamAccept).await.unwrap();
    assert_eq!(crate::harness::take(&mut asked.recv, 9).await, b"said once");
    asked.send.write_all(b"heard").await.unwrap();
    let mut heard = [0; 5];
    soon("the answer", client.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"heard");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_relay_dies_its_streams_go_on_through_the_next_one() {
    let deployment = Deployment::new();
    let first = deployment.relay().await;
    let second = Relay::start(deployment.relay_config("r2", OPEN_WORLD)).await.unwrap();
    let service = Service::new().await;
    let provider = provider(&deployment, &[&first, &second], &[("svc", service.addr)]).await;
    let consumer = consumer(&deployment, &[&first, &second], &["svc"]).await;
    let mut client = connect(&consumer, "svc").await;
    let mut served = service.accept().await;
    client.write_all(b"x").await.unwrap();
    served.read_exact(&mut [0]).await.unwrap();
    assert_eq!((first.vault().connections.len(), second.vault().connections.len()), (2, 0), "the first of the list");

    drop(first);
    client.write_all(b"onward").await.unwrap();
    let mut got = [0; 6];
    soon("bytes through the second relay", served.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"onward", "nothing lost, nothing twice");
    eventually("both agents are on the second relay", || {
        let registered =
            second.vault().connections.all().iter().map(|connection| connection.services().len()).sum::<usize>();
        (second.vault().connections.len() == 2 && registered == 1).then_some(())
    })
    .await;
    let mut client = connect(&consumer, "svc").await;
    client.write_all(b"y").await.unwrap();
    let mut served = service.accept().await;
    let mut got = [0];
    soon("bytes through the second relay", served.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"y");
    consumer.shutdown().await;
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_come_before_the_agent_has_a_relay() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let service = Service::new().await;
    let _provider = provider(&deployment, &[&relay], &[("svc", service.addr)]).await;
    let mut config = config(&deployment, 2, &[&relay]);
    config.consume =
        vec![Consume { name: "svc".to_owned(), method: String::new(), listen: "127.0.0.1:0".parse().unwrap() }];
    let consumer = Agent::start(config).await.unwrap();
    let mut client = connect(&consumer, "svc").await;
    client.write_all(b"early").await.unwrap();
    let mut served = service.accept().await;
    let mut got = [0; 5];
    soon("the early bytes", served.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"early");
}
