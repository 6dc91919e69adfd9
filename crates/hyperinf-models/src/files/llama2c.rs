use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use burn::tensor::{Device, TensorData};
use tokenizers::Tokenizer;

use super::layout::{neighbour_of_half, transposed_rows};
use super::open::open_regular;
use super::pieces::{Frame, Kind, Piece, sentence_pieces};
use crate::{AttentionBias, CausalLm, DecoderConfig, FormatError, LmHead, ModelError, RotaryConfig};

/// The number of integers before the weights.
const HEADER: usize = 7;
/// The token that begins a text.
const BOS: u32 = 1;

/// Loads a model from a llama2.c file of version 0 (`stories260K.bin`).
///
/// The file holds seven 32-bit integers (width, feed-forward width, layers, heads, key and value heads, vocabulary,
/// longest sequence; the vocabulary is negative if the head is separate), then the weights in f32, all little-endian.
/// Rows of query and key layers are put into the order of Hugging Face's checkpoints, as by
/// [`load_gguf`](crate::load_gguf).
///
/// # Errors
///
/// [`ModelError::Format`] if the file cannot be read, or is shorter or longer than its header says.
pub fn load_llama2c(path: &Path, device: &Device) -> Result<CausalLm, ModelError> {
    let failed = |source| ModelError::Format { path: path.to_owned(), source: Box::new(source) };
    let (mut file, length) = open(path).map_err(failed)?;
    let (config, head) = header(&mut file).map_err(failed)?;
    config.validate()?;
    let layout = layout(&config, head);
    let expected = layout.values().map(|part| part.end()).max().unwrap_or(0);
    if expected != u128::from(length) {
        return Err(failed(FormatError::Length { found: length, expected }));
    }
    let head_size = config.head_size;
    CausalLm::from_weights(config, head, device, |name, shape| {
        let (layer, part) = match name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, part)) => (layer.parse::<u128>().unwrap_or(0), part),
            None => (0, name),
        };
        let place = &layout[part];
        let permuted = part.contains("q_proj") || part.contains("k_proj");
        let row = |j| if permuted { neighbour_of_half(j, head_size) } else { j };
        let values = floats(&mut file, place.start + layer * place.bytes, shape.iter().product()).map_err(failed)?;
        let values = match *shape {
            [d_input, d_output] if part != EMBEDDING => transposed_rows(&values, d_output, d_input, row),
            _ => values,
        };
        Ok(TensorData::new(values, shape.to_vec()))
    })
}

/// Reads a vocabulary of llama2.c (`tok512.bin`): the length of the longest token, then score, length and bytes of each
/// token. With special tokens, the tokenizer begins a text with token 1.
///
/// # Errors
///
/// [`ModelError::Format`] if the file cannot be read, ends inside a token, or its first 259 tokens are not the unknown
/// token, the beginning and the end of a text, and the bytes.
pub fn llama2c_tokenizer(path: &Path) -> Result<Tokenizer, ModelError> {
    vocabulary(path).map_err(|source| ModelError::Format { path: path.to_owned(), source: Box::new(source) })
}

/// The place of the weights of one kind, stored layer after layer.
struct Part {
    /// The first byte.
    start: u128,
    /// The bytes of one layer.
    bytes: u128,
    layers: u128,
}

