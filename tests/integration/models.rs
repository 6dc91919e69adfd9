//! LoRA layers, the transformer classifier, training, and weights by path.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use hyperinf::gradients::{Gradients, Tape, Target, Task, gradients, gradients_looped};
use hyperinf::models::{
    ALL_LINEAR, Activation, Encoder, EncoderClassifier, EncoderConfig, EncoderFamily, HeadKind, LabelledBatch,
    LoraConfig, LoraScaling, ModelError, NormPlacement, Recorded, Sample, TextModel, TokenBatch, TrainConfig, adapt,
    finetune, load_weights, pretrain_masked, train, weights,
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

fn classifier(recorded: Recorded, targets: &[&str], device: &Device) -> EncoderClassifier {
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
        let model = classifier(Recorded::AdaptersAndHead, &QUERY_VALUE, &device);
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
    assert_eq!(names(Recorded::Adapters, &QUERY_VALUE), adapters);
    let with_head = names(Recorded::AdaptersAndHead, &QUERY_VALUE);
    assert_eq!(with_head[8..], ["base_model.model.classifier.weight 13x3"]);
    let feed_forward = names(Recorded::Adapters, &["intermediate.dense", "output.dense"]);
    assert_eq!(feed_forward[0], "layers.0.fc1.lora_A.weight 12x2");
    assert_eq!(feed_forward[3], "layers.0.fc2.lora_B.weight 2x12");
}

#[test]
fn recorded_gradients_equal_one_backward_pass_per_sample() {
    let all = samples();
    for (name, device) in devices() {
        let mut model = classifier(Recorded::Adapters, &[ALL_LINEAR], &device);
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
    let model = classifier(Recorded::Adapters, &QUERY_VALUE, &device);
    let check = |tokens: Vec<u32>, label: usize, expected: &str| {
        let good = Sample { tokens: vec![1], ..Sample::default() };
        let error = model
            .collate(&[&good, &Sample { tokens, label, ..Sample::default() }])
            .expect_err("does not fit")
            .to_string();
        assert_eq!(error, expected);
    };
    check(vec![], 0, "sample 1 has 0 tokens, but the model takes 1 to 9");
    check(vec![1; 10], 0, "sample 1 has 10 tokens, but the model takes 1 to 9");
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
    let error =
        EncoderClassifier::new(encoder, HeadKind::Mean, 1, Recorded::Adapters, 0).expect_err("one class").to_string();
    assert!(error.contains("`classes` is 1"), "{error}");
}

/// Class 0 starts with token 1, class 1 with token 2, class 2 with token 3.
fn learnable() -> Vec<Sample> {
    (0..48u32)
        .map(|i| {
            let label = i % 3;
            let tokens = (0..3 + i % 5).map(|at| if at == 0 { 1 + label } else { 4 + (i * 7 + at * at) % 7 }).collect();
            Sample { tokens, label: label as usize, ..Sample::default() }
        })
        .collect()
}

const SCHEDULE: TrainConfig =
    TrainConfig { learning_rate: 2e-2, warmup: 0.1, weight_decay: 0.01, epochs: 12, batch_size: 8, seed: 1 };

#[test]
fn finetuning_learns_and_leaves_the_base_alone() {
    for (name, device) in devices() {
        let model = classifier(Recorded::Adapters, &QUERY_VALUE, &device);
        let before = weights(&model).expect("weights can be read");
        let mut losses = Vec::new();
        let model = finetune(model, &learnable(), &SCHEDULE, |p| losses.push(p.loss)).expect("training works");
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        assert_eq!(losses.len(), 12 * 6, "{name}");
        let (first, last) = (mean(&losses[..6]), mean(&losses[66..]));
        assert!(last < 0.25 * first, "{name}: the loss went from {first} to {last}");
        for (path, data) in weights(&model).expect("weights can be read") {
            let trained = path.contains("lora_") || path.starts_with("classifier");
            assert_eq!(data != before[&path], trained, "{name}: {path}");
        }
    }
}

#[test]
fn equal_seeds_give_equal_models() {
    for (name, device) in devices() {
        let run = |seed: u64| {
            let model = classifier(Recorded::Adapters, &QUERY_VALUE, &device);
            let config = TrainConfig { epochs: 2, seed, ..SCHEDULE };
            weights(&finetune(model, &learnable(), &config, |_| {}).expect("training works")).expect("readable")
        };
        assert_eq!(run(1), run(1), "{name}");
        assert_ne!(run(1), run(2), "{name}");
        let start = |seed: u64| weights(&Encoder::new(SIZES, seed, &device).expect("valid sizes")).expect("readable");
        assert_eq!(start(1), start(1), "{name}");
        assert_ne!(start(1), start(2), "{name}");
    }
}

#[test]
fn the_learning_rate_rises_and_falls_linearly() {
    let config = TrainConfig { learning_rate: 8.0, warmup: 0.2, ..TrainConfig::default() };
    let found: Vec<f64> = (0..10).map(|step| config.learning_rate_at(step, 10)).collect();
    assert_eq!(found, [4.0, 8.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]);
    let no_rise = TrainConfig { warmup: 0.0, ..config };
    assert_eq!(no_rise.learning_rate_at(0, 4), 8.0);
    assert_eq!(config.learning_rate_at(0, 1), 8.0);
}

#[test]
fn training_settings_out_of_range_are_errors() {
    let check = |config: TrainConfig, expected: &str| {
        let error = config.validate().expect_err("out of range").to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(TrainConfig { learning_rate: 0.0, ..SCHEDULE }, "`learning_rate` is 0");
    check(TrainConfig { learning_rate: f64::INFINITY, ..SCHEDULE }, "`learning_rate` is inf");
    check(TrainConfig { warmup: 1.0, ..SCHEDULE }, "`warmup` is 1");
    check(TrainConfig { weight_decay: -0.5, ..SCHEDULE }, "`weight_decay` is -0.5");
    check(TrainConfig { epochs: 0, ..SCHEDULE }, "`epochs` is 0");
    check(TrainConfig { batch_size: 0, ..SCHEDULE }, "`batch_size` is 0");
}

#[test]
fn training_that_cannot_work_is_an_error() {
    let (_, device) = devices().remove(0);
    let model = classifier(Recorded::Adapters, &QUERY_VALUE, &device);
    let run = |model: &EncoderClassifier, samples: &[Sample], config: TrainConfig| {
        finetune(model.clone(), samples, &config, |_| {}).expect_err("cannot work")
    };
    let wild = TrainConfig { learning_rate: 1e30, ..SCHEDULE };
    assert!(matches!(run(&model, &learnable(), wild), ModelError::Diverged { step: 1.., .. }));
    assert!(matches!(run(&model, &[], SCHEDULE), ModelError::Empty { .. }));
    let frozen = model.clone().no_grad();
    assert!(matches!(run(&frozen, &learnable(), SCHEDULE), ModelError::Frozen));
}

#[test]
fn every_sample_is_seen_once_per_epoch_in_batches_of_like_length() {
    let (_, device) = devices().remove(0);
    let lengths: Vec<usize> = (0..50).map(|i| 1 + i * 13 % 40).collect();
    let config = TrainConfig { epochs: 2, batch_size: 4, ..SCHEDULE };
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let losses = |model: &Linear, rows: &[usize]| {
        batches.push(rows.to_vec());
        Ok(model.forward(Tensor::<2>::ones([rows.len(), 5], &device.clone().autodiff())).sum_dim(1).squeeze_dim(1))
    };
    train(linear(5, 4, &device), &lengths, &config, losses, |_| {}).expect("training works");
    let epochs: Vec<&[Vec<usize>]> = batches.chunks(13).collect();
    assert_eq!(epochs.len(), 2);
    for epoch in &epochs {
        let mut seen: Vec<usize> = epoch.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
    }
    assert_ne!(epochs[0], epochs[1], "the order changes from epoch to epoch");
    let padding: usize =
        batches.iter().map(|rows| rows.iter().map(|&r| lengths[r]).max().unwrap_or(0) * rows.len()).sum::<usize>()
            - 2 * lengths.iter().sum::<usize>();
    // Unsorted batches of four lengths uniform up to 40 would pad about 12 positions per sample.
    assert!(padding < 2 * 50 * 4, "{padding} padded positions");
}

#[test]
fn masked_pretraining_learns_a_pattern() {
    for (name, device) in devices() {
        let sequences: Vec<Vec<u32>> = (0..64).map(|i| (0..9).map(|at| 1 + (i + at) % 5).collect()).collect();
        let config = TrainConfig { learning_rate: 5e-3, epochs: 25, ..SCHEDULE };
        let mut losses = Vec::new();
        let encoder = Encoder::new(SIZES, 2, &device).expect("valid sizes");
        let before = weights(&encoder).expect("weights can be read");
        let encoder = pretrain_masked(encoder, &sequences, 10, &config, |p| losses.push(p.loss)).expect("works");
        let last = losses[losses.len() - 20..].iter().sum::<f64>() / 20.0;
        // ln 5 = 1.61 is what ignoring the neighbours gives.
        assert!(last < 0.8, "{name}: the loss is {last}");
        for (path, data) in weights(&encoder).expect("weights can be read") {
            assert_ne!(data, before[&path], "{name}: {path} was not trained");
        }
    }
    let (_, device) = devices().remove(0);
    let encoder = Encoder::new(SIZES, 2, &device).expect("valid sizes");
    let error = pretrain_masked(encoder, &[vec![1]], 11, &SCHEDULE, |_| {}).expect_err("no such token");
    assert!(error.to_string().contains("`mask_token` is 11"), "{error}");
}

#[test]
fn weights_are_found_by_their_paths() {
    for (name, device) in devices() {
        let model = |seed: u64| Encoder::new(SIZES, seed, &device).expect("valid sizes");
        let saved = weights(&model(1)).expect("weights can be read");
        assert!(
            saved.contains_key("base_model.model.bert.encoder.layer.0.attention.self.query.weight"),
            "{name}: {:?}",
            saved.keys()
        );
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
