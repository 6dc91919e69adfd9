//! Chat templates make the text that transformers makes, or an error; and none takes long or much memory.

use std::collections::BTreeSet;
use std::fs;

use hyperinf::models::{ChatSource, Conversation, Json, Message, SpecialTokens, TextTokenizer, TokenizerSettings};
use hyperinf_tests::fixtures;
use serde_json::json;
use tokenizers::Tokenizer;

/// A tokenizer with `<s>` and `</s>`, and a template.
fn with_template(template: &str) -> Result<TextTokenizer, String> {
    let added = ["<s>", "</s>"].iter().enumerate().map(|(id, content)| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": {}, "unk_token": "?" },
    });
    let tokenizer: Tokenizer = serde_json::from_value(tokenizer).expect("a tokenizer");
    let special = SpecialTokens { bos: Some(0), eos: Some(1), pad: None };
    let chat_template = Some(ChatSource::from(template.to_owned()));
    let settings = TokenizerSettings { special, chat_template, ..TokenizerSettings::default() };
    TextTokenizer::new(tokenizer, settings).map_err(|error| error.to_string())
}

fn text(template: &str, conversation: &Conversation, prompt: bool) -> Result<String, String> {
    with_template(template)?.chat_text(conversation, prompt).map_err(|error| error.to_string())
}

fn get<'a>(json: &'a Json, key: &str) -> &'a Json {
    json.get(key).unwrap_or(&Json::Null)
}

fn entries<'a>(json: &'a Json, key: &str) -> &'a [Json] {
    match get(json, key) {
        Json::Array(entries) => entries,
        other => panic!("{key} is {}", other.type_name()),
    }
}

fn reference() -> Json {
    let text = fs::read_to_string(fixtures::path("templates/templates.json")).expect("a fixture");
    serde_json::from_str(&text).expect("valid JSON")
}

/// Checks the outcome of a template against that of transformers; whether ours is a text.
fn check(name: &str, found: Result<String, String>, expected: &Json) -> bool {
    match (found, get(expected, "text")) {
        (Ok(found), Json::String(text)) => assert_eq!(found, *text, "{name}"),
        (Ok(found), _) => panic!("{name}: {found:?}, but transformers: {:?}", get(expected, "error")),
        (Err(_), Json::String(_)) => return false,
        (Err(_), _) => {}
    }
    true
}

#[test]
fn expressions_are_written_as_transformers_writes_them() {
    let all = reference();
    let Json::Object(variables) = get(&all, "context") else { panic!("the context is an object") };
    let conversation = Conversation { variables: variables.clone(), ..Conversation::default() };
    let mut refused = BTreeSet::new();
    for entry in entries(&all, "expressions") {
        let template = get(entry, "template").as_str().expect("a template");
        if !check(template, text(template, &conversation, false), entry) {
            refused.insert(template);
        }
    }
    // What Python writes and we refuse: addresses, and filters and methods that chat templates do not use.
    assert!(refused.len() <= 45, "{refused:#?}");
    assert!(entries(&all, "expressions").len() >= 900);
}

#[test]
fn templates_are_written_as_transformers_writes_them() {
    let all = reference();
    for entry in entries(&all, "families") {
        let [template, name] = ["template", "conversation"].map(|key| get(entry, key).as_str().expect("a name"));
        let source = get(get(&all, "templates"), template).as_str().expect("a template");
        let given = get(get(&all, "conversations"), name);
        let messages = entries(given, "messages").iter().map(|m| Message::from_json(m).expect("a message")).collect();
        let value = |key: &str| Some(get(given, key)).filter(|value| **value != Json::Null).cloned();
        let variables = value("enable_thinking").map(|value| ("enable_thinking".to_owned(), value));
        let conversation = Conversation {
            messages,
            tools: value("tools"),
            documents: value("documents"),
            variables: variables.into_iter().collect(),
            ..Conversation::default()
        };
        let prompt = *get(entry, "prompt") == Json::Bool(true);
        let found = text(source, &conversation, prompt);
        assert!(check(&format!("{template} {name} {prompt}"), found, entry), "{template} {name} {prompt} is refused");
    }
}

#[test]
fn names_are_bound_as_jinja_binds_them() {
    let all = reference();
    let Json::Object(variables) = get(&all, "given") else { panic!("the variables are an object") };
    let conversation = Conversation { variables: variables.clone(), ..Conversation::default() };
    let scopes = entries(&all, "scopes");
    assert!(scopes.len() >= 300);
    for entry in scopes {
        let template = get(entry, "template").as_str().expect("a template");
        assert!(check(template, text(template, &conversation, false), entry), "{template} is refused");
    }
}

#[test]
fn variables_are_those_that_are_read_before_they_are_set() {
    let check = |template: &str, expected: &[&str]| {
        let found = with_template(template).expect(template).chat_variables().expect("a template");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected, "{template}");
    };
    check("{% set tools = tools or [] %}{{ tools }}", &["tools"]);
    check("{% set tools = [] %}{% for t in tools %}{{ t }}{{ loop.index }}{% endfor %}", &[]);
    check("{% for m in messages %}{{ tools }}{% endfor %}{% set tools = 1 %}", &["messages"]);
    check("{% macro f(a, b=c) %}{{ a ~ b ~ d ~ varargs }}{% endmacro %}{{ f(range(3)) }}", &["c", "d"]);
    check("{% if tools is defined %}{% set x = 1 %}{% endif %}{{ x }}", &["tools"]);
}

