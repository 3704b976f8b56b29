//! Everything together, step by step.

use std::time::Duration;

use super::agent::{Agent, End};
use super::net::Net;
use super::relay::{Relay, to_other};
use super::{Mode, Step, Unread};
use crate::core::identity::AgentUri;
use crate::core::resume::endpoint::Loss;
use crate::core::resume::pairing::{Origin, WINDOW};

/// For how long a world that is whole may take to bring the stream to an end.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) struct World {
    mode: Mode,
    now: Duration,
    net: Net,
    relay: Relay,
    /// Of relays that were killed.
    matches: usize,
    refused: usize,
    agents: [Agent; 2],
    /// The network was not whole again in time.
    is_late: bool,
}

impl World {
    /// A stream that was opened just now.
    pub(super) fn new(mode: Mode) -> Self {
        let mut net = Net::default();
        net.is_connected = [true; 2];
        let streams = [net.open(0), net.open(1)];
        let mut relay = Relay::new(mode, uris());
        relay.opened(streams);
        let agents = [0, 1].map(|me| Agent::new(me, mode, streams[me]));
        Self { mode, now: Duration::ZERO, net, relay, matches: 0, refused: 0, agents, is_late: false }
    }

    pub(super) fn perform(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Write(agent, bytes) => self.agents[agent].write(bytes),
            Step::End(agent) => self.agents[agent].end(),
            Step::Stall(agent) => self.agents[agent].set_stalled(true),
            Step::Unstall(agent) => self.agents[agent].set_stalled(false),
            Step::Pump(agent) => self.agents[agent].pump(&mut self.net, now),
            Step::LatePump(agent) => self.agents[agent].late_pump(now),
            Step::Read(agent) => {
                let partner = self.agents[to_other(agent)].written;
                self.agents[agent].read(&mut self.net, partner, now);
            }
            Step::LateRead(agent) => {
                let partner = self.agents[to_other(agent)].written;
                self.agents[agent].late_read(&mut self.net, partner, now);
            }
            Step::Relay(nth) => {
                if let Some(id) = self.relay.held().get(nth) {
                    self.relay.turn(*id, &mut self.net, now);
                }
            }
            Step::Delay => self.relay.delay(),
            Step::Arrive => self.relay.arrive(),
            Step::Tick(agent) => self.agents[agent].tick(&mut self.net, now),
            Step::ControlUp(agent) => {
                if let Some(message) = self.net.control_up[agent].pop_front() {
                    self.relay.on_control(agent, &message, &mut self.net);
                }
            }
            Step::ControlDown(agent) => {
                if let Some(message) = self.net.control_down[agent].pop_front() {
                    let opened = self.agents[agent].on_control(&message, &mut self.net, now);
                    self.opened(opened);
                }
            }
            Step::Cut(agent, unread) => self.net.cut(agent, unread),
            Step::Reconnect(agent) => self.reconnect(agent),
            Step::Resume(agent) => self.resume(agent, Origin::Resume),
            Step::Demote(agent) => self.resume(agent, Origin::Demotion),
            Step::Duplicate(agent) => {
                let opened = self.agents[agent].duplicate(&mut self.net);
                self.opened(opened);
            }
            Step::KillSplice => self.relay.end_splice(&mut self.net),
            Step::KillEntry => self.relay.kill_entry(&mut self.net),
            Step::KillRelay => self.kill_relay(),
            Step::Wait(ms) => self.wait(Duration::from_millis(ms)),
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.is_late |= time >= WINDOW;
        self.relay.on_time(&mut self.net, self.now);
    }

    fn reconnect(&mut self, agent: usize) {
        if !self.net.is_connected[agent] {
            self.net.is_connected[agent] = true;
            self.relay.on_connected(&mut self.net, self.now);
        }
    }

    fn resume(&mut self, agent: usize, origin: Origin) {
        let opened = self.agents[agent].resume(origin, &mut self.net);
        self.opened(opened);
    }

