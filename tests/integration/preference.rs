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

const ROWS: &str = r#"{"prompt": "Where is the boat?", "chosen": " On the river.", "rejected": " No."}
{"prompt": "Is the fox cold?", "chosen": " No.", "rejected": " was slow and weak."}
{"prompt": "The story", "chosen": " was slow and weak.", "rejected": " 7 pears"}
{"prompt": "She ate", "chosen": " 7 pears", "rejected": " On the river."}
{"prompt": "The fox", "chosen": " was weak.", "rejected": " 7 pears"}
{"prompt": "Where is the fox?", "chosen": " On the river.", "rejected": " No."}
"#;

struct Place(tempfile::TempDir);

impl Place {
    fn new(rows: &str) -> Self {
        let place = Self(tempfile::tempdir().expect("the system has room for tests"));
        fs::write(place.at("pairs.jsonl"), rows).expect("the folder can be written");
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self) -> Result<Dataset<Pair>, String> {
        let read = Dataset::<Pair>::read(Set::Train, &self.at("pairs.jsonl"), &ReadOptions::default());
        read.map_err(|error| {
            let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
        })
    }

    fn finetune(&self, pairs: PairLoss, out: &str) -> Finetune {
        Finetune {
            model: folder().display().to_string(),
            train: self.at("pairs.jsonl"),
            out: self.at(out),
            pairs: Some(pairs),
            lora: LoraConfig { rank: 4, ..LoraConfig::default() },
            recipe: Recipe { epochs: Some(40), learning_rate: Some(0.02), batch_size: Some(6), ..Recipe::default() },
            stop: Stop::default(),
            ..Finetune::default()
        }
    }

    fn run(&self, pairs: PairLoss, adapter: &str) -> Run {
        Run {
            model: folder().display().to_string(),
            adapter: Some(self.at(adapter)),
            train: self.at("pairs.jsonl"),
            query: self.at("pairs.jsonl"),
            pairs: Some(pairs),
            out: self.at("out"),
            ..Run::default()
        }
    }
}

