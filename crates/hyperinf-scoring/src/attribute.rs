use burn::tensor::Tensor;
use hyperinf_curvature::{Accumulator, BlockCurvature, Curvature, Storage, dots, host, scalars};
use hyperinf_gradients::{Block, Gradients, same_layout};
use hyperinf_solvers::{Inverse, Solution, Solver};

use crate::{Attribution, BlockReport, Method, Options, QueryMode, ScoreError, Scorer, Scores, Set, Source};

/// Rows of held samples that are preconditioned at once.
const CHUNK: usize = 128;

/// Scores every training sample for every query: `score = Σ_l v_l (H_l + λ_l I)⁻¹ g_l`, positive = helpful.
///
/// The queries are gone through once. Training gradients are gone through once for the curvature and once for the
/// scores, and never all held, unless the storage is the samples themselves; then one pass is enough.
///
/// # Errors
///
/// If the damping is not positive and finite, a set is empty, a gradient is not finite, the two sets' blocks differ,
/// two passes give different numbers of samples, or a block cannot be inverted.
pub fn attribute(train: &dyn Source, query: &dyn Source, options: &Options) -> Result<Attribution, ScoreError> {
    let mut scorer = Scorer::new(options.clone())?;
    scorer.add(train, query)?;
    scorer.finish()
}

/// [`attribute`] with the curvature of other samples: another data set, or what another estimate sends back.
///
/// `score = Σ_l v_l (H_l + λ_l I)⁻¹ g_l` with `H_l` and the relative `λ_l` of `curvature`. Its blocks are those of the
/// training samples; their numbers may differ.
///
/// # Errors
///
/// As [`attribute`].
pub fn attribute_with(
    train: &dyn Source,
    curvature: &dyn Source,
    query: &dyn Source,
    options: &Options,
) -> Result<Attribution, ScoreError> {
    let mut scorer = Scorer::new(options.clone())?;
    scorer.add_with(train, curvature, query)?;
    scorer.finish()
}

/// Scores of some blocks, before they are normalised.
pub(crate) struct Part {
    pub(crate) scores: Scores,
    pub(crate) blocks: Vec<BlockReport>,
    pub(crate) block_scores: Vec<(Block, Scores)>,
    /// `||v||²` of each query; for the cosine only.
    pub(crate) query_squares: Vec<f64>,
    /// `||g||²` of each training sample; for the cosine only.
    pub(crate) train_squares: Vec<f64>,
}

impl Part {
    pub(crate) fn of(
        train: &dyn Source,
        curvature: Option<&dyn Source>,
        query: &dyn Source,
        options: &Options,
    ) -> Result<Self, ScoreError> {
        let queries = queries(query, options)?;
        let cosine = matches!(options.method, Method::Cosine);
        let query_squares =
            if cosine { queries.squared_norms().map_err(ScoreError::gradients(Set::Query))? } else { Vec::new() };
        let mut part = Self {
            scores: Scores::default(),
            blocks: Vec::new(),
            block_scores: Vec::new(),
            query_squares,
            train_squares: Vec::new(),
        };

        // Queries that wait for the second pass, by block.
        let mut waiting = Vec::new();
        match &options.method {
            Method::Identity | Method::Cosine => {
                waiting.extend(queries.blocks.iter().map(|v| v.clone().flatten::<2>(1, 2)).enumerate());
            }
            Method::Inverse { storage, solver } => {
                let (source, set) = curvature.map_or((train, Set::Train), |source| (source, Set::Curvature));
                let curvatures = accumulate(source, set, Some(&queries), *storage, options)?;
                for (l, (found, v)) in curvatures.into_iter().zip(&queries.blocks).enumerate() {
                    let n = found.samples;
                    // Only of the training samples are the solver's products with held samples their scores.
                    let held = curvature.is_none();
                    let v: Tensor<2> = v.clone().flatten(1, 2);
                    let zeros = v.zeros_like();
                    let (report, ready) = precondition(found, solver.as_ref(), v, options, held)?;
                    match ready {
                        Ready::Scores(products) => part.add(&report.block, read_rows(products)?, options)?,
                        Ready::Queries(x) => waiting.push((l, x)),
                        Ready::Nothing if !held => waiting.push((l, zeros)),
                        Ready::Nothing => {
                            let zeros = Scores { rows: vec![vec![0.0; n]; queries.samples()] };
                            part.add(&report.block, zeros, options)?;
                        }
                    }
                    part.blocks.push(report);
                }
            }
        }
        if !waiting.is_empty() {
            part.score(train, &queries, &waiting, options)?;
        }
        if part.scores.samples() == 0 {
            return Err(ScoreError::Empty { set: Set::Train, what: "samples" });
        }
        Ok(part)
    }

