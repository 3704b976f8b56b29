//! The retransmit ring of one direction: what was written and is not known to be consumed (wire.md §5, architecture §6).
//!
//! Positions are absolute: bytes of the direction since the stream's first. A chunk that was read from a local socket is
//! kept by reference, so that the same memory goes to the ring and to the path; many small writes are copied together,
//! so that a chatty stream does not cost more in bookkeeping than in bytes. Capacity is a permission, not memory: a ring
//! holds no more than what is in it.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

mod allowance;

pub use allowance::Allowance;
use allowance::Grant;

/// A shorter piece is copied into a block with its neighbours, in bytes.
const SMALL_BYTES: usize = 4 * 1024;
/// What a block of small pieces holds, in bytes.
const BLOCK_BYTES: usize = 8 * 1024;
/// How many acknowledgements a ring must have been mostly empty before its capacity is halved.
const SHRINK_AFTER_ACKS: u32 = 64;
/// What may be taken at once when the ring keeps nothing, in bytes.
const GIVEN_UP_ROOM_BYTES: usize = 1024 * 1024;

/// Between what bounds the capacity of a ring moves, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLimits {
    /// What every ring may hold, whatever the others hold.
    pub min: usize,
    /// What it may grow to with leave of the [`Allowance`].
    pub max: usize,
}

impl Default for RingLimits {
    /// 256 KiB to 16 MiB (architecture §6).
    fn default() -> Self {
        Self { min: 256 * 1024, max: 16 * 1024 * 1024 }
    }
}

/// An acknowledgement of bytes that were never written: the peer breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {position} is acknowledged, but only {end} were written")]
pub struct AckError {
    /// What was acknowledged.
    pub position: u64,
    /// What was written.
    pub end: u64,
}

/// What is asked for is not in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {position} is not kept, only {start} to {end} are")]
pub struct NotHeld {
    /// What was asked for.
    pub position: u64,
    /// The first byte that is kept.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
}

/// Bytes in the order in which they were appended; see the module.
#[derive(Debug)]
pub struct Ring {
    limits: RingLimits,
    /// How much it may hold; what is above the minimum is granted by the allowance.
    capacity: usize,
    grant: Grant,
    segments: VecDeque<Segment>,
    /// Small pieces behind the last segment, and room for more of them.
    block: BytesMut,
    start: u64,
    end: u64,
    keeping: Keeping,
    /// Whether bytes were acknowledged since the capacity last changed: without, more room would only be filled too.
    acknowledging: bool,
    /// The most that was held since `quiet_acks` was 0, in bytes.
    peak: usize,
    /// Acknowledgements since the last decision about shrinking.
    quiet_acks: u32,
}

#[derive(Debug)]
struct Segment {
    start: u64,
    bytes: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeping {
    Everything,
    /// Given up: only positions are counted.
    Nothing,
}

impl Ring {
    /// An empty ring at position 0. The minimum is not charged to the allowance, so that no stream starves another of it:
    /// all rings together hold at most the allowance and as many minima as there are rings.
    #[must_use]
    pub fn new(limits: RingLimits, allowance: &Allowance) -> Self {
        Self {
            limits,
            capacity: limits.min,
            grant: allowance.nothing(),
            segments: VecDeque::new(),
            block: BytesMut::new(),
            start: 0,
            end: 0,
            keeping: Keeping::Everything,
            acknowledging: false,
            peak: 0,
            quiet_acks: 0,
        }
    }

    /// The first position that is kept; equals [`Ring::end`] when nothing is.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// How many bytes were ever appended.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How many bytes are kept. What a segment's `Bytes` pins beyond its own length is not counted.
    #[must_use]
    pub fn len(&self) -> usize {
        // The difference is what `room` let in, which is a `usize`.
        usize::try_from(self.end - self.start).unwrap_or(usize::MAX)
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How much may be kept at present, in bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether the capacity is above the minimum.
    #[must_use]
    pub fn has_grown(&self) -> bool {
        self.capacity > self.limits.min
    }

    /// Whether the ring was given up.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.keeping == Keeping::Nothing
    }

    /// How many bytes may be appended now. A full ring whose peer has been acknowledging is given double the capacity
    /// first, if the allowance has it.
    pub fn room(&mut self) -> usize {
        if self.is_given_up() {
            return GIVEN_UP_ROOM_BYTES;
        }
        if self.len() >= self.capacity {
            self.grow();
        }
        self.capacity.saturating_sub(self.len())
    }

    /// Keeps `bytes` behind what is there. The caller asks [`Ring::room`] first; more than that is kept all the same,
    /// since a byte that was taken from its source must not be lost.
    pub fn append(&mut self, bytes: Bytes) {
        debug_assert!(self.is_given_up() || bytes.len() <= self.capacity.saturating_sub(self.len()), "ask for room");
        let start = self.end;
        self.end += bytes.len() as u64;
        if self.is_given_up() {
            self.start = self.end;
            return;
        }
        self.peak = self.peak.max(self.len());
        if bytes.len() < SMALL_BYTES {
            if self.block.capacity() - self.block.len() < bytes.len() {
                self.seal();
                self.block = BytesMut::with_capacity(BLOCK_BYTES);
            }
            self.block.extend_from_slice(&bytes);
            return;
        }
        self.seal();
        self.segments.push_back(Segment { start, bytes });
    }

