//! The supervisor of local listeners, one for each service that is consumed: pure, no logic.

pub mod listener;
