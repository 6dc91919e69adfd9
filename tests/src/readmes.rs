//! The READMEs of the crates, whose examples are documentation tests.

#[doc = include_str!("../../crates/hyperinf/README.md")]
struct Facade;

#[doc = include_str!("../../crates/hyperinf-curvature/README.md")]
struct Curvature;

#[doc = include_str!("../../crates/hyperinf-data/README.md")]
struct Data;

#[doc = include_str!("../../crates/hyperinf-eval/README.md")]
struct Eval;

#[doc = include_str!("../../crates/hyperinf-figures/README.md")]
struct Figures;

#[doc = include_str!("../../crates/hyperinf-gradients/README.md")]
struct Gradients;

#[doc = include_str!("../../crates/hyperinf-linalg/README.md")]
struct Linalg;

#[doc = include_str!("../../crates/hyperinf-models/README.md")]
struct Models;

#[doc = include_str!("../../crates/hyperinf-ops/README.md")]
struct Ops;

#[doc = include_str!("../../crates/hyperinf-report/README.md")]
struct Report;

#[doc = include_str!("../../crates/hyperinf-scoring/README.md")]
struct Scoring;

#[doc = include_str!("../../crates/hyperinf-solvers/README.md")]
struct Solvers;

#[doc = include_str!("../../crates/hyperinf-store/README.md")]
struct Store;
