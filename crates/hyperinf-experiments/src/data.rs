//! The data sets and how a seed samples them.

use std::fs;
use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Deserialize;

use crate::{Failure, Places, mail};

/// A text or a pair of texts with one of two classes.
#[derive(Clone)]
pub struct Labelled {
    pub text: String,
    pub pair: Option<String>,
    pub label: usize,
}

impl Labelled {
    /// All its words.
    pub fn words(&self) -> String {
        self.pair.iter().fold(self.text.clone(), |text, pair| format!("{text} {pair}"))
    }
}

/// Training and validation samples.
pub struct Split<T> {
    pub train: Vec<T>,
    pub validation: Vec<T>,
}

/// A prompt with its completion; `class` is the kind of task.
pub struct Task {
    pub prompt: String,
    pub completion: String,
    pub class: String,
}

/// At most `train` and `validation` samples of a labelled data set: `spamassassin` of the assets, or any other name of
/// files in the data's folder `glue`.
pub fn labelled(
    name: &str,
    places: &Places,
    train: usize,
    validation: usize,
    seed: u64,
) -> Result<Split<Labelled>, Failure> {
    let mut rng = StdRng::seed_from_u64(seed);
    if name == "spamassassin" {
        let mut mails = spam(&places.assets.join(name))?;
        mails.shuffle(&mut rng);
        mails.truncate(train + validation);
        let held_out = mails.split_off(mails.len().saturating_sub(validation));
        return Ok(Split { train: mails, validation: held_out });
    }
    let glue = places.data()?.join("glue");
    let read = |part: &str| glue_file(&glue.join(format!("{name}_{part}.jsonl")));
    let (mut train_rows, mut held_out) = (read("train")?, read("validation")?);
    train_rows.shuffle(&mut rng);
    held_out.shuffle(&mut rng);
    train_rows.truncate(train);
    held_out.truncate(validation);
    Ok(Split { train: train_rows, validation: held_out })
}

#[derive(Deserialize)]
struct GlueRow {
    text_a: String,
    /// The second text of a pair.
    text_b: Option<String>,
    label: String,
}

fn glue_file(path: &Path) -> Result<Vec<Labelled>, Failure> {
    let rows: Vec<GlueRow> = rows(path)?;
    let parse = |row: GlueRow| {
        let label = row.label.parse::<usize>().ok().filter(|label| *label < 2);
        let label = label.ok_or_else(|| format!("{}: `{}` is not a label", path.display(), row.label))?;
        Ok(Labelled { text: row.text_a, pair: row.text_b, label })
    };
    rows.into_iter().map(parse).collect()
}

/// One JSON value per line.
fn rows<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Vec<T>, Failure> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let parse = |(number, line)| {
        serde_json::from_str(line).map_err(|e| format!("{}, line {}: {e}", path.display(), number + 1).into())
    };
    text.lines().enumerate().map(parse).collect()
}

/// Bodies with fewer letters are left out.
const FEWEST_LETTERS: usize = 60;
/// Longer than any limit of tokens.
const LONGEST: usize = 4000;

fn spam(folder: &Path) -> Result<Vec<Labelled>, Failure> {
    let folders = [("easy-ham-1", 0), ("easy-ham-2", 0), ("hard-ham-1", 0), ("spam-1", 1), ("spam-2", 1)];
    let mut mails = Vec::new();
    for (name, label) in folders {
        let path = folder.join(name);
        let entries = fs::read_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut files = entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
        files.sort();
        for file in files {
            let text: String = mail::text(&fs::read(file)?).chars().take(LONGEST).collect();
            if text.chars().filter(char::is_ascii_alphabetic).count() >= FEWEST_LETTERS {
                mails.push(Labelled { text, pair: None, label });
            }
        }
    }
    Ok(mails)
}

#[derive(Deserialize)]
struct TaskRow {
    prompt: String,
    text: String,
    variation: String,
}

/// The first `train` training samples and `test` test samples of each class.
pub fn tasks(name: &str, places: &Places, train: usize, test: usize) -> Result<Split<Task>, Failure> {
    let folder = places.data()?.join("datainf");
    let read = |part: &str, per_class: usize| -> Result<Vec<Task>, Failure> {
        let path = folder.join(format!("{name}_{part}.jsonl"));
        let mut tasks: Vec<Task> = Vec::new();
        for (number, row) in rows::<TaskRow>(&path)?.into_iter().enumerate() {
            let completion = row.text.strip_prefix(&row.prompt);
            let completion = completion.ok_or_else(|| {
                format!("{}, line {}: `text` does not begin with `prompt`", path.display(), number + 1)
            })?;
            // The end token of another model; the tokenizer adds its own.
            let completion = completion.strip_suffix("</s>").unwrap_or(completion).to_owned();
            if tasks.iter().filter(|task| task.class == row.variation).count() < per_class {
                tasks.push(Task { prompt: row.prompt, completion, class: row.variation });
            }
        }
        Ok(tasks)
    };
    Ok(Split { train: read("train", train)?, validation: read("test", test)? })
}
