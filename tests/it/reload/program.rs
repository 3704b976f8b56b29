//! The real program reads everything again, by itself or told by SIGHUP.

use std::path::PathBuf;

use outrelay::config::relay::RelayConfig;
use outrelay::pki::Ca;

use super::{accepted, other_authority};
use crate::crowd::{complete, moves};
use crate::harness::{ALONE, Deployment, OPEN_WORLD, agent, eventually};
use crate::matrix::ends::{Ends, link};
use crate::matrix::flow::Load;
use crate::program::Program;

/// A program whose limits, log level and whatever else stand in a file.
struct Configured {
    deployment: Deployment,
    config: RelayConfig,
    file: PathBuf,
    program: Program,
}

impl Configured {
    async fn start(text: &str) -> Self {
        let deployment = Deployment::new();
        let config = deployment.relay_config("r1", OPEN_WORLD);
        let file = deployment.write("relay.toml", text);
        let flags = ["--config", file.to_str().unwrap()];
        let program = Program::start_with(&deployment, &config, &flags).await;
        Self { deployment, config, file, program }
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.file, text).unwrap();
    }

    /// The same, and SIGHUP.
    fn reload(&self, text: &str) {
        self.write(text);
        self.program.hang_up();
    }

    /// Waits for the `n`th line with all of `words`; which line of the log it is.
    async fn said(&self, n: usize, words: &[&str]) -> usize {
        let place = || {
            let log = self.program.log();
            let mut lines = log.lines().enumerate().filter(|(_, line)| words.iter().all(|word| line.contains(word)));
            lines.nth(n - 1).map(|(place, _)| place)
        };
        eventually(&format!("{words:?}, {n} times"), place).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_reads_its_file_again_on_sighup() {
    let it = Configured::start("[limits]\n").await;
    it.reload("\n\n[limits]\nopne = 1\n");
    let why = it.program.said(&["ERROR", "old one stays in force"]).await;
    assert!(why.contains("relay.toml:4") || it.program.log().contains("relay.toml:4"), "{why}");

    it.reload("http.listen = \"127.0.0.1:1\"\nquic.keep_alive = \"2s\"\n[limits]\nstreams = 5\n");
    it.program.said(&["WARN", "need a restart", "quic.keep_alive"]).await;
    it.program.said(&["INFO", "configuration changed", "limits.streams"]).await;
    assert!(!it.program.log().contains("http.listen"), "a flag wins over the file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_falls_silent_and_speaks_again_as_its_level_is_changed() {
    let it = Configured::start("log.level = \"info\"\n").await;
    // What needs a restart is said at any level: a mark.
    it.reload("log.level = \"warn\"\nquic.keep_alive = \"2s\"\n");
    let from = it.said(1, &["WARN", "need a restart"]).await;
    it.reload("log.level = \"warn\"\nquic.keep_alive = \"2s\"\nlimits.streams = 5\n");
    let to = it.said(2, &["WARN", "need a restart"]).await;
    let _agent = it.deployment.peer_at(it.program.addr, 1, &[]).await;
    it.reload("log.level = \"info\"\nlimits.streams = 6\n");
    let again = it.said(1, &["INFO", "configuration changed", "limits.streams, log.level"]).await;
    let log = it.program.log();
    let between: Vec<_> = log.lines().skip(from).take(again - from).collect();
    assert!(to > from && between.iter().all(|line| !line.contains("INFO")), "{between:#?}");
    it.program.hang_up();
    it.said(2, &["INFO", "SIGHUP"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_files_are_noticed_without_being_asked() {
    let it = Configured::start("limits.streams = 5\n").await;
    let others = Deployment::new();
    let relay = others.relay().await;
    it.write("limits.streams = 6\n");
    // The other relay's credentials, and nothing else of it.
    let current = relay.vault().config.get();
    let next = other_authority(&current);
    let _connection = accepted(&next, &relay).await;
    it.program.said(&["INFO", "the configuration file has changed"]).await;
    it.program.said(&["INFO", "configuration changed", "limits.streams"]).await;
    assert!(!it.program.log().contains("SIGHUP"), "{}", it.program.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_notices_that_everything_is_read_again() {
    let _alone = ALONE.lock().await;
    let it = Configured::start("").await;
    let ends = Ends::start(&it.deployment, it.program.addr, |_, _| {}).await;
    let streams: Vec<_> = [Load::Bulk, Load::Bulk, Load::Idle].map(|load| ends.stream(load)).into();
    moves(&streams).await;
    let sessions = || [&ends.provider, &ends.consumer].map(|agent| link(agent)["session"].clone());
    let before = sessions();

    let second = Ca::generate().unwrap();
    for n in 1..=3_usize {
        // A renewed certificate and key, one authority more, other rules, limits and level.
        let renewed = it.deployment.ca.relay(&it.config.uri().unwrap(), &[]).unwrap();
        std::fs::write(&it.config.tls.cert, renewed.cert_pem).unwrap();
        std::fs::write(&it.config.tls.key, renewed.key_pem).unwrap();
        std::fs::write(&it.config.tls.ca, format!("{}{}", it.deployment.ca.cert_pem(), second.cert_pem())).unwrap();
        let rules = format!(
            "{OPEN_WORLD}[[rule]]\nid = \"n{n}\"\ntenant = \"t\"\ncaller = \"*\"\ntarget = \"*\"\ndecision = \"deny\"\n"
        );
        std::fs::write(it.config.directory.rules.as_ref().unwrap(), rules).unwrap();
        let level = if n == 2 { "debug" } else { "info" };
        it.reload(&format!(
            "log.level = \"{level}\"\nlimits = {{ streams = {}, frame_max_bytes = {} }}\n",
            100 * n,
            1_024 * n
        ));
        it.said(n, &["configuration changed", "limits.streams"]).await;
        it.said(n + 1, &["credentials in use"]).await;
        it.said(n + 1, &["rules published"]).await;
        moves(&streams).await;
    }
    // It is the new authority that counts.
    let stranger = Deployment { dir: tempfile::tempdir().unwrap(), ca: second };
    let identity = stranger.ca.agent(&agent(9)).unwrap();
    let quic = crate::harness::dial(it.program.addr, it.deployment.client(&identity)).await.unwrap();
    crate::harness::Peer::over(quic, &agent(9)).await.hello(&[]).await;
    assert_eq!(sessions(), before, "nobody has dialled again");
    complete(streams).await;
    ends.shutdown().await;
}
