//! The key file changes while streams live; and tickets that grow old.

use std::time::Duration;

use outrelay::supervise::node::Status;

use super::*;

fn newest(site: &Site<'_>) -> KeyId {
    site.relay.vault().tickets.keys().newest().id()
}

impl Site<'_> {
    /// Has the key file read again, until this is the newest key.
    async fn reads(&self, ids: &[u8], newest_id: u8) {
        self.fleet.write(ids);
        self.relay.reload();
        let wanted: Vec<_> = ids.iter().map(|id| KeyId((*id).into())).collect();
        let is_read = || self.relay.vault().tickets.keys().ids().eq(wanted.iter().copied());
        eventually("the keys are in use", || is_read().then_some(())).await;
        assert_eq!(newest(self), KeyId(newest_id.into()));
    }
}

fn key_id(ticket: &[u8]) -> u8 {
    ticket[4]
}

#[tokio::test]
async fn a_key_is_replaced_while_streams_live_and_none_of_them_is_refused() {
    let fleet = Fleet::new();
    let mut first = fleet.relay("r1").await;
    let second = fleet.relay("r2").await;
    let (mut up, mut down, old) = first.open(7).await;
    assert_eq!(key_id(&old), 1);

    // First everywhere as one that opens, then as the one that seals.
    first.reads(&[1, 2], 1).await;
    second.reads(&[1, 2], 1).await;
    first.reads(&[2, 1], 2).await;
    let new = first.ticket(8).await;
    assert_eq!(key_id(&new), 2);
    for (id, ticket) in [(7, &old), (8, &new)] {
        let mut one = second.consumers(id, ticket).await;
        let mut other = second.providers(id, ticket).await;
        flows(&mut one, &mut other).await;
    }

    // The old key is taken away too early: the stream has not noticed, and goes on where it is known.
    first.reads(&[2], 2).await;
    let third = fleet.relay("r3").await;
    is_denied(third.consumers(7, &old).await).await;
    up.send.write_all(b"on").await.unwrap();
    assert_eq!(take(&mut down.recv, 2).await, b"on");
    first.relay.inject("splice:7", Fault::Kill).await.unwrap();
    drain(&mut down.recv).await;
    let mut one = half(&first.consumer, 7, 7, 0, &old).await;
    let mut other = half(&first.provider, 7, 0, 7, &old).await;
    flows(&mut one, &mut other).await;
}

