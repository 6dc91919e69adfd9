//! Text-to-image models in diffusers' folders.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use hyperinf::gradients::Tape;
use hyperinf::models::{
    Limit, ModelKind, NoiseProcess, Picture, Pipeline, Prediction, TextState, TextStates, load_pipeline, model_kind,
};
use hyperinf_tests::compare::{assert_close, values};
use hyperinf_tests::{devices, pipelines};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::folders::{Number, Tensors, write_tensors};

const PREDICTIONS: [Prediction; 4] = [Prediction::Epsilon, Prediction::Velocity, Prediction::Sample, Prediction::Flow];

fn folder(prediction: Prediction) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    pipelines::write(folder.path(), prediction, &devices().remove(0).1);
    folder
}

fn load(folder: &Path) -> Pipeline {
    load_pipeline(folder, &devices().remove(0).1).expect("a valid pipeline").model
}

/// Sets a field of a JSON file; `null` in `value` stays.
fn set(path: &Path, field: &str, value: Value) {
    let mut config: Value = serde_json::from_slice(&fs::read(path).expect("it is there")).expect("valid JSON");
    config[field] = value;
    fs::write(path, config.to_string()).expect("it can be written");
}

#[test]
fn a_saved_pipeline_is_read_with_its_noise() {
    for prediction in PREDICTIONS {
        let folder = folder(prediction);
        assert_eq!(model_kind(folder.path()).expect("known"), ModelKind::TextToImage);
        let found = load(folder.path()).model.process;
        let expected = NoiseProcess { prediction, ..NoiseProcess::default() };
        match prediction {
            // Of a flow only the number of timesteps is said.
            Prediction::Flow => assert_eq!((found.prediction, found.schedule.timesteps), (prediction, 1000)),
            _ => assert_eq!(found, expected),
        }
    }
}

/// Beside others, which are padding to it, a caption has the states that it has alone.
#[test]
fn states_of_a_caption_are_its_own() {
    let pipeline = load(folder(Prediction::Epsilon).path());
    let tokens = |caption| pipeline.text.tokens(caption, Limit::Refuse(24)).expect("a short caption").sample;
    let all = [tokens("the old fox"), tokens(""), tokens("a fox")];
    assert_eq!(all[1].len(), 2, "the special tokens");
    let together = pipeline.text.encode(&all.each_ref().map(Vec::as_slice)).expect("valid tokens");
    for (tokens, state) in all.iter().zip(&together) {
        let alone = pipeline.text.encode(&[tokens]).expect("valid tokens").remove(0);
        assert_eq!((alone.width, alone.tokens()), (16, tokens.len()));
        let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
        assert_close("states", &wide(&state.values), &wide(&alone.values), 1e-5);
    }
    let long = "fox ".repeat(40);
    pipeline.text.tokens(&long, Limit::Refuse(1000)).expect_err("longer than the encoder's 24 positions");
    let cut = pipeline.text.tokens(&long, Limit::Cut(1000)).expect("it is cut");
    assert_eq!(cut.sample.len(), 24);
}

/// Captions together give the predictions that they give alone.
///
/// With `HYPERINF_BASE=DIR` the pipeline is the one in DIR, and `DIR/ours.safetensors` stays there, for
/// `cargo xtask fixtures diffusion --check-base DIR`.
#[test]
fn captions_give_their_own_predictions() {
    let kept = std::env::var_os("HYPERINF_BASE").map(PathBuf::from);
    let tiny = folder(Prediction::Flow);
    let folder = kept.as_deref().unwrap_or(tiny.path());
    let (pipeline, device) = (load(folder), devices().remove(0).1);
    let [channels, side, _] = pipeline.model.denoiser.shape();
    let (shape, steps) = (vec![1, channels, side, side], [25.0, 425.0, 925.0]);
    let captions = ["a red apple, flat", "a fox", ""];
    let read = |caption| pipeline.text.tokens(caption, Limit::Refuse(24)).expect("a short caption").sample;
    let tokens = captions.map(read);
    let states = pipeline.text.encode(&tokens.each_ref().map(Vec::as_slice)).expect("valid tokens");
    let noise = |row: usize| -> Vec<f32> {
        (0..channels * side * side).map(|at| 1.4 * ((0.7 + row as f32) * (at * at % 8191) as f32).sin()).collect()
    };
    let predictions = |rows: &[usize]| {
        let x: Vec<f32> = rows.iter().flat_map(|&row| noise(row)).collect();
        let x = Tensor::<4>::from_data(TensorData::new(x, [rows.len(), channels, side, side]), &device);
        let chosen: Vec<&TextState> = rows.iter().map(|&row| &states[row]).collect();
        let text = TextStates::new(&chosen, pipeline.text.width(), &device).expect("captions");
        let t: Vec<f64> = rows.iter().map(|&row| steps[row]).collect();
        values(pipeline.model.denoiser.forward(x, &t, &text, &mut Tape::off()))
    };
    let (together, mut tensors) = (predictions(&[0, 1, 2]), Tensors::new());
    for (row, found) in together.chunks(together.len() / captions.len()).enumerate() {
        assert_close(captions[row], found, &predictions(&[row]), 1e-5);
        let floats = found.iter().map(|&value| value as f32).collect();
        let ids: Vec<f32> = tokens[row].iter().map(|&token| token as f32).collect();
        let width = states[row].width;
        let state = (vec![1, ids.len(), width], states[row].values.clone());
        let all = [("ids", (vec![1, ids.len()], ids)), ("text", state), ("x", (shape.clone(), noise(row)))];
        let more = [("t", (vec![1], vec![steps[row] as f32])), ("output", (shape.clone(), floats))];
        tensors.extend(all.into_iter().chain(more).map(|(name, value)| (format!("{name}.{row}"), value)));
    }
    write_tensors(&folder.join("ours.safetensors"), &tensors, Number::F32);
}

