//! What a process used, as `/proc` tells it (Linux; proc_pid_stat(5)).
//!
//! CPU time is the sum of its threads' `schedstat`, which counts nanoseconds. A thread that ended takes its figure with it, so when one did,
//! `stat` is used instead: the whole process with its dead threads, in ticks of 10 ms. (The tick that `/proc` speaks in is 1/100 s on every
//! Linux that Rust runs on but Alpha and IA-64, whatever the kernel's own is.)

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::failure::{Failure, Step};

const TICK: Duration = Duration::from_millis(10);
/// Where utime stands in `stat`, counted from the state behind the command's closing parenthesis; stime follows.
const UTIME: usize = 11;

/// A process of this machine: the relay's, or this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pid: u32,
    proc: PathBuf,
}

/// CPU time and sleeps of a process, since it began.
#[derive(Clone, Debug)]
pub struct Usage {
    /// CPU time of each living thread.
    threads: BTreeMap<u32, Duration>,
    /// CPU time of all threads, in ticks.
    coarse: Duration,
    /// Voluntary context switches of the living threads.
    sleeps: u64,
}

impl Process {
    /// The process with this id.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn find(pid: u32) -> Result<Self, Failure> {
        let process = Self { pid, proc: PathBuf::from(format!("/proc/{pid}")) };
        process.usage()?;
        Ok(process)
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it used so far.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn usage(&self) -> Result<Usage, Failure> {
        let stat = self.read("stat")?;
        let coarse = parse_stat(&stat).ok_or_else(|| self.unreadable("stat"))?;
        let (mut threads, mut sleeps) = (BTreeMap::new(), 0);
        let tasks = std::fs::read_dir(self.proc.join("task")).map_err(Failure::of(Step::Process))?;
        for task in tasks {
            let name = task.map_err(Failure::of(Step::Process))?.file_name();
            let Some(tid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            // A thread may end between the listing and the reading: it is then one that ended.
            let (Ok(schedstat), Ok(status)) =
                (self.read(&format!("task/{tid}/schedstat")), self.read(&format!("task/{tid}/status")))
            else {
                continue;
            };
            if let Some(on_cpu) = schedstat.split_whitespace().next().and_then(|ns| ns.parse().ok()) {
                threads.insert(tid, Duration::from_nanos(on_cpu));
            }
            sleeps += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
        }
        Ok(Usage { threads, coarse, sleeps })
    }

    /// Its resident memory, in KiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn rss_kib(&self) -> Result<u64, Failure> {
        field(&self.read("status")?, "VmRSS:").ok_or_else(|| self.unreadable("status"))
    }

    /// The memory that is its own, resident or swapped out, in KiB. Without pages of files: those of the program's text count as resident,
    /// but the kernel drops them and reads them again as it likes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn own_kib(&self) -> Result<u64, Failure> {
        let status = self.read("status")?;
        let own = field(&status, "RssAnon:").and_then(|resident| Some(resident + field(&status, "VmSwap:")?));
        own.ok_or_else(|| self.unreadable("status"))
    }

    fn read(&self, file: &str) -> Result<String, Failure> {
        let path = self.proc.join(file);
        std::fs::read_to_string(&path)
            .map_err(|error| Failure::new(Step::Process, format!("{}: {error}", path.display())))
    }

    fn unreadable(&self, file: &str) -> Failure {
        Failure::new(Step::Process, format!("{}: not as expected", self.proc.join(file).display()))
    }
}

impl Usage {
    /// CPU time used since `earlier`.
    #[must_use]
    pub fn cpu_since(&self, earlier: &Self) -> Duration {
        let all_live = !self.threads.is_empty() && earlier.threads.keys().all(|tid| self.threads.contains_key(tid));
        if !all_live {
            return self.coarse.saturating_sub(earlier.coarse);
        }
        let total = |usage: &Self| usage.threads.values().sum::<Duration>();
        total(self).saturating_sub(total(earlier))
    }

