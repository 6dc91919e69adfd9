mod cost;

use burn::tensor::Tensor;
use hyperinf_curvature::{Core, Curvature, Structure};

use crate::solver::check;
use crate::{Exact, Hyperpower, Inverse, Order, Solution, SolveError, Solver, SpectralSolver, certain_bound};
use cost::{Costs, Machine};

/// Picks the cheapest way to invert a block by a measured cost model, and says which and why.
///
/// * Samples: [`Exact`], by the dual where there are fewer samples than parameters. Diagonal, Kronecker, eigenpairs:
///   [`Exact`], which has nothing to factorise.
/// * Dense, one-sided: Cholesky in f64 on the host, or [`Hyperpower`] of order 9 on the device, by the size, a bound on
///   the condition, the right-hand sides assumed and the kind of device; for a sweep of dampings one eigendecomposition as well.
///
/// On a processor Cholesky needs fewer operations and wins at every size. A device with memory of its own pays for the
/// way to the host and back and is fast at products, which win there from some hundred rows on.
///
/// | parameter | default | purpose | range |
/// |---|---|---|---|
/// | `queries` | 64 | rows that each inverse is assumed to be applied to; nothing counts them beforehand | ≥ 1 |
/// | `tolerance` | 1e-6 | relative residual aimed for by an iteration | in (0, 1) |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Auto {
    /// Rows that each inverse is assumed to be applied to.
    pub queries: usize,
    /// The relative residual aimed for by an iteration.
    pub tolerance: f64,
}

impl Default for Auto {
    fn default() -> Self {
        Self { queries: 64, tolerance: 1e-6 }
    }
}

/// What [`Auto`] picked, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The name of the solver.
    pub solver: &'static str,
    /// Sizes, and the estimates that were compared.
    pub reason: String,
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
        lambdas.iter().try_for_each(|lambda| check(self, h, *lambda))?;
        if !(self.tolerance > 0.0 && self.tolerance < 1.0) {
            let (parameter, expected) = ("tolerance", "in (0, 1)");
            return Err(SolveError::Parameter { solver: "auto", parameter, expected, value: self.tolerance });
        }
        let exact = |reason: String| Ok(Choice { solver: "exact", reason });
        if lambdas.is_empty() {
            return exact("no dampings".into());
        }
        let dampings = lambdas.len();
        match h.core() {
            Core::Samples(samples) => {
                let [m, d] = samples.dims();
                let size = m.min(d);
                let costs = Costs::of(Machine::of(&samples.device()), size, 0, dampings, None);
                let side = if m <= d { "dual" } else { "primal" };
                let what = format!("{side} of {size} × {size} for {m} samples of {d} parameters, {dampings} dampings");
                if costs.spectral < costs.cholesky {
                    return Ok(Choice { solver: "spectral", reason: format!("{what}: {costs}") });
                }
                exact(what)
            }
            Core::Eigenvalues { .. } => exact(format!("{:?}: nothing to factorise", h.structure())),
            Core::Matrix { matrix, .. } => {
                let size = matrix.dims()[0];
                let rows = self.queries * (h.parameters() / size.max(1));
                let least = lambdas.iter().copied().fold(f64::INFINITY, f64::min);
                let condition = (certain_bound(matrix)? + least) / least;
                if !condition.is_finite() {
                    return Err(SolveError::NonFinite { solver: "auto", what: "the curvature" });
                }
                let (_, products) = self.hyperpower().plan(condition);
                let iteration = cost::Iteration { products, condition, dtype: matrix.dtype() };
                let costs = Costs::of(Machine::of(&matrix.device()), size, rows, dampings, Some(iteration));
                let reason = format!(
                    "{size} × {size}, condition at most {condition:.0e}, {rows} right-hand sides for {} queries assumed, {dampings} dampings: {costs}",
                    self.queries
                );
                Ok(Choice { solver: costs.cheapest(), reason })
            }
        }
    }

    fn hyperpower(&self) -> Hyperpower {
        Hyperpower { order: Order::Nine, tolerance: self.tolerance, ..Hyperpower::default() }
    }

    fn solver(&self, choice: &Choice) -> Box<dyn Solver> {
        match choice.solver {
            "spectral" => Box::new(SpectralSolver),
            "hyperpower-9" => Box::new(self.hyperpower()),
            _ => Box::new(Exact),
        }
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
        let choice = self.choose(h, lambda)?;
        let inverse = self.solver(&choice).prepare(h, lambda)?;
        Ok(Box::new(Chosen { choice, inverse }))
    }

    fn prepare_many(&self, blocks: &[(&Curvature, f64)]) -> Vec<Result<Box<dyn Inverse>, SolveError>> {
        let choices: Vec<_> = blocks.iter().map(|(h, lambda)| self.choose(h, *lambda)).collect();
        let iterated = |choice: &Result<Choice, SolveError>| choice.as_ref().is_ok_and(|c| c.solver == "hyperpower-9");
        let together: Vec<_> =
            blocks.iter().zip(&choices).filter(|(_, c)| iterated(c)).map(|(block, _)| *block).collect();
        let mut batched = self.hyperpower().prepare_many(&together).into_iter();
        let inverse = |(choice, (h, lambda)): (Result<Choice, SolveError>, &(&Curvature, f64))| {
            let batch = iterated(&choice);
            let choice = choice?;
            // One result of the batch for each block that was in it, in the same order.
            let found = if batch { batched.next() } else { None };
            let inverse = found.unwrap_or_else(|| self.solver(&choice).prepare(h, *lambda))?;
            Ok(Box::new(Chosen { choice, inverse }) as Box<dyn Inverse>)
        };
        choices.into_iter().zip(blocks).map(inverse).collect()
    }

    fn prepare_sweep(&self, h: &Curvature, lambdas: &[f64]) -> Result<Vec<Box<dyn Inverse>>, SolveError> {
        let choice = self.choose_sweep(h, lambdas)?;
        let inverses = self.solver(&choice).prepare_sweep(h, lambdas)?;
        let chosen = |inverse| Box::new(Chosen { choice: choice.clone(), inverse }) as Box<dyn Inverse>;
        Ok(inverses.into_iter().map(chosen).collect())
    }
}

/// An inverse with what was chosen for it.
struct Chosen {
    choice: Choice,
    inverse: Box<dyn Inverse>,
}

impl Inverse for Chosen {
    fn apply(&self, v: Tensor<2>) -> Result<Solution, SolveError> {
        self.inverse.apply(v)
    }

    fn describe(&self) -> String {
        let Choice { solver, reason } = &self.choice;
        let more = self.inverse.describe();
        let more = if more.is_empty() { more } else { format!("; {more}") };
        format!("{solver}: {reason}{more}")
    }
}
