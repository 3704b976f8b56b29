//! The address of an actor across its incarnations.

use super::super::slot::{CallError, Down};
use super::*;

async fn alone(restart: Restart) -> (Arc<Subject>, Tree) {
    let subject = Subject::new("subject");
    let tree = Tree::start(vec![subject.spec(restart)]).await;
    (subject, tree)
}

#[tokio::test(start_paused = true)]
async fn a_cast_to_an_actor_that_does_not_run_is_down_and_the_message_is_dropped() {
    let subject = Subject::new("subject");
    let carried = Arc::new(());
    assert_eq!(subject.slot.cast(SubjectMsg::Carry(Arc::clone(&carried))), Err(Down), "not started");
    let tree = Tree::start(vec![subject.spec(Restart::Temporary)]).await;
    subject.slot.cast(SubjectMsg::Carry(Arc::clone(&carried))).unwrap();
    let cell = subject.node().cell().unwrap();
    subject.slot.cast(SubjectMsg::Stop("enough")).unwrap();
    cell.wait(None).await.unwrap();
    // Whether or not its supervisor knows already.
    assert_eq!(subject.slot.cast(SubjectMsg::Carry(Arc::clone(&carried))), Err(Down), "just ended");
    eventually("it is gone", || !subject.gone().is_empty()).await;
    assert_eq!(subject.slot.cast(SubjectMsg::Carry(Arc::clone(&carried))), Err(Down), "gone");
    assert_eq!((subject.node().mailbox(), Arc::strong_count(&carried)), (0, 1));
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_in_the_mailbox_of_an_actor_that_dies_is_answered_by_the_next_incarnation() {
    let (subject, tree) = alone(Restart::Permanent).await;
    for incarnation in 2..20 {
        subject.hangs().await;
        let slot = subject.slot.clone();
        let call = super::super::task::run(async move {
            assert_eq!(slot.call(SubjectMsg::Ask, 10 * SECOND).await, Ok(incarnation));
        });
        eventually("the question waits", || subject.node().mailbox() == 1).await;
        subject.inject(Fault::Kill).await;
        call.join().await.unwrap();
    }
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_to_an_actor_between_two_lives_waits_for_the_next() {
    let (subject, tree) = alone(Restart::Permanent).await;
    for _ in 0..4 {
        subject.starts_next(Start::Fail);
    }
    subject.slot.cast(SubjectMsg::Panic).unwrap();
    eventually("it waits", || subject.node().status() == Status::Restarting).await;
    assert_eq!(subject.slot.call(SubjectMsg::Ask, 10 * SECOND).await, Ok(6));
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_before_the_actor_is_started_is_answered_once_it_is() {
    let subject = Subject::new("subject");
    let slot = subject.slot.clone();
    let call = super::super::task::run(async move {
        assert_eq!(slot.call(SubjectMsg::Ask, 10 * SECOND).await, Ok(1));
    });
    tokio::task::yield_now().await;
    let tree = Tree::start(vec![subject.spec(Restart::Permanent)]).await;
    call.join().await.unwrap();
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_times_out_however_the_answer_fails_to_come() {
    let (subject, tree) = alone(Restart::Permanent).await;
    let begun = Instant::now();
    assert_eq!(subject.slot.call(SubjectMsg::Ignore, SECOND).await, Err(CallError::TimedOut), "question dropped");
    subject.hangs().await;
    assert_eq!(subject.slot.call(SubjectMsg::Ask, SECOND).await, Err(CallError::TimedOut), "question in the mailbox");
    let never = Subject::new("never started");
    assert_eq!(never.slot.call(SubjectMsg::Ask, SECOND).await, Err(CallError::TimedOut), "nobody to ask");
    let took = begun.elapsed();
    assert!(took >= 3 * SECOND && took < 4 * SECOND, "{took:?}");
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_to_an_actor_that_is_gone_or_goes_meanwhile_says_so_at_once() {
    let (subject, tree) = alone(Restart::Temporary).await;
    subject.hangs().await;
    let slot = subject.slot.clone();
    let begun = Instant::now();
    let call = super::super::task::run(async move {
        assert_eq!(slot.call(SubjectMsg::Ask, 1000 * SECOND).await, Err(CallError::Gone));
    });
    eventually("the question waits", || subject.node().mailbox() == 1).await;
    subject.inject(Fault::Kill).await;
    call.join().await.unwrap();
    assert_eq!(subject.slot.call(SubjectMsg::Ask, 1000 * SECOND).await, Err(CallError::Gone));
    subject.node().stop();
    assert_eq!(subject.slot.call(SubjectMsg::Ask, 1000 * SECOND).await, Err(CallError::Gone), "stop changes nothing");
    assert!(begun.elapsed() < SECOND);
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_question_asked_while_a_permanent_actor_stops_is_answered_by_the_next_incarnation() {
    let (subject, tree) = alone(Restart::Permanent).await;
    subject.node().stop();
    assert_eq!(subject.slot.call(SubjectMsg::Ask, SECOND).await, Ok(2));
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_mailbox_counts_what_waits_and_busy_says_since_when() {
    let (subject, tree) = alone(Restart::Permanent).await;
    assert_eq!((subject.node().mailbox(), subject.node().busy()), (0, Duration::ZERO));
    let (release, until) = oneshot::channel();
    subject.slot.cast(SubjectMsg::Wait(Some(until))).unwrap();
    subject.is_busy().await;
    for queued in 1..=5 {
        subject.slot.cast(SubjectMsg::Carry(Arc::default())).unwrap();
        assert_eq!(subject.node().mailbox(), queued);
    }
    let busy = subject.node().busy();
    eventually("it goes on", || subject.node().busy() > busy).await;
    let report = Report::of(subject.node());
    assert_eq!(report.mailbox, 5);
    assert!(report.busy_ms > 0);

    release.send(()).unwrap();
    subject.ask().await;
    eventually("idle", || (subject.node().mailbox(), subject.node().busy()) == (0, Duration::ZERO)).await;
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_messages_of_an_actor_that_dies_are_dropped_and_not_counted_any_more() {
    let (subject, tree) = alone(Restart::Permanent).await;
    let carried = Arc::new(());
    subject.hangs().await;
    for _ in 0..5 {
        subject.slot.cast(SubjectMsg::Carry(Arc::clone(&carried))).unwrap();
    }
    subject.inject(Fault::Kill).await;
    subject.runs_again(2).await;
    assert_eq!((subject.node().mailbox(), subject.node().busy()), (0, Duration::ZERO));
    eventually("all are dropped", || Arc::strong_count(&carried) == 1).await;
    tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_end_of_an_old_incarnation_does_not_touch_the_counts_of_the_new() {
    let subject = Subject::new("subject");
    let children = {
        let subject = Arc::clone(&subject);
        move || vec![subject.spec(Restart::Permanent)]
    };
    let tree = Tree::start(vec![nested("inner", Restart::Permanent, SECOND, strict(), children)]).await;
    let release = Arc::new(AtomicBool::new(false));
    subject.blocks_until(&release).await;
    // The blocked one cannot die, but its supervisor can.
    fault::inject(&tree.find("nested:inner"), Fault::Kill).await.unwrap();
    subject.runs_again(2).await;
    subject.hangs().await;
    subject.slot.cast(SubjectMsg::Carry(Arc::default())).unwrap();
    assert_eq!(subject.alive.load(Ordering::SeqCst), 2);

    release.store(true, Ordering::SeqCst);
    eventually("the old one ends", || subject.alive.load(Ordering::SeqCst) == 1).await;
    assert_eq!(subject.node().mailbox(), 1);
    assert!(!subject.node().busy().is_zero());
    assert_eq!(subject.node().status(), Status::Running);
    tree.stop().await;
}
