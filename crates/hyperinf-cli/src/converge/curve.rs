use std::time::Instant;

use burn::tensor::Tensor;
use hyperinf::curvature::{Curvature, Samples};
use hyperinf::eval::{EvalError, spearman};
use hyperinf::linalg::{host, scalars};
use hyperinf::solvers::{
    Cg, DataInf, Exact, Hyperpower, HyperpowerStart, Iterate, Lissa, LissaScale, MatrixInverse, Order, SolveError,
    Solver, certain_bound, spectral_bound,
};

use super::problem::Problem;
use crate::error::CliError;

/// The methods, in the order of the tables.
pub(super) const METHODS: [Method; 11] = [
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
/// As far down as iterations go: their own arithmetic ends them.
const TOLERANCE: f64 = 1e-15;

#[derive(Clone, Copy)]
pub(super) struct Method {
    pub(super) name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy)]
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
    /// Whether the answer comes at once, and not by steps.
    pub(super) fn closed(self) -> bool {
        matches!(self.kind, Kind::DataInf | Kind::Cholesky)
    }
}

/// What one method gave on one draw.
pub(super) struct Curve {
    pub(super) points: Vec<Step>,
    /// Why it ended early, if it failed.
    pub(super) failure: Option<String>,
    /// A first attempt, if there was one: its products and seconds are counted in the points, its steps are not.
    pub(super) given_up: Option<GivenUp>,
}

/// An attempt from a bound that was none.
pub(super) struct GivenUp {
    pub(super) steps: usize,
    pub(super) matrix_products: usize,
    /// How it was found out.
    pub(super) reason: String,
}

/// An iterate and how good it is.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) step: usize,
    /// Products of two `[d, d]` matrices so far.
    pub(super) matrix_products: usize,
    /// Products of a vector with a `[d, d]` matrix so far; with the samples where these are held.
    pub(super) vector_products: usize,
    pub(super) seconds: f64,
    pub(super) error: Errors,
}

#[derive(Clone, Copy)]
pub(super) struct Errors {
    /// `||x̂ − x||₂`.
    pub(super) absolute: f64,
    pub(super) relative: f64,
    pub(super) cosine: f64,
    /// Of the entries; none if all of `x̂` are equal.
    pub(super) spearman: Option<f64>,
}

/// Collects iterates, with a clock that stands still while they are judged.
struct Recorder<'a> {
    problem: &'a Problem,
    points: Vec<Step>,
    seconds: f64,
    resumed: Instant,
    failed: Option<CliError>,
    given_up: Option<GivenUp>,
}

impl<'a> Recorder<'a> {
    fn new(problem: &'a Problem) -> Self {
        Self { problem, points: Vec::new(), seconds: 0.0, resumed: Instant::now(), failed: None, given_up: None }
    }

    fn add(&mut self, step: usize, matrix_products: usize, vector_products: usize, x: Tensor<2>) {
        // Reading the values waits for the device.
        let x = host(x);
        self.seconds += self.resumed.elapsed().as_secs_f64();
        let judged = x.map_err(CliError::from).and_then(|x| {
            // The solver says itself that it diverges.
            let finite = x.iter().all(|value| value.is_finite());
            Ok(finite.then(|| errors(&x, &self.problem.answer)).transpose()?)
        });
        match judged {
            Ok(Some(error)) => {
                self.points.push(Step { step, matrix_products, vector_products, seconds: self.seconds, error });
            }
            Ok(None) => {}
            Err(error) => self.failed = self.failed.take().or(Some(error)),
        }
        self.resumed = Instant::now();
    }
}

