//! `hyperinf plan` and `--batch-size auto`.

use serde_json::Value;

use crate::support::Folder;
use crate::texts::{bert, completions, llama, model, three_classes};

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
    assert!(small.code == Some(0) && small.stderr.contains("the scores would be refused: block"), "{small:?}");
    assert_eq!(folder.run("plan", &["attribute", "--train", "train.jsonl"]).code, Some(2));
}

fn step<'a>(plan: &'a Value, name: &str) -> &'a Value {
    let steps = plan["plan"]["steps"].as_array().expect("steps");
    steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("{name}: {plan}"))
}

#[test]
fn trainings_and_indexes_are_planned() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(40));
    folder.write_rows("query.jsonl", &completions(6));
    let rows = ["--train", "train.jsonl", "--truncate", "--out", "made"];
    let llama = llama();
    let all: Vec<&str> = llama.iter().map(String::as_str).chain(rows).collect();
    let before = folder.files();
    let one = |args: &[&str]| -> Value {
        let found = planned(&folder, args);
        let [plan] = &found.as_array().expect("a list")[..] else { panic!("{found}") };
        assert_eq!(folder.files(), before, "{args:?}");
        assert!(seconds(plan).iter().all(|(_, seconds)| seconds.is_finite() && *seconds > 0.0), "{plan}");
        plan.clone()
    };
    let number =
        |plan: &Value, path: &str| plan.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}"));

    let index = one(&[&["index"][..], &all, &["--batch-size", "4", "--leaf-batches", "3"]].concat());
    // Leaves of 12, 12, 12 and 4 rows.
    assert_eq!(step(&index, "training gradients")["work"], "10 batches in 4 leaves");
    let (parameters, disk) = (number(&index, "/plan/parameters"), number(&index, "/plan/disk/needed"));
    assert!(disk > 40.0 * 4.0 * parameters && disk < 40.0 * (4.0 * parameters + 1000.0), "{index}");
    let half = one(&[&["index"][..], &all, &["--dtype", "bf16"]].concat());
    assert!((disk - number(&half, "/plan/disk/needed") - 40.0 * 2.0 * parameters).abs() < 1.0, "{half}");
    let small = one(&[&["index"][..], &all, &["--project", "2"]].concat());
    assert!(number(&small, "/plan/parameters") < parameters, "{small}");
    assert_eq!((&index["command"], &index["method"]), (&Value::from("index"), &Value::Null));

    // The base model: the adapter is new.
    let base = [&all[..2], &rows].concat();
    let tune = [&["finetune"][..], &base, &["--epochs", "2", "--batch-size", "16", "--validation", "query.jsonl"]];
    let plain = one(&tune.concat());
    assert_eq!(step(&plain, "training")["work"], "6 steps of 16 rows");
    // Before and after on 40 rows, and 6 rows after each epoch and at the end.
    assert_eq!(step(&plain, "evaluation")["work"], "98 rows");
    let adapter = number(&plain, "/plan/disk/needed");
    assert_eq!(adapter, 4.0 * number(&plain, "/plan/parameters"));
    let kept = one(&[&tune.concat()[..], &["--checkpoint-every", "1"]].concat());
    assert_eq!(number(&kept, "/plan/disk/needed"), 13.0 * adapter);
    let micro = one(&[&tune.concat()[..], &["--micro-batch", "2"]].concat());
    assert_eq!(micro["plan"]["batch"]["rows"], 2);
    let text = folder.run("plan", &tune.concat());
    for needle in ["finetune on flex", "trained parameters", "check     6 rows", "training", "for batches"] {
        assert!(text.code == Some(0) && text.stdout.contains(needle), "{needle}: {text:?}");
    }
    // What is planned is what is trained.
    let done = folder.run("finetune", &tune.concat()[1..]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(folder.json("made/summary.json")["parameters"], plain["plan"]["parameters"]);
    let size = std::fs::metadata(folder.file("made/adapter_model.safetensors")).expect("it was written").len() as f64;
    assert!(size >= adapter && size < adapter + 10_000.0, "{size} of {adapter}");
}

