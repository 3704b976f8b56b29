//! Load against any ORP relay, ours or a legacy one: a process that plays provider and consumer, and tells what it saw.
//!
//! Nothing here needs more than wire.md §1–4: no extension is named, so every relay of version 0.1 can be measured in the same way.
//! What the relay spent is read from `/proc` ([`process`]); what went wrong is counted with its reason ([`failure`]), and a run
//! with a single failure is not `ok`.

pub mod failure;
pub mod figures;
pub mod payload;
pub mod process;
pub mod report;
pub mod site;
pub mod soak;

mod agent;
mod connect;
mod idle;
mod load;
mod open;
mod provider;
mod rtt;
mod splice;

use std::sync::Arc;
use std::time::Duration;

use failure::{Failure, Failures};
use figures::Figures;
use process::Process;
use report::{Report, Run};
use site::Site;

/// Streams of one consumer's connection: legacy relays allow 100, the control stream included (wire.md §10), and a stream
/// that has ended counts a little longer. More streams take more consumers.
const STREAMS_PER_CONSUMER: u32 = 90;
/// The longest wait for one connection or one stream while a run is set up.
const SETUP: Duration = Duration::from_secs(15);
/// How long what is under way at the end of a run may take to end. Longer than a relay waits for a provider.
const GRACE: Duration = Duration::from_secs(15);

/// Which way the payload of a splice goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Direction {
    /// From the consumer to the provider
    Up,
    /// From the provider to the consumer
    Down,
    /// Both at once
    Both,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Payload through spliced streams.
    Splice {
        /// Streams at once.
        streams: u32,
        /// Which way.
        direction: Direction,
        /// Bytes of a write, at most [`payload::BLOCK`].
        write_bytes: usize,
    },
    /// A message there and back, over and over, on one stream.
    Rtt {
        /// Bytes of a message.
        bytes: usize,
    },
    /// Streams are opened, bring one byte back, and end.
    Open {
        /// How many at once.
        at_once: u32,
    },
    /// Agents connect, say HELLO, and leave.
    Connect {
        /// How many at once.
        at_once: u32,
    },
    /// Agents and streams that do nothing.
    Idle {
        /// Connections that each run adds.
        connections: u32,
        /// Spliced streams that each run adds.
        streams: u32,
    },
}

impl Mode {
    /// The mode's name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Splice { .. } => "splice",
            Self::Rtt { .. } => "rtt",
            Self::Open { .. } => "open",
            Self::Connect { .. } => "connect",
            Self::Idle { .. } => "idle",
        }
    }
}

/// How long is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Before anything is measured.
    pub warm_up: Duration,
    /// While it is measured.
    pub measured: Duration,
}

/// All that a benchmark does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The relay, and who its agents are.
    pub site: Arc<Site>,
    /// What is measured.
    pub mode: Mode,
    /// How long each run takes.
    pub timing: Timing,
    /// How many runs, one after the other.
    pub runs: u32,
    /// The relay's process, when it runs on this machine and its CPU time and memory are wanted.
    pub relay: Option<Process>,
}

/// Does what `plan` says. What fails is in the report; after a run that could not be set up there is no further one.
pub async fn run(plan: &Plan) -> Report {
    let mut each = Vec::new();
    let mut held = idle::Held::default();
    for _ in 0..plan.runs {
        let run = match plan.mode {
            Mode::Splice { streams, direction, write_bytes } => {
                splice::run(plan, splice::Shape { streams, direction, write_bytes }).await
            }
            Mode::Rtt { bytes } => rtt::run(plan, bytes).await,
            Mode::Open { at_once } => open::run(plan, at_once).await,
            Mode::Connect { at_once } => connect::run(plan, at_once).await,
            Mode::Idle { connections, streams } => idle::run(plan, connections, streams, &mut held).await,
        };
        match run {
            Ok(run) => each.push(run),
            Err(failure) => {
                each.push(failed(failure));
                break;
            }
        }
    }
    Report::new(plan, each)
}

fn failed(failure: Failure) -> Run {
    let mut failures = Failures::default();
    failures.add(&failure);
    Run { figures: Figures::default(), completed: 0, failures }
}
