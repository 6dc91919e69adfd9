//! Texts, pairs, completions and conversations as samples.

use std::path::Path;

use hyperinf::models::{Limit, LmSample, Message, TextTokenizer, TokenizeError, TokenizedSample};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::folders::write_json;

const ALL: Limit = Limit::Refuse(1000);

/// Words `w0` to `w9` as tokens 10 to 19 within `[CLS]` 2 and `[SEP]` 3, pairs in two segments.
fn words() -> Value {
    let mut vocab = serde_json::Map::new();
    for (token, number) in [("[PAD]", 0), ("[UNK]", 1), ("[CLS]", 2), ("[SEP]", 3)] {
        vocab.insert(token.to_owned(), json!(number));
    }
    for word in 0..10 {
        vocab.insert(format!("w{word}"), json!(10 + word));
    }
    let special = |token: &str, segment| json!({ "SpecialToken": { "id": token, "type_id": segment } });
    let text = |id: &str, segment| json!({ "Sequence": { "id": id, "type_id": segment } });
    let single = [special("[CLS]", 0), text("A", 0), special("[SEP]", 0)];
    let pair = [&single[..], &[text("B", 1), special("[SEP]", 1)]].concat();
    json!({
        "version": "1.0",
        // Both must be switched off: samples are whole, and padded in batches.
        "truncation": { "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 20 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "[PAD]" },
        "added_tokens": [], "normalizer": null, "pre_tokenizer": { "type": "Whitespace" }, "decoder": null,
        "post_processor": {
            "type": "TemplateProcessing", "single": single, "pair": pair,
            "special_tokens": {
                "[CLS]": { "id": "[CLS]", "ids": [2], "tokens": ["[CLS]"] },
                "[SEP]": { "id": "[SEP]", "ids": [3], "tokens": ["[SEP]"] },
            },
        },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]" },
    })
}

/// Characters as tokens, `ab` and a blank with a `c` joined; `<s>` 0 and `</s>` 1 are special, other characters 2.
fn characters(begins: bool) -> Value {
    let mut vocab = serde_json::Map::new();
    for (number, token) in ["<s>", "</s>", "?", "ab", " c"].into_iter().enumerate() {
        vocab.insert(token.to_owned(), json!(number));
    }
    for (at, character) in (' '..='~').chain(['\n', 'é']).filter(|&c| c != '?').enumerate() {
        vocab.insert(character.to_string(), json!(5 + at));
    }
    let added = [(0, "<s>"), (1, "</s>")].map(|(id, content)| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    });
    let begin = json!({
        "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "<s>": { "id": "<s>", "ids": [0], "tokens": ["<s>"] } },
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": null, "post_processor": if begins { begin } else { Value::Null }, "decoder": { "type": "Fuse" },
        "model": { "type": "BPE", "vocab": vocab, "merges": [["a", "b"], [" ", "c"]], "unk_token": "?" },
    })
}

fn folder(tokenizer: &Value, config: &Value) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    write_json(&folder.path().join("tokenizer.json"), tokenizer);
    write_json(&folder.path().join("tokenizer_config.json"), config);
    folder
}

fn read(folder: &Path) -> TextTokenizer {
    TextTokenizer::read(folder).expect("a valid tokenizer")
}

fn word_tokenizer() -> TextTokenizer {
    read(folder(&words(), &json!({})).path())
}

/// A tokenizer of characters that ends texts with `</s>`.
fn lm_tokenizer(begins: bool, mut config: Value) -> TextTokenizer {
    config["eos_token"] = json!("</s>");
    config["bos_token"] = json!({ "content": "<s>" });
    read(folder(&characters(begins), &config).path())
}

/// The tokens as text, and those that are scored.
fn shown(tokenizer: &TextTokenizer, sample: &LmSample) -> (usize, String) {
    let scored: Vec<u32> =
        sample.tokens.iter().zip(&sample.scored).filter(|(_, scored)| **scored).map(|(token, _)| *token).collect();
    let ends = usize::from(scored.last() == Some(&1));
    (scored.len() - ends, tokenizer.decode(&scored).expect("known tokens") + if ends == 1 { "</s>" } else { "" })
}

