//! `cargo xtask experiments`: builds and runs the program that repeats the published experiments.

use crate::assets;
use crate::run::{cargo, program, root, status};

/// The experiments that need models or data of `cargo xtask assets`.
const WITH_ASSETS: [&str; 3] = ["checks", "detection", "influential"];

/// Runs `crates/hyperinf-cli/examples/experiments` with these arguments.
pub fn run(args: &[&str]) -> Result<(), String> {
    // Built with the whole workspace's selection, so that Burn is not compiled again with other features.
    status(&mut cargo(&["build", "--release", "--workspace", "--example", "experiments"]))?;
    let mut command = program(root().join("target/release/examples/experiments"));
    command.args(args);
    if args.first().is_some_and(|name| WITH_ASSETS.contains(name)) && !args.contains(&"--assets") {
        command.arg("--assets").arg(assets::folder()?);
    }
    status(&mut command)
}
