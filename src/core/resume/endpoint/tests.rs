//! An endpoint at the edges: what counts, what is refused, and when what is due. Long random lives are the model's.

mod doubt;
mod rate;

use super::*;
use crate::core::ring::{Allowance, NotHeld, RingLimits};

const ID: StreamId = StreamId(7);
const RING: usize = 1000;

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn of(peer: PeerKind, stream_id: StreamId) -> Endpoint {
    let limits = RingLimits { min: RING, max: RING };
    Endpoint::new(stream_id, peer, Ring::new(limits, &Allowance::default()))
}

fn ours() -> Endpoint {
    of(PeerKind::FinState, ID)
}

fn legacy() -> Endpoint {
    of(PeerKind::Legacy, ID)
}

fn said(my_position: u64, peer_ack_position: u64) -> Fields {
    Fields { stream_id: ID, my_position, peer_ack_position, ..Fields::default() }
}

fn bytes(len: usize) -> Bytes {
    Bytes::from(vec![1; len])
}

/// Takes and writes.
fn write(endpoint: &mut Endpoint, epoch: Epoch, len: usize) {
    assert_eq!(endpoint.take(epoch, bytes(len), at(0)), Taken::Write);
}

fn end(endpoint: &mut Endpoint, epoch: Epoch) {
    endpoint.take_fin();
    assert_eq!(endpoint.next_write(epoch), Ok(ToWrite::Fin));
    endpoint.fin_written(epoch, at(0)).unwrap();
}

/// On a second path, with `theirs` as the partner's numbers.
fn resumed(endpoint: &mut Endpoint, theirs: Fields) -> Plan {
    endpoint.freeze(at(0)).unwrap();
    endpoint.on_echo(&theirs, at(0)).unwrap()
}

#[test]
fn what_the_partner_lacks_and_the_fin_are_written_again_on_the_new_path() {
    let mut endpoint = ours();
    let first = Epoch::FIRST;
    write(&mut endpoint, first, 100);
    end(&mut endpoint, first);
    let plan = resumed(&mut endpoint, said(0, 60));
    assert_eq!((plan.resend_from, plan.resend_bytes, plan.partner_fin), (60, 40, PeerFin::Expected));
    assert_eq!(endpoint.next_write(plan.epoch), Ok(ToWrite::Bytes(bytes(40))));
    assert_eq!(endpoint.next_write(plan.epoch), Ok(ToWrite::Fin));
    endpoint.fin_written(plan.epoch, at(0)).unwrap();
    assert_eq!(endpoint.next_write(plan.epoch), Ok(ToWrite::Nothing));
}

#[test]
fn a_late_task_of_the_old_path_counts_nothing() {
    let mut endpoint = ours();
    let old = Epoch::FIRST;
    endpoint.consumed(old, 10, at(0)).unwrap();
    endpoint.freeze(at(0)).unwrap();
    let stale = PathError::Stale;
    for _ in 0..2 {
        assert_eq!(endpoint.consumed(old, 5, at(0)), Err(stale));
        assert_eq!(endpoint.fin_read(old, at(0)), Err(stale));
        assert_eq!(endpoint.next_write(old), Err(stale));
        assert_eq!(endpoint.fin_written(old, at(0)), Err(stale));
        assert_eq!(endpoint.fields().peer_ack_position, 10);
        // Frozen the first time, on the next path the second.
        if matches!(endpoint.phase(), Phase::Frozen { .. }) {
            endpoint.on_echo(&said(10, 0), at(0)).unwrap();
        }
    }
}

#[test]
fn what_the_local_side_gave_to_a_late_task_is_written_by_the_next_path() {
    let mut endpoint = ours();
    let old = Epoch::FIRST;
    endpoint.freeze(at(0)).unwrap();
    assert_eq!(endpoint.take(old, bytes(3), at(0)), Taken::Kept);
    let plan = endpoint.on_echo(&said(0, 0), at(0)).unwrap();
    assert_eq!(endpoint.take(plan.epoch, bytes(2), at(0)), Taken::Kept, "three bytes come first");
    assert_eq!(endpoint.next_write(plan.epoch), Ok(ToWrite::Bytes(bytes(5))));
    assert_eq!(endpoint.take(plan.epoch, bytes(2), at(0)), Taken::Write);
}

