//! DataInf's two questions about a text-to-image model (Kwon et al. 2024): which training pictures gave it a style (D1),
//! and which a subject (D2)? Then the one that counts: do the scores predict what training on other pictures does (D3)?

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use hyperinf::burn::tensor::Device;
use hyperinf::data::{DiffusionOptions, Evaluate, Finetune, Generate, ReadOptions, Recipe, Run, Timesteps};
use hyperinf::eval::{auc, detection_rate};
use hyperinf::gradients::Estimate;
use hyperinf::models::{GenerateConfig, LoraConfig, NoiseSharing, TimestepsAs};
use hyperinf::scoring::{MethodSpec, Options, QueryMode};

use super::found::{FILE, Found, FoundMethod, Question, Scored, Setting, scores_file};
use super::rows::{self, Drawn, Split};
use super::{FOLDER, fewer, looks, pictures, retrained};
use crate::judge::{SWEPT, mean_and_spread, options};
use crate::{Failure, Places, results};

/// Scores training pictures for pictures of their style or subject, and compares the scores with retraining.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    pub places: Places,
    /// The unpacked packages of emoji; `cargo xtask experiments` passes it.
    #[arg(long)]
    emoji: PathBuf,
    /// The number of subjects that the base model was trained on.
    #[arg(long)]
    subjects: Option<usize>,
    /// The seeds of the rows, the adapters and the order of the rows.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    seeds: Vec<u64>,
    /// The ranks of the adapters; all but the first only with the first seed.
    #[arg(long, value_delimiter = ',', default_value = "4,2,8")]
    ranks: Vec<usize>,
    /// Training pictures of each style.
    #[arg(long, default_value_t = 200)]
    train: usize,
    /// Queries of each style.
    #[arg(long, default_value_t = 50)]
    query: usize,
    /// New subjects, each in five styles, with queries in two others.
    #[arg(long, default_value_t = 30)]
    new_subjects: usize,
    /// Timesteps of a row's gradient.
    #[arg(long, default_value_t = 5)]
    timesteps: usize,
    /// Passes over the rows.
    #[arg(long, default_value_t = 12)]
    epochs: usize,
    /// Rows per step.
    #[arg(long, default_value_t = 24)]
    batch_size: usize,
    /// The peak learning rate.
    #[arg(long, default_value_t = 3e-3)]
    learning_rate: f64,
    /// Random halves of the training rows to train on again; 0 for none.
    #[arg(long, default_value_t = 48)]
    subsets: usize,
    /// Queries whose losses are measured after training again.
    #[arg(long, default_value_t = 60)]
    pub measured: usize,
}

/// The methods of every unit, and those of shared noise and summed timesteps alone, with the first seed.
const METHODS: [&str; 7] = ["identity", "cosine", "datainf", "lissa", "hyperinf", "hyperinf-authors", "exact"];
const SKETCHED: [(&str, Estimate); 1] = [("ekfac", Estimate::Sampled { seed: 0, draws: 1 })];
/// The forms of a row's gradient: whether noise is shared, and timesteps kept apart.
pub const FORMS: [(bool, bool); 4] = [(true, false), (true, true), (false, false), (false, true)];

/// Runs every unit that has no result.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    let device = hyperinf::device(&settings.places.device)?;
    for &seed in &settings.seeds {
        for question in [Question::Style, Question::StyleWithoutWord, Question::Subject] {
            let unit = Unit::new(settings, question, settings.ranks[0], seed, &device)?;
            for (shared_noise, stacked) in FORMS {
                unit.run(shared_noise, stacked)?;
            }
            if question == Question::Style {
                unit.generated()?;
            }
        }
        if seed == settings.seeds[0] && settings.subsets > 0 {
            let unit = Unit::new(settings, Question::Style, settings.ranks[0], seed, &device)?;
            retrained::run(&unit, settings.subsets)?;
        }
    }
    for &rank in &settings.ranks[1..] {
        for question in [Question::Style, Question::StyleWithoutWord] {
            Unit::new(settings, question, rank, settings.seeds[0], &device)?.run(true, false)?;
        }
    }
    Ok(())
}

