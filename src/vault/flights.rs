//! The flight recorder of streams: what happened to each, across the actors that carried it and after they are gone.
//!
//! One bounded queue for all streams, the oldest out first: a relay under load keeps less of each, never more in all.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::core::identity::Tenant;
use crate::core::ids::StreamId;
use crate::supervise::recorder::Recorded;

/// Events that are kept, of all streams together: at most two megabytes.
pub const KEPT: usize = 8_192;
/// What is kept of one: a peer may have had its say in it.
const WHAT_MAX_BYTES: usize = 200;

#[derive(Debug)]
struct Event {
    at: SystemTime,
    tenant: Tenant,
    id: StreamId,
    what: Cow<'static, str>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Flights(Mutex<VecDeque<Event>>);

impl Flights {
    /// `what` has just happened to a stream. Streams without an id cannot be told apart: nothing is kept of them.
    pub fn note(&self, tenant: &Tenant, id: StreamId, what: impl Into<Cow<'static, str>>) {
        if !id.is_recorded() {
            return;
        }
        let mut what = what.into();
        if what.len() > WHAT_MAX_BYTES {
            // Copied: the rest must not stay in memory behind it.
            what = what[..what.floor_char_boundary(WHAT_MAX_BYTES)].to_owned().into();
        }
        let event = Event { at: SystemTime::now(), tenant: tenant.clone(), id, what };
        let mut events = self.lock();
        if events.len() >= KEPT {
            events.pop_front();
        }
        events.push_back(event);
    }

    /// What is known of a stream, the oldest first.
    #[must_use]
    pub fn of(&self, tenant: &Tenant, id: StreamId) -> Vec<Recorded> {
        self.matching(|event| event.id == id && event.tenant == *tenant)
    }

    /// What is known of the streams that have this id, in whichever tenant.
    #[must_use]
    pub fn of_any_tenant(&self, id: StreamId) -> Vec<Recorded> {
        self.matching(|event| event.id == id)
    }

    fn matching(&self, wanted: impl Fn(&Event) -> bool) -> Vec<Recorded> {
        let events = self.lock();
        let shown = |event: &Event| Recorded::at(event.at, event.what.clone());
        events.iter().filter(|event| wanted(event)).map(shown).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_s_events_are_its_own_and_the_oldest_of_all_go_first() {
        let flights = Flights::default();
        let (acme, beta): (Tenant, Tenant) = ("acme".parse().unwrap(), "beta".parse().unwrap());
        let texts = |events: Vec<Recorded>| events.into_iter().map(|event| event.what).collect::<Vec<_>>();
        flights.note(&acme, StreamId(1), "opened");
        flights.note(&beta, StreamId(1), "opened by another tenant");
        flights.note(&acme, StreamId(0), "no id");
        flights.note(&acme, StreamId(1), String::from("ended"));
        assert_eq!(texts(flights.of(&acme, StreamId(1))), ["opened", "ended"]);
        assert_eq!(flights.of_any_tenant(StreamId(1)).len(), 3);
        assert!(flights.of(&acme, StreamId(0)).is_empty());
        flights.note(&acme, StreamId(3), "é".repeat(70_000));
        assert!(flights.of(&acme, StreamId(3))[0].what.len() <= WHAT_MAX_BYTES);
        for _ in 0..KEPT - 3 {
            flights.note(&acme, StreamId(2), "x");
        }
        assert_eq!(texts(flights.of(&acme, StreamId(1))), ["ended"]);
    }
}
