//! Settings outside `tokenizer.json` give the tokens of transformers, or an error that names them.

use std::fs;
use std::path::Path;

use hyperinf::models::{Limit, TextTokenizer, TokenizerNotice};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::folders::write_json;

const ALL: Limit = Limit::Refuse(1000);

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tokenizers/cases.json");
    let text = fs::read_to_string(path).expect("the fixture is committed");
    serde_json::from_str(&text).expect("the fixture is JSON")
}

/// A folder with a base of the fixture (or none), changed by JSON pointer, and other files.
pub(crate) fn folder<'a>(base: &Value, changes: impl IntoIterator<Item = (&'a str, Value)>, files: &Value) -> TempDir {
    let mut tokenizer = base.clone();
    for (pointer, value) in changes {
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        tokenizer.pointer_mut(parent).expect("it is there")[name] = value;
    }
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    if !base.is_null() {
        write_json(&folder.path().join("tokenizer.json"), &tokenizer);
    }
    for (name, content) in files.as_object().into_iter().flatten() {
        match content.as_str() {
            Some(text) => fs::write(folder.path().join(name), text).expect("a file"),
            None => write_json(&folder.path().join(name), content),
        }
    }
    folder
}

fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|n| n.as_u64().expect("a number") as u32).collect()
}

/// Checks that a tokenizer makes the tokens that transformers made of all texts and pairs.
fn check_tokens(tokenizer: &TextTokenizer, fixture: &Value, case: &Value, name: &str) {
    let texts = fixture["texts"].as_array().expect("texts").iter().map(|text| text.as_str().expect("a text"));
    for (at, text) in texts.enumerate() {
        let (whole, bare) = (numbers(&case["texts"][at]), numbers(&case["bare"][at]));
        assert_eq!(tokenizer.tokens(text).expect("tokens"), bare, "{name}: {text:?} without special tokens");
        if !whole.is_empty() {
            let found = tokenizer.classification(text, None, 0, ALL).expect("a sample").sample;
            assert_eq!(found.tokens, whole, "{name}: {text:?}");
        }
        if whole.len() > 1 {
            let found = tokenizer.text(text, ALL).expect("a sample").sample;
            assert_eq!(found.tokens, whole, "{name}: {text:?} for a language model");
        }
    }
    for (at, pair) in fixture["pairs"].as_array().expect("pairs").iter().enumerate() {
        let (first, second) = (pair[0].as_str().expect("a text"), pair[1].as_str().expect("a text"));
        let found = tokenizer.classification(first, Some(second), 0, ALL).expect("a sample").sample;
        assert_eq!(found.tokens, numbers(&case["pairs"][at][0]), "{name}: {pair}");
    }
    let special = tokenizer.special();
    for (at, found) in [special.bos, special.eos, special.pad].into_iter().enumerate() {
        assert_eq!(json!(found), case["special"][at], "{name}: special token {at}");
    }
}

