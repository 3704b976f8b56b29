//! The limits of the configuration that refuse something, and under which name that is counted.

use std::fmt::{self, Write as _};

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

macro_rules! limits {
    ($($variant:ident = $key:literal;)*) => {
        /// A limit of which it is counted how often something was refused for its sake: one variant for each key.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the keys are documented in the configuration")]
        pub enum Limit {
            $($variant,)*
        }

        impl Limit {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its key below `limits`, or with the section in front of it if it is of another one.
            #[must_use]
            pub fn key(self) -> &'static str {
                match self {
                    $(Self::$variant => $key,)*
                }
            }
        }
    };
}

limits! {
    TlsHandshake = "tls_handshake";
    Hello = "hello";
    FirstFrame = "first_frame";
    ProviderAnswer = "provider_answer";
    Open = "open";
    Handler = "handler";
    RegistryCall = "registry_call";
    HalfOpenHandshakes = "half_open_handshakes";
    Connections = "connections";
    ConnectionsPerAgent = "connections_per_agent";
    StreamsPerAgent = "streams_per_agent";
    Streams = "streams";
    ParkedPerAgent = "parked_per_agent";
    ServicesPerAgent = "services_per_agent";
    FrameMaxBytes = "frame_max_bytes";
    ControlQueue = "control_queue";
    ConnectionWindowMax = "quic.connection_window_max_bytes";
}

impl EncodeLabelValue for Limit {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::relay::RelayConfig;

    /// Counted elsewhere: as an invalid connection, as a lost decision.
    const OTHERWISE: [&str; 2] = ["certificate_grace", "audit_queue"];

    #[test]
    fn every_limit_of_the_configuration_is_counted_under_its_key_and_nothing_else_is() {
        let config = toml::Table::try_from(RelayConfig::default()).unwrap();
        let section = |name: &str| config[name].as_table().unwrap();
        let counted: Vec<_> = Limit::ALL.iter().map(|limit| limit.key()).collect();
        for key in section("limits").keys() {
            assert_eq!(counted.contains(&key.as_str()), !OTHERWISE.contains(&key.as_str()), "{key}");
        }
        for key in counted {
            let (of, key) = key.split_once('.').unwrap_or(("limits", key));
            assert!(section(of).contains_key(key), "{of}.{key}");
        }
    }
}
