//! The settings in `config.json`: each is followed or refused.

use hyperinf::models::{
    Activation, AttentionBias, ClassifierOptions, DecoderConfig, EncoderConfig, LmHead, RotaryConfig, RotaryPairing,
    RotaryScaling, SlidingWindow, load_causal_lm, load_classifier,
};
use serde_json::{Value, json};

use crate::folders::Model;
use crate::loading::device;

/// A model with other settings; `null` takes one away.
fn with(mut model: Model, changes: &Value) -> Model {
    for (name, value) in changes.as_object().expect("an object of settings") {
        match (value, model.config.as_object_mut()) {
            (Value::Null, Some(config)) => drop(config.remove(name)),
            (value, Some(config)) => drop(config.insert(name.clone(), value.clone())),
            (_, None) => unreachable!("settings are an object"),
        }
    }
    model
}

fn llama(changes: Value) -> Result<DecoderConfig, String> {
    let mut model = with(Model::llama(), &changes);
    let config = |name: &str| model.config.get(name).cloned().unwrap_or(Value::Null);
    let (qwen, all) = (config("model_type") == "qwen2", config("attention_bias") == true);
    let mlp = config("mlp_bias") == true;
    for layer in 0..2 {
        let parts: [(&str, usize, bool); 7] = [
            ("self_attn.q_proj", 8, qwen || all),
            ("self_attn.k_proj", 4, qwen || all),
            ("self_attn.v_proj", 4, qwen || all),
            ("self_attn.o_proj", 8, all),
            ("mlp.gate_proj", 12, mlp),
            ("mlp.up_proj", 12, mlp),
            ("mlp.down_proj", 8, mlp),
        ];
        for (part, outputs, bias) in parts {
            if bias {
                model.add(&format!("model.layers.{layer}.{part}.bias"), &[outputs]);
            }
        }
    }
    let folder = model.write();
    let loaded = load_causal_lm(folder.path(), &device()).map_err(|error| error.to_string())?;
    assert_eq!(loaded.model.head(), LmHead::Separate);
    Ok(loaded.model.decoder().config().clone())
}

fn bert(changes: Value) -> Result<EncoderConfig, String> {
    let folder = with(Model::bert_classifier(), &changes).write();
    let loaded = load_classifier(folder.path(), &ClassifierOptions::default(), &device());
    Ok(*loaded.map_err(|error| error.to_string())?.model.encoder.config())
}

const LLAMA: DecoderConfig = DecoderConfig {
    vocabulary: 11,
    max_tokens: 32,
    width: 8,
    layers: 2,
    heads: 4,
    key_value_heads: 2,
    head_size: 2,
    feed_forward: 12,
    norm_epsilon: 1e-5,
    rotary: RotaryConfig { base: 1e4, scaling: RotaryScaling::None, pairing: RotaryPairing::Halves },
    attention_bias: AttentionBias::None,
    feed_forward_bias: false,
    sliding_window: None,
};

#[test]
fn settings_of_decoders_are_followed() {
    let check = |changes: Value, expected: DecoderConfig| {
        assert_eq!(llama(changes.clone()).expect("valid settings"), expected, "{changes}");
    };
    let window = |size, first_layer| Some(SlidingWindow { size, first_layer });
    let qwen = DecoderConfig { attention_bias: AttentionBias::QueryKeyValue, ..LLAMA };
    check(json!({}), LLAMA);
    check(json!({ "head_dim": null, "rms_norm_eps": null }), DecoderConfig { norm_epsilon: 1e-6, ..LLAMA });
    check(json!({ "attention_bias": true }), DecoderConfig { attention_bias: AttentionBias::All, ..LLAMA });
    check(json!({ "mlp_bias": true }), DecoderConfig { feed_forward_bias: true, ..LLAMA });
    check(json!({ "model_type": "mistral" }), DecoderConfig { sliding_window: window(4096, 0), ..LLAMA });
    check(
        json!({ "model_type": "mistral", "sliding_window": 4 }),
        DecoderConfig { sliding_window: window(4, 0), ..LLAMA },
    );
    check(json!({ "model_type": "qwen2", "sliding_window": 4 }), qwen.clone());
    check(
        json!({ "model_type": "qwen2", "sliding_window": 4, "use_sliding_window": true, "max_window_layers": 1,
            "layer_types": ["full_attention", "sliding_attention"] }),
        DecoderConfig { sliding_window: window(4, 1), ..qwen },
    );
}

#[test]
fn a_window_that_is_null_is_none() {
    let mut model = Model::llama();
    model.config["model_type"] = json!("mistral");
    model.config["sliding_window"] = Value::Null;
    let loaded = load_causal_lm(model.write().path(), &device()).expect("valid settings");
    assert_eq!(*loaded.model.decoder().config(), LLAMA);
}

#[test]
fn a_number_of_key_heads_that_is_null_is_that_of_the_query_heads() {
    let mut model = Model::llama();
    model.config["model_type"] = json!("mistral");
    model.config["sliding_window"] = Value::Null;
    model.config["num_key_value_heads"] = Value::Null;
    for (layer, part) in [(0, "k_proj"), (0, "v_proj"), (1, "k_proj"), (1, "v_proj")] {
        model.add(&format!("model.layers.{layer}.self_attn.{part}.weight"), &[8, 8]);
    }
    let loaded = load_causal_lm(model.write().path(), &device()).expect("valid settings");
    assert_eq!(*loaded.model.decoder().config(), DecoderConfig { key_value_heads: 4, ..LLAMA });
}

