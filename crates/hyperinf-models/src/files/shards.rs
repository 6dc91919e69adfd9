use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::load::read_json;
use super::open::open_regular;
use super::pairs::Pairs;
use crate::LoadError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The bytes that hold the length of the header.
const PREFIX: u64 = 8;
/// The longest header allowed by the format.
const LONGEST: u64 = 100_000_000;

/// The tensors of one or more safetensors files, read one by one with plain reads.
pub(crate) struct Shards {
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, Entry>,
    /// The entries of the headers.
    entries: BTreeMap<String, String>,
}

/// The place and type of a tensor.
struct Entry {
    file: usize,
    number: Dtype,
    shape: Vec<usize>,
    /// In bytes from the beginning of the file.
    start: u64,
    bytes: usize,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Shards {
    /// The tensors in a model's folder: `model.safetensors`, or the files that its index names.
    pub(crate) fn of_folder(folder: &Path) -> Result<Self, LoadError> {
        let single = folder.join(SINGLE);
        if single.exists() {
            return Self::open(&[single]);
        }
        let path = folder.join(INDEX);
        if !path.exists() {
            let looked_for = "`model.safetensors` and `model.safetensors.index.json`";
            return Err(LoadError::Missing { path: folder.to_owned(), what: "weights", looked_for });
        }
        let index: Index = read_json(&path)?;
        if let Some(file) = index.weight_map.values().find(|file| !is_file_name(file)) {
            return Err(LoadError::IndexPath { path, file: file.clone() });
        }
        let mut names: Vec<&String> = index.weight_map.values().collect();
        names.sort_unstable();
        names.dedup();
        let files: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
        let shards = Self::open(&files)?;
        for (name, file) in index.weight_map {
            let found = shards.tensors.get(&name).map(|entry| &shards.files[entry.file].0);
            if found != Some(&folder.join(&file)) {
                return Err(LoadError::Index { path, name, file });
            }
        }
        Ok(shards)
    }

    /// The tensors in all of these files.
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self, LoadError> {
        let mut shards = Self { files: Vec::new(), tensors: BTreeMap::new(), entries: BTreeMap::new() };
        for path in paths {
            shards.add(path)?;
        }
        Ok(shards)
    }

    fn add(&mut self, path: &Path) -> Result<(), LoadError> {
        let failed = |source| LoadError::File { path: path.to_owned(), source };
        let mut file = open_regular(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let short = |expected| LoadError::Length { path: path.to_owned(), expected, found: length };
        if length < PREFIX {
            return Err(short(PREFIX));
        }
        let mut prefix = [0; PREFIX as usize];
        file.read_exact(&mut prefix).map_err(failed)?;
        let size = u64::from_le_bytes(prefix);
        if size > LONGEST {
            let reason = format!("its header would have {size} bytes");
            return Err(LoadError::Header { path: path.to_owned(), source: reason.into() });
        }
        let begin = PREFIX + size;
        if begin > length {
            return Err(short(begin));
        }
        let mut json = vec![0; size as usize];
        file.read_exact(&mut json).map_err(failed)?;
        let wrong = |source| LoadError::Header { path: path.to_owned(), source: Box::new(source) };
        let metadata: Metadata = serde_json::from_slice(&json).map_err(wrong)?;
        let names: Pairs<IgnoredAny> = serde_json::from_slice(&json).map_err(wrong)?;
        if let Some(name) = names.repeated() {
            let reason = format!("it has `{name}` twice");
            return Err(LoadError::Header { path: path.to_owned(), source: reason.into() });
        }
        let expected = begin.saturating_add(metadata.data_len() as u64);
        if expected != length {
            return Err(short(expected));
        }
        self.entries.extend(metadata.metadata().clone().into_iter().flatten());
        let index = self.files.len();
        for (name, info) in metadata.tensors() {
            let (from, to) = info.data_offsets;
            let entry = Entry {
                file: index,
                number: info.dtype,
                shape: info.shape.clone(),
                start: begin + from as u64,
                bytes: to - from,
            };
            if let Some(other) = self.tensors.insert(name.clone(), entry) {
                let first = self.files[other.file].0.clone();
                return Err(LoadError::Twice { name, first, second: path.to_owned() });
            }
        }
        self.files.push((path.to_owned(), file));
        Ok(())
    }

    /// The names of all tensors, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// An entry of the header.
    pub(crate) fn metadata(&self, name: &str) -> Option<&str> {
        self.entries.get(name).map(String::as_str)
    }

    /// The shape of a tensor.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The values of a tensor as f32, in the order of the file; `None` if there is no such tensor.
    pub(crate) fn read(&mut self, name: &str) -> Result<Option<Vec<f32>>, LoadError> {
        let Some(entry) = self.tensors.get(name) else {
            return Ok(None);
        };
        let (path, file) = &mut self.files[entry.file];
        let mut bytes = vec![0; entry.bytes];
        let read = file.seek(SeekFrom::Start(entry.start)).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|source| LoadError::File { path: path.clone(), source })?;
        match numbers(&bytes, entry.number) {
            Some(values) => Ok(Some(values)),
            None => {
                let found = entry.number.to_string();
                Err(LoadError::NumberType { path: path.clone(), name: name.to_owned(), found })
            }
        }
    }
}

/// Whether a name in an index is a plain file name, rather than a path that leads elsewhere.
pub(crate) fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\'])
}

/// Little-endian numbers as f32; `None` for an unsupported type.
fn numbers(bytes: &[u8], number: Dtype) -> Option<Vec<f32>> {
    fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|&bytes| number(bytes)).collect()
    }
    match number {
        Dtype::F32 => Some(each(bytes, f32::from_le_bytes)),
        Dtype::F16 => Some(each(bytes, |bytes| f16::from_le_bytes(bytes).to_f32())),
        Dtype::BF16 => Some(each(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32())),
        Dtype::F64 => Some(each(bytes, |bytes| f64::from_le_bytes(bytes) as f32)),
        _ => None,
    }
}
