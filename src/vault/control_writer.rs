//! Writes one control stream: whole frames, in order, from a bounded queue. It outlives the actors that send, so a
//! killed actor never leaves half a frame on the wire.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::core::frame::Frame;
use crate::net::stream::SendHalf;
use crate::supervise::task::{self, Owned};

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
    frames: mpsc::Sender<Bytes>,
    _task: Owned,
}

impl ControlWriter {
    /// Writes to `send` from a queue of at most `queue` frames.
    #[must_use]
    pub fn new(mut send: SendHalf, queue: usize) -> Self {
        let (frames, mut waiting) = mpsc::channel::<Bytes>(queue);
        let task = task::run(async move {
            while let Some(frame) = waiting.recv().await {
                if let Err(end) = send.write_all(&frame).await {
                    tracing::debug!(?end, "control stream takes no more frames");
                    return;
                }
            }
        });
        Self { frames, _task: task }
    }

    /// Queues one frame.
    ///
    /// # Errors
    /// When the queue is full or the stream is closed.
    pub fn send(&self, frame: &Frame) -> Result<(), ControlSendError> {
        self.frames.try_send(frame.encode()).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => ControlSendError::Full,
            mpsc::error::TrySendError::Closed(_) => ControlSendError::Closed,
        })
    }
}
