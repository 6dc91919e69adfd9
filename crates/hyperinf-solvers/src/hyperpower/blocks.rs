//! Blocks of a model, one by one and in batches: bounds, types, retries, warm starts.

use burn::tensor::{DType, Device, Tensor};
use hyperinf_curvature::{Curvature, Dense};
use hyperinf_linalg::{epsilon, has_own_memory, host};

use super::Hyperpower;
use super::interval::Interval;
use super::iterate::MatrixInverse;
use crate::solver::check;
use crate::{SolveError, certain_bound, spectral_bound};

/// Above this product of rounding and condition the iteration runs in f64, where the device has it.
const ROUNDING: f64 = 0.03;
/// Sizes up to this are inverted side by side on a processor, a core each.
const SMALL: usize = 256;
/// Values in one batch of matrices, 64 MiB in f32; an iteration holds up to eight such batches.
const BATCH: usize = 1 << 24;

impl Hyperpower {
    /// The inverse of one block, from the estimated bound, the certain one, and in f64, until one neither diverges nor
    /// contradicts its certificate; otherwise the best of them.
    pub(super) fn inverse(&self, problem: &Problem<'_>) -> Result<MatrixInverse, SolveError> {
        let attempt = |dtype, upper: f64| {
            let a = problem.damped(dtype);
            self.invert(a, problem.lambda, upper)
        };
        let first = attempt(problem.dtype, problem.upper);
        if !again(&first) {
            return first;
        }
        // An eigenvalue lies above the estimated bound: the certain one costs a few more steps.
        let certain = certain_bound(problem.matrix)? + problem.lambda;
        let found = better(first, attempt(problem.dtype, certain));
        if again(&found) && problem.dtype != DType::F64 && problem.has_f64() {
            return better(found, attempt(DType::F64, certain));
        }
        found
    }

    /// The inverse from the one at another damping; `None` if that would not be shorter or did not converge.
    pub(super) fn warm(&self, problem: &Problem<'_>, lambda: f64, known: &MatrixInverse) -> Option<MatrixInverse> {
        let ratio = problem.lambda / lambda;
        // Rounding of the known inverse widens the interval, in single directions by more than its mean.
        let slack = known.certificate.max(4.0 * known.error);
        let interval = Interval { lower: ratio.min(1.0) - slack, upper: ratio.max(1.0) + slack };
        let cold = Interval { lower: problem.lambda, upper: problem.upper };
        // The first step from a multiple of I saves two products, about one step.
        if interval.lower <= 0.0 || self.steps_from(interval) + 1 > self.steps_from(cold) {
            return None;
        }
        let condition = problem.upper / problem.lambda;
        let x = known.x.clone().cast(problem.dtype);
        let found = self.improve(problem.damped(problem.dtype), x, interval.lower, interval.upper, condition);
        found.ok().filter(|found| found.error < 1.0 && !found.is_doubtful())
    }

