//! Blocks of memory into which streams are read, from a pool per thread.
//!
//! What was read is cut off a block as [`Bytes`] and handed on without a copy; the block goes back to the pool at once, and is used again
//! when all that was cut off it is gone: for QUIC, when the peer has acknowledged it. So a stream that is full allocates nothing in
//! steady state. Less than half a block is copied into an allocation of its own size instead: what stands in a block that many streams
//! share would be kept by the one of them whose peer does not answer.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// A block's size, in bytes: what is moved at once at most. Large enough that quinn's send buffer keeps few segments.
pub const BLOCK: usize = 64 * 1024;
/// What is read is handed on in its block from this size on, and copied below it: a few bytes that nobody acknowledges must
/// not hold a whole block.
const BY_REFERENCE: usize = BLOCK / 2;
/// Blocks kept per thread: what a connection's send window holds at its default, so about what is under way.
const POOLED: usize = 64;
/// Blocks that are looked at for one that is free: the oldest are at the front.
const LOOKS: usize = 2;

thread_local! {
    static POOL: RefCell<VecDeque<BytesMut>> = const { RefCell::new(VecDeque::new()) };
}

#[cfg(test)]
thread_local! {
    static TAKEN: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// An empty buffer with room for [`BLOCK`] bytes; dropping it gives it back (to the pool of the thread it is dropped on).
#[derive(Debug)]
pub struct Block(BytesMut);

impl Block {
    /// One of the pool, or a new one.
    #[must_use]
    pub fn take() -> Self {
        #[cfg(test)]
        TAKEN.set(TAKEN.get() + 1);
        Self(POOL.with_borrow_mut(|pool| {
            for _ in 0..LOOKS.min(pool.len()) {
                let Some(mut block) = pool.pop_front() else { break };
                if block.try_reclaim(BLOCK) {
                    return block;
                }
                pool.push_back(block);
            }
            BytesMut::with_capacity(BLOCK)
        }))
    }

    /// Where to read into.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.0
    }

    /// What was read; the block goes back to the pool.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        if self.0.len() >= BY_REFERENCE {
            return self.0.split().freeze();
        }
        let copy = Bytes::copy_from_slice(&self.0);
        self.0.clear();
        copy
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        #[cfg(test)]
        TAKEN.set(TAKEN.get() - 1);
        let block = std::mem::take(&mut self.0);
        let kept = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < POOLED {
                pool.push_back(block);
            }
        });
        if kept.is_err() {
            tracing::trace!("a block outlived its thread's pool");
        }
    }
}

/// Blocks of this thread that are in use, and in the pool.
#[cfg(test)]
pub fn counts() -> (usize, usize) {
    (TAKEN.get(), POOL.with_borrow(VecDeque::len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(len: usize) -> Bytes {
        let mut block = Block::take();
        assert!(block.buffer().is_empty() && block.buffer().capacity() >= BLOCK);
        block.buffer().extend_from_slice(&vec![7; len]);
        block.into_bytes()
    }

    #[test]
    fn a_block_is_used_again_once_what_was_cut_off_it_is_gone() {
        let first = read(BLOCK);
        let at = first.as_ptr();
        let second = read(BLOCK);
        assert_ne!(second.as_ptr(), at, "the first is still in use");
        drop(first);
        let third = read(BLOCK);
        assert_eq!(third.as_ptr(), at);
        assert_eq!(counts(), (0, 2));
    }

    #[test]
    fn a_few_bytes_hold_no_block() {
        let few = read(100);
        assert_eq!((few.len(), counts()), (100, (0, 1)));
        let many = read(BLOCK);
        assert_ne!(few.as_ptr(), many.as_ptr());
        assert_eq!(counts(), (0, 1), "it was free");
    }

    #[test]
    fn the_pool_is_bounded() {
        let blocks: Vec<_> = (0..POOLED + 10).map(|_| Block::take()).collect();
        drop(blocks);
        assert_eq!(counts(), (0, POOLED));
    }
}
