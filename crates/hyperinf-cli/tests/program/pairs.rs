//! Preference pairs from rows to scores.

use hyperinf_tests::compare::assert_close;
use serde_json::{Value, json};

use crate::support::{Folder, csv_rows, number};
use crate::texts::{completions, model};

pub fn pairs(count: usize) -> Vec<Value> {
    let rows = completions(count + 1);
    let row = |i: usize| json!({ "prompt": rows[i]["prompt"], "chosen": rows[i]["completion"], "rejected": rows[i + 1]["completion"] });
    (0..count).map(row).collect()
}

fn base() -> Vec<String> {
    vec!["--model".into(), model("llama")]
}

#[test]
fn pairs_are_trained_evaluated_and_scored() {
    for (loss, more) in [("dpo", &["--beta", "0.5"][..]), ("reward", &[])] {
        let folder = Folder::new();
        folder.write_rows("pairs.jsonl", &pairs(9));
        let pairs = [&["--pairs", loss][..], more].concat();
        let args = ["--train", "pairs.jsonl", "--epochs", "3", "--learning-rate", "0.01", "--out", "adapter"];
        let run = folder.succeed("finetune", &base(), &[&args[..], &pairs].concat());
        assert!(run.stdout.contains("guessing 0.6931") && run.stdout.contains("margin"), "{}", run.stdout);
        let adapter = [&base()[..], &["--adapter".into(), "adapter".into()]].concat();
        let args = ["--data", "pairs.jsonl", "--output", "predictions.csv"];
        folder.succeed("evaluate", &adapter, &[&args[..], &pairs].concat());
        let margins: Vec<f64> =
            csv_rows(&folder.file("predictions.csv")).iter().map(|row| number(row, "margin").expect("one")).collect();
        let args = ["--train", "pairs.jsonl", "--validation", "pairs.jsonl", "--remove", "2", "--out", "found"];
        folder.succeed("detect", &adapter, &[&args[..], &pairs].concat());
        let rows = csv_rows(&folder.file("found/suspicious.csv"));
        assert_eq!(rows.len(), 9);
        for row in &rows {
            let margin = margins[row["id"].parse::<usize>().expect("a number")];
            assert!((number(row, "margin").expect("one") - margin).abs() < 1e-3, "{row:?}, {margin}");
            assert!(row["text"].contains("chosen: ") && row["text"].contains("rejected: "), "{row:?}");
        }
        assert_eq!(folder.lines("found/cleaned.jsonl").len(), 7);
        let summary = folder.json("found/summary.json");
        assert_eq!((&summary["task"], &summary["loss"]["pairs"]), (&json!("preference"), &json!(loss)));
        assert!(summary["cross_check"]["auc_loss"].is_number(), "{summary}");
        let args = ["--train", "pairs.jsonl", "--query", "pairs.jsonl", "--out", "scored", "--method", "ekfac,bm25"];
        folder.succeed("attribute", &adapter, &[&args[..], &pairs].concat());
        assert_eq!(folder.lines("scored/ekfac/topk.jsonl").len(), 9);
        // The same scores from an index, which is asked again for pairs of a file.
        let args = ["--train", "pairs.jsonl", "--out", "index"];
        folder.succeed("index", &adapter, &[&args[..], &pairs].concat());
        let args = ["--train", "pairs.jsonl", "--query", "pairs.jsonl", "--format", "csv", "--method", "datainf"];
        folder.succeed("attribute", &adapter, &[&args[..], &["--out", "plain"], &pairs].concat());
        let more = ["--out", "indexed", "--index", "index"];
        let run = folder.succeed("attribute", &adapter, &[&args[..], &more, &pairs].concat());
        assert!(run.stderr.contains("9 of 9"), "the index is not built again: {}", run.stderr);
        let scores = |name: &str| folder.text(&format!("{name}/scores.csv"));
        let numbers = |text: &str| -> Vec<f64> {
            text.lines()
                .skip(1)
                .map(|line| line.split(',').nth(2).and_then(|cell| cell.parse().ok()).expect("a score"))
                .collect()
        };
        assert_close(loss, &numbers(&scores("indexed")), &numbers(&scores("plain")), 1e-4);
        let args = ["--index", "index", "--query", "pairs.jsonl", "--method", "datainf", "--output", "asked.csv"];
        folder.succeed("query", &[], &args);
        assert_eq!(numbers(&folder.text("asked.csv")), numbers(&scores("indexed")));
        // Another loss, or another β, has other gradients.
        let other =
            if *loss == *"dpo" { ["--pairs", "dpo", "--beta", "2"] } else { ["--pairs", "dpo", "--beta", "0.1"] };
        let args = ["--train", "pairs.jsonl", "--query", "pairs.jsonl", "--out", "other", "--index", "index"];
        let words: Vec<&str> = adapter.iter().map(String::as_str).chain(args).chain(other).collect();
        let run = folder.run("attribute", &words);
        assert!(run.code == Some(3) || run.code == Some(2), "{run:?}");
        // A baseline's result says of which loss, too.
        assert_eq!(folder.json("scored/bm25/summary.json")["loss"]["pairs"], json!(loss));
    }
}

