//! What a benchmark says at its end.

use serde_json::{Map, Value, json};

use super::failure::Failures;
use super::figures::Figures;
use super::{Mode, Plan};

/// One run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What was measured.
    pub figures: Figures,
    /// What was done within the measured time: bytes, round trips, streams or connections; of idle ones, how many are held.
    pub completed: u64,
    /// What went wrong.
    pub failures: Failures,
}

/// All runs, and their medians.
#[derive(Clone, Debug)]
pub struct Report {
    /// The runs, in order.
    pub each: Vec<Run>,
    /// The median of each figure.
    pub medians: Figures,
    /// What went wrong in all of them.
    pub failures: Failures,
}

impl Report {
    /// Of the runs of `plan`. That all succeeded with nothing done is not success.
    #[must_use]
    pub fn new(plan: &Plan, each: Vec<Run>) -> Self {
        let medians = Figures::medians(each.iter().map(|run| &run.figures));
        let mut failures = Failures::default();
        for run in &each {
            failures.merge(run.failures.clone());
            if run.completed == 0 && run.failures.count() == 0 && !expects_nothing(plan.mode) {
                let nothing = "nothing was completed within the measured time";
                failures.add(&super::failure::Failure::new(super::failure::Step::Transfer, nothing));
            }
        }
        Self { each, medians, failures }
    }

    /// Whether nothing failed.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.failures.count() == 0
    }

    /// The object that `--json` prints (cli.md).
    #[must_use]
    pub fn to_json(&self, plan: &Plan) -> Value {
        let mut object = conditions(plan);
        object.insert("ok".into(), self.is_ok().into());
        object.insert("runs".into(), self.each.len().into());
        object.append(&mut numbers(&self.medians));
        object.insert("failed".into(), self.failures.count().into());
        object.insert("failures".into(), json!(self.failures.reasons()));
        object.insert("each".into(), self.each.iter().map(run_json).collect());
        object.into()
    }
}

/// An idle relay without agents is measured too.
fn expects_nothing(mode: Mode) -> bool {
    matches!(mode, Mode::Idle { connections: 0, streams: 0 })
}

fn run_json(run: &Run) -> Value {
    let mut object = numbers(&run.figures);
    object.insert("completed".into(), run.completed.into());
    object.insert("failed".into(), run.failures.count().into());
    object.insert("failures".into(), json!(run.failures.reasons()));
    object.into()
}

/// Four decimals are more than the figures are worth.
fn numbers(figures: &Figures) -> Map<String, Value> {
    figures.iter().map(|(figure, value)| (figure.key().to_owned(), json!((value * 1e4).round() / 1e4))).collect()
}

/// What was run.
fn conditions(plan: &Plan) -> Map<String, Value> {
    let mut object = Map::new();
    let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
    set("mode", plan.mode.name().into());
    set("relay", plan.site.relay.to_string().into());
    set("relay_pid", plan.relay.as_ref().map_or(Value::Null, |relay| relay.pid().into()));
    set("carrier", "quic".into());
    set("build", if cfg!(debug_assertions) { "debug" } else { "release" }.into());
    set("secs", plan.timing.measured.as_secs_f64().into());
    match plan.mode {
        Mode::Splice { streams, direction, write_bytes } => {
            set("streams", streams.into());
            set("direction", format!("{direction:?}").to_lowercase().into());
            set("size", write_bytes.into());
        }
        Mode::Rtt { bytes } => {
            set("size", bytes.into());
        }
        Mode::Open { at_once } => {
            set("streams", at_once.into());
        }
        Mode::Connect { at_once } => {
            set("conns", at_once.into());
        }
        Mode::Idle { connections, streams } => {
            set("conns", connections.into());
            set("streams", streams.into());
            set("unit", if streams > 0 { "stream" } else { "connection" }.into());
        }
    }
    object
}
