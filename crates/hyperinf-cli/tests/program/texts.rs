//! Rows of text and tiny models for tests of the commands that take them.

use std::fs;
use std::path::{Path, PathBuf};

use hyperinf_tests::fixtures;
use serde_json::{Value, json};

use crate::support::{Folder, Run, hyperinf};

/// A tiny model of the fixtures by its name.
pub fn model(name: &str) -> String {
    fixtures::path(&format!("transformers/{name}")).to_str().expect("paths of tests are UTF-8").to_owned()
}

/// The arguments that choose the tiny classifier of three classes with an adapter of PEFT's.
pub fn bert() -> Vec<String> {
    ["--model", &model("bert"), "--adapter", &model("bert/query_value")].map(str::to_owned).into()
}

/// The arguments that choose the tiny decoder with an adapter of PEFT's.
pub fn llama() -> Vec<String> {
    ["--model", &model("llama"), "--adapter", &model("llama/all_linear")].map(str::to_owned).into()
}

const PLACES: [&str; 6] = ["in the snow", "on the hill", "under the tree", "with the man", "at the end", "then"];
const ANIMALS: [&str; 5] = ["the fox rests", "a red fox runs", "old fox", "one fox and one fox", "no other fox"];
const WATERS: [&str; 5] = ["the river is cold", "a small river", "the river runs", "old river", "one river and a boat"];

/// Rows about foxes and rivers in turn, with the labels `animal` and `water`; no text is there twice among 60.
pub fn two_kinds(count: usize, first: usize) -> Vec<Value> {
    let row = |i: usize| {
        let (kinds, label) = if i.is_multiple_of(2) { (ANIMALS, "animal") } else { (WATERS, "water") };
        let text = format!("{} {}", kinds[i / 2 % 5], PLACES[i / 10 % 6]);
        json!({ "text": text, "label": label })
    };
    (first..first + count).map(row).collect()
}

/// Rows for the classifier of three classes, labelled 0, 1, 2 in turn, of different lengths.
pub fn three_classes(count: usize) -> Vec<Value> {
    let mut rows = two_kinds(count, 0);
    for (i, row) in rows.iter_mut().enumerate() {
        row["label"] = json!(i % 3);
    }
    rows
}

/// Prompts with completions.
pub fn completions(count: usize) -> Vec<Value> {
    let prompts = ["Where is the boat?", "Is the fox cold?", "The story", "She ate"];
    let answers = [" On the river.", " No.", " was slow and weak.", " 7 pears"];
    let row = |i: usize| json!({ "prompt": prompts[i % 4], "completion": answers[(i + i / 4) % 4] });
    (0..count).map(row).collect()
}

/// One JSON object per line.
pub fn jsonl(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

impl Folder {
    pub fn write_rows(&self, name: &str, rows: &[Value]) {
        self.write_bytes(name, jsonl(rows).as_bytes());
    }

    /// Runs the program here.
    pub fn run(&self, command: &str, args: &[&str]) -> Run {
        hyperinf(self.path(), &[&[command][..], args].concat())
    }

    /// Runs the program on a model; it must succeed.
    pub fn succeed(&self, command: &str, model: &[String], args: &[&str]) -> Run {
        let model: Vec<&str> = model.iter().map(String::as_str).collect();
        let run = self.run(command, &[&model[..], args].concat());
        assert_eq!(run.code, Some(0), "{command} {args:?}: {run:?}");
        run
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The lines of a file of JSON lines.
    pub fn lines(&self, name: &str) -> Vec<Value> {
        let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}: {e}: {line}"));
        self.text(name).lines().map(line).collect()
    }

    /// The names of all files in a folder here, sorted; those that begin with a dot too. Configurations, which all results
    /// have and which name their folder, are left out.
    pub fn files_in(&self, name: &str) -> Vec<String> {
        let mut names = names(&self.file(name));
        names.retain(|name| !name.ends_with("run.toml"));
        names
    }
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    let mut names: Vec<String> =
        paths.iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect();
    names.sort();
    names
}
