//! Numbers at their limits: memory, types, dampings, and what a size means.

use hyperinf_tests::compare::assert_close;
use safetensors::Dtype;
use serde_json::Value;

use crate::support::{Folder, Run, Tensor, f32s, hyperinf, whole};

const INPUTS: [&str; 4] = ["--train-gradients", "train.safetensors", "--query-gradients", "query.safetensors"];

fn f64s(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
    Tensor { name: name.into(), dtype: Dtype::F64, shape: shape.into(), bytes }
}

/// 300 samples and 3 queries of one block of 8 × 8, of rank 5, stored as f32 and as f64.
fn of_both_types() -> [Folder; 2] {
    let combined = |n: usize, seed: u32| -> Vec<f32> {
        let (weights, basis) = (whole(n * 5, seed), whole(5 * 64, 9));
        let entry = |i: usize, j: usize| (0..5).map(|k| weights[i * 5 + k] * basis[k * 64 + j]).sum::<f32>() / 16.0;
        (0..n * 64).map(|at| entry(at / 64, at % 64)).collect()
    };
    let (train, query) = (combined(300, 1), whole(3 * 64, 2));
    [f32s as fn(&str, &[usize], &[f32]) -> Tensor, f64s].map(|tensor| {
        let folder = Folder::new();
        folder.write("train.safetensors", &[tensor("a", &[300, 8, 8], &train)]);
        folder.write("query.safetensors", &[tensor("a", &[3, 8, 8], &query)]);
        folder
    })
}

#[test]
fn the_type_of_a_file_changes_no_score() {
    let [single, double] = of_both_types();
    for method in ["exact", "nystrom", "lanczos", "cg", "block-cg", "hyperinf", "diagonal", "shampoo", "datainf"] {
        for damping in ["0.1", "1e-5", "1e-8"] {
            let args = ["--method", method, "--damping", damping];
            let (found, expected) = (single.scores(&args).concat(), double.scores(&args).concat());
            assert_close(&format!("{method} at {damping}"), &found, &expected, 1e-4);
        }
    }
}

#[test]
fn a_damping_that_rounding_swallows_is_refused() {
    for folder in of_both_types() {
        for method in ["exact", "lanczos", "nystrom", "cg", "hyperinf", "datainf", "diagonal"] {
            for lambda in ["1e-30", "1e-20", "5e-324"] {
                let run = folder.score(&["--method", method, "--damping-absolute", lambda]);
                assert_eq!(run.code, Some(4), "{method} at {lambda}: {run:?}");
                for needle in ["block `a`", "is lost in the rounding", "expected at least", "--damping"] {
                    assert!(run.stderr.contains(needle), "{method} at {lambda}: {}", run.stderr);
                }
            }
        }
    }
}

#[test]
fn scores_that_a_file_cannot_hold_are_refused() {
    let folder = Folder::new();
    let times = |values: Vec<f32>, factor: f32| values.into_iter().map(|v| v * factor).collect::<Vec<f32>>();
    for (g, v, fits) in [(1e18, 1e-18, false), (1e-15, 1e-15, true), (1e-20, 1e20, false), (1e18, 1e18, true)] {
        folder.write("train.safetensors", &[f32s("a", &[9, 2, 3], &times(whole(54, 1), g))]);
        folder.write("query.safetensors", &[f32s("a", &[2, 2, 3], &times(whole(12, 2), v))]);
        for method in ["exact", "hyperinf", "diagonal", "datainf"] {
            let run = folder.score(&["--method", method, "--output", "scores.csv"]);
            assert_eq!(run.code, Some(if fits { 0 } else { 4 }), "{method}, {g:e}, {v:e}: {run:?}");
            assert_eq!(folder.file("scores.csv").exists(), fits, "{method}, {g:e}, {v:e}");
            if fits {
                std::fs::remove_file(folder.file("scores.csv")).expect("it is there");
                std::fs::remove_file(folder.file("scores.csv.json")).expect("it is there");
            } else {
                assert!(run.stderr.contains("query 0") && run.stderr.contains("expected at"), "{}", run.stderr);
            }
        }
    }
}

