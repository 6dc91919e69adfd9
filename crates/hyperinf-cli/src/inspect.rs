//! `hyperinf inspect`: the contents of a file of gradients.

use hyperinf::store::GradientFile;
use serde::Serialize;

use crate::args::InspectArgs;
use crate::error::{CliError, Input};
use crate::score::counted;
use crate::to_stdout;

#[derive(Serialize)]
struct Summary {
    file: String,
    bytes: u64,
    samples: usize,
    /// The numbers of one sample, over all blocks.
    parameters: usize,
    blocks: Vec<Block>,
    /// XXH3 of the whole file, 128 bits; `null` unless its numbers were read.
    xxh3_128: Option<String>,
}

#[derive(Serialize)]
struct Block {
    name: String,
    rows: usize,
    cols: usize,
    dtype: String,
}

/// Reads the header and, with `--numbers`, the numbers.
///
/// # Errors
///
/// If the file is not a file of gradients or, with `--numbers`, holds a NaN or an infinity.
pub(crate) fn run(args: &InspectArgs) -> Result<(), CliError> {
    let unusable = |source| Input::File { what: "gradients", path: args.file.clone(), source };
    let file = GradientFile::open(&args.file).map_err(|e| unusable(e.into()))?;
    let mut xxh3_128 = None;
    if args.numbers {
        if let Some((sample, bad)) = file.first_non_finite().map_err(|e| unusable(e.into()))? {
            let place = format!("block `{}`, sample {sample}, at {:?}: {}", bad.block, bad.index, bad.value);
            return Err(unusable(format!("expected finite numbers; {place}").into()).into());
        }
        xxh3_128 = Some(file.fingerprint().map_err(|e| unusable(e.into()))?);
    }
    let block = |stored: &hyperinf::store::StoredBlock| Block {
        name: stored.block.name.clone(),
        rows: stored.block.rows,
        cols: stored.block.cols,
        dtype: stored.dtype.to_string(),
    };
    let summary = Summary {
        file: args.file.display().to_string(),
        bytes: file.length(),
        samples: file.samples(),
        parameters: file.blocks().iter().map(|stored| stored.block.parameters()).sum(),
        blocks: file.blocks().iter().map(block).collect(),
        xxh3_128,
    };
    to_stdout(|out| {
        if args.json {
            serde_json::to_writer_pretty(&mut *out, &summary)?;
            return writeln!(out);
        }
        let (samples, blocks) = (counted(summary.samples, "sample", "samples"), summary.blocks.len());
        let blocks = counted(blocks, "block", "blocks");
        writeln!(out, "{samples}, {blocks}, {} parameters, {} bytes", summary.parameters, summary.bytes)?;
        let width = summary.blocks.iter().map(|block| block.name.chars().count()).max().unwrap_or(0);
        // One long name must not make every line long.
        let width = width.clamp(5, 60);
        writeln!(out, "{:width$}  {:>7}  {:>7}  type", "block", "rows", "cols")?;
        for Block { name, rows, cols, dtype } in &summary.blocks {
            writeln!(out, "{name:width$}  {rows:>7}  {cols:>7}  {dtype}")?;
        }
        match &summary.xxh3_128 {
            Some(hash) => writeln!(out, "every number is finite; XXH3 {hash}"),
            None => Ok(()),
        }
    })
}
