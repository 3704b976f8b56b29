//! Flags laid over a file, and the memory of which key was written where.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::document::{Document, dotted, is_within};
use super::{Invalid, Problem, Problems};

/// One value from the command line that wins over the file's.
#[derive(Debug, Clone, PartialEq)]
pub struct Overlay {
    source: String,
    key: String,
    /// What the value may be, most likely first: a text like `7` may be a number or a name.
    readings: Vec<toml::Value>,
}

impl Overlay {
    /// `--set KEY=VALUE` with any dotted key; the value is TOML where it can be read so, else a string.
    #[must_use]
    pub fn set(assignment: &str) -> Self {
        let (key, value) = match assignment.split_once('=') {
            Some((key, value)) => (key.trim(), Some(value.trim())),
            None => (assignment.trim(), None),
        };
        let typed = value.and_then(|value| value.parse().ok());
        let text = value.map(|value| toml::Value::String(value.to_owned()));
        Self { source: format!("--set {key}"), key: key.to_owned(), readings: typed.into_iter().chain(text).collect() }
    }

    /// The value that `flag` (like `--listen`) gives for `key`.
    #[must_use]
    pub fn flag(flag: &str, key: &str, value: impl Into<toml::Value>) -> Self {
        Self { source: flag.to_owned(), key: key.to_owned(), readings: vec![value.into()] }
    }

    /// As [`Self::flag`], of a flag that may not be given; for texts and what displays as its config text.
    pub fn optional(flag: &str, key: &str, value: Option<&impl ToString>) -> Option<Self> {
        value.map(|value| Self::flag(flag, key, value.to_string()))
    }

    /// The overlay as a table of its own.
    fn table(&self, value: &toml::Value) -> toml::Table {
        let mut keys = self.key.rsplit('.');
        let innermost = keys.next().unwrap_or_default();
        let mut table = toml::Table::from_iter([(innermost.to_owned(), value.clone())]);
        for key in keys {
            table = toml::Table::from_iter([(key.to_owned(), toml::Value::Table(table))]);
        }
        table
    }

    /// The first reading that `T` can take, as a table of its own.
    fn read<T: DeserializeOwned>(&self) -> Result<toml::Table, Problem> {
        let problem = |what: String| Problem::new(self.source.clone(), what);
        if self.key.is_empty() || self.key.split('.').any(str::is_empty) {
            return Err(problem(format!("`{}` is not a key", self.key)));
        }
        let mut first_error = None;
        for value in &self.readings {
            let table = self.table(value);
            match table.clone().try_into::<T>() {
                Ok(_) => return Ok(table),
                Err(error) => first_error = first_error.or(Some(error.message().trim_end().replace('\n', " "))),
            }
        }
        Err(problem(match first_error {
            Some(error) => format!("`{}`: {error}", self.key),
            None => "no value: write KEY=VALUE".to_owned(),
        }))
    }
}

/// A kind of configuration.
pub(crate) trait Layered: DeserializeOwned + Default {
    /// The keys that name files. What a configuration file says there is looked for beside that file.
    const FILES: &[&str];

    /// What is wrong with the values as they stand.
    fn validate(&self) -> Vec<Invalid>;
}

/// The configuration that `file` and `overlays` give together, checked; and where each of its keys was written.
///
/// # Errors
/// Every problem of all of them.
pub(crate) fn load<T: Layered>(file: Option<&Path>, overlays: &[Overlay]) -> Result<(T, Origins), Problems> {
    let Some(file) = file else {
        return over("", None, "", overlays);
    };
    let name = file.display().to_string();
    let text =
        std::fs::read_to_string(file).map_err(|error| Problem::new(&name, format!("cannot be read: {error}")))?;
    over(&name, file.parent(), &text, overlays)
}

