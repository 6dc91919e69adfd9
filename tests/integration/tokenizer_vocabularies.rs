//! Vocabularies without `tokenizer.json`, and searches that give up.

use hyperinf::models::TextTokenizer;
use serde_json::{Value, json};

use crate::tokenizer_files::{base, folder, refused};

#[test]
fn a_folder_with_a_vocabulary_alone_says_what_is_missing() {
    let check = |files: Value, words: &[&str]| {
        let found = refused(&Value::Null, &[], &files);
        assert!(words.iter().all(|word| found.contains(word)), "{found}\n{words:?}");
    };
    for name in ["vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "tekken.json"] {
        check(json!({ name: "a\n" }), &["no tokenizer", "`vocab.txt`", "`merges.txt`"]);
    }
    let class = |name: &str| json!({ "tokenizer_class": name });
    let (pieces, bytes) = ("[UNK]\n[CLS]\n[SEP]\n", json!({ "a": 0, "b": 1, "ab": 2 }));
    for name in ["PreTrainedTokenizerFast", "LlamaTokenizer", "XLMRobertaTokenizer", "GPT2Tokenizer"] {
        check(json!({ "vocab.txt": pieces, "tokenizer_config.json": class(name) }), &["no tokenizer"]);
    }
    check(json!({ "vocab.txt": pieces, "tokenizer_config.json": class("T5Tokenizer") }), &["`tokenizer_class`", "T5"]);
    check(json!({ "vocab.txt": "a\n", "tokenizer_config.json": class("BertTokenizer") }), &["[UNK]", "vocab.txt"]);
    let gpt2 = |vocabulary: &Value, merges: &str| json!({ "vocab.json": vocabulary, "merges.txt": merges, "tokenizer_config.json": class("GPT2Tokenizer") });
    check(gpt2(&bytes, "#version: 0.2\na b\na b c\n"), &["merges.txt", "line 3", "a b c"]);
    check(gpt2(&bytes, "a b\n\n"), &["merges.txt", "line 2"]);
    check(gpt2(&bytes, "a x\n"), &["vocab.json", "`x`"]);
    check(gpt2(&json!({ "a": 0, "b": 1.5 }), "a b\n"), &["vocab.json", "`b`", "1.5"]);
    check(gpt2(&json!({ "a": 0, "b": -1 }), "a b\n"), &["vocab.json", "`b`", "-1"]);
}

#[test]
fn a_search_that_gives_up_is_an_error() {
    let check = |change: (&str, Value), text: &str, pattern: Option<&str>| {
        let folder = folder(&base("bytes"), [change], &json!({}));
        let tokenizer = TextTokenizer::read(folder.path()).expect("a tokenizer");
        let found = tokenizer.tokens(text).map(drop).map_err(|error| error.to_string());
        match (found, pattern) {
            (Err(error), Some(pattern)) => {
                assert!(error.contains("tokenizer.json") && error.contains(pattern), "{error}");
            }
            (found, pattern) => assert_eq!((found, pattern), (Ok(()), None)),
        }
    };
    let split = |pattern: &str| {
        json!({
            "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false
        })
    };
    let level = base("bytes")["pre_tokenizer"].clone();
    let steps = |pattern: &str| json!({ "type": "Sequence", "pretokenizers": [split(pattern), level] });
    let replace = |pattern: &str| json!({ "type": "Replace", "pattern": { "Regex": pattern }, "content": "-" });
    let (slow, letters) = (r"(?:a+)+(?!b)c", "a".repeat(40));
    check(("/pre_tokenizer", steps(slow)), &letters, Some("(?:a+)+"));
    check(("/pre_tokenizer", steps(slow)), "the aaaac fox", None);
    check(("/pre_tokenizer", steps(r"(?:a+)+c")), &letters, None);
    check(("/normalizer", replace(slow)), &letters, Some("(?:a+)+"));
    check(("/normalizer", replace(slow)), "aaac", None);
    // Split before, or a token of its own, the text is harmless.
    let parted = json!({ "type": "Sequence", "pretokenizers": [split(" "), split(slow), level] });
    check(("/pre_tokenizer", parted), &"aaaa ".repeat(30), None);
    check(("/pre_tokenizer", steps(slow)), &"aaaa<|end|>".repeat(30), None);
    // The pattern of `ByteLevel` gives up where blanks never end.
    check(("/pre_tokenizer", level.clone()), &format!("a{}b", " ".repeat(90_000)), None);
    check(("/pre_tokenizer", level.clone()), &format!("a{}b", " ".repeat(2_000_000)), Some("'s|'t|"));
}
