//! Configuration of relay and agent: a TOML file, flags laid over it, and one answer, the configuration or *every* problem.
//!
//! An operator who fixes one mistake per start loses an afternoon; so nothing here stops at the first. Each problem names
//! where it was written: a file with its line, or a flag.

pub mod agent;
pub mod document;
pub mod layers;
pub mod quic;
pub mod relay;
pub mod reload;
pub mod types;

#[cfg(test)]
mod samples;

use std::fmt;

/// One thing that is wrong, and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `relay.toml:12` or a flag such as `--cert`.
    pub source: String,
    /// What is wrong there, in one line.
    pub what: String,
}

impl Problem {
    /// A problem at `source`.
    #[must_use]
    pub fn new(source: impl Into<String>, what: impl Into<String>) -> Self {
        Self { source: source.into(), what: what.into() }
    }

    /// A problem at the 1-based `line` of `file`.
    #[must_use]
    pub fn at_line(file: &str, line: usize, what: impl Into<String>) -> Self {
        Self::new(format!("{file}:{line}"), what)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.what)
    }
}

/// Everything that is wrong, one line each. Never empty when it is an `Err`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// A value that parses but makes no sense, found by `validate()`. It knows keys; [`layers`] knows where those were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The dotted keys that are at odds, most telling first; list elements as `expose[1].name`.
    pub keys: Vec<String>,
    /// The flag to name when none of the keys was written anywhere: something required is missing.
    pub flag: Option<&'static str>,
    /// What is wrong, without the key.
    pub what: String,
}

impl Invalid {
    /// `key` has a value that cannot be.
    #[must_use]
    pub fn at(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { keys: vec![key.into()], flag: None, what: what.into() }
    }

    /// The file at `key` cannot be used, because of `error`, with all that is behind it.
    #[must_use]
    pub fn of_file(key: &str, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::at(key, format!("{:#}", anyhow::Error::new(error)))
    }

    /// `key` and `other` contradict each other.
    #[must_use]
    pub fn between(key: impl Into<String>, other: impl Into<String>, what: impl Into<String>) -> Self {
        Self { keys: vec![key.into(), other.into()], flag: None, what: what.into() }
    }

    /// `key` has no value, but one is required; `flag` (like `--cert FILE`) would give it.
    #[must_use]
    pub fn missing(key: &str, flag: &'static str) -> Self {
        let what = format!("missing: give {flag}, or `{key}` in the config file");
        Self { keys: vec![key.to_owned()], flag: flag.split(' ').next(), what }
    }
}
