//! `attribute --ensemble`: scores that are the mean over several adapters.

use hyperinf_tests::compare::assert_close;

use crate::support::Folder;
use crate::texts::{model, two_kinds};

fn base() -> Vec<String> {
    ["--model".to_owned(), model("bert")].into()
}

const ROWS: [&str; 4] = ["--train", "train.jsonl", "--query", "query.jsonl"];

/// Three adapters of other seeds, recorded.
fn adapters() -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &two_kinds(12, 0));
    folder.write_rows("query.jsonl", &two_kinds(3, 30));
    for seed in ["1", "2", "3"] {
        let out = format!("a{seed}");
        let train = ["--train", "train.jsonl", "--out", &out, "--epochs", "2", "--batch-size", "4", "--record"];
        folder.succeed("finetune", &base(), &[&train[..], &["--seed", seed]].concat());
    }
    folder
}

fn scores(folder: &Folder, out: &str) -> Vec<f64> {
    let lines = folder.lines(&format!("{out}/scores.jsonl"));
    let number = |line: &serde_json::Value, name: &str| line[name].as_u64().unwrap_or(0);
    let of = |line: &serde_json::Value| {
        (number(line, "query_id"), number(line, "train_id"), line["score"].as_f64().expect("a score"))
    };
    let mut all: Vec<(u64, u64, f64)> = lines.iter().map(of).collect();
    all.sort_by_key(|line| (line.0, line.1));
    all.into_iter().map(|line| line.2).collect()
}

#[test]
fn scores_are_the_mean_over_adapters() {
    let folder = adapters();
    let methods = ["identity", "hyperinf", "ekfac", "unrolled", "tracin-cp", "loss"];
    let list = methods.join(",");
    let attribute = |out: &str, adapter: &str, more: &[&str]| {
        let with = ["--adapter", adapter, "--out", out, "--format", "jsonl", "--method", &list];
        folder.succeed("attribute", &base(), &[&ROWS[..], &with, more].concat())
    };
    for adapter in ["a1", "a2", "a3"] {
        attribute(&format!("of-{adapter}"), adapter, &[]);
    }
    let run = attribute("all", "a1", &["--ensemble", "a2,a3"]);
    assert_eq!(run.stdout.matches("ensemble  the mean over 3 adapters").count(), methods.len(), "{}", run.stdout);
    for method in methods {
        let of = |adapter: &str| scores(&folder, &format!("of-{adapter}/{method}"));
        let [a, b, c] = ["a1", "a2", "a3"].map(of);
        let mean: Vec<f64> = a.iter().zip(&b).zip(&c).map(|((a, b), c)| (a + b + c) / 3.0).collect();
        assert_close(method, &scores(&folder, &format!("all/{method}")), &mean, 1e-6);
        let members = folder.json(&format!("all/{method}/summary.json"))["ensemble"].clone();
        let paths: Vec<&str> = members.as_array().into_iter().flatten().filter_map(|m| m["path"].as_str()).collect();
        assert!(paths.len() == 2 && paths[0].ends_with("a2") && paths[1].ends_with("a3"), "{members}");
    }
    assert!(!folder.file("all/ensemble-2").exists(), "gradients are gone, and their folders");
}

#[test]
fn what_belongs_to_one_adapter_is_refused() {
    let folder = adapters();
    let check = |command: &str, more: &[&str], code: i32, said: &str| {
        let with = ["--adapter", "a1", "--ensemble", "a2"];
        let model = base();
        let words = model.iter().map(String::as_str).chain(ROWS).chain(with).chain(more.iter().copied());
        let words: Vec<&str> = command.split(' ').chain(words).collect();
        let run = crate::support::hyperinf(folder.path(), &words);
        assert_eq!(run.code, Some(code), "{more:?}: {run:?}");
        assert!(run.stderr.contains(said), "{more:?}: no {said:?} in {}", run.stderr);
        assert!(!folder.file("out/summary.json").exists(), "{more:?}");
    };
    let out = |more: &[&'static str]| [&["--out", "out"], more].concat();
    check("attribute", &out(&["--index", "index"]), 2, "--index");
    check("attribute", &out(&["--metric", "a1"]), 2, "--metric");
    check("attribute", &out(&["--refine", "2", "--method", "ekfac"]), 2, "--refine");
    check("attribute", &out(&["--positions"]), 2, "--positions");
    check("plan attribute", &out(&[]), 2, "--ensemble");
    // Other classes.
    let rows: Vec<_> = two_kinds(12, 0)
        .into_iter()
        .map(|mut row| {
            row["label"] = if row["label"] == "animal" { "beast".into() } else { "sea".into() };
            row
        })
        .collect();
    folder.write_rows("others.jsonl", &rows);
    let train = ["--train", "others.jsonl", "--out", "a2", "--epochs", "1", "--batch-size", "4", "--overwrite"];
    folder.succeed("finetune", &base(), &train);
    check("attribute", &out(&["--method", "identity"]), 3, "");
}
