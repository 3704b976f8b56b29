//! One direction of one stream, as both its ends see it: what was said, what was heard and whether it is that, and for how
//! long nothing was heard of what was said.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::pattern::{Checker, Pattern, Wrong};

/// One direction.
#[derive(Debug)]
pub struct Way {
    pattern: Pattern,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes that the sender has begun to write.
    said: u64,
    /// All has been written, and the end.
    finished: bool,
    heard: u64,
    /// Taken when the end has come.
    checker: Option<Checker>,
    wrong: Wrong,
    /// Since when what was said has not been heard, or the moment of the last change.
    since: Instant,
    /// The longest time without a byte since it was asked for, while there was something to be heard; none when there was
    /// nothing.
    longest: Option<Duration>,
}

/// What the end of a direction was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All that was said has come, and then the end.
    Whole,
    /// The end came while the sender had more to say, or bytes were missing.
    Early,
}

impl Way {
    /// One in which nothing was said.
    #[must_use]
    pub fn new(number: u64) -> Self {
        let pattern = Pattern::new(number);
        let state = State {
            said: 0,
            finished: false,
            heard: 0,
            checker: Some(Checker::new(pattern)),
            wrong: Wrong::default(),
            since: Instant::now(),
            longest: None,
        };
        Self { pattern, state: Mutex::new(state) }
    }

    /// Fills `bytes` with what is to be said next, and counts it as said: a byte may be heard before its write returns.
    pub fn say(&self, bytes: &mut [u8]) {
        let at = {
            let mut state = self.state();
            if state.heard >= state.said {
                state.since = Instant::now();
            }
            let at = state.said;
            state.said += bytes.len() as u64;
            at
        };
        self.pattern.fill(at, bytes);
    }

    /// No more is said. Before the end is written.
    pub fn finish(&self) {
        self.state().finished = true;
    }

    /// Takes what came out at the other end.
    pub fn hear(&self, bytes: &[u8]) {
        let mut state = self.state();
        let now = Instant::now();
        state.stood_still_until(now);
        state.since = now;
        state.heard += bytes.len() as u64;
        if let Some(checker) = &mut state.checker {
            checker.take(bytes);
        }
    }

    /// Takes the end.
    pub fn hear_end(&self) -> End {
        let mut state = self.state();
        let said = state.said;
        if let Some(checker) = state.checker.take() {
            state.wrong = checker.end(said);
        }
        if state.finished && state.wrong.lost == 0 { End::Whole } else { End::Early }
    }

    /// What was wrong with what was heard.
    #[must_use]
    pub fn wrong(&self) -> Wrong {
        let state = self.state();
        state.checker.as_ref().map_or(state.wrong, Checker::wrong)
    }

    /// Bytes that were said.
    #[must_use]
    pub fn said(&self) -> u64 {
        self.state().said
    }

    /// Bytes that were heard.
    #[must_use]
    pub fn heard(&self) -> u64 {
        self.state().heard
    }

    /// The longest time without a byte since this was last asked, while there was something to be heard.
    pub fn stood_still(&self) -> Option<Duration> {
        let mut state = self.state();
        state.stood_still_until(Instant::now());
        state.longest.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn stood_still_until(&mut self, now: Instant) {
        if self.said > self.heard && self.checker.is_some() {
            self.longest = self.longest.max(Some(now - self.since));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says so many bytes; what is on its way then.
    fn say(way: &Way, bytes: usize) -> Vec<u8> {
        let mut said = vec![0; bytes];
        way.say(&mut said);
        said
    }

    #[test]
    fn a_direction_is_whole_when_all_has_come_and_the_sender_was_done() {
        let way = Way::new(1);
        let said = say(&way, 100);
        way.hear(&said);
        way.finish();
        assert_eq!((way.hear_end(), way.wrong(), way.heard()), (End::Whole, Wrong::default(), 100));
    }

    #[test]
    fn an_end_is_early_when_bytes_are_missing_and_they_are_lost() {
        let way = Way::new(1);
        let said = say(&way, 100);
        way.hear(&said[..90]);
        way.finish();
        assert_eq!((way.hear_end(), way.wrong().lost), (End::Early, 10));
    }

    #[test]
    fn an_end_is_early_when_the_sender_has_more_to_say() {
        let way = Way::new(1);
        let said = say(&way, 100);
        way.hear(&said);
        assert_eq!((way.hear_end(), way.wrong()), (End::Early, Wrong::default()));
    }

    #[test]
    fn only_what_waits_to_be_heard_stands_still() {
        let way = Way::new(1);
        assert_eq!(way.stood_still(), None);
        let said = say(&way, 10);
        assert!(way.stood_still().is_some());
        way.hear(&said);
        assert!(way.stood_still().is_some(), "it did until a moment ago");
        assert_eq!(way.stood_still(), None);
    }
}
