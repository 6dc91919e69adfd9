//! The iteration itself, on a batch of matrices of one size.

use burn::tensor::{DType, Tensor};
use hyperinf_linalg::{epsilon, precise, scalars, symmetric_product, tensor_from_host};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::elementwise::{sum, weighted};
use super::interval::Interval;
use super::polynomial::{Polynomial, correction};
use super::{Hyperpower, HyperpowerStart};
use crate::SolveError;

/// Rows with which the error of the last `X` is estimated.
const PROBES: usize = 8;
/// Below `ε·κ` times this a residual is rounding.
const FLOOR: f64 = 0.125;
/// What `ε · ||A|| · ||X||` may reach in the type of the first steps.
const LOW_LIMIT: f64 = 0.25;
/// Eigenvalues of `A X` below `ε` times this are kept out of the polynomial's interval in that type.
const LOW_CUSHION: f64 = 8.0;

/// An approximate inverse of a matrix with what is known of its error.
#[derive(Clone, Debug)]
pub struct MatrixInverse {
    /// `X ≈ A⁻¹`, `[k, k]`.
    pub x: Tensor<2>,
    /// Steps taken.
    pub steps: usize,
    /// Products of two `[k, k]` matrices, mirrored ones counted whole.
    pub products: usize,
    /// The a-priori bound `δ ≥ ||I − A X||₂`, in exact arithmetic and if the bounds given are true.
    pub certificate: f64,
    /// `||I − A X||_F / √k` with the rounding of the matrix's own type in it, estimated from eight random rows.
    pub error: f64,
}

impl MatrixInverse {
    /// Whether the error found contradicts the certificate: the bound that it is made from is none.
    pub fn is_doubtful(&self) -> bool {
        self.error.is_nan() || self.error > (100.0 * self.certificate).max(1e-3)
    }
}

/// One `X` of an iteration, as a watcher sees it.
#[derive(Clone, Debug)]
pub struct Iterate {
    /// Steps taken so far; 0 for the start.
    pub step: usize,
    /// `X`, `[k, k]`.
    pub x: Tensor<2>,
    /// Products spent on it.
    pub products: usize,
    /// The a-priori bound `δ ≥ ||I − A X||₂`.
    pub certificate: f64,
}

/// A batch to be inverted.
pub(super) struct Batch {
    /// `A`, `[b, k, k]`.
    pub(super) a: Tensor<3>,
    /// `X₀`, `[b, k, k]`; none for multiples of `I`.
    pub(super) x: Option<Tensor<3>>,
    /// Of the eigenvalues of each `A X₀`, or of `A` where there is none.
    pub(super) intervals: Vec<Interval>,
    /// A bound on the condition of each `A`.
    pub(super) conditions: Vec<f64>,
}

/// What one matrix of the batch has come to.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Running,
    Done,
    Diverged { step: usize, error: f64 },
}