    /// The second pass: products of the waiting queries with every training gradient.
    fn score(
        &mut self,
        train: &dyn Source,
        queries: &Gradients,
        waiting: &[(usize, Tensor<2>)],
        options: &Options,
    ) -> Result<(), ScoreError> {
        let empty = Scores { rows: vec![Vec::new(); queries.samples()] };
        let mut total = empty.clone();
        let mut parts = if options.block_scores { vec![empty; waiting.len()] } else { Vec::new() };
        each_batch(train, options, Set::Train, &mut |gradients| {
            gradients.same_layout(queries).map_err(ScoreError::gradients(Set::Train))?;
            let seen = total.samples();
            let mut sum: Option<Scores> = None;
            for (i, (l, x)) in waiting.iter().enumerate() {
                let products = read_rows(dots(x.clone(), gradients.blocks[*l].clone().flatten(1, 2)))?;
                if let Some(part) = parts.get_mut(i) {
                    part.extend(&products);
                }
                match &mut sum {
                    None => sum = Some(products),
                    Some(sum) => sum.add(&products),
                }
            }
            let sum = sum.unwrap_or_default();
            // NaN and infinity reach every product: only then it is worth asking whose they are.
            if let Some((query, sample, value)) = sum.first_not_finite() {
                squares(&gradients, seen, Set::Train)?;
                return Err(ScoreError::Overflow { query, sample: seen + sample, value });
            }
            if matches!(options.method, Method::Cosine) {
                self.train_squares.extend(squares(&gradients, seen, Set::Train)?);
            }
            total.extend(&sum);
            Ok(())
        })?;
        for ((l, _), part) in waiting.iter().zip(parts) {
            self.block_scores.push((queries.layout[*l].clone(), part));
        }
        self.sum(total)
    }

    fn add(&mut self, block: &Block, scores: Scores, options: &Options) -> Result<(), ScoreError> {
        if options.block_scores {
            self.block_scores.push((block.clone(), scores.clone()));
        }
        self.sum(scores)
    }

    fn sum(&mut self, scores: Scores) -> Result<(), ScoreError> {
        if self.scores.queries() == 0 {
            self.scores = scores;
            return Ok(());
        }
        let (found, expected) = (scores.samples(), self.scores.samples());
        if found != expected {
            return Err(ScoreError::SampleCount { set: Set::Train, found, expected });
        }
        self.scores.add(&scores);
        Ok(())
    }
}

/// What the inversion of one block left to be done.
enum Ready {
    /// Nothing: the solver had the products with all held samples.
    Scores(Tensor<2>),
    /// Products of these preconditioned queries with the training gradients.
    Queries(Tensor<2>),
    /// All training gradients of the block are zero.
    Nothing,
}

fn precondition(
    found: BlockCurvature,
    solver: &dyn Solver,
    v: Tensor<2>,
    options: &Options,
    held: bool,
) -> Result<(BlockReport, Ready), ScoreError> {
    let Some(Prepared { inverse, lambda }) = prepare(&found, solver, options)? else {
        return Ok((report(&found, None, None), Ready::Nothing));
    };
    let solution = inverse.apply(v).map_err(|source| ScoreError::Solve { block: found.block.name.clone(), source })?;
    let report = report(&found, Some(lambda), Some(&solution));
    let ready = match (solution.products, found.curvature) {
        (Some(products), _) if held => Ready::Scores(products),
        (None, Curvature::Samples(rows)) if held => Ready::Scores(dots(solution.x, rows)),
        _ => Ready::Queries(solution.x),
    };
    Ok((report, ready))
}

/// A block's inverse with its damping.
struct Prepared {
    inverse: Box<dyn Inverse>,
    lambda: f64,
}

/// The prepared inverse of a block; `None` if all of the block's training gradients are zero.
fn prepare(found: &BlockCurvature, solver: &dyn Solver, options: &Options) -> Result<Option<Prepared>, ScoreError> {
    if found.mean_square == 0.0 {
        return Ok(None);
    }
    let lambda = options.damping.lambda(found.mean_square);
    let inverse = solver
        .prepare(&found.curvature, lambda)
        .map_err(|source| ScoreError::Solve { block: found.block.name.clone(), source })?;
    Ok(Some(Prepared { inverse, lambda }))
}

