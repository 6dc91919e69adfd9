//! The READMEs of the crates, whose examples run as documentation tests.

#[doc = include_str!("../../crates/hyperinf/README.md")]
struct Facade;

#[doc = include_str!("../../crates/hyperinf-curvature/README.md")]
struct Curvature;

#[doc = include_str!("../../crates/hyperinf-eval/README.md")]
struct Eval;

#[doc = include_str!("../../crates/hyperinf-figures/README.md")]
struct Figures;

#[doc = include_str!("../../crates/hyperinf-gradients/README.md")]
struct Gradients;

#[doc = include_str!("../../crates/hyperinf-models/README.md")]
struct Models;

#[doc = include_str!("../../crates/hyperinf-scoring/README.md")]
struct Scoring;

#[doc = include_str!("../../crates/hyperinf-solvers/README.md")]
struct Solvers;
