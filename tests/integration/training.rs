//! Training and fine-tuning: the schedule, AdamW, accumulation, early stopping, checkpoints.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, TensorData};
use hyperinf::gradients::{Tape, Task};
use hyperinf::models::{
    Checkpoints, Encoder, EncoderClassifier, FinetuneConfig, FinetunedModel, ModelError, OptimizerChoice, Progress,
    RecordedLayers, Sample, SampleModel, TrainConfig, finetune, pretrain_masked, train, weights,
};
use hyperinf_tests::compare::{assert_close, values};
use hyperinf_tests::devices;

use crate::models::{QUERY_VALUE, SIZES, classifier, linear};

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

const SCHEDULE: TrainConfig = TrainConfig {
    learning_rate: 2e-2,
    warmup: 0.1,
    optimizer: OptimizerChoice::AdamW,
    weight_decay: 0.01,
    epochs: 12,
    batch_size: 8,
    by_length: true,
    seed: 1,
};

fn tuned(
    model: EncoderClassifier,
    samples: &[Sample],
    schedule: TrainConfig,
    progress: impl FnMut(&Progress),
) -> Result<EncoderClassifier, ModelError> {
    let config = FinetuneConfig { schedule, ..FinetuneConfig::default() };
    finetune(model, samples, None, &config, progress).map(|tuned| tuned.model)
}

fn model(device: &Device) -> EncoderClassifier {
    classifier(RecordedLayers::AdaptersAndHead, &QUERY_VALUE, device)
}

fn read(model: &EncoderClassifier) -> BTreeMap<String, TensorData> {
    weights(model).expect("weights can be read")
}

