//! Bytes that say of which stream they are and where in it they stand, and the check of them.
//!
//! A stream's direction is a row of 8-byte words; each is its direction's number and its place in the row, well mixed and
//! mixed reversibly. So a receiver that hears other bytes than it expects can tell what happened: bytes were lost, came
//! twice, or are not those that were sent.

/// Bytes of a word.
const WORD: usize = size_of::<u64>();
/// The bits of a word that are its place; the others are the number of the direction.
const PLACE_BITS: u32 = 40;
/// Numbers of directions are below this.
pub const NUMBERS: u64 = 1 << (u64::BITS - PLACE_BITS);
/// The bytes that a receiver needs to know a direction again: two words.
pub const HEAD: usize = 2 * WORD;
/// Wrong bytes that are looked at for a place where they go on rightly: two words, not necessarily where a word begins.
const SEARCHED: usize = HEAD + WORD - 1;
/// Odd, so that a multiplication by it can be undone.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
const UNDO: u64 = inverse(FACTOR);

/// The factor that undoes a multiplication by `odd`, modulo 2^64. Each step of Newton's method doubles the right bits.
const fn inverse(odd: u64) -> u64 {
    let (mut found, mut step) = (odd, 0);
    while step < 5 {
        found = found.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(found)));
        step += 1;
    }
    found
}

fn mixed(mut word: u64) -> u64 {
    for _ in 0..2 {
        word = word.wrapping_add(1).wrapping_mul(FACTOR);
        word ^= word >> 32;
    }
    word
}

fn unmixed(mut word: u64) -> u64 {
    for _ in 0..2 {
        word ^= word >> 32;
        word = word.wrapping_mul(UNDO).wrapping_sub(1);
    }
    word
}

/// What one direction of one stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    number: u64,
}

impl Pattern {
    /// That of the direction `number`, of which only as much counts as is below [`NUMBERS`].
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self { number: number % NUMBERS }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.number
    }

    /// The direction that begins with `head`; none when no direction does.
    #[must_use]
    pub fn that_begins(head: &[u8; HEAD]) -> Option<Self> {
        let number = unmixed(u64::from_le_bytes(*head.first_chunk()?)) >> PLACE_BITS;
        let mut expected = [0; HEAD];
        Self { number }.fill(0, &mut expected);
        (expected == *head).then_some(Self { number })
    }

    /// Fills `bytes` with what stands at `at`.
    pub fn fill(self, mut at: u64, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let word = self.word(at / WORD as u64);
            let from = usize::try_from(at % WORD as u64).unwrap_or_default();
            let len = bytes.len().min(WORD - from);
            let (now, rest) = bytes.split_at_mut(len);
            now.copy_from_slice(&word[from..from + len]);
            at += len as u64;
            bytes = rest;
        }
    }

    fn word(self, place: u64) -> [u8; WORD] {
        mixed((self.number << PLACE_BITS) | (place % (1 << PLACE_BITS))).to_le_bytes()
    }

    /// How many of `bytes`, from the first one on, are those that stand at `at`.
    fn matching(self, at: u64, bytes: &[u8]) -> usize {
        let mut expected = [0; 4096];
        let mut right = 0;
        for part in bytes.chunks(expected.len()) {
            let expected = &mut expected[..part.len()];
            self.fill(at + right as u64, expected);
            if part == &*expected {
                right += part.len();
            } else {
                return right + part.iter().zip(expected).take_while(|(got, expected)| got == expected).count();
            }
        }
        right
    }

    /// Where the two words at the start of `bytes` stand, if they are two of this direction that follow each other.
    fn place(self, bytes: &[u8]) -> Option<u64> {
        let place = unmixed(u64::from_le_bytes(*bytes.first_chunk()?));
        let next = bytes.get(WORD..HEAD)?;
        let at = place % (1 << PLACE_BITS);
        (place >> PLACE_BITS == self.number && self.word(at + 1) == next).then_some(at * WORD as u64)
    }
}