#[test]
fn a_picture_comes_back() {
    let images = load(folder(Prediction::Epsilon).path()).images;
    let pixels: Vec<u8> = (0..3 * 64).map(|value| (value * 37 % 256) as u8).collect();
    let picture = Picture::new(8, 8, pixels).expect("a picture");
    let values = images.encode(images.pixels(&picture).expect("a small picture")).expect("values of a picture");
    assert_eq!(values[64], f32::from(picture.pixels()[1]) / 127.5 - 1.0);
    assert_eq!(images.decode(&values).expect("values of a picture"), picture);
    // Of a wide picture the middle counts.
    let wide = picture.resized(16, 8, hyperinf::models::Resampling::Nearest);
    let values = images.pixels(&wide).expect("a small picture");
    assert_eq!(images.decode(&values).expect("values"), wide.cropped(4, 0, 8, 8));
    images.encode(vec![0.0; 5]).expect_err("no picture");
}

#[test]
fn what_changes_the_loss_is_followed() {
    let folder = folder(Prediction::Epsilon);
    let path = folder.path().join("scheduler/scheduler_config.json");
    fs::write(&path, json!({ "_class_name": "PNDMScheduler", "skip_prk_steps": true }).to_string()).expect("a file");
    let schedule = load(folder.path()).model.process.schedule;
    assert_eq!((schedule.beta_first, schedule.beta_last), (1e-4, 0.02));
    set(&path, "beta_end", json!(0.01));
    set(&path, "num_train_timesteps", json!(100));
    set(&path, "prediction_type", json!("v_prediction"));
    set(&path, "rescale_betas_zero_snr", json!(true));
    let process = load(folder.path()).model.process;
    assert_eq!((process.schedule.beta_last, process.schedule.timesteps), (0.01, 100));
    assert_eq!((process.prediction, process.schedule.zero_snr), (Prediction::Velocity, true));
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let scheduler = "scheduler/scheduler_config.json";
    let index = "model_index.json";
    let cases = [
        (scheduler, "_class_name", json!("LCMScheduler")),
        (scheduler, "beta_schedule", json!("sigmoid")),
        (scheduler, "prediction_type", json!("flow_prediction")),
        (scheduler, "trained_betas", json!([0.1, 0.2])),
        (scheduler, "use_flow_sigmas", json!(true)),
        (scheduler, "invented", json!(3)),
        (scheduler, "num_train_timesteps", json!(0)),
        (scheduler, "beta_start", json!(2.0)),
        (index, "_class_name", json!("StableDiffusionXLPipeline")),
        (index, "text_encoder", json!(["transformers", "T5EncoderModel"])),
        (index, "text_encoder", json!([null, null])),
        (index, "text_encoder_2", json!(["transformers", "CLIPTextModel"])),
        (index, "image_encoder", json!(["transformers", "CLIPVisionModelWithProjection"])),
        (index, "unet", json!(["diffusers", "UNet2DConditionModel"])),
        (index, "transformer", json!(["diffusers", "SD3Transformer2DModel"])),
        (index, "force_zeros_for_empty_prompt", json!(true)),
        ("text_encoder/config.json", "hidden_act", json!("invented")),
    ];
    let (_, device) = devices().remove(0);
    for (file, field, value) in cases {
        let folder = folder(Prediction::Epsilon);
        set(&folder.path().join(file), field, value.clone());
        let error = load_pipeline(folder.path(), &device).expect_err(field).to_string();
        // A schedule names its own fields.
        let own = [("num_train_timesteps", "timesteps"), ("beta_start", "beta_first")];
        let named = error.contains(field) || own.iter().any(|(a, b)| *a == field && error.contains(b));
        assert!(named, "{field} = {value}: {error}");
    }
    let flow = self::folder(Prediction::Flow);
    set(&flow.path().join(scheduler), "shift", json!(3.0));
    let error = load_pipeline(flow.path(), &device).expect_err("shift").to_string();
    assert!(error.contains("`shift` = 3.0"), "{error}");
}
