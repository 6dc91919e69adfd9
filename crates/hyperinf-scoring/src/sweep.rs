use burn::tensor::Tensor;
use hyperinf_curvature::{BlockCurvature, Core, Damping};
use hyperinf_gradients::Gradients;
use hyperinf_linalg::dots;
use hyperinf_solvers::{Plan, Solver};

use crate::passes::{accumulate, each_batch, queries, read_rows, squares};
use crate::{Attribution, BlockReport, Method, Normalisation, Options, ScoreError, Scores, Set, Source, attribute};

/// [`attribute`] at many dampings, in their order: the same scores, from one curvature.
///
/// The curvature is accumulated once, and every block is prepared by [`Solver::prepare_sweep`], which may re-use a
/// decomposition or start from the inverse at the damping before. The preconditioned queries of all dampings, `[dampings · q, D]`,
/// are scored in one second pass. `options.damping` is not used. Normalised scores, and methods without curvature, are
/// those of one [`attribute`] per damping.
///
/// # Errors
///
/// As [`attribute`], for the first damping that fails.
pub fn sweep(
    train: &dyn Source,
    query: &dyn Source,
    options: &Options,
    dampings: &[Damping],
) -> Result<Vec<Attribution>, ScoreError> {
    for damping in dampings {
        damping.validate()?;
    }
    let (Method::Inverse { storage, solver }, Normalisation::None) = (&options.method, options.normalisation) else {
        return dampings
            .iter()
            .map(|&damping| attribute(train, query, &Options { damping, ..options.clone() }))
            .collect();
    };
    let queries = queries(query, options)?;
    let mut swept = Swept::new(dampings, queries.samples());
    for (index, found) in
        accumulate(train, Set::Train, Some(&queries), *storage, options.merged)?.into_iter().enumerate()
    {
        let v = queries.blocks[index].clone().flatten(1, 2);
        swept.add(index, found, solver.as_ref(), v, options)?;
    }
    swept.second_pass(train, &queries, options)?;
    Ok(swept.found)
}

impl Attribution {
    /// Adds the scores of other blocks of the same samples and queries.
    ///
    /// # Errors
    ///
    /// If the numbers of samples or queries differ.
    pub fn merge(&mut self, other: Self) -> Result<(), ScoreError> {
        self.scores.add_same(&other.scores)?;
        self.blocks.extend(other.blocks);
        self.block_scores.extend(other.block_scores);
        Ok(())
    }
}

/// What has been found at every damping.
struct Swept<'a> {
    dampings: &'a [Damping],
    queries: usize,
    found: Vec<Attribution>,
    /// The places of blocks whose queries wait for the second pass, with these for all dampings: `[dampings · q, D]`.
    waiting: Vec<(usize, Tensor<2>)>,
}

impl<'a> Swept<'a> {
    fn new(dampings: &'a [Damping], queries: usize) -> Self {
        Self { dampings, queries, found: vec![Attribution::default(); dampings.len()], waiting: Vec::new() }
    }

    /// Preconditions the queries of a block at every damping; scores them if the training gradients are held.
    fn add(
        &mut self,
        index: usize,
        found: BlockCurvature,
        solver: &dyn Solver,
        v: Tensor<2>,
        options: &Options,
    ) -> Result<(), ScoreError> {
        let BlockCurvature { block, curvature, mean_square, samples } = found;
        let report = |lambda| BlockReport {
            block: block.clone(),
            lambda,
            mean_square,
            plan: Plan::default(),
            iterations: 0,
            residual: 0.0,
            tolerance: None,
        };
        // A block without training gradients adds nothing to any score, whatever the damping.
        if mean_square == 0.0 {
            for place in 0..self.dampings.len() {
                self.score(place, &report(None), Scores { rows: vec![vec![0.0; samples]; self.queries] }, options)?;
            }
            return Ok(());
        }
        let lambdas: Vec<f64> = self.dampings.iter().map(|damping| damping.lambda(mean_square)).collect();
        let error = |source| ScoreError::Solve { block: block.name.clone(), source };
        let inverses = solver.prepare_sweep(&curvature, &lambdas).map_err(error)?;
        let mut waiting = Vec::new();
        for (place, (inverse, lambda)) in inverses.iter().zip(lambdas).enumerate() {
            let solution = inverse.apply(v.clone()).map_err(error)?;
            let report = BlockReport {
                plan: inverse.plan(),
                iterations: solution.iterations,
                residual: solution.residual(),
                tolerance: solution.tolerance,
                ..report(Some(lambda))
            };
            match curvature.core() {
                Core::Samples(rows) => {
                    let products = solution.products.unwrap_or_else(|| dots(solution.x, rows.clone()));
                    let scores = read_rows(products)?;
                    scores.check()?;
                    self.score(place, &report, scores, options)?;
                }
                Core::Matrix { .. } | Core::Eigenvalues { .. } => {
                    self.found[place].blocks.push(report);
                    waiting.push(solution.x);
                }
            }
        }
        if !waiting.is_empty() {
            self.waiting.push((index, Tensor::cat(waiting, 0)));
        }
        Ok(())
    }

    /// Adds the scores of a block that are known.
    fn score(
        &mut self,
        place: usize,
        report: &BlockReport,
        scores: Scores,
        options: &Options,
    ) -> Result<(), ScoreError> {
        let found = &mut self.found[place];
        if options.block_scores {
            found.block_scores.push((report.block.clone(), scores.clone()));
        }
        found.blocks.push(report.clone());
        sum(found, scores)
    }

    /// The products of the waiting queries with every training gradient.
    fn second_pass(&mut self, train: &dyn Source, queries: &Gradients, options: &Options) -> Result<(), ScoreError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let empty = Scores { rows: vec![Vec::new(); self.queries * self.dampings.len()] };
        let mut parts = vec![empty; self.waiting.len()];
        each_batch(train, options.merged, Set::Train, &mut |gradients| {
            gradients.same_layout(queries).map_err(ScoreError::gradients(Set::Train))?;
            for ((index, x), part) in self.waiting.iter().zip(&mut parts) {
                let rows: Tensor<2> = gradients.blocks[*index].clone().flatten(1, 2);
                let scores = read_rows(dots(x.clone(), rows))?;
                if let Some((row, sample, value)) = scores.first_not_finite() {
                    let seen = part.samples();
                    squares(&gradients, seen, Set::Train)?;
                    return Err(ScoreError::Overflow { query: row % self.queries, sample: seen + sample, value });
                }
                part.extend(&scores);
            }
            Ok(())
        })?;
        for ((index, _), part) in self.waiting.iter().zip(parts) {
            for (found, rows) in self.found.iter_mut().zip(part.rows.chunks(self.queries)) {
                let scores = Scores { rows: rows.to_vec() };
                if options.block_scores {
                    found.block_scores.push((queries.layout[*index].clone(), scores.clone()));
                }
                sum(found, scores)?;
            }
        }
        Ok(())
    }
}

/// Adds a block's scores to those of the blocks before.
fn sum(found: &mut Attribution, scores: Scores) -> Result<(), ScoreError> {
    if found.scores.queries() == 0 {
        found.scores = scores;
        return Ok(());
    }
    let (count, expected) = (scores.samples(), found.scores.samples());
    if count != expected {
        return Err(ScoreError::SampleCount { set: Set::Train, found: count, expected });
    }
    found.scores.add(&scores);
    Ok(())
}
