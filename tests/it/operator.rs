//! What an operator types, and what comes back: a mistake is refused, once, with the place where it stands and its reason.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use outrelay::core::identity::RelayUri;
use outrelay::pki::Ca;
use serde_json::Value;

use crate::admin::admin;
use crate::harness::{Deployment, OPEN_WORLD, agent, eventually};
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

/// A process that is looked at through its log, and killed in the end.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(deployment: &Deployment, mut command: Command) -> Self {
        let log = deployment.dir.path().join("running.log");
        let child = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        Self { child, log }
    }

    async fn said(&mut self, words: &[&str]) -> String {
        eventually(&format!("{words:?} in the log"), || {
            let log = std::fs::read_to_string(&self.log).unwrap();
            let line = log.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned);
            assert!(line.is_some() || self.child.try_wait().unwrap().is_none(), "it has exited: {log}");
            line
        })
        .await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The flags of a relay of `deployment`, but for those of its certificate, key and CA.
fn relay_flags() -> Vec<String> {
    ["relay", "--id", "r1", "--region", "acme", "--listen", "127.0.0.1:0", "--http", ""].map(str::to_owned).into()
}

/// Flags of the files in `tls`.
fn tls_flags(tls: &outrelay::config::types::Tls) -> Vec<String> {
    let shown = |path: &Path| path.display().to_string();
    [("--cert", &tls.cert), ("--key", &tls.key), ("--ca", &tls.ca)]
        .into_iter()
        .flat_map(|(flag, path)| [flag.to_owned(), shown(path)])
        .collect()
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
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
fn what_is_no_socket_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes.txt");
    std::fs::write(&file, "x").unwrap();
    for path in [file.as_path(), dir.path()] {
        let (code, why) = run(&["admin", "--socket", path.to_str().unwrap(), "tree"]);
        assert_eq!(code, 1, "{why}");
        assert!(why.contains(path.to_str().unwrap()) && why.contains("no socket"), "{why}");
    }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_listens_on_is_said_in_plain_values() {
    let deployment = Deployment::new();
    let config = deployment.relay_config("r1", OPEN_WORLD);
    let program = Program::start_with(&deployment, &config, &["--log", "json"]).await;
    let line: Value = serde_json::from_str(&program.said(&["\"listening\""]).await).unwrap();
    let http: std::net::SocketAddr = line["http"].as_str().unwrap().parse().expect("an address");
    assert!(http.port() != 0 && line["quic"].as_str().unwrap().parse::<std::net::SocketAddr>().is_ok(), "{line}");
    assert_eq!(line["admin"], config.admin.socket.unwrap().to_str().unwrap());

    let socket = deployment.dir.path().join("agent.sock").display().to_string();
    for admin_socket in [None, Some(&socket)] {
        let mut args = vec!["agent".to_owned(), "--relay".to_owned(), program.addr.to_string()];
        args.extend(["--log", "json", "--consume", "web=127.0.0.1:0"].map(str::to_owned));
        args.extend(tls_flags(&deployment.agent_tls(&agent(1))));
        args.extend(admin_socket.iter().flat_map(|path| ["--admin-socket".to_owned(), (*path).clone()]));
        let mut running = Running::start(&deployment, outrelay(&strs(&args)));
        let line: Value = serde_json::from_str(&running.said(&["agent started"]).await).unwrap();
        assert_eq!(line.get("admin").and_then(Value::as_str), admin_socket.map(String::as_str), "{line}");
        assert!(admin_socket.is_some() || line.get("admin").is_none(), "left out where there is none: {line}");
    }
}

#[test]
fn every_file_that_a_relay_cannot_use_is_listed_with_its_flag_and_the_reason() {
    let deployment = Deployment::new();
    let dir = deployment.dir.path().display().to_string();
    let key = deployment.write("open.key", "not a key\n");
    let (cert, ca) = (format!("{dir}/none.crt"), deployment.write("ca.crt", "no PEM"));
    let file = format!("{dir}/relay.toml");
    std::fs::write(&file, format!("[tls]\nca = \"{}\"\n[resume]\nfleet_key = \"{dir}/no/fleet.key\"\n", ca.display()))
        .unwrap();
    let mut args = relay_flags();
    let (rules, audit, socket) = (format!("{dir}/no.rules"), format!("{dir}/no/audit"), format!("{dir}/no/admin.sock"));
    let key = key.to_str().unwrap();
    args.extend(
        ["--config", &file, "--cert", &cert, "--key", key, "--rules", &rules, "--audit", &audit]
            .iter()
            .map(|arg| (*arg).to_owned()),
    );
    args.extend(["--admin-socket".to_owned(), socket.clone()]);
    let (code, why) = run(&strs(&args));
    assert_eq!(code, 2, "{why}");
    for [place, path, reason] in [
        ["--cert: ", &cert, "No such file"],
        ["--key: ", key, "not PEM"],
        [&format!("{file}:2: "), ca.to_str().unwrap(), "not PEM"],
        [&format!("{file}:4: "), &format!("{dir}/no/fleet.key"), "No such file"],
        ["--rules: ", &rules, "No such file"],
        ["--audit: ", &audit, "No such file"],
        ["--admin-socket: ", &socket, "No such file"],
    ] {
        let line = why.lines().find(|line| line.starts_with(place)).unwrap_or_else(|| panic!("{place}: {why}"));
        assert!(line.contains(path) && line.contains(reason), "{line}");
        assert_eq!(line.matches(reason).count(), 1, "{line}");
    }
    assert!(!why.contains("panicked"), "{why}");
    assert_eq!(why.lines().count(), 7, "{why}");
}

#[test]
fn a_certificate_of_somebody_else_is_a_mistake_in_the_configuration() {
    let deployment = Deployment::new();
    let config = deployment.relay_config("r2", OPEN_WORLD);
    let mut args = relay_flags();
    args.extend(tls_flags(&config.tls));
    let (code, why) = run(&strs(&args));
    assert_eq!(code, 2, "{why}");
    assert!(why.starts_with("--cert: ") && why.contains("outrelay://acme/relay/r2"), "{why}");
    let other = deployment.agent_tls(&agent(1));
    let mut args: Vec<_> = ["agent", "--relay", "127.0.0.1:1", "--admin-socket", "/nonexistent/dir/a.sock"].into();
    let (cert, key) = (config.tls.cert.to_str().unwrap(), other.key.to_str().unwrap());
    args.extend(["--cert", cert, "--key", key, "--ca", "/nonexistent/ca.crt"]);
    let (code, why) = run(&args);
    assert_eq!(code, 2, "{why}");
    for (place, word) in
        [("--key: ", "does not match"), ("--ca: ", "No such file"), ("--admin-socket: ", "No such file")]
    {
        assert!(why.lines().any(|line| line.starts_with(place) && line.contains(word)), "{place}: {why}");
    }
    assert_eq!(why.lines().count(), 3, "{why}");
}

/// Where it is only found out when it is tried.
#[tokio::test]
async fn a_relay_that_does_not_start_says_why_once() {
    let deployment = Deployment::new();
    let nowhere = PathBuf::from("/nonexistent/folder/file");
    let mut no_socket = deployment.relay_config("r1", OPEN_WORLD);
    no_socket.admin.socket = Some(nowhere.clone());
    let mut no_audit = deployment.relay_config("r1", OPEN_WORLD);
    no_audit.directory.audit = Some(nowhere);
    for (config, what) in [(no_socket, "admin.socket"), (no_audit, "audit file")] {
        let error = outrelay::relay::Relay::start(config).await.unwrap_err();
        let why = format!("{:#}", anyhow::Error::new(error));
        for word in [what, "/nonexistent/folder/file", "No such file"] {
            assert_eq!(why.matches(word).count(), 1, "{word}: {why}");
        }
        assert!(!why.contains("panicked"), "{why}");
    }
}

#[test]
fn a_benchmark_says_why_it_has_no_authority() {
    let (ca, key) = ("/nonexistent/ca.crt", "/nonexistent/ca.key");
    let (code, why) = run(&["bench", "rtt", "--relay", "127.0.0.1:1", "--tenant", "acme", "--ca", ca, "--ca-key", key]);
    assert_eq!(code, 2, "{why}");
    assert!(why.contains("--ca") && why.contains(ca) && why.contains("No such file"), "{why}");
}

#[test]
fn certificates_are_asked_for_with_names_and_days_that_there_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    assert_eq!(run(&["pki", "init", path]).0, 0);
    let relay = ["pki", "relay", path, "--region", "acme", "--id", "r1"];
    let agent = ["pki", "agent", path, "--tenant", "acme", "--name"];
    for (args, flag) in [
        ([&agent[..], &["../x"]].concat(), "--name"),
        ([&agent[..], &["web", "--days", "0"]].concat(), "--days"),
        ([&relay[..], &["--days", "4000000000"]].concat(), "--days"),
        ([&relay[..], &["--dns", ""]].concat(), "--dns"),
        ([&relay[..], &["--dns", "not a host"]].concat(), "--dns"),
    ] {
        let (code, why) = run(&args);
        assert_eq!(code, 2, "{args:?}: {why}");
        assert!(why.contains(flag), "{args:?}: {why}");
    }
    let good = ["--dns", "r1.example", "--dns", "10.0.0.1", "--dns", "::1", "--dns", "*.example"];
    assert_eq!(run(&[&relay[..], &good].concat()).0, 0);
}

