//! GGUF and llama2.c files: written here, read back, and compared with their weights taken directly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, TensorData};
use hyperinf::models::{
    AttentionBias, CausalLm, DecoderConfig, FormatError, LmHead, ModelError, RotaryConfig, RotaryPairing,
    RotaryScaling, load_gguf, weights,
};
use hyperinf_tests::compare::{assert_close, largest};
use hyperinf_tests::decoder::weight;
use hyperinf_tests::devices;
use rlx_gguf::{GgmlType, GgufWriter, MetaValue, bytes_for_public, dequant_typed, quantize};

use crate::decoder::{logits, sizes};

mod header;
mod llama2c;
mod vocabulary;

/// Sizes whose matrices are whole blocks of every type.
fn file_sizes() -> DecoderConfig {
    DecoderConfig {
        vocabulary: 64,
        max_tokens: 16,
        width: 32,
        heads: 4,
        head_size: 8,
        feed_forward: 64,
        // Exact in f32, in which the file holds them.
        norm_epsilon: 0.5f64.powi(17),
        rotary: RotaryConfig { base: 1e4, ..RotaryConfig::default() },
        ..sizes()
    }
}

/// A file's tensors by name: shape (innermost first) and values.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Hugging Face's name of a tensor.
fn name_of(tensor: &str) -> String {
    let parts = [
        ("attn_norm", "input_layernorm"),
        ("attn_output", "self_attn.o_proj"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("token_embd", "model.embed_tokens"),
        ("output_norm", "model.norm"),
        ("blk.", "model.layers."),
    ];
    let name = if tensor == "output.weight" { "lm_head.weight".into() } else { tensor.to_owned() };
    parts.iter().fold(name, |name, (theirs, ours)| name.replace(theirs, ours))
}

/// The tensors of a model with the weights of its names, each linear weight as `[d_output, d_input]`.
fn tensors(config: &DecoderConfig, head: LmHead) -> Tensors {
    let (width, inner, vocabulary) = (config.width, config.feed_forward, config.vocabulary);
    let (all, shared) = (config.heads * config.head_size, config.key_value_heads * config.head_size);
    let mut shapes: Vec<(String, Vec<usize>)> =
        vec![("token_embd.weight".into(), vec![width, vocabulary]), ("output_norm.weight".into(), vec![width])];
    if head == LmHead::Separate {
        shapes.push(("output.weight".into(), vec![width, vocabulary]));
    }
    for layer in 0..config.layers {
        let mut add = |part: &str, shape: &[usize]| shapes.push((format!("blk.{layer}.{part}"), shape.to_vec()));
        for (part, d_input, d_output) in [
            ("attn_q", width, all),
            ("attn_k", width, shared),
            ("attn_v", width, shared),
            ("attn_output", all, width),
            ("ffn_gate", width, inner),
            ("ffn_up", width, inner),
            ("ffn_down", inner, width),
        ] {
            add(&format!("{part}.weight"), &[d_input, d_output]);
            let attention = ["attn_q", "attn_k", "attn_v"].contains(&part);
            if attention && config.attention_bias != AttentionBias::None {
                add(&format!("{part}.bias"), &[d_output]);
            }
        }
        add("attn_norm.weight", &[width]);
        add("ffn_norm.weight", &[width]);
    }
    shapes
        .into_iter()
        .map(|(name, shape)| {
            // The innermost side is the input: a row of the file is an output.
            let ours = weight(&name_of(&name), &shape);
            let values = match shape[..] {
                [_, _] if name.starts_with("token_embd") => weight(&name_of(&name), &[vocabulary, width]),
                [_, _] => ours.transpose(),
                _ => ours,
            };
            (name, (shape, values.values.iter().map(|&v| v as f32).collect()))
        })
        .collect()
}

/// The entries that describe a model.
fn described(architecture: &str, config: &DecoderConfig) -> BTreeMap<String, MetaValue> {
    let mut entries = BTreeMap::from([("general.architecture".to_owned(), MetaValue::String(architecture.into()))]);
    for (name, value) in [
        ("block_count", config.layers),
        ("context_length", config.max_tokens),
        ("embedding_length", config.width),
        ("feed_forward_length", config.feed_forward),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.key_value_heads),
        ("rope.dimension_count", config.head_size),
    ] {
        entries.insert(format!("{architecture}.{name}"), MetaValue::U32(value as u32));
    }
    let epsilon = format!("{architecture}.attention.layer_norm_rms_epsilon");
    entries.insert(epsilon, MetaValue::F32(config.norm_epsilon as f32));
    entries.insert(format!("{architecture}.rope.freq_base"), MetaValue::F32(config.rotary.base as f32));
    entries
}

