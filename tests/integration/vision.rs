//! Vision-language models against the numbers of PyTorch, transformers and PEFT: `fixtures/vision`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::{Device, TensorData};
use hyperinf::gradients::{Gradients, Tape, Target, Task, capture, gradients};
use hyperinf::models::{
    ALL_LINEAR, Adapter, CheckpointNames, FeatureCache, FeatureStage, Images, LmSample, LoraConfig, ModelError,
    RecordedParts, SampleModel, VisionLanguage, VlmSample, adapt, load_vision_language, load_weights, record, weights,
};
use hyperinf_tests::compare::{assert_close, largest, values};
use hyperinf_tests::{devices, fixtures};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const TOLERANCE: f64 = 1e-5;
const MODELS: [&str; 3] = ["llava", "idefics3", "smolvlm"];

fn folder(name: &str) -> PathBuf {
    fixtures::path(&format!("vision/{name}"))
}

fn load(name: &str, device: &Device) -> VisionLanguage {
    let loaded = load_vision_language(&folder(name), device).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(loaded.report.created.is_empty(), "{name}: {:?}", loaded.report);
    let unused = |tensor: &String| tensor.contains("post_layernorm") && name.starts_with("llava");
    assert!(loaded.report.ignored.iter().all(unused), "{name}: {:?}", loaded.report);
    loaded.model
}

