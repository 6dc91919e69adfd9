mod choice;
mod cost;

use burn::tensor::Tensor;
use hyperinf_curvature::{Core, Curvature, SampleRows, Structure};

use crate::solver::check;
use crate::{
    Exact, Hyperpower, Inverse, Order, Plan, Solution, SolveError, Solver, SpectralSolver, Step, certain_bound,
};
pub use choice::{Choice, Estimate, IterationEstimate, Reason};
use cost::{Iteration, Machine, Workload, cheapest};

/// Picks the cheapest way to invert a block by a measured cost model, and reports its choice with the reason.
///
/// * Samples: [`Exact`], by the dual where there are fewer samples than parameters. Diagonal, Kronecker, eigenpairs:
///   [`Exact`], which has nothing to factorise.
/// * Dense, one-sided: Cholesky in f64 on the host, or [`Hyperpower`] of order 9 on the device, by the size, a bound on
///   the condition, the right-hand sides assumed and the kind of device; for a sweep of dampings one
///   eigendecomposition as well.
///
/// On a processor Cholesky needs fewer operations and wins at every size. A device with separate memory pays for the
/// transfer to the host and back and is fast at products, which win there from some hundred rows on.
///
/// | parameter | default | purpose | range |
/// |---|---|---|---|
/// | `queries` | 64 | rows to which each inverse is assumed to be applied; they are not known beforehand | ≥ 1 |
/// | `tolerance` | 1e-6 | relative residual that an iteration aims for | in (0, 1) |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Auto {
    /// Rows to which each inverse is assumed to be applied.
    pub queries: usize,
    /// The relative residual that an iteration aims for.
    pub tolerance: f64,
}

impl Default for Auto {
    fn default() -> Self {
        Self { queries: 64, tolerance: 1e-6 }
    }
}

/// A way to invert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Cholesky,
    Spectral,
    Hyperpower,
}

impl Auto {
    /// The choice for one block.
    ///
    /// # Errors
    ///
    /// If `λ` is not positive and finite, the tolerance is out of its range, or the device fails.
    pub fn choose(&self, h: &Curvature, lambda: f64) -> Result<Choice, SolveError> {
        self.choose_sweep(h, &[lambda])
    }

    /// The choice for one block at many dampings.
    ///
    /// # Errors
    ///
    /// As [`Auto::choose`].
    pub fn choose_sweep(&self, h: &Curvature, lambdas: &[f64]) -> Result<Choice, SolveError> {
        let (way, reason) = self.way(h, lambdas)?;
        Ok(Choice { solver: self.solver(way).name(), reason })
    }

    fn way(&self, h: &Curvature, lambdas: &[f64]) -> Decision {
        lambdas.iter().try_for_each(|lambda| check(self, h, *lambda))?;
        if !(self.tolerance > 0.0 && self.tolerance < 1.0) {
            let (parameter, expected) = ("tolerance", "in (0, 1)");
            return Err(SolveError::Parameter { solver: "auto", parameter, expected, value: self.tolerance });
        }
        if lambdas.is_empty() {
            return Ok((Way::Cholesky, Reason::NoDampings));
        }
        match h.core() {
            Core::Samples(samples) => Ok(of_samples(&samples, lambdas.len())),
            Core::Eigenvalues { .. } => Ok((Way::Cholesky, Reason::NothingToFactorise(h.structure()))),
            Core::Matrix { matrix, .. } => self.of_matrix(matrix, h.parameters(), lambdas),
        }
    }

    /// For a matrix or factor `[k, k]` of this many parameters.
    fn of_matrix(&self, matrix: &Tensor<2>, parameters: usize, lambdas: &[f64]) -> Decision {
        let size = matrix.dims()[0];
        let (queries, dampings) = (self.queries, lambdas.len());
        let right_hand_sides = queries * (parameters / size.max(1));
        let least = lambdas.iter().copied().fold(f64::INFINITY, f64::min);
        let condition = (certain_bound(matrix)? + least) / least;
        if !condition.is_finite() {
            return Err(SolveError::NonFinite { solver: "auto", what: "the curvature" });
        }
        let (_, products) = self.hyperpower().forecast(condition);
        let iteration = Iteration { products, condition, dtype: matrix.dtype() };
        let workload = Workload { size, right_hand_sides, dampings, iteration: Some(iteration) };
        let estimate = workload.estimate(Machine::of(&matrix.device()));
        let reason = Reason::Matrix { size, condition, right_hand_sides, queries, dampings, estimate };
        Ok((cheapest(&estimate), reason))
    }

