use burn::tensor::Device;
use hyperinf_curvature::BlockCurvature;
use hyperinf_gradients::{Block, Estimate};
use hyperinf_models::SampleModel;
use hyperinf_scoring::{Attribution, PositionScorer, QueryMode};
use hyperinf_store::{Directions, FactorOptions, GradientPair, ProjectionSpec, model_factors, training_factors_by};

use crate::crew_blocks::Job;
use crate::event::{Event, Notice};
use crate::kind::Kind;
use crate::metric::Metric;
use crate::positions::{RowPositions, TokenScores, token_scores};
use crate::refined::{Refine, Refinement, refined, scored};
use crate::run::Run;
use crate::run_of_kind::device_kind;
use crate::{Choice, RunError, estimate};

/// The most seeds of error bars.
const MOST_SEEDS: usize = 1_000_000;

/// The scores of one method.
pub(crate) struct Scored {
    /// Those of the first seed; of each block the worst report of all seeds.
    pub(crate) attribution: Attribution,
    /// Those of each seed, if there are several.
    pub(crate) repeats: Vec<Vec<f64>>,
    /// The curvature, where the model was run for it.
    pub(crate) known: Option<Vec<BlockCurvature>>,
    /// The scores of tokens, if they were asked for.
    pub(crate) positions: Vec<TokenScores>,
    /// What a refinement of the inverse did.
    pub(crate) refinement: Option<Refinement>,
}

/// The random choices of a scoring.
#[derive(Clone, Copy)]
struct Draws {
    estimate: Estimate,
    projection: Option<ProjectionSpec>,
}

