use std::sync::Arc;

use burn::tensor::Tensor;
use hyperinf_curvature::{Core, Curvature, Dense, SampleRows, Structure};
use hyperinf_linalg::{host, precise, ratios, tensor_from_host};

use crate::factor::check_size;
use crate::krylov::symmetric_eigen;
use crate::solver::{check, check_rows, finite};
use crate::{Exact, Inverse, Plan, Solution, SolveError, Solver};

const NAME: &str = "spectral";
/// The residual that an eigendecomposition in f64 must reach.
const TOLERANCE: f64 = 1e-6;

/// One eigendecomposition of a curvature, which inverts `H + λI` for every `λ`.
///
/// * Dense, one-sided: `H = Q diag(μ) Qᵀ` (or the factor), `X = V Q diag(1/(μ + λ)) Qᵀ`: about `9k³` flop once, two
///   products with `Q` per right-hand side and `λ`.
/// * Samples `R` `[m, D]` with `m ≤ D`: the eigenvectors `U` of the Gram matrix `R Rᵀ/m`; per `λ`
///   ```text
///   C = V Rᵀ U diag(1/(m(μ + λ))) Uᵀ,   X = (V − C R)/λ,   X Rᵀ = m C
///   ```
///   whose products `X Rᵀ` avoid the cancellation in `X`. With `m > D`: `RᵀR/m` is formed and decomposed.
/// * Diagonal, Kronecker, eigenpairs: known already; [`Exact`] inverts each `λ`.
///
/// Decompositions run in f64 on the host, products in f64 where the device has it.
#[derive(Clone, Debug)]
pub struct Spectral {
    parameters: usize,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    Matrix {
        /// `H` in f64.
        h: Box<Curvature>,
        /// `Q`, eigenvectors in its columns, `[k, k]`.
        vectors: Tensor<2>,
        values: Vec<f64>,
    },
    Samples {
        samples: SampleRows,
        /// `R Rᵀ/m`, `[m, m]`.
        gram: Tensor<2>,
        /// `U`, eigenvectors in its columns, `[m, m]`.
        vectors: Tensor<2>,
        values: Vec<f64>,
    },
    Known(Curvature),
}

impl Spectral {
    /// Decomposes a curvature.
    ///
    /// # Errors
    ///
    /// If it holds NaN, or the matrix to be decomposed is too large.
    pub fn new(h: &Curvature) -> Result<Self, SolveError> {
        let parameters = h.parameters();
        let decomposed = |matrix: &Tensor<2>| -> Result<(Vec<f64>, Tensor<2>), SolveError> {
            let size = matrix.dims()[0];
            let (values, vectors) = symmetric_eigen(NAME, &host(matrix.clone())?, size)?;
            let entries = (0..size * size).map(|k| vectors[(k / size, k % size)]).collect();
            Ok((values, tensor_from_host(entries, [size, size], &matrix.device(), matrix.dtype())))
        };
        let form = match h.core() {
            Core::Matrix { matrix, .. } => {
                check_size(NAME, matrix.dims()[0])?;
                let matrix = precise(matrix.clone());
                let (values, vectors) = decomposed(&matrix)?;
                Form::Matrix { h: Box::new(h.with_core(matrix)), vectors, values }
            }
            Core::Samples(samples) => {
                let [m, d] = samples.dims();
                check_size(NAME, m.min(d))?;
                if m > d {
                    let matrix = samples.outer_precise().div_scalar(m as f64);
                    return Self::new(&Dense { matrix }.into());
                }
                let gram = samples.gram_precise().div_scalar(m as f64);
                let (values, vectors) = decomposed(&gram)?;
                Form::Samples { samples, gram, vectors, values }
            }
            Core::Eigenvalues { .. } => Form::Known(h.clone()),
        };
        Ok(Self { parameters, form })
    }

    /// The eigenvalues, ascending: those of the matrix or factor, or the `m` of held samples that may differ from zero;
    /// `None` for a structure that needs no decomposition.
    pub fn eigenvalues(&self) -> Option<&[f64]> {
        match &self.form {
            Form::Matrix { values, .. } | Form::Samples { values, .. } => Some(values),
            Form::Known(_) => None,
        }
    }

    /// `X` with `X (H + λI) = V`, for rows `V` `[q, D]`.
    ///
    /// # Errors
    ///
    /// If `λ` is not positive and finite, an eigenvalue is `−λ` or less, `V` has not `D` columns or holds NaN.
    pub fn apply(&self, v: Tensor<2>, lambda: f64) -> Result<Solution, SolveError> {
        let mut solutions = self.apply_sweep(v, &[lambda])?;
        Ok(solutions.pop().expect("one damping gives one solution"))
    }

