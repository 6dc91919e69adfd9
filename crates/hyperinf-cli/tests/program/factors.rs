//! The curvature that an index keeps: scores are the same with and without it, and it is used only where it belongs.

use std::fs;

use serde_json::Value;

use crate::support::{Folder, Run, device_names};
use crate::texts::{bert, three_classes};

const ROWS: [&str; 6] = ["--train", "train.jsonl", "--truncate", "--batch-size", "4", "--index"];

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(40));
    folder.write_rows("query.jsonl", &three_classes(3));
    folder.write_rows("other.jsonl", &three_classes(7)[3..]);
    folder
}

/// The files of kept curvature in `index`.
fn kept(folder: &Folder) -> Vec<String> {
    let files = folder.files_in("index").into_iter();
    files.filter(|name| name.starts_with("factors-") && name.ends_with(".safetensors")).collect()
}

/// The bytes of all results in a folder.
fn results(folder: &Folder, out: &str) -> Vec<(String, Vec<u8>)> {
    let read = |name: String| {
        let bytes = fs::read(folder.file(&format!("{out}/{name}"))).expect("it is a file");
        (name, bytes)
    };
    folder.files_in(out).into_iter().map(read).collect()
}

fn attribute(folder: &Folder, out: &str, more: &[&str]) -> Run {
    let args = [&ROWS[..], &["index", "--format", "safetensors", "--out", out], more].concat();
    folder.succeed("attribute", &bert(), &args)
}

