use burn::tensor::{DType, Tensor, s};
use hyperinf_gradients::Capture;
use hyperinf_linalg::{
    ReadError, combine, combine_precise, dots, dots_precise, normal_product, outer_precise, precise, squared_norms,
    squares, tensor_from_host,
};

use crate::from_captures::diagonal;
use crate::structures::rows::SampleRows;
use crate::{Core, Curvature, Structure, Structured};

/// Values of formed rows that are widened to f64 at once, 32 MiB.
const WIDENED: usize = 1 << 22;

/// The samples themselves, `H = RᵀR/m`, as the captures that the rows `R` are products of: [`Samples`](crate::Samples)
/// in less memory, whose rows are not formed, or only some at a time.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The samples, one part after the other; at least one.
    pub parts: Vec<SamplePart>,
}

/// Some of the samples that a curvature holds.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "one per batch, and its tensors are handles")]
pub enum SamplePart {
    /// Rows, `[m, D]`.
    Formed(Tensor<2>),
    /// The capture that the rows are products of.
    Captured {
        /// Of `m` samples.
        capture: Capture,
        /// `‖r‖²` of each.
        squares: Vec<f64>,
    },
}

/// What turns products `[q, m]` into weights; the second argument gives `‖r‖²` of these samples, `[1, m]`, in their
/// type.
pub(crate) type Weigh<'a> = &'a (dyn Fn(Tensor<2>, &dyn Fn() -> Tensor<2>) -> Tensor<2> + Sync);

impl SamplePart {
    /// `m`.
    pub fn samples(&self) -> usize {
        match self {
            Self::Formed(rows) => rows.dims()[0],
            Self::Captured { capture, .. } => capture.samples(),
        }
    }

    /// `D`.
    pub(crate) fn parameters(&self) -> usize {
        match self {
            Self::Formed(rows) => rows.dims()[1],
            Self::Captured { capture, .. } => capture.block.parameters(),
        }
    }

    /// A tensor on the device and in the type of the samples.
    pub(crate) fn like(&self) -> Tensor<2> {
        match self {
            Self::Formed(rows) => rows.clone(),
            Self::Captured { capture, .. } => {
                let [n, t, cols] = capture.delta.dims();
                capture.delta.clone().reshape([n * t, cols])
            }
        }
    }

    /// The rows, `[m, D]`.
    pub(crate) fn rows(&self) -> Tensor<2> {
        match self {
            Self::Formed(rows) => rows.clone(),
            Self::Captured { capture, .. } => capture.gradients().flatten(1, 2),
        }
    }

