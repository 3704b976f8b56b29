//! The `quic` section of relay and agent configuration (performance.md, settings 3–5).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The smallest UDP payload that QUIC works with (RFC 9000 §14).
const SMALLEST_MTU: u16 = 1200;
/// The largest UDP payload there is.
const LARGEST_MTU: u16 = 65_527;
/// The largest number QUIC can say.
const VARINT_MAX: u64 = (1 << 62) - 1;

/// Settings of the QUIC transport. Sizes are in bytes; their keys say so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuicConfig {
    /// What a peer may send on one stream before it was read.
    #[serde(rename = "stream_window_bytes")]
    pub stream_window: u64,
    /// What a peer may send on all streams of a connection before it was read.
    #[serde(rename = "connection_window_bytes")]
    pub connection_window: u64,
    /// What `connection_window_bytes` may grow to while streams are stalled because nobody reads what they carry.
    #[serde(rename = "connection_window_max_bytes")]
    pub connection_window_max: u64,
    /// A stream that was not read for this long may be reset when the streams of its connection need more than
    /// `connection_window_max_bytes`.
    #[serde(with = "humantime_serde")]
    pub stall_deadline: Duration,
    /// What is kept for one connection until its peer has acknowledged it.
    #[serde(rename = "send_window_bytes")]
    pub send_window: u64,
    /// How many streams a peer may have open at first; raised while the connection lives when they are used.
    pub streams_initial: u32,
    /// A connection from which nothing came for this long is gone.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How often an idle connection is kept alive; must be shorter than `idle_timeout`.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// UDP payload used before the path was probed.
    #[serde(rename = "initial_mtu_bytes")]
    pub initial_mtu: u16,
    /// UDP payload up to which the path is probed.
    #[serde(rename = "max_mtu_bytes")]
    pub max_mtu: u16,
    /// Size asked of the kernel for the UDP socket's receive and send buffers.
    #[serde(rename = "socket_buffer_bytes")]
    pub socket_buffer: usize,
}

impl Default for QuicConfig {
    fn default() -> Self {
        Self {
            stream_window: 1024 * 1024,
            connection_window: 4 * 1024 * 1024,
            connection_window_max: 64 * 1024 * 1024,
            stall_deadline: Duration::from_secs(10),
            send_window: 4 * 1024 * 1024,
            streams_initial: 100,
            idle_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(3),
            initial_mtu: 1200,
            max_mtu: 1452,
            socket_buffer: 4 * 1024 * 1024,
        }
    }
}

impl QuicConfig {
    /// Every problem of these settings, each as `(key, what is wrong)`; empty when they are good.
    #[must_use]
    pub fn validate(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let windows = [
            ("stream_window_bytes", self.stream_window),
            ("connection_window_bytes", self.connection_window),
            ("send_window_bytes", self.send_window),
        ];
        for (key, bytes) in windows {
            if !(16 * 1024..=VARINT_MAX).contains(&bytes) {
                problems.push((key, format!("must be 16384 to {VARINT_MAX} bytes, is {bytes}")));
            }
        }
        if self.connection_window > self.connection_window_max {
            problems.push((
                "connection_window_max_bytes",
                format!(
                    "must not be below connection_window_bytes ({}), is {}",
                    self.connection_window, self.connection_window_max
                ),
            ));
        }
        if self.stream_window > self.connection_window {
            problems.push((
                "stream_window_bytes",
                format!(
                    "must not be above connection_window_bytes ({}), is {}",
                    self.connection_window, self.stream_window
                ),
            ));
        }
        if self.streams_initial == 0 {
            problems.push(("streams_initial", "must be at least 1: the first stream is the control stream".to_owned()));
        }
        self.validate_times(&mut problems);
        self.validate_mtu(&mut problems);
        if self.socket_buffer > i32::MAX as usize {
            problems.push((
                "socket_buffer_bytes",
                format!("must be at most {} bytes, is {}", i32::MAX, self.socket_buffer),
            ));
        }
        problems
    }

    fn validate_times(&self, problems: &mut Vec<(&'static str, String)>) {
        let longest = Duration::from_secs(24 * 60 * 60);
        if self.idle_timeout < Duration::from_millis(100) || self.idle_timeout > longest {
            problems.push((
                "idle_timeout",
                format!("must be 100ms to 24h, is {}", humantime::format_duration(self.idle_timeout)),
            ));
        }
        if self.keep_alive.is_zero() || self.keep_alive >= self.idle_timeout {
            problems.push((
                "keep_alive",
                format!(
                    "must be above 0s and below idle_timeout ({}), is {}",
                    humantime::format_duration(self.idle_timeout),
                    humantime::format_duration(self.keep_alive)
                ),
            ));
        }
    }

    fn validate_mtu(&self, problems: &mut Vec<(&'static str, String)>) {
        for (key, bytes) in [("initial_mtu_bytes", self.initial_mtu), ("max_mtu_bytes", self.max_mtu)] {
            if !(SMALLEST_MTU..=LARGEST_MTU).contains(&bytes) {
                problems.push((key, format!("must be {SMALLEST_MTU} to {LARGEST_MTU} bytes, is {bytes}")));
            }
        }
        if self.initial_mtu > self.max_mtu {
            problems.push((
                "initial_mtu_bytes",
                format!("must not be above max_mtu_bytes ({}), is {}", self.max_mtu, self.initial_mtu),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(QuicConfig::default().validate(), Vec::new());
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let config = QuicConfig {
            stream_window: 8 * 1024 * 1024,
            send_window: 1,
            streams_initial: 0,
            keep_alive: Duration::from_secs(10),
            initial_mtu: 1100,
            max_mtu: 1000,
            ..QuicConfig::default()
        };
        let keys: Vec<&str> = config.validate().iter().map(|(key, _)| *key).collect();
        assert_eq!(
            keys,
            [
                "send_window_bytes",
                "stream_window_bytes",
                "streams_initial",
                "keep_alive",
                "initial_mtu_bytes",
                "max_mtu_bytes",
                "initial_mtu_bytes"
            ]
        );
    }

    #[test]
    fn missing_keys_take_their_defaults_and_unknown_ones_are_refused() {
        let config: QuicConfig = toml::from_str("idle_timeout = \"30s\"").unwrap();
        assert_eq!(config, QuicConfig { idle_timeout: Duration::from_secs(30), ..QuicConfig::default() });
        let error = toml::from_str::<QuicConfig>("idle_time = \"30s\"").unwrap_err();
        assert!(error.to_string().contains("idle_time"), "{error}");
    }
}
