//! Invariants of `docs/architecture.md` that the compiler does not check.

use std::fs;
use std::path::{Path, PathBuf};

/// Packages that may name a device: the front door, the program and the experiments.
const NAMING: [&str; 3] = ["hyperinf", "hyperinf-cli", "hyperinf-experiments"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn library_crates_name_no_device_not_even_in_examples() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut seen = 0;
    for entry in fs::read_dir(&crates).expect("the crates are there") {
        let entry = entry.expect("the folder can be read");
        if NAMING.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let mut files = Vec::new();
        sources(&entry.path().join("src"), &mut files);
        seen += files.len();
        for file in files {
            let text = fs::read_to_string(&file).expect("sources are UTF-8");
            for (number, line) in text.lines().enumerate() {
                let named = line.split("Device::").skip(1).any(|rest| rest.starts_with(char::is_lowercase));
                assert!(!named, "{}:{}: {line}", file.display(), number + 1);
            }
        }
    }
    assert!(seen > 100, "{seen} files are not those of the library crates");
}

#[test]
fn files_have_fewer_than_400_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in ["crates", "tests", "xtask", "benches", "examples", "fuzz"] {
        sources(&root.join(folder), &mut files);
    }
    files.retain(|file| !file.components().any(|part| part.as_os_str() == "target"));
    assert!(files.len() > 400, "{} files are not those of the workspace", files.len());
    for file in files {
        let lines = fs::read_to_string(&file).expect("sources are UTF-8").lines().count();
        assert!(lines < 400, "{} has {lines} lines", file.display());
    }
}

/// The lines of a section of a manifest.
fn section<'a>(manifest: &'a str, name: &str) -> Vec<&'a str> {
    let lines = manifest.lines().skip_while(|line| *line != format!("[{name}]")).skip(1);
    lines.take_while(|line| !line.starts_with('[')).collect()
}

#[test]
fn no_test_is_where_none_is_run() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut seen = 0;
    for entry in fs::read_dir(&crates).expect("the crates are there") {
        let folder = entry.expect("the folder can be read").path();
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("a crate has a manifest");
        if !section(&manifest, "lib").contains(&"test = false") {
            continue;
        }
        let mut files = Vec::new();
        sources(&folder.join("src"), &mut files);
        seen += files.len();
        for file in files {
            let text = fs::read_to_string(&file).expect("sources are UTF-8");
            let bad = text.lines().find(|line| ["#[test]", "#[cfg(test)]", "proptest!"].contains(&line.trim()));
            assert!(bad.is_none(), "{}: its package has no test program", file.display());
        }
    }
    assert!(seen > 100, "{seen} files are not those of the libraries without a test program");
}

/// A program that takes one crate needs no other in its manifest, and turns its backend on with that crate's feature.
#[test]
fn each_crate_stands_alone() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let no_library = ["hyperinf", "hyperinf-cli", "hyperinf-experiments", "hyperinf-figures"];
    let mut seen = 0;
    for entry in fs::read_dir(&crates).expect("the crates are there") {
        let entry = entry.expect("the folder can be read");
        let name = entry.file_name().into_string().expect("names are UTF-8");
        if no_library.contains(&name.as_str()) {
            continue;
        }
        seen += 1;
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).expect("every crate has it");
        let (manifest, library) = (read("Cargo.toml"), read("src/lib.rs"));
        let exported: String =
            library.split("\npub use ").skip(1).filter_map(|rest| rest.split_inclusive(';').next()).collect();
        let named = section(&manifest, "dependencies").into_iter().filter_map(|line| line.split(['.', ' ']).next());
        for dependency in named.filter(|name| *name == "burn" || name.starts_with("hyperinf-")) {
            let dependency = dependency.replace('-', "_");
            let words = exported.split(|c: char| !c.is_alphanumeric() && c != '_');
            assert!(words.into_iter().any(|word| word == dependency), "{name} does not re-export {dependency}");
        }
        let features = section(&manifest, "features");
        for backend in ["flex", "ndarray", "cuda", "rocm", "wgpu", "metal", "vulkan"] {
            let has = features.iter().any(|line| line.starts_with(&format!("{backend} = [")));
            // Ranks compute nothing.
            assert!(has || ["hyperinf-mpi", "hyperinf-ops"].contains(&&*name), "{name} has no feature {backend}");
        }
    }
    assert!(seen >= 10, "{seen} crates");
}
