use std::io::{Result, Write};
use std::iter::{once, repeat};
use std::path::Path;

use burn::tensor::DType;
use hyperinf::eval::convergence::{
    ConvergenceConfig, Curve, GivenUp, MeanDeviation, Method, MethodCurves, MethodSummary, Point, Size, SizeCurves,
};
use serde::Serialize;

use crate::grid::{Align, Grid};
use crate::score::counted;
use hyperinf::store::{Cells, cell};

/// The steps in the table.
const SHOWN: [usize; 7] = [1, 5, 10, 15, 20, 25, 40];
/// The columns after those of the steps.
const COSTS: [&str; 3] = ["to 1e-6", "products", "seconds"];

/// The settings of the curves, and their means.
#[derive(Serialize)]
pub(super) struct Summary {
    command: &'static str,
    hyperinf_version: &'static str,
    problem: &'static str,
    error: &'static str,
    step: &'static str,
    draws_left_out: &'static str,
    damping: f64,
    steps: usize,
    draws: usize,
    seed: u64,
    device: String,
    precision: &'static str,
    seconds: f64,
    sizes: Vec<SizeSummary>,
}

#[derive(Serialize)]
struct SizeSummary {
    dim: usize,
    samples: usize,
    methods: Vec<MethodSummary>,
}

/// Three digits of the mean and two of the deviation; only the size of rounding errors.
fn rounded(MeanDeviation { mean, deviation }: MeanDeviation) -> String {
    let number = |v: f64, digits: i32| {
        if v == 0.0 || !(1e-2..1e4).contains(&v) {
            return if v == 0.0 { "0".into() } else { format!("{v:.*e}", (digits - 2) as usize) };
        }
        let decimals = (digits - 1 - v.log10().floor() as i32).max(0) as usize;
        format!("{v:.decimals$}")
    };
    match deviation {
        Some(deviation) if mean > 1e-10 => format!("{} ±{}", number(mean, 3), number(deviation, 2)),
        _ => number(mean, 3),
    }
}

impl Summary {
    pub(super) fn new(config: &ConvergenceConfig, device: &str, all: &[SizeCurves], seconds: f64) -> Self {
        Self {
            command: "converge",
            hyperinf_version: env!("CARGO_PKG_VERSION"),
            problem: "x A = v, A = (1/N) sum of s sT + damping I, entries of s and v standard normal",
            error: "euclidean norm of the difference from the answer by Cholesky and a refinement in f64",
            step: "number of steps so far; 0 is the start; steps of an abandoned attempt do not count",
            draws_left_out: "those on which a method diverged are in none of its numbers but diverged and failures",
            damping: config.damping,
            steps: config.steps,
            draws: config.draws,
            seed: config.seed,
            device: device.to_owned(),
            precision: if config.dtype == DType::F64 { "f64" } else { "f32" },
            seconds,
            sizes: all.iter().map(|curves| size_summary(curves, config.steps)).collect(),
        }
    }

    pub(super) fn json(&self, out: &mut dyn Write) -> Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }

    pub(super) fn text(&self, folder: &Path, out: &mut dyn Write) -> Result<()> {
        let draws = counted(self.draws, "draw", "draws");
        writeln!(
            out,
            "x A = v with A = (1/N) Σ s sᵀ + {} I, s and v standard normal; {draws}, seed {}",
            self.damping, self.seed
        )?;
        writeln!(out, "device    {}, {}; {:.1} s", self.device, self.precision, self.seconds)?;
        writeln!(out, "error     ‖x̂ − A⁻¹v‖₂ after each number of steps, mean ± standard deviation of the draws")?;
        for size in &self.sizes {
            size.text(self.draws, out)?;
        }
        writeln!(out, "\nEvery step: converge.csv; one figure per size; summary.json; in {}", folder.display())
    }
}

fn size_summary(SizeCurves { size, methods }: &SizeCurves, steps: usize) -> SizeSummary {
    let shown: Vec<usize> = SHOWN.into_iter().filter(|&step| step <= steps).collect();
    let methods = methods.iter().map(|method| method.summary(&shown)).collect();
    SizeSummary { dim: size.dim, samples: size.samples, methods }
}

