//! `cargo xtask ci`: what a change must pass, cheapest first.
//!
//! Every step uses the release profile, the one profile in use: the checks share their metadata of Burn with each
//! other, and the tests share Burn's compiled code with the program and the benchmarks.

use std::process::{Command, ExitCode};

use crate::matrix;
use crate::run::{cargo, root, status};
use crate::steps::{Outcome, Steps};

const STEPS: [&str; 5] = ["fmt", "clippy", "doc", "test", "matrix"];

/// Every test of the workspace.
pub fn test_command(args: &[&str]) -> Command {
    let mut command = cargo(&["test", "--release", "--workspace"]);
    command.args(args);
    command
}

/// The benchmarks; selected from the whole workspace, so that Burn is compiled with the tests' features.
pub fn bench_command(filters: &[&str]) -> Command {
    let mut command = cargo(&["bench", "--workspace", "--bench", "*", "--"]);
    command.args(filters).env("CRITERION_HOME", root().join("target/criterion"));
    command
}

/// The steps named by `--skip`.
pub fn skipped_steps(args: &[&str]) -> Result<Vec<&'static str>, String> {
    let pairs = args.chunks(2).map(|pair| match pair {
        ["--skip", name] => STEPS.into_iter().find(|step| step == name).ok_or(*name),
        [other, ..] => Err(*other),
        [] => Err(""),
    });
    pairs.collect::<Result<_, _>>().map_err(|word| {
        format!("`ci` takes `--skip STEP` with a step out of {}; `{word}` is not one", STEPS.join(", "))
    })
}

/// Runs every step but the skipped ones.
pub fn run(skip: &[&str]) -> ExitCode {
    let mut steps = Steps::new();
    for name in STEPS {
        if skip.contains(&name) {
            steps.run(name, || Outcome::Skipped(format!("`--skip {name}` was given")));
        } else if name == "matrix" {
            matrix::add(&mut steps);
        } else {
            steps.run(name, || status(&mut command(name)).into());
        }
    }
    steps.finish()
}

fn command(step: &str) -> Command {
    match step {
        "fmt" => cargo(&["fmt", "--all", "--check"]),
        "clippy" => {
            cargo(&["clippy", "--release", "--workspace", "--all-targets", "--keep-going", "--", "-D", "warnings"])
        }
        "doc" => {
            // Libraries only: the program and the facade are both called `hyperinf` and would overwrite each other.
            let mut command = cargo(&["doc", "--release", "--workspace", "--lib", "--no-deps", "--keep-going"]);
            command.env("RUSTDOCFLAGS", "-D warnings");
            command
        }
        _ => test_command(&[]),
    }
}
