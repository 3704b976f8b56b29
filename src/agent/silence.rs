//! Notices fast that the relay is gone, but only while a stream lives that waits for it (architecture §6). An idle session keeps the
//! keepalive and the idle timeout of QUIC.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::vault::session::Session;
use crate::core::frame::Frame;

/// After so long without a datagram the relay is asked for one.
const ASK: Duration = Duration::from_millis(500);
/// After so long, or four round trips if that is longer, the session is given up.
pub const DEAD: Duration = Duration::from_millis(1500);
/// How often the connection is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What one look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    Alive,
    /// Ask for a sign of life.
    Ask,
    Dead,
}

/// What is known of a connection that should speak.
#[derive(Debug)]
struct Silence {
    datagrams: u64,
    heard_at: Instant,
    looked_at: Instant,
    asked: Asked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Yes,
    No,
}

impl Silence {
    fn new(datagrams: u64, now: Instant) -> Self {
        Self { datagrams, heard_at: now, looked_at: now, asked: Asked::No }
    }

    fn look(&mut self, datagrams: u64, rtt: Duration, now: Instant) -> Finding {
        // A look that comes late says that it was we who slept: what came meanwhile may not be read yet.
        let we_slept = now.duration_since(self.looked_at) > LOOK * 4;
        self.looked_at = now;
        if datagrams != self.datagrams || we_slept {
            *self = Self::new(datagrams, now);
            return Finding::Alive;
        }
        let silent_for = now.duration_since(self.heard_at);
        // On a long way a question and its answer, and one of them lost, take their time.
        if silent_for >= DEAD.max(rtt * 4) {
            return Finding::Dead;
        }
        if silent_for >= ASK && self.asked == Asked::No {
            self.asked = Asked::Yes;
            return Finding::Ask;
        }
        Finding::Alive
    }
}

/// Resolves when the relay has been silent for too long. Asks it before; sleeps while no stream lives.
pub async fn watch(session: Arc<Session>, mut live: watch::Receiver<usize>) {
    loop {
        if live.wait_for(|live| *live > 0).await.is_err() {
            // The sender is in the vault, so it cannot be gone.
            std::future::pending::<()>().await;
        }
        let mut silence = Silence::new(heard(&session), Instant::now());
        while *live.borrow() > 0 {
            sleep(LOOK).await;
            match silence.look(heard(&session), session.quic.rtt(), Instant::now()) {
                Finding::Alive => {}
                Finding::Ask => session.send_control(&Frame::Ping),
                Finding::Dead => return,
            }
        }
    }
}

fn heard(session: &Session) -> u64 {
    session.quic.stats().udp_rx.datagrams
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks every 100 ms; `heard` says after which looks a datagram had come.
    fn findings(looks: u32, heard: impl Fn(u32) -> bool) -> Vec<(u32, Finding)> {
        let start = Instant::now();
        let mut silence = Silence::new(0, start);
        let mut datagrams = 0;
        let look = |nth| {
            datagrams += u64::from(heard(nth));
            (nth, silence.look(datagrams, Duration::ZERO, start + LOOK * nth))
        };
        (1..=looks).map(look).filter(|(_, finding)| *finding != Finding::Alive).collect()
    }

    #[test]
    fn a_silent_relay_is_asked_once_and_then_given_up() {
        assert_eq!(findings(15, |_| false), [(5, Finding::Ask), (15, Finding::Dead)]);
    }

    #[test]
    fn any_datagram_is_a_sign_of_life() {
        assert_eq!(findings(19, |nth| nth == 6), [(5, Finding::Ask), (11, Finding::Ask)]);
        assert_eq!(findings(60, |nth| nth % 4 == 0), []);
    }

    #[test]
    fn who_has_slept_itself_starts_anew() {
        let start = Instant::now();
        let mut silence = Silence::new(0, start);
        assert_eq!(silence.look(0, Duration::ZERO, start + DEAD * 2), Finding::Alive);
        assert_eq!(silence.look(0, Duration::ZERO, start + DEAD * 2 + LOOK), Finding::Alive);
    }
}