/// Inverts every matrix of the batch, or says which diverged. `watch` sees each `X` of the first of them.
pub(super) fn invert(
    params: &Hyperpower,
    batch: Batch,
    mut watch: Option<&mut dyn FnMut(&Iterate)>,
) -> Result<Vec<Result<MatrixInverse, SolveError>>, SolveError> {
    let Batch { a, x, mut intervals, conditions } = batch;
    let ([b, k, _], dtype, device) = (a.dims(), a.dtype(), a.device());
    let low = params.first_steps.filter(|low| epsilon(*low) > epsilon(dtype) && device.supports_dtype(*low));
    let mut work = Work::new(&a, low.unwrap_or(dtype));
    let fixed = match params.start {
        HyperpowerStart::Fixed { steps, .. } => Some(steps),
        HyperpowerStart::Chebyshev | HyperpowerStart::Unscaled => None,
    };
    let floors: Vec<f64> =
        conditions.iter().map(|c| params.tolerance.max((FLOOR * epsilon(dtype) * c).min(1e-2))).collect();
    // X E is symmetric but for rounding, so half of it may be mirrored: only while the matrix is well conditioned.
    // Rounding η in A X reaches X as X η, which the next A X shows as η; its mirror image ηᵀ X would show as A ηᵀ X, up
    // to κ times larger. In f32 the iteration then diverges from κ = 1e4 on, and from 1e3 with A X mirrored as well.
    let mirror = conditions.iter().all(|c| epsilon(dtype) * c * c < 0.01);

    // The numbers of which X are multiples of I, before it is a matrix.
    let mut multiples = Some(vec![1.0; b]).filter(|_| x.is_none());
    let mut x = x.map_or_else(|| work.eye.clone().repeat_dim(0, b), |x| x.cast(work.a.dtype()));
    let mut before = vec![f64::INFINITY; b];
    let mut states = vec![State::Running; b];
    // Matrices whose X is not changed any more, whatever the others of the batch need.
    let mut ended = vec![false; b];
    let (mut step, mut products) = (0, 0);
    let mut error = loop {
        let is_low = low.is_some_and(|low| work.a.dtype() == low);
        let cushion = if is_low { LOW_CUSHION * epsilon(work.a.dtype()) } else { 0.0 };
        centre(params, cushion, &mut intervals, &ended, multiples.as_mut(), &mut x, step);
        if let Some(multiples) = multiples.as_ref().filter(|_| step == 0) {
            x = weighted(work.eye.clone().repeat_dim(0, b), multiples);
        }
        if let Some(watch) = &mut watch {
            let first = x.clone().slice([0..1]).reshape([k, k]);
            watch(&Iterate { step, x: first, products, certificate: intervals[0].certificate() });
        }
        let last = fixed.unwrap_or(params.max_steps);
        for i in 0..b {
            ended[i] |= fixed.is_none() && intervals[i].certificate() <= floors[i];
        }
        if step >= last || ended.iter().all(|ended| *ended) {
            break probed(&a, &x)?;
        }
        if fixed == Some(step + 1) {
            // The steps cannot get below their rounding, about ε·κ and above 1e-4 for f32 on LoRA gradients. The last
            // one squares what is left, if it is itself more precise.
            work = Work::new(&precise(a.clone()), precise(a.clone()).dtype());
            x = x.cast(work.a.dtype());
        }
        let rest = match &multiples {
            Some(multiples) => work.rest(&work.a, multiples),
            None => {
                products += 1;
                work.rest(&work.a.clone().matmul(x.clone()), &vec![1.0; b])
            }
        };
        let errors = mean_norms(&rest)?;
        for i in 0..b {
            let (error, before) = (errors[i], std::mem::replace(&mut before[i], errors[i]));
            if states[i] != State::Running {
                continue;
            }
            if !error.is_finite() || (error > 2.0 * before && error > 1.0) {
                states[i] = State::Diverged { step, error };
            } else if fixed.is_none() && error < 1e-2 && error > 0.5 * before {
                // Convergence squares the error; a small one that no longer halves is rounding.
                states[i] = State::Done;
            }
            ended[i] |= states[i] != State::Running;
        }
        if ended.iter().all(|ended| *ended) {
            break errors;
        }

        let (polynomials, next): (Vec<Polynomial>, Vec<Interval>) = intervals
            .iter()
            .map(|interval| match params.start {
                HyperpowerStart::Chebyshev => interval.scaled(params.order),
                HyperpowerStart::Unscaled | HyperpowerStart::Fixed { .. } => interval.unscaled(params.order),
            })
            .unzip();
        let constants: Vec<f64> = polynomials.iter().map(|p| p.coefficients[0]).collect();
        let stepped = match multiples.take() {
            Some(multiples) => {
                // A multiple of I: every product is one of symmetric functions of A, exactly symmetric if mirrored.
                products += params.order.products() - 2;
                let added = correction(&polynomials, rest, |l, r| product(l, r, true));
                let eye = work.eye.clone().repeat_dim(0, b);
                let constants = constants.iter().zip(&multiples).map(|(c, m)| c * m).collect();
                sum(&[(constants, &eye), (multiples, &added)])
            }
            None => {
                products += params.order.products() - 1;
                let added = correction(&polynomials, rest, |l, r| product(l, r, false));
                let added = product(x.clone(), added, mirror && !is_low);
                sum(&[(constants, &x), (vec![1.0; b], &added)])
            }
        };
        let moving = (0..b).filter(|&i| !ended[i]);
        moving.clone().for_each(|i| intervals[i] = next[i]);
        x = if moving.count() == b { stepped } else { unless(&ended, x, stepped) };
        step += 1;
        if is_low && widened(&mut intervals, &conditions, epsilon(work.a.dtype()), params.order.power()) {
            work = Work::new(&a, dtype);
            x = x.cast(dtype);
            x = (x.clone() + x.swap_dims(1, 2)).mul_scalar(0.5);
            // What was good enough for the short type.
            ended = states.iter().map(|state| *state != State::Running).collect();
        }
    };

    let x = x.cast(dtype);
    for (i, error) in error.iter_mut().enumerate() {
        let diverged = matches!(states[i], State::Diverged { .. });
        if !diverged && (!error.is_finite() || (*error > 2.0 * before[i] && *error > 1.0)) {
            states[i] = State::Diverged { step, error: *error };
        }
    }
    let found = x.split(1, 0).into_iter().zip(states).zip(&intervals).zip(&error);
    let result = found.map(|(((x, state), interval), &error)| match state {
        State::Diverged { step, error } => Err(SolveError::Diverged { solver: params.label(), step, residual: error }),
        State::Running | State::Done => {
            let (x, certificate) = (x.reshape([k, k]), interval.certificate());
            Ok(MatrixInverse { x, steps: step, products, certificate, error })
        }
    });
    Ok(result.collect())
}

/// Whether another step in a type of this rounding would be one too many; the intervals then have its rounding added.
fn widened(intervals: &mut [Interval], conditions: &[f64], epsilon: f64, power: usize) -> bool {
    // The largest eigenvalue of X belongs to the smallest of A: ||A|| ||X|| = κ · lower.
    let growths: Vec<f64> = intervals.iter().zip(conditions).map(|(i, c)| epsilon * i.lower * c).collect();
    // A step multiplies small eigenvalues by p².
    let enough = growths.iter().any(|growth| growth * (power * power) as f64 > LOW_LIMIT);
    if enough {
        for (interval, growth) in intervals.iter_mut().zip(growths) {
            let slack = growth.min(0.5);
            *interval = Interval { lower: interval.lower * (1.0 - slack), upper: interval.upper + slack };
        }
    }
    enough
}

