//! What is measured: one table of figures, percentiles, medians.

use std::time::Duration;

macro_rules! figures {
    ($($(#[$doc:meta])* $figure:ident = $key:literal, $label:literal, $unit:literal;)*) => {
        /// One figure of a run. Its key is the field of `--json` (cli.md).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Figure {
            $($(#[$doc])* $figure,)*
        }

        impl Figure {
            /// All of them, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$figure),*];

            /// The field's name.
            #[must_use]
            pub fn key(self) -> &'static str {
                match self { $(Self::$figure => $key,)* }
            }

            /// What it is, for people.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $(Self::$figure => $label,)* }
            }

            /// Its unit; MB and GB are 10⁶ and 10⁹ bytes, KiB are 2¹⁰.
            #[must_use]
            pub fn unit(self) -> &'static str {
                match self { $(Self::$figure => $unit,)* }
            }
        }
    };
}

figures! {
    /// Payload that arrived per second; each byte counts once, in whichever direction it went.
    MbPerS = "mb_per_s", "payload", "MB/s";
    /// CPU time of the relay per payload.
    CpuSPerGb = "cpu_s_per_gb", "relay CPU per payload", "s/GB";
    /// CPU time of the benchmark itself per payload: it sends and receives as much as the relay does. On a machine that is shared, the two rise and
    /// fall together, and their ratio says more than either.
    OwnCpuSPerGb = "own_cpu_s_per_gb", "this program's, for comparison", "s/GB";
    /// Round trips per second.
    RoundsPerS = "rounds_per_s", "round trips", "1/s";
    /// Streams opened per second.
    OpensPerS = "opens_per_s", "streams opened", "1/s";
    /// Agents connected per second.
    ConnectsPerS = "connects_per_s", "agents connected", "1/s";
    /// Half took no longer.
    P50Us = "p50_us", "time, p50", "µs";
    /// 99 of 100 took no longer.
    P99Us = "p99_us", "time, p99", "µs";
    /// CPU time of the relay per round trip.
    CpuUsPerRound = "cpu_us_per_round", "relay CPU per round trip", "µs";
    /// CPU time of the relay per stream opened and ended.
    CpuMsPerOpen = "cpu_ms_per_open", "relay CPU per stream", "ms";
    /// CPU time of the relay per agent that came and went.
    CpuMsPerConnect = "cpu_ms_per_connect", "relay CPU per agent", "ms";
    /// Memory of the relay per idle unit: the streams if any were asked for, else the connections.
    RssKibPerUnit = "rss_kib_per_unit", "relay memory per unit", "KiB";
    /// Memory of the relay per idle connection, when streams are the unit.
    RssKibPerConnection = "rss_kib_per_connection", "relay memory per connection", "KiB";
    /// CPU time of the relay per time, while all is idle.
    IdleCores = "idle_cores", "relay CPU while idle", "cores";
    /// The same per idle connection.
    IdleCpuUsPerConnectionS = "idle_cpu_us_per_connection_s", "relay CPU per idle connection", "µs/s";
    /// How often a thread of the relay went to sleep (voluntary context switches).
    SleepsPerS = "voluntary_switches_per_s", "relay's voluntary switches", "1/s";
    /// CPU time of the relay per time, under load.
    RelayCores = "relay_cores", "relay CPU", "cores";
}

/// The figures of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(Vec<(Figure, f64)>);

impl Figures {
    /// Adds a figure; one that is no number (nothing happened) is left out.
    pub fn set(&mut self, figure: Figure, value: f64) {
        if value.is_finite() {
            self.0.push((figure, value));
        }
    }

    /// Adds the 50th and 99th percentile of `times`.
    pub fn set_times(&mut self, times: &Times) {
        for (figure, hundredths) in [(Figure::P50Us, 50), (Figure::P99Us, 99)] {
            if let Some(time) = times.percentile(hundredths) {
                self.set(figure, time.as_secs_f64() * 1e6);
            }
        }
    }

    /// The figure's value, if it was measured.
    #[must_use]
    pub fn get(&self, figure: Figure) -> Option<f64> {
        self.0.iter().find(|(have, _)| *have == figure).map(|(_, value)| *value)
    }

    /// What was measured, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (Figure, f64)> {
        Figure::ALL.iter().filter_map(|figure| self.get(*figure).map(|value| (*figure, value)))
    }

    /// The median of every figure that any of `runs` has.
    #[must_use]
    pub fn medians<'a>(runs: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let mut medians = Self::default();
        for figure in Figure::ALL {
            if let Some(value) = median(runs.clone().filter_map(|run| run.get(*figure)).collect()) {
                medians.set(*figure, value);
            }
        }
        medians
    }
}

/// The middle one; of an even number the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    values.get(values.len() / 2 - 1).map(|lower| f64::midpoint(*lower, upper))
}

/// How long things took, sorted.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// From durations in any order.
    #[must_use]
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// The time that so many of a hundred did not exceed; none of nothing.
    #[must_use]
    pub fn percentile(&self, hundredths: usize) -> Option<Duration> {
        let rank = (self.0.len() * hundredths).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let times = Times::new((1..=200).rev().map(Duration::from_micros).collect());
        assert_eq!(times.percentile(50), Some(Duration::from_micros(100)));
        assert_eq!(times.percentile(99), Some(Duration::from_micros(198)));
        assert_eq!(Times::new(vec![Duration::from_secs(1)]).percentile(99), Some(Duration::from_secs(1)));
        assert_eq!(Times::default().percentile(50), None);
    }

    #[test]
    fn a_median_is_taken_over_the_runs_that_have_the_figure() {
        let run = |value: f64| {
            let mut figures = Figures::default();
            figures.set(Figure::MbPerS, value);
            figures
        };
        let runs = [run(9.0), run(1.0), Figures::default(), run(2.0)];
        assert_eq!(Figures::medians(runs.iter()).get(Figure::MbPerS), Some(2.0));
        assert_eq!(Figures::medians(runs[..2].iter()).get(Figure::MbPerS), Some(5.0));
        assert_eq!(Figures::medians(runs[..2].iter()).get(Figure::P50Us), None);
    }

    #[test]
    fn what_is_no_number_is_no_figure() {
        let mut figures = Figures::default();
        figures.set(Figure::CpuSPerGb, f64::INFINITY);
        figures.set(Figure::MbPerS, f64::NAN);
        assert_eq!(figures, Figures::default());
    }
}
