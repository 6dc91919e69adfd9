//! LoRA layers, the transformer classifier, and weights by path.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use hyperinf::gradients::{Gradients, Tape, Target, Task, gradients, gradients_looped};
use hyperinf::models::{
    ALL_LINEAR, Activation, Encoder, EncoderClassifier, EncoderConfig, EncoderFamily, HeadKind, LabelledBatch,
    LoraConfig, LoraScaling, ModelError, NormPlacement, RecordedLayers, Sample, SampleModel, TokenBatch, adapt,
    load_weights, weights,
};
use hyperinf_tests::compare::{assert_close, assert_within, largest, values};
use hyperinf_tests::devices;

pub(crate) const SIZES: EncoderConfig = EncoderConfig {
    family: EncoderFamily::Bert,
    vocabulary: 11,
    max_tokens: 9,
    first_position: 0,
    segments: 0,
    width: 12,
    layers: 2,
    heads: 3,
    feed_forward: 20,
    norm: NormPlacement::Pre,
    norm_epsilon: 1e-5,
    activation: Activation::Gelu,
    pooler: false,
};
pub(crate) const QUERY_VALUE: [&str; 2] = ["query", "value"];
pub(crate) const LORA: LoraConfig = LoraConfig { rank: 2, alpha: 6.0, scaling: LoraScaling::Standard, dropout: 0.0 };
/// Rounding of f32 through two layers, relative to the largest value.
pub(crate) const TOLERANCE: f64 = 2e-6;

pub(crate) fn linear(rows: usize, cols: usize, device: &Device) -> Linear {
    let mut linear = LinearConfig::new(rows, cols).init(device);
    linear.weight = linear.weight.map(|w| ramp(w, 0.7));
    linear.bias = linear.bias.map(|b| b.map(|b| ramp(b, 0.3)));
    linear
}

/// Values without pattern, the same on every device, in place of a tensor's own.
pub(crate) fn ramp<const R: usize>(like: Tensor<R>, step: f64) -> Tensor<R> {
    let values: Vec<f64> = (0..like.shape().num_elements()).map(|i| (step * (i * i + 1) as f64).sin() * 0.5).collect();
    Tensor::from_data(TensorData::new(values, like.dims()), &like.device())
}

pub(crate) fn classifier(recorded: RecordedLayers, targets: &[&str], device: &Device) -> EncoderClassifier {
    let encoder = Encoder::new(SIZES, 5, device).and_then(|e| adapt(e, targets, &LORA, 6)).expect("valid sizes");
    let model = EncoderClassifier::new(encoder, HeadKind::Mean, 3, recorded, 7).expect("three classes");
    // Adapters that do something: with B = 0 the gradient of every A is 0.
    let trained = weights(&model).expect("weights can be read").into_iter().map(|(name, data)| {
        let data = if name.contains("lora_b") {
            let like: Tensor<2> = Tensor::from_data(data, device);
            ramp(like, 0.3).into_data()
        } else {
            data
        };
        (name, data)
    });
    load_weights(model, trained.collect()).expect("the names are the model's own")
}

fn samples() -> Vec<Sample> {
    [&[1, 2, 3][..], &[4, 6], &[5, 6, 7, 8, 9, 10, 1, 2, 3], &[2, 2], &[9, 1, 4, 4, 8, 3]]
        .iter()
        .enumerate()
        .map(|(i, tokens)| Sample { tokens: tokens.to_vec(), label: i % 3, ..Sample::default() })
        .collect()
}

fn logits(model: &EncoderClassifier, batch: &LabelledBatch) -> Vec<f64> {
    values(model.forward(batch, &mut Tape::off()))
}

/// A batch with more padding than it needs.
fn padded(batch: LabelledBatch, more: usize) -> LabelledBatch {
    let [n, _] = batch.tokens.tokens.dims();
    let device = batch.tokens.tokens.device();
    let tokens = Tensor::<2, Int>::full([n, more], 7, &device);
    let segments = tokens.zeros_like();
    let mask = Tensor::<2, Int>::zeros([n, more], &device).bool();
    LabelledBatch {
        tokens: TokenBatch {
            tokens: Tensor::cat(vec![batch.tokens.tokens, tokens], 1),
            segments: Tensor::cat(vec![batch.tokens.segments, segments], 1),
            mask: Tensor::cat(vec![batch.tokens.mask, mask], 1),
        },
        labels: batch.labels,
    }
}

