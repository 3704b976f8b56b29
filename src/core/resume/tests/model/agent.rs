//! An agent with one stream: a real endpoint, driven as the copy tasks and the control reader drive it.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;

use super::Mode;
use super::net::{Down, Item, Net, Up};
use crate::core::ids::StreamId;
use crate::core::reject::ResetCode;
use crate::core::resume::Fields;
use crate::core::resume::endpoint::{
    Endpoint, Epoch, FinRead, FreezeError, Loss, PathError, PeerKind, Phase, Taken, Tick, ToWrite, Wanted,
};
use crate::core::resume::finished::{Finished, FinishedStreams};
use crate::core::resume::pairing::Origin;
use crate::core::ring::{Allowance, Ring, RingLimits};

pub(super) const ID: StreamId = StreamId(7);
/// What an application writes at most.
pub(super) const SOURCE_BYTES: usize = 96 * 1024;
const CHUNK_BYTES: usize = 6000;
/// How long an agent wants a stream back.
const PATIENCE: Duration = Duration::from_secs(35);

/// What the two applications write: no position looks like another near it.
static SOURCES: LazyLock<[Bytes; 2]> = LazyLock::new(|| {
    let byte = |salt: u64, at: usize| (at as u64 + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[2];
    [1, 9].map(|salt| (0..SOURCE_BYTES).map(|at| byte(salt, at)).collect::<Vec<u8>>().into())
});

/// How the stream ended for an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Finished,
    Lost(Loss),
}

/// The direction that an application writes, as the other agent may check it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Written {
    pub(super) bytes: usize,
    pub(super) is_ended: bool,
}

pub(super) struct Agent {
    me: usize,
    mode: Mode,
    endpoint: Endpoint,
    memory: FinishedStreams,
    pub(super) end: Option<End>,
    pub(super) written: Written,
    /// How much of that the local → path task has read.
    taken: usize,
    is_stalled: bool,
    pub(super) delivered: usize,
    pub(super) has_fin: bool,
    path: Option<(Epoch, u64)>,
    /// Its FIN was read.
    is_path_ended: bool,
    /// Paths that are over, latest last.
    old: Vec<(Epoch, u64)>,
    /// Taken, and not written yet.
    in_hand: Option<Bytes>,
    half: Option<u64>,
    /// A half that only tells how the stream ended.
    epilogue: Option<u64>,
    pub(super) was_asked: bool,
    pub(super) met_old_numbers: bool,
}

impl Agent {
    pub(super) fn new(me: usize, mode: Mode, path: u64) -> Self {
        let peer = match mode {
            Mode::Full | Mode::Bare => PeerKind::FinState,
            Mode::Legacy | Mode::Silent => PeerKind::Legacy,
        };
        let limits = RingLimits { min: 8 * 1024, max: 32 * 1024 };
        Self {
            me,
            mode,
            endpoint: Endpoint::new(ID, peer, Ring::new(limits, &Allowance::new(16 * 1024))),
            memory: FinishedStreams::new(10),
            end: None,
            written: Written::default(),
            taken: 0,
            is_stalled: false,
            delivered: 0,
            has_fin: false,
            path: Some((Epoch::FIRST, path)),
            is_path_ended: false,
            old: Vec::new(),
            in_hand: None,
            half: None,
            epilogue: None,
            was_asked: false,
            met_old_numbers: false,
        }
    }

    pub(super) fn write(&mut self, bytes: usize) {
        if !self.written.is_ended {
            self.written.bytes = (self.written.bytes + bytes).min(SOURCE_BYTES);
        }
    }

    pub(super) fn end(&mut self) {
        self.written.is_ended = true;
    }

    pub(super) fn set_stalled(&mut self, is_stalled: bool) {
        self.is_stalled = is_stalled;
    }

    pub(super) fn pump(&mut self, net: &mut Net, now: Duration) {
        let Some((epoch, id)) = self.path else {
            self.take(Epoch::FIRST, now);
            return;
        };
        if !net.has_room_up(id) {
            return;
        }
        if self.in_hand.is_none() {
            match self.endpoint.next_write(epoch).unwrap() {
                ToWrite::Bytes(bytes) => self.in_hand = Some(bytes),
                ToWrite::Fin => {
                    net.send_up(id, Item::Fin);
                    self.endpoint.fin_written(epoch, now).unwrap();
                }
                ToWrite::Nothing => self.take(epoch, now),
            }
        }
        if let Some(bytes) = self.in_hand.take() {
            net.send_up(id, Item::Data(bytes));
        }
        self.settle(now);
    }

    pub(super) fn late_pump(&mut self, now: Duration) {
        if let Some((epoch, _)) = self.old.last() {
            self.take(*epoch, now);
        }
    }