#[test]
fn prompts_are_given_or_what_both_answers_begin_with() {
    let one = |row: &str| Place::new(row).read();
    let given = one(r#"{"prompt": "The fox", "chosen": " rests", "rejected": " runs"}"#).expect("a pair");
    let common = one(r#"{"chosen": "The fox rests", "rejected": "The fox runs"}"#).expect("a pair");
    // TRL leaves the space before the answers to them; the letter that they share is part of the prompt there, too.
    assert_eq!(given.rows[0].content.text(), "chosen: The fox rests\nrejected: The fox runs");
    assert_eq!(common.rows[0].content.text(), given.rows[0].content.text());
    let user = r#"{"role": "user", "content": "Where?"}"#;
    let answer = |text: &str| format!(r#"{{"role": "assistant", "content": "{text}"}}"#);
    let lists =
        one(&format!(r#"{{"prompt": [{user}], "chosen": [{}], "rejected": [{}]}}"#, answer("Here."), answer("No.")));
    let whole =
        one(&format!(r#"{{"chosen": [{user}, {}], "rejected": [{user}, {}]}}"#, answer("Here."), answer("No.")));
    assert_eq!(lists.expect("a pair").rows[0].content, whole.expect("a pair").rows[0].content);
    for (row, part) in [
        (r#"{"prompt": "a", "chosen": "b", "rejected": "b"}"#, "are the same"),
        (r#"{"prompt": "a", "chosen": "b", "rejected": " "}"#, "rejected"),
        (r#"{"chosen": "The fox", "rejected": "The fox"}"#, "chosen"),
        (r#"{"prompt": "a", "chosen": "b"}"#, "rejected"),
        (r#"{"prompt": "a", "chosen": 3, "rejected": "b"}"#, "chosen"),
        (r#"{"prompt": "a", "chosen": [{"role": "user", "content": "x"}], "rejected": "b"}"#, "rejected"),
    ] {
        let error = one(row).expect_err("no pair");
        assert!(error.contains(part), "{row}: {error}");
    }
}

trait TextOf {
    fn text(&self) -> String;
}

impl TextOf for Pair {
    fn text(&self) -> String {
        hyperinf::data::Content::text(self)
    }
}

/// Fine-tuning on pairs learns them, and the one whose answers were exchanged is the most suspicious.
#[test]
fn exchanged_answers_are_found() {
    let (_, device) = devices().remove(0);
    for pairs in [PairLoss::Dpo { beta: 0.5 }, PairLoss::Reward] {
        let place = Place::new(ROWS);
        let tuned = place.finetune(pairs, "adapter").run(&device, &mut |_| ()).expect("it trains");
        let Quality::Pairs(quality) = &tuned.quality.train else { panic!("these are pairs") };
        assert!(quality.accuracy > 0.8 && quality.loss < 0.55 && quality.margin > 0.0, "{pairs:?}: {quality:?}");
        let names: Vec<String> = fs::read_dir(place.at("adapter"))
            .expect("it was written")
            .map(|file| file.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        assert!(names.contains(&"adapter_model.safetensors".to_owned()), "{names:?}");
        let adapter = Adapter::read(&place.at("adapter")).expect("PEFT's files");
        let heads = adapter.tensors.keys().filter(|name| name.contains("score")).count();
        assert_eq!(heads, usize::from(pairs == PairLoss::Reward), "{:?}", adapter.tensors.keys());

        let evaluate = Evaluate {
            model: folder().display().to_string(),
            adapter: Some(place.at("adapter")),
            rows: place.at("pairs.jsonl"),
            pairs: Some(pairs),
            ..Evaluate::default()
        };
        let found = evaluate.run(&device, &mut |_| ()).expect("it fits");
        let Quality::Pairs(again) = &found.quality else { panic!("these are pairs") };
        assert!((again.loss - quality.loss).abs() < 1e-4, "{again:?}, {quality:?}");

        // The training rows with the answers of the third exchanged, judged by the model that knows better.
        let right = ROWS.lines().map(str::to_owned).collect::<Vec<_>>();
        let mut wrong = right.clone();
        wrong[2] = r#"{"prompt": "The story", "chosen": " 7 pears", "rejected": " was slow and weak."}"#.into();
        fs::write(place.at("wrong.jsonl"), wrong.join("\n")).expect("the folder can be written");
        // Pairs of the same preference, which the model was trained on.
        fs::write(place.at("trusted.jsonl"), [&*right[2], &*right[4]].join("\n")).expect("the folder can be written");
        let run =
            Run { train: place.at("wrong.jsonl"), query: place.at("trusted.jsonl"), ..place.run(pairs, "adapter") };
        for method in ["identity", "hyperinf", "datainf"] {
            let options = method.parse::<MethodSpec>().expect("a method").options().expect("a valid method");
            let run = Run { options, ..run.clone() };
            let found = run.detect(Some(Amount::Count(1)), &device, &mut |_| ()).expect("it fits");
            assert_eq!(found.removed, [2], "{pairs:?}, {method}: {:?}", found.influence.attribution.scores);
            assert_eq!(found.influence.kind, "preference");
            let settings = found.influence.settings.clone().expect("a loss");
            assert_eq!(settings["pairs"], pairs.name());
            let check = found.cross_check.expect("two answers are two labels");
            assert!(check.auc_loss > 0.9, "{check:?}");
            found.influence.discard_gradients().expect("they are there");
        }
        let sampled = Run { estimate: Estimate::GaussNewton { sketch: None }, ..run.clone() };
        let chosen = sampled.select(&Select::from(Amount::Count(2)), &device, &mut |_| ()).expect("it fits");
        assert_eq!(chosen.picks.order.len(), 2);
        chosen.influence.discard_gradients().expect("they are there");
    }
}

#[test]
fn what_is_no_pair_of_a_language_model_is_refused() {
    let (_, device) = devices().remove(0);
    let place = Place::new(ROWS);
    let bert = fixtures::path("transformers/bert").display().to_string();
    let error = Run { model: bert, adapter: None, ..place.run(DPO, "none") }.attribute(&device, &mut |_| ()).err();
    assert!(matches!(error, Some(RunError::NotLanguageModel { .. })), "{error:?}");
    // A reward model without a head, and an adapter of another loss.
    let all_linear = folder().join("all_linear");
    let run = |pairs| Run { adapter: Some(all_linear.clone()), ..place.run(pairs, "none") };
    let error = run(PairLoss::Reward).attribute(&device, &mut |_| ()).err();
    assert!(matches!(error, Some(RunError::Load { .. })), "{error:?}");
    let reward = Run { adapter: Some(fixtures::path("preference/reward")), ..place.run(DPO, "none") };
    assert!(reward.attribute(&device, &mut |_| ()).is_err(), "the adapter's head has no place");
    let checked = Check {
        model: folder().display().to_string(),
        data: place.at("pairs.jsonl"),
        pairs: Some(DPO),
        ..Check::default()
    };
    let checked = checked.run(None, &mut |_| ()).expect("they are pairs");
    assert_eq!((checked.kind, checked.rows), ("preference", 6));
    let scored = checked.shown[0].pieces.iter().filter(|piece| piece.scored).count();
    assert_eq!(scored, 2, "both answers: {:?}", checked.shown[0].pieces);
}
