//! The tree as an operator sees it.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_selector_is_an_id_a_kind_or_a_kind_and_a_name() {
    let [a, b] = ["a", "b"].map(Subject::new);
    let handle = DynamicHandle::new("dynamic", "");
    let tree =
        Tree::start(vec![a.spec(Restart::Permanent), b.spec(Restart::Permanent), dynamic(&handle, SECOND, Vec::new)])
            .await;
    assert_eq!(tree.find("root").id(), tree.node().id());
    assert_eq!(tree.find("dynamic").id(), handle.slot().node().id());
    assert_eq!(tree.find("subject:b").id(), b.node().id());
    assert_eq!(tree.find(&a.node().id().to_string()).id(), a.node().id());

    let several = find(tree.node(), "subject").unwrap_err();
    let (a_id, b_id) = (a.node().id(), b.node().id());
    let expected = format!("`subject` names 2 actors ({a_id}=subject:a, {b_id}=subject:b): give an id or kind:name");
    assert_eq!(several, expected);
    for unknown in ["subject:c", "0", "", "subject:", "99999999999999999999999"] {
        let error = find(tree.node(), unknown).unwrap_err();
        assert!(error.starts_with(&format!("no actor `{unknown}`")), "{error}");
    }
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_names_many_shows_the_first_three() {
    let subjects: Vec<_> = ["a", "b", "c", "d"].map(Subject::new).into();
    let tree = Tree::start(subjects.iter().map(|subject| subject.spec(Restart::Permanent)).collect()).await;
    let error = find(tree.node(), "subject").unwrap_err();
    assert!(error.contains("names 4 actors (") && error.contains("=subject:c, …)") && !error.contains(":d"), "{error}");
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_report_shows_each_actor_in_the_order_of_starting_and_survives_json() {
    let [a, b] = ["a", "b"].map(Subject::new);
    b.node().describe(|| serde_json::json!({ "of": "b" }));
    let children = {
        let a = Arc::clone(&a);
        move || vec![a.spec(Restart::Permanent)]
    };
    let tree =
        Tree::start(vec![nested("inner", Restart::Permanent, SECOND, strict(), children), b.spec(Restart::Permanent)])
            .await;
    a.inject(Fault::Panic).await;
    a.runs_again(2).await;

    let report = Report::of(tree.node());
    let names: Vec<_> = report.walk().map(|actor| actor.name.as_str()).collect();
    assert_eq!(names, ["", "inner", "a", "b"]);
    let of_a = report.walk().find(|actor| actor.name == "a").unwrap();
    assert_eq!(
        (of_a.status, of_a.restarts, of_a.last_exit.as_deref()),
        (Status::Running, 1, Some("failed: injected panic"))
    );
    assert!(of_a.started_at.unwrap() > 1_600_000_000_000, "milliseconds");
    let of_b = report.walk().find(|actor| actor.name == "b").unwrap();
    assert_eq!((of_b.detail["of"].as_str(), of_b.last_exit.as_deref()), (Some("b"), None));
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_actor_is_listed_while_it_hangs_in_its_first_pre_start() {
    let subject = Subject::new("subject");
    subject.starts_next(Start::Wait);
    let handle = DynamicHandle::new("dynamic", "");
    let tree = Tree::start(vec![dynamic(&handle, SECOND, Vec::new)]).await;
    handle.start(subject.spec(Restart::Transient)).unwrap();
    let expected = ["root: running", "dynamic: running", "subject:subject starting"];
    eventually("it is listed", || tree.statuses() == expected && subject.started() == 1).await;
    assert!(!subject.node().busy().is_zero());
    assert_eq!(subject.node().started_at(), None);
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_roots_in_one_process_do_not_interfere() {
    let [one, two] = ["same", "same"].map(Subject::new);
    let first = Tree::start(vec![one.spec(Restart::Permanent)]).await;
    let second = Tree::start(vec![two.spec(Restart::Permanent)]).await;
    assert!(find(first.node(), &two.node().id().to_string()).is_err());
    let before = two.snapshot();
    for incarnation in 2..5 {
        one.inject(Fault::Panic).await;
        one.runs_again(incarnation).await;
    }
    first.node().kill();
    first.ended.await.unwrap();
    assert_eq!(two.snapshot(), before);
    assert_eq!(two.ask().await, 1);
    assert_eq!(second.statuses(), ["root: running", "subject:same running"]);
    second.stop().await;
    assert_eq!(two.gone(), ["stopped"]);
}
