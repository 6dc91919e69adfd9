//! Position scorers that travel: each rank prepares the queries of some blocks, and all score some samples.

use burn::tensor::{DType, Device, Tensor, TensorData};
use ciborium::{from_reader, into_writer};
use hyperinf_gradients::Block;
use hyperinf_linalg::ReadError;
use serde::{Deserialize, Serialize};

use crate::part::add;
use crate::precondition::BlockInverse;
use crate::{Normalisation, Options, PositionScorer, ScoreError, Set};

/// What is sent before the numbers.
#[derive(Serialize, Deserialize)]
struct Head {
    queries: usize,
    query_squares: Vec<f64>,
    blocks: Vec<Sides>,
}

#[derive(Serialize, Deserialize)]
struct Sides {
    name: String,
    rows: usize,
    cols: usize,
    /// Neither curvature nor damping.
    zero: bool,
    dtype: DType,
}

impl PositionScorer {
    /// Adds the blocks of another scorer, which follow these.
    ///
    /// # Errors
    ///
    /// If the numbers of queries differ.
    pub fn merge(&mut self, later: Self) -> Result<(), ScoreError> {
        let (found, expected) = (later.queries, self.queries);
        if expected != 0 && found != expected {
            return Err(ScoreError::SampleCount { set: Set::Query, found, expected });
        }
        self.queries = found;
        self.inverses.extend(later.inverses);
        self.x.extend(later.x);
        self.layout.extend(later.layout);
        add(&mut self.query_squares, later.query_squares);
        Ok(())
    }

    /// As bytes, with all digits, without the reports; `None` where the divisor of a sample needs the inverse itself.
    ///
    /// # Errors
    ///
    /// If the numbers cannot be read from the device.
    pub fn to_bytes(&self) -> Result<Option<Vec<u8>>, ScoreError> {
        if matches!(self.options.normalisation, Normalisation::LossRelatif | Normalisation::ThetaRelatif) {
            return Ok(None);
        }
        let (mut blocks, mut numbers) = (Vec::new(), Vec::new());
        for ((block, inverted), x) in self.layout.iter().zip(&self.inverses).zip(&self.x) {
            let data = x.clone().try_into_data().map_err(|error| ReadError { reason: format!("{error:?}") })?;
            let (Block { name, rows, cols }, zero, dtype) = (block.clone(), inverted.is_zero(), data.dtype());
            blocks.push(Sides { name, rows, cols, zero, dtype });
            numbers.extend_from_slice(data.as_bytes());
        }
        let mut bytes = Vec::new();
        let head = Head { queries: self.queries, query_squares: self.query_squares.clone(), blocks };
        into_writer(&head, &mut bytes).expect("memory takes bytes");
        bytes.extend(numbers);
        Ok(Some(bytes))
    }

    /// From [`PositionScorer::to_bytes`], by the same options.
    ///
    /// # Errors
    ///
    /// A text that says why they cannot be read.
    pub fn from_bytes(bytes: &[u8], options: &Options, device: &Device) -> Result<Self, String> {
        let mut rest = bytes;
        let Head { queries, query_squares, blocks } = from_reader(&mut rest).map_err(|error| error.to_string())?;
        let (mut inverses, mut x, mut layout) = (Vec::new(), Vec::new(), Vec::new());
        for Sides { name, rows, cols, zero, dtype } in blocks {
            let parameters = rows.checked_mul(cols).ok_or("a block is too large")?;
            let count = parameters.checked_mul(queries).and_then(|count| count.checked_mul(dtype.size()));
            let (now, later) = rest.split_at_checked(count.ok_or("a block is too large")?).ok_or("it is too short")?;
            let data = TensorData::from_bytes_vec(now.to_vec(), [queries, parameters], dtype);
            x.push(Tensor::from_data(data, (device, dtype)));
            let block = Block::new(name, rows, cols);
            inverses.push(BlockInverse::released(block.clone(), zero));
            layout.push(block);
            rest = later;
        }
        if !rest.is_empty() {
            return Err("it is too long".to_owned());
        }
        Ok(Self { options: options.clone(), inverses, x, query_squares, layout, queries })
    }
}
