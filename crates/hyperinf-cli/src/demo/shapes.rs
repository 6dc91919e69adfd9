//! `hyperinf demo --images`: which pictures taught a vision-language model three colours, and which misled it.
//!
//! The rows and the model are written into a folder, where the commands of the program can use them further.

mod report;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use hyperinf::data::{Evaluate, Finetune, Influence, Predicted, Recipe, Rows, Run};
use hyperinf::eval::{auc, flipped_labels};
use hyperinf::models::LoraConfig;
use hyperinf::scoring::{Options, ranking};
use hyperinf::store::{OutputFolder, Staged};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::data::{DataError, unpack};
use crate::args::DemoArgs;
use crate::error::CliError;
use crate::interrupt;
use crate::progress::observer;
use crate::to_stdout;

const CONTENT: &[u8] = include_bytes!("../../assets/shapes.json.gz");
const WEIGHTS: &[u8] = include_bytes!("../../assets/shapes.safetensors.gz");

/// The methods of the table; the sheet shows the last one's scores.
const METHODS: [&str; 4] = ["identity", "datainf", "exact", "hyperinf"];
/// The linear layers of the language model.
const ADAPTED: &str = "*_model.layers.*_proj";
/// Rows at either end of a query's ranking.
const ENDS: usize = 5;
/// The files of the result.
const FILES: [&str; 3] = ["scores.parquet", "scores.png", "summary.json"];

/// The embedded rows and model.
#[derive(Deserialize)]
struct Content {
    /// The colours that the model has never seen.
    new: Vec<String>,
    train: Vec<Row>,
    query: Vec<Row>,
    /// The files of the model but its weights.
    model: BTreeMap<String, String>,
}

/// A question about a picture.
#[derive(Serialize, Deserialize)]
struct Row {
    image: Value,
    question: String,
    answer: String,
}

/// The rows as they were trained on, and what the methods find in them.
struct Demo {
    seed: u64,
    noise: f64,
    device: String,
    new: Vec<String>,
    /// The right answers.
    colours: Vec<String>,
    /// The answers that the model is trained on.
    answers: Vec<String>,
    /// The right answers to the queries.
    queries: Vec<String>,
    results: Vec<MethodResult>,
    /// The mean probability of the right answers to queries for new and for other colours, before and after.
    probability: [[f64; 2]; 2],
    training_seconds: f64,
    gradient_seconds: f64,
}

/// How well a method's scores tell what the rows did.
#[derive(Serialize)]
struct MethodResult {
    name: &'static str,
    /// How well the scores for the mean query tell wrong answers from right ones.
    auc: Option<f64>,
    /// Among the most helpful rows of a query, the share with its answer, rightly.
    helpful_same: f64,
    /// Among the most harmful rows of a query, the share with its colour and a wrong answer.
    harmful_wrong: f64,
}

