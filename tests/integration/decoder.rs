//! The decoder and language models on it.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use hyperinf::gradients::{Gradients, Tape, Target, Task, gradients, gradients_looped};
use hyperinf::models::{
    ALL_LINEAR, AttentionBias, CausalLm, CheckpointNames, DecoderConfig, LmHead, LmSample, LoraConfig, LoraScaling,
    ModelError, RotaryConfig, RotaryPairing, RotaryScaling, SampleModel, SlidingWindow, adapt, generate, load_weights,
    weights,
};
use hyperinf_tests::compare::{assert_close, largest, values};
use hyperinf_tests::decoder::{Oracle, angles, weight};
use hyperinf_tests::devices;

use crate::models::ramp;

/// Rounding of f32 through a few layers, relative to the largest value.
const TOLERANCE: f64 = 1e-5;
const LORA: LoraConfig = LoraConfig { rank: 2, alpha: 6.0, scaling: LoraScaling::Standard, dropout: 0.0 };

/// Four heads on two, a head size that is not `width / heads`.
pub(crate) fn sizes() -> DecoderConfig {
    DecoderConfig {
        vocabulary: 13,
        max_tokens: 12,
        width: 12,
        layers: 2,
        heads: 4,
        key_value_heads: 2,
        head_size: 6,
        feed_forward: 20,
        norm_epsilon: 1e-5,
        rotary: RotaryConfig::default(),
        attention_bias: AttentionBias::None,
        feed_forward_bias: false,
        sliding_window: None,
    }
}

pub(crate) fn model(config: &DecoderConfig, head: LmHead, device: &Device) -> CausalLm {
    let weights = |name: &str, shape: &[usize]| Ok(TensorData::new(weight(name, shape).values, shape.to_vec()));
    CausalLm::from_weights(config.clone(), head, device, weights).expect("the sizes are valid")
}

pub(crate) fn logits(model: &CausalLm, tokens: &[u32]) -> Vec<f64> {
    let input: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
    let input = Tensor::<2, Int>::from_data(TensorData::new(input, [1, tokens.len()]), &model.device());
    values(model.logits(input, &mut Tape::off()))
}

fn check(what: &str, config: &DecoderConfig, head: LmHead) {
    let oracle = Oracle { config, head, weight: &weight };
    for (name, device) in devices() {
        let model = model(config, head, &device);
        assert_eq!(model.head(), head);
        for tokens in [&[3, 1, 4, 1, 5, 9, 2, 6, 5][..], &[7]] {
            let expected = oracle.logits(tokens).values;
            assert!(largest(&expected) > 0.1, "{what}: nothing to compare");
            assert_close(&format!("{name}, {what}"), &logits(&model, tokens), &expected, TOLERANCE);
        }
    }
}

#[test]
fn logits_are_those_of_the_definition() {
    check("tied", &sizes(), LmHead::Tied);
    check("separate", &sizes(), LmHead::Separate);
    check("one head each", &DecoderConfig { key_value_heads: 4, ..sizes() }, LmHead::Tied);
    check("one for all", &DecoderConfig { key_value_heads: 1, ..sizes() }, LmHead::Tied);
    for bias in [AttentionBias::QueryKeyValue, AttentionBias::All] {
        let config = DecoderConfig { attention_bias: bias, feed_forward_bias: bias == AttentionBias::All, ..sizes() };
        check(&format!("{bias:?}"), &config, LmHead::Separate);
    }
}

#[test]
fn windows_hide_what_is_too_far_back() {
    for (size, first_layer) in [(3, 0), (3, 1), (1, 0), (50, 0)] {
        let config = DecoderConfig { sliding_window: Some(SlidingWindow { size, first_layer }), ..sizes() };
        check(&format!("window of {size} from layer {first_layer}"), &config, LmHead::Tied);
    }
}

#[test]
fn positions_turn_heads() {
    let llama3 = RotaryScaling::Llama3 {
        factor: 8.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_max_tokens: 64,
    };
    let yarn = RotaryScaling::Yarn {
        factor: 4.0,
        attention_factor: 1.138,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_max_tokens: 64,
        whole_dimensions: true,
    };
    let scalings = [
        RotaryScaling::None,
        RotaryScaling::Linear { factor: 2.5 },
        llama3,
        yarn,
        RotaryScaling::Divided { divisors: vec![1.0, 3.0, 8.0] },
    ];
    for scaling in scalings {
        for pairing in [RotaryPairing::Halves, RotaryPairing::Neighbours] {
            let rotary = RotaryConfig { base: 50.0, scaling: scaling.clone(), pairing };
            check(&format!("{rotary:?}"), &DecoderConfig { rotary, ..sizes() }, LmHead::Tied);
        }
    }
}

