//! Passes over sources.

use burn::tensor::Tensor;
use hyperinf_curvature::{Accumulator, BlockCurvature, CurvatureError, Storage};
use hyperinf_gradients::{Block, Gradients, same_layout};
use hyperinf_linalg::host;

use crate::block_rows::BatchRows;
use crate::side_by_side::{self, is_small};
use crate::source::Replayed;
use crate::{Batch, Options, QueryMode, Samples, ScoreError, Scores, Set, Source};

/// One curvature per block, from as many passes over the source as the storage needs.
pub(crate) fn accumulate(
    source: &dyn Source,
    set: Set,
    queries: Option<&Gradients>,
    storage: Storage,
    merged: bool,
) -> Result<Vec<BlockCurvature>, ScoreError> {
    let error = ScoreError::curvature(set);
    let replayed = Replayed::new(source);
    let source: &dyn Source = if storage.passes() > 1 { &replayed } else { source };
    let mut sums: Vec<Accumulator> = Vec::new();
    loop {
        source.pass(&mut |batch| {
            // A merged block has one row, whatever its blocks were.
            let unprojected = batch.unprojected.clone().filter(|_| !merged);
            let mut ready = |layout: &[Block]| {
                if sums.is_empty() {
                    sums = start(layout, unprojected.as_deref().unwrap_or(layout), storage).map_err(&error)?;
                }
                same_blocks(&sums, layout, set)
            };
            // Merged blocks have no captures: their gradients are put side by side.
            let captured = matches!(batch.samples, Samples::Captures(_));
            if !merged && (captured || storage.needs_captures()) {
                let layout = batch.layout();
                if layout.is_empty() {
                    return Err(ScoreError::Empty { set, what: "blocks" });
                }
                if batch.samples() == 0 {
                    return Ok(());
                }
                ready(&layout)?;
                let captures = batch.into_captures()?;
                return Accumulator::add_captures(&mut sums, &captures).map_err(&error);
            }
            let Some(gradients) = read(batch, merged, set)? else { return Ok(()) };
            ready(&gradients.layout)?;
            let largest = gradients.layout.iter().map(Block::parameters).max().unwrap_or(0);
            let small = is_small(&gradients.blocks[0].device(), gradients.samples() * largest);
            if !small {
                return Accumulator::add_each(&mut sums, gradients.blocks).map_err(&error);
            }
            let add = |(sum, block): (&mut Accumulator, Tensor<3>)| sum.add(block).map_err(&error);
            side_by_side::each(sums.iter_mut().zip(gradients.blocks), true, add).map(drop)
        })?;
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

/// An empty sum per block; the blocks before a projection decide the sides.
fn start(layout: &[Block], unprojected: &[Block], storage: Storage) -> Result<Vec<Accumulator>, CurvatureError> {
    let blocks = layout.iter().zip(unprojected);
    blocks.map(|(block, before)| Accumulator::new(block.clone(), storage.by_sides_of(before))).collect()
}

/// Fails unless the blocks are those of the sums, in their order.
fn same_blocks(sums: &[Accumulator], layout: &[Block], set: Set) -> Result<(), ScoreError> {
    let expected: Vec<Block> = sums.iter().map(|sum| sum.block().clone()).collect();
    same_layout(&expected, layout).map_err(ScoreError::gradients(set))
}

/// All query gradients, or their mean; checked to be finite.
pub(crate) fn queries(source: &dyn Source, options: &Options) -> Result<Gradients, ScoreError> {
    match options.query {
        QueryMode::Each => {
            let (mut sets, mut seen): (Vec<Gradients>, usize) = (Vec::new(), 0);
            each_batch(source, options.merged, Set::Query, &mut |gradients| {
                squares(&gradients, seen, Set::Query)?;
                seen += gradients.samples();
                sets.push(gradients);
                Ok(())
            })?;
            if sets.is_empty() {
                return Err(ScoreError::Empty { set: Set::Query, what: "samples" });
            }
            Gradients::concat(sets).map_err(ScoreError::gradients(Set::Query))
        }
        QueryMode::Mean => mean(source, options.merged, Set::Query),
    }
}

/// The mean of a set's gradients, as one sample; checked to be finite.
pub(crate) fn mean(source: &dyn Source, merged: bool, set: Set) -> Result<Gradients, ScoreError> {
    let (mut total, mut seen): (Option<Gradients>, usize) = (None, 0);
    source.pass(&mut |batch| {
        let Some(batch) = BatchRows::new(batch, merged, set)? else { return Ok(()) };
        seen += batch.squared_norms(seen, set)?.len();
        let more = batch.sum();
        match &mut total {
            None => total = Some(more),
            Some(sum) => {
                sum.same_layout(&more).map_err(ScoreError::gradients(set))?;
                sum.blocks = sum.blocks.iter().zip(more.blocks).map(|(a, b)| a.clone() + b).collect();
            }
        }
        Ok(())
    })?;
    let mut mean = total.ok_or(ScoreError::Empty { set, what: "samples" })?;
    mean.blocks = mean.blocks.into_iter().map(|b| b.div_scalar(seen as f64)).collect();
    Ok(mean)
}

/// Visits the gradients of every batch that has samples, merged on request.
pub(crate) fn each_batch(
    source: &dyn Source,
    merged: bool,
    set: Set,
    visit: &mut dyn FnMut(Gradients) -> Result<(), ScoreError>,
) -> Result<(), ScoreError> {
    source.pass(&mut |batch| read(batch, merged, set)?.map_or(Ok(()), &mut *visit))
}

/// The gradients of a batch, merged on request; `None` without samples.
fn read(batch: Batch, merged: bool, set: Set) -> Result<Option<Gradients>, ScoreError> {
    let gradients = batch.into_gradients();
    if gradients.layout.is_empty() {
        return Err(ScoreError::Empty { set, what: "blocks" });
    }
    if gradients.samples() == 0 {
        return Ok(None);
    }
    Ok(Some(if merged { gradients.merged() } else { gradients }))
}

/// `||g||²` of each sample of a batch that begins at sample `seen`, or the sample whose gradient is not finite.
pub(crate) fn squares(gradients: &Gradients, seen: usize, set: Set) -> Result<Vec<f64>, ScoreError> {
    gradients.squared_norms().map_err(|error| match ScoreError::gradients(set)(error) {
        ScoreError::NonFinite { set, block, sample, value } => {
            ScoreError::NonFinite { set, block, sample: seen + sample, value }
        }
        other => other,
    })
}

/// Products `[q, n]` as scores.
pub(crate) fn read_rows(products: Tensor<2>) -> Result<Scores, ScoreError> {
    let [_, n] = products.dims();
    Ok(rows_of(&host(products)?, n))
}

/// Products of some queries with `n` samples, `[q, n]` in one piece, as scores.
pub(crate) fn rows_of(products: &[f64], n: usize) -> Scores {
    Scores { rows: products.chunks(n).map(<[f64]>::to_vec).collect() }
}