/// Fine-tunes on questions some of which have a wrong answer, and writes and prints what helped and harmed.
pub(super) fn run(args: &DemoArgs, device_name: String, device: &Device) -> Result<(), CliError> {
    let locked = OutputFolder::of_command("demo", &args.out, &FILES, &[])?;
    let content: Content = serde_json::from_slice(&unpack("questions", CONTENT)?).map_err(DataError::Shapes)?;
    let answers = answers(&content, args.noise, args.seed);
    let work = Work::new(&args.out, &content, &answers)?;
    let model = work.model.display().to_string();

    let (began, right) = (Instant::now(), |rows: &Rows| probabilities(rows, &content));
    let evaluate = Evaluate { model: model.clone(), rows: work.query.clone(), ..Evaluate::default() };
    let before = right(&evaluate.run(device, &mut observer())?.rows);
    let finetune = Finetune {
        model: model.clone(),
        train: work.train.clone(),
        out: work.adapter.clone(),
        overwrite: true,
        lora: LoraConfig { rank: 8, alpha: 16.0, ..LoraConfig::default() },
        targets: vec![ADAPTED.to_owned()],
        recipe: Recipe {
            learning_rate: Some(3e-3),
            epochs: Some(12),
            batch_size: Some(16),
            seed: args.seed,
            ..Recipe::default()
        },
        stop: interrupt::stop(),
        ..Finetune::default()
    };
    finetune.run(device, &mut observer())?;
    let training_seconds = began.elapsed().as_secs_f64();

    let began = Instant::now();
    let run = |method: &str| Run {
        model: model.clone(),
        adapter: Some(work.adapter.clone()),
        train: work.train.clone(),
        query: work.query.clone(),
        options: Options::named(method).expect("the names are those of methods"),
        batch_size: 50,
        out: work.adapter.clone(),
        device_name: device_name.clone(),
        stop: interrupt::stop(),
        ..Run::default()
    };
    let mut found = run(METHODS[0]).attribute(device, &mut observer())?;
    let gradient_seconds = began.elapsed().as_secs_f64();
    let colours = |rows: &[Row]| rows.iter().map(|row| row.answer.clone()).collect::<Vec<_>>();
    let mut demo = Demo {
        seed: args.seed,
        noise: args.noise,
        device: device_name.clone(),
        colours: colours(&content.train),
        answers,
        queries: colours(&content.query),
        results: Vec::new(),
        probability: [before, right(&found.query)],
        new: content.new.clone(),
        training_seconds,
        gradient_seconds,
    };
    for (place, name) in METHODS.into_iter().enumerate() {
        if place > 0 {
            found = run(name).attribute_again(found, device, &mut observer())?;
        }
        demo.results.push(demo.judge(name, &found)?);
    }
    let scores = found.attribution.scores.clone();
    let mut contacts = found.board().contacts(demo.new.len(), ENDS)?;
    let losses = found.train.losses();
    found.discard_gradients()?;
    contacts.iter_mut().for_each(|contact| demo.caption(contact));
    let loss = demo.auc(&losses)?;
    report::write(&demo, loss, &locked, &scores, &contacts)?;
    to_stdout(|out| report::text(&demo, loss, &args.out, &work, out))
}

/// The answers to train on: a wrong one is any other colour.
fn answers(content: &Content, noise: f64, seed: u64) -> Vec<String> {
    let mut colours: Vec<&str> = content.query.iter().map(|row| row.answer.as_str()).collect();
    colours.sort_unstable();
    colours.dedup();
    let mut rng = StdRng::seed_from_u64(seed.wrapping_add(1));
    let wrong = flipped_labels(content.train.len(), noise, seed);
    let answer = |(row, wrong): (&Row, bool)| {
        let others: Vec<&&str> = colours.iter().filter(|colour| **colour != row.answer).collect();
        match others.choose(&mut rng) {
            Some(other) if wrong => (**other).to_owned(),
            _ => row.answer.clone(),
        }
    };
    content.train.iter().zip(wrong).map(answer).collect()
}

/// The mean probability of the right answers, for new and for other colours.
fn probabilities(rows: &Rows, content: &Content) -> [f64; 2] {
    let (mut sums, mut counts) = ([0.0; 2], [0; 2]);
    for (row, prediction) in content.query.iter().zip(&rows.predictions) {
        let tokens = if let Predicted::Tokens(tokens) = prediction.target { tokens } else { 1 };
        let group = usize::from(!content.new.contains(&row.answer));
        sums[group] += (-prediction.loss * tokens as f64).exp();
        counts[group] += 1;
    }
    [0, 1].map(|group| sums[group] / f64::from(counts[group].max(1)))
}

/// The files that the run reads and trains.
struct Work {
    folder: PathBuf,
    model: PathBuf,
    adapter: PathBuf,
    train: PathBuf,
    query: PathBuf,
}

impl Work {
    fn new(out: &Path, content: &Content, answers: &[String]) -> Result<Self, CliError> {
        let folder = out.join("shapes");
        let path = |name: &str| folder.join(name);
        let (model, adapter) = (path("model"), path("adapter"));
        let work = Self { model, adapter, train: path("train.jsonl"), query: path("query.jsonl"), folder };
        let _model = OutputFolder::new(&work.model, &[], &[])?;
        let line = |row: &Row, answer: &str| {
            serde_json::json!({ "image": row.image, "question": row.question, "answer": answer }).to_string() + "\n"
        };
        let train: String = content.train.iter().zip(answers).map(|(row, answer)| line(row, answer)).collect();
        let query: String = content.query.iter().map(|row| line(row, &row.answer)).collect();
        let mut files = vec![(work.train.clone(), train.into_bytes()), (work.query.clone(), query.into_bytes())];
        files.extend(content.model.iter().map(|(name, text)| (work.model.join(name), text.clone().into_bytes())));
        files.push((work.model.join("model.safetensors"), unpack("model", WEIGHTS)?));
        for (path, bytes) in files {
            Staged::new(&path, |file| Ok(file.write_all(&bytes)?))?.place()?;
        }
        Ok(work)
    }
}

