//! The inverse `(H + λI)⁻¹` of each block.

use std::collections::VecDeque;
use std::iter;

use burn::tensor::Tensor;
use hyperinf_curvature::{BlockCurvature, Core, Curvature, Damping};
use hyperinf_gradients::{Block, Gradients};
use hyperinf_linalg::{dots, host, precise, scalars, squared_norms};
use hyperinf_solvers::{Inverse, Plan, Solver};

use crate::{BlockReport, CurvatureFrom, Method, Normalisation, Options, ScoreError, Source};

/// Rows that are preconditioned at once.
const CHUNK: usize = 128;
/// Bytes of the matrices that are inverted together; a larger one is inverted alone.
const TOGETHER: usize = 1 << 30;

/// One inverse per block, in the order of the blocks.
pub(crate) type Inverses<'a, T> = Box<dyn Iterator<Item = Result<T, ScoreError>> + 'a>;

/// A block's inverse at one damping, with its report.
pub(crate) struct BlockInverse {
    pub(crate) block: Block,
    operator: Operator,
    /// Neither curvature nor damping: only zero gradients can be scored.
    zero: bool,
    /// For methods with curvature.
    pub(crate) report: Option<BlockReport>,
    /// The block's training gradients `[n, D]`, if its curvature holds them.
    pub(crate) rows: Option<Tensor<2>>,
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
                operator: Operator::Identity,
                zero: false,
                report: None,
                rows: None,
            })
        };
        return Ok(Box::new(layout.iter().map(identity)));
    };
    let own = matches!(curvature, CurvatureFrom::Training);
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
            let own = matches!(curvature, CurvatureFrom::Training);
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

/// The next blocks to be inverted together.
fn group(found: &mut VecDeque<BlockCurvature>) -> Vec<BlockCurvature> {
    let bytes = |found: &BlockCurvature| 8 * found.curvature.decomposed_side().pow(2);
    let mut taken = Vec::new();
    let mut sum = 0;
    while let Some(next) = found.pop_front_if(|next| taken.is_empty() || sum + bytes(next) <= TOGETHER) {
        sum += bytes(&next);
        taken.push(next);
    }
    taken
}

/// The inverse of each of these blocks.
fn prepare(
    blocks: Vec<BlockCurvature>,
    solver: &dyn Solver,
    damping: Damping,
    own: bool,
) -> Vec<Result<BlockInverse, ScoreError>> {
    let lambda = |block: &BlockCurvature| (block.mean_square != 0.0).then(|| damping.lambda(block.mean_square));
    let pairs: Vec<(&Curvature, f64)> = blocks.iter().filter_map(|b| Some((&b.curvature, lambda(b)?))).collect();
    let mut inverses = solver.prepare_many(&pairs).into_iter();
    let invert = |found: BlockCurvature| {
        let inverse = lambda(&found).and_then(|_| inverses.next()).transpose();
        let inverse = inverse.map_err(|source| ScoreError::Solve { block: found.block.name.clone(), source })?;
        Ok(BlockInverse::new(found, inverse, damping, own))
    };
    blocks.into_iter().map(invert).collect()
}

/// The inverses of a block at every damping.
fn prepare_sweep(
    found: BlockCurvature,
    solver: &dyn Solver,
    dampings: &[Damping],
    own: bool,
) -> Result<Vec<BlockInverse>, ScoreError> {
    let lambdas: Vec<f64> = dampings.iter().map(|damping| damping.lambda(found.mean_square)).collect();
    let inverses = if found.mean_square == 0.0 {
        Vec::new()
    } else {
        let error = |source| ScoreError::Solve { block: found.block.name.clone(), source };
        solver.prepare_sweep(&found.curvature, &lambdas).map_err(error)?
    };
    let mut inverses = inverses.into_iter();
    Ok(dampings.iter().map(|&damping| BlockInverse::new(found.clone(), inverses.next(), damping, own)).collect())
}

