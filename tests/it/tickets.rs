//! Resume tickets, seen from the wire (wire.md §9, `resume-ticket`): what a relay that never saw a stream learns from one, and
//! every ticket that is worth nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use outrelay::clock::now_unix_ms;
use outrelay::config::relay::RelayConfig;
use outrelay::core::frame::Frame;
use outrelay::core::ids::StreamId;
use outrelay::core::policy::{P2pMode, RelayMode};
use outrelay::core::reject::ResetCode;
use outrelay::core::ticket::keys::{FleetKey, FleetKeys, KeyId};
use outrelay::core::ticket::{TicketFacts, open, seal};
use outrelay::net::framed::{read_frame, write_frame};
use outrelay::net::stream::{BiStream, End};
use outrelay::proto::orp;
use outrelay::relay::Relay;
use outrelay::supervise::fault::Fault;

use crate::harness::{Deployment, OPEN_WORLD, Peer, agent, agent_of, asking_for, drain, eventually, pair, soon, take};

mod agents;
mod caps;
mod keys;

const OURS: &[&str] = &["resume-code", "fin-state", "resume-call", "resume-echo", "resume-ticket"];
const DENIED: End = End::Reset(ResetCode::DENIED);

/// Relays with a key file in common; they join no agents that prove nothing.
struct Fleet {
    deployment: Deployment,
    file: PathBuf,
}

impl Fleet {
    fn new() -> Self {
        let deployment = Deployment::new();
        let fleet = Self { file: deployment.dir.path().join("fleet.key"), deployment };
        fleet.write(&[1]);
        fleet
    }

    /// Keys with these ids, the newest first.
    fn write(&self, ids: &[u8]) {
        let lines: Vec<_> = ids.iter().map(|id| line(*id)).collect();
        self.write_text(&lines.join("\n"));
    }

    fn write_text(&self, text: &str) {
        std::fs::write(&self.file, text).unwrap();
        std::fs::set_permissions(&self.file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn config(&self, id: &str, rules: &str) -> RelayConfig {
        let mut config = self.deployment.relay_config(id, rules);
        config.resume.fleet_key = Some(self.file.clone());
        config.resume.allow_unproven = false;
        config
    }

    async fn relay(&self, id: &str) -> Site<'_> {
        self.relay_of(self.config(id, OPEN_WORLD)).await
    }

    async fn relay_of(&self, config: RelayConfig) -> Site<'_> {
        let relay = Relay::start(config).await.unwrap();
        let mut provider = self.deployment.peer(&relay, 1, OURS).await;
        provider.register("svc").await;
        let consumer = self.deployment.peer(&relay, 2, OURS).await;
        Site { fleet: self, relay, provider, consumer }
    }
}

fn line(id: u8) -> String {
    FleetKey::line(KeyId(id.into()), &[id; 32])
}

fn keys(id: u8) -> FleetKeys {
    FleetKeys::parse(&line(id)).unwrap()
}

/// A relay, and the two agents at it.
struct Site<'a> {
    fleet: &'a Fleet,
    relay: Relay,
    provider: Peer,
    consumer: Peer,
}

impl Site<'_> {
    /// A stream that has carried 5 bytes up; the ticket, which both agents have.
    async fn open(&mut self, id: u64) -> (BiStream, BiStream, Vec<u8>) {
        let (mut up, mut down) = pair(&self.consumer, &self.provider, id).await;
        up.send.write_all(b"12345").await.unwrap();
        take(&mut down.recv, 5).await;
        let tickets = [ticket_in_ready(&mut self.consumer, id).await, ticket_in_ready(&mut self.provider, id).await];
        assert_eq!(tickets[0], tickets[1]);
        let [ticket, _] = tickets;
        (up, down, ticket)
    }

    /// The ticket of a stream that is opened here.
    async fn ticket(&mut self, id: u64) -> Vec<u8> {
        self.open(id).await.2
    }

    async fn consumers(&self, id: u64, ticket: &[u8]) -> BiStream {
        half(&self.consumer, id, 5, 0, ticket).await
    }

    async fn providers(&self, id: u64, ticket: &[u8]) -> BiStream {
        half(&self.provider, id, 0, 5, ticket).await
    }

    async fn parked(&self, streams: usize) {
        eventually("halves wait", || (self.relay.vault().parking.len() == streams).then_some(())).await;
    }

    fn audit(&self) -> String {
        let file = self.relay.vault().config.get().directory.audit.clone().unwrap();
        std::fs::read_to_string(file).unwrap_or_default()
    }

    async fn audited(&self, what: &str) {
        eventually(what, || self.audit().contains(what).then_some(())).await;
    }
}

