//! `hyperinf plan` and `--batch-size auto`.

use serde_json::Value;

use crate::support::Folder;
use crate::texts::{bert, completions, llama, three_classes};

fn planned(folder: &Folder, args: &[&str]) -> Value {
    let run = folder.run("plan", &[args, &["--json"]].concat());
    assert_eq!(run.code, Some(0), "{args:?}: {run:?}");
    serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}: {}", run.stdout))
}

fn seconds(plan: &Value) -> Vec<(String, f64)> {
    let steps = plan["plan"]["steps"].as_array().expect("steps");
    let step = |step: &Value| {
        let seconds = step["seconds"].as_f64().expect("a number");
        (step["name"].as_str().expect("a name").to_owned(), seconds)
    };
    steps.iter().map(step).collect()
}

#[test]
fn a_plan_names_every_step_and_leaves_nothing() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(40));
    folder.write_rows("query.jsonl", &three_classes(6));
    let model = bert();
    let model: Vec<&str> = model.iter().map(String::as_str).collect();
    let rows = ["--train", "train.jsonl", "--truncate", "--batch-size", "4", "--out", "found"];
    let cases: [(&str, &[&str], &[&str]); 4] = [
        ("attribute", &["--query", "query.jsonl"], &["scores"]),
        ("attribute", &["--query", "query.jsonl", "--method", "ekfac"], &["curvature", "scores"]),
        ("detect", &["--validation", "query.jsonl", "--method", "exact"], &["scores", "self-influence"]),
        ("select", &["--validation", "query.jsonl", "--keep", "3", "--project", "2"], &["scores"]),
    ];
    let before = folder.files();
    for (command, more, steps) in cases {
        let found = planned(&folder, &[&[command][..], &model, &rows, more].concat());
        let [plan] = &found.as_array().expect("a plan per method")[..] else { panic!("{found}") };
        let times = seconds(plan);
        for name in ["loading", "training gradients", "query gradients"].iter().chain(steps) {
            let step = times.iter().find(|(step, _)| step == name).unwrap_or_else(|| panic!("{name}: {times:?}"));
            assert!(step.1.is_finite() && step.1 > 0.0, "{command}: {step:?}");
        }
        let sum: f64 = times.iter().map(|(_, seconds)| seconds).sum();
        assert!((plan["seconds"].as_f64().expect("a number") - sum).abs() < 1e-9);
        // 40 and 6 rows of f32, and less than a hundred bytes for each score.
        let (parameters, disk) = (plan["plan"]["parameters"].as_f64(), plan["plan"]["disk"]["needed"].as_f64());
        let gradients = 46.0 * 4.0 * parameters.expect("a number");
        let disk = disk.expect("a number");
        assert!(disk >= gradients && disk < gradients + 240.0 * 100.0, "{disk} of {gradients}");
        assert!(plan["plan"]["batch"]["fastest"].as_u64().is_some_and(|rows| (1..=40).contains(&rows)), "{plan}");
        assert_eq!(plan["plan"]["train"]["rows"], 40);
        assert_eq!(folder.files(), before, "{command}");
    }
    let text = folder.run("plan", &[&["attribute"][..], &model, &rows, &["--query", "query.jsonl"]].concat());
    for needle in ["training gradients", "10 batches", "memory", "disk", "fastest"] {
        assert!(text.code == Some(0) && text.stdout.contains(needle), "{needle}: {text:?}");
    }
    // A plan warns if the memory is not enough.
    let small = [&["attribute"][..], &model, &rows, &["--query", "query.jsonl", "--memory", "0.00001"]].concat();
    let small = folder.run("plan", &small);
    assert!(small.code == Some(0) && small.stderr.contains("of memory, and there are"), "{small:?}");
    assert_eq!(folder.run("plan", &["attribute", "--train", "train.jsonl"]).code, Some(2));
}

#[test]
fn the_batch_size_is_chosen_once() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(24));
    folder.write_rows("query.jsonl", &completions(4));
    let rows = ["--train", "train.jsonl", "--query", "query.jsonl", "--out", "found", "--keep-gradients"];
    let auto = [&rows[..], &["--batch-size", "auto"]].concat();
    let first = folder.succeed("attribute", &llama(), &auto);
    assert!(first.stderr.contains("batches of "), "{first:?}");
    let config = folder.text("found/run.toml");
    let line = config.lines().find(|line| line.starts_with("batch-size = ")).expect("a key").to_owned();
    let chosen: usize = line["batch-size = ".len()..].parse().expect("a number, not `auto`");
    assert!((1..=24).contains(&chosen));
    // The gradients that are there decide, so that they are reused.
    let second = folder.succeed("attribute", &llama(), &[&auto[..], &["--method", "datainf"]].concat());
    assert!(second.stderr.contains("of an earlier run"), "{second:?}");
    assert!(second.stderr.contains("24 of 24 rows are there"), "{second:?}");
    assert!(folder.text("found/run.toml").contains(&line));
    for bad in ["0", "many", "-1"] {
        let run = folder.run("attribute", &[&rows[..], &["--model", "m", "--batch-size", bad]].concat());
        assert_eq!(run.code, Some(2), "{bad}: {run:?}");
    }
}
