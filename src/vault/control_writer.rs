//! Writes one control stream: whole frames, in order, from a bounded queue. It outlives the actors that send, so a
//! killed actor never leaves half a frame on the wire.
//!
//! Of the checkpoints of one stream only the newest waits: it takes the place of an older one, which says nothing that the newer
//! one does not (wire.md §5). So a peer that reads slowly is not behind, and many busy streams do not fill the queue.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::core::frame::Frame;
use crate::net::stream::SendHalf;
use crate::supervise::task::{self, Owned};

/// How many streams' checkpoints may wait beside the frames of the queue: more than a connection has streams by default.
const CHECKPOINTS: usize = 16 * 1024;

/// The frame was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlSendError {
    /// The peer does not read its control stream, and the queue is full.
    #[error("the peer does not read its control stream")]
    Full,
    /// The stream is closed.
    #[error("the control stream is closed")]
    Closed,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct ControlWriter {
    shared: Arc<Shared>,
    _task: Owned,
}

#[derive(Debug)]
struct Shared {
    /// What is to be written, and what waits for an answer to go first.
    queues: Mutex<(Queue, Option<Queue>)>,
    waiting: Notify,
}

impl ControlWriter {
    /// Writes to `send` from a queue of at most `queue` frames; checkpoints have a bound of their own. However many streams are busy,
    /// it goes first.
    #[must_use]
    pub fn new(mut send: SendHalf, queue: usize) -> Self {
        send.go_first();
        let shared = Arc::new(Shared { queues: Mutex::new((Queue::new(queue), None)), waiting: Notify::new() });
        let task = task::run(write(send, Arc::clone(&shared)));
        Self { shared, _task: task }
    }

    /// Queues one frame. A STREAM_CHECKPOINT takes the place of one of the same stream that still waits.
    ///
    /// # Errors
    /// When the queue is full or the stream is closed.
    pub fn send(&self, frame: &Frame) -> Result<(), ControlSendError> {
        self.shared.lock().0.push(superseding(frame), frame.encode())?;
        self.shared.waiting.notify_one();
        Ok(())
    }

    /// As [`ControlWriter::send`], of a frame that was not asked for: while an answer is due it waits behind it.
    ///
    /// # Errors
    /// As [`ControlWriter::send`].
    pub fn send_unsolicited(&self, frame: &Frame) -> Result<(), ControlSendError> {
        {
            let (queue, held) = &mut *self.shared.lock();
            held.as_mut().unwrap_or(queue).push(superseding(frame), frame.encode())?;
        }
        self.shared.waiting.notify_one();
        Ok(())
    }

    /// An answer is due: what was not asked for waits from here on.
    pub fn hold(&self) {
        let (queue, held) = &mut *self.shared.lock();
        held.get_or_insert_with(|| Queue::new(queue.limit));
    }

