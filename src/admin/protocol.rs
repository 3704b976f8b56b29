//! What travels over the admin socket: one JSON object a line, a request and then its reply.
//!
//! `{"cmd":"inspect","actor":"splice:42"}` is answered by `{"ok":true,"data":…}` or `{"ok":false,"error":"…"}`. The data of
//! `tree` is a [`Report`](crate::supervise::report::Report), that of `inspect` an
//! [`Inspection`](crate::supervise::report::Inspection); that of the lists is an array of the rows below.

use std::io;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use crate::agent::stream_facts::Role;
use crate::config::types::HostPort;
use crate::core::ids::StreamId;
use crate::core::policy::{Effect, P2pMode, RelayMode, Rule};

/// Where `outrelay admin` looks for a relay.
pub const DEFAULT_SOCKET: &str = "/run/outrelay/admin.sock";
/// The longest line that the server reads, in bytes.
pub const REQUEST_MAX_BYTES: u64 = 64 << 10;
/// The longest line that the client reads, in bytes: a tree of 100,000 streams fits.
pub const REPLY_MAX_BYTES: u64 = 256 << 20;

/// A question or an order. `actor` is an id, a kind, or `kind:name`, as `tree` shows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// The whole tree.
    Tree,
    /// Connected agents, as [`AgentRow`]s.
    Agents,
    /// Live streams, as [`StreamRow`]s of a relay, or as [`AgentStreamRow`]s of an agent.
    Streams,
    /// Registered services, as [`ServiceRow`]s.
    Services,
    /// The rules in force, as [`PolicyReport`].
    Policy,
    /// One actor and those below it.
    Inspect {
        /// Which.
        actor: String,
    },
    /// End an actor where it awaits. Needs `admin.fault_injection`, like the two below; answered by [`Struck`].
    Kill {
        /// Which.
        actor: String,
    },
    /// Make an actor panic.
    Panic {
        /// Which.
        actor: String,
    },
    /// Make an actor never return from its handler.
    Hang {
        /// Which.
        actor: String,
    },
    /// Take nothing new, let live streams end or go elsewhere, then stop; answered by [`Draining`].
    Drain {
        /// Where agents are to go, in order of preference; empty: where the configuration says.
        #[serde(default)]
        to: Vec<HostPort>,
    },
}

impl Request {
    /// The request on `line`.
    ///
    /// # Errors
    /// A sentence for the reply.
    pub fn from_line(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line).map_err(|error| format!("not a request: {error}"))
    }
}

/// What a request is answered by.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// It was done; this came out.
    Done(Value),
    /// It was not done, and why.
    Refused(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplyLine {
    ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Serialize for Reply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let line = match self {
            Self::Done(data) => ReplyLine { ok: true, data: Some(data.clone()), error: None },
            Self::Refused(error) => ReplyLine { ok: false, data: None, error: Some(error.clone()) },
        };
        line.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Reply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match ReplyLine::deserialize(deserializer)? {
            // `"data": null` reads as no data.
            ReplyLine { ok: true, data, error: None } => Ok(Self::Done(data.unwrap_or_default())),
            ReplyLine { ok: false, data: None, error: Some(error) } => Ok(Self::Refused(error)),
            _ => Err(D::Error::custom("a reply is either ok with data, or not ok with an error")),
        }
    }
}

impl Reply {
    /// A reply that holds `data`.
    #[must_use]
    pub fn done(data: &impl Serialize) -> Self {
        match serde_json::to_value(data) {
            Ok(data) => Self::Done(data),
            Err(error) => Self::Refused(format!("the answer has no JSON form: {error}")),
        }
    }

    /// The reply as its line, newline included.
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        // A JSON value always has a text.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// Reads one line, without its newline; None at the end of the input. Not cancel-safe: a line that was begun is lost.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for a line above `limit` bytes, [`io::ErrorKind::UnexpectedEof`] for one without an end,
/// and what the reader says.
pub async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.take(limit + 1).read_until(b'\n', &mut line).await?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() as u64 >= limit => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("the line is longer than {limit} bytes")))
        }
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A connected agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRow {
    /// Its identity.
    pub uri: String,
    /// Which of its connections this is.
    pub generation: u64,
    /// Where it comes from, `ip:port`.
    pub remote: String,
    /// What carries it: `quic`.
    pub carrier: String,
    /// Since when, in milliseconds since 1970.
    pub connected_at: u64,
    /// What both sides use of what it named (wire.md §9).
    pub capabilities: Vec<String>,
    /// What it offers.
    pub services: Vec<String>,
    /// Its live streams, in either role.
    pub streams: u64,
}

/// A live stream of a relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRow {
    /// The consumer's number for it; 0 is "not resumable".
    pub id: StreamId,
    /// The actor that carries it, as an id of the tree.
    pub actor: u64,
    /// Who opened it.
    pub consumer: String,
    /// Who answers.
    pub provider: String,
    /// What was asked for.
    pub service: String,
    /// With which method; may be empty.
    pub method: String,
    /// What both sides' rules say of a direct path.
    pub p2p_mode: P2pMode,
    /// How it is carried.
    pub relay_mode: RelayMode,
    /// Since when, in milliseconds since 1970.
    pub opened_at: u64,
    /// Bytes passed from consumer to provider.
    pub bytes_to_provider: u64,
    /// Bytes passed from provider to consumer.
    pub bytes_to_consumer: u64,
}

