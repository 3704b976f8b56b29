//! What an agent is told at its start. The sample with every key is `config/agent.toml`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::layers::{self, Layered, Origins, Overlay};
use super::quic::QuicConfig;
use super::types::{HostPort, Log, Tls, or_empty, out_of_range, quic, socket_path, unreachable, zero_durations};
use super::{Invalid, Problems};
use crate::core::ids::ServiceName;

/// Every stream has a local socket, and a process has no more file descriptors by far.
const STREAMS_MOST: usize = 1_000_000;
/// Two blocks of what is read from a socket at once, in bytes: a smaller ring would be full after every read.
const RING_LEAST: usize = 128 << 10;
/// More is not kept for one stream, in bytes.
const RING_MOST: usize = 1 << 30;
/// More is not kept for all streams, in bytes.
const RINGS_MOST: usize = 1 << 40;

/// Everything an agent can be told. `Default` is what an empty file means; `relays` and `tls` have no usable default.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// Relays, tried in this order.
    pub relays: Vec<HostPort>,
    /// The name that the relay's certificate must carry; every relay's carries `localhost` (wire.md §1).
    pub server_name: String,
    /// Certificate, key and authority.
    pub tls: Tls,
    /// Local services that others may reach.
    pub expose: Vec<Expose>,
    /// Remote services that are offered at a local address.
    pub consume: Vec<Consume>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Between attempts to reach a relay.
    pub backoff: Backoff,
    /// How much there may be at once.
    pub limits: Limits,
    /// The admin socket.
    pub admin: Admin,
    /// Log lines.
    pub log: Log,
    /// The QUIC endpoint.
    pub quic: QuicConfig,
}

/// A local TCP service under the name by which others open it; as a flag `NAME=HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Expose {
    /// The service name (wire.md §2).
    pub name: String,
    /// Where the service listens.
    pub to: HostPort,
}

/// A remote service and the local address at which it is offered; as a flag `NAME=BIND:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Consume {
    /// The service name (wire.md §2).
    pub name: String,
    /// The method that rules may ask for; empty where they do not.
    #[serde(default)]
    pub method: String,
    /// Where to listen; port 0 takes a free one.
    pub listen: HostPort,
}

/// The agent's admin socket.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The unix socket's path. None: no admin socket.
    #[serde(with = "or_empty")]
    pub socket: Option<PathBuf>,
    /// Whether `kill`, `panic` and `hang` are allowed on it.
    pub fault_injection: bool,
}

/// What is bounded by number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Streams that may live at once, local clients and exposed services together; fewer where the limit of open files has no room.
    pub streams: usize,
    /// What each stream may keep of what it has sent until the other agent has it, in bytes.
    #[serde(rename = "ring_min_bytes")]
    pub ring_min: usize,
    /// What that grows to for a stream that needs it, in bytes.
    #[serde(rename = "ring_max_bytes")]
    pub ring_max: usize,
    /// What all streams together may keep beyond their `ring_min_bytes`, in bytes.
    #[serde(rename = "rings_bytes")]
    pub rings: usize,
}

/// The agent's deadlines.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// For the QUIC handshake with one relay, at most: see [`dial`](crate::agent::dial).
    #[serde(with = "humantime_serde")]
    pub connect: Duration,
    /// From HELLO to HELLO_ACK.
    #[serde(with = "humantime_serde")]
    pub hello: Duration,
    /// From OPEN_STREAM to the relay's answer.
    #[serde(with = "humantime_serde")]
    pub open: Duration,
    /// For the connection to an exposed service.
    #[serde(with = "humantime_serde")]
    pub local_connect: Duration,
    /// From the loss of a stream's path to its resume on another one; then its local socket is reset.
    #[serde(with = "humantime_serde")]
    pub resume: Duration,
}

