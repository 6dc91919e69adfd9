//! What strangers write does not act on the terminal, and files keep it as it is.

use serde_json::{Value, json};

use crate::support::{Folder, Run};
use crate::texts::{bert, model};

/// Texts that would set a title, colour, move, hide or turn what follows.
const ACTS: [&str; 6] = [
    "\u{1b}]0;title\u{7}a",
    "\u{1b}[31mred",
    "back\u{8}\u{8}\u{7f}",
    "\u{9b}2J\u{85}",
    "\u{202e}txt.exe\u{2066}",
    "two\nerror: lines\r\u{2028}",
];

fn check(run: &Run) {
    let acts = |c: char| c.is_control() && c != '\n' || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    for text in [&run.stdout, &run.stderr] {
        assert!(!text.contains(acts), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("error: lines")), "{text}");
    }
}

#[test]
fn labels_and_ids_are_shown_and_kept() {
    let folder = Folder::new();
    let row = |(i, text): (usize, &&str)| json!({"text": "fox", "label": text, "id": format!("{text}{i}")});
    let rows: Vec<Value> = ACTS.iter().enumerate().map(row).collect();
    folder.write_rows("rows.jsonl", &rows);
    let args = ["--model", &model("bert"), "--train", "rows.jsonl", "--epochs", "1", "--out", "adapter"];
    let run = folder.run("finetune", &args);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("\\u001b]0;title"), "{run:?}");
    check(&run);
    let trained = ["--model", &model("bert"), "--adapter", "adapter", "--train", "rows.jsonl", "--id-column", "id"];
    for (command, more) in [
        ("detect", &["--validation", "rows.jsonl"][..]),
        ("select", &["--validation", "rows.jsonl", "--keep", "2"]),
        ("attribute", &["--query", "rows.jsonl", "--format", "csv"]),
        ("detect", &["--validation", "rows.jsonl", "--json"]),
    ] {
        let run = folder.run(command, &[&trained[..], more, &["--out", command]].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        check(&run);
        if more.contains(&"--json") {
            let summary: Value = serde_json::from_str(&run.stdout).expect("it is JSON");
            let names = summary["labels"]["names"].as_array().expect("a list");
            assert!(ACTS.iter().all(|text| names.contains(&json!(text))), "{names:?}");
        }
    }
    let table = crate::support::csv_rows(&folder.file("detect/suspicious.csv"));
    for (i, text) in ACTS.iter().enumerate() {
        assert!(table.iter().any(|row| row["label"] == *text && row["id"] == format!("{text}{i}")), "{text:?}");
    }
}

#[test]
fn errors_show_what_they_name() {
    let folder = Folder::new();
    for text in ACTS {
        let rows = [json!({"text": "fox", "label": text}), json!({"text": "fox", "label": 1})];
        folder.write_rows("rows.jsonl", &rows);
        let args = ["--train", "rows.jsonl", "--query", "rows.jsonl", "--out", "out"];
        let args: Vec<&str> = args.into_iter().collect();
        let model = bert();
        let model: Vec<&str> = model.iter().map(String::as_str).collect();
        let run = folder.run("attribute", &[&model[..], &args].concat());
        assert_eq!(run.code, Some(3), "{run:?}");
        check(&run);
        folder.write_rows("rows.jsonl", &[json!({text: "fox", "label": 1})]);
        let run = folder.run("attribute", &[&model[..], &args].concat());
        assert_eq!(run.code, Some(3), "{run:?}");
        check(&run);
        let name = format!("{}.jsonl", text.replace('/', ""));
        folder.write_bytes(&name, b"[1]");
        let run =
            folder.run("attribute", &[&model[..], &["--train", &name, "--query", &name, "--out", "out"]].concat());
        assert_eq!(run.code, Some(3), "{run:?}");
        check(&run);
    }
}

/// Of long texts that differ in the middle, the middle is shown.
#[test]
fn long_texts_are_cut_where_they_are_the_same() {
    let folder = Folder::new();
    let long = |word: &str| format!("{} the {word} rests {}", "the old fox ".repeat(20), "in the snow ".repeat(20));
    let words = ["river", "boat", "tree"];
    let rows: Vec<Value> = words.iter().enumerate().map(|(i, word)| json!({"text": long(word), "label": i})).collect();
    folder.write_rows("rows.jsonl", &rows);
    let args = ["--train", "rows.jsonl", "--query", "rows.jsonl", "--truncate", "--out", "out"];
    let run = folder.succeed("attribute", &bert(), &args);
    for word in words {
        assert!(run.stdout.contains(&format!("the {word} rests")), "{}", run.stdout);
    }
    let run = folder.succeed(
        "detect",
        &bert(),
        &["--train", "rows.jsonl", "--validation", "rows.jsonl", "--truncate", "--out", "found"],
    );
    for word in words {
        assert_eq!(run.stdout.matches(&format!("the {word} rests")).count(), 1, "{}", run.stdout);
    }
}
