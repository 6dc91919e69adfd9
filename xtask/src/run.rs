//! Runs programs in the workspace's root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a command ended without success.
pub enum Failure {
    /// The command line is wrong.
    Usage(String),
    /// The work failed.
    Failed(String),
}

/// The workspace's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the workspace's root").to_path_buf()
}

/// The crates to be published: the folders in `crates` whose manifest does not say otherwise, in alphabetical order.
pub fn published() -> Result<Vec<String>, String> {
    let folder = root().join("crates");
    let entries = fs::read_dir(&folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    let mut names = Vec::new();
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        let manifest = fs::read_to_string(path.join("Cargo.toml")).unwrap_or_default();
        if let (Some(name), false) = (path.file_name(), manifest.is_empty() || manifest.contains("publish = false")) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A folder under `target` for downloads and builds, created if necessary.
pub fn cache(name: &str) -> Result<PathBuf, String> {
    let path = root().join("target").join("xtask").join(name);
    fs::create_dir_all(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
    Ok(path)
}

/// A program to be run in the workspace's root.
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

/// Runs a command and shows its output.
pub fn status(command: &mut Command) -> Result<(), String> {
    let outcome = command.status().map_err(|e| format!("cannot start {}: {e}", shown(command)))?;
    if outcome.success() { Ok(()) } else { Err(format!("{} ended with {outcome}", shown(command))) }
}

/// Runs a command and returns its standard output.
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
