//! BERT, RoBERTa and the pre-LN encoder against their definitions: logits, gradients, names.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use hyperinf::gradients::{Tape, Target, Task, gradients};
use hyperinf::models::{
    ALL_LINEAR, Activation, CheckpointNames, Encoder, EncoderClassifier, EncoderConfig, EncoderFamily, HeadKind,
    ModelError, NormPlacement, RecordedLayers, Sample, SampleModel, TokenBatch, adapt, load_weights, weights,
};
use hyperinf_tests::compare::{assert_close, largest, precisions, values};
use hyperinf_tests::devices;
use hyperinf_tests::encoder::{Form, Weights, logits, loss};
use hyperinf_tests::oracle::Matrix;

use crate::models::{LORA, SIZES};

pub(crate) const BERT: EncoderConfig =
    EncoderConfig { segments: 2, norm: NormPlacement::Post, norm_epsilon: 1e-12, pooler: true, ..SIZES };
pub(crate) const ROBERTA: EncoderConfig = EncoderConfig {
    family: EncoderFamily::Roberta,
    first_position: 2,
    segments: 1,
    norm: NormPlacement::Post,
    norm_epsilon: 1e-5,
    ..SIZES
};

/// A classifier of 3 classes with adapters in every linear layer, no weight of which is 0 or 1.
pub(crate) fn classifier(config: EncoderConfig, head: HeadKind, device: &Device) -> EncoderClassifier {
    let encoder = Encoder::new(config, 5, device).expect("valid sizes");
    let model = EncoderClassifier::new(encoder, head, 3, RecordedLayers::AdaptersAndHead, 7).expect("the head fits");
    noisy(adapt(model, &[ALL_LINEAR], &LORA, 6).expect("there are linear layers"))
}

fn noisy(model: EncoderClassifier) -> EncoderClassifier {
    let changed = weights(&model).expect("weights can be read").into_iter().enumerate().map(|(i, (name, data))| {
        let noise = Matrix::noise(1, data.num_elements(), 1000 + i as u64).values;
        let offset = if name.ends_with("gamma") { 1.0 } else { 0.0 };
        let noise: Vec<f32> = noise.iter().map(|v| (offset + 0.3 * v) as f32).collect();
        (name, TensorData::new(noise, data.shape().clone()))
    });
    let changed = changed.collect();
    load_weights(model, changed).expect("the names are the model's own")
}

/// Every device in every type: its name, the type, and the type's precision.
fn every_precision() -> Vec<(String, DType, f64, Device)> {
    let all = devices().into_iter().flat_map(|(name, device)| {
        precisions(&device)
            .into_iter()
            .map(move |(dtype, epsilon)| (format!("{name} in {dtype:?}"), dtype, epsilon, device.clone()))
    });
    all.collect()
}

/// Parameters in another type.
struct Cast(DType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trained = param.val().is_require_grad();
        param.map(|value| value.detach().cast(self.0).set_require_grad(trained))
    }
}

/// The weights as the oracle wants them.
fn published(model: &EncoderClassifier) -> Weights {
    let all = weights(model).expect("weights can be read").into_iter();
    let named = all.map(|(path, data)| {
        let shape = data.shape().to_vec();
        let values: Vec<f64> = data.iter::<f64>().collect();
        let rows = if shape.len() == 1 { 1 } else { shape[0] };
        (model.checkpoint_name(&path), Matrix { rows, cols: values.len() / rows, values })
    });
    named.collect()
}

fn form(config: &EncoderConfig, head: HeadKind) -> Form {
    Form {
        prefix: if config.family == EncoderFamily::Bert { "bert" } else { "roberta" },
        layers: config.layers,
        heads: config.heads,
        first_position: config.first_position,
        pre: config.norm == NormPlacement::Pre,
        epsilon: config.norm_epsilon,
        activation: match config.activation {
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "tanh",
            Activation::QuickGelu => "quick",
            Activation::Relu => "relu",
        },
        head: match head {
            HeadKind::Mean => "mean",
            HeadKind::Pooler => "pooler",
            HeadKind::Dense => "dense",
        },
        scale: LORA.scale(),
    }
}

