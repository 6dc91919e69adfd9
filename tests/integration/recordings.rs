//! Recordings of trainings: they replay to the bit, and those of other trainings are refused.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use hyperinf::models::{
    Checkpoints, Encoder, EncoderClassifier, FinetuneConfig, HeadKind, LoraConfig, ModelError, RecordedLayers,
    Recording, Sample, TrainConfig, Unroll, Unrolled, adapt, finetune, finetune_until, weights, without_dropout,
};
use hyperinf_tests::compare::largest;
use hyperinf_tests::devices;

use crate::models::{QUERY_VALUE, SIZES};
use crate::unrolled::alone;

pub fn samples(count: u32) -> Vec<Sample> {
    let sample = |i: u32| {
        let tokens = (0..2 + i % 4).map(|at| if at == 0 { 1 + i % 3 } else { 4 + (i * 5 + at) % 6 }).collect();
        Sample { tokens, label: (i % 3) as usize, ..Sample::default() }
    };
    (0..count).map(sample).collect()
}

/// With dropout. Its second factors start at 0, so that the first ones have no gradient in the first step.
fn adapted(device: &Device) -> EncoderClassifier {
    let lora = LoraConfig { rank: 2, dropout: 0.25, ..LoraConfig::default() };
    let encoder = Encoder::new(SIZES, 5, device).and_then(|encoder| adapt(encoder, &QUERY_VALUE, &lora, 6));
    let recorded = RecordedLayers::AdaptersAndHead;
    EncoderClassifier::new(encoder.expect("valid sizes"), HeadKind::Mean, 3, recorded, 7).expect("three classes")
}

/// 9 steps.
fn recorded(folder: &Path, every: usize) -> FinetuneConfig {
    let checkpoints = Checkpoints { every, record: true, resume: true, ..Checkpoints::new(folder) };
    let schedule = TrainConfig { learning_rate: 1e-2, epochs: 3, batch_size: 5, seed: 1, ..TrainConfig::default() };
    FinetuneConfig { schedule, micro_batch: Some(2), checkpoints: Some(checkpoints), ..FinetuneConfig::default() }
}

/// Trains, and writes the recording.
fn written(
    device: &Device,
    folder: &Path,
    every: usize,
    validation: Option<&[Sample]>,
) -> (EncoderClassifier, Vec<u8>) {
    let config = recorded(folder, every);
    let tuned = finetune(adapted(device), &samples(13), validation, &config, |_| {}).expect("training works");
    let mut bytes = Vec::new();
    let checkpoints = config.checkpoints.as_ref().expect("it has some");
    Recording::write(&tuned, checkpoints, &folder.join("out"), &mut bytes).expect("all states are there");
    (tuned.model, bytes)
}

fn followed(device: &Device, train: &[Sample], recording: &Recording) -> Result<Unrolled, ModelError> {
    let model = adapted(device);
    let measured = without_dropout(model.clone());
    let queries = samples(4);
    let (model, measured) = (&model, &measured);
    Unroll { model, measured, train, queries: &queries, mean: true, recording, length: None }
        .run(|_| ControlFlow::Continue(()))
}

#[test]
fn recordings_replay_to_the_bit() {
    alone("recordings::recordings_replay_to_the_bit", recordings_replay_to_the_bit_alone);
}

fn recordings_replay_to_the_bit_alone() {
    for (name, device) in devices() {
        let mut scores: Vec<Vec<f64>> = Vec::new();
        for every in [1, 4, 100] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let (model, bytes) = written(&device, &folder.path().join("checkpoints"), every, None);
            let path = folder.path().join(Recording::FILE);
            fs::write(&path, &bytes).expect("writable");
            let recording = Recording::open(&path).expect("it was written");
            assert_eq!(recording.states(), (0..9).step_by(every).collect::<Vec<_>>(), "{name}");
            assert_eq!((recording.steps(), recording.version()), (9, env!("CARGO_PKG_VERSION")), "{name}");
            recording.check(&adapted(&device), &samples(13), Default::default()).expect("it is this training");
            let ended = recording.apply(adapted(&device)).expect("its parameters fit");
            assert_eq!(weights(&ended).expect("readable"), weights(&model).expect("readable"), "{name}");
            let found = followed(&device, &samples(13), &recording).expect("it replays");
            assert!(found.error < 2e-2, "{name}: {}", found.error);
            assert!(largest(&found.scores[0]) > 1e-4, "{name}: {:?}", found.scores);
            scores.extend(found.scores);
        }
        assert_eq!(scores[0], scores[1], "{name}");
        assert_eq!(scores[0], scores[2], "{name}");
    }
}