/// The scaling of Llama 3.1 at its own sizes, where all three of its cases occur.
#[test]
fn frequencies_of_llama_3_are_kept_blended_and_divided() {
    let scaling = RotaryScaling::Llama3 {
        factor: 8.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_max_tokens: 8192,
    };
    let rotary = RotaryConfig { base: 5e5, scaling, pairing: RotaryPairing::Halves };
    let config = DecoderConfig { rotary: rotary.clone(), head_size: 128, ..sizes() };
    let found = rotary.frequencies(128);
    let plain = RotaryConfig { scaling: RotaryScaling::None, ..rotary }.frequencies(128);
    assert_close("llama3", &found, &angles(&config).0, 1e-14);
    let ratios: Vec<f64> = plain.iter().zip(&found).map(|(plain, found)| plain / found).collect();
    let count = |accepted: fn(f64) -> bool| ratios.iter().filter(|&&ratio| accepted(ratio)).count();
    // More than 4 turns within 8192 positions need a pair below 28.2, fewer than 1 a pair above 34.98.
    assert_eq!(count(|ratio| ratio == 1.0), 29);
    assert_eq!(count(|ratio| (ratio - 8.0).abs() < 1e-12), 29);
    assert_eq!(count(|ratio| ratio > 1.0 && ratio < 7.999), 6);
}

/// Texts of different lengths with different shares scored.
fn samples() -> Vec<LmSample> {
    [(&[1, 2, 3, 4, 5][..], 3), (&[4, 6, 9], 2), (&[5, 6, 7, 8, 9, 10, 1, 2, 3, 3, 12], 4), (&[2, 7, 11], 1)]
        .iter()
        .map(|(tokens, first)| LmSample {
            tokens: tokens.to_vec(),
            scored: (0..tokens.len()).map(|i| i >= *first).collect(),
        })
        .collect()
}

/// A model with adapters that do something: with `B = 0` the gradient of every `A` is 0.
fn adapted(targets: &[&str], device: &Device) -> CausalLm {
    let base = model(&sizes(), LmHead::Separate, device);
    let model = adapt(base, targets, &LORA, 3).expect("the layers exist");
    let trained = weights(&model).expect("weights can be read").into_iter().map(|(name, data)| {
        let like = || -> Tensor<2> { Tensor::from_data(data.clone(), device) };
        let data = if name.contains("lora_b") { ramp(like(), 0.3).into_data() } else { data };
        (name, data)
    });
    load_weights(model, trained.collect()).expect("the names are the model's own")
}

fn losses(model: &CausalLm, samples: &[&LmSample]) -> Vec<f64> {
    let batch = model.collate(samples).expect("the samples fit");
    values(model.loss(model.forward(&batch, &mut Tape::off()), &batch))
}

fn sample_gradients(model: &CausalLm, samples: &[&LmSample]) -> Gradients {
    let batch = model.collate(samples).expect("the samples fit");
    gradients(model, &batch, Target::Loss).expect("the model is well-formed")
}

#[test]
fn the_loss_is_the_mean_over_scored_tokens() {
    let (all, config) = (samples(), sizes());
    let oracle = Oracle { config: &config, head: LmHead::Tied, weight: &weight };
    let expected: Vec<f64> = all
        .iter()
        .map(|sample| {
            let logits = oracle.logits(&sample.tokens);
            let scored: Vec<usize> = (1..sample.tokens.len()).filter(|&i| sample.scored[i]).collect();
            let loss = |i: usize| {
                let row = logits.row(i - 1);
                row.iter().map(|v| v.exp()).sum::<f64>().ln() - row[sample.tokens[i] as usize]
            };
            scored.iter().map(|&i| loss(i)).sum::<f64>() / scored.len() as f64
        })
        .collect();
    for (name, device) in devices() {
        let model = model(&config, LmHead::Tied, &device);
        let samples: Vec<&LmSample> = all.iter().collect();
        assert_close(&name, &losses(&model, &samples), &expected, TOLERANCE);
        let batch = model.collate(&samples).expect("the samples fit");
        assert_eq!(batch.counts, [2, 1, 7, 2], "{name}");
        assert_eq!(model.forward(&batch, &mut Tape::off()).dims(), [12, config.vocabulary], "{name}");
    }
}

#[test]
fn what_is_not_scored_is_no_target() {
    for (name, device) in devices() {
        let model = adapted(&["q_proj", "v_proj"], &device);
        // The last two tokens stand before no scored token and are not scored themselves.
        let sample = |end: [u32; 2]| LmSample {
            tokens: [&[1, 2, 3, 4][..], &end].concat(),
            scored: vec![false, false, true, true, false, false],
        };
        let (one, other) = (sample([5, 6]), sample([12, 0]));
        assert_close(&name, &losses(&model, &[&one]), &losses(&model, &[&other]), 1e-6);
        let (one, other) = (sample_gradients(&model, &[&one]), sample_gradients(&model, &[&other]));
        for (one, other) in one.blocks.into_iter().zip(other.blocks) {
            assert_close(&name, &values(one), &values(other), 1e-6);
        }
    }
}

