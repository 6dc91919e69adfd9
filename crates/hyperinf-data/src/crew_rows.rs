//! Batches of merged blocks that ranks share: their parts of the curvature's sum, and their scores.

use burn::tensor::{DType, Device, Tensor};
use hyperinf_curvature::{Accumulator, BlockCurvature, MatrixSum};
use hyperinf_linalg::ReadError;
use hyperinf_scoring::{Attribution, BlockScores, Method, Options, ScoreError, Scorer, Set, TeamError};
use hyperinf_store::{RowShare, curvature_from_bytes, curvature_to_bytes, curvatures, row_share, score_rows, sum_rows};
use serde::{Deserialize, Serialize};

use crate::RunError;
use crate::crew::Crew;
use crate::crew_blocks::{Job, of_query, opened, unwrapped};
use crate::crew_gather::{Outgoing, arrived};
use crate::crew_message::{Unread, packed};
use crate::crew_orders::{RowWork, Work};
use crate::crew_work::several;
use crate::run::Run;

/// The scores of merged blocks by all ranks; `None` where rank 0 computes them alone. `own_work` is what rank 0 does
/// before it waits for others.
pub(crate) fn score(
    job: &Job<'_>,
    own_work: impl FnOnce() -> Result<(), RunError>,
) -> Result<Option<Attribution>, RunError> {
    let Job { pair, options, device, .. } = *job;
    let Some((crew, share)) = shared(job) else { return Ok(None) };
    let own = pair.own_curvature(options).and_then(<[_]>::first).cloned();
    let sums = own.is_none() && share.sum.is_some();
    let curvature = matches!(options.method, Method::Inverse { .. });
    let scoring = job.scoring(crew, options)?;
    let work = crew.order(&Work::Rows(RowWork { scoring, sums, scores: true, curvature }))?;
    let known = match (own, curvature) {
        (Some(own), _) => Some(own),
        (None, false) => None,
        (None, true) if sums => Some(sum(crew, job, &share)?),
        (None, true) => crew.computing(|| curvatures(pair, options, device))?.pop(),
    };
    if let Some(known) = &known {
        let bytes = curvature_to_bytes(std::slice::from_ref(known)).ok_or_else(|| garbled(0))?;
        (1..crew.size()).try_for_each(|rank| crew.send(rank, &bytes))?;
    }
    let mut own = Vec::new();
    let mut keep = |scores| {
        own.push(scores);
        Ok(())
    };
    crew.computing(|| score_rows(pair, known.as_ref(), options, device, &batches(crew, &share, 0), &mut keep))?;
    crew.computing(own_work)?;
    let (mut own, mut whole) = (own.into_iter(), None::<BlockScores>);
    for batch in 0..share.batches {
        let found = match crew.owner(batch) {
            0 => own.next().ok_or_else(|| garbled(0))?,
            rank => arrived(crew, rank, options, &share.block)?,
        };
        match &mut whole {
            None => whole = Some(found),
            Some(whole) => whole.append(found),
        }
    }
    work.end();
    let mut scorer = Scorer::new(Options { merged: false, ..options.clone() })?;
    scorer.merge(whole.ok_or_else(|| garbled(0))?)?;
    Ok(Some(scorer.finish()?))
}

/// The curvature of merged blocks by all ranks; `None` where rank 0 computes it alone.
pub(crate) fn curvature(job: &Job<'_>) -> Result<Option<BlockCurvature>, RunError> {
    let Some((crew, share)) = shared(job).filter(|(_, share)| share.sum.is_some()) else { return Ok(None) };
    let scoring = job.scoring(crew, job.options)?;
    let work = crew.order(&Work::Rows(RowWork { scoring, sums: true, scores: false, curvature: true }))?;
    let found = sum(crew, job, &share)?;
    work.end();
    Ok(Some(found))
}

