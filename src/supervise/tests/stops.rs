//! Stopping in order and in time.

use super::*;

/// A root over a leaf, a nested supervisor with two leaves, and a dynamic one with three.
struct Grove {
    tree: Tree,
    leaves: Vec<Arc<Subject>>,
    log: Log,
}

/// The children's deadlines are within these.
const NESTED: Duration = Duration::from_millis(500);

impl Grove {
    async fn start() -> Self {
        let log = Log::default();
        let leaves: Vec<_> = ["a", "n1", "n2", "d1", "d2", "d3"].map(|name| Subject::logging(name, &log)).into();
        let handle = DynamicHandle::new("dynamic", "");
        let (inner, dynamics) = (leaves[1..3].to_vec(), leaves[3..].to_vec());
        let specs = |leaves: &[Arc<Subject>]| leaves.iter().map(|leaf| leaf.spec(Restart::Permanent)).collect();
        let tree = Tree::start(vec![
            leaves[0].spec(Restart::Permanent),
            nested("inner", Restart::Permanent, NESTED, strict(), move || specs(&inner)),
            dynamic(&handle, NESTED, move || specs(&dynamics)),
        ])
        .await;
        Self { tree, leaves, log }
    }

    async fn stop(self) -> (Vec<Arc<Subject>>, Log, Duration) {
        let begun = Instant::now();
        let root = self.tree.root.clone();
        self.tree.stop().await;
        assert_eq!(root.node().status(), Status::Stopped);
        assert_eq!(root.node().last_exit().as_deref(), Some("stopped"));
        (self.leaves, self.log, begun.elapsed())
    }
}

#[tokio::test(start_paused = true)]
async fn a_tree_stops_in_reverse_and_each_actor_is_dropped_before_the_next_is_asked() {
    let grove = Grove::start().await;
    let (leaves, log, took) = grove.stop().await;
    let mut ends: Vec<_> = log.lines().into_iter().filter(|line| !line.ends_with("started")).collect();
    assert!(ends[..6].iter().all(|line| line.starts_with('d')), "the dynamic's, in any order: {ends:?}");
    let rest = ends.split_off(6);
    assert_eq!(rest, ["n2 stopped", "n2 dropped", "n1 stopped", "n1 dropped", "a stopped", "a dropped"]);
    assert!(leaves.iter().all(|leaf| leaf.post_stops.load(Ordering::SeqCst) == 1));
    assert!(leaves.iter().all(|leaf| leaf.gone() == ["stopped"]));
    assert!(took < DEADLINE, "nobody waits for a deadline: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_tree_in_which_every_leaf_hangs_stops_within_the_sum_of_the_deadlines() {
    let grove = Grove::start().await;
    for leaf in &grove.leaves {
        leaf.hangs().await;
    }
    let (leaves, _, took) = grove.stop().await;
    // d1, d2, d3 together; n2, n1, a one after the other.
    assert!(took >= 4 * DEADLINE && took < 4 * DEADLINE + SECOND, "{took:?}");
    for leaf in &leaves {
        assert_eq!(leaf.gone(), ["killed"]);
        assert_eq!(leaf.post_stops.load(Ordering::SeqCst), 0);
        assert_eq!(leaf.alive.load(Ordering::SeqCst), 0, "its state is dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tree_in_which_supervisors_and_leaves_hang_stops_within_the_sum_of_the_deadlines() {
    let grove = Grove::start().await;
    for leaf in &grove.leaves {
        leaf.hangs().await;
    }
    for supervisor in ["nested:inner", "dynamic"] {
        let node = grove.tree.find(supervisor);
        fault::inject(&node, Fault::Hang).await.unwrap();
        eventually("it hangs", || !node.busy().is_zero()).await;
    }
    let (leaves, _, took) = grove.stop().await;
    assert!(took < 2 * NESTED + DEADLINE + SECOND, "{took:?}");
    eventually("who hung below them is gone", || leaves.iter().all(|leaf| leaf.alive.load(Ordering::SeqCst) == 0))
        .await;
    assert!(leaves.iter().all(|leaf| leaf.node().status() == Status::Stopped));
    assert_eq!(leaves[1].node().last_exit().as_deref(), Some("killed with its supervisor"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_never_awaits_is_left_behind_and_the_tree_still_stops() {
    let [before, blocked, after] = ["before", "blocked", "after"].map(Subject::new);
    let children = [&before, &blocked, &after].map(|subject| subject.spec(Restart::Permanent)).into();
    let tree = Tree::start(children).await;
    let release = Arc::new(AtomicBool::new(false));
    blocked.blocks_until(&release).await;

    let begun = Instant::now();
    tree.stop().await;
    assert!(begun.elapsed() < DEADLINE + SECOND, "{:?}", begun.elapsed());
    assert_eq!(blocked.alive.load(Ordering::SeqCst), 1, "it is still there");
    assert_eq!((blocked.gone(), before.gone()), (vec!["killed".to_owned()], vec!["stopped".to_owned()]));

    release.store(true, Ordering::SeqCst);
    eventually("the kill takes effect once it awaits", || blocked.alive.load(Ordering::SeqCst) == 0).await;
    assert_eq!(blocked.post_stops.load(Ordering::SeqCst), 0);
    assert_eq!((blocked.node().status(), blocked.started()), (Status::Stopped, 1));
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_killed_while_it_stops_a_child_takes_the_child_along() {
    let subject = Subject::new("subject");
    let children = {
        let subject = Arc::clone(&subject);
        move || {
            let own = Arc::clone(&subject);
            vec![ChildSpec::new(&subject.slot, Restart::Permanent, 1000 * SECOND, move || (Worker, Arc::clone(&own)))]
        }
    };
    let tree = Tree::start(vec![nested("inner", Restart::Temporary, SECOND, strict(), children)]).await;
    subject.hangs().await;
    tree.find("nested:inner").stop();
    eventually("it is being stopped", || subject.node().status() == Status::Stopping).await;
    tree.find("nested:inner").kill();
    eventually("it is gone", || subject.alive.load(Ordering::SeqCst) == 0).await;
    eventually("the tree knows", || tree.statuses() == ["root: running"]).await;
    assert_eq!(subject.node().status(), Status::Stopped);
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_ended_by_itself_while_the_tree_stops_is_not_called_stopped() {
    let [a, b] = ["a", "b"].map(Subject::new);
    let tree = Tree::start(vec![a.spec(Restart::Permanent), b.spec(Restart::Permanent)]).await;
    b.hangs().await;
    tree.node().stop();
    eventually("b is being stopped", || b.node().status() == Status::Stopping).await;
    let cell = a.node().cell().unwrap();
    a.slot.cast(SubjectMsg::Panic).unwrap();
    cell.wait(None).await.unwrap();
    tree.ended.await.unwrap();
    assert_eq!(a.gone(), ["failed: a panic"]);
    assert_eq!(a.started(), 1, "nothing is started any more");
}
