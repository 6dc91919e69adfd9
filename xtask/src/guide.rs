//! `cargo xtask guide`: the commands and the Python of `docs/guide.md`.

use crate::run::{cargo, root, status};

/// Runs the program's tests of the guide, its Python block included, with the packages of the tiny transformers.
pub fn run() -> Result<(), String> {
    let python = crate::fixtures::python("transformers", &root().join("tests/fixtures/transformers"))?;
    let args = ["test", "--release", "--package", "hyperinf-cli", "--test", "program", "--", "guide::"];
    status(cargo(&args).env("HYPERINF_GUIDE_PYTHON", python))
}
