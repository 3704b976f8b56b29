//! Appends, acknowledgements and reads in any order, against a vector that forgets nothing.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// As many bytes, if there is room.
    Append(usize),
    /// This share of what is kept, in 255ths.
    Acknowledge(u8),
    /// From this share of what is kept on.
    Read(u8),
    Piece(u8),
    Rest,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..40usize).prop_map(Step::Append),
        2 => (SMALL_BYTES - 2..SMALL_BYTES * 4).prop_map(Step::Append),
        3 => any::<u8>().prop_map(Step::Acknowledge),
        1 => any::<u8>().prop_map(Step::Read),
        1 => any::<u8>().prop_map(Step::Piece),
        1 => Just(Step::Rest),
    ]
}

fn index(position: u64) -> usize {
    usize::try_from(position).unwrap()
}

fn share(ring: &Ring, part: u8) -> u64 {
    ring.start() + (ring.end() - ring.start()) * u64::from(part) / 255
}

proptest! {
    #[test]
    fn a_ring_holds_what_was_appended_and_not_acknowledged(steps in vec(any_step(), 0..200)) {
        let min = 3 * SMALL_BYTES;
        let allowance = Allowance::new(8 * min);
        let mut ring = Ring::new(RingLimits { min, max: 4 * min }, &allowance);
        let mut written: Vec<u8> = Vec::new();
        for step in steps {
            match step {
                Step::Append(len) => {
                    let len = len.min(ring.room());
                    let next: Vec<u8> = (0..=250).cycle().skip(written.len() % 251).take(len).collect();
                    written.extend(&next);
                    ring.append(next.into());
                }
                Step::Acknowledge(part) => {
                    let (before, position) = (ring.start(), share(&ring, part));
                    prop_assert_eq!(ring.acknowledge(position), Ok(index(position - before)));
                    prop_assert_eq!(ring.start(), position);
                }
                Step::Read(part) => {
                    let position = share(&ring, part);
                    prop_assert_eq!(&kept(&mut ring, position), &written[index(position)..]);
                }
                Step::Piece(part) => {
                    let position = share(&ring, part);
                    match ring.piece(position).unwrap() {
                        None => prop_assert_eq!(position, ring.end()),
                        Some(piece) => prop_assert!(!piece.is_empty() && written[index(position)..].starts_with(&piece)),
                    }
                }
                Step::Rest => ring.rest(),
            }
            prop_assert_eq!(ring.end(), written.len() as u64);
            prop_assert!(ring.len() <= ring.capacity() && ring.capacity() <= 4 * min);
            prop_assert_eq!(allowance.granted(), ring.capacity() - min);
        }
        let start = ring.start();
        prop_assert_eq!(&kept(&mut ring, start), &written[index(start)..]);
    }
}
