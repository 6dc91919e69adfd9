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
//! | [`baselines`] | a model with batches | training losses and gradient norms |
//! | [`ranking`], [`top_k`], [`detect`], [`select`] | scores | sample indices |

mod attribute;
mod error;
mod method;
mod rank;
mod scorer;
mod source;

pub use attribute::{SelfInfluence, attribute, attribute_with, self_influence, self_influence_with};
pub use error::{ScoreError, Set};
pub use method::{Gfim, Method, MethodInfo, Options, QueryMode, method, methods};
pub use rank::{Amount, detect, ranking, select, top_k};
pub use scorer::{Attribution, BlockReport, Scorer, Scores};
pub use source::{Baselines, Source, TaskSource, baselines};
