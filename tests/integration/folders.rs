//! Folders of tiny models, as Hugging Face's libraries write them.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Tensors by name: shape and numbers.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The folder of a model: settings and tensors, which tests change before they are written.
pub(crate) struct Model {
    pub(crate) config: Value,
    pub(crate) tensors: Tensors,
}

impl Model {
    /// A BERT of two layers of width 8 with vocabulary 11, 2 segments and a pooler; no head.
    pub(crate) fn bert() -> Self {
        let config = json!({
            "model_type": "bert", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 12, "max_position_embeddings": 16, "type_vocab_size": 2, "hidden_act": "gelu",
            "layer_norm_eps": 1e-12, "pad_token_id": 0,
        });
        Self { config, tensors: encoder_tensors("bert.", 16, 2, true) }
    }

    /// The same with a head of three classes.
    pub(crate) fn bert_classifier() -> Self {
        let mut model = Self::bert();
        model.add("classifier.weight", &[3, 8]);
        model.add("classifier.bias", &[3]);
        model
    }

    /// A RoBERTa of that size with its head of three classes, 14 positions and 2 more before the first.
    pub(crate) fn roberta_classifier() -> Self {
        let mut config = Self::bert().config;
        config["model_type"] = json!("roberta");
        config["type_vocab_size"] = json!(1);
        config["pad_token_id"] = json!(1);
        let mut model = Self { config, tensors: encoder_tensors("roberta.", 16, 1, false) };
        for (name, shape) in [("dense.weight", &[8, 8][..]), ("dense.bias", &[8]), ("out_proj.weight", &[3, 8])] {
            model.add(&format!("classifier.{name}"), shape);
        }
        model.add("classifier.out_proj.bias", &[3]);
        model
    }

    /// A Llama of two layers of width 8, four heads over two of keys, vocabulary 11, with an untied head.
    pub(crate) fn llama() -> Self {
        let config = json!({
            "model_type": "llama", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 12, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
            "hidden_act": "silu", "tie_word_embeddings": false, "rope_theta": 10000.0,
        });
        let mut model = Self { config, tensors: Tensors::new() };
        model.add("model.embed_tokens.weight", &[11, 8]);
        for layer in 0..2 {
            let parts: [(&str, &[usize]); 9] = [
                ("self_attn.q_proj", &[8, 8]),
                ("self_attn.k_proj", &[4, 8]),
                ("self_attn.v_proj", &[4, 8]),
                ("self_attn.o_proj", &[8, 8]),
                ("mlp.gate_proj", &[12, 8]),
                ("mlp.up_proj", &[12, 8]),
                ("mlp.down_proj", &[8, 12]),
                ("input_layernorm", &[8]),
                ("post_attention_layernorm", &[8]),
            ];
            for (part, shape) in parts {
                model.add(&format!("model.layers.{layer}.{part}.weight"), shape);
            }
        }
        model.add("model.norm.weight", &[8]);
        model.add("lm_head.weight", &[11, 8]);
        model
    }

    /// Adds a tensor with different numbers.
    pub(crate) fn add(&mut self, name: &str, shape: &[usize]) {
        add(&mut self.tensors, name, shape);
    }

    /// The model with other names of its tensors.
    pub(crate) fn renamed(mut self, rename: impl Fn(&str) -> String) -> Self {
        self.tensors = self.tensors.into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
        self
    }

    /// Writes `config.json` and `model.safetensors` in f32 into a new folder.
    pub(crate) fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        self.write_config(folder.path());
        write_tensors(&folder.path().join("model.safetensors"), &self.tensors, Number::F32);
        folder
    }

    /// Writes `config.json`, and the tensors in turn into two files, with an index.
    pub(crate) fn write_sharded(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        self.write_config(folder.path());
        let mut shards = [Tensors::new(), Tensors::new()];
        let mut map = serde_json::Map::new();
        for (at, (name, tensor)) in self.tensors.iter().enumerate() {
            shards[at % 2].insert(name.clone(), tensor.clone());
            map.insert(name.clone(), json!(shard_name(at % 2)));
        }
        for (at, shard) in shards.iter().enumerate() {
            write_tensors(&folder.path().join(shard_name(at)), shard, Number::F32);
        }
        let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
        write_json(&folder.path().join("model.safetensors.index.json"), &index);
        folder
    }

    pub(crate) fn write_config(&self, folder: &Path) {
        write_json(&folder.join("config.json"), &self.config);
    }
}

