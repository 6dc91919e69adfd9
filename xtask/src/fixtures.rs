//! `cargo xtask fixtures`: the expected values of the tests, recomputed from their definitions.

use crate::run::{cache, program, root, status};

/// Runs `tests/fixtures/derive.py` with the packages that it needs: `--check` unless told otherwise.
pub fn derive(args: &[&str]) -> Result<(), String> {
    let folder = root().join("tests").join("fixtures");
    let venv = cache("fixtures")?;
    status(program("python3").args(["-m", "venv"]).arg(&venv))?;
    let python = if cfg!(windows) { venv.join("Scripts/python.exe") } else { venv.join("bin/python") };
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    status(program(&python).args(pip).arg(folder.join("requirements.txt")))?;
    let args = if args.is_empty() { &["--check"] } else { args };
    status(program(&python).arg(folder.join("derive.py")).args(args))
}