/// Writes a file; matrices are stored as `kind`, vectors as F32. Returns the values as they are stored.
fn write(path: &Path, entries: &BTreeMap<String, MetaValue>, tensors: &Tensors, kind: GgmlType) -> Tensors {
    let mut writer = GgufWriter::new();
    for (key, value) in entries {
        writer.set_meta(key.clone(), value.clone());
    }
    let mut stored = Tensors::new();
    for (name, (shape, values)) in tensors {
        let kind = if shape.len() == 2 { kind } else { GgmlType::F32 };
        let bytes = quantize(values, kind).expect("whole blocks");
        assert_eq!(Some(bytes.len()), bytes_for_public(kind, values.len()));
        let read = dequant_typed(kind, &bytes, values.len(), name).expect("it was just written");
        stored.insert(name.clone(), (shape.clone(), read));
        writer.add_tensor_bytes(name, shape.clone(), kind, bytes).expect("the sizes fit");
    }
    writer.write_to_path(path).expect("the folder can be written");
    stored
}

/// The model of tensors as they lie in the file, `pairing` being the one that fits their order.
fn direct(config: &DecoderConfig, head: LmHead, pairing: RotaryPairing, found: &Tensors, device: &Device) -> CausalLm {
    let rotary = RotaryConfig { pairing, ..config.rotary.clone() };
    let by_name: BTreeMap<String, &(Vec<usize>, Vec<f32>)> =
        found.iter().map(|(name, tensor)| (name_of(name), tensor)).collect();
    CausalLm::from_weights(DecoderConfig { rotary, ..config.clone() }, head, device, |name, shape| {
        let (_, values) = by_name[name];
        let values = match *shape {
            [_, _] if name.contains("embed_tokens") => values.clone(),
            [d_input, d_output] => {
                (0..d_input * d_output).map(|k| values[k % d_output * d_input + k / d_output]).collect()
            }
            _ => values.clone(),
        };
        Ok(TensorData::new(values, shape.to_vec()))
    })
    .expect("the sizes are valid")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room for a temporary folder")
}

const TOKENS: [u32; 7] = [3, 60, 17, 3, 8, 0, 41];

/// A file of an architecture gives the logits of its weights taken as they lie.
fn check(architecture: &str, config: &DecoderConfig, head: LmHead, kind: GgmlType) {
    let (folder, what) = (folder(), format!("{architecture}, {kind}, {head:?}"));
    let path = folder.path().join("model.gguf");
    let stored = write(&path, &described(architecture, config), &tensors(config, head), kind);
    let pairing = if architecture == "llama" { RotaryPairing::Neighbours } else { RotaryPairing::Halves };
    for (name, device) in devices() {
        let model = load_gguf(&path, &device).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(model.decoder().config(), config, "{what}");
        let expected = logits(&direct(config, head, pairing, &stored, &device), &TOKENS);
        assert!(largest(&expected) > 0.1, "{what}: nothing to compare");
        // The order of a head's entries changes the order of sums only.
        assert_close(&format!("{name}, {what}"), &logits(&model, &TOKENS), &expected, 2e-6);
    }
}

