//! What a refined inverse takes from stored gradients, and the scores by it.

use burn::tensor::Device;
use hyperinf_curvature::BlockCurvature;
use hyperinf_gradients::{Block, GradientError, Gradients};
use hyperinf_scoring::{
    Attribution, CurvatureFrom, Method, Options, ProductsOf, QueryMode, Refined, SampledProductsOf, ScoreError, Scorer,
    Set, query_gradients,
};

use crate::memory::GIB;
use crate::stream::{each_group, explain};
use crate::{GradientPair, Sizes, StoreError, available, curvatures};

/// Vectors of all parameters that are held for each query in f64.
const VECTORS: usize = 9;

/// [`hyperinf_scoring::refine`] for the queries of a pair, or their mean. A contrast is no part of them.
///
/// The curvature of the blocks is that of [`score`](crate::score). All of it is held at once, and some vectors of all
/// parameters for each query.
///
/// # Errors
///
/// As [`score`](crate::score) and [`hyperinf_scoring::refine`].
pub fn refine(
    pair: &GradientPair,
    known: Option<&[BlockCurvature]>,
    products: &mut ProductsOf<'_>,
    options: &Options,
    steps: usize,
    device: &Device,
) -> Result<Refined, StoreError> {
    let (queries, curvature) = prepared(pair, known, options, device)?;
    hyperinf_scoring::refine(&queries, curvature, products, options, steps).map_err(|error| explain(pair, error))
}

/// [`hyperinf_scoring::refine_stochastic`] for the queries of a pair, or their mean: as [`refine`], with products of other
/// rows at every step.
///
/// # Errors
///
/// As [`score`](crate::score) and [`hyperinf_scoring::refine_stochastic`].
pub fn refine_stochastic(
    pair: &GradientPair,
    known: Option<&[BlockCurvature]>,
    products: &mut SampledProductsOf<'_>,
    options: &Options,
    steps: usize,
    device: &Device,
) -> Result<Refined, StoreError> {
    let (queries, curvature) = prepared(pair, known, options, device)?;
    let found = hyperinf_scoring::refine_stochastic(&queries, curvature, products, options, steps);
    found.map_err(|error| explain(pair, error))
}

/// The queries, and the curvature of the blocks.
fn prepared(
    pair: &GradientPair,
    known: Option<&[BlockCurvature]>,
    options: &Options,
    device: &Device,
) -> Result<(Gradients, Vec<BlockCurvature>), StoreError> {
    check_memory(pair, options, device)?;
    let curvature = match known.or_else(|| pair.own_curvature(options)) {
        Some(known) => known.to_vec(),
        None => curvatures(pair, options, device)?,
    };
    let (plain, mut layout, mut blocks) = (plain(options), Vec::new(), Vec::new());
    each_group(pair, &[Set::Query], &plain, device, &mut |sources| {
        let found = query_gradients(&sources[0], options.query)?;
        layout.extend(found.layout.iter().cloned());
        blocks.extend(found.blocks);
        Ok(())
    })?;
    let gradients = |source| StoreError::Score(ScoreError::Gradients { set: Set::Query, source });
    Ok((Gradients::new(layout, blocks).map_err(gradients)?, curvature))
}

/// The scores of every training sample for queries after an inverse, `[q, rows, cols]` of each block of the pair.
///
/// # Errors
///
/// As [`score`](crate::score), or if a block is missing.
pub fn score_preconditioned(
    pair: &GradientPair,
    queries: &Gradients,
    options: &Options,
    device: &Device,
) -> Result<Attribution, StoreError> {
    let options = Options { query: QueryMode::Each, ..plain(options) };
    pair.check_memory(1, &options, device)?;
    let mut scorer = Scorer::new(options.clone()).map_err(StoreError::Score)?;
    each_group(pair, &[Set::Train], &options, device, &mut |sources| {
        let train = &sources[0];
        let of_block = |block: &Block| {
            let found = queries.layout.iter().zip(&queries.blocks).find(|(found, _)| *found == block);
            found.map(|(_, rows)| rows.clone()).ok_or_else(|| missing(block, queries))
        };
        let rows = train.layout.iter().map(of_block).collect::<Result<_, _>>()?;
        scorer.add(train, &Gradients { layout: train.layout.clone(), blocks: rows }, CurvatureFrom::Training)
    })?;
    scorer.finish().map_err(|error| explain(pair, error))
}

fn missing(block: &Block, queries: &Gradients) -> ScoreError {
    let (index, found) = (queries.layout.len(), "absent".to_owned());
    let source = GradientError::LayoutMismatch { index, found, expected: block.name.clone() };
    ScoreError::Gradients { set: Set::Query, source }
}

/// The options of inner products, block by block.
fn plain(options: &Options) -> Options {
    Options { method: Method::Identity, merged: false, ..options.clone() }
}

/// Fails if the curvature of all blocks with the queries needs more memory than there is.
fn check_memory(pair: &GradientPair, options: &Options, device: &Device) -> Result<(), StoreError> {
    if device.memory_pool_usage().is_some() && pair.memory.is_none() {
        return Ok(());
    }
    let sizes = Sizes::new(pair, 1, device);
    let parameters = sizes.blocks.iter().map(Block::parameters).sum::<usize>();
    let queries = if options.query == QueryMode::Mean { 1 } else { pair.samples(Set::Query).len() };
    let vectors = (VECTORS * queries * parameters * size_of::<f64>()) as f64;
    let needed = vectors + sizes.held(options);
    match pair.memory.or_else(available).filter(|available| needed > *available) {
        None => Ok(()),
        Some(available) => Err(StoreError::Memory {
            block: "all of a refined inverse".to_owned(),
            rows: 1,
            cols: parameters,
            samples: sizes.curvature,
            needed_gib: needed / GIB,
            available_gib: available / GIB,
            offers: Vec::new(),
        }),
    }
}