#[test]
fn classification_has_the_special_tokens_and_segments_of_the_tokenizer() {
    let tokenizer = word_tokenizer();
    let TokenizedSample { sample, cut } = tokenizer.classification("w1 w2 odd", None, 4, ALL).expect("short");
    assert_eq!((sample.tokens, sample.segments, sample.label, cut), (vec![2, 11, 12, 1, 3], vec![0; 5], 4, 0));
    let pair = tokenizer.classification("w1 w2", Some("w3"), 0, ALL).expect("short").sample;
    assert_eq!((pair.tokens, pair.segments), (vec![2, 11, 12, 3, 13, 3], vec![0, 0, 0, 0, 1, 1]));
    let without = read(folder(&words(), &json!({ "model_input_names": ["input_ids", "attention_mask"] })).path());
    assert_eq!(without.classification("w1", Some("w2"), 0, ALL).expect("short").sample.segments, [0; 5]);
}

#[test]
fn the_longer_of_a_pair_is_cut_first() {
    let tokenizer = word_tokenizer();
    let check = |first: &str, second: Option<&str>, limit: usize, expected: &[u32], cut: usize| {
        let found = tokenizer.classification(first, second, 0, Limit::Cut(limit)).expect("there is room");
        assert_eq!((found.sample.tokens.as_slice(), found.cut), (expected, cut), "{first} | {second:?} | {limit}");
        assert_eq!(found.sample.segments.len(), expected.len());
    };
    check("w1 w2 w3", None, 4, &[2, 11, 12, 3], 1);
    check("w1 w2 w3", None, 5, &[2, 11, 12, 13, 3], 0);
    check("w1 w2 w3 w4 w5", Some("w6"), 6, &[2, 11, 12, 3, 16, 3], 3);
    check("w1", Some("w6 w7 w8 w9"), 6, &[2, 11, 3, 16, 17, 3], 2);
    check("w1 w2 w3 w4", Some("w6 w7 w8"), 7, &[2, 11, 12, 3, 16, 17, 3], 3);
}

#[test]
fn too_long_a_text_is_an_error_with_the_numbers() {
    let error = word_tokenizer().classification("w1 w2 w3", Some("w4"), 0, Limit::Refuse(6)).expect_err("7 tokens");
    assert!(matches!(error, TokenizeError::TooLong { tokens: 7, limit: 6 }), "{error}");
    let error = word_tokenizer().classification("w1", Some("w4"), 0, Limit::Cut(3)).expect_err("no room");
    assert!(matches!(error, TokenizeError::NoRoom { special: 3, limit: 3 }), "{error}");
    let tokenizer = lm_tokenizer(false, json!({}));
    let error = tokenizer.completion("xy", "z", Limit::Refuse(3)).expect_err("4 tokens");
    assert!(matches!(error, TokenizeError::TooLong { tokens: 4, limit: 3 }), "{error}");
    let error = tokenizer.classification("", None, 0, ALL).expect_err("no tokens");
    assert!(matches!(error, TokenizeError::TooShort { tokens: 0, least: 1 }), "{error}");
    let error = tokenizer.text("x", ALL).expect_err("1 token");
    assert!(matches!(error, TokenizeError::TooShort { tokens: 1, least: 2 }), "{error}");
}

#[test]
fn exactly_the_completion_is_scored() {
    let tokenizer = lm_tokenizer(false, json!({}));
    let check = |prompt: &str, completion: &str, tokens: usize, expected: (usize, &str)| {
        let sample = tokenizer.completion(prompt, completion, ALL).expect("short").sample;
        assert_eq!(sample.tokens.len(), tokens, "{prompt:?} + {completion:?}");
        let (count, text) = shown(&tokenizer, &sample);
        assert_eq!((count, text.as_str()), expected, "{prompt:?} + {completion:?}");
    };
    check("xy", "zz", 5, (2, "zz</s>"));
    // `ab` is one token for the model, and it holds a character of the completion.
    check("xa", "bz", 4, (2, "abz</s>"));
    check("x ", "cz", 4, (2, " cz</s>"));
    check("x", " c", 3, (1, " c</s>"));
    check("xa", " b", 5, (2, " b</s>"));
    // Boundaries are between characters, not bytes.
    check("éé", "éz", 5, (2, "éz</s>"));
    // A first token cannot be predicted.
    check("", "xyz", 4, (2, "yz</s>"));
    check("x", "y</s>", 3, (1, "y</s>"));
    let error = tokenizer.completion("x", "", ALL).expect_err("empty");
    assert!(matches!(error, TokenizeError::EmptyCompletion), "{error}");
}