    /// The rows, some at a time.
    fn runs(&self) -> Box<dyn Iterator<Item = Tensor<2>> + '_> {
        match self {
            Self::Formed(rows) => Box::new(std::iter::once(rows.clone())),
            Self::Captured { capture, .. } => {
                Box::new(capture.runs(capture.block.parameters()).map(|run| run.gradients().flatten(1, 2)))
            }
        }
    }

    /// `X Rᵀ`, `[q, m]`, in the type of `X`.
    fn dots(&self, x: &Tensor<2>) -> Tensor<2> {
        let of = |rows: Tensor<2>| {
            if rows.dtype() == x.dtype() { dots(x.clone(), rows) } else { dots_precise(x.clone(), rows) }
        };
        match self {
            Self::Captured { capture, .. } if capture.is_cheaper_for(x.dims()[0]) => {
                let (q, rows, cols) = (x.dims()[0], capture.block.rows, capture.block.cols);
                capture.dots(x.clone().reshape([q, rows, cols]))
            }
            _ => Tensor::cat(self.runs().map(of).collect(), 1),
        }
    }

    /// `C R`, `[q, D]`, for weights `C` `[q, m]`, in their type.
    fn combine(&self, weights: Tensor<2>) -> Tensor<2> {
        let [q, _] = weights.dims();
        if let Self::Captured { capture, .. } = self
            && capture.is_cheaper_for(q)
        {
            return capture.combine(weights).reshape([q, capture.block.parameters()]);
        }
        let mut seen = 0;
        let sums = self.runs().map(|rows| {
            let [m, _] = rows.dims();
            let part = weights.clone().slice(s![.., seen..seen + m]);
            seen += m;
            if rows.dtype() == part.dtype() { combine(part, rows) } else { combine_precise(part, rows) }
        });
        let sum = sums.reduce(|a, b| a + b);
        sum.unwrap_or_else(|| Tensor::zeros([q, self.parameters()], (&weights.device(), weights.dtype())))
    }

    /// `w(X Rᵀ) R` and `X Rᵀ`, in the type of `X`.
    fn normal_product(&self, x: &Tensor<2>, weigh: Weigh<'_>) -> (Tensor<2>, Tensor<2>) {
        match self {
            Self::Formed(rows) => formed_normal_product(x, rows, weigh),
            Self::Captured { capture, squares } if capture.is_cheaper_for(x.dims()[0]) => {
                let products = self.dots(x);
                let squares =
                    || tensor_from_host(squares.clone(), [1, capture.samples()], &products.device(), products.dtype());
                (self.combine(weigh(products.clone(), &squares)), products)
            }
            Self::Captured { .. } => {
                let parts = self.runs().map(|rows| formed_normal_product(x, &rows, weigh));
                joined(parts, x)
            }
        }
    }

    fn squared_norms(&self) -> Result<Vec<f64>, ReadError> {
        match self {
            Self::Formed(rows) => squared_norms(rows.clone()),
            Self::Captured { squares, .. } => Ok(squares.clone()),
        }
    }

    fn scaled(&self, exponent: i32) -> Self {
        // In two halves: the whole factor may not fit the type.
        let [first, last] = [exponent / 2, exponent - exponent / 2].map(|exponent| f64::from(exponent).exp2());
        match self {
            Self::Formed(rows) => Self::Formed(rows.clone().mul_scalar(first).mul_scalar(last)),
            Self::Captured { capture, squares } => Self::Captured {
                capture: Capture {
                    block: capture.block.clone(),
                    input: capture.input.clone().mul_scalar(first),
                    delta: capture.delta.clone().mul_scalar(last),
                },
                squares: squares.iter().map(|square| square * first * first * last * last).collect(),
            },
        }
    }

    fn cast(&self, dtype: DType) -> Self {
        match self {
            Self::Formed(rows) => Self::Formed(rows.clone().cast(dtype)),
            Self::Captured { capture, squares } => Self::Captured {
                capture: Capture {
                    block: capture.block.clone(),
                    input: capture.input.clone().cast(dtype),
                    delta: capture.delta.clone().cast(dtype),
                },
                squares: squares.clone(),
            },
        }
    }
}

/// [`normal_product`] in the type of `X`: rows of another type are widened some at a time.
pub(crate) fn formed_normal_product(x: &Tensor<2>, rows: &Tensor<2>, weigh: Weigh<'_>) -> (Tensor<2>, Tensor<2>) {
    let [n, d] = rows.dims();
    let weigh = |products: Tensor<2>, rows: &Tensor<2>| weigh(products, &|| squares(rows.clone()));
    if n == 0 || x.dtype() == rows.dtype() {
        return normal_product(x.clone(), rows.clone(), weigh);
    }
    let step = (WIDENED / d.max(1)).max(1);
    let parts = (0..n).step_by(step).map(|start| {
        let part = rows.clone().slice([start..(start + step).min(n)]);
        normal_product(x.clone(), part.cast(x.dtype()), weigh)
    });
    joined(parts, x)
}

/// The sum of the sums, and the products after each other.
fn joined(parts: impl Iterator<Item = (Tensor<2>, Tensor<2>)>, x: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let (sums, products): (Vec<_>, Vec<_>) = parts.unzip();
    (sums.into_iter().reduce(|a, b| a + b).unwrap_or_else(|| x.zeros_like()), Tensor::cat(products, 1))
}

impl Captured {
    /// `[m, D]`.
    pub(crate) fn dims(&self) -> [usize; 2] {
        [self.parts.iter().map(SamplePart::samples).sum(), self.parameters()]
    }

    pub(crate) fn rows(&self) -> Tensor<2> {
        Tensor::cat(self.parts.iter().map(SamplePart::rows).collect(), 0)
    }

