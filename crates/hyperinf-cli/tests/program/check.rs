//! `hyperinf check`: rows as a model gets them.

use serde_json::json;

use crate::support::{Folder, hyperinf};
use crate::texts::model;

fn succeed(folder: &Folder, args: &[&str]) -> String {
    let run = hyperinf(folder.path(), args);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    run.stdout + &run.stderr
}

#[test]
fn what_is_scored_stands_between_marks() {
    let folder = Folder::new();
    let rows = [
        json!({ "prompt": "The fox", "completion": " is cold." }),
        json!({ "prompt": "The boat", "completion": " rests." }),
    ];
    folder.write_rows("rows.jsonl", &rows);
    let text = succeed(&folder, &["check", "--model", &model("llama"), "--data", "rows.jsonl", "--rows", "1"]);
    assert!(text.starts_with("row 0 (line 1): "), "{text}");
    assert!(text.contains("⟦") && text.contains("cold.") && !text.contains("rests"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours without a terminal: {text}");
    let [begin, end] = ["⟦", "⟧"].map(|mark| text.find(mark).expect("marks"));
    assert!(text[..begin].contains("The fox") && text[begin..end].contains("is cold."), "{text}");
    assert!(text.lines().last().expect("a summary").starts_with("2 rows, "), "{text}");
}

#[test]
fn conversations_show_the_assistants_messages_and_unread_columns() {
    let folder = Folder::new();
    let message = |role: &str, content: &str| json!({ "role": role, "content": content });
    let first = [message("user", "Where is it?"), message("assistant", "Here.")];
    folder.write_rows("rows.jsonl", &[json!({ "messages": first, "tools": [{ "name": "x" }], "system": "kind" })]);
    let text = succeed(&folder, &["check", "--model", &model("llama3"), "--data", "rows.jsonl"]);
    let [begin, end] = ["⟦", "⟧"].map(|mark| text.find(mark).expect("marks"));
    assert!(text.contains("are not read: `system`") && text.contains("column `tools`"), "{text}");
    assert!(text[begin..end].contains("Here.") && !text[begin..end].contains("Where"), "{text}");
}

#[test]
fn rows_of_classifiers_have_their_label() {
    let folder = Folder::new();
    folder.write_rows("rows.jsonl", &[json!({ "text": "old fox", "label": 1 })]);
    let text = succeed(&folder, &["check", "--model", &model("bert"), "--data", "rows.jsonl"]);
    assert!(text.contains("label 1") && text.contains("fox") && !text.contains('⟦'), "{text}");
}
