//! A line of the audit: a decision with its number, or how many decisions are missing.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::clock::now_unix_ms;
use crate::core::ids::StreamId;
use crate::core::policy::Effect;

/// Which side of an open was asked (wire.md §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// May the caller use the service?
    Caller,
    /// May the provider be called by the caller?
    Callee,
    /// No rule was asked: the relay itself lets it pass or refuses it.
    Relay,
}

impl Side {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Callee => "callee",
            Self::Relay => "relay",
        }
    }
}

/// One decision: `AuditEvent` of wire.md §8, and which side and which rule it was. What is refused that is no stream, or one that
/// was not read, is an event of [`Side::Relay`] with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// When it fell, in milliseconds since 1970.
    pub ts_unix_ms: i64,
    /// Whose rules were asked; empty where a peer of no tenant was refused.
    pub tenant: Arc<str>,
    /// The side that was asked.
    pub side: Side,
    /// Who asked: on the callee's side, the provider.
    pub caller: Arc<str>,
    /// For what: on the callee's side, the consumer.
    pub target: Arc<str>,
    /// With which method; may be empty.
    pub method: Arc<str>,
    /// What was decided.
    pub decision: Effect,
    /// The rule that decided; none when no rule did.
    pub rule: Option<Arc<str>>,
    /// In words.
    pub reason: Arc<str>,
    /// The stream that was to be opened; none where it is about none, or about one that nothing is known of. A text in the file as on
    /// the wire, for not every reader of JSON has 64 bits; empty for none.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub stream_id: Option<StreamId>,
}

impl AuditEvent {
    /// What the relay itself says now to `caller`, a peer of `tenant`, of no stream and nothing that was asked for.
    #[must_use]
    pub fn by_relay(tenant: &str, caller: &str, decision: Effect, reason: &str) -> Self {
        Self {
            ts_unix_ms: now_unix_ms(),
            tenant: tenant.into(),
            side: Side::Relay,
            caller: caller.into(),
            target: "".into(),
            method: "".into(),
            decision,
            rule: None,
            reason: reason.into(),
            stream_id: None,
        }
    }
}

#[allow(clippy::ref_option, reason = "serde gives a reference to the field")]
fn as_text<S: Serializer>(id: &Option<StreamId>, serializer: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => serializer.collect_str(id),
        None => serializer.serialize_str(""),
    }
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<StreamId>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(|id| Some(StreamId(id))).map_err(de::Error::custom)
}

/// A decision and its number. A number that is missing between two others is a decision that is lost; one that stands there
/// twice was written twice, because a crash came before it was known to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered {
    /// When the relay that decided was started, in milliseconds since 1970.
    pub run: i64,
    /// Its place in that run: 1, 2, 3, …
    pub seq: u64,
    /// What was decided.
    #[serde(flatten)]
    pub event: AuditEvent,
}

/// Decisions that are not in the audit because the queue was full. They have used up numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// When the last of them fell, in milliseconds since 1970.
    pub ts_unix_ms: i64,
    /// The run, as in [`Numbered`].
    pub run: i64,
    /// How many.
    pub dropped: u64,
}

/// What a line holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Record {
    /// A decision.
    Event(Numbered),
    /// Decisions that are missing here.
    Dropped(Dropped),
}

impl Record {
    /// What `line` holds; none for a line that is torn, or not of the audit. Fields that nobody knows are passed over: a
    /// later version may have written them.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let event = serde_json::from_str(line).map(Self::Event);
        event.or_else(|_| serde_json::from_str(line).map(Self::Dropped)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::event;
    use super::*;

    #[test]
    fn an_event_is_one_json_line() {
        let record = Record::Event(Numbered { run: 1_700_000_000_001, seq: 3, event: event(u64::MAX) });
        let line = serde_json::to_string(&record).unwrap();
        let expected = "{\"run\":1700000000001,\"seq\":3,\"ts_unix_ms\":1700000000000,\"tenant\":\"acme\",\"side\":\"callee\",\
            \"caller\":\"outrelay://acme/agent/b\",\"target\":\"outrelay://acme/agent/a\",\"method\":\"\",\
            \"decision\":\"deny\",\"rule\":null,\"reason\":\"no rule\\nmatches\",\"stream_id\":\"18446744073709551615\"}";
        assert_eq!(line, expected);
        assert_eq!(Record::parse(&line), Some(record.clone()));
        assert_eq!(Record::parse(&line.replace("\"run\"", "\"later\":[1],\"run\"")), Some(record));
    }

    #[test]
    fn what_is_about_no_stream_leaves_its_id_empty() {
        let about_none = Numbered { run: 1, seq: 1, event: AuditEvent { stream_id: None, ..event(1) } };
        let record = Record::Event(about_none);
        let line = serde_json::to_string(&record).unwrap();
        assert!(line.ends_with(",\"stream_id\":\"\"}"), "{line}");
        assert_eq!(Record::parse(&line), Some(record));
    }

    #[test]
    fn what_is_missing_is_one_json_line() {
        let record = Record::Dropped(Dropped { ts_unix_ms: 7, run: 5, dropped: 2 });
        let line = serde_json::to_string(&record).unwrap();
        assert_eq!(line, "{\"ts_unix_ms\":7,\"run\":5,\"dropped\":2}");
        assert_eq!(Record::parse(&line), Some(record));
    }

    #[test]
    fn what_is_torn_or_foreign_is_nothing() {
        let whole = serde_json::to_string(&Numbered { run: 1, seq: 1, event: event(1) }).unwrap();
        for line in ["", "{}", "null", "hello", "{\"ts_unix_ms\":7}", &whole[..whole.len() - 1], &whole[1..]] {
            assert_eq!(Record::parse(line), None, "{line}");
        }
    }
}
