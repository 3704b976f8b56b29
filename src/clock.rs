//! Wall-clock time as the wire, the audit and reports say it: milliseconds since 1970. Never for deadlines.

use std::time::{SystemTime, UNIX_EPOCH};

/// `at` in milliseconds since 1970; 0 for anything earlier.
#[must_use]
pub fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Now, as the wire's `int64` fields hold it.
#[must_use]
pub fn now_unix_ms() -> i64 {
    i64::try_from(unix_ms(SystemTime::now())).unwrap_or(i64::MAX)
}
