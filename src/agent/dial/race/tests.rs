use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use tokio::time::{advance, sleep};

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
type Reach = Box<dyn Fn(Target, Ask) -> Reached>;

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
    let reach = move |target: Target, ask| {
        let (name, answer) = answers[&target.address];
        asked.lock().unwrap().push((name, elapsed(start), ask));
        async move {
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
            Ok(name)
        }
        .boxed()
    };
    let pace = Pace { connect: CONNECT, streams_wait };
    World { race: Race::new(targets, pace, Box::new(reach)), log, start }
}

fn elapsed(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap()
}

impl World {
    /// Who is taken next, and when.
    async fn next(&mut self) -> (&'static str, u64) {
        let taken = self.race.next().await.map_or("nobody", |(_, name)| name);
        (taken, elapsed(self.start))
    }

    fn asked(&self, name: &str) -> Vec<(u64, Ask)> {
        self.log.lock().unwrap().iter().filter(|(asked, ..)| *asked == name).map(|(_, at, ask)| (*at, *ask)).collect()
    }
}

use Answer::{After, BackAt, NameBackAt, Never, NoName, Refuses};

#[tokio::test(start_paused = true)]
async fn the_first_is_taken_as_soon_as_it_answers_and_nobody_else_is_asked() {
    let mut world = world(&[("a", After(200)), ("b", After(1))], true);
    assert_eq!(world.next().await, ("a", 200));
    assert_eq!(world.asked("b"), []);
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_relay_is_preferred_to_a_quick_second() {
    for (slow, streams_wait) in [(700, true), (1900, false)] {
        let mut world = world(&[("a", After(slow)), ("b", After(1))], streams_wait);
        assert_eq!(world.next().await, ("a", slow));
        assert_eq!(world.asked("b"), [(250, Ask::First)]);
        assert_eq!(world.race.others().collect::<Vec<_>>(), ["b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn where_streams_wait_dead_relays_are_waited_for_at_once_and_not_in_turn() {
    let mut world = world(&[("dead", Never), ("dead2", Never), ("c", After(10))], true);
    assert_eq!(world.next().await, ("c", 250 + 750));
    assert_eq!(world.asked("dead"), [(0, Ask::First), (510, Ask::Again)]);
    assert_eq!(world.asked("dead2"), [(250, Ask::First), (510, Ask::Again)]);
    assert_eq!(world.asked("c"), [(500, Ask::First)]);
}

#[tokio::test(start_paused = true)]
async fn where_nobody_waits_a_relay_has_its_whole_connect_timeout() {
    let mut world = world(&[("dead", Never), ("b", After(10))], false);
    assert_eq!(world.next().await, ("b", 2_000));
}

#[tokio::test(start_paused = true)]
async fn the_next_is_asked_at_once_when_the_one_before_cannot_be_had() {
    let mut world = world(&[("no", Refuses(30)), ("none", NoName), ("c", After(10))], true);
    // Whose name was not found is asked once more; who has refused is not.
    assert_eq!(world.next().await, ("c", 40));
    assert_eq!(world.asked("no"), [(0, Ask::First)]);
    assert_eq!(world.asked("none"), [(30, Ask::First), (40, Ask::Again)]);
}

#[tokio::test(start_paused = true)]
async fn relays_that_come_back_while_the_next_is_asked_are_preferred_to_it() {
    for first in [BackAt(700), NameBackAt(700)] {
        let mut world = world(&[("a", first), ("b", BackAt(700)), ("c", After(460))], true);
        // From its first answer on, both before it.
        assert_eq!(world.next().await.0, "a");
        assert!(world.asked("a").contains(&(if matches!(first, BackAt(_)) { 960 } else { 710 }, Ask::Again)));
    }
}

#[tokio::test(start_paused = true)]
async fn on_a_long_way_the_others_are_waited_for_longer() {
    let mut world = world(&[("a", After(1_300)), ("b", After(400))], true);
    assert_eq!(world.next().await, ("a", 1_300));
    let mut world = self::world(&[("a", Never), ("b", After(400))], true);
    assert_eq!(world.next().await, ("b", 1_600));
}

#[tokio::test(start_paused = true)]
async fn who_is_taken_and_comes_to_nothing_is_followed_by_the_next() {
    let mut world = world(&[("a", Never), ("b", After(1)), ("c", After(5)), ("d", Refuses(1))], true);
    assert_eq!(world.next().await, ("b", 750));
    // HELLO took its time.
    advance(ms(100)).await;
    assert_eq!(world.next().await.0, "c");
    assert_eq!(world.next().await.0, "nobody");
    assert_eq!((world.asked("b").len(), world.asked("d").len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn when_nobody_answers_it_is_over_with_the_last() {
    let mut world = world(&[("a", Never), ("b", Never), ("c", NoName)], true);
    assert_eq!(world.next().await, ("nobody", 2_250));
    let mut none = self::world(&[], true);
    assert_eq!(none.next().await, ("nobody", 0));
}