/// A live stream of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStreamRow {
    /// The consumer's number for it; 0 until it is asked for.
    pub id: StreamId,
    /// The actor that carries it, as an id of the tree.
    pub actor: u64,
    /// Which end of it this agent is.
    pub role: Role,
    /// What was asked for.
    pub service: String,
    /// With which method; may be empty.
    pub method: String,
    /// Who opened it, where that is another agent.
    pub consumer: Option<String>,
    /// The relay of its path; none before it has one.
    pub relay: Option<String>,
    /// `opening`, `live`, `resuming`, `closing`, `finished` or `lost`.
    pub phase: String,
    /// Whether it would outlive its path.
    pub resumable: bool,
    /// How often it has gone on on a new path.
    pub resumed: u64,
    /// Since when, in milliseconds since 1970.
    pub opened_at: u64,
    /// Bytes taken from the local socket.
    pub bytes_to_relay: u64,
    /// Bytes taken from the other agent.
    pub bytes_from_relay: u64,
}

/// Live streams of whoever answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StreamRows {
    /// A relay's; and none of either.
    Relay(Vec<StreamRow>),
    /// An agent's.
    Agent(Vec<AgentStreamRow>),
}

/// A registered service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// Where its name counts.
    pub tenant: String,
    /// Its name.
    pub name: String,
    /// Who offers it.
    pub agent: String,
    /// On which of its connections.
    pub generation: u64,
    /// What the agent says of its own side; for people only.
    pub local_addr: String,
}

/// The rules in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// The file they come from; none: the closed world.
    pub source: Option<String>,
    /// When they were read, in milliseconds since 1970.
    pub loaded_at: u64,
    /// Sorted by tenant and then by precedence: of several that match, the first decides.
    pub rules: Vec<RuleRow>,
    /// What is odd about them, and why a newer version of the file is not in force.
    pub warnings: Vec<String>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Its id.
    pub id: String,
    /// Whose rule it is.
    pub tenant: String,
    /// Pattern of callers.
    pub caller: String,
    /// Pattern of targets.
    pub target: String,
    /// Pattern of methods; empty matches all.
    pub method: String,
    /// What it does.
    pub decision: Effect,
    /// When it ends, in milliseconds since 1970; 0 = never.
    pub expires_unix_ms: i64,
    /// What it says of a direct path.
    pub p2p: P2pMode,
    /// What it says of the way through the relay.
    pub relay: RelayMode,
}

impl From<&Rule> for RuleRow {
    fn from(rule: &Rule) -> Self {
        Self {
            id: rule.id.to_string(),
            tenant: rule.tenant.to_string(),
            caller: rule.caller.as_str().to_owned(),
            target: rule.target.as_str().to_owned(),
            method: rule.method.as_str().to_owned(),
            decision: rule.effect,
            expires_unix_ms: rule.expires_unix_ms,
            p2p: rule.p2p_mode,
            relay: rule.relay_mode,
        }
    }
}

/// A drain has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// Streams that live still.
    pub streams: u64,
}

/// The actor that a fault was injected into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Struck {
    /// Its id in the tree.
    pub id: u64,
    /// Its kind and name.
    pub actor: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_written_as_the_protocol_says() {
        let line = |request: &Request| serde_json::to_string(request).unwrap();
        assert_eq!(line(&Request::Tree), r#"{"cmd":"tree"}"#);
        let inspect = Request::Inspect { actor: "splice:42".into() };
        assert_eq!(line(&inspect), r#"{"cmd":"inspect","actor":"splice:42"}"#);
        assert_eq!(Request::from_line(line(&inspect).as_bytes()), Ok(inspect));
    }

    #[test]
    fn what_is_not_a_request_is_refused_with_a_reason() {
        for line in ["", "tree", r#"{"cmd":"dance"}"#, r#"{"cmd":"kill"}"#, r#"{"cmd":"kill","actor":"a","force":1}"#] {
            let error = Request::from_line(line.as_bytes()).unwrap_err();
            assert!(error.starts_with("not a request: "), "{line}: {error}");
        }
    }

    #[test]
    fn replies_are_written_as_the_protocol_says_and_read_back() {
        let done = Reply::done(&Struck { id: 7, actor: "splice:42".into() });
        assert_eq!(done.to_line(), b"{\"ok\":true,\"data\":{\"actor\":\"splice:42\",\"id\":7}}\n");
        let refused = Reply::Refused("no actor".into());
        assert_eq!(refused.to_line(), b"{\"ok\":false,\"error\":\"no actor\"}\n");
        for reply in [done, refused, Reply::Done(Value::Null)] {
            assert_eq!(serde_json::from_slice::<Reply>(&reply.to_line()).unwrap(), reply);
        }
        assert!(serde_json::from_str::<Reply>(r#"{"ok":false}"#).is_err());
        assert!(serde_json::from_str::<Reply>(r#"{"ok":true,"error":"x"}"#).is_err());
    }

    #[tokio::test]
    async fn lines_are_read_up_to_the_limit_and_no_further() {
        let mut input: &[u8] = b"1234\n\n12345\n";
        assert_eq!(read_line(&mut input, 4).await.unwrap(), Some(b"1234".to_vec()));
        assert_eq!(read_line(&mut input, 4).await.unwrap(), Some(Vec::new()));
        assert_eq!(read_line(&mut input, 4).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut input: &[u8] = b"12";
        assert_eq!(read_line(&mut input, 4).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read_line(&mut input, 4).await.unwrap(), None);
    }
}
