//! Scores files of gradients that are larger than the memory it takes:
//! `cargo run --release -p hyperinf --example stream`.
//!
//! The gradients are those of a model of 48 layers, written sample by sample, as a training loop would. They are read
//! block by block: at no time are more than two blocks of either file in memory.

use std::error::Error;
use std::fs::{read_to_string, remove_dir_all};
use std::path::Path;

use hyperinf::gradients::Block;
use hyperinf::prelude::*;
use hyperinf::store::{GradientPair, GradientWriter, RunKey, score};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("hyperinf-stream-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let pair = write(&folder, 48, 256, 32)?;
    let found = score(&pair, None, &Options::default(), &device(hyperinf::compiled_devices()[0])?)?;
    println!("gradients    {} MB", (pair.train.length() + pair.query.file.length()) >> 20);
    if let Some(peak) = peak() {
        println!("peak memory  {} MB", peak >> 10);
    }
    println!("most helpful {:?}", top_k(&found.scores.rows[0], 3)?);
    Ok(remove_dir_all(folder)?)
}

/// Writes gradients of `samples` training samples and half as many queries, `layers` blocks of `side` × `side`.
pub fn write(folder: &Path, layers: usize, side: usize, samples: usize) -> Result<GradientPair, Box<dyn Error>> {
    let blocks: Vec<Block> = (0..layers).map(|layer| Block::new(format!("layer.{layer}"), side, side)).collect();
    for (name, samples) in [("train", samples), ("query", samples / 2)] {
        let mut writer = GradientWriter::open(folder, name, &RunKey::from([("program", "stream")]), samples, &blocks)?;
        for sample in 0..samples {
            // Any numbers without a pattern will do.
            let value = |layer: usize, i: usize| ((i * 7919 + layer * 104_729 + sample * 15_485_863) % 1009) as f32;
            let values = |layer| (0..side * side).map(|i| value(layer, i) / 504.0 - 1.0).collect();
            let gradients: Vec<Vec<f32>> = (0..layers).map(values).collect();
            writer.write(&[sample], &[0.0], &gradients)?;
        }
        writer.place(&folder.join(name))?;
    }
    Ok(GradientPair::open(&folder.join("train"), &folder.join("query"))?)
}

/// The peak memory of this process in kB, where the system reports it.
fn peak() -> Option<u64> {
    let status = read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
