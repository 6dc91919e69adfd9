//! `hyperinf eval adapter`: the adapter is trained again without some rows, and methods are compared with that.

use std::collections::BTreeMap;
use std::fs;

use crate::support::{Folder, Run, check_png, csv_rows, number};
use crate::texts::{model, two_kinds};

/// A folder with rows and an adapter whose training was recorded.
fn recorded(epochs: &str) -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &two_kinds(20, 0));
    folder.write_rows("query.jsonl", &two_kinds(4, 30));
    let train = ["--train", "train.jsonl", "--out", "adapter", "--epochs", epochs, "--batch-size", "5", "--record"];
    folder.succeed("finetune", &["--model".to_owned(), model("bert")], &train);
    folder
}

fn args<'a>(model: &'a str, truth: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let inputs = ["--adapter", "adapter", "--train", "train.jsonl", "--query", "query.jsonl"];
    [&["eval", "adapter", truth, "--model", model][..], &inputs, more].concat()
}

fn eval(folder: &Folder, truth: &str, more: &[&str]) -> Run {
    let model = model("bert");
    crate::support::hyperinf(folder.path(), &args(&model, truth, more))
}

fn succeed(folder: &Folder, truth: &str, more: &[&str]) -> Run {
    let run = eval(folder, truth, more);
    assert_eq!(run.code, Some(0), "{truth} {more:?}: {run:?}");
    run
}

/// The files of a folder.
fn contents(folder: &Folder, name: &str) -> BTreeMap<String, Vec<u8>> {
    let names = folder.files_in(name).into_iter();
    names.map(|file| (file.clone(), fs::read(folder.file(&format!("{name}/{file}"))).expect("a file"))).collect()
}

/// What does not depend on the time.
const TIMELESS: [&str; 3] = ["methods.csv", "losses.csv", "summary.json"];

#[test]
fn every_method_is_compared_with_trainings() {
    let folder = recorded("3");
    let methods = "identity,hyperinf,ekfac,unrolled,baselines";
    let all = ["--out", "truth", "--subsets", "6", "--drop", "10%", "--method", methods];
    let run = succeed(&folder, "lds", &all);
    assert!(run.stdout.contains("6 trainings, each without 2 of 20 rows"), "{}", run.stdout);
    assert!(run.stdout.contains("0 from before, 6 now") && run.stdout.contains("one more subset"), "{}", run.stdout);
    let summary = folder.json("truth/summary.json");
    let of = |name: &str| summary[name].clone();
    assert_eq!((of("truth"), of("question")), ("adapter lds".into(), "same".into()));
    assert_eq!((of("subsets"), of("left_out"), of("steps")), (6.into(), 2.into(), 12.into()));
    assert_eq!((of("sign"), of("task")), ("positive = helpful".into(), "classification".into()));
    let methods = csv_rows(&folder.file("truth/methods.csv"));
    let mut names: Vec<&str> = methods.iter().map(|row| row["method"].as_str()).collect();
    names.sort_unstable();
    let expected = ["bm25", "ekfac", "hidden-cosine", "hyperinf", "identity", "length", "loss", "random", "unrolled"];
    assert_eq!(names, expected);
    let scores: Vec<f64> = methods.iter().filter_map(|row| number(row, "lds")).collect();
    assert!(scores.len() == 9 && scores.is_sorted_by(|a, b| a >= b), "the best first: {scores:?}");
    for row in &methods {
        let [low, lds, high] = ["low", "lds", "high"].map(|name| number(row, name).expect("a number"));
        assert!(-1.0 <= low && low <= high && high <= 1.0 && (-1.0..=1.0).contains(&lds), "{row:?}");
    }
    let costs = csv_rows(&folder.file("truth/costs.csv"));
    for row in &costs {
        let bytes = number(row, "bytes").expect("a number");
        let free = ["bm25", "hidden-cosine", "length", "loss", "random"].contains(&row["method"].as_str());
        assert_eq!(free, bytes == 0.0, "{row:?}");
        assert!(number(row, "seconds").is_some_and(|seconds| seconds >= 0.0), "{row:?}");
    }
    let losses = csv_rows(&folder.file("truth/losses.csv"));
    assert_eq!(losses.len(), 6 * 4);
    assert!(losses.iter().any(|row| number(row, "change").is_some_and(|change| change != 0.0)));
    ["methods.png", "course.png", "cost.png"].iter().for_each(|name| check_png(&folder.file(&format!("truth/{name}"))));
    let page = folder.text("truth/report.html");
    assert!(page.starts_with("<!doctype html>") && page.matches("data:image/png;base64,").count() == 3);
    assert!(page.contains("<td>unrolled</td>") && !page.contains("<script"), "{}", &page[..500]);
    assert!(!folder.file("truth/gradients").exists(), "gradients are not kept");

    // Another method, without training; as JSON.
    let again = ["--out", "truth", "--subsets", "6", "--drop", "10%", "--method", "cosine", "--json"];
    let run = succeed(&folder, "lds", &again);
    let printed: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(printed["methods"][0]["method"], "cosine");
    assert_eq!(contents(&folder, "truth/bank").len(), 7, "the key and a file for each training");
}

