//! Curvature that a question to an index has computed, kept for the next one.

use std::collections::BTreeMap;
use std::fs::{metadata, read, read_dir, remove_file};
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Element, Tensor, TensorData};
use bytemuck::Pod;
use hyperinf_curvature::{
    BlockCurvature, Curvature, Dense, Diagonal, Eigenpairs, Isotropic, Kronecker, OneSided, Storage,
};
use hyperinf_gradients::Block;
use hyperinf_scoring::{Method, Options};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use crate::stream::curvatures;
use crate::{GradientPair, ProjectionSpec, Staged, StoreError};

/// The beginning and the ending of the files' names.
const NAME: [&str; 2] = ["factors-", ".safetensors"];
/// More bytes are not kept: reading the gradients again is no slower.
const MOST: f64 = (1_u64 << 30) as f64;
const NUMBER: f64 = size_of::<f64>() as f64;

/// The curvature of an index for a method.
pub struct Factors {
    /// One per block; `None` where the method has no curvature, or one that is not kept.
    pub known: Option<Vec<BlockCurvature>>,
    /// Whether it is that of an earlier question.
    pub found: bool,
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

/// The curvature of the pair's training gradients, an index, for [`score`](crate::score): from the index's folder if an
/// earlier question with the same rows, storage, partition and projection has left it there, else from one pass over the
/// gradients, and then kept if `keep`. A folder that cannot be written keeps nothing.
///
/// Samples that a method holds ([`Storage::Samples`], DataInf's) are the gradients themselves, and a curvature of more
/// than 1 GiB is not kept: then `known` is `None`, and scoring computes it as usual.
///
/// # Errors
///
/// As [`score`](crate::score).
pub fn factors(
    pair: &GradientPair,
    options: &Options,
    projection: Option<ProjectionSpec>,
    keep: bool,
    device: &Device,
) -> Result<Factors, StoreError> {
    let nothing = Factors { known: None, found: false };
    let Method::Inverse { storage, .. } = options.method else { return Ok(nothing) };
    let folder = pair.train.path();
    let Some(rows) = pair.train.vouched().filter(|_| pair.curvature.is_none() && folder.is_dir()) else {
        return Ok(nothing);
    };
    let layout = match options.merged {
        true => vec![Block::new("merged", 1, pair.scored_blocks().iter().map(Block::parameters).sum())],
        false => pair.scored_blocks(),
    };
    let n = pair.train.samples();
    let bytes: f64 = layout.iter().map(|block| kept_numbers(storage, block) * NUMBER).sum();
    if bytes > MOST || storage.needs_captures() || layout.iter().any(|block| storage.holds_samples(block, n)) {
        return Ok(nothing);
    }
    let precision = pair.precision(device);
    let key = format!("1 {storage:?} merged {} {projection:?} {precision:?} {rows}", options.merged);
    let hash = format!("{:032x}", XxHash3_128::oneshot(key.as_bytes()));
    let path = folder.join(format!("{}{}{}", NAME[0], &hash[..16], NAME[1]));
    if let Some(known) = load(&path, &key, device)
        && known.len() == layout.len()
    {
        return Ok(Factors { known: Some(known), found: true });
    }
    let known = curvatures(pair, options, device)?;
    if keep {
        // Without it the next question takes longer, no more.
        let _ = save(&path, &key, rows, &known);
    }
    Ok(Factors { known: Some(known), found: false })
}

/// The numbers of a block's curvature.
fn kept_numbers(storage: Storage, block: &Block) -> f64 {
    let (rows, cols, d) = (block.rows as f64, block.cols as f64, block.parameters() as f64);
    match storage {
        Storage::Samples => 0.0,
        Storage::Dense | Storage::Full => d * d,
        Storage::OneSided { side, .. } => if side.contracts_rows(block.rows, block.cols) { cols } else { rows }.powi(2),
        Storage::Diagonal => d,
        Storage::Isotropic => 1.0,
        Storage::Kronecker { .. } | Storage::TwoSided { .. } => rows * rows + cols * cols + d,
        Storage::LowRank { rank, .. } => (rank as f64).min(d) * (d + 1.0),
    }
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
        Curvature::Samples(_) => return None,
    })
}

/// A hash of everything in the file.
fn hash<'a>(key: &str, described: &str, numbers: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hasher = XxHash3_128::new();
    hasher.write(key.as_bytes());
    hasher.write(described.as_bytes());
    numbers.for_each(|bytes| hasher.write(bytes));
    format!("{:032x}", hasher.finish_128())
}

fn save(path: &Path, key: &str, rows: &str, known: &[BlockCurvature]) -> Option<()> {
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
    let metadata = [("key", key), ("rows", rows), ("described", &described), ("seal", &seal)];
    let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let bytes = serialize(views, Some(metadata)).ok()?;
    remove_other(path, rows);
    Staged::new(path, |file| Ok(file.write_all(&bytes)?)).ok()?.place().ok()
}

/// Removes the curvature of an index with fewer rows.
fn remove_other(path: &Path, rows: &str) {
    let entries = path.parent().and_then(|folder| read_dir(folder).ok());
    for entry in entries.into_iter().flatten().flatten() {
        let (found, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if name.starts_with(NAME[0]) && name.ends_with(NAME[1]) && found.is_file() {
            let of = contents(&found).and_then(|bytes| texts(&bytes)?.remove("rows"));
            if of.as_deref() != Some(rows) {
                let _ = remove_file(found);
            }
        }
    }
}

fn contents(path: &PathBuf) -> Option<Vec<u8>> {
    let found = metadata(path).ok()?;
    (found.is_file() && found.len() as f64 <= 2.0 * MOST).then(|| read(path).ok()).flatten()
}

fn texts(bytes: &[u8]) -> Option<std::collections::HashMap<String, String>> {
    SafeTensors::read_metadata(bytes).ok()?.1.metadata().clone()
}

/// The curvature in a file, if it is whole and of this key.
fn load(path: &Path, key: &str, device: &Device) -> Option<Vec<BlockCurvature>> {
    let bytes = contents(&path.to_owned())?;
    let texts = texts(&bytes)?;
    let tensors = SafeTensors::deserialize(&bytes).ok()?;
    let by_name: BTreeMap<String, TensorView<'_>> = tensors.tensors().into_iter().collect();
    let described = texts.get("described")?;
    if texts.get("key")? != key || *texts.get("seal")? != hash(key, described, by_name.values().map(|view| view.data()))
    {
        return None;
    }
    let described: Vec<Described> = serde_json::from_str(described).ok()?;
    let mut known = Vec::with_capacity(described.len());
    for (number, found) in described.into_iter().enumerate() {
        let part = |part: usize| by_name.get(&format!("{number:05}.{part}"));
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
