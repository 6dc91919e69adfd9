use std::path::Path;

use serde_json::{Map, Value};

use crate::LoadError;

/// The most steps of a normalizer or pre-tokenizer.
const STEPS: usize = 64;
/// The most regular expressions of a tokenizer: each may take 10 MB once compiled.
const REGEXES: usize = 16;
/// The most pre-tokenizers that make text longer; each may double it.
const WIDENING: usize = 3;
/// The most tokens that a post-processor adds.
const ADDED: usize = 1024;
/// The longest words that WordPiece splits: its time is quadratic in them.
const WORD: u64 = 256;
/// The longest marks inside words.
const MARK: usize = 256;
/// The longest pieces of a Unigram vocabulary, in bytes.
const PIECE: usize = 4096;

/// Refuses settings of a `tokenizer.json` that stop the library which reads it, or take unbounded time or memory.
pub(super) fn check(path: &Path, file: &Map<String, Value>) -> Result<(), LoadError> {
    let refuse = |field: String, found: String, expected: String| LoadError::Field {
        path: path.to_owned(),
        field,
        found,
        expected,
    };
    let mut regexes = 0;
    for (part, inner) in [("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")] {
        let mut steps = Vec::new();
        file.get(part).into_iter().for_each(|step| flatten(step, inner, &mut steps));
        if steps.len() > STEPS {
            return Err(refuse(part.to_owned(), format!("{} steps", steps.len()), format!("up to {STEPS}")));
        }
        let kinds = |names: &[&str]| steps.iter().filter(|step| names.contains(&kind(step))).count();
        regexes += steps.iter().filter(|step| step.pointer("/pattern/Regex").is_some()).count();
        let widening = kinds(&["ByteLevel", "Metaspace"]);
        if part == "pre_tokenizer" && widening > WIDENING {
            let found = format!("{widening} steps of the types `ByteLevel` and `Metaspace`");
            return Err(refuse(part.to_owned(), found, format!("up to {WIDENING}")));
        }
        for step in &steps {
            if kind(step) == "FixedLength" && step["length"] == 0 {
                return Err(refuse(format!("{part}.length"), "0".to_owned(), "a length of 1 or more".to_owned()));
            }
            if kind(step) == "Precompiled" && !whole_map(step["precompiled_charsmap"].as_str().unwrap_or_default()) {
                let expected = "a map of characters with all the bytes that it begins with".to_owned();
                return Err(refuse(format!("{part}.precompiled_charsmap"), "a shorter map".to_owned(), expected));
            }
        }
    }
    if regexes > REGEXES {
        let (found, expected) = (format!("{regexes} regular expressions"), format!("up to {REGEXES}"));
        return Err(refuse("pre_tokenizer".to_owned(), found, expected));
    }
    let mut processors = Vec::new();
    file.get("post_processor").into_iter().for_each(|step| flatten(step, "processors", &mut processors));
    for step in &processors {
        for part in ["single", "pair"] {
            let pieces = step.get(part).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let texts = |id: &str| pieces.iter().filter(|piece| piece["Sequence"]["id"] == id).count();
            let field = || format!("post_processor.{part}");
            if texts("A") > 1 || texts("B") > 1 {
                return Err(refuse(field(), "a template that repeats a text".to_owned(), "each text once".to_owned()));
            }
            if part == "single" && texts("B") > 0 {
                let (found, expected) = ("the second of two texts".to_owned(), "the only text, `A`".to_owned());
                return Err(refuse(field(), found, expected));
            }
            let named = pieces.iter().filter_map(|piece| piece["SpecialToken"]["id"].as_str());
            if let Some(id) = named.into_iter().find(|&id| step["special_tokens"].get(id).is_none()) {
                let expected = "a name among its `special_tokens`".to_owned();
                return Err(refuse(field(), format!("the special token `{id}`"), expected));
            }
            let added: usize = pieces.iter().map(|piece| added(step, piece)).sum();
            if added > ADDED {
                return Err(refuse(field(), format!("{added} special tokens"), format!("up to {ADDED}")));
            }
        }
    }
    if processors.len() > STEPS {
        let (found, expected) = (format!("{} steps", processors.len()), format!("up to {STEPS}"));
        return Err(refuse("post_processor".to_owned(), found, expected));
    }
    model(file.get("model"), &refuse)
}

fn model(model: Option<&Value>, refuse: &dyn Fn(String, String, String) -> LoadError) -> Result<(), LoadError> {
    let Some(model) = model else { return Ok(()) };
    if let Some(word) = model.get("max_input_chars_per_word")
        && word.as_u64().is_none_or(|word| word > WORD)
    {
        return Err(refuse("model.max_input_chars_per_word".to_owned(), word.to_string(), format!("up to {WORD}")));
    }
    for mark in ["continuing_subword_prefix", "end_of_word_suffix"] {
        let length = model.get(mark).and_then(Value::as_str).map_or(0, str::len);
        if length > MARK {
            return Err(refuse(format!("model.{mark}"), format!("a text of {length} bytes"), format!("up to {MARK}")));
        }
    }
    // Only Unigram's vocabulary is a list.
    let pieces = model.get("vocab").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    match pieces.iter().filter_map(|piece| piece.get(0)?.as_str()).find(|piece| piece.len() > PIECE) {
        Some(piece) => {
            let (found, expected) = (format!("a piece of {} bytes", piece.len()), format!("up to {PIECE}"));
            Err(refuse("model.vocab".to_owned(), found, expected))
        }
        None => Ok(()),
    }
}

/// The steps of a part, those of sequences one by one.
fn flatten<'a>(step: &'a Value, inner: &str, steps: &mut Vec<&'a Value>) {
    match step.get(inner).and_then(Value::as_array) {
        Some(list) => list.iter().for_each(|step| flatten(step, inner, steps)),
        None if step.is_null() => {}
        None => steps.push(step),
    }
}

fn kind(step: &Value) -> &str {
    step.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The tokens that one piece of a template adds.
fn added(step: &Value, piece: &Value) -> usize {
    let Some(id) = piece["SpecialToken"]["id"].as_str() else { return 0 };
    step["special_tokens"][id]["ids"].as_array().map_or(1, Vec::len)
}

/// Whether a map of characters, in base 64, has the trie whose size its first four bytes give.
fn whole_map(text: &str) -> bool {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(u64::from(c - b'A')),
        b'a'..=b'z' => Some(u64::from(c - b'a') + 26),
        b'0'..=b'9' => Some(u64::from(c - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let Some(start) = text.as_bytes().get(..6) else { return false };
    let Some(bits) = start.iter().try_fold(0, |bits, &c| Some(bits << 6 | digit(c)?)) else { return false };
    let size = ((bits >> 4) as u32).swap_bytes();
    u64::from(size) + 4 <= text.len() as u64 / 4 * 3
}
