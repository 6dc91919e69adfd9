//! The files of `tests/fixtures`; its README says what they hold.

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};

use crate::oracle::Matrix;

/// The path of a fixture, `lora_tiny/train.safetensors`, say.
///
/// A copy of the tests that runs on another machine finds them through `HYPERINF_TESTS`, this package's folder there.
pub fn path(name: &str) -> PathBuf {
    let folder = std::env::var_os("HYPERINF_TESTS").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    folder.join("fixtures").join(name)
}

/// The tensors of a file, by name.
pub type Arrays = BTreeMap<String, Array>;

/// One tensor of a fixture, its values as f64.
#[derive(Clone, Debug)]
pub struct Array {
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its values in row-major order.
    pub values: Vec<f64>,
}

impl Array {
    /// The first dimension as rows, the others as columns; a vector is one row.
    pub fn matrix(&self) -> Matrix {
        let rows = if self.shape.len() == 1 { 1 } else { self.shape[0] };
        Matrix { rows, cols: self.values.len() / rows, values: self.values.clone() }
    }
}

/// All tensors of a safetensors fixture, by name.
///
/// # Panics
///
/// If the file is missing, not safetensors, or has a type that no fixture uses.
pub fn load(name: &str) -> Arrays {
    let bytes = std::fs::read(path(name)).expect("fixtures are part of the repository");
    let file = SafeTensors::deserialize(&bytes).expect("fixtures are valid safetensors files");
    let array = |view: safetensors::tensor::TensorView<'_>| Array {
        shape: view.shape().to_vec(),
        values: decode(view.dtype(), view.data()),
    };
    file.iter().map(|(name, view)| (name.to_owned(), array(view))).collect()
}

/// Gradients whose names begin with `prefix`, without it, as `[n, rows, cols]` in row-major order: PyTorch's
/// `[n, out, in]` transposed, with the bias as the last row.
///
/// # Panics
///
/// If a weight's gradient is not of three dimensions.
pub fn blocks(arrays: &Arrays, prefix: &str) -> BTreeMap<String, Vec<f64>> {
    let mut blocks = BTreeMap::new();
    for (name, weight) in arrays {
        let Some(block) = name.strip_prefix(prefix).filter(|name| name.ends_with(".weight")) else {
            continue;
        };
        let bias = arrays.get(&name.replace(".weight", ".bias"));
        let &[n, outputs, inputs] = weight.shape.as_slice() else { panic!("{name}: {:?}", weight.shape) };
        let mut values = Vec::with_capacity(weight.values.len());
        for sample in 0..n {
            for (i, o) in (0..inputs).flat_map(|i| (0..outputs).map(move |o| (i, o))) {
                values.push(weight.values[(sample * outputs + o) * inputs + i]);
            }
            if let Some(bias) = bias {
                values.extend_from_slice(&bias.values[sample * outputs..(sample + 1) * outputs]);
            }
        }
        blocks.insert(block.to_owned(), values);
    }
    blocks
}

fn decode(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        // Labels, far below 2^53.
        Dtype::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
        Dtype::U8 => bytes.iter().map(|b| f64::from(*b)).collect(),
        other => panic!("no fixture holds {other:?}"),
    }
}