/// The matrices of `stepped`, but where it has `ended` those before the step.
fn unless(ended: &[bool], before: Tensor<3>, stepped: Tensor<3>) -> Tensor<3> {
    let pairs = before.split(1, 0).into_iter().zip(stepped.split(1, 0)).zip(ended);
    Tensor::cat(pairs.map(|((before, stepped), ended)| if *ended { before } else { stepped }).collect(), 0)
}

/// Scales every `X` that has not ended so that the eigenvalues of `A X` lie around 1.
fn centre(
    params: &Hyperpower,
    cushion: f64,
    intervals: &mut [Interval],
    ended: &[bool],
    multiples: Option<&mut Vec<f64>>,
    x: &mut Tensor<3>,
    step: usize,
) {
    let factors: Vec<f64> = match params.start {
        HyperpowerStart::Chebyshev => {
            let factor = |(interval, ended): (&Interval, &bool)| if *ended { 1.0 } else { interval.centring(cushion) };
            intervals.iter().zip(ended).map(factor).collect()
        }
        HyperpowerStart::Unscaled if step == 0 => intervals.iter().map(|interval| interval.centring(0.0)).collect(),
        HyperpowerStart::Fixed { scale, .. } if step == 0 => vec![scale; intervals.len()],
        HyperpowerStart::Unscaled | HyperpowerStart::Fixed { .. } => return,
    };
    for (interval, factor) in intervals.iter_mut().zip(&factors) {
        *interval = interval.times(*factor);
    }
    match multiples {
        Some(multiples) => multiples.iter_mut().zip(&factors).for_each(|(multiple, factor)| *multiple *= factor),
        // A scaled step leaves the interval centred, but for the last bits.
        None if factors.iter().all(|factor| (factor - 1.0).abs() < 1e-12) => {}
        None => *x = weighted(x.clone(), &factors),
    }
}

/// `A` and `I` in the type of the steps.
struct Work {
    a: Tensor<3>,
    /// `[1, k, k]`.
    eye: Tensor<3>,
}

impl Work {
    fn new(a: &Tensor<3>, dtype: DType) -> Self {
        let eye = Tensor::<2>::eye(a.dims()[1], &a.device()).cast(dtype).unsqueeze_dim(0);
        Self { a: a.clone().cast(dtype), eye }
    }

    /// `I − weight · M` for a batch of matrices.
    fn rest(&self, matrices: &Tensor<3>, weights: &[f64]) -> Tensor<3> {
        let b = weights.len();
        let eye = if b == 1 { self.eye.clone() } else { self.eye.clone().repeat_dim(0, b) };
        sum(&[(vec![1.0; b], &eye), (weights.iter().map(|w| -w).collect(), matrices)])
    }
}

/// A product of two batches; by symmetry at little more than half the cost, for one matrix, where `mirrored`.
fn product(left: Tensor<3>, right: Tensor<3>, mirrored: bool) -> Tensor<3> {
    let [b, k, _] = left.dims();
    if !mirrored || b > 1 {
        return left.matmul(right);
    }
    symmetric_product(left.reshape([k, k]), right.reshape([k, k])).unsqueeze_dim(0)
}

/// `||M||_F / √k` of each matrix: the root mean square of the eigenvalues of a symmetric one.
fn mean_norms(matrices: &Tensor<3>) -> Result<Vec<f64>, SolveError> {
    let [b, k, _] = matrices.dims();
    let rows = matrices.clone().reshape([b * k, k]);
    let squares = scalars(rows.clone(), rows)?;
    Ok(squares.chunks(k).map(|rows| (rows.iter().sum::<f64>() / k as f64).sqrt()).collect())
}

/// [`mean_norms`] of `I − A X` without the product: the mean over random rows `z` of signs, for which
/// `E ||z (I − A X)||² = ||I − A X||_F²`.
fn probed(a: &Tensor<3>, x: &Tensor<3>) -> Result<Vec<f64>, SolveError> {
    let ([b, k, _], device, dtype) = (a.dims(), a.device(), x.dtype());
    let mut rng = StdRng::seed_from_u64(0);
    let signs = (0..PROBES * k).map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 }).collect();
    let z: Tensor<3> = tensor_from_host(signs, [PROBES, k], &device, dtype).unsqueeze_dim::<3>(0).repeat_dim(0, b);
    let rest = z.clone() - z.matmul(a.clone().cast(dtype)).matmul(x.clone());
    let rows = rest.reshape([b * PROBES, k]);
    let squares = scalars(rows.clone(), rows)?;
    Ok(squares.chunks(PROBES).map(|rows| (rows.iter().sum::<f64>() / (PROBES * k) as f64).sqrt()).collect())
}