    fn take(&mut self, epoch: Epoch, now: Duration) {
        if self.end.is_some() {
            return;
        }
        let len = self.endpoint.room(now).min(self.written.bytes - self.taken).min(CHUNK_BYTES);
        if len == 0 {
            if self.written.is_ended && self.taken == self.written.bytes {
                self.endpoint.take_fin();
            }
            return;
        }
        let bytes = SOURCES[self.me].slice(self.taken..self.taken + len);
        self.taken += len;
        if self.endpoint.take(epoch, bytes.clone(), now) == Taken::Write {
            assert_eq!(self.path.map(|(current, _)| current), Some(epoch), "told to write to a path that is over");
            self.in_hand = Some(bytes);
        }
    }

    pub(super) fn read(&mut self, net: &mut Net, partner: Written, now: Duration) {
        if let Some(id) = self.half.or(self.epilogue) {
            self.read_half(id, net, now);
        }
        let Some((epoch, id)) = self.path.filter(|_| !self.is_stalled) else { return };
        match net.stream(id).down.pop_front() {
            None => {}
            Some(Item::Data(bytes)) => {
                self.endpoint.consumed(epoch, bytes.len(), now).unwrap();
                self.deliver(&bytes, partner);
            }
            Some(Item::Fin) => {
                let read = self.endpoint.fin_read(epoch, now).unwrap();
                self.is_path_ended = true;
                self.on_fin(read, partner);
            }
            Some(Item::Reset(_) | Item::Lost) => self.freeze(net, now),
            Some(Item::Resume(..)) => panic!("a frame in the middle of a stream"),
        }
        self.settle(now);
    }

    /// A task that has not noticed that its path is over.
    pub(super) fn late_read(&mut self, net: &mut Net, partner: Written, now: Duration) {
        let Some((epoch, id)) = self.old.last().copied() else { return };
        match net.stream(id).down.pop_front() {
            Some(Item::Data(bytes)) => match self.endpoint.consumed(epoch, bytes.len(), now) {
                Ok(()) => self.deliver(&bytes, partner),
                Err(error) => assert_eq!(error, PathError::Stale),
            },
            Some(Item::Fin) => match self.endpoint.fin_read(epoch, now) {
                Ok(read) => self.on_fin(read, partner),
                Err(error) => assert_eq!(error, PathError::Stale),
            },
            _ => {}
        }
    }

    fn deliver(&mut self, bytes: &Bytes, partner: Written) {
        let end = self.delivered + bytes.len();
        assert!(!self.has_fin, "agent {}: bytes behind the end", self.me);
        assert!(end <= partner.bytes, "agent {}: more was read than was written", self.me);
        let expected = &SOURCES[1 - self.me][self.delivered..end];
        assert!(expected == bytes, "agent {}: other bytes at {} than were written", self.me, self.delivered);
        self.delivered = end;
    }

    fn on_fin(&mut self, read: FinRead, partner: Written) {
        match read {
            FinRead::End => {
                assert!(partner.is_ended && self.delivered == partner.bytes, "agent {}: cut short", self.me);
                assert!(!self.has_fin, "agent {}: ended twice", self.me);
                self.has_fin = true;
            }
            FinRead::Again => assert!(self.has_fin),
            FinRead::Cut { missing } => panic!("agent {}: {missing} bytes are missing", self.me),
        }
    }

    fn read_half(&mut self, id: u64, net: &mut Net, now: Duration) {
        match net.stream(id).down.pop_front() {
            None => {}
            Some(Item::Resume(_, theirs)) if self.epilogue == Some(id) => {
                assert!(theirs.my_position <= self.delivered as u64);
                net.send_up(id, Item::Fin);
                self.epilogue = None;
            }
            Some(Item::Resume(_, theirs)) => {
                self.half = None;
                match self.endpoint.on_echo(&theirs, now) {
                    Ok(plan) => {
                        self.path = Some((plan.epoch, id));
                        self.is_path_ended = false;
                    }
                    Err(error) => {
                        assert!(error.may_be_stale(), "agent {}: {error}", self.me);
                        self.met_old_numbers = true;
                        net.send_up(id, Item::Reset(ResetCode::RESUMABLE));
                    }
                }
            }
            Some(Item::Reset(ResetCode::NOT_RESUMABLE)) => {
                self.half = None;
                self.epilogue = None;
                self.lose(net);
            }
            Some(_) => {
                self.half = None;
                self.epilogue = None;
            }
        }
    }

    pub(super) fn freeze(&mut self, net: &mut Net, now: Duration) {
        if self.end.is_some() {
            return;
        }
        match self.endpoint.freeze(now) {
            Ok(()) => self.leave_path(net),
            Err(FreezeError::RingGivenUp) => self.lose(net),
            Err(error) => panic!("agent {}: {error}", self.me),
        }
    }

