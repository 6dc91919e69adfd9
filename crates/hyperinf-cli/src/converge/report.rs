use std::io::{Result, Write};
use std::path::Path;

use serde::Serialize;

use super::curve::{Curve, GivenUp, METHODS, Method, Step};
use super::{Settings, Size, Sized};
use crate::args::PrecisionArg;
use crate::error::CliError;
use crate::figure::{Axis, Line, Panel, Point, stage_lines};
use crate::score::counted;
use hyperinf::store::{Cells, Staged, cell};

/// The steps that are shown to people.
const SHOWN: [usize; 7] = [1, 5, 10, 15, 20, 25, 40];
/// Where an answer counts as found.
const FOUND: f64 = 1e-6;

/// How the curves came about, and what they come to.
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

/// Over the draws on which it did not diverge; `null` where there is none.
#[derive(Serialize)]
struct MethodSummary {
    name: &'static str,
    /// Draws on which it diverged.
    diverged: usize,
    /// Absolute errors at the steps shown; of a method that has ended, or needs no steps, its last.
    errors: Vec<At>,
    /// Of the last iterate.
    relative: Option<Spread>,
    cosine: Option<Spread>,
    /// `null` if all entries of an answer were equal, too.
    spearman: Option<Spread>,
    /// The first step with a relative error of at most 1e-6; `null` if a draw has none, or there are no steps.
    steps_to_found: Option<Spread>,
    /// Of the last attempt, where a first one was given up; products and seconds are of both.
    steps: Option<Spread>,
    matrix_products: Option<Spread>,
    vector_products: Option<Spread>,
    seconds: Option<Spread>,
    /// Attempts that were given up and repeated from a certain bound.
    repeated: Vec<Repeated>,
    /// Why it diverged.
    failures: Vec<String>,
}

#[derive(Serialize)]
struct Repeated {
    /// From 0, as in the table of every step.
    draw: usize,
    /// Of the attempt that was given up.
    steps: usize,
    matrix_products: usize,
    reason: String,
}

#[derive(Serialize)]
struct At {
    step: usize,
    #[serde(flatten)]
    error: Spread,
}

/// Over the draws.
#[derive(Clone, Copy, Serialize)]
struct Spread {
    mean: f64,
    /// The standard deviation; `null` for one draw, of which there is none.
    deviation: Option<f64>,
}

impl Spread {
    /// None of no values.
    fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Some(Self { mean, deviation: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()) })
    }

    /// Three digits of the mean and two of the deviation; of rounding errors only their size.
    fn told(self) -> String {
        let number = |v: f64, digits: i32| {
            if v == 0.0 || !(1e-2..1e4).contains(&v) {
                return if v == 0.0 { "0".into() } else { format!("{v:.*e}", (digits - 2) as usize) };
            }
            let behind = (digits - 1 - v.log10().floor() as i32).max(0) as usize;
            format!("{v:.behind$}")
        };
        let mean = number(self.mean, 3);
        match self.deviation {
            Some(deviation) if self.mean > 1e-10 => format!("{mean} ±{}", number(deviation, 2)),
            _ => mean,
        }
    }
}

impl Curve {
    /// The iterate at a step, or the last before it.
    fn at(&self, step: usize) -> Option<&Step> {
        self.points.iter().rev().find(|p| p.step <= step)
    }
}

