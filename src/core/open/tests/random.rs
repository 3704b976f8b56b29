//! Random events in any order, early, late and twice, against a small model of what the driver holds.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn any_verdict() -> impl Strategy<Value = Verdict> {
    let modes = (0..3u32, 0..2u32);
    (prop::bool::weighted(0.8), modes).prop_map(|(allow, (p2p, relay))| {
        let p2p_mode = P2pMode::from_code(p2p).unwrap();
        let relay_mode = RelayMode::from_code(relay).unwrap();
        if allow { allowed(p2p_mode, relay_mode) } else { no("rule") }
    })
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (1..6u8, prop::bool::weighted(0.2)).prop_map(|(number, foreign)| Candidate {
        agent: agent(if foreign { "umbrella" } else { "acme" }, number),
        generation: Generation(u64::from(number)),
    });
    vec(one, 0..5)
}

/// What ends an open outright is rare, so that most runs get far.
fn any_event() -> impl Strategy<Value = Event> {
    let name = prop_oneof![9 => Just("svc"), 1 => Just("no good")];
    let frame = (name, 0..3u64).prop_map(|(name, stream_id)| {
        Event::FrameRead(pb::OpenStream { target_service: name.into(), method: "GET".into(), stream_id })
    });
    prop_oneof![
        20 => frame,
        1 => Just(Event::FrameInvalid("bad".into())),
        20 => any_verdict().prop_map(Event::CallerDecided),
        20 => any_candidates().prop_map(Event::Resolved),
        20 => any_verdict().prop_map(Event::CalleeDecided),
        20 => Just(Event::Reserved),
        2 => Just(Event::ReserveConflict),
        5 => Just(Event::ProviderAccepted),
        1 => Just(Event::ProviderRejected { code: 1, reason: "no".into() }),
        15 => Just(Event::ProviderUnavailable("lost".into())),
        1 => Just(Event::TimedOut),
        1 => Just(Event::ConsumerGone),
    ]
}

/// What a driver that does what it is told would hold, and what it was told.
#[derive(Debug, Default)]
struct Driver {
    /// Asked for, with the answer once it is there.
    reservation: Option<(Candidate, Answer)>,
    provider: Option<Candidate>,
    caller_modes: Option<(P2pMode, RelayMode)>,
    callee_mode: Option<P2pMode>,
    end: Option<Action>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    Awaited,
    Made,
}

impl Driver {
    /// Learns of an event that the machine acted on.
    fn note(&mut self, event: &Event) {
        match event {
            Event::CallerDecided(verdict) if verdict.is_allowed() => {
                self.caller_modes = Some((verdict.p2p_mode, verdict.relay_mode));
            }
            Event::CalleeDecided(verdict) if verdict.is_allowed() => {
                self.callee_mode = Some(verdict.p2p_mode);
            }
            Event::Reserved => {
                let (_, answer) = self.reservation.as_mut().expect("asked for before");
                assert_eq!(*answer, Answer::Awaited);
                *answer = Answer::Made;
            }
            Event::ReserveConflict => self.reservation = None,
            _ => {}
        }
    }

    fn perform(&mut self, action: Action) {
        assert_eq!(self.end, None, "nothing after the end");
        match action {
            Action::DecideCaller { .. } => assert_eq!(self.caller_modes, None),
            Action::Resolve { .. } => assert!(self.caller_modes.is_some(), "allowed first"),
            Action::DecideCallee { candidate, .. } => {
                assert_eq!(candidate.agent.tenant().as_str(), "acme");
                assert_eq!((&self.reservation, &self.provider), (&None, &None));
                self.callee_mode = None;
            }
            Action::Reserve { candidate, .. } => {
                assert!(self.callee_mode.is_some(), "allowed first");
                assert_eq!(self.reservation, None, "one at a time");
                self.reservation = Some((candidate, Answer::Awaited));
            }
            Action::Release => {
                assert!(self.reservation.take().is_some(), "something to release");
                assert_eq!(self.provider, None, "the provider is let go first");
            }
            Action::OpenProvider { candidate, .. } => {
                let reserved = Some((candidate.clone(), Answer::Made));
                assert_eq!(self.reservation, reserved, "reserved for this provider");
                assert_eq!(self.provider, None, "one at a time");
                self.provider = Some(candidate);
            }
            Action::CloseProvider => {
                assert!(self.provider.take().is_some(), "something to close");
            }
            end => self.end(end),
        }
    }

    fn end(&mut self, end: Action) {
        if let Action::Splice { candidate, p2p_mode, relay_mode, .. } = &end {
            assert_eq!(self.provider.as_ref(), Some(candidate), "who was asked");
            let (caller_p2p, caller_relay) = self.caller_modes.expect("the caller's side");
            let callee_p2p = self.callee_mode.expect("the callee's side");
            assert_eq!(*p2p_mode, caller_p2p.combine(callee_p2p));
            assert_eq!(*relay_mode, caller_relay);
        } else {
            assert_eq!(self.provider, None, "no provider is left hanging");
            assert_eq!(self.reservation, None, "no reservation is left");
        }
        self.end = Some(end);
    }
}

fn run(events: impl IntoIterator<Item = Event>) -> Option<Action> {
    let mut open = Open::new(consumer());
    let mut driver = Driver::default();
    for event in events {
        let was_ended = open.is_ended();
        let actions = open.on(event.clone());
        assert!(!was_ended || actions.is_empty(), "nothing after the end");
        if !actions.is_empty() {
            driver.note(&event);
        }
        actions.into_iter().for_each(|action| driver.perform(action));
        assert_eq!(open.is_ended(), driver.end.is_some());
    }
    driver.end
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_open_ends_once_and_leaves_nothing_behind(events in vec(any_event(), 0..50)) {
        let end = run(events.into_iter().chain([Event::TimedOut]));
        prop_assert!(end.is_some(), "the deadline ends whatever has not ended");
    }

    #[test]
    fn a_consumer_that_leaves_ends_every_open_too(events in vec(any_event(), 0..50)) {
        prop_assert!(run(events.into_iter().chain([Event::ConsumerGone])).is_some());
    }
}

#[test]
fn the_random_events_reach_every_kind_of_end() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let strategy = vec(any_event(), 50);
    let (mut spliced, mut abandoned) = (0, 0);
    let mut codes = std::collections::BTreeSet::new();
    for _ in 0..2_000 {
        let events = strategy.new_tree(&mut runner).unwrap().current();
        match run(events) {
            Some(Action::Splice { .. }) => spliced += 1,
            Some(Action::Abandon) => abandoned += 1,
            Some(Action::Reject(reject)) => {
                codes.insert(reject.code.code());
            }
            _ => {}
        }
    }
    assert!(spliced > 10 && abandoned > 10, "{spliced} {abandoned}");
    let all = [400, 403, 404, 409, 502, 503];
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), all);
}