#[test]
fn what_is_cut_is_counted_and_a_completion_never_vanishes() {
    let tokenizer = lm_tokenizer(false, json!({}));
    let found = tokenizer.completion("xy", "zzz", Limit::Cut(4)).expect("two tokens are left");
    assert_eq!((found.sample.scored, found.cut), (vec![false, false, true, true], 2));
    let error = tokenizer.completion("xyz", "z", Limit::Cut(3)).expect_err("nothing is left");
    assert!(matches!(error, TokenizeError::CompletionCut { before: 3, limit: 3 }), "{error}");
}

#[test]
fn texts_begin_as_the_model_takes_them() {
    for (begins, config, expected) in [
        (true, json!({}), true),
        (false, json!({}), false),
        // The post-processor decides, as in transformers 5.
        (true, json!({ "add_bos_token": false }), true),
        (false, json!({ "add_bos_token": true }), false),
        (true, json!({ "add_bos_token": true }), true),
    ] {
        let tokenizer = lm_tokenizer(begins, config.clone());
        let text = tokenizer.text("xyz", ALL).expect("short").sample;
        let first = &tokenizer.tokens("xyz").expect("short")[..1];
        assert_eq!(text.tokens.len(), 3 + usize::from(expected), "{begins} {config}");
        assert_eq!(text.tokens[..1], if expected { vec![0] } else { first.to_vec() }, "{begins} {config}");
        assert_eq!(text.scored, [&[false][..], &vec![true; text.tokens.len() - 1]].concat(), "{begins} {config}");
        let completion = tokenizer.completion("x", "yz", ALL).expect("short").sample;
        assert_eq!(shown(&tokenizer, &completion), (2, "yz</s>".to_owned()), "{begins} {config}");
        assert_eq!(tokenizer.prompt("xyz").expect("short"), text.tokens, "{begins} {config}");
    }
}

