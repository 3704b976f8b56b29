//! What a relay counts. One struct; every metric is documented where it is declared, and that text is its help.
//!
//! Identities, which tests hold:
//! - established connections = `connections_opened` − `connections_ended`
//! - live streams = `streams_opened` − `streams_ended`
//! - opens with outcome `spliced` = `streams_opened`, but for streams that were resumed here
//!
//! Labels have few values, all of them from this program: nothing that a peer sends becomes a label.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub use self::limit::Limit;
use crate::supervise::node::Node;

mod limit;

/// Upper bounds of the open latency's buckets, in seconds: a local open takes well under a millisecond, the deadline
/// of a whole open is 15 s by default.
const OPEN_SECONDS: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 5.0, 15.0];

/// How something ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// A word of this program.
    pub outcome: &'static str,
}

/// How an open ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OpenLabel {
    /// `spliced`, `rejected`, `abandoned` (the consumer went away), `aborted` (reset for another try), `limited` (reset unread,
    /// since its agent has as many streams as it may).
    pub outcome: &'static str,
    /// The reject code; 0 for anything but `rejected`.
    pub code: u32,
}

/// Which way bytes went.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DirectionLabel {
    /// `to_provider` or `to_consumer`.
    pub direction: &'static str,
}

/// A policy decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DecisionLabel {
    /// `caller` or `callee`.
    pub side: &'static str,
    /// `allow` or `deny`.
    pub decision: &'static str,
}

/// An actor kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ActorLabel {
    /// The kind, as in the tree.
    pub actor: &'static str,
}

/// A limit of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LimitLabel {
    /// Written as its key: the one below `limits`, or `section.key` of another section.
    pub limit: Limit,
}

