//! Products with a model's Gauss-Newton matrix by several ranks: each takes its batches, and rank 0 adds what they give in
//! the order of one process.

use burn::tensor::{DType, Device, Tensor};
use hyperinf_gradients::{BatchSums, Block, Difference, GaussNewton, GradientError, Gradients, Products};
use hyperinf_linalg::ReadError;
use hyperinf_models::SampleModel;
use hyperinf_scoring::TeamError;
use serde::{Deserialize, Serialize};

use crate::RunError;
use crate::crew::Crew;
use crate::crew_message::{Unread, packed};
use crate::crew_orders::{Method, Work};
use crate::estimate;
use crate::refined::chosen;
use crate::run::Run;

/// The products of all batches of one of a refinement's samples of rows, by a crew if there is one; `next` is called
/// before each batch.
pub(crate) fn products<M: SampleModel>(
    crew: Option<(&Crew, Method)>,
    model: &M,
    (sample, batches): (usize, &[M::Batch]),
    directions: &Gradients,
    difference: Difference,
    next: &mut dyn FnMut() -> Result<(), RunError>,
) -> Result<Products, RunError> {
    let first = batches.first().ok_or(GradientError::Empty { what: "batches" })?;
    let all = GaussNewton::new(model, first, directions, difference)?;
    let work = match &crew {
        Some((crew, of)) => {
            let work = crew.order(&Work::Products { of: of.clone(), sample, measured: difference.measured })?;
            let message = directions_to_bytes(directions)?;
            (1..crew.size()).try_for_each(|rank| crew.send(rank, &message))?;
            Some(work)
        }
        None => None,
    };
    let mut total = BatchSums::default();
    for (number, batch) in batches.iter().enumerate() {
        next()?;
        total.add(match crew.as_ref().map(|(crew, _)| (crew, crew.owner(number))) {
            None => all.of_batch(model, batch)?,
            Some((crew, 0)) => crew.computing(|| all.of_batch(model, batch))?,
            Some((crew, rank)) => {
                let bytes = crew.receive(rank, "the products of a batch")?;
                sums_from_bytes(rank, &bytes, &all.sides(), &directions.blocks[0].device())?
            }
        });
    }
    let found = all.finish(total)?;
    work.into_iter().for_each(|work| work.end());
    Ok(found)
}

/// Sends what this rank's batches give to rank 0.
pub(crate) fn serve<M: SampleModel>(
    crew: &Crew,
    run: &Run,
    (sample, measured): (usize, bool),
    (model, samples): (&M, &[M::Sample]),
    device: &Device,
) -> Result<(), RunError> {
    let directions = directions_from_bytes(&crew.receive(0, "the directions of products")?, device)?;
    let chosen = run.refine.and_then(|refine| chosen(samples, refine, sample));
    let batches = estimate::batches(run, model, chosen.as_deref().unwrap_or(samples))?;
    let first = batches.first().ok_or(GradientError::Empty { what: "batches" })?;
    let all = GaussNewton::new(model, first, &directions, Difference { measured, ..Difference::default() })?;
    for (_, batch) in batches.iter().enumerate().filter(|(number, _)| crew.owner(*number) == crew.rank()) {
        let found = crew.computing(|| all.of_batch(model, batch))?;
        crew.send(0, &sums_to_bytes(found)?)?;
    }
    Ok(())
}

/// What is sent of directions before their numbers.
#[derive(Serialize, Deserialize)]
struct Directions {
    count: usize,
    /// The name, the sides and the type of each block.
    blocks: Vec<(String, [usize; 2], DType)>,
}

fn directions_to_bytes(directions: &Gradients) -> Result<Vec<u8>, RunError> {
    let blocks = directions.layout.iter().zip(&directions.blocks);
    let blocks = blocks.map(|(block, rows)| (block.name.clone(), [block.rows, block.cols], rows.dtype())).collect();
    let head = Directions { count: directions.samples(), blocks };
    Ok(packed(&head, [&*numbers(&directions.blocks)?]))
}

fn directions_from_bytes(bytes: &[u8], device: &Device) -> Result<Gradients, RunError> {
    let (Directions { count, blocks }, mut unread) = Unread::new::<Directions>(0, bytes)?;
    let mut layout = Vec::with_capacity(blocks.len());
    let mut all = Vec::with_capacity(blocks.len());
    for (name, [rows, cols], dtype) in blocks {
        all.push(Tensor::from_data(unread.tensor(&[count, rows, cols], dtype)?, (device, dtype)));
        layout.push(Block::new(name, rows, cols));
    }
    unread.end()?;
    Ok(Gradients::new(layout, all)?)
}

/// The samples of a batch, and the type of its sums.
#[derive(Serialize, Deserialize)]
struct Sums {
    samples: usize,
    types: Vec<Vec<DType>>,
}

fn sums_to_bytes(found: BatchSums) -> Result<Vec<u8>, RunError> {
    let BatchSums { displacements, samples } = found;
    let types = displacements.iter().map(|sums| sums.iter().map(Tensor::dtype).collect()).collect();
    Ok(packed(&Sums { samples, types }, [&*numbers(&displacements.concat())?]))
}

/// From [`sums_to_bytes`] of another rank, for sums of these sides.
fn sums_from_bytes(
    rank: usize,
    bytes: &[u8],
    sides: &[Vec<[usize; 3]>],
    device: &Device,
) -> Result<BatchSums, TeamError> {
    let (Sums { samples, types }, mut unread) = Unread::new::<Sums>(rank, bytes)?;
    let count = |all: &[Vec<DType>]| all.iter().map(Vec::len).collect::<Vec<_>>();
    if count(&types) != sides.iter().map(Vec::len).collect::<Vec<_>>() {
        return Err(unread.garbled("it has other blocks"));
    }
    let mut displacements = Vec::with_capacity(sides.len());
    for (types, sides) in types.into_iter().zip(sides) {
        let sums = types
            .into_iter()
            .zip(sides)
            .map(|(dtype, sides)| Ok(Tensor::from_data(unread.tensor(sides, dtype)?, (device, dtype))));
        displacements.push(sums.collect::<Result<Vec<_>, TeamError>>()?);
    }
    unread.end()?;
    Ok(BatchSums { displacements, samples })
}

/// The numbers of some tensors, one after the other.
fn numbers(tensors: &[Tensor<3>]) -> Result<Vec<u8>, ReadError> {
    let mut all = Vec::new();
    for tensor in tensors {
        let data = tensor.clone().try_into_data().map_err(|error| ReadError { reason: format!("{error:?}") })?;
        all.extend_from_slice(data.as_bytes());
    }
    Ok(all)
}
