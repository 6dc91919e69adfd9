//! Files of curvature.

use std::collections::BTreeMap;
use std::fs::{metadata, read, read_dir, remove_file};
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Element, Tensor, TensorData};
use bytemuck::Pod;
use hyperinf_curvature::{
    BlockCurvature, Curvature, Dense, Diagonal, Eigenpairs, Isotropic, Kronecker, OneSided, SampleRows, Samples,
};
use hyperinf_gradients::Block;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use super::MOST;
use crate::Staged;

/// The beginning and the ending of the files' names.
const NAME: [&str; 2] = ["factors-", ".safetensors"];

/// The one entry of the file's metadata: several would be written in any order.
const ENTRY: &str = "hyperinf";

/// What the file says of itself.
#[derive(Serialize, Deserialize)]
struct Label {
    key: String,
    rows: String,
    /// As JSON.
    described: String,
    /// A hash of the key, the description and the numbers.
    seal: String,
}

#[derive(Serialize, Deserialize)]
struct Described {
    block: String,
    rows: usize,
    cols: usize,
    structure: String,
    rows_contracted: bool,
    mean_square_bits: u64,
    samples: usize,
}

/// The name of the file with this key.
pub(super) fn name(key: &str) -> String {
    let hash = format!("{:032x}", XxHash3_128::oneshot(key.as_bytes()));
    format!("{}{}{}", NAME[0], &hash[..16], NAME[1])
}

/// The files in a folder.
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

/// Whether a file is what was written, under its own name.
pub(crate) fn is_whole(path: &Path) -> bool {
    let whole = |bytes: Vec<u8>| {
        let Whole { label, tensors } = Whole::read(&bytes)?;
        let named = path.file_name()?.to_string_lossy() == name(&label.key);
        // The seal leaves the headers of the tensors out.
        (named && written(tensors, &label)? == bytes).then_some(())
    };
    contents(path).and_then(whole).is_some()
}

/// A matrix on the host.
struct Numbers {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// `None` for a type that is not kept.
fn numbers<const D: usize>(tensor: &Tensor<D>) -> Option<Numbers> {
    let (shape, data) = (tensor.dims().to_vec(), tensor.to_data());
    let (dtype, bytes) = match data.dtype() {
        DType::F64 => (Dtype::F64, bytemuck::cast_slice(data.as_slice::<f64>().ok()?).to_vec()),
        DType::F32 => (Dtype::F32, bytemuck::cast_slice(data.as_slice::<f32>().ok()?).to_vec()),
        _ => return None,
    };
    // Numbers are little-endian in the file.
    cfg!(target_endian = "little").then_some(Numbers { dtype, shape, bytes })
}

fn parts(curvature: &Curvature) -> Option<(&'static str, bool, Vec<Numbers>)> {
    Some(match curvature {
        Curvature::Dense(Dense { matrix }) => ("dense", false, vec![numbers(matrix)?]),
        Curvature::OneSided(h) => ("one-sided", h.rows_contracted, vec![numbers(&h.factor)?]),
        Curvature::Diagonal(Diagonal { values }) => ("diagonal", false, vec![numbers(values)?]),
        Curvature::Isotropic(Isotropic { value, .. }) => ("isotropic", false, vec![numbers(value)?]),
        Curvature::Kronecker(Kronecker { left, right, eigenvalues }) => {
            ("kronecker", false, vec![numbers(left)?, numbers(right)?, numbers(eigenvalues)?])
        }
        Curvature::Eigenpairs(Eigenpairs { vectors, values }) => {
            ("eigenpairs", false, vec![numbers(vectors)?, numbers(values)?])
        }
        // Sent to other ranks, never kept.
        Curvature::Samples(Samples { rows }) => ("samples", false, vec![numbers(rows)?]),
        Curvature::Captured(held) => ("samples", false, vec![numbers(&SampleRows::Captured(held.clone()).rows())?]),
    })
}

/// The bytes of a file.
fn written<'a>(
    views: impl IntoIterator<Item = (impl AsRef<str> + Ord + std::fmt::Display, TensorView<'a>)>,
    label: &Label,
) -> Option<Vec<u8>> {
    let metadata = [(ENTRY.to_owned(), serde_json::to_string(label).ok()?)].into();
    serialize(views, Some(metadata)).ok()
}

/// A hash of the key, the description and the numbers.
fn hash<'a>(key: &str, described: &str, numbers: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hasher = XxHash3_128::new();
    hasher.write(key.as_bytes());
    hasher.write(described.as_bytes());
    numbers.for_each(|bytes| hasher.write(bytes));
    format!("{:032x}", hasher.finish_128())
}

/// Writes a file; its length. Those of other rows or of another version are removed.
pub(super) fn save(path: &Path, key: &str, rows: &str, known: &[BlockCurvature]) -> Option<u64> {
    let bytes = to_bytes(key, rows, known)?;
    let others = path.parent().map(files).unwrap_or_default();
    for other in others {
        let of = contents(&other).and_then(|bytes| Some(label_of(&bytes)?.rows));
        if of.as_deref() != Some(rows) {
            let _ = remove_file(other);
        }
    }
    Staged::new(path, |file| Ok(file.write_all(&bytes)?)).ok()?.place().ok()?;
    Some(bytes.len() as u64)
}

