//! `hyperinf attribute --positions`: scores of tokens.

use serde_json::{Value, json};

use crate::support::Folder;
use crate::texts::{bert, completions, llama, three_classes};

const DATA: [&str; 9] =
    ["--train", "train.jsonl", "--query", "query.jsonl", "--truncate", "--device", "flex", "--out", "found"];

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(number).collect()
}

/// The tokens' scores sum to the rows' scores, and are of the rows in `topk.jsonl`.
fn check_tokens(model: &[String], rows: &[Value], queries: &[Value], more: &[&str], texts: &dyn Fn(&Value, &[String])) {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", rows);
    folder.write_rows("query.jsonl", queries);
    folder.succeed(
        "attribute",
        model,
        &[&DATA[..], &["--positions", "--top-k", "3", "--format", "csv"], more].concat(),
    );
    let found = folder.lines("found/positions.jsonl");
    let ends = folder.lines("found/topk.jsonl");
    let mut expected = Vec::new();
    for ranking in &ends {
        let ids = |list: &str| ranking[list].as_array().map_or_else(Vec::new, Clone::clone);
        expected.extend(ids("most_helpful").iter().map(|row| (ranking["query_id"].clone(), row["train_id"].clone())));
        let lowest = [ids("most_harmful"), ids("least_helpful")].concat();
        expected.extend(lowest.iter().rev().map(|row| (ranking["query_id"].clone(), row["train_id"].clone())));
    }
    let pairs: Vec<(Value, Value)> =
        found.iter().map(|line| (line["query_id"].clone(), line["train_id"].clone())).collect();
    assert_eq!(pairs, expected, "{more:?}");
    for line in &found {
        let (scores, tokens) = (numbers(&line["scores"]), line["tokens"].as_array().expect("a list"));
        assert_eq!(scores.len(), tokens.len(), "{line}");
        let sum = scores.iter().sum::<f64>() + number(&line["whole"]);
        let size = scores.iter().map(|score| score.abs()).sum::<f64>() + number(&line["whole"]).abs();
        assert!((sum - number(&line["score"])).abs() <= 1e-4 * size, "{sum} of {line}");
        assert!(scores.iter().filter(|&&score| score != 0.0).count() > 1, "{line}");
        let tokens: Vec<String> = tokens.iter().map(|token| token.as_str().expect("a text").to_owned()).collect();
        texts(&rows[line["train_id"].as_u64().expect("rows are numbered") as usize], &tokens);
    }
    assert!(
        folder.json("found/summary.json")["outputs"].as_array().expect("a list").contains(&json!("positions.jsonl"))
    );
    let report = folder.run("report", &["found"]);
    assert_eq!(report.code, Some(0), "{report:?}");
    assert!(folder.text("found/report.html").contains("id=\"heat\""), "the page has them");
    // The next run in the folder does not leave them next to other scores.
    let run = folder.succeed("attribute", model, &[&DATA[..], &["--top-k", "3", "--format", "csv"], more].concat());
    assert!(run.stderr.contains("positions.jsonl"), "{}", run.stderr);
    assert!(!folder.files_in("found").contains(&"positions.jsonl".to_owned()));
}

#[test]
fn tokens_of_classified_texts_have_scores() {
    let words = |row: &Value, tokens: &[String]| {
        let text = tokens.concat();
        for word in row["text"].as_str().expect("a text").split(' ') {
            assert!(text.contains(word), "{word} in {text}");
        }
    };
    for more in
        [&["--method", "hyperinf"][..], &["--method", "datainf", "--normalise", "cosine"], &["--query-mode", "mean"]]
    {
        check_tokens(&bert(), &three_classes(12), &three_classes(2), more, &words);
    }
}

#[test]
fn tokens_of_completions_have_scores() {
    let text = |row: &Value, tokens: &[String]| {
        let text = |part: &str| row[part].as_str().expect("a text").to_owned();
        let (found, expected) = (tokens.concat(), text("prompt") + &text("completion"));
        assert!(found.contains(expected.trim()), "{expected} in {found}");
    };
    for more in [&["--method", "exact"][..], &["--method", "identity", "--batch-size", "2"], &["--structure", "merged"]]
    {
        check_tokens(&llama(), &completions(8), &completions(2), more, &text);
    }
}

#[test]
fn scores_of_tokens_are_refused_where_there_are_none() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(6));
    folder.write_rows("query.jsonl", &three_classes(2));
    for (more, expected) in [
        (&["--project", "2"][..], "--positions and --project do not go together"),
        (&["--project", "2", "--uncertainty", "2"], "--positions and --project"),
        (&["--estimate", "sampled", "--uncertainty", "2"], "--positions and --uncertainty"),
    ] {
        let model = bert();
        let model: Vec<&str> = model.iter().map(String::as_str).collect();
        let run = folder.run("attribute", &[&model[..], &DATA, &["--positions"], more].concat());
        assert_eq!(run.code, Some(2), "{more:?}: {run:?}");
        assert!(run.stderr.contains(expected), "{more:?}: {}", run.stderr);
        assert_eq!(folder.files_in("found"), Vec::<String>::new(), "nothing was begun");
    }
}
