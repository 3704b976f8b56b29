//! Whether rings and checkpoints keep up with a fast path, on a virtual clock.

use std::collections::VecDeque;

use super::*;

const STEP: Duration = Duration::from_micros(50);
const ONE_WAY: Duration = Duration::from_micros(500);

/// What a second of sending brought.
#[derive(Debug)]
struct Second {
    bytes: u64,
    checkpoints: u64,
    ring: usize,
}

/// Sends as fast as the ring allows, and at most `bytes_per_step`, for 1.2 s; of the first 0.2 s nothing is counted.
fn send(limits: RingLimits, bytes_per_step: usize) -> Second {
    let endpoint = || Endpoint::new(ID, PeerKind::FinState, Ring::new(limits, &Allowance::default()));
    let (mut sender, mut receiver) = (endpoint(), endpoint());
    let source = bytes(bytes_per_step);
    let (mut data, mut words) = (VecDeque::new(), VecDeque::new());
    let mut second = Second { bytes: 0, checkpoints: 0, ring: 0 };
    let mut now = Duration::ZERO;
    while now < Duration::from_millis(1200) {
        let counts = u64::from(now >= Duration::from_millis(200));
        let len = sender.room(now).min(bytes_per_step);
        if len > 0 {
            assert_eq!(sender.take(Epoch::FIRST, source.slice(..len), now), Taken::Write);
            data.push_back((now + ONE_WAY, len));
        }
        while let Some((_, len)) = data.pop_front_if(|(at, _)| *at <= now) {
            receiver.consumed(Epoch::FIRST, len, now).unwrap();
            second.bytes += len as u64 * counts;
        }
        if let Some(word) = receiver.checkpoint(now) {
            words.push_back((now + ONE_WAY, word));
            second.checkpoints += counts;
        }
        while let Some((_, word)) = words.pop_front_if(|(at, _)| *at <= now) {
            sender.on_checkpoint(&word, now).unwrap();
        }
        now += STEP;
    }
    second.ring = sender.ring.capacity();
    second
}

#[test]
fn a_ring_keeps_up_with_500_mb_per_second_at_a_round_trip_of_1_ms() {
    let second = send(RingLimits::default(), 25_000);
    assert!(second.bytes >= 499_000_000, "{second:?}");
    assert!(second.checkpoints <= 1000, "{second:?}");
    assert!(second.ring <= 2 * 1024 * 1024, "{second:?}");
}

#[test]
fn a_ring_that_cannot_grow_is_turned_over_every_2_ms() {
    let min = RingLimits::default().min;
    let second = send(RingLimits { min, max: min }, 25_000);
    assert!(second.bytes >= 500 * min as u64 * 9 / 10, "{second:?}");
}

#[test]
fn a_slow_stream_is_told_of_ten_times_a_second() {
    let second = send(RingLimits::default(), 10);
    assert!((9..=11).contains(&second.checkpoints), "{second:?}");
    assert_eq!(second.ring, RingLimits::default().min);
}
