//! `select` beyond the top of one list.

use serde_json::{Value, json};

use crate::support::{Folder, csv_rows, number};
use crate::texts::{bert, completions, jsonl, llama, three_classes};

/// Rows for a classifier, of which some are there twice or three times, and two files of validation rows.
fn with_copies() -> (Folder, Vec<Value>) {
    let folder = Folder::new();
    let mut rows = three_classes(18);
    for (copy, of) in [(4, 3), (9, 3), (15, 8)] {
        rows[copy] = rows[of].clone();
    }
    for (i, row) in rows.iter_mut().enumerate() {
        row["topic"] = json!(if i < 12 { "one" } else { "two" });
    }
    folder.write_rows("train.jsonl", &rows);
    folder.write_rows("first.jsonl", &three_classes(5));
    folder.write_rows("second.jsonl", &three_classes(11)[6..]);
    (folder, rows)
}

const ARGS: [&str; 9] =
    ["--train", "train.jsonl", "--validation", "first.jsonl", "--truncate", "--out", "chosen", "--device", "flex"];

/// The selected rows, in the order of the file, with the summary.
fn select(folder: &Folder, more: &[&str]) -> (Vec<Value>, Value) {
    folder.succeed("select", &bert(), &[&ARGS[..], more].concat());
    (folder.lines("chosen/selected.jsonl"), folder.json("chosen/summary.json"))
}

#[test]
fn duplicates_are_dropped() {
    let (folder, rows) = with_copies();
    let (kept, _) = select(&folder, &["--keep", "18"]);
    assert_eq!(kept.len(), 18);
    let (kept, summary) = select(&folder, &["--keep", "18", "--drop-duplicates"]);
    // Rows 4 and 9 are row 3, row 15 is row 8.
    assert_eq!((kept.len(), &summary["selection"]["passed_over"]["duplicates"]), (15, &json!(3)));
    let texts: Vec<(&Value, &Value)> = kept.iter().map(|row| (&row["text"], &row["label"])).collect();
    for row in &rows {
        let same = texts.iter().filter(|(text, label)| (*text, *label) == (&row["text"], &row["label"]));
        assert_eq!(same.count(), 1, "{row}");
    }
    // Copies have the cosine 1; at a low one, little is left.
    let (near, summary) = select(&folder, &["--keep", "18", "--drop-duplicates=0.5"]);
    assert!(near.len() < 15, "{}", jsonl(&near));
    let passed = &summary["selection"]["passed_over"];
    assert_eq!(near.len() + 3 + passed["near_duplicates"].as_u64().expect("a number") as usize, 18, "{passed}");
}

#[test]
fn groups_and_budgets_limit_the_rows() {
    let (folder, _) = with_copies();
    let count = |rows: &[Value], column: &str, value: Value| rows.iter().filter(|row| row[column] == value).count();
    let (kept, summary) = select(&folder, &["--keep", "18", "--per-group", "2"]);
    for label in 0..3 {
        assert_eq!(count(&kept, "label", json!(label)), 2, "{}", jsonl(&kept));
    }
    assert_eq!(summary["selection"]["passed_over"]["full_groups"], json!(12));
    let (kept, _) = select(&folder, &["--keep", "5", "--per-group", "4", "--group-column", "topic"]);
    assert!(count(&kept, "topic", json!("one")) <= 4 && kept.len() == 5, "{}", jsonl(&kept));

    let (_, all) = select(&folder, &["--keep", "18"]);
    let total = all["selection"]["tokens"].as_u64().expect("a number");
    let (kept, summary) = select(&folder, &["--keep", &format!("{}tokens", total / 2)]);
    let tokens = summary["selection"]["tokens"].as_u64().expect("a number");
    assert!(tokens <= total / 2 && tokens + 24 > total / 2, "{tokens} of {total} tokens");
    assert!(!kept.is_empty() && kept.len() < 18);
}

