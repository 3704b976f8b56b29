//! The documents say what the program does.

use std::collections::BTreeSet;

use outrelay::relay::tree::KINDS;

const ACTORS: &str = include_str!("../../actors.md");

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
