//! `hyperinf verify`: whether an index is what was written.

use std::path::PathBuf;
use std::time::Instant;

use hyperinf::data::Index;
use hyperinf::store::{Fault, IndexFolder};
use serde_json::json;

use crate::args::{DeviceArgs, VerifyArgs};
use crate::device::open_device;
use crate::error::{CliError, Input};
use crate::progress::{Progress, observer};
use crate::score::counted;
use crate::text::size;
use crate::{index, interrupt, to_stdout};

/// Compares every file of an index with its hash; with `--repair` computes what is damaged again.
///
/// # Errors
///
/// If a file is damaged and not repaired; see [`CliError`].
pub(crate) fn run(args: &VerifyArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let found = IndexFolder::open(&args.index)?;
    let faults = faults_of(&found);
    if !faults.is_empty() && args.repair {
        if !args.json {
            to_stdout(|out| faults.iter().try_for_each(|fault| writeln!(out, "{fault}")))?;
        }
        let mut index = Index::of(&args.index)?;
        let saved = index.device_name.clone();
        let device = DeviceArgs { device: args.device.device.clone().or(Some(saved)), ..args.device.clone() };
        let device = open_device(&device)?;
        (index.device_name, index.stop) = (device.0, interrupt::stop());
        if let Some(model) = &args.moved.model {
            index.model.clone_from(model);
        }
        index.adapter = args.moved.adapter.clone().or(index.adapter);
        index.tokenizer = args.moved.tokenizer.clone().or(index.tokenizer);
        let repaired = index.repair(&faults, &device.1, &mut observer())?;
        let left = faults_of(&repaired.index);
        check(args, &left)?;
        return index::report(&repaired, "verify", args.json, began);
    }
    let (rows, leaves) = (found.manifest().rows(), found.manifest().leaves.len());
    let factors = found.factors();
    let sketches = found.sketches();
    let bytes = |files: &[PathBuf]| files.iter().filter_map(|path| path.metadata().ok()).map(|file| file.len()).sum();
    let (kept, sketched): (u64, u64) = (bytes(&factors), bytes(&sketches));
    to_stdout(|out| {
        if args.json {
            let listed: Vec<_> = faults
                .iter()
                .map(|fault| json!({ "leaf": fault.leaf, "file": fault.file, "fault": fault.to_string() }))
                .collect();
            let summary = json!({
                "command": "verify", "index": args.index, "rows": rows, "leaves": leaves, "faults": listed,
                "curvature": { "files": factors.len(), "bytes": kept },
                "sketches": { "files": sketches.len(), "bytes": sketched },
            });
            serde_json::to_writer_pretty(&mut *out, &summary)?;
            return writeln!(out);
        }
        faults.iter().try_for_each(|fault| writeln!(out, "{fault}"))?;
        if faults.is_empty() {
            let (rows, leaves) = (counted(rows, "row", "rows"), counted(leaves, "leaf", "leaves"));
            writeln!(out, "{rows} in {leaves}: every file is what was written")?;
            if !factors.is_empty() {
                let files = counted(factors.len(), "file", "files");
                writeln!(out, "{files} of kept curvature, {}: factors-*.safetensors, free to be removed", size(kept))?;
            }
            if !sketches.is_empty() {
                let files = counted(sketches.len(), "file", "files");
                writeln!(out, "{files} of sketches, {}: sketch-*.safetensors, free to be removed", size(sketched))?;
            }
        }
        Ok(())
    })?;
    check(args, &faults)
}

fn faults_of(index: &IndexFolder) -> Vec<Fault> {
    let mut bar = Progress::new("verify", index.manifest().leaves.len() as u64);
    let faults = index.verify(&mut |done| bar.at(done as u64, || "leaves".to_owned()));
    bar.finish();
    faults
}

fn check(args: &VerifyArgs, faults: &[Fault]) -> Result<(), CliError> {
    match faults.first() {
        None => Ok(()),
        Some(first) => {
            Err(Input::Faults { path: args.index.clone(), faults: faults.len(), first: first.to_string() }.into())
        }
    }
}
