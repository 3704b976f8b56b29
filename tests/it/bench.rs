//! `outrelay bench`: what it says about a relay is complete, and what goes wrong is never hidden.

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrelay::bench::process::{Process, Usage};
use outrelay::bench::report::Report;
use outrelay::bench::site::Site;
use outrelay::bench::{self, Direction, Mode, Plan, Timing};
use outrelay::pki::Ca;
use outrelay::relay::Relay;
use serde_json::Value;

use crate::harness::{Deployment, OPEN_WORLD, eventually, soon};
use crate::program::Program;

const TIMING: Timing = Timing { warm_up: Duration::from_millis(50), measured: Duration::from_millis(300) };

fn plan(ca: Ca, relay: &Relay, mode: Mode) -> Plan {
    let site = Site::new(
        relay.quic_addr().unwrap(),
        "localhost".to_owned(),
        ca,
        "acme".parse().unwrap(),
        "bench".parse().unwrap(),
    );
    // The relay of these tests is in this process.
    let process = Process::find(std::process::id()).unwrap();
    Plan { site: Arc::new(site), mode, timing: TIMING, runs: 2, relay: Some(process) }
}

/// The deployment's CA once more.
fn ca_of(deployment: &Deployment) -> Ca {
    let cert = deployment.write("bench-ca.crt", deployment.ca.cert_pem());
    let key = deployment.write("bench-ca.key", &deployment.ca.key_pem());
    Ca::load_files(&cert, &key).unwrap()
}

async fn measured(mode: Mode) -> (Report, Value) {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let plan = plan(ca_of(&deployment), &relay, mode);
    let report = soon("the benchmark ends", bench::run(&plan)).await;
    let json = report.to_json(&plan);
    assert_eq!(json["mode"], mode.name());
    assert_eq!((&json["ok"], &json["failed"], &json["runs"]), (&true.into(), &0.into(), &2.into()), "{json:#}");
    assert_eq!(json["each"].as_array().unwrap().len(), 2);
    (report, json)
}