    /// [`Spectral::apply`] for many dampings: `V` is rotated once.
    ///
    /// # Errors
    ///
    /// As [`Spectral::apply`], at the first damping that fails.
    pub fn apply_sweep(&self, v: Tensor<2>, lambdas: &[f64]) -> Result<Vec<Solution>, SolveError> {
        check_rows(&v, self.parameters)?;
        lambdas.iter().try_for_each(|&lambda| self.check(lambda))?;
        match &self.form {
            Form::Known(h) => lambdas.iter().map(|lambda| Exact.prepare(h, *lambda)?.apply(v.clone())).collect(),
            Form::Matrix { h, vectors, values } => {
                let rotated = h.with_core(vectors.clone()).apply(precise(v.clone()));
                lambdas.iter().map(|&lambda| matrix(h, vectors, values, lambda, &rotated, &v)).collect()
            }
            Form::Samples { samples, gram, vectors, values } => {
                let right = samples.dots_precise(v.clone());
                let rotated = right.clone().matmul(vectors.clone());
                let solve = |&lambda: &f64| {
                    let m = values.len() as f64;
                    let inverted = row(values, |mu| 1.0 / (m * (mu + lambda)), &rotated);
                    let c = (rotated.clone() * inverted).matmul(vectors.clone().transpose());
                    // x(H + λI) − v = (c (K + mλI) − v Rᵀ) R/(mλ): the residual of the small system, carried back.
                    let left = (c.clone().matmul(gram.clone()) + c.clone().mul_scalar(lambda)).mul_scalar(m);
                    let left = (left - right.clone()).div_scalar(m * lambda);
                    let goal = precise(v.clone());
                    let residuals = ratios(samples.combine_precise(left), goal.clone())?;
                    let x = (goal - samples.combine_precise(c.clone())).div_scalar(lambda).cast(v.dtype());
                    solution(x, residuals, Some(c.mul_scalar(m)))
                };
                lambdas.iter().map(solve).collect()
            }
        }
    }

    fn check(&self, lambda: f64) -> Result<(), SolveError> {
        if !(lambda > 0.0 && lambda.is_finite()) {
            return Err(SolveError::Damping { solver: NAME, lambda });
        }
        match self.eigenvalues() {
            Some(values) if values.iter().any(|mu| mu + lambda <= 0.0) => {
                Err(SolveError::NotPositiveDefinite { solver: NAME, size: values.len(), lambda })
            }
            _ => Ok(()),
        }
    }
}

/// One damping of a decomposed matrix, for rotated rows.
fn matrix(
    h: &Curvature,
    vectors: &Tensor<2>,
    values: &[f64],
    lambda: f64,
    rotated: &Tensor<2>,
    v: &Tensor<2>,
) -> Result<Solution, SolveError> {
    let ([q, d], k) = (rotated.dims(), values.len());
    let inverted = row(values, |mu| 1.0 / (mu + lambda), rotated);
    // The matrix acts on the columns of a block's parameters, or on their rows.
    let (shape, inverted) = match h.core() {
        Core::Matrix { rows, cols, on_rows: true, .. } => ([q, rows, cols], inverted.reshape([1, k, 1])),
        Core::Matrix { rows, cols, on_rows: false, .. } => ([q, rows, cols], inverted.reshape([1, 1, k])),
        Core::Samples(_) | Core::Eigenvalues { .. } => ([q, 1, d], inverted.reshape([1, 1, k])),
    };
    let divided = (rotated.clone().reshape(shape) * inverted).reshape([q, d]);
    let x = h.with_core(vectors.clone().transpose()).apply(divided);
    let goal = precise(v.clone());
    let rest = h.apply(x.clone()) + x.clone().mul_scalar(lambda) - goal.clone();
    solution(x.cast(v.dtype()), ratios(rest, goal)?, None)
}

/// A function of the eigenvalues as a row, `[1, k]`.
fn row(values: &[f64], of: impl Fn(f64) -> f64, like: &Tensor<2>) -> Tensor<2> {
    tensor_from_host(values.iter().map(|mu| of(*mu)).collect(), [1, values.len()], &like.device(), like.dtype())
}

fn solution(x: Tensor<2>, residuals: Vec<f64>, products: Option<Tensor<2>>) -> Result<Solution, SolveError> {
    finite(NAME, Solution { x, iterations: 0, residuals, tolerance: Some(TOLERANCE), products })
}

/// The exact inverse by one eigendecomposition, [`Spectral`]: some twelve times the cost of a factorisation, for all
/// dampings of a sweep at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpectralSolver;

impl Solver for SpectralSolver {
    fn name(&self) -> &'static str {
        NAME
    }

    fn supports(&self, _: Structure) -> bool {
        true
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        Ok(self.prepare_sweep(h, &[lambda])?.pop().expect("one damping gives one inverse"))
    }

    fn prepare_sweep(&self, h: &Curvature, lambdas: &[f64]) -> Result<Vec<Box<dyn Inverse>>, SolveError> {
        lambdas.iter().try_for_each(|lambda| check(self, h, *lambda))?;
        let spectral = Arc::new(Spectral::new(h)?);
        let inverse = |&lambda: &f64| -> Result<Box<dyn Inverse>, SolveError> {
            spectral.check(lambda)?;
            Ok(Box::new(Damped { spectral: spectral.clone(), lambda }))
        };
        lambdas.iter().map(inverse).collect()
    }
}

/// A decomposition at one damping.
struct Damped {
    spectral: Arc<Spectral>,
    lambda: f64,
}

impl Inverse for Damped {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        self.spectral.apply(v, self.lambda)
    }

    fn plan(&self) -> Plan {
        Plan::of(NAME)
    }
}