/// A model with its training samples, without their types: methods whose curvature no stored gradients hold need it.
pub(crate) trait OfModel: Send {
    /// The curvature of each block; `None` where it is computed from the stored gradients.
    fn curvature(
        &self,
        run: &Run,
        estimate: Estimate,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Option<Vec<BlockCurvature>>, RunError>;

    /// The scores of a job with a refined inverse, `plain` being those of the method alone.
    fn refined(
        &self,
        job: &Job<'_>,
        refine: Refine,
        plain: Attribution,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(Attribution, Refinement), RunError>;

    /// The scores of the tokens of some rows, in their order; `blocks` are those of the scorer, in their order.
    fn positions(
        &self,
        run: &Run,
        blocks: &[&Block],
        rows: &[usize],
        scorer: PositionScorer,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Vec<RowPositions>, RunError>;
}

/// A model of a kind, and the training samples.
pub(crate) struct ModelSamples<K: Kind> {
    pub(crate) model: K::Model,
    pub(crate) samples: Vec<<K::Model as SampleModel>::Sample>,
    pub(crate) processor: K::Processor,
    pub(crate) metric: Option<Metric>,
}

impl<K: Kind> OfModel for ModelSamples<K> {
    fn curvature(
        &self,
        run: &Run,
        estimate: Estimate,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Option<Vec<BlockCurvature>>, RunError> {
        K::check_estimate(estimate)?;
        let factors = self.metric.as_ref().map(|metric| &metric.factors);
        estimate::of_model(run, estimate, (&self.model, &self.samples), factors, observe)
    }

    fn refined(
        &self,
        job: &Job<'_>,
        refine: Refine,
        plain: Attribution,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(Attribution, Refinement), RunError> {
        refined(job, refine, plain, (&self.model, &self.samples), observe)
    }

    fn positions(
        &self,
        run: &Run,
        blocks: &[&Block],
        rows: &[usize],
        scorer: PositionScorer,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Vec<RowPositions>, RunError> {
        self.token_scores(run, blocks, rows, scorer, observe)
    }
}

impl Scored {
    /// Scores stored gradients as a run says; the pair is left with the run's own projection.
    pub(crate) fn new(
        run: &Run,
        pair: &mut GradientPair,
        model: &dyn OfModel,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Self, RunError> {
        if let Some(spec) = run.projection.filter(|spec| pair.is_within(spec.rank)) {
            if run.seeds.is_some() && spec.directions != Directions::Principal {
                return Err(RunError::Conflict {
                    first: Choice::ErrorBars,
                    second: Choice::Projection,
                    reason: "no side of any block is longer than the rank, so nothing is projected",
                });
            }
            observe(Event::Notice(Notice::IdleProjection { rank: spec.rank }));
        }
        let draws = run.draws()?;
        let mut score = |draw: usize| -> Result<_, RunError> {
            let Draws { estimate, projection } = draws[draw];
            pair.project(projection, device)?;
            // Further seeds are not asked for again.
            let known = match draw == 0 && run.index.is_some() {
                true => run.recall(pair, draws[draw], draw, model, device, observe)?,
                false => model.curvature(run, estimate, observe)?,
            };
            let job = Job { run, pair: &*pair, known: known.as_deref(), options: &run.options, draw, device };
            let found = scored(&job, model, observe)?;
            Ok((known, found))
        };
        let (known, (mut attribution, refinement)) = score(0)?;
        let mut repeats = Vec::new();
        for other in 1..draws.len() {
            let Attribution { scores, blocks, .. } = score(other)?.1.0;
            repeats.extend(scores.rows);
            attribution.keep_worst(blocks);
        }
        if !repeats.is_empty() {
            repeats.insert(0, attribution.scores.rows[0].clone());
            // Everything else in the result is that of the first seed.
            pair.project(run.projection, device)?;
        }
        let scored = (&*pair, known.as_deref());
        let positions = token_scores(run, scored, &attribution.scores, model, device, observe)?;
        Ok(Self { attribution, repeats, known, positions, refinement })
    }
}

impl Run {
    /// The curvature from the index, if an earlier run has left it there: that of the model is returned, that of the
    /// training gradients goes into the pair.
    fn recall(
        &self,
        pair: &mut GradientPair,
        Draws { estimate, projection }: Draws,
        draw: usize,
        model: &dyn OfModel,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Option<Vec<BlockCurvature>>, RunError> {
        let how = FactorOptions { keep: self.keep_factors, device_kind: device_kind(self, device) };
        let of_model = estimate::needs_model(&self.options, estimate);
        let (known, factors) = if of_model {
            let compute = || Ok(model.curvature(self, estimate, observe)?.unwrap_or_default());
            let of = format!("{estimate:?}");
            let (known, factors) = model_factors::<RunError>(pair, &self.options, &of, &how, device, compute)?;
            (Some(known), factors)
        } else {
            let options = &self.options;
            let compute = |pair: &GradientPair| Job { run: self, pair, known: None, options, draw, device }.curvature();
            (None, training_factors_by(pair, options, projection, &how, device, compute)?)
        };
        observe(Event::Notice(Notice::Factors(factors)));
        Ok(known)
    }

    /// Fails if error bars are asked for that cannot be had.
    pub(crate) fn check_draws(&self) -> Result<(), RunError> {
        self.draws().map(drop)
    }

    /// The projection of a scoring: the requested one, or that of a further seed.
    pub(crate) fn projection_of(&self, draw: usize) -> Result<Option<ProjectionSpec>, RunError> {
        Ok(self.draws()?.get(draw).and_then(|draw| draw.projection))
    }

    /// All scorings: the requested one and, for error bars, those with further seeds.
    fn draws(&self) -> Result<Vec<Draws>, RunError> {
        let first = Draws { estimate: self.estimate, projection: self.projection };
        let Some(count) = self.seeds else { return Ok(vec![first]) };
        let refused = |second, reason| Err(RunError::Conflict { first: Choice::ErrorBars, second, reason });
        if self.options.query != QueryMode::Mean {
            return refused(Choice::EachQuery, "error bars are for the mean of the queries");
        }
        if !(2..=MOST_SEEDS).contains(&count) {
            return Err(RunError::Seeds { count, most: MOST_SEEDS });
        }
        let projections = self.projection.map(|first| first.further(count - 1)).unwrap_or_default();
        let mut draws = vec![first];
        draws.extend(projections.into_iter().map(|other| Draws { projection: Some(other), ..first }));
        if draws.len() == 1 {
            draws.extend(
                estimate::further(self.estimate, count - 1).into_iter().map(|estimate| Draws { estimate, ..first }),
            );
        }
        if draws.len() == 1 {
            let reason = "only a random projection and a sampled or sketched estimate depend on a seed";
            return refused(Choice::NothingRandom, reason);
        }
        Ok(draws)
    }
}
