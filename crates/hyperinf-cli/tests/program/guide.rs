//! `docs/guide.md`: its commands run as they are printed, with tiny models in place of the real ones.
//!
//! A section's `sh` blocks run in one folder, in turn. Afterwards every file that the section names must be there. With
//! `HYPERINF_GUIDE_PYTHON` (a Python with PyTorch, set by `cargo xtask guide`) the section's Python runs first;
//! otherwise gradients of the fixtures take the place of its files.
#![cfg(unix)]

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use hyperinf_tests::fixtures;

use crate::support::Folder;
use crate::texts::{completions, model, two_kinds};

/// The models of the guide, and the fixtures that take their places.
const MODELS: [(&str, &str); 2] =
    [("sentence-transformers/all-MiniLM-L6-v2", "bert"), ("HuggingFaceTB/SmolLM2-135M-Instruct", "llama")];

/// The text of a section, from its heading to the next.
fn section(heading: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide.md");
    let page = fs::read_to_string(&path).expect("the guide is a part of the repository");
    let heading = format!("\n## {heading}\n");
    let begin = page.find(&heading).unwrap_or_else(|| panic!("the guide has no section{heading}"));
    let text = &page[begin + heading.len()..];
    text.split("\n## ").next().unwrap_or(text).to_owned()
}

/// The blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    let blocks = text.split(&begin).skip(1).filter_map(|rest| rest.split("```").next());
    blocks.map(str::to_owned).collect()
}

/// The files below a folder that a text names in back quotes: `suspicious/summary.json`.
fn named_files(text: &str) -> Vec<&str> {
    let words = text.split('`').skip(1).step_by(2);
    let path = |word: &&str| {
        word.contains('/') && word.contains('.') && word.chars().all(|c| c.is_ascii_lowercase() || "/._-".contains(c))
    };
    words.filter(path).filter(|word| !word.starts_with("crates/")).collect()
}

fn run(folder: &Folder, program: &str, script: &str) {
    let program_folder = Path::new(env!("CARGO_BIN_EXE_hyperinf")).parent().expect("a file is in a folder");
    let path = format!("{}:{}", program_folder.display(), env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(["-c", script]).current_dir(folder.path()).env("PATH", path).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{stderr}");
}

/// Runs a section's commands in a folder, and checks that they leave the files that it names.
fn follow(heading: &str, folder: &Folder) {
    let text = section(heading);
    let scripts = blocks(&text, "sh");
    assert!(!scripts.is_empty(), "{heading} has no commands");
    for script in scripts {
        let script = MODELS.iter().fold(script, |script, (real, tiny)| script.replace(real, &model(tiny)));
        run(folder, "sh", &format!("set -eu\n{script}"));
    }
    let prose: String = text.split("```").step_by(2).collect();
    for file in named_files(&prose) {
        assert!(folder.file(file).exists(), "{heading} names `{file}`, which its commands do not write");
    }
}

#[test]
fn the_guide_cleans_labels() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &two_kinds(60, 0));
    folder.write_rows("validation.jsonl", &two_kinds(20, 7));
    follow("Clean labels", &folder);
    assert_eq!(folder.lines("suspicious/cleaned.jsonl").len(), 57, "5 % of 60 rows are three");
}

#[test]
fn the_guide_selects_data() {
    let folder = Folder::new();
    for (file, count) in [("train.jsonl", 20), ("validation.jsonl", 4), ("questions.jsonl", 3)] {
        folder.write_rows(file, &completions(count));
    }
    follow("Select data", &folder);
    assert_eq!(folder.lines("chosen/selected.jsonl").len(), 4, "20 % of 20 rows are four");
    assert_eq!(folder.lines("influence/topk.jsonl").len(), 3);
}

#[test]
fn the_guide_asks_an_index() {
    let folder = Folder::new();
    for (file, count) in [("train.jsonl", 12), ("questions.jsonl", 3)] {
        folder.write_rows(file, &completions(count));
    }
    follow("Ask often", &folder);
}

#[test]
fn the_guide_scores_gradients() {
    let folder = Folder::new();
    if let Ok(python) = env::var("HYPERINF_GUIDE_PYTHON") {
        let scripts = blocks(&section("Gradients from PyTorch"), "python");
        assert_eq!(scripts.len(), 2);
        // The second uses the model of the first.
        run(&folder, &python, &scripts.concat());
        let inspect = "hyperinf inspect with_bias.safetensors --numbers";
        run(&folder, "sh", inspect);
    } else {
        for file in ["train.safetensors", "query.safetensors"] {
            let fixture = fixtures::path(&format!("lora_tiny/{file}"));
            fs::copy(fixture, folder.file(file)).expect("fixtures are part of the repository");
        }
    }
    follow("Gradients from PyTorch", &folder);
    for file in ["scores.parquet", "methods/methods.csv", "dampings/sweep.csv"] {
        assert!(folder.file(file).exists(), "{file}");
    }
}