    fn opened(&mut self, stream: Option<u64>) {
        if let Some(id) = stream {
            self.relay.on_fresh(id);
        }
    }

    fn kill_relay(&mut self) {
        for agent in [0, 1] {
            self.net.cut(agent, Unread::Kept);
        }
        self.matches += self.relay.matches;
        self.refused += self.relay.refused;
        self.relay = Relay::new(self.mode, uris());
    }

    /// The network is whole again, the applications end what they write, everyone does what is to be done; messages to
    /// agents move only every so many rounds.
    pub(super) fn heal(&mut self, control_every: usize) {
        let start = self.now;
        self.is_late |= start >= WINDOW - Duration::from_secs(5);
        self.perform(Step::Arrive);
        for agent in [0, 1] {
            self.perform(Step::End(agent));
            self.perform(Step::Unstall(agent));
        }
        let (mut pause, mut rounds) = (1, 0_usize);
        while self.agents.iter().any(|agent| agent.end.is_none()) {
            if self.now > start + PATIENCE {
                let [one, other] = [0, 1].map(|agent| self.agents[agent].describe());
                panic!("a whole network, and yet it hangs:\n{one}\n{other}");
            }
            let before = self.progress();
            for agent in [0, 1] {
                for step in [Step::Reconnect(agent), Step::Resume(agent), Step::Pump(agent), Step::Read(agent)] {
                    self.perform(step);
                }
                self.perform(Step::Tick(agent));
                self.perform(Step::ControlUp(agent));
            }
            rounds += 1;
            if rounds.is_multiple_of(control_every) {
                self.perform(Step::ControlDown(0));
                self.perform(Step::ControlDown(1));
            }
            (0..self.relay.held().len()).for_each(|nth| self.perform(Step::Relay(nth)));
            // Where nothing moves, time goes faster.
            pause = if self.progress() == before { (pause * 2).min(500) } else { 1 };
            self.perform(Step::Wait(pause));
        }
    }

    fn progress(&self) -> (usize, usize, usize) {
        (self.agents[0].delivered, self.agents[1].delivered, self.net.streams.len())
    }

    pub(super) fn check_end(&self) {
        if self.is_late || matches!(self.mode, Mode::Legacy | Mode::Silent) {
            return;
        }
        for (me, agent) in self.agents.iter().enumerate() {
            let partner = self.agents[to_other(me)].written;
            assert_eq!((agent.delivered, agent.has_fin), (partner.bytes, true), "agent {me}: {}", agent.describe());
            // Without RESUME_WANTED nobody asks an agent that has finished how it ended.
            let is_unconfirmed = self.mode == Mode::Bare && agent.end == Some(End::Lost(Loss::Confirmation));
            assert!(is_unconfirmed || agent.end == Some(End::Finished), "agent {me}: {}", agent.describe());
        }
    }

    /// How often two halves were joined.
    pub(super) fn matches(&self) -> usize {
        self.matches + self.relay.matches
    }

    /// Whether a half was found to be out of date, by the relay or by the partner.
    pub(super) fn has_met_old_numbers(&self) -> bool {
        self.refused + self.relay.refused > 0 || self.agents.iter().any(|agent| agent.met_old_numbers)
    }

    /// Whether an agent that had finished was asked how the stream ended.
    pub(super) fn has_called(&self) -> bool {
        self.agents.iter().any(|agent| agent.was_asked)
    }

    /// Whether an agent lost the stream.
    pub(super) fn has_lost(&self) -> bool {
        self.agents.iter().any(|agent| agent.end != Some(End::Finished))
    }
}

fn uris() -> [AgentUri; 2] {
    [0, 1].map(|number| {
        let uuid = format!("00000000-0000-0000-0000-00000000000{number}");
        AgentUri::new(&"acme".parse().unwrap(), &uuid).unwrap()
    })
}
