//! Logits, losses and per-sample gradients.

use burn::tensor::Device;
use hyperinf::gradients::{Gradients, Tape, Target, capture, gradients};
use hyperinf::models::{Adaptable, Adapter, CheckpointNames, SampleModel, weights};
use hyperinf_tests::compare::{assert_close, largest, values};
use hyperinf_tests::devices;

use super::case::{Case, causal_lm, classifier};

/// Of f32, relative to the largest value of a tensor. PyTorch's own f32 is within 4.1e-6 of the expected values.
const TOLERANCE: f64 = 1e-5;

/// Logits, losses and gradients of all samples in one padded batch, or of each alone.
struct Results {
    logits: Vec<f64>,
    losses: Vec<f64>,
    gradients: Gradients,
}

fn together<M: SampleModel>(model: &M, samples: &[M::Sample]) -> Results {
    let batch = model.collate(&samples.iter().collect::<Vec<_>>()).expect("the samples fit the model");
    let outputs = model.forward(&batch, &mut Tape::off());
    let gradients = gradients(model, &batch, Target::Loss).expect("every adapter is used");
    let losses = values(capture(model, &batch, Target::Loss).expect("every adapter is used").values);
    Results { logits: values(outputs), losses, gradients }
}

fn alone<M: SampleModel>(model: &M, samples: &[M::Sample]) -> Results {
    let each: Vec<Results> = samples.iter().map(|sample| together(model, std::slice::from_ref(sample))).collect();
    Results {
        logits: each.iter().flat_map(|found| found.logits.clone()).collect(),
        losses: each.iter().flat_map(|found| found.losses.clone()).collect(),
        gradients: Gradients::concat(each.into_iter().map(|found| found.gradients).collect()).expect("one model"),
    }
}

fn check<M: SampleModel + Adaptable + CheckpointNames>(
    model: &str,
    adapter: &str,
    load: impl Fn(&str, &Device) -> M,
    samples: impl Fn(&Case) -> Vec<M::Sample>,
) {
    let case = Case::load(model, adapter);
    let samples = samples(&case);
    let expected = case.gradients();
    for (device_name, device) in devices() {
        let what = |part: &str| format!("{}, {device_name}: {part}", case.name);
        let base = load(model, &device);
        let batch = base.collate(&samples.iter().collect::<Vec<_>>()).expect("the samples fit the model");
        let outputs = base.forward(&batch, &mut Tape::off());
        assert_close(&what("base logits"), &values(outputs.clone()), case.values("base_logits"), TOLERANCE);
        assert_close(&what("base losses"), &values(base.loss(outputs, &batch)), case.values("base_losses"), TOLERANCE);

        let adapter = Adapter::read(&case.folder).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let adapted = adapter.apply(base).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        for (way, found) in [("padded", together(&adapted, &samples)), ("alone", alone(&adapted, &samples))] {
            let what = |part: &str| format!("{}, {device_name}, {way}: {part}", case.name);
            assert_close(&what("logits"), &found.logits, case.values("logits"), TOLERANCE);
            assert_close(&what("losses"), &found.losses, case.values("losses"), TOLERANCE);
            let mut names: Vec<&str> = found.gradients.layout.iter().map(|block| block.name.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, expected.keys().collect::<Vec<_>>(), "{}", what("names of blocks"));
            for (block, gradients) in found.gradients.layout.iter().zip(&found.gradients.blocks) {
                let (found, expected) = (values(gradients.clone()), &expected[&block.name]);
                assert!(largest(expected) > 0.01, "{}: no gradient to compare", what(&block.name));
                assert_close(&what(&block.name), &found, expected, TOLERANCE);
            }
        }
    }
}

fn check_classifier(model: &str, adapter: &str) {
    check(model, adapter, classifier, Case::samples);
}

fn check_causal_lm(model: &str, adapter: &str) {
    check(model, adapter, causal_lm, Case::lm_samples);
}

#[test]
fn bert_agrees_with_transformers() {
    check_classifier("bert", "query_value");
}

#[test]
fn bert_with_every_dense_layer_agrees_with_transformers() {
    check_classifier("bert", "dense");
}

#[test]
fn roberta_with_rank_stabilized_adapters_agrees_with_transformers() {
    check_classifier("roberta", "rslora");
}

#[test]
fn llama_with_every_linear_layer_agrees_with_transformers() {
    check_causal_lm("llama", "all_linear");
}

#[test]
fn llama3_with_scaled_positions_and_a_tied_head_agrees_with_transformers() {
    check_causal_lm("llama3", "query_value");
}

#[test]
fn qwen2_with_biases_agrees_with_transformers() {
    check_causal_lm("qwen2", "attention");
}

#[test]
fn mistral_with_a_window_agrees_with_transformers() {
    check_causal_lm("mistral", "feed_forward");
}

/// The weights of `llama` are numbers that bf16 holds.
#[test]
fn bf16_in_two_files_is_the_same_model() {
    for (name, device) in devices() {
        let expected = weights(&causal_lm("llama", &device)).expect("weights can be read");
        let found = weights(&causal_lm("llama_bf16", &device)).expect("weights can be read");
        assert_eq!(found, expected, "{name}");
        assert!(expected.len() > 20, "{name}: {} weights", expected.len());
    }
}

#[test]
fn an_adapter_of_bf16_weights_gives_the_same_numbers() {
    let load = |_: &str, device: &Device| causal_lm("llama_bf16", device);
    check("llama", "all_linear", load, Case::lm_samples);
}
