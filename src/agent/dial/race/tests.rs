use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use tokio::time::{sleep, timeout};

use super::*;

const CONNECT: Duration = Duration::from_secs(2);

/// What a relay does with each question.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// After so many milliseconds.
    After(u64),
    /// It refuses after so many.
    Refuses(u64),
    /// It has no address now.
    NoName,
    /// From so many milliseconds after the start on, at once; before, what it is sent is lost.
    BackAt(u64),
    /// Likewise, but its name is not found before.
    NameBackAt(u64),
    Never,
}

/// The questions of a race: who was asked, when and how.
type Log = Arc<Mutex<Vec<(&'static str, u64, Ask)>>>;

type Reached = BoxFuture<'static, Result<&'static str, DialError>>;
type Reach = Box<dyn Fn(Question) -> Reached>;

struct World {
    log: Log,
    race: Race<'static, &'static str, Reach>,
    start: Instant,
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn world(relays: &[(&'static str, Answer)], streams_wait: bool) -> World {
    let start = Instant::now();
    let log = Log::default();
    let target = |name: &str| Target { address: format!("{name}:1").parse().unwrap(), at: None };
    let targets = relays.iter().map(|(name, _)| target(name)).collect();
    let answers: HashMap<_, _> = relays.iter().map(|(name, answer)| (target(name).address, (*name, *answer))).collect();
    let asked = Arc::clone(&log);
    let reach = move |question: Question| {
        let (name, answer) = answers[&question.target.address];
        asked.lock().unwrap().push((name, elapsed(start), question.ask));
        let answer = async move {
            match answer {
                Answer::After(millis) => sleep(ms(millis)).await,
                Answer::Refuses(millis) => {
                    sleep(ms(millis)).await;
                    return Err(DialError::Connect("refused".to_owned()));
                }
                Answer::NameBackAt(millis) if elapsed(start) < millis => {
                    return Err(DialError::Name("none".to_owned()));
                }
                Answer::NoName => return Err(DialError::Name("none".to_owned())),
                Answer::BackAt(millis) | Answer::NameBackAt(millis) if elapsed(start) >= millis => sleep(ms(1)).await,
                Answer::BackAt(_) | Answer::NameBackAt(_) | Answer::Never => std::future::pending().await,
            }
            Ok(())
        };
        async move {
            let within = question.within;
            timeout(within, answer).await.unwrap_or(Err(DialError::ConnectTimedOut(within)))?;
            if question.may_say_hello() { Ok(name) } else { Err(DialError::Twice) }
        }
        .boxed()
    };
    let pace = Pace { connect: CONNECT, streams_wait };
    World { race: Race::new(targets, pace, Box::new(reach)), log, start }
}

fn elapsed(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap()
}

/// How a race went.
struct Went {
    taken: &'static str,
    /// Milliseconds.
    after: u64,
    others: Vec<&'static str>,
    log: Log,
}

impl World {
    async fn run(self) -> Went {
        let Outcome { taken, others } = self.race.run().await;
        Went { taken: taken.unwrap_or("nobody"), after: elapsed(self.start), others, log: self.log }
    }
}

impl Went {
    fn taken(&self) -> (&'static str, u64) {
        (self.taken, self.after)
    }

    fn asked(&self, name: &str) -> Vec<(u64, Ask)> {
        self.log.lock().unwrap().iter().filter(|(asked, ..)| *asked == name).map(|(_, at, ask)| (*at, *ask)).collect()
    }
}

async fn hurried(relays: &[(&'static str, Answer)]) -> Went {
    world(relays, true).run().await
}

async fn calm(relays: &[(&'static str, Answer)]) -> Went {
    world(relays, false).run().await
}

use Answer::{After, BackAt, NameBackAt, Never, NoName, Refuses};

#[tokio::test(start_paused = true)]
async fn the_first_is_taken_as_soon_as_it_answers_and_nobody_else_is_asked() {
    let went = hurried(&[("a", After(200)), ("b", After(1))]).await;
    assert_eq!(went.taken(), ("a", 200));
    assert_eq!(went.asked("b"), []);
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_relay_is_preferred_to_a_quick_second_and_is_not_asked_twice() {
    for went in
        [hurried(&[("a", After(700)), ("b", After(1))]).await, calm(&[("a", After(1900)), ("b", After(1))]).await]
    {
        assert_eq!((went.taken, went.others.as_slice()), ("a", ["b"].as_slice()));
        assert!(went.after == 700 || went.after == 1900);
        assert_eq!((went.asked("a").len(), went.asked("b")), (1, vec![(250, Ask::First)]));
    }
}

#[tokio::test(start_paused = true)]
async fn where_streams_wait_dead_relays_are_waited_for_at_once_and_not_in_turn() {
    let went = hurried(&[("dead", Never), ("dead2", Never), ("c", After(10))]).await;
    assert_eq!(went.taken(), ("c", 250 + 750));
    assert_eq!(went.asked("dead"), [(0, Ask::First), (510, Ask::Again)]);
    assert_eq!(went.asked("dead2"), [(250, Ask::First)]);
    assert_eq!(went.asked("c"), [(500, Ask::First)]);
}

#[tokio::test(start_paused = true)]
async fn where_nobody_waits_a_relay_has_its_whole_connect_timeout() {
    let went = calm(&[("dead", Never), ("b", After(10))]).await;
    assert_eq!(went.taken(), ("b", 2_000));
}

#[tokio::test(start_paused = true)]
async fn the_next_is_asked_at_once_when_the_one_before_cannot_be_had() {
    let went = hurried(&[("no", Refuses(30)), ("none", NoName), ("c", After(10))]).await;
    // Whose name was not found is asked once more; who has refused is not.
    assert_eq!(went.taken(), ("c", 40));
    assert_eq!(went.asked("no"), [(0, Ask::First)]);
    assert_eq!(went.asked("none"), [(30, Ask::First), (40, Ask::Again)]);
}

#[tokio::test(start_paused = true)]
async fn relays_that_come_back_while_the_next_is_asked_are_preferred_to_it() {
    for first in [BackAt(700), NameBackAt(700)] {
        let went = hurried(&[("a", first), ("b", BackAt(700)), ("c", After(460))]).await;
        assert_eq!(went.taken, "a");
        assert!(went.after < 1_000);
    }
    // And the second, if the first stays away.
    let went = hurried(&[("a", Never), ("b", BackAt(700)), ("c", After(460))]).await;
    assert_eq!(went.taken, "b");
}

#[tokio::test(start_paused = true)]
async fn on_a_long_way_the_others_are_waited_for_longer() {
    let went = hurried(&[("a", After(1_300)), ("b", After(400))]).await;
    assert_eq!(went.taken(), ("a", 1_300));
    let went = hurried(&[("a", Never), ("b", After(400))]).await;
    assert_eq!(went.taken(), ("b", 1_600));
}

#[tokio::test(start_paused = true)]
async fn a_relay_hears_hello_once_however_often_it_is_asked() {
    // Both questions to the first come to a connection, the second one first.
    let went = hurried(&[("a", BackAt(600)), ("b", After(360))]).await;
    assert_eq!(went.taken, "a");
    assert_eq!(went.asked("a").len(), 2);
    assert_eq!(went.others, ["b"]);
}

#[tokio::test(start_paused = true)]
async fn where_one_refuses_and_streams_wait_the_silent_ones_have_no_more_time_than_where_one_answers() {
    let went = hurried(&[("dead", Never), ("full", Refuses(10))]).await;
    assert_eq!(went.taken(), ("nobody", 750));
    let went = calm(&[("dead", Never), ("full", Refuses(10))]).await;
    assert_eq!(went.taken(), ("nobody", 2_000));
    let went = hurried(&[("no", Refuses(10)), ("slow", After(600)), ("quick", After(1))]).await;
    assert_eq!(went.taken(), ("slow", 610));
}

#[tokio::test(start_paused = true)]
async fn when_nobody_answers_it_is_over_with_the_last() {
    let went = hurried(&[("a", Never), ("b", Never), ("c", NoName)]).await;
    assert_eq!(went.taken(), ("nobody", 2_250));
    assert_eq!(hurried(&[]).await.taken(), ("nobody", 0));
}