impl BlockInverse {
    /// `own`: the curvature is that of the training samples.
    fn new(found: BlockCurvature, inverse: Option<Box<dyn Inverse>>, damping: Damping, own: bool) -> Self {
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
            Core::Samples(rows) if own => Some(rows.clone()),
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
        };
        let zero = matches!(operator, Operator::Nothing);
        Self { block, operator, zero, report: Some(report), rows }
    }

    /// `X` for queries `V`, `[q, D]`, and `X Jᵀ`, `[q, n]`, if the training gradients are held.
    pub(crate) fn queries(&mut self, v: Tensor<2>) -> Result<(Tensor<2>, Option<Tensor<2>>), ScoreError> {
        let (x, products) = self.apply(v)?;
        let products = match (products, &self.rows) {
            (Some(products), Some(_)) => Some(products),
            (None, Some(rows)) => Some(dots(x.clone(), rows.clone())),
            (_, None) => None,
        };
        Ok((x, products))
    }

    /// Whether it leaves rows unchanged.
    pub(crate) fn is_identity(&self) -> bool {
        matches!(self.operator, Operator::Identity)
    }

    /// Whether it has neither curvature nor damping.
    pub(crate) fn is_zero(&self) -> bool {
        self.zero
    }

    /// Fails if training gradients `[n, D]` that are not zero meet a block without curvature and damping.
    pub(crate) fn check(&self, rows: &Tensor<2>) -> Result<(), ScoreError> {
        if !self.zero {
            return Ok(());
        }
        // The scores report NaN and infinity with their sample.
        let largest = host(rows.clone().abs().max())?;
        if largest.into_iter().any(|value| value > 0.0 && value.is_finite()) {
            return Err(ScoreError::NoCurvature { block: self.block.name.clone() });
        }
        Ok(())
    }

    /// This block's part of the square of each sample's divisor, for training gradients `[n, D]`.
    pub(crate) fn squares(&mut self, rows: &Tensor<2>, normalisation: Normalisation) -> Result<Vec<f64>, ScoreError> {
        match normalisation {
            Normalisation::None => Ok(Vec::new()),
            Normalisation::Gradient | Normalisation::Cosine => Ok(squared_norms(rows.clone())?),
            Normalisation::LossRelatif => self.self_influence(rows),
            Normalisation::ThetaRelatif => self.chunks(rows, |x, _| (x.clone(), x)),
        }
    }

    /// Drops the inverse, unless the normalisation needs it for the training gradients.
    pub(crate) fn release(&mut self, normalisation: Normalisation) {
        if !matches!(normalisation, Normalisation::LossRelatif | Normalisation::ThetaRelatif) {
            self.operator = Operator::Nothing;
        }
    }

    /// `g (H + λI)⁻¹ g` of each row, `[n, D]`.
    pub(crate) fn self_influence(&mut self, rows: &Tensor<2>) -> Result<Vec<f64>, ScoreError> {
        self.chunks(rows, |x, g| (x, g))
    }

    /// The inner products of the pairs that `pair` makes of preconditioned rows and rows.
    fn chunks(
        &mut self,
        rows: &Tensor<2>,
        pair: impl Fn(Tensor<2>, Tensor<2>) -> (Tensor<2>, Tensor<2>),
    ) -> Result<Vec<f64>, ScoreError> {
        let mut all = Vec::with_capacity(rows.dims()[0]);
        for chunk in rows.clone().split(CHUNK, 0) {
            let (left, right) = pair(self.apply(chunk.clone())?.0, chunk);
            // In f64: squares of small gradients, and of their inverses, leave the range of f32.
            all.extend(scalars(precise(left), precise(right))?);
        }
        Ok(all)
    }

    /// The preconditioned rows, and their products with held samples if the solver has computed them.
    fn apply(&mut self, v: Tensor<2>) -> Result<(Tensor<2>, Option<Tensor<2>>), ScoreError> {
        let inverse = match &self.operator {
            Operator::Identity => return Ok((v, None)),
            Operator::Damping(lambda) => return Ok((v.div_scalar(*lambda), None)),
            Operator::Nothing => return Ok((v.zeros_like(), None)),
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
        Ok((solution.x, solution.products))
    }
}