/// Does this rank's part of work on merged blocks.
pub(crate) fn serve(crew: &Crew, run: &Run, work: &RowWork, device: &Device) -> Result<(), RunError> {
    let (pair, options) = opened(crew, run, &work.scoring, device)?;
    let share = row_share(&pair, &options, device).ok_or_else(|| garbled(0))?;
    let own = batches(crew, &share, crew.rank());
    if work.sums {
        let mut send = |sum| to_bytes(sum).and_then(|bytes| crew.send(0, &bytes)).map_err(ScoreError::source);
        crew.computing(|| sum_rows(&pair, &share, &options, device, &own, &mut send)).map_err(unwrapped)?;
    }
    if !work.scores {
        return Ok(());
    }
    let known = match work.curvature {
        true => {
            let bytes = crew.receive(0, "the curvature of all blocks")?;
            Some(curvature_from_bytes(&bytes, device).and_then(|mut found| found.pop()).ok_or_else(|| garbled(0))?)
        }
        false => None,
    };
    let mut outgoing = Outgoing::new(crew);
    let mut keep = |scores| outgoing.keep(scores).map_err(ScoreError::source);
    let done = crew.computing(|| score_rows(&pair, known.as_ref(), &options, device, &own, &mut keep));
    done.map_err(|error| of_query(unwrapped(error), pair.samples(Set::Query).start))?;
    outgoing.finish()
}

/// The crew, and what it can share.
fn shared<'a>(job: &Job<'a>) -> Option<(&'a Crew, RowShare)> {
    let crew = several(job.run).filter(|_| job.known.is_none())?;
    Some((crew, row_share(job.pair, job.options, job.device)?))
}

fn batches(crew: &Crew, share: &RowShare, rank: usize) -> Vec<usize> {
    (0..share.batches).filter(|&batch| crew.owner(batch) == rank).collect()
}

/// The sum of all batches in their order, at rank 0.
fn sum(crew: &Crew, job: &Job<'_>, share: &RowShare) -> Result<BlockCurvature, RunError> {
    let Job { pair, options, device, .. } = *job;
    let storage = share.sum.ok_or_else(|| garbled(0))?;
    let mut all = Accumulator::new(share.block.clone(), storage).map_err(ScoreError::from)?;
    let mut next = 0;
    // Others' batches before an own one are added first: no sum is held besides the total.
    let mut add = |own: MatrixSum| {
        while crew.owner(next) != 0 {
            let rank = crew.owner(next);
            all.merge_matrix(received(crew, rank, device).map_err(ScoreError::source)?)?;
            next += 1;
        }
        next += 1;
        Ok(all.merge_matrix(own)?)
    };
    crew.computing(|| sum_rows(pair, share, options, device, &batches(crew, share, 0), &mut add)).map_err(unwrapped)?;
    while next < share.batches {
        all.merge_matrix(received(crew, crew.owner(next), device)?).map_err(ScoreError::from)?;
        next += 1;
    }
    all.end_pass().map_err(ScoreError::from)?;
    Ok(all.finish().map_err(ScoreError::from)?)
}

fn garbled(rank: usize) -> TeamError {
    TeamError::Garbled { rank, reason: "it is not that of merged blocks".to_owned() }
}

/// What is sent of a sum before its numbers.
#[derive(Serialize, Deserialize)]
struct Head {
    side: usize,
    dtype: DType,
    /// The bits.
    square_sum: u64,
    samples: usize,
}

fn to_bytes(sum: MatrixSum) -> Result<Vec<u8>, RunError> {
    let MatrixSum { matrix, square_sum, samples } = sum;
    let [side, _] = matrix.dims();
    let data = matrix.try_into_data().map_err(|error| ReadError { reason: format!("{error:?}") })?;
    let head = Head { side, dtype: data.dtype(), square_sum: square_sum.to_bits(), samples };
    Ok(packed(&head, [data.as_bytes()]))
}

fn received(crew: &Crew, rank: usize, device: &Device) -> Result<MatrixSum, RunError> {
    let bytes = crew.receive(rank, "the sum over a batch")?;
    let (Head { side, dtype, square_sum, samples }, mut unread) = Unread::new::<Head>(rank, &bytes)?;
    let matrix = Tensor::from_data(unread.tensor(&[side, side], dtype)?, (device, dtype));
    unread.end()?;
    Ok(MatrixSum { matrix, square_sum: f64::from_bits(square_sum), samples })
}
