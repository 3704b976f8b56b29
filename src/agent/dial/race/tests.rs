use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use tokio::time::{sleep, timeout};

use super::*;

const CONNECT: Duration = Duration::from_secs(2);

/// What a relay does with each question.
#[derive(Debug, Clone, Copy)]
enum Does {
    /// It answers after so many milliseconds.
    After(u64),
    /// After so many, and then it says HELLO for so many more.
    Greets(u64, u64),
    /// It cannot be had, and says so after so many.
    Fails(u64),
    /// It refuses after so many, until so many after the start.
    Full(u64, u64),
    /// It has no address now.
    NoName,
    /// What it is sent before so many milliseconds after the start is sent again after 300, 900 and 2,100.
    BackAt(u64),
    /// Likewise, but its name is not found before.
    NameBackAt(u64),
    /// It answers after so many, and is gone so many after the start.
    GoneAt(u64, u64),
    Never,
}

/// The questions of a race: who was asked, when and how.
type Log = Arc<Mutex<Vec<(&'static str, u64, Ask)>>>;

/// A relay, and until when it stands.
#[derive(Debug)]
struct Session(&'static str, Option<Instant>);

impl Answer for Session {
    fn stands(&self) -> bool {
        self.1.is_none_or(|gone| Instant::now() < gone)
    }
}

type Reached = BoxFuture<'static, Result<Session, DialError>>;
type Reach = Box<dyn Fn(Question) -> Reached>;
type Wait = Box<dyn Fn() -> bool>;

struct World {
    log: Log,
    race: Race<'static, Session, Reach, Wait>,
    start: Instant,
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn target(name: &str) -> Target {
    Target { address: format!("{name}:1").parse().unwrap(), at: None, rtt: Duration::ZERO }
}

/// Streams wait from so many milliseconds on.
fn world(targets: Vec<Target>, relays: &[(&'static str, Does)], streams_wait_from: u64) -> World {
    let start = Instant::now();
    let log = Log::default();
    let does: HashMap<_, _> = relays.iter().map(|(name, does)| (target(name).address, (*name, *does))).collect();
    let asked = Arc::clone(&log);
    let reach = move |question: Question| {
        let (name, does) = does[&question.target.address];
        asked.lock().unwrap().push((name, elapsed(start), question.ask));
        async move {
            let reached = timeout(question.within, reach(does, start));
            reached.await.unwrap_or(Err(DialError::ConnectTimedOut(question.within)))?;
            let gone = match does {
                GoneAt(_, gone) => Some(start + ms(gone)),
                _ => None,
            };
            if let Greets(_, hello) = does {
                sleep(ms(hello)).await;
            }
            Ok(Session(name, gone))
        }
        .boxed()
    };
    let streams_wait = move || elapsed(start) >= streams_wait_from;
    let rules =
        Rules { connect: CONNECT, reach: Box::new(reach) as Reach, streams_wait: Box::new(streams_wait) as Wait };
    World { race: Race::new(targets, rules), log, start }
}

/// One question's connection.
async fn reach(does: Does, start: Instant) -> Result<(), DialError> {
    match does {
        After(millis) | Greets(millis, _) | GoneAt(millis, _) => sleep(ms(millis)).await,
        Fails(millis) => {
            sleep(ms(millis)).await;
            return Err(DialError::Identity("somebody else".to_owned()));
        }
        Full(millis, until) => {
            sleep(ms(millis)).await;
            if elapsed(start) < until {
                return Err(DialError::Refused("full".to_owned()));
            }
        }
        NoName => return Err(DialError::Name("none".to_owned())),
        NameBackAt(millis) if elapsed(start) < millis => return Err(DialError::Name("none".to_owned())),
        NameBackAt(_) => sleep(ms(1)).await,
        BackAt(millis) => {
            let asked = elapsed(start);
            let heard = [0, 300, 900, 2_100].into_iter().find(|after| asked + after >= millis);
            sleep(ms(heard.unwrap_or(u64::from(u32::MAX)) + 1)).await;
        }
        Never => std::future::pending().await,
    }
    Ok(())
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
        let others = others.into_iter().map(|session| session.0).collect();
        Went { taken: taken.map_or("nobody", |session| session.0), after: elapsed(self.start), others, log: self.log }
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

fn targets(relays: &[(&'static str, Does)]) -> Vec<Target> {
    relays.iter().map(|(name, _)| target(name)).collect()
}

async fn hurried(relays: &[(&'static str, Does)]) -> Went {
    world(targets(relays), relays, 0).run().await
}

async fn calm(relays: &[(&'static str, Does)]) -> Went {
    world(targets(relays), relays, u64::MAX).run().await
}

use Does::{After, BackAt, Fails, Full, GoneAt, Greets, NameBackAt, Never, NoName};

#[tokio::test(start_paused = true)]
async fn the_first_is_taken_as_soon_as_it_answers_and_nobody_else_is_asked() {
    let went = hurried(&[("a", After(200)), ("b", After(1))]).await;
    assert_eq!(went.taken(), ("a", 200));
    assert_eq!(went.asked("b"), []);
}

#[tokio::test(start_paused = true)]
async fn a_slow_first_relay_is_preferred_to_a_quick_second_and_is_not_asked_twice() {
    let (quick, slow) = (("a", After(700)), ("a", Greets(500, 1_400)));
    let second = ("b", After(1));
    for (went, after) in [(hurried(&[quick, second]).await, 700), (calm(&[slow, second]).await, 1_900)] {
        assert_eq!((went.taken(), went.others.as_slice()), (("a", after), ["b"].as_slice()));
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
    // One that has been heard, but says nothing, is no better.
    let went = hurried(&[("mute", Greets(10, 5_000)), ("b", After(10))]).await;
    assert_eq!(went.taken(), ("b", 750));
}

#[tokio::test(start_paused = true)]
async fn where_nobody_waits_a_relay_has_its_whole_connect_timeout_unless_streams_come_to_wait() {
    let relays = [("dead", Never), ("b", After(10))];
    assert_eq!(calm(&relays).await.taken(), ("b", 2_000));
    let went = world(targets(&relays), &relays, 1_000).run().await;
    assert_eq!(went.taken, "b");
    assert!((1_000..=1_300).contains(&went.after), "{}", went.after);
}

#[tokio::test(start_paused = true)]
async fn the_next_is_asked_at_once_when_the_one_before_cannot_be_had() {
    let went = hurried(&[("no", Fails(30)), ("none", NoName), ("c", After(10))]).await;
    // Whose name was not found is asked once more; who is somebody else is not.
    assert_eq!(went.taken(), ("c", 40));
    assert_eq!(went.asked("no"), [(0, Ask::First)]);
    assert_eq!(went.asked("none"), [(30, Ask::First), (40, Ask::Again)]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_network_comes_back_takes_the_first_however_long_it_was_away() {
    for back in (0..1_900).step_by(50) {
        for first in [BackAt(back), NameBackAt(back)] {
            let went = hurried(&[("a", first), ("b", BackAt(back))]).await;
            let (taken, after) = went.taken();
            // Or nobody, where none was asked when it was back: then all are asked anew.
            assert!(taken == "a" || (taken == "nobody" && back > 900), "{taken}, back after {back}");
            assert!(after <= back + 1_250, "back after {back}, taken after {after}");
        }
    }
    // And the second, if the first stays away.
    let went = hurried(&[("a", Never), ("b", NameBackAt(700)), ("c", After(460))]).await;
    assert_eq!(went.taken, "b");
}

#[tokio::test(start_paused = true)]
async fn on_a_long_way_relays_are_waited_for_longer() {
    let went = hurried(&[("a", After(1_100)), ("b", After(600))]).await;
    assert_eq!(went.taken(), ("a", 1_100));
    let went = hurried(&[("a", Never), ("b", After(600))]).await;
    // It was asked again meanwhile.
    assert_eq!(went.taken(), ("b", 1_350));
    // The second is near, and the first was far when it was last used.
    let relays = [("a", After(1_100)), ("b", After(10))];
    let mut far = targets(&relays);
    far[0].rtt = ms(300);
    assert_eq!(world(far, &relays, 0).run().await.taken(), ("a", 1_100));
    assert_eq!(hurried(&relays).await.taken(), ("b", 750));
}

#[tokio::test(start_paused = true)]
async fn who_refuses_cuts_nobody_short_and_is_asked_again_while_others_are_waited_for() {
    let went = hurried(&[("full", Full(10, 9_999)), ("far", Greets(600, 1_300))]).await;
    assert_eq!(went.taken(), ("far", 10 + 1_900));
    let went = hurried(&[("dead", Never), ("full", Full(5, 600))]).await;
    assert_eq!(went.taken, "full");
    assert!(went.after <= 1_000, "{}", went.after);
    // Nobody else is left: the pause is somebody else's.
    let went = hurried(&[("full", Full(10, 9_999))]).await;
    assert_eq!(went.taken(), ("nobody", 10));
}

#[tokio::test(start_paused = true)]
async fn who_has_answered_and_is_gone_is_not_taken() {
    let went = hurried(&[("dead", Never), ("b", GoneAt(5, 500)), ("c", After(5))]).await;
    assert_eq!(went.taken, "c");
}

#[tokio::test(start_paused = true)]
async fn when_nobody_answers_it_is_over_with_the_last() {
    let went = hurried(&[("a", Never), ("b", Never), ("c", NoName)]).await;
    assert_eq!(went.taken(), ("nobody", 2_250));
    assert_eq!(hurried(&[]).await.taken(), ("nobody", 0));
}