/// As [`load`], of the `text` of a file in `folder` that problems call `name`.
pub(crate) fn over<T: Layered>(
    name: &str,
    folder: Option<&Path>,
    text: &str,
    overlays: &[Overlay],
) -> Result<(T, Origins), Problems> {
    let mut document = Document::parse(name, text).map_err(Problems)?;
    let (_, mut problems) = document.read::<T>();
    let mut origins = Origins { by_key: BTreeMap::new(), unknown: document.cut().to_vec() };
    for (key, line) in document.lines() {
        origins.by_key.insert(key, format!("{name}:{line}"));
    }
    let mut merged = document.into_table();
    let mut lost: BTreeSet<&str> = match folder {
        Some(folder) => T::FILES.iter().copied().filter(|key| !resolve(&mut merged, key, folder)).collect(),
        None => BTreeSet::new(),
    };
    let mut given = BTreeMap::new();
    for overlay in overlays {
        match overlay.read::<T>() {
            Ok(table) => {
                for key in leaves(&table, "") {
                    origins.replace(&key, &overlay.source);
                    lost.remove(key.as_str());
                    problems.extend(given_twice(&mut given, key, &overlay.source));
                }
                merge(&mut merged, table);
            }
            Err(problem) => {
                problems.push(problem);
                origins.unknown.push(overlay.key.clone());
            }
        }
    }
    let in_no_text =
        |key: &str| Invalid::at(key, "a relative path, but its folder's name is no text: write the whole path");
    problems.extend(lost.into_iter().filter_map(|key| origins.locate(&in_no_text(key))));
    let value = merged.try_into::<T>();
    let value = value.map_err(|error| problems.push(Problem::new(name, error.message()))).unwrap_or_default();
    problems.extend(origins.locate_all(&value.validate()));
    if problems.is_empty() { Ok((value, origins)) } else { Err(Problems(problems)) }
}

/// Makes the path at `key`, if there is a relative one, one below `folder`. An empty text is no path. False where that cannot be
/// written, since the folder's name is no text: where the path stands it would be looked for elsewhere.
fn resolve(table: &mut toml::Table, key: &str, folder: &Path) -> bool {
    if let Some((section, rest)) = key.split_once('.') {
        return match table.get_mut(section) {
            Some(toml::Value::Table(section)) => resolve(section, rest, folder),
            _ => true,
        };
    }
    if let Some(toml::Value::String(path)) = table.get_mut(key)
        && !path.is_empty()
    {
        let Some(resolved) = folder.join(&path).to_str().map(str::to_owned) else { return false };
        *path = resolved;
    }
    true
}

/// The keys of `table`, below `prefix`, that have values of their own: a section is none.
fn leaves(table: &toml::Table, prefix: &str) -> Vec<String> {
    let of = |(key, value): (&String, &toml::Value)| {
        let key = dotted(prefix, key);
        match value {
            toml::Value::Table(section) => leaves(section, &key),
            _ => vec![key],
        }
    };
    table.iter().flat_map(of).collect()
}

/// Notes that `source` gives a value for `key`. Of two values for one key one would be lost without a word.
fn given_twice(given: &mut BTreeMap<String, String>, key: String, source: &str) -> Option<Problem> {
    let earlier = given.get(&key).cloned();
    let problem = earlier.map(|earlier| Problem::new(source, format!("`{key}` is given twice, also by {earlier}")));
    given.entry(key).or_insert_with(|| source.to_owned());
    problem
}