/// Samples of lengths that look random, the longest and the shortest among them; with two segments, pairs.
pub(crate) fn samples(config: &EncoderConfig, seed: u64) -> Vec<Sample> {
    let draw = |i: usize, at: usize, below: usize| {
        let noise = Matrix::noise(1, 10, seed + 17 * i as u64).at(0, at);
        (((noise + 1.0) / 2.0 * below as f64) as usize).min(below - 1)
    };
    (0..6)
        .map(|i| {
            let length = [config.max_tokens, 1].get(i).copied().unwrap_or(1 + draw(i, 9, config.max_tokens));
            let tokens = (0..length).map(|at| draw(i, at, config.vocabulary) as u32).collect();
            let pair = if config.segments > 1 && i != 2 { length } else { 0 };
            let segments = (0..pair).map(|at| u32::from(at > length / 2)).collect();
            Sample { tokens, segments, label: i % 3 }
        })
        .collect()
}

pub(crate) fn refs(samples: &[Sample]) -> Vec<&Sample> {
    samples.iter().collect()
}

/// Logits of a padded batch, and every per-sample gradient of every block by central differences.
fn check(what: &str, config: EncoderConfig, head: HeadKind) {
    let (form, all) = (form(&config, head), samples(&config, 3));
    let mut expected = None;
    for (name, dtype, epsilon, device) in every_precision() {
        let what = format!("{what} on {name}");
        // Differences of f64 losses are good to about 1e-9.
        let tolerance = (100.0 * epsilon).max(1e-8);
        let model = classifier(config, head, &device);
        let known = published(&model);
        let model = model.map(&mut Cast(dtype));
        let batch = model.collate(&refs(&all)).expect("the samples fit");
        let found = gradients(&model, &batch, Target::Loss).expect("the model is well-formed");
        // The weights are the same numbers everywhere.
        let (logits, blocks) = expected.get_or_insert_with(|| {
            let logits: Vec<f64> = all.iter().flat_map(|s| logits(&form, &known, &s.tokens, &s.segments)).collect();
            let names = found.layout.iter().map(|block| block.name.as_str());
            (logits, names.map(|name| block_differences(&form, &known, name, &all)).collect::<Vec<_>>())
        });
        assert_close(&what, &values(model.forward(&batch, &mut Tape::off())), logits, tolerance);
        for ((block, tensor), expected) in found.layout.iter().zip(found.blocks).zip(blocks) {
            let what = format!("{what}, {}", block.name);
            assert!(largest(expected) > 1e-3, "{what}: no gradient to compare");
            assert_close(&what, &values(tensor), expected, tolerance);
        }
    }
}

/// The gradients `[n, rows, cols]` of a block; of a layer of the head the bias is the last row.
fn block_differences(form: &Form, known: &Weights, block: &str, all: &[Sample]) -> Vec<f64> {
    let path = block.strip_prefix("base_model.model.").expect("PEFT's prefix");
    let mut gradients = differences(form, known, path, all);
    if path.starts_with("classifier") {
        let bias = differences(form, known, &path.replace(".weight", ".bias"), all);
        gradients.iter_mut().zip(bias).for_each(|(gradient, bias)| gradient.extend(bias));
    }
    gradients.concat()
}

/// The gradient of each sample's loss with respect to one weight.
fn differences(form: &Form, known: &Weights, path: &str, all: &[Sample]) -> Vec<Vec<f64>> {
    let mut known = known.clone();
    // The error is of the order of step², and of the f64 rounding of a loss divided by the step.
    const STEP: f64 = 1e-5;
    let count = known.get(path).unwrap_or_else(|| panic!("no weight is called {path}")).values.len();
    let mut gradients = vec![vec![0.0; count]; all.len()];
    for at in 0..count {
        for sign in [1.0, -1.0] {
            let entry = |known: &mut Weights, by: f64| known.get_mut(path).expect("found above").values[at] += by;
            entry(&mut known, sign * STEP);
            for (sample, gradient) in all.iter().zip(&mut gradients) {
                let value = loss(form, &known, &sample.tokens, &sample.segments, sample.label);
                gradient[at] += sign * value / (2.0 * STEP);
            }
            entry(&mut known, -sign * STEP);
        }
    }
    gradients
}

#[test]
fn bert_is_its_definition() {
    check("BERT", BERT, HeadKind::Pooler);
}

#[test]
fn roberta_is_its_definition() {
    check("RoBERTa", ROBERTA, HeadKind::Dense);
}

#[test]
fn minilm_with_a_mean_is_its_definition() {
    check("MiniLM", BERT, HeadKind::Mean);
}