#[test]
fn tokens_are_those_of_transformers() {
    let fixture = fixture();
    let cases = fixture["cases"].as_array().expect("cases");
    assert!(cases.len() > 110, "{}", cases.len());
    for case in cases {
        let name = case["name"].as_str().expect("a name");
        let base = case["base"].as_str().map_or(&Value::Null, |base| &fixture["bases"][base]);
        let changes = case["changes"].as_object().expect("changes");
        let folder = folder(base, changes.iter().map(|(at, value)| (at.as_str(), value.clone())), &case["files"]);
        let tokenizer = TextTokenizer::read(folder.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        check_tokens(&tokenizer, &fixture, case, name);

        // What is written with an adapter gives the same tokens, without the settings.
        let written = tempfile::tempdir().expect("a folder for temporary files");
        for (file, bytes) in tokenizer.to_files().expect("files") {
            fs::write(written.path().join(file), bytes).expect("a file");
        }
        let mut again = TextTokenizer::read(written.path()).unwrap_or_else(|error| panic!("{name}, written: {error}"));
        check_tokens(&again, &fixture, case, &format!("{name}, written"));
        assert_eq!(again.notices(), [], "{name}");
        again.compare(&tokenizer).expect("comparable");
        assert_eq!(again.notices(), [], "{name}: it differs from what was written");
    }
}

pub(crate) fn base(name: &str) -> Value {
    fixture()["bases"][name].clone()
}

pub(crate) fn refused(base: &Value, changes: &[(&str, Value)], files: &Value) -> String {
    let folder = folder(base, changes.iter().cloned(), files);
    let error = TextTokenizer::read(folder.path()).map(drop).expect_err("it must be refused");
    error.to_string()
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let (pieces, bytes) = (base("pieces"), base("bytes"));
    let check = |base: &Value, changes: &[(&str, Value)], files: Value, words: &[&str]| {
        let found = refused(base, changes, &files);
        assert!(words.iter().all(|word| found.contains(word)), "{found}\n{words:?}");
    };
    let config = |value: Value| json!({ "tokenizer_config.json": value });
    let class = |name: &str| config(json!({ "tokenizer_class": name }));
    let token = json!({ "content": "<new>", "special": true });
    let listed = |id: &str| config(json!({ "added_tokens_decoder": { id: token } }));
    check(&pieces, &[], class("BertJapaneseTokenizer"), &["tokenizer_config.json", "tokenizer_class", "BertJapanese"]);
    check(&pieces, &[], class("ChatGLMTokenizer"), &["tokenizer_class", "PreTrainedTokenizerFast"]);
    check(&pieces, &[], class("GPT2Tokenizer"), &["tokenizer.json", "model.type", "WordPiece", "GPT2Tokenizer"]);
    check(&bytes, &[], class("BertTokenizer"), &["model.type", "BPE", "BertTokenizer"]);
    check(&base("unigram"), &[("/model/unk_id", json!(0))], class("XLMRobertaTokenizer"), &["model.unk_id"]);
    let bert = |name: &str, value: Value| config(json!({ "tokenizer_class": "BertTokenizer", name: value }));
    check(&pieces, &[], bert("do_lower_case", json!("yes")), &["tokenizer_config.json", "do_lower_case", "yes"]);
    check(&pieces, &[], bert("strip_accents", json!(1)), &["strip_accents"]);
    check(&pieces, &[], bert("cls_token", json!(["[CLS]"])), &["cls_token"]);
    check(&pieces, &[], bert("split_special_tokens", json!("no")), &["split_special_tokens"]);
    check(&bytes, &[], listed("900"), &["tokenizer_config.json", "added_tokens_decoder.900", "<new>"]);
    check(&bytes, &[], listed("first"), &["added_tokens_decoder.first"]);
    check(&bytes, &[], config(json!({ "added_tokens_decoder": [token] })), &["added_tokens_decoder"]);
    check(&bytes, &[], config(json!({ "extra_special_tokens": 7 })), &["extra_special_tokens"]);
    check(&bytes, &[], config(json!({ "additional_special_tokens": [7] })), &["additional_special_tokens"]);
    check(&bytes, &[], json!({ "added_tokens.json": { "<new>": 5000 } }), &["added_tokens.json", "<new>", "5000"]);
    check(&bytes, &[], json!({ "added_tokens.json": { "<new>": "a" } }), &["added_tokens.json", "<new>"]);
    let one = |id: u64, text: &str| {
        json!({ "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    };
    let own = |tokens: Value| vec![("/added_tokens", tokens)];
    check(&bytes, &own(json!([one(4000, "<new>")])), json!({}), &["tokenizer.json", "added_tokens", "4000", "<new>"]);
    check(&bytes, &own(json!([one(0, "<|im_end|>")])), json!({}), &["added_tokens", "<|im_end|>"]);
    check(&bytes, &own(json!([{ "id": 0 }])), json!({}), &["tokenizer.json", "content"]);
    check(&bytes, &[("/version", json!("2.0"))], json!({}), &["tokenizer.json", "version", "2.0"]);
}

#[test]
fn what_stops_the_tokenizers_library_is_an_error_with_the_file() {
    let check = |base: &str, at: &str, value: Value, words: &[&str]| {
        let found = refused(&self::base(base), &[(at, value)], &json!({}));
        assert!(
            found.contains("tokenizer.json") && words.iter().all(|word| found.contains(word)),
            "{found}\n{words:?}"
        );
    };
    let charsmap = |map: &str| json!({ "type": "Precompiled", "precompiled_charsmap": map });
    check("pieces", "/normalizer", charsmap("AAAA"), &["precompiled_charsmap"]);
    check("pieces", "/normalizer", charsmap("/////////w=="), &["precompiled_charsmap"]);
    check("pieces", "/normalizer", charsmap("!"), &["precompiled_charsmap"]);
    check(
        "pieces",
        "/normalizer",
        json!({ "type": "Sequence", "normalizers": [charsmap("")] }),
        &["precompiled_charsmap"],
    );
    check("pieces", "/pre_tokenizer", json!({ "type": "FixedLength", "length": 0 }), &["pre_tokenizer.length"]);
    let sequence = |step: Value| json!({ "type": "Sequence", "pretokenizers": [step] });
    check(
        "bytes",
        "/pre_tokenizer",
        sequence(json!({ "type": "FixedLength", "length": 0 })),
        &["pre_tokenizer.length"],
    );
    let split = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
    check("bytes", "/pre_tokenizer", split("(a"), &[]);
    check("bytes", "/pre_tokenizer", split(r"(\w{999}){999}"), &[]);
    check("bytes", "/model/merges", json!([["Ġ", "nothing"]]), &[]);
    check("bytes", "/model/merges", json!([["a"]]), &[]);
    check("bytes", "/model/merges", json!([["Ġthe", "Ġthe"]]), &[]);
    check("bytes", "/model/continuing_subword_prefix", json!("####"), &[]);
    check("unigram", "/model/unk_id", json!(10_000), &[]);
    check("unigram", "/model/vocab", json!([]), &[]);
    check("pieces", "/model", json!({ "type": "WordPiece" }), &[]);
    check("pieces", "/model", Value::Null, &[]);

    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let token = |id: &str| json!({ "SpecialToken": { "id": id, "type_id": 0 } });
    let template = |single: Value, pair: Value| {
        json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {
            "<|end|>": { "id": "<|end|>", "ids": [0], "tokens": ["<|end|>"] } } })
    };
    let pair = json!([text("A"), text("B")]);
    let unknown = template(json!([text("A"), token("<|and|>")]), pair.clone());
    check("bytes", "/post_processor", unknown.clone(), &["post_processor.single", "<|and|>", "special_tokens"]);
    let nested = json!({ "type": "Sequence", "processors": [unknown] });
    check("bytes", "/post_processor", nested, &["post_processor.single", "<|and|>"]);
    let unknown = template(json!([text("A")]), json!([text("A"), token("<|and|>"), text("B")]));
    check("bytes", "/post_processor", unknown, &["post_processor.pair", "<|and|>"]);
    check("bytes", "/post_processor", template(json!([text("B")]), pair), &["post_processor.single", "second"]);
}

#[test]
fn settings_without_bounds_are_refused_before_they_cost_anything() {
    let check = |base: &str, at: &str, value: Value, words: &[&str]| {
        let found = refused(&self::base(base), &[(at, value)], &json!({}));
        assert!(words.iter().all(|word| found.contains(word)), "{found}\n{words:?}");
    };
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let many = |step: &Value, count: usize| vec![step.clone(); count];
    check(
        "bytes",
        "/pre_tokenizer",
        json!({ "type": "Sequence", "pretokenizers": many(&bytes, 40) }),
        &["40", "ByteLevel"],
    );
    let lower = json!({ "type": "Lowercase" });
    check("bytes", "/normalizer", json!({ "type": "Sequence", "normalizers": many(&lower, 1000) }), &["1000 steps"]);
    let split = json!({ "type": "Split", "pattern": { "Regex": r"\w{99}" }, "behavior": "Isolated", "invert": false });
    check("bytes", "/pre_tokenizer", json!({ "type": "Sequence", "pretokenizers": many(&split, 60) }), &["60", "16"]);
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let template = |single: Vec<Value>| {
        json!({ "type": "TemplateProcessing", "single": single,
        "pair": [text, { "Sequence": { "id": "B", "type_id": 0 } }], "special_tokens": {
            "<|end|>": { "id": "<|end|>", "ids": [0], "tokens": ["<|end|>"] } } })
    };
    check("bytes", "/post_processor", template(many(&text, 3000)), &["post_processor.single", "repeats"]);
    let end = json!({ "SpecialToken": { "id": "<|end|>", "type_id": 0 } });
    check("bytes", "/post_processor", template([many(&end, 5000), vec![text.clone()]].concat()), &["5000"]);
    check("pieces", "/model/max_input_chars_per_word", json!(1u64 << 40), &["max_input_chars_per_word"]);
    check("pieces", "/model/continuing_subword_prefix", json!("#".repeat(10_000)), &["continuing_subword_prefix"]);
    check("unigram", "/model/vocab", json!([["x".repeat(100_000), 0.0]]), &["model.vocab", "100000"]);
}

#[test]
fn a_normalizer_may_not_make_a_text_endless() {
    let replace = |from: Value, to: &str| json!({ "type": "Replace", "pattern": from, "content": to });
    let all = |steps: Vec<Value>| json!({ "type": "Sequence", "normalizers": steps });
    let check = |normalizer: Value, text: &str, fits: bool| {
        let folder = folder(&base("bytes"), [("/normalizer", normalizer.clone())], &json!({}));
        let tokenizer = TextTokenizer::read(folder.path()).expect("a tokenizer");
        match tokenizer.tokens(text) {
            Ok(_) => assert!(fits, "{normalizer}"),
            Err(error) => {
                let error = error.to_string();
                assert!(!fits && error.contains("tokenizer.json") && error.contains("normalizer"), "{error}");
            }
        }
    };
    let doubled = replace(json!({ "String": "e" }), "ee");
    check(all(vec![doubled.clone(); 40]), "the end", false);
    check(all(vec![doubled.clone(); 40]), "nothing to do", true);
    check(all(vec![doubled; 4]), "the end", true);
    check(all(vec![replace(json!({ "Regex": "." }), "xxxx"); 16]), "the end", false);
    check(all(vec![replace(json!({ "Regex": "" }), "xyz"); 16]), "the end", false);
    check(all(vec![replace(json!({ "String": "" }), "xyz"); 30]), "the end", false);
    check(all(vec![json!({ "type": "ByteLevel" }); 40]), "née", false);
    check(all(vec![json!({ "type": "Prepend", "prepend": "x".repeat(40_000) }); 40]), "the end", false);
    check(all(vec![json!({ "type": "NFKD" }); 40]), "the end", true);
    check(all(vec![json!({ "type": "NFKC" }), replace(json!({ "String": " " }), "▁")]), "ﷺ the end", true);
    check(replace(json!({ "String": " " }), "▁"), &" ".repeat(100_000), true);
}

#[test]
fn added_tokens_are_normalized_within_the_same_bounds() {
    let doubled = json!({ "type": "Replace", "pattern": { "String": "e" }, "content": "ee" });
    let normalizer = json!({ "type": "Sequence", "normalizers": vec![doubled; 40] });
    let token = json!({ "content": "tree", "normalized": true, "special": false });
    let config = json!({ "extra_special_tokens": [token] });
    let found = refused(&base("bytes"), &[("/normalizer", normalizer)], &json!({ "tokenizer_config.json": config }));
    assert!(found.contains("tokenizer.json") && found.contains("normalizer"), "{found}");
}

#[test]
fn many_added_tokens_are_read_at_once() {
    let bytes = base("bytes");
    let first = bytes["model"]["vocab"].as_object().expect("a vocabulary").len();
    let tokens: Vec<Value> = (0..100_000)
        .map(|at| {
            json!({ "id": first + at, "content": format!("<{at}>"), "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true })
        })
        .collect();
    let all = folder(&bytes, [("/added_tokens", json!(tokens))], &json!({}));
    let tokenizer = TextTokenizer::read(all.path()).expect("a tokenizer");
    assert_eq!(tokenizer.tokens("<7><99999>").expect("tokens"), [first as u32 + 7, first as u32 + 99_999]);
    let texts: Vec<String> = (0..100_000).map(|at| format!("<{at}>")).collect();
    let config = json!({ "tokenizer_class": "GPT2Tokenizer", "additional_special_tokens": texts });
    let all = folder(&bytes, [], &json!({ "tokenizer_config.json": config }));
    let tokenizer = TextTokenizer::read(all.path()).expect("a tokenizer");
    assert_eq!(tokenizer.tokens("<0><99999>").expect("tokens"), [first as u32, first as u32 + 99_999]);
}

#[test]
fn nothing_is_drawn_at_random() {
    let check = |base: &str, files: Value, noticed: bool| {
        let plain = folder(&self::base(base), [], &files);
        let plain = TextTokenizer::read(plain.path()).expect("a tokenizer");
        for dropout in [json!(0.3), json!(1.0), json!(7)] {
            let folder = folder(&self::base(base), [("/model/dropout", dropout.clone())], &files);
            let tokenizer = TextTokenizer::read(folder.path()).expect("a tokenizer");
            let told = tokenizer.notices().iter().any(|notice| matches!(notice, TokenizerNotice::Dropout { .. }));
            assert_eq!(told, noticed, "{dropout}");
            for text in ["the fox runs", "the fox runs 12 times", " the river is the fox"] {
                assert_eq!(tokenizer.tokens(text).expect("tokens"), plain.tokens(text).expect("tokens"), "{text}");
            }
        }
    };
    check("bytes", json!({}), true);
    check("sentences", json!({}), true);
    check("sentences", json!({ "tokenizer_config.json": { "tokenizer_class": "LlamaTokenizer" } }), true);
    let none = folder(&base("bytes"), [("/model/dropout", json!(0.0))], &json!({}));
    assert_eq!(TextTokenizer::read(none.path()).expect("a tokenizer").notices(), []);
}

#[test]
fn what_the_files_ask_for_in_vain_is_noticed() {
    let check = |base: &str, changes: &[(&str, Value)], config: Value, words: &[&str]| {
        let files = json!({ "tokenizer_config.json": config });
        let folder = folder(&self::base(base), changes.iter().cloned(), &files);
        let tokenizer = TextTokenizer::read(folder.path()).expect("a tokenizer");
        let told: Vec<String> = tokenizer.notices().iter().map(ToString::to_string).collect();
        let whole = told.join("\n");
        assert!(words.iter().all(|word| whole.contains(word)), "{whole}\n{words:?}");
        assert_eq!(told.is_empty(), words.is_empty(), "{whole}");
    };
    let named = json!({ "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": false, "add_eos_token": true });
    check("sentences", &[], named, &["add_bos_token", "add_eos_token", "tokenizer_config.json", "post-processor"]);
    check("sentences", &[], json!({ "bos_token": "<s>", "add_bos_token": true, "add_eos_token": false }), &[]);
    check("sentences", &[], json!({ "truncation_side": "left" }), &["truncation_side"]);
    check("pieces", &[], json!({ "do_lower_case": true }), &["do_lower_case"]);
    check("pieces", &[], json!({ "do_lower_case": false }), &[]);
    check("pieces", &[], json!({ "tokenizer_class": "BertTokenizer" }), &["normalizer.lowercase"]);
    check("pieces", &[], json!({ "tokenizer_class": "BertTokenizer", "do_lower_case": true }), &[]);
    check("bytes", &[], json!({ "add_prefix_space": true }), &["add_prefix_space"]);
    check("bytes", &[], json!({ "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true }), &[]);
    check(
        "sentences",
        &[],
        json!({ "tokenizer_class": "LlamaTokenizer" }),
        &["LlamaTokenizer", "normalizer", "pre-tokenizer"],
    );
    let digits = json!({ "type": "Digits", "individual_digits": true });
    check("bytes", &[("/pre_tokenizer", digits)], json!({ "tokenizer_class": "GPT2Tokenizer" }), &["pre-tokenizer"]);
    check("roberta", &[], json!({ "tokenizer_class": "RobertaTokenizer" }), &[]);
    check("unigram", &[], json!({ "tokenizer_class": "XLMRobertaTokenizer" }), &[]);
}

#[test]
fn two_tokenizers_are_compared_by_what_they_do() {
    let check = |first: Value, second: Value, expected: Option<(bool, bool)>| {
        let read = |files: &Value| {
            let folder = folder(&base("sentences"), [], files);
            TextTokenizer::read(folder.path()).expect("a tokenizer")
        };
        let mut tokenizer = read(&first);
        let before = tokenizer.notices().len();
        tokenizer.compare(&read(&second)).expect("comparable");
        let found = match tokenizer.notices().get(before) {
            Some(TokenizerNotice::Chosen { tokens, template, .. }) => Some((*tokens, *template)),
            Some(other) => panic!("{other}"),
            None => None,
        };
        assert_eq!(found, expected, "{first} {second}");
    };
    let config = |value: Value| json!({ "tokenizer_config.json": value });
    check(json!({}), config(json!({ "model_max_length": 7 })), None);
    check(json!({}), config(json!({ "chat_template": "{{ messages }}" })), Some((false, true)));
    check(json!({}), config(json!({ "extra_special_tokens": ["<new>"] })), Some((true, false)));
    check(json!({}), config(json!({ "eos_token": "</s>" })), Some((true, false)));
    check(json!({}), config(json!({ "split_special_tokens": true })), Some((true, false)));
    let llama = |legacy: bool| config(json!({ "tokenizer_class": "LlamaTokenizer", "legacy": legacy }));
    check(llama(true), llama(false), Some((true, false)));
    check(llama(true), llama(true), None);
}