/// The pause after a failed round of relays; it doubles up to `max`, with jitter.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// The first pause.
    #[serde(with = "humantime_serde")]
    pub initial: Duration,
    /// The longest pause.
    #[serde(with = "humantime_serde")]
    pub max: Duration,
    /// The longest pause before another relay is dialled because this one drains, and at most a tenth of the time that it gives;
    /// each agent takes a part of it at random.
    #[serde(with = "humantime_serde")]
    pub goaway_jitter: Duration,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            relays: Vec::new(),
            server_name: "localhost".into(),
            tls: Tls::default(),
            expose: Vec::new(),
            consume: Vec::new(),
            timeouts: Timeouts::default(),
            backoff: Backoff::default(),
            limits: Limits::default(),
            admin: Admin::default(),
            log: Log::default(),
            quic: QuicConfig::default(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            hello: Duration::from_secs(5),
            open: Duration::from_secs(20),
            local_connect: Duration::from_secs(5),
            resume: Duration::from_secs(30),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { streams: 8192, ring_min: 256 << 10, ring_max: 16 << 20, rings: 256 << 20 }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(200),
            max: Duration::from_secs(10),
            goaway_jitter: Duration::from_secs(2),
        }
    }
}

/// Why a flag's text is not `NAME=HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not NAME=HOST:PORT{}", because.as_deref().unwrap_or_default())]
pub struct NamedAddressError {
    text: String,
    because: Option<String>,
}

fn named_address(text: &str) -> Result<(String, HostPort), NamedAddressError> {
    let error = |because| NamedAddressError { text: text.to_owned(), because };
    let (name, address) = text.split_once('=').ok_or_else(|| error(None))?;
    let address = address.parse().map_err(|what| error(Some(format!(": {what}"))))?;
    Ok((name.to_owned(), address))
}

impl FromStr for Expose {
    type Err = NamedAddressError;

    fn from_str(text: &str) -> Result<Self, NamedAddressError> {
        named_address(text).map(|(name, to)| Self { name, to })
    }
}

impl FromStr for Consume {
    type Err = NamedAddressError;

    fn from_str(text: &str) -> Result<Self, NamedAddressError> {
        named_address(text).map(|(name, listen)| Self { name, method: String::new(), listen })
    }
}

impl Layered for AgentConfig {
    const FILES: &[&str] = &["admin.socket", "tls.ca", "tls.cert", "tls.key"];

    fn validate(&self) -> Vec<Invalid> {
        self.validate()
    }
}

impl AgentConfig {
    /// The configuration that `file` and `overlays` give; an overlay wins over the file.
    ///
    /// # Errors
    /// Every problem: an unreadable or malformed file, unknown keys, wrong types, a key that two overlays give, and what
    /// [`Self::validate`] finds.
    pub fn load(file: Option<&Path>, overlays: &[Overlay]) -> Result<Self, Problems> {
        Self::load_with_origins(file, overlays).map(|(config, _)| config)
    }

    /// As [`Self::load`], with where each key was written: for what is found to be wrong later.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with_origins(file: Option<&Path>, overlays: &[Overlay]) -> Result<(Self, Origins), Problems> {
        layers::load(file, overlays)
    }

    /// What is wrong with the values as they stand. Whether files can be read is found when they are.
    #[must_use]
    pub fn validate(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        if self.relays.is_empty() {
            found.push(Invalid::missing("relays", "--relay HOST:PORT"));
        }
        found.extend(unreachable("relays", &self.relays));
        if rustls_pki_types::ServerName::try_from(self.server_name.as_str()).is_err() {
            let what = format!("`{}` is neither a DNS name nor an IP address", self.server_name);
            found.push(Invalid::at("server_name", what));
        }
        found.extend(self.tls.validate());
        found.extend(socket_path(self.admin.socket.as_deref()));
        found.extend(validate_expose(&self.expose));
        found.extend(validate_consume(&self.consume));
        found.extend(self.timeouts.validate());
        found.extend(self.backoff.validate());
        found.extend(self.limits.validate());
        found.extend(self.log.validate());
        found.extend(quic(&self.quic));
        found
    }
}

fn validate_expose(expose: &[Expose]) -> Vec<Invalid> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for (at, Expose { name, to }) in expose.iter().enumerate() {
        let key = format!("expose[{at}].name");
        found.extend(service_name(&key, name));
        if !seen.insert(name.as_str()) {
            found.push(Invalid::at(key, format!("the service `{name}` is exposed twice")));
        }
        if to.port() == 0 {
            found.push(Invalid::at(format!("expose[{at}].to"), "port 0 cannot be reached"));
        }
    }
    found
}

fn validate_consume(consume: &[Consume]) -> Vec<Invalid> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for (at, Consume { name, listen, .. }) in consume.iter().enumerate() {
        found.extend(service_name(&format!("consume[{at}].name"), name));
        // Several listeners on port 0 get a port each.
        if listen.port() != 0 && !seen.insert(listen.as_str()) {
            let key = format!("consume[{at}].listen");
            found.push(Invalid::at(key, format!("{listen} is taken by another entry")));
        }
    }
    found
}