#[test]
fn the_steps_to_the_best_evaluation_are_followed() {
    alone(
        "recordings::the_steps_to_the_best_evaluation_are_followed",
        the_steps_to_the_best_evaluation_are_followed_alone,
    );
}

fn the_steps_to_the_best_evaluation_are_followed_alone() {
    let (_, device) = devices().remove(0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Labels that the training makes worse and worse.
    let other: Vec<Sample> = samples(6).into_iter().map(|s| Sample { label: (s.label + 1) % 3, ..s }).collect();
    let (model, bytes) = written(&device, &folder.path().join("checkpoints"), 2, Some(&other));
    let path = folder.path().join(Recording::FILE);
    fs::write(&path, &bytes).expect("writable");
    let recording = Recording::open(&path).expect("it was written");
    assert_eq!((recording.steps(), recording.states()), (3, vec![0, 2]));
    let ended = recording.apply(adapted(&device)).expect("its parameters fit");
    assert_eq!(weights(&ended).expect("readable"), weights(&model).expect("readable"));
    assert_eq!(followed(&device, &samples(13), &recording).expect("it replays").steps, 3);
}

#[test]
fn a_stopped_recording_ends_as_an_undisturbed_one() {
    alone(
        "recordings::a_stopped_recording_ends_as_an_undisturbed_one",
        a_stopped_recording_ends_as_an_undisturbed_one_alone,
    );
}

fn a_stopped_recording_ends_as_an_undisturbed_one_alone() {
    let (_, device) = devices().remove(0);
    let whole = tempfile::tempdir().expect("a temporary folder");
    let (_, expected) = written(&device, &whole.path().join("checkpoints"), 2, None);
    for (after, damaged) in [(1, None), (4, None), (5, None), (7, Some(4)), (7, Some(0)), (8, Some(8))] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let checkpoints = folder.path().join("checkpoints");
        let until = |step: &hyperinf::models::Progress| {
            if step.step + 1 == after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        finetune_until(adapted(&device), &samples(13), None, &recorded(&checkpoints, 2), until)
            .map(drop)
            .expect_err("it was stopped");
        if let Some(step) = damaged {
            let path = checkpoints.join(format!("step-{step:08}.safetensors"));
            let mut bytes = fs::read(&path).expect("it is there");
            *bytes.last_mut().expect("bytes") ^= 1;
            fs::write(path, bytes).expect("writable");
        }
        let (_, found) = written(&device, &checkpoints, 2, None);
        assert!(found == expected, "stopped after {after}, damaged {damaged:?}");
    }
}

#[test]
fn recordings_of_other_trainings_are_refused() {
    alone("recordings::recordings_of_other_trainings_are_refused", recordings_of_other_trainings_are_refused_alone);
}

fn recordings_of_other_trainings_are_refused_alone() {
    let (_, device) = devices().remove(0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (_, bytes) = written(&device, &folder.path().join("checkpoints"), 4, None);
    let path = folder.path().join(Recording::FILE);
    fs::write(&path, &bytes).expect("writable");
    let recording = Recording::open(&path).expect("it was written");
    // Another row, which is noticed before anything is replayed, and in the replay where nobody asked.
    let mut other = samples(13);
    other[3].tokens[0] = 9;
    let error = recording.check(&adapted(&device), &other, Default::default()).expect_err("another training");
    assert!(error.to_string().contains("training samples was 13 with digest"), "{error}");
    let settings = [("device".to_owned(), "another".to_owned())].into();
    let error = recording.check(&adapted(&device), &samples(13), settings).expect_err("another device");
    assert!(error.to_string().contains("device was absent, is another"), "{error}");
    let error = followed(&device, &other, &recording).map(drop).expect_err("it does not replay");
    assert!(matches!(error, ModelError::Replay { .. }), "{error}");

    let damage = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        let path = folder.path().join("damaged.safetensors");
        fs::write(&path, bytes).expect("writable");
        let found = Recording::open(&path).and_then(|found| followed(&device, &samples(13), &found));
        let error = found.map(drop).expect_err("it is damaged");
        assert!(matches!(error, ModelError::Recording { .. }), "{error}");
    };
    damage(&|bytes| *bytes.last_mut().expect("bytes") ^= 1);
    damage(&|bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    damage(&|bytes| bytes[0] ^= 1);
    damage(&|bytes| bytes[7] ^= 0x40);
    damage(&|bytes| bytes.truncate(bytes.len() - 5));
    damage(&|bytes| bytes.truncate(4));
    damage(&|bytes| {
        let text = String::from_utf8_lossy(bytes).find("learning_rate").expect("it is said");
        bytes[text] = b'L';
    });
}