fn check_refused(run: &Run, what: &str) {
    assert_eq!(run.code, Some(4), "{what}: {run:?}");
    for needle in ["block `", "GiB of memory", "are available", "these fit: ", "`identity` (", "--project RANK"] {
        assert!(run.stderr.contains(needle), "{what}: no {needle:?} in {}", run.stderr);
    }
    assert_eq!(run.stdout, "", "{what}");
}

/// 6 samples and 2 queries of one block without sides.
fn flat(d: usize) -> Folder {
    let folder = Folder::new();
    folder.write("train.safetensors", &[f32s("a", &[6, d], &whole(6 * d, 1))]);
    folder.write("query.safetensors", &[f32s("a", &[2, d], &whole(2 * d, 2))]);
    folder
}

#[test]
fn memory_is_estimated_before_work() {
    let folder = flat(8000);
    for args in [
        &["score"][..],
        &["score", "--method", "shampoo"],
        &["score", "--method", "hyperinf-authors"],
        &["score", "--structure", "merged"],
        &["sweep", "--damping", "0.1,1"],
        &["sweep", "--damping", "0.1,1", "--method", "shampoo"],
    ] {
        let run = hyperinf(folder.path(), &[args, &INPUTS, &["--memory", "1"]].concat());
        check_refused(&run, &args.join(" "));
    }
    // What the message says fits.
    for method in ["identity", "cosine", "datainf", "exact", "diagonal", "cg"] {
        let run = folder.score(&["--method", method, "--memory", "1"]);
        assert_eq!(run.code, Some(0), "{method}: {run:?}");
    }
    let run = hyperinf(folder.path(), &[&["compare"][..], &INPUTS, &["--memory", "1", "--json"]].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("GiB of memory"), "{}", run.stdout);
    for wrong in ["0", "-1", "nan", "much"] {
        let run = folder.score(&["--memory", wrong]);
        assert_eq!(run.code, Some(2), "{wrong}: {run:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn limits_of_the_shell_count() {
    let folder = flat(20_000);
    let program = env!("CARGO_BIN_EXE_hyperinf");
    for limit in ["ulimit -v 4000000", "ulimit -d 3000000"] {
        let command = format!("{limit}; exec {program} score {}", INPUTS.join(" "));
        let output = std::process::Command::new("sh").args(["-c", &command]).current_dir(folder.path()).output();
        let output = output.expect("there is a shell");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{limit}: {text}");
        assert!(text.contains("are available"), "{limit}: {text}");
    }
}

/// Products in f64 reserve address space for the processor's cache, however small the matrices are.
#[cfg(target_os = "linux")]
#[test]
fn little_address_space_is_no_abort() {
    let folder = Folder::new();
    for (name, n, seed) in [("train.safetensors", 150, 1), ("query.safetensors", 2, 2)] {
        folder.write(name, &[f32s("a", &[n, 1, 200], &whole(200 * n, seed))]);
    }
    let program = env!("CARGO_BIN_EXE_hyperinf");
    for method in ["exact", "block-cg", "nystrom", "shampoo", "identity"] {
        for limit in [1_300_000, 1_700_000, 2_100_000, 2_500_000, 8_000_000] {
            let command = format!("ulimit -v {limit}; exec {program} score --method {method} {}", INPUTS.join(" "));
            let output = std::process::Command::new("sh").args(["-c", &command]).current_dir(folder.path()).output();
            let output = output.expect("there is a shell");
            let text = String::from_utf8_lossy(&output.stderr);
            let fits = output.status.success() || text.contains("are available");
            assert!(fits, "{method}, {limit}: {:?}, {text}", output.status);
        }
    }
}

#[test]
fn a_block_without_sides_is_told() {
    let folder = flat(12);
    for (args, told) in [
        (&["--method", "hyperinf"][..], true),
        (&["--method", "hyperinf-authors"], true),
        (&["--method", "exact"], false),
        (&["--method", "diagonal"], false),
        (&["--method", "hyperinf", "--structure", "merged"], false),
    ] {
        let run = folder.score(args);
        assert_eq!(run.stderr.contains("inverts the whole 12 × 12 matrix"), told, "{args:?}: {}", run.stderr);
    }
    let sided = Folder::with_gradients().score(&[]);
    assert!(!sided.stderr.contains("the whole"), "{}", sided.stderr);
}

#[test]
fn a_unit_promises_no_more_than_there_is() {
    let folder = Folder::with_gradients();
    let unit = |args: &[&str]| -> String {
        let run = folder.score(&[args, &["--json"]].concat());
        let told: Value = serde_json::from_str(&run.stdout).expect("standard output is JSON");
        told["unit"].as_str().expect("a text").to_owned()
    };
    for method in ["datainf", "hyperinf-authors", "exact/identity"] {
        assert!(unit(&["--method", method]).starts_with("ranks only"), "{method}");
    }
    for method in ["exact", "cg", "nystrom"] {
        let unit = unit(&["--method", method]);
        assert!(unit.contains("as far as training has converged"), "{method}: {unit}");
    }
    for method in ["hyperinf", "diagonal", "shampoo"] {
        let unit = unit(&["--method", method]);
        assert!(unit.contains("the curvature is approximate"), "{method}: {unit}");
    }
    assert_eq!(unit(&["--method", "identity"]), "inner products of gradients");
}

/// Three samples of one parameter, and one query: scores are multiples of the gradients.
fn signed(gradients: &[f32]) -> Folder {
    let folder = Folder::new();
    folder.write("train.safetensors", &[f32s("a", &[gradients.len(), 1, 1], gradients)]);
    folder.write("query.safetensors", &[f32s("a", &[1, 1, 1], &[1.0])]);
    folder
}

#[test]
fn a_positive_score_is_not_called_harmful() {
    let folder = signed(&[1.0, 2.0, 3.0]);
    let run = folder.score(&["--method", "identity"]);
    assert!(run.stdout.contains("least helpful sample"), "{}", run.stdout);
    assert!(!run.stdout.contains("harmful sample"), "{}", run.stdout);
    let run = folder.score(&["--method", "identity", "--json"]);
    let told: Value = serde_json::from_str(&run.stdout).expect("standard output is JSON");
    assert_eq!(told["rankings"][0]["most_harmful"], Value::Array(vec![]));
    assert_eq!(told["rankings"][0]["least_helpful"][0]["train_id"], 0);
    let folder = signed(&[1.0, -2.0, 3.0]);
    let run = folder.score(&["--method", "identity", "--json"]);
    let told: Value = serde_json::from_str(&run.stdout).expect("standard output is JSON");
    assert_eq!(told["rankings"][0]["most_harmful"].as_array().map(Vec::len), Some(1));
    assert!(told["rankings"][0].get("least_helpful").is_none());
}

#[test]
fn ranks_are_by_magnitude_where_asked() {
    let folder = signed(&[1.0, -3.0, 2.0, -0.5]);
    let ranks = |args: &[&str]| -> Vec<String> {
        let run = folder.score(&[&["--method", "identity", "--output", "scores.csv"], args].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        crate::support::csv_rows(&folder.file("scores.csv")).iter().map(|row| row["rank"].clone()).collect()
    };
    assert_eq!(ranks(&[]), ["2", "4", "1", "3"]);
    assert_eq!(ranks(&["--rank-by", "score"]), ["2", "4", "1", "3"]);
    assert_eq!(ranks(&["--rank-by", "magnitude"]), ["3", "1", "2", "4"]);
    let run = folder.score(&["--method", "identity", "--rank-by", "magnitude"]);
    assert!(run.stdout.contains("most influential sample"), "{}", run.stdout);
    let run = folder.score(&["--rank-by", "size"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    let rows = ["--model", "m", "--train", "t.jsonl", "--validation", "v.jsonl", "--out", "out"];
    let run = hyperinf(folder.path(), &[&["detect"][..], &rows, &["--rank-by", "magnitude"]].concat());
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("most negative"), "{}", run.stderr);
}