#[test]
fn every_storage_gives_the_logits_of_its_values() {
    use GgmlType::{BF16, F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    for kind in [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
        check("llama", &file_sizes(), LmHead::Tied, kind);
    }
    check("llama", &file_sizes(), LmHead::Separate, GgmlType::Q8_0);
}

#[test]
fn qwen2_has_biases_and_its_rows_in_order() {
    let config = DecoderConfig { attention_bias: AttentionBias::QueryKeyValue, ..file_sizes() };
    check("qwen2", &config, LmHead::Tied, GgmlType::F32);
    check("qwen2", &config, LmHead::Separate, GgmlType::Q6K);
}

/// The permutation of llama.cpp's converter: `w.reshape(heads, 2, size/2, d).swapaxes(1, 2)`.
#[test]
fn rows_of_llama_files_are_put_back() {
    let (config, folder) = (file_sizes(), folder());
    let path = folder.path().join("model.gguf");
    let mut found = tensors(&config, LmHead::Tied);
    for (name, (shape, values)) in &mut found {
        if name.contains("attn_q") || name.contains("attn_k") {
            let (half, d) = (config.head_size / 2, shape[0]);
            let original = values.clone();
            for row in 0..shape[1] {
                let (head, entry, part) = (row / config.head_size, row % config.head_size / 2, row % 2);
                let from = head * config.head_size + part * half + entry;
                values[row * d..(row + 1) * d].copy_from_slice(&original[from * d..(from + 1) * d]);
            }
        }
    }
    write(&path, &described("llama", &config), &found, GgmlType::F32);
    let (_, device) = devices().remove(0);
    let model = load_gguf(&path, &device).expect("the file is complete");
    for (path, data) in weights(&model).expect("weights can be read") {
        let name = hyperinf::models::CheckpointNames::checkpoint_name(&model, &path);
        let expected = weight(&name, data.shape().as_slice()).values;
        let values: Vec<f64> = data.iter::<f64>().collect();
        assert_eq!(values, expected, "{name}");
    }
}

#[test]
fn entries_for_longer_texts_are_followed() {
    let (_, device) = devices().remove(0);
    let read = |entries: &[(&str, MetaValue)], divisors: bool| -> Result<RotaryScaling, ModelError> {
        let (config, folder) = (file_sizes(), folder());
        let path = folder.path().join("model.gguf");
        let mut all = described("llama", &config);
        all.extend(entries.iter().map(|(key, value)| (format!("llama.rope.scaling.{key}"), value.clone())));
        let mut found = tensors(&config, LmHead::Tied);
        if divisors {
            found.insert("rope_freqs.weight".into(), (vec![4], vec![1.0, 1.0, 4.0, 8.0]));
        }
        write(&path, &all, &found, GgmlType::F32);
        Ok(load_gguf(&path, &device)?.decoder().config().rotary.scaling.clone())
    };
    let text = |text: &str| MetaValue::String(text.into());
    let linear = [("type", text("linear")), ("factor", MetaValue::F32(4.0))];
    let yarn =
        [("type", text("yarn")), ("factor", MetaValue::F32(4.0)), ("original_context_length", MetaValue::U32(8))];
    assert_eq!(read(&[("type", text("none"))], false).expect("valid"), RotaryScaling::None);
    assert_eq!(read(&linear, false).expect("valid"), RotaryScaling::Linear { factor: 4.0 });
    let divided = |divisors: [f64; 4]| RotaryScaling::Divided { divisors: divisors.to_vec() };
    assert_eq!(read(&[], true).expect("valid"), divided([1.0, 1.0, 4.0, 8.0]));
    assert_eq!(read(&linear, true).expect("valid"), divided([4.0, 4.0, 16.0, 32.0]));
    let expected = RotaryScaling::Yarn {
        factor: 4.0,
        attention_factor: 1.0 + 0.1 * 4f64.ln(),
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_max_tokens: 8,
        whole_dimensions: true,
    };
    assert_eq!(read(&yarn, false).expect("valid"), expected);
    let refused = [
        (read(&yarn, true), "with a tensor of divisors"),
        (read(&[("type", text("longrope"))], false), "is `longrope`, but must be `none`, `linear` or `yarn`"),
        (read(&[("type", text("yarn"))], false), "`llama.rope.scaling.factor` is absent"),
        (read(&[("type", MetaValue::Bool(true))], false), "is Bool(true), but must be a string"),
    ];
    for (found, message) in refused {
        let error = found.expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
}

/// A change to a whole file, and what the error says.
fn refused(change: impl Fn(&mut BTreeMap<String, MetaValue>, &mut Tensors), message: &str) {
    let (config, folder, (_, device)) = (file_sizes(), folder(), devices().remove(0));
    let path = folder.path().join("model.gguf");
    let (mut entries, mut found) = (described("llama", &config), tensors(&config, LmHead::Tied));
    change(&mut entries, &mut found);
    write(&path, &entries, &found, GgmlType::F32);
    let error = load_gguf(&path, &device).expect_err(message).to_string();
    assert!(error.contains(message) && error.contains("model.gguf"), "{message}: {error}");
}

#[test]
fn files_of_other_models_are_errors() {
    let set = |key: &'static str, value: MetaValue| {
        move |entries: &mut BTreeMap<String, MetaValue>, _: &mut Tensors| {
            drop(entries.insert(key.into(), value.clone()))
        }
    };
    let number = MetaValue::U32;
    refused(
        set("general.architecture", MetaValue::String("gemma2".into())),
        "the architecture is `gemma2`, but only `llama` and `qwen2`",
    );
    refused(|entries, _| drop(entries.remove("llama.block_count")), "`llama.block_count` is absent");
    refused(
        set("llama.block_count", MetaValue::String("2".into())),
        "`llama.block_count` is `2`, but must be a whole number",
    );
    refused(set("llama.block_count", number(1_000_000)), "1000000 in a file of 20 tensors");
    refused(set("llama.attention.head_count", number(0)), "`llama.attention.head_count` is 0");
    refused(set("llama.attention.head_count", number(5)), "5, but must be a divisor of the width");
    refused(set("llama.rope.dimension_count", number(4)), "`llama.rope.dimension_count` is 4, but must be the size");
    refused(
        |entries, _| {
            entries.insert("llama.embedding_length".into(), MetaValue::U32(48));
            entries.remove("llama.rope.dimension_count");
        },
        "`token_embd.weight` is [32, 64], but the model needs [48, 64]",
    );
    refused(
        set("llama.feed_forward_length", number(96)),
        "is [32, 64], but `llama.feed_forward_length` = 96 asks for [32, 96]",
    );
    refused(set("split.count", number(3)), "one of 3 parts");
    refused(
        |_, tensors| {
            for name in ["blk.1.ffn_up.weight", "output_norm.weight"] {
                let tensor = tensors.remove(name).expect("it is there");
                tensors.insert(format!("other.{name}"), tensor);
            }
        },
        "missing [\"output_norm.weight\", \"blk.1.ffn_up.weight\"], \
         unused [\"other.blk.1.ffn_up.weight\", \"other.output_norm.weight\"]",
    );
    refused(|_, tensors| drop(tensors.remove("token_embd.weight")), "missing [\"token_embd.weight\"]");
}

#[test]
fn a_storage_without_a_reader_is_an_error() {
    let (config, folder, (_, device)) = (file_sizes(), folder(), devices().remove(0));
    let path = folder.path().join("model.gguf");
    write(&path, &described("llama", &config), &tensors(&config, LmHead::Tied), GgmlType::IQ4NL);
    let error = load_gguf(&path, &device).expect_err("it cannot be read").to_string();
    assert!(error.contains("`token_embd.weight` is stored as IQ4_NL, but only F32, F16"), "{error}");
}

/// No byte of a file, and no length of it, makes the loader do anything but answer.
#[test]
fn corrupt_files_are_errors_or_other_models_but_nothing_else() {
    let (config, folder, (_, device)) = (file_sizes(), folder(), devices().remove(0));
    let path = folder.path().join("model.gguf");
    let mut entries = described("llama", &config);
    entries.insert("general.alignment".into(), MetaValue::U32(32));
    write(&path, &entries, &tensors(&config, LmHead::Tied), GgmlType::Q4_0);
    let whole = std::fs::read(&path).expect("it was just written");
    let changed: PathBuf = folder.path().join("changed.gguf");
    let load = |bytes: &[u8]| {
        std::fs::write(&changed, bytes).expect("the folder can be written");
        load_gguf(&changed, &device)
    };
    for length in [0, 3, 4, 20, 100, 700, whole.len() - 1] {
        let error = load(&whole[..length]).expect_err("it ends early");
        assert!(matches!(error, ModelError::Format { .. }), "{length}: {error}");
    }
    let end = load(&whole[..whole.len() - 1]).expect_err("it ends early").to_string();
    assert!(end.contains(&format!("but the file has {}", whole.len() - 1)), "{end}");
    let header = whole.windows(6).rposition(|bytes| bytes == b"weight").expect("names of tensors") + 40;
    let mut errors = 0;
    for place in (0..header).step_by(3) {
        for value in [0, 255] {
            let mut bytes = whole.clone();
            bytes[place] = value;
            errors += usize::from(load(&bytes).is_err());
        }
    }
    assert!(errors > header / 3, "only {errors} changes were noticed");
    assert!(matches!(
        load(b"GGML and more of it, but no file of this format"),
        Err(ModelError::Format { source, .. }) if matches!(*source, FormatError::Read(_))
    ));
}
