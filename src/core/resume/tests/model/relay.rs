//! The relay: real pairing, and as much of a splice as moves items.

use std::time::Duration;

use super::Mode;
use super::agent::ID;
use super::net::{Down, Item, Net, Up};
use crate::core::identity::AgentUri;
use crate::core::reject::ResetCode;
use crate::core::resume::Fields;
use crate::core::resume::pairing::{
    CALL_EVERY, Echo, Half, HalfId, Known, Match, Named, Origin, Outcome, Pairing, Refusal, Unproven,
};

pub(super) struct Relay {
    mode: Mode,
    agents: [AgentUri; 2],
    is_recorded: bool,
    pairing: Pairing,
    /// Streams that have not said yet what they are.
    fresh: Vec<u64>,
    /// The same, but nothing has arrived on them yet.
    late: Vec<u64>,
    /// Each agent's stream, and whether its FIN has passed.
    splice: Option<[(u64, bool); 2]>,
    called_at: Duration,
    pub(super) matches: usize,
    pub(super) refused: usize,
}

impl Relay {
    pub(super) fn new(mode: Mode, agents: [AgentUri; 2]) -> Self {
        let pairing = Pairing::new(agents[0].tenant().clone(), ID);
        Self {
            mode,
            agents,
            is_recorded: false,
            pairing,
            fresh: Vec::new(),
            late: Vec::new(),
            splice: None,
            called_at: Duration::ZERO,
            matches: 0,
            refused: 0,
        }
    }

    /// The stream was opened just now.
    pub(super) fn opened(&mut self, streams: [u64; 2]) {
        self.is_recorded = true;
        self.splice = Some(streams.map(|id| (id, false)));
    }

    pub(super) fn on_fresh(&mut self, id: u64) {
        self.fresh.push(id);
    }

    pub(super) fn delay(&mut self) {
        self.late.append(&mut self.fresh);
    }

    pub(super) fn arrive(&mut self) {
        self.fresh.append(&mut self.late);
    }

    /// The streams that it holds.
    pub(super) fn held(&self) -> Vec<u64> {
        let spliced = self.splice.iter().flatten().map(|(id, _)| *id);
        let parked = self.pairing.waiting().map(|half| half.id.0);
        self.fresh.iter().copied().chain(spliced).chain(parked).collect()
    }

    /// Takes one item from a stream, or notices that its connection is lost.
    pub(super) fn turn(&mut self, id: u64, net: &mut Net, now: Duration) {
        if let Some(at) = self.fresh.iter().position(|fresh| *fresh == id) {
            let is_cut = net.stream(id).is_cut;
            match net.stream(id).up.pop_front() {
                Some(Item::Resume(origin, fields)) => {
                    self.fresh.remove(at);
                    self.on_half(id, origin, fields, net, now);
                }
                None if !is_cut => {}
                _ => drop(self.fresh.remove(at)),
            }
        } else if self.pairing.waiting().is_some_and(|half| half.id.0 == id) {
            let stream = net.stream(id);
            if stream.is_cut || stream.up.iter().any(|item| matches!(item, Item::Reset(_))) {
                assert!(self.pairing.on_lost(HalfId(id)));
            }
        } else {
            self.pump(id, net);
        }
    }

    fn pump(&mut self, id: u64, net: &mut Net) {
        let Some(splice) = &mut self.splice else { return };
        let Some(from) = splice.iter().position(|(stream, _)| *stream == id) else { return };
        let to = splice[1 - from].0;
        if net.stream(id).is_cut {
            self.end_splice(net);
            return;
        }
        if !net.has_room_down(to) {
            return;
        }
        match net.stream(id).up.pop_front() {
            None => {}
            Some(Item::Data(bytes)) => net.send_down(to, Item::Data(bytes)),
            Some(Item::Fin) => {
                net.send_down(to, Item::Fin);
                splice[from].1 = true;
                if splice[to_other(from)].1 {
                    self.splice = None;
                }
            }
            Some(Item::Reset(_)) => self.end_splice(net),
            Some(other) => panic!("{other:?} in the middle of a stream"),
        }
    }

