//! The inverse `(H + λI)⁻¹` of each block.

mod inverse;

use std::collections::VecDeque;
use std::iter;

use burn::tensor::{DType, Tensor};
use hyperinf_curvature::{BlockCurvature, Core, Curvature, Damping, SampleRows};
use hyperinf_gradients::{Block, Gradients};
use hyperinf_linalg::{epsilon, host, precise, precise_type, scalars, squared_norms, tensor_from_host};
use hyperinf_solvers::{Inverse, Plan, Solver};

use self::inverse::{bytes, group};
use crate::block_rows::BlockRows;
use crate::passes::read_rows;
use crate::scale::{exponent, least_damping, near_one, shift, times};
use crate::{BlockReport, CurvatureFrom, Method, Normalisation, Options, ScoreError, Scores, Source};

/// Rows that are preconditioned at once.
const CHUNK: usize = 128;
/// Bytes of the matrices that are inverted together; a larger one is inverted alone.
pub(crate) const TOGETHER: usize = 1 << 30;

/// One inverse per block, in the order of the blocks.
pub(crate) type Inverses<'a, T> = Box<dyn Iterator<Item = Result<T, ScoreError>> + 'a>;

/// A block's inverse at one damping, with its report.
pub(crate) struct BlockInverse {
    pub(crate) block: Block,
    /// Bytes of the matrix that was inverted.
    pub(crate) bytes: usize,
    operator: Operator,
    scaling: Scaling,
    /// Neither curvature nor damping: only zero gradients can be scored.
    zero: bool,
    /// For methods with curvature.
    pub(crate) report: Option<BlockReport>,
    /// The block's training samples, if its curvature holds them.
    pub(crate) rows: Option<SampleRows>,
}

/// What the inverse is of: `4^k (H + λ/2^p I)` in place of `H + λI`.
#[derive(Clone, Copy, Default)]
struct Scaling {
    /// `k`.
    exponent: i32,
    /// `p`: not 0 only where `H` is lost next to both dampings, so that one inverse is the other over `2^p`.
    shift: i32,
}

/// Preconditioned rows, up to powers of two.
pub(crate) struct Preconditioned {
    /// `X`, row `i` over `2^powers[i]`; in f64 where the device has it, except without curvature.
    pub(crate) x: Tensor<2>,
    pub(crate) powers: Vec<i32>,
}

impl Preconditioned {
    /// `||x||²` of each row, without its power: not 0 unless the row is.
    pub(crate) fn squared_norms(&self) -> Result<Vec<f64>, ScoreError> {
        let squares = squared_norms(self.x.clone())?;
        let square = |(square, &power): (f64, &i32)| {
            let found = times(square, 2 * power);
            if square > 0.0 { found.max(f64::MIN_POSITIVE) } else { found }
        };
        Ok(squares.into_iter().zip(&self.powers).map(square).collect())
    }

    /// `X`, with its powers.
    pub(crate) fn restored(self) -> Tensor<2> {
        let Self { x, powers } = self;
        if powers.iter().all(|power| *power == 0) {
            return x;
        }
        let (q, device, dtype) = (powers.len(), x.device(), x.dtype());
        let halves = |part: fn(i32) -> i32| {
            tensor_from_host(powers.iter().map(|&p| f64::from(part(p)).exp2()).collect(), [q, 1], &device, dtype)
        };
        x * halves(|p| p / 2) * halves(|p| p - p / 2)
    }
}

/// The matrix that a block's gradients are multiplied by.
enum Operator {
    /// `I`.
    Identity,
    /// `(H + λI)⁻¹`.
    Inverse(Box<dyn Inverse>),
    /// `I/λ`: the curvature is zero, the damping is not.
    Damping(f64),
    /// 0: the curvature and its relative damping are zero, or the inverse is no longer needed.
    Nothing,
}

