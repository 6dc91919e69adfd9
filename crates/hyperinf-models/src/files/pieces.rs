use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::FormatError;

/// The kind of a token in a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A piece of text.
    Normal,
    /// The token for text that no other token covers.
    Unknown,
    /// A mark that is not text, such as the beginning of a text.
    Control,
    /// A piece of text that is matched before all others.
    UserDefined,
    /// Never matched.
    Unused,
    /// One byte, written as `<0x0A>`.
    Byte,
}

/// A token of a vocabulary; its id is its index.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) kind: Kind,
}

/// The special tokens around a text.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Frame {
    pub(crate) first: Option<u32>,
    pub(crate) last: Option<u32>,
}

/// The longest piece that is split in every way. Those of published vocabularies have at most a few hundred bytes.
const LONGEST: usize = 1024;
/// The supported ways to split text before byte pairs are merged.
const SPLITTERS: &str = "`default`, `gpt-2`, `llama-bpe`, `qwen2` and `smollm`";

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(crate) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Byte pairs on bytes, as in GPT-2: pairs are merged in the order of `merges`, inside the splits of a text.
pub(crate) fn byte_level(
    pieces: &[Piece],
    merges: &[(&str, &str)],
    splitter: &str,
    frame: Frame,
) -> Result<Tokenizer, FormatError> {
    // Text between two matches of a pattern is a separate split.
    let patterns: &[&str] = match splitter {
        "gpt-2" => &[GPT2],
        "llama-bpe" => &[LLAMA3],
        "qwen2" => &[QWEN2],
        "smollm" => &[r"\p{N}", GPT2],
        "default" => &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        other => {
            return Err(FormatError::Vocabulary {
                what: "way to split text",
                found: other.to_owned(),
                known: SPLITTERS,
            });
        }
    };
    let mut steps: Vec<Value> = patterns
        .iter()
        .map(|regex| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}))
        .collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    steps.push(bytes.clone());
    build(
        pieces,
        merges,
        frame,
        json!({
            "normalizer": if splitter == "qwen2" { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "decoder": bytes,
            // Llama 3's vocabulary has whole words that no sequence of merges reaches.
            "model": {"ignore_merges": splitter == "llama-bpe", "byte_fallback": false, "unk_token": null},
        }),
    )
}

/// SentencePiece's byte pairs: of all neighbours that form a piece, the pair with the highest score is merged first.
/// Text that no piece covers becomes bytes. With `spaced`, a space is put before a text.
pub(crate) fn sentence_pieces(
    pieces: &[Piece],
    scores: &[f32],
    spaced: bool,
    frame: Frame,
) -> Result<Tokenizer, FormatError> {
    let bytes = pieces.iter().filter(|piece| piece.kind == Kind::Byte).count();
    let unknown = pieces.iter().find(|piece| piece.kind == Kind::Unknown);
    if bytes < 256 && unknown.is_none() {
        return Err(FormatError::Tokenizer(format!("there is no unknown token, and only {bytes} of 256 byte tokens")));
    }
    if let Some(token) = scores.iter().position(|score| score.is_nan()) {
        return Err(FormatError::Token { token, text: pieces[token].text.clone(), what: "scored NaN" });
    }
    if let Some(token) = pieces.iter().position(|piece| piece.text.len() > LONGEST) {
        let text = pieces[token].text.chars().take(20).chain("…".chars()).collect();
        return Err(FormatError::Token { token, text, what: "longer than 1024 bytes" });
    }
    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if spaced {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    build(
        pieces,
        &merges_by_score(pieces, scores),
        frame,
        json!({
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "ignore_merges": false,
                "byte_fallback": bytes > 0,
                "unk_token": unknown.map(|piece| &piece.text),
                "fuse_unk": true,
            },
        }),
    )
}

/// Every way to join two pieces to a third, the third with the best score first; for the same third, the longest left
/// part first.
fn merges_by_score<'a>(pieces: &'a [Piece], scores: &[f32]) -> Vec<(&'a str, &'a str)> {
    let text = |kind| matches!(kind, Kind::Normal | Kind::UserDefined | Kind::Unused);
    let known: HashMap<&str, usize> =
        pieces.iter().enumerate().filter(|(_, p)| text(p.kind)).map(|(token, p)| (p.text.as_str(), token)).collect();
    let mut merges: Vec<(f32, usize, &str, &str)> = Vec::new();
    for (piece, &score) in pieces.iter().zip(scores).filter(|(piece, _)| text(piece.kind)) {
        for (middle, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(middle);
            if known.contains_key(left) && known.contains_key(right) {
                merges.push((score, left.len(), left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    merges.into_iter().map(|(_, _, left, right)| (left, right)).collect()
}

/// A tokenizer from its parts, by way of the format of `tokenizer.json`.
fn build(pieces: &[Piece], merges: &[(&str, &str)], frame: Frame, mut parts: Value) -> Result<Tokenizer, FormatError> {
    let mut vocabulary = BTreeMap::new();
    for (token, piece) in pieces.iter().enumerate() {
        if vocabulary.insert(piece.text.as_str(), token).is_some() {
            return Err(FormatError::Token { token, text: piece.text.clone(), what: "there twice" });
        }
    }
    let added: Vec<Value> = pieces
        .iter()
        .enumerate()
        .filter(|(_, piece)| matches!(piece.kind, Kind::Control | Kind::UserDefined | Kind::Unknown))
        .map(|(token, piece)| {
            json!({
                "id": token, "content": piece.text, "special": piece.kind != Kind::UserDefined,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    parts["version"] = json!("1.0");
    parts["added_tokens"] = json!(added);
    parts["post_processor"] = around(pieces, frame)?;
    parts["model"]["type"] = json!("BPE");
    parts["model"]["vocab"] = json!(vocabulary);
    parts["model"]["merges"] = json!(merges);
    let failed = |reason: String| FormatError::Tokenizer(reason);
    let bytes = serde_json::to_vec(&parts).map_err(|error| failed(error.to_string()))?;
    Tokenizer::from_bytes(bytes).map_err(|error| failed(error.to_string()))
}

/// The post-processor that puts the frame's tokens around one text, or around each of two.
fn around(pieces: &[Piece], frame: Frame) -> Result<Value, FormatError> {
    let mut special = serde_json::Map::new();
    let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
    let mut second = vec![json!({"Sequence": {"id": "B", "type_id": 1}})];
    for (token, at_end) in [(frame.first, false), (frame.last, true)] {
        let Some(token) = token else { continue };
        let Some(piece) = pieces.get(token as usize) else {
            let (token, text) = (token as usize, String::new());
            return Err(FormatError::Token { token, text, what: "added to texts, but missing" });
        };
        special.insert(piece.text.clone(), json!({"id": piece.text, "ids": [token], "tokens": [piece.text]}));
        for (part, type_id) in [(&mut single, 0), (&mut second, 1)] {
            let step = json!({"SpecialToken": {"id": piece.text, "type_id": type_id}});
            let place = if at_end { part.len() } else { 0 };
            part.insert(place, step);
        }
    }
    if special.is_empty() {
        return Ok(Value::Null);
    }
    let pair: Vec<Value> = single.iter().chain(&second).cloned().collect();
    Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}))
}
