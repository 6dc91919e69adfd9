use rlx_gguf::MetaValue;

use super::gguf_header::{number, whole};
use super::gguf_reader::{Reader, describe, required, wrong};
use super::pieces::{Frame, Kind, Piece, byte_level, sentence_pieces};
use crate::{FormatError, GgufVocabulary};

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";

/// The vocabulary in a file's entries.
pub(super) fn read(file: &Reader) -> Result<GgufVocabulary, FormatError> {
    let model = required(MODEL, file.string(MODEL)?, "a string")?;
    let pieces = pieces(file)?;
    let token = |name: &str| file.integer(&format!("tokenizer.ggml.{name}_token_id"));
    let flag = |name: &str| file.flag(&format!("tokenizer.ggml.add_{name}"));
    let (bos, eos) = (token("bos")?, token("eos")?);
    let (added_bos, added_eos) = (flag("bos_token")?, flag("eos_token")?.unwrap_or(false));
    // The defaults are those of llama.cpp: texts begin with `bos` for SentencePiece and Llama 3.
    let (pre, add_bos) = match model {
        "llama" => ("", added_bos.unwrap_or(true)),
        "gpt2" => {
            let pre = match file.string("tokenizer.ggml.pre")?.unwrap_or("default") {
                "llama3" | "llama-v3" => "llama-bpe",
                "deepseek-r1-qwen" => "qwen2",
                other => other,
            };
            (pre, added_bos.unwrap_or(pre == "llama-bpe"))
        }
        other => {
            let known = "`gpt2` and `llama`";
            return Err(FormatError::Vocabulary { what: "kind of vocabulary", found: other.to_owned(), known });
        }
    };
    let number = |name: &'static str, token: Option<usize>| match token {
        Some(token) if token >= pieces.len() => {
            let key = format!("tokenizer.ggml.{name}_token_id");
            Err(wrong(&key, &token.to_string(), "a token of the vocabulary"))
        }
        token => Ok(token.map(|token| token as u32)),
    };
    let (bos, eos) = (number("bos", bos)?, number("eos", eos)?);
    let around = |wanted: bool, name: &str, token: Option<u32>| match (wanted, token) {
        (false, _) => Ok(None),
        (true, None) => {
            Err(wrong(&format!("tokenizer.ggml.{name}_token_id"), "absent", "present, because it is added to texts"))
        }
        (true, token) => Ok(token),
    };
    let frame = Frame { first: around(add_bos, "bos", bos)?, last: around(added_eos, "eos", eos)? };
    let tokenizer = if model == "llama" {
        let spaced = flag("space_prefix")?.unwrap_or(true);
        sentence_pieces(&pieces, &scores(file, pieces.len())?, spaced, frame)?
    } else {
        byte_level(&pieces, &merges(file)?, pre, frame)?
    };
    let chat_template = file.string("tokenizer.chat_template")?.map(str::to_owned);
    Ok(GgufVocabulary { tokenizer, bos, eos, add_bos, add_eos: added_eos, chat_template })
}

fn pieces(file: &Reader) -> Result<Vec<Piece>, FormatError> {
    let tokens = required(TOKENS, file.list(TOKENS)?, "a list of strings")?;
    let kinds = file.list(KINDS)?;
    if let Some(kinds) = kinds
        && kinds.len() != tokens.len()
    {
        return Err(FormatError::Lists { tokens: tokens.len(), what: "kinds of tokens", found: kinds.len() });
    }
    tokens
        .iter()
        .enumerate()
        .map(|(place, token)| {
            let text = token.as_str().ok_or_else(|| wrong(TOKENS, &describe(token), "a list of strings"))?;
            let kind = kinds.map_or(Ok(Kind::Normal), |kinds| kind(&kinds[place]))?;
            Ok(Piece { text: text.to_owned(), kind })
        })
        .collect()
}

fn kind(value: &MetaValue) -> Result<Kind, FormatError> {
    match whole(value) {
        // Some files fill gaps with kind 0.
        Some(0 | 5) => Ok(Kind::Unused),
        Some(1) => Ok(Kind::Normal),
        Some(2) => Ok(Kind::Unknown),
        Some(3) => Ok(Kind::Control),
        Some(4) => Ok(Kind::UserDefined),
        Some(6) => Ok(Kind::Byte),
        _ => Err(wrong(KINDS, &describe(value), "a list of numbers from 0 to 6")),
    }
}

fn scores(file: &Reader, tokens: usize) -> Result<Vec<f32>, FormatError> {
    let list = required(SCORES, file.list(SCORES)?, "a list of numbers")?;
    if list.len() != tokens {
        return Err(FormatError::Lists { tokens, what: "scores", found: list.len() });
    }
    list.iter()
        .map(|value| {
            let score = number(value).ok_or_else(|| wrong(SCORES, &describe(value), "a list of numbers"))?;
            Ok(score as f32)
        })
        .collect()
}

fn merges(file: &Reader) -> Result<Vec<(&str, &str)>, FormatError> {
    let expected = "a list of pairs with one space between";
    required(MERGES, file.list(MERGES)?, expected)?
        .iter()
        .map(|value| {
            let pair = value.as_str().and_then(|text| text.split_once(' '));
            let pair = pair.filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '));
            pair.ok_or_else(|| wrong(MERGES, &describe(value), expected))
        })
        .collect()
}