fn ask(folder: &Folder, more: &[&str]) -> Value {
    let run = folder.run("query", &[&["--index", "index", "--query", "query.jsonl", "--json"], more].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    serde_json::from_str(&run.stdout).expect("--json prints JSON")
}

/// The same results whether nothing is kept, the curvature is kept, or that of an earlier run is found.
#[track_caller]
fn check(folder: &Folder, method: &[&str], keeps: Result<(), &str>) {
    for file in kept(folder) {
        fs::remove_file(folder.file(&format!("index/{file}"))).expect("it is a file");
    }
    let run = |out: &str, query: &str, more: &[&str]| {
        attribute(folder, out, &[&["--query", query], method, more].concat()).stderr
    };
    run("without", "query.jsonl", &["--keep-nothing"]);
    assert_eq!(kept(folder), [""; 0], "{method:?}");
    // Of another query first.
    let first = run("first", "other.jsonl", &[]);
    let second = run("second", "query.jsonl", &[]);
    match keeps {
        Ok(()) => {
            assert_eq!(kept(folder).len(), 1, "{method:?}");
            assert!(first.contains("the curvature is kept for the next run, "), "{method:?}: {first}");
            assert!(second.contains("the curvature is that of an earlier run, in "), "{method:?}: {second}");
        }
        Err(reason) => {
            assert_eq!(kept(folder), [""; 0], "{method:?}");
            assert!(second.contains(&format!("no curvature is kept in the index: {reason}")), "{method:?}: {second}");
        }
    }
    assert!(results(folder, "without") == results(folder, "second"), "{method:?}");
}

#[test]
fn results_are_those_without_kept_curvature() {
    let folder = folder();
    let own = Err("the method works on the gradients themselves");
    let cases: [(&[&str], Result<(), &str>); 14] = [
        (&["--method", "identity"], Err("the method has no curvature")),
        (&["--method", "hyperinf"], Ok(())),
        (&["--method", "hyperinf:cols", "--damping", "1"], Ok(())),
        (&["--method", "hyperinf", "--solver", "exact", "--normalise", "l-relatif"], Ok(())),
        (&["--method", "hyperinf", "--project", "2"], Ok(())),
        (&["--method", "hyperinf:merged"], Ok(())),
        (&["--method", "diagonal:merged"], Ok(())),
        (&["--method", "diagonal"], Ok(())),
        (&["--method", "shampoo"], Ok(())),
        (&["--method", "kfac"], Ok(())),
        (&["--method", "ekfac"], Ok(())),
        (&["--method", "hyperinf@sampled"], Ok(())),
        (&["--method", "datainf"], own),
        (&["--method", "exact"], own),
    ];
    for (method, keeps) in cases {
        check(&folder, method, keeps);
    }
}

#[test]
fn detect_and_select_take_it_too() {
    let folder = folder();
    let index = [&ROWS[..], &["index", "--validation", "query.jsonl"]].concat();
    let detect = ["--remove", "3"];
    let select = ["--keep", "5", "--diverse", "--drop-duplicates=0.9", "--validation", "other.jsonl"];
    for (command, more) in [("detect", &detect[..]), ("select", &select[..])] {
        let run = |out: &str, keep: &[&str]| {
            folder.succeed(command, &bert(), &[&index[..], more, keep, &["--out", out]].concat()).stderr
        };
        run(&format!("{command}-without"), &["--keep-nothing"]);
        run(&format!("{command}-first"), &[]);
        let told = run(&format!("{command}-second"), &[]);
        assert!(told.contains("the curvature is that of an earlier run"), "{told}");
        let [without, second] = ["without", "second"].map(|which| results(&folder, &format!("{command}-{which}")));
        assert!(without == second, "{command}");
    }
}

#[test]
fn it_is_used_only_where_it_belongs() {
    let folder = folder();
    attribute(&folder, "out", &["--query", "query.jsonl"]);
    // Neither the damping nor the solver is a part of it.
    let found = |more: &[&str]| ask(&folder, more)["curvature_found"] == true;
    assert!(found(&[]) && found(&["--damping", "0.5"]) && found(&["--solver", "exact"]));
    assert!(!found(&["--method", "hyperinf:cols"]) && !found(&["--method", "diagonal"]));
    assert!(!found(&["--project", "2"]) && !found(&["--project", "2", "--seed", "1"]) && !found(&["--project", "3"]));
    for device in device_names().iter().skip(1) {
        assert!(!found(&["--device", device]), "{device}");
    }
    assert!(found(&["--project", "2", "--seed", "1"]));
    let one = ask(&folder, &["--method", "identity"]);
    assert_eq!((&one["curvature_bytes"], &one["nothing_kept"]), (&Value::Null, &"the method has no curvature".into()));
    // Of an index that grew, nothing that is there is used, and all of it goes.
    folder.write_rows("train.jsonl", &three_classes(44));
    let grown = attribute(&folder, "out", &["--query", "query.jsonl"]);
    assert!(grown.stderr.contains("the curvature is kept for the next run"), "{}", grown.stderr);
    assert_eq!(kept(&folder).len(), 1);
}

#[test]
fn damage_is_found_and_not_used() {
    let folder = folder();
    attribute(&folder, "out", &["--query", "query.jsonl"]);
    let whole = ask(&folder, &["--output", "whole.safetensors"]);
    let name = kept(&folder).remove(0);
    let path = folder.file(&format!("index/{name}"));
    let bytes = fs::read(&path).expect("it is a file");
    let flipped = |place: usize| {
        let mut bytes = bytes.clone();
        bytes[place] ^= 4;
        bytes
    };
    let other = folder.file("index/factors-0123456789abcdef.safetensors");
    for damaged in [flipped(bytes.len() - 3), flipped(60), bytes[..bytes.len() / 2].to_vec(), Vec::new()] {
        fs::write(&path, &damaged).expect("written");
        let run = folder.run("verify", &["index"]);
        assert_eq!(run.code, Some(3), "{run:?}");
        assert!(run.stdout.contains(&format!("{name}: this kept curvature is damaged")), "{run:?}");
        let asked = ask(&folder, &["--output", "asked.safetensors"]);
        assert_eq!((&asked["curvature_found"], &asked["answers"]), (&false.into(), &whole["answers"]));
        // The question has mended it.
        assert!(fs::read(&path).expect("it is a file") == bytes);
        fs::write(&path, &damaged).expect("written");
        let run = folder.run("verify", &["index", "--repair"]);
        assert_eq!((run.code, path.exists()), (Some(0), false), "{run:?}");
        fs::write(&path, &bytes).expect("written");
    }
    let told = folder.run("verify", &["index"]);
    assert!(told.code == Some(0) && told.stdout.contains("1 file of kept curvature, "), "{told:?}");
    // Under the name of another one.
    fs::rename(&path, &other).expect("renamed");
    assert_eq!(folder.run("verify", &["index"]).code, Some(3));
    assert_eq!(ask(&folder, &[])["curvature_found"], false);
}