/// Rows, and the model tuned on them.
pub struct Unit<'a> {
    pub settings: &'a Settings,
    pub question: Question,
    pub rank: usize,
    pub seed: u64,
    pub device: &'a Device,
    pub split: Split,
    /// The folder of everything that is made.
    pub folder: PathBuf,
    pub base: PathBuf,
}

impl<'a> Unit<'a> {
    fn new(
        settings: &'a Settings,
        question: Question,
        rank: usize,
        seed: u64,
        device: &'a Device,
    ) -> Result<Self, Failure> {
        let out = std::path::absolute(&settings.places.out)?;
        let (base, work) = (out.join(FOLDER), out.join("emoji-influence"));
        let emoji = pictures::read(&settings.emoji)?;
        let known: BTreeSet<String> = match settings.subjects {
            Some(count) => fewer(pictures::read(&settings.emoji)?, count).into_iter().map(|emoji| emoji.name).collect(),
            None => return Err("the base model knows all subjects: train it with --subjects, and pass it here".into()),
        };
        let images = work.join("images");
        let split = match question {
            Question::Subject => rows::of_subjects(&emoji, &known, settings.new_subjects, seed, &images)?,
            question => {
                let word = question != Question::StyleWithoutWord;
                rows::of_styles(&emoji, &known, [settings.train, settings.query], word, seed, &images)?
            }
        };
        let folder = work.join(format!("{question:?}-rank-{rank}-seed-{seed}").to_lowercase());
        fs::create_dir_all(&folder)?;
        let unit = Self { settings, question, rank, seed, device, split, folder, base };
        rows::write(&unit.train_rows(), &unit.split.train)?;
        rows::write(&unit.query_rows(), &unit.split.query)?;
        Ok(unit)
    }

    fn train_rows(&self) -> PathBuf {
        self.folder.join("train.jsonl")
    }

    fn query_rows(&self) -> PathBuf {
        self.folder.join("query.jsonl")
    }

    fn adapter(&self) -> PathBuf {
        self.folder.join("adapter")
    }

    fn read(&self) -> ReadOptions {
        ReadOptions { features: Some(self.folder.join("features")), ..ReadOptions::default() }
    }

    fn loss(&self, shared_noise: bool, stacked: bool) -> DiffusionOptions {
        DiffusionOptions {
            timesteps: Timesteps::Evenly(self.settings.timesteps),
            timesteps_as: if stacked { TimestepsAs::Stacked } else { TimestepsAs::Sum },
            noise: if shared_noise { NoiseSharing::Shared } else { NoiseSharing::PerSample },
            seed: self.seed,
            ..DiffusionOptions::default()
        }
    }

    /// Tunes adapters from the base model.
    pub fn tune(&self, rows: &Path, seed: u64, out: &Path) -> Result<(), Failure> {
        let Settings { epochs, batch_size, learning_rate, .. } = *self.settings;
        let run = Finetune {
            model: self.base.display().to_string(),
            train: rows.to_owned(),
            out: out.to_owned(),
            overwrite: true,
            read: self.read(),
            lora: LoraConfig { rank: self.rank, alpha: self.rank as f64, ..LoraConfig::default() },
            diffusion: Some(self.loss(true, false)),
            recipe: Recipe {
                learning_rate: Some(learning_rate),
                epochs: Some(epochs),
                batch_size: Some(batch_size),
                seed,
                ..Recipe::default()
            },
            ..Finetune::default()
        };
        run.run(self.device, &mut |_| ())?;
        Ok(())
    }

    /// The losses of the queries.
    pub fn losses(&self, adapter: Option<&Path>, rows: &Path) -> Result<Vec<f64>, Failure> {
        let run = Evaluate {
            model: self.base.display().to_string(),
            adapter: adapter.map(Path::to_owned),
            rows: rows.to_owned(),
            read: self.read(),
            diffusion: Some(self.loss(true, false)),
            ..Evaluate::default()
        };
        Ok(run.run(self.device, &mut |_| ())?.rows.losses())
    }

