//! What the QUIC endpoint is told.

use serde::{Deserialize, Serialize};

/// Transport parameters.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuicConfig {}

impl QuicConfig {
    /// What is wrong with the values.
    #[must_use]
    pub fn validate(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}
