//! Passes over sources: what every function of this crate does with batches.

use burn::tensor::Tensor;
use hyperinf_curvature::{Accumulator, BlockCurvature, Storage};
use hyperinf_gradients::{Block, Gradients, same_layout};
use hyperinf_linalg::host;

use crate::{Options, QueryMode, ScoreError, Scores, Set, Source};

/// One curvature per block: of one pass over the source, or of as many as the storage needs.
pub(crate) fn accumulate(
    source: &dyn Source,
    set: Set,
    queries: Option<&Gradients>,
    storage: Storage,
    merged: bool,
) -> Result<Vec<BlockCurvature>, ScoreError> {
    let error = ScoreError::curvature(set);
    let mut sums: Vec<Accumulator> = Vec::new();
    // What is merged has one row, whatever its blocks were.
    let blocks = source.unprojected().filter(|_| !merged);
    let storages = |layout: &[Block]| match &blocks {
        Some(blocks) => blocks.iter().map(|block| storage.by_sides_of(block)).collect(),
        None => vec![storage; layout.len()],
    };
    loop {
        // Merged blocks have no captures: their gradients are put side by side.
        if !merged && storage.needs_captures() {
            source.pass_captures(&mut |captures| {
                let layout: Vec<Block> = captures.iter().map(|c| c.block.clone()).collect();
                start(&mut sums, &layout, &storages, set)?;
                same_blocks(&sums, &layout, set)?;
                sums.iter_mut().zip(&captures).try_for_each(|(sum, capture)| sum.add_capture(capture)).map_err(&error)
            })?;
        } else {
            each_batch(source, merged, set, &mut |gradients| {
                start(&mut sums, &gradients.layout, &storages, set)?;
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
fn start(
    sums: &mut Vec<Accumulator>,
    layout: &[Block],
    storages: &dyn Fn(&[Block]) -> Vec<Storage>,
    set: Set,
) -> Result<(), ScoreError> {
    if sums.is_empty() {
        let new = layout.iter().zip(storages(layout)).map(|(block, storage)| Accumulator::new(block.clone(), storage));
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
    each_batch(source, merged, set, &mut |gradients| {
        squares(&gradients, seen, set)?;
        seen += gradients.samples();
        let more = gradients.sum();
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

/// Goes through a source, with merged blocks if asked for; a batch without samples is passed over.
pub(crate) fn each_batch(
    source: &dyn Source,
    merged: bool,
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
        visit(if merged { gradients.merged() } else { gradients })
    })
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
    Ok(Scores { rows: host(products)?.chunks(n).map(<[f64]>::to_vec).collect() })
}
