//! Curvature of a model by several ranks: each takes the captures of its batches, and rank 0 adds them in the order of
//! one process.

use burn::tensor::{DType, Device, Shape, Tensor, TensorData};
use hyperinf_gradients::{Block, Capture, Estimate};
use hyperinf_models::SampleModel;
use hyperinf_scoring::{Batch, CurvatureSource, ScoreError, Source, TeamError};
use serde::{Deserialize, Serialize};

use crate::RunError;
use crate::crew::{Crew, Work};
use crate::estimate::batches;
use crate::run::Run;

/// The pseudo-samples of an estimate, each batch's from its rank.
pub(crate) struct SharedCurvature<'a, M: SampleModel> {
    pub(crate) crew: &'a Crew,
    pub(crate) source: CurvatureSource<'a, M, &'a [M::Batch]>,
    pub(crate) device: Device,
}

impl<M: SampleModel> Source for SharedCurvature<'_, M> {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        let crew = self.crew;
        let failed = |error: RunError| ScoreError::source(error);
        crew.order(&Work::Curvature { method: crew.method, estimate: self.source.estimate }).map_err(failed)?;
        let factors = self.source.factors();
        for index in 0..self.source.batches.len() {
            match crew.owner(index) {
                0 => self.source.batch(index, factors.as_deref(), visit)?,
                rank => loop {
                    let bytes = crew.receive(rank, "the captures of a batch").map_err(failed)?;
                    match from_bytes(&bytes, &self.device).map_err(|reason| TeamError::Garbled { rank, reason }) {
                        Ok(captures) if captures.is_empty() => break,
                        Ok(captures) => visit(captures.into())?,
                        Err(error) => return Err(failed(error.into())),
                    }
                },
            }
        }
        Ok(())
    }
}

/// Sends the captures of this rank's batches to rank 0, and nothing after each batch.
pub(crate) fn serve<M: SampleModel>(
    crew: &Crew,
    run: &Run,
    estimate: Estimate,
    model: &M,
    samples: &[M::Sample],
) -> Result<(), RunError> {
    let batches = batches(run, model, samples)?;
    let source = CurvatureSource { task: model, batches: batches.as_slice(), estimate };
    let factors = source.factors();
    for index in (0..batches.len()).filter(|&index| crew.owner(index) == crew.rank()) {
        // Passes of one batch follow each other: what is sent does not wait for the last one.
        let mut sent = Ok(());
        source.batch(index, factors.as_deref(), &mut |batch| {
            if sent.is_ok() {
                sent = to_bytes(batch.into_captures()?)
                    .map_err(|reason| TeamError::Failed { reason }.into())
                    .and_then(|bytes| crew.send(0, &bytes));
            }
            Ok(())
        })?;
        sent?;
        crew.send(0, &to_bytes(Vec::new()).map_err(|reason| TeamError::Failed { reason })?)?;
    }
    Ok(())
}

/// What is sent of a capture before its numbers.
#[derive(Serialize, Deserialize)]
struct Head {
    name: String,
    sides: [usize; 2],
    input: ([usize; 3], DType),
    delta: ([usize; 3], DType),
}

/// Captures as a message: the length of a list of heads, the list, and the numbers.
fn to_bytes(captures: Vec<Capture>) -> Result<Vec<u8>, String> {
    let (mut heads, mut numbers) = (Vec::new(), Vec::new());
    for Capture { block, input, delta } in captures {
        let mut read = |tensor: Tensor<3>| {
            let dims = tensor.dims();
            let data = tensor.try_into_data().map_err(|error| error.to_string())?;
            numbers.extend_from_slice(data.as_bytes());
            Ok::<_, String>((dims, data.dtype()))
        };
        let (input, delta) = (read(input)?, read(delta)?);
        heads.push(Head { name: block.name, sides: [block.rows, block.cols], input, delta });
    }
    let heads = serde_json::to_vec(&heads).map_err(|error| error.to_string())?;
    let mut bytes = (heads.len() as u64).to_le_bytes().to_vec();
    bytes.extend(heads);
    bytes.extend(numbers);
    Ok(bytes)
}

fn from_bytes(bytes: &[u8], device: &Device) -> Result<Vec<Capture>, String> {
    let cut = || "it is too short".to_owned();
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| cut())?;
    let (heads, mut rest) = rest.split_at_checked(length).ok_or_else(cut)?;
    let heads: Vec<Head> = serde_json::from_slice(heads).map_err(|error| error.to_string())?;
    let mut captures = Vec::with_capacity(heads.len());
    for Head { name, sides: [rows, cols], input, delta } in heads {
        let mut tensor = |(dims, dtype): ([usize; 3], DType)| {
            let count = dims.iter().try_fold(dtype.size(), |all, &side| all.checked_mul(side)).ok_or_else(cut)?;
            let (numbers, after) = rest.split_at_checked(count).ok_or_else(cut)?;
            rest = after;
            let data = TensorData::from_bytes_vec(numbers.to_vec(), Shape::from(dims.to_vec()), dtype);
            Ok::<_, String>(Tensor::from_data(data, (device, dtype)))
        };
        let (input, delta) = (tensor(input)?, tensor(delta)?);
        captures.push(Capture { block: Block::new(name, rows, cols), input, delta });
    }
    if rest.is_empty() { Ok(captures) } else { Err("it is too long".to_owned()) }
}
