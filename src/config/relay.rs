//! What a relay is told at its start. The sample with every key is `config/relay.toml`.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::layers::{self, Layered, Origins, Overlay};
use super::quic::QuicConfig;
use super::types::{
    HostPort, Log, Tls, UNREACHABLE, or_empty, out_of_range, quic, socket_path, unreachable, zero_durations,
};
use super::{Invalid, Problems};
use crate::core::identity::{IdentityError, Region, RelayId, RelayUri};
use crate::core::resume::pairing::WINDOW;
use crate::directory::audit_log::rotation::KEEP_MAX;

/// The UDP port of the wire (wire.md §1).
pub const DEFAULT_PORT: u16 = 7443;

/// The TCP port of the HTTP side.
const DEFAULT_HTTP_PORT: u16 = 9100;

/// Everything a relay can be told. `Default` is what an empty file means; `id`, `region` and `tls` have no usable default.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelayConfig {
    /// The relay's own name, the last part of its certificate's URI.
    pub id: String,
    /// Where it stands, the first part of its certificate's URI.
    pub region: String,
    /// The UDP address to serve QUIC on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How other relays reach `listen`, where that is not what they see (NAT, wildcard address). For links between relays, which are
    /// to come: nobody is told it yet.
    #[serde(with = "or_empty")]
    pub advertise: Option<HostPort>,
    /// A file to which the bound addresses are written as JSON once the relay listens.
    #[serde(with = "or_empty")]
    pub ready_file: Option<PathBuf>,
    /// Certificate, key and authority.
    pub tls: Tls,
    /// Rules and audit.
    pub directory: Directory,
    /// The admin socket.
    pub admin: Admin,
    /// Metrics and health.
    pub http: Http,
    /// How streams are resumed.
    pub resume: Resume,
    /// How the relay stops.
    pub drain: Drain,
    /// Log lines.
    pub log: Log,
    /// The QUIC endpoint.
    pub quic: QuicConfig,
    /// Bounds on every wait, table and queue.
    pub limits: Limits,
}

/// Where the embedded directory reads rules and writes the audit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Directory {
    /// The rules file. None: closed world, every open is denied.
    #[serde(with = "or_empty")]
    pub rules: Option<PathBuf>,
    /// Whether rules that change end the live streams that they do not allow any more.
    pub continuous: bool,
    /// For how long the old rules are in force while new ones cannot be read; then opens are denied, and resumes of streams that this
    /// relay does not know. Zero: for ever.
    #[serde(with = "humantime_serde")]
    pub max_staleness: Duration,
    /// The file to which every decision and refusal is appended as one JSON line. None: they are counted, not kept.
    #[serde(with = "or_empty")]
    pub audit: Option<PathBuf>,
    /// The size at which the audit file is put away and a new one begun, in bytes; 0: never.
    pub audit_max_bytes: u64,
    /// How many audit files that were put away are kept.
    pub audit_keep: usize,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            rules: None,
            continuous: true,
            max_staleness: Duration::ZERO,
            audit: None,
            audit_max_bytes: 100 << 20,
            audit_keep: 10,
        }
    }
}

impl Directory {
    fn validate(&self) -> Vec<Invalid> {
        let mut found = out_of_range(&[("directory.audit_keep", self.audit_keep, KEEP_MAX)]);
        if (1..AUDIT_MIN_BYTES).contains(&self.audit_max_bytes) {
            let what = format!("{} bytes hold hardly a line: 0, or {AUDIT_MIN_BYTES} and more", self.audit_max_bytes);
            found.push(Invalid::at("directory.audit_max_bytes", what));
        }
        found
    }
}

/// Metrics and health over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// The TCP address of `/metrics`, `/healthz` and `/readyz`; port 0 takes a free one. None: no HTTP.
    #[serde(with = "or_empty")]
    pub listen: Option<SocketAddr>,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_HTTP_PORT))) }
    }
}

/// How streams are resumed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resume {
    /// How long one half of a stream waits for the other (wire.md §5, ResumeWindow).
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Whether two agents may go on with a stream that this relay never saw, where a rule allows a stream between them.
    pub allow_unproven: bool,
    /// The file with the keys that seal tickets, the same at every relay of a fleet; made where it is not there. None: a key
    /// in memory.
    #[serde(with = "or_empty")]
    pub fleet_key: Option<PathBuf>,
    /// How long a ticket is good for; it is renewed at half that (wire.md §9, `resume-ticket`).
    #[serde(with = "humantime_serde")]
    pub ticket_life: Duration,
}