#[test]
fn neither_padding_nor_mates_change_a_text() {
    let all = samples();
    for (name, device) in devices() {
        let model = adapted(&[ALL_LINEAR], &device);
        let mates: Vec<&LmSample> = all.iter().collect();
        let (all_losses, together) = (losses(&model, &mates), sample_gradients(&model, &mates));
        for (i, sample) in all.iter().enumerate() {
            let what = format!("{name}, sample {i}");
            assert_close(&what, &losses(&model, &[sample]), &all_losses[i..=i], TOLERANCE);
            for (l, found) in sample_gradients(&model, &[sample]).blocks.into_iter().enumerate() {
                let expected = values(together.blocks[l].clone().narrow(0, i, 1));
                assert!(largest(&expected) > 1e-6, "{what}: block {l} has no gradient to compare");
                assert_close(&format!("{what}, block {l}"), &values(found), &expected, TOLERANCE);
            }
        }
    }
}

#[test]
fn a_texts_gradients_equal_its_own_backward_pass() {
    let all = samples();
    for (name, device) in devices() {
        let model = adapted(&[ALL_LINEAR], &device);
        let found = sample_gradients(&model, &all.iter().collect::<Vec<_>>());
        let looped: Gradients = gradients_looped(&model.train(), all.len(), |model, i| {
            let batch = model.collate(&[&all[i]]).expect("the sample fits");
            model.loss(model.forward(&batch, &mut Tape::off()), &batch)
        })
        .expect("the loop works for every module");
        assert_eq!(found.layout.len(), 2 * 7 * 2, "{name}: two factors in each of seven layers, twice");
        assert_eq!(found.layout.len(), looped.layout.len(), "{name}: only adapters are trained");
        for (l, block) in found.layout.iter().enumerate() {
            let path =
                looped.layout[l].name.replace(".Lora", "").replace("lora_a", "lora_A").replace("lora_b", "lora_B");
            assert_eq!(block.name.strip_prefix("base_model.model."), Some(path.replace("decoder.", "model.").as_str()));
            let expected = values(looped.blocks[l].clone());
            assert!(largest(&expected) > 1e-5, "{path}: no gradient to compare");
            assert_close(&format!("{name}, {path}"), &values(found.blocks[l].clone()), &expected, TOLERANCE);
        }
    }
}

