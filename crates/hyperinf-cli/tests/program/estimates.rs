//! Curvature that is taken from the model: K-FAC and its kin, and other estimates than the empirical one.

use hyperinf_tests::compare::assert_close;
use serde_json::{Value, json};

use crate::support::{Folder, Run, device_names, read_scores};
use crate::texts::{bert, completions, llama, three_classes};

fn folder(train: &[Value], query: &[Value]) -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", train);
    folder.write_rows("query.jsonl", query);
    folder
}

const ROWS: [&str; 9] =
    ["--train", "train.jsonl", "--query", "query.jsonl", "--truncate", "--format", "safetensors", "--out", "found"];

fn scores(folder: &Folder, model: &[String], args: &[&str]) -> Vec<Vec<f64>> {
    folder.succeed("attribute", model, &[&ROWS[..], args].concat());
    read_scores(&folder.file("found/scores.safetensors"))
}

fn fails(folder: &Folder, model: &[String], args: &[&str]) -> Run {
    let model: Vec<&str> = model.iter().map(String::as_str).collect();
    let run = folder.run("attribute", &[&model[..], &ROWS, args].concat());
    assert_eq!(run.code, Some(2), "{run:?}");
    run
}

/// Curvature is a mean over rows: how many go through the model at once cannot matter, and what is chosen must.
#[test]
fn an_encoders_own_curvature() {
    let model = bert();
    for device in device_names() {
        let folder = folder(&three_classes(21), &three_classes(4));
        let mut all: Vec<Vec<f64>> = Vec::new();
        for choice in [
            &["--method", "kfac"][..],
            &["--method", "ekfac"],
            &["--method", "ekfac", "--estimate", "gauss-newton"],
            &["--method", "hyperinf", "--estimate", "gauss-newton"],
            &["--method", "hyperinf"],
        ] {
            let args = [choice, &["--device", &device]].concat();
            let found = scores(&folder, &model, &args).concat();
            let alone = scores(&folder, &model, &[&args[..], &["--batch-size", "1"]].concat()).concat();
            assert_close(&format!("{choice:?} on {device}"), &alone, &found, 1e-3);
            for other in &all {
                let apart = other.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                let size = found.iter().fold(0.0_f64, |size, value| size.max(value.abs()));
                assert!(apart > 1e-3 * size, "{choice:?} changes nothing");
            }
            all.push(found);
        }
        let curvature = &folder.json("found/summary.json")["curvature"];
        assert_eq!(*curvature, json!({ "estimate": "empirical", "draws": null, "seed": null }));
    }
}

#[test]
fn drawn_estimates_follow_their_seed() {
    let model = llama();
    let folder = folder(&completions(13), &completions(3));
    for estimate in ["sampled", "gauss-newton"] {
        let with = |seed: &str| {
            let args = ["--method", "ekfac", "--estimate", estimate, "--draws", "2", "--estimate-seed", seed];
            scores(&folder, &model, &args)
        };
        let first = with("5");
        assert_eq!(first, with("5"));
        let curvature = &folder.json("found/summary.json")["curvature"];
        assert_eq!(*curvature, json!({ "estimate": estimate, "draws": 2, "seed": 5 }));
        assert_ne!(first, with("6"));
    }
}

#[test]
fn detection_with_the_models_own_curvature() {
    let folder = folder(&three_classes(21), &three_classes(6));
    let args = ["--train", "train.jsonl", "--validation", "query.jsonl", "--truncate", "--out", "found"];
    let more = ["--method", "kfac", "--blocks", "*query*", "--remove", "2"];
    folder.succeed("detect", &bert(), &[&args[..], &more].concat());
    let summary = folder.json("found/summary.json");
    let blocks = summary["blocks"].as_array().expect("a list");
    assert!(!blocks.is_empty());
    assert!(blocks.iter().all(|block| block["name"].as_str().is_some_and(|name| name.contains("query"))));
    assert_eq!(folder.text("found/suspicious.csv").lines().count(), 22);
}

