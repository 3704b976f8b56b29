//! What a soak says at its end.

use std::time::Duration;

use serde_json::{Value, json};

use super::Plan;
use super::chaos::Done;
use super::memory::Span;
use super::relays::Counts;
use super::tally::Tally;

/// Memory is judged from this long on: before, everything still grows to its size.
const LONG: Duration = Duration::from_secs(300);
/// How much it may grow from the middle of a run to its end, in percent.
const GROWTH: f64 = 5.0;

/// What one process had before the first stream, and after the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The relay's name, or `bench` for this process.
    pub whose: String,
    /// Before.
    pub start: Counts,
    /// After; of what is not as it was before after all waiting.
    pub end: Counts,
}

/// How long streams stood still, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct StallMs {
    /// Half of what was seen was no longer.
    pub p50: Option<usize>,
    /// 99 of 100.
    pub p99: Option<usize>,
    /// The longest.
    pub max: Option<usize>,
    /// How many: one for each stream with something under way, each time that somebody struck.
    pub count: u64,
}

/// All of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How long streams were carried.
    pub lasted: Duration,
    /// What came of them.
    pub tally: Tally,
    /// How long they stood still.
    pub stalls: StallMs,
    /// What was done to the relays.
    pub done: Done,
    /// Memory of the relays, all together.
    pub relays_memory: Span,
    /// Memory of this process.
    pub own_memory: Span,
    /// What is left.
    pub kept: Vec<Kept>,
    /// What else went wrong.
    pub problems: Vec<String>,
}

impl Outcome {
    /// Everything that keeps it from being ok, one sentence each.
    #[must_use]
    pub fn wrong(&self, plan: &Plan) -> Vec<String> {
        let tally = &self.tally;
        let mut found = Vec::new();
        let mut count = |count: u64, what: &str| {
            if count > 0 {
                found.push(format!("{count} {what}"));
            }
        };
        count(tally.wrong.lost, "bytes lost");
        count(tally.wrong.duplicated, "bytes duplicated");
        count(tally.corrupt, "streams with bytes that nobody sent");
        count(tally.failed, "streams failed");
        // While relays are killed, an open may find no provider: its client hears so, and tries again.
        count(if plan.chaos.is_none() { tally.refused } else { 0 }, "opens refused, with nothing to disturb them");
        count(u64::from(tally.streams == 0 || tally.bytes == 0), "streams were all, or no byte came");
        found
            .extend(tally.failures.reasons().into_iter().map(|reason| format!("{} × {}", reason.count, reason.reason)));
        let left = self.kept.iter().filter(|kept| kept.start != kept.end);
        found.extend(left.map(|Kept { whose, start, end }| {
            format!(
                "{whose}: {} actors and {} descriptors at the end, {} and {} at the start",
                end.actors, end.fds, start.actors, start.fds
            )
        }));
        if self.lasted >= LONG {
            let grown = [("the relays", self.relays_memory), ("this process", self.own_memory)];
            let grown = grown.into_iter().filter_map(|(whose, span)| Some((whose, span.growth_percent()?)));
            found.extend(grown.filter(|(_, percent)| *percent > GROWTH).map(|(whose, percent)| {
                format!("the memory of {whose} has grown by {percent:.1} % from the middle of the run to its end")
            }));
        }
        found.extend(self.done.problems.iter().chain(&self.problems).cloned());
        found
    }

    /// The object that `--json` prints (cli.md).
    #[must_use]
    pub fn to_json(&self, plan: &Plan) -> Value {
        let wrong = self.wrong(plan);
        let kept = self.kept.iter().map(|kept| (kept.whose.clone(), json!({ "start": kept.start, "end": kept.end })));
        json!({
            "mode": "soak",
            "ok": wrong.is_empty(),
            "build": if cfg!(debug_assertions) { "debug" } else { "release" },
            "seed": plan.volume.seed,
            "secs": self.lasted.as_secs_f64().round(),
            "chaos": plan.chaos.is_some(),
            "relays": plan.relays,
            "at_once": plan.volume.streams,
            "streams": self.tally.streams,
            "bytes": self.tally.bytes,
            "lost_bytes": self.tally.wrong.lost,
            "duplicated_bytes": self.tally.wrong.duplicated,
            "corrupt_streams": self.tally.corrupt,
            "failed_streams": self.tally.failed,
            "refused_opens": self.tally.refused,
            "kills": self.done.kills,
            "rule_changes": self.done.rule_changes,
            "stall_ms": self.stalls,
            "memory_kib": { "relays": self.relays_memory, "bench": self.own_memory },
            "memory_growth": { "relays": percent(self.relays_memory), "bench": percent(self.own_memory) },
            "left": kept.collect::<serde_json::Map<_, _>>(),
            "wrong": wrong,
        })
    }
}

/// One decimal is more than it is worth.
fn percent(span: Span) -> Option<f64> {
    span.growth_percent().map(|percent| (percent * 10.0).round() / 10.0)
}
