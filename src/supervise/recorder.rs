//! The flight recorder of one actor: the last messages that it dealt with, kept outside the actor and across its restarts,
//! and how its earlier incarnations ended. Bounded; nothing of a message is kept but its name.

use std::collections::VecDeque;
use std::fmt::{self, Debug, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::clock::unix_ms;

use super::node::Node;

/// Messages that are kept per actor.
const EVENTS: usize = 16;
/// Ends of incarnations that are kept per actor.
const ENDS: usize = 8;
/// What is kept of a message's name.
const NAME_MAX_BYTES: usize = 22;

/// Something that happened, as `admin inspect` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// What.
    pub what: String,
    /// How long it took to deal with, in microseconds; absent where that says nothing, or while it is not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
}

impl Recorded {
    /// Something that happened at one moment.
    #[must_use]
    pub fn at(at: SystemTime, what: impl Into<String>) -> Self {
        Self { at: unix_ms(at), what: what.into(), took_us: None }
    }
}

/// A short name without an allocation: an actor deals with thousands of messages per second.
#[derive(Clone, Copy)]
struct Name {
    bytes: [u8; NAME_MAX_BYTES],
    len: u8,
}

impl Name {
    /// The name of the enum's variant that `message` is. Formatting stops behind it: what the message holds is not looked at.
    fn of(message: &impl Debug) -> Self {
        let mut name = Self { bytes: [0; NAME_MAX_BYTES], len: 0 };
        // Ends with an error as soon as something else than a name is written, which is the point.
        write!(name, "{message:?}").ok();
        name
    }

    fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let slot = self.bytes.get_mut(usize::from(self.len)).ok_or(fmt::Error)?;
            if !byte.is_ascii_alphanumeric() {
                return Err(fmt::Error);
            }
            *slot = byte;
            self.len += 1;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Event {
    at: Instant,
    name: Name,
    /// `u32::MAX` until it is dealt with.
    took_us: u32,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Recorder(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    events: VecDeque<Event>,
    ends: VecDeque<(SystemTime, String)>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

impl Recorder {
    /// The actor begins to deal with `message`.
    pub(super) fn begins(&self, message: &impl Debug) {
        let event = Event { at: Instant::now(), name: Name::of(message), took_us: u32::MAX };
        let mut kept = self.lock();
        if kept.events.len() >= EVENTS {
            kept.events.pop_front();
        }
        kept.events.push_back(event);
    }

    /// It is done with what it began last.
    pub(super) fn done(&self) {
        if let Some(last) = self.lock().events.back_mut() {
            last.took_us = u32::try_from(last.at.elapsed().as_micros()).unwrap_or(u32::MAX - 1);
        }
    }

    /// An incarnation has ended.
    pub(super) fn ended(&self, why: String) {
        let mut kept = self.lock();
        if kept.ends.len() >= ENDS {
            kept.ends.pop_front();
        }
        kept.ends.push_back((SystemTime::now(), why));
    }

    /// Why the last incarnation that has ended did.
    #[must_use]
    pub fn last_end(&self) -> Option<String> {
        self.lock().ends.back().map(|(_, why)| why.clone())
    }

    /// The last ends of incarnations, the oldest first.
    #[must_use]
    pub fn ends(&self) -> Vec<Recorded> {
        self.lock().ends.iter().map(|(at, why)| Recorded::at(*at, why.clone())).collect()
    }

    /// The last messages, the oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Recorded> {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let shown = |event: &Event| Recorded {
            at: unix_ms(clock.checked_sub(now - event.at).unwrap_or(clock)),
            what: event.name.as_str().to_owned(),
            took_us: (event.took_us != u32::MAX).then_some(event.took_us.into()),
        };
        self.lock().events.iter().map(shown).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is recorded of an actor that failed goes to the log: it may be gone in a moment.
pub(super) fn dump(node: &Node, why: &str) {
    tracing::error!(
        actor = %node.label(),
        why,
        messages = in_a_line(&node.recorder().events()),
        earlier = in_a_line(&node.recorder().ends()),
        carried = in_a_line(&node.recorded_elsewhere()),
        detail = %node.detail(),
        "actor failed: what is recorded of it"
    );
}

/// `events` in one line, each with how long ago it was: for a log.
#[must_use]
pub fn in_a_line(events: &[Recorded]) -> String {
    let now = unix_ms(SystemTime::now());
    let one = |event: &Recorded| {
        let ago = Duration::from_millis(now.saturating_sub(event.at));
        format!("{} {ago:?} ago", event.what)
    };
    events.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Unshown;
    impl Debug for Unshown {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("what a message holds is not looked at")
        }
    }

    #[derive(Debug)]
    enum Msg {
        Plain,
        Tuple(Unshown),
        Named { _field: Unshown },
        ANameThatIsLongerThanWhatIsKept,
    }

    #[test]
    fn the_last_messages_are_kept_by_name() {
        let recorder = Recorder::default();
        for _ in 0..20 {
            recorder.begins(&Msg::Plain);
            recorder.done();
        }
        recorder.begins(&Msg::Tuple(Unshown));
        recorder.done();
        recorder.begins(&Msg::Named { _field: Unshown });
        recorder.done();
        recorder.begins(&Msg::ANameThatIsLongerThanWhatIsKept);
        let events = recorder.events();
        assert_eq!(events.len(), EVENTS);
        let last: Vec<_> = events[EVENTS - 4..].iter().map(|event| event.what.as_str()).collect();
        assert_eq!(last, ["Plain", "Tuple", "Named", "ANameThatIsLongerThanW"]);
        assert!(events[EVENTS - 2].took_us.is_some());
        assert_eq!(events[EVENTS - 1].took_us, None, "it is not done");
        let line = in_a_line(&events[EVENTS - 2..]);
        assert!(line.starts_with("Named ") && line.ends_with(" ago"), "{line}");
    }

    #[test]
    fn the_last_ends_are_kept() {
        let recorder = Recorder::default();
        assert_eq!(recorder.last_end(), None);
        for n in 0..10 {
            recorder.ended(format!("end {n}"));
        }
        let ends: Vec<_> = recorder.ends().into_iter().map(|end| end.what).collect();
        assert_eq!((ends.len(), ends[0].as_str()), (ENDS, "end 2"));
        assert_eq!(recorder.last_end().as_deref(), Some("end 9"));
    }
}