#[test]
fn diverse_rows_with_their_gains() {
    let (folder, _) = with_copies();
    for method in ["hyperinf", "exact", "cosine"] {
        let (kept, summary) = select(&folder, &["--keep", "6", "--diverse", "--method", method]);
        assert_eq!(kept.len(), 6);
        assert_eq!((&summary["selection"]["diverse"], &summary["selection"]["pool"]), (&json!(1.0), &json!(18)));
        let step = summary["selection"]["step"].as_f64().expect("a number");
        let mut placed: Vec<(f64, f64, f64)> = csv_rows(&folder.file("chosen/ranking.csv"))
            .iter()
            .filter_map(|row| Some((number(row, "place")?, number(row, "gain")?, number(row, "score")?)))
            .collect();
        placed.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert_eq!(placed.iter().map(|(place, ..)| *place as usize).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        assert!(step >= 0.0, "{step}");
        // A row adds no more than its score where products are not negative; here only the first is sure to.
        assert!(placed[0].1 <= placed[0].2, "{placed:?}");
        assert_eq!(summary["selected"].as_array().map(Vec::len), Some(6));
    }
    // The same as without, where nothing interacts.
    let (plain, _) = select(&folder, &["--keep", "6"]);
    let (none, _) = select(&folder, &["--keep", "6", "--diverse=0"]);
    assert_eq!(plain, none);
    // Every gradient is read again for another method.
    let more = ["--keep", "6", "--diverse", "--method", "datainf,identity"];
    folder.succeed("select", &bert(), &[&ARGS[..], &more].concat());
    assert!(folder.files_in("chosen/datainf").contains(&"selected.jsonl".to_owned()));
}

#[test]
fn several_targets_give_one_ranking() {
    let (folder, _) = with_copies();
    let score = |more: &[&str], column: &str| -> Vec<f64> {
        select(&folder, &[&["--keep", "4", "--method", "identity"], more].concat());
        let mut rows = csv_rows(&folder.file("chosen/ranking.csv"));
        rows.sort_by_key(|row| row["id"].parse::<usize>().expect("a row's number"));
        rows.iter().map(|row| number(row, column).expect("a score")).collect()
    };
    let both = ["--validation", "second.jsonl", "--keep-gradients"];
    let first = score(&[], "score");
    let second = {
        let args = ["--train", "train.jsonl", "--validation", "second.jsonl", "--truncate", "--out", "other"];
        folder.succeed("select", &bert(), &[&args[..], &["--keep", "4", "--method", "identity"]].concat());
        let mut rows = csv_rows(&folder.file("other/ranking.csv"));
        rows.sort_by_key(|row| row["id"].parse::<usize>().expect("a row's number"));
        rows.iter().map(|row| number(row, "score").expect("a score")).collect::<Vec<_>>()
    };
    for (over, of) in [("mean", mean as fn(f64, f64) -> f64), ("max", f64::max), ("worst", f64::min)] {
        let found = score(&[&both[..], &["--targets", over]].concat(), "score");
        let scale = |row: &[f64]| (row.iter().map(|score| score * score).sum::<f64>() / row.len() as f64).sqrt();
        let (a, b) = (scale(&first), scale(&second));
        for (row, found) in found.iter().enumerate() {
            let expected = of(first[row] / a, second[row] / b);
            assert!((found - expected).abs() < 1e-4, "{over}, row {row}: {found}, expected {expected}");
        }
        assert!(folder.files_in("chosen").contains(&"query_gradients-2.safetensors".to_owned()));
        for (place, expected) in [("score_1", &first), ("score_2", &second)] {
            let found = score(&[&both[..], &["--targets", over]].concat(), place);
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1e-6)), "{place}");
        }
    }
}

fn mean(a: f64, b: f64) -> f64 {
    0.5 * (a + b)
}

#[test]
fn a_language_model_takes_a_budget_of_tokens() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(16));
    folder.write_rows("first.jsonl", &completions(3));
    let more = ["--keep", "60tokens", "--diverse", "--drop-duplicates"];
    let run = folder.succeed("select", &llama(), &[&ARGS[..], &more].concat());
    let summary = folder.json("chosen/summary.json");
    let tokens = summary["selection"]["tokens"].as_u64().expect("a number");
    assert!((1..=60).contains(&tokens), "{tokens}");
    assert!(run.stdout.contains("tokens: chosen/selected.jsonl") && run.stdout.contains("diverse "), "{}", run.stdout);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let (folder, _) = with_copies();
    folder.write_rows("texts.jsonl", &completions(4));
    for (code, more, needles) in [
        (2, &["--keep", "0tokens"][..], &["50000tokens"][..]),
        (2, &["--keep", "3", "--drop-duplicates=1.5"], &["a cosine is above 0"]),
        (2, &["--keep", "3", "--diverse=-1"], &["strength", "at least 0", "-1"]),
        (2, &["--keep", "3", "--diverse", "--rank-by", "magnitude"], &["--diverse", "--rank-by magnitude"]),
        (2, &["--keep", "3", "--diverse", "--normalise", "l2"], &["--diverse", "--normalise", "one scale"]),
        (2, &["--keep", "3", "--per-group", "0"], &["rows of a group", "at least 1"]),
        (2, &["--keep", "3", "--group-column", "topic"], &["--per-group"]),
        (2, &["--keep", "19"], &["19 rows of 18"]),
        (2, &["--keep", "6", "--diverse", "--pool", "4"], &["4 of 6", "--pool 12"]),
        (3, &["--keep", "3", "--per-group", "1", "--group-column", "subject"], &["`subject`", "`topic`"]),
        (2, &["--keep", "3", "--validation", "none.jsonl"], &[]),
    ] {
        let model: Vec<String> = bert();
        let model: Vec<&str> = model.iter().map(String::as_str).collect();
        let run = folder.run("select", &[&model[..], &ARGS[..], more].concat());
        if needles.is_empty() {
            assert_eq!(run.code, Some(3), "{run:?}");
            continue;
        }
        assert_eq!(run.code, Some(code), "{more:?}: {run:?}");
        for needle in needles {
            assert!(run.stderr.contains(needle), "{more:?}: no {needle:?} in {}", run.stderr);
        }
    }
    folder.write_rows("train.jsonl", &completions(6));
    folder.write_rows("first.jsonl", &completions(2));
    let model: Vec<String> = llama();
    let model: Vec<&str> = model.iter().map(String::as_str).collect();
    let run = folder.run("select", &[&model[..], &ARGS[..], &["--keep", "2", "--per-group", "1"]].concat());
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("no labels") && run.stderr.contains("--group-column"), "{}", run.stderr);
}

