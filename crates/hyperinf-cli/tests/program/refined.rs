//! `--refine`: the inverse of each block, refined to that of the Gauss-Newton matrix over all blocks.

use std::fs;

use serde_json::Value;

use crate::support::{Folder, csv_rows};
use crate::texts::{bert, completions, llama, three_classes};

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(24));
    folder.write_rows("query.jsonl", &three_classes(4));
    folder
}

const ROWS: [&str; 4] = ["--train", "train.jsonl", "--query", "query.jsonl"];

fn scores(folder: &Folder, out: &str) -> Vec<f64> {
    let lines = folder.lines(&format!("{out}/scores.jsonl"));
    lines.iter().map(|line| line["score"].as_f64().expect("a score")).collect()
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn the_residual_of_every_query_falls() {
    let folder = folder();
    let with = |out: &str, more: &[&str]| {
        let all = [&ROWS[..], &["--out", out, "--format", "jsonl", "--method", "ekfac"], more].concat();
        folder.succeed("attribute", &bert(), &all)
    };
    with("plain", &[]);
    assert!(folder.json("plain/summary.json")["refined"].is_null());
    // Without a step the scores are those of the method, to the bit.
    let run = with("none", &["--refine", "0"]);
    assert!(run.stdout.contains("refined   0 steps with the Gauss-Newton matrix of 24 rows"), "{}", run.stdout);
    let bytes = |out: &str| fs::read(folder.file(&format!("{out}/scores.jsonl"))).expect("it was written");
    assert!(bytes("none") == bytes("plain"));

    let run = with("some", &["--refine", "8"]);
    assert!(run.stderr.contains("8 steps of refinement for 4 queries: 246 forward and 82 backward passes"), "{run:?}");
    assert!(run.stdout.contains("refined   8 steps with the Gauss-Newton matrix of 24 rows"), "{}", run.stdout);
    let (none, some) = (folder.json("none/summary.json"), folder.json("some/summary.json"));
    let (none, some) = (&none["refined"], &some["refined"]);
    assert_eq!((&some["steps"], &some["rows"], &some["seed"]), (&8.into(), &24.into(), &Value::Null));
    let error = float(&some["error"]);
    assert!(error > 0.0 && error < 0.02, "{error}");
    let queries = |found: &Value| found["queries"].as_array().expect("a list").clone();
    assert_eq!(queries(some).len(), 4);
    for (before, after) in queries(none).iter().zip(queries(some)) {
        assert_eq!((&before["steps"], &before["residual_after"]), (&0.into(), &before["residual_before"]));
        assert_eq!((&before["residual_before"], &after["steps"]), (&after["residual_before"], &8.into()));
        assert!(float(&after["residual_after"]) < 0.5 * float(&after["residual_before"]), "{after}");
        assert!(float(&after["residual_before"]) <= float(&some["residual_before"]), "{after}");
        // The model was hardly trained: its inverse of each layer is far from that of all.
        assert!(float(&after["spearman"]) < 0.999, "{after}");
        assert!((float(&before["spearman"]) - 1.0).abs() < 1e-9, "{before}");
    }
    assert!(scores(&folder, "some") != scores(&folder, "plain"));
    // Equal commands write equal files.
    let before = bytes("some");
    with("some", &["--refine", "8"]);
    assert!(before == bytes("some"));
}

#[test]
fn whatever_the_method_the_scores_become_the_same() {
    let folder = folder();
    let mut found: Vec<Vec<f64>> = Vec::new();
    let methods = ["ekfac", "hyperinf", "shampoo", "exact", "diagonal", "ekfac@sampled", "exact:merged"];
    for method in methods {
        let all = [&ROWS[..], &["--out", method, "--format", "jsonl", "--method", method]].concat();
        let more = ["--refine", "60", "--damping-absolute", "0.05", "--query-mode", "mean"];
        folder.succeed("attribute", &bert(), &[&all[..], &more].concat());
        found.push(scores(&folder, method));
        let after = float(&folder.json(&format!("{method}/summary.json"))["refined"]["residual_after"]);
        assert!(after < 1e-2, "{method}: {after}");
    }
    let ids = |method: &str| -> Vec<Value> {
        folder.lines(&format!("{method}/scores.jsonl")).iter().map(|line| line["train_id"].clone()).collect()
    };
    let by_id = |method: &str, scores: &[f64]| {
        let mut all: Vec<(String, f64)> =
            ids(method).iter().map(Value::to_string).zip(scores.iter().copied()).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.into_iter().map(|(_, score)| score).collect::<Vec<f64>>()
    };
    let first = by_id(methods[0], &found[0]);
    let largest = first.iter().fold(0.0_f64, |most, score| most.max(score.abs()));
    for (method, scores) in methods.iter().zip(&found).skip(1) {
        for (a, b) in first.iter().zip(by_id(method, scores)) {
            // Products in f32.
            assert!((a - b).abs() < 2e-2 * largest, "{method}: {b}, not {a}, of {largest}");
        }
    }
}

#[test]
fn a_sample_of_rows_some_blocks_and_an_index_go_with_it() {
    let folder = folder();
    let with = |out: &str, more: &[&str]| {
        let all = [&ROWS[..], &["--out", out, "--format", "jsonl", "--method", "shampoo", "--refine", "3"], more];
        folder.succeed("attribute", &bert(), &all.concat())
    };
    let sample = ["--refine-sample", "10", "--seed", "5"];
    with("sample", &sample);
    let refined = folder.json("sample/summary.json")["refined"].clone();
    assert_eq!((&refined["rows"], &refined["seed"]), (&10.into(), &5.into()));
    with("again", &sample);
    with("other", &["--refine-sample", "10", "--seed", "6"]);
    with("all", &["--refine-sample", "24"]);
    with("whole", &[]);
    assert_eq!(scores(&folder, "sample"), scores(&folder, "again"));
    assert_ne!(scores(&folder, "sample"), scores(&folder, "other"));
    assert_eq!(scores(&folder, "all"), scores(&folder, "whole"));
    // Other rows at each step.
    let fresh = ["--refine-sample", "10", "--seed", "5", "--refine-fresh"];
    let run = with("fresh", &fresh);
    let what = "refined   3 steps, each with the Gauss-Newton matrix of 10 rows drawn for it: residual against that of";
    assert!(run.stdout.contains(what), "{}", run.stdout);
    assert!(run.stderr.contains("3 steps of refinement for 4 queries: 99 forward and 33 backward"), "{}", run.stderr);
    let refined = folder.json("fresh/summary.json")["refined"].clone();
    assert_eq!((&refined["fresh"], &refined["rows"], &refined["seed"]), (&true.into(), &10.into(), &5.into()));
    with("fresh-again", &fresh);
    assert_eq!(scores(&folder, "fresh"), scores(&folder, "fresh-again"));
    assert_ne!(scores(&folder, "fresh"), scores(&folder, "sample"));
    // Of an index the training gradients are those of the rows, the curvature is kept, and so are the scores.
    for _ in 0..2 {
        with("indexed", &["--index", "index"]);
        assert_eq!(scores(&folder, "indexed"), scores(&folder, "whole"));
    }
    // The matrix of some blocks is a part of that of all.
    with("some", &["--blocks", "*lora_B*"]);
    let (some, whole) = (folder.json("some/summary.json"), folder.json("whole/summary.json"));
    assert!(some["gradient_blocks"].as_u64() < whole["gradient_blocks"].as_u64());
    let refined = &some["refined"];
    assert!(float(&refined["residual_after"]) < float(&refined["residual_before"]), "{refined}");
    // The cost is said before the run, too.
    let of_model = bert();
    let model: Vec<&str> = of_model.iter().map(String::as_str).collect();
    let more = ["--out", "planned", "--method", "shampoo", "--refine", "3", "--refine-sample", "10"];
    let plan = [&["attribute"][..], &model, &ROWS, &more].concat();
    let run = folder.run("plan", &plan);
    assert!(run.code == Some(0) && run.stdout.contains("3 steps for 4, 10 rows"), "{run:?}");
}

#[test]
fn rows_are_detected_and_selected_by_it() {
    let folder = folder();
    let with = ["--train", "train.jsonl", "--validation", "query.jsonl", "--method", "ekfac", "--refine", "4"];
    let run = folder.succeed("detect", &bert(), &[&with[..], &["--out", "found", "--remove", "2"]].concat());
    assert!(run.stdout.contains("refined   4 steps"), "{}", run.stdout);
    assert_eq!(csv_rows(&folder.file("found/suspicious.csv")).len(), 24);
    assert_eq!(folder.json("found/summary.json")["refined"]["queries"].as_array().map(Vec::len), Some(1));
    // Each file of a selection has its own query.
    folder.write_rows("second.jsonl", &three_classes(7));
    let more = ["--validation", "second.jsonl", "--out", "kept", "--keep", "25%", "--drop-duplicates=0.99"];
    folder.succeed("select", &bert(), &[&with[..], &more].concat());
    assert_eq!(folder.json("kept/summary.json")["refined"]["queries"].as_array().map(Vec::len), Some(2));
    assert_eq!(folder.lines("kept/selected.jsonl").len(), 6);
}

#[test]
fn language_models_are_refined() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(12));
    folder.write_rows("query.jsonl", &completions(3));
    let more = ["--out", "out", "--method", "ekfac,hyperinf", "--refine", "6"];
    folder.succeed("attribute", &llama(), &[&ROWS[..], &more].concat());
    for method in ["ekfac", "hyperinf"] {
        let refined = folder.json(&format!("out/{method}/summary.json"))["refined"].clone();
        assert!(float(&refined["residual_after"]) < float(&refined["residual_before"]), "{method}: {refined}");
    }
}