/// One inverse per block; as many are prepared at once as fit into some memory.
///
/// [`BlockInverse::rows`] are kept only of the training samples' own curvature, since these are the samples to be scored.
pub(crate) fn invert<'a>(
    train: &dyn Source,
    curvature: CurvatureFrom<'_>,
    queries: Option<&'a Gradients>,
    options: &'a Options,
    damping: Damping,
) -> Result<Inverses<'a, BlockInverse>, ScoreError> {
    let Method::Inverse { storage, solver } = &options.method else {
        let layout = queries.map_or(&[][..], |queries| &queries.layout);
        let identity = |block: &Block| {
            Ok(BlockInverse {
                block: block.clone(),
                bytes: 0,
                operator: Operator::Identity,
                scaling: Scaling::default(),
                zero: false,
                report: None,
                rows: None,
            })
        };
        return Ok(Box::new(layout.iter().map(identity)));
    };
    let own = curvature.is_of_training();
    let mut found = VecDeque::from(curvature.accumulate(train, queries, *storage, options.merged)?);
    let mut ready = VecDeque::new();
    Ok(Box::new(iter::from_fn(move || {
        if ready.is_empty() {
            ready.extend(prepare(group(&mut found), solver.as_ref(), damping, own));
        }
        ready.pop_front()
    })))
}

/// The inverses of each block, one per damping.
pub(crate) fn invert_at_each<'a>(
    dampings: &'a [Damping],
    train: &dyn Source,
    curvature: CurvatureFrom<'_>,
    queries: &'a Gradients,
    options: &'a Options,
) -> Result<Inverses<'a, Vec<BlockInverse>>, ScoreError> {
    match (&options.method, dampings) {
        (Method::Inverse { storage, solver }, [_, _, ..]) => {
            let own = curvature.is_of_training();
            let found = curvature.accumulate(train, Some(queries), *storage, options.merged)?;
            Ok(Box::new(found.into_iter().map(move |block| prepare_sweep(block, solver.as_ref(), dampings, own))))
        }
        (Method::Identity | Method::Inverse { .. }, _) => {
            let damping = dampings.first().copied().unwrap_or(options.damping);
            let inverses = invert(train, curvature, Some(queries), options, damping)?;
            Ok(Box::new(inverses.map(|inverted| Ok(vec![inverted?]))))
        }
    }
}

/// The inverse of each of these blocks.
fn prepare(
    blocks: Vec<BlockCurvature>,
    solver: &dyn Solver,
    damping: Damping,
    own: bool,
) -> Vec<Result<BlockInverse, ScoreError>> {
    let problems: Vec<Result<Option<Problem>, ScoreError>> =
        blocks.iter().map(|block| Problem::new(block, solver, &[damping])).collect();
    let pairs: Vec<(&Curvature, f64)> =
        problems.iter().filter_map(|p| p.as_ref().ok()?.as_ref()).map(|p| (&p.curvature, p.lambdas[0])).collect();
    let mut inverses = solver.prepare_many(&pairs).into_iter();
    let scalings: Vec<Result<Option<Scaling>, ScoreError>> =
        problems.into_iter().map(|problem| Ok(problem?.map(|problem| problem.scalings[0]))).collect();
    let invert = |(found, scaling): (BlockCurvature, Result<Option<Scaling>, ScoreError>)| {
        let scaling = scaling?;
        let inverse = scaling.and_then(|_| inverses.next()).transpose();
        let inverse = inverse.map_err(|source| ScoreError::Solve { block: found.block.name.clone(), source })?;
        Ok(BlockInverse::new(found, inverse, scaling.unwrap_or_default(), damping, own))
    };
    blocks.into_iter().zip(scalings).map(invert).collect()
}

/// What a solver is given for a block: its curvature and its dampings, near 1.
struct Problem {
    curvature: Curvature,
    lambdas: Vec<f64>,
    /// One per damping.
    scalings: Vec<Scaling>,
}

impl Problem {
    /// `None` for a block without curvature; fails if a damping is lost in the rounding of the curvature.
    fn new(found: &BlockCurvature, solver: &dyn Solver, dampings: &[Damping]) -> Result<Option<Self>, ScoreError> {
        if found.mean_square == 0.0 {
            return Ok(None);
        }
        let lambdas: Vec<f64> = dampings.iter().map(|damping| damping.lambda(found.mean_square)).collect();
        let smallest = lambdas.iter().copied().fold(f64::INFINITY, f64::min);
        let (least, dtype) = (least_damping(trace(found), summed_in(&found.curvature)), summed_in(&found.curvature));
        if smallest < least {
            return Err(ScoreError::DampingLost { block: found.block.name.clone(), lambda: smallest, least, dtype });
        }
        // Scaled as far down as a larger damping, held samples would leave the range of their type.
        let shift = |&lambda: &f64| if solver.is_scale_free() { shift(lambda, trace(found)) } else { 0 };
        let shifts: Vec<i32> = lambdas.iter().map(shift).collect();
        let lambdas: Vec<f64> = lambdas.iter().zip(&shifts).map(|(&lambda, &shift)| times(lambda, -shift)).collect();
        let size = lambdas.iter().copied().fold(f64::INFINITY, f64::min).max(found.mean_square);
        let exponent = if solver.is_scale_free() { exponent(size) } else { 0 };
        let curvature = if exponent == 0 { found.curvature.clone() } else { found.curvature.scaled(exponent) };
        let lambdas = lambdas.into_iter().map(|lambda| times(lambda, 2 * exponent)).collect();
        Ok(Some(Self {
            curvature,
            lambdas,
            scalings: shifts.iter().map(|&shift| Scaling { exponent, shift }).collect(),
        }))
    }
}

