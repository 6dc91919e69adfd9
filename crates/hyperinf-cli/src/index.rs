//! `hyperinf index`: the gradients of training rows, computed once.

use std::time::Instant;

use burn::tensor::Device;
use hyperinf::data::{Index, Indexed, LargeBlocks, Pattern, duration};
use serde_json::json;

use crate::args::IndexArgs;
use crate::device::open_device;
use crate::error::{CliError, Usage};
use crate::interrupt;
use crate::plan::{Found, warn_of};
use crate::progress::{note, observer};
use crate::score::counted;
use crate::team;
use crate::text::size;
use crate::to_stdout;

/// Builds an index, resumes a build, or adds rows.
///
/// # Errors
///
/// See [`CliError`]. Finished leaves stay.
pub(crate) fn run(args: &IndexArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let (mut index, device) = settings(args)?;
    if args.batch_size.is_auto() {
        refuse_auto("--part", args.part.is_some())?;
        index.batch_size = measured(&index, &device)?;
    }
    interrupt::set_hint(format!("; the same command resumes from what is finished in {}", args.out.display()));
    if team::helps() {
        return Ok(index.assist(&device)?);
    }
    if let Some((part, of)) = args.part {
        let rows = index.take_part(part, of, &device, &mut observer())?;
        let (rows, folder) = (counted(rows, "row", "rows"), args.out.display());
        return to_stdout(|out| {
            writeln!(out, "part {part} of {of}: the gradients of {rows} are in {folder}")?;
            writeln!(out, "once all parts are there: the same command without --part")
        });
    }
    let found = index.build(&device, &mut observer())?;
    team::finish(&args.out)?;
    report(&found, "index", args.json, began)
}

/// What the build will take.
pub(crate) fn planned(args: &IndexArgs) -> Result<Found, CliError> {
    let (mut index, device) = settings(args)?;
    if let (true, Some(rows)) = (args.batch_size.is_auto(), index.earlier_batch_size()) {
        index.batch_size = rows;
    }
    let plan = index.plan(&device, &mut observer())?;
    Ok(Found { method: None, device: index.device_name, plan })
}

/// Fails if several processes would each find another size.
pub(crate) fn refuse_auto(other: &'static str, given: bool) -> Result<(), CliError> {
    let ranks = team::crew().map(|crew| format!("{} ranks", crew.size()));
    let first = ranks.or_else(|| given.then(|| other.to_owned()));
    first.map_or(Ok(()), |first| {
        let reason = "each process would find another number: give it";
        Err(Usage::Combination { first, second: "--batch-size auto", reason }.into())
    })
}

/// The batch size of the index that is there, or the fastest that fits.
fn measured(index: &Index, device: &Device) -> Result<usize, CliError> {
    let (rows, why) = match index.earlier_batch_size() {
        Some(rows) => (rows, "that of the index".to_owned()),
        None => {
            let plan = index.plan(device, &mut observer())?;
            warn_of(&plan);
            (plan.batch.fastest, format!("the fastest that fits; about {} in all", duration(plan.seconds())))
        }
    };
    note(&format!("batches of {rows} rows: {why}"));
    Ok(rows)
}

fn settings(args: &IndexArgs) -> Result<(Index, Device), CliError> {
    let (device_name, device) = open_device(&args.device)?;
    let large_blocks = match args.project {
        Some(rank) => LargeBlocks { above: 0, rank: rank as usize, seed: args.seed, adapters: true },
        None => LargeBlocks::default(),
    };
    let index = Index {
        folder: args.out.clone(),
        model: args.model.model.clone(),
        adapter: args.adapter.clone(),
        tokenizer: args.model.tokenizer.clone(),
        train: args.train.clone(),
        append: args.append,
        read: args.pairs.read(&args.columns),
        pairs: args.pairs.loss()?,
        length: args.length.into(),
        layers: args.layers,
        large_blocks,
        diffusion: args.diffusion.options(args.timesteps_as, None),
        blocks: args.blocks.clone().map(Pattern::new),
        batch_size: args.batch_size.rows(),
        leaf_batches: args.leaf_batches as usize,
        stored: args.dtype,
        device_name,
        stop: interrupt::stop(),
        crew: team::crew(),
    };
    Ok((index, device))
}

/// Prints what an index holds, and what was done.
pub(crate) fn report(found: &Indexed, command: &str, json: bool, began: Instant) -> Result<(), CliError> {
    let Indexed { index, kept, computed } = found;
    let (manifest, gradients) = (index.manifest(), index.gradients()?);
    let parameters: usize = manifest.blocks.iter().map(|block| block.rows * block.cols).sum();
    to_stdout(|out| {
        if json {
            let summary = json!({
                "command": command,
                "index": index.path(),
                "rows": manifest.rows(),
                "kept": kept,
                "computed": computed,
                "leaves": manifest.leaves.len(),
                "blocks": manifest.blocks.len(),
                "numbers": parameters,
                "dtype": manifest.dtype,
                "bytes": gradients.length(),
                "key": manifest.key,
            });
            serde_json::to_writer_pretty(&mut *out, &summary)?;
            return writeln!(out);
        }
        let rows = counted(manifest.rows(), "row", "rows");
        let (leaves, blocks) = (manifest.leaves.len(), manifest.blocks.len());
        let (leaves, blocks) = (counted(leaves, "leaf", "leaves"), counted(blocks, "block", "blocks"));
        let (bytes, dtype) = (size(gradients.length()), &manifest.dtype);
        writeln!(out, "{rows} in {leaves}: {blocks}, {parameters} numbers of {dtype} per row, {bytes}")?;
        let seconds = began.elapsed().as_secs_f64();
        writeln!(out, "{computed} computed in {seconds:.1} s, {kept} were there; in {}", index.path().display())
    })
}