fn report(found: &BlockCurvature, lambda: Option<f64>, solution: Option<&Solution>) -> BlockReport {
    BlockReport {
        block: found.block.clone(),
        lambda,
        mean_square: found.mean_square,
        iterations: solution.map_or(0, |s| s.iterations),
        residual: solution.map_or(0.0, |s| s.residual()),
        tolerance: solution.and_then(|s| s.tolerance),
    }
}

/// The influence of each training sample on itself.
#[derive(Clone, Debug, Default)]
pub struct SelfInfluence {
    /// `Σ_l g_l (H_l + λ_l I)⁻¹ g_l` of each sample, `[n]`: never negative for an exact inverse, large for samples
    /// that the model fits against the others.
    pub values: Vec<f64>,
    /// One report per block that was inverted.
    pub blocks: Vec<BlockReport>,
}

/// Each training sample's influence on itself: high for outliers and wrong labels, without any query.
///
/// For [`Method::Identity`] the squared norm of its gradient, for [`Method::Cosine`] 1. Every block's inverse is
/// held through the second pass.
///
/// # Errors
///
/// As [`attribute`].
pub fn self_influence(train: &dyn Source, options: &Options) -> Result<SelfInfluence, ScoreError> {
    self_influences(train, (train, Set::Train), options)
}

/// [`self_influence`] with the curvature of other samples, as [`attribute_with`].
///
/// # Errors
///
/// As [`attribute`].
pub fn self_influence_with(
    train: &dyn Source,
    curvature: &dyn Source,
    options: &Options,
) -> Result<SelfInfluence, ScoreError> {
    self_influences(train, (curvature, Set::Curvature), options)
}

fn self_influences(
    train: &dyn Source,
    (curvature, set): (&dyn Source, Set),
    options: &Options,
) -> Result<SelfInfluence, ScoreError> {
    options.damping.validate()?;
    let mut result = SelfInfluence::default();
    let Method::Inverse { storage, solver } = &options.method else {
        each_batch(train, options, Set::Train, &mut |gradients| {
            let squares = squares(&gradients, result.values.len(), Set::Train)?;
            let cosine = matches!(options.method, Method::Cosine);
            result.values.extend(squares.into_iter().map(|s| if cosine && s > 0.0 { 1.0 } else { s }));
            Ok(())
        })?;
        return Ok(result);
    };
    let mut inverses = Vec::new();
    for found in accumulate(curvature, set, None, *storage, options)? {
        let prepared = prepare(&found, solver.as_ref(), options)?;
        result.blocks.push(report(&found, prepared.as_ref().map(|p| p.lambda), None));
        inverses.push(prepared.map(|p| p.inverse));
    }
    each_batch(train, options, Set::Train, &mut |gradients| {
        let start = result.values.len();
        result.values.resize(start + gradients.samples(), 0.0);
        for ((inverse, report), rows) in inverses.iter().zip(&mut result.blocks).zip(&gradients.blocks) {
            let Some(inverse) = inverse else { continue };
            let rows: Tensor<2> = rows.clone().flatten(1, 2);
            for (i, chunk) in rows.split(CHUNK, 0).into_iter().enumerate() {
                let solution = inverse
                    .apply(chunk.clone())
                    .map_err(|source| ScoreError::Solve { block: report.block.name.clone(), source })?;
                report.iterations = report.iterations.max(solution.iterations);
                report.residual = report.residual.max(solution.residual());
                report.tolerance = solution.tolerance;
                for (j, value) in scalars(solution.x, chunk)?.into_iter().enumerate() {
                    result.values[start + i * CHUNK + j] += value;
                }
            }
        }
        Ok(())
    })?;
    Ok(result)
}

