//! Headers of GGUF files, written byte by byte.

use hyperinf::models::{gguf_tokenizer, load_gguf};
use hyperinf_tests::devices;
use rlx_gguf::{GgmlType, MetaValue};

use super::{described, file_sizes, folder, tensors, write};
use crate::decoder::logits;

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat()
}

/// A file with these counts, and what follows them.
fn file(tensors: u64, entries: u64, rest: &[Vec<u8>]) -> Vec<u8> {
    let counts = [3u32.to_le_bytes().to_vec(), tensors.to_le_bytes().to_vec(), entries.to_le_bytes().to_vec()];
    [b"GGUF".to_vec(), counts.concat(), rest.concat(), vec![0; 64]].concat()
}

#[test]
fn numbers_in_a_header_that_cannot_be_true_are_errors() {
    let (folder, device) = (folder(), devices().remove(0).1);
    let path = folder.path().join("model.gguf");
    let check = |bytes: &[u8], message: &str| {
        std::fs::write(&path, bytes).expect("the folder can be written");
        let error = load_gguf(&path, &device).expect_err(message).to_string();
        assert!(error.contains(message) && error.contains("model.gguf"), "{message}: {error}");
        gguf_tokenizer(&path).expect_err("no vocabulary either");
    };
    let alignment = |kind: u32, value: &[u8]| file(0, 1, &[entry("general.alignment", kind, value)]);
    for size in [0u32, 3, 24, 31, u32::MAX] {
        check(
            &alignment(4, &size.to_le_bytes()),
            &format!("`general.alignment` is U32({size}), but must be a power of"),
        );
    }
    check(&alignment(10, &(1u64 << 63).to_le_bytes()), "`general.alignment` is U64(9223372036854775808)");
    check(&alignment(5, &(-32i32).to_le_bytes()), "`general.alignment` is I32(-32)");
    check(&alignment(8, &text("32")), "`general.alignment` is `32`");
    check(&file(0, 1 << 60, &[]), "it names 1152921504606846976 entries, but only");
    check(&file(1 << 60, 0, &[]), "it names 1152921504606846976 tensors, but only");
    check(&file(0, 1, &[(1u64 << 63).to_le_bytes().to_vec()]), "9223372036854775808 bytes of text");
    let list = |kind: u32, count: u64| [kind.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()].concat();
    check(&file(0, 1, &[entry("a", 9, &list(4, u64::MAX))]), "18446744073709551615 values in the list `a`");
    check(&file(0, 1, &[entry("a", 9, &list(9, 1))]), "`a` is a list of lists");
    check(&file(0, 1, &[entry("a", 9, &list(77, 1))]), "`a` is of kind 77");
    check(&file(0, 1, &[entry("a", 13, &[])]), "`a` is of kind 13");
    check(&file(0, 1, &[entry("a", 7, &[2])]), "entry `a` is 2, but must be 0 or 1");
    check(&file(0, 2, &[entry("a", 0, &[1]), entry("a", 0, &[2])]), "it has the entry `a` twice");
    let tensor = |sides: &[u64], kind: u32, offset: u64| {
        let shape: Vec<u8> = sides.iter().flat_map(|side| side.to_le_bytes()).collect();
        let count = (sides.len() as u32).to_le_bytes().to_vec();
        [text("t"), count, shape, kind.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec()].concat()
    };
    check(&file(1, 0, &[tensor(&[1; 9], 0, 0)]), "tensor `t` has 9 sides");
    check(&file(1, 0, &[tensor(&[1], 999, 0)]), "tensor `t`");
    check(&file(2, 0, &[tensor(&[1], 0, 0), tensor(&[1], 0, 0)]), "it has the tensor `t` twice");
    let mut other = file(0, 0, &[]);
    other[4] = 9;
    check(&other, "it has version 9");
}

#[test]
fn tensors_beyond_the_file_are_errors() {
    let (config, folder, device) = (file_sizes(), folder(), devices().remove(0).1);
    let path = folder.path().join("model.gguf");
    write(&path, &described("llama", &config), &tensors(&config, hyperinf::models::LmHead::Tied), GgmlType::F32);
    let whole = std::fs::read(&path).expect("it was just written");
    let name = b"token_embd.weight";
    let place = whole.windows(name.len()).position(|bytes| bytes == name).expect("its name") + name.len();
    // The number of sides, two sides and the kind come before the offset.
    let offset = place + 4 + 16 + 4;
    for wrong in [u64::MAX, u64::MAX - 31, 1 << 62, 1 << 20] {
        let mut bytes = whole.clone();
        bytes[offset..offset + 8].copy_from_slice(&wrong.to_le_bytes());
        std::fs::write(&path, bytes).expect("the folder can be written");
        let error = load_gguf(&path, &device).expect_err("beyond the file").to_string();
        assert!(error.contains("`token_embd.weight` ends at byte"), "{error}");
    }
}

#[test]
fn numbers_may_be_stored_in_any_type() {
    let (config, folder, device) = (file_sizes(), folder(), devices().remove(0).1);
    let path = folder.path().join("model.gguf");
    let found = tensors(&config, hyperinf::models::LmHead::Tied);
    let tokens = [3, 60, 17, 3];
    let load = |entries: &[(&str, MetaValue)]| {
        let mut all = described("llama", &config);
        all.extend(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        write(&path, &all, &found, GgmlType::F32);
        load_gguf(&path, &device)
    };
    let expected = logits(&load(&[]).expect("valid"), &tokens);
    use MetaValue::{F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
    for value in [U16(10_000), U32(10_000), U64(10_000), I16(10_000), I32(10_000), I64(10_000), F32(1e4), F64(1e4)] {
        let model = load(&[("llama.rope.freq_base", value.clone())]).unwrap_or_else(|e| panic!("{value:?}: {e}"));
        assert_eq!(logits(&model, &tokens), expected, "{value:?}");
    }
    for value in [U8(2), U16(2), U32(2), U64(2), I8(2), I16(2), I32(2), I64(2), F32(2.0), F64(2.0)] {
        let model = load(&[("llama.block_count", value.clone())]).unwrap_or_else(|e| panic!("{value:?}: {e}"));
        assert_eq!(logits(&model, &tokens), expected, "{value:?}");
    }
    let refused = |key: &str, value: MetaValue| load(&[(key, value)]).expect_err("not such a number").to_string();
    for value in [I32(-2), F32(2.5), F64(f64::NAN), MetaValue::Bool(true), MetaValue::String("2".into())] {
        let error = refused("llama.block_count", value);
        assert!(error.contains("`llama.block_count`") && error.contains("must be a whole number"), "{error}");
    }
    for value in [MetaValue::Bool(true), MetaValue::String("1e4".into()), MetaValue::Array(vec![U32(1)])] {
        assert!(refused("llama.rope.freq_base", value).contains("must be a number"));
    }
    // Entries that nobody needs may be anything.
    let list = MetaValue::Array((0..9000).map(U32).collect());
    let model = load(&[("general.something", list), ("llama.other", MetaValue::Bool(true))]).expect("valid");
    assert_eq!(logits(&model, &tokens), expected);
}