fn adapted(name: &str, adapter: &str, device: &Device) -> VisionLanguage {
    let adapter = Adapter::read(&folder(&format!("{name}/{adapter}"))).expect("a valid adapter");
    adapter.apply(load(name, device)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

struct Case {
    arrays: fixtures::Arrays,
}

impl Case {
    fn new(model: &str, adapter: &str) -> Self {
        Self { arrays: fixtures::load(&format!("vision/{model}/{adapter}/expected.safetensors")) }
    }

    fn values(&self, name: &str) -> &[f64] {
        &self.arrays[name].values
    }

    /// The samples with their pixels.
    fn samples(&self) -> Vec<VlmSample> {
        let mask = &self.arrays["attention_mask"];
        let t = mask.shape[1];
        let rows = self.values("input_ids").chunks(t).zip(mask.values.chunks(t)).zip(self.values("prompt_lengths"));
        rows.enumerate()
            .map(|(i, ((ids, mask), &prompt))| {
                let tokens: Vec<u32> =
                    ids.iter().zip(mask).filter(|(_, mask)| **mask > 0.0).map(|(id, _)| *id as u32).collect();
                let scored = (0..tokens.len()).map(|at| at >= prompt as usize).collect();
                let pixels = self.arrays.get(&format!("pixels.{i}"));
                VlmSample {
                    text: LmSample { tokens, scored },
                    tiles: pixels.map_or(0, |pixels| pixels.shape[0]),
                    images: pixels.map_or(Images::None, |pixels| {
                        Images::Pixels(Arc::new(pixels.values.iter().map(|value| *value as f32).collect()))
                    }),
                }
            })
            .collect()
    }
}

struct Results {
    logits: Vec<f64>,
    losses: Vec<f64>,
    gradients: BTreeMap<String, Vec<f64>>,
}

fn together(model: &VisionLanguage, samples: &[VlmSample]) -> Results {
    let batch = model.collate(&samples.iter().collect::<Vec<_>>()).expect("the samples fit the model");
    let logits = values(model.forward(&batch, &mut Tape::off()));
    let losses = values(capture(model, &batch, Target::Loss).expect("something is recorded").values);
    Results { logits, losses, gradients: named(gradients(model, &batch, Target::Loss).expect("something is recorded")) }
}

fn alone(model: &VisionLanguage, samples: &[VlmSample]) -> Results {
    let mut all = Results { logits: Vec::new(), losses: Vec::new(), gradients: BTreeMap::new() };
    for sample in samples {
        let one = together(model, std::slice::from_ref(sample));
        all.logits.extend(one.logits);
        all.losses.extend(one.losses);
        for (name, values) in one.gradients {
            all.gradients.entry(name).or_default().extend(values);
        }
    }
    all
}

fn named(gradients: Gradients) -> BTreeMap<String, Vec<f64>> {
    let names = gradients.layout.iter().map(|block| block.name.clone());
    names.zip(gradients.blocks.into_iter().map(values)).collect()
}

fn check_gradients(what: &str, found: &BTreeMap<String, Vec<f64>>, expected: &BTreeMap<String, Vec<f64>>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}: names of blocks");
    for (name, values) in found {
        assert!(largest(&expected[name]) > 1e-4, "{what}, {name}: nothing to compare");
        assert_close(&format!("{what}, {name}"), values, &expected[name], TOLERANCE);
    }
}

fn check(model: &str, adapter: &str) {
    let case = Case::new(model, adapter);
    let (samples, expected) = (case.samples(), fixtures::blocks(&case.arrays, "gradients."));
    for (device_name, device) in devices() {
        let base = load(model, &device);
        let batch = base.collate(&samples.iter().collect::<Vec<_>>()).expect("the samples fit the model");
        let logits = base.forward(&batch, &mut Tape::off());
        let what = format!("{model}/{adapter}, {device_name}");
        assert_close(&format!("{what}: base"), &values(logits.clone()), case.values("base_logits"), TOLERANCE);
        assert_close(&what, &values(base.loss(logits, &batch)), case.values("base_losses"), TOLERANCE);
        let adapted = adapted(model, adapter, &device);
        for (way, found) in [("in a batch", together(&adapted, &samples)), ("alone", alone(&adapted, &samples))] {
            let what = format!("{what}, {way}");
            assert_close(&format!("{what}: logits"), &found.logits, case.values("logits"), TOLERANCE);
            assert_close(&format!("{what}: losses"), &found.losses, case.values("losses"), TOLERANCE);
            check_gradients(&what, &found.gradients, &expected);
        }
    }
}

#[test]
fn llava_agrees_with_transformers() {
    check("llava", "all_linear");
    check("llava", "language");
}

#[test]
fn idefics3_agrees_with_transformers() {
    check("idefics3", "all_linear");
    check("idefics3", "language");
}

#[test]
fn smolvlm_with_tiles_agrees_with_transformers() {
    check("smolvlm", "all_linear");
    check("smolvlm", "language");
}

#[test]
fn llava_may_have_the_names_of_earlier_and_later_libraries() {
    let (_, device) = devices().remove(0);
    let expected = weights(&load("llava", &device)).expect("weights can be read");
    for other in ["llava_old", "llava_new"] {
        assert_eq!(weights(&load(other, &device)).expect("weights can be read"), expected, "{other}");
    }
}

/// HyperINF's choices: the connector's own weights, those of the last layer, or the connector with the adapters.
#[test]
fn recorded_parts_have_the_gradients_of_their_weights() {
    for (device_name, device) in devices() {
        for model in MODELS {
            let case = Case::new(model, "language");
            let samples = case.samples();
            let (adapters, parts) =
                (fixtures::blocks(&case.arrays, "gradients."), fixtures::blocks(&case.arrays, "parts."));
            let connector = |name: &str| name.contains(".connector.") || name.contains(".multi_modal_projector.");
            let of = |wanted: &dyn Fn(&str) -> bool| -> BTreeMap<String, Vec<f64>> {
                parts.iter().filter(|(name, _)| wanted(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
            };
            let mut both = adapters.clone();
            both.extend(of(&connector));
            let choices = [
                (RecordedParts::Adapters, adapters.clone()),
                (RecordedParts::Connector, of(&connector)),
                (RecordedParts::LastLayer, of(&|name| !connector(name))),
                (RecordedParts::ConnectorAndAdapters, both),
            ];
            for (choice, expected) in choices {
                let what = format!("{model}, {device_name}, {}", choice.name());
                let recorded = record(adapted(model, "language", &device), choice).expect("the model has the part");
                check_gradients(&what, &together(&recorded, &samples).gradients, &expected);
                check_gradients(&format!("{what}, alone"), &alone(&recorded, &samples).gradients, &expected);
            }
        }
    }
}

/// With `HYPERINF_WRITE_ADAPTERS=DIR` the adapters stay, for `cargo xtask fixtures vision --check-ours DIR`.
#[test]
fn written_adapters_of_vision_models_are_read_again() {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let kept = std::env::var_os("HYPERINF_WRITE_ADAPTERS").map(PathBuf::from);
    let (_, device) = devices().remove(0);
    let config = LoraConfig { rank: 3, alpha: 6.0, ..LoraConfig::default() };
    for model in MODELS {
        for (name, targets) in [("language", "*_model.layers.*.q_proj"), ("all", ALL_LINEAR), ("usual", "q_proj")] {
            let adapted = adapt(load(model, &device), &[targets], &config, 1).expect("the layers exist");
            let trained = weights(&adapted).expect("weights can be read").into_iter().map(|(path, data)| {
                let shape = data.shape().to_vec();
                let new = |i: usize| 0.3 * ((i * i + path.len()) as f32).sin();
                let lora = path.contains("lora_");
                let data =
                    if lora { TensorData::new((0..data.num_elements()).map(new).collect(), shape) } else { data };
                (path.clone(), data)
            });
            let adapted = load_weights(adapted, trained.collect()).expect("the names are the model's own");
            let samples = Case::new(model, "language").samples();
            let expected = together(&adapted, &samples).logits;
            let folder = kept.as_deref().unwrap_or(temporary.path()).join(model).join(name);
            let adapter = Adapter::from_model(&adapted, &config, Some(model)).expect("the model is adapted");
            adapter.write(&folder).expect("it can be written");
            let read = Adapter::read(&folder).expect("it was written");
            assert_eq!(read, adapter, "{model}");
            let again = read.apply(load(model, &device)).expect("it fits");
            assert_close(&format!("{model}, {name}"), &together(&again, &samples).logits, &expected, 0.0);
            let bytes: Vec<u8> = expected.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect();
            let shape =
                fixtures::load(&format!("vision/{model}/language/expected.safetensors"))["logits"].shape.clone();
            let view = TensorView::new(Dtype::F32, shape, &bytes).expect("the shape is that of the bytes");
            let path = folder.join("logits.safetensors");
            safetensors::serialize_to_file([("logits", view)], None, &path).expect("the folder exists");
        }
    }
}

#[test]
fn stored_features_give_the_numbers_of_pixels() {
    let store = tempfile::tempdir().expect("a temporary folder");
    let (_, device) = devices().remove(0);
    for model_name in MODELS {
        let case = Case::new(model_name, "language");
        let samples = case.samples();
        for choice in [RecordedParts::Adapters, RecordedParts::ConnectorAndAdapters] {
            let model = record(adapted(model_name, "language", &device), choice).expect("the model has the part");
            let stage = model.frozen_stage().expect("the encoder is not adapted");
            let usual = choice == RecordedParts::Adapters;
            assert_eq!(stage, if usual { FeatureStage::Connector } else { FeatureStage::Encoder });
            let cache = FeatureCache::open(store.path(), model_name, stage).expect("the folder can be written");
            let stored: Vec<VlmSample> = (samples.iter().enumerate())
                .map(|(at, sample)| {
                    let Images::Pixels(pixels) = &sample.images else { return sample.clone() };
                    let of = |wanted: bool| {
                        let pixels = || if wanted { Ok(pixels.to_vec()) } else { panic!("the file is there") };
                        cache.features(&model, &format!("image{at}"), sample.tiles, pixels).expect("it can be stored")
                    };
                    let images = of(true);
                    assert_eq!(images, of(false));
                    VlmSample { images, ..sample.clone() }
                })
                .collect();
            let (found, expected) = (together(&model, &stored), together(&model, &samples));
            assert_close(model_name, &found.losses, &expected.losses, 1e-6);
            check_gradients(model_name, &found.gradients, &expected.gradients);
        }
    }
}

#[test]
fn damaged_features_are_computed_again() {
    let store = tempfile::tempdir().expect("a temporary folder");
    let (_, device) = devices().remove(0);
    let (model, sample) = (load("smolvlm", &device), Case::new("smolvlm", "language").samples().remove(0));
    let Images::Pixels(pixels) = &sample.images else { panic!("it has images") };
    let cache = FeatureCache::open(store.path(), "model", FeatureStage::Connector).expect("a folder");
    let of = |name, tiles, pixels: &[f32]| {
        cache.features(&model, name, tiles, || Ok(pixels.to_vec())).expect("it can be stored")
    };
    let features = || of("image", sample.tiles, pixels);
    let Images::Stored(_, path) = features() else { panic!("it is stored") };
    let good = std::fs::read(&path).expect("it is there");
    let mut bad = good.clone();
    *bad.last_mut().expect("it has numbers") ^= 1;
    std::fs::write(&path, bad).expect("it can be written");
    features();
    assert_eq!(std::fs::read(&path).expect("it is there"), good);
    // Whole, but of fewer tiles.
    let (one, tile) = (sample.tiles - 1, pixels.len() / sample.tiles);
    let Images::Stored(_, other) = of("other", one, &pixels[..one * tile]) else { panic!("it is stored") };
    std::fs::copy(&other, &path).expect("it can be written");
    features();
    assert_eq!(std::fs::read(&path).expect("it is there"), good);
}

#[test]
#[cfg(unix)]
fn features_are_not_stored_behind_links() {
    let store = tempfile::tempdir().expect("a temporary folder");
    let (folder, other) = (store.path().join(".features"), store.path().join("other"));
    let open = || FeatureCache::open(&folder, "model", FeatureStage::Connector).map(drop);
    std::fs::create_dir(&other).expect("a folder");
    std::os::unix::fs::symlink(&other, &folder).expect("a link");
    assert!(open().expect_err("a link").to_string().contains("it is a link or a file"));
    std::fs::remove_file(&folder).expect("it is there");
    std::fs::create_dir(&folder).expect("a folder");
    std::os::unix::fs::symlink(&other, folder.join("model-connector")).expect("a link");
    assert!(open().expect_err("a link inside").to_string().contains("it is a link or a file"));
    std::fs::remove_file(folder.join("model-connector")).expect("it is there");
    open().expect("a folder");
    assert_eq!(std::fs::read_dir(&other).expect("a folder").count(), 0);
}

#[test]
fn samples_that_do_not_fit_are_errors() {
    let (_, device) = devices().remove(0);
    let samples = Case::new("smolvlm", "language").samples();
    let model = load("smolvlm", &device);
    let fails = |model: &VisionLanguage, samples: &[VlmSample]| {
        model.collate(&samples.iter().collect::<Vec<_>>()).expect_err("it does not fit")
    };
    let fewer = VlmSample { tiles: samples[0].tiles - 1, ..samples[0].clone() };
    assert!(matches!(fails(&model, &[fewer]), ModelError::ImageTokens { sample: 0, .. }));
    let none = VlmSample { tiles: 0, images: Images::None, ..samples[0].clone() };
    let error = fails(&model, &[samples[2].clone(), none]);
    let ModelError::ImageTokens { sample: 1, tokens: 20, tiles: 0, vectors: 4 } = error else { panic!("{error}") };
    let short = VlmSample { images: Images::Pixels(Arc::new(vec![0.0; 7])), ..samples[0].clone() };
    assert!(matches!(fails(&model, &[short]), ModelError::Pixels { sample: 0, found: 7, .. }));
    let features = Images::Features(FeatureStage::Connector, Arc::new(vec![0.0; 5 * 4 * 16]));
    let connected = VlmSample { images: features, ..samples[0].clone() };
    let mixed = fails(&model, &[samples[1].clone(), connected.clone()]);
    assert!(matches!(mixed, ModelError::MixedImages { first: 0, second: 1 }), "{mixed}");
    let adapted = adapted("smolvlm", "all_linear", &device);
    assert!(matches!(fails(&adapted, &[connected]), ModelError::StaleFeatures { sample: 0 }));
}

#[test]
fn parameters_have_the_names_of_checkpoints() {
    let (_, device) = devices().remove(0);
    for (name, path, expected) in [
        ("llava", "vision.layers.1.attention_norm.gamma", "model.vision_tower.encoder.layers.1.layer_norm1.weight"),
        ("llava", "vision.class_embedding", "model.vision_tower.embeddings.class_embedding"),
        ("llava", "connector.second.bias", "model.multi_modal_projector.linear_2.bias"),
        ("llava", "language.lm_head.weight", "lm_head.weight"),
        ("idefics3", "vision.patch_embedding.bias", "model.vision_model.embeddings.patch_embedding.bias"),
        ("idefics3", "vision.position_embedding", "model.vision_model.embeddings.position_embedding.weight"),
        ("idefics3", "connector.first.base.weight", "model.connector.modality_projection.proj.weight"),
        ("idefics3", "language.decoder.norm.weight", "model.text_model.norm.weight"),
    ] {
        assert_eq!(load(name, &device).checkpoint_name(path), expected);
    }
}