    fn on_half(&mut self, id: u64, origin: Origin, fields: Fields, net: &mut Net, now: Duration) {
        let fin_state = if self.is_legacy() { Named::No } else { Named::Yes };
        let agent = net.stream(id).agent;
        let echo = Echo::of(origin, Named::Yes, fin_state);
        let half = Half { id: HalfId(id), agent: self.agents[agent].clone(), fields, origin, echo };
        let known = self.known();
        assert_eq!(known.admits(&half.agent), Ok(()));
        self.end_splice(net);
        match self.pairing.on_half(half, &known, now) {
            Outcome::Parked => self.call(net, now),
            Outcome::ParkedInsteadOf(old, refusal) => {
                assert_eq!(refusal, Refusal::Replaced);
                net.send_down(old.id.0, Item::Reset(refusal.reset()));
                self.call(net, now);
            }
            Outcome::Matched(pair) => self.on_match(&pair, net),
            Outcome::Refused(half, refusal) => panic!("{half:?}: {refusal}"),
            Outcome::BothRefused(halves, refusal) => {
                self.refused += 1;
                halves.iter().for_each(|half| net.send_down(half.id.0, Item::Reset(refusal.reset())));
            }
        }
    }

    fn on_match(&mut self, pair: &Match, net: &mut Net) {
        self.matches += 1;
        self.is_recorded = true;
        let (to_first, to_second) = pair.echoes();
        for (half, echo) in [(&pair.first, to_first), (&pair.second, to_second)] {
            net.send_down(half.id.0, Item::Resume(Origin::Resume, echo.unwrap()));
        }
        let mut streams = [(pair.first.id.0, false), (pair.second.id.0, false)];
        if pair.first.agent != self.agents[0] {
            streams.swap(0, 1);
        }
        self.splice = Some(streams);
    }

    pub(super) fn on_control(&mut self, agent: usize, message: &Up, net: &mut Net) {
        let other = to_other(agent);
        match message {
            Up::Checkpoint(fields) => {
                if self.is_recorded && net.is_connected[other] {
                    net.send_checkpoint_down(other, *fields);
                }
            }
            Up::Gone => {
                let waiting = self.pairing.waiting().filter(|half| half.agent == self.agents[other]);
                if let Some(id) = waiting.map(|half| half.id) {
                    self.pairing.on_lost(id);
                    net.send_down(id.0, Item::Reset(Refusal::WindowOver.reset()));
                }
            }
        }
    }

    /// An agent has connected: it may be one that is wanted.
    pub(super) fn on_connected(&mut self, net: &mut Net, now: Duration) {
        self.call(net, now);
    }

    pub(super) fn on_time(&mut self, net: &mut Net, now: Duration) {
        if let Some(half) = self.pairing.on_time(now) {
            net.send_down(half.id.0, Item::Reset(Refusal::WindowOver.reset()));
        }
        if now >= self.called_at + CALL_EVERY {
            self.call(net, now);
        }
    }

    pub(super) fn end_splice(&mut self, net: &mut Net) {
        for (id, _) in self.splice.take().into_iter().flatten() {
            net.send_down(id, Item::Reset(ResetCode::RESUMABLE));
        }
    }

    pub(super) fn kill_entry(&mut self, net: &mut Net) {
        if let Some(id) = self.pairing.waiting().map(|half| half.id) {
            self.pairing.on_lost(id);
            net.send_down(id.0, Item::Reset(ResetCode::RESUMABLE));
        }
    }

    fn call(&mut self, net: &mut Net, now: Duration) {
        let Some(half) = self.pairing.waiting() else { return };
        let wanted = to_other(usize::from(half.agent == self.agents[1]));
        if self.mode == Mode::Full && net.is_connected[wanted] {
            self.called_at = now;
            net.control_down[wanted].push_back(Down::Wanted);
        }
    }

    fn known(&self) -> Known {
        if self.is_recorded || self.mode == Mode::Full {
            return Known::Parties(self.agents[0].clone(), self.agents[1].clone());
        }
        Known::Nothing(Unproven::Allowed)
    }

    fn is_legacy(&self) -> bool {
        matches!(self.mode, Mode::Legacy | Mode::Silent)
    }
}

pub(super) fn to_other(agent: usize) -> usize {
    1 - agent
}
