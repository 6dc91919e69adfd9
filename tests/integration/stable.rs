//! The parts of Stable Diffusion against diffusers' and transformers' numbers (`tests/fixtures/diffusion/stable.py`).

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use hyperinf::models::{
    ClipTokenizer, GenerateConfig, Limit, Pipeline, SamplerConfig, TokenizeError, load_autoencoder, load_clip_text,
    load_pipeline,
};
use hyperinf_tests::compare::{assert_close, values};
use hyperinf_tests::devices;
use hyperinf_tests::fixtures::{self, Array, Arrays};
use serde_json::{Value, json};
use tempfile::TempDir;

const PROMPTS: [&str; 4] = [
    "a photo of a cat",
    "",
    "A  Photo\n of THE cat's 3 smiling faces!!",
    "café 日本語, naïve — 12345 it'll <|endoftext|> x",
];
const LENGTH: usize = 77;

fn expected() -> Arrays {
    fixtures::load("diffusion/stable.safetensors")
}

fn tensor(array: &Array, device: &Device) -> Tensor<4> {
    let floats: Vec<f32> = array.values.iter().map(|&value| value as f32).collect();
    Tensor::from_data(TensorData::new(floats, array.shape.clone()), device)
}

/// A copy of a folder of the fixture, with a JSON file changed.
fn changed(folder: &str, file: &str, change: impl FnOnce(&mut Value)) -> TempDir {
    let copy = tempfile::tempdir().expect("a folder for temporary files");
    for entry in std::fs::read_dir(fixtures::path("diffusion/stable").join(folder)).expect("the fixture") {
        let path = entry.expect("the fixture").path();
        std::fs::copy(&path, copy.path().join(path.file_name().expect("a file"))).expect("a copy");
    }
    let path = copy.path().join(file);
    let mut value = serde_json::from_slice(&std::fs::read(&path).expect("a copy")).expect("valid JSON");
    change(&mut value);
    std::fs::write(&path, value.to_string()).expect("a copy");
    copy
}

fn check_tokens(folder: &Path, expected: &Array) {
    let tokenizer = ClipTokenizer::read(folder).expect("the fixture is valid");
    let long = "the smiling cat, ".repeat(30);
    for (prompt, expected) in PROMPTS.iter().copied().chain([long.as_str()]).zip(expected.values.chunks_exact(LENGTH)) {
        let found = tokenizer.prompt(prompt, Limit::Cut(LENGTH)).expect("a prompt").sample;
        let expected: Vec<u32> = expected.iter().map(|&token| token as u32).collect();
        assert_eq!(found, expected, "{prompt:?}");
    }
}

#[test]
fn prompts_have_the_tokens_of_transformers() {
    let fixture = expected();
    let folder = fixtures::path("diffusion/stable/tokenizer");
    check_tokens(&folder, &fixture["tokens"]);
    let other = changed("tokenizer", "tokenizer_config.json", |settings| settings["pad_token"] = json!("!"));
    check_tokens(other.path(), &fixture["tokens.padded"]);
    // Stable Diffusion 2 has the padding in an older file.
    let map = r#"{"bos_token": {"content": "<|startoftext|>", "normalized": true}, "pad_token": "!"}"#;
    let other = changed("tokenizer", "tokenizer_config.json", |_| ());
    std::fs::write(other.path().join("special_tokens_map.json"), map).expect("a folder that can be written");
    check_tokens(other.path(), &fixture["tokens.padded"]);
}

#[test]
fn a_tokenizer_in_one_file_is_the_same() {
    let folder = changed("tokenizer", "tokenizer_config.json", |_| ());
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("a copy");
    let vocabulary: Value = serde_json::from_str(&read("vocab.json")).expect("valid JSON");
    let merges = read("merges.txt");
    let merges: Vec<Vec<&str>> = merges.lines().skip(1).map(|line| line.split(' ').collect()).collect();
    let whole = json!({"version": "1.0", "model": {"type": "BPE", "vocab": vocabulary, "merges": merges}});
    std::fs::remove_file(folder.path().join("vocab.json")).expect("a copy");
    std::fs::write(folder.path().join("tokenizer.json"), whole.to_string()).expect("a folder that can be written");
    check_tokens(folder.path(), &expected()["tokens"]);
    std::fs::remove_file(folder.path().join("tokenizer.json")).expect("a copy");
    let error = ClipTokenizer::read(folder.path()).expect_err("no vocabulary").to_string();
    assert!(error.contains("`vocab.json` with `merges.txt`"), "{error}");
}

#[test]
fn long_prompts_are_cut_only_if_allowed() {
    let tokenizer = ClipTokenizer::read(&fixtures::path("diffusion/stable/tokenizer")).expect("the fixture is valid");
    let prompt = "cat ".repeat(80);
    let cut = tokenizer.prompt(&prompt, Limit::Cut(1000)).expect("a prompt");
    assert_eq!((cut.sample.len(), cut.cut), (LENGTH, 5));
    let error = tokenizer.prompt(&prompt, Limit::Refuse(LENGTH)).expect_err("82 tokens");
    assert!(matches!(error, TokenizeError::TooLong { tokens: 82, limit: 77 }), "{error}");
    let short = tokenizer.prompt(&prompt, Limit::Cut(6)).expect("a prompt");
    assert_eq!((short.sample.len(), short.cut), (LENGTH, 76));
    assert!(tokenizer.prompt("cat", Limit::Cut(1)).is_err());
}