#[tokio::test]
async fn a_bad_key_file_leaves_the_old_keys_in_use_and_is_fatal_only_at_the_start() {
    let fleet = Fleet::new();
    let mut site = fleet.relay("r1").await;
    let read_at = || site.relay.tree().walk().find(|actor| actor.kind == "credentials").unwrap().restarts;
    let before = read_at();
    fleet.write_text("# nothing\nnonsense\n");
    site.relay.reload();
    // A start reads the file, too: once it runs again, the file was read for sure.
    site.relay.inject("credentials", Fault::Kill).await.unwrap();
    eventually("it runs again", || (read_at() > before).then_some(())).await;
    let kind =
        |actor: &outrelay::supervise::report::Report| actor.kind == "credentials" && actor.status == Status::Running;
    eventually("it has read", || site.relay.tree().walk().any(kind).then_some(())).await;
    assert_eq!(newest(&site), KeyId(1));
    assert_eq!(key_id(&site.ticket(7).await), 1);

    let error = anyhow::Error::new(Relay::start(fleet.config("r2", OPEN_WORLD)).await.unwrap_err());
    assert!(format!("{error:#}").contains("fleet.key: line 2: "), "{error:#}");
    fleet.write(&[1]);
    std::fs::set_permissions(&fleet.file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = anyhow::Error::new(Relay::start(fleet.config("r2", OPEN_WORLD)).await.unwrap_err());
    assert!(format!("{error:#}").contains("mode 0644"), "{error:#}");
    std::fs::remove_file(&fleet.file).unwrap();
    let made = fleet.relay("r2").await;
    assert_eq!(std::fs::metadata(&fleet.file).unwrap().permissions().mode() & 0o777, 0o600);
    let ids: Vec<_> = FleetKeys::parse(&std::fs::read_to_string(&fleet.file).unwrap()).unwrap().ids().collect();
    assert_eq!(ids, [newest(&made)]);
}

/// The next TICKET.
async fn renewed(peer: &mut Peer, id: u64) -> Vec<u8> {
    loop {
        match peer.hear().await {
            Frame::Ticket(ticket) if ticket.stream_id == id => return ticket.ticket,
            Frame::ResumeWanted(_) => {}
            other => panic!("{other:?} instead of TICKET"),
        }
    }
}

#[tokio::test]
async fn a_ticket_is_renewed_at_half_its_life_for_both_agents_and_at_whichever_relay_carries_the_stream() {
    let fleet = Fleet::new();
    let config = |id: &str| {
        let mut config = fleet.config(id, OPEN_WORLD);
        config.resume.ticket_life = Duration::from_secs(4);
        config
    };
    let mut first = fleet.relay_of(config("r1")).await;
    let mut second = fleet.relay_of(config("r2")).await;
    let (_up, _down, oldest) = first.open(7).await;
    let mut last = oldest.clone();
    for _ in 0..2 {
        last = renewed(&mut first.consumer, 7).await;
        assert_eq!(last, renewed(&mut first.provider, 7).await);
        let facts = open(&keys(1), &last, now_unix_ms()).unwrap();
        assert_eq!(facts.expires_at_unix_ms - facts.issued_at_unix_ms, 4_000);
    }
    // Two halves of a life have passed.
    is_denied(second.consumers(7, &oldest).await).await;
    let mut one = second.consumers(7, &last).await;
    let mut other = second.providers(7, &last).await;
    flows(&mut one, &mut other).await;
    let at_second = renewed(&mut second.consumer, 7).await;
    assert!(open(&keys(1), &at_second, now_unix_ms()).is_ok());
}

#[tokio::test]
async fn another_file_of_keys_or_none_is_taken_as_at_the_start_and_one_that_is_gone_changes_nothing() {
    let fleet = Fleet::new();
    let mut site = fleet.relay("r1").await;
    let goes_on_with = |file: Option<PathBuf>| {
        let mut config = fleet.config("r1", OPEN_WORLD);
        config.resume.fleet_key = file;
        assert_eq!(site.relay.configure(&config).unwrap().applied, ["resume.fleet_key"]);
    };
    let tickets = &site.relay.vault().tickets;
    assert!(tickets.endpoint_has_newest());

    goes_on_with(None);
    eventually("a key in memory is in use", || tickets.are_of(None).then_some(())).await;
    let in_memory = newest(&site);
    assert_ne!(in_memory, KeyId(1));
    assert!(!tickets.endpoint_has_newest(), "resets are those of the start");

    let other = fleet.deployment.dir.path().join("other.key");
    goes_on_with(Some(other.clone()));
    eventually("the other file is made", || tickets.are_of(Some(&other)).then_some(())).await;
    let written = FleetKeys::parse(&std::fs::read_to_string(&other).unwrap()).unwrap();
    assert_eq!(newest(&site), written.newest().id());

    std::fs::remove_file(&other).unwrap();
    site.relay.inject("credentials", Fault::Kill).await.unwrap();
    let is_back = |actor: &outrelay::supervise::report::Report| {
        actor.kind == "credentials" && actor.restarts == 1 && actor.status == Status::Running
    };
    eventually("it has read again", || site.relay.tree().walk().any(is_back).then_some(())).await;
    assert_eq!(newest(&site), written.newest().id());
    assert!(!other.exists());
    site.ticket(7).await;

    let config = fleet.config("r1", OPEN_WORLD);
    site.relay.configure(&config).unwrap();
    eventually("the first file is in use again", || (newest(&site) == KeyId(1)).then_some(())).await;
    assert!(site.relay.vault().tickets.endpoint_has_newest());
}
