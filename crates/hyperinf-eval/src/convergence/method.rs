use hyperinf_curvature::{Curvature, Samples};
use hyperinf_linalg::{ReadError, scalars};
use hyperinf_solvers::{
    Cg, DataInf, Exact, Hyperpower, HyperpowerStart, Lissa, LissaScale, MatrixInverse, MatrixStep, Order, SolveError,
    Solver, Step, certain_bound, spectral_bound,
};

use super::ConvergenceError;
use super::curve::{Curve, GivenUp, Recorder};
use super::problem::Problem;

/// The methods compared, in the order of the tables.
pub const METHODS: [Method; 11] = [
    Method { name: "schulz-authors", kind: Kind::Authors },
    Method { name: "schulz", kind: Kind::Scaled(Order::Two) },
    Method { name: "hyperpower-3", kind: Kind::Scaled(Order::Three) },
    Method { name: "hyperpower-5", kind: Kind::Scaled(Order::Five) },
    Method { name: "hyperpower-7", kind: Kind::Scaled(Order::Seven) },
    Method { name: "hyperpower-9", kind: Kind::Scaled(Order::Nine) },
    Method { name: "lissa-authors", kind: Kind::LissaAuthors },
    Method { name: "lissa", kind: Kind::Lissa },
    Method { name: "cg", kind: Kind::Cg },
    Method { name: "datainf", kind: Kind::DataInf },
    Method { name: "cholesky", kind: Kind::Cholesky },
];

/// The start of the authors' figure.
const AUTHORS_START: f64 = 5e-5;
/// So small that iterations end by their own arithmetic.
const TOLERANCE: f64 = 1e-15;

/// A method of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Authors,
    Scaled(Order),
    LissaAuthors,
    Lissa,
    Cg,
    DataInf,
    Cholesky,
}

impl Method {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Whether it is a closed form, without steps.
    pub fn is_closed(self) -> bool {
        matches!(self.kind, Kind::DataInf | Kind::Cholesky)
    }

    /// Solves a problem, with `steps` steps at most.
    pub(super) fn run(self, problem: &Problem, steps: usize) -> Result<Curve, ConvergenceError> {
        // All steps, whatever the residual.
        let lissa = Lissa { max_steps: steps, tolerance: f64::MIN_POSITIVE, ..Lissa::default() };
        let mut recorder = Recorder::new(problem);
        let ended = match self.kind {
            Kind::Authors => {
                let start = HyperpowerStart::Fixed { scale: AUTHORS_START, steps, extra_damping: 0.0 };
                matrices(Hyperpower { start, tolerance: TOLERANCE, ..Hyperpower::default() }, &mut recorder)
            }
            Kind::Scaled(order) => {
                let solver = Hyperpower { tolerance: TOLERANCE, max_steps: steps, ..Hyperpower::of_order(order) };
                matrices(solver, &mut recorder)
            }
            Kind::LissaAuthors => {
                let scale = LissaScale::Fixed(frobenius(problem)? + 1.0);
                vectors(&Lissa { scale, ..lissa }, &mut recorder)
            }
            Kind::Lissa => vectors(&lissa, &mut recorder),
            Kind::Cg => vectors(&Cg { max_steps: steps, tolerance: TOLERANCE, ..Cg::default() }, &mut recorder),
            Kind::DataInf => {
                let samples = Curvature::from(Samples { rows: problem.samples.clone() });
                closed(&DataInf, &samples, 2, &mut recorder)
            }
            Kind::Cholesky => closed(&Exact, &problem.dense(), 0, &mut recorder),
        };
        let failure = match ended {
            Ok(()) => None,
            Err(error @ SolveError::Diverged { .. }) => Some(error.to_string()),
            Err(error) => return Err(error.into()),
        };
        recorder.curve(failure)
    }
}

/// From the certain lower bound `λ` and the estimated upper one; where that proves too low, again from the certain
/// upper one, as the solver does.
fn matrices(solver: Hyperpower, recorder: &mut Recorder<'_>) -> Result<(), SolveError> {
    let problem = recorder.problem;
    let upper = spectral_bound(&problem.dense(), &problem.v)? + problem.lambda;
    let (first, (steps, products)) = attempt(&solver, upper, 0, recorder);
    let fixed = matches!(solver.start, HyperpowerStart::Fixed { .. });
    let (reason, matrix_products) = match &first {
        // The product that showed it belongs to no iterate.
        Err(error @ SolveError::Diverged { .. }) if !fixed => (error.to_string(), products + 1),
        Ok(inverse) if !fixed && inverse.is_doubtful() => {
            ("its error contradicts its bound".to_owned(), inverse.products)
        }
        _ => return first.map(drop),
    };
    let points = std::mem::take(&mut recorder.points);
    let certain = certain_bound(&problem.h)? + problem.lambda;
    let (second, _) = attempt(&solver, certain, matrix_products, recorder);
    if first.is_ok_and(|first| second.as_ref().map_or(true, |second| first.error <= second.error)) {
        recorder.points = points;
        return Ok(());
    }
    recorder.given_up = Some(GivenUp { steps, matrix_products, reason });
    second.map(drop)
}

/// An iteration from an upper bound, after `before` products; also the step and the products of its last iterate.
fn attempt(
    solver: &Hyperpower,
    upper: f64,
    before: usize,
    recorder: &mut Recorder<'_>,
) -> (Result<MatrixInverse, SolveError>, (usize, usize)) {
    let problem = recorder.problem;
    let mut reached = (0, 0);
    let mut observer = |step: &MatrixStep| {
        reached = (step.number, step.products);
        // The last step of a fixed number may be in f64.
        let x = problem.v.clone().cast(step.x.dtype()).matmul(step.x.clone());
        recorder.add(step.number, before + step.products, 0, x);
    };
    let inverse = solver.invert_observed(problem.damped(), problem.lambda, upper, &mut observer);
    (inverse, reached)
}

/// A solver that iterates on vectors, in one run. Its point at step `k` is the answer of a run limited to `k` steps:
/// where an iteration begins again, the steps already recorded stay.
fn vectors(solver: &dyn Solver, recorder: &mut Recorder<'_>) -> Result<(), SolveError> {
    let problem = recorder.problem;
    recorder.start();
    let inverse = solver.prepare(&problem.dense(), problem.lambda)?;
    let mut last = 0;
    let mut observer = |step: &Step| {
        // The start is no answer.
        if step.number > last {
            last = step.number;
            recorder.add(step.number, 0, step.number, step.x.clone());
        }
    };
    let solution = inverse.apply_observed(problem.v.clone(), &mut observer)?;
    if solution.iterations == 0 {
        recorder.add(0, 0, 0, solution.x);
    }
    Ok(())
}

/// A solver without steps.
fn closed(solver: &dyn Solver, h: &Curvature, products: usize, recorder: &mut Recorder<'_>) -> Result<(), SolveError> {
    let problem = recorder.problem;
    let solution = solver.prepare(h, problem.lambda)?.apply(problem.v.clone())?;
    recorder.add(0, 0, products, solution.x);
    Ok(())
}

/// `||A||_F`.
fn frobenius(problem: &Problem) -> Result<f64, ReadError> {
    let a = problem.damped();
    Ok(scalars(a.clone(), a)?.iter().sum::<f64>().sqrt())
}
