//! What an operator types, and what comes back: a mistake is refused, once, with the place where it stands and its reason.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::admin::admin;
use crate::harness::{Deployment, agent};
use crate::program::Program;

fn outrelay(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrelay"));
    command.env_remove("RUST_LOG").args(args).stdin(Stdio::null());
    command
}

/// Its exit code, and what it says on standard error.
fn refused(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn run(args: &[&str]) -> (i32, String) {
    refused(&outrelay(args).output().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_drain_that_names_other_successors_is_refused() {
    let deployment = Deployment::new();
    let _relay = deployment.relay().await;
    let socket = deployment.dir.path().join("r1.sock");
    assert!(admin(&socket, &["drain", "--to", "127.0.0.1:1"]).await.status.success());
    let (code, why) = refused(&admin(&socket, &["drain", "--to", "127.0.0.1:2"]).await);
    assert_eq!(code, 1, "{why}");
    assert!(why.contains("drains already, its successors are 127.0.0.1:1: --to is not applied"), "{why}");
    assert!(admin(&socket, &["drain"]).await.status.success());
    assert!(admin(&socket, &["drain", "--to", "127.0.0.1:1"]).await.status.success(), "it is as was asked for");
}

#[test]
fn an_address_that_cannot_be_reached_is_no_successor() {
    let (code, why) = run(&["admin", "drain", "--to", "relay.example:0"]);
    assert_eq!(code, 2, "{why}");
    assert!(why.contains("--to") && why.contains("port 0 cannot be reached"), "{why}");
    let (code, why) = run(&["relay", "--set", "drain.successors=[\"r2:7443\", \"r3:0\"]"]);
    assert_eq!(code, 2, "{why}");
    assert!(why.contains("--set drain.successors: `drain.successors[1]`: port 0 cannot be reached"), "{why}");
}

#[test]
fn a_socket_path_that_is_too_long_is_a_mistake_in_the_configuration() {
    let path = format!("/tmp/{}", "x".repeat(103));
    assert_eq!(path.len(), 108);
    for command in ["relay", "agent"] {
        let (code, why) = run(&[command, "--admin-socket", &path]);
        assert_eq!(code, 2, "{why}");
        assert!(why.contains("--admin-socket: `admin.socket`: at most 107 bytes, is 108"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_this_relay_does_not_serve_is_said_where_rules_are_read() {
    let deployment = Deployment::new();
    let rules = "[[allow]]\nid = \"fast\"\ntenant = \"acme\"\nfrom = \"*\"\nto = \"fast\"\nrelay = \"forward\"\n\
                 [[allow]]\nid = \"direct\"\ntenant = \"acme\"\nfrom = \"*\"\nto = \"direct\"\np2p = \"required\"\n\
                 [[allow]]\ntenant = \"acme\"\nfrom = \"*\"\nto = \"web\"\n";
    let config = deployment.relay_config("r1", rules);
    let file = config.directory.rules.as_ref().unwrap().to_str().unwrap().to_owned();
    let caller = agent(2).to_string();
    for (target, reason) in [("fast", Some("forward plane")), ("direct", Some("direct path")), ("web", None)] {
        let check = ["policy", "check", "--rules", &file, "--caller", &caller, "--target", target];
        let text = String::from_utf8(outrelay(&check).output().unwrap().stdout).unwrap();
        assert!(text.starts_with("allow: "), "{text}");
        let json = outrelay(&[&check[..], &["--json"]].concat()).output().unwrap().stdout;
        let json: Value = serde_json::from_slice(&json).unwrap();
        match reason {
            Some(reason) => {
                let line = text.lines().find(|line| line.contains("the relay refuses it")).expect(&text);
                assert!(line.contains(reason), "{text}");
                assert!(json["unserved"].as_str().unwrap().contains(reason), "{json}");
            }
            None => {
                assert!(!text.contains("the relay refuses it"), "{text}");
                assert_eq!(json.get("unserved"), Some(&Value::Null), "{json}");
            }
        }
    }
    let program = Program::start(&deployment, &config, &[]).await;
    program.said(&["WARN", "rules.toml:6: ", "fast", "forward plane"]).await;
    program.said(&["WARN", "rules.toml:12: ", "direct", "direct path"]).await;
    assert_eq!(program.log().matches("is refused").count(), 2, "a line for each rule: {}", program.log());
}
