//! Scores by the inverse of the Gauss-Newton matrix over all blocks, refined from a method's inverse of each block.

use std::cell::Cell;
use std::time::Instant;

use hyperinf_gradients::{Difference, GradientError, Gradients, Products, Target, capture, gauss_newton_products};
use hyperinf_linalg::spearman;
use hyperinf_models::{SampleModel, TimestepsAs};
use hyperinf_scoring::{Attribution, Method, Normalisation, ScoreError};
use hyperinf_store::{refine, score_preconditioned};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Serialize;

use crate::crew_blocks::{Job, unwrapped};
use crate::crew_products::products as products_of;
use crate::crew_work::{method, several};
use crate::event::{Detail, Event, Notice, Progress};
use crate::run::Run;
use crate::scored::OfModel;
use crate::stage::Stage;
use crate::{Choice, RunError, estimate};

/// Forward and backward passes of a product over the batches.
const PASSES: [usize; 2] = [3, 1];

/// How a method's inverse of each block is refined to that of the damped Gauss-Newton matrix over all blocks.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `steps` | 10 | steps of conjugate gradients; 0 measures the residual and changes no score | |
/// | `rows` | `None` | training rows of the matrix, drawn at random; `None` for all | 1 to the training rows |
/// | `seed` | 0 | the seed of these rows | |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refine {
    /// The steps.
    pub steps: usize,
    /// How many training rows the matrix is that of.
    pub rows: Option<usize>,
    /// The seed that draws them.
    pub seed: u64,
}

impl Default for Refine {
    fn default() -> Self {
        Self { steps: 10, rows: None, seed: 0 }
    }
}

/// What a refinement did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refinement {
    /// The steps asked for.
    pub steps: usize,
    /// The training rows of the matrix.
    pub rows: usize,
    /// The seed that drew them; `None` if they are all rows.
    pub seed: Option<u64>,
    /// The relative error of a product with the matrix, [`Products::error`]: residuals of this size are rounding.
    pub error: Option<f64>,
    /// The largest relative residual of the method's own inverse against the damped matrix over all blocks.
    pub residual_before: f64,
    /// The largest after the last step.
    pub residual_after: f64,
    /// The rows of scores, in their order.
    pub queries: Vec<RefinedQuery>,
}

/// A query of a [`Refinement`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RefinedQuery {
    /// The relative residual before.
    pub residual_before: f64,
    /// The relative residual after.
    pub residual_after: f64,
    /// The steps that were taken.
    pub steps: usize,
    /// The rank correlation of the scores before and after; `None` if either are all equal.
    pub spearman: Option<f64>,
}

impl Refinement {
    /// The lowest rank correlation of a query's scores before and after.
    pub fn lowest_spearman(&self) -> Option<f64> {
        self.queries.iter().filter_map(|query| query.spearman).reduce(f64::min)
    }

    /// Adds the queries of a further file, refined in the same way.
    pub(crate) fn extend(&mut self, other: Self) {
        self.residual_before = self.residual_before.max(other.residual_before);
        self.residual_after = self.residual_after.max(other.residual_after);
        self.queries.extend(other.queries);
    }
}

/// Refuses what is not known before the model and the rows are.
pub(crate) fn check_inputs(run: &Run, rows: usize, projects: bool) -> Result<(), RunError> {
    let Some(refine) = run.refine else { return Ok(()) };
    if projects {
        let reason = "the matrix is that of the parameters, which are not projected";
        return Err(RunError::Conflict { first: Choice::Refine, second: Choice::LargeBlocks, reason });
    }
    match refine.rows.filter(|&asked| asked > rows) {
        None => Ok(()),
        Some(asked) => {
            let (what, expected) = ("the training rows of a refinement", "at most all of them");
            Err(RunError::Selection { what, expected, value: asked as f64 })
        }
    }
}