#[test]
fn a_path_in_a_configuration_file_is_looked_for_beside_that_file() {
    let deployment = Deployment::new();
    let config = deployment.relay_config("r1", OPEN_WORLD);
    let agent_tls = deployment.agent_tls(&agent(1));
    let elsewhere = tempfile::tempdir().unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let tls = |tls: &outrelay::config::types::Tls| {
        format!("[tls]\ncert = \"{}\"\nkey = \"{}\"\nca = \"{}\"\n", name(&tls.cert), name(&tls.key), name(&tls.ca))
    };
    let rules = name(config.directory.rules.as_ref().unwrap());
    let text = format!(
        "id = \"r1\"\nregion = \"acme\"\nlisten = \"127.0.0.1:0\"\nready_file = \"ready\"\n{}\
         [directory]\nrules = \"{rules}\"\naudit = \"audit\"\n[admin]\nsocket = \"sock\"\n[http]\nlisten = \"\"\n\
         [resume]\nfleet_key = \"fleet.key\"\n",
        tls(&config.tls)
    );
    let file = deployment.write("relay.toml", &text);
    // A flag's is that of the shell which has it.
    let mut command = outrelay(&["relay", "--config", file.to_str().unwrap(), "--audit", "flag-audit"]);
    let mut relay = command.current_dir(&elsewhere).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(relay.stderr.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.contains("listening")).expect("it listens");
    for made in ["sock", "fleet.key"] {
        assert!(deployment.dir.path().join(made).exists(), "{made}: {line}");
    }
    assert!(elsewhere.path().join("flag-audit").exists() && !deployment.dir.path().join("flag-audit").exists());
    relay.kill().unwrap();
    relay.wait().unwrap();

    let text = format!("relays = [\"127.0.0.1:1\"]\n{}[admin]\nsocket = \"agent.sock\"\n", tls(&agent_tls));
    deployment.write("agent.toml", &text);
    // Where the file itself is given by a relative path, too.
    let parent = deployment.dir.path().parent().unwrap();
    let relative = format!("{}/agent.toml", name(deployment.dir.path()));
    let mut command = outrelay(&["agent", "--config", &relative]);
    let mut agent = command.current_dir(parent).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(agent.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("agent started")));
    assert!(deployment.dir.path().join("agent.sock").exists());
    agent.kill().unwrap();
    agent.wait().unwrap();
}

