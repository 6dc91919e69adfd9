//! `hyperinf report`: from results to a page.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Folder, Run};
use crate::texts::{bert, completions, llama, three_classes};

const DATA: [&str; 5] = ["--train", "train.jsonl", "--truncate", "--device", "flex"];

/// A folder with rows of three classes, of which every tenth has another label than its true one.
fn folder() -> Folder {
    let folder = Folder::new();
    let mut rows = three_classes(30);
    for (place, row) in rows.iter_mut().enumerate() {
        row["truth"] = if place % 10 == 0 { json!(1 - place % 2) } else { row["label"].clone() };
        row["id"] = json!(format!("row-{place}"));
    }
    rows[4]["text"] = json!("</script><b>the fox</b> \u{202e} \u{0}");
    folder.write_rows("train.jsonl", &rows);
    folder.write_rows("query.jsonl", &three_classes(3));
    folder
}

fn report(folder: &Folder, args: &[&str]) -> Run {
    folder.run("report", args)
}

/// A page that must have been written, and what the program said.
fn page(folder: &Folder, args: &[&str], path: &str) -> (String, String) {
    let run = report(folder, args);
    assert_eq!(run.code, Some(0), "{args:?}: {run:?}");
    assert!(run.stdout.contains(path), "{}", run.stdout);
    (folder.text(path), run.stdout)
}

fn check_refused(folder: &Folder, args: &[&str], code: i32, expected: &[&str]) {
    let run = report(folder, args);
    assert_eq!(run.code, Some(code), "{args:?}: {run:?}");
    for part in expected {
        assert!(run.stderr.contains(part), "{args:?}: {part} in {}", run.stderr);
    }
}

#[test]
fn scores_of_queries_become_a_page() {
    let folder = folder();
    let args = ["--query", "query.jsonl", "--id-column", "id", "--out", "found", "--format", "csv"];
    folder.write_rows(
        "query.jsonl",
        &three_classes(3)
            .iter()
            .enumerate()
            .map(|(i, row)| {
                let mut row = row.clone();
                row["id"] = json!(i);
                row
            })
            .collect::<Vec<Value>>(),
    );
    folder.succeed("attribute", &bert(), &[&DATA[..], &args].concat());
    let (first, said) = page(&folder, &["found"], "found/report.html");
    assert!(said.contains("30 rows and 3 queries"), "{said}");
    for part in
        ["Influence of 30 training rows on 3 query rows", "Positive = helpful", "no better than guessing", "lora_A"]
    {
        assert!(first.contains(part), "{part}");
    }
    assert!(!first.contains("<b>the fox</b>"), "texts are packed");
    page(&folder, &["found/summary.json", "--output", "again.html"], "again.html");
    assert_eq!(first, folder.text("again.html"), "equal results, equal pages");

    // From another folder, and of rows that are elsewhere now.
    fs::rename(folder.file("train.jsonl"), folder.file("moved.jsonl")).expect("it was written");
    check_refused(&folder, &["found"], 3, &["`train.jsonl` are not there", "--train FILE"]);
    page(&folder, &["found", "--train", "moved.jsonl"], "found/report.html");
    // A page is written before or after a run, never of two.
    let mut changed = folder.text("moved.jsonl");
    changed.push_str("{\"text\": \"old fox\", \"label\": 0, \"id\": \"more\"}\n");
    folder.write_bytes("train.jsonl", changed.as_bytes());
    check_refused(&folder, &["found"], 3, &["`train.jsonl` were changed since they were scored", "XXH3"]);
    assert_eq!(first, folder.text("found/report.html"), "a refused page replaces nothing");
}

#[test]
fn suspicious_and_selected_rows_become_pages_with_what_is_known_of_them() {
    let folder = folder();
    let args = ["--validation", "query.jsonl", "--id-column", "id"];
    let mut rows = three_classes(4);
    rows.iter_mut().enumerate().for_each(|(place, row)| row["id"] = json!(place));
    folder.write_rows("query.jsonl", &rows);
    folder.succeed("detect", &bert(), &[&DATA[..], &args, &["--remove", "3", "--out", "found"]].concat());
    let plain = page(&folder, &["found"], "found/report.html").0;
    assert!(plain.contains("Suspicious rows among 30 training rows") && !plain.contains("known to be bad</h2>"));
    let known = page(&folder, &["found", "--true-labels", "truth"], "found/report.html").0;
    assert!(
        known.contains("known to be bad</h2>")
            && known.contains("lowest scores: AUC")
            && known.contains("largest losses: AUC")
    );
    // The same rows by their ids.
    let differ: String = (0..30)
        .filter(|row| row % 30 == 0 || row % 10 == 0 && row % 3 != 1)
        .map(|row| format!("row-{row}\n\n"))
        .collect();
    folder.write_bytes("bad.txt", differ.as_bytes());
    let named = page(&folder, &["found", "--known-bad", "bad.txt"], "found/report.html").0;
    assert_eq!(known, named);
    folder.write_bytes("bad.txt", b"row-3\nrow-99\n");
    check_refused(&folder, &["found", "--known-bad", "bad.txt"], 3, &["line 2 of `bad.txt` names the row `row-99`"]);

    folder.succeed("select", &bert(), &[&DATA[..], &args, &["--keep", "5", "--out", "chosen"]].concat());
    let chosen = page(&folder, &["chosen"], "chosen/report.html").0;
    assert!(
        chosen.contains("Helpful rows among 30 training rows")
            && chosen.contains("<b dir=\"auto\">5</b><span>selected rows</span>")
    );
}

