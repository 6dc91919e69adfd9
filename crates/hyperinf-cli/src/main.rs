//! The program `hyperinf`; see the library of the same package.

use std::process::ExitCode;

fn main() -> ExitCode {
    hyperinf_cli::run(std::env::args_os())
}
