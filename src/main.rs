//! The `outrelay` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    outrelay::cli::main()
}
