//! Every kind of actor × every fault × every load, under streams whose every byte is checked, with the project's own
//! agents at both ends.
//!
//! The whole is one command, which prints one table (`MATRIX_N` repeats of each cell, 5 by itself):
//!
//! ```text
//! cargo test --release --test it matrix::whole -- --ignored --nocapture
//! ```

use std::time::Duration;

use outrelay::relay::tree::KINDS;
use outrelay::supervise::fault::Fault;

use self::flow::Load;
pub use self::table::percentile;
use self::table::{Cell, Table};
use self::world::World;

pub mod ends;
pub mod flow;
mod handshakes;
mod services;
mod table;
pub mod world;

const FAULTS: [Fault; 4] = [Fault::Kill, Fault::Panic, Fault::Hang, Fault::Stop];
const LOADS: [Load; 3] = [Load::Idle, Load::Bulk, Load::Small];
/// The relay's `limits.handler` in here: for that long a hang goes unnoticed.
pub const HANG_DEADLINE: Duration = Duration::from_millis(300);
/// Repeats of each cell in the whole run, unless `MATRIX_N` says otherwise.
const REPEATS: usize = 5;

/// Whether an open made *while* the fault lasts may be refused; one made after it never is.
pub fn may_refuse(kind: &str, fault: Fault) -> bool {
    match kind {
        // Calls to a registry that hangs give up before the sweeper does (`limits.registry_call` < `limits.handler`).
        "registry" => fault == Fault::Hang,
        // To stop a connection in order is to close it: until its agent is back, nobody serves what it serves.
        "ingress" | "connections" | "connection" | "control" => fault == Fault::Stop,
        _ => false,
    }
}

/// Kinds whose actor does not come back: the next one is another actor.
fn ends_for_good(kind: &str, fault: Fault) -> bool {
    match kind {
        "splice" | "handshake" => true,
        "connection" | "control" => fault == Fault::Stop,
        _ => false,
    }
}

/// Every kind but the root, whose end is the process's (see `fault.rs` and `singletons.rs`), and an entry, which lives only
/// while a half of a stream waits for the other (see `survival/cuts.rs`: all four, under bulk).
fn victims() -> impl Iterator<Item = &'static str> {
    KINDS.into_iter().map(|(kind, _)| kind).filter(|kind| !["relay", "entry"].contains(kind))
}

/// One cell: `repeats` strikes, one after the other, then every stream is ended and counted.
async fn cell(world: &World, kind: &'static str, fault: Fault, load: Load, repeats: usize) -> Cell {
    let mut cell = Cell::new(kind, Some(fault), load);
    let mut streams = world.streams(load).await;
    for _ in 0..repeats {
        let strike = world.strike(kind, fault, &streams).await;
        cell.struck(&strike);
        cell.ended(&streams.replace_ended(world).await);
    }
    cell.ended(&streams.finish().await);
    world.is_clean().await;
    cell
}

/// What the measure itself takes, on this machine and under this load.
async fn calm(world: &World, load: Load, repeats: usize) -> Cell {
    let mut cell = Cell::new("-", None, load);
    let streams = world.streams(load).await;
    for _ in 0..repeats {
        cell.struck(&world.calm(&streams).await);
    }
    cell.ended(&streams.finish().await);
    world.is_clean().await;
    cell
}

async fn run(kinds: &[&'static str], loads: &[Load], repeats: usize) -> Table {
    let mut table = Table::default();
    for load in loads {
        let world = World::start().await;
        table.add(calm(&world, *load, repeats * FAULTS.len()).await);
        for kind in kinds {
            for fault in FAULTS {
                table.add(cell(&world, kind, fault, *load, repeats).await);
            }
        }
        world.shutdown().await;
    }
    table
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sample_of_actors_and_faults_under_bulk_costs_what_is_said_and_no_more() {
    let _alone = crate::harness::ALONE.lock().await;
    let sample = ["registry", "splices", "splice", "connections", "connection", "control", "handshake"];
    let table = run(&sample, &[Load::Bulk], 1).await;
    assert_eq!(table.problems(), Vec::<String>::new(), "\n{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: the command is at the head of this file"]
#[allow(clippy::print_stdout, reason = "it is what the command is for")]
async fn whole() {
    let _alone = crate::harness::ALONE.lock().await;
    let repeats = std::env::var("MATRIX_N").ok().and_then(|n| n.parse().ok()).unwrap_or(REPEATS);
    let kinds: Vec<_> = victims().collect();
    let table = run(&kinds, &LOADS, repeats).await;
    println!("{table}");
    assert_eq!(table.problems(), Vec::<String>::new());
}