#[test]
fn a_key_that_is_given_twice_on_the_command_line_is_refused() {
    for (args, place, key) in [
        (["--set", "log.format=json", "--log", "text"], "--log", "log.format"),
        (["--set", "limits.open=12s", "--set", "limits.open=13s"], "--set limits.open", "limits.open"),
        (["--cert", "a", "--set", "tls={ cert = \"b\" }"], "--cert", "tls.cert"),
    ] {
        for command in ["relay", "agent"] {
            let args: Vec<_> = args
                .map(|arg| if command == "agent" { arg.replace("limits.", "timeouts.") } else { arg.into() })
                .into();
            let key = if command == "agent" { key.replace("limits.", "timeouts.") } else { key.to_owned() };
            let place = if command == "agent" { place.replace("limits.", "timeouts.") } else { place.to_owned() };
            let args: Vec<_> = [command].into_iter().chain(strs(&args)).collect();
            let (code, why) = run(&args);
            assert_eq!(code, 2, "{why}");
            let line =
                why.lines().find(|line| line.contains("given twice")).unwrap_or_else(|| panic!("{args:?}: {why}"));
            assert!(line.starts_with(&format!("{place}: ")) && line.contains(&key), "{line}");
        }
    }
}

#[test]
fn a_section_and_another_of_its_keys_may_be_given_on_the_command_line() {
    for args in [
        ["--set", "limits={streams=7}", "--set", "limits.connections=7"],
        ["--set", "log={level=\"debug\"}", "--log", "json"],
    ] {
        let (code, why) = run(&["relay"].into_iter().chain(args).collect::<Vec<_>>());
        assert!(code == 2 && why.contains("--cert") && !why.contains("twice") && !why.contains("--set"), "{why}");
    }
    let (code, why) = run(&["relay", "--set", "tls={cert=\"b\"}", "--cert", "a"]);
    assert!(code == 2 && why.contains("--cert: `tls.cert` is given twice, also by --set tls"), "{why}");
}