#[test]
fn pairs_need_their_loss_and_a_language_model() {
    let folder = Folder::new();
    folder.write_rows("pairs.jsonl", &pairs(4));
    let bert = vec!["--model".into(), model("bert")];
    let train = ["--train", "pairs.jsonl", "--out", "adapter"];
    for (model, more, code, needle) in [
        (base(), &[][..], 3, "--pairs dpo"),
        (bert, &["--pairs", "dpo"], 2, "not a language model"),
        (base(), &["--pairs", "reward", "--beta", "1"], 2, "--beta"),
        (base(), &["--pairs", "dpo", "--beta", "-1"], 2, "beta"),
        (base(), &["--pairs", "kto"], 2, "kto"),
        (base(), &["--beta", "1"], 2, "--pairs"),
        (base(), &["--pairs", "dpo", "--chosen-column", "best"], 3, "`best`"),
    ] {
        let model: Vec<&str> = model.iter().map(String::as_str).collect();
        let run = folder.run("finetune", &[&model[..], &train, more].concat());
        assert_eq!(run.code, Some(code), "{more:?}: {run:?}");
        assert!(run.stderr.contains(needle), "{more:?}: no {needle:?} in {}", run.stderr);
    }
    let run = folder.succeed("check", &base(), &["--data", "pairs.jsonl", "--pairs", "dpo"]);
    assert!(run.stdout.matches('⟦').count() >= 8, "both answers of four rows: {}", run.stdout);
}

/// A recorded training on pairs is followed: its derivative foretells the trainings without single pairs.
#[test]
fn recorded_trainings_on_pairs_are_followed() {
    for (loss, more) in [("dpo", &["--beta", "0.5"][..]), ("reward", &[])] {
        let folder = Folder::new();
        folder.write_rows("pairs.jsonl", &pairs(9));
        let pairs = [&["--pairs", loss][..], more].concat();
        let args = ["--train", "pairs.jsonl", "--epochs", "2", "--batch-size", "3", "--out", "adapter", "--record"];
        folder.succeed("finetune", &base(), &[&args[..], &["--learning-rate", "0.002"], &pairs].concat());
        let with = ["--adapter", "adapter", "--train", "pairs.jsonl", "--query", "pairs.jsonl"];
        let args = ["--out", "loo", "--rows", "9", "--method", "recorded,random"];
        let model = model("llama");
        let truth = [&["eval", "adapter", "loo", "--model", &model][..], &with, &args, &pairs].concat();
        let run = crate::support::hyperinf(folder.path(), &truth);
        assert_eq!(run.code, Some(0), "{run:?}");
        let rows = csv_rows(&folder.file("loo/methods.csv"));
        let lds = |method: &str| number(rows.iter().find(|row| row["method"] == method).expect("a row"), "lds");
        assert!(lds("unrolled").is_some_and(|lds| lds > 0.7), "{loss}: {rows:?}");
        for method in ["tracin-cp", "tracin-adam", "source"] {
            assert!(lds(method).is_some(), "{loss}: {rows:?}");
        }
        let args = ["--out", "metric", "--metric", "adapter", "--method", "identity,datainf"];
        folder.succeed("attribute", &base(), &[&with[..], &args, &pairs].concat());
    }
}
