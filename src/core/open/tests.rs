//! Opens step by step: what the machine asks for, and how each ends.

mod random;

use super::*;

fn agent(tenant: &str, number: u8) -> AgentUri {
    let uuid = format!("00000000-0000-0000-0000-0000000000{number:02x}");
    AgentUri::new(&tenant.parse().unwrap(), &uuid).unwrap()
}

fn consumer() -> AgentUri {
    agent("acme", 0)
}

fn candidate(number: u8) -> Candidate {
    Candidate { agent: agent("acme", number), generation: Generation(u64::from(number)) }
}

fn frame() -> Event {
    Event::FrameRead(pb::OpenStream { target_service: "svc".into(), method: "GET".into(), stream_id: 7 })
}

fn allowed(p2p_mode: P2pMode, relay_mode: RelayMode) -> Verdict {
    Verdict {
        effect: crate::core::policy::Effect::Allow,
        rule: Some("yes".into()),
        reason: "allowed by rule".into(),
        p2p_mode,
        relay_mode,
    }
}

fn yes() -> Verdict {
    allowed(P2pMode::Allowed, RelayMode::Splice)
}

fn no(rule: &str) -> Verdict {
    Verdict { rule: Some(rule.into()), ..Verdict::denied("denied by rule") }
}

fn rejected(code: RejectCode, reason: &str) -> Action {
    Action::Reject(Reject::new(code, reason))
}

fn decide_callee(number: u8) -> Action {
    Action::DecideCallee { candidate: candidate(number), method: "GET".into() }
}

fn reserve(number: u8) -> Action {
    Action::Reserve { stream_id: StreamId(7), candidate: candidate(number) }
}

fn open_provider(number: u8) -> Action {
    Action::OpenProvider {
        candidate: candidate(number),
        incoming: pb::IncomingStream {
            target_service: "svc".into(),
            method: "GET".into(),
            source_agent_uri: consumer().to_string(),
            stream_id: 7,
        },
    }
}

/// An open after these events, and what the last of them made it do.
fn after(events: impl IntoIterator<Item = Event>) -> (Open, Vec<Action>) {
    let mut open = Open::new(consumer());
    let mut last = Vec::new();
    for event in events {
        assert!(!open.is_ended(), "ended before {event:?}");
        last = open.on(event);
    }
    (open, last)
}

/// The events up to the moment at which provider 1 of `providers` is asked.
fn until_asked(providers: &[u8]) -> Vec<Event> {
    let mut events = until_resolved(providers);
    events.extend([Event::CalleeDecided(yes()), Event::Reserved]);
    events
}

fn until_resolved(providers: &[u8]) -> Vec<Event> {
    let candidates = providers.iter().copied().map(candidate).collect();
    vec![frame(), Event::CallerDecided(yes()), Event::Resolved(candidates)]
}

#[track_caller]
fn ends(events: Vec<Event>, batch: &[Action]) {
    let (mut open, last) = after(events);
    assert_eq!(last, batch);
    assert!(open.is_ended());
    for late in [Event::TimedOut, Event::ConsumerGone, Event::ProviderAccepted, frame()] {
        assert_eq!(open.on(late), [], "nothing after the end");
    }
}

#[test]
fn a_stream_that_everyone_agrees_to_is_spliced_with_both_sides_modes() {
    let mut open = Open::new(consumer());
    let target: ServiceName = "svc".parse().unwrap();
    let method = "GET".to_owned();
    let ask = Action::DecideCaller { target: target.clone(), method };
    assert_eq!(open.on(frame()), [ask]);
    let caller = allowed(P2pMode::Required, RelayMode::Splice);
    let resolve = Action::Resolve { target };
    assert_eq!(open.on(Event::CallerDecided(caller)), [resolve]);
    let providers = vec![candidate(1), candidate(2)];
    assert_eq!(open.on(Event::Resolved(providers)), [decide_callee(1)]);
    let callee = allowed(P2pMode::Forbidden, RelayMode::Splice);
    assert_eq!(open.on(Event::CalleeDecided(callee)), [reserve(1)]);
    assert_eq!(open.on(Event::Reserved), [open_provider(1)]);
    assert!(!open.is_ended());
    let splice = Action::Splice {
        stream_id: StreamId(7),
        candidate: candidate(1),
        p2p_mode: P2pMode::Forbidden,
        relay_mode: RelayMode::Splice,
    };
    assert_eq!(open.on(Event::ProviderAccepted), [splice]);
    assert!(open.is_ended());
}