    /// The answer is queued: what waited follows it.
    ///
    /// # Errors
    /// [`ControlSendError::Full`] when the two together are more than may wait.
    pub fn release(&self) -> Result<(), ControlSendError> {
        {
            let (queue, held) = &mut *self.shared.lock();
            let Some(held) = held.take() else { return Ok(()) };
            for Waiting { bytes, checkpoint_of } in held.frames {
                queue.push(checkpoint_of, bytes)?;
            }
        }
        self.shared.waiting.notify_one();
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (Queue, Option<Queue>)> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream of whose waiting frames only the newest counts.
fn superseding(frame: &Frame) -> Option<u64> {
    match frame {
        Frame::StreamCheckpoint(checkpoint) => Some(checkpoint.stream_id),
        _ => None,
    }
}

async fn write(mut send: SendHalf, shared: Arc<Shared>) {
    loop {
        // A frame that is queued in between leaves a permit: it is not missed.
        let next = shared.lock().0.pop();
        let Some(frame) = next else {
            shared.waiting.notified().await;
            continue;
        };
        if let Err(end) = send.write_all(&frame).await {
            tracing::debug!(?end, "control stream takes no more frames");
            shared.lock().0.close();
            return;
        }
    }
}

/// What waits, in order.
#[derive(Debug)]
struct Queue {
    limit: usize,
    frames: VecDeque<Waiting>,
    /// How many frames left the queue: the number of the one at the front.
    gone: u64,
    /// By stream, the number of its waiting checkpoint.
    checkpoints: HashMap<u64, u64>,
    state: State,
}

#[derive(Debug)]
struct Waiting {
    bytes: Bytes,
    /// The stream whose checkpoint it is.
    checkpoint_of: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closed,
}

impl Queue {
    fn new(limit: usize) -> Self {
        Self { limit, frames: VecDeque::new(), gone: 0, checkpoints: HashMap::new(), state: State::Open }
    }

    fn push(&mut self, checkpoint_of: Option<u64>, bytes: Bytes) -> Result<(), ControlSendError> {
        if self.state == State::Closed {
            return Err(ControlSendError::Closed);
        }
        let Some(stream_id) = checkpoint_of else {
            if self.frames.len() - self.checkpoints.len() >= self.limit {
                return Err(ControlSendError::Full);
            }
            self.frames.push_back(Waiting { bytes, checkpoint_of });
            return Ok(());
        };
        if let Some(older) = self.waiting_checkpoint(stream_id) {
            older.bytes = bytes;
            return Ok(());
        }
        if self.checkpoints.len() >= CHECKPOINTS {
            return Err(ControlSendError::Full);
        }
        self.checkpoints.insert(stream_id, self.gone + self.frames.len() as u64);
        self.frames.push_back(Waiting { bytes, checkpoint_of });
        Ok(())
    }

    fn waiting_checkpoint(&mut self, stream_id: u64) -> Option<&mut Waiting> {
        let at = self.checkpoints.get(&stream_id)? - self.gone;
        self.frames.get_mut(usize::try_from(at).ok()?)
    }

    fn pop(&mut self) -> Option<Bytes> {
        let Waiting { bytes, checkpoint_of } = self.frames.pop_front()?;
        self.gone += 1;
        if let Some(stream_id) = checkpoint_of {
            self.checkpoints.remove(&stream_id);
        }
        Some(bytes)
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.frames = VecDeque::new();
        self.checkpoints = HashMap::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::framed::ControlReader;
    use crate::proto::orp;

    fn push(queue: &mut Queue, stream_id: u64, bytes: &'static str) -> Result<(), ControlSendError> {
        queue.push((stream_id != 0).then_some(stream_id), Bytes::from_static(bytes.as_bytes()))
    }

    fn drain(queue: &mut Queue) -> Vec<Bytes> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn a_newer_checkpoint_takes_the_place_of_one_that_waits() {
        let mut queue = Queue::new(10);
        for (stream_id, bytes) in [(0, "gone"), (7, "old"), (0, "ping"), (8, "other"), (7, "new")] {
            push(&mut queue, stream_id, bytes).unwrap();
            if bytes == "gone" {
                assert_eq!(queue.pop().unwrap(), "gone");
            }
        }
        assert_eq!(drain(&mut queue), ["new", "ping", "other"]);
        // The one before is written: this one stands for itself.
        push(&mut queue, 7, "newest").unwrap();
        assert_eq!(drain(&mut queue), ["newest"]);
        assert!(queue.checkpoints.is_empty());
    }

    #[test]
    fn checkpoints_do_not_fill_the_queue_and_have_a_bound_of_their_own() {
        let mut queue = Queue::new(2);
        for stream_id in 1..=CHECKPOINTS as u64 {
            push(&mut queue, stream_id, "checkpoint").unwrap();
        }
        assert_eq!(push(&mut queue, 1 << 40, "one too many"), Err(ControlSendError::Full));
        assert_eq!(push(&mut queue, 5, "newer"), Ok(()));
        assert_eq!((push(&mut queue, 0, "a"), push(&mut queue, 0, "b")), (Ok(()), Ok(())));
        assert_eq!(push(&mut queue, 0, "c"), Err(ControlSendError::Full));
        assert_eq!(drain(&mut queue).len(), CHECKPOINTS + 2);
        queue.close();
        assert_eq!(push(&mut queue, 0, "d"), Err(ControlSendError::Closed));
    }

    #[tokio::test]
    async fn frames_go_out_whole_and_the_newest_checkpoint_counts() {
        let pair = crate::net::harness::Pair::new().await;
        let (near, far) = pair.stream().await;
        let writer = ControlWriter::new(near.send, 4);
        let checkpoint = |my_position| {
            Frame::StreamCheckpoint(orp::StreamCheckpoint { stream_id: 7, my_position, ..Default::default() })
        };
        // The writer's task does not run before this one waits.
        for frame in [checkpoint(1), Frame::Ping, checkpoint(2)] {
            writer.send(&frame).unwrap();
        }
        let mut reader = ControlReader::new(far.recv, 1024);
        for expected in [checkpoint(2), Frame::Ping] {
            reader.fill().await.unwrap();
            assert_eq!(reader.peek(), Some(Ok(expected)));
            reader.consume();
        }
    }

    #[tokio::test]
    async fn a_frame_does_not_wait_behind_busy_streams() {
        const BUSY: usize = 90;
        let pair = crate::net::harness::Pair::new().await;
        let (near, far) = pair.stream().await;
        let writer = ControlWriter::new(near.send, 4);
        let mut busy = Vec::new();
        for _ in 0..BUSY {
            let (send, _recv) = pair.client.open_bi().await.unwrap();
            busy.push(send);
        }
        let block = vec![7; 16 << 10];
        for send in &mut busy {
            send.write_all(&block).await.unwrap();
        }
        writer.send(&Frame::Ping).unwrap();
        let mut reader = ControlReader::new(far.recv, 1024);
        reader.fill().await.unwrap();
        assert_eq!(reader.peek(), Some(Ok(Frame::Ping)));
        let before_it = pair.server.stats().udp_rx.bytes;
        // A packet of each busy stream is more than that.
        assert!(before_it < BUSY as u64 * 1_000, "{before_it} bytes came before it");
    }
}
