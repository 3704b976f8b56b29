//! The audit of a running relay: numbered without a gap, rotated, and patient while its files cannot be.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use outrelay::relay::Relay;
use serde_json::Value;

use crate::harness::{Deployment, eventually, rejection};

/// What the program says about `file`, a value a line.
fn query(file: &Path, flags: &[&str]) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_outrelay"))
        .args(["audit", "query", "--json", "--limit", "0", "--file"])
        .arg(file)
        .args(flags)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_whose_audit_cannot_be_rotated_goes_on_and_then_writes_every_decision() {
    let deployment = Deployment::new();
    let mut config = deployment.relay_config("r1", crate::harness::OPEN_WORLD);
    config.directory.audit_max_bytes = 1_024;
    config.directory.audit_keep = 50;
    let file = config.directory.audit.clone().unwrap();
    // Nothing can be put in the place of a folder, nor can it be removed as a file: the chain is full up to the folder.
    let rotated = |n: usize| deployment.dir.path().join(format!("r1-audit.jsonl.{n}"));
    std::fs::create_dir(rotated(50)).unwrap();
    (1..50).for_each(|n| std::fs::write(rotated(n), "").unwrap());
    let relay = Relay::start(config).await.unwrap();
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let started = Instant::now();
    for stream_id in 1..=20 {
        assert_eq!(rejection(&mut consumer.open("nobody", stream_id).await).await.0, 404, "opens are still decided");
    }
    // Without its pause the writer would have been given up by now, and the relay with it.
    while started.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!relay.vault().audit.is_empty(), "the queue stays");
    }
    assert_eq!(rejection(&mut consumer.open("nobody", 21).await).await.0, 404, "it is still there");
    assert!(query(&file, &[]).len() < 20);

    std::fs::remove_dir(rotated(50)).unwrap();
    eventually("everything is written", || relay.vault().audit.is_empty().then_some(())).await;
    let lines = query(&file, &["--caller", "outrelay://acme/*", "--decision", "allow"]);
    // A batch that broke off half-way is written again: some may be there twice, with the same number.
    let numbers: std::collections::BTreeSet<_> = lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    // Each open is a decision, and the refusal of a service that nobody provides.
    assert_eq!(numbers, (0..21).map(|n| 2 * n + 1).collect());
    let refused = query(&file, &["--decision", "deny"]);
    let numbers: std::collections::BTreeSet<_> = refused.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=21).map(|n| 2 * n).collect());
    assert!(refused.iter().all(|line| line["side"] == "relay" && line["reason"].as_str().unwrap().starts_with("404")));
    assert!(lines.iter().all(|line| line["run"] == lines[0]["run"] && line["run"].as_i64() > Some(0)));
    assert!(std::fs::metadata(rotated(1)).unwrap().len() > 0, "it was rotated");
    assert_eq!(query(&file, &["--stream", "21"]).len(), 2);
}

#[test]
fn an_audit_that_is_not_there_is_a_mistake_of_the_command_line() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_outrelay")).args(["audit", "query", "--file", "/absent"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("--file: the audit file /absent cannot be opened"));
}
