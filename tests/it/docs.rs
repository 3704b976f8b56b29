//! The documents say what the program does.

use std::collections::BTreeSet;
use std::process::Command;

use outrelay::relay::tree::KINDS;

const ACTORS: &str = include_str!("../../actors.md");
const ALERTS: &str = include_str!("../../config/alerts.yml");
const UNIT: &str = include_str!("../../config/outrelay-relay.service");
const COMPOSE: &str = include_str!("../../config/compose.yaml");

/// The first column of a table's rows, and the cells behind it.
fn rows<'a>(text: &'a str, header: &str) -> Vec<Vec<&'a str>> {
    let after = text.split_once(header).unwrap_or_else(|| panic!("no table {header}")).1;
    after
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

#[test]
fn actors_md_names_every_actor_of_the_tree_and_its_supervisor() {
    let listed: BTreeSet<(String, String)> = rows(ACTORS, "| actor | kind of its supervisor | file | its messages |")
        .iter()
        .map(|row| (row[0].to_owned(), row[1].replace('–', "")))
        .collect();
    let real: BTreeSet<_> = KINDS.iter().map(|(kind, under)| ((*kind).to_owned(), (*under).to_owned())).collect();
    assert_eq!(listed, real);
}

#[test]
fn actors_md_names_every_actor_of_the_agent() {
    let header = "| actor | kind of its supervisor | file | its messages | on crash or kill |";
    let listed: BTreeSet<(String, String)> =
        rows(ACTORS, header).iter().map(|row| (row[0].to_owned(), row[1].replace('–', ""))).collect();
    let kinds = outrelay::agent::tree::KINDS;
    let real: BTreeSet<_> = kinds.iter().map(|(kind, under)| ((*kind).to_owned(), (*under).to_owned())).collect();
    assert_eq!(listed, real);
}

#[test]
fn actors_md_says_what_every_death_costs() {
    let told: BTreeSet<_> =
        rows(ACTORS, "| actor | what happens | what a user sees |").iter().map(|row| row[0].to_owned()).collect();
    let real: BTreeSet<_> = KINDS.iter().map(|(kind, _)| (*kind).to_owned()).collect();
    assert_eq!(told, real);
}

#[tokio::test]
async fn the_tree_of_a_running_relay_has_the_kinds_of_the_table() {
    let deployment = crate::harness::Deployment::new();
    let relay = deployment.relay().await;
    let mut provider = deployment.peer(&relay, 1, &[]).await;
    provider.register("svc").await;
    let consumer = deployment.peer(&relay, 2, &[]).await;
    let (mut up, mut down) = crate::harness::pair(&consumer, &provider, 1).await;
    up.send.write_all(b"x").await.unwrap();
    crate::harness::take(&mut down.recv, 1).await;
    let _opening = consumer.open("svc", 2).await;
    let _asked = provider.incoming().await;
    let mut waits = consumer.fresh().await;
    let resume = outrelay::proto::orp::StreamResume { stream_id: 3, ..Default::default() };
    outrelay::net::framed::write_frame(&mut waits.send, &outrelay::core::frame::Frame::StreamResume(resume))
        .await
        .unwrap();
    let entry = || relay.tree().walk().any(|actor| actor.kind == "entry");
    crate::harness::eventually("a half waits", || entry().then_some(())).await;

    fn edges(report: &outrelay::supervise::report::Report, under: &str, all: &mut BTreeSet<(String, String)>) {
        all.insert((report.kind.clone(), under.to_owned()));
        for child in &report.children {
            edges(child, &report.kind, all);
        }
    }
    let mut live = BTreeSet::new();
    edges(&relay.tree(), "", &mut live);
    let table: BTreeSet<_> = KINDS.iter().map(|(kind, under)| ((*kind).to_owned(), (*under).to_owned())).collect();
    assert_eq!(live, table);
}

/// The longest pieces of `text` that consist of letters, digits and `extra`.
fn words<'a>(text: &'a str, extra: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(move |c: char| !c.is_ascii_alphanumeric() && !extra.contains(c)).filter(|word| !word.is_empty())
}