#[test]
fn positions_may_still_be_acknowledged_while_the_path_is_frozen() {
    let mut endpoint = ours();
    write(&mut endpoint, Epoch::FIRST, 100);
    endpoint.freeze(at(0)).unwrap();
    assert_eq!(endpoint.on_checkpoint(&said(0, 30), at(0)), Ok(30));
    let plan = endpoint.on_echo(&said(0, 80), at(0)).unwrap();
    assert_eq!((plan.resend_from, plan.resend_bytes), (80, 20));
}

#[test]
fn an_old_checkpoint_takes_nothing_back() {
    let mut endpoint = ours();
    write(&mut endpoint, Epoch::FIRST, 100);
    assert_eq!(endpoint.on_checkpoint(&said(50, 60), at(0)), Ok(60));
    for old in [said(40, 70), said(60, 50), said(50, 60), said(0, 0)] {
        assert_eq!(endpoint.on_checkpoint(&old, at(0)), Ok(0), "{old:?}");
    }
    assert_eq!((endpoint.partner.position(), endpoint.fields().my_position), (Some(50), 100));
}

#[test]
fn numbers_that_cannot_be_the_partners_are_refused_and_change_nothing() {
    let mut endpoint = ours();
    write(&mut endpoint, Epoch::FIRST, 100);
    endpoint.consumed(Epoch::FIRST, 50, at(0)).unwrap();
    endpoint.on_checkpoint(&said(60, 20), at(0)).unwrap();
    assert_eq!(endpoint.on_echo(&said(60, 20), at(0)), Err(ResumeError::NotFrozen));
    endpoint.freeze(at(0)).unwrap();
    let before = endpoint.fields();
    let gone = NotHeld { position: 19, start: 20, end: 100 };
    for (numbers, error) in [
        (Fields { stream_id: StreamId(8), ..said(60, 20) }, ResumeError::OtherStream(StreamId(8))),
        (said(60, 101), ResumeError::AckBeyondEnd { ack: 101, end: 100 }),
        (said(60, 19), ResumeError::PositionGone(gone)),
        (said(49, 20), ResumeError::PartnerBehind { said: 49, consumed: 50 }),
        (Fields { fin_consumed: true, ..said(60, 100) }, ResumeError::FinNotSent),
    ] {
        assert_eq!(endpoint.on_echo(&numbers, at(0)), Err(error));
    }
    assert_eq!(endpoint.fields(), before);
    assert!(endpoint.on_echo(&said(60, 20), at(0)).is_ok());
}

#[test]
fn a_checkpoint_that_acknowledges_too_much_is_an_error() {
    let mut endpoint = ours();
    write(&mut endpoint, Epoch::FIRST, 100);
    let beyond = ResumeError::AckBeyondEnd { ack: 101, end: 100 };
    assert_eq!(endpoint.on_checkpoint(&said(0, 101), at(0)), Err(beyond));
    let fin = Fields { fin_consumed: true, ..said(0, 100) };
    assert_eq!(endpoint.on_checkpoint(&fin, at(0)), Err(ResumeError::FinNotSent));
    end(&mut endpoint, Epoch::FIRST);
    assert_eq!(endpoint.on_checkpoint(&fin, at(0)), Ok(100));
}

#[test]
fn nothing_comes_behind_the_partners_fin() {
    let mut endpoint = ours();
    let path = Epoch::FIRST;
    endpoint.consumed(path, 10, at(0)).unwrap();
    endpoint.on_checkpoint(&Fields { fin_sent: true, ..said(12, 0) }, at(0)).unwrap();
    assert_eq!(endpoint.consumed(path, 3, at(0)), Err(PathError::AfterFin), "it ends at 12");
    endpoint.consumed(path, 2, at(0)).unwrap();
    assert_eq!(endpoint.fin_read(path, at(0)), Ok(FinRead::End));
    assert_eq!(endpoint.consumed(path, 1, at(0)), Err(PathError::AfterFin));
    let beyond = ResumeError::PartnerBeyondFin { said: 13 };
    assert_eq!(endpoint.on_checkpoint(&said(13, 0), at(0)), Err(beyond));
}

