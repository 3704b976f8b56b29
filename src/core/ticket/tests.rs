//! Tickets as their bytes, and everything that is refused.

use proptest::prelude::*;

use super::keys::{FleetKey, KEY_BYTES};
use super::*;

const NOW: i64 = 1_700_000_000_000;
const HOUR: i64 = 3_600_000;
const NONCE: [u8; NONCE_BYTES] = [9; NONCE_BYTES];

fn agent(tenant: &str, n: u8) -> AgentUri {
    format!("outrelay://{tenant}/agent/00000000-0000-4000-8000-0000000000{n:02x}").parse().unwrap()
}

fn key(id: u32, byte: u8) -> FleetKey {
    FleetKey::new(KeyId(id), &[byte; KEY_BYTES])
}

fn keys() -> FleetKeys {
    FleetKeys::of(key(0x0102_0304, 5))
}

fn facts() -> TicketFacts {
    TicketFacts {
        stream_id: StreamId(0x1122_3344_5566_7788),
        consumer: agent("acme", 1),
        provider: agent("acme", 2),
        target: "svc".into(),
        method: "GET".into(),
        p2p_mode: P2pMode::Required,
        relay_mode: RelayMode::Splice,
        issued_at_unix_ms: NOW,
        expires_at_unix_ms: NOW + 24 * HOUR,
    }
}

fn sealed(facts: &TicketFacts) -> Vec<u8> {
    seal(&keys(), facts, NONCE).unwrap()
}

#[test]
fn what_was_sealed_is_what_is_opened() {
    assert_eq!(open(&keys(), &sealed(&facts()), NOW).unwrap(), facts());
}

#[test]
fn the_layout_is_what_the_documentation_says() {
    let ticket = sealed(&facts());
    let plain_len = 3 * 8 + 2 + (1 + 4) + 72 + (1 + 3) + (1 + 3);
    assert_eq!(ticket.len(), 7 + 24 + plain_len + 16);
    assert_eq!(&ticket[..7], [1, 1, 2, 3, 4, 0, 111], "version, key id, length");
    assert_eq!(ticket[7..31], NONCE);
    let golden = "11223344556677880000018bcfe568000000018bd50bc4000200\
                  0461636d65\
                  30303030303030302d303030302d343030302d383030302d303030303030303030303031\
                  30303030303030302d303030302d343030302d383030302d303030303030303030303032\
                  0373766303474554";
    let hex: String = facts::encode(&facts()).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden);
    // Computed once with another implementation of the cipher: what relays of a fleet agree on must not move.
    let hex: String = ticket[31..].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, GOLDEN_SEALED);
}

const GOLDEN_SEALED: &str = "6242aa357003fbdd77bfc1f14e44f35db26d2a5ff4c9e3d52058b26aec1af52e7ceea19619e106da1f634b9f85829257\
    88cc7418e3d105c6680751e2078cfb58224bb4b8de3c5766fc43fe75a0fea772d54733801b4a05efcc8b2d9ad53c2557\
    89d196164011e9137d71c412e24e5c97d0e8201dde32b3ad0400e3dd9b79b5";

#[test]
fn the_longest_ticket_is_as_long_as_stated() {
    let tenant = "t".repeat(63);
    let longest = TicketFacts {
        consumer: agent(&tenant, 1),
        provider: agent(&tenant, 2),
        target: "s".repeat(255),
        method: "m".repeat(255),
        ..facts()
    };
    let ticket = sealed(&longest);
    assert_eq!((ticket.len(), MAX_BYTES), (MAX_BYTES, 721));
    assert_eq!(open(&keys(), &ticket, NOW).unwrap(), longest);
    let long = TicketFacts { method: "m".repeat(256), ..facts() };
    assert_eq!(seal(&keys(), &long, NONCE), Err(SealError::TooLong("method")));
}

#[test]
fn there_is_no_ticket_across_tenants() {
    let across = TicketFacts { provider: agent("beta", 2), ..facts() };
    assert_eq!(seal(&keys(), &across, NONCE), Err(SealError::TwoTenants));
}

