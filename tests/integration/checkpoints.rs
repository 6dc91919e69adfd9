//! Checkpoints that are damaged, and runs that are stopped.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use hyperinf::models::{
    Checkpoints, EncoderClassifier, FinetuneConfig, FinetunedModel, ModelError, RecordedLayers, Sample, TrainConfig,
    finetune, finetune_until, weights,
};
use hyperinf_tests::devices;

use crate::models::{QUERY_VALUE, classifier};

/// 6 steps.
fn config(folder: &Path, every: usize) -> FinetuneConfig {
    let checkpoints = Checkpoints { every, keep: 9, resume: true, ..Checkpoints::new(folder) };
    FinetuneConfig {
        schedule: TrainConfig { learning_rate: 1e-2, epochs: 2, batch_size: 4, seed: 1, ..TrainConfig::default() },
        checkpoints: Some(checkpoints),
        ..FinetuneConfig::default()
    }
}

fn samples() -> Vec<Sample> {
    (0..12u32)
        .map(|i| Sample { tokens: vec![1 + i % 3, 4 + i % 5], label: (i % 3) as usize, ..Sample::default() })
        .collect()
}

fn model() -> EncoderClassifier {
    classifier(RecordedLayers::AdaptersAndHead, &QUERY_VALUE, &devices().remove(0).1)
}

fn run(folder: &Path) -> FinetunedModel<EncoderClassifier> {
    finetune(model(), &samples(), None, &config(folder, 1), |_| {}).expect("training works")
}

/// Trains and stops after a number of steps.
fn stopped(folder: &Path, after: usize, every: usize) -> ModelError {
    let until = |step: &hyperinf::models::Progress| {
        if step.step + 1 == after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    finetune_until(model(), &samples(), None, &config(folder, every), until).expect_err("it was stopped")
}

fn values(tuned: &FinetunedModel<EncoderClassifier>) -> BTreeMap<String, TensorData> {
    weights(&tuned.model).expect("weights can be read")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn checkpoint(folder: &Path, step: usize) -> PathBuf {
    folder.join(format!("step-{step:08}.safetensors"))
}

#[test]
fn damaged_checkpoints_are_set_aside() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 7] = [
        ("the last bit", |bytes| *bytes.last_mut().expect("bytes") ^= 1),
        ("a bit in the middle", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
        }),
        ("the length of the header", |bytes| bytes[0] ^= 1),
        ("the header", |bytes| bytes[20] ^= 1),
        ("the step", |bytes| {
            let text = String::from_utf8_lossy(bytes).find("\\\"step\\\":4").expect("its entry");
            bytes[text + 9] = b'3';
        }),
        ("the end", |bytes| bytes.truncate(bytes.len() - 9)),
        ("everything", Vec::clear),
    ];
    let whole = tempfile::tempdir().expect("a temporary folder");
    let expected = values(&run(&whole.path().join("new")));
    for (name, damage) in damages {
        // The newest is damaged, then the newest two, then all.
        for (count, from) in [(1, Some(3)), (2, Some(2)), (4, None)] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            stopped(folder.path(), 4, 1);
            for step in 5 - count..=4 {
                let path = checkpoint(folder.path(), step);
                let mut bytes = fs::read(&path).expect("it is there");
                if name == "the step" && step != 4 {
                    bytes.clear();
                } else {
                    damage(&mut bytes);
                }
                fs::write(path, bytes).expect("writable");
            }
            let found = Checkpoints::new(folder.path()).find().expect("the folder can be read");
            assert_eq!(found.newest.map(|(step, _)| step), from, "{name}");
            assert_eq!(found.damaged.len(), count, "{name}: {:?}", found.damaged);
            let resumed = run(folder.path());
            assert_eq!(resumed.resumed_at, from, "{name}");
            assert!(values(&resumed) == expected, "{name}, {count} damaged: other parameters");
            assert_eq!(names(folder.path()).iter().filter(|name| name.ends_with(".damaged")).count(), count);
        }
    }
}

#[test]
fn a_stopped_run_writes_a_checkpoint() {
    let whole = tempfile::tempdir().expect("a temporary folder");
    let expected = values(&run(&whole.path().join("new")));
    for (after, every) in [(1, 1000), (3, usize::MAX), (4, 2), (5, 2)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = checkpoint(folder.path(), after);
        match stopped(folder.path(), after, every) {
            ModelError::Stopped { step, steps: 6, checkpoint: Some(written) } => {
                assert_eq!((step, written), (after, path))
            }
            other => panic!("{other:?}"),
        }
        let resumed = run(folder.path());
        assert_eq!((resumed.resumed_at, resumed.steps), (Some(after), 6));
        assert!(values(&resumed) == expected, "stopped after {after}");
    }
    // There is nothing to stop after the last step, and nowhere to write without checkpoints.
    let until = |at: usize| {
        move |step: &hyperinf::models::Progress| {
            if step.step == at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    };
    let without = FinetuneConfig { checkpoints: None, ..config(whole.path(), 1) };
    let ended = finetune_until(model(), &samples(), None, &without, until(5)).expect("it ended");
    assert!(values(&ended) == expected);
    let error = finetune_until(model(), &samples(), None, &without, until(2)).expect_err("it was stopped");
    assert!(matches!(error, ModelError::Stopped { step: 3, steps: 6, checkpoint: None }), "{error}");
}

#[test]
fn equal_runs_write_equal_checkpoints() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a temporary folder"));
    let written = folders.each_ref().map(|folder| {
        stopped(folder.path(), 2, 1);
        assert_eq!(names(folder.path()), ["step-00000001.safetensors", "step-00000002.safetensors"]);
        fs::read(checkpoint(folder.path(), 2)).expect("it is there")
    });
    assert!(written[0] == written[1] && written[1] == written[2]);
}

#[test]
fn half_written_checkpoints_of_dead_runs_are_removed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in [".step-00000002.safetensors.1.partial", ".other.partial", "step-00000009.txt"] {
        fs::write(folder.path().join(name), "half").expect("writable");
    }
    stopped(folder.path(), 1, 1);
    assert_eq!(names(folder.path()), [".other.partial", "step-00000001.safetensors", "step-00000009.txt"]);
}
