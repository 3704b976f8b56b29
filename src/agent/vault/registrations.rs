//! Which services are registered on one session, which is being registered, and which must be tried again.
//!
//! A relay answers REGISTER in order and does not name the service in its answer (wire.md §3), so there is one at a time. Pure: time
//! and chance are parameters.

use std::time::Duration;

use tokio::time::Instant;

use crate::agent::backoff;
use crate::config::agent::{Backoff, Expose};
use crate::proto::orp;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Due(Instant),
    Registered,
}

#[derive(Debug)]
struct Service {
    expose: Expose,
    refusals: u32,
    state: State,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    service: usize,
    answer_by: Instant,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Registrations {
    services: Vec<Service>,
    asked: Option<Asked>,
}

impl Registrations {
    /// Everything is still to be registered, in this order.
    #[must_use]
    pub fn new(exposes: &[Expose], now: Instant) -> Self {
        let service = |expose: &Expose| Service { expose: expose.clone(), refusals: 0, state: State::Due(now) };
        Self { services: exposes.iter().map(service).collect(), asked: None }
    }

    /// The next REGISTER to send, if one is due and none is waiting for its answer. It counts as sent.
    pub fn next(&mut self, now: Instant, answer_within: Duration) -> Option<orp::Register> {
        if self.asked.is_some() {
            return None;
        }
        let due = |service: &Service| matches!(service.state, State::Due(at) if at <= now);
        let service = self.services.iter().position(due)?;
        self.asked = Some(Asked { service, answer_by: now + answer_within });
        let expose = &self.services[service].expose;
        Some(orp::Register { service_name: expose.name.clone(), local_addr: expose.to.to_string() })
    }

    /// REGISTER_ACK came: the service's name; none when nothing was asked.
    pub fn acknowledged(&mut self) -> Option<String> {
        let asked = self.asked.take()?;
        let service = &mut self.services[asked.service];
        service.state = State::Registered;
        Some(service.expose.name.clone())
    }

    /// The answer was a refusal: the service's name, and when it is tried again; none when nothing was asked.
    pub fn refused(&mut self, now: Instant, backoff: &Backoff, chance: f64) -> Option<(String, Duration)> {
        let asked = self.asked.take()?;
        let service = &mut self.services[asked.service];
        service.refusals = service.refusals.saturating_add(1);
        let wait = backoff::wait(backoff, service.refusals, chance);
        service.state = State::Due(now + wait);
        Some((service.expose.name.clone(), wait))
    }

    /// Whether an answer has not come in time.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> bool {
        self.asked.is_some_and(|asked| asked.answer_by <= now)
    }

    /// When to look again; none when nothing is left to do.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        if let Some(asked) = self.asked {
            return Some(asked.answer_by);
        }
        let due = |service: &Service| match service.state {
            State::Due(at) => Some(at),
            State::Registered => None,
        };
        self.services.iter().filter_map(due).min()
    }

    /// Whether every service is registered.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.services.iter().all(|service| service.state == State::Registered)
    }

    /// The names of those that are registered.
    #[must_use]
    pub fn registered(&self) -> Vec<String> {
        let registered = self.services.iter().filter(|service| service.state == State::Registered);
        registered.map(|service| service.expose.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn two() -> (Registrations, Instant) {
        let exposes = ["a=h:1", "b=h:2"].map(|text| text.parse().unwrap());
        let now = Instant::now();
        (Registrations::new(&exposes, now), now)
    }

    #[test]
    fn services_are_registered_one_at_a_time_in_order() {
        let (mut services, now) = two();
        let first = services.next(now, SECOND).unwrap();
        assert_eq!((first.service_name.as_str(), first.local_addr.as_str()), ("a", "h:1"));
        assert_eq!(services.next(now, SECOND), None);
        assert_eq!(services.acknowledged().as_deref(), Some("a"));
        assert!(!services.complete());
        assert_eq!(services.next(now, SECOND).unwrap().service_name, "b");
        assert_eq!(services.acknowledged().as_deref(), Some("b"));
        assert!(services.complete());
        assert_eq!(services.wake_at(), None);
        assert_eq!(services.registered(), ["a", "b"]);
    }

    #[test]
    fn a_refused_service_waits_and_the_others_go_on() {
        let (mut services, now) = two();
        let backoff = Backoff { initial: SECOND, max: SECOND * 10, ..Backoff::default() };
        assert!(services.next(now, SECOND).is_some());
        assert_eq!(services.refused(now, &backoff, 0.0), Some(("a".to_owned(), SECOND)));
        assert_eq!(services.next(now, SECOND).unwrap().service_name, "b");
        assert_eq!(services.acknowledged().as_deref(), Some("b"));
        assert_eq!(services.next(now, SECOND), None);
        assert_eq!(services.wake_at(), Some(now + SECOND));
        assert_eq!(services.next(now + SECOND, SECOND).unwrap().service_name, "a");
    }

    #[test]
    fn an_answer_that_does_not_come_is_overdue_and_one_that_nobody_asked_for_is_ignored() {
        let (mut services, now) = two();
        assert_eq!(services.acknowledged(), None);
        assert!(services.next(now, SECOND).is_some());
        assert_eq!(services.wake_at(), Some(now + SECOND));
        assert!(!services.overdue(now) && services.overdue(now + SECOND));
    }
}
