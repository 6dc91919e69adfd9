use burn::tensor::{DType, Tensor};
use faer::Mat;
use hyperinf_curvature::{Curvature, Structure};
use hyperinf_linalg::{combine, dots, epsilon, host, precise, scalars, tensor_from_host};

use crate::cg::{check_limits, relative, solution};
use crate::krylov::{orthonormal, symmetric_eigen};
use crate::precondition::Preconditioned;
use crate::solver::{Observer, check, check_rows};
use crate::{Inverse, Plan, Preconditioner, Solution, SolveError, Solver, Step};

/// Block conjugate gradients (O'Leary 1980) in a form without breakdowns (Ji and Li 2017): every query searches in the
/// directions of all.
///
/// ```text
/// P = orth(R P₀⁻¹)
/// repeat: Q = P (H + λI),  G = P Qᵀ,  X ← X + (G⁻¹ P Rᵀ)ᵀ P,  R ← R − (G⁻¹ P Rᵀ)ᵀ Q,
///         Z = R P₀⁻¹,  P ← orth(Z − (G⁻¹ Q Zᵀ)ᵀ P)
/// ```
///
/// In exact arithmetic `D/b` steps end it. After twice as many, and ten, the directions have lost their conjugacy to
/// rounding: it starts again from the residual `V − X (H + λI)` of what it has.
///
/// `orth` drops the redundant directions of duplicate queries, zero queries and dependent residuals, so `G` is always
/// well posed. With one query this is [`crate::Cg`]; with `b` it takes the steps of a problem without its `b − 1`
/// largest eigenvalues, each a product of at most `b` rows with `H` and some `20 b² D` flop more. All in f64 where the
/// device has f64. Residuals, tolerance and errors are those of [`crate::Cg`]; the query named with negative curvature
/// is the one whose residual has the largest part along that direction.
///
/// | parameter | default | purpose | range |
/// |---|---|---|---|
/// | `preconditioner` | none | fewer steps | see [`Preconditioner`] |
/// | `block` | 64 | queries solved together | ≥ 1 |
/// | `max_steps` | 1000 | limit on the steps, per block of queries | ≥ 1 |
/// | `tolerance` | 1e-6 | relative residual aimed for, per query | > 0 |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockCg {
    /// The preconditioner `P₀`.
    pub preconditioner: Preconditioner,
    /// Queries solved together.
    pub block: usize,
    /// The limit on the steps, per block of queries.
    pub max_steps: usize,
    /// The relative residual at which a query counts as solved.
    pub tolerance: f64,
}

impl Default for BlockCg {
    fn default() -> Self {
        Self { preconditioner: Preconditioner::None, block: 64, max_steps: 1000, tolerance: 1e-6 }
    }
}

impl Solver for BlockCg {
    fn name(&self) -> &'static str {
        "block-cg"
    }

    fn supports(&self, _: Structure) -> bool {
        true
    }

    fn widens_samples(&self) -> bool {
        true
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        check(self, h, lambda)?;
        check_limits("block-cg", self.max_steps, self.tolerance)?;
        if self.block == 0 {
            let (parameter, expected) = ("block", "at least 1");
            return Err(SolveError::Parameter { solver: "block-cg", parameter, expected, value: 0.0 });
        }
        let h = h.precise();
        let preconditioner = Preconditioned::new("block-cg", self.preconditioner, &h, lambda)?;
        Ok(Box::new(Prepared { params: *self, preconditioner, h, lambda }))
    }
}

struct Prepared {
    params: BlockCg,
    preconditioner: Preconditioned,
    h: Curvature,
    lambda: f64,
}

impl Inverse for Prepared {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        self.solve(v, None)
    }

    fn apply_observed(&self, v: Tensor<2>, observer: &mut dyn FnMut(&Step)) -> Result<Solution, SolveError> {
        self.solve(v, Some(observer))
    }

    fn plan(&self) -> Plan {
        Plan::of("block-cg")
    }
}

impl Prepared {
    fn solve(&self, v: Tensor<2>, mut observer: Observer<'_>) -> Result<Solution, SolveError> {
        check_rows(&v, self.h.parameters())?;
        let (dtype, q) = (v.dtype(), v.dims()[0]);
        let v = precise(v);
        let (mut parts, mut steps) = (Vec::new(), 0);
        for start in (0..q).step_by(self.params.block) {
            let end = (start + self.params.block).min(q);
            let mut show = |number: usize, x: &Tensor<2>, residuals: Vec<f64>| {
                if let Some(observer) = &mut observer {
                    observer(&Step { number, rows: start..end, x: x.clone().cast(dtype), residuals });
                }
            };
            let (x, taken) = self.solve_block(v.clone().slice([start..end]), start, &mut show)?;
            parts.push(x);
            steps = steps.max(taken);
        }
        let x = if parts.is_empty() { v.clone() } else { Tensor::cat(parts, 0) };
        solution("block-cg", &self.h, self.lambda, (x, v), steps, self.params.tolerance, dtype)
    }

