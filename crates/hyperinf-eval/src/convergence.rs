//! How fast each solver approaches the inverse of a damped matrix of normal samples.
//!
//! The system is `x A = v` with `A = (1/N) Σ s sᵀ + λI`, all entries of `s` and `v` standard normal. Its answer comes
//! from Cholesky factorisation in f64 with one refinement. [`curves`] solves it with every method and records the
//! error of every iterate; [`MethodCurves::summary`] gives the means over the draws.

mod curve;
mod method;
mod problem;
mod summary;

use burn::tensor::{DType, Device};
use hyperinf_linalg::ReadError;
use hyperinf_solvers::SolveError;

use crate::EvalError;
pub use curve::{Curve, Errors, GivenUp, Point};
pub use method::{METHODS, Method};
use problem::Problem;
pub use summary::{At, FOUND, MeanDeviation, MethodSummary, Repeated};

/// The systems that are solved.
///
/// | name | default | purpose | range |
/// |---|---|---|---|
/// | `dims` | 512 | sizes `d` of the matrix | ≥ 2 |
/// | `samples` | 800 | numbers `N` of samples behind it, each with each `d` | ≥ 1 |
/// | `steps` | 40 | limit on the steps of each iteration | ≥ 1 |
/// | `damping` | 0.01 | `λ` | > 0 |
/// | `draws` | 3 | repetitions with other samples | ≥ 1 |
/// | `seed` | 0 | seed of the first draw; each further draw adds 1 | |
/// | `dtype` | f64 | the type of the arithmetic | one that the device has |
/// | `memory` | `None` | bytes that may be taken; `None`: any number | |
#[derive(Clone, Debug, PartialEq)]
pub struct ConvergenceConfig {
    /// The sizes `d` of the matrix.
    pub dims: Vec<usize>,
    /// The numbers `N` of samples.
    pub samples: Vec<usize>,
    /// The limit on the steps of each iteration.
    pub steps: usize,
    /// `λ`.
    pub damping: f64,
    /// Repetitions with other samples.
    pub draws: usize,
    /// The seed of the first draw.
    pub seed: u64,
    /// The type of the arithmetic.
    pub dtype: DType,
    /// The memory in bytes that the systems may take.
    pub memory: Option<f64>,
}

impl Default for ConvergenceConfig {
    fn default() -> Self {
        let dtype = DType::F64;
        Self { dims: vec![512], samples: vec![800], steps: 40, damping: 0.01, draws: 3, seed: 0, dtype, memory: None }
    }
}

/// The size of a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// `d`, the side of the matrix.
    pub dim: usize,
    /// `N`, the number of samples.
    pub samples: usize,
}

/// The curves of one size.
#[derive(Clone, Debug)]
pub struct SizeCurves {
    /// The size.
    pub size: Size,
    /// Each method of [`METHODS`], in their order.
    pub methods: Vec<MethodCurves>,
}

/// The curves of one method at one size.
#[derive(Clone, Debug)]
pub struct MethodCurves {
    /// The method.
    pub method: Method,
    /// One curve per draw.
    pub draws: Vec<Curve>,
}

/// The curve that [`curves`] computes next.
#[derive(Clone, Copy, Debug)]
pub struct ConvergenceProgress {
    /// Curves done.
    pub done: usize,
    /// Curves in all.
    pub total: usize,
    /// The size of the system.
    pub size: Size,
    /// The draw, from 0.
    pub draw: usize,
    /// The method.
    pub method: Method,
}

