//! Runs over pictures with captions.

use std::fs;
use std::path::{Path, PathBuf};

use hyperinf::data::{
    Check, DiffusionOptions, Evaluate, Finetune, Influence, Predicted, Quality, Recipe, Run, RunError, Timesteps,
};
use hyperinf::gradients::Estimate;
use hyperinf::models::{
    Adapter, DiffusionSample, Limit, LoraConfig, NoiseSharing, Picture, PictureLimits, Prediction, RecordedParts,
    TimestepsAs, load_pipeline,
};
use hyperinf::scoring::{Amount, MethodSpec, Options, QueryMode};
use hyperinf_tests::compare::assert_close;
use hyperinf_tests::{devices, fixtures, pipelines};
use serde_json::json;
use tempfile::TempDir;

const CAPTIONS: [&str; 6] = ["the old fox", "a boat", "the cold river", "", "apples", "the old fox"];
const RANK: usize = 2;

/// A folder with a model, rows and what runs write.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        pipelines::write(&folder.path().join("model"), Prediction::Flow, &devices().remove(0).1);
        let rows = folder.path().join("rows");
        fs::create_dir_all(&rows).expect("a folder");
        let mut lines = String::new();
        for (row, caption) in CAPTIONS.iter().enumerate() {
            let pixels = (0..12 * 10 * 3).map(|at| (at * (7 + 4 * row) % 256) as u8).collect();
            let picture = Picture::new(12, 10, pixels).expect("a picture");
            let name = format!("{row}.png");
            fs::write(rows.join(&name), picture.to_png().expect("a small picture")).expect("it can be written");
            lines += &format!("{}\n", json!({ "file_name": name, "text": caption }));
        }
        fs::write(rows.join("metadata.jsonl"), lines).expect("it can be written");
        Self(folder)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn model(&self) -> String {
        self.at("model").display().to_string()
    }

    fn finetune(&self, out: &str, diffusion: DiffusionOptions) -> Adapter {
        let run = Finetune {
            model: self.model(),
            train: self.at("rows"),
            validation: Some(self.at("rows")),
            out: self.at(out),
            lora: LoraConfig { rank: RANK, ..LoraConfig::default() },
            diffusion: Some(diffusion),
            recipe: Recipe { epochs: Some(3), batch_size: Some(4), learning_rate: Some(1e-2), ..Recipe::default() },
            ..Finetune::default()
        };
        let done = run.run(&devices().remove(0).1, &mut |_| ()).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(done.rows, CAPTIONS.len());
        assert!(matches!(done.quality.train, Quality::Pictures(_)));
        Adapter::read(&self.at(out)).expect("it was written")
    }

    fn run(&self, adapter: &str, out: &str, diffusion: DiffusionOptions) -> Run {
        Run {
            model: self.model(),
            adapter: Some(self.at(adapter)),
            train: self.at("rows"),
            query: self.at("rows"),
            out: self.at(out),
            options: Options { query: QueryMode::Each, ..identity() },
            diffusion: Some(diffusion),
            ..Run::default()
        }
    }

    fn scores(&self, adapter: &str, out: &str, diffusion: DiffusionOptions) -> (Influence, Vec<Vec<f64>>) {
        let run = self.run(adapter, out, diffusion);
        let found = run.attribute(&devices().remove(0).1, &mut |_| ()).unwrap_or_else(|error| panic!("{error:?}"));
        let scores = found.attribution.scores.rows.clone();
        (found, scores)
    }
}

fn identity() -> Options {
    "identity".parse::<MethodSpec>().expect("a method").options().expect("a valid method")
}

fn three() -> DiffusionOptions {
    DiffusionOptions { timesteps: Timesteps::List(vec![100.0, 400.0, 900.0]), ..DiffusionOptions::default() }
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(told).unwrap_or_default();
    format!("{error}: {cause}")
}

fn files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn pictures_with_captions_become_scores() {
    let place = Place::new();
    let adapter = place.finetune("adapter", DiffusionOptions::default());
    // Two blocks, two attentions, four layers, two factors.
    assert_eq!(adapter.tensors.len(), 2 * 2 * 4 * 2);
    let stored = files(&place.at("adapter/.features"));
    assert_eq!(files(&place.at("adapter/.features").join(&stored[0])).len(), 5, "five captions, one of them empty");

    let (found, scores) = place.scores("adapter", "out", three());
    assert_eq!((found.kind, scores.len()), ("diffusion", CAPTIONS.len()));
    for (row, scores) in scores.iter().enumerate() {
        assert!(scores[row] > 0.0, "a row helps itself: {scores:?}");
    }
    let contacts = found.board().contacts(2, 3).expect("the pictures are there");
    assert_eq!(contacts.len(), 2);
    assert_eq!((contacts[0].query.text.as_str(), contacts[0].helpful.len()), (CAPTIONS[0], 3));
    assert_eq!(contacts[1].query.picture.as_ref().map(Picture::width), Some(12));
    assert!(contacts.iter().flat_map(|contact| &contact.harmful).all(|row| row.score.is_some_and(|score| score < 0.0)));
    found.discard_gradients().expect("they are there");

    // diffusers' file is the same adapter.
    let lora = format!("adapter/{}", Adapter::LORA_FILE);
    let (found, of_file) = place.scores(&lora, "out-lora", three());
    for (file, folder) in of_file.iter().zip(&scores) {
        assert_close("LoRA file", file, folder, 1e-6);
    }
    found.discard_gradients().expect("they are there");
}

