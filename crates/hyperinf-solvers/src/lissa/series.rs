use burn::tensor::Tensor;
use hyperinf_curvature::{Curvature, Samples};
use hyperinf_linalg::{host, largest, norms as lengths, tensor_from_host};

use super::held::HeldSeries;
use super::{GROWN, LissaScale, Prepared};
use crate::solver::Observer;
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
}

/// The series with the whole curvature, for rows whose entries are scaled to about 1.
pub(super) struct Series<'a> {
    prepared: &'a Prepared,
    v: Tensor<2>,
    /// The factors by which the rows were divided.
    sizes: Vec<f64>,
    norms: Vec<f64>,
}

impl<'a> Series<'a> {
    pub(super) fn new(prepared: &'a Prepared, v: Tensor<2>) -> Result<Self, SolveError> {
        let sizes = sizes(&v)?;
        let v = v.clone() / column(sizes.clone(), &v);
        let norms = lengths(v.clone())?.into_iter().map(|norm| if norm > 0.0 { norm } else { 1.0 }).collect();
        Ok(Self { prepared, v, sizes, norms })
    }

    /// The solution at the first scale, doubled until the residual no longer grows.
    pub(super) fn solve(&self, mut observer: Observer<'_>) -> Result<Solution, SolveError> {
        let Prepared { params, name, .. } = self.prepared;
        let most = if params.scale == LissaScale::Spectral { DOUBLINGS } else { 0 };
        let (mut scale, mut doublings) = (self.prepared.scale, 0);
        loop {
            let Run { r, steps, residuals, grew } = match &mut observer {
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
                return Ok(Solution { x, iterations: steps, residuals, tolerance, products: None });
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
        loop {
            let product = h.apply(r.clone()) + r.clone().mul_scalar(*lambda);
            let change = self.v.clone() - product.div_scalar(scale);
            let residuals: Vec<f64> =
                lengths(change.clone())?.iter().zip(&self.norms).map(|(change, norm)| change / norm).collect();
            if let Some(show) = &mut show {
                show(step, r.clone(), &residuals);
            }
            let residual = largest(&residuals);
            if residual <= params.tolerance || step == params.max_steps {
                return Ok(Run { r, steps: step, residuals, grew: false });
            }
            if residual.is_nan() || residual > GROWN * last.max(1.0) {
                return Ok(Run { r, steps: step, residuals, grew: true });
            }
            last = last.min(residual);
            if let Curvature::Samples(Samples { rows }) = h
                && step == STEPS_BEFORE_HELD
                && HELD_FROM * rows.dims()[0] <= rows.dims()[1]
            {
                let held = HeldSeries { rows, shrink: 1.0 - lambda / scale, scale, norms: &self.norms };
                return held.run(r, change, step, params, show);
            }
            r = r + change;
            step += 1;
        }
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
