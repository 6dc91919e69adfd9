//! Tokens of texts, pairs, completions and conversations.

use hyperinf::models::{Limit, Message, TextTokenizer};
use serde_json::Value;

use super::case::folder;

const ENOUGH: Limit = Limit::Refuse(1000);

struct Cases {
    model: &'static str,
    tokenizer: TextTokenizer,
    cases: Value,
}

fn cases(model: &'static str) -> Cases {
    let tokenizer = TextTokenizer::read(&folder(model)).unwrap_or_else(|error| panic!("{model}: {error}"));
    let text = std::fs::read_to_string(folder(model).join("tokens.json")).expect("every model has one");
    Cases { model, tokenizer, cases: serde_json::from_str(&text).expect("it is JSON") }
}

impl Cases {
    fn of_kind(&self, kind: &str) -> &[Value] {
        let list = self.cases[kind].as_array().unwrap_or_else(|| panic!("{}: no {kind}", self.model));
        assert!(list.len() > 1, "{}: {} of {kind}", self.model, list.len());
        list
    }

    fn classification(&self, case: &Value) {
        let limit = case["limit"].as_u64().map_or(ENOUGH, |limit| Limit::Cut(limit as usize));
        let (text, pair) = (text(&case["text"]), case.get("text_pair").map(text));
        let found = self.tokenizer.classification(text, pair, 1, limit);
        let found = found.unwrap_or_else(|error| panic!("{}, {text:?}: {error}", self.model)).sample;
        assert_eq!(found.tokens, numbers(&case["ids"]), "{}, {text:?}", self.model);
        assert_eq!(found.label, 1, "{}, {text:?}", self.model);
        let segments = case.get("segments").map_or_else(|| vec![0; found.tokens.len()], numbers);
        assert_eq!(found.segments, segments, "{}, {text:?}", self.model);
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("it is a text")
}

fn numbers(value: &Value) -> Vec<u32> {
    let list = value.as_array().expect("it is a list");
    list.iter().map(|number| number.as_u64().expect("it is a number") as u32).collect()
}

fn marks(value: &Value) -> Vec<bool> {
    value.as_array().expect("it is a list").iter().map(|mark| mark.as_bool().expect("it is a mark")).collect()
}

#[test]
fn texts_for_classifiers_have_the_tokens_of_transformers() {
    for model in ["bert", "roberta"] {
        let cases = cases(model);
        for kind in ["single", "pair", "cut"] {
            cases.of_kind(kind).iter().for_each(|case| cases.classification(case));
        }
    }
}

#[test]
fn texts_for_language_models_have_the_tokens_of_transformers() {
    for model in ["llama", "llama3", "qwen2", "mistral"] {
        let cases = cases(model);
        for case in cases.of_kind("single") {
            let text = text(&case["text"]);
            let found = cases.tokenizer.prompt(text).unwrap_or_else(|error| panic!("{model}, {text:?}: {error}"));
            assert_eq!(found, numbers(&case["ids"]), "{model}, {text:?}");
        }
    }
}

#[test]
fn completions_have_the_tokens_of_transformers() {
    for model in ["llama", "llama3", "qwen2", "mistral"] {
        let cases = cases(model);
        for case in cases.of_kind("completion") {
            let (prompt, completion) = (text(&case["prompt"]), text(&case["completion"]));
            let found = cases.tokenizer.completion(prompt, completion, ENOUGH);
            let found = found.unwrap_or_else(|error| panic!("{model}, {prompt:?}: {error}")).sample;
            assert_eq!(found.tokens, numbers(&case["ids"]), "{model}, {prompt:?}");
            assert_eq!(found.scored, marks(&case["scored"]), "{model}, {prompt:?}");
        }
    }
}

#[test]
fn conversations_have_the_tokens_of_transformers() {
    for model in ["llama3", "qwen2"] {
        let cases = cases(model);
        for case in cases.of_kind("chat") {
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).expect("they are messages");
            let found = cases.tokenizer.chat(&messages.into(), ENOUGH);
            let found = found.unwrap_or_else(|error| panic!("{model}, {}: {error}", case["text"])).sample;
            assert_eq!(found.tokens, numbers(&case["ids"]), "{model}, {}", case["text"]);
            assert_eq!(found.scored, marks(&case["scored"]), "{model}, {}", case["text"]);
        }
    }
}