/// One curvature per block: of one pass over the source, or of as many as the storage needs.
fn accumulate(
    source: &dyn Source,
    set: Set,
    queries: Option<&Gradients>,
    storage: Storage,
    options: &Options,
) -> Result<Vec<BlockCurvature>, ScoreError> {
    let error = ScoreError::curvature(set);
    let mut sums: Vec<Accumulator> = Vec::new();
    loop {
        // Merged blocks have no captures: their gradients are put side by side.
        if !options.merged && storage.needs_captures() {
            source.pass_captures(&mut |captures| {
                let layout: Vec<Block> = captures.iter().map(|c| c.block.clone()).collect();
                start(&mut sums, &layout, storage, set)?;
                same_blocks(&sums, &layout, set)?;
                sums.iter_mut().zip(&captures).try_for_each(|(sum, capture)| sum.add_capture(capture)).map_err(&error)
            })?;
        } else {
            each_batch(source, options, set, &mut |gradients| {
                start(&mut sums, &gradients.layout, storage, set)?;
                same_blocks(&sums, &gradients.layout, set)?;
                let mut pairs = sums.iter_mut().zip(gradients.blocks);
                pairs.try_for_each(|(sum, block)| sum.add(block)).map_err(&error)
            })?;
        }
        if sums.is_empty() {
            return Err(ScoreError::Empty { set, what: "samples" });
        }
        if let Some(queries) = queries {
            same_blocks(&sums, &queries.layout, Set::Query)?;
        }
        let mut again = false;
        for sum in &mut sums {
            again |= sum.end_pass().map_err(&error)?;
        }
        if !again {
            break;
        }
    }
    sums.into_iter().map(Accumulator::finish).collect::<Result<_, _>>().map_err(error)
}

/// An empty sum per block, before the first batch.
fn start(sums: &mut Vec<Accumulator>, layout: &[Block], storage: Storage, set: Set) -> Result<(), ScoreError> {
    if sums.is_empty() {
        let new = layout.iter().map(|block| Accumulator::new(block.clone(), storage));
        *sums = new.collect::<Result<_, _>>().map_err(ScoreError::curvature(set))?;
    }
    Ok(())
}

/// Fails unless the blocks are those of the sums, in their order.
fn same_blocks(sums: &[Accumulator], layout: &[Block], set: Set) -> Result<(), ScoreError> {
    let expected: Vec<Block> = sums.iter().map(|sum| sum.block().clone()).collect();
    same_layout(&expected, layout).map_err(ScoreError::gradients(set))
}

/// All query gradients, or their mean; checked to be finite.
fn queries(source: &dyn Source, options: &Options) -> Result<Gradients, ScoreError> {
    let error = ScoreError::gradients(Set::Query);
    let (mut sets, mut seen): (Vec<Gradients>, usize) = (Vec::new(), 0);
    each_batch(source, options, Set::Query, &mut |gradients| {
        squares(&gradients, seen, Set::Query)?;
        seen += gradients.samples();
        match (options.query, sets.first_mut()) {
            (QueryMode::Each, _) => sets.push(gradients),
            (QueryMode::Mean, None) => sets.push(gradients.sum()),
            (QueryMode::Mean, Some(sum)) => {
                sum.same_layout(&gradients).map_err(&error)?;
                let blocks = sum.blocks.iter().zip(gradients.sum().blocks).map(|(a, b)| a.clone() + b);
                sum.blocks = blocks.collect();
            }
        }
        Ok(())
    })?;
    if seen == 0 {
        return Err(ScoreError::Empty { set: Set::Query, what: "samples" });
    }
    let mut all = Gradients::concat(sets).map_err(&error)?;
    if options.query == QueryMode::Mean {
        all.blocks = all.blocks.into_iter().map(|b| b.div_scalar(seen as f64)).collect();
    }
    Ok(all)
}

/// Goes through a source, with merged blocks if the options ask for it; a batch without samples is passed over.
fn each_batch(
    source: &dyn Source,
    options: &Options,
    set: Set,
    visit: &mut dyn FnMut(Gradients) -> Result<(), ScoreError>,
) -> Result<(), ScoreError> {
    source.pass(&mut |gradients| {
        if gradients.layout.is_empty() {
            return Err(ScoreError::Empty { set, what: "blocks" });
        }
        if gradients.samples() == 0 {
            return Ok(());
        }
        visit(if options.merged { gradients.merged() } else { gradients })
    })
}

/// `||g||²` of each sample of a batch that begins at sample `seen`, or the sample whose gradient is not finite.
fn squares(gradients: &Gradients, seen: usize, set: Set) -> Result<Vec<f64>, ScoreError> {
    gradients.squared_norms().map_err(|error| match ScoreError::gradients(set)(error) {
        ScoreError::NonFinite { set, block, sample, value } => {
            ScoreError::NonFinite { set, block, sample: seen + sample, value }
        }
        other => other,
    })
}

fn read_rows(products: Tensor<2>) -> Result<Scores, ScoreError> {
    let [_, n] = products.dims();
    Ok(Scores { rows: host(products)?.chunks(n).map(<[f64]>::to_vec).collect() })
}
