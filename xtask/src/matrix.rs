//! `cargo xtask matrix`: each library alone, each processor backend alone and the cards' together, checked by clippy.
//!
//! No test runs here. Clippy on the smallest set of features shows what a crate forgot to ask for; the answers of the
//! backends are compared by the tests, each of which loops over all of them (see `hyperinf_tests::devices`).

use crate::llvm;
use crate::run::{cargo, published, status};
use crate::steps::Steps;

/// Runs the matrix alone.
pub fn run() -> Result<(), String> {
    let mut steps = Steps::new();
    add(&mut steps);
    steps.finish()
}

/// Adds the matrix to a row of steps.
///
/// Libraries are checked one at a time, since cargo would unify the features of several. They share the metadata of
/// Burn wherever they ask for the same features.
pub fn add(steps: &mut Steps) {
    match published() {
        Ok(crates) => {
            let libraries = crates.iter().filter(|name| *name != "hyperinf-cli");
            steps.run("every library alone", || {
                let checks: Vec<_> = libraries.map(|library| check(&["-p", library])).collect();
                checks.into_iter().collect()
            });
        }
        Err(message) => steps.run("every library alone", || Err(message)),
    }
    // Of the libraries it alone has code behind a backend's feature.
    steps.run("operations, flex alone", || check(&["-p", "hyperinf-ops", "--features", "flex"]));
    for feature in ["flex", "ndarray"] {
        steps.run(&format!("facade and program, {feature} alone"), || check_feature(feature));
    }
    // Both cards at once: most of what they need is the same, and takes minutes.
    if llvm::is_there() {
        steps.run("facade and program, wgpu and cuda", || check_feature("wgpu,cuda"));
    } else {
        steps.run("facade and program, wgpu alone", || check_feature("wgpu"));
        let reason = "Burn's build for CUDA needs LLVM; `cargo xtask llvm` prepares a system LLVM";
        steps.skip("facade and program, cuda", reason.into());
    }
}

fn check_feature(feature: &str) -> Result<(), String> {
    check(&["-p", "hyperinf", "-p", "hyperinf-cli", "--features", feature])
}

/// Warnings fail: they show what a missing feature leaves unused.
fn check(args: &[&str]) -> Result<(), String> {
    let mut command = cargo(&["clippy", "--release", "--no-default-features"]);
    status(command.args(args).args(["--", "-D", "warnings"]))
}
