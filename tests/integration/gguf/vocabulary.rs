//! Vocabularies in GGUF files as tokenizers.

use std::collections::BTreeMap;

use hyperinf::models::{GgufVocabulary, ModelError, gguf_tokenizer};
use rlx_gguf::{GgufWriter, MetaValue};

use super::folder;

type Entries = BTreeMap<String, MetaValue>;

fn text(text: &str) -> MetaValue {
    MetaValue::String(text.into())
}

fn texts(texts: &[&str]) -> MetaValue {
    MetaValue::Array(texts.iter().map(|t| text(t)).collect())
}

fn kinds(kinds: &[i32]) -> MetaValue {
    MetaValue::Array(kinds.iter().map(|&kind| MetaValue::I32(kind)).collect())
}

fn read(entries: &Entries) -> Result<GgufVocabulary, ModelError> {
    let folder = folder();
    let path = folder.path().join("model.gguf");
    let mut writer = GgufWriter::new();
    for (key, value) in entries {
        writer.set_meta(format!("tokenizer.{key}"), value.clone());
    }
    writer.write_to_path(&path).expect("the folder can be written");
    gguf_tokenizer(&path)
}

/// The tokens' texts.
fn split(vocabulary: &GgufVocabulary, text: &str, special: bool) -> Vec<String> {
    vocabulary.tokenizer.encode(text, special).expect("it can be encoded").get_tokens().to_vec()
}

fn decoded(vocabulary: &GgufVocabulary, text: &str) -> String {
    let encoding = vocabulary.tokenizer.encode(text, true).expect("it can be encoded");
    vocabulary.tokenizer.decode(encoding.get_ids(), true).expect("it can be decoded")
}

/// Byte pairs over a few letters; `zz` is a token that no merge reaches.
fn byte_pairs(pre: Option<&str>) -> Entries {
    let tokens = [
        "<|end|>", "<tool>", "h", "e", "l", "o", "Ġ", "Ã", "©", "1", "9", "z", "he", "ll", "hell", "hello", "Ġhello",
        "19", "199", "1999", "zz",
    ];
    let merges = ["h e", "l l", "he ll", "hell o", "Ġ hello", "1 9", "19 9", "199 9"];
    let mut of_kind = [1; 21];
    (of_kind[0], of_kind[1]) = (3, 4);
    let mut entries = Entries::from([
        ("ggml.model".into(), text("gpt2")),
        ("ggml.tokens".into(), texts(&tokens)),
        ("ggml.token_type".into(), kinds(&of_kind)),
        ("ggml.merges".into(), texts(&merges)),
        ("ggml.bos_token_id".into(), MetaValue::U32(0)),
        ("ggml.eos_token_id".into(), MetaValue::U32(0)),
        ("chat_template".into(), text("{{ messages }}")),
    ]);
    entries.extend(pre.map(|pre| ("ggml.pre".into(), text(pre))));
    entries
}

#[test]
fn byte_pairs_are_merged_within_the_splits_of_their_kind() {
    for (pre, years, double) in [
        (Some("gpt-2"), &["1999"][..], &["z", "z"][..]),
        (Some("smollm"), &["1", "9", "9", "9"], &["z", "z"]),
        (Some("qwen2"), &["1", "9", "9", "9"], &["z", "z"]),
        (Some("llama-bpe"), &["199", "9"], &["zz"]),
        (Some("default"), &["199", "9"], &["z", "z"]),
        (None, &["199", "9"], &["z", "z"]),
    ] {
        let found = read(&byte_pairs(pre)).unwrap_or_else(|error| panic!("{pre:?}: {error}"));
        assert_eq!(split(&found, "1999", false), years, "{pre:?}");
        assert_eq!(split(&found, "zz", false), double, "{pre:?}");
        assert_eq!(split(&found, "hello hello", false), ["hello", "Ġhello"], "{pre:?}");
        assert_eq!(split(&found, "hello<tool>hé<|end|>", false), ["hello", "<tool>", "h", "Ã", "©", "<|end|>"]);
        assert_eq!(decoded(&found, "hello hello<|end|> hé 1999<tool>"), "hello hello hé 1999<tool>", "{pre:?}");
        assert_eq!(found.add_bos, pre == Some("llama-bpe"), "{pre:?}");
        assert_eq!((found.bos, found.eos, found.add_eos), (Some(0), Some(0), false));
        assert_eq!(found.chat_template.as_deref(), Some("{{ messages }}"));
    }
}

#[test]
fn ends_are_put_around_texts_where_the_file_says_so() {
    for (bos, eos, expected) in [
        (false, false, &["hello"][..]),
        (true, false, &["<|end|>", "hello"]),
        (false, true, &["hello", "<|end|>"]),
        (true, true, &["<|end|>", "hello", "<|end|>"]),
    ] {
        let mut entries = byte_pairs(Some("gpt-2"));
        entries.insert("ggml.add_bos_token".into(), MetaValue::Bool(bos));
        entries.insert("ggml.add_eos_token".into(), MetaValue::Bool(eos));
        let found = read(&entries).expect("the vocabulary is whole");
        assert_eq!((found.add_bos, found.add_eos), (bos, eos));
        assert_eq!(split(&found, "hello", true), expected);
        assert_eq!(split(&found, "hello", false), ["hello"]);
    }
}

