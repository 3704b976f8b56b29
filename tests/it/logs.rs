//! The log for machines: each line an object, and one line for each connection and each stream that ends.

use outrelay::net::stream::End;
use serde_json::Value;

use crate::harness::{Deployment, OPEN_WORLD, agent, drain, pair, rejection, take};
use crate::program::Program;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_is_an_object_and_every_end_is_one_line() {
    let deployment = Deployment::new();
    let config = deployment.relay_config("r1", OPEN_WORLD);
    let mut program = Program::start_with(&deployment, &config, &["--log", "json"]).await;
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
    for message in ["agent connected", "connection ended"] {
        let mut agents: Vec<_> = of(message).iter().map(|line| line["agent"].as_str().unwrap()).collect();
        agents.sort_unstable();
        assert_eq!(agents, [agent(1).as_str(), agent(2).as_str()], "{message}");
    }
}
