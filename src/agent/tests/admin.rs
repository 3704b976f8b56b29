//! The tree, and the admin socket over it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::harness::{Deployment, FEATURES, connect, soon};
use crate::agent::{Agent, tree};
use crate::supervise::report::Report;

#[tokio::test]
async fn the_table_of_kinds_is_the_live_tree() {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let mut config = deployment.config(&[relay.addr()]);
    config.consume = vec!["far=127.0.0.1:0".parse().unwrap()];
    let agent = Agent::start(config).await.unwrap();
    let peer = relay.greet(&FEATURES).await;
    let _local = connect(&agent, "far").await;
    peer.accept_open().await;
    let tree = agent.tree();
    let mut live = BTreeSet::from([(tree.kind.clone(), String::new())]);
    for report in tree.walk() {
        live.extend(report.children.iter().map(|child| (child.kind.clone(), report.kind.clone())));
    }
    let table = tree::KINDS.map(|(kind, under)| (kind.to_owned(), under.to_owned()));
    assert_eq!(live, BTreeSet::from(table));
    // Stopped in reverse: no new stream comes while the streams are cut.
    let order: Vec<_> = tree.children.iter().map(|child| child.kind.as_str()).collect();
    assert_eq!(order, ["link", "streams", "listeners", "admin"]);
    agent.shutdown().await;
}

#[tokio::test]
async fn the_admin_socket_shows_and_strikes_only_when_it_may() {
    let deployment = Deployment::new();
    let relay = deployment.relay();
    let dir = tempfile::tempdir().unwrap();
    for allowed in [false, true] {
        let mut config = deployment.config(&[relay.addr()]);
        config.consume = vec!["far=127.0.0.1:0".parse().unwrap()];
        config.admin.socket = Some(dir.path().join("agent.sock"));
        config.admin.fault_injection = allowed;
        let agent = Agent::start(config).await.unwrap();
        let peer = relay.greet(&FEATURES).await;
        let _local = connect(&agent, "far").await;
        let (_stream, open) = peer.accept_open().await;
        let mut admin = BufReader::new(UnixStream::connect(dir.path().join("agent.sock")).await.unwrap());

        let tree = ask(&mut admin, json!({ "cmd": "tree" })).await;
        assert_eq!(serde_json::from_value::<Report>(tree["data"].clone()).unwrap().kind, "agent");
        let streams = ask(&mut admin, json!({ "cmd": "streams" })).await;
        assert_eq!(streams["data"][0]["id"], open.stream_id.to_string());
        let agents = ask(&mut admin, json!({ "cmd": "agents" })).await;
        assert_eq!(agents["ok"], false);
        let kill = ask(&mut admin, json!({ "cmd": "kill", "actor": "listener" })).await;
        assert_eq!(kill["ok"], allowed, "{kill}");
        agent.shutdown().await;
    }
}

async fn ask(admin: &mut BufReader<UnixStream>, request: Value) -> Value {
    admin.get_mut().write_all(format!("{request}\n").as_bytes()).await.unwrap();
    let mut line = String::new();
    soon(admin.read_line(&mut line)).await.unwrap();
    serde_json::from_str(&line).unwrap()
}