/// SentencePiece's pieces; `ba` has a higher score than `ab`.
fn scored() -> Entries {
    let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut tokens = vec!["<unk>", "<s>", "</s>"];
    tokens.extend(bytes.iter().map(String::as_str));
    let pieces = [("▁", -9.0), ("a", -9.0), ("b", -9.0), ("ba", -1.0), ("▁a", -2.0), ("ab", -3.0), ("▁ab", -4.0)];
    tokens.extend(pieces.map(|(piece, _)| piece));
    let scores: Vec<MetaValue> = (0..259).map(|_| 0.0).chain(pieces.map(|(_, s)| s)).map(MetaValue::F32).collect();
    let of_kind: Vec<i32> = (0..tokens.len()).map(|token| [2, 3, 3].get(token).copied().unwrap_or(6)).collect();
    let of_kind: Vec<i32> = of_kind.into_iter().enumerate().map(|(i, kind)| if i < 259 { kind } else { 1 }).collect();
    Entries::from([
        ("ggml.model".into(), text("llama")),
        ("ggml.tokens".into(), texts(&tokens)),
        ("ggml.token_type".into(), kinds(&of_kind)),
        ("ggml.scores".into(), MetaValue::Array(scores)),
        ("ggml.bos_token_id".into(), MetaValue::U32(1)),
        ("ggml.eos_token_id".into(), MetaValue::U32(2)),
    ])
}

#[test]
fn pieces_are_merged_by_their_scores() {
    let found = read(&scored()).expect("the vocabulary is whole");
    assert!(found.add_bos && !found.add_eos);
    // `ba` first, then `▁a`, after which no `a` is left for `ab`; only then is `▁ab` made of `▁a` and `b`.
    assert_eq!(split(&found, "abab", false), ["▁a", "ba", "b"]);
    assert_eq!(split(&found, "ab", false), ["▁ab"]);
    assert_eq!(split(&found, "b ab", true), ["<s>", "▁", "b", "▁ab"]);
    assert_eq!(split(&found, "é\n", false), ["▁", "<0xC3>", "<0xA9>", "<0x0A>"]);
    for text in ["abab", "b  a", " a", "é\nab €", "a</s>"] {
        assert_eq!(decoded(&found, text), text.replace("</s>", ""), "{text}");
    }
    let mut entries = scored();
    entries.insert("ggml.add_space_prefix".into(), MetaValue::Bool(false));
    entries.insert("ggml.add_bos_token".into(), MetaValue::Bool(false));
    let found = read(&entries).expect("the vocabulary is whole");
    assert_eq!(split(&found, "ab a", true), ["ab", "▁a"]);
    assert_eq!(decoded(&found, " ab a"), " ab a");
}

#[test]
fn vocabularies_that_make_no_tokenizer_are_errors() {
    let check = |mut entries: Entries, key: &str, value: Option<MetaValue>, message: &str| {
        entries.remove(key);
        entries.extend(value.map(|value| (key.to_owned(), value)));
        let error = read(&entries).expect_err(message).to_string();
        assert!(error.contains(message) && error.contains("model.gguf"), "{message}: {error}");
    };
    let pairs = || byte_pairs(Some("gpt-2"));
    check(pairs(), "ggml.model", Some(text("t5")), "the kind of vocabulary is `t5`, but only `gpt2` and `llama`");
    check(pairs(), "ggml.model", None, "`tokenizer.ggml.model` is absent");
    check(pairs(), "ggml.pre", Some(text("tekken")), "the way to split text is `tekken`, but only `default`, `gpt-2`");
    check(pairs(), "ggml.tokens", None, "`tokenizer.ggml.tokens` is absent");
    check(pairs(), "ggml.tokens", Some(kinds(&[1; 21])), "must be a list of strings");
    check(pairs(), "ggml.token_type", Some(kinds(&[1; 20])), "the vocabulary has 21 tokens, but 20 kinds of tokens");
    check(pairs(), "ggml.token_type", Some(kinds(&[9; 21])), "must be a list of numbers from 0 to 6");
    check(pairs(), "ggml.merges", None, "`tokenizer.ggml.merges` is absent");
    for merge in ["he", " he", "h e l"] {
        check(pairs(), "ggml.merges", Some(texts(&[merge])), "a list of pairs with one space between");
    }
    check(pairs(), "ggml.merges", Some(texts(&["h q"])), "`q` out of vocabulary");
    check(pairs(), "ggml.bos_token_id", Some(MetaValue::U32(21)), "is 21, but must be a token of the vocabulary");
    let mut added = pairs();
    added.insert("ggml.add_bos_token".into(), MetaValue::Bool(true));
    check(added, "ggml.bos_token_id", None, "`tokenizer.ggml.bos_token_id` is absent");
    let same = texts(&["<|end|>"; 21]);
    check(pairs(), "ggml.tokens", Some(same), "token 1 of the vocabulary (`<|end|>`) is there twice");
    let number = |score| MetaValue::Array(vec![MetaValue::F32(score); 266]);
    check(scored(), "ggml.scores", None, "`tokenizer.ggml.scores` is absent");
    check(scored(), "ggml.scores", Some(MetaValue::Array(vec![MetaValue::F32(0.0)])), "266 tokens, but 1 scores");
    check(scored(), "ggml.scores", Some(number(f32::NAN)), "is scored NaN");
    check(scored(), "ggml.token_type", Some(kinds(&[1; 266])), "no unknown token, and only 0 of 256 byte tokens");
}