    fn setting(&self, question: Question, shared_noise: bool, stacked: bool, queries: usize) -> Setting {
        let Settings { timesteps, epochs, batch_size, learning_rate, .. } = *self.settings;
        let (rank, seed, rows) = (self.rank, self.seed, self.split.train.len());
        Setting {
            question,
            rank,
            seed,
            shared_noise,
            stacked,
            rows,
            queries,
            timesteps,
            epochs,
            batch_size,
            learning_rate,
        }
    }

    /// The setting of the shared noise and summed timesteps.
    pub fn described(&self, queries: usize) -> Setting {
        self.setting(self.question, true, false, queries)
    }

    fn is_done(&self, setting: &Setting) -> Result<bool, Failure> {
        let all = results::read::<Found>(&self.settings.places.out.join(FILE))?;
        Ok(all.iter().any(|found| found.setting == *setting))
    }

    /// Tunes on all rows, unless that is done.
    fn tuned(&self) -> Result<PathBuf, Failure> {
        let adapter = self.adapter();
        if !adapter.join("adapter_config.json").exists() {
            let began = Instant::now();
            self.tune(&self.train_rows(), self.seed, &adapter)?;
            println!("{:?}, rank {}, seed {}: tuned in {:.0?}", self.question, self.rank, self.seed, began.elapsed());
        }
        Ok(adapter)
    }

    /// Scores in one form, and judges them.
    fn run(&self, shared_noise: bool, stacked: bool) -> Result<(), Failure> {
        let setting = self.setting(self.question, shared_noise, stacked, self.split.query.len());
        if self.is_done(&setting)? {
            return Ok(());
        }
        self.tuned()?;
        let mut all = self.scores(&self.query_rows(), shared_noise, stacked, true)?;
        let (train, query) = (&self.split.train, &self.split.query);
        all.push(("pixel cosine".to_owned(), looks::pixel_cosine(train, query), 0.0));
        all.push(("pixel nearness".to_owned(), looks::pixel_nearness(train, query), 0.0));
        all.push(("colour histogram".to_owned(), looks::histogram(train, query), 0.0));
        let file = self.folder.join(scores_file(shared_noise, stacked));
        fs::write(file, serde_json::to_vec(&all)?)?;
        self.note(setting, &all, &self.query_rows(), query)
    }

    /// Scores for pictures that the tuned model draws from the queries' captions.
    fn generated(&self) -> Result<(), Failure> {
        let queries = &self.split.query[..self.settings.measured.min(self.split.query.len())];
        let setting = self.setting(Question::StyleOfGenerated, true, false, queries.len());
        if self.is_done(&setting)? {
            return Ok(());
        }
        let adapter = self.tuned()?;
        let run = Generate {
            model: self.base.display().to_string(),
            adapter: Some(adapter),
            prompts: queries.iter().map(|row| row.full_caption.clone()).collect(),
            config: GenerateConfig::default(),
        };
        let folder = self.folder.join("generated");
        fs::create_dir_all(&folder)?;
        let mut rows = Vec::new();
        for (place, (picture, query)) in run.run(self.device)?.into_iter().zip(queries).enumerate() {
            let file = folder.join(format!("{place}.png"));
            fs::write(&file, picture.to_png()?)?;
            let size = picture.width() * picture.height();
            let value = |at: usize, colour: usize| f32::from(picture.pixels()[3 * at + colour]) / 127.5 - 1.0;
            let values = (0..3).flat_map(|colour| (0..size).map(move |at| value(at, colour))).collect();
            let (caption, full_caption) = (query.caption.clone(), query.full_caption.clone());
            rows.push(Drawn { file, caption, class: query.class, full_caption, values });
        }
        let path = self.folder.join("generated.jsonl");
        rows::write(&path, &rows)?;
        let mut all = self.scores(&path, true, false, false)?;
        all.push(("pixel cosine".to_owned(), looks::pixel_cosine(&self.split.train, &rows), 0.0));
        all.push(("colour histogram".to_owned(), looks::histogram(&self.split.train, &rows), 0.0));
        self.note(setting, &all, &path, &rows)
    }

