//! `hyperinf check`: rows as a model gets them.

use hyperinf_tests::fixtures;
use serde_json::json;

use crate::support::{Folder, hyperinf};
use crate::texts::{bert, completions, llama, model, three_classes};

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
fn llava_without_a_template_is_shown_with_its_own_prompt() {
    let folder = Folder::new();
    let llava = fixtures::path("vision/llava");
    std::fs::create_dir(folder.file("model")).expect("a folder");
    // No weights: the tokenizer is enough.
    for file in ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(llava.join(file), folder.file("model").join(file)).expect("a copy");
    }
    std::fs::copy(llava.join("picture00.png"), folder.file("a.png")).expect("a copy");
    folder.write_rows("rows.jsonl", &[json!({ "image": "a.png", "prompt": "Where is it?", "completion": "Here." })]);
    let check = ["check", "--model", "model", "--data", "rows.jsonl"];
    let text = succeed(&folder, &check);
    assert!(text.contains("USER: <image>\nWhere is it? ASSISTANT:") && text.contains("LLaVA 1.5"), "{text}");
    let [begin, end] = ["⟦", "⟧"].map(|mark| text.find(mark).expect("marks"));
    assert!(text[begin..end].contains("Here.<|im_end|>") && !text[begin..end].contains("ASSISTANT"), "{text}");
    // A template that writes no mark for the image.
    let template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'][-1]['text'] }}{% endfor %}";
    std::fs::write(folder.file("model/chat_template.jinja"), template).expect("it can be written");
    let run = hyperinf(folder.path(), &check);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert!(run.stderr.contains("`<image>`"), "{}", run.stderr);
}

#[test]
fn captions_of_stable_diffusion_are_shown_without_padding() {
    let folder = Folder::new();
    let picture = fixtures::path("vision/llava/picture00.png");
    std::fs::copy(picture, folder.file("a.png")).expect("a copy");
    folder.write_rows("rows.jsonl", &[json!({ "image": "a.png", "text": "A Fox" })]);
    let model = fixtures::path("diffusion/stable").display().to_string();
    let text = succeed(&folder, &["check", "--model", &model, "--data", "rows.jsonl"]);
    assert!(text.contains("<|startoftext|>a fox <|endoftext|>\n"), "{text}");
    let run = hyperinf(folder.path(), &["check", "--model", &model, "--tokenizer", &model, "--data", "rows.jsonl"]);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
}

#[test]
fn rows_of_classifiers_have_their_label() {
    let folder = Folder::new();
    folder.write_rows("rows.jsonl", &[json!({ "text": "old fox", "label": 1 })]);
    let text = succeed(&folder, &["check", "--model", &model("bert"), "--data", "rows.jsonl"]);
    assert!(text.contains("label 1") && text.contains("fox") && !text.contains('⟦'), "{text}");
}

/// The line of the table that begins with a name.
fn line<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"))
}

#[test]
fn gradients_of_every_kind_of_model_are_checked() {
    let folder = Folder::new();
    folder.write_rows("bert.jsonl", &three_classes(12));
    folder.write_rows("llama.jsonl", &completions(12));
    for (name, model) in [("bert", bert()), ("llama", llama())] {
        let rows = format!("{name}.jsonl");
        let text = folder.succeed("check", &model, &["--data", &rows, "--truncate", "--rows", "1"]).stdout;
        for check in ["rows", "length", "adapter", "finite ", "batch size", "padding", "finite differences"] {
            assert!(line(&text, check).contains("pass"), "{name}: {check}: {text}");
        }
        // One that is not compared is no pass.
        assert!(line(&text, "finite differences").contains("of 4 rows"), "{text}");
        assert!(text.lines().last().is_some_and(|line| line.starts_with("12 rows, ")), "{text}");
    }
    // An adapter of another model.
    let [_, bert, ..] = <[String; 4]>::try_from(bert()).expect("four arguments");
    let [.., llama] = <[String; 4]>::try_from(llama()).expect("four arguments");
    let run = folder.run("check", &["--model", &bert, "--adapter", &llama, "--data", "bert.jsonl", "--truncate"]);
    assert!(run.code == Some(3) && run.stderr.contains("failed: adapter"), "{run:?}");
    assert!(line(&run.stdout, "adapter").contains("FAIL"), "{run:?}");
}

#[test]
fn rows_are_checked() {
    let folder = Folder::new();
    let row = |text: &str, label: &str| json!({ "text": text, "label": label });
    let rows = [row("a fox", "a"), row("a river", "b"), row("a fox", "a"), row("a river", "a"), row("two foxes", "b")];
    let check = |rows: &[serde_json::Value]| {
        folder.write_rows("rows.jsonl", rows);
        hyperinf(folder.path(), &["check", "--model", &model("bert"), "--data", "rows.jsonl"])
    };
    let run = check(&rows);
    assert_eq!(run.code, Some(0), "{run:?}");
    for (name, needles) in [
        ("rows", &["pass", "all 5"][..]),
        ("labels", &["pass", "a 3, b 2"]),
        ("duplicates", &["warn", "row 2"]),
        ("contradictions", &["warn", "row 3"]),
    ] {
        for needle in needles {
            assert!(line(&run.stdout, name).contains(needle), "{name}: {needle}: {}", run.stdout);
        }
    }
    let clean = check(&[row("a fox", "a"), row("a river", "b"), row("two foxes", "a"), row("old river", "b")]);
    assert!(clean.code == Some(0) && !clean.stdout.contains("warn"), "{clean:?}");
    let one = check(&[row("a fox", "a"), row("a river", "a")]);
    assert!(one.code == Some(0) && line(&one.stdout, "labels").contains("warn"), "{one:?}");
    let alone = check(&[row("a fox", "a"), row("a river", "a"), row("an owl", "b")]);
    assert!(alone.code == Some(0) && line(&alone.stdout, "labels").contains("warn"), "{alone:?}");
}
