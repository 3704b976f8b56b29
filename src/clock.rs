//! Wall-clock time as the wire, the audit and reports say it: milliseconds since 1970, never for deadlines; and the common beat of what is
//! done now and then.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

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

/// Sleeps until `at`, or for ever where there is no such moment: one branch of a `select!` among others.
pub async fn sleep_until_any(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The next multiple of `every` since the process began to count. What must be done now and then, and not at any moment in
/// particular, is done at these: a process that waits for one moment sleeps longer than one that waits for several.
#[must_use]
pub fn beat(every: Duration) -> Instant {
    let now = Instant::now();
    let every = every.max(Duration::from_millis(1));
    let since = now.saturating_duration_since(*EPOCH).as_nanos() % every.as_nanos();
    // Less than `every`.
    now + every - Duration::from_nanos(u64::try_from(since).unwrap_or(0))
}