#[test]
fn choices_that_contradict_each_other() {
    let classes = folder(&three_classes(9), &three_classes(3));
    for (args, said) in [
        (&["--draws", "3"][..], "nothing is drawn"),
        (&["--estimate-seed", "3"], "nothing is drawn"),
        (&["--estimate", "gauss-newton", "--estimate-seed", "3"], "nothing is drawn"),
        (&["--method", "identity", "--estimate", "sampled"], "no curvature"),
        (&["--method", "datainf", "--estimate", "sampled"], "training gradients themselves"),
        (&["--method", "exact", "--structure", "merged", "--estimate", "sampled"], "block by block"),
        (&["--method", "kfac", "--structure", "merged"], "each layer's inputs"),
    ] {
        let run = fails(&classes, &bert(), args);
        assert!(run.stderr.contains(said), "{args:?}: {}", run.stderr);
    }
    let completions = folder(&completions(9), &completions(3));
    let run = fails(&completions, &llama(), &["--estimate", "gauss-newton"]);
    assert!(run.stderr.contains("--draws sketches it"), "{}", run.stderr);
    assert_eq!(completions.files_in("found"), Vec::<String>::new(), "it is refused before gradients are taken");
}

/// Error bars over seeds: the mean, the standard deviation and the ends of what each seed gives alone.
#[test]
fn error_bars_over_the_seeds_of_what_is_drawn() {
    let (folder, model) = (folder(&completions(13), &completions(3)), llama());
    let drawn = ["--method", "ekfac", "--estimate", "sampled", "--query-mode", "mean", "--estimate-seed"];
    let alone: Vec<Vec<f64>> =
        ["4", "5", "6"].iter().map(|seed| scores(&folder, &model, &[&drawn[..], &[*seed]].concat()).concat()).collect();
    let run = folder.succeed("attribute", &model, &[&ROWS[..], &drawn, &["4", "--uncertainty", "3"]].concat());
    assert!(run.stdout.contains("between two of 3 seeds"), "{}", run.stdout);
    let found = read_scores(&folder.file("found/scores.safetensors")).concat();
    let mean: Vec<f64> = (0..13).map(|i| alone.iter().map(|set| set[i]).sum::<f64>() / 3.0).collect();
    assert_close("the mean over seeds", &found, &mean, 1e-5);
    let uncertainty = &folder.json("found/summary.json")["uncertainty"];
    assert_eq!((&uncertainty["seeds"], &uncertainty["top"]), (&json!(3), &json!(7)));

    let csv = ["--train", "train.jsonl", "--query", "query.jsonl", "--truncate", "--format", "csv", "--out", "table"];
    folder.succeed("attribute", &model, &[&csv[..], &drawn, &["4", "--uncertainty", "3"]].concat());
    let table = folder.text("table/scores.csv");
    let header: Vec<&str> = table.lines().next().expect("a header").split(',').collect();
    let column = |name: &str| header.iter().position(|other| *other == name).expect("the column is there");
    for line in table.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let number = |name: &str| cells[column(name)].parse::<f64>().expect("a number");
        let sample: usize = cells[column("train_id")].parse().expect("a row's number");
        let values = || alone.iter().map(|set| set[sample]);
        let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        let std = (values().map(|value| (value - mean[sample]).powi(2)).sum::<f64>() / 2.0).sqrt();
        assert_close(
            "low, high, score_std",
            &[number("low"), number("high"), number("score_std")],
            &[low, high, std],
            1e-4,
        );
    }

    for (args, said) in [
        (&["--estimate", "sampled", "--query-mode", "each", "--uncertainty", "3"][..], "--query-mode each"),
        (&["--uncertainty", "3"], "a run without random choices"),
        (&["--method", "kfac", "--project", "2"], "layer's inputs"),
        (&["--estimate", "gauss-newton", "--project", "2"], "lie in a file"),
        (&["--estimate", "sampled", "--uncertainty", "1"], "at least 2 seeds"),
    ] {
        let run = fails(&folder, &model, args);
        assert!(run.stderr.contains(said), "{args:?}: {}", run.stderr);
    }
}
