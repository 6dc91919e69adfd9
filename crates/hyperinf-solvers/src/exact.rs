mod rotated;

use burn::tensor::Tensor;
use hyperinf_curvature::{Core, Curvature, SampleRows, Structure};
use hyperinf_linalg::{Cholesky, host, precise, ratios, tensor_from_host};

use crate::factor::{check_size, factorise};
use crate::solver::{check, check_rows, finite};
use crate::{Inverse, Plan, Solution, SolveError, Solver};
use rotated::Rotated;

/// The residual that a factorisation in f64 must reach: near `ε·κ` for the worst condition worth solving.
const TOLERANCE: f64 = 1e-6;

/// The exact inverse by Cholesky factorisation in f64 on the host.
///
/// * Dense, one-sided: `H + λI` (or the factor plus `λI`) is factorised: `D³/3` or `k³/3`.
/// * Samples `R` `[m, D]` with `m ≤ D`: the dual (Woodbury), which costs `m²D + m³/3` and never forms `[D, D]`:
///   ```text
///   X = (V − C R) / λ,   C = V Rᵀ (R Rᵀ + mλI)⁻¹
///   ```
///   With `m > D`: `RᵀR/m` is formed and factorised.
/// * Diagonal: a division.
/// * Kronecker: `V` rotated into both eigenbases, divided by `Λ + λ` and rotated back, `2D(rows + cols)` per row.
/// * Eigenpairs: `x = v/λ + Σ_k (1/(μ_k + λ) − 1/λ) ⟨v, q_k⟩ q_k`.
///
/// The last two are refined: eigenvectors rounded to f32 are orthonormal to 1e-7 only, which an inverse multiplies by
/// up to `κ`. Products with samples are computed in f64 where the device has f64. The residual is that of `X` before it
/// is rounded to the type of `V`. A matrix above 16 GiB in f64, of 46,340 rows, is not factorised.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exact;

impl Solver for Exact {
    fn name(&self) -> &'static str {
        "exact"
    }

    fn supports(&self, _: Structure) -> bool {
        true
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        check(self, h, lambda)?;
        match h.core() {
            Core::Matrix { matrix, rows, cols, on_rows } => {
                let shape = Shape { parameters: h.parameters(), rows, cols, on_rows };
                Ok(Box::new(Primal::new(shape, matrix.clone(), lambda)?))
            }
            Core::Samples(samples) => {
                let [m, d] = samples.dims();
                check_size("exact", m.min(d))?;
                if m > d {
                    let matrix = samples.outer_precise().div_scalar(m as f64);
                    let shape = Shape { parameters: d, rows: 1, cols: d, on_rows: false };
                    return Ok(Box::new(Primal::new(shape, matrix, lambda)?));
                }
                let factor = factorise("exact", host(samples.gram_precise())?, m, m as f64 * lambda)?;
                Ok(Box::new(Dual { samples, factor, lambda }))
            }
            Core::Eigenvalues { values, complete } => match h {
                Curvature::Diagonal(_) => Ok(Box::new(Division::new(host(values)?, lambda)?)),
                _ => Ok(Box::new(Rotated::new(h, values, complete, lambda)?)),
            },
        }
    }
}

/// How rows of `D` parameters split into right-hand sides of the factor: see [`Core::Matrix`].
struct Shape {
    parameters: usize,
    rows: usize,
    cols: usize,
    on_rows: bool,
}

impl Shape {
    /// `[q, rows, cols]` to `[q, cols, rows]` if the matrix acts on rows.
    fn orient(&self, v: Tensor<2>) -> Tensor<2> {
        let q = v.dims()[0];
        if self.on_rows {
            v.reshape([q, self.rows, self.cols]).swap_dims(1, 2).reshape([q, self.parameters])
        } else {
            v
        }
    }

    /// The inverse of [`Shape::orient`].
    fn restore(&self, v: Tensor<2>) -> Tensor<2> {
        let q = v.dims()[0];
        if self.on_rows {
            v.reshape([q, self.cols, self.rows]).swap_dims(1, 2).reshape([q, self.parameters])
        } else {
            v
        }
    }
}

struct Primal {
    shape: Shape,
    factor: Cholesky,
}

