//! Messages of numbers between ranks: the length of a head, the head as JSON, and the numbers.

use burn::tensor::{DType, Shape, TensorData};
use hyperinf_scoring::TeamError;
use serde::{Deserialize, Serialize};

use crate::RunError;

/// A head and the numbers that it describes.
pub(crate) fn packed<'a>(head: &impl Serialize, numbers: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let head = serde_json::to_vec(head).expect("names and numbers can be written");
    let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
    bytes.extend(head);
    numbers.into_iter().for_each(|numbers| bytes.extend_from_slice(numbers));
    bytes
}

/// A message without numbers.
pub(crate) fn written(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("numbers and texts can be written")
}

/// From [`written`] by another rank.
pub(crate) fn read_json<T: for<'a> Deserialize<'a>>(rank: usize, bytes: &[u8]) -> Result<T, RunError> {
    serde_json::from_slice(bytes).map_err(|error| TeamError::Garbled { rank, reason: error.to_string() }.into())
}

/// The numbers of a message that have not been read yet.
pub(crate) struct Unread<'a> {
    rank: usize,
    rest: &'a [u8],
}

impl<'a> Unread<'a> {
    /// The head of another rank's message, and its numbers.
    pub(crate) fn new<T: Deserialize<'a>>(rank: usize, bytes: &'a [u8]) -> Result<(T, Self), TeamError> {
        let mut unread = Self { rank, rest: bytes };
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| unread.garbled("it is too short"))?;
        unread.rest = rest;
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let head = unread.take(length)?;
        Ok((serde_json::from_slice(head).map_err(|error| unread.garbled(&error.to_string()))?, unread))
    }

    /// The next bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], TeamError> {
        let (found, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.garbled("it is too short"))?;
        self.rest = rest;
        Ok(found)
    }

    /// The next tensor.
    pub(crate) fn tensor(&mut self, shape: &[usize], dtype: DType) -> Result<TensorData, TeamError> {
        let count = shape.iter().try_fold(dtype.size(), |all, &side| all.checked_mul(side));
        let bytes = self.take(count.unwrap_or(usize::MAX))?.to_vec();
        Ok(TensorData::from_bytes_vec(bytes, Shape::from(shape.to_vec()), dtype))
    }

    /// Fails if numbers are left.
    pub(crate) fn end(self) -> Result<(), TeamError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.garbled("it is too long")) }
    }

    /// The message cannot be read.
    pub(crate) fn garbled(&self, reason: &str) -> TeamError {
        TeamError::Garbled { rank: self.rank, reason: reason.to_owned() }
    }
}
