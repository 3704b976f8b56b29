//! What stands behind the lock of a stream.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Notify;

use super::{PathHalf, is_lost, kind, leaving};
use crate::agent::vault::session::Session;
use crate::core::identity::RelayUri;
use crate::core::ids::{Capabilities, Capability};
use crate::core::reject::ResetCode;
use crate::core::resume::Fields;
use crate::core::resume::endpoint::{Endpoint, Epoch, Loss, PeerKind, Phase};
use crate::net::stream::{RecvHalf, SendHalf};

/// How one direction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneEnd {
    /// With its FIN.
    Fin,
    /// The local application has cut its socket.
    LocalReset,
    /// Whoever reads it wants no more.
    Stopped(ResetCode),
}

/// The stream was given up.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) loss: Loss,
    pub(super) why: String,
}

/// What is known of the other end.
#[derive(Debug)]
pub(super) struct Knowledge {
    /// What it named, as a relay told that does tell.
    peer: Option<Capabilities>,
    /// STREAM_READY came.
    is_ready: bool,
    /// It has spoken of FINs, which only agents do that named `fin-state`.
    speaks_of_fins: bool,
    /// STREAM_READY is sure to come, and will tell.
    pub(super) awaits_ready: bool,
    /// The stream has carried something, or was resumed.
    pub(super) has_flowed: bool,
}

impl Knowledge {
    pub(super) fn new(features: Capabilities, peer: Option<Capabilities>) -> Self {
        let mut knowledge = Self {
            peer: None,
            is_ready: false,
            speaks_of_fins: false,
            awaits_ready: peer.is_none() && will_tell(features),
            has_flowed: false,
        };
        if let Some(peer) = peer {
            knowledge.ready(features, peer);
        }
        knowledge
    }

    /// STREAM_READY came on a session with `features`.
    pub(super) fn ready(&mut self, features: Capabilities, peer: Capabilities) {
        self.is_ready = true;
        self.awaits_ready = false;
        // A relay that does not tell leaves it open: another one may.
        if features.contains(Capability::PeerCaps) {
            self.peer.get_or_insert(peer);
        }
    }

    /// What the other end is known to have named.
    pub(super) fn peer(&self) -> Option<Capabilities> {
        self.peer
    }

    /// What to take the other end for on a session with `features`. While it is not told, where it could be: for one that
    /// confirms, so that the stream is not taken for finished before. STREAM_READY may be lost with its session.
    pub(super) fn kind(&self, features: Capabilities) -> PeerKind {
        let mut peer = self.peer.unwrap_or_default();
        if self.speaks_of_fins || (self.peer.is_none() && will_tell(features)) {
            peer.insert(Capability::FinState);
        }
        kind(features, peer)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_ready || self.has_flowed
    }
}

/// Whether a relay that accepted `features` tells what the other end named, and lets it confirm the end.
fn will_tell(features: Capabilities) -> bool {
    features.contains(Capability::PeerCaps) && features.contains(Capability::FinState)
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) endpoint: Endpoint,
    pub(super) knowledge: Knowledge,
    /// Of the session on which the path is.
    pub(super) features: Capabilities,
    /// A new path's halves, until their tasks take them.
    pub(super) send: Option<PathHalf<SendHalf>>,
    pub(super) recv: Option<PathHalf<RecvHalf>>,
    /// What the keeper sleeps for.
    pub(super) keeper_wakes: Option<Duration>,
    /// A FIN was read, and the partner's word on it is awaited.
    pub(super) holds_fin: bool,
    pub(super) to_path: Option<LaneEnd>,
    pub(super) from_path: Option<LaneEnd>,
    pub(super) dead: Option<Dead>,
    pub(super) resumed: u64,
    /// The newest that came; empty where there is none.
    pub(super) ticket: Bytes,
    /// Where the path is, or was last.
    pub(super) relay: RelayUri,
    /// The number of the session on which it is, or was last.
    pub(super) session: u64,
    /// It has come back to a relay that drains, and is not moved again.
    pub(super) stays: bool,
    /// The number of the session at whose relay the other agent's half was last said to wait.
    pub(super) called_on: Option<u64>,
}

impl Inner {
    pub(super) fn new(endpoint: Endpoint, knowledge: Knowledge, session: &Session) -> Self {
        Self {
            endpoint,
            knowledge,
            features: session.features,
            relay: session.relay.clone(),
            session: session.number,
            stays: false,
            called_on: None,
            send: None,
            recv: None,
            keeper_wakes: None,
            holds_fin: false,
            to_path: None,
            from_path: None,
            dead: None,
            resumed: 0,
            ticket: Bytes::new(),
        }
    }

    pub(super) fn is_current(&self, epoch: Epoch) -> bool {
        matches!(self.endpoint.phase(), Phase::Live(current) | Phase::Closing(current) if current == epoch)
            || self.endpoint.phase() == Phase::Finished
    }

