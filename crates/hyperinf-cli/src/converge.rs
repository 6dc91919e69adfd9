//! `hyperinf converge`: how fast each solver approaches the inverse of a matrix of normal samples.

mod picture;
mod report;

use std::time::Instant;

use burn::tensor::DType;
use hyperinf::eval::convergence::{ConvergenceConfig, ConvergenceError, curves};

use crate::args::{ConvergeArgs, PrecisionArg};
use crate::config;
use crate::device::open_device;
use crate::error::{CliError, Numbers, Usage};
use crate::progress::{Progress, warn};
use crate::score::counted;
use crate::to_stdout;
use hyperinf::store::{OutputFolder, Staged, available, publish, stage_csv, stage_json};
use report::Summary;

/// Draws systems, solves them step by step with every method, and writes the errors.
///
/// # Errors
///
/// See [`CliError`]. No output is left behind.
pub(crate) fn run(args: &ConvergeArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let config = config(args);
    config.check().map_err(|error| cli_error(error, ""))?;
    let (device_name, device) = open_device(&args.device)?;
    if !device.supports_dtype(config.dtype) {
        return Err(Usage::Precision { device: device_name, precision: "f64" }.into());
    }
    let sizes = config.sizes();
    let pictures: Vec<String> = sizes.iter().map(|s| format!("converge-d{}-n{}.png", s.dim, s.samples)).collect();
    let files: Vec<&str> =
        pictures.iter().map(String::as_str).chain(["converge.csv", config::FILE, "summary.json"]).collect();
    let folder = OutputFolder::of_command("converge", &args.out, &files, &[])?;
    let mut progress = None;
    let all = curves(&config, &device, &mut |at| {
        let bar = progress.get_or_insert_with(|| Progress::new("curves", at.total as u64));
        let name = at.method.name();
        bar.at(at.done as u64, || {
            format!("d = {}, N = {}, draw {}, {name}", at.size.dim, at.size.samples, at.draw + 1)
        });
    })
    .map_err(|error| cli_error(error, &device_name))?;
    progress.into_iter().for_each(Progress::finish);
    all.iter().flat_map(report::notes).for_each(|note| warn(&note));
    let summary = Summary::new(&config, &device_name, &all, began.elapsed().as_secs_f64());
    let [csv, toml, json] = ["converge.csv", config::FILE, "summary.json"].map(|name| folder.file(name));
    let cells = report::table(&all);
    let pictures: Vec<_> = pictures.iter().map(|name| folder.file(name)).collect();
    let mut staged: Vec<Staged<'_>> = Vec::new();
    for (path, curves) in pictures.iter().zip(&all) {
        staged.push(picture::stage(path, curves, &config)?);
    }
    staged.push(stage_csv(&csv, &cells.table())?);
    staged.push(config::stage(&toml)?);
    staged.push(stage_json(&json, &summary)?);
    let stale = folder.earlier(&files);
    publish(staged, &stale)?;
    if !stale.is_empty() {
        warn(&format!("{} of an earlier run removed", counted(stale.len(), "picture is", "pictures are")));
    }
    to_stdout(|out| if args.json { summary.json(out) } else { summary.text(&args.out, out) })
}

fn config(args: &ConvergeArgs) -> ConvergenceConfig {
    ConvergenceConfig {
        dims: args.dims.clone(),
        samples: args.samples.clone(),
        steps: args.steps,
        damping: args.damping_absolute,
        draws: args.draws,
        seed: args.seed,
        dtype: match args.precision {
            PrecisionArg::F32 => DType::F32,
            PrecisionArg::F64 => DType::F64,
        },
        memory: available(),
    }
}

/// The error in the words of the flags.
fn cli_error(error: ConvergenceError, device: &str) -> CliError {
    match error {
        ConvergenceError::Setting { setting: "damping", value, .. } => {
            Usage::Damping { flag: "--damping-absolute", value }.into()
        }
        ConvergenceError::Setting { setting, expected, value } => {
            let flags = ["--dims", "--samples", "--steps", "--draws"];
            let flag = flags.into_iter().find(|flag| flag[2..] == *setting).unwrap_or(setting);
            Usage::Value { flag, expected, value }.into()
        }
        ConvergenceError::Precision { .. } => Usage::Precision { device: device.to_owned(), precision: "f64" }.into(),
        error @ ConvergenceError::Memory { .. } => Numbers::Converge(error).into(),
        ConvergenceError::Solve(error) => error.into(),
        ConvergenceError::Read(error) => error.into(),
        ConvergenceError::Errors(error) => error.into(),
    }
}