fn merge(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => merge(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// Where each key of a configuration was written: a line of the file, or a flag.
#[derive(Debug)]
pub struct Origins {
    by_key: BTreeMap<String, String>,
    /// Keys whose value could not be read: that is reported already, and what stands in for them is not the user's doing.
    unknown: Vec<String>,
}

impl Origins {
    fn replace(&mut self, key: &str, source: &str) {
        self.by_key.retain(|known, _| !is_within(known, key));
        self.unknown.retain(|known| !is_within(known, key));
        self.by_key.insert(key.to_owned(), source.to_owned());
    }

    /// The problems that `found` are, each with its place.
    #[must_use]
    pub fn locate_all(&self, found: &[Invalid]) -> Vec<Problem> {
        found.iter().filter_map(|invalid| self.locate(invalid)).collect()
    }

    /// The problem that `invalid` is, or None where it only follows from one that is reported already.
    #[must_use]
    pub fn locate(&self, invalid: &Invalid) -> Option<Problem> {
        let follows = |key: &String| self.unknown.iter().any(|unknown| is_within(key, unknown));
        if invalid.keys.iter().any(follows) {
            return None;
        }
        let written = invalid.keys.iter().find_map(|key| self.source(key));
        let key = invalid.keys.first().map(String::as_str).unwrap_or_default();
        let source = written.or(invalid.flag).or_else(|| self.section(key)).unwrap_or("the defaults");
        let what = if invalid.what.contains(&format!("`{key}`")) {
            invalid.what.clone()
        } else {
            format!("`{key}`: {}", invalid.what)
        };
        Some(Problem::new(source, what))
    }

    /// Where something else of the section of `key` was written: it is at odds with what `key` is by default.
    fn section(&self, key: &str) -> Option<&str> {
        let (section, _) = key.rsplit_once('.')?;
        self.by_key.iter().find(|(known, _)| is_within(known, section)).map(|(_, source)| source.as_str())
    }

    /// Where `key`, or else what it is part of, was written. A whole section says nothing about a key that is not in it.
    fn source(&self, key: &str) -> Option<&str> {
        let exact = self.by_key.get(key);
        let of_list = || key.rfind('[').and_then(|at| self.by_key.get(&key[..at]));
        exact.or_else(of_list).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;
    use std::time::Duration;

    use super::super::agent::AgentConfig;
    use super::super::relay::RelayConfig;
    use super::*;

    const GOOD: &str = "id = \"r1\"\nregion = \"acme\"\ntls = { cert = \"c\", key = \"k\", ca = \"a\" }\n";

    fn relay(text: &str, overlays: &[Overlay]) -> Result<RelayConfig, Vec<String>> {
        over("relay.toml", None, text, overlays)
            .map(|(config, _)| config)
            .map_err(|problems| problems.0.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn what_the_file_says_is_read() {
        let config = relay(&format!("{GOOD}[limits]\nopen = \"12s\"\n"), &[]).unwrap();
        assert_eq!(config.id, "r1");
        assert_eq!(config.limits.open, Duration::from_secs(12));
        assert_eq!(config.limits.connections, 20_000);
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let overlays = [
            Overlay::set("limits.open = 13s"),
            Overlay::set("limits.connections=7"),
            Overlay::flag("--listen", "listen", "127.0.0.1:0"),
        ];
        let config = relay(&format!("{GOOD}[limits]\nopen = \"11s\"\n"), &overlays).unwrap();
        assert_eq!(config.limits.open, Duration::from_secs(13));
        assert_eq!(config.limits.connections, 7);
        assert_eq!(config.listen.to_string(), "127.0.0.1:0");
    }

    #[test]
    fn what_one_flag_leaves_out_of_a_section_another_may_give() {
        let set = |assignments: &[&str]| -> Vec<_> { assignments.iter().map(|text| Overlay::set(text)).collect() };
        for flags in [["limits={open=\"20s\"}", "limits.streams=7"], ["limits.streams=7", "limits={open=\"20s\"}"]] {
            let config = relay(&format!("{GOOD}[limits]\nconnections = 9\n"), &set(&flags)).unwrap();
            let limits = &config.limits;
            assert_eq!((limits.open, limits.streams, limits.connections), (Duration::from_secs(20), 7, 9), "{flags:?}");
        }
        let text = format!("{GOOD}[limits]\nconnections = 0\n");
        let problems = relay(&text, &set(&["limits={open=\"5s\"}"])).unwrap_err();
        for start in ["relay.toml:5: `limits.connections`", "--set limits: one provider may take 10s"] {
            assert!(problems.iter().any(|problem| problem.starts_with(start)), "{problems:#?}");
        }
        let problems = relay(GOOD, &set(&["limits={open=\"20s\",streams=7}", "limits.streams=8"])).unwrap_err();
        assert_eq!(problems, ["--set limits.streams: `limits.streams` is given twice, also by --set limits"]);
    }

    #[test]
    fn a_relative_path_in_a_folder_whose_name_is_no_text_is_refused_unless_a_flag_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("relay.toml");
        std::fs::write(&file, GOOD.replace("\"c\"", "\"/c\"")).unwrap();
        let load = |flags: &[Overlay]| load::<RelayConfig>(Some(&file), flags);
        let problems = load(&[Overlay::flag("--key", "tls.key", "k")]).unwrap_err();
        let [problem] = &problems.0[..] else { panic!("{problems}") };
        assert!(problem.source.ends_with("relay.toml:3"), "{problem}");
        assert!(problem.what.starts_with("`tls.ca`: ") && problem.what.contains("whole path"), "{problem}");
        let flags =
            [("--key", "tls.key", "k"), ("--ca", "tls.ca", "a")].map(|(flag, key, to)| Overlay::flag(flag, key, to));
        let (config, _) = load(&flags).unwrap();
        assert_eq!((config.tls.cert, config.tls.key), ("/c".into(), "k".into()));
    }

    #[test]
    fn a_set_value_that_looks_like_a_number_can_be_a_name() {
        let config = relay(GOOD, &[Overlay::set("id=7")]).unwrap();
        assert_eq!(config.id, "7");
    }

    #[test]
    fn a_files_paths_are_beside_it_and_a_flags_are_not() {
        let text =
            format!("{GOOD}[directory]\nrules = \"../rules.toml\"\naudit = \"/var/audit\"\n[admin]\nsocket = \"\"\n");
        let flags = [Overlay::flag("--key", "tls.key", "k"), Overlay::set("ready_file=ready")];
        let (config, _) = over::<RelayConfig>("etc/relay.toml", Some(Path::new("etc")), &text, &flags).unwrap();
        let path = |text: &str| Some(std::path::PathBuf::from(text));
        assert_eq!((config.tls.cert, config.tls.key), ("etc/c".into(), "k".into()));
        assert_eq!((config.directory.rules, config.directory.audit), (path("etc/../rules.toml"), path("/var/audit")));
        assert_eq!((config.admin.socket, config.ready_file), (None, path("ready")));
    }

    #[test]
    fn every_key_of_a_file_is_looked_for_beside_the_configuration() {
        fn paths(table: &toml::Table, prefix: &str) -> Vec<String> {
            let one = |(key, value): (&String, &toml::Value)| match value {
                toml::Value::Table(inner) => paths(inner, &format!("{prefix}{key}.")),
                toml::Value::String(text) if text.starts_with("/is/a/file") => vec![format!("{prefix}{key}")],
                _ => Vec::new(),
            };
            table.iter().flat_map(one).collect()
        }
        let file = || std::path::PathBuf::from("/is/a/file");
        let mut config = RelayConfig { ready_file: Some(file()), ..RelayConfig::default() };
        config.tls = super::super::types::Tls { cert: file(), key: file(), ca: file() };
        (config.directory.rules, config.directory.audit) = (Some(file()), Some(file()));
        (config.admin.socket, config.resume.fleet_key) = (Some(file()), Some(file()));
        let mut listed = RelayConfig::FILES.to_vec();
        listed.sort_unstable();
        assert_eq!(paths(&toml::Table::try_from(config).unwrap(), ""), listed);
    }

    #[test]
    fn an_empty_set_value_takes_away_what_the_file_gives() {
        let config = relay(&format!("{GOOD}[admin]\nsocket = \"/run/x\"\n"), &[Overlay::set("admin.socket=")]).unwrap();
        assert_eq!(config.admin.socket, None);
    }

    #[test]
    fn what_is_required_is_named_by_flag_and_by_key() {
        let problems = relay("", &[]).unwrap_err();
        for (flag, key) in
            [("--id", "id"), ("--region", "region"), ("--cert", "tls.cert"), ("--key", "tls.key"), ("--ca", "tls.ca")]
        {
            let found = problems.iter().find(|problem| problem.starts_with(&format!("{flag}: ")));
            assert!(found.is_some_and(|problem| problem.contains(&format!("`{key}`"))), "{flag} {problems:#?}");
        }
        assert_eq!(problems.len(), 5, "{problems:#?}");
    }

    #[test]
    fn problems_of_the_file_of_flags_and_of_the_whole_come_together() {
        let text = format!("{GOOD}advertise = \"relay:0\"\n[limits]\nopne = \"3s\"\nhello = 5\nconnections = 0\n");
        let overlays = [
            Overlay::set("limits.open=5s"),
            Overlay::set("log.colour=red"),
            Overlay::set("quic"),
            Overlay::set("a..b=1"),
        ];
        let problems = relay(&text, &overlays).unwrap_err();
        for start in [
            "relay.toml:4: `advertise`: port 0",
            "relay.toml:6: in `limits`: unknown field `opne`",
            "relay.toml:7: `limits.hello`: invalid type",
            "relay.toml:8: `limits.connections`: 0 is not within",
            "--set limits.open: one provider may take 10s of a whole open's 5s",
            "--set log.colour: `log.colour`: unknown field `colour`",
            "--set quic: no value",
            "--set a..b: `a..b` is not a key",
        ] {
            assert!(problems.iter().any(|problem| problem.starts_with(start)), "{start} is not among {problems:#?}");
        }
        assert_eq!(problems.len(), 8, "{problems:#?}");
    }

    #[test]
    fn a_value_that_could_not_be_read_is_not_reported_as_missing_too() {
        let text = "id = \"r1\"\nregion = \"acme\"\ntls = { cert = 5, key = \"k\", ca = \"a\" }\n";
        let problems = relay(text, &[]).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(problems[0].starts_with("relay.toml:3: `tls.cert`: invalid type"), "{problems:#?}");
    }

    #[test]
    fn a_default_that_a_written_value_contradicts_is_located_by_its_section() {
        let problems = relay(GOOD, &[Overlay::set("quic.connection_window_bytes=65536")]).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:#?}");
        assert!(
            problems[0].starts_with("--set quic.connection_window_bytes: `quic.stream_window_bytes`: "),
            "{problems:#?}"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let problems = RelayConfig::load(Some(Path::new("/nonexistent/relay.toml")), &[]).unwrap_err();
        assert!(problems.to_string().starts_with("/nonexistent/relay.toml: cannot be read: "), "{problems}");
    }

    #[test]
    fn list_elements_are_located_by_line_or_by_the_flag_that_replaced_the_list() {
        let text = "relays = [\"r:1\"]\ntls = { cert = \"c\", key = \"k\", ca = \"a\" }\n[[expose]]\nname = \"web\"\nto = \"a:1\"\n[[expose]]\nname = \"web\"\nto = \"a:2\"\n";
        let problems = over::<AgentConfig>("agent.toml", None, text, &[]).unwrap_err();
        assert_eq!(problems.to_string(), "agent.toml:7: `expose[1].name`: the service `web` is exposed twice");
        let exposed =
            toml::Value::try_from(["x=a:1", "x=a:1"].map(|text| text.parse::<super::super::agent::Expose>().unwrap()))
                .unwrap();
        let problems =
            over::<AgentConfig>("agent.toml", None, text, &[Overlay::flag("--expose", "expose", exposed)]).unwrap_err();
        assert_eq!(problems.to_string(), "--expose: `expose[1].name`: the service `x` is exposed twice");
    }
}
