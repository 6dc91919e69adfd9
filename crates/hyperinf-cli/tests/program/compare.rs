//! `hyperinf compare`: its figures follow from the scores of `hyperinf score`.

use std::collections::BTreeSet;
use std::fs;

use hyperinf::eval::{pearson, spearman};
use hyperinf::scoring::ranking;
use serde_json::Value;

use crate::support::{Folder, Run, check_png, csv_rows, device_names, f32s, hyperinf, number, whole};

const INPUTS: [&str; 5] =
    ["compare", "--train-gradients", "train.safetensors", "--query-gradients", "query.safetensors"];
const FILES: [&str; 5] = ["methods.csv", "pairs.csv", "run.toml", "spearman.png", "summary.json"];

fn compare(folder: &Folder, args: &[&str]) -> Run {
    hyperinf(folder.path(), &[&INPUTS[..], args].concat())
}

/// Fails unless the run ends with the code, says all of `needles` and leaves no file.
fn check_error(folder: &Folder, args: &[&str], code: i32, needles: &[&str]) {
    let run = compare(folder, args);
    assert_eq!(run.code, Some(code), "{args:?}: {run:?}");
    for needle in needles {
        assert!(run.stderr.contains(needle), "{args:?}: no {needle:?} in\n{}", run.stderr);
    }
    assert_eq!(run.stdout, "", "{args:?}");
    let out = args.iter().skip_while(|arg| **arg != "--out").nth(1).unwrap_or(&"hyperinf-compare");
    for name in FILES {
        assert!(!folder.file(out).join(name).exists(), "{args:?} left {name}");
    }
}

#[test]
fn agreements_are_those_of_the_scores() {
    for device in device_names() {
        let folder = Folder::with_gradients();
        let names = ["identity", "datainf", "exact"];
        let run =
            compare(&folder, &["--methods", "identity,datainf,exact,identity", "--top-k", "2", "--device", &device]);
        assert_eq!(run.code, Some(0), "{run:?}");
        let scores = names.map(|name| folder.scores(&["--method", name, "--device", &device]));
        let pairs = csv_rows(&folder.file("hyperinf-compare/pairs.csv"));
        assert_eq!(pairs.len(), 3, "a name given twice counts once");
        for (row, (i, j)) in pairs.iter().zip([(0, 1), (0, 2), (1, 2)]) {
            assert_eq!((row["first"].as_str(), row["second"].as_str()), (names[i], names[j]));
            let mean = |of: &dyn Fn(&[f64], &[f64]) -> f64| {
                scores[i].iter().zip(&scores[j]).map(|(a, b)| of(a, b)).sum::<f64>() / 3.0
            };
            let best = |row: &[f64]| ranking(row).into_iter().take(2).collect::<BTreeSet<usize>>();
            for (column, expected) in [
                ("spearman", mean(&|a, b| spearman(a, b).expect("the scores differ"))),
                ("pearson", mean(&|a, b| pearson(a, b).expect("the scores differ"))),
                ("overlap", mean(&|a, b| best(a).intersection(&best(b)).count() as f64 / 2.0)),
            ] {
                let found = number(row, column).expect("all scores differ");
                // The files hold scores as f32.
                assert!((found - expected).abs() < 1e-5, "{device}: {column} of {row:?}, expected {expected}");
            }
            assert_eq!(number(row, "queries"), Some(3.0));
        }
        let exact = |name: &str| {
            let rows = csv_rows(&folder.file("hyperinf-compare/methods.csv"));
            let row = rows.into_iter().find(|row| row["method"] == name).expect("every method has a row");
            number(&row, "spearman_exact")
        };
        assert_eq!(exact("identity"), number(&pairs[1], "spearman"));
        assert!((exact("exact").expect("it agrees with itself") - 1.0).abs() < 1e-12);
    }
}

