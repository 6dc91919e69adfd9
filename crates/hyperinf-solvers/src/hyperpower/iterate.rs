//! The iteration itself, on a batch of matrices of one size.

use burn::tensor::{DType, Tensor};
use hyperinf_linalg::{epsilon, precise, symmetric_product};

use super::elementwise::{sum, weighted};
use super::interval::Interval;
use super::matrix::Matrix;
use super::norms::{mean_norms, probed};
use super::polynomial::{Polynomial, correction};
use super::{Hyperpower, HyperpowerStart};
use crate::SolveError;

/// What `ε · ||A|| · ||X||` may reach in the type of the first steps.
const LOW_LIMIT: f64 = 0.25;
/// Eigenvalues of `A X` below `ε` times this are kept out of the polynomial's interval in that type.
const LOW_CUSHION: f64 = 8.0;

/// An approximate inverse of a matrix, with bounds and estimates of its error.
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
    /// `||I − A X||_F / √k`, estimated from eight random rows, with the rounding of the matrix's own type in it.
    pub error: f64,
}

impl MatrixInverse {
    /// Whether the error contradicts the certificate: the upper bound on the eigenvalues was too low.
    pub fn is_doubtful(&self) -> bool {
        self.error.is_nan() || self.error > (100.0 * self.certificate).max(1e-3)
    }
}

/// One `X` of a matrix iteration, as an observer of [`Hyperpower::invert_observed`] sees it.
#[derive(Clone, Debug)]
pub struct MatrixStep {
    /// The steps taken so far; 0 for the start.
    pub number: usize,
    /// `X`, `[k, k]`.
    pub x: Tensor<2>,
    /// Products spent so far.
    pub products: usize,
    /// The a-priori bound `δ ≥ ||I − A X||₂`.
    pub certificate: f64,
}

/// A batch to be inverted.
pub(super) struct Batch {
    /// `A`, `[b, k, k]`.
    pub(super) a: Tensor<3>,
    /// `X₀`, `[b, k, k]`; `None` for multiples of `I`.
    pub(super) x: Option<Tensor<3>>,
    /// Of the eigenvalues of each `A X₀`, or of `A` where there is no `X₀`.
    pub(super) intervals: Vec<Interval>,
    /// A bound on the condition of each `A`.
    pub(super) conditions: Vec<f64>,
}

/// `X` of each matrix.
#[allow(clippy::large_enum_variant, reason = "there is one per batch; a tensor is large with some backends only")]
enum Approximation {
    /// The start, multiples of `I`: products with it need no matrix.
    Multiples(Vec<f64>),
    /// `[b, k, k]`.
    Matrices(Tensor<3>),
}

/// A batch on its way.
pub(super) struct Iteration<'a> {
    params: &'a Hyperpower,
    /// `A` as given, `[b, k, k]`.
    a: Tensor<3>,
    /// `A` in the type of the steps.
    work: Work,
    x: Approximation,
    matrices: Vec<Matrix>,
    /// The type of the first steps, where there is one.
    low: Option<DType>,
    /// Whether `X E` is mirrored.
    mirrored: bool,
    step: usize,
    products: usize,
}

impl<'a> Iteration<'a> {
    pub(super) fn new(params: &'a Hyperpower, batch: Batch) -> Self {
        let Batch { a, x, intervals, conditions } = batch;
        let (b, dtype) = (a.dims()[0], a.dtype());
        let low = params.first_steps.filter(|low| epsilon(*low) > epsilon(dtype) && a.device().supports_dtype(*low));
        let work = Work::new(&a, low.unwrap_or(dtype));
        let x = match x {
            Some(x) => Approximation::Matrices(x.cast(work.a.dtype())),
            None => Approximation::Multiples(vec![1.0; b]),
        };
        // X E is symmetric up to rounding, so half of it may be mirrored: only while the matrix is well conditioned.
        // Rounding η in A X reaches X as X η, which the next A X shows as η; its mirror image ηᵀ X would show as
        // A ηᵀ X, up to κ times larger. In f32 the iteration then diverges from κ = 1e4 on, and from 1e3 with A X
        // mirrored as well.
        let mirrored = conditions.iter().all(|c| epsilon(dtype) * c * c < 0.01);
        let matrix = |(interval, condition)| Matrix::new(interval, condition, params.tolerance, epsilon(dtype));
        let matrices = intervals.into_iter().zip(conditions).map(matrix).collect();
        Self { params, a, work, x, matrices, low, mirrored, step: 0, products: 0 }
    }

