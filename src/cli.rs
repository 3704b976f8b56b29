//! The command line.

pub mod admin;
pub mod agent;
pub mod demo;
pub mod pki;
pub mod policy;
pub mod relay;

/// Runs the program.
#[must_use]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