impl Default for Resume {
    fn default() -> Self {
        Self { window: WINDOW, allow_unproven: true, fleet_key: None, ticket_life: TICKET_LIFE }
    }
}

impl Resume {
    fn validate(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        if self.window.is_zero() || self.window > RESUME_WINDOW_MAX {
            let what = "not within 1ms to 1m: longer, and a stream's agents are forgotten";
            found.push(Invalid::at("resume.window", what));
        }
        if !TICKET_LIVES.contains(&self.ticket_life) {
            found.push(Invalid::at("resume.ticket_life", "not within 1s to 30 days"));
        }
        found
    }
}

/// How the relay stops.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// How long live streams get to end by themselves; then they are reset.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Where agents are told to go, in order of preference.
    pub successors: Vec<HostPort>,
}

impl Default for Drain {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(30), successors: Vec::new() }
    }
}

/// The relay's admin socket.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The unix socket's path. None: no admin socket.
    #[serde(with = "or_empty")]
    pub socket: Option<PathBuf>,
    /// Whether `kill`, `panic` and `hang` are served.
    pub fault_injection: bool,
}

/// The bounds of the relay (architecture: every queue, table, wait and allocation has one).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// From the first packet to the end of the TLS handshake.
    #[serde(with = "humantime_serde")]
    pub tls_handshake: Duration,
    /// From the end of TLS to a complete HELLO.
    #[serde(with = "humantime_serde")]
    pub hello: Duration,
    /// From a fresh stream to its complete first frame.
    #[serde(with = "humantime_serde")]
    pub first_frame: Duration,
    /// From asking one provider to its answer, opening the stream included.
    #[serde(with = "humantime_serde")]
    pub provider_answer: Duration,
    /// From the first frame of an open to its outcome, all providers together.
    #[serde(with = "humantime_serde")]
    pub open: Duration,
    /// For one message in an actor's handler: an actor that is busy for longer hangs, and is killed and started again.
    #[serde(with = "humantime_serde")]
    pub handler: Duration,
    /// For one call to the registry.
    #[serde(with = "humantime_serde")]
    pub registry_call: Duration,
    /// How long a connection may go on whose certificate has expired, or whose authority is no longer trusted. 0: for as
    /// long as it lives.
    #[serde(with = "humantime_serde")]
    pub certificate_grace: Duration,
    /// Connections whose TLS handshake or HELLO is not done yet.
    pub half_open_handshakes: usize,
    /// Connections in all.
    pub connections: usize,
    /// Connections of one agent, which all show its certificate; one more is closed.
    pub connections_per_agent: usize,
    /// Streams of one connection of an agent, as consumer and provider together.
    pub streams_per_agent: usize,
    /// Streams in all.
    pub streams: usize,
    /// Halves of streams of one connection of an agent that wait for their partner.
    pub parked_per_agent: usize,
    /// Services that an agent may register on one connection.
    pub services_per_agent: usize,
    /// Payload of one frame, in bytes; longer ones end what they came on (wire.md §2).
    pub frame_max_bytes: u32,
    /// Decisions that wait for the audit.
    pub audit_queue: usize,
    /// Frames that wait for the control stream of one connection.
    pub control_queue: usize,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            id: String::new(),
            region: String::new(),
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT)),
            advertise: None,
            ready_file: None,
            tls: Tls::default(),
            directory: Directory::default(),
            admin: Admin::default(),
            http: Http::default(),
            resume: Resume::default(),
            drain: Drain::default(),
            log: Log::default(),
            quic: QuicConfig::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tls_handshake: Duration::from_secs(5),
            hello: Duration::from_secs(5),
            first_frame: Duration::from_secs(10),
            provider_answer: Duration::from_secs(10),
            open: Duration::from_secs(15),
            handler: Duration::from_secs(10),
            registry_call: Duration::from_secs(2),
            certificate_grace: Duration::ZERO,
            half_open_handshakes: 512,
            connections: 20_000,
            connections_per_agent: 64,
            streams_per_agent: 8_192,
            streams: 100_000,
            parked_per_agent: 8_192,
            services_per_agent: 256,
            frame_max_bytes: 64 << 10,
            audit_queue: 65_536,
            control_queue: 1_024,
        }
    }
}

