//! The files of `tests/fixtures`; its README says what they hold.

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};

use crate::oracle::Matrix;

/// The path of a fixture, `lora_tiny/train.safetensors`, say.
pub fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fixtures", name].iter().collect()
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