    /// Groups of blocks that are inverted together, each with its index.
    pub(super) fn groups<'a>(&self, blocks: &[(&'a Curvature, f64)]) -> Vec<Vec<(usize, Problem<'a>)>> {
        let mut groups: Vec<Vec<(usize, Problem<'a>)>> = Vec::new();
        for (i, (h, lambda)) in blocks.iter().enumerate() {
            // An unsuitable block fails when it is prepared alone.
            let Some(matrix) = h.matrix() else { continue };
            let size = matrix.dims()[0];
            if check(self, h, *lambda).is_err() || !batches(&matrix.device()) {
                continue;
            }
            let Ok(problem) = Problem::new(self, h, *lambda) else { continue };
            let room = (BATCH / (size * size)).max(1);
            let fits = |group: &Vec<(usize, Problem<'a>)>| {
                let first = &group[0].1;
                group.len() < room
                    && first.matrix.dims() == matrix.dims()
                    && first.dtype == problem.dtype
                    && first.matrix.device() == matrix.device()
            };
            match groups.iter_mut().find(|group| fits(group)) {
                Some(group) => group.push((i, problem)),
                None => groups.push(vec![(i, problem)]),
            }
        }
        groups.retain(|group| group.len() > 1);
        groups
    }

    /// The inverses of a group, except those that failed.
    pub(super) fn together(&self, group: &[(usize, Problem<'_>)]) -> Vec<(usize, MatrixInverse)> {
        let a = Tensor::stack(group.iter().map(|(_, problem)| problem.damped(problem.dtype)).collect(), 0);
        let bounds: Vec<(f64, f64)> = group.iter().map(|(_, problem)| (problem.lambda, problem.upper)).collect();
        let found = self.invert_many(a, &bounds).unwrap_or_default();
        group
            .iter()
            .zip(found)
            .filter_map(|((i, _), found)| Some((*i, found.ok().filter(|found| !found.is_doubtful())?)))
            .collect()
    }
}

/// Whether another bound may do better.
fn again(found: &Result<MatrixInverse, SolveError>) -> bool {
    match found {
        Ok(found) => found.is_doubtful(),
        Err(error) => matches!(error, SolveError::Diverged { .. }),
    }
}

/// The second, unless the first is nearer.
fn better(
    first: Result<MatrixInverse, SolveError>,
    second: Result<MatrixInverse, SolveError>,
) -> Result<MatrixInverse, SolveError> {
    match (&first, &second) {
        (Ok(a), Ok(b)) if a.error <= b.error => first,
        (Ok(_), Err(_)) => first,
        _ => second,
    }
}

/// Whether this device inverts matrices in batches. A processor does not: a batch no longer fits its caches (measured:
/// up to 2.6 times slower for 16 matrices of size 64 to 256).
fn batches(device: &Device) -> bool {
    has_own_memory(device)
}

/// Whether blocks take one core each: a product of their size cannot use all cores.
pub(super) fn side_by_side(h: &Curvature) -> bool {
    h.matrix().is_some_and(|matrix| matrix.dims()[0] <= SMALL && !batches(&matrix.device()))
}

/// A block, with the bound on its eigenvalues and the type of its iteration.
pub(super) struct Problem<'a> {
    matrix: &'a Tensor<2>,
    lambda: f64,
    /// Of `A = H + λI`.
    upper: f64,
    dtype: DType,
}

impl<'a> Problem<'a> {
    pub(super) fn new(solver: &Hyperpower, h: &'a Curvature, lambda: f64) -> Result<Self, SolveError> {
        let matrix = h.matrix().expect("check() accepts curvatures with a matrix only");
        check_finite(solver, matrix)?;
        let upper = spectral_bound(&Dense { matrix: matrix.clone() }.into(), matrix)? + lambda;
        let mut problem = Self { matrix, lambda, upper, dtype: matrix.dtype() };
        // Refinement makes up for what a shorter iteration loses, at the cost of products with the queries alone.
        let short = if problem.dtype == DType::F64 { DType::F32 } else { problem.dtype };
        let coarse = epsilon(short) * upper / lambda > ROUNDING;
        match (coarse, problem.has_f64()) {
            (false, _) => problem.dtype = short,
            (true, true) => problem.dtype = DType::F64,
            (true, false) => {}
        }
        Ok(problem)
    }

    fn has_f64(&self) -> bool {
        self.matrix.device().supports_dtype(DType::F64)
    }

    /// `A = H + λI` in a type.
    fn damped(&self, dtype: DType) -> Tensor<2> {
        damped(&self.matrix.clone().cast(dtype), self.lambda)
    }
}

/// Fails if a matrix holds NaN or infinity, which bounds on its eigenvalues may hide.
pub(super) fn check_finite(solver: &Hyperpower, matrix: &Tensor<2>) -> Result<(), SolveError> {
    if host(matrix.clone().sum())?.iter().all(|sum| sum.is_finite()) {
        return Ok(());
    }
    Err(SolveError::NonFinite { solver: solver.label(), what: "the curvature" })
}

/// `M + λI`.
pub(super) fn damped(matrix: &Tensor<2>, lambda: f64) -> Tensor<2> {
    let eye = Tensor::<2>::eye(matrix.dims()[0], &matrix.device()).cast(matrix.dtype());
    matrix.clone() + eye.mul_scalar(lambda)
}
