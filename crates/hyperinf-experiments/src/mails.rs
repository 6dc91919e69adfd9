//! E-mails as rows for the program: `train.jsonl` and `query.jsonl`, with some wrong labels.

use std::fs;

use clap::Args;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::json;

use crate::data::{Labelled, Split, labelled};
use crate::{Failure, Places};

/// Writes training and query rows of SpamAssassin's mails; wrong labels are marked in the column `wrong`.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    places: Places,
    /// Training rows.
    #[arg(long, default_value_t = 160)]
    train: usize,
    /// Query rows.
    #[arg(long, default_value_t = 40)]
    queries: usize,
    /// The share of training rows with the other label.
    #[arg(long, default_value_t = 0.0)]
    noise: f64,
    /// The seed that draws mails and wrong labels.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

const CLASSES: [&str; 2] = ["ham", "spam"];

/// Writes the files into the folder of results.
pub fn write(settings: &Settings) -> Result<(), Failure> {
    let Settings { places, train, queries, noise, seed } = settings;
    let Split { train, validation } = labelled("spamassassin", places, *train, *queries, *seed)?;
    let wrong = (noise.clamp(0.0, 1.0) * train.len() as f64).round() as usize;
    let mut order: Vec<usize> = (0..train.len()).collect();
    let (wrong, _) = order.partial_shuffle(&mut StdRng::seed_from_u64(*seed), wrong);
    fs::create_dir_all(&places.out)?;
    let file = |name: &str, rows: &[Labelled], wrong: &[usize]| {
        let line = |(row, mail): (usize, &Labelled)| {
            let is_wrong = wrong.contains(&row);
            let label = CLASSES[if is_wrong { 1 - mail.label } else { mail.label }];
            format!("{}\n", json!({ "text": mail.text, "label": label, "wrong": is_wrong }))
        };
        fs::write(places.out.join(name), rows.iter().enumerate().map(line).collect::<String>())
    };
    file("train.jsonl", &train, wrong)?;
    Ok(file("query.jsonl", &validation, &[])?)
}
