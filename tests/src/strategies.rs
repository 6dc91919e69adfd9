//! Strategies for proptest: matrices of a chosen condition, sets of gradients, good and broken files.

use std::ops::{Range, RangeInclusive};

use proptest::collection::vec;
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};

use crate::oracle::{Matrix, spectral};

/// A symmetric positive definite matrix with its eigenvectors and eigenvalues.
#[derive(Clone, Debug)]
pub struct Spd {
    /// Orthogonal; eigenvectors in the columns.
    pub basis: Matrix,
    /// From smallest to largest, spaced evenly on a logarithmic scale.
    pub eigenvalues: Vec<f64>,
}

impl Spd {
    /// The matrix.
    pub fn matrix(&self) -> Matrix {
        spectral(&self.basis, &self.eigenvalues, |mu| mu)
    }

    /// Its inverse.
    pub fn inverse(&self) -> Matrix {
        spectral(&self.basis, &self.eigenvalues, |mu| 1.0 / mu)
    }

    /// The largest eigenvalue divided by the smallest.
    pub fn condition(&self) -> f64 {
        self.eigenvalues[self.eigenvalues.len() - 1] / self.eigenvalues[0]
    }
}

/// A symmetric positive definite matrix of a size, `log10` of its condition number and `log10` of its smallest
/// eigenvalue from the given ranges.
pub fn spd(
    size: RangeInclusive<usize>,
    log_condition: Range<f64>,
    log_smallest: Range<f64>,
) -> impl Strategy<Value = Spd> {
    (size, log_condition, log_smallest).prop_flat_map(|(d, condition, smallest)| {
        orthogonal(d).prop_map(move |basis| {
            let step = condition / (d.max(2) - 1) as f64;
            let eigenvalues = (0..d).map(|i| 10.0_f64.powf(smallest + step * i as f64)).collect();
            Spd { basis, eigenvalues }
        })
    })
}

/// A product of `d` Householder reflections, `[d, d]`.
pub fn orthogonal(d: usize) -> impl Strategy<Value = Matrix> {
    vec(vec(-1.0..1.0_f64, d), d).prop_map(move |directions| {
        directions.iter().fold(Matrix::identity(d), |q, u| {
            let square: f64 = u.iter().map(|x| x * x).sum();
            if square < 1e-6 {
                return q;
            }
            q.times(&Matrix::from_fn(d, d, |i, j| f64::from(u8::from(i == j)) - 2.0 * u[i] * u[j] / square))
        })
    })
}

/// Rows of values between −1 and 1, `[q, d]`.
pub fn rows(q: RangeInclusive<usize>, d: usize) -> impl Strategy<Value = Matrix> {
    q.prop_flat_map(move |q| vec(-1.0..1.0_f64, q * d).prop_map(move |values| Matrix { rows: q, cols: d, values }))
}

/// Per-sample gradients of one block.
#[derive(Clone, Debug)]
pub struct GradientSet {
    /// Inputs of the layer.
    pub rows: usize,
    /// Outputs of the layer.
    pub cols: usize,
    /// `[n, rows · cols]`; every value is an f32.
    pub samples: Matrix,
}

