//! Influence scores from gradients and curvature: precondition the queries, score the training samples, rank them.
//!
//! ```text
//! score(z_t, z) = Σ_l v_l (F_l + λ_l I)⁻¹ g_l
//! ```
//!
//! **Positive = helpful**: training on `z` lowered the query's loss. Removing `z` changes the query's loss by about
//! `+score/n`. Mislabelled samples are the most negative.
//!
//! | function | from | gives |
//! |---|---|---|
//! | [`attribute`] | any two [`Source`]s: a model with batches, or stored gradients | scores `[q, n]` |
//! | [`attribute_with`] | a third source, for the curvature | the same |
//! | [`self_influence`] | one source | each sample's influence on itself, `[n]` |
//! | [`Scorer`] | stored gradients, some blocks at a time | the same as [`attribute`], for files larger than memory |
//! | [`position_scores`] | two sources, of which the first has captures | scores of each position (token) |
//! | [`sweep`] | any two sources, and many dampings | the scores at each, from one curvature |
//! | [`tracin`] | sources at several checkpoints | scores summed over them |
//! | [`Contrast`], [`Joined`] | two query sources | one: what helps the first more than the second; both in a row |
//! | [`Groups`] | scores | sums or means over groups of samples or queries |
//! | [`CurvatureSource`] | a model with batches | the pseudo-samples of an estimate of its curvature |
//! | [`ProjectedSource`], [`principal`] | a source | a source of smaller gradients; the matrices that shrink them |
//! | [`baselines`] | a model with batches | training losses and gradient norms |
//! | [`ranking`], [`top_k`], [`detect`], [`select`] | scores | sample indices |

mod attribute;
mod checkpoints;
mod error;
mod groups;
mod method;
mod options;
mod part;
mod passes;
mod positions;
mod precondition;
mod queries;
mod rank;
mod scorer;
mod self_influence;
mod source;
mod sweep;

pub use attribute::{attribute, attribute_with, curvature};
pub use checkpoints::{Checkpoint, tracin};
pub use error::{ScoreError, Set};
pub use groups::{Groups, Pool};
pub use method::{Gfim, Method, MethodInfo, methods};
pub use options::{Normalisation, Options, QueryMode};
pub use positions::{PositionScores, position_scores};
pub use queries::{Contrast, Joined};
pub use rank::{Amount, detect, ranking, select, top_k};
pub use scorer::{Attribution, BlockReport, Scorer, Scores};
pub use self_influence::{SelfInfluence, self_influence, self_influence_known, self_influence_with};
pub use source::{Baselines, CurvatureSource, Moments, ProjectedSource, Source, TaskSource, baselines, principal};
pub use sweep::sweep;