async fn ticket_in_ready(peer: &mut Peer, id: u64) -> Vec<u8> {
    match peer.hear().await {
        Frame::StreamReady(ready) if ready.stream_id == id => ready.ticket,
        other => panic!("{other:?} instead of STREAM_READY"),
    }
}

async fn half(peer: &Peer, id: u64, my_position: u64, peer_ack_position: u64, ticket: &[u8]) -> BiStream {
    let mut stream = peer.fresh().await;
    let frame = orp::StreamResume {
        stream_id: id,
        my_position,
        peer_ack_position,
        ticket: ticket.into(),
        ..Default::default()
    };
    write_frame(&mut stream.send, &Frame::StreamResume(frame)).await.unwrap();
    stream
}

/// Both halves have their echo, without a ticket, and bytes flow both ways behind it.
async fn flows(one: &mut BiStream, other: &mut BiStream) {
    for half in [&mut *one, &mut *other] {
        match soon("the echo", read_frame(&mut half.recv, 1 << 16)).await {
            Ok(Frame::StreamResume(echo)) => assert!(echo.ticket.is_empty(), "an echo never carries one"),
            other => panic!("not an echo: {other:?}"),
        }
    }
    one.send.write_all(b"up again").await.unwrap();
    assert_eq!(take(&mut other.recv, 8).await, b"up again");
    other.send.write_all(b"down again").await.unwrap();
    assert_eq!(take(&mut one.recv, 10).await, b"down again");
}

async fn is_denied(mut half: BiStream) {
    assert_eq!(drain(&mut half.recv).await.1, DENIED);
}

#[tokio::test]
async fn a_ticket_goes_to_agents_that_named_it_and_says_what_the_stream_is() {
    let fleet = Fleet::new();
    let mut site = fleet.relay("r1").await;
    let before = now_unix_ms();
    let facts = open(&keys(1), &site.ticket(7).await, now_unix_ms()).unwrap();
    let life = facts.expires_at_unix_ms - facts.issued_at_unix_ms;
    assert!((before..=now_unix_ms()).contains(&facts.issued_at_unix_ms) && life == 24 * 3_600_000);
    assert_eq!((facts.stream_id, &facts.consumer, &facts.provider), (StreamId(7), &agent(2), &agent(1)));
    assert_eq!((facts.target.as_str(), facts.p2p_mode, facts.relay_mode), ("svc", P2pMode::Allowed, RelayMode::Splice));

    let mut third = fleet.deployment.peer(&site.relay, 3, &["resume-code", "peer-caps"]).await;
    let _pair = pair(&third, &site.provider, 8).await;
    assert!(ticket_in_ready(&mut third, 8).await.is_empty());
    assert!(!ticket_in_ready(&mut site.provider, 8).await.is_empty());
    // Nor is a stream without an id worth one.
    let _pair = pair(&site.consumer, &site.provider, 0).await;
    assert!(ticket_in_ready(&mut site.provider, 0).await.is_empty());
}

#[tokio::test]
async fn one_ticket_on_either_half_is_enough_at_a_relay_that_never_saw_the_stream() {
    let fleet = Fleet::new();
    let mut first = fleet.relay("r1").await;
    let mut second = fleet.relay("r2").await;
    let mut id = 0;
    for consumer_first in [true, false] {
        for (consumers, providers) in [(true, false), (false, true), (true, true)] {
            id += 1;
            let ticket = first.ticket(id).await;
            let of = |shows: bool| if shows { ticket.as_slice() } else { &[] };
            let (mut one, mut other) = if consumer_first {
                let one = second.consumers(id, of(consumers)).await;
                second.parked(1).await;
                (one, second.providers(id, of(providers)).await)
            } else {
                let other = second.providers(id, of(providers)).await;
                second.parked(1).await;
                (second.consumers(id, of(consumers)).await, other)
            };
            flows(&mut one, &mut other).await;
            let known = second.relay.vault().streams.known(agent(1).tenant(), StreamId(id)).unwrap();
            assert_eq!((&known.parties.consumer, &known.parties.provider), (&agent(2), &agent(1)));
            assert_eq!(known.facts.unwrap().target, "svc");
        }
    }
    // What waits with a ticket has its partner called; and the rules were asked, once for each side.
    let ticket = first.ticket(99).await;
    let _half = second.consumers(99, &ticket).await;
    let wanted = async {
        loop {
            match second.provider.hear().await {
                Frame::ResumeWanted(wanted) if wanted.stream_id == 99 => break,
                Frame::ResumeWanted(_) | Frame::Ticket(_) => {}
                other => panic!("{other:?} instead of RESUME_WANTED"),
            }
        }
    };
    soon("RESUME_WANTED", wanted).await;
    let asked = |side: &str| second.audit().matches(&format!("\"side\":\"{side}\"")).count();
    eventually("the rules were asked", || (asked("caller") == 6 && asked("callee") == 6).then_some(())).await;
}

