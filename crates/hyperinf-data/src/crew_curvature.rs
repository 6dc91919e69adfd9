//! Curvature of a model by several ranks: each takes the captures of its batches, and rank 0 adds them in the order of
//! one process.

use burn::tensor::{DType, Device, Tensor};
use hyperinf_gradients::{Block, Capture, Estimate};
use hyperinf_linalg::ReadError;
use hyperinf_models::SampleModel;
use hyperinf_scoring::{Batch, CurvatureSource, ScoreError, Source, TeamError};
use serde::{Deserialize, Serialize};

use crate::RunError;
use crate::crew::Crew;
use crate::crew_message::{Unread, packed};
use crate::crew_orders::{Method, Work};
use crate::estimate::batches;
use crate::run::Run;

/// The pseudo-samples of an estimate, each batch's from its rank.
pub(crate) struct SharedCurvature<'a, M: SampleModel> {
    pub(crate) crew: &'a Crew,
    pub(crate) source: CurvatureSource<'a, M, &'a [M::Batch]>,
    /// Its method, in which the ranks must agree.
    pub(crate) method: Method,
    pub(crate) device: Device,
}

impl<M: SampleModel> Source for SharedCurvature<'_, M> {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        let crew = self.crew;
        let failed = |error: RunError| ScoreError::source(error);
        let work = Work::Curvature { of: self.method.clone(), estimate: self.source.estimate };
        let work = crew.order(&work).map_err(failed)?;
        let factors = self.source.factors();
        for index in 0..self.source.batches.len() {
            match crew.owner(index) {
                0 => self.source.batch(index, factors.as_deref(), visit)?,
                rank => loop {
                    let bytes = crew.receive(rank, "the captures of a batch").map_err(failed)?;
                    let captures = from_bytes(rank, &bytes, &self.device).map_err(|error| failed(error.into()))?;
                    if captures.is_empty() {
                        break;
                    }
                    visit(captures.into())?;
                },
            }
        }
        work.end();
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
                sent = to_bytes(batch.into_captures()?).and_then(|bytes| crew.send(0, &bytes));
            }
            Ok(())
        })?;
        sent?;
        crew.send(0, &to_bytes(Vec::new())?)?;
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

/// Captures as a message.
fn to_bytes(captures: Vec<Capture>) -> Result<Vec<u8>, RunError> {
    let (mut heads, mut numbers) = (Vec::new(), Vec::new());
    for Capture { block, input, delta } in captures {
        let mut read = |tensor: Tensor<3>| {
            let dims = tensor.dims();
            let data = tensor.try_into_data().map_err(|error| ReadError { reason: format!("{error:?}") })?;
            numbers.extend_from_slice(data.as_bytes());
            Ok::<_, ReadError>((dims, data.dtype()))
        };
        let (input, delta) = (read(input)?, read(delta)?);
        heads.push(Head { name: block.name, sides: [block.rows, block.cols], input, delta });
    }
    Ok(packed(&heads, [&*numbers]))
}

fn from_bytes(rank: usize, bytes: &[u8], device: &Device) -> Result<Vec<Capture>, TeamError> {
    let (heads, mut unread) = Unread::new::<Vec<Head>>(rank, bytes)?;
    let mut captures = Vec::with_capacity(heads.len());
    for Head { name, sides: [rows, cols], input, delta } in heads {
        let mut tensor = |(dims, dtype): ([usize; 3], DType)| {
            Ok::<_, TeamError>(Tensor::from_data(unread.tensor(&dims, dtype)?, (device, dtype)))
        };
        let (input, delta) = (tensor(input)?, tensor(delta)?);
        captures.push(Capture { block: Block::new(name, rows, cols), input, delta });
    }
    unread.end()?;
    Ok(captures)
}
