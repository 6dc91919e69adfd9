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
