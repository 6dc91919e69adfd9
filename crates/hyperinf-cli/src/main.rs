//! The program `hyperinf`; see the library of the same package.

use std::process::ExitCode;

// Batches of gradients are allocated and freed in a loop. glibc hands every block above 32 MiB back to the system,
// which then clears its pages anew: ten times slower than keeping it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hyperinf_cli::run(std::env::args_os())
}
