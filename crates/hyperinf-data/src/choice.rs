//! Choices of a run, for errors that name two which contradict each other.

use std::fmt;

use hyperinf_gradients::Estimate;

/// A choice that contradicts another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The estimate of the curvature.
    Estimate(Estimate),
    /// The method.
    Method,
    /// One matrix over all blocks.
    Merged,
    /// A projection of the gradients.
    Projection,
    /// Error bars over seeds.
    ErrorBars,
    /// One row of scores per query.
    EachQuery,
    /// A run in which nothing is random.
    NothingRandom,
    /// A language model.
    LanguageModel,
    /// A tokenizer other than the model's own.
    Tokenizer,
    /// A diffusion model.
    Diffusion,
    /// A diverse selection.
    Diverse,
    /// Ranks by the size of the scores.
    Magnitude,
    /// Scores over a divisor.
    Normalised,
    /// A baseline.
    Baseline,
    /// The derivative through a training.
    Unrolled,
    /// Sums over the recorded states of a training.
    Trajectory,
    /// Several adapters.
    Ensemble,
    /// [`Run::detect`](crate::Run::detect).
    Detect,
    /// [`Run::select`](crate::Run::select).
    Select,
    /// [`Run::plan`](crate::Run::plan).
    Plan,
    /// Gradients in a metric.
    Metric,
    /// A refined inverse.
    Refine,
    /// The gradients of timesteps side by side.
    Stacked,
    /// Weights that are projected when their gradients are taken.
    LargeBlocks,
    /// Some of the blocks.
    Blocks,
    /// An index.
    Index,
    /// Duplicates by their gradients.
    NearDuplicates,
    /// Several files of query rows.
    Targets,
    /// Scores of tokens.
    Positions,
    /// Several ranks.
    Ranks,
    /// Dropout in adapters.
    Dropout,
    /// Training on whole batches.
    WholeBatches,
    /// Several trainings on each subset.
    Repeats,
    /// The same training without some rows.
    SameTraining,
    /// Trainings with fresh seeds.
    FreshSeeds,
    /// An adapter of another step than the last.
    BestStep,
    /// A kind of model, by its name.
    Kind(&'static str),
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Estimate(Estimate::Empirical) => "the empirical estimate",
            Self::Estimate(Estimate::Sampled { .. }) => "the sampled estimate",
            Self::Estimate(Estimate::GaussNewton { sketch: Some(_) }) => "the sketched Gauss-Newton estimate",
            Self::Estimate(Estimate::GaussNewton { sketch: None }) => "the exact Gauss-Newton estimate",
            Self::Method => "the method",
            Self::Merged => "merged blocks",
            Self::Projection => "a projection",
            Self::ErrorBars => "error bars",
            Self::EachQuery => "scores of each query",
            Self::NothingRandom => "a run in which nothing is random",
            Self::LanguageModel => "a language model",
            Self::Tokenizer => "a tokenizer",
            Self::Diffusion => "a diffusion model",
            Self::Diverse => "a diverse selection",
            Self::Magnitude => "ranks by magnitude",
            Self::Normalised => "normalised scores",
            Self::Baseline => "a baseline",
            Self::Unrolled => "the derivative through the training",
            Self::Trajectory => "a method over recorded states",
            Self::Ensemble => "an ensemble",
            Self::Detect => "detection",
            Self::Select => "selection",
            Self::Plan => "a plan",
            Self::Metric => "gradients in a metric",
            Self::Refine => "a refined inverse",
            Self::Stacked => "gradients of timesteps side by side",
            Self::LargeBlocks => "blocks that are projected as they are recorded",
            Self::Blocks => "a choice of blocks",
            Self::Index => "an index",
            Self::NearDuplicates => "near duplicates",
            Self::Targets => "several targets",
            Self::Positions => "scores of tokens",
            Self::Dropout => "dropout",
            Self::Ranks => "several ranks",
            Self::WholeBatches => "whole batches",
            Self::Repeats => "several trainings on each subset",
            Self::SameTraining => "the same training",
            Self::FreshSeeds => "trainings with fresh seeds",
            Self::BestStep => "an adapter of an earlier step than the last",
            Self::Kind(name) => name,
        })
    }
}
