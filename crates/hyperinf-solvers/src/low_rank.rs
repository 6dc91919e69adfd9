use burn::tensor::Tensor;
use hyperinf_curvature::{Curvature, Eigenpairs, Kronecker};
use hyperinf_linalg::precise;

use crate::solver::{check_rows, checked, finite};
use crate::{Exact, Inverse, Plan, Solution, SolveError, Solver};

/// The residual above which the answer is called poor: eigenvalues that were left out are not below a tenth of `λ`, or
/// rounding has spoilt those that were found.
const TOLERANCE: f64 = 0.1;

/// The exact inverse of eigenpairs that approximate a curvature; its residual is against the curvature itself.
pub(crate) struct LowRank {
    name: &'static str,
    /// In f64 where the device has it.
    h: Curvature,
    lambda: f64,
    inverse: Box<dyn Inverse>,
    steps: usize,
}

impl LowRank {
    /// For an approximation of `h` that took `steps` steps.
    pub(crate) fn new(
        name: &'static str,
        h: &Curvature,
        approximation: Eigenpairs,
        lambda: f64,
        steps: usize,
    ) -> Result<Self, SolveError> {
        let inverse = Exact.prepare(&whole(approximation), lambda).map_err(|error| renamed(error, name))?;
        Ok(Self { name, h: h.precise(), lambda, inverse, steps })
    }
}

/// The eigenpairs as a curvature. As many as parameters are a basis without a complement, whose rounding `1/λ` would
/// blow up.
fn whole(pairs: Eigenpairs) -> Curvature {
    let [k, d] = pairs.vectors.dims();
    if k < d {
        return pairs.into();
    }
    let right = Tensor::<2>::ones([1, 1], &pairs.vectors.device()).cast(pairs.vectors.dtype());
    Kronecker { left: pairs.vectors.transpose(), right, eigenvalues: pairs.values.reshape([d, 1]) }.into()
}

/// The error, under the name of the low-rank solver.
fn renamed(error: SolveError, solver: &'static str) -> SolveError {
    match error {
        SolveError::NotPositiveDefinite { size, lambda, .. } => {
            SolveError::NotPositiveDefinite { solver, size, lambda }
        }
        SolveError::NonFinite { what, .. } => SolveError::NonFinite { solver, what },
        other => other,
    }
}

impl Inverse for LowRank {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        check_rows(&v, self.h.parameters())?;
        let dtype = v.dtype();
        let v = precise(v);
        let x = self.inverse.apply(v.clone()).map_err(|error| renamed(error, self.name))?.x;
        let (residuals, products) = checked(&self.h, self.lambda, x.clone(), v)?;
        let solution =
            Solution { x: x.cast(dtype), iterations: self.steps, residuals, tolerance: Some(TOLERANCE), products };
        finite(self.name, solution)
    }

    fn plan(&self) -> Plan {
        Plan::of(self.name)
    }
}
