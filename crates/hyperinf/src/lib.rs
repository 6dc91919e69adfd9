//! Training-data attribution for models on [Burn](https://burn.dev): which training samples helped or hurt a
//! prediction, which labels are wrong, which data to fine-tune on.
//!
//! This crate is the front door: every library crate of the workspace as a module, a [`prelude`], and the device
//! choice ([`device`]). Each crate also stands alone, for programs that need only a part.
//!
//! | module | content |
//! |---|---|
//! | [`linalg`] | products of rows, decompositions, random numbers, statistics |
//! | [`gradients`] | per-sample gradients of any Burn model from one backward pass |
//! | [`curvature`] | the curvature of the loss, one damped matrix per block of parameters |
//! | [`solvers`] | products with the inverse of a damped curvature, each with its residual |
//! | [`scoring`] | influence scores, rankings, detection and selection: the whole pipeline |
//! | [`store`] | files of gradients and scores, larger than memory |
//! | [`ops`] | the operations of transformers, fused on the processor |
//! | [`models`] | models of text and images from files, LoRA, tokenizers, fine-tuning |
//! | [`data`] | data sets of text and images, and the run from rows to scores |
//! | [`eval`] | figures that judge an attribution |
//!
//! Tensors and models carry their backend in a runtime [`burn::tensor::Device`]; nothing here is generic over a
//! backend type. The features `flex` (on by default), `ndarray`, `cuda`, `rocm`, `wgpu`, `vulkan` and `metal`
//! compile backends in, and [`device`] picks one of them by name.

mod device;
mod device_check;
#[cfg(any(feature = "cuda", feature = "rocm", feature = "wgpu", test))]
mod passed_checks;

/// Burn itself, in the version that this crate's types come from.
pub use burn;
pub use device::{DeviceCheck, DeviceError, checked_device, compiled_devices, device, device_name};
pub use device_check::{WrongResult, check_device};
pub use hyperinf_curvature as curvature;
pub use hyperinf_data as data;
pub use hyperinf_eval as eval;
pub use hyperinf_gradients as gradients;
pub use hyperinf_linalg as linalg;
pub use hyperinf_models as models;
pub use hyperinf_ops as ops;
pub use hyperinf_scoring as scoring;
pub use hyperinf_solvers as solvers;
pub use hyperinf_store as store;

/// The imports that most programs need: `use hyperinf::prelude::*;`.
pub mod prelude {
    pub use crate::curvature::{Curvature, Damping, Scale, Side, Storage, Structure};
    pub use crate::device;
    pub use crate::gradients::{Block, Capture, Estimate, Family, Gradients, Likelihood, Tape, Target, Task};
    pub use crate::models::{LoraConfig, LoraLinear};
    pub use crate::scoring::{
        Amount, Attribution, Batch, CurvatureFrom, Gfim, Method, MethodSpec, Normalisation, Options, QueryMode, Scorer,
        Scores, Source, TaskSource, attribute, baselines, detect, methods, ranking, select, self_influence, top_k,
    };
    pub use crate::solvers::{Inverse, Solution, SolveError, Solver};
}

/// The README's example, compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct ReadmeExample;

/// The guide's examples, compiled as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide.md")]
struct GuideExamples;
