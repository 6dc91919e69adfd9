//! `cargo xtask ci`: what a change must pass, cheapest first.
//!
//! Every step uses the release profile, the only profile in use: the checks share their metadata of Burn with each
//! other, and the tests share Burn's compiled code with the program and the benchmarks.

use std::process::Command;

use crate::run::{Failure, cargo, root, status};
use crate::steps::Steps;
use crate::{licences, matrix, package};

const STEPS: [&str; 7] = ["fmt", "licences", "package", "clippy", "doc", "test", "matrix"];

/// Every test of the workspace, each once: a case that depends on the device runs on all of them in the same process.
pub fn test_command(args: &[&str]) -> Command {
    let mut command = cargo(&["test", "--release", "--workspace"]);
    command.args(args);
    command
}

/// The benchmarks; selected from the whole workspace, so that Burn is compiled with the tests' features.
pub fn bench_command(filters: &[&str]) -> Command {
    let mut command = cargo(&["bench", "--workspace", "--bench", "*", "--"]);
    command.args(filters).env("CRITERION_HOME", root().join("target/criterion"));
    // As the program sets it for itself.
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        command.env("MIMALLOC_PURGE_DELAY", "10000");
    }
    command
}

/// The steps named by `--skip`.
pub fn skipped_steps(args: &[&str]) -> Result<Vec<&'static str>, Failure> {
    let pairs = args.chunks(2).map(|pair| match pair {
        ["--skip", name] => STEPS.into_iter().find(|step| step == name).ok_or(*name),
        [other, ..] => Err(*other),
        [] => Err(""),
    });
    pairs.collect::<Result<_, _>>().map_err(|word| {
        Failure::Usage(format!("`ci` takes `--skip STEP` with a step out of {}; `{word}` is not one", STEPS.join(", ")))
    })
}

/// Runs every step but the skipped ones.
pub fn run(skip: &[&str]) -> Result<(), Failure> {
    let mut steps = Steps::new();
    for name in STEPS {
        if skip.contains(&name) {
            steps.skip(name, format!("`--skip {name}` was given"));
            continue;
        }
        match name {
            "fmt" => steps.run(name, || status(&mut cargo(&["fmt", "--all", "--check"]))),
            "licences" => steps.run(name, licences::check),
            "package" => steps.run(name, package::pack),
            "clippy" => steps.run(name, || status(&mut clippy())),
            "doc" => steps.run(name, || status(&mut doc())),
            "test" => steps.run(name, || status(&mut test_command(&[]))),
            _ => matrix::add(&mut steps),
        }
    }
    steps.finish().map_err(Failure::Failed)
}

fn clippy() -> Command {
    cargo(&["clippy", "--release", "--workspace", "--all-targets", "--keep-going", "--", "-D", "warnings"])
}

/// Libraries only: the program and the facade are both called `hyperinf` and would overwrite each other.
fn doc() -> Command {
    let mut command = cargo(&["doc", "--release", "--workspace", "--lib", "--no-deps", "--keep-going"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}