#[test]
fn a_killed_run_and_parts_end_as_an_undisturbed_one() {
    let folder = recorded("3");
    for question in ["same", "fresh"] {
        let choices = ["--subsets", "8", "--drop", "4", "--method", "identity,loss", "--question", question];
        let whole = format!("whole-{question}");
        succeed(&folder, "lds", &[&choices[..], &["--out", &whole]].concat());
        let expected = contents(&folder, &format!("{whole}/bank"));
        assert_eq!(expected.len(), 9);
        let same = |out: &str| {
            assert!(contents(&folder, &format!("{out}/bank")) == expected, "{out}: the banks are equal to the byte");
            for name in TIMELESS {
                let [one, other] = [&whole, out].map(|folder_of| folder.text(&format!("{folder_of}/{name}")));
                assert_eq!(one, other, "{out}/{name}");
            }
        };
        let killed = format!("killed-{question}");
        let all = [&choices[..], &["--out", &killed]].concat();
        let results = || {
            let names = folder.files_in(&format!("{killed}/bank")).into_iter();
            names.filter(|name| name.starts_with(question)).count()
        };
        let model = model("bert");
        folder.kill_once(&args(&model, "lds", &all), || results() >= 3);
        assert!(results() >= 3 && !folder.file(&format!("{killed}/summary.json")).exists() || results() == 8);
        let run = succeed(&folder, "lds", &all);
        assert!(!run.stdout.contains(": 0 from before"), "{}", run.stdout);
        same(&killed);

        let parts = format!("parts-{question}");
        let all = [&choices[..], &["--out", &parts]].concat();
        let second = succeed(&folder, "lds", &[&all[..], &["--part", "2/2"]].concat());
        assert!(second.stdout.contains("0 from before, 4 now") && second.stdout.contains("4 left to other parts"));
        assert!(!folder.file(&format!("{parts}/summary.json")).exists(), "parts compare nothing");
        succeed(&folder, "lds", &[&all[..], &["--part", "1/2"]].concat());
        let run = succeed(&folder, "lds", &all);
        assert!(run.stdout.contains("8 from before, 0 now"), "{}", run.stdout);
        same(&parts);
    }
}

#[test]
fn rows_are_left_out_one_at_a_time() {
    let folder = recorded("3");
    let run = succeed(&folder, "loo", &["--out", "loo", "--rows", "20", "--method", "unrolled,random"]);
    assert!(run.stdout.contains("20 trainings, each without 1 of 20 rows"), "{}", run.stdout);
    let methods = csv_rows(&folder.file("loo/methods.csv"));
    assert_eq!(methods[0]["method"], "unrolled", "{methods:?}");
    assert!(number(&methods[0], "lds").is_some_and(|lds| lds > 0.8), "{methods:?}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = recorded("1");
    let refused = |truth: &str, more: &[&str], code: i32, said: &[&str]| {
        let run = eval(&folder, truth, more);
        assert_eq!(run.code, Some(code), "{more:?}: {run:?}");
        said.iter().for_each(|said| assert!(run.stderr.contains(said), "{more:?}: no {said:?} in {}", run.stderr));
        assert!(!folder.file("out/summary.json").exists(), "{more:?}");
    };
    let quick = |more: &[&'static str]| [&["--out", "out", "--method", "loss", "--subsets", "2"][..], more].concat();
    refused("lds", &quick(&["--part", "3/2"]), 2, &["--part"]);
    refused("lds", &quick(&["--repeats", "2"]), 2, &["--repeats", "--question same"]);
    refused("lds", &quick(&["--drop", "100%"]), 2, &["20 rows of 19"]);
    refused("lds", &quick(&["--drop", "1%"]), 2, &["0 rows of 20"]);
    refused("lds", &quick(&["--damping", "0"]), 2, &["--damping"]);
    refused("lds", &["--out", "out", "--method", "nothing"], 2, &["nothing"]);
    refused("loo", &["--out", "out", "--method", "loss", "--rows", "21"], 2, &["21 rows of 20"]);
    refused("lds", &["--out", "out", "--subsets", "1"], 2, &["--subsets"]);

    // A bank of other queries, and results that were changed.
    succeed(&folder, "lds", &["--out", "first", "--method", "loss", "--subsets", "2", "--bank", "bank"]);
    folder.write_rows("query.jsonl", &two_kinds(6, 30));
    refused("lds", &quick(&["--bank", "bank"]), 3, &["of other trainings", "queries was 4"]);
    folder.write_rows("query.jsonl", &two_kinds(4, 30));
    let names = folder.files_in("bank");
    let file = folder.file(&format!("bank/{}", names.iter().find(|name| name.starts_with("same-")).expect("one")));
    fs::write(&file, "{}\n").expect("writable");
    refused("lds", &quick(&["--bank", "bank"]), 3, &["is damaged", "it is trained again"]);
    // Another summary in the folder.
    let other = ["--out", "adapter", "--method", "loss", "--subsets", "2"];
    refused("lds", &other, 2, &["finetune"]);
    // Rows that are not those of the training.
    folder.write_rows("train.jsonl", &two_kinds(19, 0));
    refused("lds", &quick(&[]), 3, &["training samples"]);
}

#[test]
fn a_method_that_cannot_be_computed_is_named() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &crate::texts::completions(8));
    folder.write_rows("query.jsonl", &crate::texts::completions(2));
    let train = ["--train", "train.jsonl", "--out", "adapter", "--epochs", "1", "--batch-size", "4", "--record"];
    let llama = model("llama");
    folder.succeed("finetune", &["--model".to_owned(), llama.clone()], &train);
    let all = ["--out", "out", "--subsets", "3", "--drop", "2", "--method", "loss,ekfac:merged,identity"];
    let run = crate::support::hyperinf(folder.path(), &args(&llama, "lds", &all));
    assert_eq!(run.code, Some(0), "{run:?}");
    let methods = csv_rows(&folder.file("out/methods.csv"));
    assert_eq!((methods.len(), methods[2]["method"].as_str()), (3, "ekfac:merged"), "{methods:?}");
    assert!(methods[2]["lds"].is_empty() && !methods[2]["failure"].is_empty(), "{methods:?}");
    assert!(run.stdout.contains("ekfac:merged: "), "{}", run.stdout);
}