/// Refuses choices that a refined inverse does not have.
pub(crate) fn check(run: &Run) -> Result<(), RunError> {
    let Some(refine) = run.refine else { return Ok(()) };
    let refused = |second, reason| Err(RunError::Conflict { first: Choice::Refine, second, reason });
    if refine.rows == Some(0) {
        let (what, expected) = ("the training rows of a refinement", "at least 1");
        return Err(RunError::Selection { what, expected, value: 0.0 });
    }
    if matches!(run.options.method, Method::Identity) {
        return refused(Choice::Method, "it has no curvature, so there is no inverse to refine");
    }
    if run.projection.is_some() {
        return refused(Choice::Projection, "the matrix is that of the parameters, which are not projected");
    }
    if run.seeds.is_some() {
        return refused(Choice::ErrorBars, "the scores of one seed are refined");
    }
    if run.positions.is_some() {
        return refused(Choice::Positions, "tokens are scored by the inverse of each block");
    }
    if matches!(run.options.normalisation, Normalisation::LossRelatif | Normalisation::ThetaRelatif) {
        return refused(Choice::Normalised, "this divisor needs the inverse for every training row");
    }
    if run.diffusion.as_ref().is_some_and(|diffusion| diffusion.timesteps_as == TimestepsAs::Stacked) {
        return refused(Choice::Stacked, "the matrix is that of the loss over all timesteps");
    }
    Ok(())
}

/// The scores of a job, and what a refinement did if the run has one.
pub(crate) fn scored(
    job: &Job<'_>,
    model: &dyn OfModel,
    observe: &mut dyn FnMut(Event),
) -> Result<(Attribution, Option<Refinement>), RunError> {
    let plain = job.score()?;
    match job.run.refine {
        None => Ok((plain, None)),
        Some(refine) => {
            let (found, refinement) = model.refined(job, refine, plain, observe)?;
            Ok((found, Some(refinement)))
        }
    }
}

/// The refined scores of a job whose method has the scores `plain`.
pub(crate) fn refined<M: SampleModel>(
    job: &Job<'_>,
    how: Refine,
    plain: Attribution,
    (model, samples): (&M, &[M::Sample]),
    observe: &mut dyn FnMut(Event),
) -> Result<(Attribution, Refinement), RunError> {
    let Job { run, pair, known, options, device, .. } = *job;
    let Refine { steps, seed, .. } = how;
    let chosen = chosen(samples, how);
    let samples = chosen.as_deref().unwrap_or(samples);
    let batches = estimate::batches(run, model, samples)?;
    let queries = plain.scores.queries();
    let products = products(steps);
    observe(Event::Notice(Notice::Refining {
        steps,
        queries,
        rows: samples.len(),
        // The first product is taken twice.
        passes: PASSES.map(|passes| passes * (products * queries + 1) * batches.len()),
        batches: batches.len(),
    }));
    let _listening = run.stop.listen();
    let first = batches.first().ok_or(GradientError::Empty { what: "batches" })?;
    let arranged = Arranged::of(model, first)?;
    let (done, total) = (Cell::new(0), products * batches.len());
    let mut error = None;
    let mut multiply = |directions: &Gradients| -> Result<Gradients, RunError> {
        let mut next = || {
            let stage = Stage::Refinement;
            if run.stop.is_requested() {
                return Err(RunError::Stopped { stage, done: done.get(), total, kept: Some(run.out.clone()) });
            }
            done.set(done.get() + 1);
            observe(Event::Progress(Progress { stage, done: done.get(), total, detail: Detail::Products }));
            Ok(())
        };
        let difference = Difference { measured: error.is_none(), ..Difference::default() };
        let crew = several(run).map(|crew| (crew, method(crew, run)));
        let found = products_of(crew, (model, &batches), &arranged.all(directions)?, difference, &mut next)?;
        let Products { rows, error: measured, .. } = found;
        error = error.or(measured);
        arranged.some(rows, directions)
    };
    let mut products = |directions: &Gradients| multiply(directions).map_err(ScoreError::source);
    let found = refine(pair, known, &mut products, options, steps, device).map_err(unwrapped)?;
    // Without a step the scores are those of the method, to the bit.
    let attribution = match steps {
        0 => plain.clone(),
        _ => {
            let scores = score_preconditioned(pair, &found.rows, options, device)?;
            Attribution { blocks: plain.blocks.clone(), ..scores }
        }
    };
    let rows = plain.scores.rows.iter().zip(&attribution.scores.rows);
    let each = found.residuals.iter().zip(rows).map(|(residuals, (before, after))| RefinedQuery {
        residual_before: residuals.before,
        residual_after: residuals.after,
        steps: residuals.steps,
        spearman: spearman(before, after).ok(),
    });
    let each: Vec<RefinedQuery> = each.collect();
    let most = |of: fn(&RefinedQuery) -> f64| each.iter().map(of).fold(0.0, f64::max);
    let refinement = Refinement {
        steps,
        rows: samples.len(),
        seed: chosen.is_some().then_some(seed),
        error,
        residual_before: most(|query| query.residual_before),
        residual_after: most(|query| query.residual_after),
        queries: each,
    };
    Ok((attribution, refinement))
}

