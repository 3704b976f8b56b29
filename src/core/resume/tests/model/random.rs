//! Where the steps come from: splitmix64, so that a seed means the same everywhere and for ever.

use super::{Mode, Step, Unread};

const STEPS: u64 = 1500;

pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap()
    }

    /// A life: its mode and its steps, each of which follows how rough this life is.
    pub(super) fn schedule(&mut self) -> (Mode, Vec<Step>) {
        let mode = match self.below(20) {
            0..10 => Mode::Full,
            10..16 => Mode::Bare,
            16..19 => Mode::Legacy,
            _ => Mode::Silent,
        };
        let count = 20 + self.below(STEPS);
        // From one trouble in about four steps to one in about fifty.
        let calm = [3, 10, 50][self.index(3)];
        let waits_long = self.below(20) == 0;
        // In half of the lives the applications end early, so that trouble finds the stream closing.
        let latest = if self.below(2) == 0 { count / 4 } else { 2 * count };
        let ends = [0, 1].map(|agent| (self.below(latest), Step::End(agent)));
        let mut steps = Vec::new();
        for at in 0..count {
            steps.extend(ends.iter().filter(|(when, _)| *when == at).map(|(_, end)| end));
            match self.below(calm) {
                0 if self.below(10) == 0 => self.late_half(&mut steps),
                0 if self.below(10) == 0 => self.cut_behind_the_splice(&mut steps),
                0 => steps.push(self.trouble(waits_long)),
                _ if self.below(8) == 0 => self.round(&mut steps),
                _ => steps.push(self.progress()),
            }
        }
        (mode, steps)
    }

    /// Everyone takes a turn or two: single steps alone seldom bring two halves together.
    fn round(&mut self, steps: &mut Vec<Step>) {
        for _ in 0..1 + self.below(3) {
            for agent in [0, 1] {
                steps.extend([Step::Reconnect(agent), Step::Resume(agent), Step::Pump(agent), Step::Tick(agent)]);
                steps.push(Step::ControlUp(agent));
            }
            steps.extend([Step::Relay(1), Step::Relay(0), Step::Relay(1)]);
            steps.extend([Step::Read(0), Step::Read(1), Step::ControlDown(0), Step::ControlDown(1)]);
        }
        steps.push(Step::Wait(1 + self.below(20)));
    }

    /// The frame of a half that is given up for another one comes when the stream has gone on, and the partner answers it.
    fn late_half(&mut self, steps: &mut Vec<Step>) {
        let agent = self.index(2);
        let partner = 1 - agent;
        steps.extend([Step::KillSplice, Step::Read(agent), Step::Read(partner)]);
        steps.extend([Step::Resume(agent), Step::Delay, Step::Duplicate(agent), Step::Write(partner, 1000)]);
        for _ in 0..4 {
            self.round(steps);
        }
        steps.extend([Step::Arrive, Step::Relay(0)]);
        steps.extend([Step::Read(partner); 4]);
        steps.extend([Step::Resume(partner), Step::Relay(0), Step::Read(partner)]);
    }

    /// One that does not read is cut off from what the relay has passed on, and done with, already.
    fn cut_behind_the_splice(&mut self, steps: &mut Vec<Step>) {
        let agent = self.index(2);
        steps.push(Step::Stall(agent));
        self.round(steps);
        steps.push(Step::Cut(agent, Unread::Lost));
    }

    fn progress(&mut self) -> Step {
        let agent = self.index(2);
        match self.below(40) {
            0..6 => {
                let most = [20, 3000, 9000][self.index(3)];
                Step::Write(agent, 1 + self.index(most))
            }
            6 => Step::Unstall(agent),
            7..14 => Step::Pump(agent),
            14..20 => Step::Read(agent),
            20..30 => Step::Relay(self.index(4)),
            30..32 => Step::Tick(agent),
            32..34 => Step::ControlUp(agent),
            34..36 => Step::ControlDown(agent),
            36 => Step::Reconnect(agent),
            37 => Step::Resume(agent),
            _ => Step::Wait(1 + self.below(20)),
        }
    }

    fn trouble(&mut self, waits_long: bool) -> Step {
        let agent = self.index(2);
        match self.below(22) {
            0..3 => Step::Cut(agent, if self.below(2) == 0 { Unread::Kept } else { Unread::Lost }),
            3..6 => Step::KillSplice,
            6..8 => Step::KillEntry,
            8 => Step::KillRelay,
            9 => Step::Stall(agent),
            10..12 => Step::Duplicate(agent),
            12 => Step::Demote(agent),
            13..15 => Step::LatePump(agent),
            15..18 => Step::LateRead(agent),
            18 if waits_long => Step::Wait(31_000),
            18 => Step::Wait(100),
            19 => Step::Resume(agent),
            20 => Step::Delay,
            _ => Step::Arrive,
        }
    }
}