#[test]
fn positions_are_scaled_as_either_form_of_the_settings_says() {
    let check = |changes: Value, base: f64, scaling: RotaryScaling, max_tokens: usize| {
        let config = llama(changes.clone()).expect("valid settings");
        let expected = RotaryConfig { base, scaling, pairing: RotaryPairing::Halves };
        assert_eq!((config.rotary, config.max_tokens), (expected, max_tokens), "{changes}");
    };
    check(json!({ "rope_theta": 5e5 }), 5e5, RotaryScaling::None, 32);
    check(json!({ "rope_theta": null }), 1e4, RotaryScaling::None, 32);
    check(json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 7.0 } }), 7.0, RotaryScaling::None, 32);
    let linear = RotaryScaling::Linear { factor: 2.0 };
    check(json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } }), 1e4, linear.clone(), 32);
    check(
        json!({ "rope_theta": null, "rope_parameters": { "rope_type": "linear", "factor": 2, "rope_theta": 9.0 } }),
        9.0,
        linear,
        32,
    );
    let dynamic = json!({ "type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 16 });
    check(json!({ "rope_scaling": dynamic }), 1e4, RotaryScaling::None, 16);
    check(
        json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16 } }),
        1e4,
        RotaryScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_max_tokens: 16,
        },
        32,
    );
    let yarn = |attention_factor, beta_fast| RotaryScaling::Yarn {
        factor: 4.0,
        attention_factor,
        beta_fast,
        beta_slow: 1.0,
        original_max_tokens: 8,
        whole_dimensions: true,
    };
    let original = 8;
    check(
        json!({ "rope_scaling": { "type": "yarn", "factor": 4.0, "original_max_position_embeddings": original } }),
        1e4,
        yarn(1.0 + 0.1 * 4f64.ln(), 32.0),
        32,
    );
    check(
        json!({ "rope_parameters": { "rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5, "beta_fast": 20,
            "original_max_position_embeddings": original } }),
        1e4,
        yarn(1.5, 20.0),
        32,
    );
}

#[test]
fn settings_of_decoders_that_are_not_computed_are_refused() {
    let check = |changes: Value, expected: &str| {
        let error = llama(changes).expect_err("not computed here");
        assert!(error.contains(expected), "{error}");
    };
    check(json!({ "hidden_act": "gelu" }), "`hidden_act` = \"gelu\", but only \"silu\"");
    check(json!({ "rope_scaling": { "type": "longrope" } }), "`rope_scaling.rope_type` = \"longrope\"");
    check(json!({ "rope_scaling": { "type": "linear" } }), "does not say `rope_scaling.factor`");
    check(json!({ "rope_scaling": { "factor": 2.0 } }), "does not say `rope_scaling.rope_type`");
    let nested = json!({ "full_attention": { "rope_type": "default" } });
    check(json!({ "rope_parameters": nested }), "`rope_parameters.full_attention`");
    check(json!({ "rope_scaling": "linear" }), "`rope_scaling` = \"linear\", but only an object");
    check(json!({ "partial_rotary_factor": 0.5 }), "`partial_rotary_factor` = 0.5");
    check(json!({ "quantization_config": { "bits": 4 } }), "`quantization_config` = {\"bits\":4}");
    check(json!({ "layer_types": ["full_attention", "sliding_attention"] }), "`layer_types`");
    check(json!({ "model_type": "mistral", "mlp_bias": true }), "`mlp_bias` = true");
    check(json!({ "hidden_size": null }), "does not say `hidden_size`");
    check(json!({ "hidden_size": -8 }), "`hidden_size` = -8, but only a whole number");
    check(json!({ "num_hidden_layers": 4_000_000_000u64 }), "`num_hidden_layers` = 4000000000, but only fewer layers");
    check(
        json!({ "rope_parameters": { "rope_type": "default" }, "rope_scaling": { "type": "linear", "factor": 2.0 } }),
        "`rope_scaling` = {\"factor\":2.0,\"type\":\"linear\"}, but only the same as `rope_parameters`",
    );
    let yarn = json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8 });
    check(
        json!({ "rope_scaling": yarn, "original_max_position_embeddings": 16 }),
        "`original_max_position_embeddings` = 16, but only 8",
    );
    check(
        json!({ "num_key_value_heads": 3 }),
        "`num_key_value_heads` = 3, but only a divisor of `num_attention_heads`",
    );
}

#[test]
fn settings_of_encoders_are_followed_or_refused() {
    let base = bert(json!({})).expect("valid settings");
    assert_eq!((base.max_tokens, base.first_position, base.segments, base.norm_epsilon), (16, 0, 2, 1e-12));
    assert_eq!(base.activation, Activation::Gelu);
    let changed = bert(json!({ "hidden_act": "gelu_new", "layer_norm_eps": 1e-5 })).expect("valid settings");
    assert_eq!((changed.activation, changed.norm_epsilon), (Activation::GeluTanh, 1e-5));
    let folder = Model::roberta_classifier().write();
    let roberta = load_classifier(folder.path(), &ClassifierOptions::default(), &device()).expect("a valid folder");
    let config = roberta.model.encoder.config();
    assert_eq!((config.max_tokens, config.first_position, config.segments), (14, 2, 1));

    let check = |changes: Value, expected: &str| {
        let error = bert(changes).expect_err("not computed here");
        assert!(error.contains(expected), "{error}");
    };
    check(json!({ "hidden_act": "swish" }), "`hidden_act` = \"swish\", but only gelu, gelu_new");
    check(json!({ "position_embedding_type": "relative_key" }), "`position_embedding_type` = \"relative_key\"");
    check(json!({ "is_decoder": true }), "`is_decoder` = true");
    check(json!({ "pruned_heads": { "0": [1] } }), "`pruned_heads`");
    check(json!({ "num_attention_heads": 3 }), "`num_attention_heads` = 3, but only a divisor of `hidden_size`");
    check(json!({ "num_hidden_layers": 3 }), "missing [\"bert.encoder.layer.2.");
}