#[test]
fn a_fin_before_what_the_partner_has_written_is_a_cut() {
    let mut endpoint = legacy();
    let path = Epoch::FIRST;
    endpoint.consumed(path, 10, at(0)).unwrap();
    endpoint.on_checkpoint(&said(15, 0), at(0)).unwrap();
    assert_eq!(endpoint.fin_read(path, at(0)), Ok(FinRead::Cut { missing: 5 }));
    assert!(!endpoint.fields().fin_consumed);
    let plan = resumed(&mut endpoint, said(15, 0));
    endpoint.consumed(plan.epoch, 5, at(0)).unwrap();
    assert_eq!(endpoint.fin_read(plan.epoch, at(0)), Ok(FinRead::End));
}

#[test]
fn a_fin_that_was_consumed_before_the_cut_comes_again_and_is_not_passed_on_twice() {
    let mut endpoint = ours();
    assert_eq!(endpoint.fin_read(Epoch::FIRST, at(0)), Ok(FinRead::End));
    let plan = resumed(&mut endpoint, said(0, 0));
    assert_eq!(plan.partner_fin, PeerFin::Consumed);
    assert_eq!(endpoint.fin_read(plan.epoch, at(0)), Ok(FinRead::Again));
}

#[test]
fn a_stream_is_closing_until_both_fins_are_known_to_be_consumed() {
    let mut endpoint = ours();
    let path = Epoch::FIRST;
    end(&mut endpoint, path);
    assert_eq!(endpoint.phase(), Phase::Live(path));
    assert_eq!(endpoint.fin_read(path, at(0)), Ok(FinRead::End));
    assert_eq!(endpoint.phase(), Phase::Closing(path));
    let word = Fields { fin_consumed: true, ..said(0, 0) };
    endpoint.on_checkpoint(&word, at(0)).unwrap();
    assert_eq!(endpoint.phase(), Phase::Closing(path), "our own word is not out yet");
    let told = endpoint.checkpoint(at(0)).unwrap();
    assert!(told.fin_sent && told.fin_consumed);
    assert!(endpoint.is_finished());
    assert_eq!(endpoint.freeze(at(0)), Err(FreezeError::Finished));
}

#[test]
fn an_echo_that_knows_the_end_finishes_the_stream_once_the_fin_is_out_again() {
    let mut endpoint = ours();
    end(&mut endpoint, Epoch::FIRST);
    assert_eq!(endpoint.fin_read(Epoch::FIRST, at(0)), Ok(FinRead::End));
    let plan = resumed(&mut endpoint, Fields { fin_sent: true, fin_consumed: true, ..said(0, 0) });
    assert!(endpoint.checkpoint(at(0)).is_some(), "the half of the partner may not have been told");
    end(&mut endpoint, plan.epoch);
    assert!(endpoint.checkpoint(at(0)).is_some());
    assert!(!endpoint.is_finished(), "the path is to end by itself");
    assert_eq!(endpoint.fin_read(plan.epoch, at(0)), Ok(FinRead::Again));
    assert!(endpoint.is_finished());
}

#[test]
fn an_echo_without_fins_does_not_undo_what_is_known() {
    let mut endpoint = ours();
    end(&mut endpoint, Epoch::FIRST);
    endpoint.on_checkpoint(&Fields { fin_sent: true, fin_consumed: true, ..said(5, 0) }, at(0)).unwrap();
    endpoint.consumed(Epoch::FIRST, 5, at(0)).unwrap();
    let plan = resumed(&mut endpoint, said(5, 0));
    assert_eq!(endpoint.fin_read(plan.epoch, at(0)), Ok(FinRead::End));
    end(&mut endpoint, plan.epoch);
    assert!(endpoint.checkpoint(at(0)).is_some());
    assert!(endpoint.is_finished());
}

#[test]
fn with_a_legacy_partner_the_stream_ends_with_the_fins_and_says_nothing_of_them() {
    let mut endpoint = legacy();
    write(&mut endpoint, Epoch::FIRST, 3);
    end(&mut endpoint, Epoch::FIRST);
    assert_eq!(endpoint.fin_read(Epoch::FIRST, at(0)), Ok(FinRead::End));
    assert_eq!(endpoint.checkpoint(at(0)), Some(said(3, 0)), "but its positions are told");
    assert!(endpoint.is_finished());
    assert_eq!(endpoint.fields(), said(3, 0));
}

