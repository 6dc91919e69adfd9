//! Which chat template a folder has, and which tokens it gets.

use std::fs;
use std::path::Path;

use hyperinf::data::ModelFiles;
use hyperinf::models::{Conversation, Json, Message, TextTokenizer};
use hyperinf_tests::fixtures;
use serde_json::{Value, json};

use crate::tokenizer_files::{base, folder};

/// What the chat template of a tokenizer writes; `?` for an error.
fn chat(base: &Value, changes: &[(&str, Value)], files: &Value, more: &[(&str, &str)]) -> String {
    let folder = folder(base, changes.iter().cloned(), files);
    for (name, template) in more {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, template).expect("a file");
    }
    let text = |folder: &Path| {
        let tokenizer = TextTokenizer::read(folder).expect("a tokenizer");
        let found = [None, Some(Json::Array(Vec::new()))].map(|tools| {
            let conversation = Conversation { tools, ..vec![Message::new("user", "x")].into() };
            tokenizer.chat_text(&conversation, false).unwrap_or_else(|_| "?".to_owned())
        });
        (tokenizer, found.join("|"))
    };
    let (tokenizer, found) = text(folder.path());
    // As `finetune` saves it.
    let saved = tempfile::tempdir().expect("a folder for temporary files");
    for (name, bytes) in tokenizer.to_files().expect("files") {
        fs::write(saved.path().join(name), bytes).expect("a file");
    }
    assert_eq!(text(saved.path()).1, found, "saved: {files}");
    found
}

#[test]
fn templates_get_the_special_tokens_that_have_names() {
    const ALL: &str = "{{ bos_token }};{{ eos_token }};{{ unk_token }};{{ sep_token }};{{ pad_token }};{{ cls_token }};\
        {{ mask_token }};{{ image_token }};{{ boi }}";
    let check = |name: &str, changes: &[(&str, Value)], config: Value, model: Value, expected: &str| {
        let files = json!({ "tokenizer_config.json": config, "config.json": model });
        let found = chat(&base(name), changes, &files, &[("chat_template.jinja", ALL)]);
        assert_eq!(found, format!("{expected}|{expected}"), "{files}");
    };
    let none = json!({});
    let class = |name: &str| json!({ "tokenizer_class": name });
    // Numbers in the model's settings name no token.
    let ids = json!({ "model_type": "llama", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0 });
    check("bytes", &[], none.clone(), ids.clone(), ";;;;;;;;");
    check("bytes", &[], json!({ "eos_token": "<|end|>" }), ids, ";<|end|>;;;;;;;");
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<|end|>", "sep_token": "<|im_end|>",
        "image_token": "<img>", "extra_special_tokens": { "boi": "<boi>" }
    });
    check("bytes", &[], config, none.clone(), ";;<|end|>;<|im_end|>;;;;<img>;<boi>");
    check("pieces", &[], class("BertTokenizer"), none.clone(), ";;[UNK];[SEP];[PAD];[CLS];[MASK];;");
    check("sentences", &[], class("LlamaTokenizer"), none.clone(), "<s>;</s>;<unk>;;;;;;");
    let end = "<|endoftext|>";
    check("bytes", &[], class("GPT2Tokenizer"), none.clone(), &format!("{end};{end};{end};;;;;;"));
    let padding = json!({
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<|end|>"
    });
    let padded = [("/padding", padding)];
    check("bytes", &padded, none.clone(), none.clone(), ";;;;<|end|>;;;;");
    check("bytes", &padded, json!({ "pad_token": null }), none, ";;;;;;;;");
}

#[test]
fn chat_templates_are_those_of_transformers() {
    let check = |config: Value, more: &[(&str, &str)], expected: &str| {
        let files = json!({ "tokenizer_config.json": config });
        assert_eq!(chat(&base("bytes"), &[], &files, more), expected, "{files} {more:?}");
    };
    let (alone, default) = ("chat_template.jinja", "additional_chat_templates/default.jinja");
    let (tools, other) = ("additional_chat_templates/tool_use.jinja", "additional_chat_templates/rag.jinja");
    let set = json!({ "chat_template": "settings" });
    check(set.clone(), &[], "settings|settings");
    check(set.clone(), &[(alone, "alone")], "alone|alone");
    check(set.clone(), &[(alone, "alone"), (tools, "tools")], "alone|tools");
    check(set.clone(), &[(alone, "alone"), (other, "other")], "alone|alone");
    check(set.clone(), &[(alone, "alone"), (default, "default")], "default|default");
    check(set.clone(), &[(default, "default"), (tools, "tools")], "default|tools");
    check(json!({ "chat_template": { "default": "a", "tool_use": "b" } }), &[], "a|b");
    let list = json!([{ "name": "tool_use", "template": "b" }, { "name": "default", "template": "a" }]);
    check(json!({ "chat_template": list }), &[], "a|b");
    // Transformers finds no default there, and writes nothing without tools.
    check(set, &[(tools, "tools")], "?|?");
}

#[test]
fn every_template_is_part_of_what_a_model_is() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    for entry in fs::read_dir(fixtures::path("transformers/llama3")).expect("a fixture") {
        let path = entry.expect("a file").path();
        if path.is_file() {
            fs::copy(&path, folder.path().join(path.file_name().expect("a name"))).expect("a copy");
        }
    }
    let fingerprint = || {
        ModelFiles::find(&folder.path().to_string_lossy(), None, None)
            .map(|files| files.fingerprint())
            .expect("a model")
    };
    let mut found = vec![fingerprint()];
    fs::create_dir(folder.path().join("additional_chat_templates")).expect("a folder");
    for (name, template) in [("tool_use", "a"), ("tool_use", "b"), ("default", "a")] {
        let path = folder.path().join(format!("additional_chat_templates/{name}.jinja"));
        fs::write(path, template).expect("a file");
        let new = fingerprint();
        assert!(!found.contains(&new), "{name} {template}");
        found.push(new);
    }
}