/// The trace of a block's curvature, a bound on its largest eigenvalue.
fn trace(found: &BlockCurvature) -> f64 {
    found.mean_square * found.block.parameters() as f64
}

/// The type of a curvature's sums; products with held samples are summed in f64 where the device has it.
fn summed_in(curvature: &Curvature) -> DType {
    let like = curvature.like();
    match curvature.core() {
        Core::Samples(_) => precise_type(&like.device(), like.dtype()),
        Core::Matrix { .. } | Core::Eigenvalues { .. } => like.dtype(),
    }
}

/// The inverses of a block at every damping.
fn prepare_sweep(
    found: BlockCurvature,
    solver: &dyn Solver,
    dampings: &[Damping],
    own: bool,
) -> Result<Vec<BlockInverse>, ScoreError> {
    let (inverses, scalings) = match Problem::new(&found, solver, dampings)? {
        None => (Vec::new(), vec![Scaling::default(); dampings.len()]),
        Some(Problem { curvature, lambdas, scalings }) => {
            let error = |source| ScoreError::Solve { block: found.block.name.clone(), source };
            (solver.prepare_sweep(&curvature, &lambdas).map_err(error)?, scalings)
        }
    };
    let mut inverses = inverses.into_iter();
    let inverse = |(&damping, scaling)| BlockInverse::new(found.clone(), inverses.next(), scaling, damping, own);
    Ok(dampings.iter().zip(scalings).map(inverse).collect())
}

impl BlockInverse {
    /// `own`: the curvature is that of the training samples.
    fn new(
        found: BlockCurvature,
        inverse: Option<Box<dyn Inverse>>,
        scaling: Scaling,
        damping: Damping,
        own: bool,
    ) -> Self {
        let (trace, dtype, bytes) = (trace(&found), summed_in(&found.curvature), bytes(&found));
        let BlockCurvature { block, curvature, mean_square, .. } = found;
        let lambda = inverse.as_ref().map(|_| damping.lambda(mean_square));
        // Without curvature there is only absolute damping.
        let absolute = match damping {
            Damping::Absolute(lambda) => Some(lambda),
            Damping::Relative(_) => None,
        };
        let operator = match inverse {
            Some(inverse) => Operator::Inverse(inverse),
            None => absolute.map_or(Operator::Nothing, Operator::Damping),
        };
        let rows = match curvature.core() {
            Core::Samples(rows) if own => Some(rows),
            Core::Samples(_) | Core::Matrix { .. } | Core::Eigenvalues { .. } => None,
        };
        let report = BlockReport {
            block: block.clone(),
            // A block without training gradients contributes nothing, whatever λ is.
            lambda: if own { lambda } else { lambda.or(absolute) },
            mean_square,
            plan: Plan::default(),
            iterations: 0,
            residual: 0.0,
            tolerance: None,
            rounding: lambda.map_or(0.0, |lambda| epsilon(dtype) * (1.0 + trace / lambda)),
        };
        let zero = matches!(operator, Operator::Nothing);
        Self { block, bytes, operator, scaling, zero, report: Some(report), rows }
    }

    /// `X` for queries `V`, `[q, D]`, and `X Jᵀ`, `[q, n]`, if the training gradients are held.
    pub(crate) fn queries(&mut self, v: Tensor<2>) -> Result<(Preconditioned, Option<Scores>), ScoreError> {
        let (found, products) = self.apply(v)?;
        let scores = match (products, &self.rows) {
            // Samples were scaled as the root of the curvature.
            (Some(products), Some(_)) => {
                let powers: Vec<i32> = found.powers.iter().map(|power| power - self.scaling.exponent).collect();
                Some((read_rows(products)?, powers))
            }
            (None, Some(rows)) => Some((read_rows(rows.dots_precise(found.x.clone()))?, found.powers.clone())),
            (_, None) => None,
        };
        let scores = scores.map(|(scores, powers)| scores.times_powers(&powers)).transpose()?;
        Ok((found, scores))
    }