    /// Whether the stream lives, and its path is on this session, or was there last.
    pub(super) fn is_on(&self, session: u64) -> bool {
        self.dead.is_none() && !self.endpoint.is_finished() && self.session == session
    }

    /// Whether no direction has ended but with its FIN: else there is nothing to resume.
    pub(super) fn is_whole(&self) -> bool {
        let is_whole = |end: &Option<LaneEnd>| matches!(end, None | Some(LaneEnd::Fin));
        is_whole(&self.to_path) && is_whole(&self.from_path)
    }

    /// Whether nothing is left to do: the stream is lost, or both directions have ended, one of them not with its FIN.
    pub(super) fn is_over(&self) -> bool {
        self.dead.is_some() || (!self.is_whole() && self.to_path.is_some() && self.from_path.is_some())
    }

    pub(super) fn is_modern(&self) -> bool {
        self.knowledge.kind(self.features) == PeerKind::FinState
    }

    /// Tells the endpoint what is known of the other end by now.
    pub(super) fn settle_kind(&mut self) {
        self.endpoint.learn_peer(self.knowledge.kind(self.features));
    }

    /// The partner's numbers came.
    pub(super) fn hear(&mut self, theirs: &Fields) {
        if (theirs.fin_sent || theirs.fin_consumed) && !self.knowledge.speaks_of_fins {
            self.knowledge.speaks_of_fins = true;
            self.settle_kind();
        }
    }

    /// Wakes the keeper if it sleeps for longer than it should now.
    pub(super) fn poke(&mut self, keeper: &Notify) {
        let Some(wake_at) = self.endpoint.wake_at() else { return };
        if !self.knowledge.awaits_ready && self.keeper_wakes.is_none_or(|at| wake_at < at) {
            self.keeper_wakes = Some(wake_at);
            keeper.notify_one();
        }
    }

    /// Leaves a path that its tasks have not taken yet.
    pub(super) fn discard_untaken(&mut self) {
        if let Some(path) = self.send.take() {
            path.half.reset(leaving(path.codes));
        }
        if let Some(path) = self.recv.take() {
            path.half.stop(leaving(path.codes));
        }
    }

    pub(super) fn outcome(&self) -> String {
        match &self.dead {
            Some(dead) if is_lost(dead.loss) => return dead.why.clone(),
            Some(dead) => return format!("complete, not confirmed: {}", dead.why),
            None => {}
        }
        match (&self.to_path, &self.from_path) {
            (Some(LaneEnd::Fin), Some(LaneEnd::Fin)) => "complete".to_owned(),
            (to_path, from_path) => {
                format!("to relay: {}; from relay: {}", text(to_path.as_ref()), text(from_path.as_ref()))
            }
        }
    }

    pub(super) fn shown(&self) -> Shown {
        let ring = self.endpoint.ring();
        Shown {
            relay: self.relay.to_string(),
            phase: match self.endpoint.phase() {
                Phase::Live(_) => "live",
                Phase::Frozen { .. } => "resuming",
                Phase::Closing(_) => "closing",
                Phase::Finished => "finished",
                Phase::Lost => "lost",
            },
            resumable: self.endpoint.is_resumable() && self.is_whole(),
            written: ring.end(),
            acknowledged: ring.start(),
            consumed: self.endpoint.consumed_position(),
            ring_bytes: ring.len(),
            ring_capacity_bytes: ring.capacity(),
            resumed: self.resumed,
            peer: match self.knowledge.kind(self.features) {
                PeerKind::FinState => "fin-state",
                PeerKind::Legacy => "legacy",
            },
        }
    }
}

fn text(end: Option<&LaneEnd>) -> String {
    match end {
        None => "cut".to_owned(),
        Some(LaneEnd::Fin) => "finished".to_owned(),
        Some(LaneEnd::LocalReset) => "reset by the local application".to_owned(),
        Some(LaneEnd::Stopped(code)) => format!("stopped with {code}"),
    }
}

/// A stream as it is shown, for the tree. Positions count bytes of the stream's life, all paths together.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// Where its path is, or was last.
    pub relay: String,
    /// `live`, `resuming`, `closing`, `finished` or `lost`.
    pub phase: &'static str,
    /// Whether it would outlive its path.
    pub resumable: bool,
    /// Taken from the local socket.
    pub written: u64,
    /// Known to be consumed by the other agent.
    pub acknowledged: u64,
    /// Taken from the other agent.
    pub consumed: u64,
    /// What is kept to be sent again.
    pub ring_bytes: usize,
    /// How much may be kept at present.
    pub ring_capacity_bytes: usize,
    /// How often it has gone on on a new path.
    pub resumed: u64,
    /// What the other agent is taken for.
    pub peer: &'static str,
}
