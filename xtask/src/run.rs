//! Running programs from the workspace's root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the workspace's root").to_path_buf()
}

/// A folder for what commands fetch or build outside git, made where it is missing.
pub fn cache(name: &str) -> Result<PathBuf, String> {
    let path = root().join("target").join("xtask").join(name);
    std::fs::create_dir_all(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
    Ok(path)
}

/// A program, started in the workspace's root.
pub fn program(name: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root());
    command
}

/// The cargo that started this command, with arguments.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

/// Runs a command to its end, its output shown.
pub fn status(command: &mut Command) -> Result<(), String> {
    let outcome = command.status().map_err(|e| format!("cannot start {}: {e}", shown(command)))?;
    if outcome.success() { Ok(()) } else { Err(format!("{} ended with {outcome}", shown(command))) }
}

/// Runs a command to its end and returns what it printed.
pub fn output(command: &mut Command) -> Result<String, String> {
    let outcome = command.output().map_err(|e| format!("cannot start {}: {e}", shown(command)))?;
    if outcome.status.success() {
        return Ok(String::from_utf8_lossy(&outcome.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&outcome.stderr);
    Err(format!("{} ended with {}: {}", shown(command), outcome.status, said.trim()))
}

fn shown(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words: Vec<_> = std::iter::once(name).chain(command.get_args()).map(|w| w.to_string_lossy()).collect();
    format!("`{}`", words.join(" "))
}
