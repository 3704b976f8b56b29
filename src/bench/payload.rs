//! Payload whose every byte is checked where it arrives.
//!
//! A stream carries one block of noise over and over, each time with the stream's seed and the block's number in its first bytes: a block
//! that is lost, repeated, swapped or of another stream is noticed, and the check is a memory comparison.

/// Bytes of a block.
pub const BLOCK: usize = 64 * 1024;
/// Bytes at the start of a block that say which it is.
const STAMP: usize = size_of::<u64>();

/// A position in a stream's payload, at the sender or the receiver.
#[derive(Debug)]
pub struct Payload {
    block: Box<[u8]>,
    seed: u64,
    position: u64,
}

/// A byte is not the one that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("wrong content within the {len} bytes from position {position}")]
pub struct Corrupt {
    position: u64,
    len: usize,
}

impl Payload {
    /// The start of the stream with this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut block = vec![0; BLOCK].into_boxed_slice();
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for word in block.chunks_exact_mut(size_of::<u64>()) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        Self { block, seed, position: 0 }
    }

    /// Bytes sent, or received and found right.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What is sent next: at most `len` bytes, at least one when `len` is not 0.
    pub fn next(&mut self, len: usize) -> &[u8] {
        let at = self.enter();
        let len = len.min(BLOCK - at);
        self.position += len as u64;
        &self.block[at..at + len]
    }

    /// Takes what was received next.
    ///
    /// # Errors
    /// When it is not what was sent.
    pub fn check(&mut self, mut bytes: &[u8]) -> Result<(), Corrupt> {
        while !bytes.is_empty() {
            let position = self.position;
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - self.enter()));
            if self.next(now.len()) != now {
                return Err(Corrupt { position, len: now.len() });
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Where in the block the position is; a block that begins is stamped.
    fn enter(&mut self) -> usize {
        let block = BLOCK as u64;
        if self.position.is_multiple_of(block) {
            let stamp = self.seed ^ (self.position / block);
            self.block[..STAMP].copy_from_slice(&stamp.to_le_bytes());
        }
        // Below BLOCK, so it fits.
        usize::try_from(self.position % block).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut payload = Payload::new(seed);
        let mut all = Vec::new();
        while all.len() < len {
            let more = payload.next((len - all.len()).min(5000)).to_vec();
            all.extend_from_slice(&more);
        }
        all
    }

    #[test]
    fn what_was_sent_is_right_however_it_was_cut() {
        let sent = bytes(7, 3 * BLOCK + 100);
        let mut receiver = Payload::new(7);
        for part in sent.chunks(70_001) {
            receiver.check(part).unwrap();
        }
        assert_eq!(receiver.position(), sent.len() as u64);
    }

    #[test]
    fn a_changed_byte_and_a_lost_repeated_or_foreign_block_are_noticed() {
        let sent = bytes(7, 3 * BLOCK);
        let mut changed = sent.clone();
        changed[BLOCK + 9] ^= 1;
        let lost = [&sent[..BLOCK], &sent[2 * BLOCK..]].concat();
        let repeated = [&sent[..BLOCK], &sent].concat();
        for wrong in [changed, lost, repeated] {
            let error = Payload::new(7).check(&wrong).unwrap_err();
            assert_eq!(error.position, BLOCK as u64, "{error}");
        }
        assert!(Payload::new(8).check(&sent).is_err(), "another stream's");
    }
}
