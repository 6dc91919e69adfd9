use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

/// The type that gradients are written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoredType {
    /// 4 bytes, as they were computed.
    #[default]
    F32,
    /// 2 bytes, 11 bits of precision, from 6e-8 to 65,504: smaller gradients are lost, larger ones refused.
    F16,
    /// 2 bytes, 8 bits of precision, the range of f32.
    Bf16,
}

impl StoredType {
    /// All of them by their words.
    pub const NAMES: [(&'static str, Self); 3] = [("f32", Self::F32), ("f16", Self::F16), ("bf16", Self::Bf16)];

    /// Its word.
    pub fn name(self) -> &'static str {
        Self::NAMES.into_iter().find(|(_, named)| *named == self).map_or("", |(name, _)| name)
    }

    /// The type as safetensors names it.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        self.dtype().bitsize() / 8
    }

    /// The numbers as little-endian bytes; fails with the first one that is finite and too large for the type.
    pub(crate) fn encode(self, values: &[f32]) -> Result<Vec<u8>, f32> {
        let mut bytes = match self {
            Self::F32 => bytemuck::cast_slice(values).to_vec(),
            Self::F16 => {
                let mut halves = vec![f16::ZERO; values.len()];
                halves.convert_from_f32_slice(values);
                fits(values, |at| halves[at].is_finite())?;
                bytemuck::cast_slice(&halves).to_vec()
            }
            Self::Bf16 => {
                let mut halves = vec![bf16::ZERO; values.len()];
                halves.convert_from_f32_slice(values);
                fits(values, |at| halves[at].is_finite())?;
                bytemuck::cast_slice(&halves).to_vec()
            }
        };
        if cfg!(target_endian = "big") {
            bytes.chunks_exact_mut(self.bytes()).for_each(<[u8]>::reverse);
        }
        Ok(bytes)
    }
}

fn fits(values: &[f32], finite: impl Fn(usize) -> bool) -> Result<(), f32> {
    match values.iter().enumerate().find(|(at, value)| value.is_finite() && !finite(*at)) {
        Some((_, &value)) => Err(value),
        None => Ok(()),
    }
}