    /// Voluntary context switches since `earlier`.
    #[must_use]
    pub fn sleeps_since(&self, earlier: &Self) -> u64 {
        self.sleeps.saturating_sub(earlier.sleeps)
    }
}

/// utime + stime. The command stands in parentheses and may hold anything, closing ones included.
fn parse_stat(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(UTIME);
    let mut next = || fields.next()?.parse::<u32>().ok();
    Some(TICK * next()?.checked_add(next()?)?)
}

/// The number behind `name` at the start of a line.
fn field(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Measures time, and with it the CPU time of the relay and of this process.
#[derive(Debug)]
pub struct Meter<'a> {
    relay: Option<(&'a Process, Usage)>,
    own: (Process, Usage),
    begun: Instant,
}

/// What a [`Meter`] measured.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Time that passed, in seconds.
    pub seconds: f64,
    /// CPU time that the relay used, in seconds; none when its process is not known.
    pub cpu_seconds: Option<f64>,
    /// CPU time that this process used, in seconds.
    pub own_cpu_seconds: f64,
    /// Voluntary context switches of the relay.
    pub sleeps: Option<u64>,
}

impl<'a> Meter<'a> {
    /// Begins now.
    ///
    /// # Errors
    /// When the relay's process is gone.
    pub fn start(relay: Option<&'a Process>) -> Result<Self, Failure> {
        let relay = relay.map(|relay| relay.usage().map(|usage| (relay, usage))).transpose()?;
        let own = Process::find(std::process::id())?;
        let used = own.usage()?;
        Ok(Self { relay, own: (own, used), begun: Instant::now() })
    }

    /// From the start to now.
    ///
    /// # Errors
    /// When the relay's process is gone.
    pub fn stop(self) -> Result<Window, Failure> {
        let seconds = self.begun.elapsed().as_secs_f64();
        let (own, before) = self.own;
        let own_cpu_seconds = own.usage()?.cpu_since(&before).as_secs_f64();
        let Some((relay, before)) = self.relay else {
            return Ok(Window { seconds, own_cpu_seconds, cpu_seconds: None, sleeps: None });
        };
        let after = relay.usage()?;
        let cpu_seconds = Some(after.cpu_since(&before).as_secs_f64());
        Ok(Window { seconds, own_cpu_seconds, cpu_seconds, sleeps: Some(after.sleeps_since(&before)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utime_and_stime_are_found_whatever_the_command_is_called() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 3 0 100 1 1";
        assert_eq!(parse_stat(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_stat("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_seen_to_work() {
        let process = Process::find(std::process::id()).unwrap();
        assert!(process.rss_kib().unwrap() > process.own_kib().unwrap() && process.own_kib().unwrap() > 100);
        let meter = Meter::start(Some(&process)).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        // Another thread of the tests may end meanwhile: then these are ticks.
        let window = meter.stop().unwrap();
        assert!(window.cpu_seconds.unwrap() > 0.0 && window.seconds >= 0.05, "{window:?}");
    }

    #[test]
    fn a_thread_that_ended_makes_the_ticks_count() {
        let usage = |threads: &[(u32, u64)], ticks: u32| Usage {
            threads: threads.iter().map(|(tid, ms)| (*tid, Duration::from_millis(*ms))).collect(),
            coarse: TICK * ticks,
            sleeps: 0,
        };
        let before = usage(&[(1, 10), (2, 5)], 1);
        assert_eq!(usage(&[(1, 12), (2, 6), (3, 1)], 1).cpu_since(&before), Duration::from_millis(4));
        assert_eq!(usage(&[(1, 12)], 4).cpu_since(&before), Duration::from_millis(30));
    }

    #[test]
    fn a_process_that_is_not_there_is_said() {
        let error = Process::find(u32::MAX).unwrap_err().to_string();
        assert!(error.starts_with("relay process: /proc/4294967295/stat: "), "{error}");
    }
}
