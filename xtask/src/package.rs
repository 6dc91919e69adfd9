//! `cargo xtask package`: packs the crates as for publication.

use std::fs;

use crate::run::{cargo, published, root, status};

/// What a published crate's manifest must have; cargo packs without it and the registry shows a bare page.
const KEYS: [&str; 3] = ["description", "keywords", "categories"];

/// Packs the workspace without compiling it, which finds path dependencies without a version and files that are not
/// there; before that, checks that every published crate has a README and its metadata. Offline, since cargo would ask the
/// registry about every dependency of every crate; a build or `cargo xtask licences` must have fetched them.
pub fn pack() -> Result<(), String> {
    for name in published()? {
        let folder = root().join("crates").join(&name);
        let manifest = folder.join("Cargo.toml");
        let manifest = fs::read_to_string(&manifest).map_err(|e| format!("cannot read {}: {e}", manifest.display()))?;
        let has = |key: &&str| manifest.lines().any(|line| line.starts_with(&format!("{key} = ")));
        if let Some(key) = KEYS.iter().find(|key| !has(key)) {
            return Err(format!("the manifest of {name} has no {key}"));
        }
        if !folder.join("README.md").is_file() {
            return Err(format!("{name} has no README.md"));
        }
    }
    status(&mut cargo(&["package", "--workspace", "--no-verify", "--allow-dirty", "--offline", "--quiet"]))
}
