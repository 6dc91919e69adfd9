//! Some blocks of what [`score`](crate::score) and its neighbours compute: the part of one of several processes.

use burn::tensor::Device;
use hyperinf_curvature::BlockCurvature;
use hyperinf_scoring::{
    BlockScores, Options, Picked, PositionScorer, QueryMode, ScoreError, SelfInfluence, Set, between,
};

use crate::stream::{as_sets, check_products, curvature, product_curvature, product_sets, some_groups};
use crate::{GradientPair, StoreError};

/// What a function is called with for each block, in the order in which the blocks were given.
pub type Found<'a, T> = dyn FnMut(T) -> Result<(), ScoreError> + 'a;

/// The scores of some blocks of [`score`](crate::score), each for a [`Scorer`](hyperinf_scoring::Scorer); `blocks` are
/// places in the training file. Not of merged blocks, which are one.
///
/// # Errors
///
/// As [`score`](crate::score), and those of `found`.
pub fn score_blocks(
    pair: &GradientPair,
    known: Option<&[BlockCurvature]>,
    options: &Options,
    device: &Device,
    blocks: &[usize],
    found: &mut Found<'_, BlockScores>,
) -> Result<(), StoreError> {
    pair.check_memory(1, options, device)?;
    let groups: Vec<&[usize]> = blocks.chunks(1).collect();
    some_groups(pair, &groups, &pair.sets(), options, device, &mut |sources| {
        as_sets(sources, known, options.query, &mut |train, query, curvature| {
            found(BlockScores::new(train, query, curvature, options)?)
        })
    })
}

/// The parts of some blocks of [`self_influence`](crate::self_influence), as [`score_blocks`] those of scores.
///
/// # Errors
///
/// As [`self_influence`](crate::self_influence), and those of `found`.
pub fn self_influence_blocks(
    pair: &GradientPair,
    known: Option<&[BlockCurvature]>,
    options: &Options,
    device: &Device,
    blocks: &[usize],
    found: &mut Found<'_, SelfInfluence>,
) -> Result<(), StoreError> {
    let options = Options { query: QueryMode::Mean, ..options.clone() };
    pair.check_memory(1, &options, device)?;
    let groups: Vec<&[usize]> = blocks.chunks(1).collect();
    some_groups(pair, &groups, &[Set::Train], &options, device, &mut |sources| {
        let train = &sources[0];
        found(hyperinf_scoring::self_influence(train, curvature(train, known), &options)?)
    })
}

/// The parts of some blocks of [`products`](crate::products) of `samples`, as scores of these samples for each other.
///
/// # Errors
///
/// As [`products`](crate::products), and those of `found`.
///
/// # Panics
///
/// As [`products`](crate::products).
pub fn product_blocks(
    pair: &GradientPair,
    known: Option<&[BlockCurvature]>,
    samples: &[usize],
    options: &Options,
    device: &Device,
    blocks: &[usize],
    found: &mut Found<'_, BlockScores>,
) -> Result<(), StoreError> {
    let options = between(options);
    check_products(pair, samples, &options, device)?;
    let groups: Vec<&[usize]> = blocks.chunks(1).collect();
    some_groups(pair, &groups, &product_sets(pair, known), &options, device, &mut |sources| {
        let picked = Picked { source: &sources[0], samples };
        found(BlockScores::new(&picked, &picked, product_curvature(pair, sources, known, &options), &options)?)
    })
}

/// The curvature of the training gradients of some blocks.
///
/// # Errors
///
/// As [`score`](crate::score).
pub fn curvature_blocks(
    pair: &GradientPair,
    options: &Options,
    device: &Device,
    blocks: &[usize],
) -> Result<Vec<BlockCurvature>, StoreError> {
    pair.check_memory(1, options, device)?;
    let groups: Vec<&[usize]> = blocks.chunks(1).collect();
    let mut all = Vec::with_capacity(blocks.len());
    some_groups(pair, &groups, &[Set::Train], options, device, &mut |sources| {
        all.extend(hyperinf_scoring::curvature(&sources[0], options)?);
        Ok(())
    })?;
    Ok(all)
}

/// The queries of some blocks of [`position_scorer`](crate::position_scorer), for
/// [`PositionScorer::merge`].
///
/// # Errors
///
/// As [`position_scorer`](crate::position_scorer), and those of `found`.
pub fn position_blocks(
    pair: &GradientPair,
    known: Option<&[BlockCurvature]>,
    options: &Options,
    device: &Device,
    blocks: &[usize],
    found: &mut Found<'_, PositionScorer>,
) -> Result<(), StoreError> {
    pair.check_memory(1, options, device)?;
    let groups: Vec<&[usize]> = blocks.chunks(1).collect();
    some_groups(pair, &groups, &pair.sets(), options, device, &mut |sources| {
        as_sets(sources, known, options.query, &mut |train, query, curvature| {
            let mut scorer = PositionScorer::new(options.clone())?;
            scorer.add(train, query, curvature)?;
            found(scorer)
        })
    })
}
