//! From a relay that drains to the next one (wire.md §9, `goaway`).
//!
//! Both agents of a stream hear GOAWAY from the same relay at the same moment, but each dials at a moment of its own, so that
//! a thousand of them do not arrive at once. A stream stalls from the moment at which one of its agents leaves the old path
//! until the other has come to the same relay, too. So the order is:
//!
//! 1. *Within the jitter* each agent dials: the successors in order, then its own list. From GOAWAY on nothing is opened on the
//!    old session; what is asked for meanwhile waits for the new one. Streams go on over the old relay, which still stands.
//! 2. *When every agent should have come*, half a jitter later, streams are moved, a few at once and again each agent at a
//!    moment of its own. Whoever moves first freezes its half and sends it to the new relay; the old relay passes its reset on,
//!    and that alone makes the other agent send its own half, on its session in use. The stall is a few round trips.
//! 3. An agent that has no new session when a stream of its is cut waits for one, and does not go back to the relay that
//!    drains: there the halves would not meet. Only after [`FALLS_BACK`] does it, and so does its partner if its half was not
//!    answered by then. Where they meet there, the stream stays, until it ends or the relay does. So two agents that came to
//!    different relays keep their streams for as long as the old relay stands. Where they do not, for one of them was out of reach
//!    and has lost its old session, the stream looks at the new relay again: when the other agent calls from there, and now and then.
//!
//! What cannot be moved stays until it ends or the relay closes: streams that are not resumable, and those whose other agent has
//! not named `goaway`, for it would stay. When nothing is left on the old session, it is closed.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::carrying::Carried;
use super::vault::AgentVault;
use super::vault::session::Session;
use crate::config::types::HostPort;
use crate::proto::orp;

/// How long a stream may be without a path before its half is sent to the relay that drains after all.
pub const FALLS_BACK: Duration = Duration::from_secs(5);
/// More successors than these are not tried.
const SUCCESSORS: usize = 16;
/// A relay that gives more time says so in jest.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How many streams are moved at once.
const AT_ONCE: usize = 16;
/// A stream whose partner does not come for so long does not keep others from being moved.
const PLACE: Duration = Duration::from_secs(1);
/// The longest pause before one stream is moved.
const STREAM_JITTER: Duration = Duration::from_millis(5);
/// How often it is looked for streams that have become movable.
const LOOK: Duration = Duration::from_millis(200);
/// How long nothing may be left on a session before it is closed: its last words are under way.
const LINGER: Duration = Duration::from_millis(200);
/// How long after everybody should have come a service is waited for that is not there yet.
const GATHER: Duration = Duration::from_secs(5);

/// What GOAWAY said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leave {
    /// The relay's words.
    pub reason: String,
    /// Where to go, in this order.
    pub successors: Vec<HostPort>,
    /// When it came.
    pub told: Instant,
    /// When the relay closes.
    pub deadline: Instant,
    jitter: Duration,
}

impl Leave {
    /// GOAWAY came now. A successor that is no host:port is left out, with a line in the log.
    #[must_use]
    pub fn new(goaway: &orp::GoAway, now: Instant, now_unix_ms: i64, longest_jitter: Duration) -> Self {
        let millis = goaway.deadline_unix_ms.saturating_sub(now_unix_ms);
        let left = Duration::from_millis(u64::try_from(millis).unwrap_or(0)).min(LONGEST);
        let parse = |text: &String| match text.parse::<HostPort>() {
            Ok(successor) => Some(successor),
            Err(error) => {
                tracing::warn!(successor = ?text, error = error.to_string(), "successor skipped");
                None
            }
        };
        Self {
            reason: goaway.reason.clone(),
            successors: goaway.successors.iter().take(SUCCESSORS).filter_map(parse).collect(),
            told: now,
            deadline: now + left,
            jitter: longest_jitter.min(left / 10),
        }
    }

    /// When to dial. `chance` is from 0 up to 1.
    #[must_use]
    pub fn dial_at(&self, chance: f64) -> Instant {
        self.told + self.jitter.mul_f64(chance.clamp(0.0, 1.0))
    }

    /// When to begin to move streams: every agent should have come to its new relay. `chance` is from 0 up to 1.
    #[must_use]
    pub fn move_at(&self, chance: f64) -> Instant {
        self.told + self.jitter.mul_f64(1.5 + chance.clamp(0.0, 1.0) / 2.0)
    }