#[test]
fn a_template_that_asks_for_too_much_is_an_error() {
    let check = |template: &str, what: &str| {
        let found = text(template, &vec![Message::new("user", "x")].into(), false);
        let error = found.map(|text| text.len()).expect_err(template);
        assert!(error.contains(what) && error.contains("more than "), "{template}: {error}");
    };
    let loops = |body: &str| format!("{{% for i in range(100000) %}}{body}{{% endfor %}}");
    check(&loops(&loops("")), "line 1");
    check(&loops(&loops("{{ i }}")), "line 1");
    check(&loops("{% set x = messages | map('length') | list | tojson %}{{ x * 100000 }}"), "line 1");
    check("{% macro f(n) %}{% if n > 0 %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}", "line 1");
    check("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "expressions and calls inside of each other");
    for double in ["ns.x ~ ns.x", "ns.x + ns.x", "ns.x * 2", "'%s%s' % (ns.x, ns.x)", "'{0}{0}'.format(ns.x)"] {
        let set = format!("{{% set ns.x = {double} %}}");
        check(&format!("{{% set ns = namespace(x='ab') %}}{}", loops(&set)), "line 1");
    }
    for double in
        ["ns.x.replace('a', 'aa')", "'a'.join(ns.x)", "ns.x | replace('a', 'aa')", "ns.x | map('upper') | join('a')"]
    {
        let set = format!("{{% set ns.x = {double} %}}");
        check(&format!("{{% set ns = namespace(x='aaaa') %}}{}", loops(&set)), "line 1");
    }
    check(&format!("{{% set ns = namespace(x=[1, 2]) %}}{}", loops("{% set ns.x = ns.x + ns.x %}")), "line 1");
    check(
        &format!("{{% set ns = namespace(x=[1]) %}}{}", loops("{% set ns.x = [ns.x] %}")),
        "values inside of each other",
    );
    check(
        &format!("{{% set ns = namespace(x={{}}) %}}{}", loops("{% set ns.x = {'a': ns.x} %}")),
        "inside of each other",
    );
    let twice = "{% set ns.x = [ns.x, ns.x] %}";
    check(&format!("{{% set ns = namespace(x=[1]) %}}{}{{{{ ns.x }}}}", twice.repeat(60)), "line 1");
    check(&format!("{{% set ns = namespace(x=[1]) %}}{}{{{{ ns.x | tojson }}}}", twice.repeat(60)), "line 1");
    check(&format!("{{% set ns = namespace(x=[1]) %}}{}{{{{ ns.x == ns.x }}}}", twice.repeat(60)), "line 1");
    check("{{ 'a' * 10 ** 12 }}", "bytes of values");
    check("{{ [0] * 10 ** 12 }}", "bytes of values");
    check("{{ range(10 ** 9) | list }}", "numbers in a range");
    check("{{ 'a'.center(10 ** 12) }}", "bytes of values");
    check("{{ 'a' | center(10 ** 12) }}", "bytes of values");
    check("{{ 'a'.ljust(10 ** 12) }}{{ 'a'.zfill(10 ** 12) }}", "bytes of values");
    check("{{ 'a' | indent(10 ** 12, true) }}", "bytes of values");
    check("{{ [1] | tojson(indent=10 ** 12) }}", "bytes of values");
    check("{{ [1] | batch(10 ** 9, 0) | list }}", "bytes of values");
    check("{{ [1] | slice(10 ** 12) | list }}", "bytes of values");
    check(&format!("{{{{ {} }}}}", vec!["1"; 100_000].join("+")), "expressions and blocks inside of each other");
    check(&format!("{{{{ {}1 }}}}", "-".repeat(200_000)), "inside of each other");
    check(&format!("{{{{ {}true }}}}", "not ".repeat(50_000)), "inside of each other");
    check(&format!("{{{{ x{} }}}}", ".a".repeat(100_000)), "inside of each other");
    check(&format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(20_000)), "inside of each other");
    check(&"x".repeat(300_000), "bytes of a template");
    let width = text("{{ '{:1000000000}'.format(1) }}{{ '%1000000000d' % 1 }}", &Conversation::default(), false);
    assert!(width.expect_err("a wide field").contains("is more than 1048576"));
}

#[test]
fn no_template_is_too_odd_for_an_answer() {
    let check = |template: &str| drop(text(template, &vec![Message::new("user", "x")].into(), false));
    for odd in [
        "{%}",
        "{%-%}",
        "{%",
        "{{",
        "{#",
        "{%+",
        "{% %}",
        "{%}}",
        "{{%}}",
        "{%é%}",
        "{%generation%}",
        "é{%",
        "{",
        "{{}",
        "{%'",
        "{%\"%}",
    ] {
        check(odd);
        check(&format!("{odd}{odd}"));
        check(&format!("a{odd}b\n"));
    }
    // Pieces of templates, changed and put together at random.
    let all = reference();
    let pieces: Vec<String> = (entries(&all, "expressions").iter())
        .map(|entry| get(entry, "template").as_str().expect("a template").to_owned())
        .collect();
    let mut state = 1_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..2_000 {
        let mut characters: Vec<char> = pieces[random(pieces.len())].chars().collect();
        let other: Vec<char> = pieces[random(pieces.len())].chars().collect();
        for _ in 0..=random(3) {
            let at = random(characters.len() + 1);
            match random(4) {
                0 => characters.truncate(at),
                1 if at < characters.len() => drop(characters.remove(at)),
                2 => characters.insert(at, ['{', '}', '%', '-', '\'', '(', '[', 'é', '\n', '|', '.', '0'][random(12)]),
                _ => drop(characters.splice(at..at, other[random(other.len())..].iter().copied())),
            }
        }
        check(&characters.into_iter().collect::<String>());
    }
}