#[test]
fn finetuning_learns_and_leaves_the_base_alone() {
    for (name, device) in devices() {
        let model = classifier(RecordedLayers::Adapters, &QUERY_VALUE, &device);
        let before = weights(&model).expect("weights can be read");
        let mut losses = Vec::new();
        let model = tuned(model, &learnable(), SCHEDULE, |p| losses.push(p.loss)).expect("training works");
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
            let model = classifier(RecordedLayers::Adapters, &QUERY_VALUE, &device);
            let config = TrainConfig { epochs: 2, seed, ..SCHEDULE };
            weights(&tuned(model, &learnable(), config, |_| {}).expect("training works")).expect("readable")
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
    let model = classifier(RecordedLayers::Adapters, &QUERY_VALUE, &device);
    let run = |model: &EncoderClassifier, samples: &[Sample], config: TrainConfig| {
        tuned(model.clone(), samples, config, |_| {}).expect_err("cannot work")
    };
    let wild = TrainConfig { learning_rate: 1e30, ..SCHEDULE };
    assert!(matches!(run(&model, &learnable(), wild), ModelError::Diverged { step: 1.., .. }));
    // √ has no derivative at 0, and after the only step there is no loss that would tell.
    let losses = |model: &Linear, rows: &[usize]| {
        let outputs = model.forward(Tensor::<2>::ones([rows.len(), 5], &device.clone().autodiff()));
        Ok(outputs.mul_scalar(0.0).sum_dim(1).squeeze_dim::<1>(1).sqrt())
    };
    let one = TrainConfig { epochs: 1, ..SCHEDULE };
    let error = train(linear(5, 4, &device), &[1; 8], &one, losses, |_| {}).expect_err("its gradient is no number");
    assert!(matches!(error, ModelError::GradientDiverged { step: 0, .. }), "{error}");
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

/// With a gradient of 1 everywhere both moments are 1 after their corrections, so that a step is
/// `w ← w (1 − η·decay) − η/(1 + ε)`.
#[test]
fn adamw_follows_its_definition() {
    for (name, device) in devices() {
        let config = TrainConfig { epochs: 3, batch_size: 4, weight_decay: 0.3, learning_rate: 0.05, ..SCHEDULE };
        let losses = |model: &Linear, rows: &[usize]| {
            Ok(model.forward(Tensor::<2>::ones([rows.len(), 5], &device.clone().autodiff())).sum_dim(1).squeeze_dim(1))
        };
        let start = linear(5, 4, &device);
        let mut expected = values(start.weight.val());
        let trained = train(start, &[1; 8], &config, losses, |_| {}).expect("training works");
        for step in 0..6 {
            let rate = config.learning_rate_at(step, 6);
            expected.iter_mut().for_each(|w| *w = *w * (1.0 - rate * 0.3) - rate / (1.0 + 1e-8));
        }
        // Six steps in f32.
        assert_close(&name, &values(trained.weight.val()), &expected, 1e-5);
    }
}

#[test]
fn pieces_of_a_batch_are_as_good_as_the_batch() {
    for (name, device) in devices() {
        let schedule = TrainConfig { epochs: 2, ..SCHEDULE };
        let run = |micro_batch: Option<usize>| {
            let config = FinetuneConfig { schedule, micro_batch, ..FinetuneConfig::default() };
            let mut losses = Vec::new();
            let tuned = finetune(model(&device), &learnable()[..44], None, &config, |p| losses.push(p.loss));
            (read(&tuned.expect("training works").model), losses)
        };
        let (whole, whole_losses) = run(None);
        // 3 does not divide the batch of 8, and the last batch has 4.
        let (pieces, losses) = run(Some(3));
        assert_close(&format!("{name}: losses"), &losses, &whole_losses, 1e-4);
        for (path, data) in &whole {
            let of = |data: &TensorData| data.iter::<f64>().collect::<Vec<f64>>();
            // AdamW divides by the gradient's own size, which enlarges the rounding of small gradients.
            assert_close(&format!("{name}: {path}"), &of(&pieces[path]), &of(data), 1e-3);
        }
        assert_eq!(run(Some(8)).0, whole, "{name}: one piece is the batch");
    }
}

#[test]
fn large_gradients_are_scaled_down_together() {
    for (name, device) in devices() {
        let schedule = TrainConfig { epochs: 1, weight_decay: 0.0, ..SCHEDULE };
        let run = |clip_norm: Option<f64>| {
            let config = FinetuneConfig { schedule, clip_norm, ..FinetuneConfig::default() };
            read(&finetune(model(&device), &learnable(), None, &config, |_| {}).expect("training works").model)
        };
        let free = run(None);
        assert_eq!(run(Some(1e6)), free, "{name}: nothing is as large as that");
        // Far below AdamW's epsilon of 1e-8 a gradient g gives a step of η·|g|/ε, here at most η·1e-6.
        let start = read(&model(&device));
        for (path, data) in run(Some(1e-14)) {
            let moved = data.iter::<f64>().zip(start[&path].iter::<f64>()).map(|(x, y)| (x - y).abs());
            let moved = moved.fold(0.0, f64::max);
            assert!(moved <= 6.0 * 2e-2 * 1e-6 + 1e-7, "{name}: {path} moved by {moved}");
        }
    }
}

/// The right labels to learn from, and others to be judged by: learning must soon make it worse.
fn contrary() -> (Vec<Sample>, Vec<Sample>) {
    let train = learnable();
    let other = train.iter().take(10).map(|s| Sample { label: (s.label + 1) % 3, ..s.clone() }).collect();
    (train, other)
}

#[test]
fn the_best_parameters_are_returned_and_the_run_stops() {
    for (name, device) in devices() {
        let (train, validation) = contrary();
        let config = FinetuneConfig {
            schedule: SCHEDULE,
            evaluate_every: Some(4),
            patience: Some(3),
            micro_batch: Some(4),
            ..FinetuneConfig::default()
        };
        let mut evaluations = Vec::new();
        let tuned = finetune(model(&device), &train, Some(&validation), &config, |p| {
            evaluations.extend(p.validation.map(|loss| (p.step + 1, loss)));
        });
        let FinetunedModel { model, steps, best, stopped_early, resumed_at } = tuned.expect("training works");
        let best = best.expect("there were evaluations");
        assert!(stopped_early && steps < 72 && resumed_at.is_none(), "{name}: {steps} steps");
        assert!(evaluations.iter().all(|(step, _)| step % 4 == 0), "{name}: {evaluations:?}");
        let lowest = evaluations.iter().min_by(|a, b| a.1.total_cmp(&b.1)).expect("there were evaluations");
        assert_eq!((best.steps, best.loss), *lowest, "{name}");
        assert_eq!(steps, best.steps + 3 * 4, "{name}: three evaluations without improvement");
        let samples: Vec<&Sample> = validation.iter().collect();
        let batch = model.collate(&samples).expect("the samples fit");
        let losses = values(model.loss(model.forward(&batch, &mut Tape::off()), &batch));
        assert_close(&name, &[losses.iter().sum::<f64>() / 10.0], &[best.loss], 1e-5);
    }
}

/// A new, empty folder.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("hyperinf-training-{}-{name}", std::process::id()));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("it is a test's own");
    }
    folder
}