#[test]
fn text_states_are_those_of_transformers() {
    let fixture = expected();
    let prompts: Vec<Vec<u32>> =
        fixture["tokens"].values.chunks_exact(LENGTH).map(|row| row.iter().map(|&id| id as u32).collect()).collect();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    for (name, device) in devices() {
        let loaded = load_clip_text(&fixtures::path("diffusion/stable/text_encoder"), &device);
        let model = loaded.expect("the fixture is valid").model;
        let together = values(model.forward(&prompts).expect("prompts of one length"));
        assert_close(&name, &together, &fixture["states"].values, 1e-5);
        let alone = model.encode(&prompts[2..3]).expect("a prompt").remove(0);
        let expected = &fixture["states"].values[2 * LENGTH * 16..3 * LENGTH * 16];
        let alone: Vec<f64> = alone.values.iter().map(|&value| f64::from(value)).collect();
        assert_close(&name, &alone, expected, 1e-5);
        for wrong in [&[][..], &[&[1, 2][..], &[1]], &[&[534]], &[&[0; 78]], &[&[]]] {
            assert!(model.forward(wrong).is_err(), "{wrong:?}");
        }
    }
}

#[test]
fn latents_and_pictures_are_those_of_diffusers() {
    let fixture = expected();
    for (name, device) in devices() {
        let loaded = load_autoencoder(&fixtures::path("diffusion/stable/vae"), &device);
        let model = loaded.expect("the fixture is valid").model;
        assert_eq!(model.config().factor(), 2);
        for images in ["images", "wide"] {
            let found = model.encode(tensor(&fixture[images], &device));
            let expected = &fixture[&format!("{images}.latents")];
            assert_eq!(found.dims().to_vec(), expected.shape);
            assert_close(&format!("{name}, {images}"), &values(found), &expected.values, 1e-5);
        }
        let alone = model.encode(tensor(&fixture["images"], &device).narrow(0, 1, 1));
        assert_close(&name, &values(alone), &fixture["images.latents"].values[256..], 1e-5);
        let decoded = model.decode(tensor(&fixture["images.latents"], &device));
        assert_close(&name, &values(decoded), &fixture["decoded"].values, 1e-5);
    }
}

/// Renames the tensors of a safetensors file.
fn rename(path: &Path, name: impl Fn(&str) -> String) {
    let bytes = std::fs::read(path).expect("a copy");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a valid file");
    let tensors = file.iter().map(|(old, view)| (name(old), view));
    std::fs::write(path, safetensors::serialize(tensors, None).expect("a valid file")).expect("a copy");
}

#[test]
fn earlier_names_are_read() {
    let (name, device) = devices().remove(0);
    let fixture = expected();
    let file = "diffusion_pytorch_model.safetensors";
    let folder = changed("vae", "config.json", |config| config["scaling_factor"] = json!(2.0));
    let pairs = [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")];
    rename(&folder.path().join(file), |name| {
        pairs.iter().fold(name.to_owned(), |name, (new, old)| name.replace(new, old))
    });
    let model = load_autoencoder(folder.path(), &device).expect("a known naming").model;
    let found = model.encode(tensor(&fixture["images"], &device)).mul_scalar(0.18215 / 2.0);
    assert_close(&name, &values(found), &fixture["images.latents"].values, 1e-5);

    let folder = changed("text_encoder", "config.json", |_| ());
    let path = folder.path().join("model.safetensors");
    rename(&path, |name| format!("text_model.{name}"));
    load_clip_text(folder.path(), &device).expect("a known naming");
    // Files of older versions of transformers have a table of positions.
    let bytes = std::fs::read(&path).expect("a copy");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a valid file");
    let mut tensors: Vec<_> = file.iter().map(|(name, view)| (name.to_owned(), view)).collect();
    let places: Vec<u8> = (0..LENGTH as i64).flat_map(i64::to_le_bytes).collect();
    let places = safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![1, LENGTH], &places);
    tensors.push(("text_model.embeddings.position_ids".to_owned(), places.expect("a fitting shape")));
    std::fs::write(&path, safetensors::serialize(tensors, None).expect("a valid file")).expect("a copy");
    let report = load_clip_text(folder.path(), &device).expect("a known table").report;
    assert_eq!(report.ignored, ["text_model.embeddings.position_ids"]);
}