#[test]
fn blocks_and_weights_have_the_names_of_peft_and_hugging_face() {
    let (_, device) = devices().remove(0);
    let found = sample_gradients(&adapted(&["q_proj", "v_proj"], &device), &[&samples()[0]]);
    let names: Vec<String> = found.layout.iter().map(|b| format!("{} {}x{}", b.name, b.rows, b.cols)).collect();
    assert_eq!(
        names[..4],
        [
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight 12x2",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight 2x24",
            "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight 12x2",
            "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight 2x12",
        ]
    );
    let model = adapt(model(&sizes(), LmHead::Separate, &device), &["mlp.down_proj"], &LORA, 1).expect("it exists");
    let paths = weights(&model).expect("weights can be read");
    let mut found: Vec<String> =
        paths.keys().filter(|path| !path.contains("lora_")).map(|path| model.checkpoint_name(path)).collect();
    let layer = [
        "input_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];
    let mut expected: Vec<String> =
        ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"].map(str::to_owned).into();
    for index in 0..2 {
        expected.extend(layer.iter().map(|part| format!("model.layers.{index}.{part}.weight")));
    }
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn greedy_text_takes_the_likeliest_token() {
    let config = sizes();
    let oracle = Oracle { config: &config, head: LmHead::Tied, weight: &weight };
    let likeliest = |tokens: &[u32]| {
        let logits = oracle.logits(tokens);
        let row = logits.row(tokens.len() - 1);
        (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("there are tokens") as u32
    };
    let mut expected = vec![3, 1];
    for _ in 0..5 {
        expected.push(likeliest(&expected));
    }
    for (name, device) in devices() {
        let model = model(&config, LmHead::Tied, &device);
        let run = |limit, stop: &[u32]| generate(&model, &[3, 1], limit, stop).expect("the prompt fits");
        assert_eq!(run(5, &[]), expected[2..], "{name}");
        assert_eq!(run(0, &[]), [0; 0], "{name}");
        let stop = expected[4];
        let first = expected[2..].iter().position(|&token| token == stop).expect("it is among them");
        assert_eq!(run(5, &[stop]), expected[2..=2 + first], "{name}");
        assert_eq!(run(100, &[]).len(), config.max_tokens - 2, "{name}: the model takes no more");
        for (prompt, message) in [
            (vec![], "sample 0 has 0 tokens, but the model accepts 1 to 12"),
            (vec![1; 13], "sample 0 has 13 tokens, but the model accepts 1 to 12"),
            (vec![13], "sample 0 contains token 13, but the vocabulary has 13"),
        ] {
            assert_eq!(generate(&model, &prompt, 1, &[]).expect_err("refused").to_string(), message);
        }
    }
}

#[test]
fn a_seed_is_a_model() {
    for (name, device) in devices() {
        let new = |seed| CausalLm::new(sizes(), LmHead::Separate, seed, &device).expect("the sizes are valid");
        let [one, same, other] = [new(1), new(1), new(2)].map(|model| logits(&model, &[1, 2, 3]));
        assert_eq!(one, same, "{name}");
        assert_ne!(one, other, "{name}");
    }
}

#[test]
fn texts_that_do_not_fit_are_errors() {
    let (_, device) = devices().remove(0);
    let model = model(&sizes(), LmHead::Tied, &device);
    let good = samples().remove(0);
    let check = |tokens: &[u32], scored: &[bool], message: &str| {
        let bad = LmSample { tokens: tokens.to_vec(), scored: scored.to_vec() };
        let error = model.collate(&[&good, &bad]).expect_err(message).to_string();
        assert_eq!(error, message);
    };
    check(&[], &[], "sample 1 has 0 tokens, but the model accepts 1 to 12");
    check(&[1; 13], &[true; 13], "sample 1 has 13 tokens, but the model accepts 1 to 12");
    check(&[1, 13], &[false, true], "sample 1 contains token 13, but the vocabulary has 13");
    check(&[1, 2], &[false; 2], "sample 1 has 2 tokens, and none of them is scored");
    check(&[1], &[false], "sample 1 has 1 tokens, and none of them is scored");
    check(&[1, 2], &[true; 2], "the first token of sample 1 is scored, but no token comes before it");
    check(&[1, 2], &[true; 3], "sample 1 has 2 tokens, but 3 marks for which of them are scored");
    assert!(matches!(model.collate(&[]), Err(ModelError::Empty { .. })));
}

#[test]
fn sizes_out_of_range_are_errors() {
    let check = |config: DecoderConfig, expected: &str| {
        let error = config.validate().expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    };
    let rotary = |scaling| RotaryConfig { scaling, ..RotaryConfig::default() };
    check(DecoderConfig { vocabulary: 0, ..sizes() }, "`vocabulary` is 0, but must be at least 1");
    check(DecoderConfig { layers: 0, ..sizes() }, "`layers` is 0");
    check(DecoderConfig { key_value_heads: 3, ..sizes() }, "`key_value_heads` is 3, but must be a divisor of `heads`");
    check(DecoderConfig { head_size: 5, ..sizes() }, "`head_size` is 5, but must be even");
    check(DecoderConfig { norm_epsilon: 0.0, ..sizes() }, "`norm_epsilon` is 0");
    check(DecoderConfig { norm_epsilon: f64::NAN, ..sizes() }, "`norm_epsilon` is NaN");
    let window = Some(SlidingWindow { size: 0, first_layer: 0 });
    check(DecoderConfig { sliding_window: window, ..sizes() }, "`sliding_window` is 0");
    let base = RotaryConfig { base: 1.0, ..RotaryConfig::default() };
    check(DecoderConfig { rotary: base, ..sizes() }, "`base` is 1");
    check(DecoderConfig { rotary: rotary(RotaryScaling::Linear { factor: -2.0 }), ..sizes() }, "`factor` is -2");
    let divided = RotaryScaling::Divided { divisors: vec![1.0; 4] };
    check(
        DecoderConfig { rotary: rotary(divided), ..sizes() },
        "`divisors` is 4, but must be half of `head_size` many",
    );
    let llama3 = RotaryScaling::Llama3 {
        factor: 8.0,
        low_frequency_factor: 4.0,
        high_frequency_factor: 4.0,
        original_max_tokens: 8192,
    };
    check(DecoderConfig { rotary: rotary(llama3), ..sizes() }, "`low_frequency_factor` is 4, but must be below");
}

#[test]
fn a_weight_of_another_shape_is_an_error() {
    let (_, device) = devices().remove(0);
    let found = CausalLm::from_weights(sizes(), LmHead::Tied, &device, |name, shape| {
        let shape = if name.ends_with("1.mlp.up_proj.weight") { vec![20, 12] } else { shape.to_vec() };
        Ok(TensorData::zeros::<f32, _>(shape))
    });
    let message = found.expect_err("a shape differs").to_string();
    assert_eq!(message, "weight `model.layers.1.mlp.up_proj.weight` is [20, 12], but the model needs [12, 20]");
}