#[tokio::test]
async fn a_demotion_shows_a_ticket_as_a_resume_does() {
    let fleet = Fleet::new();
    let mut first = fleet.relay("r1").await;
    let second = fleet.relay("r2").await;
    let ticket = first.ticket(7).await;
    let demotion = |my_position, peer_ack_position, ticket: &[u8]| {
        Frame::MigrateToRelay(orp::MigrateToRelay {
            stream_id: 7,
            my_position,
            peer_ack_position,
            reason: "peer_close".into(),
            ticket: ticket.into(),
            ..Default::default()
        })
    };
    let (mut one, mut other) = (second.consumer.fresh().await, second.provider.fresh().await);
    write_frame(&mut one.send, &demotion(5, 0, &ticket)).await.unwrap();
    second.parked(1).await;
    let mut stranger = second.provider.fresh().await;
    write_frame(&mut stranger.send, &demotion(0, 5, &ticket[1..])).await.unwrap();
    is_denied(stranger).await;
    write_frame(&mut other.send, &demotion(0, 5, &[])).await.unwrap();
    flows(&mut one, &mut other).await;
}

#[tokio::test]
async fn without_a_ticket_no_stream_goes_on_at_a_relay_that_never_saw_it() {
    let fleet = Fleet::new();
    let mut first = fleet.relay("r1").await;
    let second = fleet.relay("r2").await;
    let ticket = first.ticket(7).await;
    let mut one = second.consumers(7, &[]).await;
    second.parked(1).await;
    is_denied(second.providers(7, &[]).await).await;
    // The half that waits goes on with whoever brings one. What is not named is not looked at.
    let deaf = fleet.deployment.peer(&second.relay, 1, &["resume-code", "fin-state"]).await;
    is_denied(half(&deaf, 7, 0, 5, &ticket).await).await;
    let mut other = second.providers(7, &ticket).await;
    flows(&mut one, &mut other).await;
}

#[tokio::test]
async fn a_ticket_that_is_worth_nothing_is_refused_and_disturbs_nothing() {
    let fleet = Fleet::new();
    let mut first = fleet.relay("r1").await;
    let ticket = first.ticket(7).await;
    let other_stream = first.ticket(8).await;
    let facts = open(&keys(1), &ticket, now_unix_ms()).unwrap();
    let sealed = |keys: &FleetKeys, facts: &TicketFacts| seal(keys, facts, [3; 24]).unwrap();
    let at = |from_ms: i64, until_ms: i64| {
        let now = now_unix_ms();
        let facts =
            TicketFacts { issued_at_unix_ms: now + from_ms, expires_at_unix_ms: now + until_ms, ..facts.clone() };
        sealed(&keys(1), &facts)
    };
    let mut forged = ticket.clone();
    *forged.last_mut().unwrap() ^= 1;
    let others = sealed(&keys(1), &TicketFacts { consumer: agent(3), provider: agent(4), ..facts.clone() });
    let worthless = [
        ("ticket_forged", forged),
        ("ticket_unknown_key", sealed(&keys(9), &facts)),
        ("ticket_expired", at(-3_600_000, -1)),
        ("ticket_not_yet_valid", at(3_600_000, 7_200_000)),
        ("ticket_other_stream", other_stream),
        ("ticket_truncated", ticket[..ticket.len() - 1].to_vec()),
        ("ticket_not_a_party", others),
    ];
    for allow_unproven in [false, true] {
        let mut config = fleet.config("r2", OPEN_WORLD);
        config.resume.allow_unproven = allow_unproven;
        let second = fleet.relay_of(config).await;
        let mut waits = second.consumers(7, &ticket).await;
        second.parked(1).await;
        for (name, worthless) in &worthless {
            if allow_unproven && *name == "ticket_unknown_key" {
                continue;
            }
            is_denied(second.providers(7, worthless).await).await;
            let metrics = second.relay.vault().metrics.render().unwrap();
            assert!(metrics.contains(&format!("outcome=\"{name}\"}} 1")), "{name} is counted: {metrics}");
        }
        // Somebody else with the right ticket: of this tenant, and of another.
        let third = fleet.deployment.peer(&second.relay, 3, OURS).await;
        is_denied(half(&third, 7, 0, 5, &ticket).await).await;
        let foreign = fleet.deployment.peer_as(&second.relay, &agent_of("beta", 1), OURS).await;
        is_denied(half(&foreign, 7, 0, 5, &ticket).await).await;
        let reasons = [
            "the ticket is forged",
            "the ticket has expired",
            "the ticket is not valid yet",
            "the ticket is that of another stream",
            "the ticket is not whole",
            "the ticket is that of two other agents",
            "the ticket is that of another tenant",
        ];
        for why in reasons {
            second.audited(why).await;
        }
        let mut comes = second.providers(7, &ticket).await;
        flows(&mut waits, &mut comes).await;
        second.relay.shutdown().await;
    }
}