    /// Inverts every matrix, or reports which diverged. The observer sees each `X` of the first of them.
    pub(super) fn run(
        mut self,
        mut observer: Option<&mut dyn FnMut(&MatrixStep)>,
    ) -> Result<Vec<Result<MatrixInverse, SolveError>>, SolveError> {
        let errors = loop {
            let is_low = self.is_low();
            self.centre(is_low);
            if let Some(observer) = &mut observer {
                observer(&self.first());
            }
            if self.is_finished() {
                break probed(&self.a, &self.x())?;
            }
            if self.params.fixed_steps() == Some(self.step + 1) {
                self.lengthen_last_step();
            }
            let rest = self.rest();
            let errors = mean_norms(&rest)?;
            self.judge(&errors);
            if self.has_ended() {
                break errors;
            }
            self.advance(rest, is_low);
        };
        Ok(self.inverses(&errors))
    }

    fn x(&self) -> Tensor<3> {
        match &self.x {
            Approximation::Multiples(multiples) => weighted(self.work.identities(multiples.len()), multiples),
            Approximation::Matrices(x) => x.clone(),
        }
    }

    /// The first matrix, for the observer.
    fn first(&self) -> MatrixStep {
        let k = self.a.dims()[1];
        let x = self.x().slice([0..1]).reshape([k, k]);
        let certificate = self.matrices[0].interval.certificate();
        MatrixStep { number: self.step, x, products: self.products, certificate }
    }

    fn has_ended(&self) -> bool {
        self.matrices.iter().all(Matrix::has_ended)
    }

    /// Whether the steps are used up or no matrix needs another.
    fn is_finished(&mut self) -> bool {
        let fixed = self.params.fixed_steps();
        if fixed.is_none() {
            self.matrices.iter_mut().for_each(Matrix::certify);
        }
        self.step >= fixed.unwrap_or(self.params.max_steps) || self.has_ended()
    }

    /// Whether steps run in the short type.
    fn is_low(&self) -> bool {
        self.low == Some(self.work.a.dtype())
    }

    /// Scales every `X` that has not ended so that the eigenvalues of `A X` lie around 1.
    fn centre(&mut self, is_low: bool) {
        let cushion = if is_low { LOW_CUSHION * epsilon(self.work.a.dtype()) } else { 0.0 };
        let factors: Vec<f64> = match self.params.start {
            HyperpowerStart::Chebyshev => {
                let factor = |m: &Matrix| if m.has_ended() { 1.0 } else { m.interval.centring(cushion) };
                self.matrices.iter().map(factor).collect()
            }
            HyperpowerStart::Unscaled if self.step == 0 => {
                self.matrices.iter().map(|matrix| matrix.interval.centring(0.0)).collect()
            }
            HyperpowerStart::Fixed { scale, .. } if self.step == 0 => vec![scale; self.matrices.len()],
            HyperpowerStart::Unscaled | HyperpowerStart::Fixed { .. } => return,
        };
        for (matrix, factor) in self.matrices.iter_mut().zip(&factors) {
            matrix.interval = matrix.interval.times(*factor);
        }
        match &mut self.x {
            Approximation::Multiples(multiples) => {
                multiples.iter_mut().zip(&factors).for_each(|(multiple, factor)| *multiple *= factor);
            }
            // A scaled step leaves the interval centred, up to the last bits.
            Approximation::Matrices(_) if factors.iter().all(|factor| (factor - 1.0).abs() < 1e-12) => {}
            Approximation::Matrices(x) => *x = weighted(x.clone(), &factors),
        }
    }

    /// Takes the last of a fixed number of steps in f64, where the device has it.
    ///
    /// The steps cannot get below their rounding, about `ε·κ` and above 1e-4 for f32 on LoRA gradients. The last one
    /// squares that error, if it is itself more precise.
    fn lengthen_last_step(&mut self) {
        let a = precise(self.a.clone());
        self.work = Work::new(&a, a.dtype());
        if let Approximation::Matrices(x) = &mut self.x {
            *x = x.clone().cast(a.dtype());
        }
    }

    /// `E = I − A X`.
    fn rest(&mut self) -> Tensor<3> {
        match &self.x {
            Approximation::Multiples(multiples) => self.work.rest(&self.work.a, multiples),
            Approximation::Matrices(x) => {
                self.products += 1;
                self.work.rest(&self.work.a.clone().matmul(x.clone()), &vec![1.0; self.matrices.len()])
            }
        }
    }

    /// Notes the error of each `X`.
    fn judge(&mut self, errors: &[f64]) {
        let stops_at_rounding = self.params.fixed_steps().is_none();
        for (matrix, error) in self.matrices.iter_mut().zip(errors) {
            matrix.judge(self.step, *error, stops_at_rounding);
        }
    }

