//! Memory that is no longer used, and the warning of batches that have no room, under a limit of the system.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::support::{Folder, Tensor};
use crate::texts::model;

/// Positions of the model: the weights of attention over so many, which a backward pass keeps, take some 8 MB a row.
const POSITIONS: usize = 512;
/// The address space, in KiB: much more than the program and two rows take, much less than 300 rows. Where a processor
/// has a large last cache, products reserve more, so that some multiple of it is needed.
const LIMIT: usize = 800_000;

/// The tiny encoder of the fixtures with more positions, in `long`.
fn write_model(folder: &Folder) {
    let (from, to) = (model("bert"), folder.file("long"));
    fs::create_dir(&to).expect("the folder can be written");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        let text = fs::read_to_string(Path::new(&from).join(name)).expect("the fixture has it");
        let mut values: Value = serde_json::from_str(&text).expect("JSON");
        for key in ["max_position_embeddings", "model_max_length"] {
            if values.get(key).is_some() {
                values[key] = json!(POSITIONS);
            }
        }
        fs::write(to.join(name), values.to_string()).expect("the folder can be written");
    }
    let bytes = fs::read(Path::new(&from).join("model.safetensors")).expect("the fixture has it");
    let all = SafeTensors::deserialize(&bytes).expect("the fixture is a safetensors file");
    let copies = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let (mut shape, mut bytes) = (view.shape().to_vec(), view.data().to_vec());
        if name.contains("position_embeddings") {
            let row = bytes.len() / shape[0];
            bytes = bytes.into_iter().cycle().take(POSITIONS * row).collect();
            shape[0] = POSITIONS;
        }
        Tensor { name, dtype: view.dtype(), shape, bytes }
    };
    folder.write("long/model.safetensors", &all.tensors().into_iter().map(copies).collect::<Vec<_>>());
}

/// Runs a command on the rows in batches within a limit.
fn limited(folder: &Folder, limit: usize, command: &str, batch: usize) -> Output {
    let script = format!(
        "ulimit -v {limit} || exit 77; exec '{}' {command} --model long --adapter '{}' --truncate --max-length {} \
         --batch-size {batch}",
        env!("CARGO_BIN_EXE_hyperinf"),
        model("bert/query_value"),
        POSITIONS - 12,
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(folder.path()).env("RAYON_NUM_THREADS", "2");
    shell.output().expect("there is a shell")
}

/// The allocator says with which settings it runs.
#[test]
fn freed_memory_stays_unless_the_environment_says_otherwise() {
    let delay = |set: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyperinf"));
        command.arg("methods").env("MIMALLOC_VERBOSE", "1").env_remove("MIMALLOC_PURGE_DELAY");
        command.envs(set.map(|delay| ("MIMALLOC_PURGE_DELAY", delay)));
        let found = command.output().expect("the program starts");
        assert!(found.status.success() && String::from_utf8_lossy(&found.stdout).contains("hyperinf"));
        let told = String::from_utf8_lossy(&found.stderr).into_owned();
        let mut lines = told.lines().filter_map(|line| line.strip_prefix("option 'purge_delay': "));
        lines.next_back().expect("mimalloc lists its settings").trim().to_owned()
    };
    assert_eq!(delay(None), "10000");
    assert_eq!(delay(Some("7")), "7");
}

/// Of gradients, whose attention weights stay until the backward pass; an evaluation keeps none of them.
#[test]
fn batches_without_room_are_a_warning_before_they_are_computed() {
    let folder = Folder::new();
    write_model(&folder);
    let row = |i: usize| json!({ "text": "the old fox runs on the hill and rests. ".repeat(60), "label": i % 3 });
    folder.write_rows("rows.jsonl", &(0..300).map(row).collect::<Vec<_>>());
    folder.write_rows("query.jsonl", &(0..3).map(row).collect::<Vec<_>>());
    let gradients = "attribute --train rows.jsonl --query query.jsonl --method identity --out";
    let attempt = |limit: usize| (limit, limited(&folder, limit, &format!("{gradients} few-{limit}"), 2));
    let mut attempts = (1..=8).map(|times| attempt(times * LIMIT));
    let ends = |few: &Output| few.status.success() || few.status.code() == Some(77);
    let (limit, few) = attempts.find(|(_, few)| ends(few)).unwrap_or_else(|| {
        let (_, most) = attempt(8 * LIMIT);
        panic!("two rows have no room: {}", String::from_utf8_lossy(&most.stderr))
    });
    if few.status.code() == Some(77) {
        eprintln!("skipped: the address space cannot be limited here: {}", String::from_utf8_lossy(&few.stderr));
        return;
    }
    let told = String::from_utf8_lossy(&few.stderr);
    assert!(!told.contains("warning: batches"), "{told}");
    let all = limited(&folder, limit, &format!("{gradients} all"), 300);
    let told = String::from_utf8_lossy(&all.stderr);
    let warning = told.lines().find(|line| line.starts_with("warning: batches of 300 of the longest rows need about "));
    let warning = warning.unwrap_or_else(|| panic!("no warning in {told}"));
    assert!(warning.contains(" of memory, and there are "), "{warning}");
    // It was right.
    assert!(!all.status.success() && !folder.file("all/summary.json").exists(), "{told}");
    let evaluated = limited(&folder, limit, "evaluate --data rows.jsonl --output all.csv", 300);
    let told = String::from_utf8_lossy(&evaluated.stderr);
    assert!(evaluated.status.success() && !told.contains("warning: batches"), "{told}");
}