/// Per-sample gradients with `n`, `rows` and `cols` from ranges: of low rank plus noise, as gradients are, at scales
/// from 1e-4 to 1e4, and now and then with a sample that is zero or a copy of the one before.
pub fn gradient_set(
    n: RangeInclusive<usize>,
    rows: RangeInclusive<usize>,
    cols: RangeInclusive<usize>,
) -> impl Strategy<Value = GradientSet> {
    let kind = prop_oneof![8 => Just(Kind::Own), 1 => Just(Kind::Zero), 1 => Just(Kind::Copy)];
    (n, rows, cols, -4.0..4.0_f64).prop_flat_map(move |(n, rows, cols, log_scale)| {
        let d = rows * cols;
        let parts = (vec(kind.clone(), n), vec(-1.0..1.0_f64, n), vec(-1.0..1.0_f64, d), vec(-0.2..0.2_f64, n * d));
        parts.prop_map(move |(kinds, weights, direction, noise)| {
            let scale = 10.0_f64.powf(log_scale);
            let mut samples = Matrix::from_fn(n, d, |i, j| match kinds[i] {
                Kind::Zero => 0.0,
                _ => f64::from((scale * (weights[i] * direction[j] + noise[i * d + j])) as f32),
            });
            for i in (1..n).filter(|&i| kinds[i] == Kind::Copy) {
                samples.values.copy_within((i - 1) * d..i * d, i * d);
            }
            GradientSet { rows, cols, samples }
        })
    })
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Own,
    Zero,
    Copy,
}

/// The bytes of a valid gradients file: f32, one to three blocks `layers.<l>`, `[n, rows, cols]` or `[n, D]`.
pub fn gradients_file() -> impl Strategy<Value = Vec<u8>> {
    let block = (1..4_usize, 1..5_usize, any::<bool>());
    (1..5_usize, vec(block, 1..4), any::<u32>()).prop_map(|(n, blocks, seed)| {
        let mut state = seed;
        let tensors = blocks.into_iter().enumerate().map(|(l, (rows, cols, flat))| {
            let shape = if flat { vec![n, rows * cols] } else { vec![n, rows, cols] };
            let bytes = (0..n * rows * cols).flat_map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((f64::from(state) / f64::from(u32::MAX) - 0.5) as f32).to_le_bytes()
            });
            (format!("layers.{l}"), shape, bytes.collect::<Vec<u8>>())
        });
        let tensors: Vec<_> = tensors.collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            (name.as_str(), view.expect("the bytes were made for the shape"))
        });
        serialize(views, None).expect("views in memory can be written")
    })
}

/// Bytes that a reader must refuse or read, but never panic on: noise, noise behind a plausible header length, and
/// valid files with bytes overwritten, removed from the end, or the header length changed.
pub fn file_bytes() -> impl Strategy<Value = Vec<u8>> {
    let noise = vec(any::<u8>(), 0..200);
    let headed = (0..300_u64, vec(any::<u8>(), 0..200)).prop_map(|(length, rest)| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(rest);
        bytes
    });
    let json = "[\\[\\]{}\":,a-z0-9_ .-]{0,120}".prop_map(|text| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.into_bytes());
        bytes
    });
    prop_oneof![noise, headed, json, corrupted()]
}

/// A valid gradients file after one to four kinds of damage.
pub fn corrupted() -> impl Strategy<Value = Vec<u8>> {
    let damage = prop_oneof![
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Overwrite(at, byte)),
        any::<prop::sample::Index>().prop_map(Damage::Truncate),
        any::<u64>().prop_map(Damage::HeaderLength),
        (0..400_u64).prop_map(Damage::HeaderLength),
        vec(any::<u8>(), 1..20).prop_map(Damage::Append),
    ];
    (gradients_file(), vec(damage, 1..5)).prop_map(|(mut bytes, damages)| {
        for damage in damages {
            match damage {
                Damage::Overwrite(at, byte) if !bytes.is_empty() => {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                Damage::Truncate(at) if !bytes.is_empty() => bytes.truncate(at.index(bytes.len())),
                Damage::HeaderLength(length) if bytes.len() >= 8 => bytes[..8].copy_from_slice(&length.to_le_bytes()),
                Damage::Append(more) => bytes.extend(more),
                Damage::Overwrite(..) | Damage::Truncate(_) | Damage::HeaderLength(_) => {}
            }
        }
        bytes
    })
}

#[derive(Clone, Debug)]
enum Damage {
    Overwrite(prop::sample::Index, u8),
    Truncate(prop::sample::Index),
    HeaderLength(u64),
    Append(Vec<u8>),
}
