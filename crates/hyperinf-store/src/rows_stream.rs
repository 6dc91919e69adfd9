//! Batches of the samples of merged blocks: the part of one of several processes where one block is all there is.

use burn::tensor::{DType, Device};
use hyperinf_curvature::{Accumulator, BlockCurvature, MatrixSum, Storage};
use hyperinf_gradients::Block;
use hyperinf_scoring::{BlockScores, CurvatureFrom, Method, Options, RowScorer, ScoreError, Set, Source};

use crate::block_stream::Found;
use crate::source::{FileSource, Reader};
use crate::stream::{as_sets, curvature, explain};
use crate::{GradientPair, StoreError};

/// What several processes can share of the scores of merged blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct RowShare {
    /// The block that all are merged into.
    pub block: Block,
    /// The batches of the training samples, which the data decide.
    pub batches: usize,
    /// The storage of the sum of [`sum_rows`]; `None` where one process computes the curvature.
    pub sum: Option<Storage>,
}

/// What can be shared of the scores of merged blocks: `None` where nothing can. A curvature that holds the samples is
/// that of one process, and so are samples that are one batch.
#[must_use]
pub fn row_share(pair: &GradientPair, options: &Options, device: &Device) -> Option<RowShare> {
    if !options.merged || pair.curvature.is_some() || !device.supports_dtype(DType::F64) {
        return None;
    }
    let block = Block::new("merged", 1, pair.scored_blocks().iter().map(Block::parameters).sum());
    let sum = match options.method {
        Method::Identity => None,
        Method::Inverse { storage, .. } if storage.holds_samples(&block, pair.train.samples()) => return None,
        Method::Inverse { storage, .. } => match storage.by_sides_of(&block) {
            Storage::Full | Storage::Dense => Some(Storage::Dense),
            storage @ Storage::OneSided { .. } => Some(storage),
            // Their sums are no single matrix, or small.
            Storage::Samples
            | Storage::Diagonal
            | Storage::Isotropic
            | Storage::Kronecker { .. }
            | Storage::TwoSided { .. }
            | Storage::LowRank { .. } => None,
        },
    };
    let batches = reader(pair, Set::Train, options, device).batches(&all(pair)).len();
    (batches > 1).then_some(RowShare { block, batches, sum })
}

/// The sums of some batches, each as [`Accumulator::into_matrix`] gives it: [`Accumulator::merge_matrix`] of all in their
/// order is the sum of one process, bit for bit.
///
/// # Errors
///
/// As [`score`](crate::score), and those of `found`.
pub fn sum_rows(
    pair: &GradientPair,
    share: &RowShare,
    options: &Options,
    device: &Device,
    batches: &[usize],
    found: &mut Found<'_, MatrixSum>,
) -> Result<(), StoreError> {
    pair.check_memory(1, options, device)?;
    let Some(storage) = share.sum else { return Ok(()) };
    each_batch(pair, options, device, batches, &mut |train| {
        let mut sum = Accumulator::new(share.block.clone(), storage)?;
        train.pass(&mut |batch| {
            batch.into_gradients().blocks.into_iter().try_for_each(|rows| sum.add(rows)).map_err(ScoreError::from)
        })?;
        sum.into_matrix().map_or(Ok(()), &mut *found)
    })
}

/// The scores of some batches, for [`BlockScores::append`] in their order. `known` is the curvature of the training
/// gradients, if the method has one.
///
/// # Errors
///
/// As [`score`](crate::score), and those of `found`.
pub fn score_rows(
    pair: &GradientPair,
    known: Option<&BlockCurvature>,
    options: &Options,
    device: &Device,
    batches: &[usize],
    found: &mut Found<'_, BlockScores>,
) -> Result<(), StoreError> {
    pair.check_memory(1, options, device)?;
    if batches.is_empty() {
        return Ok(());
    }
    let (blocks, unmerged) = (all(pair), Options { merged: false, ..options.clone() });
    let source = |set| {
        let reader = reader(pair, set, options, device);
        let loaded = if set == Set::Train { None } else { reader.load(&blocks)? };
        reader.source(&blocks, loaded, device)
    };
    let sources = pair.sets().into_iter().map(source).collect::<Result<Vec<FileSource<'_>>, StoreError>>()?;
    let mut scorer = None;
    as_sets(&sources, None, options.query, &mut |train, query, _| {
        let curvature = match known {
            Some(known) => CurvatureFrom::KnownTraining(vec![known.clone()]),
            None => curvature(&sources[0], None),
        };
        scorer = RowScorer::new(train, query, curvature, &unmerged)?;
        Ok(())
    })
    .map_err(|error| explain(pair, error))?;
    drop(sources);
    let Some(mut scorer) = scorer else { return Ok(()) };
    each_batch(pair, options, device, batches, &mut |train| found(scorer.score(train)?))
}

fn all(pair: &GradientPair) -> Vec<usize> {
    (0..pair.train.blocks().len()).collect()
}

fn reader<'a>(pair: &'a GradientPair, set: Set, options: &'a Options, device: &Device) -> Reader<'a> {
    Reader { pair, set, options, precision: pair.precision(device) }
}

/// Visits some batches of the training samples, each as a source of its own.
fn each_batch(
    pair: &GradientPair,
    options: &Options,
    device: &Device,
    batches: &[usize],
    visit: &mut dyn FnMut(&dyn Source) -> Result<(), ScoreError>,
) -> Result<(), StoreError> {
    let (blocks, reader) = (all(pair), reader(pair, Set::Train, options, device));
    let ranges = reader.batches(&blocks);
    for &batch in batches {
        let samples = ranges[batch].clone();
        let first = samples.start;
        let source = reader.source(&blocks, None, device)?.of_samples(samples);
        visit(&source).map_err(|error| match error {
            ScoreError::NonFinite { set: Set::Train, block, sample, value } => {
                explain(pair, ScoreError::NonFinite { set: Set::Train, block, sample: first + sample, value })
            }
            ScoreError::Overflow { query, sample, value } => {
                StoreError::Score(ScoreError::Overflow { query, sample: first + sample, value })
            }
            error => explain(pair, error),
        })?;
    }
    Ok(())
}
