//! What of a conversation is scored, and what becomes a message.

use hyperinf::data::{Dataset, Passage, ReadOptions};
use hyperinf::models::{
    ChatSource, Conversation, Json, Limit, Message, SpecialTokens, TextTokenizer, TokenizerSettings,
};
use hyperinf::scoring::Set;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

/// Every character is a token.
fn characters(template: &str) -> TextTokenizer {
    let vocabulary: serde_json::Map<String, Value> =
        ('\0'..'\u{250}').map(|c| (c.to_string(), json!(c as u32))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
    });
    let tokenizer: Tokenizer = serde_json::from_value(tokenizer).expect("a tokenizer");
    let chat_template = Some(ChatSource::from(template.to_owned()));
    let settings = TokenizerSettings { special: SpecialTokens::default(), chat_template, ..Default::default() };
    TextTokenizer::new(tokenizer, settings).expect("a template")
}

fn messages(list: Value) -> Vec<Message> {
    let list: Vec<Json> = list.as_array().expect("a list").iter().cloned().map(Json::from).collect();
    list.iter().map(|message| Message::from_json(message).expect("a message")).collect()
}

/// The text with marks around what is scored, or the error.
fn marked(template: &str, conversation: &Conversation) -> String {
    match characters(template).chat(conversation, Limit::Refuse(10_000)) {
        Err(error) => error.to_string(),
        Ok(found) => {
            let (mut text, mut inside) = (String::new(), false);
            for (&token, &scored) in found.sample.tokens.iter().zip(&found.sample.scored) {
                text.push_str(if scored == inside {
                    ""
                } else if scored {
                    "["
                } else {
                    "]"
                });
                inside = scored;
                text.extend(char::from_u32(token));
            }
            text + if inside { "]" } else { "" }
        }
    }
}

fn check(template: &str, list: Value, expected: &str) {
    let found = marked(template, &messages(list).into());
    assert!(found == expected || found.contains(expected) && !expected.contains('['), "{template}: {found:?}");
}

const PLAIN: &str =
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }};{% endfor %}{% if add_generation_prompt %}<a>{% endif %}";
/// Opens a thought in the prompt, and drops the thoughts of answers.
const OPENS: &str = "{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content }}{% else %}<a>{{ m.content.split('/t')[-1] }};\
    {% endif %}{% endfor %}{% if add_generation_prompt %}<a><t>{% endif %}";
/// Writes a thought in the last answer alone.
const LAST: &str = "{% for m in messages %}<{{ m.role[0] }}>{% if m.role == 'assistant' and loop.last %}(t){% endif %}{{ m.content }};{% endfor %}\
    {% if add_generation_prompt %}<a>{% endif %}";
/// Looks at the first message, and begins with a system message of its own.
const SYSTEM: &str = "{% if messages[0].role != 'system' %}<s>kind;{% endif %}{% for m in messages %}<{{ m.role[0] }}>{{ m.content }};{% endfor %}\
    {% if add_generation_prompt %}<a>{% endif %}";
const MARKS: &str = "{% for m in messages %}<{{ m.role[0] }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %};\
    {% else %}{{ m.content }}{% endif %}{% endfor %}";

fn turns(list: &[(&str, &str)]) -> Value {
    list.iter().map(|(role, content)| json!({ "role": role, "content": content })).collect()
}

#[test]
fn what_the_assistant_says_is_scored() {
    let four = turns(&[("user", "x"), ("assistant", "y"), ("user", "z"), ("assistant", "w")]);
    check(PLAIN, four.clone(), "<u>x;<a>[y;]<u>z;<a>[w;]");
    check(SYSTEM, four.clone(), "<s>kind;<u>x;<a>[y;]<u>z;<a>[w;]");
    check(MARKS, four.clone(), "<u>x<a>[y];<u>z<a>[w];");
    // The prompt opens a thought that the answer does not have: they part after `<a>`.
    check(OPENS, four.clone(), "<u>x<a>[y;]<u>z<a>[w;]");
    check(OPENS, turns(&[("user", "x"), ("assistant", "th/ty")]), "<u>x<a>[y;]");
    // As TRL has it: an answer that begins as the thought does loses its first character.
    check(OPENS, turns(&[("user", "x"), ("assistant", "<call>")]), "<u>x<a><[call>;]");
    // An earlier answer has no thought once others follow.
    check(LAST, four, "<u>x;<a>[y;]<u>z;<a>[(t)w;]");
    check(LAST, turns(&[("user", "x"), ("assistant", "y"), ("user", "z")]), "<u>x;<a>[y;]<u>z;");
}