impl Summary {
    pub(super) fn new(settings: &Settings<'_>, found: &[Sized], seconds: f64) -> Self {
        let args = settings.args;
        Self {
            command: "converge",
            hyperinf_version: env!("CARGO_PKG_VERSION"),
            problem: "x A = v, A = (1/N) sum of s sT + damping I, entries of s and v standard normal",
            error: "euclidean norm of the difference from the answer by Cholesky and a refinement in f64",
            step: "after that many steps; 0 is the start; steps of an attempt that was given up do not count",
            draws_left_out: "those on which a method diverged are in none of its numbers but diverged and failures",
            damping: args.damping_absolute,
            steps: args.steps,
            draws: args.draws,
            seed: args.seed,
            device: settings.device_name.clone(),
            precision: match args.precision {
                PrecisionArg::F32 => "f32",
                PrecisionArg::F64 => "f64",
            },
            seconds,
            sizes: found.iter().map(|sized| size_summary(sized, args.steps)).collect(),
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
        writeln!(out, "error     ‖x̂ − A⁻¹v‖₂ after so many steps, mean ± standard deviation of the draws")?;
        for size in &self.sizes {
            size.text(self.draws, out)?;
        }
        writeln!(out, "\nEvery step: converge.csv; one figure per size; summary.json; in {}", folder.display())
    }
}

fn size_summary(sized: &Sized, steps: usize) -> SizeSummary {
    let summaries = METHODS.iter().zip(&sized.curves).map(|(method, curves)| summary(*method, curves, steps));
    SizeSummary { dim: sized.size.dim, samples: sized.size.samples, methods: summaries.collect() }
}

/// The draws that did not diverge.
fn whole(curves: &[Curve]) -> Vec<&Curve> {
    curves.iter().filter(|curve| curve.failure.is_none()).collect()
}

/// What the draws of a method come to.
fn summary(method: Method, all: &[Curve], steps: usize) -> MethodSummary {
    let curves = whole(all);
    let last: Vec<&Step> = curves.iter().filter_map(|curve| curve.points.last()).collect();
    let spread = |of: &dyn Fn(&Step) -> f64| Spread::of(&last.iter().map(|step| of(step)).collect::<Vec<_>>());
    let at = |step: usize| {
        let errors: Option<Vec<f64>> = curves.iter().map(|c| Some(c.at(step)?.error.absolute)).collect();
        Some(At { step, error: Spread::of(&errors?)? })
    };
    let spearman: Option<Vec<f64>> = last.iter().map(|step| step.error.spearman).collect();
    let found = |curve: &&Curve| Some(curve.points.iter().find(|p| p.error.relative <= FOUND)?.step as f64);
    let to_found: Option<Vec<f64>> = curves.iter().map(found).collect();
    let repeated = |(draw, curve): (usize, &Curve)| {
        let GivenUp { steps, matrix_products, reason } = curve.given_up.as_ref()?;
        Some(Repeated { draw, steps: *steps, matrix_products: *matrix_products, reason: reason.clone() })
    };
    MethodSummary {
        name: method.name,
        diverged: all.len() - curves.len(),
        errors: SHOWN.into_iter().filter(|&step| step <= steps).filter_map(at).collect(),
        relative: spread(&|s| s.error.relative),
        cosine: spread(&|s| s.error.cosine),
        spearman: spearman.and_then(|values| Spread::of(&values)),
        steps_to_found: to_found.filter(|_| !method.closed()).and_then(|values| Spread::of(&values)),
        steps: spread(&|s| s.step as f64),
        matrix_products: spread(&|s| s.matrix_products as f64),
        vector_products: spread(&|s| s.vector_products as f64),
        seconds: spread(&|s| s.seconds),
        repeated: all.iter().enumerate().filter_map(repeated).collect(),
        failures: all.iter().filter_map(|curve| curve.failure.clone()).collect(),
    }
}

impl SizeSummary {
    fn text(&self, draws: usize, out: &mut dyn Write) -> Result<()> {
        writeln!(out, "\nd = {}, N = {}", self.dim, self.samples)?;
        let has = |step: &usize| self.methods.iter().flat_map(|m| &m.errors).any(|at| at.step == *step);
        let shown: Vec<usize> = SHOWN.into_iter().filter(has).collect();
        let width = if draws > 1 { 13 } else { 8 };
        write!(out, "{:<15}", "error at step")?;
        for step in &shown {
            write!(out, " {step:>width$}")?;
        }
        writeln!(out, "  {:>8} {:>8} {:>8}", "to 1e-6", "products", "seconds")?;
        for method in &self.methods {
            let mark = if method.diverged > 0 { "*" } else { "" };
            write!(out, "{:<15}", format!("{}{mark}", method.name))?;
            for step in &shown {
                let error = method.errors.iter().find(|at| at.step == *step);
                write!(out, " {:>width$}", error.map_or("–".into(), |at| at.error.told()))?;
            }
            let mean = |spread: Option<Spread>| spread.map_or(0.0, |spread| spread.mean);
            let products = match (mean(method.matrix_products), mean(method.vector_products)) {
                (0.0, 0.0) => "–".into(),
                (0.0, vectors) => format!("{vectors:.0} v"),
                (matrices, _) => format!("{matrices:.0} m"),
            };
            let steps = method.steps_to_found.map_or("–".into(), |s| format!("{:.0}", s.mean));
            let seconds = method.seconds.map_or("–".into(), |s| format!("{:.3}", s.mean));
            writeln!(out, "  {steps:>8} {products:>8} {seconds:>8}")?;
        }
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

/// Every step of every method on every draw.
pub(super) fn table(found: &[Sized]) -> Cells {
    let mut rows = Vec::new();
    for Sized { size, curves } in found {
        for (method, curves) in METHODS.iter().zip(curves) {
            for (draw, curve) in curves.iter().enumerate() {
                rows.extend(curve.points.iter().map(|step| row(*size, *method, (draw, curve), step)));
            }
        }
    }
    Cells::new(&COLUMNS, rows)
}

fn row(size: Size, method: Method, (draw, curve): (usize, &Curve), step: &Step) -> Vec<String> {
    let numbers = [step.error.absolute, step.error.relative, step.error.cosine].map(|value| value.to_string());
    let head =
        [size.dim.to_string(), size.samples.to_string(), method.name.into(), draw.to_string(), step.step.to_string()];
    let tail = [
        cell(step.error.spearman),
        step.matrix_products.to_string(),
        step.vector_products.to_string(),
        step.seconds.to_string(),
        curve.given_up.as_ref().map_or(0, |attempt| attempt.steps).to_string(),
        curve.failure.is_some().to_string(),
    ];
    [&head[..], &numbers, &tail].concat()
}

/// The absolute error by step, and the relative one by time.
pub(super) fn stage_figure<'a>(
    path: &'a Path,
    sized: &Sized,
    settings: &Settings<'_>,
) -> std::result::Result<Staged<'a>, CliError> {
    let steps = settings.args.steps;
    let line = |(method, curves): (&Method, &Vec<Curve>), of: &dyn Fn(&[&Curve], usize) -> Option<Point>| {
        let curves = whole(curves);
        let points = (0..=steps).filter(|_| !curves.is_empty()).filter_map(|step| of(&curves, step)).collect();
        Line { name: method.name.to_owned(), points, look: None }
    };
    let by_step: Vec<Line> = METHODS
        .iter()
        .zip(&sized.curves)
        .map(|(method, curves)| {
            line((method, curves), &|curves, step| {
                // A closed form is a level; an iteration ends where it ends.
                let at = |curve: &&Curve| {
                    let point = curve.at(step)?;
                    (method.closed() || point.step == step).then_some(point.error.absolute)
                };
                let errors: Vec<f64> = curves.iter().map(at).collect::<Option<_>>()?;
                Some(between(step as f64, &errors))
            })
        })
        .collect();
    let by_time: Vec<Line> = METHODS
        .iter()
        .zip(&sized.curves)
        .map(|(method, curves)| {
            line((method, curves), &|curves, step| {
                let at: Vec<&Step> =
                    curves.iter().map(|c| c.points.iter().find(|p| p.step == step)).collect::<Option<_>>()?;
                let seconds: Vec<f64> = at.iter().map(|s| s.seconds).collect();
                let errors: Vec<f64> = at.iter().map(|s| s.error.relative).collect();
                Some(between(Spread::of(&seconds)?.mean, &errors))
            })
        })
        .collect();
    let Size { dim, samples } = sized.size;
    let draws = counted(settings.args.draws, "draw", "draws");
    let title = format!("d = {dim}, N = {samples}, damping {}, {draws}", settings.args.damping_absolute);
    let panel = |title, x, y, lines| Panel { title, x, y, lines, mark: None };
    stage_lines(
        path,
        &[
            panel(&title, Axis::linear("steps"), Axis::logarithmic("absolute error"), &by_step),
            panel("Error by time", Axis::logarithmic("seconds"), Axis::logarithmic("relative error"), &by_time),
        ],
    )
}

/// The geometric mean with the range of the draws; what is no positive number is left out of a logarithmic axis.
fn between(x: f64, values: &[f64]) -> Point {
    let mean = values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64;
    let (low, high) = values.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), &v| (low.min(v), high.max(v)));
    Point { x, y: mean.exp(), low, high }
}
