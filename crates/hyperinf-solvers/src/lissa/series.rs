use burn::tensor::Tensor;
use hyperinf_curvature::Core;
use hyperinf_linalg::{host, largest, norms as lengths, tensor_from_host};

use super::held::HeldSeries;
use super::{GROWN, LissaScale, Prepared};
use crate::solver::Observer;
use crate::spectrum::Powers;
use crate::{Solution, SolveError, Step};

/// Doublings of the scale before the iteration is given up.
const DOUBLINGS: usize = 8;
/// Steps on the parameters after which steps on the samples are worth their Gram matrix.
const STEPS_BEFORE_HELD: usize = 24;
/// Parameters per sample from which steps on the samples repay their preparation.
const HELD_FROM: usize = 4;

/// Sees the iterates `r` of a run: the step, `r`, and its residuals.
pub(super) type Show<'a> = Option<&'a mut dyn FnMut(usize, Tensor<2>, &[f64])>;

/// A run at one scale.
pub(super) struct Run {
    pub(super) r: Tensor<2>,
    pub(super) steps: usize,
    /// The residual of `x = r/s` for each query.
    pub(super) residuals: Vec<f64>,
    /// Whether it ended because the residual grew: the scale is too small.
    pub(super) grew: bool,
    /// `r Rᵀ`, where the last step has multiplied `r` with held samples `R`.
    pub(super) products: Option<Tensor<2>>,
}

/// The series with the whole curvature, for rows whose entries are scaled to about 1.
pub(super) struct Series<'a> {
    prepared: &'a Prepared,
    v: Tensor<2>,
    /// The factors by which the rows were divided.
    sizes: Vec<f64>,
    norms: Vec<f64>,
    /// The first scale.
    scale: f64,
    powers: Powers,
}

impl<'a> Series<'a> {
    pub(super) fn new(prepared: &'a Prepared, v: Tensor<2>) -> Result<Self, SolveError> {
        let sizes = sizes(&v)?;
        let v = v.clone() / column(sizes.clone(), &v);
        let norms = lengths(v.clone())?.into_iter().map(|norm| if norm > 0.0 { norm } else { 1.0 }).collect();
        let (scale, powers) = prepared.scale_along(&v)?;
        Ok(Self { prepared, v, sizes, norms, scale, powers })
    }

    /// The solution at the first scale, doubled until the residual no longer grows.
    pub(super) fn solve(&self, mut observer: Observer<'_>) -> Result<Solution, SolveError> {
        let Prepared { params, name, .. } = self.prepared;
        let most = if params.scale == LissaScale::Spectral { DOUBLINGS } else { 0 };
        let (mut scale, mut doublings) = (self.scale, 0);
        loop {
            let Run { r, steps, residuals, grew, products } = match &mut observer {
                Some(observer) => self.run(
                    scale,
                    Some(&mut |number, r, residuals: &[f64]| {
                        let (rows, x) = (0..self.sizes.len(), self.answer(r, scale));
                        observer(&Step { number, rows, x, residuals: residuals.to_vec() });
                    }),
                )?,
                None => self.run(scale, None)?,
            };
            if !grew {
                let (x, tolerance) = (self.answer(r, scale), Some(params.tolerance));
                let products = products.map(|products| self.answer(products, scale));
                return Ok(Solution { x, iterations: steps, residuals, tolerance, products });
            }
            let residual = largest(&residuals);
            if residual.is_nan() || doublings == most {
                return Err(SolveError::Diverged { solver: name, step: steps, residual });
            }
            scale *= 2.0;
            doublings += 1;
        }
    }

    /// `x = r/s`, in the size of the queries.
    fn answer(&self, r: Tensor<2>, scale: f64) -> Tensor<2> {
        let sizes = self.sizes.iter().map(|size| size / scale).collect();
        r * column(sizes, &self.v)
    }