    fn leave_path(&mut self, net: &mut Net) {
        self.in_hand = None;
        if let Some((epoch, id)) = self.path.take() {
            self.old.push((epoch, id));
            net.send_up(id, Item::Reset(ResetCode::RESUMABLE));
        }
    }

    fn lose(&mut self, net: &mut Net) {
        if self.end.is_none() {
            self.end = Some(End::Lost(self.endpoint.lose()));
            self.leave_path(net);
            if let Some(id) = self.half.take() {
                net.send_up(id, Item::Reset(ResetCode::NOT_RESUMABLE));
            }
        }
    }

    /// Sends a half if the stream is frozen and none is under way. Returns its stream.
    pub(super) fn resume(&mut self, origin: Origin, net: &mut Net) -> Option<u64> {
        let is_frozen = matches!(self.endpoint.phase(), Phase::Frozen { .. });
        if !is_frozen || self.half.is_some() || !net.is_connected[self.me] {
            return None;
        }
        let fields = match origin {
            Origin::Resume => self.endpoint.fields(),
            Origin::Demotion => self.endpoint.fields().without_fin(),
        };
        self.half = Some(send_half(self.me, origin, fields, net));
        self.half
    }

    /// Gives up on the half that is under way, in favour of another one.
    pub(super) fn duplicate(&mut self, net: &mut Net) -> Option<u64> {
        let old = self.half.take()?;
        let new = self.resume(Origin::Resume, net);
        if new.is_some() {
            net.send_up(old, Item::Reset(ResetCode::RESUMABLE));
        }
        self.half = new.or(Some(old));
        new
    }

    pub(super) fn tick(&mut self, net: &mut Net, now: Duration) {
        if self.end.is_some() {
            return;
        }
        if let Phase::Frozen { since } = self.endpoint.phase() {
            if now >= since + PATIENCE {
                self.lose(net);
            }
            return;
        }
        if let Some(fields) = self.endpoint.checkpoint(now)
            && net.is_connected[self.me]
            && self.mode != Mode::Silent
        {
            net.control_up[self.me].push_back(Up::Checkpoint(fields));
        }
        if self.endpoint.tick(now) == Some(Tick::AskForEnd) {
            self.freeze(net, now);
        }
        self.settle(now);
    }

    /// Returns a stream that was opened.
    pub(super) fn on_control(&mut self, message: &Down, net: &mut Net, now: Duration) -> Option<u64> {
        match (message, self.end) {
            (Down::Checkpoint(theirs), None) => {
                self.endpoint.on_checkpoint(theirs, now).unwrap();
                self.settle(now);
                None
            }
            (Down::Checkpoint(_), Some(_)) => None,
            (Down::Wanted, Some(End::Finished)) => self.tell_end(net, now),
            (Down::Wanted, _) => {
                match self.endpoint.on_wanted(now) {
                    Wanted::Resume => self.freeze(net, now),
                    Wanted::Gone => net.control_up[self.me].push_back(Up::Gone),
                    Wanted::Ignore => {}
                }
                None
            }
        }
    }

    fn tell_end(&mut self, net: &mut Net, now: Duration) -> Option<u64> {
        self.was_asked = true;
        if let Some(old) = self.epilogue.take() {
            net.send_up(old, Item::Reset(ResetCode::RESUMABLE));
        }
        match self.memory.recall(ID, now) {
            Some(Finished { fields, .. }) => {
                self.epilogue = Some(send_half(self.me, Origin::Resume, fields, net));
            }
            None => net.control_up[self.me].push_back(Up::Gone),
        }
        self.epilogue
    }

    /// The tasks have ended if the stream has.
    fn settle(&mut self, now: Duration) {
        if self.end.is_none() && self.endpoint.is_finished() {
            assert!(self.has_fin, "agent {}: finished without an end", self.me);
            let may_break_off = matches!(self.mode, Mode::Legacy | Mode::Silent);
            assert!(self.is_path_ended || may_break_off, "agent {}: breaks off a path that has not ended", self.me);
            self.memory.remember(Finished { fields: self.endpoint.fields(), ..Finished::default() }, now);
            self.end = Some(End::Finished);
            self.path = None;
        }
    }

    pub(super) fn describe(&self) -> String {
        let (taken, written, delivered) = (self.taken, self.written, self.delivered);
        format!("{:?} {:?} {written:?} taken {taken} delivered {delivered}", self.endpoint.phase(), self.end)
    }
}

fn send_half(agent: usize, origin: Origin, fields: Fields, net: &mut Net) -> u64 {
    let id = net.open(agent);
    net.send_up(id, Item::Resume(origin, fields));
    id
}