impl Layered for RelayConfig {
    const FILES: &[&str] = &[
        "admin.socket",
        "directory.audit",
        "directory.rules",
        "ready_file",
        "resume.fleet_key",
        "tls.ca",
        "tls.cert",
        "tls.key",
    ];

    fn validate(&self) -> Vec<Invalid> {
        self.validate()
    }
}

impl RelayConfig {
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

    /// The identity that the relay's certificate must carry (wire.md §1).
    ///
    /// # Errors
    /// When `id` or `region` is not a label; [`Self::validate`] has said so before.
    pub fn uri(&self) -> Result<RelayUri, IdentityError> {
        Ok(RelayUri::new(&self.region.parse()?, &self.id.parse()?))
    }

    /// What is wrong with the values as they stand. Whether files can be read is found when they are.
    #[must_use]
    pub fn validate(&self) -> Vec<Invalid> {
        let mut found = Vec::new();
        found.extend(label::<RelayId>("id", "--id ID", &self.id));
        found.extend(label::<Region>("region", "--region REGION", &self.region));
        if self.advertise.as_ref().is_some_and(|advertise| advertise.port() == 0) {
            found.push(Invalid::at("advertise", UNREACHABLE));
        }
        found.extend(unreachable("drain.successors", &self.drain.successors));
        found.extend(socket_path(self.admin.socket.as_deref()));
        if self.admin.fault_injection && self.admin.socket.is_none() {
            found.push(Invalid::between(
                "admin.fault_injection",
                "admin.socket",
                "faults are injected over the admin socket: give `admin.socket` too",
            ));
        }
        if self.drain.deadline > Duration::from_secs(SECONDS_MAX) {
            found.push(Invalid::at("drain.deadline", "longer than an hour"));
        }
        found.extend(self.resume.validate());
        found.extend(self.tls.validate());
        found.extend(self.directory.validate());
        found.extend(self.log.validate());
        found.extend(quic(&self.quic));
        found.extend(self.limits.validate());
        found
    }
}

fn label<T>(key: &str, flag: &'static str, text: &str) -> Option<Invalid>
where
    T: FromStr<Err = IdentityError>,
{
    if text.is_empty() {
        return Some(Invalid::missing(key, flag));
    }
    text.parse::<T>().err().map(|error| Invalid::at(key, error.to_string()))
}

const SECONDS_MAX: u64 = 3_600;
/// How long a ticket is good for (wire.md §9).
const TICKET_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// Less and renewals would be most of what an agent hears; more and a stolen ticket would be good for too long.
const TICKET_LIVES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3_600);
/// Half of what a stream is remembered for that nothing carries.
const RESUME_WINDOW_MAX: Duration = Duration::from_secs(60);
const COUNT_MAX: usize = 1 << 24;
/// Less is a slip, such as one in the unit, that would soon rotate everything away.
const AUDIT_MIN_BYTES: u64 = 1 << 10;
/// What a header can say at most (wire.md §2).
const FRAME_MAX_BYTES: u32 = 1 << 24;
/// The smallest limit under which every frame of the wire with names of full length still fits.
const FRAME_MIN_BYTES: u32 = 1 << 10;