#[test]
fn a_stream_without_an_id_is_not_resumable_and_ends_with_the_fins() {
    let mut endpoint = of(PeerKind::FinState, StreamId(0));
    (0..10).for_each(|_| write(&mut endpoint, Epoch::FIRST, RING));
    assert!(!endpoint.is_resumable() && endpoint.room(at(0)) > 0);
    assert_eq!(endpoint.freeze(at(0)), Err(FreezeError::RingGivenUp));
    end(&mut endpoint, Epoch::FIRST);
    assert_eq!(endpoint.fin_read(Epoch::FIRST, at(0)), Ok(FinRead::End));
    assert!(endpoint.is_finished());
    assert_eq!((endpoint.checkpoint(at(9999)), endpoint.wake_at()), (None, None));
}

#[test]
fn a_change_is_told_within_100_ms_and_once() {
    let mut endpoint = ours();
    assert_eq!(endpoint.wake_at(), None);
    assert_eq!(endpoint.take(Epoch::FIRST, bytes(1), at(5)), Taken::Write);
    endpoint.consumed(Epoch::FIRST, 10, at(60)).unwrap();
    assert_eq!(endpoint.wake_at(), Some(at(105)));
    assert_eq!(endpoint.checkpoint(at(104)), None);
    assert_eq!(endpoint.checkpoint(at(105)), Some(said(1, 10)));
    assert_eq!((endpoint.checkpoint(at(999)), endpoint.wake_at()), (None, None));
}

#[test]
fn bulk_is_told_by_the_quarter_ring_but_not_more_than_once_a_millisecond() {
    let mut endpoint = ours();
    let quarter = 64 * 1024;
    endpoint.consumed(Epoch::FIRST, quarter - 1, at(0)).unwrap();
    assert_eq!(endpoint.checkpoint(at(0)), None);
    endpoint.consumed(Epoch::FIRST, 1, at(0)).unwrap();
    assert!(endpoint.checkpoint(at(0)).is_some());
    endpoint.consumed(Epoch::FIRST, 10 * quarter, at(0)).unwrap();
    assert_eq!((endpoint.checkpoint(at(0)), endpoint.wake_at()), (None, Some(at(1))));
    assert!(endpoint.checkpoint(at(1)).is_some());
}

#[test]
fn a_fin_is_told_at_once() {
    let mut endpoint = ours();
    end(&mut endpoint, Epoch::FIRST);
    assert!(endpoint.checkpoint(at(0)).is_some_and(|told| told.fin_sent));
    assert_eq!(endpoint.fin_read(Epoch::FIRST, at(0)), Ok(FinRead::End));
    assert!(endpoint.checkpoint(at(0)).is_some_and(|told| told.fin_consumed));
}

#[test]
fn a_frozen_stream_tells_nothing() {
    let mut endpoint = ours();
    end(&mut endpoint, Epoch::FIRST);
    endpoint.freeze(at(0)).unwrap();
    assert_eq!((endpoint.checkpoint(at(999)), endpoint.wake_at()), (None, None));
}

#[test]
fn the_ring_of_a_peer_that_sends_no_checkpoints_is_given_up_2_s_after_it_filled() {
    let mut endpoint = legacy();
    write(&mut endpoint, Epoch::FIRST, RING);
    for ms in [200, 300, 400] {
        assert!(endpoint.checkpoint(at(ms)).is_some());
    }
    assert_eq!(endpoint.room(at(300)), 0);
    assert_eq!(endpoint.room(at(1000)), 0);
    assert_eq!((endpoint.tick(at(2299)), endpoint.wake_at()), (None, Some(at(2300))));
    assert_eq!(endpoint.tick(at(2300)), Some(Tick::RingGivenUp));
    assert!(endpoint.room(at(2300)) > 0, "the stream goes on");
    (0..5).for_each(|_| write(&mut endpoint, Epoch::FIRST, RING));
    assert_eq!(endpoint.next_write(Epoch::FIRST), Ok(ToWrite::Nothing));
    assert_eq!(endpoint.freeze(at(3000)), Err(FreezeError::RingGivenUp));
}

#[test]
fn what_a_late_task_brings_after_the_ring_was_given_up_is_written_all_the_same() {
    let mut endpoint = legacy();
    let old = Epoch::FIRST;
    let plan = resumed(&mut endpoint, said(0, 0));
    write(&mut endpoint, plan.epoch, RING);
    assert_eq!(endpoint.room(at(0)), 0);
    assert_eq!(endpoint.tick(at(2000)), Some(Tick::RingGivenUp));
    assert_eq!(endpoint.take(old, bytes(3), at(2000)), Taken::Kept);
    assert_eq!(endpoint.next_write(plan.epoch), Ok(ToWrite::Bytes(bytes(3))));
    write(&mut endpoint, plan.epoch, 2);
    assert_eq!(endpoint.fields().my_position, RING as u64 + 5);
}