/// Runs a method for a number of steps.
pub(super) fn run(method: Method, problem: &Problem, steps: usize) -> Result<Curve, CliError> {
    let mut recorder = Recorder::new(problem);
    let ended = match method.kind {
        Kind::Authors => {
            let start = HyperpowerStart::Fixed { scale: AUTHORS_START, steps, extra_damping: 0.0 };
            hyperpower(Hyperpower { start, tolerance: TOLERANCE, ..Hyperpower::default() }, &mut recorder)
        }
        Kind::Scaled(order) => {
            let solver = Hyperpower { tolerance: TOLERANCE, max_steps: steps, ..Hyperpower::of_order(order) };
            hyperpower(solver, &mut recorder)
        }
        Kind::LissaAuthors => {
            let scale = LissaScale::Fixed(frobenius(problem)? + 1.0);
            let solver = |max_steps| Lissa { scale, ..lissa(max_steps) };
            stepwise(solver, steps, &mut recorder)
        }
        Kind::Lissa => stepwise(lissa, steps, &mut recorder),
        Kind::Cg => {
            let solver = |max_steps| Cg { max_steps, tolerance: TOLERANCE, ..Cg::default() };
            stepwise(solver, steps, &mut recorder)
        }
        Kind::DataInf => {
            closed(&DataInf, &Curvature::from(Samples { rows: problem.samples.clone() }), 2, &mut recorder)
        }
        Kind::Cholesky => closed(&Exact, &problem.dense(), 0, &mut recorder),
    };
    if let Some(error) = recorder.failed {
        return Err(error);
    }
    let failure = match ended {
        Ok(()) => None,
        Err(error @ SolveError::Diverged { .. }) => Some(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    Ok(Curve { points: recorder.points, failure, given_up: recorder.given_up })
}

/// From the certain lower bound `λ` and the estimated upper one; where that turns out to be none, again from the certain
/// upper one, as the solver does.
fn hyperpower(solver: Hyperpower, recorder: &mut Recorder<'_>) -> Result<(), SolveError> {
    let problem = recorder.problem;
    let upper = spectral_bound(&problem.dense(), &problem.v)? + problem.lambda;
    let (first, (steps, products)) = attempt(&solver, upper, 0, recorder);
    let fixed = matches!(solver.start, HyperpowerStart::Fixed { .. });
    let (reason, matrix_products) = match &first {
        // The product that showed it is of no iterate.
        Err(error @ SolveError::Diverged { .. }) if !fixed => (error.to_string(), products + 1),
        Ok(found) if !fixed && found.is_doubtful() => ("its error contradicts its bound".to_owned(), found.products),
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

/// An iteration from an upper bound, after so many products; returns the step and the products of its last iterate, too.
fn attempt(
    solver: &Hyperpower,
    upper: f64,
    before: usize,
    recorder: &mut Recorder<'_>,
) -> (Result<MatrixInverse, SolveError>, (usize, usize)) {
    let problem = recorder.problem;
    let mut reached = (0, 0);
    let mut watch = |iterate: &Iterate| {
        reached = (iterate.step, iterate.products);
        let x = problem.v.clone().matmul(iterate.x.clone());
        recorder.add(iterate.step, before + iterate.products, 0, x);
    };
    let found = solver.invert_watched(problem.damped(), problem.lambda, upper, &mut watch);
    (found, reached)
}

/// All steps, whatever the residual.
fn lissa(max_steps: usize) -> Lissa {
    Lissa { max_steps, tolerance: f64::MIN_POSITIVE, ..Lissa::default() }
}

/// `||A||_F`.
fn frobenius(problem: &Problem) -> Result<f64, CliError> {
    let a = problem.damped();
    Ok(scalars(a.clone(), a)?.iter().sum::<f64>().sqrt())
}

/// A solver of vectors, run anew for every number of steps; the time of the longest run is shared out evenly.
fn stepwise<S: Solver>(
    solver: impl Fn(usize) -> S,
    steps: usize,
    recorder: &mut Recorder<'_>,
) -> Result<(), SolveError> {
    let problem = recorder.problem;
    for limit in 1..=steps {
        (recorder.seconds, recorder.resumed) = (0.0, Instant::now());
        let found = solver(limit).prepare(&problem.dense(), problem.lambda)?.apply(problem.v.clone())?;
        if found.iterations < limit && !recorder.points.is_empty() {
            // It ended where it ended before.
            break;
        }
        recorder.add(found.iterations, 0, found.iterations, found.x);
    }
    let (whole, last) = recorder.points.last().map_or((0.0, 1), |point| (point.seconds, point.step.max(1)));
    for point in &mut recorder.points {
        point.seconds = whole * point.step as f64 / last as f64;
    }
    Ok(())
}

/// A solver without steps.
fn closed(solver: &dyn Solver, h: &Curvature, products: usize, recorder: &mut Recorder<'_>) -> Result<(), SolveError> {
    let problem = recorder.problem;
    let found = solver.prepare(h, problem.lambda)?.apply(problem.v.clone())?;
    recorder.add(0, 0, products, found.x);
    Ok(())
}

fn errors(x: &[f64], answer: &[f64]) -> Result<Errors, EvalError> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norm = |a: &[f64]| dot(a, a).sqrt();
    let absolute = x.iter().zip(answer).map(|(x, a)| (x - a).powi(2)).sum::<f64>().sqrt();
    let spearman = match spearman(x, answer) {
        Ok(value) => Some(value),
        Err(EvalError::Constant { .. }) => None,
        Err(error) => return Err(error),
    };
    let cosine = dot(x, answer) / (norm(x) * norm(answer));
    Ok(Errors { absolute, relative: absolute / norm(answer), cosine, spearman })
}
