//! Adapters that this library writes. They are read back here, and by PEFT with
//! `HYPERINF_WRITE_ADAPTERS=DIR cargo xtask test written_adapters && cargo xtask fixtures transformers --check-ours DIR`.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, TensorData};
use hyperinf::gradients::Tape;
use hyperinf::models::{
    ALL_LINEAR, Adaptable, Adapter, CheckpointNames, LoraConfig, LoraScaling, SampleModel, adapt, load_weights, weights,
};
use hyperinf_tests::compare::{assert_close, largest, values};
use hyperinf_tests::devices;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::case::{Case, causal_lm, classifier};
use crate::models::difference;

const LORA: LoraConfig = LoraConfig { rank: 3, alpha: 5.0, scaling: LoraScaling::Standard, dropout: 0.1 };

/// A model whose adapters and head have values without pattern, as after training.
fn trained<M: SampleModel + Adaptable>(base: M, targets: &[&str], config: &LoraConfig) -> M {
    let adapted = adapt(base, targets, config, 3).expect("the layers exist");
    let values = weights(&adapted).expect("weights can be read").into_iter().map(|(name, data)| {
        if !name.contains("lora_") && !name.starts_with("classifier.") {
            return (name, data);
        }
        let shape = data.shape().to_vec();
        let step = 0.7 + name.len() as f32 / 100.0;
        let new = (0..shape.iter().product()).map(|i: usize| ((i * i + 1) as f32 * step).sin() * 0.3);
        (name, TensorData::new(new.collect(), shape))
    });
    load_weights(adapted, values.collect()).expect("the names are the model's own")
}

fn logits<M: SampleModel>(model: &M, samples: &[M::Sample]) -> Vec<f64> {
    let batch = model.collate(&samples.iter().collect::<Vec<_>>()).expect("the samples fit the model");
    values(model.forward(&batch, &mut Tape::off()))
}

fn check<M: SampleModel + Adaptable + CheckpointNames>(
    (model, adapter): (&str, &str),
    load: impl Fn(&str, &Device) -> M,
    samples: impl Fn(&Case) -> Vec<M::Sample>,
    targets: &[&str],
    config: &LoraConfig,
) {
    let temporary = tempfile::tempdir().expect("the system has a folder for temporary files");
    let kept = std::env::var_os("HYPERINF_WRITE_ADAPTERS").map(PathBuf::from);
    let folder = kept.as_deref().unwrap_or(temporary.path()).join(model).join(targets.join("-"));
    let case = Case::load(model, adapter);
    let samples = samples(&case);
    for (name, device) in devices() {
        let model_with = trained(load(model, &device), targets, config);
        let expected = logits(&model_with, &samples);
        let moved = largest(&difference(&expected, &logits(&load(model, &device), &samples)));
        assert!(moved > 0.1 * largest(&expected), "{model}, {name}: the adapter changes logits by {moved} only");

        let adapter = Adapter::from_model(&model_with, config, Some(model)).expect("the model is adapted");
        adapter.write(&folder).unwrap_or_else(|error| panic!("{model}, {name}: {error}"));
        let read = Adapter::read(&folder).unwrap_or_else(|error| panic!("{model}, {name}: {error}"));
        assert_eq!(read, adapter, "{model}, {name}");
        let again = read.apply(load(model, &device)).unwrap_or_else(|error| panic!("{model}, {name}: {error}"));
        // The scale is made of whole numbers, so nothing is rounded on the way.
        assert_close(&format!("{model}, {name}"), &logits(&again, &samples), &expected, 0.0);
        if kept.is_some() {
            write_logits(&folder.join("logits.safetensors"), &case, &expected);
        }
    }
}

/// Writes what PEFT needs to compute the same logits.
fn write_logits(path: &Path, case: &Case, logits: &[f64]) {
    let inputs = ["input_ids", "attention_mask", "token_type_ids", "prompt_lengths"];
    let mut tensors: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, array) in inputs.iter().filter_map(|&name| Some((name, case.array(name)?))) {
        let bytes = array.values.iter().flat_map(|&value| (value as i64).to_le_bytes()).collect();
        tensors.push((name, Dtype::I64, array.shape.clone(), bytes));
    }
    let bytes = logits.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect();
    let shape = case.array("logits").expect("every case has logits").shape.clone();
    tensors.push(("logits", Dtype::F32, shape, bytes));
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("the shape is that of the bytes"))
    });
    safetensors::serialize_to_file(views, None, path).expect("the folder exists");
}

#[test]
fn written_adapters_of_bert_are_read_again() {
    check(("bert", "dense"), classifier, Case::samples, &["query", "value"], &LORA);
    check(("bert", "dense"), classifier, Case::samples, &["query", "key", "dense"], &LORA);
}

#[test]
fn written_adapters_of_roberta_are_read_again() {
    let config = LoraConfig { scaling: LoraScaling::RankStabilized, rank: 4, ..LORA };
    check(("roberta", "rslora"), classifier, Case::samples, &["query", "attention.output.dense"], &config);
}

#[test]
fn written_adapters_of_llama_are_read_again() {
    check(("llama", "all_linear"), causal_lm, Case::lm_samples, &[ALL_LINEAR], &LORA);
    check(("llama", "all_linear"), causal_lm, Case::lm_samples, &["q_proj", "v_proj"], &LORA);
}

#[test]
fn written_adapters_of_a_tied_head_are_read_again() {
    check(("llama3", "query_value"), causal_lm, Case::lm_samples, &["q_proj", "down_proj"], &LORA);
}
