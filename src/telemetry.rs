//! Log lines for operators, on standard error.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, reload};

use crate::config::types::{Log, LogFormat};
use crate::supervise::task;

/// What libraries say is of use to their authors. ractor also wraps each actor in a span that would stand in every line.
const QUIET: &str = "ractor=warn,quinn=warn,quinn_proto=warn,quinn_udp=warn,rustls=warn,hyper=warn,hyper_util=warn";

/// A panic is said whatever else is not: only who names this target is left without.
const PANICS: &str = "outrelay::telemetry=error";

/// Why log lines cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// `RUST_LOG` or `log.level` is not a list of directives.
    #[error("`{text}` in {place} is not a log filter")]
    Filter {
        /// What was given.
        text: String,
        /// Where it was given.
        place: &'static str,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Somebody else has set up logging in this process.
    #[error("logging is set up already")]
    SetUp(#[from] TryInitError),
    /// The subscriber is gone, so nothing is logged any more.
    #[error("nothing is logged any more")]
    Gone(#[from] reload::Error),
}

/// The filter of the log, which may be changed while the process runs.
pub struct LogFilter(Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>);

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogFilter")
    }
}

impl LogFilter {
    /// Goes on with the level of `log`; the variable `RUST_LOG` still wins.
    ///
    /// # Errors
    /// When the filter cannot be read; the old one stays.
    pub fn set(&self, log: &Log) -> Result<(), TelemetryError> {
        Ok((self.0)(filter(log, std::env::var("RUST_LOG").ok())?)?)
    }
}

/// Starts writing log lines as `log` and the variable `RUST_LOG` say; the variable wins. Once in a process. A panic is such a line, too,
/// which is there whatever the level.
///
/// # Errors
/// When the filter cannot be read, or logging is set up already.
pub fn init(log: &Log) -> Result<LogFilter, TelemetryError> {
    let filter = filter(log, std::env::var("RUST_LOG").ok())?;
    // A line that cannot be written is lost. To say that on standard error, too, is a panic where nobody reads that any more.
    let lines = tracing_subscriber::fmt().with_writer(io::stderr).log_internal_errors(false);
    // The two differ in type from here on.
    let set: Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync> = match log.format {
        LogFormat::Text => {
            let lines = lines.with_ansi(colours()).with_env_filter(filter).with_filter_reloading();
            let handle = lines.reload_handle();
            lines.finish().try_init()?;
            Box::new(move |filter| handle.reload(filter))
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_span_list(false);
            let lines = lines.with_env_filter(filter).with_filter_reloading();
            let handle = lines.reload_handle();
            lines.finish().try_init()?;
            Box::new(move |filter| handle.reload(filter))
        }
    };
    std::panic::set_hook(Box::new(say));
    Ok(LogFilter(set))
}

/// One line for a panic, whatever the format: by itself the standard library writes several, which are not of it. With the call stack if the
/// variable `RUST_BACKTRACE` asks for it. Nothing in here may panic, and nothing that writes the line: that would end the process.
fn say(panic: &PanicHookInfo<'_>) {
    let stack = Backtrace::capture();
    tracing::error!(
        panic = task::panic_text(panic.payload()),
        location = panic.location().map(ToString::to_string),
        thread = std::thread::current().name(),
        backtrace = (stack.status() == BacktraceStatus::Captured).then(|| stack.to_string()),
        "panicked"
    );
}

fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn filter(log: &Log, variable: Option<String>) -> Result<EnvFilter, TelemetryError> {
    let (text, place) = match variable.filter(|text| !text.trim().is_empty()) {
        Some(text) => (text, "RUST_LOG"),
        None => (log.level.clone(), "log.level"),
    };
    // A directive for the same target that comes later replaces the earlier one: what the operator asks for wins.
    let whole = EnvFilter::builder().parse(format!("{QUIET},{PANICS},{text}"));
    whole.map_err(|source| TelemetryError::Filter { text, place, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directives(level: &str, variable: Option<&str>) -> Vec<String> {
        let log = Log { level: level.into(), ..Log::default() };
        let filter = filter(&log, variable.map(str::to_owned)).unwrap();
        filter.to_string().split(',').map(str::to_owned).collect()
    }

    #[test]
    fn libraries_are_quiet_whatever_the_level() {
        let directives = directives("debug", None);
        assert!(directives.contains(&"debug".into()), "{directives:?}");
        assert!(directives.contains(&"ractor=warn".into()), "{directives:?}");
    }

    #[test]
    fn a_panic_is_heard_unless_its_own_target_is_turned_off() {
        assert!(directives("off", None).contains(&"outrelay::telemetry=error".into()));
        assert!(!directives("off,outrelay::telemetry=off", None).contains(&"outrelay::telemetry=error".into()));
    }

    #[test]
    fn a_library_that_is_asked_for_is_heard() {
        let directives = directives("info,ractor=debug", None);
        assert!(directives.contains(&"ractor=debug".into()), "{directives:?}");
        assert!(!directives.contains(&"ractor=warn".into()), "{directives:?}");
    }

    #[test]
    fn the_variable_wins_unless_it_is_empty() {
        assert!(directives("debug", Some("error")).contains(&"error".into()));
        assert!(directives("debug", Some("")).contains(&"debug".into()));
    }

    #[test]
    fn a_bad_filter_names_its_place() {
        let error = filter(&Log::default(), Some("outrelay=loud".into())).unwrap_err();
        assert_eq!(error.to_string(), "`outrelay=loud` in RUST_LOG is not a log filter");
    }
}
