//! The tables of a rules file as they are written.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::core::identity::Tenant;
use crate::core::policy::{Effect, P2pMode, RelayMode};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Entries {
    pub(super) allow: Vec<AllowEntry>,
    pub(super) rule: Vec<RuleEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AllowEntry {
    pub(super) id: Option<String>,
    #[serde(deserialize_with = "parsed")]
    pub(super) tenant: Tenant,
    pub(super) from: String,
    pub(super) to: String,
    #[serde(default)]
    pub(super) method: String,
    #[serde(default)]
    pub(super) p2p: P2pMode,
    #[serde(default)]
    pub(super) relay: RelayMode,
    #[serde(default, deserialize_with = "unix_ms")]
    pub(super) expires: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleEntry {
    pub(super) id: String,
    #[serde(deserialize_with = "parsed")]
    pub(super) tenant: Tenant,
    pub(super) caller: String,
    pub(super) target: String,
    #[serde(default)]
    pub(super) method: String,
    pub(super) decision: Effect,
    #[serde(default)]
    pub(super) p2p: P2pMode,
    #[serde(default)]
    pub(super) relay: RelayMode,
    #[serde(default, deserialize_with = "unix_ms")]
    pub(super) expires: i64,
}

fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

/// A time as milliseconds since 1970: a TOML date-time or the same as a text, with its offset from UTC in either case, for a
/// rule must end at the same moment wherever it is read.
fn unix_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let text = match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => text,
        toml::Value::Datetime(at) => at.to_string(),
        other => return Err(de::Error::custom(format!("a time is expected, not a TOML {}", other.type_str()))),
    };
    let at = OffsetDateTime::parse(&text, &Rfc3339);
    let at =
        at.map_err(|_| de::Error::custom(format!("`{text}` is not a time like 2030-12-31T23:59:59Z (RFC 3339)")))?;
    let ms = i64::try_from(at.unix_timestamp_nanos() / 1_000_000).map_err(de::Error::custom)?;
    // 0 would be "never"; the first moment of 1970 is as long gone as the second.
    Ok(if ms == 0 { 1 } else { ms })
}