fn service_name(key: &str, name: &str) -> Option<Invalid> {
    name.parse::<ServiceName>().err().map(|error| Invalid::at(key, error.to_string()))
}

impl Timeouts {
    fn validate(&self) -> Vec<Invalid> {
        zero_durations(&[
            ("timeouts.connect", self.connect),
            ("timeouts.hello", self.hello),
            ("timeouts.open", self.open),
            ("timeouts.local_connect", self.local_connect),
            ("timeouts.resume", self.resume),
        ])
    }
}

impl Limits {
    fn validate(&self) -> Vec<Invalid> {
        let mut found = out_of_range(&[
            ("limits.streams", self.streams, STREAMS_MOST),
            ("limits.ring_min_bytes", self.ring_min, RING_MOST),
            ("limits.ring_max_bytes", self.ring_max, RING_MOST),
            ("limits.rings_bytes", self.rings, RINGS_MOST),
        ]);
        if self.ring_min < RING_LEAST {
            let what = format!("{} is less than {RING_LEAST}", self.ring_min);
            found.push(Invalid::at("limits.ring_min_bytes", what));
        }
        if self.ring_min > self.ring_max {
            let what =
                "the least is more than the most: `limits.ring_min_bytes` must not exceed `limits.ring_max_bytes`";
            found.push(Invalid::between("limits.ring_min_bytes", "limits.ring_max_bytes", what));
        }
        found
    }
}

impl Backoff {
    fn validate(&self) -> Vec<Invalid> {
        let mut found = zero_durations(&[("backoff.initial", self.initial), ("backoff.max", self.max)]);
        if self.initial > self.max {
            let what = "the first pause is longer than the longest: `backoff.initial` must not exceed `backoff.max`";
            found.push(Invalid::between("backoff.initial", "backoff.max", what));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> AgentConfig {
        AgentConfig {
            relays: vec!["relay:7443".parse().unwrap()],
            tls: Tls { cert: "c".into(), key: "k".into(), ca: "a".into() },
            ..AgentConfig::default()
        }
    }

    fn keys(config: &AgentConfig) -> Vec<String> {
        config.validate().into_iter().map(|invalid| invalid.keys[0].clone()).collect()
    }

    #[test]
    fn the_defaults_with_what_is_required_are_good() {
        assert_eq!(good().validate(), []);
    }

    #[test]
    fn flags_name_a_service_and_an_address() {
        let exposed: Expose = "svc/web=127.0.0.1:8080".parse().unwrap();
        assert_eq!((exposed.name.as_str(), exposed.to.as_str()), ("svc/web", "127.0.0.1:8080"));
        let consumed: Consume = "web=[::1]:0".parse().unwrap();
        assert_eq!((consumed.method.as_str(), consumed.listen.as_str()), ("", "[::1]:0"));
        let error = "web=8080".parse::<Expose>().unwrap_err();
        assert_eq!(error.to_string(), "`web=8080` is not NAME=HOST:PORT: `8080` is not host:port");
        assert!("web".parse::<Consume>().is_err());
    }

    #[test]
    fn every_bad_service_is_named() {
        let mut config = good();
        config.expose = ["web=a:1", "outrelay:web=a:1", "web=a:0"].map(|text| text.parse().unwrap()).into();
        config.consume = ["=a:1", "b=a:1", "c=a:0", "d=a:0"].map(|text| text.parse().unwrap()).into();
        let expected = ["expose[1].name", "expose[2].name", "expose[2].to", "consume[0].name", "consume[1].listen"];
        assert_eq!(keys(&config), expected);
    }

    #[test]
    fn pauses_grow_and_deadlines_are_not_zero() {
        let mut config = good();
        config.backoff.initial = Duration::from_secs(11);
        config.timeouts.open = Duration::ZERO;
        config.limits.ring_min = 64 << 10;
        config.limits.ring_max = 1 << 10;
        config.server_name = "no name".into();
        config.relays.push("relay:0".parse().unwrap());
        assert_eq!(
            keys(&config),
            [
                "relays[1]",
                "server_name",
                "timeouts.open",
                "backoff.initial",
                "limits.ring_min_bytes",
                "limits.ring_min_bytes",
            ]
        );
    }
}