    /// From `r = v` at one scale. The increment is the residual of `x = r/s`.
    fn run(&self, scale: f64, mut show: Show<'_>) -> Result<Run, SolveError> {
        let Prepared { params, h, lambda, .. } = self.prepared;
        let (mut r, mut last, mut step) = (self.v.clone(), f64::INFINITY, 0);
        let mut known = self.known(scale);
        loop {
            let (change, products) = match known.next() {
                Some(change) => (change, None),
                None => {
                    let (product, products) = match h.core() {
                        Core::Samples(rows) => {
                            let m = rows.dims()[0] as f64;
                            let found = rows.normal_product(r.clone(), |products, _| products.div_scalar(m));
                            (found.0, Some(found.1))
                        }
                        Core::Matrix { .. } | Core::Eigenvalues { .. } => (h.apply(r.clone()), None),
                    };
                    let product = product + r.clone().mul_scalar(*lambda);
                    (self.v.clone() - product.div_scalar(scale), products)
                }
            };
            let residuals: Vec<f64> =
                lengths(change.clone())?.iter().zip(&self.norms).map(|(change, norm)| change / norm).collect();
            if let Some(show) = &mut show {
                show(step, r.clone(), &residuals);
            }
            let residual = largest(&residuals);
            if residual <= params.tolerance || step == params.max_steps {
                return Ok(Run { r, steps: step, residuals, grew: false, products });
            }
            if residual.is_nan() || residual > GROWN * last.max(1.0) {
                return Ok(Run { r, steps: step, residuals, grew: true, products });
            }
            last = last.min(residual);
            if step == STEPS_BEFORE_HELD
                && let Core::Samples(rows) = h.core()
                && HELD_FROM * rows.dims()[0] <= rows.dims()[1]
            {
                let held = HeldSeries { rows: &rows, shrink: 1.0 - lambda / scale, scale, norms: &self.norms };
                return held.run(r, change, step, params, show);
            }
            r = r + change;
            step += 1;
        }
    }
}

impl Series<'_> {
    /// The first increments, of which the power iteration has computed the products.
    ///
    /// `r_k = Σ_j α_j v (H/c)^j` with `α_0 ← 1 + f α_0` and `α_j ← f α_j − (c/s) α_(j−1)`, `f = 1 − λ/s`: an increment
    /// is the sum with the differences.
    fn known(&self, scale: f64) -> impl Iterator<Item = Tensor<2>> {
        let Powers { unit, rows } = &self.powers;
        let (shrink, ratio) = (1.0 - self.prepared.lambda / scale, unit / scale);
        let mut coefficients = vec![1.0];
        (1..rows.len()).map(move |_| {
            let before = |j: usize| coefficients.get(j).copied().unwrap_or(0.0);
            let next: Vec<f64> = (0..=coefficients.len())
                .map(|j| shrink * before(j) + if j == 0 { 1.0 } else { -ratio * before(j - 1) })
                .collect();
            let terms = next.iter().enumerate().map(|(j, now)| rows[j].clone().mul_scalar(now - before(j)));
            let change = terms.reduce(|a, b| a + b).expect("there is a row");
            coefficients = next;
            change
        })
    }
}

/// Values as a column for rows like `v`, `[q, 1]`.
fn column(values: Vec<f64>, v: &Tensor<2>) -> Tensor<2> {
    let q = values.len();
    tensor_from_host(values, [q, 1], &v.device(), v.dtype())
}

/// A power of two near the largest entry of each row, which brings queries of any size into the range of their type.
fn sizes(v: &Tensor<2>) -> Result<Vec<f64>, SolveError> {
    if v.dims().contains(&0) {
        return Ok(vec![1.0; v.dims()[0]]);
    }
    let largest = host(v.clone().abs().max_dim(1))?;
    let size = |largest: f64| if largest > 0.0 && largest.is_finite() { largest.log2().floor().exp2() } else { 1.0 };
    Ok(largest.into_iter().map(|largest| size(largest).max(f64::from(f32::MIN_POSITIVE))).collect())
}