#[tokio::test]
async fn a_ticket_under_a_lost_key_counts_as_none_where_none_is_needed() {
    let fleet = Fleet::new();
    let mut config = fleet.config("r1", OPEN_WORLD);
    config.resume.fleet_key = None;
    let mut first = fleet.relay_of(config.clone()).await;
    let ticket = first.ticket(7).await;
    // A relay with a key in memory, and one that takes its place.
    config.resume.allow_unproven = true;
    let second = fleet.relay_of(config).await;
    let mut one = second.consumers(7, &ticket).await;
    second.parked(1).await;
    let mut other = second.providers(7, &ticket).await;
    flows(&mut one, &mut other).await;
    second.audited("never saw it").await;
}

#[tokio::test]
async fn a_rule_that_denies_by_now_denies_the_resume_on_either_side() {
    let fleet = Fleet::new();
    let mut first = fleet.relay("r1").await;
    let ticket = first.ticket(7).await;
    let deny = |caller: &str, target: &str| {
        format!(
            "{OPEN_WORLD}[[rule]]\nid = \"no\"\ntenant = \"acme\"\ncaller = \"{caller}\"\ntarget = \"{target}\"\ndecision = \"deny\"\n"
        )
    };
    let callers = deny(agent(2).as_str(), "svc");
    let callees = deny(agent(1).as_str(), agent(2).as_str());
    // What a relay of splices alone does not do is not served by something weaker.
    let [forward, direct] = ["relay = \"forward\"", "p2p = \"required\""].map(asking_for);
    let all = [("caller", callers.as_str()), ("callee", callees.as_str()), ("caller", "")];
    for (side, rules) in all.into_iter().chain([("relay", forward.as_str()), ("relay", direct.as_str())]) {
        let second = fleet.relay_of(fleet.config("r2", rules)).await;
        let one = second.consumers(7, &ticket).await;
        second.parked(1).await;
        let other = second.providers(7, &ticket).await;
        is_denied(one).await;
        is_denied(other).await;
        second.parked(0).await;
        let denied = || {
            let audit = second.audit();
            audit.lines().any(|line| {
                line.contains(&format!("\"side\":\"{side}\"")) && line.contains("\"deny\"") && line.contains("\"7\"")
            })
        };
        eventually("the decision is audited", || denied().then_some(())).await;
        second.relay.shutdown().await;
        std::fs::remove_file(fleet.deployment.dir.path().join("r2-audit.jsonl")).unwrap();
    }
}

#[tokio::test]
async fn where_the_stream_is_known_a_worthless_ticket_of_its_own_agent_takes_nothing_from_it() {
    let fleet = Fleet::new();
    let mut site = fleet.relay("r1").await;
    let (mut up, mut down, ticket) = site.open(7).await;
    let mut forged = ticket.clone();
    forged[40] ^= 1;
    is_denied(site.consumers(7, &forged).await).await;
    up.send.write_all(b"on").await.unwrap();
    assert_eq!(take(&mut down.recv, 2).await, b"on", "the splice lives");
    site.relay.inject("splice:7", Fault::Kill).await.unwrap();
    drain(&mut down.recv).await;
    let mut one = half(&site.consumer, 7, 7, 0, &ticket).await;
    let mut other = half(&site.provider, 7, 0, 7, &ticket).await;
    flows(&mut one, &mut other).await;
}