#[test]
fn an_assistant_may_begin() {
    let begins = turns(&[("assistant", "x"), ("user", "y"), ("assistant", "z")]);
    check(PLAIN, begins.clone(), "<a>[x;]<u>y;<a>[z;]");
    check(SYSTEM, begins.clone(), "<s>kind;<a>[x;]<u>y;<a>[z;]");
    check(OPENS, begins.clone(), "<a>[x;]<u>y<a>[z;]");
    check(MARKS, begins.clone(), "<a>[x];<u>y<a>[z];");
    check(LAST, begins, "<a>[x;]<u>y;<a>[(t)z;]");
}

#[test]
fn messages_of_weight_zero_are_not_scored() {
    let weighted = |key: &str, value: Value| {
        let mut list = turns(&[("user", "x"), ("assistant", "y"), ("user", "z"), ("assistant", "w")]);
        list[1][key] = value;
        list
    };
    check(PLAIN, weighted("weight", json!(0)), "<u>x;<a>y;<u>z;<a>[w;]");
    check(PLAIN, weighted("weight", json!(0.0)), "<u>x;<a>y;<u>z;<a>[w;]");
    check(PLAIN, weighted("weight", json!(1)), "<u>x;<a>[y;]<u>z;<a>[w;]");
    check(PLAIN, weighted("weight", json!(null)), "<u>x;<a>[y;]<u>z;<a>[w;]");
    check(PLAIN, weighted("train", json!(false)), "<u>x;<a>y;<u>z;<a>[w;]");
    check(PLAIN, weighted("training", json!(true)), "<u>x;<a>[y;]<u>z;<a>[w;]");
    check(MARKS, weighted("weight", json!(0)), "<u>x<a>y;<u>z<a>[w];");
    let mut none = turns(&[("user", "x"), ("assistant", "y")]);
    none[1]["weight"] = json!(0);
    check(PLAIN, none, "all 1 messages of the assistant have weight 0");
}

#[test]
fn all_after_a_prompt_is_scored() {
    let split = |template: &str, prompt: usize, list: &[(&str, &str)]| {
        let conversation = Conversation { messages: messages(turns(list)), prompt: Some(prompt), ..Default::default() };
        marked(template, &conversation)
    };
    let two = [("user", "x"), ("assistant", "y")];
    assert_eq!(split(PLAIN, 1, &two), "<u>x;<a>[y;]");
    assert_eq!(split(SYSTEM, 1, &two), "<s>kind;<u>x;<a>[y;]");
    assert_eq!(split(OPENS, 1, &two), "<u>x<a>[y;]");
    let five = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("tool", "e")];
    assert_eq!(split(PLAIN, 3, &five), "<u>a;<a>b;<u>c;<a>[d;<t>e;]");
    assert!(split(PLAIN, 2, &five).contains("the role `assistant`, expected `user` or `tool`"));
}

