//! Rings piece by piece, then at random against a plain vector.

mod random;

use super::*;

const MIN: usize = 1000;

fn limits() -> RingLimits {
    RingLimits { min: MIN, max: 8 * MIN }
}

fn ring() -> Ring {
    Ring::new(limits(), &Allowance::default())
}

fn bytes(len: usize) -> Bytes {
    Bytes::from(vec![7; len])
}

impl Ring {
    /// Everything from `position` on, piece by piece.
    fn from(&mut self, mut position: u64) -> Result<Vec<u8>, NotHeld> {
        let mut all = Vec::new();
        while let Some(piece) = self.piece(position)? {
            position += piece.len() as u64;
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}

fn kept(ring: &mut Ring, from: u64) -> Vec<u8> {
    ring.from(from).unwrap()
}

/// Fills the ring; returns its capacity.
fn fill(ring: &mut Ring) -> usize {
    let room = ring.room();
    ring.append(bytes(room));
    ring.capacity()
}

/// Fills the ring, acknowledges a byte, and asks for room when it is full again. Returns whether there was any.
fn grow(ring: &mut Ring) -> bool {
    fill(ring);
    ring.acknowledge(ring.start() + 1).unwrap();
    fill(ring);
    ring.room() > 0
}

#[test]
fn what_is_not_acknowledged_can_be_read_again_from_any_position() {
    let mut ring = ring();
    for piece in ["abc", "", "defg", "h"] {
        ring.append(Bytes::from(piece));
    }
    assert_eq!((ring.start(), ring.end(), ring.len()), (0, 8, 8));
    assert_eq!(ring.acknowledge(2), Ok(2));
    assert_eq!(kept(&mut ring, 2), b"cdefgh");
    ring.append(Bytes::from("ij"));
    assert_eq!(kept(&mut ring, 5), b"fghij");
    assert_eq!(kept(&mut ring, 10), b"");
    assert_eq!(ring.piece(9), Ok(Some(Bytes::from("j"))));
    assert_eq!(ring.piece(10), Ok(None));
}

#[test]
fn a_position_before_the_start_or_beyond_the_end_is_not_held() {
    let mut ring = ring();
    ring.append(bytes(10));
    ring.acknowledge(4).unwrap();
    for position in [0, 3, 11] {
        let error = NotHeld { position, start: 4, end: 10 };
        assert_eq!(ring.from(position).err(), Some(error));
        assert_eq!(ring.piece(position), Err(error));
    }
}

#[test]
fn an_acknowledgement_beyond_the_end_is_an_error_and_an_old_one_frees_nothing() {
    let mut ring = ring();
    ring.append(bytes(10));
    assert_eq!(ring.acknowledge(11), Err(AckError { position: 11, end: 10 }));
    assert_eq!(ring.len(), 10, "nothing has changed");
    assert_eq!(ring.acknowledge(6), Ok(6));
    assert_eq!(ring.acknowledge(6), Ok(0));
    assert_eq!(ring.acknowledge(1), Ok(0));
    assert_eq!(ring.start(), 6);
}

#[test]
fn a_large_chunk_is_kept_without_a_copy() {
    let chunk = bytes(64 * 1024);
    let mut ring = Ring::new(RingLimits::default(), &Allowance::default());
    ring.append(chunk.clone());
    let again = ring.piece(0).unwrap().unwrap();
    assert_eq!(again.as_ptr(), chunk.as_ptr());
}

#[test]
fn a_chatty_stream_costs_little_more_than_its_bytes() {
    let mut ring = Ring::new(RingLimits::default(), &Allowance::default());
    for _ in 0..200_000 {
        assert!(ring.room() > 0);
        ring.append(bytes(1));
    }
    assert!(ring.segments.len() < 30, "{} segments", ring.segments.len());
    assert_eq!(kept(&mut ring, 0).len(), 200_000);
}

#[test]
fn a_full_ring_doubles_only_if_the_peer_has_acknowledged() {
    let mut ring = ring();
    fill(&mut ring);
    assert_eq!(ring.room(), 0, "no acknowledgement ever came");
    assert_eq!(ring.acknowledge(0), Ok(0));
    assert_eq!(ring.room(), 0, "one that frees nothing is no progress");
    ring.acknowledge(1).unwrap();
    assert_eq!(ring.room(), 1);
    ring.append(bytes(1));
    assert_eq!(ring.room(), MIN, "full again, and the peer is acknowledging");
    fill(&mut ring);
    assert_eq!(ring.room(), 0, "a second doubling needs a second acknowledgement");
}

#[test]
fn a_ring_grows_to_its_maximum_and_no_further() {
    let mut ring = ring();
    while grow(&mut ring) {}
    assert_eq!(ring.capacity(), 8 * MIN);
}

#[test]
fn rings_share_an_allowance_and_give_back_what_they_were_granted() {
    let allowance = Allowance::new(MIN);
    let mut one = Ring::new(limits(), &allowance);
    let mut other = Ring::new(limits(), &allowance);
    assert!(grow(&mut one));
    assert_eq!(allowance.granted(), MIN);
    assert!(!grow(&mut other), "nothing is left for it");
    assert_eq!(other.capacity(), MIN, "its minimum it has all the same");
    drop(one);
    assert_eq!(allowance.granted(), 0);
    assert_eq!(other.room(), MIN, "now there is leave");
}

#[test]
fn a_ring_that_stays_mostly_empty_shrinks() {
    let allowance = Allowance::default();
    let mut ring = Ring::new(limits(), &allowance);
    assert!(grow(&mut ring) && grow(&mut ring));
    ring.acknowledge(ring.end()).unwrap();
    for _ in 0..1000 {
        ring.append(bytes(10));
        ring.acknowledge(ring.end()).unwrap();
    }
    assert_eq!((ring.capacity(), allowance.granted()), (MIN, 0));
}

#[test]
fn a_ring_that_is_used_does_not_shrink() {
    let mut ring = ring();
    assert!(grow(&mut ring) && grow(&mut ring));
    fill(&mut ring);
    let grown = ring.capacity();
    for _ in 0..1000 {
        ring.acknowledge(ring.start() + 100).unwrap();
        let room = ring.room();
        ring.append(bytes(room.min(100)));
    }
    assert!(ring.capacity() >= grown);
}

#[test]
fn a_silent_streams_growth_goes_back_to_the_others() {
    let allowance = Allowance::default();
    let mut ring = Ring::new(limits(), &allowance);
    assert!(grow(&mut ring) && ring.has_grown());
    ring.rest();
    assert!(ring.has_grown(), "not while bytes are held");
    ring.acknowledge(ring.end()).unwrap();
    ring.rest();
    assert_eq!((ring.capacity(), allowance.granted()), (MIN, 0));
}

#[test]
fn what_is_released_is_gone_and_is_no_progress_of_the_peer() {
    let mut ring = ring();
    fill(&mut ring);
    ring.release(1);
    fill(&mut ring);
    assert_eq!((ring.start(), ring.room()), (1, 0), "no leave to grow");
    ring.release(0);
    ring.release(u64::MAX);
    assert!(ring.is_empty() && ring.start() == ring.end());
}

#[test]
fn a_ring_that_was_given_up_only_counts() {
    let mut ring = ring();
    fill(&mut ring);
    ring.give_up();
    assert_eq!((ring.start(), ring.end(), ring.len()), (1000, 1000, 0));
    assert!(ring.room() > 0, "the stream goes on");
    ring.append(bytes(5000));
    assert_eq!((ring.start(), ring.end()), (6000, 6000));
    assert_eq!(ring.acknowledge(6000), Ok(0));
    assert_eq!(ring.acknowledge(6001), Err(AckError { position: 6001, end: 6000 }));
    assert!(ring.from(5000).is_err());
}
