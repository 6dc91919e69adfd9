use burn::tensor::Tensor;
use hyperinf_curvature::{Curvature, Structure};

use crate::solver::{check, check_rows, finite};
use crate::{Inverse, Plan, Solution, SolveError, Solver, relative_residuals};

/// No curvature: `X = V`, the gradient dot product (TracIn at one checkpoint, "Hessian-free").
///
/// Its residual is that of replacing `H + λI` by the identity: honest, and large.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity;

impl Solver for Identity {
    fn name(&self) -> &'static str {
        "identity"
    }

    fn supports(&self, _: Structure) -> bool {
        true
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        check(self, h, lambda)?;
        Ok(Box::new(Prepared { h: h.clone(), lambda }))
    }
}

struct Prepared {
    h: Curvature,
    lambda: f64,
}

impl Inverse for Prepared {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        check_rows(&v, self.h.parameters())?;
        let typed = v.clone().cast(self.h.like().dtype());
        let residuals = relative_residuals(&self.h, self.lambda, typed.clone(), typed)?;
        finite("identity", Solution { x: v, iterations: 0, residuals, tolerance: None, products: None })
    }

    fn plan(&self) -> Plan {
        Plan::of("identity")
    }
}
