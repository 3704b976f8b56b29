//! The samples in `config/` and the small files in `tests/config/` say what they claim to.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::agent::{AgentConfig, Consume, Expose};
use super::relay::RelayConfig;
use super::{Problem, Problems};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn sample(name: &str) -> String {
    fs::read_to_string(root().join("config").join(name)).unwrap()
}

/// The sample with its defaults taken out of the comments: these have no space behind the `#`.
fn uncommented(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest.to_owned() + "\n",
        _ => line.to_owned() + "\n",
    };
    text.lines().map(line).collect()
}

/// Every key with its value, so that a key that is missing on either side shows, too.
fn keys_and_values(table: &toml::Table, prefix: &str) -> Vec<String> {
    let entries = table.iter().flat_map(|(key, value)| match value {
        toml::Value::Table(inner) => keys_and_values(inner, &format!("{prefix}{key}.")),
        value => vec![format!("{prefix}{key} = {value}")],
    });
    let mut lines: Vec<_> = entries.collect();
    lines.sort();
    lines
}

fn assert_shows_the_defaults<T: Serialize + Default>(text: &str) {
    let sample: toml::Table = uncommented(text).parse().unwrap();
    let defaults = toml::Table::try_from(T::default()).unwrap();
    assert_eq!(keys_and_values(&sample, ""), keys_and_values(&defaults, ""));
}

#[test]
fn the_relay_sample_shows_every_key_with_its_default() {
    assert_shows_the_defaults::<RelayConfig>(&sample("relay.toml"));
    assert_eq!(toml::from_str::<RelayConfig>(&uncommented(&sample("relay.toml"))).unwrap(), RelayConfig::default());
    assert_eq!(toml::from_str::<RelayConfig>(&sample("relay.toml")).unwrap(), RelayConfig::default());
}

#[test]
fn the_agent_sample_shows_every_key_with_its_default() {
    let text = sample("agent.toml");
    assert_shows_the_defaults::<AgentConfig>(&text);
    assert_eq!(toml::from_str::<AgentConfig>(&uncommented(&text)).unwrap(), AgentConfig::default());
    assert_eq!(toml::from_str::<AgentConfig>(&text).unwrap(), AgentConfig::default());
}

#[test]
fn the_agent_sample_shows_how_services_are_written() {
    let text = sample("agent.toml");
    let tables: String =
        text.lines().filter_map(|line| line.strip_prefix("#   ")).map(|line| line.to_owned() + "\n").collect();
    let config: AgentConfig = toml::from_str(&tables).unwrap();
    let (expose, consume) = (&config.expose[0], &config.consume[0]);
    let shown: toml::Table = tables.parse().unwrap();
    let keys = |list: &str| shown[list][0].as_table().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys("expose"), toml::Table::try_from::<&Expose>(expose).unwrap().keys().cloned().collect::<Vec<_>>());
    assert_eq!(
        keys("consume"),
        toml::Table::try_from::<&Consume>(consume).unwrap().keys().cloned().collect::<Vec<_>>()
    );
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(root().join("tests/config").join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// What the file's kind of reader says; the kind is the first word of the file's name.
fn read(path: &Path) -> Result<(), Problems> {
    let name = path.file_name().unwrap().to_str().unwrap();
    match name.split_once('-').unwrap().0 {
        "relay" => RelayConfig::load(Some(path), &[]).map(drop),
        "agent" => AgentConfig::load(Some(path), &[]).map(drop),
        kind => panic!("{name}: nobody reads {kind}"),
    }
}

#[test]
fn every_valid_file_is_read() {
    for path in files("valid") {
        if let Err(problems) = read(&path) {
            panic!("{problems}");
        }
    }
}

/// A line `#: TEXT` expects a problem that reads `TEXT…` behind the file's name; every problem must be expected.
#[test]
fn every_invalid_file_has_just_the_problems_that_it_says() {
    for path in files("invalid") {
        let text = fs::read_to_string(&path).unwrap();
        let mut expected: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("#: ")).collect();
        let Problems(problems) = read(&path).expect_err(&path.display().to_string());
        let prefix = format!("{}:", path.display());
        for found in problems.iter().map(Problem::to_string) {
            let found = found.strip_prefix(&prefix).unwrap_or(&found);
            match expected.iter().position(|text| found.starts_with(text)) {
                Some(at) => drop(expected.remove(at)),
                None => panic!("{}: not expected: {found}", path.display()),
            }
        }
        assert_eq!(expected, [""; 0], "{}: not found", path.display());
    }
}
