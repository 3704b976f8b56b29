//! Conversions, and the model of two agents and a relay.
