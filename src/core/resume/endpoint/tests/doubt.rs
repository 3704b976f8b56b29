//! A FIN from a legacy relay, and the partner's word on it.

use super::*;

/// Has consumed 10 bytes and read a FIN at 1000 ms, after these words of the partner.
fn doubtful(words: &[(u64, u64)]) -> Endpoint {
    let mut endpoint = legacy();
    endpoint.consumed(Epoch::FIRST, 10, at(0)).unwrap();
    for (my_position, ms) in words {
        endpoint.on_checkpoint(&said(*my_position, 0), at(*ms)).unwrap();
    }
    endpoint
}

fn doubt(endpoint: &Endpoint, ms: u64) -> DoubtfulFin {
    endpoint.doubt_fin(at(1000), at(ms))
}

const SETTLED: DoubtfulFin = DoubtfulFin::Settled;

fn until(ms: u64) -> DoubtfulFin {
    DoubtfulFin::Until(at(ms))
}

#[test]
fn who_says_nothing_had_none_to_send() {
    let silent = doubtful(&[]);
    assert_eq!((doubt(&silent, 1000), doubt(&silent, 1300)), (until(1300), SETTLED));
}

#[test]
fn a_word_behind_the_fin_settles_it_at_once() {
    let mut all = doubtful(&[(10, 100), (10, 1001)]);
    assert_eq!(doubt(&all, 1001), SETTLED);
    assert_eq!(all.fin_read(Epoch::FIRST, at(1001)), Ok(FinRead::End));
    let mut more = doubtful(&[(10, 100), (15, 1050)]);
    assert_eq!(doubt(&more, 1050), SETTLED);
    assert_eq!(more.fin_read(Epoch::FIRST, at(1050)), Ok(FinRead::Cut { missing: 5 }));
}

#[test]
fn a_word_just_before_the_fin_counts_unless_more_is_said_behind_it() {
    let mut endpoint = doubtful(&[(10, 700)]);
    assert_eq!((doubt(&endpoint, 1000), doubt(&endpoint, 1150)), (until(1150), SETTLED));
    endpoint.on_checkpoint(&said(15, 0), at(1100)).unwrap();
    assert_eq!(endpoint.fin_read(Epoch::FIRST, at(1100)), Ok(FinRead::Cut { missing: 5 }));
}

#[test]
fn a_word_that_was_ahead_of_the_bytes_counts_from_when_they_came() {
    let mut endpoint = legacy();
    for ms in [100, 200, 300] {
        endpoint.on_checkpoint(&said(10, 0), at(ms)).unwrap();
    }
    endpoint.consumed(Epoch::FIRST, 10, at(990)).unwrap();
    assert_eq!((doubt(&endpoint, 1000), doubt(&endpoint, 1150)), (until(1150), SETTLED));
}

#[test]
fn an_echo_is_no_word_on_the_end_of_its_path() {
    let mut endpoint = doubtful(&[(10, 100), (10, 200), (10, 300)]);
    endpoint.freeze(at(400)).unwrap();
    endpoint.on_echo(&said(10, 0), at(900)).unwrap();
    assert_eq!((doubt(&endpoint, 1000), doubt(&endpoint, 1300)), (until(1300), DoubtfulFin::Cut));
    endpoint.on_checkpoint(&said(10, 0), at(1100)).unwrap();
    assert_eq!(doubt(&endpoint, 1100), SETTLED);
}

#[test]
fn who_has_not_reported_all_that_came_and_does_not_has_not_ended() {
    let behind = doubtful(&[(5, 999)]);
    assert_eq!((doubt(&behind, 1000), doubt(&behind, 1300)), (until(1300), DoubtfulFin::Cut));
}

#[test]
fn an_old_word_is_the_last_of_who_reports_changes_but_not_of_who_reports_ends() {
    let old = doubtful(&[(10, 100), (10, 200)]);
    assert_eq!((doubt(&old, 1000), doubt(&old, 1300)), (until(1300), SETTLED));
    let ours = doubtful(&[(10, 100), (10, 200), (10, 300)]);
    assert_eq!((doubt(&ours, 1000), doubt(&ours, 1300)), (until(1300), DoubtfulFin::Cut));
}

#[test]
fn what_is_said_anew_on_another_path_is_not_said_again() {
    let mut endpoint = doubtful(&[(10, 100), (10, 200)]);
    resumed(&mut endpoint, said(10, 0));
    endpoint.on_checkpoint(&said(10, 0), at(300)).unwrap();
    assert_eq!(doubt(&endpoint, 1300), SETTLED);
}

#[test]
fn an_agent_of_ours_makes_itself_known_to_who_may_be_legacy() {
    let mut ours = legacy();
    write(&mut ours, Epoch::FIRST, 10);
    let mut partner = legacy();
    partner.consumed(Epoch::FIRST, 10, at(0)).unwrap();
    for ms in [100, 200, 300] {
        assert_eq!(ours.wake_at(), Some(at(ms)));
        partner.on_checkpoint(&ours.checkpoint(at(ms)).unwrap(), at(ms)).unwrap();
    }
    assert_eq!((ours.wake_at(), ours.checkpoint(at(9999))), (None, None));
    assert_eq!(doubt(&partner, 1300), DoubtfulFin::Cut);
    end(&mut ours, Epoch::FIRST);
    partner.on_checkpoint(&ours.checkpoint(at(1000)).unwrap(), at(1000)).unwrap();
    assert_eq!(doubt(&partner, 1000), SETTLED, "it reports that it ends");
}
