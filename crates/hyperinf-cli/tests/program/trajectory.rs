//! `--method tracin-cp,tracin-adam,source`: scores over the recorded states of a training.

use std::fs;

use hyperinf_tests::compare::assert_close;

use crate::support::{Folder, csv_rows};
use crate::texts::{model, two_kinds};

const METHODS: [&str; 3] = ["tracin-cp", "tracin-adam", "source"];

fn base() -> Vec<String> {
    ["--model".to_owned(), model("bert")].into()
}

/// A folder with rows of two kinds, some with the wrong label, and an adapter whose training was recorded: 16 steps.
fn recorded() -> Folder {
    let folder = Folder::new();
    let mut rows = two_kinds(24, 0);
    for row in [3, 10, 17] {
        rows[row]["label"] = if rows[row]["label"] == "animal" { "water".into() } else { "animal".into() };
    }
    folder.write_rows("train.jsonl", &rows);
    folder.write_rows("query.jsonl", &two_kinds(6, 30));
    let train = ["--train", "train.jsonl", "--out", "adapter", "--epochs", "4", "--batch-size", "6", "--record"];
    folder.succeed("finetune", &base(), &[&train[..], &["--learning-rate", "5e-3"]].concat());
    folder
}

const WITH: [&str; 6] = ["--adapter", "adapter", "--train", "train.jsonl", "--query", "query.jsonl"];

fn scores(folder: &Folder, out: &str) -> Vec<f64> {
    let mut lines: Vec<(u64, u64, f64)> = folder
        .lines(&format!("{out}/scores.jsonl"))
        .iter()
        .map(|line| {
            let id = |name: &str| line[name].as_u64().unwrap_or(0);
            (id("query_id"), id("train_id"), line["score"].as_f64().expect("a score"))
        })
        .collect();
    lines.sort_by_key(|line| (line.0, line.1));
    lines.into_iter().map(|line| line.2).collect()
}

fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (a, b) = (mean(x), mean(y));
    let sum = |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(y).map(|(x, y)| f(x - a, y - b)).sum::<f64>();
    sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt()
}

#[test]
fn rows_are_scored_over_recorded_states() {
    let folder = recorded();
    let all = ["--out", "out", "--format", "jsonl", "--method", "tracin-cp,tracin-adam,source,unrolled"];
    let run = folder.succeed("attribute", &base(), &[&WITH[..], &all].concat());
    assert!(run.stderr.contains("4 recorded states: 4 forward and backward passes"), "{}", run.stderr);
    assert!(run.stderr.contains("4 recorded states: 16 forward and backward passes"), "{}", run.stderr);
    assert!(run.stdout.contains("followed  4 recorded states, in segments of 1, 1, 2"), "{}", run.stdout);
    let mean =
        ["--out", "mean", "--format", "jsonl", "--method", "tracin-cp,tracin-adam,source", "--query-mode", "mean"];
    folder.succeed("attribute", &base(), &[&WITH[..], &mean].concat());
    let exact = scores(&folder, "out/unrolled");
    for method in METHODS {
        let summary = folder.json(&format!("out/{method}/summary.json"));
        assert_eq!((&summary["method"], &summary["sign"]), (&method.into(), &"positive = helpful".into()));
        let found = &summary["recorded"];
        assert_eq!(found["states"], serde_json::json!([0, 4, 8, 12]), "{method}");
        assert_eq!(found["durations"].as_array().map(Vec::len), Some(4), "{method}");
        assert_eq!(summary["seed"].is_null(), method != "source", "{method}");
        let each = scores(&folder, &format!("out/{method}"));
        assert_eq!(each.len(), 6 * 24);
        // The mean query's scores are the means.
        let of_mean = scores(&folder, &format!("mean/{method}"));
        let means: Vec<f64> =
            (0..24).map(|row| (0..6).map(|query| each[query * 24 + row]).sum::<f64>() / 6.0).collect();
        assert_close(method, &of_mean, &means, 1e-4);
        // They are about the same thing as the exact derivative.
        let found = correlation(&each, &exact);
        assert!(found > 0.3, "{method}: {found}");
    }
    // The batches of the rows change nothing but the last digits.
    let other = ["--out", "other", "--format", "jsonl", "--method", "tracin-cp,tracin-adam", "--batch-size", "5"];
    folder.succeed("attribute", &base(), &[&WITH[..], &other].concat());
    for method in &METHODS[..2] {
        let (a, b) = (scores(&folder, &format!("out/{method}")), scores(&folder, &format!("other/{method}")));
        assert_close(method, &b, &a, 1e-4);
    }
    // Equal commands write equal files; another seed draws other labels.
    let bytes = || fs::read(folder.file("seeded/scores.jsonl")).expect("it was written");
    let seeded = |seed: &str| {
        let args = ["--out", "seeded", "--format", "jsonl", "--method", "source", "--seed", seed];
        folder.succeed("attribute", &base(), &[&WITH[..], &args].concat());
        bytes()
    };
    let first = seeded("3");
    assert!(seeded("4") != first);
    assert!(seeded("3") == first);
}

