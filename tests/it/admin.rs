//! The admin socket, as an operator uses it: the program's own command against a running relay.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use futures_util::future::select_all;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::harness::{Deployment, agent, eventually, pair, soon, take};

/// `outrelay admin --socket SOCKET ARGS`, which must not block the runtime that answers it.
pub async fn admin(socket: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrelay"));
    command.arg("admin").arg("--socket").arg(socket).args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn json(socket: &Path, args: &[&str]) -> Vec<serde_json::Value> {
    let mut with_json = vec!["--json"];
    with_json.extend_from_slice(args);
    let output = admin(socket, &with_json).await;
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_agents_services_streams_rules_and_the_tree() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let socket = deployment.dir.path().join("r1.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

    let mut provider = deployment.peer(&relay, 1, &["resume-code"]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 42).await;
    up.send.write_all(b"hello").await.unwrap();
    take(&mut down.recv, 5).await;

    let agents = json(&socket, &["agents"]).await;
    assert_eq!(agents.len(), 2);
    assert_eq!((&agents[0]["uri"], &agents[0]["services"][0]), (&agent(1).as_str().into(), &"svc".into()));
    assert_eq!(agents[0]["capabilities"][0], "resume-code");
    let services = json(&socket, &["services"]).await;
    assert_eq!((&services[0]["name"], &services[0]["tenant"]), (&"svc".into(), &"acme".into()));
    let streams = json(&socket, &["streams"]).await;
    assert_eq!(streams.len(), 1);
    assert_eq!((&streams[0]["id"], &streams[0]["bytes_to_provider"]), (&"42".into(), &5.into()));
    assert_eq!(json(&socket, &["policy"]).await.len(), 1);

    let tree = json(&socket, &["tree"]).await;
    assert_eq!((tree.len(), &tree[0]["kind"]), (1, &"relay".into()));
    for field in ["id", "kind", "name", "status", "restarts", "started_at", "last_exit", "mailbox", "busy_ms", "detail"]
    {
        assert!(tree[0].get(field).is_some(), "{field}");
    }
    let drawn = String::from_utf8(admin(&socket, &["tree"]).await.stdout).unwrap();
    for line in ["relay:r1", "├── admin", "└── http", "splice:42", "quic_listener"] {
        assert!(drawn.contains(line), "{line} is not in\n{drawn}");
    }
    let one = json(&socket, &["inspect", "splice:42"]).await;
    assert_eq!(one[0]["detail"]["service"], "svc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_actor_and_a_stream_went_through_is_there_to_be_looked_at_afterwards() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let socket = deployment.dir.path().join("r1.sock");
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (up, down) = pair(&consumer, &provider, 42).await;
    let of = |value: &serde_json::Value| {
        let events = value.as_array().unwrap().iter();
        events.map(|event| event["what"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };

    let splice = json(&socket, &["inspect", "splice:42"]).await;
    let opened = format!("opened by {} for \"svc\"", agent(2));
    assert_eq!(
        of(&splice[0]["stream"]),
        [opened.clone(), format!("asking {}", agent(1)), "accepted".into(), "spliced".into()]
    );

    let panics = |n: u64| move |a: &outrelay::supervise::report::Report| a.kind == "registry" && a.restarts == n;
    for n in 1..=2 {
        assert!(admin(&socket, &["panic", "registry"]).await.status.success());
        eventually("restarted", || relay.tree().walk().any(panics(n)).then_some(())).await;
    }
    let registry = json(&socket, &["inspect", "registry"]).await;
    assert_eq!(of(&registry[0]["exits"]).len(), 2);
    assert!(of(&registry[0]["messages"]).starts_with(&["Register".into(), "Resolve".into()]), "{registry:#?}");
    let drawn = String::from_utf8(admin(&socket, &["inspect", "registry"]).await.stdout).unwrap();
    assert!(drawn.contains("earlier exits:\n") && drawn.contains("injected panic"), "{drawn}");

    drop((up, down));
    eventually("it has ended", || relay.vault().streams.is_empty().then_some(())).await;
    let gone = admin(&socket, &["inspect", "splice:42"]).await;
    let why = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert_eq!(gone.status.code(), Some(1));
    assert!(why.contains("no actor") && why.contains(&opened) && why.contains("ended: up "), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_kills_panics_and_hangs_actors_and_hears_of_mistakes() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let socket = deployment.dir.path().join("r1.sock");
    let restarts = |kind: &str| relay.tree().walk().find(|a| a.kind == kind).map_or(0, |a| a.restarts);
    for (n, fault) in [(1, "kill"), (2, "panic")] {
        assert!(admin(&socket, &[fault, "registry"]).await.status.success());
        eventually("restarted", || (restarts("registry") == n).then_some(())).await;
    }
    assert!(admin(&socket, &["hang", "policy"]).await.status.success());
    eventually("it hangs", || relay.tree().walk().any(|a| a.kind == "policy" && a.busy_ms > 0).then_some(())).await;
    assert!(admin(&socket, &["kill", "policy"]).await.status.success());
    eventually("restarted", || (restarts("policy") == 1).then_some(())).await;

    for (args, why) in [(&["kill", "nobody"][..], "no actor"), (&["inspect", "9999999"][..], "no actor")] {
        let output = admin(&socket, args).await;
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_need_the_operators_leave() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", crate::harness::OPEN_WORLD);
    config.admin.fault_injection = false;
    let relay = outrelay::relay::Relay::start(config).await.unwrap();
    let output = admin(&deployment.dir.path().join("r1.sock"), &["kill", "registry"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("admin.fault_injection"));
    assert_eq!(relay.tree().walk().map(|actor| actor.restarts).sum::<u64>(), 0);
}

/// Waits until one of these is closed, to which nothing was said; which.
async fn one_is_closed(silent: &[UnixStream]) -> usize {
    let closed = select_all(silent.iter().map(|client| Box::pin(client.readable())));
    let (_, which, _) = soon("one of the silent is closed", closed).await;
    assert_eq!(silent[which].try_read(&mut [0]).unwrap(), 0);
    which
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_say_nothing_keep_nobody_from_an_answer() {
    let deployment = Deployment::new();
    let _relay = deployment.relay().await;
    let socket = deployment.dir.path().join("r1.sock");
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(UnixStream::connect(&socket).await.unwrap());
    }
    let since = Instant::now();
    assert_eq!(json(&socket, &["policy"]).await.len(), 1);
    let gone = one_is_closed(&silent).await;
    assert!(since.elapsed() < Duration::from_secs(5), "before its time is over");
    // One of the others may still ask.
    drop(silent.swap_remove(gone));
    silent[0].write_all(b"{\"cmd\":\"agents\"}\n").await.unwrap();
    let mut answer = vec![0; 64];
    let heard = soon("an answer", silent[0].read(&mut answer)).await.unwrap();
    assert!(answer[..heard].starts_with(b"{\"ok\":true"), "{answer:?}");
}

/// All of them are there before the first is served: there is one thread.
#[tokio::test]
async fn many_who_ask_at_once_are_all_answered() {
    let deployment = Deployment::new();
    let _relay = deployment.relay().await;
    let socket = deployment.dir.path().join("r1.sock");
    let clients: Vec<_> = (0..64)
        .map(|_| {
            let mut client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            client.write_all(b"{\"cmd\":\"tree\"}\n").unwrap();
            client.set_nonblocking(true).unwrap();
            BufReader::new(UnixStream::from_std(client).unwrap())
        })
        .collect();
    // None goes before the last is answered: who has its answer and is silent makes room.
    let mut answered = Vec::new();
    for (n, mut client) in clients.into_iter().enumerate() {
        let mut answer = String::new();
        soon("an answer", client.read_line(&mut answer)).await.unwrap();
        assert!(answer.starts_with("{\"ok\":true") && answer.ends_with('\n'), "client {n}: {answer:?}");
        answered.push(client);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_being_read_is_not_cut_for_those_who_say_nothing() {
    let deployment = Deployment::new();
    let rules: String = (0..5_000)
        .map(|n| format!("[[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"*\"\nmethod = \"method-{n}\"\n"))
        .collect();
    let _relay = deployment.relay_with(&rules).await;
    let socket = deployment.dir.path().join("r1.sock");
    let mut slow = BufReader::new(UnixStream::connect(&socket).await.unwrap());
    slow.write_all(b"{\"cmd\":\"policy\"}\n").await.unwrap();
    soon("it begins", slow.get_ref().readable()).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..33 {
        silent.push(UnixStream::connect(&socket).await.unwrap());
    }
    one_is_closed(&silent).await;
    let mut answer = String::new();
    soon("the answer", slow.read_line(&mut answer)).await.unwrap();
    assert!(answer.len() > 500_000, "it did not fit into the socket: {} bytes", answer.len());
    assert!(answer.ends_with("}\n"), "cut after {} bytes", answer.len());
}

/// Nothing of the relay runs while the client does what it does: there is one thread.
#[tokio::test]
async fn what_a_client_that_has_gone_had_asked_for_is_not_done() {
    const DRAIN: &[u8] = b"{\"cmd\":\"drain\"}\n";
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let socket = deployment.dir.path().join("r1.sock");
    let ask = |request: &[u8]| {
        let mut client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        client.write_all(request).unwrap();
        client
    };
    drop(ask(DRAIN));
    drop(ask(&[b"{\"cmd\":\"tree\"}\n", DRAIN].concat()));
    assert_eq!(json(&socket, &["policy"]).await.len(), 1, "those before it have been dealt with");
    assert!(!relay.vault().drain.has_begun());

    // One that has no more to say waits for its answer.
    let client = ask(DRAIN);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut heard = String::new();
    soon("an answer", UnixStream::from_std(client).unwrap().read_to_string(&mut heard)).await.unwrap();
    assert!(heard.contains("\"ok\":true") && relay.vault().drain.has_begun(), "{heard}");
}
