//! What becomes of those below a supervisor that is killed.

use super::*;

#[tokio::test(start_paused = true)]
async fn while_a_killed_supervisor_waits_for_its_restart_those_below_it_are_not_shown_as_running() {
    let slow = Limits { backoff: 5 * SECOND, backoff_max: 5 * SECOND, ..Limits::default() };
    let subject = Subject::new("subject");
    let children = {
        let subject = Arc::clone(&subject);
        move || {
            let subject = Arc::clone(&subject);
            vec![nested("low", Restart::Permanent, SECOND, strict(), move || vec![subject.spec(Restart::Permanent)])]
        }
    };
    let tree = Tree::limited(slow, vec![nested("high", Restart::Permanent, 2 * SECOND, strict(), children)]).await;
    let high = tree.find("nested:high");
    // Not by `inject`: that would not wait.
    for restarts in 0..2 {
        eventually("it runs", || (high.restarts(), high.status()) == (restarts, Status::Running)).await;
        high.kill();
    }
    let expected = ["root: running", "nested:high restarting", "nested:low restarting", "subject:subject restarting"];
    eventually("nothing below runs", || tree.statuses() == expected).await;
    assert_eq!(high.last_exit().as_deref(), Some("killed"));
    assert!(subject.node().cell().is_none());
    // Nothing was lost: who asks meanwhile is answered by the third incarnation.
    assert_eq!(subject.slot.call(SubjectMsg::Ask, 60 * SECOND).await, Ok(3));
    eventually("all run", || tree.statuses().iter().all(|line| line.ends_with("running"))).await;
    assert_eq!(tree.statuses().len(), 4, "and each is there once: {:?}", tree.statuses());
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn when_the_root_is_killed_everything_below_it_is_gone_and_says_so() {
    let [leaf, inner] = ["leaf", "inner"].map(Subject::new);
    let children = {
        let inner = Arc::clone(&inner);
        move || vec![inner.spec(Restart::Permanent)]
    };
    let specs = vec![leaf.spec(Restart::Permanent), nested("low", Restart::Permanent, SECOND, strict(), children)];
    let tree = Tree::start(specs).await;
    tree.node().kill();
    let (root, statuses) = (tree.root.clone(), tree.statuses().len());
    let Tree { ended, .. } = tree;
    ended.await.unwrap();
    assert_eq!(root.node().last_exit().as_deref(), Some("killed"));
    assert!(Report::of(root.node()).walk().all(|actor| actor.status == Status::Stopped));
    assert_eq!(statuses, 4);
    assert_eq!(leaf.node().last_exit().as_deref(), Some("killed with its supervisor"));
    for subject in [&leaf, &inner] {
        eventually("it is dropped", || subject.alive.load(Ordering::SeqCst) == 0).await;
        assert_eq!(subject.post_stops.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_root_that_panics_says_so() {
    let tree = Tree::start(Vec::new()).await;
    fault::inject(tree.node(), Fault::Panic).await.unwrap();
    let root = tree.root.clone();
    tree.ended.await.unwrap();
    assert_eq!(root.node().last_exit().as_deref(), Some("failed: a panic"));
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_ended_keeps_no_node() {
    let subject = Subject::new("subject");
    let handle = DynamicHandle::new("dynamic", "");
    let children = {
        let subject = Arc::clone(&subject);
        move || vec![subject.spec(Restart::Permanent)]
    };
    let low = nested("low", Restart::Permanent, SECOND, strict(), children);
    let low_node = Arc::downgrade(low.node());
    let tree = Tree::start(vec![low, dynamic(&handle, SECOND, Vec::new)]).await;
    let root_node = Arc::downgrade(tree.node());
    tree.node().kill();
    let Tree { ended, root } = tree;
    ended.await.unwrap();
    drop(root);
    eventually("only the test holds them", || {
        root_node.strong_count() == 0
            && low_node.strong_count() == 0
            && Arc::strong_count(handle.slot().node()) == 1
            && Arc::strong_count(&subject) == 1
    })
    .await;
}

/// A supervisor over a dynamic one that revives `subjects`.
fn reviving(handle: &DynamicHandle, subjects: &Arc<Mutex<Vec<Arc<Subject>>>>) -> ChildSpec {
    let (handle, subjects) = (handle.clone(), Arc::clone(subjects));
    nested("high", Restart::Permanent, 2 * SECOND, strict(), move || {
        let subjects = Arc::clone(&subjects);
        let revive = move || subjects.lock().unwrap().iter().map(|subject| subject.spec(Restart::Transient)).collect();
        vec![dynamic(&handle, SECOND, revive)]
    })
}

/// ractor refuses to link a child to a supervisor that is being killed. That is no failure of the child: the next
/// incarnation starts it, and `on_gone` would tear down what it serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_child_that_starts_while_its_supervisor_is_killed_from_above_is_not_declared_gone() {
    let (subject, handle) = (Subject::new("subject"), DynamicHandle::new("dynamic", ""));
    let revived = Arc::new(Mutex::default());
    let tree = Tree::start(vec![reviving(&handle, &revived)]).await;
    let high = tree.find("nested:high").cell().unwrap();
    // Blocks the dynamic supervisor in a poll until its own supervisor is gone.
    let kill = move || {
        while high.get_status() < ractor::ActorStatus::Stopping {
            high.kill();
            std::thread::park_timeout(Duration::from_millis(1));
        }
    };
    // Not on the runtime's thread: what is woken from there would wait behind it.
    *subject.at_start.lock().unwrap() = Some(Box::new(|| std::thread::spawn(kill).join().unwrap()));
    revived.lock().unwrap().push(Arc::clone(&subject));
    handle.start(subject.spec(Restart::Transient)).unwrap();

    subject.runs_again(2).await;
    eventually("the others too", || tree.statuses().iter().all(|line| line.ends_with("running"))).await;
    assert_eq!(tree.statuses().len(), 4);
    assert_eq!(subject.gone(), Vec::<String>::new());
    assert_eq!(subject.ask().await, 2);
    tree.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_supervisor_killed_while_it_revives_its_children_declares_none_of_them_gone() {
    let subjects: Vec<_> = (0..300).map(|n| Subject::new(&n.to_string())).collect();
    let handle = DynamicHandle::new("dynamic", "");
    let high = reviving(&handle, &Arc::new(Mutex::new(subjects.clone())));
    // A kill of the dynamic before it has started fails its supervisor's start, and that counts.
    let lenient = Limits { failures: 1000, backoff: Duration::ZERO, ..Limits::default() };
    let tree = Tree::limited(lenient, vec![high]).await;
    let high = tree.find("nested:high");
    for round in 1..=20_u32 {
        let before = subjects[150].started();
        fault::inject(&high, Fault::Kill).await.unwrap();
        eventually("it is reviving", || high.restarts() == u64::from(round) || subjects[150].started() > before).await;
        // Mostly in the middle of it.
        if fault::inject(handle.slot().node(), Fault::Kill).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let runs = |subject: &Arc<Subject>| subject.node().status() == Status::Running;
        eventually("all run", || high.restarts() >= u64::from(round) && subjects.iter().all(runs)).await;
    }
    eventually("each is there once", || tree.statuses().len() == 303).await;
    assert!(subjects.iter().all(|subject| subject.gone().is_empty()));
    for subject in &subjects {
        subject.ask().await;
        eventually("only one incarnation is left", || subject.alive.load(Ordering::SeqCst) == 1).await;
    }
    tree.stop().await;
}
