use burn::tensor::{Int, Tensor, TensorData};
use hyperinf_linalg::{
    ReadError, combine, combine_precise, dots, dots_precise, gram_precise, outer_precise, precise, squared_norms,
};

use super::captured::{Weigh, formed_normal_product};
use super::{Captured, SamplePart, Samples};
use crate::Curvature;

/// The samples `R`, `[m, D]`, that a curvature holds: as rows, or as the captures that the rows are products of.
///
/// Solvers take products with them, which captures give without the rows. A copy shares the tensors.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "one per block, and its tensors are handles")]
pub enum SampleRows {
    /// `R`.
    Formed(Tensor<2>),
    /// Captures whose gradients are the rows.
    Captured(Captured),
}

impl SampleRows {
    /// Joins the parts in order: as rows if all are rows.
    ///
    /// # Panics
    ///
    /// If `parts` is empty.
    pub(crate) fn of(parts: Vec<SamplePart>) -> Self {
        let formed = |part: &SamplePart| match part {
            SamplePart::Formed(rows) => Some(rows.clone()),
            SamplePart::Captured { .. } => None,
        };
        match parts.iter().map(formed).collect::<Option<Vec<_>>>() {
            Some(rows) if rows.len() == 1 => Self::Formed(rows[0].clone()),
            Some(rows) => Self::Formed(Tensor::cat(rows, 0)),
            None => Self::Captured(Captured { parts }),
        }
    }

    /// `[m, D]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Formed(rows) => rows.dims(),
            Self::Captured(held) => held.dims(),
        }
    }

    /// A tensor on the device and in the type of the samples.
    pub fn like(&self) -> Tensor<2> {
        match self {
            Self::Formed(rows) => rows.clone(),
            Self::Captured(held) => held.like(),
        }
    }

    /// `R`, `[m, D]`: captures are multiplied out.
    pub fn rows(&self) -> Tensor<2> {
        match self {
            Self::Formed(rows) => rows.clone(),
            Self::Captured(held) => held.rows(),
        }
    }

    /// Some of the rows in some order, `[k, D]`: the given ones, except that those of captures are put in the order of
    /// the parts that hold them.
    ///
    /// # Panics
    ///
    /// May panic if there are no such rows.
    pub fn select(&self, indices: &[usize]) -> Tensor<2> {
        let picked = |indices: Vec<i64>| {
            let data = TensorData::new(indices.clone(), [indices.len()]);
            Tensor::<1, Int>::from_data(data, &self.like().device())
        };
        let held = match self {
            Self::Formed(rows) => return rows.clone().select(0, picked(indices.iter().map(|&i| i as i64).collect())),
            Self::Captured(held) => held,
        };
        let (mut seen, mut found) = (0, Vec::new());
        for part in &held.parts {
            let range = seen..seen + part.samples();
            seen = range.end;
            let inside: Vec<i64> =
                indices.iter().filter(|&i| range.contains(i)).map(|i| (i - range.start) as i64).collect();
            if inside.is_empty() {
                continue;
            }
            let places = picked(inside);
            found.push(match part {
                SamplePart::Formed(rows) => rows.clone().select(0, places),
                SamplePart::Captured { capture, .. } => {
                    let mut capture = capture.clone();
                    capture.input = capture.input.select(0, places.clone());
                    capture.delta = capture.delta.select(0, places);
                    capture.gradients().flatten(1, 2)
                }
            });
        }
        Tensor::cat(found, 0)
    }

    /// `X Rᵀ`, `[q, m]` for `X` `[q, D]`, in the type of `X`.
    pub fn dots(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Formed(rows) if rows.dtype() == x.dtype() => dots(x, rows.clone()),
            Self::Formed(rows) => dots_precise(x, rows.clone()),
            Self::Captured(held) => held.dots(&x),
        }
    }

    /// [`SampleRows::dots`] in f64 where the device has it.
    pub fn dots_precise(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Formed(rows) => dots_precise(x, rows.clone()),
            Self::Captured(held) => held.dots(&precise(x)),
        }
    }

    /// `C R`, `[q, D]` for weights `C` `[q, m]`, in the type of `C`.
    pub fn combine(&self, weights: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Formed(rows) if rows.dtype() == weights.dtype() => combine(weights, rows.clone()),
            Self::Formed(rows) => combine_precise(weights, rows.clone()),
            Self::Captured(held) => held.combine(weights),
        }
    }

    /// [`SampleRows::combine`] in f64 where the device has it.
    pub fn combine_precise(&self, weights: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Formed(rows) => combine_precise(weights, rows.clone()),
            Self::Captured(held) => held.combine(precise(weights)),
        }
    }

    /// `w(X Rᵀ) R`, `[q, D]`, together with `X Rᵀ`, `[q, m]`, in the type of `X`.
    ///
    /// `weigh` turns the products with some samples, `[q, k]`, into weights; its second argument gives `‖r‖²` of these
    /// samples, `[1, k]`, in the same type.
    pub fn normal_product(
        &self,
        x: Tensor<2>,
        weigh: impl Fn(Tensor<2>, &dyn Fn() -> Tensor<2>) -> Tensor<2> + Sync,
    ) -> (Tensor<2>, Tensor<2>) {
        let weigh: Weigh<'_> = &weigh;
        match self {
            Self::Formed(rows) => formed_normal_product(&x, rows, weigh),
            Self::Captured(held) => held.normal_product(&x, weigh),
        }
    }

    /// `‖r‖²` of each sample.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn squared_norms(&self) -> Result<Vec<f64>, ReadError> {
        match self {
            Self::Formed(rows) => squared_norms(rows.clone()),
            Self::Captured(held) => held.squared_norms(),
        }
    }

    /// `R Rᵀ`, `[m, m]`, in f64 where the device has it: of captures with one position the product of their sides' own,
    /// `(aaᵀ)∘(δδᵀ)`; others are multiplied out.
    pub fn gram_precise(&self) -> Tensor<2> {
        match self {
            Self::Formed(rows) => gram_precise(rows.clone()),
            Self::Captured(held) => match held.single() {
                Some([input, delta]) => gram_precise(input) * gram_precise(delta),
                None => gram_precise(held.rows()),
            },
        }
    }

    /// `RᵀR`, `[D, D]`, in f64 where the device has it.
    pub fn outer_precise(&self) -> Tensor<2> {
        match self {
            Self::Formed(rows) => outer_precise(rows.clone()),
            Self::Captured(held) => held.outer_precise(),
        }
    }

    /// The samples times `2^exponent`.
    pub(crate) fn scaled(&self, exponent: i32) -> Self {
        match self {
            Self::Formed(rows) => {
                // In two halves: the whole factor may not fit the type.
                let power = |exponent: i32| f64::from(exponent).exp2();
                let (first, last) = (power(exponent / 2), power(exponent - exponent / 2));
                Self::Formed(rows.clone().mul_scalar(first).mul_scalar(last))
            }
            Self::Captured(held) => Self::Captured(held.scaled(exponent)),
        }
    }
}

impl From<SampleRows> for Curvature {
    fn from(rows: SampleRows) -> Self {
        match rows {
            SampleRows::Formed(rows) => Samples { rows }.into(),
            SampleRows::Captured(held) => held.into(),
        }
    }
}
