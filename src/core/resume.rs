//! Resuming a stream after its path was lost (wire.md §5, §9): what each agent keeps and says, and how the relay joins the
//! two halves.

use crate::core::ids::StreamId;
use crate::proto::orp as pb;

pub mod endpoint;
pub mod finished;
pub mod pairing;
mod schedule;

/// What one agent says about its side of a stream, in STREAM_CHECKPOINT, STREAM_RESUME and, without the FIN state,
/// MIGRATE_TO_RELAY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Fields {
    /// Which stream.
    pub stream_id: StreamId,
    /// How many bytes it has written.
    pub my_position: u64,
    /// How many of the partner's bytes it has consumed: taken into its custody.
    pub peer_ack_position: u64,
    /// It has written its FIN. Only `fin-state` agents say so: false may also mean that nothing is said.
    pub fin_sent: bool,
    /// It has consumed the partner's FIN; said as `fin_sent` is.
    pub fin_consumed: bool,
}

impl Fields {
    /// The same without the FIN state, for a peer that did not name `fin-state` (wire.md §9).
    #[must_use]
    pub fn without_fin(self) -> Self {
        Self { fin_sent: false, fin_consumed: false, ..self }
    }

    /// The message of STREAM_CHECKPOINT.
    #[must_use]
    pub fn to_checkpoint(self) -> pb::StreamCheckpoint {
        let Self { stream_id, my_position, peer_ack_position, fin_sent, fin_consumed } = self;
        pb::StreamCheckpoint { stream_id: stream_id.0, my_position, peer_ack_position, fin_sent, fin_consumed }
    }

    /// The message of STREAM_RESUME; `ticket` is empty in an echo, and where there is none.
    #[must_use]
    pub fn to_resume(self, ticket: Vec<u8>) -> pb::StreamResume {
        let Self { stream_id, my_position, peer_ack_position, fin_sent, fin_consumed } = self;
        let (stream_id, agent_uri) = (stream_id.0, String::new());
        pb::StreamResume { stream_id, my_position, peer_ack_position, fin_sent, fin_consumed, agent_uri, ticket }
    }
}

impl From<&pb::StreamCheckpoint> for Fields {
    fn from(message: &pb::StreamCheckpoint) -> Self {
        Self {
            stream_id: StreamId(message.stream_id),
            my_position: message.my_position,
            peer_ack_position: message.peer_ack_position,
            fin_sent: message.fin_sent,
            fin_consumed: message.fin_consumed,
        }
    }
}

impl From<&pb::StreamResume> for Fields {
    fn from(message: &pb::StreamResume) -> Self {
        Self {
            stream_id: StreamId(message.stream_id),
            my_position: message.my_position,
            peer_ack_position: message.peer_ack_position,
            fin_sent: message.fin_sent,
            fin_consumed: message.fin_consumed,
        }
    }
}

impl From<&pb::MigrateToRelay> for Fields {
    fn from(message: &pb::MigrateToRelay) -> Self {
        Self {
            stream_id: StreamId(message.stream_id),
            my_position: message.my_position,
            peer_ack_position: message.peer_ack_position,
            // The message has no room for it: the first checkpoint on the new path says it.
            fin_sent: false,
            fin_consumed: false,
        }
    }
}

#[cfg(test)]
mod tests;