impl Limits {
    pub(crate) fn validate(&self) -> Vec<Invalid> {
        let durations = [
            ("limits.tls_handshake", self.tls_handshake),
            ("limits.hello", self.hello),
            ("limits.first_frame", self.first_frame),
            ("limits.provider_answer", self.provider_answer),
            ("limits.open", self.open),
            ("limits.handler", self.handler),
            ("limits.registry_call", self.registry_call),
        ];
        let mut found = zero_durations(&durations);
        let endless = durations.iter().filter(|(_, duration)| *duration > Duration::from_secs(SECONDS_MAX));
        found.extend(endless.map(|(key, _)| Invalid::at(*key, "longer than an hour bounds nothing")));
        if self.registry_call >= self.handler {
            found.push(Invalid::between(
                "limits.registry_call",
                "limits.handler",
                "an actor that waits for the registry would be taken for one that hangs: `limits.registry_call` must be shorter than `limits.handler`",
            ));
        }
        if self.provider_answer > self.open {
            found.push(Invalid::between(
                "limits.provider_answer",
                "limits.open",
                format!(
                    "one provider may take {} of a whole open's {}: `limits.provider_answer` must not exceed `limits.open`",
                    humantime::format_duration(self.provider_answer),
                    humantime::format_duration(self.open),
                ),
            ));
        }
        found.extend(out_of_range(&[
            ("limits.half_open_handshakes", self.half_open_handshakes, COUNT_MAX),
            ("limits.connections", self.connections, COUNT_MAX),
            ("limits.connections_per_agent", self.connections_per_agent, COUNT_MAX),
            ("limits.streams_per_agent", self.streams_per_agent, COUNT_MAX),
            ("limits.streams", self.streams, COUNT_MAX),
            ("limits.parked_per_agent", self.parked_per_agent, COUNT_MAX),
            ("limits.services_per_agent", self.services_per_agent, COUNT_MAX),
            ("limits.audit_queue", self.audit_queue, COUNT_MAX),
            ("limits.control_queue", self.control_queue, COUNT_MAX),
        ]));
        if !(FRAME_MIN_BYTES..=FRAME_MAX_BYTES).contains(&self.frame_max_bytes) {
            let what = format!("{} is not within {FRAME_MIN_BYTES} to {FRAME_MAX_BYTES}", self.frame_max_bytes);
            found.push(Invalid::at("limits.frame_max_bytes", what));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> RelayConfig {
        let mut config = RelayConfig { id: "r1".into(), region: "acme".into(), ..RelayConfig::default() };
        config.tls = Tls { cert: "c".into(), key: "k".into(), ca: "a".into() };
        config
    }

    fn keys(config: &RelayConfig) -> Vec<String> {
        config.validate().into_iter().map(|invalid| invalid.keys[0].clone()).collect()
    }

    #[test]
    fn the_defaults_with_what_is_required_are_good() {
        assert_eq!(good().validate(), []);
        assert_eq!(good().uri().unwrap().as_str(), "outrelay://acme/relay/r1");
    }

    #[test]
    fn every_bad_limit_is_named() {
        let mut config = good();
        config.limits.open = Duration::ZERO;
        config.limits.hello = Duration::from_secs(4_000);
        config.limits.streams = 0;
        config.limits.connections = usize::MAX;
        config.limits.frame_max_bytes = 1 << 25;
        let keys = keys(&config);
        for key in ["open", "hello", "provider_answer", "streams", "connections", "frame_max_bytes"] {
            assert!(keys.contains(&format!("limits.{key}")), "{key} is not among {keys:?}");
        }
        assert_eq!(keys.len(), 6, "{keys:?}");
    }

    #[test]
    fn id_and_region_must_be_labels() {
        let config = RelayConfig { id: "R1".into(), region: "a/b".into(), ..good() };
        assert_eq!(keys(&config), ["id", "region"]);
    }

    #[test]
    fn audit_files_of_no_size_and_no_number_are_named() {
        let mut config = good();
        config.directory.audit_max_bytes = 100;
        config.directory.audit_keep = 0;
        assert_eq!(keys(&config), ["directory.audit_keep", "directory.audit_max_bytes"]);
        config.directory.audit_max_bytes = 0;
        config.directory.audit_keep = KEEP_MAX;
        assert_eq!(keys(&config), [""; 0], "0 bytes: never rotated");
        config.directory.audit_keep += 1;
        assert_eq!(keys(&config), ["directory.audit_keep"]);
    }

    #[test]
    fn a_ticket_lives_for_neither_a_moment_nor_a_year() {
        let mut config = good();
        for (life_s, expected) in
            [(0, &["resume.ticket_life"][..]), (1, &[]), (2_592_000, &[]), (2_592_001, &["resume.ticket_life"])]
        {
            config.resume.ticket_life = Duration::from_secs(life_s);
            assert_eq!(keys(&config), expected, "{life_s} s");
        }
    }

    #[test]
    fn faults_need_a_socket() {
        let mut config = good();
        config.admin.fault_injection = true;
        assert_eq!(keys(&config), ["admin.fault_injection"]);
        config.admin.socket = Some("/run/x".into());
        assert_eq!(keys(&config), [""; 0]);
    }
}