#[test]
fn what_this_relay_does_not_do_is_refused_before_a_provider_is_asked() {
    let forward = Event::CallerDecided(allowed(P2pMode::Allowed, RelayMode::Forward));
    let required = Event::CalleeDecided(allowed(P2pMode::Required, RelayMode::Splice));
    let mut callee = until_resolved(&[1, 2]);
    callee.push(required);
    for events in [vec![frame(), forward], callee] {
        let (open, last) = after(events);
        assert!(open.is_ended());
        let [Action::Reject(reject)] = &last[..] else { panic!("{last:?}") };
        assert_eq!(reject.code, RejectCode::BadGateway);
    }
}

#[test]
fn stream_id_0_is_reserved_like_any_other() {
    let unrecorded = Event::FrameRead(pb::OpenStream { target_service: "svc".into(), ..Default::default() });
    let mut events = until_resolved(&[1]);
    events[0] = unrecorded;
    events.push(Event::CalleeDecided(yes()));
    let (_, last) = after(events);
    let expected = Action::Reserve { stream_id: StreamId(0), candidate: candidate(1) };
    assert_eq!(last, [expected]);
}

#[test]
fn a_malformed_service_name_or_frame_is_400() {
    for (name, reason) in
        [("", "the service name is empty"), ("outrelay://acme/agent/x", "the service name starts with outrelay:")]
    {
        let frame = Event::FrameRead(pb::OpenStream { target_service: name.into(), ..Default::default() });
        ends(vec![frame], &[rejected(RejectCode::BadRequest, reason)]);
    }
    let invalid = Event::FrameInvalid("PING is not OPEN_STREAM".into());
    let expected = rejected(RejectCode::BadRequest, "PING is not OPEN_STREAM");
    ends(vec![invalid], &[expected]);
}

#[test]
fn a_deny_of_the_callers_side_is_403_and_names_the_rule_or_the_reason() {
    let denied = |reason| [rejected(RejectCode::Denied, reason)];
    let by_rule = vec![frame(), Event::CallerDecided(no("no-mallory"))];
    ends(by_rule, &denied("denied: no-mallory"));
    let closed = Verdict::denied("no rule matches");
    let by_nothing = vec![frame(), Event::CallerDecided(closed)];
    ends(by_nothing, &denied("denied: no rule matches"));
}

#[test]
fn a_service_that_nobody_offers_is_404() {
    let expected = rejected(RejectCode::NotFound, "no provider of svc");
    ends(until_resolved(&[]), &[expected]);
}

#[test]
fn another_tenants_agent_is_no_provider_even_if_a_directory_says_so() {
    let foreign = Candidate { agent: agent("umbrella", 1), generation: Generation(1) };
    let mut events = until_resolved(&[]);
    events[2] = Event::Resolved(vec![foreign.clone()]);
    let expected = rejected(RejectCode::NotFound, "no provider of svc");
    ends(events.clone(), &[expected]);
    events[2] = Event::Resolved(vec![foreign, candidate(2)]);
    assert_eq!(after(events).1, [decide_callee(2)]);
}

#[test]
fn a_deny_of_the_callees_side_goes_on_to_the_next_provider() {
    let mut events = until_resolved(&[1, 2]);
    events.push(Event::CalleeDecided(no("first")));
    assert_eq!(after(events.clone()).1, [decide_callee(2)]);
    events.push(Event::CalleeDecided(yes()));
    assert_eq!(after(events).1, [reserve(2)]);
}

#[test]
fn when_every_callees_side_denies_it_is_403_with_the_first_cause() {
    let mut events = until_resolved(&[1, 2]);
    events.push(Event::CalleeDecided(no("first")));
    events.push(Event::CalleeDecided(no("second")));
    let expected = rejected(RejectCode::Denied, "denied (callee): first");
    ends(events, &[expected]);
}

#[test]
fn an_id_between_two_other_agents_is_409_before_the_provider_is_asked() {
    let mut events = until_resolved(&[1, 2]);
    events.push(Event::CalleeDecided(yes()));
    events.push(Event::ReserveConflict);
    let reason = "stream id 7 is in use between other agents";
    ends(events, &[rejected(RejectCode::Conflict, reason)]);
}

