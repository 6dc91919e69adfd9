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

/// The files of a bank but for the scores of methods, which have their seconds.
fn trainings(folder: &Folder, out: &str) -> BTreeMap<String, Vec<u8>> {
    let mut found = contents(folder, &format!("{out}/bank"));
    found.retain(|name, _| !name.starts_with("scores-"));
    found
}

/// What does not depend on the time.
const TIMELESS: [&str; 3] = ["methods.csv", "losses.csv", "summary.json"];
const TIMELESS_OF_CHOICES: [&str; 3] = ["methods.csv", "changes.csv", "summary.json"];

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
    assert_eq!(trainings(&folder, "truth").len(), 7, "the key and a file for each training");
    assert_eq!(contents(&folder, "truth/bank").len(), 7 + 10, "and one for each method");

    // The first ones again cost nothing, and have the seconds that they took.
    let run = succeed(&folder, "lds", &all);
    assert!(run.stderr.contains("the scores of 9 of 9 methods are those of an earlier run"), "{}", run.stderr);
    assert_eq!(csv_rows(&folder.file("truth/costs.csv")), costs);
    assert_eq!(csv_rows(&folder.file("truth/methods.csv")), methods);
}

#[test]
fn a_killed_run_and_parts_end_as_an_undisturbed_one() {
    let folder = recorded("3");
    for question in ["same", "fresh"] {
        let choices = ["--subsets", "8", "--drop", "4", "--method", "identity,loss", "--question", question];
        let whole = format!("whole-{question}");
        succeed(&folder, "lds", &[&choices[..], &["--out", &whole]].concat());
        let expected = trainings(&folder, &whole);
        assert_eq!(expected.len(), 9);
        let same = |out: &str| {
            assert!(trainings(&folder, out) == expected, "{out}: the banks are equal to the byte");
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

/// Without its most helpful row a query's loss changes as in the training that leaves out this row.
#[test]
fn most_helpful_rows_are_left_out() {
    let folder = recorded("3");
    succeed(&folder, "loo", &["--out", "loo", "--rows", "20", "--method", "random"]);
    let of_query = |rows: &[BTreeMap<String, String>], id: &str| -> Vec<f64> {
        rows.iter().filter(|row| row["query_id"] == id).filter_map(|row| number(row, "change")).collect()
    };
    let single = csv_rows(&folder.file("loo/losses.csv"));
    let all = ["--out", "one", "--remove", "1", "--method", "unrolled,identity,random", "--bank", "loo/bank"];
    let run = succeed(&folder, "brittleness", &all);
    // All trainings but that on all rows are in the bank.
    assert!(run.stdout.contains("12 from before, 1 now"), "{}", run.stdout);
    let changes = csv_rows(&folder.file("one/changes.csv"));
    assert_eq!(changes.len(), 3 * 4);
    for id in ["0", "1", "2", "3"] {
        let known = of_query(&single, id);
        let of_method = |method: &str| {
            let rows: Vec<_> = changes.iter().filter(|row| row["method"] == method).cloned().collect();
            of_query(&rows, id)[0]
        };
        for method in ["unrolled", "identity", "random"] {
            let found = of_method(method);
            assert!(known.iter().any(|change| (change - found).abs() < 1e-9), "{method}, {id}: {found}, {known:?}");
        }
        let most = known.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert!(of_method("unrolled") > 0.8 * most, "{id}: {} of {most}", of_method("unrolled"));
    }
    let summary = folder.json("one/summary.json");
    assert_eq!((&summary["truth"], &summary["amount"]), (&"adapter brittleness".into(), &1.into()));
    assert_eq!(summary["methods"][0]["method"], "unrolled");
    let page = folder.text("one/report.html");
    assert!(page.matches("data:image/png;base64,").count() == 1 && page.contains("<td>unrolled</td>"));
    check_png(&folder.file("one/changes.png"));
}

#[test]
fn selections_are_trained_on() {
    let folder = recorded("3");
    let all = ["--out", "kept", "--keep", "50%", "--method", "hyperinf,loss", "--question", "fresh", "--repeats", "2"];
    let part = succeed(&folder, "selection", &[&all[..], &["--part", "1/2"]].concat());
    assert!(part.stdout.contains("3 now") && part.stdout.contains("3 left to other parts"), "{}", part.stdout);
    let run = succeed(&folder, "selection", &all);
    assert!(run.stdout.contains("the best 50 % of 20 rows") && run.stdout.contains("3 now"), "{}", run.stdout);
    assert!(run.stdout.contains("the losses of 2 others"), "{}", run.stdout);
    let before = TIMELESS_OF_CHOICES.map(|name| folder.text(&format!("kept/{name}")));
    let run = succeed(&folder, "selection", &all);
    assert!(run.stdout.contains("6 from before, 0 now"), "{}", run.stdout);
    assert_eq!(before, TIMELESS_OF_CHOICES.map(|name| folder.text(&format!("kept/{name}"))));
    let changes = csv_rows(&folder.file("kept/changes.csv"));
    assert_eq!(changes.iter().map(|row| row["query_id"].as_str()).collect::<Vec<_>>(), ["1", "3", "1", "3"]);
    // Of each method the mean over the queries.
    for row in csv_rows(&folder.file("kept/methods.csv")) {
        let own = changes.iter().filter(|change| change["method"] == row["method"]);
        let own: Vec<f64> = own.filter_map(|change| number(change, "change")).collect();
        let mean = own.iter().sum::<f64>() / 2.0;
        assert!(number(&row, "change").is_some_and(|found| (found - mean).abs() < 1e-9), "{row:?}");
    }
}

/// A refined inverse is judged next to the method's own, gradients in a metric as those of the method.
#[test]
fn refined_methods_and_metrics_are_judged() {
    let folder = recorded("3");
    let all = ["--out", "out", "--subsets", "3", "--drop", "2", "--method", "ekfac,identity", "--refine", "2"];
    succeed(&folder, "lds", &all);
    let methods = csv_rows(&folder.file("out/methods.csv"));
    let mut names: Vec<&str> = methods.iter().map(|row| row["method"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["ekfac", "ekfac --refine 2", "identity"]);
    assert!(methods.iter().all(|row| number(row, "lds").is_some()), "{methods:?}");
    let all = ["--out", "out", "--subsets", "3", "--drop", "2", "--method", "ekfac,recorded", "--metric", "adapter"];
    succeed(&folder, "lds", &all);
    let methods = csv_rows(&folder.file("out/methods.csv"));
    let failed: Vec<&str> =
        methods.iter().filter(|row| number(row, "lds").is_none()).map(|row| row["method"].as_str()).collect();
    assert_eq!((methods.len(), failed), (5, vec!["ekfac"]));
    assert_eq!(folder.json("out/summary.json")["metric"], "adapter");
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
    let chosen = |more: &[&'static str]| [&["--out", "out", "--method", "loss"][..], more].concat();
    refused("brittleness", &chosen(&["--remove", "0"]), 2, &["--remove"]);
    refused("brittleness", &chosen(&["--remove", "20"]), 2, &["20 rows of 19"]);
    refused("selection", &chosen(&["--keep", "100%"]), 2, &["20 rows of 19"]);

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
