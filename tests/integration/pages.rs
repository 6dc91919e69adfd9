//! The pages of the repository: links lead somewhere, paths exist, lines are short.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders of the repository whose pages are checked; the root's own pages are checked too.
const FOLDERS: [&str; 5] = ["docs", "crates", "tests", "benches", "xtask"];
/// How a back-quoted word begins that is a path from the root.
const ROOTS: [&str; 6] = ["docs/", "crates/", "tests/", "benches/", "xtask/", ".ci/"];
const WIDTH: usize = 120;

struct Page {
    path: PathBuf,
    text: String,
}

impl Page {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { path, text }
    }

    /// The lines outside fenced code, with their numbers.
    fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut code = false;
        self.text.lines().zip(1..).filter_map(move |(line, number)| {
            let fence = line.trim_start().starts_with("```");
            code ^= fence;
            (!code && !fence).then_some((number, line))
        })
    }

    /// The anchors that GitHub gives to the headings.
    fn anchors(&self) -> Vec<String> {
        let headings = self.prose().filter(|(_, line)| line.starts_with('#'));
        headings.map(|(_, line)| anchor(line.trim_start_matches('#').trim())).collect()
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is a folder of the workspace").to_owned()
}

fn pages() -> Vec<Page> {
    let mut files = Vec::new();
    let entries = fs::read_dir(root()).expect("the root can be read");
    files.extend(entries.map(|e| e.expect("the root can be read").path()).filter(|path| path.is_file()));
    for folder in FOLDERS {
        collect(&root().join(folder), &mut files);
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    files.into_iter().map(Page::read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|e| e.expect("the folder can be read").path()) {
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

/// The targets of the links in a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// The words between back quotes in a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut broken = Vec::new();
    for page in pages() {
        for (number, line) in page.prose() {
            for target in links(line).filter(|target| !target.contains("://")) {
                let (file, heading) = target.split_once('#').unwrap_or((target, ""));
                let path = if file.is_empty() { page.path.clone() } else { page.path.with_file_name("").join(file) };
                let found = path.exists()
                    && (heading.is_empty() || Page::read(path).anchors().iter().any(|anchor| anchor == heading));
                if !found {
                    broken.push(format!("{}:{number}: {target}", page.path.display()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn quoted_paths_exist() {
    let mut missing = Vec::new();
    for page in pages().iter().filter(|page| page.path.file_name().is_none_or(|name| name != "CHANGELOG.md")) {
        for (number, line) in page.prose() {
            let paths = quoted(line).filter(|word| ROOTS.iter().any(|root| word.starts_with(root)));
            // Capitals, `*` and `{` stand for a name that the reader chooses.
            let named = |word: &&str| !word.contains(['*', '{', ' ', '…']) && !word.contains("NAME");
            missing.extend(
                paths
                    .filter(named)
                    .filter(|word| !root().join(word.trim_end_matches('/')).exists())
                    .map(|word| format!("{}:{number}: {word}", page.path.display())),
            );
        }
    }
    assert!(missing.is_empty(), "paths that do not exist:\n{}", missing.join("\n"));
}

#[test]
fn lines_are_short() {
    let mut long = Vec::new();
    for page in pages() {
        // A row of a table and a command cannot be broken.
        let lines = page.prose().filter(|(_, line)| !line.starts_with('|') && line.chars().count() > WIDTH);
        long.extend(lines.map(|(number, line)| format!("{}:{number}: {}", page.path.display(), line.chars().count())));
    }
    assert!(long.is_empty(), "lines of more than {WIDTH} characters:\n{}", long.join("\n"));
}
