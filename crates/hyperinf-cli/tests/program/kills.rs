//! Runs that are killed at any moment: the same command ends with the files of an undisturbed run.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::Folder;
use crate::texts::{bert, completions, model, three_classes};

/// Folders, each of which is killed in so many times before its run may end.
const FOLDERS: u32 = 4;
const KILLS: u32 = 5;

/// `OUT` in the arguments stands for the folder of the results.
fn with_out(args: &[&str], out: &str) -> Vec<String> {
    let named = args.iter().map(|arg| arg.replace("OUT", out));
    named.chain(["--out".to_owned(), out.to_owned()]).collect()
}

fn start(folder: &Folder, command: &str, args: &[&str], out: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_hyperinf"))
        .arg(command)
        .args(with_out(args, out))
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program was built with the tests")
}

fn contents(folder: &Folder, out: &str) -> BTreeMap<String, Vec<u8>> {
    let index = format!("{out}-index");
    let of = |place: &str, name: String| {
        let bytes = fs::read(folder.file(&format!("{place}/{name}"))).expect("it is a file");
        (name, bytes)
    };
    let results = folder.files_in(out).into_iter().map(|name| of(out, name));
    // The text of a dead run's lock is for people, and stays in an index that nobody writes any more.
    let names = folder.files_in(&index).into_iter().filter(|name| name != ".hyperinf.lock");
    let indexed = names.map(|name| of(&index, name));
    results.chain(indexed.map(|(name, bytes)| (format!("index/{name}"), bytes))).collect()
}

/// Kills a command 20 times, at moments spread over its time, and lets it end after every five.
#[track_caller]
fn check(folder: &Folder, command: &str, args: &[&str]) {
    let began = Instant::now();
    assert!(start(folder, command, args, "whole").wait().expect("it was started").success());
    let time = began.elapsed();
    let whole = contents(folder, "whole");
    let mut ended = 0;
    for number in 0..FOLDERS {
        let out = format!("killed-{number}");
        for kill in 0..KILLS {
            let mut child = start(folder, command, args, &out);
            // From 5 % to 105 % of the time, at other places in each folder: results are published at the end.
            let share = (kill * FOLDERS + number) as f64 / f64::from(FOLDERS * KILLS - 1);
            sleep(Duration::from_secs_f64(time.as_secs_f64() * (0.05 + share)));
            ended += u32::from(child.try_wait().expect("it was started").is_some());
            child.kill().expect("it runs, or has ended");
            child.wait().expect("it was started");
        }
        let named = with_out(args, &out);
        let run = folder.run(command, &named.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(run.code, Some(0), "{run:?}");
        let found = contents(folder, &out);
        assert_eq!(found.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>(), "{out}");
        for (name, bytes) in &whole {
            assert!(found[name] == *bytes, "{command}: {name} differs in {out}: {}", run.stderr);
        }
    }
    assert!(ended < FOLDERS * KILLS, "{command}: no run was killed");
}

fn rows() -> (Folder, Vec<String>) {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(48));
    folder.write_rows("query.jsonl", &three_classes(6));
    let mut args = bert();
    args.extend(["--train", "train.jsonl", "--truncate", "--batch-size", "2"].map(str::to_owned));
    (folder, args)
}

#[track_caller]
fn check_rows(command: &str, more: &[&str]) {
    let (folder, args) = rows();
    let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
    check(&folder, command, &args);
}

#[test]
fn a_killed_attribute_ends_as_an_undisturbed_one() {
    check_rows("attribute", &["--query", "query.jsonl", "--format", "csv"]);
}

#[test]
fn a_killed_attribute_with_an_index_ends_as_an_undisturbed_one() {
    let index = ["--index", "OUT-index", "--method", "ekfac"];
    check_rows("attribute", &[&["--query", "query.jsonl", "--format", "csv"], &index[..]].concat());
}

/// A run that dies after its last leaf, and before the list of shards or while the journal is put in order.
#[test]
fn an_index_that_lacks_its_end_is_completed() {
    let (folder, args) = rows();
    folder.succeed("index", &args, &["--leaf-batches", "4", "--out", "run-index"]);
    let attribute = ["--query", "query.jsonl", "--index", "run-index", "--out", "run"];
    folder.succeed("attribute", &args, &attribute);
    let whole = contents(&folder, "run");
    let file = |name: &str| folder.file(&format!("run-index/{name}"));
    let journal = fs::read_to_string(file("journal.jsonl")).expect("it is text");
    let (first, others) = journal.split_once('\n').expect("there are lines");
    let ends: [(&str, &dyn Fn()); 2] = [
        ("no list", &|| {
            fs::remove_file(file("index.json")).expect("it is there");
            fs::write(file(".leaf-00000.safetensors.journal"), "").expect("written");
        }),
        ("another order", &|| fs::write(file("journal.jsonl"), format!("{others}{first}\n")).expect("written")),
    ];
    for (what, damage) in ends {
        damage();
        let run = folder.succeed("attribute", &args, &attribute);
        assert!(contents(&folder, "run") == whole, "{what}: {}", run.stderr);
    }
}

#[test]
fn a_killed_index_ends_as_an_undisturbed_one() {
    check_rows("index", &["--leaf-batches", "4"]);
}

#[test]
fn a_killed_detect_ends_as_an_undisturbed_one() {
    check_rows("detect", &["--validation", "query.jsonl", "--remove", "5"]);
}

#[test]
fn a_killed_select_ends_as_an_undisturbed_one() {
    check_rows("select", &["--validation", "query.jsonl", "--keep", "7"]);
}

#[test]
fn a_killed_finetune_ends_as_an_undisturbed_one() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(16));
    let llama = model("llama");
    let args = ["--model", &llama, "--train", "train.jsonl", "--epochs", "10", "--batch-size", "4"];
    check(&folder, "finetune", &[&args[..], &["--checkpoint-every", "3", "--resume"]].concat());
}

#[test]
fn equal_runs_write_equal_files() {
    let (folder, args) = rows();
    let query = ["--query", "query.jsonl"];
    let validation = ["--validation", "query.jsonl"];
    let commands: [(&str, &[&str], &[&str]); 6] = [
        ("attribute", &query, &["--format", "safetensors"]),
        ("attribute", &query, &["--format", "parquet"]),
        ("attribute", &query, &["--format", "jsonl"]),
        ("detect", &validation, &["--remove", "3"]),
        ("select", &validation, &["--keep", "3"]),
        ("attribute", &query, &["--format", "safetensors", "--keep-gradients"]),
    ];
    for (number, (command, rows, more)) in commands.into_iter().enumerate() {
        let [one, other] = [1, 2].map(|run| {
            let out = format!("{number}-{run}");
            folder.succeed(command, &args, &[rows, more, &["--out", &out]].concat());
            contents(&folder, &out)
        });
        assert!(one == other, "{command} {more:?}");
    }
    folder.write_rows("rows.jsonl", &completions(8));
    let llama = model("llama");
    let tune = ["--model", &llama, "--train", "rows.jsonl", "--epochs", "2", "--batch-size", "4"];
    let [one, other] = ["tuned-1", "tuned-2"].map(|out| {
        let run = folder.run("finetune", &[&tune[..], &["--out", out]].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        contents(&folder, out)
    });
    assert!(one == other, "finetune");
}