#[test]
fn a_plan_counts_all_that_a_selection_asks_for() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(40));
    folder.write_rows("query.jsonl", &three_classes(6));
    folder.write_rows("later.jsonl", &three_classes(9));
    let bert = bert();
    let rows = ["--train", "train.jsonl", "--validation", "query.jsonl", "--truncate", "--keep", "5", "--out", "found"];
    let all: Vec<&str> = ["select"].into_iter().chain(bert.iter().map(String::as_str)).chain(rows).collect();
    let one = |more: &[&str]| planned(&folder, &[&all[..], more].concat())[0].clone();
    let plain = one(&[]);
    assert_eq!(plain["plan"]["query"].as_array().map(Vec::len), Some(1));
    assert!(plain["plan"]["steps"].as_array().expect("steps").iter().all(|step| step["name"] != "products"));
    let all = one(&["--validation", "later.jsonl", "--diverse", "--drop-duplicates=0.9", "--pool", "20"]);
    assert_eq!(all["plan"]["query"][1]["rows"], 9);
    assert_eq!(step(&all, "scores")["work"], "40 rows for 2");
    for name in ["products", "cosines"] {
        assert_eq!(step(&all, name)["work"], "20 rows with each other");
        assert!(step(&all, name)["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{all}");
    }
    let bytes = |plan: &Value| plan["plan"]["disk"]["needed"].as_f64().expect("a number");
    let row = 4.0 * plain["plan"]["parameters"].as_f64().expect("a number");
    let more = bytes(&all) - bytes(&plain);
    assert!(more >= 9.0 * row && more < 9.0 * row + 40.0 * 100.0, "{more} of {row}");
}

#[test]
fn indexes_and_trainings_choose_their_batches() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(24));
    let auto = ["--train", "train.jsonl", "--out", "index", "--batch-size", "auto"];
    let first = folder.succeed("index", &llama(), &auto);
    assert!(first.stderr.contains("batches of ") && first.stderr.contains("the fastest that fits"), "{first:?}");
    let chosen = folder.json("index/manifest.json")["settings"]["batch_size"].as_u64().expect("a number");
    assert!((1..=24).contains(&chosen), "{chosen}");
    // The same index with the same batches, whatever a measurement would say now.
    let second = folder.succeed("index", &llama(), &auto);
    assert!(second.stderr.contains(&format!("batches of {chosen} rows: that of the index")), "{second:?}");
    assert!(second.stdout.contains("0 computed"), "{second:?}");
    let part = folder.run("index", &[&["--model", "m"], &auto[..], &["--part", "1/2"]].concat());
    assert!(part.code == Some(2) && part.stderr.contains("--batch-size auto"), "{part:?}");

    let base = model("llama");
    let tune = ["--model", &base, "--train", "train.jsonl", "--epochs", "1", "--out", "tuned"];
    let run = folder.run("finetune", &[&tune[..], &["--batch-size", "auto"]].concat());
    assert!(run.code == Some(0) && run.stderr.contains("passes of "), "{run:?}");
    let training = folder.json("tuned/summary.json")["training"].clone();
    // The default: results depend on it.
    assert_eq!(training["batch_size"], 32);
    let config = folder.text("tuned/run.toml");
    assert!(!config.contains("auto"), "{config}");
    let micro = config.lines().find_map(|line| line.strip_prefix("micro-batch = "));
    assert_eq!(micro.map(str::to_owned), training["micro_batch"].as_u64().map(|rows| rows.to_string()));
    let adapter = || std::fs::read(folder.file("tuned/adapter_model.safetensors")).expect("it was written");
    let first = adapter();
    let again = folder.run("finetune", &["--config", "tuned/run.toml", "--overwrite"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(adapter() == first, "a replayed run has the same passes");
    let other = folder.run("finetune", &[&tune[..], &["--micro-batch", "auto", "--resume"]].concat());
    assert!(other.code == Some(2) && other.stderr.contains("--resume"), "{other:?}");
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