#[test]
fn every_flipped_bit_is_refused() {
    let ticket = sealed(&facts());
    for at in 0..ticket.len() {
        for bit in 0..8 {
            let mut flipped = ticket.clone();
            flipped[at] ^= 1 << bit;
            let error = open(&keys(), &flipped, NOW).unwrap_err();
            let expected = match at {
                0 => TicketError::UnknownVersion,
                1..5 => TicketError::UnknownKey,
                5..7 => TicketError::Truncated,
                _ => TicketError::Forged,
            };
            assert_eq!(error, expected, "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn a_key_id_that_is_ours_on_a_ticket_of_another_key_is_no_help() {
    let two = FleetKeys::parse(&[line(1, 5), line(2, 6)].join("\n")).unwrap();
    let mut ticket = seal(&FleetKeys::of(key(1, 5)), &facts(), NONCE).unwrap();
    assert!(open(&two, &ticket, NOW).is_ok());
    ticket[4] = 2;
    assert_eq!(open(&two, &ticket, NOW), Err(TicketError::Forged));
}

fn line(id: u32, byte: u8) -> String {
    FleetKey::line(KeyId(id), &[byte; KEY_BYTES])
}

#[test]
fn too_short_and_too_long_is_truncated() {
    let ticket = sealed(&facts());
    for len in 0..ticket.len() {
        assert_eq!(open(&keys(), &ticket[..len], NOW), Err(TicketError::Truncated), "{len} bytes");
    }
    assert_eq!(open(&keys(), &[&ticket[..], &[0]].concat(), NOW), Err(TicketError::Truncated));
}

#[test]
fn a_ticket_is_worth_something_from_a_little_before_its_issue_to_its_end() {
    let ticket = sealed(&facts());
    let at = |now| open(&keys(), &ticket, now).err();
    assert_eq!(at(NOW - SKEW_MS - 1), Some(TicketError::NotYetValid));
    assert_eq!(at(NOW - SKEW_MS), None);
    assert_eq!(at(NOW + 24 * HOUR - 1), None);
    assert_eq!(at(NOW + 24 * HOUR), Some(TicketError::Expired));
    assert_eq!(at(i64::MAX), Some(TicketError::Expired));
    assert_eq!(at(i64::MIN), Some(TicketError::NotYetValid));
}

#[test]
fn the_newest_key_seals_and_an_older_one_opens_until_it_is_taken_away() {
    let old = FleetKeys::parse(&line(1, 5)).unwrap();
    let both = FleetKeys::parse(&[line(2, 6), line(1, 5)].join("\n")).unwrap();
    let new = FleetKeys::parse(&line(2, 6)).unwrap();
    let (before, after) = (seal(&old, &facts(), NONCE).unwrap(), seal(&both, &facts(), NONCE).unwrap());
    assert!(open(&both, &before, NOW).is_ok() && open(&both, &after, NOW).is_ok() && open(&new, &after, NOW).is_ok());
    assert_eq!(open(&new, &before, NOW), Err(TicketError::UnknownKey));
    assert_eq!(open(&old, &after, NOW), Err(TicketError::UnknownKey));
}

#[test]
fn who_else_may_come_with_a_ticket_is_told_apart() {
    let facts = facts();
    let admits = |id: u64, agent: &AgentUri| facts.admits(StreamId(id), agent).err();
    assert_eq!(admits(facts.stream_id.0, &agent("acme", 1)), None);
    assert_eq!(admits(facts.stream_id.0, &agent("acme", 2)), None);
    assert_eq!(admits(7, &agent("acme", 1)), Some(TicketError::OtherStream));
    assert_eq!(admits(facts.stream_id.0, &agent("acme", 3)), Some(TicketError::NotAParty));
    assert_eq!(admits(facts.stream_id.0, &agent("beta", 1)), Some(TicketError::OtherTenant));
}

#[test]
fn content_that_cannot_be_read_is_refused() {
    let plain = facts::encode(&facts()).unwrap();
    for len in 0..plain.len() {
        assert_eq!(facts::decode(&plain[..len]), None, "{len} bytes");
    }
    assert_eq!(facts::decode(&[&plain[..], &[0]].concat()), None);
    let with = |at: usize, byte| {
        let mut changed = plain.clone();
        changed[at] = byte;
        facts::decode(&changed)
    };
    assert!(with(7, 0).is_some(), "another stream id can be read");
    assert_eq!(with(24, 3), None, "no such p2p mode");
    assert_eq!(with(25, 2), None, "no such relay mode");
    assert_eq!(with(27, b'A'), None, "no such tenant");
    assert_eq!(with(31, b'x'), None, "no UUID");
}

#[test]
fn every_error_has_its_own_name_and_its_own_words() {
    for (at, one) in TicketError::ALL.iter().enumerate() {
        for other in &TicketError::ALL[at + 1..] {
            assert!(one.name() != other.name() && one.reason() != other.reason());
        }
    }
}

prop_compose! {
    fn any_facts()(
        id: u64, issued in 0..NOW, life in 1..48 * HOUR, tenant in "[a-z0-9][a-z0-9-]{0,62}", consumer: u8, provider: u8,
        target in "[A-Za-z0-9._/-]{0,255}", method in "\\PC{0,60}", p2p in 0_u32..3, relay in 0_u32..2,
    ) -> TicketFacts {
        TicketFacts {
            stream_id: StreamId(id),
            consumer: agent(&tenant, consumer),
            provider: agent(&tenant, provider),
            target,
            method,
            p2p_mode: P2pMode::from_code(p2p).unwrap(),
            relay_mode: RelayMode::from_code(relay).unwrap(),
            issued_at_unix_ms: issued,
            expires_at_unix_ms: NOW + life,
        }
    }
}

proptest! {
    #[test]
    fn any_facts_come_back_and_are_bounded(facts in any_facts(), nonce: [u8; NONCE_BYTES]) {
        let ticket = seal(&keys(), &facts, nonce).unwrap();
        prop_assert!(ticket.len() <= MAX_BYTES);
        prop_assert_eq!(open(&keys(), &ticket, NOW).unwrap(), facts);
    }

    #[test]
    fn any_changed_ticket_is_refused(facts in any_facts(), nonce: [u8; NONCE_BYTES], at: prop::sample::Index, by in 1_u8..) {
        let mut ticket = seal(&keys(), &facts, nonce).unwrap();
        let at = at.index(ticket.len());
        ticket[at] ^= by;
        prop_assert!(open(&keys(), &ticket, NOW).is_err());
    }

    #[test]
    fn noise_is_refused_and_never_a_panic(noise: Vec<u8>, now: i64) {
        prop_assert!(open(&keys(), &noise, now).is_err());
        facts::decode(&noise);
    }
}