/// From the start each limit has its counter: whoever looks for an increase sees the first refusal, too.
fn limits_not_hit() -> Family<LimitLabel, Counter> {
    let limits = Family::default();
    for limit in Limit::ALL {
        drop(limits.get_or_create(&LimitLabel { limit: *limit }));
    }
    limits
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $name:ident: $kind:ty = $make:expr, $unit:expr;)+) => {
        /// See the module's documentation. A counter's name ends in `_total` when it is read.
        pub struct Metrics {
            registry: Registry,
            $($(#[doc = $help])+ pub $name: $kind,)+
        }

        impl Default for Metrics {
            fn default() -> Self {
                let mut registry = Registry::with_prefix("outrelay");
                $(
                    let $name: $kind = $make;
                    let help = concat!($($help),+).trim().trim_end_matches('.');
                    match $unit {
                        Some(unit) => registry.register_with_unit(stringify!($name), help, unit, $name.clone()),
                        None => registry.register(stringify!($name), help, $name.clone()),
                    }
                )+
                Self { registry, $($name,)+ }
            }
        }
    };
}

metrics! {
    /// Connections whose TLS handshake was done and whose identity is an agent's.
    connections_opened: Counter = Counter::default(), None;
    /// Of those, the ones that ended.
    connections_ended: Counter = Counter::default(), None;
    /// Established connections.
    connections: Gauge = Gauge::default(), None;
    /// Connection attempts by outcome: established, tls, timed_out, identity, refused, retry.
    handshakes: Family<OutcomeLabel, Counter> = Family::default(), None;
    /// TLS handshakes in progress.
    handshakes_in_progress: Gauge = Gauge::default(), None;
    /// Connections that were closed because their certificate was no longer valid.
    connections_invalid: Counter = Counter::default(), None;
    /// Connections that were closed because the agent broke the protocol.
    protocol_violations: Counter = Counter::default(), None;
    /// REGISTER by outcome: registered, refused.
    registrations: Family<OutcomeLabel, Counter> = Family::default(), None;
    /// Opens by outcome and reject code.
    opens: Family<OpenLabel, Counter> = Family::default(), None;
    /// From the arrival of a stream to its splice or its refusal.
    open_latency: Histogram = Histogram::new(OPEN_SECONDS), Some(Unit::Seconds);
    /// Streams that were spliced.
    streams_opened: Counter = Counter::default(), None;
    /// Of those, the ones that ended.
    streams_ended: Counter = Counter::default(), None;
    /// Live streams.
    streams: Gauge = Gauge::default(), None;
    /// Application bytes passed on, by direction.
    traffic: Family<DirectionLabel, Counter> = Family::default(), Some(Unit::Bytes);
    /// Halves of streams that came to be resumed, by what became of them: matched (two at once), matched_ticket,
    /// matched_unproven, lost, limit, and the reasons for which one is refused.
    resumes: Family<OutcomeLabel, Counter> = Family::default(), None;
    /// Streams of which a half waits for its partner.
    parked: Gauge = Gauge::default(), None;
    /// Policy decisions by side and effect.
    decisions: Family<DecisionLabel, Counter> = Family::default(), None;
    /// Rules in force.
    policy_rules: Gauge = Gauge::default(), None;
    /// Since the rules in force were published.
    policy_snapshot_age: Gauge = Gauge::default(), Some(Unit::Seconds);
    /// Since when newer rules cannot be used, or it is not known whether there are any; 0 while those in force are the newest.
    policy_outdated: Gauge<f64, AtomicU64> = Gauge::default(), Some(Unit::Seconds);
    /// Decisions that wait for the audit log.
    audit_waiting: Gauge = Gauge::default(), None;
    /// Decisions that were lost because the audit queue was full.
    audit_dropped: Counter = Counter::default(), None;
    /// Attempts to write the audit log that failed; what they held is tried again.
    audit_write_failures: Counter = Counter::default(), None;
    /// Actors that were started again, by kind.
    actor_restarts: Family<ActorLabel, Counter> = Family::default(), None;
    /// Messages that wait for an actor of which there is one, by kind.
    actor_mailbox: Family<ActorLabel, Gauge> = Family::default(), None;
    /// Refusals because a limit was reached, by limit: its key below `limits`, or with its section in front.
    limits_hit: Family<LimitLabel, Counter> = limits_not_hit(), None;
    /// Whether the relay is draining.
    draining: Gauge = Gauge::default(), None;
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// All of them in the OpenMetrics text format.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }

    /// A connection attempt ended.
    pub fn handshake(&self, outcome: &'static str) {
        self.handshakes.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// An open ended.
    pub fn open(&self, outcome: &'static str, code: u32) {
        self.opens.get_or_create(&OpenLabel { outcome, code }).inc();
    }

    /// An open that began at `since` has got its answer.
    pub fn open_answered(&self, outcome: &'static str, code: u32, since: Instant) {
        self.open(outcome, code);
        self.open_latency.observe(since.elapsed().as_secs_f64());
    }

    /// A half, or a pair of them, came to an end of its waiting.
    pub fn resume(&self, outcome: &'static str) {
        self.resumes.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Something was refused because this limit was reached.
    pub fn limit_hit(&self, limit: Limit) {
        self.limits_hit.get_or_create(&LimitLabel { limit }).inc();
    }

    /// Counts the restarts of the actor at `node`.
    pub fn count_restarts(&self, node: &Node) {
        count_restarts(&self.actor_restarts, node);
    }

    /// The counter of one limit, for what outlives a look at the whole.
    #[must_use]
    pub fn limit(&self, limit: Limit) -> Counter {
        self.limits_hit.get_or_create_owned(&LimitLabel { limit })
    }
}

/// Counts the restarts of the actor at `node` by its kind.
pub fn count_restarts(restarts: &Family<ActorLabel, Counter>, node: &Node) {
    let restarts = restarts.clone();
    let label = ActorLabel { actor: node.kind() };
    node.on_restart(move || {
        restarts.get_or_create(&label).inc();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_written_with_its_help_its_unit_and_the_prefix() {
        let metrics = Metrics::default();
        metrics.connections_opened.inc();
        metrics.open("rejected", 404);
        metrics.open_latency.observe(0.002);
        let text = metrics.render().unwrap();
        for line in [
            "# HELP outrelay_connections_opened Connections whose TLS handshake was done and whose identity is an agent's.",
            "outrelay_connections_opened_total 1",
            "outrelay_opens_total{outcome=\"rejected\",code=\"404\"} 1",
            "outrelay_open_latency_seconds_bucket{le=\"0.0025\"} 1",
            "outrelay_limits_hit_total{limit=\"quic.connection_window_max_bytes\"} 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
