use std::time::Instant;

use hyperinf::eval::{auc, detection_rate, spearman};
use hyperinf::gradients::Gradients;
use hyperinf::scoring::{BlockReport, CurvatureFrom, Gfim, Options, QueryMode, attribute, methods, self_influence};

use crate::error::CliError;

/// The methods in the order of the table; those that `hyperinf methods` lists have the same name here.
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

/// What one method made of the training samples.
pub(super) struct Outcome {
    pub(super) name: &'static str,
    /// Positive = helpful, `[n]`. Of training loss, gradient norm and self-influence the negative.
    pub(super) scores: Vec<f64>,
    /// How likely a flipped sample is more suspicious than another; none if no label was flipped.
    pub(super) auc: Option<f64>,
    /// The shares of the flipped samples among the first 10, 20 and 30 % of the most suspicious.
    pub(super) found: [Option<f64>; 3],
    /// Rank correlation with the exact scores; none for what is no approximation of them.
    pub(super) spearman_exact: Option<f64>,
    /// The largest relative residual; none without a system of equations.
    pub(super) residual: Option<f64>,
    /// Whether the solver, if there is one with a tolerance, reached it.
    pub(super) converged: bool,
    /// From the gradients to the scores; for the training loss from the model.
    pub(super) seconds: f64,
}

/// Scores the training samples with every method and judges by which labels were flipped.
///
/// `losses` computes the training losses; `done` is called after every method.
pub(super) fn compare(
    train: &Gradients,
    query: &Gradients,
    losses: impl Fn() -> Result<Vec<f64>, CliError>,
    flipped: &[bool],
    done: impl Fn(),
) -> Result<Vec<Outcome>, CliError> {
    let negative = |values: Vec<f64>| values.into_iter().map(|v| -v).collect::<Vec<f64>>();
    let mut outcomes = Vec::with_capacity(NAMES.len());
    for name in NAMES {
        let began = Instant::now();
        let (scores, blocks) = match name {
            "training-loss" => (negative(losses()?), Vec::new()),
            "gradient-norm" => {
                let squares = train.squared_norms()?;
                (squares.into_iter().map(|s| -s.sqrt()).collect(), Vec::new())
            }
            "self-influence" => {
                let found =
                    self_influence(train, CurvatureFrom::Training, &options("exact")).map_err(CliError::Score)?;
                (negative(found.values), found.blocks)
            }
            name => {
                let mut found =
                    attribute(train, query, CurvatureFrom::Training, &options(name)).map_err(CliError::Score)?;
                (found.scores.rows.swap_remove(0), found.blocks)
            }
        };
        let seconds = began.elapsed().as_secs_f64();
        outcomes.push(judge(name, scores, flipped, &blocks, seconds)?);
        done();
    }
    correlate(&mut outcomes)?;
    Ok(outcomes)
}

/// The named method for the mean query, everything else at its default.
fn options(name: &str) -> Options {
    let named = Options::named(name, Gfim::default()).expect("the names are those of methods");
    Options { query: QueryMode::Mean, ..named }
}

fn judge(
    name: &'static str,
    scores: Vec<f64>,
    flipped: &[bool],
    blocks: &[BlockReport],
    seconds: f64,
) -> Result<Outcome, CliError> {
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
    Ok(Outcome { name, scores, auc: area, found, spearman_exact: None, residual, converged, seconds })
}

/// Fills in the correlations with the exact scores, of the methods that approximate them.
fn correlate(outcomes: &mut [Outcome]) -> Result<(), CliError> {
    let Some(exact) = outcomes.iter().find(|o| o.name == "exact").map(|o| o.scores.clone()) else { return Ok(()) };
    for outcome in outcomes {
        if methods().iter().any(|method| method.name == outcome.name) {
            outcome.spearman_exact = Some(spearman(&outcome.scores, &exact)?);
        }
    }
    Ok(())
}
