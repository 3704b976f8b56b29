//! The log for machines: each line an object, and one line for each connection and each stream that ends.

use std::fs::File;
use std::process::Command;

use outrelay::net::stream::End;
use serde_json::Value;

use crate::admin::admin;
use crate::harness::{Deployment, OPEN_WORLD, agent, drain, pair, rejection, take};
use crate::program::Program;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_is_an_object_and_every_end_is_one_line() {
    let deployment = Deployment::new();
    let config = deployment.relay_config("r1", OPEN_WORLD);
    let mut flags = vec!["--log", "json"];
    let settings = ["admin.fault_injection=true", "limits.handler=300ms", "limits.registry_call=200ms"];
    flags.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let mut program = Program::start_traced(&deployment, &config, &flags, "1").await;
    let mut provider = deployment.peer_at(program.addr, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer_at(program.addr, 2, &[]).await;
    for id in 1..=3 {
        let (mut up, mut down) = pair(&consumer, &provider, id).await;
        up.send.write_all(&[7; 100]).await.unwrap();
        up.send.finish();
        assert_eq!(drain(&mut down.recv).await.0.len(), 100);
        down.send.finish();
        assert_eq!(drain(&mut up.recv).await.1, End::Fin);
    }
    assert_eq!(rejection(&mut consumer.open("nowhere", 4).await).await.0, 404);
    let (mut up, mut down) = pair(&consumer, &provider, 5).await;
    up.send.write_all(b"x").await.unwrap();
    take(&mut down.recv, 1).await;
    consumer.quic.close(0_u32.into(), b"bye");
    program.said(&["connection ended"]).await;
    drop((up, down));
    for (fault, actor) in [("panic", "registry"), ("hang", "policy")] {
        drop(admin(&program.admin, &[fault, actor]).await);
        program.said(&["actor ended: restarting", actor]).await;
    }
    program.terminate();
    assert_eq!(program.exited().await.code(), Some(0));

    let log = program.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for line in &lines {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "{field} in {line}");
        }
    }
    let twice = log.lines().find(|line| line.matches("\"target\":").count() > 1);
    assert_eq!(twice, None, "a field of the line hides the module");
    for line in lines.iter().filter(|line| line.get("stream").is_some()) {
        assert!(line["stream"].is_string(), "not every reader of JSON has 64 bits: {line}");
    }
    let of = |message: &str| lines.iter().filter(|line| line["message"] == message).collect::<Vec<_>>();
    let mut streams: Vec<_> = of("stream ended").iter().map(|line| line["stream"].to_string()).collect();
    streams.sort();
    assert_eq!(streams.len(), 4, "{streams:?}");
    streams.dedup();
    assert_eq!(streams.len(), 4, "each once");
    for line in of("stream ended") {
        assert_eq!((&line["consumer"], &line["provider"]), (&agent(2).as_str().into(), &agent(1).as_str().into()));
        assert!(line["bytes_up"].is_u64() && line["duration"].is_string(), "{line}");
    }
    let [panicked] = of("panicked")[..] else { panic!("{:?}", of("panicked")) };
    assert_eq!((&panicked["level"], &panicked["panic"]), (&"ERROR".into(), &"injected panic".into()));
    assert!(panicked["location"].as_str().unwrap().contains("fault.rs:"), "{panicked}");
    assert!(panicked["backtrace"].as_str().unwrap().contains("outrelay::supervise"), "{panicked}");
    let recorded = of("actor failed: what is recorded of it");
    let recorded: Vec<_> = recorded.iter().map(|line| (line["actor"].as_str().unwrap(), line)).collect();
    let [("registry", panicked), ("policy", hung)] = recorded[..] else { panic!("{recorded:?}") };
    assert!(panicked["messages"].as_str().unwrap().starts_with("Register "), "{panicked}");
    assert!(panicked["messages"].as_str().unwrap().contains(", Resolve "), "{panicked}");
    assert!(hung["messages"].as_str().unwrap().starts_with("StreamsChecked "), "{hung}");
    assert!(hung["why"].as_str().unwrap().starts_with("it hangs"), "{hung}");
    for message in ["agent connected", "connection ended"] {
        let mut agents: Vec<_> = of(message).iter().map(|line| line["agent"].as_str().unwrap()).collect();
        agents.sort_unstable();
        assert_eq!(agents, [agent(1).as_str(), agent(2).as_str()], "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_whose_log_nobody_reads_any_more_goes_on() {
    let deployment = Deployment::new();
    let config = deployment.relay_config("r1", OPEN_WORLD);
    let pipe = deployment.dir.path().join("r1.log");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // With one end alone it would have to wait for the other.
    let reader = File::options().read(true).write(true).open(&pipe).unwrap();
    let mut program = Program::start(&deployment, &config, &["admin.fault_injection=true".to_owned()]).await;
    std::fs::remove_file(&pipe).unwrap();
    drop(reader);
    let mut provider = deployment.peer_at(program.addr, 1, &[]).await;
    provider.register("svc").await;
    program.hang_up();
    drop(admin(&program.admin, &["panic", "registry"]).await);
    let tree = admin(&program.admin, &["tree"]).await;
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let consumer = deployment.peer_at(program.addr, 2, &[]).await;
    let (mut up, mut down) = pair(&consumer, &provider, 1).await;
    up.send.write_all(b"on").await.unwrap();
    assert_eq!(take(&mut down.recv, 2).await, b"on");
    drop((up, down));
    program.terminate();
    assert_eq!(program.exited().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_said_whatever_is_logged() {
    for level in ["outrelay::relay=debug", "outrelay=off", "off"] {
        let deployment = Deployment::new();
        let config = deployment.relay_config("r1", OPEN_WORLD);
        let settings = ["admin.fault_injection=true".to_owned(), format!("log.level={level}")];
        let program = Program::start(&deployment, &config, &settings).await;
        drop(admin(&program.admin, &["panic", "registry"]).await);
        program.said(&["injected panic", "fault.rs:"]).await;
    }
}
