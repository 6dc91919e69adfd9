//! Files of sketches.

use std::fs::{File, metadata, read_dir};
use std::io::{Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use hyperinf_linalg::{ByteGroups, ByteRows, GROUP};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use super::groups;
use crate::{IndexFolder, Staged};

/// The beginning and the ending of the files' names.
const NAME: [&str; 2] = ["sketch-", ".safetensors"];
/// The tensors of a file.
const TENSORS: [&str; 3] = ["numbers", "scales", "hashes"];
/// The one entry of the file's metadata.
const ENTRY: &str = "hyperinf";
/// The form of sketches.
const SCHEMA: u32 = 1;

/// What the file says of itself.
#[derive(Serialize, Deserialize)]
struct Label {
    key: String,
    /// A hash of the key and the tensors.
    seal: String,
}

/// The rows of a leaf, at one byte a number.
pub(crate) struct Sketch {
    /// The file.
    bytes: Vec<u8>,
    /// Where the numbers are.
    numbers: Range<usize>,
    pub(super) scales: Vec<f32>,
    pub(super) hashes: Vec<u64>,
}

/// The file of a leaf's sketch, and what it is a sketch of.
pub(super) fn place(index: &IndexFolder, leaf: usize) -> (PathBuf, String) {
    let shard = index.record(leaf).map(|record| record.xxh3_128.clone()).unwrap_or_default();
    (index.path().join(name(leaf)), format!("{SCHEMA} groups of {GROUP} of {shard}"))
}

fn name(leaf: usize) -> String {
    format!("{}{leaf:05}{}", NAME[0], NAME[1])
}

/// The files in the folder of an index.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(NAME[0]) && name.ends_with(NAME[1]) && path.is_file()
    };
    let mut found: Vec<PathBuf> = entries.filter(named).collect();
    found.sort();
    found
}

/// Whether a file is the whole sketch of one of the index's leaves.
pub(crate) fn is_whole(index: &IndexFolder, path: &Path) -> bool {
    let found = path.file_name().unwrap_or_default().to_string_lossy();
    let leaves = &index.manifest().leaves;
    let Some(leaf) = (0..leaves.len()).find(|&leaf| found == name(leaf)) else { return false };
    let (_, key) = place(index, leaf);
    let groups = groups(index);
    Sketch::read(path, &key, leaves[leaf].rows, &groups).is_some_and(|sketch| {
        let rows = ByteRows { numbers: sketch.numbers().to_vec(), scales: sketch.scales.clone() };
        // The seal leaves the header out.
        Sketch::of(&(rows, sketch.hashes.clone()), &key, leaves[leaf].rows, &groups).bytes == sketch.bytes
    })
}

fn seal<'a>(key: &str, tensors: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hasher = XxHash3_128::new();
    hasher.write(key.as_bytes());
    tensors.for_each(|bytes| hasher.write(bytes));
    format!("{:032x}", hasher.finish_128())
}

impl Sketch {
    /// From rounded rows with their hashes.
    pub(super) fn of((rows, hashes): &(ByteRows, Vec<u64>), key: &str, count: usize, groups: &ByteGroups) -> Self {
        let numbers: &[u8] = bytemuck::cast_slice(&rows.numbers);
        let parts: [(Dtype, Vec<usize>, &[u8]); 3] = [
            (Dtype::I8, vec![count, groups.width()], numbers),
            (Dtype::F32, vec![count, groups.count()], bytemuck::cast_slice(&rows.scales)),
            (Dtype::U64, vec![count], bytemuck::cast_slice(hashes)),
        ];
        let label = Label { key: key.to_owned(), seal: seal(key, parts.iter().map(|(_, _, bytes)| *bytes)) };
        let views = TENSORS.iter().zip(parts).map(|(name, (dtype, shape, bytes))| {
            (*name, TensorView::new(dtype, shape, bytes).expect("the bytes of the shape"))
        });
        let label = serde_json::to_string(&label).expect("two texts");
        let metadata = [(ENTRY.to_owned(), label)].into();
        let bytes = serialize(views, Some(metadata)).expect("three tensors of one name each");
        let numbers = {
            let all = SafeTensors::deserialize(&bytes).expect("it was written just now");
            let found = all.tensor(TENSORS[0]).expect("it is one of the three").data();
            let start = found.as_ptr() as usize - bytes.as_ptr() as usize;
            start..start + found.len()
        };
        Self { numbers, bytes, scales: rows.scales.clone(), hashes: hashes.clone() }
    }

    /// Reads a file, if it is whole and what the key says.
    pub(super) fn read(path: &Path, key: &str, rows: usize, groups: &ByteGroups) -> Option<Self> {
        let found = metadata(path).ok().filter(|found| found.is_file())?;
        let least = rows.checked_mul(groups.width() + groups.count() * size_of::<f32>() + size_of::<u64>())? as u64;
        // The header of three tensors is short.
        if !(least..least + (1 << 16)).contains(&found.len()) {
            return None;
        }
        let mut bytes = Vec::with_capacity(found.len() as usize + 1);
        File::open(path).ok()?.take(found.len() + 1).read_to_end(&mut bytes).ok()?;
        let metadata = SafeTensors::read_metadata(&bytes).ok()?.1;
        let label: Label = serde_json::from_str(metadata.metadata().as_ref()?.get(ENTRY)?).ok()?;
        let all = SafeTensors::deserialize(&bytes).ok()?;
        let [numbers, scales, hashes] = TENSORS.map(|name| all.tensor(name).ok());
        let (numbers, scales, hashes) = (numbers?, scales?, hashes?);
        let expected = [
            (&numbers, Dtype::I8, vec![rows, groups.width()]),
            (&scales, Dtype::F32, vec![rows, groups.count()]),
            (&hashes, Dtype::U64, vec![rows]),
        ];
        let fits = expected.iter().all(|(view, dtype, shape)| view.dtype() == *dtype && view.shape() == &shape[..]);
        let data = [numbers.data(), scales.data(), hashes.data()];
        if !fits || label.key != key || label.seal != seal(key, data.into_iter()) || cfg!(target_endian = "big") {
            return None;
        }
        let start = numbers.data().as_ptr() as usize - bytes.as_ptr() as usize;
        let numbers = start..start + numbers.data().len();
        let scales = bytemuck::pod_collect_to_vec(scales.data());
        let hashes = bytemuck::pod_collect_to_vec(hashes.data());
        Some(Self { numbers, scales, hashes, bytes })
    }

    pub(super) fn numbers(&self) -> &[i8] {
        bytemuck::cast_slice(&self.bytes[self.numbers.clone()])
    }

    /// Writes the file; `None` if it cannot be written.
    pub(super) fn save(&self, path: &Path) -> Option<()> {
        if cfg!(target_endian = "big") {
            return None;
        }
        Staged::new(path, |file| Ok(file.write_all(&self.bytes)?)).ok()?.place().ok()
    }
}
