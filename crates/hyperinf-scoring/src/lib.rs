//! Influence scores from gradients and curvature: precondition the queries, score the training samples, rank them.
//!
//! ```text
//! score(z_t, z) = Σ_l v_l (F_l + λ_l I)⁻¹ g_l
//! ```
//!
//! **Positive = helpful**: training on `z` lowered the query's loss. Removing `z` changes the query's loss by about
//! `+score/n` as far as the curvature is the Hessian at the end of the training ([`Options::unit`]); ranks need neither.
//! Mislabelled samples are the most negative.
//!
//! ```
//! use hyperinf_gradients::Gradients;
//! use hyperinf_scoring::{Amount, CurvatureFrom, MethodSpec, attribute, detect};
//!
//! /// The ten samples that harm the first query most.
//! fn most_harmful(train: &Gradients, query: &Gradients) -> Result<Vec<usize>, Box<dyn std::error::Error>> {
//!     let method: MethodSpec = "hyperinf:cols".parse()?;
//!     let found = attribute(train, query, CurvatureFrom::Training, &method.options()?)?;
//!     Ok(detect(&found.scores.rows[0], Amount::Count(10))?)
//! }
//! ```
//!
//! | function | from | gives |
//! |---|---|---|
//! | [`attribute`] | any two [`Source`]s: a model with batches, or stored gradients | scores `[q, n]` |
//! | [`sweep`] | the same, and many dampings | the scores at each, from one curvature |
//! | [`self_influence`] | one source | each sample's influence on itself, `[n]` |
//! | [`position_scores`] | two sources, of which the first has captures | scores of each position (token) |
//! | [`PositionScorer`] | queries and curvature some blocks at a time | the same |
//! | [`tracin`] | sources at several checkpoints | scores summed over them |
//! | [`through_segments`] | queries at the end of a training, and its segments | queries for each segment (SOURCE) |
//! | [`Scorer`], [`Sweep`] | stored gradients, some blocks at a time | [`attribute`] and [`sweep`], in less memory |
//! | [`Team`], [`BlockScores`] | several processes or threads | the same scores, a block by each |
//! | [`Preconditioner`] | curvature, and queries that come later | queries after the inverse, `[q, D]` |
//! | [`refine`] | queries, and products with a curvature over all blocks | queries after its inverse, by conjugate gradients |
//! | [`refine_stochastic`] | the same, with products of a few rows at a time | the same, where all rows are too many |
//! | [`CurvatureFrom`] | training samples, another source, or known curvature | the curvature of each of the above |
//! | [`Contrast`], [`Joined`] | two query sources | one: their difference; one after the other |
//! | [`Groups`] | scores | sums or means over groups of samples or queries |
//! | [`CurvatureSource`] | a model with batches | the pseudo-samples of an estimate of its curvature |
//! | [`ProjectedSource`], [`principal`] | a source | a source of smaller gradients; the matrices that shrink them |
//! | [`ScaledSource`] | a source | its gradients in a metric, such as that of AdamW's moments |
//! | [`baselines`] | a model with batches | training losses and gradient norms |
//! | [`MethodSpec`] | a word such as `hyperinf:cols:merged@gauss-newton` | the [`Options`] of a named method |
//! | [`ranking`], [`top_k`], [`detect`], [`select`] | scores | sample indices |
//! | [`choose`], [`choose_diverse`] | scores, and [`Rules`] | samples within a budget: no copies, so many of a group, not alike |
//! | [`products`] | a source | the products of some samples with each other |
//! | [`Team`], [`Threads`] | messages between ranks | |
//! | [`BlockScores`], [`RowScorer`] | one block, or batches of its samples | scores for a [`Scorer`] elsewhere |
//! | [`Over`] | scores for several targets | one score per sample |
//! | [`RankBy`] | scores | the same by the score or by its size |

mod attribute;
mod block_rows;
mod block_scores;
mod checkpoints;
mod choose;
mod curvature_from;
mod error;
mod groups;
mod method;
mod methods;
mod options;
mod part;
mod passes;
mod position_parts;
mod positions;
mod precondition;
mod preconditioner;
mod products;
mod queries;
mod rank;
mod refine;
mod refine_stochastic;
mod refine_system;
mod row_scorer;
mod scale;
mod scorer;
mod scores;
mod second_pass;
mod segments;
mod self_influence;
mod side_by_side;
mod source;
mod spec;
mod targets;
mod team;

// The crates whose types are in signatures, so that a manifest need not name them.
pub use {burn, hyperinf_curvature, hyperinf_gradients, hyperinf_linalg, hyperinf_solvers};

pub use attribute::{attribute, sweep};
pub use block_scores::{ArrivingScores, BlockScores};
pub use checkpoints::{Checkpoint, TracIn, tracin};
pub use choose::{Budget, Passed, Picks, Rules, choose, choose_diverse};
pub use curvature_from::{CurvatureFrom, curvature};
pub use error::{ScoreError, Set};
pub use groups::{GroupError, Groups, Pool};
pub use method::{Gfim, Method};
pub use methods::{MethodInfo, methods};
pub use options::{Normalisation, Options, QueryMode};
pub use positions::{PositionScorer, PositionScores, position_scores};
pub use preconditioner::{PreconditionedQueries, Preconditioner};
pub use products::{Picked, Products, between, products};
pub use queries::{Contrast, Joined};
pub use rank::{Amount, RankBy, detect, ranking, select, top_k};
pub use refine::{ProductsOf, Refined, Residuals, query_gradients, refine};
pub use refine_stochastic::{SampledProductsOf, refine_stochastic};
pub use row_scorer::RowScorer;
pub use scorer::{Scorer, Sweep};
pub use scores::{Attribution, BlockReport, Scores};
pub use segments::{Segment, through_segments};
pub use self_influence::{SelfInfluence, self_influence};
pub use source::{
    Baselines, Batch, CurvatureSource, Moments, ProjectedSource, Samples, ScaledSource, Source, TaskSource, baselines,
    principal,
};
pub use spec::{EstimateKind, MethodSpec, SpecError, scale_name, side_name};
pub use targets::Over;
pub use team::{Team, TeamError, Threads, owners, owners_beside};