impl SizeSummary {
    fn text(&self, draws: usize, out: &mut dyn Write) -> Result<()> {
        writeln!(out, "\nd = {}, N = {}", self.dim, self.samples)?;
        let has = |step: &usize| self.methods.iter().flat_map(|m| &m.errors).any(|at| at.step == *step);
        let shown: Vec<usize> = SHOWN.into_iter().filter(has).collect();
        let steps = shown.iter().map(ToString::to_string);
        let heads = once("error at step".to_owned()).chain(steps).chain(COSTS.map(str::to_owned));
        let mut table = Grid::new(heads.zip(once(Align::Left).chain(repeat(Align::Right))));
        for method in &self.methods {
            let mark = if method.diverged > 0 { "*" } else { "" };
            let mut cells = vec![format!("{}{mark}", method.name)];
            cells.extend(shown.iter().map(|step| {
                let error = method.errors.iter().find(|at| at.step == *step);
                error.map_or("–".into(), |at| rounded(at.error))
            }));
            let mean = |of: Option<MeanDeviation>| of.map_or(0.0, |of| of.mean);
            let products = match (mean(method.matrix_products), mean(method.vector_products)) {
                (0.0, 0.0) => "–".into(),
                (0.0, vectors) => format!("{vectors:.0} v"),
                (matrices, _) => format!("{matrices:.0} m"),
            };
            let steps = method.steps_to_found.map_or("–".into(), |s| format!("{:.0}", s.mean));
            let seconds = method.seconds.map_or("–".into(), |s| format!("{:.3}", s.mean));
            cells.extend([steps, products, seconds]);
            table.row(cells);
        }
        table.write(out)?;
        writeln!(out, "to 1e-6: steps until the relative error; products: m of two matrices, v of a vector with one")?;
        let draws = counted(draws, "draw", "draws");
        for method in self.methods.iter().filter(|method| !method.repeated.is_empty()) {
            let (name, times) = (method.name, method.repeated.len());
            writeln!(
                out,
                "{name}: repeated from a certain bound on {times} of {draws}; products and seconds are of both"
            )?;
        }
        for MethodSummary { name, diverged, .. } in self.methods.iter().filter(|method| method.diverged > 0) {
            writeln!(out, "* {name} diverged on {diverged} of {draws}, left out of its numbers")?;
        }
        Ok(())
    }
}

const COLUMNS: [&str; 14] = [
    "dim",
    "samples",
    "method",
    "draw",
    "step",
    "absolute_error",
    "relative_error",
    "cosine",
    "spearman",
    "matrix_products",
    "vector_products",
    "seconds",
    "given_up_steps",
    "diverged",
];

/// The attempts that were repeated, and the draws that diverged.
pub(super) fn notes(SizeCurves { size, methods }: &SizeCurves) -> Vec<String> {
    let mut notes = Vec::new();
    for MethodCurves { method, draws } in methods {
        for (draw, Curve { given_up, failure, .. }) in draws.iter().enumerate() {
            let place = format!("{} on draw {} of d = {}, N = {}", method.name(), draw + 1, size.dim, size.samples);
            if let Some(GivenUp { steps, matrix_products, reason }) = given_up {
                let steps = counted(*steps, "step", "steps");
                let products = counted(*matrix_products, "product", "products");
                notes.push(format!(
                    "{place}: {reason}; repeated after {steps} and {products} from a bound that is certain"
                ));
            }
            if let Some(failure) = failure {
                notes.push(format!("{place}: {failure}; the draw is left out of the means"));
            }
        }
    }
    notes
}

/// Every step of every method on every draw.
pub(super) fn table(all: &[SizeCurves]) -> Cells {
    let mut rows = Vec::new();
    for SizeCurves { size, methods } in all {
        for curves in methods {
            for (draw, curve) in curves.draws.iter().enumerate() {
                rows.extend(curve.points.iter().map(|point| row(*size, curves.method, (draw, curve), point)));
            }
        }
    }
    Cells::new(&COLUMNS, rows)
}

fn row(size: Size, method: Method, (draw, curve): (usize, &Curve), point: &Point) -> Vec<String> {
    let numbers = [point.error.absolute, point.error.relative, point.error.cosine].map(|value| value.to_string());
    let head = [
        size.dim.to_string(),
        size.samples.to_string(),
        method.name().into(),
        draw.to_string(),
        point.step.to_string(),
    ];
    let tail = [
        cell(point.error.spearman),
        point.matrix_products.to_string(),
        point.vector_products.to_string(),
        point.seconds.to_string(),
        curve.given_up.as_ref().map_or(0, |attempt| attempt.steps).to_string(),
        curve.failure.is_some().to_string(),
    ];
    [&head[..], &numbers, &tail].concat()
}