    /// `X` for `v`, the queries from `first` on, and the steps taken; `show` sees every iterate.
    fn solve_block(
        &self,
        v: Tensor<2>,
        first: usize,
        show: &mut dyn FnMut(usize, &Tensor<2>, Vec<f64>),
    ) -> Result<(Tensor<2>, usize), SolveError> {
        let [queries, parameters] = v.dims();
        let enough = 2 * parameters.div_ceil(queries.max(1)) + 10;
        let mut x = v.zeros_like();
        let mut r = v.clone();
        let mut squares = scalars(r.clone(), r.clone())?;
        let wholes = squares.clone();
        let goals: Vec<f64> = squares.iter().map(|s| s * self.params.tolerance.powi(2)).collect();
        let mut basis = orthonormal("block-cg", self.preconditioner.apply(r.clone()))?;
        let mut step = 0;
        show(step, &x, relative(&squares, &wholes));
        while step < self.params.max_steps && squares.iter().zip(&goals).any(|(s, goal)| s > goal) {
            let Some(p) = basis else { break };
            let product = self.h.apply(p.clone()) + p.clone().mul_scalar(self.lambda);
            let along = dots(p.clone(), r.clone());
            let inverse = self.small_inverse(&p, &product, &along, first, step)?;
            let alpha = inverse.clone().matmul(along).transpose();
            x = x + combine(alpha.clone(), p.clone());
            r = r - combine(alpha, product.clone());
            squares = scalars(r.clone(), r.clone())?;
            if squares.iter().any(|s| s.is_nan()) {
                return Err(SolveError::Diverged { solver: "block-cg", step, residual: f64::NAN });
            }
            step += 1;
            show(step, &x, relative(&squares, &wholes));
            if step % enough == 0 {
                r = v.clone() - self.h.apply(x.clone()) - x.clone().mul_scalar(self.lambda);
                squares = scalars(r.clone(), r.clone())?;
                basis = orthonormal("block-cg", self.preconditioner.apply(r.clone()))?;
                continue;
            }
            let z = self.preconditioner.apply(r.clone());
            let beta = inverse.matmul(dots(product, z.clone())).transpose();
            basis = orthonormal("block-cg", z - combine(beta, p))?;
        }
        Ok((x, step))
    }

    /// `G⁻¹` for `G = P Qᵀ`, `[k, k]`, without directions whose curvature is mere rounding.
    fn small_inverse(
        &self,
        p: &Tensor<2>,
        product: &Tensor<2>,
        along: &Tensor<2>,
        first: usize,
        step: usize,
    ) -> Result<Tensor<2>, SolveError> {
        let (k, dtype) = (p.dims()[0], p.dtype());
        let curvatures = host(dots(p.clone(), product.clone()))?;
        let symmetric: Vec<f64> =
            (0..k * k).map(|at| 0.5 * (curvatures[at] + curvatures[at % k * k + at / k])).collect();
        let (values, vectors) = symmetric_eigen("block-cg", &symmetric, k)?;
        let rounding = rounding(&values, dtype);
        if values[0] <= -rounding || values[k - 1] <= 0.0 {
            let query = first + strongest(&host(along.clone())?, &vectors);
            return Err(SolveError::NegativeCurvature { solver: "block-cg", query, step, value: values[0] });
        }
        let entry = |i: usize, j: usize| {
            let terms = (0..k).filter(|&l| values[l] > rounding);
            terms.map(|l| vectors[(i, l)] * vectors[(j, l)] / values[l]).sum()
        };
        let inverse = (0..k * k).map(|at| entry(at / k, at % k)).collect();
        Ok(tensor_from_host(inverse, [k, k], &p.device(), dtype))
    }
}

/// The rounding error of eigenvalues.
fn rounding(values: &[f64], dtype: DType) -> f64 {
    let largest = values.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    epsilon(dtype) * largest * values.len() as f64
}

/// The column of `along`, `[k, q]`, with the largest part along the first eigenvector.
fn strongest(along: &[f64], vectors: &Mat<f64>) -> usize {
    let k = vectors.nrows();
    let q = along.len() / k;
    let part = |j: usize| (0..k).map(|i| vectors[(i, 0)] * along[i * q + j]).sum::<f64>().abs();
    (0..q).max_by(|&a, &b| part(a).total_cmp(&part(b))).unwrap_or(0)
}
