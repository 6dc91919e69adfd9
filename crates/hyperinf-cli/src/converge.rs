//! `hyperinf converge`: how fast each solver approaches the inverse of a matrix of normal samples.

mod curve;
mod problem;
mod report;

use std::time::Instant;

use burn::tensor::{DType, Device};

use crate::args::{ConvergeArgs, PrecisionArg};
use crate::device::open_device;
use crate::error::CliError;
use crate::progress::{Progress, warn};
use crate::score::counted;
use crate::to_stdout;
use curve::{Curve, GivenUp, METHODS};
use hyperinf::store::{OutputFolder, Staged, stage_csv, stage_json};
use problem::Problem;
use report::Summary;

/// The sides of a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    dim: usize,
    samples: usize,
}

/// The curves of one size: of each method, of each draw.
struct Sized {
    size: Size,
    curves: Vec<Vec<Curve>>,
}

/// What was typed, checked.
struct Settings<'a> {
    args: &'a ConvergeArgs,
    sizes: Vec<Size>,
    device: Device,
    device_name: String,
    dtype: DType,
}

/// Draws systems, solves them step by step with every method, and writes the errors.
///
/// # Errors
///
/// See [`CliError`]. No output is left behind.
pub fn run(args: &ConvergeArgs) -> Result<(), CliError> {
    let began = Instant::now();
    let settings = Settings::new(args)?;
    let pictures: Vec<String> =
        settings.sizes.iter().map(|s| format!("converge-d{}-n{}.png", s.dim, s.samples)).collect();
    let files: Vec<&str> = pictures.iter().map(String::as_str).chain(["converge.csv", "summary.json"]).collect();
    let folder = OutputFolder::new(&args.out, &files, &[])?;
    let found = curves(&settings)?;
    let summary = Summary::new(&settings, &found, began.elapsed().as_secs_f64());
    let (csv, json) = (folder.file("converge.csv"), folder.file("summary.json"));
    let cells = report::table(&found);
    let pictures: Vec<_> = pictures.iter().map(|name| folder.file(name)).collect();
    let mut staged: Vec<Staged<'_>> = Vec::new();
    for (path, sized) in pictures.iter().zip(&found) {
        staged.push(report::stage_figure(path, sized, &settings)?);
    }
    staged.push(stage_csv(&csv, &cells.table())?);
    staged.push(stage_json(&json, &summary)?);
    staged.into_iter().try_for_each(Staged::place)?;
    to_stdout(|out| if args.json { summary.json(out) } else { summary.text(&args.out, out) })
}

impl<'a> Settings<'a> {
    fn new(args: &'a ConvergeArgs) -> Result<Self, CliError> {
        let positive = |flag, value: usize| {
            if value > 0 { Ok(()) } else { Err(CliError::Value { flag, expected: "at least 1", value: value as f64 }) }
        };
        // The rank correlation of the entries needs two.
        for &dim in &args.dims {
            if dim < 2 {
                return Err(CliError::Value { flag: "--dims", expected: "at least 2", value: dim as f64 });
            }
        }
        args.samples.iter().try_for_each(|&samples| positive("--samples", samples))?;
        positive("--steps", args.steps)?;
        positive("--draws", args.draws)?;
        if !(args.damping_absolute > 0.0 && args.damping_absolute.is_finite()) {
            return Err(CliError::Damping { flag: "--damping-absolute", value: args.damping_absolute });
        }
        let (device_name, device) = open_device(args.device.as_deref())?;
        let mut sizes = Vec::new();
        for &dim in &args.dims {
            for &samples in &args.samples {
                let size = Size { dim, samples };
                if !sizes.contains(&size) {
                    sizes.push(size);
                }
            }
        }
        let dtype = match args.precision {
            PrecisionArg::F32 => DType::F32,
            PrecisionArg::F64 => DType::F64,
        };
        if !device.supports_dtype(dtype) {
            return Err(CliError::Precision { device: device_name, precision: "f64" });
        }
        Ok(Self { args, sizes, device, device_name, dtype })
    }
}

fn curves(settings: &Settings<'_>) -> Result<Vec<Sized>, CliError> {
    let args = settings.args;
    let total = settings.sizes.len() * args.draws * METHODS.len();
    let mut progress = Progress::new("curves", total as u64);
    let mut done = 0;
    let mut all = Vec::new();
    for &size in &settings.sizes {
        let mut curves: Vec<Vec<Curve>> = METHODS.iter().map(|_| Vec::new()).collect();
        for draw in 0..args.draws {
            let seed = args.seed.wrapping_add(draw as u64);
            let problem = Problem::draw(size, args.damping_absolute, seed, &settings.device, settings.dtype)?;
            for (method, curves) in METHODS.into_iter().zip(&mut curves) {
                progress
                    .at(done, || format!("d = {}, N = {}, draw {}, {}", size.dim, size.samples, draw + 1, method.name));
                let curve = curve::run(method, &problem, args.steps)?;
                let place =
                    || format!("{} on draw {} of d = {}, N = {}", method.name, draw + 1, size.dim, size.samples);
                if let Some(GivenUp { steps, matrix_products, reason }) = &curve.given_up {
                    let (steps, products) =
                        (counted(*steps, "step", "steps"), counted(*matrix_products, "product", "products"));
                    let spent = format!("after {steps} and {products}");
                    warn(&format!("{}: {reason}; repeated {spent} from a bound that is certain", place()));
                }
                if let Some(failure) = &curve.failure {
                    warn(&format!("{}: {failure}; the draw is left out of the means", place()));
                }
                curves.push(curve);
                done += 1;
            }
        }
        all.push(Sized { size, curves });
    }
    progress.finish();
    Ok(all)
}