#[test]
fn neither_padding_nor_mates_change_a_sample() {
    let all = samples();
    for (name, device) in devices() {
        let model = classifier(RecordedLayers::AdaptersAndHead, &QUERY_VALUE, &device);
        let take = |batch: &LabelledBatch| gradients(&model, batch, Target::Loss).expect("the model is well-formed");
        let together = model.collate(&all.iter().collect::<Vec<_>>()).expect("the samples fit");
        let (all_logits, all_gradients) = (logits(&model, &together), take(&together));
        for (i, sample) in all.iter().enumerate() {
            for more in [0, 9 - sample.tokens.len()] {
                let alone = padded(model.collate(&[sample]).expect("the sample fits"), more);
                let what = format!("{name}, sample {i}, {more} padded");
                assert_within(&what, &logits(&model, &alone), &all_logits[i * 3..(i + 1) * 3], TOLERANCE);
                for (l, found) in take(&alone).blocks.into_iter().enumerate() {
                    let expected = values(all_gradients.blocks[l].clone().narrow(0, i, 1));
                    assert!(largest(&expected) > 1e-4, "{what}: block {l} has no gradient to compare");
                    assert_close(&format!("{what}, block {l}"), &values(found), &expected, 10.0 * TOLERANCE);
                }
            }
        }
    }
}

#[test]
fn the_encoder_leaves_every_adapter_and_the_head() {
    let (_, device) = devices().remove(0);
    let names = |recorded, targets: &[&str]| -> Vec<String> {
        let model = classifier(recorded, targets, &device);
        let batch = model.collate(&samples().iter().collect::<Vec<_>>()).expect("the samples fit");
        let found = gradients(&model, &batch, Target::Loss).expect("the model is well-formed");
        found.layout.iter().map(|b| format!("{} {}x{}", b.name, b.rows, b.cols)).collect()
    };
    let adapters = [
        "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight 12x2",
        "base_model.model.bert.encoder.layer.0.attention.self.query.lora_B.weight 2x12",
        "base_model.model.bert.encoder.layer.0.attention.self.value.lora_A.weight 12x2",
        "base_model.model.bert.encoder.layer.0.attention.self.value.lora_B.weight 2x12",
        "base_model.model.bert.encoder.layer.1.attention.self.query.lora_A.weight 12x2",
        "base_model.model.bert.encoder.layer.1.attention.self.query.lora_B.weight 2x12",
        "base_model.model.bert.encoder.layer.1.attention.self.value.lora_A.weight 12x2",
        "base_model.model.bert.encoder.layer.1.attention.self.value.lora_B.weight 2x12",
    ];
    assert_eq!(names(RecordedLayers::Adapters, &QUERY_VALUE), adapters);
    let with_head = names(RecordedLayers::AdaptersAndHead, &QUERY_VALUE);
    assert_eq!(with_head[8..], ["base_model.model.classifier.weight 13x3"]);
    let feed_forward = names(RecordedLayers::Adapters, &["intermediate.dense", "output.dense"]);
    // A target is an end of a name: this one is also an end of `attention.output.dense`.
    assert_eq!(feed_forward[0], "base_model.model.bert.encoder.layer.0.attention.output.dense.lora_A.weight 12x2");
    assert_eq!(feed_forward[2], "base_model.model.bert.encoder.layer.0.intermediate.dense.lora_A.weight 12x2");
    assert_eq!(feed_forward[5], "base_model.model.bert.encoder.layer.0.output.dense.lora_B.weight 2x12");
}

#[test]
fn recorded_gradients_equal_one_backward_pass_per_sample() {
    let all = samples();
    for (name, device) in devices() {
        let mut model = classifier(RecordedLayers::Adapters, &[ALL_LINEAR], &device);
        model.classifier = model.classifier.no_grad();
        let batch = model.collate(&all.iter().collect::<Vec<_>>()).expect("the samples fit");
        let found = gradients(&model, &batch, Target::Loss).expect("the model is well-formed");
        let looped: Gradients = gradients_looped(&model.train(), all.len(), |model, i| {
            let batch = model.collate(&[&all[i]]).expect("the sample fits");
            model.loss(model.forward(&batch, &mut Tape::off()), &batch)
        })
        .expect("the loop works for every module");
        assert_eq!(found.layout.len(), looped.layout.len(), "{name}: only adapters are trained");
        for (block, tensor) in found.layout.iter().zip(&found.blocks) {
            let path = path_of(&block.name);
            let at = looped.layout.iter().position(|b| b.name == path).unwrap_or_else(|| panic!("no {path}"));
            let expected = values(looped.blocks[at].clone());
            assert!(largest(&expected) > 1e-4, "{path}: no gradient to compare");
            assert_close(&format!("{name}, {path}"), &values(tensor.clone()), &expected, 10.0 * TOLERANCE);
        }
    }
}