#[test]
fn a_peer_that_merely_reads_slowly_keeps_its_ring() {
    let mut slow = legacy();
    slow.on_checkpoint(&said(0, 0), at(0)).unwrap();
    let mut ours = ours();
    for endpoint in [&mut slow, &mut ours] {
        write(endpoint, Epoch::FIRST, RING);
        assert_eq!(endpoint.room(at(0)), 0);
        assert_eq!(endpoint.tick(at(60_000)), None);
        assert!(endpoint.is_resumable());
    }
}

#[test]
fn a_ring_is_not_given_up_while_a_new_path_lacks_its_bytes() {
    let mut endpoint = legacy();
    write(&mut endpoint, Epoch::FIRST, RING);
    let plan = resumed(&mut endpoint, said(0, 0));
    assert_eq!(endpoint.room(at(0)), 0);
    assert_eq!(endpoint.tick(at(60_000)), None);
    assert_eq!(endpoint.next_write(plan.epoch), Ok(ToWrite::Bytes(bytes(RING))));
    assert_eq!(endpoint.tick(at(60_000)), Some(Tick::RingGivenUp));
}

#[test]
fn an_end_that_is_not_confirmed_is_asked_for_every_2_s() {
    let mut endpoint = ours();
    end(&mut endpoint, Epoch::FIRST);
    assert_eq!(endpoint.fin_read(Epoch::FIRST, at(10)), Ok(FinRead::End));
    assert!(endpoint.checkpoint(at(10)).is_some());
    assert_eq!((endpoint.tick(at(2009)), endpoint.wake_at()), (None, Some(at(2010))));
    assert_eq!(endpoint.tick(at(2010)), Some(Tick::AskForEnd));
    assert_eq!(endpoint.wake_at(), Some(at(4010)));
    endpoint.freeze(at(2010)).unwrap();
    assert_eq!(endpoint.lose(), Loss::Confirmation);
}

#[test]
fn a_call_for_a_half_is_heeded_unless_it_may_be_older_than_the_path() {
    let mut endpoint = ours();
    assert_eq!(endpoint.on_wanted(at(0)), Wanted::Resume);
    endpoint.freeze(at(0)).unwrap();
    assert_eq!(endpoint.on_wanted(at(0)), Wanted::Ignore);
    endpoint.on_echo(&said(0, 0), at(5)).unwrap();
    assert_eq!(endpoint.on_wanted(at(1004)), Wanted::Ignore);
    assert_eq!(endpoint.on_wanted(at(1005)), Wanted::Resume);
    assert_eq!(endpoint.lose(), Loss::Stream);
    assert_eq!(endpoint.on_wanted(at(9999)), Wanted::Gone);
}

#[test]
fn a_lost_stream_lets_go_of_its_bytes_and_accepts_nothing() {
    let mut endpoint = ours();
    write(&mut endpoint, Epoch::FIRST, 100);
    endpoint.freeze(at(0)).unwrap();
    assert_eq!(endpoint.lose(), Loss::Stream);
    assert_eq!((endpoint.phase(), endpoint.is_resumable()), (Phase::Lost, false));
    assert_eq!(endpoint.freeze(at(0)), Err(FreezeError::Lost));
    assert_eq!(endpoint.on_echo(&said(0, 0), at(0)), Err(ResumeError::NotFrozen));
    assert_eq!(endpoint.consumed(Epoch::FIRST, 1, at(0)), Err(PathError::Stale));
    assert_eq!(endpoint.on_checkpoint(&said(0, 100), at(0)), Ok(0));
    assert_eq!(endpoint.take(Epoch::FIRST, bytes(1), at(0)), Taken::Kept);
}

#[test]
fn a_frozen_stream_fills_its_ring_and_then_stops_reading() {
    let mut endpoint = ours();
    endpoint.freeze(at(0)).unwrap();
    let room = endpoint.room(at(0));
    assert_eq!(room, RING);
    assert_eq!(endpoint.take(Epoch::FIRST, bytes(room), at(0)), Taken::Kept);
    assert_eq!(endpoint.room(at(0)), 0);
    assert_eq!(endpoint.fields().my_position, RING as u64);
}
