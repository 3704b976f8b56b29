//! The table of what becomes of a half, by who sends it and what is known.

use super::*;
use crate::core::reject::{RejectCode, ResetCode};

const ID: StreamId = StreamId(7);
const UNKNOWN: Known = Known::Nothing(Unproven::Allowed);

fn agent(tenant: &str, number: u8) -> AgentUri {
    let uuid = format!("00000000-0000-0000-0000-0000000000{number:02x}");
    AgentUri::new(&tenant.parse().unwrap(), &uuid).unwrap()
}

fn at(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn pairing() -> Pairing {
    Pairing::new("acme".parse().unwrap(), ID)
}

/// Agent `number`'s half `id`, which has written 100 and consumed 50.
fn half(id: u64, number: u8) -> Half {
    let fields = Fields { stream_id: ID, my_position: 100, peer_ack_position: 50, fin_sent: true, ..Fields::default() };
    let (origin, echo) = (Origin::Resume, Echo::PositionsAndFin);
    Half { id: HalfId(id), agent: agent("acme", number), fields, origin, echo }
}

/// The stream is that of agents 1 and 2.
fn parties() -> Known {
    Known::Parties(agent("acme", 1), agent("acme", 2))
}

fn matched(outcome: Outcome) -> (u64, u64, Proof) {
    match outcome {
        Outcome::Matched(pair) => (pair.first.id.0, pair.second.id.0, pair.proof),
        other => panic!("{other:?}"),
    }
}

/// A pairing in which agent 1's half 10 waits.
fn waiting(known: &Known) -> Pairing {
    let mut pairing = pairing();
    assert_eq!(pairing.on_half(half(10, 1), known, at(0)), Outcome::Parked);
    pairing
}

#[test]
fn two_halves_of_the_streams_agents_are_joined_and_told_each_others_numbers() {
    let mut pairing = waiting(&parties());
    let mut second = half(20, 2);
    second.fields.my_position = 70;
    let Outcome::Matched(pair) = pairing.on_half(second.clone(), &parties(), at(29)) else { panic!() };
    assert_eq!((pair.first.id, pair.second.id, pair.proof), (HalfId(10), HalfId(20), Proof::Parties));
    assert_eq!(pair.echoes(), (Some(second.fields), Some(half(10, 1).fields)));
    assert_eq!(pairing.waiting(), None);
}

#[test]
fn what_is_echoed_depends_on_how_the_half_came_and_what_its_agent_named() {
    use Named::{No, Yes};
    use Origin::{Demotion, Resume};
    for (origin, resume_echo, fin_state, echo) in [
        (Resume, No, No, Echo::Positions),
        (Resume, Yes, No, Echo::Positions),
        (Resume, No, Yes, Echo::PositionsAndFin),
        (Demotion, No, No, Echo::Nothing),
        (Demotion, No, Yes, Echo::Nothing),
        (Demotion, Yes, No, Echo::Positions),
        (Demotion, Yes, Yes, Echo::PositionsAndFin),
    ] {
        assert_eq!(Echo::of(origin, resume_echo, fin_state), echo);
        let mut first = half(1, 1);
        first.echo = echo;
        let pair = Match { first, second: half(2, 2), proof: Proof::Parties };
        let told = match echo {
            Echo::Nothing => None,
            Echo::Positions => Some(half(2, 2).fields.without_fin()),
            Echo::PositionsAndFin => Some(half(2, 2).fields),
        };
        assert_eq!(pair.echoes().0, told);
    }
}

#[test]
fn a_newer_half_of_the_same_agent_replaces_the_older_and_has_its_own_window() {
    let mut pairing = waiting(&parties());
    let replaced = Outcome::ParkedInsteadOf(half(10, 1), Refusal::Replaced);
    assert_eq!(pairing.on_half(half(11, 1), &parties(), at(20)), replaced);
    assert_eq!(pairing.window_ends_at(), Some(at(50)));
    assert!(!pairing.on_lost(HalfId(10)), "the old one's end says nothing of the new one");
    assert_eq!(pairing.on_time(at(49)), None);
    assert_eq!(matched(pairing.on_half(half(20, 2), &parties(), at(49))), (11, 20, Proof::Parties));
}

#[test]
fn a_half_without_a_partner_is_ended_after_30_s() {
    let mut pairing = waiting(&parties());
    assert_eq!(pairing.on_time(at(29)), None);
    assert_eq!(pairing.on_time(at(30)), Some(half(10, 1)));
    assert_eq!((pairing.on_time(at(60)), pairing.window_ends_at()), (None, None));
}

#[test]
fn a_half_whose_stream_ends_does_not_wait_any_more() {
    let mut pairing = waiting(&parties());
    assert!(pairing.on_lost(HalfId(10)));
    assert!(!pairing.on_lost(HalfId(10)));
    assert_eq!(pairing.on_half(half(20, 2), &parties(), at(0)), Outcome::Parked);
}

#[test]
fn who_is_not_a_party_is_refused_and_the_one_that_waits_goes_on_waiting() {
    let mut pairing = waiting(&parties());
    let stranger = half(30, 3);
    for known in [parties(), UNKNOWN] {
        let refused = Outcome::Refused(stranger.clone(), Refusal::NotAParty);
        assert_eq!(pairing.on_half(stranger.clone(), &known, at(0)), refused);
    }
    assert_eq!(matched(pairing.on_half(half(20, 2), &parties(), at(0))), (10, 20, Proof::Parties));
}

#[test]
fn one_proof_covers_both_halves_whichever_came_with_it() {
    let off = Known::Nothing(Unproven::Off);
    for (first, second) in [(&parties(), &off), (&off, &parties())] {
        let mut pairing = waiting(first);
        assert_eq!(matched(pairing.on_half(half(20, 2), second, at(0))), (10, 20, Proof::Parties));
    }
}

#[test]
fn a_proof_outlasts_the_half_that_brought_it_if_the_same_agent_comes_again() {
    let mut pairing = waiting(&parties());
    let off = Known::Nothing(Unproven::Off);
    assert!(matches!(pairing.on_half(half(11, 1), &off, at(0)), Outcome::ParkedInsteadOf(..)));
    assert_eq!(matched(pairing.on_half(half(20, 2), &off, at(0))), (11, 20, Proof::Parties));
}

#[test]
fn a_party_takes_the_place_of_a_stranger_that_could_not_be_told_before() {
    let mut pairing = pairing();
    assert_eq!(pairing.on_half(half(30, 3), &UNKNOWN, at(0)), Outcome::Parked);
    let evicted = Outcome::ParkedInsteadOf(half(30, 3), Refusal::NotAParty);
    assert_eq!(pairing.on_half(half(20, 2), &parties(), at(10)), evicted);
    assert_eq!(pairing.window_ends_at(), Some(at(40)));
}

#[test]
fn two_unproven_halves_are_joined_only_if_the_configuration_and_a_rule_allow_it() {
    for (unproven, refusal) in [(Unproven::Off, Refusal::Unproven), (Unproven::NoRule, Refusal::NoRule)] {
        let known = Known::Nothing(unproven);
        let mut pairing = waiting(&known);
        let refused = Outcome::Refused(half(20, 2), refusal);
        assert_eq!(pairing.on_half(half(20, 2), &known, at(0)), refused);
        assert_eq!(pairing.waiting(), Some(&half(10, 1)));
    }
    let mut pairing = waiting(&UNKNOWN);
    assert_eq!(matched(pairing.on_half(half(20, 2), &UNKNOWN, at(0))), (10, 20, Proof::Rule));
}

#[test]
fn tenants_and_streams_do_not_meet() {
    let mut pairing = waiting(&UNKNOWN);
    let mut foreign = half(20, 2);
    foreign.agent = agent("umbrella", 2);
    let mut other = half(20, 2);
    other.fields.stream_id = StreamId(8);
    for (half, refusal) in [(foreign, Refusal::OtherTenant), (other, Refusal::OtherStream)] {
        assert_eq!(pairing.on_half(half.clone(), &UNKNOWN, at(0)), Outcome::Refused(half, refusal));
    }
    let mut nameless = half(20, 2);
    nameless.fields.stream_id = StreamId(0);
    let refused = Outcome::Refused(nameless.clone(), Refusal::NoStreamId);
    let mut pairing = Pairing::new("acme".parse().unwrap(), StreamId(0));
    assert_eq!(pairing.on_half(nameless, &UNKNOWN, at(0)), refused);
}

#[test]
fn halves_that_acknowledge_what_was_not_written_are_both_refused() {
    let mut greedy = half(20, 2);
    greedy.fields.peer_ack_position = 101;
    let mut short = half(20, 2);
    short.fields.my_position = 49;
    for second in [greedy, short] {
        let mut pairing = waiting(&parties());
        let both = Box::new([half(10, 1), second.clone()]);
        let refused = Outcome::BothRefused(both, Refusal::PositionsDoNotFit);
        assert_eq!(pairing.on_half(second, &parties(), at(0)), refused);
        assert_eq!(pairing.waiting(), None);
    }
}

#[test]
fn every_refusal_has_its_own_words_and_a_code() {
    let mut seen = std::collections::BTreeSet::new();
    for refusal in Refusal::ALL {
        assert!(seen.insert(refusal.reason()) && seen.insert(refusal.name()));
        assert_eq!(refusal.reject().reason, refusal.to_string());
    }
    assert_eq!(seen.len(), 2 * Refusal::ALL.len());
    assert_eq!(Refusal::NotAParty.reject().code, RejectCode::Denied);
    for refusal in [Refusal::Replaced, Refusal::PositionsDoNotFit] {
        assert_eq!(refusal.reset(), ResetCode::RESUMABLE, "an older half may have come late");
    }
    assert_eq!(Refusal::WindowOver.reset(), ResetCode::NOT_RESUMABLE);
}