#[test]
fn losses_are_those_of_the_library() {
    let place = Place::new();
    place.finetune("adapter", DiffusionOptions::default());
    let (_, device) = devices().remove(0);
    let run = |min_snr| Evaluate {
        model: place.model(),
        rows: place.at("rows"),
        diffusion: Some(DiffusionOptions { min_snr, ..three() }),
        ..Evaluate::default()
    };
    let found = run(None).run(&device, &mut |_| ()).expect("it fits");
    assert!(found.rows.predictions.iter().all(|prediction| prediction.target == Predicted::Picture));
    let mut pipeline = load_pipeline(&place.at("model"), &device).expect("valid").model;
    pipeline.model.pairs.timesteps = vec![100.0, 400.0, 900.0];
    let samples: Vec<DiffusionSample> = (0..CAPTIONS.len())
        .map(|row| {
            let tokens = pipeline.text.tokens(CAPTIONS[row], Limit::Refuse(24)).expect("short").sample;
            let text = pipeline.text.encode(&[&tokens]).expect("valid").remove(0);
            let bytes = fs::read(place.at("rows").join(format!("{row}.png"))).expect("it is there");
            let picture = Picture::decode(&bytes, &PictureLimits::default()).expect("a PNG");
            let image = pipeline.images.pixels(&picture).expect("small");
            DiffusionSample { shape: [3, 8, 8], image, text }
        })
        .collect();
    use hyperinf::gradients::{Tape, Task};
    use hyperinf::models::SampleModel;
    let batch = pipeline.model.collate(&samples.iter().collect::<Vec<_>>()).expect("they fit");
    let outputs = pipeline.model.forward(&batch, &mut Tape::off());
    let expected = hyperinf_tests::compare::values(pipeline.model.loss(outputs, &batch));
    assert_close("losses", &found.rows.losses(), &expected, 1e-5);
    // A flow has no signal-to-noise weights.
    let error = told(&run(Some(5.0)).run(&device, &mut |_| ()).err().expect("refused"));
    assert!(error.contains("min_snr"), "{error}");
}

#[test]
fn gradients_of_timesteps_are_summed_or_stacked() {
    let place = Place::new();
    place.finetune("adapter", DiffusionOptions::default());
    let (sum, summed) = place.scores("adapter", "sum", three());
    let sizes =
        |found: &Influence| -> usize { found.pair.train.blocks().iter().map(|stored| stored.block.parameters()).sum() };
    let size = sizes(&sum);
    // The gradients stay, and are not reused.
    drop(sum);
    let stacked = DiffusionOptions { timesteps_as: TimestepsAs::Stacked, ..three() };
    let (stack, separate) = place.scores("adapter", "sum", stacked);
    assert_eq!(sizes(&stack), 3 * size);
    assert!(summed[0][1] != separate[0][1]);
    stack.discard_gradients().expect("they are there");
    let own = DiffusionOptions { noise: NoiseSharing::PerSample, ..three() };
    let (found, own) = place.scores("adapter", "own", own);
    assert!(own[0][1] != summed[0][1]);
    found.discard_gradients().expect("they are there");
}

/// Everything follows from the seed; captions are left out as often as said.
#[test]
fn training_is_repeatable_and_leaves_captions_out() {
    let place = Place::new();
    let tensors = |out, prompt_dropout| {
        let options = DiffusionOptions { prompt_dropout, ..DiffusionOptions::default() };
        place.finetune(out, options).tensors
    };
    let first = tensors("one", 0.5);
    assert!(first == tensors("two", 0.5));
    assert!(first != tensors("three", 0.0));
}

