//! What an operator types, and what comes back: a mistake is refused, once, with the place where it stands and its reason.

use std::process::{Command, Output, Stdio};


use crate::admin::admin;
use crate::harness::{Deployment, agent};

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
