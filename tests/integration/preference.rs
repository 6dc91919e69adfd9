//! Pairs of answers: DPO and reward models, against TRL's formula in transformers (`tests/fixtures/preference`) and
//! against finite differences in f64.

use std::fs;
use std::path::PathBuf;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor};
use hyperinf::data::{
    Check, Dataset, Evaluate, Finetune, Pair, Quality, ReadOptions, Recipe, Run, RunError, Select, Stop,
};
use hyperinf::gradients::{Block, Estimate, Gradients, Tape, Target, Task, gradients};
use hyperinf::models::{
    Adapter, LmSample, LoadedModel, LoraConfig, PairLoss, PairSample, PreferenceModel, SampleModel, load_causal_lm,
    load_preference,
};
use hyperinf::scoring::{Amount, MethodSpec, Set};
use hyperinf_tests::compare::{assert_close, largest, values};
use hyperinf_tests::devices;
use hyperinf_tests::fixtures::{self, Arrays, blocks};

mod runs;

/// The library narrows to f32; gradients are sums of many terms.
const TOLERANCE: f64 = 1e-4;
const BETA: f64 = 0.3;
const DPO: PairLoss = PairLoss::Dpo { beta: BETA };

fn folder() -> PathBuf {
    fixtures::path("transformers/llama")
}

/// The model of a loss with its adapter of PEFT's, and what is expected of it.
fn model(loss: PairLoss, device: &Device) -> (PreferenceModel, Arrays) {
    let (adapter, name) = match loss {
        PairLoss::Dpo { .. } => (folder().join("all_linear"), "dpo"),
        PairLoss::Reward => (fixtures::path("preference/reward"), "reward"),
    };
    let (LoadedModel { model, .. }, own_head) = load_preference(&folder(), loss, 0, device).expect("a fixture");
    assert!(!own_head, "the model's folder has no reward head");
    let mut adapter = Adapter::read(&adapter).expect("a fixture");
    adapter.config.lora.dropout = 0.0;
    let model = adapter.apply(model).expect("the adapter fits");
    (model, fixtures::load(&format!("preference/{name}.safetensors")))
}

fn samples(model: &PreferenceModel, arrays: &Arrays) -> Vec<PairSample> {
    let prompts = &arrays["prompt_lengths"].values;
    let side = |name: &str| -> Vec<LmSample> {
        let ids = &arrays[name];
        let t = ids.shape[1];
        let rows = ids.values.chunks(t).zip(prompts);
        rows.map(|(row, &prompt)| {
            let tokens: Vec<u32> = row.iter().filter(|id| **id >= 0.0).map(|id| *id as u32).collect();
            LmSample { scored: (0..tokens.len()).map(|place| place >= prompt as usize).collect(), tokens }
        })
        .collect()
    };
    let pairs = side("chosen_ids").into_iter().zip(side("rejected_ids"));
    pairs
        .map(|(chosen, rejected)| {
            let reference = model.reference(&chosen, &rejected).expect("the pair fits");
            PairSample { chosen, rejected, reference }
        })
        .collect()
}

fn batch(model: &PreferenceModel, samples: &[PairSample]) -> hyperinf::models::PairBatch {
    model.collate(&samples.iter().collect::<Vec<_>>()).expect("the pairs fit")
}

fn check_numbers(loss: PairLoss) {
    for (name, device) in devices() {
        let (model, arrays) = model(loss, &device);
        let samples = samples(&model, &arrays);
        let what = |part: &str| format!("{}, {name}: {part}", loss.name());
        if let Some(expected) = arrays.get("reference") {
            let found: Vec<f64> = samples.iter().flat_map(|pair| pair.reference.map(f64::from)).collect();
            assert_close(&what("reference"), &found, &expected.values, TOLERANCE);
        }
        let together = batch(&model, &samples);
        let rewards = model.forward(&together, &mut Tape::off());
        assert_close(
            &what("losses"),
            &values(model.loss(rewards.clone(), &together)),
            &arrays["losses"].values,
            TOLERANCE,
        );
        assert_close(&what("rewards"), &values(rewards), &arrays["rewards"].values, TOLERANCE);
        let expected = blocks(&arrays, "gradients.");
        let found = gradients(&model, &together, Target::Loss).expect("there are layers to record");
        assert_eq!(found.layout.len(), expected.len(), "{}", what("blocks"));
        for (block, gradients) in found.layout.iter().zip(&found.blocks) {
            let expected = &expected[&block.name];
            assert!(largest(expected) > 1e-3, "{}: no gradient to compare", what(&block.name));
            assert_close(&what(&block.name), &values(gradients.clone()), expected, 3.0 * TOLERANCE);
        }
    }
}

#[test]
fn dpo_is_that_of_trl() {
    check_numbers(DPO);
}

#[test]
fn a_reward_model_is_that_of_transformers() {
    check_numbers(PairLoss::Reward);
}