impl Demo {
    fn wrong(&self, row: usize) -> bool {
        self.answers[row] != self.colours[row]
    }

    /// How well high values tell wrong answers from right ones.
    fn auc(&self, values: &[f64]) -> Result<Option<f64>, CliError> {
        let wrong: Vec<bool> = (0..values.len()).map(|row| self.wrong(row)).collect();
        Ok(if wrong.contains(&true) { Some(auc(values, &wrong)?) } else { None })
    }

    fn judge(&self, name: &'static str, found: &Influence) -> Result<MethodResult, CliError> {
        let scores = &found.attribution.scores.rows;
        let sum = |row: usize| scores.iter().map(|scores| scores[row]).sum::<f64>();
        let suspicion: Vec<f64> = (0..self.answers.len()).map(|row| -sum(row)).collect();
        let (mut helpful, mut harmful) = (0, 0);
        for (scores, colour) in scores.iter().zip(&self.queries) {
            let order = ranking(scores);
            let same = |row: &&usize| self.colours[**row] == *colour;
            helpful += order.iter().take(ENDS).filter(same).filter(|row| !self.wrong(**row)).count();
            harmful += order.iter().rev().take(ENDS).filter(same).filter(|row| self.wrong(**row)).count();
        }
        let shown = (ENDS * scores.len()) as f64;
        let (helpful_same, harmful_wrong) = (helpful as f64 / shown, harmful as f64 / shown);
        Ok(MethodResult { name, auc: self.auc(&suspicion)?, helpful_same, harmful_wrong })
    }

    /// The shares that a random ranking finds, on average.
    fn chance(&self) -> [f64; 2] {
        let share = |wrong: bool| {
            let same = |colour: &String| {
                (0..self.answers.len()).filter(|&row| self.colours[row] == *colour && self.wrong(row) == wrong).count()
            };
            let all: usize = self.queries.iter().map(same).sum();
            all as f64 / (self.queries.len() * self.answers.len()) as f64
        };
        [share(false), share(true)]
    }

    /// Says under each picture what the model was told.
    fn caption(&self, contact: &mut hyperinf::data::Contact) {
        if let Some(query) = contact.query.place {
            contact.query.text = self.queries[query].clone();
        }
        for row in contact.helpful.iter_mut().chain(&mut contact.harmful) {
            if let Some(place) = row.place {
                let note = if self.wrong(place) { ": wrong" } else { "" };
                row.text = format!("told {}{note}", self.answers[place]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{CONTENT, Content, Row, WEIGHTS, answers, unpack};

    fn content() -> Content {
        serde_json::from_slice(&unpack("questions", CONTENT).expect("it is gzip")).expect("it is JSON")
    }

    #[test]
    fn no_picture_is_there_twice_and_every_query_has_a_colour_of_the_rows() {
        let content = content();
        for (rows, count) in [(&content.train, 600), (&content.query, 96)] {
            let pictures: BTreeSet<String> = rows.iter().map(|row| row.image["bytes"].to_string()).collect();
            assert_eq!((rows.len(), pictures.len()), (count, count));
        }
        let colours = |rows: &[Row]| rows.iter().map(|row| row.answer.clone()).collect::<BTreeSet<_>>();
        assert_eq!(colours(&content.train), colours(&content.query));
        let first: Vec<&String> = content.query.iter().map(|row| &row.answer).take(content.new.len()).collect();
        assert_eq!(first, content.new.iter().collect::<Vec<_>>(), "the sheet shows the first queries");
    }

    #[test]
    fn as_many_answers_are_wrong_as_are_asked_for() {
        let content = content();
        let wrong = |noise| {
            let answers = answers(&content, noise, 5);
            content.train.iter().zip(answers).filter(|(row, answer)| row.answer != *answer).count()
        };
        assert_eq!((wrong(0.0), wrong(0.1), wrong(0.4)), (0, 60, 240));
    }

    #[test]
    fn the_program_stays_small() {
        assert!(CONTENT.len() + WEIGHTS.len() < 1_000_000, "{}", CONTENT.len() + WEIGHTS.len());
    }
}
