//! Second moments in an optimizer's file against those of a recording.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use burn::tensor::{Device, TensorData};
use hyperinf::models::{
    AdamMetric, Adapter, Encoder, EncoderClassifier, FinetuneConfig, HeadKind, LoraConfig, LoraScaling, ModelError,
    RecordedLayers, Recording, TrainConfig, adapt, load_weights, weights,
};
use hyperinf_tests::compare::assert_close;
use hyperinf_tests::devices;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::models::{QUERY_VALUE, SIZES};
use crate::recordings::samples;

const LORA: LoraConfig = LoraConfig { rank: 2, alpha: 16.0, scaling: LoraScaling::Standard, dropout: 0.0 };

fn adapted(device: &Device) -> EncoderClassifier {
    let encoder = Encoder::new(SIZES, 5, device).and_then(|encoder| adapt(encoder, &QUERY_VALUE, &LORA, 6));
    let recorded = RecordedLayers::AdaptersAndHead;
    EncoderClassifier::new(encoder.expect("valid sizes"), HeadKind::Mean, 3, recorded, 7).expect("three classes")
}

/// Moments that are written by the names of the adapter's file are those of the recording, entry by entry.
#[test]
fn moments_of_a_file_are_those_of_the_recording() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    for (name, device) in devices() {
        let (model, train) = (adapted(&device), samples(13));
        let schedule = TrainConfig { learning_rate: 1e-2, epochs: 3, batch_size: 5, seed: 1, ..TrainConfig::default() };
        let config = FinetuneConfig { schedule, clip_norm: None, ..FinetuneConfig::default() };
        let recording = Recording::of_training(model.clone(), &train, &config, 4, None, |_| ControlFlow::Continue(()));
        let recorded = recording.and_then(|recording| recording.metric_at(2)).expect("it has moments");
        // As parameters of a model, whose adapter has the names and shapes of a file.
        let sum = 1.0 - 0.999f64.powi(recorded.steps as i32);
        let moments = |entries: &[f64]| entries.iter().map(|d| ((d - 1e-8).powi(2) * sum) as f32).collect::<Vec<_>>();
        let mut all = weights(&model).expect("they can be read");
        for (path, entries) in &recorded.entries {
            let shape = all[path].shape().to_vec();
            all.insert(path.clone(), TensorData::new(moments(entries), shape));
        }
        let held = load_weights(model.clone(), all).expect("they are those of the model");
        let state = Adapter::from_model(&held, &LORA, None).expect("it is adapted");
        let bytes: BTreeMap<String, (Vec<usize>, Vec<u8>)> = state
            .tensors
            .iter()
            .map(|(name, data)| {
                let values = data.clone().convert::<f32>();
                (format!("{name}.exp_avg_sq"), (data.shape().to_vec(), values.as_bytes().to_vec()))
            })
            .collect();
        let views = bytes.iter().map(|(name, (shape, bytes))| {
            (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("the shape fits"))
        });
        let views: BTreeMap<String, TensorView<'_>> = views.collect();
        let metadata = [("step".to_owned(), recorded.steps.to_string())].into();
        safetensors::serialize_to_file(&views, Some(metadata), &path).expect("it can be written");
        let adapter = Adapter::from_model(&model, &LORA, None).expect("it is adapted");
        let found = AdamMetric::of_optimizer(&path, &adapter, &model).expect("they are the adapter's");
        assert_eq!(found.steps, recorded.steps);
        assert!(found.entries.keys().eq(recorded.entries.keys()), "{name}");
        for (path, entries) in &recorded.entries {
            assert_close(&format!("{name}, {path}"), &found.entries[path], entries, 1e-3);
        }
        // One parameter less.
        let fewer: BTreeMap<String, TensorView<'_>> = views.into_iter().skip(1).collect();
        let metadata = [("step".to_owned(), "3".to_owned())].into();
        safetensors::serialize_to_file(&fewer, Some(metadata), &path).expect("it can be written");
        let error = AdamMetric::of_optimizer(&path, &adapter, &model).expect_err("one is missing");
        assert!(matches!(error, ModelError::Moments { .. }), "{error}");
    }
}