    /// Until when a service may be missing at the new relay because its agent has not come yet.
    #[must_use]
    pub fn gathers_until(&self) -> Instant {
        self.told + self.jitter * 2 + GATHER
    }
}

/// Moves the streams of a session whose relay drains. Resolves when nothing is left on it.
pub async fn run(vault: Arc<AgentVault>, session: Arc<Session>) {
    let Some(leave) = session.leave() else { return };
    stands(&vault).await;
    sleep_until(leave.move_at(rand::random())).await;
    let began = Instant::now();
    let mut is_told = false;
    loop {
        stands(&vault).await;
        move_all(&vault, &session).await;
        let left = session.paths();
        let is_to_move =
            |stream: &Arc<Carried>| stream.is_movable_from(session.number) || stream.is_on_its_way_from(session.number);
        if !is_told && !vault.routes.carried().iter().any(is_to_move) {
            is_told = true;
            let (moved, took) = (session.moved(), began.elapsed());
            tracing::info!(relay = %session.relay, moved, left, ?took, "moved {moved} streams in {took:?}");
        }
        if left > 0 {
            sleep(LOOK).await;
        } else if timeout(LINGER, session.path_begins()).await.is_err() && vault.session().is_some() {
            return;
        }
    }
}

/// Waits for a session to go to.
async fn stands(vault: &AgentVault) {
    if vault.watch_session().wait_for(Option::is_some).await.is_err() {
        tracing::trace!("the sender is in the vault, so it cannot be gone");
    }
}

async fn move_all(vault: &AgentVault, session: &Session) {
    let streams = vault.routes.carried().into_iter().filter(|stream| stream.is_movable_from(session.number));
    let moves = streams.map(|stream| move_one(vault, session.number, stream));
    futures_util::stream::iter(moves).buffer_unordered(AT_ONCE).collect::<()>().await;
}

async fn move_one(vault: &AgentVault, number: u64, stream: Arc<Carried>) {
    sleep(STREAM_JITTER.mul_f64(rand::random())).await;
    if vault.session().is_some() && stream.move_from(number) && timeout(PLACE, stream.has_left(number)).await.is_err() {
        tracing::debug!(stream = %stream.fields().stream_id, "its partner has not come yet");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn leave(left_ms: i64, successors: &[&str]) -> (Leave, Instant) {
        let now = Instant::now();
        let goaway = orp::GoAway {
            reason: "draining".to_owned(),
            deadline_unix_ms: 1_000_000 + left_ms,
            successors: successors.iter().map(ToString::to_string).collect(),
        };
        (Leave::new(&goaway, now, 1_000_000, SECOND), now)
    }

    #[test]
    fn what_is_no_host_and_port_is_no_successor_and_the_order_stays() {
        let (leave, _) = leave(30_000, &["b:1", "nonsense", "", "http://c:2", "a:65536", "[::1]:3", "a:4"]);
        let successors: Vec<_> = leave.successors.iter().map(HostPort::as_str).collect();
        assert_eq!(successors, ["b:1", "[::1]:3", "a:4"]);
        let many: Vec<String> = (0..1000).map(|n| format!("r{n}:1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(self::leave(30_000, &many).0.successors.len(), SUCCESSORS);
    }

    #[test]
    fn the_jitter_is_at_most_a_tenth_of_the_time_that_is_left() {
        let (long, now) = leave(30_000, &[]);
        assert_eq!((long.dial_at(0.0), long.dial_at(1.0)), (now, now + SECOND));
        assert_eq!((long.move_at(0.0), long.move_at(1.0)), (now + SECOND * 3 / 2, now + SECOND * 2));
        let (short, now) = leave(2_000, &[]);
        assert_eq!(short.dial_at(1.0), now + SECOND / 5);
        assert_eq!(short.deadline, now + SECOND * 2);
    }

    #[test]
    fn a_deadline_that_is_over_or_absurd_does_no_harm() {
        let (over, now) = leave(-5_000, &[]);
        assert_eq!((over.dial_at(1.0), over.move_at(1.0), over.deadline), (now, now, now));
        let absurd = orp::GoAway { deadline_unix_ms: i64::MAX, ..orp::GoAway::default() };
        let absurd = Leave::new(&absurd, now, -1, SECOND);
        assert_eq!((absurd.deadline, absurd.dial_at(1.0)), (now + LONGEST, now + SECOND));
        let ended = orp::GoAway { deadline_unix_ms: i64::MIN, ..orp::GoAway::default() };
        assert_eq!(Leave::new(&ended, now, 1, SECOND).deadline, now);
    }
}
