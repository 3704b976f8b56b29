//! Decisions of the audit as a table.

use super::text::Align::{Left, Right};
use super::text::{Cell, Colour, Style, instant, or_dash, shown, table};
use crate::core::policy::Effect;
use crate::directory::audit_log::record::Numbered;

/// `decisions`, a line each, in their order.
#[must_use]
pub fn decisions<'a>(decisions: impl IntoIterator<Item = &'a Numbered>, style: Style) -> String {
    let columns = [
        ("TIME", Left),
        ("SEQ", Right),
        ("TENANT", Left),
        ("SIDE", Left),
        ("DECISION", Left),
        ("CALLER", Left),
        ("TARGET", Left),
        ("METHOD", Left),
        ("STREAM", Right),
        ("RULE", Left),
        ("REASON", Left),
    ];
    table(&columns, decisions.into_iter().map(row).collect(), style)
}

fn row(Numbered { seq, event, .. }: &Numbered) -> Vec<Cell> {
    let colour = match event.decision {
        Effect::Allow => Colour::Green,
        Effect::Deny => Colour::Red,
    };
    vec![
        instant(u64::try_from(event.ts_unix_ms).unwrap_or(0)).into(),
        seq.to_string().into(),
        shown(&event.tenant).into(),
        event.side.name().into(),
        Cell::new(event.decision.name(), colour),
        shown(&event.caller).into(),
        shown(&event.target).into(),
        or_dash(&event.method).into(),
        or_dash(&event.stream_id.map(|id| id.to_string()).unwrap_or_default()).into(),
        or_dash(event.rule.as_deref().unwrap_or_default()).into(),
        or_dash(&event.reason).into(),
    ]
}