#[test]
fn baselines_become_pages_without_what_they_lack() {
    let folder = folder();
    folder.write_rows("query.jsonl", &three_classes(3));
    let args = ["--method", "hyperinf,random,loss"];
    let query = ["--query", "query.jsonl", "--out", "found"];
    folder.succeed("attribute", &bert(), &[&DATA[..], &args, &query].concat());
    let validation = ["--validation", "query.jsonl", "--remove", "3", "--out", "suspicious"];
    folder.succeed("detect", &bert(), &[&DATA[..], &args, &validation].concat());
    let validation = ["--validation", "query.jsonl", "--keep", "9", "--out", "chosen"];
    folder.succeed("select", &bert(), &[&DATA[..], &args, &validation].concat());
    for name in ["found", "suspicious", "chosen"] {
        for baseline in ["random", "loss"] {
            let nested = format!("{name}/{baseline}");
            let page = page(&folder, &[&nested], &format!("{nested}/report.html")).0;
            assert!(page.contains(&format!("baseline {baseline}")), "{nested}");
            assert_eq!(page.contains("<dt>seed</dt>"), baseline == "random", "{nested}");
            for part in ["<dt>curvature</dt>", "<dt>device</dt>", "blocks of parameters", "Unit: ."] {
                assert!(!page.contains(part), "{nested}: {part}");
            }
        }
        let page = page(&folder, &[&format!("{name}/hyperinf")], &format!("{name}/hyperinf/report.html")).0;
        assert!(page.contains("share of the scores</th>") && page.contains("<dt>curvature</dt>"), "{name}");
    }
}

#[test]
fn a_page_of_earlier_results_is_told() {
    let folder = folder();
    folder.write_rows("query.jsonl", &three_classes(3));
    let run = |more: &[&str]| {
        let args = [&DATA[..], &["--query", "query.jsonl", "--out", "found", "--format", "csv"], more].concat();
        folder.succeed("attribute", &bert(), &args).stderr
    };
    let stale = "found/report.html shows earlier results; for these: hyperinf report found";
    assert!(!run(&["--method", "tracin"]).contains("shows earlier results"));
    let found = page(&folder, &["found"], "found/report.html").0;
    // No block is inverted, but all have their shares.
    assert!(found.contains("share of the scores</th>") && !found.contains("inverted by"));
    assert!(!run(&["--method", "tracin"]).contains("shows earlier results"), "equal results");
    assert!(run(&["--method", "datainf"]).contains(stale));
    page(&folder, &["found"], "found/report.html");
    assert!(!run(&["--method", "datainf"]).contains("shows earlier results"));
    // A page without the name of its results is somebody's own.
    folder.write_bytes("found/report.html", b"<!doctype html>");
    assert!(!run(&["--method", "tracin"]).contains("shows earlier results"));
}

#[test]
fn a_language_models_scores_and_a_sweep_become_a_page() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(12));
    folder.write_rows("query.jsonl", &completions(2));
    let args = ["--query", "query.jsonl", "--format", "safetensors", "--keep-gradients", "--out", "found"];
    folder.succeed("attribute", &llama(), &[&DATA[..], &args].concat());
    let gradients = [
        "--train-gradients",
        "found/train_gradients.safetensors",
        "--query-gradients",
        "found/query_gradients.safetensors",
    ];
    folder.succeed("sweep", &[], &[&gradients[..], &["--out", "swept", "--device", "flex"]].concat());
    let found = page(&folder, &["found", "--sweep", "swept"], "found/report.html").0;
    assert!(
        found.contains("Stability over the damping</h2>") && found.contains("rank correlation with the next damping")
    );
    check_refused(
        &folder,
        &["found", "--sweep", "found"],
        3,
        &["is the summary of `attribute`; expected that of sweep"],
    );
    check_refused(&folder, &["swept"], 3, &["is the summary of `sweep`", "--sweep DIR"]);
}

#[test]
fn what_makes_no_page_is_refused() {
    let folder = folder();
    check_refused(&folder, &["found"], 3, &["`found` cannot be read"]);
    check_refused(&folder, &[".", "--output", "train.jsonl"], 2, &["a page ends in .html"]);
    check_refused(&folder, &["."], 3, &["has no summary.json of attribute, detect or select"]);
    fs::create_dir(folder.file("datainf")).expect("a folder");
    folder.write_bytes("datainf/summary.json", b"{\"command\": \"attribute\"}");
    check_refused(&folder, &["."], 3, &["./datainf` has one", "hyperinf report ./datainf"]);
    check_refused(&folder, &["datainf"], 3, &["`datainf/summary.json` cannot be used", "missing field"]);
}
