//! Which tokenizer reads the rows, and what is said about it.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Folder, Run};
use crate::texts::{model, three_classes};

/// A folder with rows of text, a copy of the tiny classifier's adapter, and a changed copy of its tokenizer.
fn start(change: impl Fn(&mut Value)) -> Folder {
    let folder = Folder::new();
    folder.write_rows("rows.jsonl", &three_classes(6));
    copy(
        Path::new(&model("bert/query_value")),
        &folder.file("adapter"),
        &["adapter_config.json", "adapter_model.safetensors"],
    );
    let names = ["tokenizer.json", "tokenizer_config.json"];
    copy(Path::new(&model("bert")), &folder.file("other"), &names);
    let path = folder.file("other/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
    change(&mut tokenizer);
    fs::write(path, tokenizer.to_string()).expect("a file");
    folder
}

fn copy(from: &Path, to: &Path, names: &[&str]) {
    fs::create_dir_all(to).expect("a folder");
    for name in names {
        fs::copy(from.join(name), to.join(name)).expect("a file");
    }
}

fn attribute(folder: &Folder, out: &str, more: &[&str]) -> Run {
    let (bert, fixed) = (model("bert"), ["--train", "rows.jsonl", "--query", "rows.jsonl", "--method", "identity"]);
    let args = [&["--model", &bert][..], &fixed, &["--format", "csv", "--out", out], more].concat();
    folder.run("attribute", &args)
}

/// The scores of a run that succeeds, and what it says about tokenizers.
fn scores(folder: &Folder, out: &str, more: &[&str]) -> (String, String) {
    let run = attribute(folder, out, more);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let warnings: Vec<&str> = run.stderr.lines().filter(|line| line.contains("tokenizer")).collect();
    (folder.text(&format!("{out}/scores.csv")), warnings.join("\n"))
}

/// Words become their letters.
fn lose_words(tokenizer: &mut Value) {
    let vocab = tokenizer["model"]["vocab"].as_object_mut().expect("a vocabulary");
    let words: Vec<String> =
        vocab.keys().filter(|word| word.len() > 2 && !word.contains(['[', '#'])).cloned().collect();
    for word in words {
        let id = vocab.remove(&word).expect("it is there");
        vocab.insert(format!("unused{id}"), id);
    }
}

#[test]
fn the_adapters_tokenizer_is_used_and_named_if_it_differs() {
    let folder = start(lose_words);
    let adapter = ["--adapter", "adapter"];
    let (own, said) = scores(&folder, "own", &adapter);
    assert_eq!(said, "");
    let given = ["--adapter", "adapter", "--tokenizer", "other"];
    let (other, said) = scores(&folder, "other-given", &given);
    assert_ne!(own, other);
    assert_eq!(said, "", "an adapter without a tokenizer says nothing about it");

    copy(&folder.file("other"), &folder.file("adapter"), &["tokenizer.json", "tokenizer_config.json"]);
    let (found, said) = scores(&folder, "found", &adapter);
    assert_eq!(found, other);
    assert!(said.contains("adapter/tokenizer.json") && said.contains("other tokens"), "{said}");

    let bert = model("bert");
    let (found, said) = scores(&folder, "explicit", &["--adapter", "adapter", "--tokenizer", &bert]);
    assert_eq!(found, own);
    assert!(said.contains("adapter/tokenizer.json") && said.contains("other tokens"), "{said}");

    // Parts of one are left aside, with a word.
    fs::remove_file(folder.file("adapter/tokenizer.json")).expect("it was there");
    let (found, said) = scores(&folder, "parts", &adapter);
    assert_eq!(found, own);
    assert!(said.contains("tokenizer_config.json") && said.contains("no `tokenizer.json`"), "{said}");

    // A copy of the model's own is the same one.
    copy(Path::new(&bert), &folder.file("adapter"), &["tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(scores(&folder, "same", &adapter), (own, String::new()));
}

#[test]
fn finetune_writes_the_tokenizer_that_it_used() {
    let folder = start(lose_words);
    let bert = model("bert");
    let tune = |out: &str, more: &[&str]| {
        let args = [&["--model", &bert, "--train", "rows.jsonl", "--epochs", "1", "--out", out][..], more].concat();
        folder.run("finetune", &args)
    };
    let run = tune("tuned", &["--tokenizer", "other"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let (named, _) = scores(&folder, "named", &["--adapter", "tuned", "--tokenizer", "other"]);
    let (found, said) = scores(&folder, "found", &["--adapter", "tuned"]);
    assert_eq!(named, found);
    assert!(said.contains("tuned/tokenizer.json"), "{said}");
    let (other, said) = scores(&folder, "another", &["--adapter", "tuned", "--tokenizer", &bert]);
    assert_ne!(other, found);
    assert!(said.contains("tuned/tokenizer.json"), "{said}");

    // With the model's own there is nothing to say.
    assert_eq!(tune("plain", &[]).code, Some(0));
    let (_, said) = scores(&folder, "plain-scores", &["--adapter", "plain"]);
    assert_eq!(said, "");

    // Nothing of an earlier adapter is left.
    folder.write_bytes("plain/chat_template.jinja", b"old");
    assert_eq!(tune("plain", &["--overwrite"]).code, Some(0));
    assert!(!folder.files_in("plain").contains(&"chat_template.jinja".to_owned()));
    // Inputs are never overwritten.
    let run = tune("other", &["--tokenizer", "other"]);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stderr.contains("tokenizer.json"), "{}", run.stderr);
}

#[test]
fn a_tokenizer_that_fails_is_an_error_without_a_panic() {
    let check = |change: &dyn Fn(&mut Value)| {
        let folder = start(change);
        let run = attribute(&folder, "out", &["--adapter", "adapter", "--tokenizer", "other"]);
        assert_eq!(run.code, Some(3), "{}", run.stderr);
        assert!(run.stderr.contains("other/tokenizer.json"), "{}", run.stderr);
        assert!(!run.stderr.contains("panicked") && !run.stderr.contains("RUST_BACKTRACE"), "{}", run.stderr);
    };
    check(&|t| t["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" }));
    // Right at its beginning, wrong after it.
    check(&|t| t["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": "BAAAAP////8A" }));
    check(&|t| t["pre_tokenizer"] = json!({ "type": "FixedLength", "length": 0 }));
    check(&|t| t["model"] = json!({ "type": "BPE", "vocab": { "a": 0, "b": 1 }, "merges": [["a", "b"]] }));
    let doubled = json!({ "type": "Replace", "pattern": { "String": "e" }, "content": "ee" });
    check(&|t| t["normalizer"] = json!({ "type": "Sequence", "normalizers": vec![doubled.clone(); 40] }));
}

#[test]
fn dropout_is_off_and_told() {
    let folder = Folder::new();
    folder.write_rows("rows.jsonl", &crate::texts::completions(8));
    let llama = model("llama");
    copy(Path::new(&llama), &folder.file("other"), &["tokenizer.json", "tokenizer_config.json"]);
    let path = folder.file("other/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
    tokenizer["model"]["dropout"] = json!(0.4);
    fs::write(path, tokenizer.to_string()).expect("a file");
    let adapter = model("llama/all_linear");
    let run = |out: &str, more: &[&str]| {
        let args = ["--model", &llama, "--adapter", &adapter, "--train", "rows.jsonl", "--query", "rows.jsonl"];
        let run = folder
            .run("attribute", &[&args[..], &["--method", "identity", "--format", "csv", "--out", out], more].concat());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        (folder.text(&format!("{out}/scores.csv")), run.stderr)
    };
    let (plain, _) = run("plain", &[]);
    let (dropped, said) = run("dropped", &["--tokenizer", "other"]);
    assert_eq!(plain, dropped);
    assert!(said.contains("dropout of 0.4") && said.contains("other/tokenizer.json"), "{said}");
}
