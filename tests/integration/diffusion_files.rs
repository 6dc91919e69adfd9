//! Files of denoisers: what is saved, and what is refused.

use hyperinf::models::{LoadError, load_pixart, save_pixart, weights};
use hyperinf_tests::{devices, fixtures};

#[test]
fn a_saved_transformer_is_the_one_that_was_loaded() {
    let (_, device) = devices().remove(0);
    let model = load_pixart(&fixtures::path("diffusion/transformer"), &device).expect("the fixture is valid").model;
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    save_pixart(&model, folder.path()).expect("a folder that can be written");
    let again = load_pixart(folder.path(), &device).expect("what was written can be read").model;
    assert_eq!(again.config(), model.config());
    for ((path, old), new) in
        weights(&model).expect("readable").into_iter().zip(weights(&again).expect("readable").into_values())
    {
        assert_eq!(old, new, "{path}");
    }
}

#[test]
fn settings_that_are_not_followed_are_refused_by_name() {
    let cases = [
        ("norm_type", "\"layer_norm\""),
        ("activation_fn", "\"geglu\""),
        ("use_additional_conditions", "true"),
        ("caption_channels", "null"),
        ("cross_attention_dim", "24"),
        ("num_layers", "3"),
        ("attention_head_dim", "16"),
        ("_class_name", "\"DiTTransformer2DModel\""),
    ];
    let source = fixtures::path("diffusion/transformer");
    for (field, value) in cases {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        for file in ["config.json", "diffusion_pytorch_model.safetensors"] {
            std::fs::copy(source.join(file), folder.path().join(file)).expect("a copy");
        }
        let path = folder.path().join("config.json");
        let text = std::fs::read_to_string(&path).expect("a copy");
        let mut config: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
        config[field] = serde_json::from_str(value).expect("valid JSON");
        std::fs::write(&path, config.to_string()).expect("a copy");
        let (_, device) = devices().remove(0);
        let error: LoadError = load_pixart(folder.path(), &device).expect_err(field);
        let message = error.to_string();
        let named = message.contains(field) || field == "num_layers" && message.contains("transformer_blocks.2");
        assert!(named, "{field}: {message}");
    }
}
