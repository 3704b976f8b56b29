//! Tasks owned by actors.

use super::super::task;
use super::*;

async fn owner() -> (Arc<Subject>, Tree) {
    let subject = Subject::new("owner");
    let tree = Tree::start(vec![subject.spec(Restart::Permanent)]).await;
    (subject, tree)
}

fn reports(subject: &Subject) -> Vec<String> {
    subject.log.lines().into_iter().filter(|line| line.contains('(')).collect()
}

#[tokio::test(start_paused = true)]
async fn a_task_reports_its_value_to_its_owner() {
    let (subject, tree) = owner().await;
    let task = task::owned(&subject.slot, async { 7 }, SubjectMsg::Reported);
    eventually("it is reported", || reports(&subject) == ["Ok(7)"]).await;
    eventually("it has ended", || task.is_finished()).await;
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_reports_what_it_said() {
    let (subject, tree) = owner().await;
    let said = async { panic!("no way {}", 1) };
    let text = task::owned(&subject.slot, said, SubjectMsg::Reported);
    eventually("it is reported", || reports(&subject) == [r#"Err(Panicked("no way 1"))"#]).await;
    let other = task::owned(&subject.slot, async { std::panic::panic_any(7) }, SubjectMsg::Reported);
    eventually("it is reported", || reports(&subject).len() == 2).await;
    assert_eq!(reports(&subject)[1], r#"Err(Panicked("(no text)"))"#);
    text.join().await.unwrap();
    other.join().await.unwrap();
    assert_eq!(subject.ask().await, 1, "its owner goes on");
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_task_is_aborted_and_reports_nothing() {
    let (subject, tree) = owner().await;
    let held = Arc::new(());
    let work = {
        let held = Arc::clone(&held);
        async move {
            let _held = held;
            std::future::pending::<u32>().await
        }
    };
    let task = task::owned(&subject.slot, work, SubjectMsg::Reported);
    tokio::task::yield_now().await;
    assert!(!task.is_finished());
    drop(task);
    eventually("what it held is dropped", || Arc::strong_count(&held) == 1).await;
    subject.ask().await;
    assert_eq!(reports(&subject), Vec::<String>::new());
    tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_owner_is_gone_ends_quietly() {
    let (subject, tree) = owner().await;
    let (release, until) = oneshot::channel();
    let work = async {
        until.await.unwrap();
        1
    };
    let task = task::owned(&subject.slot, work, SubjectMsg::Reported);
    tree.stop().await;
    release.send(()).unwrap();
    task.join().await.unwrap();
    assert_eq!(reports(&subject), Vec::<String>::new());
}