fn files(folder: &PathBuf) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_resumed_run_ends_as_an_unbroken_one() {
    for (name, device) in devices() {
        let (train, validation) = contrary();
        let folder = folder(&format!("resume-{name}"));
        let run = |checkpoints: Option<Checkpoints>, validation: Option<&[Sample]>| {
            let config = FinetuneConfig {
                schedule: TrainConfig { epochs: 3, ..SCHEDULE },
                evaluate_every: validation.map(|_| 4),
                clip_norm: Some(0.5),
                checkpoints,
                ..FinetuneConfig::default()
            };
            finetune(model(&device), &train, validation, &config, |_| {}).expect("training works")
        };
        for validation in [None, Some(validation.as_slice())] {
            let new = Checkpoints { every: 5, ..Checkpoints::new(&folder) };
            let straight = run(None, validation);
            assert_eq!(read(&run(Some(new.clone()), validation).model), read(&straight.model), "{name}");
            // 18 steps; of the checkpoints after 5, 10 and 15 the newest two are kept.
            assert_eq!(files(&folder), ["step-00000010.safetensors", "step-00000015.safetensors"], "{name}");
            std::fs::remove_file(folder.join("step-00000015.safetensors")).expect("it is there");
            let resumed = run(Some(Checkpoints { resume: true, ..new }), validation);
            assert_eq!(resumed.resumed_at, Some(10), "{name}");
            assert_eq!(resumed.steps, 18, "{name}");
            assert_eq!(resumed.best, straight.best, "{name}");
            assert_eq!(read(&resumed.model), read(&straight.model), "{name}: bit for bit");
            std::fs::remove_dir_all(&folder).expect("it is the test's own");
        }
    }
}

#[test]
fn checkpoints_of_another_run_are_errors() {
    let (_, device) = devices().remove(0);
    let folder = folder("other");
    let run = |seed: u64, train: &[Sample], resume: bool| {
        let config = FinetuneConfig {
            schedule: TrainConfig { epochs: 1, seed, ..SCHEDULE },
            checkpoints: Some(Checkpoints { every: 2, keep: 1, resume, ..Checkpoints::new(&folder) }),
            ..FinetuneConfig::default()
        };
        finetune(model(&device), train, None, &config, |_| {})
    };
    let samples = learnable();
    assert_eq!(run(1, &samples, true).expect("there is nothing to resume").resumed_at, None);
    assert!(matches!(run(1, &samples, false), Err(ModelError::CheckpointExists { step: 6, .. })));

    let mut relabelled = samples.clone();
    relabelled[17].label = (relabelled[17].label + 1) % 3;
    match run(2, &relabelled, true) {
        Err(ModelError::CheckpointDiffers { differences, .. }) => {
            let what: Vec<&str> = differences.iter().map(|d| d.what.as_str()).collect();
            assert_eq!(what, ["seed", "training samples"]);
            assert_eq!((differences[0].checkpoint.as_str(), differences[0].run.as_str()), ("1", "2"));
        }
        other => panic!("{other:?}"),
    }

    let settings = [("scale".to_owned(), "2".to_owned())].into();
    let config = FinetuneConfig {
        schedule: TrainConfig { epochs: 1, seed: 1, ..SCHEDULE },
        checkpoints: Some(Checkpoints { resume: true, settings, ..Checkpoints::new(&folder) }),
        ..FinetuneConfig::default()
    };
    match finetune(model(&device), &samples, None, &config, |_| {}) {
        Err(ModelError::CheckpointDiffers { differences, .. }) => {
            assert_eq!(differences.len(), 1);
            assert_eq!(differences[0].to_string(), "scale was absent, is 2");
        }
        other => panic!("{other:?}"),
    }

    std::fs::remove_dir_all(&folder).expect("it is the test's own");
}

#[test]
fn finetuning_settings_out_of_range_are_errors() {
    let (_, device) = devices().remove(0);
    let samples = learnable();
    let check = |config: FinetuneConfig, validation: Option<&[Sample]>, expected: &str| {
        let error = finetune(model(&device), &samples, validation, &config, |_| {}).expect_err("out of range");
        assert!(error.to_string().contains(expected), "{error}");
    };
    let config = FinetuneConfig { schedule: SCHEDULE, ..FinetuneConfig::default() };
    check(FinetuneConfig { micro_batch: Some(0), ..config.clone() }, None, "`micro_batch` is 0");
    check(FinetuneConfig { clip_norm: Some(f64::NAN), ..config.clone() }, None, "`clip_norm` is NaN");
    check(FinetuneConfig { patience: Some(0), ..config.clone() }, Some(&samples), "`patience` is 0");
    check(FinetuneConfig { patience: Some(1), ..config.clone() }, None, "no validation samples");
    check(config, Some(&[]), "no validation samples");
}