/// Casts a model to f64 and adds to the entries of one block.
struct Moved<'a> {
    path: Vec<String>,
    /// The parameter, by the end of its path, and what is added to it.
    change: Option<(&'a [String], &'a [f64], f64)>,
}

impl ModuleMapper for Moved<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let change = self.change.filter(|(path, ..)| **path == self.path[..]);
        param.map(|old| {
            let wide = old.cast(DType::F64);
            let Some((_, direction, factor)) = change else { return wide };
            let (dims, place) = (wide.dims(), (&wide.device(), DType::F64));
            let data = burn::tensor::TensorData::new(direction.to_vec(), dims);
            wide + Tensor::<D>::from_data(data, place).mul_scalar(factor)
        })
    }
}

/// The paths of parameters of adapters and the reward head, with their number of entries.
struct Paths {
    path: Vec<String>,
    found: Vec<(Vec<String>, usize)>,
}

impl ModuleMapper for Paths {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.path.iter().any(|part| part == "lora_a" || part == "lora_b" || part == "score") {
            self.found.push((self.path.clone(), param.val().shape().num_elements()));
        }
        param
    }
}

/// The gradient along one direction in every block against the difference of losses, in f64.
fn check_differences(loss: PairLoss) {
    for (name, device) in devices() {
        if !hyperinf::linalg::has_f64_functions(&device).unwrap_or(false) {
            continue;
        }
        let (model, arrays) = model(loss, &device);
        let samples = samples(&model, &arrays);
        let mut paths = Paths { path: Vec::new(), found: Vec::new() };
        drop(model.clone().map(&mut paths));
        let directions: Vec<Vec<f64>> = paths
            .found
            .iter()
            .map(|(_, size)| (0..*size).map(|k| (1.3 * (k * k + 1) as f64).sin()).collect())
            .collect();
        let moved = |change| model.clone().map(&mut Moved { path: Vec::new(), change });
        let losses = |model: &PreferenceModel| {
            let batch = batch(model, &samples);
            values(model.loss(model.forward(&batch, &mut Tape::off()), &batch))
        };
        let wide = moved(None);
        let found: Gradients = gradients(&wide, &batch(&wide, &samples), Target::Loss).expect("layers");
        assert_eq!(paths.found.len(), found.layout.len());
        let mut matched = 0;
        for ((path, size), direction) in paths.found.iter().zip(&directions) {
            let step = 1e-5;
            let (up, down) =
                (losses(&moved(Some((path, direction, step)))), losses(&moved(Some((path, direction, -step)))));
            let slope: Vec<f64> = up.iter().zip(&down).map(|(up, down)| (up - down) / (2.0 * step)).collect();
            let along = |gradients: &Tensor<3>| -> Vec<f64> {
                let all = values(gradients.clone());
                all.chunks(*size).map(|g| g.iter().zip(direction).map(|(g, d)| g * d).sum()).collect()
            };
            // Blocks are matched by their slopes: their names are PEFT's, the paths Burn's.
            let fits = |(block, gradients): &(&Block, &Tensor<3>)| {
                block.parameters() == *size
                    && along(gradients)
                        .iter()
                        .zip(&slope)
                        .all(|(g, s)| (g - s).abs() <= 1e-7 * largest(&slope).max(1.0))
            };
            let fitting = found.layout.iter().zip(&found.blocks).filter(fits).count();
            assert_eq!(fitting, 1, "{}, {name}: {path:?} with slopes {slope:?}", loss.name());
            matched += fitting;
        }
        assert_eq!(matched, found.layout.len());
    }
}

#[test]
fn gradients_of_dpo_are_differences_of_its_loss() {
    check_differences(DPO);
}

#[test]
fn gradients_of_a_reward_model_are_differences_of_its_loss() {
    check_differences(PairLoss::Reward);
}

#[test]
fn a_new_adapter_changes_nothing_and_a_pair_is_its_own() {
    let (_, device) = devices().remove(0);
    let plain = load_causal_lm(&folder(), &device).expect("a fixture").model;
    let base = PreferenceModel::new(plain, DPO, None, 0).expect("a valid β");
    let (adapted, arrays) = model(DPO, &device);
    let samples = samples(&base, &arrays);
    let all = batch(&base, &samples);
    let losses = values(base.loss(base.forward(&all, &mut Tape::off()), &all));
    // The model without an adapter is its own reference.
    assert_close("log 2", &losses, &[2f64.ln(); 4], TOLERANCE);
    let each: Vec<f64> = samples
        .iter()
        .flat_map(|sample| {
            let one = batch(&adapted, std::slice::from_ref(sample));
            values(adapted.loss(adapted.forward(&one, &mut Tape::off()), &one))
        })
        .collect();
    assert_close("alone", &each, &arrays["losses"].values, TOLERANCE);
    for beta in [0.0, -0.1, f64::NAN, f64::INFINITY] {
        let plain = load_causal_lm(&folder(), &device).expect("a fixture").model;
        assert!(PreferenceModel::new(plain, PairLoss::Dpo { beta }, None, 0).is_err(), "{beta}");
    }
}