#[test]
fn every_method_is_computed_or_left_out_with_a_reason() {
    let folder = Folder::with_gradients();
    let run = compare(&folder, &["--json", "--top-k", "3", "--out", "found"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let told: Value = serde_json::from_str(&run.stdout).expect("all of standard output is JSON");
    let file = fs::read_to_string(folder.file("found/summary.json")).expect("the program wrote it");
    assert_eq!(told, serde_json::from_str::<Value>(&file).expect("the file is JSON"));
    assert_eq!(told["sign"], "positive = helpful");
    assert_eq!((&told["damping"]["kind"], &told["damping"]["value"]), (&"relative".into(), &0.1.into()));
    assert_eq!(told["train_gradients"]["samples"], 6);

    let listed: Value = serde_json::from_str(&hyperinf(folder.path(), &["methods", "--json"]).stdout).expect("JSON");
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().expect("a list");
        list.iter().map(|m| m["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(&told["methods"]), names(&listed));
    for method in told["methods"].as_array().expect("a list") {
        let computed = method["computed"].as_bool().expect("true or false");
        assert_eq!(computed, method["seconds"].is_number(), "{method}");
        assert_eq!(computed, method["reason"].is_null(), "{method}");
        assert!(method["unit"].as_str().is_some_and(|unit| !unit.is_empty()), "{method}");
    }
    let of =
        |name: &str| told["methods"].as_array().and_then(|m| m.iter().find(|m| m["name"] == name)).expect("listed");
    assert_eq!(of("hyperinf")["computed"], true);
    assert!(of("kfac")["reason"].as_str().is_some_and(|reason| reason.contains("inputs")), "{}", of("kfac"));
    check_png(&folder.file("found/spearman.png"));
    let mut files: Vec<String> = fs::read_dir(folder.file("found"))
        .expect("the program made it")
        .map(|e| e.expect("it can be read").file_name().into_string().expect("UTF-8"))
        .collect();
    files.sort();
    assert_eq!(files, FILES, "and nothing hidden");
}

#[test]
fn what_the_fisher_matrix_sums_is_recorded_and_flags_without_effect_are_told() {
    let folder = Folder::with_gradients();
    let flags = ["--gfim-side", "rows", "--gfim-scale", "sum", "--json"];
    let run = compare(&folder, &[&["--methods", "hyperinf,exact"][..], &flags].concat());
    assert_eq!((run.code, run.stderr.contains("no effect")), (Some(0), false), "{run:?}");
    let told: Value = serde_json::from_str(&run.stdout).expect("all of standard output is JSON");
    let of = |place: usize| (&told["methods"][place]["gfim_side"], &told["methods"][place]["gfim_scale"]);
    assert_eq!(of(0), (&"rows".into(), &"sum".into()));
    assert_eq!(of(1), (&Value::Null, &Value::Null));
    assert_eq!(told["top_k"], 3, "half of the samples: all of them are always in common");
    let run = compare(&folder, &[&["--methods", "identity,exact"][..], &flags].concat());
    for flag in ["--gfim-side", "--gfim-scale"] {
        let told = format!("{flag} has no effect on any of the methods");
        assert_eq!(run.stderr.matches(&told).count(), 1, "{}", run.stderr);
    }
}

#[test]
fn people_are_told_what_is_compared() {
    let folder = Folder::with_gradients();
    let run = compare(&folder, &["--top-k", "3", "--query-mode", "mean", "--damping", "0.5"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    for needle in ["6 samples, mean query, damping 0.5 relative", "positive = helpful", "kfac was left out: ", "top 3"]
    {
        assert!(run.stdout.contains(needle), "no {needle:?} in\n{}", run.stdout);
    }
    assert!(run.stdout.lines().all(|line| line.chars().count() <= 120 || line.contains("left out")), "{}", run.stdout);
}

/// A factor of side 200,000 would take hundreds of GiB: the estimate forbids it, the others are compared.
#[test]
fn what_would_not_fit_is_left_out_with_its_size() {
    let folder = Folder::new();
    for (file, seed) in [("train.safetensors", 1), ("query.safetensors", 2)] {
        folder.write(file, &[f32s("embedding", &[4, 200_000], &whole(800_000, seed))]);
    }
    let run = compare(&folder, &["--methods", "identity,hyperinf,exact", "--top-k", "2", "--memory", "1"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let rows = csv_rows(&folder.file("hyperinf-compare/methods.csv"));
    let computed: Vec<&str> =
        rows.iter().filter(|row| row["computed"] == "true").map(|row| row["method"].as_str()).collect();
    assert_eq!(computed, ["identity", "exact"]);
    assert!(rows[1]["reason"].contains("GiB of memory, more than the 1.00 allowed"), "{:?}", rows[1]);
    assert!(run.stdout.contains("hyperinf was left out: it would take about "), "{}", run.stdout);
    check_error(
        &folder,
        &["--methods", "hyperinf", "--memory", "1", "--out", "none"],
        4,
        &["none of the 1 methods", "GiB"],
    );
    let strict = ["--methods", "identity,hyperinf", "--top-k", "2", "--memory", "1", "--strict", "--out", "strict"];
    check_error(&folder, &strict, 4, &["hyperinf was left out", "--memory"]);
}

#[test]
fn errors_have_their_codes_and_leave_nothing() {
    let folder = Folder::with_gradients();
    check_error(&folder, &["--methods", "exact,data-inf"], 2, &["`data-inf`", "did you mean `datainf`"]);
    check_error(&folder, &["--top-k", "0"], 2, &["--top-k asks for 0", "of 6"]);
    check_error(&folder, &["--top-k", "7"], 2, &["--top-k asks for 7", "of 6"]);
    check_error(&folder, &["--top-k", "3", "--damping", "0"], 2, &["--damping must be positive", "0.1"]);
    for value in ["0", "-1", "nan"] {
        check_error(&folder, &["--memory", value], 2, &["--memory must be positive"]);
    }
    check_error(&folder, &["--device", "abacus"], 2, &["`abacus`"]);
    check_error(&folder, &["--out", "train.safetensors"], 2, &["train.safetensors"]);
    let strict = ["--methods", "lissa", "--top-k", "3", "--damping", "1e-7", "--strict"];
    check_error(&folder, &strict, 4, &["did not reach the solver's tolerance"]);
    let mut values = whole(36, 12);
    values[4] = f32::NAN;
    folder.write("query.safetensors", &[f32s("a", &[3, 2, 5], &whole(30, 2)), f32s("b", &[3, 3, 4], &values)]);
    check_error(&folder, &["--top-k", "3"], 3, &["query.safetensors", "NaN", "block `b`, sample 0, at [1, 0]"]);
    fs::remove_file(folder.file("train.safetensors")).expect("it is there");
    check_error(&folder, &["--top-k", "3"], 3, &["train.safetensors"]);
}
