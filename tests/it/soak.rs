//! `outrelay bench soak`, with the real program: what it says is complete, and no relay outlives it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use outrelay::admin::client::Client;
use outrelay::admin::protocol::{Request, StreamRow};
use serde_json::Value;

use crate::harness::{ALONE, SOON, eventually, soon};

fn soak(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrelay"));
    command.args(["bench", "soak"]).args(args.split(' '));
    command
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn object(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[tokio::test]
async fn ten_seconds_of_kills_cost_no_byte_and_leave_nothing_behind() {
    let _alone = ALONE.lock().await;
    let output = output(soak("--minutes 0.17 --streams 12 --chaos --every 500ms --rate 2 --seed 1 --json")).await;
    let json = object(&output);
    assert!(output.status.success() && json["ok"] == true, "{json:#}");
    for field in ["lost_bytes", "duplicated_bytes", "corrupt_streams", "failed_streams"] {
        assert_eq!(json[field], 0, "{field}: {json:#}");
    }
    assert!(json["streams"].as_u64() >= Some(12) && json["bytes"].as_u64() > Some(1 << 20), "{json:#}");
    let kills = json["kills"].as_object().unwrap();
    assert!(kills.values().filter_map(Value::as_u64).sum::<u64>() >= 3, "{json:#}");
    let [p50, p99, max] = ["p50", "p99", "max"].map(|field| json["stall_ms"][field].as_u64().unwrap());
    assert!(p50 <= p99 && p99 <= max && max < 30_000, "{json:#}");
    for whose in ["r1", "r2", "bench"] {
        let left = &json["left"][whose];
        assert!(left["start"]["fds"].as_u64() > Some(0) && left["start"] == left["end"], "{whose}: {json:#}");
    }
    assert!(json["memory_growth"]["relays"].is_number() && json["refused_opens"].is_number(), "{json:#}");
}

/// The processes of the relays of a soak with its folder below `temp`, once both are up and the first carries streams.
async fn relays(temp: &Path) -> [u64; 2] {
    let folder = || Some(std::fs::read_dir(temp).ok()?.next()?.ok()?.path());
    let pid = |name: &str| {
        let ready = std::fs::read_to_string(folder()?.join(name)).ok()?;
        serde_json::from_str::<Value>(&ready).ok()?["pid"].as_u64()
    };
    let pids = eventually("both relays", || Some([pid("r1.ready")?, pid("r2.ready")?])).await;
    // The relays' descriptors have been counted: one more at that moment would count as lost at the end.
    eventually("the agents' turn", || folder()?.join("consumer.crt").exists().then_some(())).await;
    let mut admin = Client::connect(&folder().unwrap().join("r1.sock"), SOON).await.unwrap();
    let mut carries = async || !admin.data::<Vec<StreamRow>>(&Request::Streams).await.unwrap().is_empty();
    while !soon("an answer", carries()).await {
        tokio::task::yield_now().await;
    }
    pids
}

#[tokio::test]
async fn an_interrupt_ends_it_with_a_verdict_and_no_relay_is_left() {
    let temp = tempfile::tempdir().unwrap();
    let mut command = soak("--minutes 10 --streams 4 --rate 1");
    command.env("TMPDIR", temp.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = command.spawn().unwrap();
    let relays = soon("it carries streams", relays(temp.path())).await;
    let is_there = |pid: &u64| Path::new(&format!("/proc/{pid}")).exists();
    assert!(relays.iter().all(is_there));
    // Caught from before the relays are started.
    let interrupted = Command::new("kill").arg("-INT").arg(running.id().to_string()).status().unwrap();
    assert!(interrupted.success());
    let ended = tokio::task::spawn_blocking(move || running.wait_with_output().unwrap());
    let output = soon("the soak ends", ended).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.starts_with("soak: 2 relays, ") && text.ends_with("ok\n"), "{text}");
    assert!(!relays.iter().any(is_there), "no relay outlives it");
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "nor does its folder");
}

#[tokio::test]
async fn a_soak_that_makes_no_sense_is_refused_with_the_flags_named() {
    let output = output(soak("--minutes 0 --every 1ms")).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for flag in ["--minutes: ", "--every: "] {
        assert!(said.lines().any(|line| line.starts_with(flag)), "{flag} in {said}");
    }
}