#[test]
fn the_pre_ln_encoder_is_its_definition() {
    check("pre-LN", SIZES, HeadKind::Mean);
}

#[test]
fn other_activations_are_their_definitions() {
    check("tanh", EncoderConfig { activation: Activation::GeluTanh, ..BERT }, HeadKind::Pooler);
    check("ReLU", EncoderConfig { activation: Activation::Relu, ..ROBERTA }, HeadKind::Dense);
}

#[test]
fn batch_mates_change_no_logit_and_no_gradient() {
    for (config, head) in [(BERT, HeadKind::Pooler), (ROBERTA, HeadKind::Dense), (SIZES, HeadKind::Mean)] {
        for (name, dtype, epsilon, device) in every_precision() {
            let model = classifier(config, head, &device).map(&mut Cast(dtype));
            for seed in 0..4 {
                let all = samples(&config, 100 * seed);
                let run = |samples: &[&Sample]| {
                    let batch = model.collate(samples).expect("the samples fit");
                    let logits = values(model.forward(&batch, &mut Tape::off()));
                    let found = gradients(&model, &batch, Target::Loss).expect("the model is well-formed");
                    let rows = |i| found.blocks.iter().flat_map(|b| values(b.clone().narrow(0, i, 1))).collect();
                    (logits, (0..samples.len()).map(rows).collect::<Vec<Vec<f64>>>())
                };
                let (logits, together) = run(&refs(&all));
                for (i, sample) in all.iter().enumerate() {
                    let what = format!("{name}, {config:?}, seed {seed}, sample {i}");
                    let (expected, alone) = run(&[sample]);
                    // 1e-5 in f32, relative to the sample's own values: its mates' may be larger.
                    assert_close(&what, &logits[i * 3..(i + 1) * 3], &expected, 80.0 * epsilon);
                    assert_close(&what, &together[i], &alone[0], 80.0 * epsilon);
                }
            }
        }
    }
}

#[test]
fn samples_that_do_not_fit_an_encoder_are_errors() {
    let (_, device) = devices().remove(0);
    let check = |config: EncoderConfig, segments: Vec<u32>, expected: &str| {
        let model = classifier(config, HeadKind::Mean, &device);
        let error = model.collate(&[&Sample { tokens: vec![1, 2], segments, label: 0 }]).expect_err("does not fit");
        assert_eq!(error.to_string(), expected);
    };
    check(BERT, vec![0], "sample 0 has 1 segments for 2 tokens");
    check(BERT, vec![0, 2], "sample 0 contains segment 2, but the model has 2");
    check(SIZES, vec![0, 1], "sample 0 contains segment 1, but the model has 1");
    let none = classifier(SIZES, HeadKind::Mean, &device);
    assert!(none.collate(&[&Sample { tokens: vec![1], segments: vec![0], label: 0 }]).is_ok(), "0 says nothing");

    let encoder = Encoder::new(ROBERTA, 0, &device).expect("valid sizes");
    let error =
        EncoderClassifier::new(encoder, HeadKind::Pooler, 3, RecordedLayers::Adapters, 0).expect_err("no pooler");
    assert!(matches!(error, ModelError::NoPooler), "{error}");
    let error = Encoder::new(EncoderConfig { norm_epsilon: 0.0, ..BERT }, 0, &device).expect_err("no epsilon");
    assert_eq!(error.to_string(), "`norm_epsilon` is 0, but must be positive and finite");
}

#[test]
fn a_sentence_embedding_is_the_mean_of_its_own_tokens() {
    for (name, device) in devices() {
        let encoder = classifier(BERT, HeadKind::Mean, &device).encoder;
        let all = samples(&BERT, 9);
        let tokens: Vec<&[u32]> = all.iter().map(|s| s.tokens.as_slice()).collect();
        let batch = TokenBatch::new(&tokens, &BERT, &device).expect("the sequences fit");
        let (hidden, pooled) =
            (values(encoder.forward(&batch, &mut Tape::off())), values(encoder.pooled(&batch, &mut Tape::off())));
        let expected: Vec<f64> = (0..all.len() * 12)
            .map(|at| {
                let (i, j, length) = (at / 12, at % 12, tokens[at / 12].len());
                (0..length).map(|position| hidden[(i * 9 + position) * 12 + j]).sum::<f64>() / length as f64
            })
            .collect();
        assert_close(&name, &pooled, &expected, 1e-6);
    }
}
