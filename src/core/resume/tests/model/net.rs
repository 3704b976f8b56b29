//! Streams with items in flight, and the control streams beside them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::Unread;
use crate::core::reject::ResetCode;
use crate::core::resume::Fields;
use crate::core::resume::pairing::Origin;

/// How many chunks fit into a stream on its way.
const IN_FLIGHT: usize = 4;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Item {
    /// STREAM_RESUME, MIGRATE_TO_RELAY or an echo.
    Resume(Origin, Fields),
    Data(Bytes),
    Fin,
    Reset(ResetCode),
    /// The connection is lost.
    Lost,
}

#[derive(Debug)]
pub(super) enum Up {
    Checkpoint(Fields),
    /// 410, the answer to RESUME_WANTED.
    Gone,
}

#[derive(Debug)]
pub(super) enum Down {
    Checkpoint(Fields),
    Wanted,
}

/// One stream between an agent and the relay.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) agent: usize,
    pub(super) up: VecDeque<Item>,
    pub(super) down: VecDeque<Item>,
    pub(super) is_cut: bool,
}

#[derive(Debug, Default)]
pub(super) struct Net {
    pub(super) streams: BTreeMap<u64, Stream>,
    pub(super) is_connected: [bool; 2],
    pub(super) control_up: [VecDeque<Up>; 2],
    pub(super) control_down: [VecDeque<Down>; 2],
    resets: u64,
}

impl Net {
    /// A fresh stream of the agent, on its present connection.
    pub(super) fn open(&mut self, agent: usize) -> u64 {
        assert!(self.is_connected[agent]);
        let id = 1 + self.streams.len() as u64;
        self.streams.insert(id, Stream { agent, up: VecDeque::new(), down: VecDeque::new(), is_cut: false });
        id
    }

    pub(super) fn stream(&mut self, id: u64) -> &mut Stream {
        self.streams.get_mut(&id).unwrap()
    }

    pub(super) fn has_room_up(&mut self, id: u64) -> bool {
        let stream = self.stream(id);
        stream.up.len() < IN_FLIGHT
    }

    pub(super) fn has_room_down(&mut self, id: u64) -> bool {
        let stream = self.stream(id);
        stream.down.len() < IN_FLIGHT
    }

    pub(super) fn send_up(&mut self, id: u64, item: Item) {
        let overtakes = self.overtakes(&item);
        let stream = self.stream(id);
        if !stream.is_cut {
            // A half's frame is not overtaken: then the reset would come before the stream is known at all.
            let is_half = matches!(stream.up.front(), Some(Item::Resume(..)));
            if overtakes && !is_half {
                stream.up.clear();
            }
            stream.up.push_back(item);
        }
    }

    pub(super) fn send_down(&mut self, id: u64, item: Item) {
        let overtakes = self.overtakes(&item);
        let stream = self.stream(id);
        if !stream.is_cut {
            if overtakes {
                stream.down.clear();
            }
            stream.down.push_back(item);
        }
    }

    /// Every second reset discards what was written before it, as far as that has not been read.
    fn overtakes(&mut self, item: &Item) -> bool {
        if matches!(item, Item::Reset(_)) {
            self.resets += 1;
        }
        matches!(item, Item::Reset(_)) && self.resets.is_multiple_of(2)
    }

    /// The agent's connection is lost, with everything that was on its way to the relay.
    pub(super) fn cut(&mut self, agent: usize, unread: Unread) {
        for stream in self.streams.values_mut().filter(|stream| stream.agent == agent && !stream.is_cut) {
            stream.is_cut = true;
            stream.up.clear();
            if unread == Unread::Lost {
                stream.down.clear();
            }
            stream.down.push_back(Item::Lost);
        }
        self.is_connected[agent] = false;
        self.control_up[agent].clear();
        self.control_down[agent].clear();
    }

    /// A checkpoint that still waits gives way to a later one.
    pub(super) fn send_checkpoint_down(&mut self, agent: usize, fields: Fields) {
        let queue = &mut self.control_down[agent];
        queue.retain(|message| !matches!(message, Down::Checkpoint(_)));
        queue.push_back(Down::Checkpoint(fields));
    }
}