impl Part {
    fn end(&self) -> u128 {
        self.start + self.bytes * self.layers
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";

/// The places of all weights; weights of layers by their name inside the layer.
fn layout(config: &DecoderConfig, head: LmHead) -> BTreeMap<&'static str, Part> {
    let [width, inner, vocabulary] = [config.width, config.feed_forward, config.vocabulary].map(|size| size as u128);
    let (layers, shared) = (config.layers as u128, (config.key_value_heads * config.head_size) as u128);
    let table = (config.max_tokens * (config.head_size / 2)) as u128;
    let mut parts = vec![
        (EMBEDDING, 1, vocabulary * width),
        ("input_layernorm.weight", layers, width),
        ("self_attn.q_proj.weight", layers, width * width),
        ("self_attn.k_proj.weight", layers, width * shared),
        ("self_attn.v_proj.weight", layers, width * shared),
        ("self_attn.o_proj.weight", layers, width * width),
        ("post_attention_layernorm.weight", layers, width),
        ("mlp.gate_proj.weight", layers, width * inner),
        ("mlp.down_proj.weight", layers, width * inner),
        ("mlp.up_proj.weight", layers, width * inner),
        ("model.norm.weight", 1, width),
        // The tables of the rotation can be computed and are not read.
        ("cosines and sines", 2, table),
    ];
    if head == LmHead::Separate {
        parts.push(("lm_head.weight", 1, vocabulary * width));
    }
    let mut start = 4 * HEADER as u128;
    let mut found = BTreeMap::new();
    for (name, layers, values) in parts {
        let part = Part { start, bytes: 4 * values, layers };
        start = part.end();
        found.insert(name, part);
    }
    found
}

fn header(file: &mut BufReader<File>) -> Result<(DecoderConfig, LmHead), FormatError> {
    let mut numbers = [0; HEADER];
    for number in &mut numbers {
        *number = i32::from_le_bytes(bytes(file)?);
    }
    let names = ["width", "feed_forward", "layers", "heads", "key_value_heads", "vocabulary", "max_tokens"];
    let wrong = |name: &str, found: i32, expected| {
        Err(FormatError::Entry { key: name.to_owned(), found: found.to_string(), expected })
    };
    let mut sizes = [0; HEADER];
    for (place, (&number, name)) in numbers.iter().zip(names).enumerate() {
        let size = if name == "vocabulary" { number.unsigned_abs() } else { u32::try_from(number).unwrap_or(0) };
        if size == 0 {
            return wrong(name, number, "positive");
        }
        sizes[place] = size as usize;
    }
    let [width, feed_forward, layers, heads, key_value_heads, vocabulary, max_tokens] = sizes;
    if !width.is_multiple_of(heads) {
        return wrong("heads", numbers[3], "a divisor of the width");
    }
    let config = DecoderConfig {
        vocabulary,
        max_tokens,
        width,
        layers,
        heads,
        key_value_heads,
        head_size: width / heads,
        feed_forward,
        norm_epsilon: 1e-5,
        rotary: RotaryConfig::default(),
        attention_bias: AttentionBias::None,
        feed_forward_bias: false,
        sliding_window: None,
    };
    Ok((config, if numbers[5] < 0 { LmHead::Separate } else { LmHead::Tied }))
}

fn vocabulary(path: &Path) -> Result<Tokenizer, FormatError> {
    let (mut file, length) = open(path)?;
    let _longest: [u8; 4] = bytes(&mut file)?;
    let (mut pieces, mut scores, mut read) = (Vec::new(), Vec::new(), 4);
    while read < length {
        scores.push(f32::from_le_bytes(bytes(&mut file)?));
        let size = u32::from_le_bytes(bytes(&mut file)?);
        let end = read + 8 + u64::from(size);
        if end > length {
            return Err(FormatError::Length { found: length, expected: u128::from(end) });
        }
        let mut text = vec![0; size as usize];
        file.read_exact(&mut text).map_err(unreadable)?;
        pieces.push(piece(pieces.len(), &text)?);
        read = end;
    }
    if pieces.len() <= 259 {
        return Err(FormatError::Lists { tokens: pieces.len(), what: "are needed at least", found: 260 });
    }
    sentence_pieces(&pieces, &scores, true, Frame { first: Some(BOS), last: None })
}

/// A token from its text in the file, which has spaces in place of SentencePiece's `▁` and line breaks around the marks
/// for beginning and end of a text.
fn piece(token: usize, bytes: &[u8]) -> Result<Piece, FormatError> {
    let wrong = |what| FormatError::Token { token, text: String::from_utf8_lossy(bytes).into_owned(), what };
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("not UTF-8"))?;
    let (kind, expected) = match token {
        0 => (Kind::Unknown, "<unk>".to_owned()),
        1 => (Kind::Control, "<s>".to_owned()),
        2 => (Kind::Control, "</s>".to_owned()),
        3..=258 => (Kind::Byte, format!("<0x{:02X}>", token - 3)),
        _ => return Ok(Piece { text: text.replace(' ', "▁"), kind: Kind::Normal }),
    };
    if text.trim_matches('\n') == expected {
        Ok(Piece { text: expected, kind })
    } else {
        Err(wrong("not the special token or byte with this id"))
    }
}

fn open(path: &Path) -> Result<(BufReader<File>, u64), FormatError> {
    let file = open_regular(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    Ok((BufReader::new(file), length))
}

fn bytes<const N: usize>(file: &mut impl Read) -> Result<[u8; N], FormatError> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// `count` values from byte `start` on; the length of the file is already checked.
fn floats(file: &mut BufReader<File>, start: u128, count: usize) -> Result<Vec<f32>, FormatError> {
    let mut raw = vec![0; 4 * count];
    file.seek(SeekFrom::Start(start as u64)).and_then(|_| file.read_exact(&mut raw)).map_err(unreadable)?;
    Ok(raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn unreadable(error: std::io::Error) -> FormatError {
    FormatError::Read(error.to_string())
}
