use std::fs::File;
use std::io::{Read, Result, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::tensor::Element;
use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;
use twox_hash::XxHash3_128;

use crate::FileStamp;

/// Bytes that are read at once: few enough to stay in the processor's cache while they are hashed and converted.
const PIECE: usize = 1 << 18;

/// A file with the hash of its contiguous part, from the first byte, that has been read.
pub(super) struct Contents {
    path: PathBuf,
    /// `None` for a shard between two reads: a folder may have more of them than a process may open.
    file: Option<File>,
    shard: bool,
    length: u64,
    stamp: FileStamp,
    hasher: XxHash3_128,
    hashed: u64,
    sections: Vec<Section>,
    damaged: bool,
}

/// A part of a file whose hash is known: compared once it has been read from its beginning to its end.
pub(super) struct Section {
    start: u64,
    end: u64,
    expected: u128,
    hasher: XxHash3_128,
    hashed: u64,
}

/// The type that numbers are read as.
pub(super) trait Target: Pod + Element {
    const STORED: Dtype;
    fn of_f32(from: &[f32], to: &mut [Self]);
    fn of_f64(from: &[f64], to: &mut [Self]);
    fn of_f16(from: &[f16], to: &mut [Self]);
    fn of_bf16(from: &[bf16], to: &mut [Self]);
}

impl Target for f32 {
    const STORED: Dtype = Dtype::F32;

    fn of_f32(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }

    fn of_f64(from: &[f64], to: &mut [Self]) {
        each(from, to, |value| value as f32);
    }

    fn of_f16(from: &[f16], to: &mut [Self]) {
        from.convert_to_f32_slice(to);
    }

    fn of_bf16(from: &[bf16], to: &mut [Self]) {
        from.convert_to_f32_slice(to);
    }
}

impl Target for f64 {
    const STORED: Dtype = Dtype::F64;

    fn of_f32(from: &[f32], to: &mut [Self]) {
        each(from, to, f64::from);
    }

    fn of_f64(from: &[f64], to: &mut [Self]) {
        to.copy_from_slice(from);
    }

    fn of_f16(from: &[f16], to: &mut [Self]) {
        from.convert_to_f64_slice(to);
    }

    fn of_bf16(from: &[bf16], to: &mut [Self]) {
        from.convert_to_f64_slice(to);
    }
}

impl Section {
    pub(super) fn new(start: u64, end: u64, expected: u128) -> Self {
        Self { start, end, expected, hasher: XxHash3_128::new(), hashed: start }
    }

    /// Sees bytes that were read from `at` on; whether the section is now known to be damaged.
    fn see(&mut self, at: u64, bytes: &[u8]) -> bool {
        let end = at + bytes.len() as u64;
        if at >= self.end || end <= self.start {
            return false;
        }
        if at <= self.start {
            (self.hasher, self.hashed) = (XxHash3_128::new(), self.start);
        }
        if self.hashed < at || self.hashed >= end {
            return false;
        }
        let until = end.min(self.end);
        self.hasher.write(&bytes[(self.hashed - at) as usize..(until - at) as usize]);
        self.hashed = until;
        until == self.end && self.hasher.finish_128() != self.expected
    }
}

impl Contents {
    pub(super) fn new(path: &Path, file: File, length: u64, stamp: FileStamp) -> Self {
        let (hasher, sections) = (XxHash3_128::new(), Vec::new());
        let (path, file) = (path.to_owned(), Some(file));
        Self { path, file, shard: false, length, stamp, hasher, hashed: 0, sections, damaged: false }
    }

    /// The same as a shard, which is open only while it is read.
    pub(super) fn into_shard(mut self, sections: Vec<Section>) -> Self {
        (self.file, self.shard, self.sections) = (None, true, sections);
        self
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is one of a folder.
    pub(super) fn is_shard(&self) -> bool {
        self.shard
    }

    /// Bytes from the first one on that are hashed.
    pub(super) fn hashed(&self) -> u64 {
        self.hashed
    }

    /// Whether a section was read whose hash is another.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Whether the file is still what it was when it was opened. Asked after reading: what was read is then of that
    /// state, and one pass sees what the other saw.
    pub(super) fn is_unchanged(&mut self) -> Result<bool> {
        let found = match &self.file {
            Some(file) => FileStamp::of(&file.metadata()?),
            None => FileStamp::at(&self.path)?,
        };
        if self.shard {
            self.file = None;
        }
        Ok(found == self.stamp)
    }

    /// Numbers that begin at a byte of the file, as many as there is room for.
    pub(super) fn values<T: Target>(&mut self, start: u64, out: &mut [T], stored: Dtype) -> Result<()> {
        match stored {
            own if own == T::STORED => {
                let mut at = self.seek(start)?;
                for piece in out.chunks_mut(PIECE / size_of::<T>()) {
                    at = self.fill(at, piece)?;
                }
                Ok(())
            }
            Dtype::F32 => self.converted(start, out, T::of_f32),
            Dtype::F64 => self.converted(start, out, T::of_f64),
            Dtype::F16 => self.converted(start, out, T::of_f16),
            Dtype::BF16 => self.converted(start, out, T::of_bf16),
            other => unreachable!("a file with {other} is refused when it is opened"),
        }
    }

    fn converted<S: Pod, T: Target>(
        &mut self,
        start: u64,
        out: &mut [T],
        convert: impl Fn(&[S], &mut [T]),
    ) -> Result<()> {
        let mut buffer = vec![S::zeroed(); out.len().min(PIECE / size_of::<S>())];
        let mut at = self.seek(start)?;
        for piece in out.chunks_mut(PIECE / size_of::<S>()) {
            let read = &mut buffer[..piece.len()];
            at = self.fill(at, read)?;
            convert(read, piece);
        }
        Ok(())
    }

    fn open(&mut self) -> Result<&mut File> {
        if self.file.is_none() {
            self.file = Some(File::open(&self.path)?);
        }
        Ok(self.file.as_mut().expect("it was opened just now"))
    }

    fn seek(&mut self, start: u64) -> Result<u64> {
        self.open()?.seek(SeekFrom::Start(start))
    }

    /// Reads little-endian numbers from byte `at` on, where the file already stands, and returns the byte after them.
    fn fill<T: Pod>(&mut self, at: u64, values: &mut [T]) -> Result<u64> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
        self.open()?.read_exact(bytes)?;
        let end = at + bytes.len() as u64;
        if (at..=end).contains(&self.hashed) && !self.shard {
            self.hasher.write(&bytes[(self.hashed - at) as usize..]);
            self.hashed = end;
        }
        // They lie one after the other.
        let first = self.sections.partition_point(|section| section.end <= at);
        for section in self.sections[first..].iter_mut().take_while(|section| section.start < end) {
            self.damaged |= section.see(at, bytes);
        }
        if cfg!(target_endian = "big") {
            bytes.chunks_exact_mut(size_of::<T>()).for_each(<[u8]>::reverse);
        }
        Ok(end)
    }

    /// The hash of the first `length` bytes; those not hashed yet are read.
    pub(super) fn hash_to(&mut self, length: u64) -> Result<u128> {
        self.seek(self.hashed)?;
        let mut buffer = vec![0_u8; PIECE];
        while self.hashed < length {
            let piece = (length - self.hashed).min(PIECE as u64) as usize;
            self.fill(self.hashed, &mut buffer[..piece])?;
        }
        Ok(self.hasher.finish_128())
    }

    /// The hash of the whole file; what is not hashed yet is read.
    pub(super) fn hash(&mut self) -> Result<u128> {
        // Shards are read in parts that do not follow each other.
        let shard = std::mem::replace(&mut self.shard, false);
        if shard {
            (self.hasher, self.hashed) = (XxHash3_128::new(), 0);
        }
        let hash = self.hash_to(self.length);
        self.shard = shard;
        hash
    }
}

fn each<S: Copy, T>(from: &[S], to: &mut [T], convert: impl Fn(S) -> T) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = convert(from);
    }
}