#[test]
fn every_verb_runs() {
    let place = Place::new();
    place.finetune("adapter", DiffusionOptions::default());
    let (_, device) = devices().remove(0);
    for method in ["hyperinf", "datainf", "ekfac", "kfac"] {
        let options = method.parse::<MethodSpec>().expect("a method").options().expect("a valid method");
        for timesteps_as in [TimestepsAs::Sum, TimestepsAs::Stacked] {
            let diffusion = DiffusionOptions { timesteps_as, ..three() };
            let run = Run { options: options.clone(), ..place.run("adapter", &format!("{method}-out"), diffusion) };
            let found = run.detect(Some(Amount::Count(2)), &device, &mut |_| ());
            let found = found.unwrap_or_else(|error| panic!("{method}, {timesteps_as:?}: {error:?}"));
            assert_eq!(found.removed.len(), 2);
            found.influence.discard_gradients().expect("they are there");
        }
    }
    let sketch = hyperinf::gradients::Sketch { draws: 2, seed: 0 };
    let estimate = Estimate::GaussNewton { sketch: Some(sketch) };
    let options = "ekfac".parse::<MethodSpec>().expect("a method").options().expect("a valid method");
    let run = Run { options, estimate, ..place.run("adapter", "select", three()) };
    let found = run.select(&Amount::Count(3).into(), &device, &mut |_| ()).expect("it fits");
    assert_eq!(found.picks.order.len(), 3);
    found.influence.discard_gradients().expect("they are there");
    let check = Check { model: place.model(), data: place.at("rows"), ..Check::default() };
    let checked = check.run(None, &mut |_| ()).expect("it fits");
    assert_eq!((checked.kind, checked.rows, checked.shown[3].tokens), ("diffusion", 6, 2));
}

#[test]
fn choices_without_a_meaning_are_refused() {
    let place = Place::new();
    place.finetune("adapter", DiffusionOptions::default());
    let (_, device) = devices().remove(0);
    let run = || place.run("adapter", "out", three());
    let given = |options| Run { diffusion: Some(options), ..run() };
    let timesteps = |list: &[f64]| given(DiffusionOptions { timesteps: Timesteps::List(list.to_vec()), ..three() });
    let bert = fixtures::path("transformers/bert");
    let cases = [
        (Run { layers: RecordedParts::Connector, ..run() }, "connector"),
        (Run { estimate: Estimate::GaussNewton { sketch: None }, options: Options::default(), ..run() }, "diffusion"),
        (Run { tokenizer: Some(bert.clone()), ..run() }, "tokenizer"),
        (timesteps(&[]), "timesteps"),
        (timesteps(&[1001.0]), "timestep"),
        (timesteps(&[f64::NAN]), "timestep"),
        (given(DiffusionOptions { timesteps: Timesteps::Evenly(0), ..three() }), "timesteps"),
        (given(DiffusionOptions { prompt_dropout: 1.0, ..three() }), "prompt_dropout"),
        (Run { model: bert.display().to_string(), ..run() }, "diffusion"),
    ];
    for (run, part) in cases {
        let error: RunError = run.attribute(&device, &mut |_| ()).err().unwrap_or_else(|| panic!("{part}: accepted"));
        let text = told(&error);
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// Stable Diffusion's parts: latents and states are stored once, whoever reads them.
#[test]
fn latents_are_stored() {
    let place = Place::new();
    let model = fixtures::path("diffusion/stable").display().to_string();
    let (_, device) = devices().remove(0);
    let train = place.at("rows");
    let finetune = Finetune {
        model: model.clone(),
        train: train.clone(),
        out: place.at("adapter"),
        lora: LoraConfig { rank: RANK, ..LoraConfig::default() },
        recipe: Recipe { epochs: Some(1), ..Recipe::default() },
        ..Finetune::default()
    };
    finetune.run(&device, &mut |_| ()).unwrap_or_else(|error| panic!("{}", told(&error)));
    let cache = place.at("adapter/.features");
    let stored = files(&cache.join(&files(&cache)[0]));
    let latents = stored.iter().filter(|name| name.starts_with("latents-")).count();
    assert_eq!((latents, stored.len()), (6, 11), "six pictures, five captions");
    let run = Run { model, ..place.run("adapter", "out", three()) };
    let found = run.attribute(&device, &mut |_| ()).unwrap_or_else(|error| panic!("{}", told(&error)));
    let first = found.attribution.scores.rows.clone();
    drop(found);
    assert!(!place.at("out/.features").exists(), "they are those of the training");
    // A damaged file is replaced.
    let folder = cache.join(&files(&cache)[0]);
    let damaged = files(&folder).into_iter().find(|name| name.starts_with("latents-")).expect("six of them");
    fs::write(folder.join(damaged), "nothing").expect("it can be written");
    let found = run.attribute(&device, &mut |_| ()).unwrap_or_else(|error| panic!("{}", told(&error)));
    assert_eq!(found.attribution.scores.rows, first);
    found.discard_gradients().expect("they are there");
}
