//! What came of the cells, and what of it is not as it should be.

use std::fmt;
use std::time::Duration;

use outrelay::supervise::fault::Fault;

use super::flow::{End, Load};
use super::world::{Ended, Strike};
use super::{HANG_DEADLINE, may_refuse};

/// One actor kind under one fault and one load.
#[derive(Debug)]
pub struct Cell {
    kind: &'static str,
    /// None: what the measure takes by itself.
    fault: Option<Fault>,
    load: Load,
    recoveries: Vec<Duration>,
    failed: usize,
    refused: usize,
    lost: u64,
    wrong: Vec<String>,
}

impl Cell {
    pub fn new(kind: &'static str, fault: Option<Fault>, load: Load) -> Self {
        let (recoveries, wrong) = (Vec::new(), Vec::new());
        Self { kind, fault, load, recoveries, failed: 0, refused: 0, lost: 0, wrong }
    }

    pub fn struck(&mut self, strike: &Strike) {
        self.recoveries.push(strike.recovery);
        self.refused += strike.refused;
        self.wrong.extend(strike.wrong.iter().cloned());
    }

    pub fn ended(&mut self, streams: &[Ended]) {
        for stream in streams {
            match &stream.end {
                End::Complete => {}
                End::Reset => self.failed += 1,
                End::Wrong(why) => {
                    self.lost += stream.missing;
                    self.wrong.push(why.clone());
                }
            }
        }
    }

    fn name(&self) -> String {
        format!("{} {} {}", self.kind, self.fault_name(), self.load.name())
    }

    fn fault_name(&self) -> String {
        self.fault.map_or_else(|| "none".to_owned(), |fault| format!("{fault:?}").to_lowercase())
    }

    fn problems(&self) -> Vec<String> {
        let mut found: Vec<_> = self.wrong.iter().map(|why| format!("{}: {why}", self.name())).collect();
        if self.failed > 0 {
            found.push(format!("{}: {} streams failed", self.name(), self.failed));
        }
        if let Some(longest) = self.recoveries.iter().max().filter(|longest| **longest > TOO_LONG) {
            found.push(format!("{}: a recovery took {longest:?}", self.name()));
        }
        if self.refused > 0 && !self.fault.is_some_and(|fault| may_refuse(self.kind, fault)) {
            found.push(format!("{}: {} opens refused", self.name(), self.refused));
        }
        found
    }
}

/// No recovery takes so long, on a machine that does other things, too.
const TOO_LONG: Duration = Duration::from_secs(5);

/// All cells.
#[derive(Debug, Default)]
pub struct Table(Vec<Cell>);

impl Table {
    pub fn add(&mut self, cell: Cell) {
        self.0.push(cell);
    }

    /// Whatever is not as the matrix expects.
    pub fn problems(&self) -> Vec<String> {
        self.0.iter().flat_map(Cell::problems).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Recovery in ms, from the injection until the actor runs again (or is gone, where it is temporary) and what it serves works:\n\
             a fresh open echoes, and every live stream has carried a byte written after the fault. hang: beyond the sweeper's deadline\n\
             of {HANG_DEADLINE:?} (it looks twice in that time). refused: opens made while the fault lasted, which a client would make again.\n\
             none: the same two opens and bytes with no fault at all.\n"
        )?;
        writeln!(
            f,
            "{:<14} {:<6} {:<6} {:>4} {:>14} {:>8} {:>10} {:>8} {:>8} {:>8}",
            "kind", "fault", "load", "n", "streams failed", "refused", "bytes lost", "p50", "p99", "max"
        )?;
        for cell in &self.0 {
            let mut sorted = cell.recoveries.clone();
            sorted.sort();
            let ms = |share: f64| percentile(&sorted, share).as_secs_f64() * 1000.0;
            writeln!(
                f,
                "{:<14} {:<6} {:<6} {:>4} {:>14} {:>8} {:>10} {:>8.1} {:>8.1} {:>8.1}",
                cell.kind,
                cell.fault_name(),
                cell.load.name(),
                sorted.len(),
                cell.failed,
                cell.refused,
                cell.lost,
                ms(0.5),
                ms(0.99),
                ms(1.0),
            )?;
        }
        Ok(())
    }
}

/// The smallest of `sorted` that at least `share` of them do not exceed.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}
