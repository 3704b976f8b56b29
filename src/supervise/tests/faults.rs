//! Faults injected on purpose.

use super::super::fault::FaultError;
use super::*;

async fn forgiven(fault: Fault) {
    let [subject, sibling] = ["subject", "sibling"].map(Subject::new);
    let tree = Tree::limited(strict(), vec![subject.spec(Restart::Permanent), sibling.spec(Restart::Permanent)]).await;
    let before = sibling.snapshot();
    for incarnation in 2..=101 {
        subject.inject(fault).await;
        if fault == Fault::Hang {
            subject.is_busy().await;
            subject.node().kill();
        }
        subject.runs_again(incarnation).await;
    }
    assert_eq!(subject.node().restarts(), 100);
    assert_eq!(subject.ask().await, 101);
    assert_eq!(sibling.snapshot(), before);
    assert_eq!(tree.node().status(), Status::Running);
    tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_injected_kills_in_a_row_are_forgiven() {
    forgiven(Fault::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_injected_panics_in_a_row_are_forgiven() {
    forgiven(Fault::Panic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_injected_hangs_ended_by_a_kill_are_forgiven() {
    forgiven(Fault::Hang).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_injected_stops_in_a_row_are_forgiven() {
    forgiven(Fault::Stop).await;
}

#[tokio::test(start_paused = true)]
async fn an_injected_stop_ends_what_is_not_permanent_for_good_and_runs_its_post_stop() {
    let [transient, temporary] = ["transient", "temporary"].map(Subject::new);
    let children = vec![transient.spec(Restart::Transient), temporary.spec(Restart::Temporary)];
    let tree = Tree::limited(strict(), children).await;
    for subject in [&transient, &temporary] {
        subject.inject(Fault::Stop).await;
        eventually("it is gone", || subject.node().status() == Status::Stopped).await;
        assert_eq!((subject.gone(), subject.post_stops.load(Ordering::SeqCst)), (vec!["stopped".to_owned()], 1));
    }
    assert_eq!(tree.node().status(), Status::Running);
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_injected_fault_does_not_excuse_the_failures_after_it() {
    let subject = Subject::new("subject");
    let tree = Tree::limited(strict(), vec![subject.spec(Restart::Permanent)]).await;
    subject.inject(Fault::Kill).await;
    subject.runs_again(2).await;
    subject.slot.cast(SubjectMsg::Panic).unwrap();
    subject.runs_again(3).await;
    subject.slot.cast(SubjectMsg::Panic).unwrap();
    tree.ended.await.unwrap();
    assert_eq!(subject.started(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_injected_kill_in_pre_start_is_forgiven_too() {
    let subject = Subject::new("subject");
    let tree = Tree::limited(strict(), vec![subject.spec(Restart::Permanent)]).await;
    for round in 0..10 {
        subject.starts_next(Start::Wait);
        subject.inject(Fault::Kill).await;
        eventually("its pre_start runs", || subject.started() == 2 + 2 * round).await;
        subject.inject(Fault::Kill).await;
        subject.runs_again(3 + 2 * round).await;
    }
    assert_eq!(tree.node().status(), Status::Running);
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_hung_actor_is_killed_by_a_second_fault_and_the_first_does_not_strike_again() {
    let subject = Subject::new("subject");
    let tree = Tree::start(vec![subject.spec(Restart::Permanent)]).await;
    subject.inject(Fault::Hang).await;
    subject.is_busy().await;
    // Queued behind the hang: it never strikes, and dies with this incarnation.
    subject.inject(Fault::Panic).await;
    subject.inject(Fault::Kill).await;
    subject.runs_again(2).await;
    assert_eq!(subject.node().last_exit().as_deref(), Some("killed"));
    assert_eq!((subject.ask().await, subject.ask().await), (2, 2));
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_for_an_actor_that_has_ended_is_refused_and_excuses_nothing() {
    let [subject, other] = ["subject", "other"].map(Subject::new);
    assert!(matches!(fault::inject(subject.node(), Fault::Kill).await, Err(FaultError::NotRunning(_))));
    let tree = Tree::limited(strict(), vec![subject.spec(Restart::Permanent), other.spec(Restart::Temporary)]).await;
    // The supervisor hangs, so the end of its children stays unnoticed.
    fault::inject(tree.node(), Fault::Hang).await.unwrap();
    eventually("the root hangs", || !tree.node().busy().is_zero()).await;
    let cell = subject.node().cell().unwrap();
    subject.slot.cast(SubjectMsg::Panic).unwrap();
    cell.wait(None).await.unwrap();
    for fault in [Fault::Kill, Fault::Panic, Fault::Hang, Fault::Stop] {
        let refused = fault::inject(subject.node(), fault).await.unwrap_err();
        assert_eq!(refused.to_string(), "subject:subject ended before the fault reached it");
    }
    assert!(!subject.node().current().unwrap().is_spared());
    assert!(subject.slot.cast(SubjectMsg::Fail).is_err());
    assert_eq!(subject.node().mailbox(), 0, "what could not be sent does not wait");
    tree.node().kill();
    tree.ended.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_fault_strikes_a_supervisor_itself() {
    for fault in [Fault::Kill, Fault::Panic, Fault::Hang, Fault::Stop] {
        let subject = Subject::new("subject");
        let children = {
            let subject = Arc::clone(&subject);
            move || vec![subject.spec(Restart::Permanent)]
        };
        let tree = Tree::limited(strict(), vec![nested("inner", Restart::Permanent, SECOND, strict(), children)]).await;
        let inner = tree.find("nested:inner");
        fault::inject(&inner, fault).await.unwrap();
        if fault == Fault::Hang {
            eventually("it hangs", || !inner.busy().is_zero()).await;
            fault::inject(&inner, Fault::Kill).await.unwrap();
        }
        subject.runs_again(2).await;
        eventually("it runs again", || (inner.restarts(), inner.status()) == (1, Status::Running)).await;
        assert_eq!(inner.children().len(), 1, "{fault:?}");
        tree.stop().await;
    }
}