/// `fields` are positive numbers, as medians and in each run.
fn assert_figures(json: &Value, fields: &[&str]) {
    let runs = json["each"].as_array().unwrap();
    assert!(runs.iter().all(|run| run["completed"].as_u64() > Some(0)), "{json:#}");
    for field in fields {
        for (place, object) in [("medians", json)].into_iter().chain(runs.iter().map(|run| ("a run", run))) {
            assert!(object[field].as_f64().is_some_and(|value| value > 0.0), "{field} of {place}: {json:#}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn splices_carry_checked_payload_both_ways() {
    for direction in [Direction::Up, Direction::Down, Direction::Both] {
        let (_, json) = measured(Mode::Splice { streams: 3, direction, write_bytes: 50_000 }).await;
        assert_figures(&json, &["mb_per_s", "cpu_s_per_gb"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_than_a_legacy_connection_takes_are_spread() {
    let (_, json) = measured(Mode::Splice { streams: 100, direction: Direction::Up, write_bytes: 1000 }).await;
    assert_eq!(json["streams"], 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_trips_are_timed() {
    let (_, json) = measured(Mode::Rtt { bytes: 64 }).await;
    assert_figures(&json, &["p50_us", "p99_us", "cpu_us_per_round", "rounds_per_s"]);
    assert!(json["p50_us"].as_f64() <= json["p99_us"].as_f64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opens_are_counted_and_timed() {
    let (report, json) = measured(Mode::Open { at_once: 8 }).await;
    assert_figures(&json, &["p50_us", "p99_us", "opens_per_s", "cpu_ms_per_open"]);
    let run = &report.each[0];
    let rate = run.figures.get(bench::figures::Figure::OpensPerS).unwrap();
    // The window lasts 300 ms, or more on a busy machine.
    assert!(rate <= run.completed as f64 / 0.3, "{json:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_come_and_go_are_counted() {
    let (_, json) = measured(Mode::Connect { at_once: 4 }).await;
    assert_figures(&json, &["p50_us", "p99_us", "connects_per_s", "cpu_ms_per_connect"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_units_are_added_by_each_run() {
    let (report, json) = measured(Mode::Idle { connections: 10, streams: 0 }).await;
    assert_eq!(json["unit"], "connection");
    assert_eq!(report.each.iter().map(|run| run.completed).collect::<Vec<_>>(), [10, 20]);
    let (report, json) = measured(Mode::Idle { connections: 3, streams: 20 }).await;
    assert_eq!(json["unit"], "stream");
    assert_eq!(report.each.iter().map(|run| run.completed).collect::<Vec<_>>(), [23, 46]);
    for field in ["rss_kib_per_unit", "rss_kib_per_connection", "idle_cores", "voluntary_switches_per_s"] {
        assert!(json[field].is_number(), "{field}: {json:#}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_nobody_uses_is_measured_too() {
    let (_, json) = measured(Mode::Idle { connections: 0, streams: 0 }).await;
    assert!(json["voluntary_switches_per_s"].is_number());
    assert!(json["rss_kib_per_unit"].is_null());
}

/// What is done now and then is done at beats of five and ten seconds, so that a look of five seconds may see twice what there is over a
/// minute; something done every second would add two or three.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_nobody_uses_hardly_wakes() {
    let (woken, seconds) = woken_within(Duration::from_secs(5)).await;
    assert!(woken < 3.0 * seconds, "{woken} voluntary context switches in {seconds} s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn a_relay_that_nobody_uses_wakes_less_than_once_a_second() {
    let (woken, seconds) = woken_within(Duration::from_secs(60)).await;
    assert!(woken < seconds, "{woken} voluntary context switches in {seconds} s");
}

/// How often the threads of a relay that nobody uses go to sleep within `look`, and how long that was in seconds.
async fn woken_within(look: Duration) -> (f64, f64) {
    let deployment = Deployment::new();
    let relay = Program::start(&deployment, &deployment.relay_config("r1", OPEN_WORLD), &[]).await;
    // What the start itself takes is over once nothing has happened for a moment.
    let sleeps = |since: &Usage| relay.process().usage().unwrap().sleeps_since(since);
    let calm = Duration::from_millis(500);
    let mut before = relay.process().usage().unwrap();
    let mut since = Instant::now();
    eventually("it is calm", || {
        if sleeps(&before) > 0 {
            (before, since) = (relay.process().usage().unwrap(), Instant::now());
        }
        (since.elapsed() > calm).then_some(())
    })
    .await;
    tokio::time::sleep(look).await;
    (sleeps(&before) as f64, since.elapsed().as_secs_f64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_is_counted_with_its_reason() {
    let deployment = Deployment::new();
    let relay = deployment.relay_with("").await;
    let plan = plan(ca_of(&deployment), &relay, Mode::Open { at_once: 2 });
    let json = soon("the benchmark ends", bench::run(&plan)).await.to_json(&plan);
    assert_eq!(json["ok"], false);
    assert!(json["failed"].as_u64() >= Some(4), "{json:#}");
    let reason = json["failures"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("open: 403 denied"), "{reason}");
    assert!(json["p50_us"].is_null(), "what was refused has no time: {json:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_cannot_be_set_up_is_the_last_and_says_why() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let plan = plan(Ca::generate().unwrap(), &relay, Mode::Rtt { bytes: 64 });
    let json = soon("the benchmark ends", bench::run(&plan)).await.to_json(&plan);
    assert_eq!((&json["ok"], &json["runs"], &json["failed"]), (&false.into(), &1.into(), &1.into()), "{json:#}");
    let reason = json["failures"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("connect: "), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_cut_is_a_failure_and_the_benchmark_still_ends() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    let timing = Timing { measured: Duration::from_secs(2), ..TIMING };
    let mode = Mode::Splice { streams: 2, direction: Direction::Both, write_bytes: 1000 };
    let plan = Plan { runs: 1, timing, ..plan(ca_of(&deployment), &relay, mode) };
    let cut = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        relay.shutdown().await;
    };
    let (report, ()) = tokio::join!(soon("the benchmark ends", bench::run(&plan)), cut);
    // Two streams at either end, and the provider's connection.
    assert_eq!(report.failures.count(), 5, "{:#}", report.to_json(&plan));
}

/// `outrelay bench ARGS`, which must not block the runtime of the relay that it measures.
async fn command(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrelay"));
    command.arg("bench").args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_prints_one_json_object_or_a_table() {
    let deployment = Deployment::new();
    let relay = deployment.relay().await;
    drop(ca_of(&deployment));
    let path = |name: &str| deployment.dir.path().join(name).to_str().unwrap().to_owned();
    let (addr, ca, key) = (relay.quic_addr().unwrap().to_string(), path("bench-ca.crt"), path("bench-ca.key"));
    let mut args = vec!["rtt", "--relay", &addr, "--ca", &ca, "--ca-key", &key, "--tenant", "acme"];
    args.extend(["--secs", "0.2", "--runs", "1"]);
    let table = command(&args).await;
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(table.status.success() && text.starts_with("rtt: QUIC, 64 bytes"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("time, p50") && line.contains("µs")), "{text}");
    assert!(String::from_utf8_lossy(&table.stderr).contains("debug build") == cfg!(debug_assertions));

    args.push("--json");
    let object = command(&args).await;
    let json: Value = serde_json::from_slice(&object.stdout).unwrap();
    assert_eq!((&json["mode"], &json["ok"]), (&"rtt".into(), &true.into()));
    assert!(json["relay_pid"].is_null() && json["cpu_us_per_round"].is_null(), "no process, no CPU time: {json:#}");
}

#[tokio::test]
async fn flags_that_make_no_sense_are_all_named() {
    let args = "idle --relay nowhere --ca /nonexistent --ca-key /nonexistent --tenant acme --secs 0";
    let output = command(&args.split(' ').collect::<Vec<_>>()).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for flag in ["--relay: ", "--ca, --ca-key: ", "--secs: ", "--relay-pid: "] {
        assert!(said.lines().any(|line| line.starts_with(flag)), "{flag} in {said}");
    }
}