#[test]
fn what_is_not_followed_is_refused_by_name() {
    let (_, device) = devices().remove(0);
    for (field, value) in [
        ("act_fn", json!("mish")),
        ("latents_mean", json!([0.0, 0.0, 0.0, 0.0])),
        ("down_block_types", json!(["DownEncoderBlock2D", "AttnDownEncoderBlock2D"])),
        ("_class_name", json!("AsymmetricAutoencoderKL")),
        ("out_channels", json!(4)),
        ("scaling_factor", json!(0.0)),
        ("norm_num_groups", json!(3)),
        ("layers_per_block", json!(1_000_000)),
    ] {
        let folder = changed("vae", "config.json", |config| config[field] = value);
        let error = load_autoencoder(folder.path(), &device).expect_err(field).to_string();
        let named = ["scaling_factor", "norm_num_groups"].contains(&field) || error.contains(field);
        assert!(named, "{field}: {error}");
    }
    for (field, value) in [
        ("model_type", json!("t5")),
        ("hidden_act", json!("silu")),
        ("use_attention_mask", json!(true)),
        ("num_hidden_layers", json!(1_000_000)),
    ] {
        let folder = changed("text_encoder", "config.json", |config| config[field] = value);
        let error = load_clip_text(folder.path(), &device).expect_err(field).to_string();
        assert!(error.contains(field), "{field}: {error}");
    }
    for (field, value) in [("tokenizer_class", json!("T5Tokenizer")), ("do_lower_case", json!(false))] {
        let folder = changed("tokenizer", "tokenizer_config.json", |config| config[field] = value);
        let error = ClipTokenizer::read(folder.path()).expect_err(field).to_string();
        assert!(error.contains(field), "{field}: {error}");
    }
}

fn pipeline(device: &Device) -> Pipeline {
    load_pipeline(&fixtures::path("diffusion/stable"), device).expect("the fixture is valid").model
}

#[test]
fn a_pipeline_draws_the_picture_of_diffusers() {
    let fixture = expected();
    for (name, device) in devices() {
        let pipeline = pipeline(&device);
        let states = |prompt: &str| {
            let tokens = pipeline.text.tokens(prompt, Limit::Refuse(LENGTH)).expect("a short prompt").sample;
            pipeline.text.encode(&[&tokens]).expect("a prompt").remove(0)
        };
        let config = SamplerConfig { steps: 4, guidance: 2.0, clip: None, seed: 0 };
        let noise = tensor(&fixture["noise"], &device);
        let (prompt, empty) = (states("a smiling face"), states(""));
        let latents = pipeline.model.sample_from(noise, &[&prompt], &empty, &config).expect("valid settings");
        let latents: Vec<f32> = values(latents).into_iter().map(|value| value as f32).collect();
        let picture = pipeline.images.decode(&latents).expect("latents");
        assert_eq!((picture.width(), picture.height()), (16, 16));
        let size = 256;
        for (at, byte) in picture.pixels().iter().enumerate() {
            let expected = 255.0 * fixture["picture"].values[at % 3 * size + at / 3];
            assert!((f64::from(*byte) - expected).abs() < 0.51, "{name}, {at}: {byte}, {expected}");
        }
    }
}

#[test]
fn a_picture_passes_through_the_autoencoder() {
    let (name, device) = devices().remove(0);
    let pipeline = pipeline(&device);
    assert_eq!((pipeline.images.side(), pipeline.images.factor()), (16, 2));
    let fixture = expected();
    let images: Vec<f32> = fixture["images"].values[..768].iter().map(|&value| value as f32).collect();
    let latents = pipeline.images.encode(images).expect("a picture");
    let latents: Vec<f64> = latents.into_iter().map(f64::from).collect();
    assert_close(&name, &latents, &fixture["images.latents"].values[..256], 1e-5);
    assert!(pipeline.images.encode(vec![0.0; 3]).is_err() && pipeline.images.decode(&[0.0; 3]).is_err());
}

#[test]
fn generated_pictures_depend_on_seed_and_size() {
    let (_, device) = devices().remove(0);
    let pipeline = pipeline(&device);
    let sampler = SamplerConfig { steps: 2, ..SamplerConfig::default() };
    let config = GenerateConfig { sampler, side: None };
    let both = pipeline.generate(&["a cat", "a face"], &config).expect("valid settings");
    assert_eq!(pipeline.generate(&["a cat"], &config).expect("valid settings"), both[..1]);
    let second = GenerateConfig { sampler: SamplerConfig { seed: 1, ..sampler }, ..config };
    assert_eq!(pipeline.generate(&["a face"], &second).expect("valid settings"), both[1..]);
    let large = pipeline.generate(&["a cat"], &GenerateConfig { side: Some(24), ..config }).expect("valid settings");
    assert_eq!((large[0].width(), large[0].height()), (24, 24));
    for side in [0, 18, 1 << 20] {
        let error = pipeline.generate(&["a cat"], &GenerateConfig { side: Some(side), ..config }).expect_err("a side");
        assert!(error.to_string().contains("side"), "{side}: {error}");
    }
    let error = pipeline.generate(&["a", &"cat ".repeat(80)], &config).expect_err("a long prompt").to_string();
    assert!(error.contains("prompt 1") && error.contains("82 tokens"), "{error}");
}