    /// The scores `[queries, rows]` of every method, with the seconds they took.
    fn scores(&self, queries: &Path, shared_noise: bool, stacked: bool, more: bool) -> Result<Vec<Scored>, Failure> {
        let run = |options: Options, estimate: Estimate| Run {
            model: self.base.display().to_string(),
            adapter: Some(self.adapter()),
            train: self.train_rows(),
            query: queries.to_owned(),
            read: self.read(),
            options: Options { query: QueryMode::Each, ..options },
            estimate,
            diffusion: Some(self.loss(shared_noise, stacked)),
            out: self.folder.join("gradients"),
            ..Run::default()
        };
        let mut wanted: Vec<(String, Options, Estimate)> = Vec::new();
        for name in METHODS {
            wanted.push((name.to_owned(), options(name, QueryMode::Each)?, Estimate::Empirical));
        }
        if more && shared_noise && !stacked {
            for (name, method, damping) in SWEPT {
                let swept = Options {
                    damping: hyperinf::curvature::Damping::Relative(damping),
                    ..options(method, QueryMode::Each)?
                };
                wanted.push((name.to_owned(), swept, Estimate::Empirical));
            }
            if self.question != Question::Subject && self.seed == self.settings.seeds[0] {
                for (name, estimate) in SKETCHED {
                    let spec: MethodSpec = name.parse()?;
                    wanted.push((name.to_owned(), spec.options()?, estimate));
                }
            }
        }
        let (mut all, mut found) = (Vec::new(), None);
        let mut began = Instant::now();
        for (name, options, estimate) in wanted {
            let run = run(options, estimate);
            let influence = match found.take() {
                None => run.attribute(self.device, &mut |_| ())?,
                Some(earlier) => run.attribute_again(earlier, self.device, &mut |_| ())?,
            };
            let seconds = began.elapsed().as_secs_f64();
            println!("{:?}, rank {}, seed {}: {name} in {seconds:.1} s", self.question, self.rank, self.seed);
            all.push((name, influence.attribution.scores.rows.clone(), seconds));
            if all.len() == 1 {
                let each = |values: &[f64]| vec![values.to_vec(); influence.query.data.rows.len()];
                let losses = influence.train.losses();
                all.push(("low loss".to_owned(), each(&losses.iter().map(|loss| -loss).collect::<Vec<_>>()), 0.0));
            }
            (found, began) = (Some(influence), Instant::now());
        }
        if let Some(influence) = found {
            influence.discard_gradients()?;
        }
        Ok(all)
    }

    fn note(&self, setting: Setting, all: &[Scored], queries: &Path, rows: &[Drawn]) -> Result<(), Failure> {
        let mean = |losses: Vec<f64>| losses.iter().sum::<f64>() / losses.len() as f64;
        let loss_before = mean(self.losses(None, queries)?);
        let loss_after = mean(self.losses(Some(&self.adapter()), queries)?);
        let mut methods = Vec::new();
        for (name, scores, seconds) in all {
            let (mut areas, mut recalls) = (Vec::new(), Vec::new());
            for (row, query) in scores.iter().zip(rows) {
                let same: Vec<bool> = self.split.train.iter().map(|other| other.class == query.class).collect();
                let share = same.iter().filter(|same| **same).count() as f64 / same.len() as f64;
                areas.push(auc(row, &same)?);
                recalls.push(detection_rate(row, &same, share)?);
            }
            let ((auc, auc_spread), (recall, _)) = (mean_and_spread(&areas), mean_and_spread(&recalls));
            println!("  {name}: AUC {auc:.3} ± {auc_spread:.3}, recall {recall:.3}");
            methods.push(FoundMethod { name: name.clone(), auc, auc_spread, recall, seconds: *seconds });
        }
        let found = Found { setting, loss_before, loss_after, methods };
        println!("  loss of the queries {loss_before:.4} before, {loss_after:.4} after");
        results::append(&self.settings.places.out.join(FILE), &found)
    }
}