    /// The peer has consumed everything before `position`: it is let go. Returns how many bytes that were; 0 for an
    /// acknowledgement that says nothing new.
    ///
    /// # Errors
    /// [`AckError`] beyond [`Ring::end`]; nothing changes.
    pub fn acknowledge(&mut self, position: u64) -> Result<usize, AckError> {
        if position > self.end {
            return Err(AckError { position, end: self.end });
        }
        let Some(freed) = position.checked_sub(self.start).filter(|freed| *freed > 0) else {
            return Ok(0);
        };
        let freed = usize::try_from(freed).unwrap_or(usize::MAX);
        self.discard_until(position);
        self.acknowledging = true;
        self.quiet_acks += 1;
        if self.quiet_acks >= SHRINK_AFTER_ACKS {
            self.shrink();
        }
        Ok(freed)
    }

    /// Lets go of everything before `position`, which nobody needs any more. Unlike an acknowledgement it says nothing of
    /// the peer.
    pub fn release(&mut self, position: u64) {
        let position = position.min(self.end);
        if position > self.start {
            self.discard_until(position);
        }
    }

    /// The next piece from `position` on, by reference; `None` at the end.
    ///
    /// # Errors
    /// [`NotHeld`] when `position` is before [`Ring::start`] or beyond [`Ring::end`].
    pub fn piece(&mut self, position: u64) -> Result<Option<Bytes>, NotHeld> {
        let (first, skip) = self.locate(position)?;
        Ok(self.segments.get(first).map(|segment| segment.bytes.slice(skip..)))
    }

    /// Lets go of everything and keeps nothing from now on; positions go on being counted.
    pub fn give_up(&mut self) {
        self.keeping = Keeping::Nothing;
        self.segments = VecDeque::new();
        self.block = BytesMut::new();
        self.start = self.end;
        self.set_capacity(self.limits.min);
    }

    /// Gives an empty ring's growth back to the others. For a stream that has fallen silent: no acknowledgement comes
    /// to shrink it.
    pub fn rest(&mut self) {
        if self.is_empty() {
            self.set_capacity(self.limits.min);
            self.segments = VecDeque::new();
        }
    }

    fn grow(&mut self) {
        let wanted = self.capacity.saturating_mul(2).min(self.limits.max);
        let more = wanted.saturating_sub(self.capacity);
        if self.acknowledging && more > 0 && self.grant.extend(more) {
            self.capacity = wanted;
            self.restart_watch();
        }
    }

    fn shrink(&mut self) {
        if self.peak < self.capacity / 4 {
            self.set_capacity((self.capacity / 2).max(self.limits.min));
        }
        self.restart_watch();
        self.peak = self.len();
    }

    fn set_capacity(&mut self, capacity: usize) {
        self.grant.reduce(self.capacity.saturating_sub(capacity));
        self.capacity = capacity;
        self.restart_watch();
    }

    fn restart_watch(&mut self) {
        self.acknowledging = false;
        self.quiet_acks = 0;
        self.peak = self.len();
    }

    fn discard_until(&mut self, position: u64) {
        self.start = position;
        while let Some(front) = self.segments.front_mut() {
            let skip = position.saturating_sub(front.start);
            match usize::try_from(skip) {
                Ok(0) => return,
                Ok(skip) if skip < front.bytes.len() => {
                    front.bytes.advance(skip);
                    front.start = position;
                    return;
                }
                _ => drop(self.segments.pop_front()),
            }
        }
        let kept = self.len();
        if kept == 0 {
            self.block = BytesMut::new();
        } else {
            self.block.advance(self.block.len().saturating_sub(kept));
        }
    }

    /// Where `position` is: the index of its segment (one past the last at the end), and how far into it.
    fn locate(&mut self, position: u64) -> Result<(usize, usize), NotHeld> {
        if position < self.start || position > self.end {
            return Err(NotHeld { position, start: self.start, end: self.end });
        }
        self.seal();
        if position == self.end {
            return Ok((self.segments.len(), 0));
        }
        let after = self.segments.partition_point(|segment| segment.start <= position);
        let at = after.saturating_sub(1);
        let skip = self.segments.get(at).map_or(0, |segment| position - segment.start);
        Ok((at, usize::try_from(skip).unwrap_or(usize::MAX)))
    }

    /// Makes a segment of the small pieces, so that they can be handed out and others can follow. What room is left in the
    /// block serves the next ones.
    fn seal(&mut self) {
        if !self.block.is_empty() {
            let start = self.end_of_segments();
            self.segments.push_back(Segment { start, bytes: self.block.split().freeze() });
        }
    }

    fn end_of_segments(&self) -> u64 {
        self.segments.back().map_or(self.start, |last| last.start + last.bytes.len() as u64)
    }
}

#[cfg(test)]
mod tests;