/// The file of a shard, counted from 0.
pub(crate) fn shard_name(shard: usize) -> String {
    format!("model-{:05}-of-00002.safetensors", shard + 1)
}

fn encoder_tensors(prefix: &str, positions: usize, segments: usize, pooler: bool) -> Tensors {
    let mut tensors = Tensors::new();
    let mut put = |name: &str, shape: &[usize]| add(&mut tensors, &format!("{prefix}{name}"), shape);
    put("embeddings.word_embeddings.weight", &[11, 8]);
    put("embeddings.position_embeddings.weight", &[positions, 8]);
    put("embeddings.token_type_embeddings.weight", &[segments, 8]);
    let mut linear = |name: &str, outputs: usize, inputs: usize| {
        put(&format!("{name}.weight"), &[outputs, inputs]);
        put(&format!("{name}.bias"), &[outputs]);
    };
    for layer in 0..2 {
        let layer = format!("encoder.layer.{layer}");
        linear(&format!("{layer}.attention.self.query"), 8, 8);
        linear(&format!("{layer}.attention.self.key"), 8, 8);
        linear(&format!("{layer}.attention.self.value"), 8, 8);
        linear(&format!("{layer}.attention.output.dense"), 8, 8);
        linear(&format!("{layer}.intermediate.dense"), 12, 8);
        linear(&format!("{layer}.output.dense"), 8, 12);
    }
    if pooler {
        linear("pooler.dense", 8, 8);
    }
    let norms =
        (0..2).flat_map(|layer| ["attention.output", "output"].map(|part| format!("encoder.layer.{layer}.{part}")));
    for part in norms.chain(["embeddings".to_owned()]) {
        put(&format!("{part}.LayerNorm.weight"), &[8]);
        put(&format!("{part}.LayerNorm.bias"), &[8]);
    }
    tensors
}

/// Adds a tensor whose numbers are multiples of 1/64 below 2 in magnitude, which every type holds exactly.
pub(crate) fn add(tensors: &mut Tensors, name: &str, shape: &[usize]) {
    let seed = name.bytes().fold(7u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let number = |at: u64| {
        let mixed = (seed ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40;
        (mixed % 127) as f32 / 64.0 - 63.0 / 64.0
    };
    let count: usize = shape.iter().product();
    tensors.insert(name.to_owned(), (shape.to_vec(), (0..count as u64).map(number).collect()));
}

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    F16,
    BF16,
    F32,
    F64,
    I32,
}

impl Number {
    fn dtype(self) -> Dtype {
        match self {
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
            Self::F32 => Dtype::F32,
            Self::F64 => Dtype::F64,
            Self::I32 => Dtype::I32,
        }
    }

    /// The bytes of a number that the type holds exactly and that is 0 or not tiny.
    fn bytes(self, value: f32) -> Vec<u8> {
        let bits = value.to_bits();
        match self {
            Self::F16 if value == 0.0 => vec![0, 0],
            Self::F16 => {
                let exponent = ((bits >> 23) & 0xff) as i32 - 127 + 15;
                let half = (bits >> 16 & 0x8000) | (exponent as u32) << 10 | (bits >> 13 & 0x3ff);
                (half as u16).to_le_bytes().to_vec()
            }
            Self::BF16 => ((bits >> 16) as u16).to_le_bytes().to_vec(),
            Self::F32 => value.to_le_bytes().to_vec(),
            Self::F64 => f64::from(value).to_le_bytes().to_vec(),
            Self::I32 => (value as i32).to_le_bytes().to_vec(),
        }
    }
}

/// Writes a safetensors file.
pub(crate) fn write_tensors(path: &Path, tensors: &Tensors, number: Number) {
    let bytes: Vec<Vec<u8>> =
        tensors.values().map(|(_, values)| values.iter().flat_map(|&v| number.bytes(v)).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, (shape, _)), bytes)| {
        (name.as_str(), TensorView::new(number.dtype(), shape.clone(), bytes).expect("as many bytes as the shape says"))
    });
    std::fs::write(path, safetensors::serialize(views, None).expect("valid tensors")).expect("the folder is there");
}

pub(crate) fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).expect("the folder is there");
}

/// The transpose of a matrix.
pub(crate) fn transposed((shape, values): &(Vec<usize>, Vec<f32>)) -> Vec<f32> {
    let [rows, cols] = [shape[0], shape[1]];
    (0..rows * cols).map(|at| values[at % rows * cols + at / rows]).collect()
}