#[tokio::test]
async fn alerts_look_at_metrics_that_there_are() {
    let deployment = crate::harness::Deployment::new();
    let relay = deployment.relay().await;
    // What counts by label is shown once there is something to count.
    let consumer = deployment.peer(&relay, 2, &[]).await;
    crate::harness::rejection(&mut consumer.open("nowhere", 1).await).await;
    relay.inject("policy", outrelay::supervise::fault::Fault::Panic).await.unwrap();
    let restarted = || relay.tree().walk().any(|actor| actor.kind == "policy" && actor.restarts == 1);
    crate::harness::eventually("an actor was started again", || restarted().then_some(())).await;
    let text = crate::operate::get(relay.http_addr().unwrap(), "/metrics").await.1;
    let samples: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .flat_map(|(name, kind)| match kind {
            "counter" => vec![format!("{name}_total")],
            "histogram" => ["bucket", "count", "sum"].map(|part| format!("{name}_{part}")).into(),
            _ => vec![name.to_owned()],
        })
        .collect();
    let named: BTreeSet<_> = words(ALERTS, "_").filter(|word| word.starts_with("outrelay_")).collect();
    assert!(named.len() > 3, "{named:?}");
    for name in named {
        assert!(samples.contains(name), "{name} is not in {samples:#?}");
    }
}

/// The flags that `text` names.
fn flags(text: &str) -> BTreeSet<String> {
    words(text, "-").filter(|word| word.starts_with("--")).map(str::to_owned).collect()
}

/// The flags that `outrelay COMMAND` has.
fn flags_of(command: &[&str]) -> BTreeSet<String> {
    let help = Command::new(env!("CARGO_BIN_EXE_outrelay")).args(command).arg("--help").output().unwrap();
    flags(&String::from_utf8(help.stdout).unwrap())
}

#[test]
fn the_configuration_samples_name_flags_that_there_are() {
    let (relay, agent) = (include_str!("../../config/relay.toml"), include_str!("../../config/agent.toml"));
    for (sample, command, others) in [(relay, "relay", &["admin", "drain"][..]), (agent, "agent", &["admin"][..])] {
        let there_are = &flags_of(&[command]) | &flags_of(others);
        let named = flags(sample);
        assert!(named.len() > 3 && named.is_subset(&there_are), "{:?} of {command}", &named - &there_are);
    }
}

#[test]
fn the_configuration_sample_names_what_needs_a_restart() {
    let sample = include_str!("../../config/relay.toml");
    let (_, list) = sample.split_once("# These need a restart: ").unwrap();
    let list = list.replace("\n# ", " ");
    let named: BTreeSet<_> =
        list.split_once(". ").unwrap().0.split(", ").map(|key| key.trim_start_matches("and all of ")).collect();
    assert_eq!(named, BTreeSet::from(outrelay::config::reload::NEEDS_RESTART));
}

#[test]
fn the_unit_and_the_compose_file_name_flags_and_keys_that_there_are() {
    let there_are = flags_of(&["relay"]);
    let keys = toml::Table::try_from(outrelay::config::relay::RelayConfig::default()).unwrap();
    for text in [UNIT, COMPOSE] {
        let mut named = flags(text);
        // systemctl's.
        named.remove("--now");
        assert!(named.contains("--cert") && named.is_subset(&there_are), "{:?}", &named - &there_are);
        // `/` and `-` for paths, which may look like keys otherwise.
        for (table, key) in words(text, "_./-").filter_map(|word| word.trim_end_matches('.').split_once('.')) {
            let Some(table) = keys.get(table).and_then(toml::Value::as_table) else { continue };
            assert!(table.contains_key(key), "{key} is not in {table:?}");
        }
    }
    assert!(UNIT.contains("drain.deadline (30s)") && UNIT.contains("resume.fleet_key"));
}

/// A key of mode 0600 that root has made is not the relay's to read.
#[test]
fn the_unit_is_handed_each_credential_that_it_names() {
    let loaded: BTreeSet<_> =
        UNIT.lines().filter_map(|line| line.strip_prefix("LoadCredential=")?.split_once(':')).map(|it| it.0).collect();
    let used: BTreeSet<_> = words(UNIT, "%/._").filter_map(|word| word.strip_prefix("%d/")).collect();
    assert_eq!((loaded.len(), &loaded), (3, &used));
}
