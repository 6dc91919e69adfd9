//! The scores of every method on the same gradients.

use std::time::Instant;

use hyperinf::curvature::{Damping, Storage};
use hyperinf::gradients::Gradients;
use hyperinf::scoring::{BlockReport, CurvatureFrom, Method, Options, QueryMode, attribute, self_influence};
use hyperinf::solvers::Lissa;

use crate::Failure;

/// The number of steps of the published programs; convergence would take longer than everything else together.
const LISSA_STEPS: usize = 10;

/// The methods that approximate the exact influence, and the exact one.
pub const METHODS: [&str; 7] = ["identity", "cosine", "datainf", "lissa", "hyperinf", "hyperinf-authors", "exact"];

/// The damping sweep: the name in the results, the method, and the relative damping.
pub const SWEPT: [(&str, &str, f64); 9] = [
    ("datainf λ=1", "datainf", 1.0),
    ("datainf λ=10", "datainf", 10.0),
    ("datainf λ=100", "datainf", 100.0),
    ("hyperinf λ=1", "hyperinf", 1.0),
    ("hyperinf λ=10", "hyperinf", 10.0),
    ("hyperinf λ=100", "hyperinf", 100.0),
    ("exact λ=1", "exact", 1.0),
    ("exact λ=10", "exact", 10.0),
    ("exact λ=100", "exact", 100.0),
];

/// The scores of one method.
pub struct MethodScores {
    pub name: &'static str,
    /// One row per query, or one for their mean; positive = helpful.
    pub rows: Vec<Vec<f64>>,
    pub seconds: f64,
    /// The largest relative residual of a block; `None` without a linear system.
    pub residual: Option<f64>,
    /// Whether every block reached its tolerance, if there is one.
    pub converged: bool,
}

/// Scores the training samples with every method, then with every method and damping of [`SWEPT`].
pub fn score_all(train: &Gradients, query: &Gradients, mode: QueryMode) -> Result<Vec<MethodScores>, Failure> {
    let plain = METHODS.into_iter().map(|name| score(name, options(name, mode)?, train, query));
    let swept = SWEPT.into_iter().map(|(name, method, damping)| {
        let options = Options { damping: Damping::Relative(damping), ..options(method, mode)? };
        score(name, options, train, query)
    });
    plain.chain(swept).collect()
}

/// The scores of the training samples for the mean query by one method.
pub fn score_mean(name: &'static str, train: &Gradients, query: &Gradients) -> Result<Vec<f64>, Failure> {
    let mut found = score(name, options(name, QueryMode::Mean)?, train, query)?;
    Ok(found.rows.swap_remove(0))
}

fn score(name: &'static str, options: Options, train: &Gradients, query: &Gradients) -> Result<MethodScores, Failure> {
    let began = Instant::now();
    let found = attribute(train, query, CurvatureFrom::Training, &options)?;
    let residual = found.residual();
    let converged = found.blocks.iter().all(BlockReport::converged);
    Ok(MethodScores { name, rows: found.scores.rows, seconds: began.elapsed().as_secs_f64(), residual, converged })
}

/// The exact influence of each training sample on itself, and the seconds it took.
pub fn self_influences(train: &Gradients) -> Result<(Vec<f64>, f64), Failure> {
    let began = Instant::now();
    let found = self_influence(train, CurvatureFrom::Training, &options("exact", QueryMode::Mean)?)?;
    Ok((found.values, began.elapsed().as_secs_f64()))
}

/// The options of a method by its name.
pub fn options(name: &str, query: QueryMode) -> Result<Options, Failure> {
    let mut options = Options::named(name)?;
    if name == "lissa" {
        options.method = Method::inverse(Storage::Full, Lissa { max_steps: LISSA_STEPS, ..Lissa::default() });
    }
    Ok(Options { query, ..options })
}

/// Mean and sample standard deviation; the latter is 0 for a single value.
pub fn mean_and_spread(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, if values.len() > 1 { variance.sqrt() } else { 0.0 })
}
