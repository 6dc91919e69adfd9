//! `hyperinf generate`: pictures of a text-to-image model.

use std::fs::File;
use std::io::Write;

use hyperinf::data::Generate;
use hyperinf::models::{GenerateConfig, Picture, SamplerConfig};
use hyperinf::store::{Staged, WriteError, check_writable};

use crate::args::GenerateArgs;
use crate::config;
use crate::device::open_device;
use crate::error::CliError;
use crate::score::counted;
use crate::to_stdout;

/// Draws the pictures and writes them into one file.
///
/// # Errors
///
/// See [`CliError`]. No output is left behind.
pub(crate) fn run(args: &GenerateArgs) -> Result<(), CliError> {
    let sampler = SamplerConfig {
        steps: args.steps as usize,
        guidance: args.guidance,
        seed: args.seed,
        ..SamplerConfig::default()
    };
    let run = Generate {
        model: args.model.clone(),
        adapter: args.adapter.clone(),
        prompts: args.prompt.clone(),
        config: GenerateConfig { sampler, side: args.size.map(|side| side as usize) },
    };
    check_writable(&args.out)?;
    let (_, device) = open_device(&args.device)?;
    let pictures = run.run(&device)?;
    let sheet = Picture::grid(&pictures);
    let write = |file: &mut File| {
        let png = sheet.to_png().map_err(|e| WriteError::Content { what: "the picture", source: Box::new(e) })?;
        Ok(file.write_all(&png)?)
    };
    config::place(&args.out, vec![Staged::new(&args.out, write)?])?;
    to_stdout(|out| {
        let (count, side) = (counted(pictures.len(), "picture", "pictures"), pictures[0].width());
        writeln!(out, "{count} of {side} × {side} pixels: {}", args.out.display())
    })
}
