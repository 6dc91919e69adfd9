//! The methods of the demo and their figures.

use std::time::Instant;

use hyperinf::eval::{auc, detection_rate, spearman};
use hyperinf::gradients::Gradients;
use hyperinf::scoring::{BlockReport, CurvatureFrom, Options, QueryMode, attribute, methods, self_influence};

use crate::error::CliError;

/// The methods in the order of the table, named as by `hyperinf methods` where it lists them.
pub(super) const NAMES: [&str; 10] = [
    "training-loss",
    "gradient-norm",
    "identity",
    "cosine",
    "datainf",
    "lissa",
    "cg",
    "hyperinf",
    "exact",
    "self-influence",
];

/// The scores of one method and how well they find the flipped labels.
pub(super) struct MethodResult {
    pub(super) name: &'static str,
    /// Positive = helpful, `[n]`. Training loss, gradient norm and self-influence are negated.
    pub(super) scores: Vec<f64>,
    /// The area under the ROC curve; `None` without flipped labels.
    pub(super) auc: Option<f64>,
    /// The shares of the flipped labels among the 10, 20 and 30 % most suspicious samples.
    pub(super) found: [Option<f64>; 3],
    /// Rank correlation with the exact scores; `None` for methods that do not approximate them.
    pub(super) spearman_exact: Option<f64>,
    /// The largest relative residual; `None` without a linear system.
    pub(super) residual: Option<f64>,
    /// Whether the solver reached its tolerance, if it has one.
    pub(super) converged: bool,
    /// From gradients to scores; the training loss starts from the model.
    pub(super) seconds: f64,
}

/// Scores the training samples with every method and compares the scores with the flipped labels.
///
/// `losses` computes the training losses; `done` is called after every method.
pub(super) fn compare(
    train: &Gradients,
    query: &Gradients,
    losses: impl Fn() -> Result<Vec<f64>, CliError>,
    flipped: &[bool],
    done: impl Fn(),
) -> Result<Vec<MethodResult>, CliError> {
    let negative = |values: Vec<f64>| values.into_iter().map(|v| -v).collect::<Vec<f64>>();
    let mut results = Vec::with_capacity(NAMES.len());
    for name in NAMES {
        let began = Instant::now();
        let (scores, blocks) = match name {
            "training-loss" => (negative(losses()?), Vec::new()),
            "gradient-norm" => {
                let squares = train.squared_norms()?;
                (squares.into_iter().map(|s| -s.sqrt()).collect(), Vec::new())
            }
            "self-influence" => {
                let found = self_influence(train, CurvatureFrom::Training, &options("exact"))?;
                (negative(found.values), found.blocks)
            }
            name => {
                let mut found = attribute(train, query, CurvatureFrom::Training, &options(name))?;
                (found.scores.rows.swap_remove(0), found.blocks)
            }
        };
        let seconds = began.elapsed().as_secs_f64();
        results.push(judge(name, scores, flipped, &blocks, seconds)?);
        done();
    }
    correlate(&mut results)?;
    Ok(results)
}

/// The named method for the mean query, with defaults.
fn options(name: &str) -> Options {
    let named = Options::named(name).expect("the names are those of methods");
    Options { query: QueryMode::Mean, ..named }
}

fn judge(
    name: &'static str,
    scores: Vec<f64>,
    flipped: &[bool],
    blocks: &[BlockReport],
    seconds: f64,
) -> Result<MethodResult, CliError> {
    let suspicion: Vec<f64> = scores.iter().map(|s| -s).collect();
    let mut found = [None; 3];
    let mut area = None;
    if flipped.contains(&true) {
        area = Some(auc(&suspicion, flipped)?);
        for (found, share) in found.iter_mut().zip([0.1, 0.2, 0.3]) {
            *found = Some(detection_rate(&suspicion, flipped, share)?);
        }
    }
    let residual = blocks.iter().map(|b| b.residual).reduce(f64::max);
    let converged = blocks.iter().all(BlockReport::converged);
    Ok(MethodResult { name, scores, auc: area, found, spearman_exact: None, residual, converged, seconds })
}

/// Adds the correlation with the exact scores to the methods that approximate them.
fn correlate(results: &mut [MethodResult]) -> Result<(), CliError> {
    let Some(exact) = results.iter().find(|o| o.name == "exact").map(|o| o.scores.clone()) else { return Ok(()) };
    for result in results {
        if methods().iter().any(|method| method.name == result.name) {
            result.spearman_exact = Some(spearman(&result.scores, &exact)?);
        }
    }
    Ok(())
}
