//! Scores by the inverse of the Gauss-Newton matrix over all blocks, refined from a method's inverse of each block.

use std::cell::Cell;
use std::time::Instant;

use hyperinf_gradients::{Difference, GradientError, Gradients, Products, Target, capture, gauss_newton_products};
use hyperinf_linalg::spearman;
use hyperinf_models::{SampleModel, TimestepsAs};
use hyperinf_scoring::{Attribution, Method, Normalisation, ScoreError};
use hyperinf_store::{refine, refine_stochastic, score_preconditioned};
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
/// | `steps` | 10 | steps of conjugate gradients or of the stochastic form; 0 measures the residual and changes no score | |
/// | `rows` | all | training rows of the matrix | see [`RefineRows`] |
/// | `seed` | 0 | the seed of rows that are drawn | |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refine {
    /// The steps.
    pub steps: usize,
    /// The training rows that the matrix is that of.
    pub rows: RefineRows,
    /// The seed that draws them.
    pub seed: u64,
}

/// The training rows whose Gauss-Newton matrix a refinement multiplies with; numbers are from 1 to the training rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RefineRows {
    /// All.
    #[default]
    All,
    /// So many, drawn once: conjugate gradients lead to the inverse of *their* matrix, which may be far from that of all rows
    /// unless there are many more of them than parameters.
    Sample(usize),
    /// So many, drawn again for every step, [`refine_stochastic`](hyperinf_scoring::refine_stochastic): for many rows.
    Fresh(usize),
}

impl RefineRows {
    /// How many are drawn.
    pub(crate) fn drawn(self) -> Option<usize> {
        match self {
            Self::All => None,
            Self::Sample(rows) | Self::Fresh(rows) => Some(rows),
        }
    }
}

impl Default for Refine {
    fn default() -> Self {
        Self { steps: 10, rows: RefineRows::All, seed: 0 }
    }
}

/// What a refinement did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refinement {
    /// The steps asked for.
    pub steps: usize,
    /// The training rows of the matrix.
    pub rows: usize,
    /// Whether rows were drawn for every step; the residuals are against a sample of its own.
    pub fresh: bool,
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
    match refine.rows.drawn().filter(|&asked| asked > rows) {
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
    if refine.rows.drawn() == Some(0) {
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
    let mut current = Batches::of(run, (model, samples), how, 0)?;
    let rows = how.rows.drawn().unwrap_or(samples.len());
    let queries = plain.scores.queries();
    let products = products(how);
    observe(Event::Notice(Notice::Refining {
        steps,
        queries,
        rows,
        // The first product is taken twice.
        passes: PASSES.map(|passes| passes * (products * queries + 1) * current.batches.len()),
        batches: current.batches.len(),
    }));
    let _listening = run.stop.listen();
    let first = current.batches.first().ok_or(GradientError::Empty { what: "batches" })?;
    let arranged = Arranged::of(model, first)?;
    let (done, total) = (Cell::new(0), products * current.batches.len());
    let mut error = None;
    let mut multiply = |sample: usize, directions: &Gradients| -> Result<Gradients, RunError> {
        if sample != current.sample {
            current = Batches::of(run, (model, samples), how, sample)?;
        }
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
        let batches = (sample, &*current.batches);
        let found = products_of(crew, model, batches, &arranged.all(directions)?, difference, &mut next)?;
        let Products { rows, error: measured, .. } = found;
        error = error.or(measured);
        arranged.some(rows, directions)
    };
    let mut products = |sample: usize, directions: &Gradients| multiply(sample, directions).map_err(ScoreError::source);
    let found = match how.rows {
        RefineRows::Fresh(_) => refine_stochastic(pair, known, &mut products, options, steps, device),
        RefineRows::All | RefineRows::Sample(_) => {
            refine(pair, known, &mut |directions| products(0, directions), options, steps, device)
        }
    };
    let found = found.map_err(unwrapped)?;
    // Without a step the scores are those of the method, to the bit.
    let attribution = match steps {
        0 => plain.clone(),
        _ => {
            let scores = score_preconditioned(pair, &found.rows, options, device)?;
            Attribution { blocks: plain.blocks.clone(), ..scores }
        }
    };
    let both = plain.scores.rows.iter().zip(&attribution.scores.rows);
    let each = found.residuals.iter().zip(both).map(|(residuals, (before, after))| RefinedQuery {
        residual_before: residuals.before,
        residual_after: residuals.after,
        steps: residuals.steps,
        spearman: spearman(before, after).ok(),
    });
    let each: Vec<RefinedQuery> = each.collect();
    let most = |of: fn(&RefinedQuery) -> f64| each.iter().map(of).fold(0.0, f64::max);
    let refinement = Refinement {
        steps,
        rows,
        fresh: matches!(how.rows, RefineRows::Fresh(_)),
        seed: how.rows.drawn().map(|_| seed),
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

/// Products with each query that a refinement takes: those of the first and last residual, one a step, and with fresh rows
/// two.
pub(crate) fn products(how: Refine) -> usize {
    match how.rows {
        _ if how.steps == 0 => 1,
        RefineRows::Fresh(_) => 2 * how.steps + 2,
        RefineRows::All | RefineRows::Sample(_) => how.steps + 2,
    }
}

/// The batches of one of a refinement's samples of rows.
struct Batches<B> {
    sample: usize,
    batches: Vec<B>,
}

impl<B> Batches<B> {
    fn of<M: SampleModel<Batch = B>>(
        run: &Run,
        (model, samples): (&M, &[M::Sample]),
        how: Refine,
        sample: usize,
    ) -> Result<Self, RunError> {
        let chosen = chosen(samples, how, sample);
        Ok(Self { sample, batches: estimate::batches(run, model, chosen.as_deref().unwrap_or(samples))? })
    }
}

/// The rows of a refinement's sample, in their order; `None` for all.
pub(crate) fn chosen<S: Clone>(samples: &[S], how: Refine, sample: usize) -> Option<Vec<S>> {
    let rows = how.rows.drawn()?;
    let mut order: Vec<usize> = (0..samples.len()).collect();
    // Far apart, so that runs with neighbouring seeds share no sample.
    let mut random = StdRng::seed_from_u64(how.seed.wrapping_add((sample as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let (drawn, _) = order.partial_shuffle(&mut random, rows);
    let mut drawn = drawn.to_vec();
    drawn.sort_unstable();
    Some(drawn.into_iter().map(|sample| samples[sample].clone()).collect())
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