#[test]
fn a_folder_in_which_nothing_may_be_made_is_refused_with_all_that_would_be_made_there() {
    let deployment = Deployment::new();
    let config = deployment.relay_config("r1", OPEN_WORLD);
    // The system lets root do anything: then the relay runs as somebody else, who must be let in.
    let is_root = rustix::process::geteuid().is_root();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(deployment.dir.path(), 0o755);
    mode(&config.tls.key, 0o644);
    let closed = deployment.dir.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    mode(&closed, 0o555);
    let mut args = relay_flags();
    args.extend(tls_flags(&config.tls));
    for (flag, name) in [("--audit", "audit"), ("--fleet-key", "key"), ("--admin-socket", "sock")] {
        args.extend([flag.to_owned(), closed.join(name).display().to_string()]);
    }
    let mut command = outrelay(&strs(&args));
    if is_root {
        // Which may not look into root's folders either.
        let program = deployment.dir.path().join("outrelay");
        std::fs::copy(env!("CARGO_BIN_EXE_outrelay"), &program).unwrap();
        command = Command::new(program);
        command.env_remove("RUST_LOG").args(&args).stdin(Stdio::null()).current_dir("/").uid(65534).gid(65534);
    }
    let (code, why) = refused(&command.output().unwrap());
    assert_eq!(code, 2, "{why}");
    for flag in ["--audit: ", "--fleet-key: ", "--admin-socket: "] {
        assert!(why.lines().any(|line| line.starts_with(flag) && line.contains("Permission denied")), "{flag} {why}");
    }
}

