//! Scores of tokens, batch by batch: by one process, or by the ranks that share them.

use hyperinf_gradients::Block;
use hyperinf_models::SampleModel;
use hyperinf_scoring::{Batch, PositionScorer, ScoreError, Source, TaskSource, TeamError};

use burn::tensor::Device;

use crate::RunError;
use crate::crew::Crew;
use crate::crew_message::{Unread, packed};
use crate::crew_orders::Work;
use crate::crew_work::{method, several};
use crate::estimate::Blocks;
use crate::event::Event;
use crate::run::Run;
use crate::stage::Stage;

/// The scores of one row's positions for all queries, padding included.
pub(crate) struct OfRow {
    /// `[queries, positions]`.
    pub(crate) scores: Vec<Vec<f64>>,
    /// `[queries]`.
    pub(crate) whole: Vec<f64>,
}

/// The scores of the positions of some rows, in their order; `blocks` are those of the scorer.
pub(crate) fn of_rows<M: SampleModel>(
    run: &Run,
    model: &M,
    samples: &[M::Sample],
    blocks: &[&Block],
    rows: &[usize],
    scorer: PositionScorer,
    observe: &mut dyn FnMut(Event),
) -> Result<Vec<OfRow>, RunError> {
    let blocks: Vec<String> = blocks.iter().map(|block| block.name.clone()).collect();
    let batches = batches::<M>(run, samples, rows);
    // Where a sample's divisor needs the inverse there is nothing to be sent.
    let sent = several(run).map(|crew| Ok::<_, ScoreError>((crew, scorer.to_bytes()?))).transpose()?;
    let Some((crew, bytes)) = sent.and_then(|(crew, bytes)| Some((crew, bytes?))) else {
        let all: Vec<&[usize]> = batches.iter().map(Vec::as_slice).collect();
        let found = of_batches(run, model, samples, &all, &blocks, scorer, observe)?;
        return in_order(&batches, found, rows);
    };
    let work = crew.order(&Work::Tokens { of: method(crew, run), rows: rows.to_vec(), blocks: blocks.clone() })?;
    (1..crew.size()).try_for_each(|rank| crew.send(rank, &bytes))?;
    let own = owned(crew, &batches, 0);
    let own = crew.computing(|| of_batches(run, model, samples, &own, &blocks, scorer, observe))?;
    let mut own = own.into_iter();
    let mut found = Vec::with_capacity(batches.len());
    for (number, batch) in batches.iter().enumerate() {
        found.push(match crew.owner(number) {
            0 => own.next().unwrap_or_default(),
            rank => from_bytes(rank, &crew.receive(rank, "the scores of tokens")?, batch.len())?,
        });
    }
    work.end();
    in_order(&batches, found, rows)
}

/// Scores the tokens of this rank's batches for rank 0.
pub(crate) fn serve<M: SampleModel>(
    crew: &Crew,
    run: &Run,
    model: &M,
    samples: &[M::Sample],
    (rows, blocks): (&[usize], &[String]),
    device: &Device,
) -> Result<(), RunError> {
    let garbled = |reason: String| TeamError::Garbled { rank: 0, reason };
    let bytes = crew.receive(0, "the preconditioned queries")?;
    let scorer = PositionScorer::from_bytes(&bytes, &run.options, device).map_err(garbled)?;
    if let Some(row) = rows.iter().find(|&&row| row >= samples.len()) {
        return Err(garbled(format!("there is no row {row}")).into());
    }
    let batches = batches::<M>(run, samples, rows);
    let own = owned(crew, &batches, crew.rank());
    let found = crew.computing(|| of_batches(run, model, samples, &own, blocks, scorer, &mut |_| {}))?;
    found.iter().try_for_each(|batch| crew.send(0, &to_bytes(batch)))
}

/// The rows in batches of similar length.
fn batches<M: SampleModel>(run: &Run, samples: &[M::Sample], rows: &[usize]) -> Vec<Vec<usize>> {
    let mut order = rows.to_vec();
    order.sort_by_key(|&row| M::length(&samples[row]));
    order.chunks(run.batch_size).map(<[usize]>::to_vec).collect()
}

