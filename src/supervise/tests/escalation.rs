//! Too many failures.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_child_that_fails_too_often_ends_the_root_which_stops_the_others_in_reverse() {
    let log = Log::default();
    let [a, b, c] = ["a", "b", "c"].map(|name| Subject::logging(name, &log));
    b.always_starts(Start::Doomed);
    let children = [&a, &b, &c].map(|subject| subject.spec(Restart::Permanent)).into();
    let tree = Tree::limited(strict(), children).await;

    tree.ended.await.unwrap();

    let ends: Vec<_> =
        log.lines().into_iter().filter(|line| !line.starts_with('b') && !line.ends_with("ted")).collect();
    assert_eq!(ends, ["c stopped", "c dropped", "a stopped", "a dropped"]);
    assert_eq!(b.started(), 2, "one failure is forgiven");
    assert_eq!(b.gone(), ["failed: boom"]);
    assert_eq!((a.gone(), c.gone()), (vec!["stopped".to_owned()], vec!["stopped".to_owned()]));
    let root = tree.root.node();
    assert_eq!(root.status(), Status::Stopped);
    let why = "failed: subject:b failed too often, at last: failed: boom";
    assert_eq!(root.last_exit().as_deref(), Some(why));
    assert!(root.children().is_empty());
    assert!(root.cell().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_default_limits_forgive_ten_failures_in_a_row() {
    let subject = Subject::new("subject");
    subject.always_starts(Start::Doomed);
    let tree = Tree::start(vec![subject.spec(Restart::Permanent)]).await;
    let begun = Instant::now();
    tree.ended.await.unwrap();
    assert_eq!(subject.started(), 11);
    assert!(begun.elapsed() < 10 * SECOND, "the waits fit into the window: {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_nested_supervisor_escalates_to_its_parent_which_restarts_it_first() {
    let [neighbour, sibling, doomed] = ["neighbour", "sibling", "doomed"].map(Subject::new);
    let children = {
        let (sibling, doomed) = (Arc::clone(&sibling), Arc::clone(&doomed));
        move || vec![sibling.spec(Restart::Permanent), doomed.spec(Restart::Permanent)]
    };
    let inner = nested("inner", Restart::Permanent, SECOND, strict(), children);
    let tree = Tree::limited(strict(), vec![neighbour.spec(Restart::Permanent), inner]).await;
    let inner = tree.find("nested:inner");
    let before = neighbour.snapshot();

    doomed.starts_next(Start::Doomed);
    doomed.slot.cast(SubjectMsg::Panic).unwrap();
    eventually("the nested supervisor is started again", || inner.restarts() == 1).await;
    eventually("everything runs", || tree.statuses().iter().all(|line| line.ends_with("running"))).await;
    let why = "failed: subject:doomed failed too often, at last: failed: boom";
    assert_eq!(inner.last_exit().as_deref(), Some(why));
    assert_eq!((doomed.ask().await, sibling.ask().await), (3, 2));
    assert_eq!(neighbour.snapshot(), before, "who is not below it does not notice");

    doomed.always_starts(Start::Doomed);
    doomed.slot.cast(SubjectMsg::Panic).unwrap();
    tree.ended.await.unwrap();
    let root = tree.root.node();
    assert_eq!(root.last_exit(), Some(format!("failed: nested:inner failed too often, at last: {why}")));
    assert_eq!(neighbour.gone(), ["stopped"]);
    assert_eq!(neighbour.post_stops.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_child_of_a_dynamic_that_fails_too_often_is_given_up_alone() {
    let [neighbour, doomed, sibling] = ["neighbour", "doomed", "sibling"].map(Subject::new);
    doomed.always_starts(Start::Doomed);
    let handle = DynamicHandle::new("dynamic", "");
    let tree = Tree::start(vec![neighbour.spec(Restart::Permanent), dynamic(&handle, SECOND, Vec::new)]).await;
    handle.start(sibling.spec(Restart::Transient)).unwrap();
    sibling.ask().await;
    let before = (neighbour.snapshot(), sibling.snapshot(), handle.slot().node().cell());

    handle.start(doomed.spec(Restart::Transient)).unwrap();
    eventually("it is given up", || !doomed.gone().is_empty()).await;

    assert_eq!(doomed.gone(), ["failed: boom"]);
    assert_eq!(doomed.started(), 11);
    assert_eq!(doomed.node().status(), Status::Stopped);
    assert_eq!((neighbour.snapshot(), sibling.snapshot(), handle.slot().node().cell()), before);
    assert_eq!(sibling.ask().await, 1);
    let expected = ["root: running", "subject:neighbour running", "dynamic: running", "subject:sibling running"];
    assert_eq!(tree.statuses(), expected);
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_between_two_lives_says_so_and_is_stopped_without_waiting_for_it() {
    let slow = Limits { backoff: 1000 * SECOND, backoff_max: 1000 * SECOND, ..Limits::default() };
    let subject = Subject::new("subject");
    let tree = Tree::limited(slow, vec![subject.spec(Restart::Permanent)]).await;
    for incarnation in [2, 2] {
        subject.slot.cast(SubjectMsg::Panic).unwrap();
        eventually("it ended", || subject.node().last_exit().is_some() && subject.started() == incarnation).await;
    }
    eventually("it waits", || subject.node().status() == Status::Restarting).await;
    assert_eq!(subject.node().restarts(), 1);
    subject.node().stop();
    assert_eq!(subject.node().status(), Status::Restarting, "there is nothing to stop");

    let begun = Instant::now();
    tree.stop().await;
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    assert_eq!(subject.started(), 2);
    assert_eq!(subject.gone().len(), 1);
}