#[test]
fn what_cannot_be_refined_is_refused() {
    let folder = folder();
    let check = |command: &str, args: &[&str], said: &[&str]| {
        let of_model = bert();
        let model: Vec<&str> = of_model.iter().map(String::as_str).collect();
        let run = folder.run(command, &[&model[..], args].concat());
        assert_eq!(run.code, Some(2), "{args:?}: {run:?}");
        said.iter().for_each(|said| assert!(run.stderr.contains(said), "{args:?}: no {said:?} in {}", run.stderr));
        assert!(!folder.file("out/summary.json").exists(), "{args:?}");
    };
    let attribute = |more: &[&str], said: &[&str]| {
        check("attribute", &[&ROWS[..], &["--out", "out", "--refine", "2"], more].concat(), said);
    };
    attribute(&["--method", "identity"], &["--refine", "no curvature"]);
    attribute(&["--method", "ekfac,cosine"], &["--refine", "no curvature"]);
    attribute(&["--method", "bm25"], &["--method bm25", "--refine", "no inverse"]);
    attribute(&["--method", "unrolled"], &["--method unrolled", "--refine", "no inverse"]);
    attribute(&["--project", "2"], &["--refine", "--project", "not projected"]);
    attribute(&["--project", "2", "--uncertainty", "3"], &["--refine"]);
    attribute(&["--method", "ekfac", "--estimate", "sampled", "--uncertainty", "3"], &["--refine", "--uncertainty"]);
    attribute(&["--positions"], &["--refine", "--positions"]);
    attribute(&["--normalise", "l-relatif"], &["--refine", "--normalise"]);
    attribute(&["--normalise", "theta-relatif"], &["--refine", "--normalise"]);
    attribute(&["--refine-sample", "0"], &["--refine-sample"]);
    attribute(&["--refine-sample", "25"], &["25", "at most all"]);
    attribute(&["--refine-fresh"], &["--refine-sample"]);
    let sample = [&ROWS[..], &["--out", "out", "--refine-sample", "3"]].concat();
    check("attribute", &sample, &["--refine"]);
    let select = ["--train", "train.jsonl", "--validation", "query.jsonl", "--keep", "3", "--out", "out"];
    check("select", &[&select[..], &["--refine", "2", "--diverse"]].concat(), &["--refine", "--diverse"]);
    // Stored gradients have no model.
    let run = folder.run("score", &["--train-gradients", "a", "--query-gradients", "b", "--refine", "2"]);
    assert!(run.code == Some(2) && run.stderr.contains("--refine"), "{run:?}");
}
