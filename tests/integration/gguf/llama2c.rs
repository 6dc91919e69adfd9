//! Files of llama2.c, written here from their description and read back.

use std::path::Path;

use burn::tensor::Device;
use hyperinf::models::{DecoderConfig, LmHead, RotaryPairing, llama2c_tokenizer, load_llama2c};
use hyperinf_tests::compare::{assert_close, largest};
use hyperinf_tests::devices;

use super::{TOKENS, direct, file_sizes, folder, tensors};
use crate::decoder::logits;

fn config() -> DecoderConfig {
    DecoderConfig { norm_epsilon: 1e-5, ..file_sizes() }
}

/// A whole file: seven integers, then the weights of each kind for all layers.
fn file(head: LmHead) -> Vec<u8> {
    let (c, found) = (config(), tensors(&config(), head));
    let vocabulary = if head == LmHead::Tied { c.vocabulary as i32 } else { -(c.vocabulary as i32) };
    let [width, inner, layers, heads, shared, longest] =
        [c.width, c.feed_forward, c.layers, c.heads, c.key_value_heads, c.max_tokens].map(|size| size as i32);
    let mut bytes: Vec<u8> =
        [width, inner, layers, heads, shared, vocabulary, longest].iter().flat_map(|n| n.to_le_bytes()).collect();
    let mut add = |name: &str| bytes.extend(found[name].1.iter().flat_map(|value| value.to_le_bytes()));
    add("token_embd.weight");
    for part in ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_down", "ffn_up"]
    {
        for layer in 0..c.layers {
            add(&format!("blk.{layer}.{part}.weight"));
        }
    }
    add("output_norm.weight");
    // Two tables of the rotation, which must not matter.
    bytes.extend(vec![0xff; 2 * 4 * c.max_tokens * c.head_size / 2]);
    if head == LmHead::Separate {
        bytes.extend(found["output.weight"].1.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes
}

fn written(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("the folder can be written");
}

#[test]
fn a_file_gives_the_logits_of_its_weights() {
    let folder = folder();
    let path = folder.path().join("model.bin");
    for head in [LmHead::Tied, LmHead::Separate] {
        written(&path, &file(head));
        for (name, device) in devices() {
            let model = load_llama2c(&path, &device).expect("the file is whole");
            assert_eq!(model.decoder().config(), &config());
            let direct = direct(&config(), head, RotaryPairing::Neighbours, &tensors(&config(), head), &device);
            let expected = logits(&direct, &TOKENS);
            assert!(largest(&expected) > 0.1, "nothing to compare");
            assert_close(&format!("{name}, {head:?}"), &logits(&model, &TOKENS), &expected, 2e-6);
        }
    }
}

#[test]
fn files_that_are_not_whole_are_errors() {
    let (folder, device): (_, Device) = (folder(), devices().remove(0).1);
    let path = folder.path().join("model.bin");
    let whole = file(LmHead::Tied);
    let check = |bytes: &[u8], message: &str| {
        written(&path, bytes);
        let error = load_llama2c(&path, &device).expect_err(message).to_string();
        assert!(error.contains(message) && error.contains("model.bin"), "{message}: {error}");
    };
    let n = whole.len();
    check(&whole[..n - 4], &format!("the file has {} bytes, but its header says {n}", n - 4));
    check(&[&whole[..], &[0]].concat(), &format!("the file has {} bytes, but its header says {n}", n + 1));
    check(&whole[..20], "cannot be read");
    let with = |place: usize, number: i32| {
        let mut bytes = whole.clone();
        bytes[4 * place..4 * place + 4].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    check(&with(0, -32), "`width` is -32, but must be positive");
    check(&with(3, 0), "`heads` is 0, but must be positive");
    check(&with(3, 5), "`heads` is 5, but must be a divisor of the width");
    check(&with(5, 0), "`vocabulary` is 0, but must be positive");
    check(&with(2, i32::MAX), "bytes, but its header says");
    check(&with(6, i32::MAX), "bytes, but its header says");
    written(&path, &with(4, 3));
    let error = load_llama2c(&path, &device).expect_err("heads in groups").to_string();
    assert!(error.contains("`key_value_heads` is 3"), "{error}");
}

/// A vocabulary as llama2.c writes it: spaces for `▁`, line breaks around the ends of a text.
fn vocabulary() -> Vec<u8> {
    let mut tokens: Vec<(String, f32)> =
        ["<unk>", "\n<s>\n", "\n</s>\n"].iter().map(|text| ((*text).to_owned(), 0.0)).collect();
    tokens.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 0.0)));
    tokens.extend([(" ", -9.0), ("a", -9.0), ("b", -9.0), ("ba", -1.0), (" a", -2.0)].map(|(t, s)| (t.into(), s)));
    let mut bytes = 7i32.to_le_bytes().to_vec();
    for (text, score) in tokens {
        bytes.extend(score.to_le_bytes());
        bytes.extend((text.len() as i32).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    bytes
}

#[test]
fn its_vocabulary_is_a_tokenizer() {
    let folder = folder();
    let path = folder.path().join("tok.bin");
    written(&path, &vocabulary());
    let tokenizer = llama2c_tokenizer(&path).expect("the vocabulary is whole");
    let encoding = tokenizer.encode("aba é", true).expect("it can be encoded");
    assert_eq!(encoding.get_tokens(), ["<s>", "▁a", "ba", "▁", "<0xC3>", "<0xA9>"]);
    assert_eq!(encoding.get_ids(), [1, 263, 262, 259, 198, 172]);
    assert_eq!(tokenizer.decode(encoding.get_ids(), true).expect("it can be decoded"), "aba é");
}

#[test]
fn vocabularies_that_are_not_whole_are_errors() {
    let folder = folder();
    let path = folder.path().join("tok.bin");
    let whole = vocabulary();
    let check = |bytes: &[u8], message: &str| {
        written(&path, bytes);
        let error = llama2c_tokenizer(&path).expect_err(message).to_string();
        assert!(error.contains(message) && error.contains("tok.bin"), "{message}: {error}");
    };
    let n = whole.len();
    check(&whole[..n - 1], &format!("the file has {} bytes, but its header says {n}", n - 1));
    check(&whole[..n - 5], "cannot be read");
    check(&whole[..2], "cannot be read");
    check(&whole[..17], "the vocabulary has 1 tokens");
    let mut changed = whole.clone();
    changed[12] = b'?';
    check(&changed, "token 0 of the vocabulary (`?unk>`) is not the special token or byte with this id");
    let mut changed = whole;
    *changed.last_mut().expect("it is not empty") = 0xff;
    check(&changed, "is not UTF-8");
}