    fn hyperpower(&self) -> Hyperpower {
        Hyperpower { order: Order::Nine, tolerance: self.tolerance, ..Hyperpower::default() }
    }

    fn solver(&self, way: Way) -> Box<dyn Solver> {
        match way {
            Way::Cholesky => Box::new(Exact),
            Way::Spectral => Box::new(SpectralSolver),
            Way::Hyperpower => Box::new(self.hyperpower()),
        }
    }
}

/// For held samples `[m, D]`: Cholesky, unless a sweep is so long that one eigendecomposition is cheaper.
fn of_samples(held: &SampleRows, dampings: usize) -> (Way, Reason) {
    let [samples, parameters] = held.dims();
    let workload = Workload { size: samples.min(parameters), right_hand_sides: 0, dampings, iteration: None };
    let estimate = workload.estimate(Machine::of(&held.like().device()));
    let reason = |estimate| Reason::Samples { samples, parameters, dampings, estimate };
    if estimate.spectral < estimate.cholesky {
        (Way::Spectral, reason(Some(estimate)))
    } else {
        (Way::Cholesky, reason(None))
    }
}

impl Solver for Auto {
    fn name(&self) -> &'static str {
        "auto"
    }

    fn supports(&self, _: Structure) -> bool {
        true
    }

    fn prepare(&self, h: &Curvature, lambda: f64) -> Result<Box<dyn Inverse>, SolveError> {
        let (way, reason) = self.way(h, &[lambda])?;
        let inverse = self.solver(way).prepare(h, lambda)?;
        Ok(Box::new(Explained { reason, inverse }))
    }

    fn prepare_many(&self, blocks: &[(&Curvature, f64)]) -> Vec<Result<Box<dyn Inverse>, SolveError>> {
        let ways: Vec<_> = blocks.iter().map(|(h, lambda)| self.way(h, &[*lambda])).collect();
        let iterated = |way: &Decision| matches!(way, Ok((Way::Hyperpower, _)));
        let together: Vec<_> = blocks.iter().zip(&ways).filter(|(_, way)| iterated(way)).map(|(b, _)| *b).collect();
        let mut batched = self.hyperpower().prepare_many(&together).into_iter();
        let inverse = |(way, (h, lambda)): (Decision, &(&Curvature, f64))| {
            let batch = iterated(&way);
            let (way, reason) = way?;
            // The batch has one result for each of its blocks, in their order.
            let inverse = if batch { batched.next() } else { None };
            let inverse = inverse.unwrap_or_else(|| self.solver(way).prepare(h, *lambda))?;
            Ok(Box::new(Explained { reason, inverse }) as Box<dyn Inverse>)
        };
        ways.into_iter().zip(blocks).map(inverse).collect()
    }

    fn prepare_sweep(&self, h: &Curvature, lambdas: &[f64]) -> Result<Vec<Box<dyn Inverse>>, SolveError> {
        let (way, reason) = self.way(h, lambdas)?;
        let inverses = self.solver(way).prepare_sweep(h, lambdas)?;
        let explained = |inverse| Box::new(Explained { reason, inverse }) as Box<dyn Inverse>;
        Ok(inverses.into_iter().map(explained).collect())
    }
}

/// The solver of a block with the reason for it.
type Decision = Result<(Way, Reason), SolveError>;

/// An inverse with the reason for its solver.
struct Explained {
    reason: Reason,
    inverse: Box<dyn Inverse>,
}

impl Inverse for Explained {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        self.inverse.apply(v)
    }

    fn apply_observed(&self, v: Tensor<2>, observer: &mut dyn FnMut(&Step)) -> Result<Solution, SolveError> {
        self.inverse.apply_observed(v, observer)
    }

    fn plan(&self) -> Plan {
        Plan { reason: Some(self.reason), ..self.inverse.plan() }
    }
}
