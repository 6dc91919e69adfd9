//! The cross-check of `detect`, against gradients of rows whose labels were exchanged in their file.

use hyperinf_tests::compare::assert_close;
use serde_json::{Value, json};

use crate::support::{Folder, csv_rows, number, read_scores};
use crate::texts::{bert, model, three_classes, two_kinds};

const COLUMNS: [&str; 2] = ["--truncate", "--device"];

fn exchanged(rows: &[Value]) -> Vec<Value> {
    let other = |row: &Value| {
        let label = if row["label"] == "animal" { "water" } else { "animal" };
        json!({ "text": row["text"], "label": label })
    };
    rows.iter().map(other).collect()
}

/// How likely the value of an exchanged row is above that of a row, by counting pairs; and the part of each row.
fn area(own: &[f64], other: &[f64]) -> (f64, Vec<f64>) {
    let above = |high: f64, low: f64| if high > low { 1.0 } else { f64::from(u8::from(high == low)) / 2.0 };
    let n = own.len() as f64;
    let part = |row: usize| {
        let as_other: f64 = own.iter().map(|&low| above(other[row], low)).sum();
        let as_own: f64 = other.iter().map(|&high| above(high, own[row])).sum();
        (as_other + as_own) / n
    };
    let area: f64 = own.iter().flat_map(|&low| other.iter().map(move |&high| above(high, low))).sum();
    (area / (n * n), (0..own.len()).map(part).collect())
}

#[test]
fn exchanged_labels_need_no_gradients() {
    let folder = Folder::new();
    let rows = two_kinds(24, 5);
    let mut train = two_kinds(40, 0);
    for row in [3, 10, 21, 34] {
        train[row] = exchanged(&train[row..=row]).remove(0);
    }
    folder.write_rows("train.jsonl", &train);
    folder.write_rows("validation.jsonl", &rows);
    folder.write_rows("both.jsonl", &[rows.clone(), exchanged(&rows)].concat());
    let base = ["--model".to_owned(), model("bert")];
    let args = ["--train", "train.jsonl", "--learning-rate", "0.01", "--epochs", "4", "--out", "adapter"];
    folder.succeed("finetune", &base, &[&args[..], &COLUMNS, &["flex"]].concat());
    let tuned = [&base[..], &["--adapter".into(), "adapter".into()]].concat();

    for (method, normalise) in [("hyperinf", "none"), ("identity", "none"), ("datainf", "l2"), ("hyperinf", "cosine")] {
        let how = ["--method", method, "--normalise", normalise];
        let args = ["--train", "train.jsonl", "--validation", "validation.jsonl", "--keep-gradients", "--out", "found"];
        let run = folder.succeed("detect", &tuned, &[&args[..], &how, &COLUMNS, &["flex"]].concat());
        let check = folder.json("found/summary.json")["cross_check"].clone();

        // The rows with both labels as training rows, by the curvature of the training rows.
        let args = ["--train", "both.jsonl", "--query", "validation.jsonl", "--keep-gradients", "--out", "other"];
        folder.succeed("attribute", &tuned, &[&args[..], &["--method", "identity"], &COLUMNS, &["flex"]].concat());
        let args = [
            "score",
            "--train-gradients",
            "other/train_gradients.safetensors",
            "--query-gradients",
            "other/query_gradients.safetensors",
            "--curvature-gradients",
            "found/train_gradients.safetensors",
            "--output",
            "scores.safetensors",
            "--device",
            "flex",
        ];
        // Methods without curvature refuse one.
        let args = if method == "identity" { [&args[..5], &args[7..]].concat() } else { args.to_vec() };
        let scored = crate::support::hyperinf(folder.path(), &[&args[..], &how].concat());
        assert_eq!(scored.code, Some(0), "{method}: {scored:?}");
        let scores = read_scores(&folder.file("scores.safetensors"));
        let args = ["--data", "both.jsonl", "--output", "both.csv"];
        folder.succeed("evaluate", &tuned, &[&args[..], &COLUMNS, &["flex"]].concat());
        let losses: Vec<f64> =
            csv_rows(&folder.file("both.csv")).iter().map(|row| number(row, "loss").expect("a loss")).collect();
        let score = |column: usize| {
            let others = (0..24).filter(|&query| query != column % 24);
            -others.map(|query| scores[query][column]).sum::<f64>()
        };
        let suspicions: Vec<f64> = (0..48).map(score).collect();
        let (auc_score, of_scores) = area(&suspicions[..24], &suspicions[24..]);
        let (auc_loss, of_losses) = area(&losses[..24], &losses[24..]);
        let differences: Vec<f64> = of_losses.iter().zip(&of_scores).map(|(loss, score)| loss - score).collect();
        let mean = differences.iter().sum::<f64>() / 24.0;
        let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 23.0;
        let error = (variance / 24.0).sqrt();

        let found = ["auc_score", "auc_loss", "error"].map(|name| check[name].as_f64().expect("a number"));
        // An exchange of two ranks changes an area by 1/24².
        assert_close(method, &found, &[auc_score, auc_loss, error], 1e-2);
        assert_eq!(check["rows"], 24);
        assert_eq!(run.stderr.contains("better detector"), found[1] - found[0] > 2.0 * found[2], "{}", run.stderr);
    }
}

#[test]
fn more_classes_have_no_cross_check() {
    let folder = Folder::new();
    folder.write_rows("rows.jsonl", &three_classes(9));
    let args = ["--train", "rows.jsonl", "--validation", "rows.jsonl", "--truncate", "--out", "found"];
    folder.succeed("detect", &bert(), &args);
    assert!(folder.json("found/summary.json")["cross_check"].is_null());
}
