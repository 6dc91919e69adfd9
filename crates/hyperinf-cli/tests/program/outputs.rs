//! `hyperinf score`: what is written and printed. `hyperinf methods`, help and version.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use hyperinf_tests::compare::assert_close;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use safetensors::SafeTensors;
use serde_json::Value;
use twox_hash::XxHash3_128;

use crate::support::{Folder, f32s, hyperinf, read_scores, whole};

/// The metadata that every format carries.
fn check_metadata(folder: &Folder, method: &str, get: impl Fn(&str) -> Option<String>) {
    let text = |key: &str| get(key).unwrap_or_else(|| panic!("{method}: no {key}"));
    let json = |key: &str| serde_json::from_str::<Value>(&text(key)).unwrap_or_else(|e| panic!("{method}, {key}: {e}"));
    assert_eq!(text("method"), method);
    assert_eq!(text("sign"), "positive = helpful");
    assert_eq!(text("hyperinf_version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(text("query_mode"), "each");
    assert_eq!(text("structure"), "per-block");
    assert!(["flex", "ndarray"].contains(&text("device").as_str()));
    for (key, file, samples) in
        [("train_gradients", "train.safetensors", 6), ("query_gradients", "query.safetensors", 3)]
    {
        let bytes = fs::read(folder.file(file)).expect("the test wrote it");
        let input = json(key);
        assert_eq!(input["file"], file);
        assert_eq!(input["samples"], samples);
        assert_eq!(input["bytes"], bytes.len());
        assert_eq!(input["xxh3_128"], format!("{:032x}", XxHash3_128::oneshot(&bytes)));
    }
    let blocks = json("blocks");
    if method == "identity" {
        assert_eq!(json("damping"), Value::Null);
        assert_eq!(blocks, Value::Array(vec![]));
        return;
    }
    assert_eq!(json("damping")["kind"], "relative");
    assert_eq!(json("damping")["value"], 0.1);
    let squares = whole(60, 1).iter().map(|&v| f64::from(v * v)).sum::<f64>() / 60.0;
    let found = blocks[0]["lambda"].as_f64().expect("λ is a number");
    assert_eq!(blocks[0]["name"], "a");
    assert_close("λ of block a", &[found], &[0.1 * squares], 1e-6);
    let residual = blocks[0]["residual"].as_f64().expect("residuals are numbers");
    assert!(residual <= blocks[0]["tolerance"].as_f64().expect("exact and hyperinf have a tolerance"));
    assert_eq!(blocks[0]["converged"], true);
}

#[test]
fn safetensors_holds_scores_and_how_they_came_about() {
    let folder = Folder::with_gradients();
    for method in ["identity", "exact", "hyperinf"] {
        let scores = folder.scores(&["--method", method]);
        assert_eq!((scores.len(), scores[0].len()), (3, 6));
        let bytes = fs::read(folder.file("scores.safetensors")).expect("the program wrote it");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("it is safetensors");
        let metadata = header.metadata().clone().expect("there is metadata");
        check_metadata(&folder, method, |key| metadata.get(key).cloned());
    }
    assert_eq!(folder.files(), ["query.safetensors", "scores.safetensors", "train.safetensors"]);
}

/// The long form of scores, with ranks by definition: one more than the number of better samples.
fn long(scores: &[Vec<f64>]) -> Vec<(i64, i64, f32, i64)> {
    let rank = |row: &[f64], i: usize| 1 + row.iter().filter(|&&s| s > row[i]).count() as i64;
    let row = |(q, row): (usize, &Vec<f64>)| -> Vec<_> {
        (0..row.len()).map(|i| (q as i64, i as i64, row[i] as f32, rank(row, i))).collect()
    };
    scores.iter().enumerate().flat_map(row).collect()
}

#[test]
fn parquet_holds_the_long_form() {
    let folder = Folder::with_gradients();
    let expected = long(&folder.scores(&["--method", "exact"]));
    let run = folder.score(&["--method", "exact", "--output", "scores.parquet"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let file = fs::File::open(folder.file("scores.parquet")).expect("the program wrote it");
    let reader = SerializedFileReader::new(file).expect("it is Parquet");
    let columns = reader.metadata().file_metadata().schema_descr().columns().iter();
    assert_eq!(columns.map(|c| c.name()).collect::<Vec<_>>(), ["query_id", "train_id", "score", "rank"]);
    let rows = reader.get_row_iter(None).expect("it has rows").map(|row| {
        let row = row.expect("every row can be read");
        let whole = |i| row.get_long(i).expect("a whole number");
        (whole(0), whole(1), row.get_float(2).expect("a real number"), whole(3))
    });
    assert_eq!(rows.collect::<Vec<_>>(), expected);
    let pairs = reader.metadata().file_metadata().key_value_metadata().expect("there is metadata");
    check_metadata(&folder, "exact", |key| pairs.iter().find(|pair| pair.key == key)?.value.clone());
}

#[test]
fn csv_holds_the_long_form_and_a_second_file_the_metadata() {
    let folder = Folder::with_gradients();
    let expected = long(&folder.scores(&["--method", "hyperinf"]));
    let run = folder.score(&["--method", "hyperinf", "--output", "scores.csv"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let text = fs::read_to_string(folder.file("scores.csv")).expect("the program wrote it");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("query_id,train_id,score,rank"));
    let rows = lines.map(|line| {
        let cells: Vec<&str> = line.split(',').collect();
        let whole = |i: usize| cells[i].parse::<i64>().expect("a whole number");
        (whole(0), whole(1), cells[2].parse::<f32>().expect("a real number"), whole(3))
    });
    assert_eq!(rows.collect::<Vec<_>>(), expected);
    let json = fs::read_to_string(folder.file("scores.csv.json")).expect("the program wrote it, too");
    let json: Value = serde_json::from_str(&json).expect("it is JSON");
    check_metadata(&folder, "hyperinf", |key| {
        json.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    });
}

#[test]
fn json_lines_hold_the_rows_of_csv() {
    let folder = Folder::with_gradients();
    let expected = long(&folder.scores(&["--method", "hyperinf"]));
    let run = folder.score(&["--method", "hyperinf", "--output", "scores.jsonl"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let text = fs::read_to_string(folder.file("scores.jsonl")).expect("the program wrote it");
    let rows = text.lines().map(|line| {
        let row: Value = serde_json::from_str(line).expect("every line is an object");
        let whole = |key: &str| row[key].as_i64().expect("a whole number");
        // The digits are those of the f32 itself, as in CSV.
        let score = row["score"].to_string().parse::<f32>().expect("a real number");
        (whole("query_id"), whole("train_id"), score, whole("rank"))
    });
    assert_eq!(rows.collect::<Vec<_>>(), expected);
    let json = fs::read_to_string(folder.file("scores.jsonl.json")).expect("the program wrote it, too");
    let json: Value = serde_json::from_str(&json).expect("it is JSON");
    check_metadata(&folder, "hyperinf", |key| {
        json.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    });
}

#[test]
fn json_is_all_of_standard_output() {
    let folder = Folder::with_gradients();
    let scores = folder.scores(&["--method", "exact"]);
    let run = folder.score(&["--method", "exact", "--json"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let json: Value = serde_json::from_str(&run.stdout).expect("it is JSON");
    check_metadata(&folder, "exact", |key| {
        json.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    });
    assert_eq!(json["output"], Value::Null);
    let rankings = json["rankings"].as_array().expect("a list");
    assert_eq!(rankings.len(), 3);
    for (row, ranking) in scores.iter().zip(rankings) {
        let best = (0..6).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("there are samples");
        let worst = (0..6).min_by(|&a, &b| row[a].total_cmp(&row[b])).expect("there are samples");
        assert_eq!(ranking["most_helpful"][0]["train_id"], best);
        assert_eq!(ranking["most_harmful"][0]["train_id"], worst);
    }
    let run = folder.score(&["--json", "--output", "s.csv"]);
    let json: Value = serde_json::from_str(&run.stdout).expect("it is JSON");
    assert_eq!(json["output"], "s.csv");
}

#[test]
fn people_are_told_sign_damping_residual_and_both_ends() {
    let folder = Folder::with_gradients();
    let run = folder.score(&["--method", "exact", "--query-mode", "mean"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    for needle in
        ["6 training samples", "positive = helpful", "0.1 relative", "residual", "most helpful", "most harmful"]
    {
        assert!(run.stdout.contains(needle), "{needle}: {}", run.stdout);
    }
}

#[test]
fn an_output_replaces_an_older_one_and_a_failure_leaves_it() {
    let folder = Folder::with_gradients();
    for name in ["scores.safetensors", "scores.parquet", "scores.csv"] {
        folder.write_bytes(name, b"older");
        assert_eq!(folder.score(&["--method", "identity", "--output", name]).code, Some(0));
        assert_ne!(fs::read(folder.file(name)).expect("it is there"), b"older");
        folder.write_bytes(name, b"older");
    }
    folder.write("query.safetensors", &[f32s("a", &[1, 2, 5], &[f32::NAN; 10]), f32s("b", &[1, 3, 4], &[1.0; 12])]);
    let before = folder.files();
    for name in ["scores.safetensors", "scores.parquet", "scores.csv"] {
        assert_eq!(folder.score(&["--method", "identity", "--output", name]).code, Some(3));
        assert_eq!(fs::read(folder.file(name)).expect("it is there"), b"older");
    }
    assert_eq!(folder.files(), before);
}

#[test]
fn flags_without_effect_are_told() {
    let folder = Folder::with_gradients();
    for (args, flag) in [
        (["--method", "identity", "--damping", "0.2"], "--damping"),
        (["--method", "exact", "--gfim-side", "rows"], "--gfim-side"),
        (["--method", "hyperinf-authors", "--gfim-scale", "mean"], "--gfim-scale"),
    ] {
        let run = folder.score(&args);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(run.stderr.contains(&format!("warning: {flag} has no effect")), "{}", run.stderr);
    }
}

#[test]
fn a_block_of_zeros_adds_nothing_and_is_told() {
    let folder = Folder::with_gradients();
    folder.write("train.safetensors", &[f32s("a", &[6, 2, 5], &whole(60, 1)), f32s("b", &[6, 3, 4], &[0.0; 72])]);
    let with = folder.scores(&["--method", "exact"]);
    let run = folder.score(&["--method", "exact"]);
    assert!(run.stderr.contains("warning: all training gradients of 1 of 2 blocks are zero"), "{}", run.stderr);
    assert!(run.stderr.contains("`b`"), "{}", run.stderr);
    folder.write("train.safetensors", &[f32s("a", &[6, 2, 5], &whole(60, 1))]);
    folder.write("query.safetensors", &[f32s("a", &[3, 2, 5], &whole(30, 2))]);
    assert_eq!(with, folder.scores(&["--method", "exact"]));
}

#[test]
fn a_solver_short_of_its_tolerance_is_told_and_strict_makes_it_fail() {
    let folder = Folder::with_gradients();
    // With a condition of 1e9 or so a thousand steps are few.
    let args = ["--method", "lissa", "--damping", "1e-9", "--output", "scores.safetensors"];
    let run = folder.score(&args);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("warning: block `"), "{}", run.stderr);
    assert!(run.stderr.contains("relative residual") && run.stderr.contains("1.00e-3"), "{}", run.stderr);
    assert_eq!(read_scores(&folder.file("scores.safetensors")).len(), 3);
    fs::remove_file(folder.file("scores.safetensors")).expect("it is there");

    let run = folder.score(&[&args[..], &["--strict"]].concat());
    assert_eq!(run.code, Some(4), "{run:?}");
    assert!(run.stderr.contains("did not reach the solver's tolerance"), "{}", run.stderr);
    assert_eq!(folder.files(), ["query.safetensors", "train.safetensors"]);
    assert_eq!(folder.score(&["--method", "exact", "--strict"]).code, Some(0));
}

#[test]
fn methods_are_listed_with_cost_and_source() {
    let folder = Folder::new();
    let table = hyperinf(folder.path(), &["methods"]);
    assert_eq!(table.code, Some(0));
    let width = table.stdout.lines().map(|line| line.chars().count()).max();
    assert!(width <= Some(120), "{width:?}");
    let json: Value = serde_json::from_str(&hyperinf(folder.path(), &["methods", "--json"]).stdout).expect("JSON");
    let names: Vec<&str> = json.as_array().expect("a list").iter().filter_map(|m| m["name"].as_str()).collect();
    assert_eq!(names, hyperinf::scoring::methods().iter().map(|m| m.name).collect::<Vec<_>>());
    assert!(["identity", "exact", "hyperinf", "ekfac"].iter().all(|name| names.contains(name)), "{names:?}");
    for method in json.as_array().expect("a list") {
        for key in ["name", "summary", "cost", "source"] {
            let text = method[key].as_str().expect("a text");
            let first = text.split(' ').next().expect("a word");
            assert!(!text.is_empty() && table.stdout.contains(first), "{key} of {}", method["name"]);
        }
    }
}

#[test]
fn help_and_version() {
    let folder = Folder::new();
    for (args, needle) in [
        (vec!["--help"], "score"),
        (vec!["score", "--help"], "[samples, rows, cols]"),
        (vec!["demo", "--help"], "--noise"),
        (vec!["--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let run = hyperinf(folder.path(), &args);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(run.stdout.contains(needle), "{args:?}: {}", run.stdout);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = Folder::with_gradients();
    // More than a pipe holds, so that the program meets the closed end.
    folder.write(
        "query.safetensors",
        &[f32s("a", &[999, 2, 5], &whole(9990, 2)), f32s("b", &[999, 3, 4], &whole(11988, 3))],
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_hyperinf"))
        .args(["score", "--train-gradients", "train.safetensors", "--query-gradients", "query.safetensors", "--json"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program was built with the tests");
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().expect("it is piped").read_to_string(&mut stderr).expect("it is UTF-8");
    assert_eq!((child.wait().expect("it was started").code(), stderr.as_str()), (Some(0), ""));
}