/// Each side with a CA of its own: nothing is wrong with that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_ca_than_the_peers_is_no_reason_for_alarm_and_is_said_once() {
    let deployment = Deployment::new();
    let agents = Ca::generate().unwrap();
    let mut config = deployment.relay_config("r1", OPEN_WORLD);
    let of_relays = std::mem::replace(&mut config.tls.ca, deployment.write("agents-ca.crt", agents.cert_pem()));
    let mut relay = Program::start(&deployment, &config, &[]).await;
    let line = relay.said(&["our certificate", "r1.crt", "tls.ca", "agents-ca.crt"]).await;
    assert!(line.contains("INFO"), "{line}");

    let issued = agents.agent(&agent(1)).unwrap();
    let tls = outrelay::config::types::Tls {
        cert: deployment.write("own.crt", &issued.cert_pem),
        key: deployment.write("own.key", &issued.key_pem),
        ca: of_relays,
    };
    let mut args = vec!["agent".to_owned(), "--relay".to_owned(), relay.addr.to_string()];
    args.extend(tls_flags(&tls));
    args.extend(["--set", "backoff.initial=10ms", "--set", "backoff.max=20ms"].map(str::to_owned));
    let mut running = Running::start(&deployment, outrelay(&strs(&args)));
    let connections = || {
        let log = std::fs::read_to_string(&running.log).unwrap();
        log.lines().filter(|line| line.contains("session started")).count()
    };
    for n in 1..=3 {
        eventually("a session", || (connections() == n).then_some(())).await;
        relay.kill();
        if n < 3 {
            relay.start_again().await;
        }
    }
    let line = running.said(&["our certificate", "own.crt", "tls.ca", "/ca.crt"]).await;
    assert!(line.contains("INFO"), "{line}");
    let log = std::fs::read_to_string(&running.log).unwrap();
    assert_eq!(log.matches("our certificate").count(), 1, "{log}");
    let starts = relay.log().matches("credentials in use").count();
    assert_eq!(relay.log().matches("our certificate").count(), starts, "once for each process: {}", relay.log());
}

/// A relay of one CA and an agent of another, and each with the other's in its `tls.ca`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_distrusts_whom_is_said_with_the_files() {
    let deployment = Deployment::new();
    let other = Ca::generate().unwrap();
    let config = deployment.relay_config("r1", OPEN_WORLD);
    let mut relay = Program::start(&deployment, &config, &[]).await;
    let good = deployment.agent_tls(&agent(1));
    let foreign = other.agent(&agent(1)).unwrap();
    let (foreign_ca, foreign_cert, foreign_key) = (
        deployment.write("other-ca.crt", other.cert_pem()),
        deployment.write("foreign.crt", &foreign.cert_pem),
        deployment.write("foreign.key", &foreign.key_pem),
    );
    let start = |tls: &outrelay::config::types::Tls| {
        let mut args = vec!["agent".to_owned(), "--relay".to_owned(), relay.addr.to_string()];
        args.extend(tls_flags(tls));
        Running::start(&deployment, outrelay(&strs(&args)))
    };
    let with_foreign_cert =
        outrelay::config::types::Tls { cert: foreign_cert.clone(), key: foreign_key.clone(), ..good.clone() };
    let mut agent = start(&with_foreign_cert);
    // Before anything is dialled: it can be told from the files alone.
    agent.said(&["INFO", "our certificate", "foreign.crt", "tls.ca", "/ca.crt"]).await;
    agent.said(&["no session", "the relay refuses our certificate", "tls.cert", "foreign.crt", "UnknownCA"]).await;
    drop(agent);
    let with_foreign_ca = outrelay::config::types::Tls { ca: foreign_ca.clone(), ..good.clone() };
    let mut agent = start(&with_foreign_ca);
    agent
        .said(&["no session", "we do not trust the relay's certificate", "tls.ca", "other-ca.crt", "UnknownIssuer"])
        .await;
    drop(agent);
    relay.kill();

    let uri = RelayUri::new(&"acme".parse().unwrap(), &"r1".parse().unwrap());
    let issued = other.relay(&uri, &[]).unwrap();
    let mut args = relay_flags();
    args.extend(["--cert".to_owned(), deployment.write("r1-foreign.crt", &issued.cert_pem).display().to_string()]);
    args.extend(["--key".to_owned(), deployment.write("r1-foreign.key", &issued.key_pem).display().to_string()]);
    args.extend(["--ca".to_owned(), config.tls.ca.display().to_string()]);
    let mut relay = Running::start(&deployment, outrelay(&strs(&args)));
    relay.said(&["INFO", "our certificate", "r1-foreign.crt", "tls.ca", "/ca.crt"]).await;
}