const CHAT: &str = "{{ bos_token }}{% for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('who is ' + message.role) }}{% endif %}
    {{- '[' + message['role'] + ']' }}
    {%- if message.role == 'assistant' %}{% generation %}{{ message.content.strip() }};{% endgeneration %}
    {%- else %}{{ message.content.strip() }};{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[assistant]' }}{% endif %}";

fn messages(list: &[(&str, &str)]) -> Vec<Message> {
    list.iter().map(|&(role, content)| Message::new(role, content)).collect()
}

#[test]
fn the_assistants_messages_are_scored() {
    let tokenizer = lm_tokenizer(true, json!({ "chat_template": CHAT }));
    let chat = messages(&[("user", "ho "), ("assistant", " hm"), ("user", "so"), ("assistant", "no")]).into();
    let sample = tokenizer.chat(&chat, ALL).expect("a valid conversation").sample;
    let text = tokenizer.decode(&sample.tokens).expect("known tokens");
    assert_eq!(text, "[user]ho;[assistant]hm;[user]so;[assistant]no;");
    assert_eq!(sample.tokens[0], 0, "the template begins with <s>, once");
    assert_eq!(shown(&tokenizer, &sample), (6, "hm;no;".to_owned()));
    let cut = tokenizer.chat(&chat, Limit::Cut(23)).expect("a part of the first answer is left");
    assert_eq!((shown(&tokenizer, &cut.sample).1.as_str(), cut.cut), ("hm", sample.tokens.len() - 23));
}

#[test]
fn conversations_that_cannot_be_scored_say_why() {
    let tokenizer = lm_tokenizer(true, json!({ "chat_template": CHAT }));
    let check = |tokenizer: &TextTokenizer, list: &[(&str, &str)], limit: Limit, expected: &str| {
        let error = tokenizer.chat(&messages(list).into(), limit).expect_err("it cannot be scored");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(&tokenizer, &[("user", "ho")], ALL, "none of the 1 messages has the role `assistant`");
    check(&tokenizer, &[("ghost", "ho"), ("assistant", "hm")], ALL, "who is ghost");
    check(&tokenizer, &[("user", "ho"), ("assistant", "hm")], Limit::Cut(10), "nothing of the completion is left");
    check(&lm_tokenizer(true, json!({})), &[("assistant", "hm")], ALL, "no chat template");
    let silent = json!([{ "role": "user", "content": "ho" }, { "role": "assistant", "content": null }]);
    let error = serde_json::from_value::<Vec<Message>>(silent).expect_err("nothing is said").to_string();
    assert!(error.contains("`content` is missing"), "{error}");
    assert!(serde_json::from_value::<Message>(json!({ "role": "user", "text": "ho" })).is_err());
    let error = TextTokenizer::read(folder(&characters(true), &json!({ "chat_template": "{% if %}" })).path());
    assert!(error.expect_err("not a template").to_string().contains("chat template failed"));
}

#[test]
fn templates_may_use_what_transformers_gives_them() {
    let check = |template: &str, expected: &str| {
        let template = format!("{{% for m in messages %}}{{{{ m.content }}}}{{% endfor %}}{template}");
        let tokenizer = lm_tokenizer(false, json!({ "chat_template": template }));
        let sample = tokenizer.chat(&messages(&[("user", "u"), ("assistant", "a")]).into(), ALL).expect("valid").sample;
        assert_eq!(tokenizer.decode(&sample.tokens).expect("known tokens"), format!("ua{expected}"), "{template}");
    };
    let last = |body: &str| format!("{{% if messages | length == 2 %}}{body}{{% endif %}}");
    check(&last("{{ {'k': ['<', 1]} | tojson }}"), "{\"k\": [\"<\", 1]}");
    check(&last("{{ eos_token == '</s>' }}"), "True");
    check(&last("{{ tools is none }}"), "True");
    check(&last("{% for i in range(5) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"), "01");
    check(&last("{{ strftime_now('%Y') | int > 2000 }}"), "True");
    check(&last("{{ strftime_now('%d %b %Y') | length }}"), "11");
}

#[test]
fn a_message_may_be_a_call_alone() {
    let template = "{% for m in messages %}{% if m.content %}{{ m.content }}{% endif %}{% if m.content is not defined %}\
                    {% for call in m.tool_calls %}<{{ call.name }}>{% endfor %}{% endif %}{% endfor %}";
    let tokenizer = lm_tokenizer(false, json!({ "chat_template": template }));
    let call = json!([
        { "role": "user", "content": "u" },
        { "role": "assistant", "content": null, "tool_calls": [{ "name": "clock" }] },
    ]);
    let messages: Vec<Message> = serde_json::from_value(call).expect("messages");
    let sample = tokenizer.chat(&messages.into(), ALL).expect("valid").sample;
    assert_eq!(shown(&tokenizer, &sample).1, "<clock>");
}

#[test]
fn a_template_of_its_own_file_comes_first() {
    let folder = folder(&characters(true), &json!({ "chat_template": CHAT, "bos_token": "<s>" }));
    let chat = messages(&[("user", "x"), ("assistant", "y")]).into();
    let text = |folder: &Path| {
        let tokenizer = read(folder);
        tokenizer.decode(&tokenizer.chat(&chat, ALL).expect("valid").sample.tokens).expect("known tokens")
    };
    assert_eq!(text(folder.path()), "[user]x;[assistant]y;");
    let own = "{% for m in messages %}{{ m.content }}!{% endfor %}";
    std::fs::write(folder.path().join("chat_template.jinja"), own).expect("a writable folder");
    assert_eq!(text(folder.path()), "x!y!");
    std::fs::remove_file(folder.path().join("chat_template.jinja")).expect("written before");
    let several = json!([{ "name": "tool_use", "template": "no" }, { "name": "default", "template": own }]);
    write_json(&folder.path().join("tokenizer_config.json"), &json!({ "chat_template": several }));
    assert_eq!(text(folder.path()), "x!y!");
}

#[test]
fn a_missing_tokenizer_is_named() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    std::fs::write(folder.path().join("vocab.txt"), "[PAD]").expect("a writable folder");
    let error = TextTokenizer::read(folder.path()).expect_err("no tokenizer").to_string();
    assert!(error.contains("has no tokenizer: looked for `tokenizer.json`"), "{error}");
    std::fs::write(folder.path().join("tokenizer.json"), "{}").expect("a writable folder");
    let error = TextTokenizer::read(folder.path()).expect_err("no tokenizer").to_string();
    assert!(error.contains("tokenizer.json` cannot be used"), "{error}");
}