#[test]
fn baselines_stand_next_to_methods() {
    let (folder, rows) = with_copies();
    folder.succeed("select", &bert(), &[&ARGS[..], &["--keep", "5", "--method", "identity,baselines"]].concat());
    for word in ["identity", "random", "length", "loss", "bm25", "hidden-cosine"] {
        let files = folder.files_in(&format!("chosen/{word}"));
        assert_eq!(files, ["ranking.csv", "selected.jsonl", "summary.json"], "{word}");
        let summary = folder.json(&format!("chosen/{word}/summary.json"));
        assert_eq!((&summary["method"], &summary["command"]), (&json!(word), &json!("select")));
        assert_eq!(folder.lines(&format!("chosen/{word}/selected.jsonl")).len(), 5);
    }
    // The losses next to a method's scores are the baseline's scores.
    let of = |word: &str, column: &str| {
        let mut rows = csv_rows(&folder.file(&format!("chosen/{word}/ranking.csv")));
        rows.sort_by_key(|row| row["id"].parse::<usize>().expect("a row's number"));
        rows.iter().map(|row| number(row, column).expect("a number")).collect::<Vec<_>>()
    };
    for (score, loss) in of("loss", "score").iter().zip(of("identity", "training_loss")) {
        assert!((score + loss).abs() < 1e-4, "{score}, {loss}");
    }
    // A baseline alone needs no adapter, and the others write what methods write.
    let args = ["--train", "train.jsonl", "--validation", "first.jsonl", "--truncate", "--out", "found"];
    let more = ["--method", "hidden-cosine", "--remove", "3"];
    folder.succeed("detect", &bert(), &[&args[..], &more].concat());
    assert_eq!(folder.files_in("found"), ["cleaned.jsonl", "summary.json", "suspicious.csv"]);
    assert_eq!(folder.lines("found/cleaned.jsonl").len(), rows.len() - 3);
    let args = ["--train", "train.jsonl", "--query", "first.jsonl", "--truncate", "--out", "scored"];
    let run = folder.succeed("attribute", &bert(), &[&args[..], &["--method", "bm25", "--format", "csv"]].concat());
    assert!(run.stdout.contains("BM25") && run.stdout.contains("most helpful"), "{}", run.stdout);
    let scores = csv_rows(&folder.file("scored/scores.csv"));
    assert_eq!((scores.len(), folder.json("scored/scores.csv.json")["method"].as_str()), (90, Some("bm25")));

    for (command, more, needles) in [
        ("select", &["--keep", "3", "--method", "bm25", "--diverse"][..], &["--diverse", "baseline"][..]),
        ("select", &["--keep", "3", "--method", "bm25", "--rank-by", "magnitude"], &["bm25", "magnitude"]),
        ("select", &["--keep", "3", "--method", "bm26"], &["bm26"]),
        ("select", &["--keep", "3", "--method", "bm25", "--validation", "second.jsonl"], &["--validation"]),
    ] {
        let model: Vec<String> = bert();
        let model: Vec<&str> = model.iter().map(String::as_str).collect();
        let run = folder.run(command, &[&model[..], &ARGS[..], more].concat());
        assert_eq!(run.code, Some(2), "{more:?}: {run:?}");
        for needle in needles {
            assert!(run.stderr.contains(needle), "{more:?}: no {needle:?} in {}", run.stderr);
        }
    }
    let run = folder.run("score", &["--train-gradients", "a", "--query-gradients", "b", "--method", "bm25"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("rows") && run.stderr.contains("bm25"), "{}", run.stderr);
}