#[test]
fn a_providers_reject_is_final_and_503_with_its_code_and_reason() {
    let mut events = until_asked(&[1, 2]);
    let reason = "busy".into();
    events.push(Event::ProviderRejected { code: 429, reason });
    let expected = rejected(RejectCode::ProviderRejected, "provider rejected: 429 busy");
    let batch = [Action::CloseProvider, Action::Release, expected];
    ends(events, &batch);
}

#[test]
fn a_provider_out_of_reach_is_given_up_and_the_next_gets_the_reservation() {
    let mut events = until_asked(&[1, 2]);
    events.push(Event::ProviderUnavailable("no answer in 10s".into()));
    let batch = [Action::CloseProvider, Action::Release, decide_callee(2)];
    assert_eq!(after(events.clone()).1, batch);
    events.push(Event::CalleeDecided(yes()));
    assert_eq!(after(events.clone()).1, [reserve(2)]);
    events.push(Event::Reserved);
    assert_eq!(after(events).1, [open_provider(2)]);
}

#[test]
fn when_no_provider_is_left_it_is_502_unless_all_were_denied() {
    let last = "no provider could be reached: connection lost";
    let expected = || rejected(RejectCode::BadGateway, last);
    let lost = || Event::ProviderUnavailable("connection lost".into());

    let mut alone = until_asked(&[1]);
    alone.push(lost());
    ends(alone, &[Action::CloseProvider, Action::Release, expected()]);

    let mut then_denied = until_asked(&[1, 2]);
    then_denied.extend([lost(), Event::CalleeDecided(no("second"))]);
    ends(then_denied, &[expected()]);
}

#[test]
fn the_deadline_is_502_at_every_step_and_gives_back_what_is_held() {
    let mut events = until_asked(&[1]);
    for step in (0..=events.len()).rev() {
        events.truncate(step);
        let (reason, held) = match step {
            0 => ("waiting for OPEN_STREAM", vec![]),
            1 => ("deciding the caller's side", vec![]),
            2 => ("resolving the service", vec![]),
            3 => ("deciding the callee's side", vec![]),
            4 => ("reserving the stream id", vec![Action::Release]),
            _ => ("waiting for the provider's answer", vec![Action::CloseProvider, Action::Release]),
        };
        let reason = format!("timed out while {reason}");
        let mut batch = held;
        batch.push(rejected(RejectCode::BadGateway, &reason));
        let mut timed_out = events.clone();
        timed_out.push(Event::TimedOut);
        ends(timed_out, &batch);
    }
}

#[test]
fn a_consumer_that_leaves_is_answered_by_nobody_and_the_provider_is_let_go() {
    ends(vec![Event::ConsumerGone], &[Action::Abandon]);
    let mut events = until_asked(&[1]);
    events.push(Event::ConsumerGone);
    let batch = [Action::CloseProvider, Action::Release, Action::Abandon];
    ends(events, &batch);
}

#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let mut events = until_resolved(&[1, 2]);
    let mut open = after(events.clone()).0;
    for stray in [
        Event::Reserved,
        Event::ReserveConflict,
        Event::ProviderAccepted,
        Event::ProviderUnavailable("late".into()),
        Event::CallerDecided(no("late")),
        Event::Resolved(vec![]),
        Event::FrameInvalid("late".into()),
        frame(),
    ] {
        assert_eq!(open.on(stray), []);
        assert!(!open.is_ended());
    }
    events.push(Event::CalleeDecided(yes()));
    assert_eq!(open.on(Event::CalleeDecided(yes())), after(events).1);
}

#[test]
fn a_long_reason_of_a_peer_is_cut_between_two_characters() {
    let mut events = until_asked(&[1]);
    let reason = "ü".repeat(40_000);
    events.push(Event::ProviderRejected { code: 1, reason });
    let (_, last) = after(events);
    let Some(Action::Reject(reject)) = last.last() else {
        panic!("{last:?}");
    };
    let quoted = "ü".repeat(QUOTED_MAX_BYTES / 2);
    assert_eq!(reject.reason, format!("provider rejected: 1 {quoted}"));
}