impl Primal {
    fn new(shape: Shape, matrix: Tensor<2>, lambda: f64) -> Result<Self, SolveError> {
        let size = matrix.dims()[0];
        check_size("exact", size)?;
        Ok(Self { shape, factor: factorise("exact", host(matrix)?, size, lambda)? })
    }
}

impl Inverse for Primal {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        check_rows(&v, self.shape.parameters)?;
        let (dims, device, dtype) = (v.dims(), v.device(), v.dtype());
        let b = host(self.shape.orient(v))?;
        let mut x = b.clone();
        self.factor.solve(&mut x);
        let residuals = row_ratios(&self.factor.residual(&x, &b), &b, self.shape.parameters);
        let x = self.shape.restore(tensor_from_host(x, dims, &device, dtype));
        finite("exact", Solution { x, iterations: 0, residuals, tolerance: Some(TOLERANCE), products: None })
    }

    fn plan(&self) -> Plan {
        Plan::of("exact")
    }
}

struct Division {
    diagonal: Vec<f64>,
}

impl Division {
    fn new(diagonal: Vec<f64>, lambda: f64) -> Result<Self, SolveError> {
        if diagonal.iter().any(|d| !d.is_finite()) {
            return Err(SolveError::NonFinite { solver: "exact", what: "the curvature" });
        }
        if diagonal.iter().any(|d| d + lambda <= 0.0) {
            return Err(SolveError::NotPositiveDefinite { solver: "exact", size: diagonal.len(), lambda });
        }
        Ok(Self { diagonal: diagonal.into_iter().map(|d| d + lambda).collect() })
    }
}

impl Inverse for Division {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        let d = self.diagonal.len();
        check_rows(&v, d)?;
        let (dims, device, dtype) = (v.dims(), v.device(), v.dtype());
        let b = host(v)?;
        let x: Vec<f64> = b.iter().zip(self.diagonal.iter().cycle()).map(|(b, h)| b / h).collect();
        let rest: Vec<f64> = x.iter().zip(self.diagonal.iter().cycle()).zip(&b).map(|((x, h), b)| x * h - b).collect();
        let residuals = row_ratios(&rest, &b, d);
        let x = tensor_from_host(x, dims, &device, dtype);
        finite("exact", Solution { x, iterations: 0, residuals, tolerance: Some(TOLERANCE), products: None })
    }

    fn plan(&self) -> Plan {
        Plan::of("exact")
    }
}

struct Dual {
    samples: SampleRows,
    factor: Cholesky,
    lambda: f64,
}

impl Inverse for Dual {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        let [m, d] = self.samples.dims();
        check_rows(&v, d)?;
        let ([q, _], device, dtype) = (v.dims(), v.device(), v.dtype());
        let right = self.samples.dots_precise(v.clone());
        let working = right.dtype();
        let right = host(right)?;
        let mut c = right.clone();
        self.factor.solve(&mut c);
        // x(H + λI) − v = (c (K + mλI) − v Rᵀ) R / (mλ): the residual of the small system, carried back.
        let on_device = |values| tensor_from_host(values, [q, m], &device, working);
        let left = on_device(self.factor.residual(&c, &right)).div_scalar(m as f64 * self.lambda);
        let v = precise(v);
        let c = on_device(c);
        // One pass over the samples for both.
        let both = self.samples.combine_precise(Tensor::cat(vec![left, c.clone()], 0));
        let (rest, sum) = (both.clone().slice([0..q]), both.slice([q..2 * q]));
        let residuals = ratios(rest, v.clone())?;
        let x = (v - sum).div_scalar(self.lambda).cast(dtype);
        // X Rᵀ = (V Rᵀ − C K)/λ = m C, by the definition of C.
        let products = Some(c.mul_scalar(m as f64));
        finite("exact", Solution { x, iterations: 0, residuals, tolerance: Some(TOLERANCE), products })
    }

    fn plan(&self) -> Plan {
        Plan::of("exact")
    }
}

/// `||r|| / ||b||` of each row of length `d`.
fn row_ratios(r: &[f64], b: &[f64], d: usize) -> Vec<f64> {
    let square = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>();
    let ratio = |(r, b)| {
        let norm = square(b);
        (square(r) / if norm > 0.0 { norm } else { 1.0 }).sqrt()
    };
    r.chunks(d).zip(b.chunks(d)).map(ratio).collect()
}
