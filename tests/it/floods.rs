//! Peers that take without end: half-open handshakes, silent connections, opens to nowhere, readers that do not read,
//! one-byte writers. Against the real program, while a well-behaved neighbour opens streams all the time.
//!
//! Under each flood every open of the neighbour succeeds; the relay's memory stays under the bound that stands with
//! the flood; and afterwards it has the actors and the file descriptors that it had before.
//!
//! Reduced here. At full size, with the neighbour's times asserted:
//!
//! ```text
//! cargo test --release --test it floods::whole -- --ignored --nocapture
//! ```
//!
//! One machine carries relay, flood and neighbour. The neighbour has a thread of its own. The flood has one thread, and
//! goes at a fixed rate, chosen so that it takes well under half a core; what both took is printed with the times. At
//! full size that thread is one that the system runs when nobody else wants the core (`SCHED_IDLE`, sched(7)): who
//! attacks a relay takes what the relay spends on it, and no time of its cores.

use std::sync::Arc;
use std::time::Duration;

use self::attack::Attack;
use self::kinds::Flood;
use self::neighbour::{Neighbour, Phase};
use self::site::Site;
use crate::harness::ALONE;
use crate::matrix::percentile;

mod attack;
mod kinds;
mod neighbour;
pub mod site;

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// For every run of the tests.
    Reduced,
    /// As an attacker would.
    Whole,
}

impl Scale {
    /// Opens of the neighbour, alone and under the flood.
    fn samples(self) -> usize {
        match self {
            Self::Reduced => 50,
            Self::Whole => 1_000,
        }
    }
}

/// What is added to twice the neighbour's time alone: less than what the machine itself is late now and then.
const FLOOR: Duration = Duration::from_micros(500);

/// How often each flood comes at full size; of the neighbour's times the median counts. The ten longest of a thousand opens make a p99, and
/// that differs by half from one time to the next.
const ROUNDS: usize = 3;

/// What was seen of one flood.
struct Seen {
    alone: Duration,
    under: Duration,
    line: String,
}

async fn suffer(flood: Flood, scale: Scale) -> Seen {
    let site = Arc::new(Site::start(&flood.settings(scale)).await);
    let before = site.counts().await;
    let rss = site.rss_mib();
    let neighbour = Neighbour::start(&site);
    neighbour.has_opened(Phase::Alone, scale.samples()).await;

    let meter = outrelay::bench::process::Meter::start(Some(&site.process)).unwrap();
    neighbour.enter(Phase::Under);
    let (mut attack, done) = Attack::start(flood, scale, &site).await;
    neighbour.has_opened(Phase::Under, scale.samples()).await;
    let window = meter.stop().unwrap();
    let during = site.counts().await;
    attack.give_up();

    let opens = neighbour.stop();
    assert_eq!(opens.failures, Vec::<String>::new(), "{flood:?}: every open of the neighbour succeeds");
    let peak = site.peak_rss_mib();
    let bound = flood.bound_mib();
    assert!(peak <= bound, "{flood:?}: {peak} MiB at the peak, of {bound}");
    site.is_back_at(before).await;
    drop(attack);

    let p99 = |phase| percentile(&opens.times(phase), 0.99);
    let (alone, under) = (p99(Phase::Alone), p99(Phase::Under));
    let share = |seconds: f64| 100.0 * seconds / window.seconds;
    let line = format!(
        "{:<22} {done:>7} in {:>5.1} s | open p99 alone {:>6.2} ms, under {:>6.2} ms, {:>5} opens | RSS {rss} -> {peak} of {bound} MiB | \
         actors {} -> {} -> {} | CPU relay {:.0}%, flood and neighbour {:.0}% of a core",
        flood.name(),
        window.seconds,
        alone.as_secs_f64() * 1000.0,
        under.as_secs_f64() * 1000.0,
        opens.times(Phase::Under).len(),
        before.actors,
        during.actors,
        before.actors,
        share(window.cpu_seconds.unwrap_or_default()),
        share(window.own_cpu_seconds),
    );
    Seen { alone, under, line }
}

#[allow(clippy::print_stdout, reason = "the figures are always said")]
async fn reduced(flood: Flood) {
    let _alone = ALONE.lock().await;
    println!("{}", suffer(flood, Scale::Reduced).await.line);
}

#[tokio::test]
async fn handshakes_that_never_finish_are_forgotten_and_the_neighbour_goes_on() {
    reduced(Flood::Handshakes).await;
}

#[tokio::test]
async fn connections_that_never_say_hello_are_closed_and_the_neighbour_goes_on() {
    reduced(Flood::Silent).await;
}

#[tokio::test]
async fn opens_to_nowhere_are_refused_one_by_one_and_the_neighbour_goes_on() {
    reduced(Flood::Nowhere).await;
}

#[tokio::test]
async fn readers_that_never_read_hold_a_bounded_amount_and_the_neighbour_goes_on() {
    reduced(Flood::Unread).await;
}

#[tokio::test]
async fn one_byte_writers_are_served_byte_by_byte_and_the_neighbour_goes_on() {
    reduced(Flood::OneByte).await;
}

#[tokio::test]
#[ignore = "takes minutes and a quiet machine: the command is at the head of this file"]
#[allow(clippy::print_stdout, reason = "it is what the command is for")]
async fn whole() {
    let _alone = ALONE.lock().await;
    let mut slow = Vec::new();
    for flood in Flood::ALL {
        let mut seen = Vec::new();
        for _ in 0..ROUNDS {
            seen.push(suffer(flood, Scale::Whole).await);
            println!("{}", seen[seen.len() - 1].line);
        }
        let median = |of: fn(&Seen) -> Duration| percentile(&sorted(seen.iter().map(of)), 0.5);
        let (alone, under) = (median(|seen| seen.alone), median(|seen| seen.under));
        println!("{:<22} medians of p99: alone {alone:?}, under it {under:?}", flood.name());
        if under > alone * 2 + FLOOR {
            slow.push(format!("{flood:?}: p99 {alone:?} alone, {under:?} under it"));
        }
    }
    assert_eq!(slow, Vec::<String>::new());
}

fn sorted(times: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut times: Vec<_> = times.collect();
    times.sort();
    times
}