/// The bytes of curvature with its key; `None` for numbers of a type that is not kept.
pub(super) fn to_bytes(key: &str, rows: &str, known: &[BlockCurvature]) -> Option<Vec<u8>> {
    let (mut described, mut all) = (Vec::new(), Vec::new());
    for (number, BlockCurvature { block, curvature, mean_square, samples }) in known.iter().enumerate() {
        let (structure, rows_contracted, parts) = parts(curvature)?;
        described.push(Described {
            block: block.name.clone(),
            rows: block.rows,
            cols: block.cols,
            structure: structure.to_owned(),
            rows_contracted,
            mean_square_bits: mean_square.to_bits(),
            samples: *samples,
        });
        all.extend(parts.into_iter().enumerate().map(|(part, numbers)| (format!("{number:05}.{part}"), numbers)));
    }
    let described = serde_json::to_string(&described).ok()?;
    let seal = hash(key, &described, all.iter().map(|(_, numbers)| &numbers.bytes[..]));
    let views = all.iter().map(|(name, numbers)| {
        let view = TensorView::new(numbers.dtype, numbers.shape.clone(), &numbers.bytes);
        view.map(|view| (name, view))
    });
    let views = views.collect::<Result<Vec<_>, _>>().ok()?;
    let label = Label { key: key.to_owned(), rows: rows.to_owned(), described, seal };
    written(views, &label)
}

fn contents(path: &Path) -> Option<Vec<u8>> {
    let found = metadata(path).ok()?;
    (found.is_file() && found.len() as f64 <= 2.0 * MOST).then(|| read(path).ok()).flatten()
}

fn label_of(bytes: &[u8]) -> Option<Label> {
    let metadata = SafeTensors::read_metadata(bytes).ok()?.1;
    serde_json::from_str(metadata.metadata().as_ref()?.get(ENTRY)?).ok()
}

/// A file whose seal is that of its bytes.
struct Whole<'a> {
    label: Label,
    tensors: BTreeMap<String, TensorView<'a>>,
}

impl<'a> Whole<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let label = label_of(bytes)?;
        let tensors: BTreeMap<_, _> = SafeTensors::deserialize(bytes).ok()?.tensors().into_iter().collect();
        let seal = hash(&label.key, &label.described, tensors.values().map(TensorView::data));
        (label.seal == seal).then_some(Self { label, tensors })
    }
}

/// The curvature in a file, if it is whole and of this key, and the file's length.
pub(super) fn load(path: &Path, key: &str, device: &Device) -> Option<(Vec<BlockCurvature>, u64)> {
    let bytes = contents(path)?;
    Some((parsed(&bytes, key, device)?, bytes.len() as u64))
}

/// The curvature of [`to_bytes`], if it is whole and of this key.
pub(super) fn parsed(bytes: &[u8], key: &str, device: &Device) -> Option<Vec<BlockCurvature>> {
    let Whole { label, tensors } = Whole::read(bytes)?;
    if label.key != key {
        return None;
    }
    let described: Vec<Described> = serde_json::from_str(&label.described).ok()?;
    let mut known = Vec::with_capacity(described.len());
    for (number, found) in described.into_iter().enumerate() {
        let part = |part: usize| tensors.get(&format!("{number:05}.{part}"));
        let (rows, cols) = (found.rows, found.cols);
        let d = rows.checked_mul(cols)?;
        let matrix = |number: usize, shape: [usize; 2]| tensor::<2>(part(number)?, shape, device);
        let curvature = match found.structure.as_str() {
            "dense" => Curvature::Dense(Dense { matrix: matrix(0, [d, d])? }),
            "one-sided" => {
                let side = if found.rows_contracted { cols } else { rows };
                let (factor, rows_contracted) = (matrix(0, [side, side])?, found.rows_contracted);
                Curvature::OneSided(OneSided { factor, rows, cols, rows_contracted })
            }
            "diagonal" => Curvature::Diagonal(Diagonal { values: tensor::<1>(part(0)?, [d], device)? }),
            "isotropic" => Curvature::Isotropic(Isotropic { value: matrix(0, [1, 1])?, parameters: d }),
            "kronecker" => Curvature::Kronecker(Kronecker {
                left: matrix(0, [rows, rows])?,
                right: matrix(1, [cols, cols])?,
                eigenvalues: matrix(2, [rows, cols])?,
            }),
            "eigenpairs" => {
                let k = *part(1)?.shape().first()?;
                let (vectors, values) = (matrix(0, [k, d])?, tensor::<1>(part(1)?, [k], device)?);
                Curvature::Eigenpairs(Eigenpairs { vectors, values })
            }
            "samples" => {
                let m = *part(0)?.shape().first()?;
                Curvature::Samples(Samples { rows: matrix(0, [m, d])? })
            }
            _ => return None,
        };
        let mean_square = f64::from_bits(found.mean_square_bits);
        let block = Block::new(found.block, rows, cols);
        known.push(BlockCurvature { block, curvature, mean_square, samples: found.samples });
    }
    Some(known)
}

fn tensor<const D: usize>(view: &TensorView<'_>, shape: [usize; D], device: &Device) -> Option<Tensor<D>> {
    if view.shape() != shape {
        return None;
    }
    match view.dtype() {
        Dtype::F64 => Some(from_bytes::<f64, D>(view.data(), shape, (device, DType::F64))),
        Dtype::F32 => Some(from_bytes::<f32, D>(view.data(), shape, (device, DType::F32))),
        _ => None,
    }
}

fn from_bytes<T: Pod + Element, const D: usize>(bytes: &[u8], shape: [usize; D], place: (&Device, DType)) -> Tensor<D> {
    let values: Vec<T> = bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect();
    Tensor::from_data(TensorData::new(values, shape), place)
}