fn owned<'a>(crew: &Crew, batches: &'a [Vec<usize>], rank: usize) -> Vec<&'a [usize]> {
    let own = batches.iter().enumerate().filter(|(batch, _)| crew.owner(*batch) == rank);
    own.map(|(_, batch)| batch.as_slice()).collect()
}

/// The rows of batches in the order of the rows.
fn in_order(batches: &[Vec<usize>], found: Vec<Vec<OfRow>>, rows: &[usize]) -> Result<Vec<OfRow>, RunError> {
    let mut places: Vec<Option<OfRow>> = rows.iter().map(|_| None).collect();
    for (row, found) in batches.iter().flatten().zip(found.into_iter().flatten()) {
        if let Ok(place) = rows.binary_search(row) {
            places[place] = Some(found);
        }
    }
    let reason = || "rows are missing among the scores of tokens".to_owned();
    let all: Option<Vec<OfRow>> = places.into_iter().collect();
    all.ok_or_else(|| TeamError::Garbled { rank: 0, reason: reason() }.into())
}

/// The scores of the positions of batches of rows.
fn of_batches<M: SampleModel>(
    run: &Run,
    model: &M,
    samples: &[M::Sample],
    batches: &[&[usize]],
    blocks: &[String],
    scorer: PositionScorer,
    observe: &mut dyn FnMut(Event),
) -> Result<Vec<Vec<OfRow>>, RunError> {
    if batches.is_empty() {
        return Ok(Vec::new());
    }
    let collated = batches.iter().map(|rows| model.collate(&rows.iter().map(|&row| &samples[row]).collect::<Vec<_>>()));
    let collated = collated.collect::<Result<Vec<_>, _>>()?;
    let all = TaskSource::train(model, collated.as_slice());
    let source = InOrder { all: Blocks::new(run, all, Stage::Tokens, batches.len(), observe), blocks };
    let mut found = scorer.finish(&source)?;
    let mut at = 0;
    let mut next = |_: &usize| {
        let scores = found.rows.iter_mut().map(|rows| std::mem::take(&mut rows[at])).collect();
        let whole = found.whole.iter().map(|whole| whole[at]).collect();
        at += 1;
        OfRow { scores, whole }
    };
    Ok(batches.iter().map(|rows| rows.iter().map(&mut next).collect()).collect())
}

/// Captures in the order of the blocks of a file.
struct InOrder<'a, S> {
    all: S,
    blocks: &'a [String],
}

impl<S: Source> Source for InOrder<'_, S> {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.all.pass(&mut |batch| {
            let mut captures = batch.into_captures()?;
            captures.sort_by_key(|capture| self.blocks.iter().position(|block| *block == capture.block.name));
            visit(captures.into())
        })
    }
}

/// A batch as a message: for each row the positions of each query, and then the numbers.
fn to_bytes(batch: &[OfRow]) -> Vec<u8> {
    let positions: Vec<Vec<usize>> = batch.iter().map(|row| row.scores.iter().map(Vec::len).collect()).collect();
    let numbers = batch.iter().flat_map(|row| row.scores.iter().flatten().chain(&row.whole));
    let numbers: Vec<u8> = numbers.flat_map(|number| number.to_le_bytes()).collect();
    packed(&positions, [&*numbers])
}

/// From [`to_bytes`] of another rank, for a batch of so many rows.
fn from_bytes(rank: usize, bytes: &[u8], rows: usize) -> Result<Vec<OfRow>, RunError> {
    let (positions, mut unread) = Unread::new::<Vec<Vec<usize>>>(rank, bytes)?;
    if positions.len() != rows {
        return Err(unread.garbled(&format!("it has {} rows, and the batch {rows}", positions.len())).into());
    }
    let mut numbers = |count: usize| {
        let bytes = unread.take(count.saturating_mul(8))?;
        Ok::<Vec<f64>, TeamError>(bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
    };
    let mut found = Vec::with_capacity(rows);
    for lengths in positions {
        let scores = lengths.iter().map(|&length| numbers(length)).collect::<Result<_, _>>()?;
        found.push(OfRow { scores, whole: numbers(lengths.len())? });
    }
    unread.end()?;
    Ok(found)
}
