//! LoRA layers.

use burn::module::Module;
use burn::nn::LinearConfig;
use burn::tensor::{Device, Tensor};
use hyperinf::gradients::Tape;
use hyperinf::models::{LoraConfig, LoraLinear, LoraScaling};
use hyperinf_tests::compare::{assert_close, largest, values};
use hyperinf_tests::devices;

use crate::models::{LORA, TOLERANCE, difference, linear, ramp};

/// An adapter whose `B` is no longer zero, as after training.
fn adapted(config: &LoraConfig, device: &Device) -> LoraLinear {
    let mut lora = LoraLinear::new(linear(5, 4, device), "proj", config, 3).expect("the configuration is valid");
    lora.lora_b.weight = lora.lora_b.weight.map(|b| ramp(b, 0.9));
    lora
}

fn input(device: &Device) -> Tensor<3> {
    ramp(Tensor::zeros([2, 3, 5], device), 0.4)
}

#[test]
fn lora_is_its_base_until_trained() {
    for (name, device) in devices() {
        let base = linear(5, 4, &device);
        let lora = LoraLinear::new(base.clone(), "proj", &LORA, 3).expect("the configuration is valid");
        let found = values(lora.forward(input(&device), &mut Tape::off()));
        assert_eq!(found, values(base.forward(input(&device))), "{name}");
    }
}

#[test]
fn lora_scales_by_rank_or_its_root() {
    for (scaling, scale) in [(LoraScaling::Standard, 3.0), (LoraScaling::RankStabilized, 6.0 / 2f64.sqrt())] {
        for (name, device) in devices() {
            let lora = adapted(&LoraConfig { scaling, ..LORA }, &device);
            assert!((lora.scale() - scale).abs() < 1e-15, "{name}, {scaling:?}: {}", lora.scale());
            let x: Tensor<2> = input(&device).reshape([6, 5]);
            let found = lora.forward(x.clone(), &mut Tape::off()) - lora.base.forward(x.clone());
            let (x, a, b) = (values(x), values(lora.lora_a.weight.val()), values(lora.lora_b.weight.val()));
            let mut expected = vec![0.0; 6 * 4];
            for i in 0..6 {
                for (j, k, r) in (0..4 * 5 * 2).map(|at| (at % 4, at / 4 % 5, at / 20)) {
                    expected[i * 4 + j] += scale * x[i * 5 + k] * a[k * 2 + r] * b[r * 4 + j];
                }
            }
            assert!(largest(&expected) > 0.1, "{name}: the adapter does nothing");
            assert_close(&format!("{name}, {scaling:?}"), &values(found), &expected, 1e-5);
        }
    }
}

#[test]
fn lora_a_starts_within_the_bound_of_peft() {
    for (name, device) in devices() {
        let base = LinearConfig::new(64, 8).init(&device);
        let lora = LoraLinear::new(base, "proj", &LoraConfig { rank: 16, ..LORA }, 1).expect("valid");
        let a = values(lora.lora_a.weight.val());
        let bound = 1.0 / 8.0;
        let variance = a.iter().map(|v| v * v).sum::<f64>() / a.len() as f64;
        assert!(largest(&a) <= bound, "{name}: {}", largest(&a));
        // 1024 draws: the standard error of a uniform's variance is 3 %.
        assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 0.12, "{name}: {variance}");
    }
}

#[test]
fn merging_keeps_the_outputs_and_can_be_undone() {
    for (name, device) in devices() {
        let lora = adapted(&LORA, &device);
        let output = |lora: &LoraLinear| values(lora.forward(input(&device), &mut Tape::off()));
        let (expected, base) = (output(&lora), values(lora.base.weight.val()));
        let merged = lora.merge();
        assert_close(&format!("{name}, merged"), &values(merged.forward(input(&device))), &expected, TOLERANCE);
        assert_close(&name, &values(merged.linear().forward(input(&device))), &expected, TOLERANCE);
        let moved = largest(&difference(&values(merged.linear().weight.val()), &base));
        assert!(moved > 0.1, "{name}: merging changed the weight by {moved} only");
        let lora = merged.unmerge();
        assert_close(&format!("{name}, unmerged"), &output(&lora), &expected, TOLERANCE);
        assert_close(&format!("{name}, base"), &values(lora.base.weight.val()), &base, TOLERANCE);
    }
}

#[test]
fn lora_dropout_acts_in_training_only() {
    for (name, device) in devices() {
        let config = LoraConfig { dropout: 0.5, ..LORA };
        let plain = adapted(&LORA, &device);
        let lora = adapted(&config, &device);
        let output = |lora: &LoraLinear, device: &Device| values(lora.forward(input(device), &mut Tape::off()));
        let expected = output(&plain, &device);
        assert_eq!(output(&lora, &device), expected, "{name}");
        let training = output(&lora.train(), &device.clone().autodiff());
        assert!(largest(&difference(&training, &expected)) > 1e-3, "{name}: dropout does nothing in training");
    }
}

#[test]
fn lora_settings_out_of_range_are_errors() {
    let check = |config: LoraConfig, expected: &str| {
        let error = config.validate().expect_err("out of range").to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(LoraConfig { rank: 0, ..LORA }, "`rank` is 0");
    check(LoraConfig { alpha: -1.0, ..LORA }, "`alpha` is -1");
    check(LoraConfig { alpha: f64::NAN, ..LORA }, "`alpha` is NaN");
    check(LoraConfig { dropout: 1.0, ..LORA }, "`dropout` is 1");
}
