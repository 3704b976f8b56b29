//! Values that relay and agent configuration share.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Invalid;
use super::quic::QuicConfig;

/// A `host:port` that is resolved when it is used; the host may be a name, an IPv4 address or a bracketed IPv6 address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort {
    text: String,
    port: u16,
}

/// Why a text is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not host:port")]
pub struct HostPortError(String);

/// What is said of a port 0 where something is to be reached.
pub(crate) const UNREACHABLE: &str = "port 0 cannot be reached";

impl HostPort {
    /// `host:port` as it was written; what `tokio::net::lookup_host` takes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// As [`FromStr`], of something that is to be reached.
    ///
    /// # Errors
    /// A sentence for who has written it.
    pub fn reachable(text: &str) -> Result<Self, String> {
        let parsed = text.parse::<Self>().map_err(|error| error.to_string())?;
        if parsed.port == 0 { Err(UNREACHABLE.to_owned()) } else { Ok(parsed) }
    }

    /// The port; 0 where a free one is to be bound.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let error = || HostPortError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let blank = |c: char| c.is_whitespace() || c == '/';
        if host.is_empty() || host.contains(blank) || (host.contains(':') && !bracketed) {
            return Err(error());
        }
        let port = port.parse().map_err(|_| error())?;
        Ok(Self { text: text.to_owned(), port })
    }
}

impl TryFrom<String> for HostPort {
    type Error = HostPortError;

    fn try_from(text: String) -> Result<Self, HostPortError> {
        text.parse()
    }
}

impl From<HostPort> for String {
    fn from(value: HostPort) -> Self {
        value.text
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// The own certificate and the authority that peers' certificates must come from; PEM files. An empty path is "not given".
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain, leaf first; its URI SAN is the identity (wire.md §1).
    pub cert: PathBuf,
    /// The private key of the leaf.
    pub key: PathBuf,
    /// The certificate authority of the deployment.
    pub ca: PathBuf,
}

impl Tls {
    pub(crate) fn validate(&self) -> Vec<Invalid> {
        let given = [
            (&self.cert, "tls.cert", "--cert FILE"),
            (&self.key, "tls.key", "--key FILE"),
            (&self.ca, "tls.ca", "--ca FILE"),
        ];
        let missing = given.into_iter().filter(|(path, ..)| path.as_os_str().is_empty());
        missing.map(|(_, key, flag)| Invalid::missing(key, flag)).collect()
    }
}

/// How log lines look; they go to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A level (`error`, `warn`, `info`, `debug`, `trace`), or directives such as `info,outrelay::relay=debug`. `RUST_LOG` wins.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::default(), level: "info".into() }
    }
}

impl Log {
    pub(crate) fn validate(&self) -> Vec<Invalid> {
        match tracing_subscriber::EnvFilter::builder().parse(&self.level) {
            Ok(_) => Vec::new(),
            Err(error) => vec![Invalid::at("log.level", format!("`{}` is not a log filter: {error}", self.level))],
        }
    }
}

/// Serde for a value that may be absent, written as the empty text, so that a flag can take away what a file gives.
pub(crate) mod or_empty {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    pub(crate) fn deserialize<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(de::Error::custom)
    }

    pub(crate) fn serialize<S, T>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
        T: Serialize,
    {
        match value {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str(""),
        }
    }
}

/// Whether there is a folder in which a file at `path` can be made.
///
/// # Errors
/// What the system says.
pub(crate) fn folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !std::fs::metadata(folder)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    // As who the process acts for, with what capabilities it has. Where the system does not tell, the making will.
    match accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Err(refused @ (Errno::ACCESS | Errno::ROFS)) => Err(refused.into()),
        _ => Ok(()),
    }
}

/// What is wrong with the list at `key`: who is in it is to be reached.
pub(crate) fn unreachable(key: &str, list: &[HostPort]) -> Vec<Invalid> {
    let at_no_port = list.iter().enumerate().filter(|(_, one)| one.port() == 0);
    at_no_port.map(|(at, _)| Invalid::at(format!("{key}[{at}]"), UNREACHABLE)).collect()
}

/// What a socket's address holds at most, in bytes.
const SOCKET_PATH_MAX: usize = 107;

/// What is wrong with the path of the admin socket.
pub(crate) fn socket_path(path: Option<&Path>) -> Option<Invalid> {
    let length = path?.as_os_str().len();
    (length > SOCKET_PATH_MAX)
        .then(|| Invalid::at("admin.socket", format!("at most {SOCKET_PATH_MAX} bytes, is {length}")))
}

/// What is wrong with the `quic` section.
pub(crate) fn quic(quic: &QuicConfig) -> Vec<Invalid> {
    quic.validate().into_iter().map(|(key, what)| Invalid::at(format!("quic.{key}"), what)).collect()
}

/// Those of `durations` that are zero: each would fire at once.
pub(crate) fn zero_durations(durations: &[(&str, Duration)]) -> Vec<Invalid> {
    let zero = durations.iter().filter(|(_, duration)| duration.is_zero());
    zero.map(|(key, _)| Invalid::at(*key, "must be longer than 0")).collect()
}

/// Those of `counts` that are outside `1..=most`.
pub(crate) fn out_of_range(counts: &[(&str, usize, usize)]) -> Vec<Invalid> {
    let outside = counts.iter().filter(|(_, count, most)| *count == 0 || count > most);
    outside.map(|(key, count, most)| Invalid::at(*key, format!("{count} is not within 1 to {most}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_a_port_are_told_apart() {
        for text in ["localhost:7443", "10.0.0.1:0", "[::1]:7443", "relay-1.example:65535"] {
            assert_eq!(text.parse::<HostPort>().unwrap().as_str(), text);
        }
        assert_eq!("[::1]:7443".parse::<HostPort>().unwrap().port(), 7443);
    }

    #[test]
    fn what_is_not_host_and_port_is_refused() {
        for text in ["", "localhost", ":7443", "::1:7443", "a b:1", "http://a:1", "a:65536", "a:", "a:x"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_log_level_may_be_a_list_of_directives() {
        let log = |level: &str| Log { level: level.into(), ..Log::default() };
        assert!(log("info,outrelay::relay=debug").validate().is_empty());
        assert_eq!(log("outrelay=loud").validate()[0].keys, ["log.level"]);
    }
}
