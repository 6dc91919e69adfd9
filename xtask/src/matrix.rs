//! `cargo xtask matrix`: the ways in which the workspace may be used, each tried.

use std::process::ExitCode;

use crate::ci::test_command;
use crate::llvm;
use crate::run::{cargo, status};
use crate::steps::{Outcome, Steps};

/// Crates that a program may depend on alone. With their minimal features they compile no backend in.
const LIBRARIES: [&str; 10] = [
    "hyperinf-gradients",
    "hyperinf-curvature",
    "hyperinf-solvers",
    "hyperinf-scoring",
    "hyperinf-store",
    "hyperinf-ops",
    "hyperinf-models",
    "hyperinf-data",
    "hyperinf-eval",
    "hyperinf",
];

/// Runs the matrix alone.
pub fn run() -> ExitCode {
    let mut steps = Steps::new();
    add(&mut steps);
    steps.finish()
}

/// Adds the matrix to a row of steps.
pub fn add(steps: &mut Steps) {
    for library in LIBRARIES {
        steps.run(&format!("{library} alone"), || check(&["-p", library]));
    }
    for feature in ["flex", "ndarray", "wgpu"] {
        steps.run(&format!("facade and program, {feature} alone"), || check_feature(feature));
    }
    steps.run("facade and program, cuda alone", || match check_feature("cuda") {
        // Nothing of ours is compiled before Burn has its LLVM, so this failure says nothing about the workspace.
        Outcome::Failed(_) if !llvm::is_there() => Outcome::Skipped(
            "Burn's LLVM bundle could not be fetched; `cargo xtask llvm` prepares a system LLVM in its place".into(),
        ),
        outcome => outcome,
    });
    for device in ["flex", "ndarray"] {
        steps.run(&format!("tests on {device} alone"), || {
            status(test_command(&[]).env("HYPERINF_TEST_DEVICE", device)).into()
        });
    }
}

fn check_feature(feature: &str) -> Outcome {
    check(&["-p", "hyperinf", "-p", "hyperinf-cli", "--features", feature])
}

/// Clippy checks as `cargo check` does and lets warnings fail, which show what a missing feature leaves unused.
fn check(args: &[&str]) -> Outcome {
    let mut command = cargo(&["clippy", "--release", "--no-default-features"]);
    status(command.args(args).args(["--", "-D", "warnings"])).into()
}
