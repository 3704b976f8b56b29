//! Every way to end × every restart kind.

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Stops,
    StopsSayingKilled,
    IsAskedToStop,
    Killed,
    KilledWhileItAwaits,
    HangsAndIsKilled,
    Panics,
    PanicIsInjected,
    Fails,
    PanicsInPreStart,
    FailsInPreStart,
    KilledInPreStart,
}

/// The way, what the tree says of it, whether it is a normal end.
const WAYS: [(Way, &str, Normal); 12] = [
    (Way::Stops, "stopped: enough", Normal::Yes),
    (Way::StopsSayingKilled, "stopped: killed", Normal::Yes),
    (Way::IsAskedToStop, "stopped", Normal::Yes),
    (Way::Killed, "killed", Normal::No),
    (Way::KilledWhileItAwaits, "killed", Normal::No),
    (Way::HangsAndIsKilled, "killed", Normal::No),
    (Way::Panics, "failed: boom", Normal::No),
    (Way::PanicIsInjected, "failed: injected panic", Normal::No),
    (Way::Fails, "failed: refused", Normal::No),
    (Way::PanicsInPreStart, "could not start: boom at start", Normal::No),
    (Way::FailsInPreStart, "could not start: refused at start", Normal::No),
    (Way::KilledInPreStart, "could not start: Actor killed during startup", Normal::No),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Normal {
    Yes,
    No,
}

impl Way {
    /// The failure to start that this way is about, when there is a restart.
    fn at_start(self) -> Option<Start> {
        match self {
            Self::PanicsInPreStart => Some(Start::Panic),
            Self::FailsInPreStart => Some(Start::Fail),
            Self::KilledInPreStart => Some(Start::Wait),
            _ => None,
        }
    }

    async fn happens_to(self, subject: &Subject, restart: Restart) {
        let tell = |message| subject.slot.cast(message).unwrap();
        match self {
            Self::Stops => tell(SubjectMsg::Stop("enough")),
            Self::StopsSayingKilled => tell(SubjectMsg::Stop("killed")),
            Self::IsAskedToStop => subject.node().stop(),
            Self::Killed => subject.inject(Fault::Kill).await,
            Self::KilledWhileItAwaits => {
                subject.hangs().await;
                subject.inject(Fault::Kill).await;
            }
            Self::HangsAndIsKilled => {
                subject.inject(Fault::Hang).await;
                subject.is_busy().await;
                subject.inject(Fault::Kill).await;
            }
            Self::Panics => tell(SubjectMsg::Panic),
            Self::PanicIsInjected => subject.inject(Fault::Panic).await,
            Self::Fails => tell(SubjectMsg::Fail),
            Self::PanicsInPreStart | Self::FailsInPreStart => tell(SubjectMsg::Fail),
            Self::KilledInPreStart => {
                tell(SubjectMsg::Fail);
                if restart != Restart::Temporary {
                    eventually("its second pre_start runs", || subject.started() == 2).await;
                    assert_eq!(subject.node().status(), Status::Starting);
                    subject.inject(Fault::Kill).await;
                }
            }
        }
    }
}

async fn check(way: Way, text: &str, normal: Normal, restart: Restart) {
    let case = format!("{way:?}, {restart:?}");
    let [left, subject, right] = ["left", "subject", "right"].map(Subject::new);
    let spec = subject.spec(restart);
    let tree = Tree::start(vec![left.spec(Restart::Permanent), spec, right.spec(Restart::Permanent)]).await;
    let siblings = [left.snapshot(), right.snapshot()];
    let failed_starts = u64::from(way.at_start().is_some());
    if let Some(start) = way.at_start() {
        subject.starts_next(start);
    }

    way.happens_to(&subject, restart).await;

    let restarts = match restart {
        Restart::Permanent => true,
        Restart::Transient => normal == Normal::No,
        Restart::Temporary => false,
    };
    if restarts {
        eventually(&format!("{case}: it runs again"), || {
            subject.node().restarts() == 1 && subject.node().status() == Status::Running
        })
        .await;
        assert_eq!(subject.node().last_exit().as_deref(), Some(text), "{case}");
        assert_eq!(subject.ask().await as u64, 2 + failed_starts, "{case}");
        assert_eq!(subject.gone(), Vec::<String>::new(), "{case}");
        assert_eq!(tree.node().children().len(), 3, "{case}");
    } else {
        // It does not come to a second pre_start.
        let text = if failed_starts > 0 { "failed: refused" } else { text };
        eventually(&format!("{case}: it is gone"), || !subject.gone().is_empty()).await;
        assert_eq!(subject.gone(), [text], "{case}");
        assert_eq!(subject.node().last_exit().as_deref(), Some(text), "{case}");
        assert_eq!(subject.node().status(), Status::Stopped, "{case}");
        assert_eq!((subject.node().restarts(), subject.started()), (0, 1), "{case}");
        assert!(subject.node().cell().is_none(), "{case}");
        assert_eq!(tree.statuses(), ["root: running", "subject:left running", "subject:right running"], "{case}");
    }
    assert_eq!([left.snapshot(), right.snapshot()], siblings, "{case}: siblings are untouched");
    eventually(&format!("{case}: old states are dropped"), || {
        subject.alive.load(Ordering::SeqCst) == usize::from(restarts)
    })
    .await;
    tree.stop().await;
    assert_eq!(subject.gone().len(), 1, "{case}: on_gone runs once");
}

#[tokio::test(start_paused = true)]
async fn however_a_permanent_child_ends_it_is_started_again() {
    for (way, text, normal) in WAYS {
        check(way, text, normal, Restart::Permanent).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_transient_child_is_started_again_unless_it_stopped() {
    for (way, text, normal) in WAYS {
        check(way, text, normal, Restart::Transient).await;
    }
}

#[tokio::test(start_paused = true)]
async fn however_a_temporary_child_ends_it_is_gone() {
    for (way, text, normal) in WAYS {
        check(way, text, normal, Restart::Temporary).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pre_start_that_waits_for_ever_is_given_up_and_tried_again() {
    let subject = Subject::new("subject");
    let tree = Tree::start(vec![subject.spec(Restart::Permanent)]).await;
    subject.starts_next(Start::Wait);
    subject.slot.cast(SubjectMsg::Panic).unwrap();
    subject.runs_again(3).await;
    assert_eq!(subject.node().last_exit().as_deref(), Some("could not start: pre_start took longer than 5s"));
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_root_whose_child_cannot_start_stops_the_others_in_reverse_and_says_why() {
    let log = Log::default();
    let [a, b, c] = ["a", "b", "c"].map(|name| Subject::logging(name, &log));
    c.always_starts(Start::Fail);
    let root = Slot::new("root", "");
    let children = [&a, &b, &c].map(|subject| subject.spec(Restart::Permanent)).into();
    let args = OneForOneArgs { slot: root.clone(), children, limits: Limits::default(), last_words: None };
    let error = start_root(args).await.unwrap_err();

    assert!(error.to_string().contains("subject:c: could not start: refused at start"), "{error}");
    let expected = ["a started", "b started", "b stopped", "b dropped", "a stopped", "a dropped"];
    assert_eq!(log.lines(), expected);
    assert_eq!(root.node().status(), Status::Stopped);
    assert!(root.node().last_exit().unwrap().contains("refused at start"));
    assert_eq!([a.gone().len(), b.gone().len(), c.gone().len()], [1, 1, 1]);
    assert!(root.node().cell().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_child_that_panics_while_it_is_made_dropped_or_buried_harms_no_sibling() {
    let [neighbour, subject] = ["neighbour", "subject"].map(Subject::new);
    let (made, slot, own) = (AtomicUsize::new(0), subject.slot.clone(), Arc::clone(&subject));
    let spec = ChildSpec::new(&slot, Restart::Transient, DEADLINE, move || {
        assert_ne!(made.fetch_add(1, Ordering::SeqCst), 1, "the second cannot be made");
        (Worker, Arc::clone(&own))
    })
    .on_gone(|_| panic!("buried badly"));
    let tree = Tree::start(vec![neighbour.spec(Restart::Permanent), spec]).await;
    let before = neighbour.snapshot();

    subject.slot.cast(SubjectMsg::Panic).unwrap();
    subject.runs_again(2).await;
    assert!(subject.node().last_exit().unwrap().contains("the second cannot be made"));
    subject.panics_when_dropped.store(true, Ordering::SeqCst);
    subject.slot.cast(SubjectMsg::Stop("enough")).unwrap();
    eventually("it is gone", || tree.node().children().len() == 1).await;

    assert_eq!(neighbour.snapshot(), before);
    assert_eq!(tree.node().status(), Status::Running);
    tree.stop().await;
}
