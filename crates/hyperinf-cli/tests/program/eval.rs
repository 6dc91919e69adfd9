//! `hyperinf eval`: a small task, its files, its bank, and what is refused.

use std::fs;

use serde_json::Value;

use crate::support::{Folder, Run, device_names, hyperinf};

/// 60 images, 8 queries, 8 hidden units, 3 epochs: a training takes milliseconds.
const SMALL: [&str; 8] = ["--train", "60", "--queries", "8", "--hidden", "8", "--epochs", "3"];

fn eval(folder: &Folder, args: &[&str]) -> Run {
    hyperinf(folder.path(), &[&["eval"][..], args, &SMALL].concat())
}

fn summary(folder: &Folder, truth: &str) -> Value {
    let text =
        fs::read_to_string(folder.file(&format!("hyperinf-eval-{truth}/summary.json"))).expect("the program wrote it");
    serde_json::from_str(&text).expect("it is JSON")
}

fn methods(folder: &Folder) -> Vec<String> {
    let summary = summary(folder, "lds");
    let entries = summary["methods"].as_array().expect("a list").iter();
    entries.map(|m| m["method"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn lds_is_written_and_the_bank_is_used_again() {
    for device in device_names() {
        let folder = Folder::new();
        let trainings = ["--subsets", "12", "--seeds", "2", "--device", &device];
        let run = eval(&folder, &[&["lds", "--methods", "identity,exact@gauss-newton"][..], &trainings].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        let found = summary(&folder, "lds");
        assert_eq!((&found["truth"], &found["sign"]), (&"lds".into(), &"positive = helpful".into()));
        assert_eq!((&found["training_images"], &found["subsets"]), (&60.into(), &12.into()));
        assert_eq!(methods(&folder), ["identity", "exact@gauss-newton"]);
        let estimates: Vec<&Value> =
            found["methods"].as_array().expect("a list").iter().map(|m| &m["estimate"]).collect();
        assert_eq!(estimates, [&Value::Null, &"gauss-newton".into()]);
        assert_eq!(
            (&found["precision"], &found["draws"], &found["label_seed"]),
            (&"f32".into(), &16.into(), &0.into())
        );
        assert!(found["figure"].as_str().is_some_and(|text| text.contains("higher = better")), "{found}");
        for method in found["methods"].as_array().expect("a list") {
            let number = |key: &str| method[key].as_f64().unwrap_or_else(|| panic!("{key} of {method}"));
            assert!(number("low") <= number("lds") && number("lds") <= number("high"), "{method}");
            assert!((-1.0..=1.0).contains(&number("lds")), "{method}");
            assert!(run.stdout.contains(method["method"].as_str().expect("a name")), "{}", run.stdout);
        }
        let csv = fs::read_to_string(folder.file("hyperinf-eval-lds/methods.csv")).expect("the program wrote it");
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], "method,damping,lds,low,high,constant,seconds,residual,converged");
        assert_eq!(lines.len(), 3, "{csv}");
        let bank = fs::read_to_string(folder.file("hyperinf-eval-lds/bank.jsonl")).expect("the program wrote it");
        assert_eq!(bank.lines().count(), 1 + 24);

        // Other methods and two dampings, without retraining.
        let more = ["lds", "--methods", "cosine,hyperinf:rows,ekfac", "--damping", "0.1,1"];
        let run = eval(&folder, &[&more[..], &trainings].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(summary(&folder, "lds")["results_found_in_the_bank"], 24);
        assert_eq!(methods(&folder), ["cosine", "hyperinf:rows", "hyperinf:rows", "ekfac", "ekfac"]);
        let again = fs::read_to_string(folder.file("hyperinf-eval-lds/bank.jsonl")).expect("it is there");
        assert_eq!(again, bank);
    }
}

#[test]
fn every_truth_has_its_figures() {
    let two = ["--methods", "identity,exact"];
    let cases: [(&[&str], &[&str]); 6] = [
        (&["loo", "--leave-out", "2", "--seeds", "2"], &["spearman", "low", "high"]),
        (&["mislabel", "--seeds", "2"], &["auc", "auc_error", "found_10", "found_20", "found_30"]),
        (&["pbrf", "--samples", "2"], &["spearman", "low", "high", "pearson"]),
        (&["brittleness", "--remove", "5,20,5", "--look-at", "2", "--seeds", "1"], &["growth_5", "flipped_20"]),
        (&["selection", "--keep", "0.5,0.50", "--seeds", "2", "--test", "20"], &["loss_0.5", "loss_0.5_low"]),
        (&["subclass", "--classes", "3"], &["top_1", "low", "high", "top_10"]),
    ];
    for (args, figures) in cases {
        let folder = Folder::new();
        let run = eval(&folder, &[args, &two].concat());
        assert_eq!(run.code, Some(0), "{args:?}: {run:?}");
        let found = summary(&folder, args[0]);
        assert_eq!(found["truth"], args[0]);
        let methods = found["methods"].as_array().expect("a list");
        assert!(methods.iter().any(|m| m["method"] == "exact"), "{found}");
        for method in methods {
            for figure in figures {
                let value = method[*figure].as_f64().unwrap_or(f64::NAN);
                assert!(value.is_finite(), "{figure} of {method}");
                // Ends of an interval of correlations are correlations.
                assert!(value.abs() <= 1.0 || !["low", "high"].contains(figure), "{figure} of {method}");
            }
        }
        let csv = folder.file(&format!("hyperinf-eval-{}/methods.csv", args[0]));
        let csv = fs::read_to_string(csv).expect("the program wrote it");
        assert_eq!(csv.lines().count(), methods.len() + 1);
        let mut columns: Vec<&str> = csv.lines().next().expect("a header").split(',').collect();
        let all = columns.len();
        columns.sort_unstable();
        columns.dedup();
        assert_eq!(columns.len(), all, "each once: {csv}");
    }
}

#[test]
fn the_summary_can_be_printed() {
    let folder = Folder::new();
    // The damping is the self-influence's.
    let wrong = ["mislabel", "--methods", "identity", "--seeds", "1", "--damping", "1,1.0"];
    let run = eval(&folder, &[&wrong[..], &["--json", "--out", "found"]].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    let printed: Value = serde_json::from_str(&run.stdout).expect("it is JSON");
    let written = fs::read_to_string(folder.file("found/summary.json")).expect("the program wrote it");
    assert_eq!(printed, serde_json::from_str::<Value>(&written).expect("it is JSON"));
    assert_eq!(printed["methods"][3]["auc_error"], Value::Null, "one seed has no spread");
}

#[test]
fn what_cannot_be_done_is_said() {
    let folder = Folder::new();
    let first = eval(&folder, &["lds", "--methods", "identity", "--subsets", "2", "--seeds", "1"]);
    assert_eq!(first.code, Some(0), "{first:?}");
    let before = fs::read(folder.file("hyperinf-eval-lds/summary.json")).expect("the program wrote it");
    let cases: [(&[&str], i32, &[&str]); 30] = [
        (&["mislabel", "--seeds", "0"], 2, &["--seeds", "not 0"]),
        (&["mislabel", "--noise", "0"], 2, &["--noise", "not 0"]),
        (&["lds", "--models", "0"], 2, &["--models", "not 0"]),
        (&["lds", "--subsets", "1"], 2, &["--subsets", "at least 2, not 1"]),
        (&["lds", "--draws", "0"], 2, &["--draws", "not 0"]),
        (&["loo", "--leave-out", "1"], 2, &["--leave-out", "not 1"]),
        (&["pbrf", "--samples", "0"], 2, &["--samples", "not 0"]),
        (&["pbrf", "--samples", "61"], 2, &["--samples", "not 61"]),
        (&["pbrf", "--models", "2"], 2, &["--models", "not 2"]),
        (&["selection", "--test", "0"], 2, &["--test", "not 0"]),
        (&["lds", "--methods", "exact:rows"], 2, &["`exact:rows`", "exact has no side"]),
        (&["lds", "--methods", "hyperinf:rows:cols"], 2, &["side is given twice"]),
        (&["lds", "--methods", "hyperinf-authors:sum"], 2, &["`sum`"]),
        (&["lds", "--methods", "cosine:merged"], 2, &["`merged`"]),
        (&["lds", "--methods", "identity@sampled"], 2, &["identity has no estimate"]),
        (&["lds", "--methods", "exact", "--draws", "4"], 2, &["--draws", "--methods"]),
        (&["lds", "--methods", "identity,cosine", "--damping", "1"], 2, &["--damping", "--methods"]),
        (&["selection", "--methods", "cosine", "--damping", "0.1"], 2, &["--damping", "--methods"]),
        (&["lds", "--seeds", "18446744073709551615"], 2, &["--seeds", "at most 1000000"]),
        (&["lds", "--subsets", "18446744073709551615"], 2, &["--subsets", "at most 1000000"]),
        (&["lds", "--optimizer", "adamw", "--momentum", "0.5"], 2, &["--momentum", "adamw"]),
        (&["lds", "--methods", "ecact"], 2, &["`ecact`"]),
        (&["lds", "--methods", "exact:sideways"], 2, &["`exact:sideways`"]),
        (&["lds", "--methods", "exact@guess"], 2, &["`exact@guess`"]),
        (&["lds", "--damping", "0"], 2, &["--damping", "not 0"]),
        (&["lds", "--share", "1"], 2, &["share", "60"]),
        (&["lds", "--learning-rate", "-1"], 2, &["learning_rate", "-1"]),
        (&["lds", "--batch-size", "16"], 3, &["belongs to another task", "batches of 32", "batches of 16", "--bank"]),
        (&["loo", "--leave-out", "61"], 2, &["below 60"]),
        (&["subclass", "--classes", "6"], 2, &["classes", "from 2 to 5, not 6"]),
    ];
    for (args, code, needles) in cases {
        let run = eval(&folder, args);
        assert_eq!((run.code, run.stdout.as_str()), (Some(code), ""), "{args:?}: {run:?}");
        for needle in needles {
            assert!(run.stderr.contains(needle), "{args:?}: {}", run.stderr);
        }
    }
    let run = hyperinf(folder.path(), &["eval", "lds", "--train", "1797", "--queries", "1"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("1797"), "{}", run.stderr);
    let after = fs::read(folder.file("hyperinf-eval-lds/summary.json")).expect("it is there");
    assert_eq!(after, before, "what failed changed no result");
}

#[test]
fn a_file_that_is_no_bank_is_left_alone() {
    let folder = Folder::new();
    let run = |bank: &str, out: &str| {
        let lds = ["lds", "--methods", "identity", "--subsets", "2", "--seeds", "1", "--bank", bank, "--out", out];
        eval(&folder, &lds)
    };
    for text in ["{\"precious\": \"one line, no newline at the end\"}", "one\ntwo\nthree"] {
        folder.write_bytes("precious.json", text.as_bytes());
        let found = run("precious.json", "found");
        assert_eq!(found.code, Some(3), "{found:?}");
        assert!(found.stderr.contains("line 1 of `precious.json` is no line of a bank"), "{}", found.stderr);
        assert_eq!(fs::read_to_string(folder.file("precious.json")).expect("it is there"), text);
    }
    // A result would replace the bank, whether it is there or not.
    fs::create_dir(folder.file("found")).expect("the failed run left no empty folder");
    for bank in ["found/summary.json", "found/methods.png", "./found/../found/methods.csv"] {
        for text in [None, Some("not yet")] {
            text.iter().for_each(|text| folder.write_bytes(bank, text.as_bytes()));
            let refused = run(bank, "found");
            assert_eq!(refused.code, Some(2), "{refused:?}");
            assert!(refused.stderr.contains("also an input"), "{}", refused.stderr);
            assert_eq!(fs::read_to_string(folder.file(bank)).ok().as_deref(), text);
        }
    }
    let run = run("found.jsonl", "found");
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn a_response_that_leaves_the_model_is_no_result() {
    let folder = Folder::new();
    let few = ["--train", "60", "--queries", "8", "--hidden", "8", "--epochs", "2"];
    let pbrf = ["eval", "pbrf", "--methods", "hyperinf", "--samples", "6", "--damping", "0.1"];
    let run = hyperinf(folder.path(), &[&pbrf[..], &few].concat());
    assert_eq!((run.code, run.stdout.as_str()), (Some(4), ""), "{run:?}");
    for needle in ["sample 0", "λ = ", "ended at", "larger --damping"] {
        assert!(run.stderr.contains(needle), "{needle}: {}", run.stderr);
    }
    assert!(!folder.file("hyperinf-eval-pbrf/summary.json").exists());
}

#[test]
fn undamped_methods_have_a_row_for_each_proximity() {
    let folder = Folder::new();
    let run = eval(&folder, &["pbrf", "--samples", "4", "--methods", "identity,exact", "--damping", "100,1000,1e2"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let found = summary(&folder, "pbrf");
    let rows = found["methods"].as_array().expect("a list").iter();
    let rows: Vec<(&str, f64)> =
        rows.map(|m| (m["method"].as_str().expect("a name"), m["damping"].as_f64().expect("a factor"))).collect();
    assert_eq!(rows, [("identity", 100.0), ("identity", 1000.0), ("exact", 100.0), ("exact", 1000.0)]);
    assert!(found["damping_kind"].as_str().is_some_and(|kind| kind.starts_with("absolute")), "{found}");
}

#[test]
fn another_truth_leaves_no_stale_picture() {
    let folder = Folder::new();
    let one = ["--methods", "identity", "--out", "found"];
    let run = eval(&folder, &[&["lds", "--subsets", "4", "--seeds", "1"][..], &one].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(folder.file("found/methods.png").exists());
    let run = eval(&folder, &[&["mislabel", "--seeds", "1"][..], &one].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(!folder.file("found/methods.png").exists());
}

/// With the opposite sign of the scores each of these fails.
#[test]
fn scores_have_the_sign_of_the_truth() {
    let folder = Folder::new();
    let run = |args: &[&str], task: &[&str]| {
        let run = hyperinf(folder.path(), &[&["eval"], args, task].concat());
        assert_eq!(run.code, Some(0), "{args:?}: {run:?}");
        let found = summary(&folder, args[0]);
        let rows = found["methods"].as_array().expect("a list").clone();
        move |method: &str, figure: &str| {
            let row = rows.iter().find(|row| row["method"] == method).unwrap_or_else(|| panic!("{method}"));
            row[figure].as_f64().unwrap_or_else(|| panic!("{figure} of {row}"))
        }
    };
    let task = ["--train", "200", "--queries", "40", "--hidden", "16"];
    let wrong = run(&["mislabel", "--methods", "hyperinf", "--seeds", "2"], &task);
    assert!(wrong("hyperinf", "auc") > 0.6, "{}", wrong("hyperinf", "auc"));
    assert!(wrong("self-influence", "auc") > 0.6, "{}", wrong("self-influence", "auc"));
    let small = ["--train", "60", "--queries", "8", "--hidden", "8"];
    let response = run(&["pbrf", "--methods", "exact:merged@gauss-newton", "--samples", "8"], &small);
    let found = response("exact:merged@gauss-newton", "spearman");
    assert!(found > 0.5, "{found}");
    let selected =
        ["selection", "--methods", "hyperinf", "--noise", "0.3", "--keep", "0.6", "--seeds", "2", "--test", "100"];
    let selected = run(&selected, &task);
    let (best, random) = (selected("hyperinf", "loss_0.6"), selected("random", "loss_0.6"));
    assert!(best < random, "{best}, at random {random}");
    let same = run(&["subclass", "--methods", "cosine"], &task);
    let (best, random) = (same("cosine", "top_1"), same("random", "top_1"));
    assert!(best > random + 0.3, "{best}, at random {random}");
}

/// Student's interval of two trainings would begin far below 0.
#[test]
fn no_loss_of_an_interval_is_below_zero() {
    let folder = Folder::new();
    let selection = ["eval", "selection", "--methods", "identity", "--keep", "0.2", "--seeds", "2", "--test", "20"];
    let small = ["--train", "60", "--queries", "8", "--hidden", "8", "--epochs", "100"];
    let run = hyperinf(folder.path(), &[&selection[..], &small].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    let found = summary(&folder, "selection");
    let lows: Vec<f64> =
        found["methods"].as_array().expect("a list").iter().filter_map(|m| m["loss_0.2_low"].as_f64()).collect();
    assert!(lows.len() == 3 && lows.iter().all(|low| *low >= 0.0) && lows.contains(&0.0), "{lows:?}");
}

#[test]
fn perceptrons_beyond_the_memory_are_refused() {
    let folder = Folder::new();
    for (hidden, methods) in [
        ("40000000000", "identity"),
        ("18446744073709551615", "identity"),
        ("3000000,3000000000000", "identity"),
        ("64,18446744073709551615,64", "hyperinf"),
        ("400000,64", "exact:merged@gauss-newton"),
    ] {
        let args = ["eval", "mislabel", "--hidden", hidden, "--methods", methods, "--train", "60", "--queries", "8"];
        let run = hyperinf(folder.path(), &args);
        assert_eq!(run.code, Some(4), "{hidden}: {run:?}");
        for needle in ["GiB of memory", "are available", "--hidden"] {
            assert!(run.stderr.contains(needle), "{hidden}: no {needle:?} in {}", run.stderr);
        }
    }
}