/// What a receiver has found to be wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wrong {
    /// Bytes that never came, though later ones did.
    pub lost: u64,
    /// Bytes that came again.
    pub duplicated: u64,
    /// Bytes that nobody sent.
    pub corrupt: u64,
}

impl Wrong {
    /// Whether anything is.
    #[must_use]
    pub fn is_anything(self) -> bool {
        self != Self::default()
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            lost: self.lost + other.lost,
            duplicated: self.duplicated + other.duplicated,
            corrupt: self.corrupt + other.corrupt,
        }
    }
}

/// The receiver of one direction.
#[derive(Debug)]
pub struct Checker {
    pattern: Pattern,
    /// Where in the direction the next byte stands.
    at: u64,
    wrong: Wrong,
    /// Bytes since the first that was not expected, while it is not known what they are.
    unknown: Vec<u8>,
}

impl Checker {
    /// Of a direction of which nothing has come yet.
    #[must_use]
    pub fn new(pattern: Pattern) -> Self {
        Self { pattern, at: 0, wrong: Wrong::default(), unknown: Vec::new() }
    }

    /// Takes what came next.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.unknown.is_empty() {
                let right = self.pattern.matching(self.at, bytes);
                self.at += right as u64;
                bytes = &bytes[right..];
            }
            let Some((first, rest)) = bytes.split_first() else { return };
            self.unknown.push(*first);
            bytes = rest;
            self.search();
        }
    }

    /// What is wrong, once the sender has ended after `total` bytes and the end has come.
    #[must_use]
    pub fn end(mut self, total: u64) -> Wrong {
        let unknown = self.unknown.len() as u64;
        // Too few to be known again: those at the very end of a direction that lost something.
        if let Some(at) = total.checked_sub(unknown)
            && self.pattern.matching(at, &self.unknown) as u64 == unknown
        {
            self.go_on(at, 0);
            self.at = total;
        } else {
            self.wrong.corrupt += unknown;
            self.at += unknown;
        }
        self.wrong.lost += total.saturating_sub(self.at);
        self.wrong.duplicated += self.at.saturating_sub(total);
        self.wrong
    }

    /// What is wrong so far.
    #[must_use]
    pub fn wrong(&self) -> Wrong {
        Wrong { corrupt: self.wrong.corrupt + self.unknown.len() as u64, ..self.wrong }
    }

    /// Whether the last bytes are two words of this direction: then it is known what those before are.
    fn search(&mut self) {
        let Some(from) = self.unknown.len().checked_sub(HEAD) else { return };
        if let Some(at) = self.pattern.place(&self.unknown[from..]) {
            // What stands right before it belongs to it.
            let mut before = [0; SEARCHED];
            let long = from.min(before.len()).min(usize::try_from(at).unwrap_or(usize::MAX));
            let before = &mut before[..long];
            self.pattern.fill(at - long as u64, before);
            let got = self.unknown[from - long..from].iter().rev();
            let right = got.zip(before.iter().rev()).take_while(|(got, expected)| got == expected).count();
            self.go_on(at - right as u64, from - right);
            self.at = at + HEAD as u64;
            self.unknown.clear();
        } else if self.unknown.len() > SEARCHED {
            // Nobody's: a byte that has been looked at from all sides.
            self.unknown.remove(0);
            self.wrong.corrupt += 1;
            self.at += 1;
        }
    }

    /// After `corrupt` bytes that nobody sent, it goes on at `at`.
    fn go_on(&mut self, at: u64, corrupt: usize) {
        let expected = self.at + corrupt as u64;
        self.wrong.corrupt += corrupt as u64;
        self.wrong.lost += at.saturating_sub(expected);
        self.wrong.duplicated += expected.saturating_sub(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: usize = 10_000;
    const TOTAL_BYTES: u64 = TOTAL as u64;

    fn sent(number: u64) -> Vec<u8> {
        let mut bytes = vec![0; TOTAL];
        Pattern::new(number).fill(0, &mut bytes);
        bytes
    }

    /// What is said of direction 7 when `got` came out, whatever the reads were.
    fn found(got: &[u8]) -> Wrong {
        let found = [1, 3, 64, 1000, TOTAL].map(|read| {
            let mut checker = Checker::new(Pattern::new(7));
            got.chunks(read).for_each(|part| checker.take(part));
            checker.end(TOTAL_BYTES)
        });
        assert!(found.iter().all(|one| *one == found[0]), "{found:?}");
        found[0]
    }

    #[test]
    fn a_word_says_what_it_is() {
        for number in [0, 1, 77, NUMBERS - 1] {
            let head = *sent(number).first_chunk().unwrap();
            assert_eq!(Pattern::that_begins(&head), Some(Pattern::new(number)));
        }
        assert_eq!(Pattern::that_begins(&[0; HEAD]), None);
        let late = *sent(7)[WORD..].first_chunk().unwrap();
        assert_eq!(Pattern::that_begins(&late), None);
    }

    #[test]
    fn what_was_sent_is_right() {
        assert_eq!(found(&sent(7)), Wrong::default());
    }

    #[test]
    fn lost_bytes_are_counted() {
        for (at, lost) in [(0, 8), (0, 5), (4096, 1), (5000, 777), (TOTAL - 40, 13)] {
            let mut got = sent(7);
            got.drain(at..at + lost);
            assert_eq!(found(&got), Wrong { lost: lost as u64, ..Wrong::default() }, "{lost} at {at}");
        }
    }

    #[test]
    fn bytes_that_come_twice_are_counted() {
        for (at, twice) in [(0, 8), (1, 5), (4096, 64), (5003, 777)] {
            let mut got = sent(7);
            let again = got[at..at + twice].to_vec();
            got.splice(at..at, again);
            assert_eq!(found(&got), Wrong { duplicated: twice as u64, ..Wrong::default() }, "{twice} at {at}");
        }
    }

    #[test]
    fn changed_and_foreign_bytes_are_corrupt_and_nothing_else() {
        let mut got = sent(7);
        got[5000] ^= 1;
        got[8000..8003].copy_from_slice(&[0; 3]);
        assert_eq!(found(&got), Wrong { corrupt: 4, ..Wrong::default() });
        let mut got = sent(7);
        got[4000..5000].copy_from_slice(&sent(8)[4000..5000]);
        let wrong = found(&got);
        assert!(wrong.lost == 0 && wrong.duplicated == 0 && (990..=1000).contains(&wrong.corrupt), "{wrong:?}");
    }

    #[test]
    fn an_end_that_comes_early_is_a_loss_and_one_that_comes_late_is_not_right_either() {
        assert_eq!(found(&sent(7)[..TOTAL - 9]), Wrong { lost: 9, ..Wrong::default() });
        assert_eq!(found(&[]), Wrong { lost: TOTAL_BYTES, ..Wrong::default() });
        let mut late = sent(7);
        late.extend_from_slice(&sent(7)[TOTAL - 100..]);
        assert_eq!(found(&late), Wrong { duplicated: 100, ..Wrong::default() });
        // Too few to be known again.
        let mut cut_near_its_end = sent(7);
        cut_near_its_end.drain(TOTAL - 20..TOTAL - 5);
        assert_eq!(found(&cut_near_its_end), Wrong { lost: 15, ..Wrong::default() });
    }

    #[test]
    fn several_things_at_once_are_told_apart() {
        let mut got = sent(7);
        let again = got[9000..9100].to_vec();
        got.splice(9100..9100, again);
        got[5000] ^= 0x80;
        got.drain(1000..1250);
        assert_eq!(found(&got), Wrong { lost: 250, duplicated: 100, corrupt: 1 });
    }
}