#[test]
fn wrong_labels_are_found_and_rows_selected_over_states() {
    let folder = recorded();
    let with = ["--adapter", "adapter", "--train", "train.jsonl", "--validation", "query.jsonl"];
    for method in METHODS {
        let args = ["--method", method, "--out", "found", "--remove", "3"];
        folder.succeed("detect", &base(), &[&with[..], &args].concat());
        assert_eq!(csv_rows(&folder.file("found/suspicious.csv")).len(), 24);
        assert_eq!(folder.lines("found/cleaned.jsonl").len(), 21);
    }
    let args = ["--method", "tracin-adam", "--out", "kept", "--keep", "50%"];
    folder.succeed("select", &base(), &[&with[..], &args].concat());
    assert_eq!(folder.lines("kept/selected.jsonl").len(), 12);
    let page = folder.succeed("report", &[], &["found"]);
    assert!(page.stdout.contains("report.html") || folder.file("found/report.html").exists(), "{}", page.stdout);
}

/// A training by gradient descent is followed, too; it has no metric of second moments.
#[test]
fn gradient_descent_is_followed() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &two_kinds(24, 0));
    folder.write_rows("query.jsonl", &two_kinds(6, 30));
    let train = ["--train", "train.jsonl", "--out", "adapter", "--epochs", "4", "--batch-size", "6", "--record"];
    let descent = ["--optimizer", "sgd", "--momentum", "0.5", "--learning-rate", "0.05"];
    folder.succeed("finetune", &base(), &[&train[..], &descent].concat());
    let training = &folder.json("adapter/summary.json")["training"];
    assert_eq!((&training["optimizer"], &training["momentum"]), (&"sgd".into(), &0.5.into()), "{training}");
    let all = ["--out", "out", "--format", "jsonl", "--method", "tracin-cp,source,unrolled"];
    folder.succeed("attribute", &base(), &[&WITH[..], &all].concat());
    let exact = scores(&folder, "out/unrolled");
    for method in ["tracin-cp", "source"] {
        let found = correlation(&scores(&folder, &format!("out/{method}")), &exact);
        assert!(found > 0.8, "{method}: {found}");
    }
    for with in [["--method", "tracin-adam"], ["--metric", "adapter"]] {
        let args = [&WITH[..], &["--out", "no"], &with].concat();
        let model = base();
        let all: Vec<&str> = model.iter().map(String::as_str).chain(args).collect();
        let run = folder.run("attribute", &all);
        assert_eq!(run.code, Some(3), "{with:?}: {run:?}");
        assert!(run.stderr.contains("no second moments"), "{with:?}: {}", run.stderr);
    }
    let run = folder
        .run("finetune", &["--model", &model("bert"), "--train", "train.jsonl", "--out", "b", "--momentum", "0.5"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("--momentum"), "{}", run.stderr);
}

#[test]
fn what_has_no_recorded_states_is_refused() {
    let folder = recorded();
    let check = |args: &[&str], code: i32, said: &[&str]| {
        let mut all: Vec<String> = base();
        all.extend(args.iter().map(|&word| word.to_owned()));
        let run = folder.run("attribute", &all.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(run.code, Some(code), "{args:?}: {run:?}");
        said.iter().for_each(|said| assert!(run.stderr.contains(said), "{args:?}: no {said:?} in {}", run.stderr));
        assert!(!folder.file("out/summary.json").exists(), "{args:?}");
    };
    for method in METHODS {
        let with = |more: &[&'static str]| [&WITH[..], &["--out", "out", "--method", method], more].concat();
        check(&with(&["--index", "index"]), 2, &["--index"]);
        check(&with(&["--blocks", "*lora_B*"]), 2, &["--blocks"]);
        check(&with(&["--positions"]), 2, &["--positions"]);
        check(&with(&["--project", "2"]), 2, &["--project"]);
        check(&with(&["--normalise", "cosine"]), 2, &["--normalise"]);
        check(&with(&["--rank-by", "magnitude"]), 2, &["--rank-by magnitude"]);
        check(&with(&["--refine", "3"]), 2, &["--refine", "no inverse"]);
        check(&with(&["--smoothness"]), 2, &["--smoothness"]);
        let plain = model("bert/query_value");
        let of_peft = ["--adapter", &plain, "--train", "train.jsonl", "--query", "query.jsonl", "--out", "out"];
        check(&[&of_peft[..], &["--method", method]].concat(), 2, &["no recording", "--record"]);
    }
    folder.write_rows("train.jsonl", &two_kinds(24, 0));
    check(&[&WITH[..], &["--out", "out", "--method", "source"]].concat(), 3, &["records another training"]);
}
