//! Two agents and a relay as state machines, driven by random steps: nothing is lost, doubled or cut short.
//!
//! The agents are real endpoints over real rings, the relay is the real pairing between small models of a splice, of streams
//! with bytes in flight, and of control streams. A seed is a replay on any machine: the generator is part of the test.
//!
//! 500 seeds are run with the other tests; 10,000 by
//! `cargo test --release --lib core::resume::tests::model -- --ignored`; other ones with `MODEL_SEEDS=20000..90000` before
//! that. A seed that fails says so with its steps, ready to be given to [`replay`] in a test of its own.
//!
//! At every step: what was read is a prefix of what was written, a FIN is passed on only at the true end, and no honest
//! partner is found to break the protocol. In the end, once the network is whole again: nothing hangs; and if the agents can
//! confirm the end of a stream and no window was missed, both have read everything and have finished.

use std::ops::Range;
use std::panic;

mod agent;
mod net;
mod random;
mod relay;
mod world;

use random::Random;
use world::World;

/// What the agents and the relay know of each other's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Tickets, RESUME_WANTED, FIN state.
    Full,
    /// FIN state, but a relay that was killed knows nothing of the stream, and calls nobody.
    Bare,
    /// Legacy agents that send checkpoints.
    Legacy,
    /// Legacy agents that send none.
    Silent,
}

/// What happens next. `0` and `1` are the agents; a step that does not apply does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The local application writes so many bytes.
    Write(usize, usize),
    /// The local application ends its direction.
    End(usize),
    /// The local application stops reading, or goes on.
    Stall(usize),
    Unstall(usize),
    /// local → path: one chunk.
    Pump(usize),
    /// A task of a path that is over takes bytes of the local side all the same.
    LatePump(usize),
    /// path → local: one item.
    Read(usize),
    /// A task of a path that is over reads one item all the same.
    LateRead(usize),
    /// The relay takes one item from the n-th of the streams that it holds.
    Relay(usize),
    /// The frames of all streams that the relay has not looked at yet are late; and now they arrive.
    Delay,
    Arrive,
    /// The agent looks whether time has brought a checkpoint or anything else.
    Tick(usize),
    /// One message of the agent's control stream, toward the relay or from it.
    ControlUp(usize),
    ControlDown(usize),
    /// The agent's connection is lost; of what had reached it, everything may still be read, or nothing.
    Cut(usize, Unread),
    Reconnect(usize),
    /// A frozen agent sends its half, if none is under way; or another one all the same.
    Resume(usize),
    Demote(usize),
    Duplicate(usize),
    KillSplice,
    KillEntry,
    KillRelay,
    /// So many milliseconds pass.
    Wait(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    Kept,
    Lost,
}

/// Performs the steps, then lets the network heal and sees the stream to its end.
fn replay(mode: Mode, steps: &[Step]) -> World {
    let mut world = World::new(mode);
    for step in steps {
        world.perform(*step);
    }
    // Nothing orders control streams and paths: in most lives the former lag behind.
    world.heal(1 + steps.len() % 6);
    world.check_end();
    world
}

/// The life of a seed. A failure says how to have it again.
fn live(seed: u64) -> World {
    let (mode, steps) = Random::new(seed).schedule();
    match panic::catch_unwind(|| replay(mode, &steps)) {
        Ok(world) => world,
        Err(_) => panic!("seed {seed}: use Mode::*; use Step::*; use Unread::*; replay({mode:?}, &{steps:?});"),
    }
}

#[test]
fn two_agents_and_a_relay_lose_nothing_in_500_random_lives() {
    let worlds: Vec<World> = (0..500).map(live).collect();
    let count = |what: fn(&World) -> bool| worlds.iter().filter(|world| what(world)).count();
    // The steps are worth something only if they get somewhere.
    assert!(count(|world| world.matches() > 0) > 400, "resumed");
    assert!(count(|world| world.matches() > 2) > 300, "resumed often");
    assert!(count(World::has_called) > 20, "an agent that had finished was asked how");
    assert!(count(World::has_met_old_numbers) > 50, "a half came late");
    assert!(count(|world| !world.has_lost()) > 400, "finished");
}

#[test]
#[ignore = "long: the seeds of MODEL_SEEDS, or 10,000"]
fn two_agents_and_a_relay_lose_nothing_in_10_000_random_lives() {
    let seeds = std::env::var("MODEL_SEEDS").ok().and_then(|text| range(&text));
    for seed in seeds.unwrap_or(0..10_000) {
        live(seed);
    }
}

fn range(text: &str) -> Option<Range<u64>> {
    let (from, to) = text.split_once("..")?;
    Some(from.parse().ok()?..to.parse().ok()?)
}

#[test]
fn an_end_that_was_lost_on_its_way_is_written_again() {
    use Step::{Cut, End, Pump, Relay, Write};

    let cut_in_flight = [Write(0, 100), End(0), Pump(0), Pump(0), Pump(0), Relay(0), Cut(1, Unread::Lost)];
    let world = replay(Mode::Full, &cut_in_flight);
    assert!(world.matches() == 1 && !world.has_lost());
}

#[test]
fn an_agent_that_has_finished_is_asked_how_by_one_that_missed_it() {
    use Step::{ControlDown, ControlUp, Cut, End, Pump, Read, Relay, Tick};

    // Both ends pass, and both are told of; only what agent 0 says last is lost on its way to agent 1.
    let mut steps = vec![End(0), End(1), Pump(0), Pump(1), Pump(0), Pump(1), Relay(0), Relay(1), Read(0), Read(1)];
    steps.extend([Tick(1), ControlUp(1), ControlDown(0), Tick(0), ControlUp(0), Cut(1, Unread::Kept)]);
    let world = replay(Mode::Full, &steps);
    assert!(world.has_called() && !world.has_lost());
}