/// Why there are no curves.
#[derive(Debug, thiserror::Error)]
pub enum ConvergenceError {
    /// A number of [`ConvergenceConfig`] is out of its range.
    #[error("{setting} must be {expected}, not {value}")]
    Setting {
        /// The field.
        setting: &'static str,
        /// Its range.
        expected: &'static str,
        /// The value given.
        value: f64,
    },
    /// A system would take more memory than there is.
    #[error(
        "d = {dim}, N = {samples} needs about {needed_gib:.1} GiB of memory, and {available_gib:.1} GiB are available: at most d = {fits} fits with N = {samples}"
    )]
    Memory {
        /// The size of the matrix.
        dim: usize,
        /// The number of samples.
        samples: usize,
        /// The memory needed, in GiB.
        needed_gib: f64,
        /// The memory available.
        available_gib: f64,
        /// The largest matrix that fits.
        fits: usize,
    },
    /// The device lacks the type.
    #[error("the device has no {dtype:?}")]
    Precision {
        /// The type.
        dtype: DType,
    },
    /// A system cannot be solved, for another reason than divergence.
    #[error(transparent)]
    Solve(#[from] SolveError),
    /// A device failed while values were read back.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The error of an iterate cannot be computed.
    #[error(transparent)]
    Errors(#[from] EvalError),
}

impl ConvergenceConfig {
    /// Every `d` with every `N`, without repetitions.
    pub fn sizes(&self) -> Vec<Size> {
        let mut sizes = Vec::new();
        for size in self.dims.iter().flat_map(|&dim| self.samples.iter().map(move |&samples| Size { dim, samples })) {
            if !sizes.contains(&size) {
                sizes.push(size);
            }
        }
        sizes
    }

    /// About the bytes of one size: the samples, and some sixteen matrices in f64 of the system, its factor and the
    /// iterates of the slowest method.
    fn bytes(Size { dim, samples }: Size) -> f64 {
        let (d, n) = (dim as f64, samples as f64);
        8.0 * (16.0 * d * d + 2.0 * n * d)
    }

    /// Fails if a size does not fit into the memory.
    fn check_memory(&self) -> Result<(), ConvergenceError> {
        const GIB: f64 = (1_u64 << 30) as f64;
        let Some(available) = self.memory else { return Ok(()) };
        let Some(size) = self.sizes().into_iter().find(|&size| Self::bytes(size) > available) else { return Ok(()) };
        let Size { dim, samples } = size;
        // 16 d² + 2 N d = available / 8.
        let half = samples as f64 / 16.0;
        let fits = ((half * half + available / 128.0).sqrt() - half).floor() as usize;
        let (needed_gib, available_gib) = (Self::bytes(size) / GIB, available / GIB);
        Err(ConvergenceError::Memory { dim, samples, needed_gib, available_gib, fits })
    }

    /// Checks every range.
    ///
    /// # Errors
    ///
    /// [`ConvergenceError::Setting`] names the first field out of its range, [`ConvergenceError::Memory`] the first size
    /// that does not fit.
    pub fn check(&self) -> Result<(), ConvergenceError> {
        let at_least = |setting, values: &[usize], least: usize, expected| match values.iter().find(|&&v| v < least) {
            Some(&value) => Err(ConvergenceError::Setting { setting, expected, value: value as f64 }),
            None => Ok(()),
        };
        // The rank correlation of the entries needs two.
        at_least("dims", &self.dims, 2, "at least 2")?;
        at_least("samples", &self.samples, 1, "at least 1")?;
        at_least("steps", &[self.steps], 1, "at least 1")?;
        at_least("draws", &[self.draws], 1, "at least 1")?;
        if !(self.damping > 0.0 && self.damping.is_finite()) {
            let (setting, expected) = ("damping", "positive and finite");
            return Err(ConvergenceError::Setting { setting, expected, value: self.damping });
        }
        self.check_memory()
    }
}

/// Draws every system and solves it with every method of [`METHODS`], each in one run; `progress` is called before each
/// curve.
///
/// # Errors
///
/// If the configuration is out of range, the device lacks the type, or a solver fails other than by divergence, which
/// is a property of the curve.
pub fn curves(
    config: &ConvergenceConfig,
    device: &Device,
    progress: &mut dyn FnMut(&ConvergenceProgress),
) -> Result<Vec<SizeCurves>, ConvergenceError> {
    config.check()?;
    if !device.supports_dtype(config.dtype) {
        return Err(ConvergenceError::Precision { dtype: config.dtype });
    }
    let sizes = config.sizes();
    let total = sizes.len() * config.draws * METHODS.len();
    let mut done = 0;
    let mut all = Vec::with_capacity(sizes.len());
    for size in sizes {
        let mut methods: Vec<_> = METHODS.map(|method| MethodCurves { method, draws: Vec::new() }).into();
        for draw in 0..config.draws {
            let seed = config.seed.wrapping_add(draw as u64);
            let problem = Problem::draw(size, config.damping, seed, device, config.dtype)?;
            for MethodCurves { method, draws } in &mut methods {
                progress(&ConvergenceProgress { done, total, size, draw, method: *method });
                draws.push(method.run(&problem, config.steps)?);
                done += 1;
            }
        }
        all.push(SizeCurves { size, methods });
    }
    Ok(all)
}