#[test]
fn what_is_unclear_is_refused_by_name() {
    check(PLAIN, turns(&[("user", "x")]), "none of the 1 messages has the role `assistant`");
    // Where the message ends cannot be seen: it is written twice, or not at all.
    let twice = LAST.replace("{{ m.content }}", "{{ m.content }}{{ m.content }}");
    check(&twice, turns(&[("user", "x"), ("assistant", "y"), ("user", "z")]), "message 1 differently");
    let never = "{% for m in messages %}{{ 'a' if loop.last else 'b' }}{% endfor %}";
    check(never, turns(&[("user", "x"), ("assistant", "y"), ("user", "z")]), "message 1 differently");
    let unmarked = "{% for m in messages %}{{ m.content }}{% endfor %}{% if false %}{% generation %}{% endgeneration %}{% endif %}";
    check(unmarked, turns(&[("user", "x"), ("assistant", "y")]), "marks nothing");
    let hidden = "{% macro f(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}{% for m in messages %}{{ f(m) }}{% endfor %}";
    check(hidden, turns(&[("user", "x"), ("assistant", "y")]), "has no place in the text");
    let parts = json!([{ "role": "user", "content": [{ "type": "text", "text": "x" }] }, { "role": "assistant", "content": "y" }]);
    check(PLAIN, parts.clone(), "message 0: its `content` is a list of parts");
    check(
        &PLAIN.replace("m.content", "(m.content + '')"),
        parts.clone(),
        "message 0: its `content` is a list of parts",
    );
    let reads = PLAIN.replace(
        "{{ m.content }}",
        "{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}",
    );
    check(&reads, parts, "<u>x;<a>[y;]");
}

#[test]
fn messages_are_read_or_refused_by_name() {
    let read = |message: Value| Message::from_json(&message.into()).map_err(|error| error.to_string());
    let refused = |message: Value, expected: &str| {
        let error = read(message.clone()).expect_err("it is refused");
        assert!(error.contains(expected), "{message}: {error}");
    };
    for (from, role) in
        [("human", "user"), ("gpt", "assistant"), ("system", "system"), ("tool", "tool"), ("observation", "tool")]
    {
        let found = read(json!({ "from": from, "value": "x" })).expect("a message of ShareGPT");
        assert_eq!((found.role(), found.text().as_str()), (role, "x"), "{from}");
        assert!(found.get("from").is_none() && found.get("value").is_none());
    }
    refused(json!({ "from": "narrator", "value": "x" }), "`from` is `narrator`");
    refused(json!({ "from": 1, "value": "x" }), "`from` holds a number");
    refused(json!({ "role": "user", "from": "human", "value": "x" }), "both `role` and `from`");
    refused(json!({ "content": "x" }), "`role` is missing");
    refused(json!({ "role": "user" }), "`content` is missing");
    refused(json!({ "role": "user", "content": null }), "`content` is missing");
    refused(json!({ "role": "user", "text": "x" }), "`content` is missing");
    refused(json!({ "role": "user", "content": 1 }), "`content` holds a number");
    refused(json!({ "role": 1, "content": "x" }), "`role` holds a number");
    refused(json!("x"), "it is a text");
    for kind in ["image", "image_url", "input_audio", "video", "file"] {
        let parts = json!([{ "type": "text", "text": "x" }, { "type": kind }]);
        refused(json!({ "role": "user", "content": parts }), &format!("part 1 of `content` is of type `{kind}`"));
    }
    refused(json!({ "role": "user", "content": ["x"] }), "`content[0]` holds a text");
    refused(json!({ "role": "assistant", "content": "x", "weight": 0.5 }), "`weight` is 0.5");
    refused(json!({ "role": "assistant", "content": "x", "weight": "0" }), "`weight` holds a text");
    refused(json!({ "role": "assistant", "content": "x", "train": 1 }), "`train` holds a number");
    refused(json!({ "role": "assistant", "content": "x", "loss_mask": 1 }), "`loss_mask` is not supported");
    let call = read(json!({ "role": "assistant", "content": null, "tool_calls": [1], "name": null })).expect("a call");
    assert!(call.get("content").is_none() && call.get("name").is_none() && call.get("tool_calls").is_some());
}