    pub(crate) fn like(&self) -> Tensor<2> {
        self.parts[0].like()
    }

    pub(crate) fn dots(&self, x: &Tensor<2>) -> Tensor<2> {
        Tensor::cat(self.parts.iter().map(|part| part.dots(x)).collect(), 1)
    }

    pub(crate) fn combine(&self, weights: Tensor<2>) -> Tensor<2> {
        let mut seen = 0;
        let sums = self.parts.iter().map(|part| {
            let range = seen..seen + part.samples();
            seen = range.end;
            part.combine(weights.clone().slice(s![.., range]))
        });
        sums.reduce(|a, b| a + b).expect("there is a part")
    }

    pub(crate) fn normal_product(&self, x: &Tensor<2>, weigh: Weigh<'_>) -> (Tensor<2>, Tensor<2>) {
        joined(self.parts.iter().map(|part| part.normal_product(x, weigh)), x)
    }

    pub(crate) fn squared_norms(&self) -> Result<Vec<f64>, ReadError> {
        Ok(self.parts.iter().map(SamplePart::squared_norms).collect::<Result<Vec<_>, _>>()?.concat())
    }

    pub(crate) fn outer_precise(&self) -> Tensor<2> {
        let products = self.parts.iter().flat_map(SamplePart::runs).map(outer_precise);
        products.reduce(|a, b| a + b).expect("there is a part")
    }

    /// The inputs and output gradients of all samples, `[m, rows]` and `[m, cols]`, if each has one position.
    pub(crate) fn single(&self) -> Option<[Tensor<2>; 2]> {
        let sides = self.parts.iter().map(|part| match part {
            SamplePart::Captured { capture, .. } if capture.positions() == 1 => {
                Some((capture.input.clone().squeeze_dim(1), capture.delta.clone().squeeze_dim(1)))
            }
            SamplePart::Captured { .. } | SamplePart::Formed(_) => None,
        });
        let (inputs, deltas): (Vec<_>, Vec<_>) = sides.collect::<Option<Vec<_>>>()?.into_iter().unzip();
        Some([Tensor::cat(inputs, 0), Tensor::cat(deltas, 0)])
    }

    pub(crate) fn scaled(&self, exponent: i32) -> Self {
        Self { parts: self.parts.iter().map(|part| part.scaled(exponent)).collect() }
    }
}

impl Structured for Captured {
    fn structure(&self) -> Structure {
        Structure::Samples
    }

    fn parameters(&self) -> usize {
        self.parts.first().map_or(0, SamplePart::parameters)
    }

    fn apply(&self, v: Tensor<2>) -> Tensor<2> {
        let m = self.dims()[0] as f64;
        self.normal_product(&v, &|products, _| products.div_scalar(m)).0
    }

    fn diagonal(&self) -> Tensor<2> {
        let ([m, d], dtype) = (self.dims(), self.like().dtype());
        let squares = |part: &SamplePart| match part {
            SamplePart::Captured { capture, .. } if capture.positions() == 1 => diagonal(capture).reshape([1, d]),
            part => {
                let sums = part.runs().map(|rows| precise(rows).square().sum_dim(0));
                sums.reduce(|a, b| a + b).unwrap_or_else(|| precise(Tensor::zeros([1, d], &self.like().device())))
            }
        };
        let sum = self.parts.iter().map(squares).reduce(|a, b| a + b).expect("there is a part");
        sum.div_scalar(m as f64).cast(dtype)
    }

    fn trace(&self) -> Result<f64, ReadError> {
        Ok(self.squared_norms()?.iter().sum::<f64>() / self.dims()[0] as f64)
    }

    fn to_dense(&self) -> Tensor<2> {
        self.outer_precise().div_scalar(self.dims()[0] as f64).cast(self.like().dtype())
    }

    fn core(&self) -> Core<'_> {
        Core::Samples(SampleRows::Captured(self.clone()))
    }

    fn with_core(&self, core: Tensor<2>) -> Curvature {
        Curvature::Samples(crate::Samples { rows: core })
    }

    fn cast(&self, dtype: DType) -> Curvature {
        Curvature::Captured(Self { parts: self.parts.iter().map(|part| part.cast(dtype)).collect() })
    }
}
