//! Children that come and go.

use super::super::slot::Down;
use super::*;

/// A root over one dynamic supervisor that revives `subjects`.
async fn reviving(subjects: &Arc<Mutex<Vec<Arc<Subject>>>>) -> (DynamicHandle, Tree) {
    let (handle, subjects) = (DynamicHandle::new("dynamic", ""), Arc::clone(subjects));
    let revive = move || subjects.lock().unwrap().iter().map(|subject| subject.spec(Restart::Transient)).collect();
    let tree = Tree::start(vec![dynamic(&handle, SECOND, revive)]).await;
    (handle, tree)
}

#[tokio::test(start_paused = true)]
async fn a_killed_supervisor_revives_its_children_and_forgets_those_that_are_not_revived() {
    let [stays, leaves] = ["stays", "leaves"].map(Subject::new);
    let revived = Arc::new(Mutex::new(vec![Arc::clone(&stays), Arc::clone(&leaves)]));
    let (handle, tree) = reviving(&revived).await;
    let passing = Subject::new("passing");
    handle.start(passing.once()).unwrap();
    passing.ask().await;
    assert_eq!(tree.statuses().len(), 5);

    revived.lock().unwrap().retain(|subject| !Arc::ptr_eq(subject, &leaves));
    fault::inject(handle.slot().node(), Fault::Kill).await.unwrap();
    stays.runs_again(2).await;

    let expected = ["root: running", "dynamic: running", "subject:stays running"];
    eventually("the tree shows who is there", || tree.statuses() == expected).await;
    assert_eq!((stays.ask().await, stays.node().restarts()), (2, 1));
    assert_eq!(stays.node().last_exit().as_deref(), Some("killed with its supervisor"));
    for gone in [&leaves, &passing] {
        assert_eq!((gone.node().status(), gone.started()), (Status::Stopped, 1));
        let call = gone.slot.call(SubjectMsg::Ask, 1000 * SECOND).await;
        assert_eq!(call, Err(super::super::slot::CallError::Gone));
        assert_eq!(gone.gone(), Vec::<String>::new(), "who restarts the supervisor knows");
        eventually("its state is dropped", || gone.alive.load(Ordering::SeqCst) == 0).await;
    }
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_after_the_supervisors_death_is_down_and_what_the_spec_owns_is_dropped() {
    let (handle, tree) = reviving(&Arc::default()).await;
    tree.stop().await;
    let subject = Subject::new("subject");
    assert_eq!(handle.start(subject.spec(Restart::Transient)), Err(Down));
    assert_eq!(handle.start(subject.once()), Err(Down));
    assert_eq!(Arc::strong_count(&subject), 1);
    assert_eq!((subject.started(), subject.gone().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_spec_in_the_mailbox_of_a_supervisor_that_dies_is_dropped_with_what_it_owns() {
    let (handle, tree) = reviving(&Arc::default()).await;
    fault::inject(handle.slot().node(), Fault::Hang).await.unwrap();
    eventually("it hangs", || !handle.slot().node().busy().is_zero()).await;
    let subject = Subject::new("subject");
    handle.start(subject.once()).unwrap();
    fault::inject(handle.slot().node(), Fault::Kill).await.unwrap();
    eventually("it is dropped", || Arc::strong_count(&subject) == 1).await;
    assert_eq!(subject.started(), 0);
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_cannot_start_is_gone_and_its_siblings_go_on() {
    let (handle, tree) = reviving(&Arc::default()).await;
    let sibling = Subject::new("sibling");
    handle.start(sibling.spec(Restart::Transient)).unwrap();
    sibling.ask().await;
    let before = sibling.snapshot();
    for (start, text) in
        [(Start::Panic, "boom at start"), (Start::Fail, "refused at start"), (Start::Wait, "took longer")]
    {
        for restart in [Restart::Permanent, Restart::Transient, Restart::Temporary] {
            let subject = Subject::new("subject");
            subject.starts_next(start);
            handle.start(subject.spec(restart)).unwrap();
            eventually("it is gone", || !subject.gone().is_empty()).await;
            assert_eq!((subject.gone().len(), subject.started()), (1, 1), "{start:?} {restart:?}");
            let exit = subject.node().last_exit().unwrap();
            assert!(exit.starts_with("could not start: ") && exit.contains(text), "{exit}");
            assert_eq!(subject.node().status(), Status::Stopped);
        }
    }
    assert_eq!(sibling.snapshot(), before);
    assert_eq!(tree.statuses(), ["root: running", "dynamic: running", "subject:sibling running"]);
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_there_already_is_not_started_twice() {
    let subject = Subject::new("subject");
    let (handle, tree) = reviving(&Arc::new(Mutex::new(vec![Arc::clone(&subject)]))).await;
    handle.start(subject.spec(Restart::Transient)).unwrap();
    eventually("it was told", || handle.slot().node().mailbox() == 0 && handle.slot().node().busy().is_zero()).await;
    assert_eq!((subject.ask().await, subject.started()), (1, 1));
    tree.stop().await;
    assert_eq!(subject.gone().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_temporary_child_that_ends_leaves_nothing_behind() {
    let (handle, tree) = reviving(&Arc::default()).await;
    for _ in 0..100 {
        let subject = Subject::new("subject");
        handle.start(subject.once()).unwrap();
        subject.ask().await;
        subject.slot.cast(SubjectMsg::Stop("enough")).unwrap();
        eventually("only the test knows it", || Arc::strong_count(&subject) == 1).await;
        eventually("its node is free", || Arc::strong_count(subject.node()) == 1).await;
    }
    assert!(handle.slot().node().children().is_empty());
    assert!(handle.slot().node().cell().unwrap().get_children().is_empty());
    tree.stop().await;
}