#[test]
fn numbers_are_those_of_the_row() {
    let check = |numbers: &[(&str, &str)]| {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let path = folder.path().join("rows.jsonl");
        let list: Vec<&str> = numbers.iter().map(|(written, _)| *written).collect();
        let list = list.join(", ");
        // Also behind an escape, in a text of JSON, and next to columns that are not read.
        let row = format!(
            r#"{{"other": [1e5, {list}, "\\"], "messages": [{{"role": "user", "content": "3 \"-0 {{", "n": [{list}]}}],
                "tools": {}, "chat_template_kwargs": {{"deep": {{"1e3": [{list}]}}}}}}"#,
            json!(format!("[{{\"n\": [{list}]}}]"))
        );
        std::fs::write(&path, row.replace('\n', " ")).expect("a file");
        let rows = Dataset::<Passage>::read(Set::Train, &path, &ReadOptions::default()).expect("rows");
        let Passage::Conversation(conversation) = &rows.rows[0].content else { panic!("a conversation") };
        let template = "{% for x in [messages[0].n, tools[0].n, deep['1e3']] %}\
            {{ x | join(' ') }};{{ x | tojson }}{{ '\n' }}{% endfor %}";
        let found = characters(template).chat_text(conversation, false).expect("a text");
        let expected: Vec<&str> = numbers.iter().map(|(_, printed)| *printed).collect();
        let line = format!("{};[{}]\n", expected.join(" "), expected.join(", "));
        assert_eq!(found, line.repeat(3), "{list}");
    };
    let same = |number: &'static str| (number, number);
    check(&[
        same("1"),
        same("-7"),
        same("0"),
        same("2.5"),
        ("-0", "0"),
        same("-0.0"),
        ("1.50", "1.5"),
        ("1e2", "100.0"),
    ]);
    // Beyond 64 bits.
    check(&[same("18446744073709551615"), same("18446744073709551616"), same("-9223372036854775809")]);
    check(&[same("123456789012345678901234567890"), same("-170141183460469231731687303715884105728")]);
    // Where the last digit depends on how a text becomes a number.
    check(&[same("0.30000000000000004"), same("1.7976931348623157e+308"), same("5e-324"), ("1.2e25", "1.2e+25")]);
    check(&[same("8.41e+21"), ("9007199254740993.0", "9007199254740992.0"), same("2.2250738585072014e-308")]);
    check(&[same("0.1234567890123456"), ("9.5367431640625e-07", "9.5367431640625e-07"), ("7.0e-10", "7e-10")]);
}

#[test]
fn variables_of_a_row_are_no_arguments_of_transformers() {
    for name in ["messages", "chat_template", "continue_final_message", "add_generation_prompt", "tokenize"] {
        let variables = vec![(name.to_owned(), Json::Bool(true))];
        let conversation = Conversation { variables, ..vec![Message::new("user", "x")].into() };
        let error = characters(PLAIN).chat_text(&conversation, false).expect_err(name).to_string();
        assert!(error.contains(&format!("`{name}`")), "{error}");
    }
}

#[test]
fn thoughts_have_the_names_and_places_of_transformers() {
    let check = |message: &str, expected: &str| {
        let message = Message::from_json(&Json::parse(message).expect("JSON")).expect("a message");
        let found = characters("{{ messages[0] | tojson }}").chat_text(&vec![message].into(), false);
        assert_eq!(found.expect("a text"), expected);
    };
    let (begin, end) = (r#"{"role": "a", "content": "x""#, r#""role": "a", "content": "x""#);
    check(&format!("{begin}}}"), &format!("{begin}}}"));
    let all = format!(r#"{{"thinking": "t", {end}, "reasoning_content": "t"}}"#);
    check(&format!(r#"{begin}, "thinking": "t"}}"#), &all);
    check(&format!(r#"{begin}, "reasoning_content": "t"}}"#), &all);
    check(&format!(r#"{begin}, "reasoning_content": "t", "thinking": null}}"#), &all);
    let two = format!(r#"{{"thinking": "s", {end}, "reasoning_content": "t"}}"#);
    check(&format!(r#"{begin}, "reasoning_content": "t", "thinking": "s"}}"#), &two);
    let third = format!(r#"{{"thinking": "t", {end}, "reasoning": "t", "reasoning_content": "t"}}"#);
    check(&format!(r#"{begin}, "reasoning": "t"}}"#), &third);
}