    /// Whether it leaves rows unchanged.
    pub(crate) fn is_identity(&self) -> bool {
        matches!(self.operator, Operator::Identity)
    }

    /// Whether it has neither curvature nor damping.
    pub(crate) fn is_zero(&self) -> bool {
        self.zero
    }

    /// Fails if training gradients that are not zero meet a block without curvature and damping.
    pub(crate) fn check(&self, rows: &BlockRows) -> Result<(), ScoreError> {
        if !self.zero {
            return Ok(());
        }
        // The scores report NaN and infinity with their sample.
        for piece in rows.pieces(CHUNK) {
            if host(piece.rows().abs().max())?.into_iter().any(|value| value > 0.0 && value.is_finite()) {
                return Err(ScoreError::NoCurvature { block: self.block.name.clone() });
            }
        }
        Ok(())
    }

    /// This block's part of the square of each sample's divisor.
    pub(crate) fn squares(&mut self, rows: &BlockRows, normalisation: Normalisation) -> Result<Vec<f64>, ScoreError> {
        match normalisation {
            Normalisation::None => Ok(Vec::new()),
            Normalisation::Gradient | Normalisation::Cosine => rows.squared_norms(),
            Normalisation::LossRelatif => self.self_influence(rows),
            Normalisation::ThetaRelatif => self.chunks(rows, |x, _| (x.clone(), x), 2),
        }
    }

    /// Drops the inverse, unless the normalisation needs it for the training gradients.
    pub(crate) fn release(&mut self, normalisation: Normalisation) {
        if !matches!(normalisation, Normalisation::LossRelatif | Normalisation::ThetaRelatif) {
            self.operator = Operator::Nothing;
        }
    }

    /// `g (H + λI)⁻¹ g` of each sample.
    pub(crate) fn self_influence(&mut self, rows: &BlockRows) -> Result<Vec<f64>, ScoreError> {
        self.chunks(rows, |x, g| (x, g), 1)
    }

    /// The inner products of the pairs that `pair` makes of preconditioned rows and rows, with `order` of the former.
    fn chunks(
        &mut self,
        rows: &BlockRows,
        pair: impl Fn(Tensor<2>, Tensor<2>) -> (Tensor<2>, Tensor<2>),
        order: i32,
    ) -> Result<Vec<f64>, ScoreError> {
        let mut all = Vec::new();
        for piece in rows.pieces(CHUNK) {
            let chunk = piece.rows();
            let Preconditioned { x, powers } = self.apply(chunk.clone())?.0;
            let (left, right) = pair(x, chunk);
            // In f64: squares of small gradients, and of their inverses, leave the range of f32.
            let products = scalars(precise(left), precise(right))?;
            all.extend(products.into_iter().zip(powers).map(|(product, power)| times(product, order * power)));
        }
        Ok(all)
    }

    /// The preconditioned rows, and their products with held samples, `[q, n]`, if the solver has computed them: those of
    /// `X` over its powers with samples times `2^exponent`.
    fn apply(&mut self, v: Tensor<2>) -> Result<(Preconditioned, Option<Tensor<2>>), ScoreError> {
        // In f64 from here on: rounding of X to f32 alone would change scores by up to ε·κ.
        let v = if self.is_identity() { v } else { precise(v) };
        let (v, mut powers) = near_one(v)?;
        let inverse = match &self.operator {
            Operator::Identity => return Ok((Preconditioned { x: v, powers }, None)),
            Operator::Damping(lambda) => return Ok((Preconditioned { x: v.div_scalar(*lambda), powers }, None)),
            Operator::Nothing => return Ok((Preconditioned { x: v.zeros_like(), powers }, None)),
            Operator::Inverse(inverse) => inverse,
        };
        let solution =
            inverse.apply(v).map_err(|source| ScoreError::Solve { block: self.block.name.clone(), source })?;
        if let Some(report) = &mut self.report {
            report.iterations = report.iterations.max(solution.iterations);
            report.residual = report.residual.max(solution.residual());
            report.tolerance = solution.tolerance;
            // After `apply`: it may have needed a second attempt.
            report.plan = inverse.plan();
        }
        powers.iter_mut().for_each(|power| *power += 2 * self.scaling.exponent - self.scaling.shift);
        Ok((Preconditioned { x: solution.x, powers }, solution.products))
    }
}
