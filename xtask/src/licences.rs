//! `cargo xtask licences`: the licences and sources of all dependencies, against `deny.toml`.
//!
//! `cargo deny check` reads the same file and checks more, advisories among it; this step needs nothing installed.

mod expression;

use std::fs;

use serde::Deserialize;

use crate::run::{cargo, output, root};

/// Where every dependency must come from; members of the workspace have no source.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

/// Checks every package that Linux, Windows or macOS would compile with any feature.
pub fn check() -> Result<(), String> {
    let policy = Policy::read()?;
    let metadata = output(&mut cargo(&["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Metadata = serde_json::from_str(&metadata).map_err(|e| format!("cargo's metadata: {e}"))?;
    let problems: Vec<String> = metadata.packages.iter().filter_map(|package| policy.problem(package)).collect();
    if problems.is_empty() {
        println!("{} packages conform to deny.toml", metadata.packages.len());
        return Ok(());
    }
    Err(problems.join("; "))
}

/// The licence policy of `deny.toml`.
struct Policy {
    allowed: Vec<String>,
    /// Packages whose licence is only in a file.
    exceptions: Vec<String>,
}

impl Policy {
    fn read() -> Result<Self, String> {
        let text = fs::read_to_string(root().join("deny.toml")).map_err(|e| format!("cannot read deny.toml: {e}"))?;
        let quoted = |line: &str| line.split('"').nth(1).map(str::to_owned);
        let lines = || text.lines().map(str::trim);
        let allowed = lines().skip_while(|line| *line != "allow = [").skip(1).take_while(|line| *line != "]");
        let exceptions = lines().filter_map(|line| line.split("crate = ").nth(1)).filter_map(quoted).collect();
        let allowed = allowed.filter(|line| !line.starts_with('#')).filter_map(quoted).collect();
        Ok(Self { allowed, exceptions })
    }

    fn problem(&self, package: &Package) -> Option<String> {
        let Package { name, version, license, source } = package;
        if let Some(source) = source.as_deref().filter(|source| *source != REGISTRY) {
            return Some(format!("{name} {version} comes from {source}"));
        }
        match license {
            None if self.exceptions.contains(name) => None,
            None => Some(format!("the manifest of {name} {version} has no licence")),
            Some(licence) if !expression::is_satisfied(licence, &self.allowed) => {
                Some(format!("deny.toml does not allow the licence {licence} of {name} {version}"))
            }
            Some(_) => None,
        }
    }
}