/// The path of a BERT block's parameter in the module, variants of enums included.
pub(crate) fn path_of(block: &str) -> String {
    [
        ("base_model.model.bert.encoder.layer.", "encoder.layers."),
        ("base_model.model.bert.pooler.dense.", "encoder.pooler.Lora."),
        (".attention.self.query.", ".q_proj.Lora."),
        (".attention.self.key.", ".k_proj.Lora."),
        (".attention.self.value.", ".v_proj.Lora."),
        (".attention.output.dense.", ".out_proj.Lora."),
        (".intermediate.dense.", ".fc1.Lora."),
        (".output.dense.", ".fc2.Lora."),
        ("lora_A", "lora_a"),
        ("lora_B", "lora_b"),
    ]
    .iter()
    .fold(block.to_owned(), |name, (published, own)| name.replace(published, own))
}

#[test]
fn samples_that_do_not_fit_are_errors() {
    let (_, device) = devices().remove(0);
    let model = classifier(RecordedLayers::Adapters, &QUERY_VALUE, &device);
    let check = |tokens: Vec<u32>, label: usize, expected: &str| {
        let good = Sample { tokens: vec![1], ..Sample::default() };
        let error = model
            .collate(&[&good, &Sample { tokens, label, ..Sample::default() }])
            .expect_err("does not fit")
            .to_string();
        assert_eq!(error, expected);
    };
    check(vec![], 0, "sample 1 has 0 tokens, but the model accepts 1 to 9");
    check(vec![1; 10], 0, "sample 1 has 10 tokens, but the model accepts 1 to 9");
    check(vec![3, 11], 0, "sample 1 contains token 11, but the vocabulary has 11");
    check(vec![3], 3, "sample 1 has label 3, but the model has 3 classes");
    assert!(matches!(model.collate(&[]), Err(ModelError::Empty { .. })));
}

#[test]
fn sizes_out_of_range_are_errors() {
    let (_, device) = devices().remove(0);
    let check = |sizes: EncoderConfig, expected: &str| {
        let error = Encoder::new(sizes, 0, &device).expect_err("out of range").to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(EncoderConfig { layers: 0, ..SIZES }, "`layers` is 0");
    check(EncoderConfig { heads: 5, ..SIZES }, "`heads` is 5, but must be a divisor of `width`");
    let encoder = Encoder::new(SIZES, 0, &device).expect("valid sizes");
    assert!(matches!(adapt(encoder.clone(), &[], &LORA, 0), Err(ModelError::Empty { .. })));
    let error = EncoderClassifier::new(encoder, HeadKind::Mean, 1, RecordedLayers::Adapters, 0)
        .expect_err("one class")
        .to_string();
    assert!(error.contains("`classes` is 1"), "{error}");
}

#[test]
fn weights_are_found_by_their_paths() {
    for (name, device) in devices() {
        let model = |seed: u64| Encoder::new(SIZES, seed, &device).expect("valid sizes");
        let saved = weights(&model(1)).expect("weights can be read");
        assert!(saved.contains_key("layers.0.q_proj.weight"), "{name}: {:?}", saved.keys());
        let loaded = load_weights(model(2), saved.clone()).expect("the names are the encoder's own");
        assert_eq!(weights(&loaded).expect("weights can be read"), saved, "{name}");

        let mut renamed = saved.clone();
        let moved = renamed.remove("norm.gamma").expect("the last normalisation");
        renamed.insert("norm.scale".into(), moved);
        match load_weights(model(2), renamed) {
            Err(ModelError::WeightNames { missing, unused }) => {
                assert_eq!((missing, unused), (vec!["norm.gamma".into()], vec!["norm.scale".into()]), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
        let mut short = saved;
        short.insert("norm.gamma".into(), TensorData::new(vec![1f32; 3], [3]));
        let error = load_weights(model(2), short).expect_err("the shape differs").to_string();
        assert_eq!(error, "weight `norm.gamma` is [3], but the model needs [12]", "{name}");
    }
}

pub(crate) fn difference(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| x - y).collect()
}
