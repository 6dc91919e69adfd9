use std::fs::File;
use std::io::{Read, Result, Seek, SeekFrom};

use burn::tensor::{Element, TensorData};
use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;
use twox_hash::XxHash3_128;

use super::Precision;
use crate::FileStamp;

/// Bytes that are read at once: few enough to stay in the processor's cache while they are hashed and converted.
const PIECE: usize = 1 << 18;

/// An open file, with the hash of its contiguous part, from the first byte, that has been read.
pub(super) struct Contents {
    file: File,
    stamp: FileStamp,
    hasher: XxHash3_128,
    hashed: u64,
}

impl Contents {
    pub(super) fn new(file: File, stamp: FileStamp) -> Self {
        Self { file, stamp, hasher: XxHash3_128::new(), hashed: 0 }
    }

    /// Whether the file is still what it was when it was opened. Asked after reading: what was read is then of that
    /// state, and one pass sees what the other saw.
    pub(super) fn is_unchanged(&self) -> Result<bool> {
        Ok(FileStamp::of(&self.file.metadata()?) == self.stamp)
    }

    /// `count` numbers that begin at a byte of the file.
    pub(super) fn values(
        &mut self,
        start: u64,
        count: usize,
        stored: Dtype,
        precision: Precision,
        shape: [usize; 3],
    ) -> Result<TensorData> {
        match (stored, precision) {
            (Dtype::F32, Precision::Single) => self.as_stored::<f32>(start, count, shape),
            (Dtype::F64, Precision::Double) => self.as_stored::<f64>(start, count, shape),
            (Dtype::F32, Precision::Double) => {
                self.converted(start, count, shape, |from: &[f32], to| each(from, to, f64::from))
            }
            (Dtype::F64, Precision::Single) => {
                self.converted(start, count, shape, |from: &[f64], to| each(from, to, |v| v as f32))
            }
            (Dtype::F16, Precision::Single) => {
                self.converted(start, count, shape, |from: &[f16], to| from.convert_to_f32_slice(to))
            }
            (Dtype::F16, Precision::Double) => {
                self.converted(start, count, shape, |from: &[f16], to| from.convert_to_f64_slice(to))
            }
            (Dtype::BF16, Precision::Single) => {
                self.converted(start, count, shape, |from: &[bf16], to| from.convert_to_f32_slice(to))
            }
            (Dtype::BF16, Precision::Double) => {
                self.converted(start, count, shape, |from: &[bf16], to| from.convert_to_f64_slice(to))
            }
            (other, _) => unreachable!("a file with {other} is refused when it is opened"),
        }
    }

    /// Numbers straight into the memory of their tensor.
    fn as_stored<T: Pod + Element>(&mut self, start: u64, count: usize, shape: [usize; 3]) -> Result<TensorData> {
        let mut values = vec![T::zeroed(); count];
        self.file.seek(SeekFrom::Start(start))?;
        let mut at = start;
        for piece in values.chunks_mut(PIECE / size_of::<T>()) {
            at = self.fill(at, piece)?;
        }
        Ok(TensorData::new(values, shape))
    }

    fn converted<S: Pod, T: Pod + Element>(
        &mut self,
        start: u64,
        count: usize,
        shape: [usize; 3],
        convert: impl Fn(&[S], &mut [T]),
    ) -> Result<TensorData> {
        let mut values = vec![T::zeroed(); count];
        let mut buffer = vec![S::zeroed(); count.min(PIECE / size_of::<S>())];
        self.file.seek(SeekFrom::Start(start))?;
        let mut at = start;
        for piece in values.chunks_mut(PIECE / size_of::<S>()) {
            let read = &mut buffer[..piece.len()];
            at = self.fill(at, read)?;
            convert(read, piece);
        }
        Ok(TensorData::new(values, shape))
    }

    /// Reads little-endian numbers from byte `at` on, where the file already stands, and returns the byte after them.
    fn fill<T: Pod>(&mut self, at: u64, values: &mut [T]) -> Result<u64> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
        self.file.read_exact(bytes)?;
        let end = at + bytes.len() as u64;
        if (at..=end).contains(&self.hashed) {
            self.hasher.write(&bytes[(self.hashed - at) as usize..]);
            self.hashed = end;
        }
        if cfg!(target_endian = "big") {
            bytes.chunks_exact_mut(size_of::<T>()).for_each(<[u8]>::reverse);
        }
        Ok(end)
    }

    /// The hash of the first `length` bytes; those not hashed yet are read.
    pub(super) fn hash_to(&mut self, length: u64) -> Result<u128> {
        self.file.seek(SeekFrom::Start(self.hashed))?;
        let mut buffer = vec![0_u8; PIECE];
        while self.hashed < length {
            let piece = (length - self.hashed).min(PIECE as u64) as usize;
            self.fill(self.hashed, &mut buffer[..piece])?;
        }
        Ok(self.hasher.finish_128())
    }
}

fn each<S: Copy, T>(from: &[S], to: &mut [T], convert: impl Fn(S) -> T) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = convert(from);
    }
}