/// Seconds of a product with one direction over these samples.
pub(crate) fn seconds<M: SampleModel>(model: &M, samples: &[&M::Sample]) -> Result<f64, RunError> {
    let batch = model.collate(samples)?;
    let captures = capture(model, &batch, Target::Loss)?.blocks;
    let sums = captures.iter().map(|capture| capture.sum()).collect();
    let direction = Gradients::new(captures.into_iter().map(|capture| capture.block).collect::<Vec<_>>(), sums)?;
    let began = Instant::now();
    let difference = Difference { measured: false, ..Difference::default() };
    let found = gauss_newton_products(model, [&batch], &direction, difference)?;
    drop(found);
    Ok(began.elapsed().as_secs_f64())
}

/// Products with each query that so many steps take: those of the first and last residual, and one a step.
pub(crate) fn products(steps: usize) -> usize {
    if steps == 0 { 1 } else { steps + 2 }
}

/// The samples of the matrix; `None` for all.
pub(crate) fn chosen<S: Clone>(samples: &[S], how: Refine) -> Option<Vec<S>> {
    how.rows.map(|rows| drawn(samples, rows, how.seed))
}

/// So many of the samples, in their order.
fn drawn<S: Clone>(samples: &[S], rows: usize, seed: u64) -> Vec<S> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    let (drawn, _) = order.partial_shuffle(&mut StdRng::seed_from_u64(seed), rows);
    let mut drawn = drawn.to_vec();
    drawn.sort_unstable();
    drawn.into_iter().map(|sample| samples[sample].clone()).collect()
}

/// The blocks of a model in the order of its tape, of which stored gradients may have some in another order.
struct Arranged(Gradients);

impl Arranged {
    fn of<M: SampleModel>(model: &M, batch: &M::Batch) -> Result<Self, GradientError> {
        let captures = capture(model, batch, Target::Loss)?.blocks;
        let blocks = captures.iter().map(|capture| capture.sum().zeros_like()).collect();
        Gradients::new(captures.into_iter().map(|capture| capture.block).collect::<Vec<_>>(), blocks).map(Self)
    }

    /// Directions in all blocks: 0 in those that they do not have.
    fn all(&self, directions: &Gradients) -> Result<Gradients, GradientError> {
        let q = directions.samples();
        let known = |name: &str| self.0.layout.iter().any(|block| block.name == name);
        if let Some(index) = directions.layout.iter().position(|block| !known(&block.name)) {
            let (found, expected) = (format!("`{}`", directions.layout[index].name), "a block of the model".to_owned());
            return Err(GradientError::LayoutMismatch { index, found, expected });
        }
        let blocks = self.0.layout.iter().zip(&self.0.blocks).map(|(block, zeros)| {
            let found = directions.layout.iter().position(|found| found.name == block.name);
            match found {
                Some(place) => directions.blocks[place].clone().cast(zeros.dtype()),
                None => zeros.clone().expand([q, block.rows, block.cols]),
            }
        });
        Gradients::new(self.0.layout.clone(), blocks.collect())
    }

    /// The blocks of all rows that `like` has, in its order.
    fn some(&self, rows: Gradients, like: &Gradients) -> Result<Gradients, RunError> {
        let place = |name: &str| rows.layout.iter().position(|block| block.name == name);
        let blocks = like.layout.iter().filter_map(|block| place(&block.name)).map(|place| rows.blocks[place].clone());
        Ok(Gradients::new(like.layout.clone(), blocks.collect())?)
    }
}
