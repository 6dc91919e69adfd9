//! `cargo xtask fixtures`: recomputes the expected values of the tests from their definitions.

use std::path::{Path, PathBuf};

use crate::run::{cache, program, root, status};

/// Runs `tests/fixtures/derive.py`, or `make.py` in `tests/fixtures/transformers`, `vision`, `tokenizers`, `images`,
/// `preference` or `diffusion` if that is the first word, in a virtual environment with its packages; without arguments, with
/// `--check`.
pub fn run(args: &[&str]) -> Result<(), String> {
    let folder = root().join("tests").join("fixtures");
    match args {
        ["transformers", args @ ..] => script("transformers", &folder.join("transformers"), "make.py", args),
        ["vision", args @ ..] => script("transformers", &folder.join("vision"), "make.py", args),
        ["images", args @ ..] => script("images", &folder.join("images"), "make.py", args),
        ["tokenizers", args @ ..] => script("tokenizers", &folder.join("tokenizers"), "make.py", args),
        ["preference", args @ ..] => script("transformers", &folder.join("preference"), "make.py", args),
        ["diffusion", args @ ..] => script("diffusion", &folder.join("diffusion"), "make.py", args),
        args => script("fixtures", &folder, "derive.py", args),
    }
}

/// A Python of the environment, with the packages of the folder's `requirements.txt`.
pub fn python(environment: &str, folder: &Path) -> Result<PathBuf, String> {
    let venv = cache(environment)?;
    status(program("python3").args(["-m", "venv"]).arg(&venv))?;
    let python = if cfg!(windows) { venv.join("Scripts/python.exe") } else { venv.join("bin/python") };
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    status(program(&python).args(pip).arg(folder.join("requirements.txt")))?;
    Ok(python)
}

fn script(environment: &str, folder: &Path, name: &str, args: &[&str]) -> Result<(), String> {
    let python = python(environment, folder)?;
    let args = if args.is_empty() { &["--check"] } else { args };
    status(program(&python).arg(folder.join(name)).args(args))
}
