//! The queries of each block after `(H + λI)⁻¹`, with the inverse for what else needs it.

use std::collections::VecDeque;
use std::iter;

use burn::tensor::Tensor;
use hyperinf_curvature::{BlockCurvature, Core, Curvature, Damping};
use hyperinf_gradients::{Block, Gradients, same_layout};
use hyperinf_linalg::{dots, host, precise, scalars, squared_norms};
use hyperinf_solvers::{Inverse, Plan, Solver};

use crate::passes::accumulate;
use crate::{BlockReport, Method, Normalisation, Options, ScoreError, Set, Source};

/// Rows that are preconditioned at once.
const CHUNK: usize = 128;
/// Bytes of the matrices that are inverted together, unless one alone is larger.
const TOGETHER: usize = 1 << 30;

/// A block's inverse, and what is known of it.
pub(crate) struct Inverted {
    pub(crate) block: Block,
    operator: Operator,
    /// Neither curvature nor damping: nothing but zeros can be scored.
    zero: bool,
    /// For methods with curvature.
    pub(crate) report: Option<BlockReport>,
    /// The block's training gradients `[n, D]`, if its curvature holds them.
    pub(crate) rows: Option<Tensor<2>>,
}

/// What a block's gradients are multiplied by.
enum Operator {
    /// `I`.
    Identity,
    /// `(H + λI)⁻¹`.
    Inverse(Box<dyn Inverse>),
    /// `I/λ`: the curvature is zero, the damping is not.
    Damping(f64),
    /// 0: the curvature and its relative damping are zero, or the inverse is not needed any more.
    Nothing,
}

/// What the curvature is made of.
pub(crate) enum Curved<'a> {
    /// The training samples.
    Training,
    /// Other samples.
    Of(&'a dyn Source),
    /// It is made already.
    Known(Vec<BlockCurvature>),
}

/// One inverse per block; as many are made at once as fit together into some memory.
///
/// [`Inverted::rows`] are kept only of the training samples' own curvature, since these are the samples to be scored.
pub(crate) fn invert<'a>(
    train: &dyn Source,
    curvature: Curved<'_>,
    queries: Option<&'a Gradients>,
    options: &'a Options,
) -> Result<Box<dyn Iterator<Item = Result<Inverted, ScoreError>> + 'a>, ScoreError> {
    let Method::Inverse { storage, solver } = &options.method else {
        let layout = queries.map_or(&[][..], |queries| &queries.layout);
        let identity = |block: &Block| {
            Ok(Inverted { block: block.clone(), operator: Operator::Identity, zero: false, report: None, rows: None })
        };
        return Ok(Box::new(layout.iter().map(identity)));
    };
    let held = matches!(curvature, Curved::Training);
    let mut found = VecDeque::from(match curvature {
        Curved::Training => accumulate(train, Set::Train, queries, *storage, options.merged)?,
        Curved::Of(source) => accumulate(source, Set::Curvature, queries, *storage, options.merged)?,
        Curved::Known(blocks) => {
            if let Some(queries) = queries {
                let layout: Vec<Block> = blocks.iter().map(|found| found.block.clone()).collect();
                same_layout(&layout, &queries.layout).map_err(ScoreError::gradients(Set::Query))?;
            }
            blocks
        }
    });
    let mut ready = VecDeque::new();
    Ok(Box::new(iter::from_fn(move || {
        if ready.is_empty() {
            ready.extend(prepare(group(&mut found), solver.as_ref(), options, held));
        }
        ready.pop_front()
    })))
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
    options: &Options,
    held: bool,
) -> Vec<Result<Inverted, ScoreError>> {
    let lambda = |block: &BlockCurvature| (block.mean_square != 0.0).then(|| options.damping.lambda(block.mean_square));
    // Without any curvature only absolute damping is there.
    let damping = match options.damping {
        Damping::Absolute(lambda) => Some(lambda),
        Damping::Relative(_) => None,
    };
    let pairs: Vec<(&Curvature, f64)> = blocks.iter().filter_map(|b| Some((&b.curvature, lambda(b)?))).collect();
    let mut inverses = solver.prepare_many(&pairs).into_iter();
    let invert = |found: BlockCurvature| {
        let lambda = lambda(&found);
        let BlockCurvature { block, curvature, mean_square, .. } = found;
        let operator = match lambda.and_then(|_| inverses.next()) {
            None => damping.map_or(Operator::Nothing, Operator::Damping),
            Some(Ok(inverse)) => Operator::Inverse(inverse),
            Some(Err(source)) => return Err(ScoreError::Solve { block: block.name, source }),
        };
        let rows = match curvature.core() {
            Core::Samples(rows) if held => Some(rows.clone()),
            Core::Samples(_) | Core::Matrix { .. } | Core::Eigenvalues { .. } => None,
        };
        let report = BlockReport {
            block: block.clone(),
            // No training gradient, no influence: not a matter of λ.
            lambda: if held { lambda } else { lambda.or(damping) },
            mean_square,
            plan: Plan::default(),
            iterations: 0,
            residual: 0.0,
            tolerance: None,
        };
        let zero = matches!(operator, Operator::Nothing);
        Ok(Inverted { block, operator, zero, report: Some(report), rows })
    };
    blocks.into_iter().map(invert).collect()
}

impl Inverted {
    /// `X` for queries `V`, `[q, D]`, and `X Jᵀ`, `[q, n]`, if the training gradients are at hand.
    pub(crate) fn queries(&mut self, v: Tensor<2>) -> Result<(Tensor<2>, Option<Tensor<2>>), ScoreError> {
        let (x, products) = self.apply(v)?;
        let products = match (products, &self.rows) {
            (Some(products), Some(_)) => Some(products),
            (None, Some(rows)) => Some(dots(x.clone(), rows.clone())),
            (_, None) => None,
        };
        Ok((x, products))
    }

    /// Whether rows are left as they are.
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
        // What is not finite is told with its sample, by the scores.
        let largest = host(rows.clone().abs().max())?;
        if largest.into_iter().any(|value| value > 0.0 && value.is_finite()) {
            return Err(ScoreError::NoCurvature { block: self.block.name.clone() });
        }
        Ok(())
    }

    /// What a normalisation adds of this block to the square of each sample's divisor, for training gradients
    /// `[n, D]`.
    pub(crate) fn squares(&mut self, rows: &Tensor<2>, normalisation: Normalisation) -> Result<Vec<f64>, ScoreError> {
        match normalisation {
            Normalisation::None => Ok(Vec::new()),
            Normalisation::Gradient | Normalisation::Cosine => Ok(squared_norms(rows.clone())?),
            Normalisation::LossRelatif => self.self_influence(rows),
            Normalisation::ThetaRelatif => self.chunks(rows, |x, _| (x.clone(), x)),
        }
    }

    /// Forgets the inverse, unless the normalisation needs it for the training gradients.
    pub(crate) fn release(&mut self, normalisation: Normalisation) {
        if !matches!(normalisation, Normalisation::LossRelatif | Normalisation::ThetaRelatif) {
            self.operator = Operator::Nothing;
        }
    }

    /// `g (H + λI)⁻¹ g` of each row, `[n, D]`.
    pub(crate) fn self_influence(&mut self, rows: &Tensor<2>) -> Result<Vec<f64>, ScoreError> {
        self.chunks(rows, |x, g| (x, g))
    }

    /// The inner products of what `pair` makes of preconditioned rows and rows.
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

    /// The rows after the inverse, and what the solver had of products with held samples.
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