    /// `X ← X q(E)` for all that have not ended.
    fn advance(&mut self, rest: Tensor<3>, is_low: bool) {
        let (order, b) = (self.params.order, self.matrices.len());
        let (polynomials, next): (Vec<Polynomial>, Vec<Interval>) = self.polynomials().into_iter().unzip();
        let constants: Vec<f64> = polynomials.iter().map(|p| p.coefficients[0]).collect();
        let mut x = match &self.x {
            Approximation::Multiples(multiples) => {
                // A multiple of I: every product is one of symmetric functions of A, exactly symmetric if mirrored.
                self.products += order.products() - 2;
                let added = correction(&polynomials, rest, |l, r| product(l, r, true));
                let constants = constants.iter().zip(multiples).map(|(c, m)| c * m).collect();
                sum(&[(constants, &self.work.identities(b)), (multiples.clone(), &added)])
            }
            Approximation::Matrices(x) => {
                self.products += order.products() - 1;
                let added = correction(&polynomials, rest, |l, r| product(l, r, false));
                let added = product(x.clone(), added, self.mirrored && !is_low);
                sum(&[(constants, x), (vec![1.0; b], &added)])
            }
        };
        let ended: Vec<bool> = self.matrices.iter().map(Matrix::has_ended).collect();
        if ended.contains(&true) {
            x = unless(&ended, self.x(), x);
        }
        for (matrix, next) in self.matrices.iter_mut().zip(next).filter(|(matrix, _)| !matrix.has_ended()) {
            matrix.interval = next;
        }
        self.step += 1;
        self.x = Approximation::Matrices(x);
        if is_low && self.widen() {
            self.leave_low();
        }
    }

    /// The polynomial of each matrix's step, and the interval after it.
    fn polynomials(&self) -> Vec<(Polynomial, Interval)> {
        let order = self.params.order;
        let step = |matrix: &Matrix| match self.params.start {
            HyperpowerStart::Chebyshev => matrix.interval.scaled(order),
            HyperpowerStart::Unscaled | HyperpowerStart::Fixed { .. } => matrix.interval.unscaled(order),
        };
        self.matrices.iter().map(step).collect()
    }

    /// Whether another step in the short type would be one too many; the intervals then have its rounding added.
    fn widen(&mut self) -> bool {
        let epsilon = epsilon(self.work.a.dtype());
        // A step multiplies small eigenvalues by p².
        let growth = (self.params.order.power() * self.params.order.power()) as f64;
        let enough = self.matrices.iter().any(|matrix| matrix.rounding(epsilon) * growth > LOW_LIMIT);
        if enough {
            self.matrices.iter_mut().for_each(|matrix| matrix.widen(epsilon));
        }
        enough
    }

    /// Goes on in the type of `A`, from the symmetric part of `X`.
    fn leave_low(&mut self) {
        let dtype = self.a.dtype();
        let x = self.x().cast(dtype);
        self.work = Work::new(&self.a, dtype);
        self.x = Approximation::Matrices((x.clone() + x.swap_dims(1, 2)).mul_scalar(0.5));
        self.matrices.iter_mut().for_each(Matrix::resume);
    }

    fn inverses(self, errors: &[f64]) -> Vec<Result<MatrixInverse, SolveError>> {
        let k = self.a.dims()[1];
        let x = self.x().cast(self.a.dtype()).split(1, 0);
        let Self { params, step: steps, products, .. } = self;
        let inverse = |((x, matrix), error): ((Tensor<3>, &Matrix), &f64)| match matrix.divergence(steps, *error) {
            Some((step, residual)) => Err(SolveError::Diverged { solver: params.label(), step, residual }),
            None => {
                let (x, certificate) = (x.reshape([k, k]), matrix.interval.certificate());
                Ok(MatrixInverse { x, steps, products, certificate, error: *error })
            }
        };
        x.into_iter().zip(&self.matrices).zip(errors).map(inverse).collect()
    }
}

/// The matrices of `stepped`, or those before the step where it has `ended`.
fn unless(ended: &[bool], before: Tensor<3>, stepped: Tensor<3>) -> Tensor<3> {
    let pairs = before.split(1, 0).into_iter().zip(stepped.split(1, 0)).zip(ended);
    Tensor::cat(pairs.map(|((before, stepped), ended)| if *ended { before } else { stepped }).collect(), 0)
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

    /// `I` for each of `b` matrices, `[b, k, k]`.
    fn identities(&self, b: usize) -> Tensor<3> {
        if b == 1 { self.eye.clone() } else { self.eye.clone().repeat_dim(0, b) }
    }

    /// `I − weight · M` for a batch of matrices.
    fn rest(&self, matrices: &Tensor<3>, weights: &[f64]) -> Tensor<3> {
        let b = weights.len();
        sum(&[(vec![1.0; b], &self.identities(b)), (weights.iter().map(|w| -w).collect(), matrices)])
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
