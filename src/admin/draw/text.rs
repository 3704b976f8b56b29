//! Cells, tables and readable numbers.

use std::io::{self, IsTerminal};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Whether colours may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Text alone.
    Plain,
    /// With the colours of a terminal.
    Coloured,
}

impl Style {
    /// Colours where standard output is a terminal and `NO_COLOR` is not set.
    #[must_use]
    pub fn of_stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if io::stdout().is_terminal() && !unwanted { Self::Coloured } else { Self::Plain }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    None,
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Red => "31",
        }
    }
}

pub(super) struct Cell {
    text: String,
    colour: Colour,
}

impl Cell {
    pub(super) fn new(text: impl Into<String>, colour: Colour) -> Self {
        Self { text: text.into(), colour }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Colour::None)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Columns as wide as their widest cell, two spaces between them, nothing behind the last.
pub(super) fn table(columns: &[(&str, Align)], rows: Vec<Vec<Cell>>, style: Style) -> String {
    let header = columns.iter().map(|(title, _)| Cell::new(*title, Colour::Dim)).collect();
    let rows: Vec<Vec<Cell>> = std::iter::once(header).chain(rows).collect();
    let width_of = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.text.chars().count()).max();
    let widths: Vec<usize> = (0..columns.len()).map(|at| width_of(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(columns) {
            let pad = " ".repeat(width - cell.text.chars().count());
            let cell = coloured(cell, style);
            line += &match align {
                Align::Left => format!("{cell}{pad}  "),
                Align::Right => format!("{pad}{cell}  "),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

pub(super) fn coloured(cell: &Cell, style: Style) -> String {
    if style == Style::Plain || cell.colour == Colour::None {
        return cell.text.clone();
    }
    format!("\x1b[{}m{}\x1b[0m", cell.colour.code(), cell.text)
}

/// Escapes what a terminal would obey.
#[must_use]
pub fn shown(text: &str) -> String {
    let one = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(one).collect()
}

pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { shown(text) }
}

/// Two units at most: a tree is read at a glance.
pub(super) fn duration(ms: u64) -> String {
    let (seconds, minutes, hours, days) = (ms / 1_000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    match () {
        () if ms < 1_000 => format!("{ms}ms"),
        () if seconds < 60 => format!("{seconds}s"),
        () if minutes < 60 => format!("{minutes}m {}s", seconds % 60),
        () if hours < 24 => format!("{hours}h {}m", minutes % 60),
        () => format!("{days}d {}h", hours % 24),
    }
}

pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1 << 10 {
        return format!("{bytes} B");
    }
    let step = usize::try_from(bytes.ilog2() / 10).unwrap_or(usize::MAX).min(UNITS.len());
    let tenths = (u128::from(bytes) * 10) >> (10 * step);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[step - 1])
}

/// RFC 3339, in UTC.
pub(super) fn instant(unix_ms: u64) -> String {
    let at = Duration::from_millis(unix_ms);
    let at = OffsetDateTime::UNIX_EPOCH.checked_add(at.try_into().unwrap_or_default());
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{unix_ms} ms since 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_short() {
        assert_eq!(
            [0, 999, 59_999, 61_000, 3_660_000, 90_000_000].map(duration),
            ["0ms", "999ms", "59s", "1m 1s", "1h 1m", "1d 1h"]
        );
        assert_eq!(
            [0, 1023, 1024, 1536, 10 << 20, u64::MAX].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "10.0 MiB", "16383.9 PiB"]
        );
        assert_eq!(instant(1_700_000_000_500), "2023-11-14T22:13:20.5Z");
        assert_eq!(instant(u64::MAX), format!("{} ms since 1970", u64::MAX));
    }

    #[test]
    fn columns_line_up_whatever_the_colours() {
        let rows = || vec![vec![Cell::new("é", Colour::Red), "1".into()], vec!["long".into(), "22".into()]];
        let columns = [("A", Align::Left), ("N", Align::Right)];
        assert_eq!(table(&columns, rows(), Style::Plain), "A      N\né      1\nlong  22\n");
        let coloured = table(&columns, rows(), Style::Coloured);
        assert!(coloured.contains("\u{1b}[31mé\u{1b}[0m      1"), "{coloured:?}");
    }

    #[test]
    fn a_terminal_is_not_commanded() {
        assert_eq!(shown("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
    }
}
