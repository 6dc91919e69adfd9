//! The sums behind each storage, in f64 where the device has it: a sum in f32 would be off by `ε` times its largest
//! eigenvalue, which an inverse turns into `ε·κ`, unseen by any residual.

use burn::tensor::Tensor;
use hyperinf_gradients::{Block, Capture};
use hyperinf_linalg::{outer_precise, precise_type, squares, tensor_from_host, widened};

use crate::from_captures::{captures_are_smaller, diagonal, one_sided, one_sided_is_cheaper};
use crate::moments::{Fit, Moments};
use crate::sketch::Sketch;
use crate::storage::{check_captures, check_matrix, check_samples};
use crate::{
    Curvature, CurvatureError, Dense, Diagonal, Isotropic, OneSided, SamplePart, SampleRows, Scale, Side, Storage,
};

/// A sum of tensors of one shape, in the order in which they are added.
#[derive(Clone, Default)]
pub(crate) struct Running<const R: usize>(Option<Tensor<R>>);

impl<const R: usize> Running<R> {
    pub(crate) fn add(&mut self, more: Tensor<R>) {
        self.0 = Some(match self.0.take() {
            Some(sum) => sum + more,
            None => more,
        });
    }

    pub(crate) fn merge(&mut self, later: Self) {
        if let Some(later) = later.0 {
            self.add(later);
        }
    }

    pub(crate) fn sum(self, block: &Block) -> Result<Tensor<R>, CurvatureError> {
        self.0.ok_or_else(|| CurvatureError::Empty { block: block.name.clone() })
    }

    pub(crate) fn mean(self, block: &Block, samples: usize) -> Result<Tensor<R>, CurvatureError> {
        Ok(self.sum(block)?.div_scalar(samples as f64))
    }
}

/// The sum of the batches so far.
#[derive(Clone)]
pub(crate) enum Sum {
    /// All samples; `collapse` to their outer products once that is smaller.
    Samples {
        parts: Vec<SamplePart>,
        collapse: bool,
    },
    /// `Σ g gᵀ`.
    Dense(Running<2>),
    /// `Σ g gᵀ` or `Σ gᵀg`.
    OneSided {
        sum: Running<2>,
        side: Side,
        scale: Scale,
    },
    /// `Σ g²`.
    Diagonal(Running<1>),
    /// `Σ ||g||²`, `[1, 1]`.
    Isotropic(Running<2>),
    /// Both sides' second moments. `fit` asks for a second pass; `shared` says that each has the whole trace.
    Moments {
        moments: Moments,
        fit: bool,
        shared: bool,
    },
    /// The second pass.
    Fit(Fit),
    Sketch(Sketch),
}

impl Sum {
    pub(crate) fn new(storage: Storage) -> Self {
        let moments = |fit, shared| Self::Moments { moments: Moments::default(), fit, shared };
        match storage {
            Storage::Dense => Self::Dense(Running::default()),
            Storage::Samples => Self::Samples { parts: Vec::new(), collapse: false },
            Storage::Full => Self::Samples { parts: Vec::new(), collapse: true },
            Storage::OneSided { side, scale } => Self::OneSided { sum: Running::default(), side, scale },
            Storage::Diagonal => Self::Diagonal(Running::default()),
            Storage::Isotropic => Self::Isotropic(Running::default()),
            Storage::Kronecker { corrected } => moments(corrected, false),
            Storage::TwoSided { corrected } => moments(corrected, true),
            Storage::LowRank { rank, seed } => Self::Sketch(Sketch::new(rank, seed)),
        }
    }

    /// Whether samples are added for the second time.
    pub(crate) fn is_second_pass(&self) -> bool {
        matches!(self, Self::Fit(_))
    }

    /// Samples that are held as captures.
    pub(crate) fn captured(&self) -> usize {
        match self {
            Self::Samples { parts, .. } => parts
                .iter()
                .map(|part| match part {
                    SamplePart::Captured { capture, .. } => capture.samples(),
                    SamplePart::Formed(_) => 0,
                })
                .sum(),
            _ => 0,
        }
    }

    /// Fails if the samples would be too large to be held, together with more of them; those held as captures take
    /// less.
    pub(crate) fn check(&self, block: &Block, samples: usize) -> Result<(), CurvatureError> {
        match self {
            Self::Samples { .. } => check_samples(block, samples.saturating_sub(self.captured())),
            Self::Dense(_)
            | Self::OneSided { .. }
            | Self::Diagonal(_)
            | Self::Isotropic(_)
            | Self::Moments { .. }
            | Self::Fit(_)
            | Self::Sketch(_) => Ok(()),
        }
    }

    /// Adds a batch of gradients `[n, rows, cols]`.
    pub(crate) fn add(&mut self, gradients: Tensor<3>) -> Result<(), CurvatureError> {
        match self {
            Self::Samples { parts, .. } => parts.push(SamplePart::Formed(gradients.flatten(1, 2))),
            Self::Dense(sum) => sum.add(outer_precise(gradients.flatten(1, 2))),
            Self::OneSided { sum, side, .. } => sum.add(outer_precise(contracted(gradients, *side))),
            Self::Diagonal(sum) => {
                widened(gradients.flatten(1, 2)).for_each(|rows| sum.add(rows.square().sum_dim(0).squeeze_dim(0)));
            }
            Self::Isotropic(sum) => {
                widened(gradients.flatten(1, 2)).for_each(|rows| sum.add(squares(rows).sum_dim(1)));
            }
            Self::Moments { moments, .. } => moments.add_gradients(gradients),
            Self::Fit(fit) => fit.add_gradients(gradients),
            Self::Sketch(sketch) => sketch.add(gradients.flatten(1, 2))?,
        }
        Ok(())
    }

    /// Whether a batch of captures is better added as it is than as gradients.
    pub(crate) fn takes(&self, capture: &Capture) -> bool {
        let (rows, cols) = (capture.block.rows, capture.block.cols);
        match self {
            Self::OneSided { side, .. } => one_sided_is_cheaper(capture, side.contracts_rows(rows, cols)),
            Self::Moments { shared: true, .. } => {
                one_sided_is_cheaper(capture, true) && one_sided_is_cheaper(capture, false)
            }
            // Both sides are turned into eigenbases, position by position.
            Self::Fit(_) => capture.positions() < rows.min(cols).max(2),
            Self::Moments { shared: false, .. } | Self::Isotropic(_) => true,
            Self::Diagonal(_) => capture.positions() == 1,
            Self::Samples { collapse: false, .. } => captures_are_smaller(capture),
            Self::Samples { collapse: true, .. } | Self::Dense(_) | Self::Sketch(_) => false,
        }
    }

    /// Adds a batch of captures whose samples have these squared norms; gradients are multiplied out where they are needed.
    pub(crate) fn add_capture(&mut self, capture: &Capture, squares: &[f64]) -> Result<(), CurvatureError> {
        let (rows, cols) = (capture.block.rows, capture.block.cols);
        match self {
            Self::Moments { moments, shared: false, .. } => return moments.add_capture(capture),
            Self::Moments { moments, shared: true, .. } => moments.add_products(capture),
            Self::Fit(fit) => fit.add_capture(capture),
            Self::OneSided { sum, side, .. } => sum.add(one_sided(capture, side.contracts_rows(rows, cols))),
            Self::Diagonal(sum) => sum.add(diagonal(capture)),
            Self::Isotropic(sum) => {
                let (device, dtype) = (capture.delta.device(), capture.delta.dtype());
                let dtype = precise_type(&device, dtype);
                sum.add(tensor_from_host(vec![squares.iter().sum()], [1, 1], &device, dtype));
            }
            Self::Samples { parts, collapse: false } => {
                parts.push(SamplePart::Captured { capture: capture.clone(), squares: squares.to_vec() });
                let held = |part: &SamplePart| match part {
                    SamplePart::Captured { capture, .. } => capture.samples() * capture.positions(),
                    SamplePart::Formed(_) => 0,
                };
                check_captures(&capture.block, parts.iter().map(held).sum())?;
            }
            Self::Samples { collapse: true, .. } | Self::Dense(_) | Self::Sketch(_) => {
                return self.add(capture.gradients());
            }
        }
        Ok(())
    }

    /// Replaces samples by the sum of their outer products where that is smaller and wanted.
    pub(crate) fn collapse(&mut self, block: &Block, samples: usize) -> Result<(), CurvatureError> {
        if let Self::Samples { parts, collapse: true } = self
            && samples > block.parameters()
        {
            check_matrix(block, block.parameters())?;
            *self = Self::Dense(outer_products(std::mem::take(parts)));
        }
        Ok(())
    }

    /// Adds the sum over later samples; `false` if it is a sum of another kind.
    pub(crate) fn merge(&mut self, later: Self) -> bool {
        match self {
            Self::Samples { parts, .. } => match later {
                Self::Samples { parts: later, .. } => parts.extend(later),
                Self::Dense(later) => {
                    let mut sum = outer_products(std::mem::take(parts));
                    sum.merge(later);
                    *self = Self::Dense(sum);
                }
                _ => return false,
            },
            Self::Dense(sum) => match later {
                Self::Samples { parts: later, .. } => sum.merge(outer_products(later)),
                Self::Dense(later) => sum.merge(later),
                _ => return false,
            },
            Self::OneSided { sum, .. } => {
                let Self::OneSided { sum: later, .. } = later else { return false };
                sum.merge(later);
            }
            Self::Diagonal(sum) => {
                let Self::Diagonal(later) = later else { return false };
                sum.merge(later);
            }
            Self::Isotropic(sum) => {
                let Self::Isotropic(later) = later else { return false };
                sum.merge(later);
            }
            Self::Moments { moments, .. } => {
                let Self::Moments { moments: later, .. } = later else { return false };
                moments.merge(later);
            }
            Self::Fit(fit) => {
                let Self::Fit(later) = later else { return false };
                fit.merge(later);
            }
            Self::Sketch(sketch) => {
                let Self::Sketch(later) = later else { return false };
                sketch.merge(later);
            }
        }
        true
    }

    /// The sum, where it is one matrix.
    pub(crate) fn into_matrix(self) -> Option<Tensor<2>> {
        match self {
            Self::Dense(sum) | Self::OneSided { sum, .. } => sum.0,
            Self::Samples { .. }
            | Self::Diagonal(_)
            | Self::Isotropic(_)
            | Self::Moments { .. }
            | Self::Fit(_)
            | Self::Sketch(_) => None,
        }
    }

    /// Adds a sum over later samples; `false` if this is no matrix of its size.
    pub(crate) fn add_matrix(&mut self, later: Tensor<2>, block: &Block) -> bool {
        let (sum, side) = match self {
            Self::Dense(sum) => (sum, block.parameters()),
            Self::OneSided { sum, side, .. } => {
                (sum, if side.contracts_rows(block.rows, block.cols) { block.cols } else { block.rows })
            }
            Self::Samples { .. }
            | Self::Diagonal(_)
            | Self::Isotropic(_)
            | Self::Moments { .. }
            | Self::Fit(_)
            | Self::Sketch(_) => return false,
        };
        let fits = later.dims() == [side, side];
        if fits {
            sum.add(later);
        }
        fits
    }

    /// Whether the samples must be added once more, for which the sum is prepared.
    pub(crate) fn end_pass(&mut self, block: &Block, samples: usize) -> Result<bool, CurvatureError> {
        match self {
            Self::Moments { moments, fit: true, .. } => {
                let bases = std::mem::take(moments).finish(block, samples, false)?;
                *self = Self::Fit(Fit::new(bases));
                Ok(true)
            }
            Self::Moments { fit: false, .. }
            | Self::Samples { .. }
            | Self::Dense(_)
            | Self::OneSided { .. }
            | Self::Diagonal(_)
            | Self::Isotropic(_)
            | Self::Fit(_)
            | Self::Sketch(_) => Ok(false),
        }
    }

    /// The mean over all samples added.
    pub(crate) fn finish(self, block: &Block, samples: usize) -> Result<Curvature, CurvatureError> {
        Ok(match self {
            Self::Samples { parts, .. } => SampleRows::of(parts).into(),
            Self::Dense(sum) => Dense { matrix: sum.mean(block, samples)? }.into(),
            Self::OneSided { sum, side, scale } => {
                let (rows, cols) = (block.rows, block.cols);
                let rows_contracted = side.contracts_rows(rows, cols);
                let length = match scale {
                    Scale::Mean if rows_contracted => rows,
                    Scale::Mean => cols,
                    Scale::Sum => 1,
                };
                let factor = sum.sum(block)?.div_scalar(samples as f64 * length as f64);
                OneSided { factor, rows, cols, rows_contracted }.into()
            }
            Self::Diagonal(sum) => Diagonal { values: sum.mean(block, samples)? }.into(),
            Self::Isotropic(sum) => {
                let parameters = block.parameters();
                Isotropic { value: sum.mean(block, samples)?.div_scalar(parameters as f64), parameters }.into()
            }
            Self::Moments { fit: true, .. } => {
                let block = block.name.clone();
                return Err(CurvatureError::SecondPass { block, found: 0, expected: samples });
            }
            Self::Moments { moments, shared, fit: false } => moments.finish(block, samples, shared)?.into(),
            Self::Fit(fit) => fit.finish(block, samples)?.into(),
            Self::Sketch(sketch) => sketch.finish(block, samples)?.into(),
        })
    }
}

/// `Σ JᵀJ` over batches of rows `J`, `[D, D]`.
fn outer_products(parts: Vec<SamplePart>) -> Running<2> {
    let mut sum = Running::default();
    parts.into_iter().for_each(|part| sum.add(SampleRows::of(vec![part]).outer_precise()));
    sum
}

/// All gradients with the kept side as columns: `[n·rows, cols]` or `[n·cols, rows]`.
fn contracted(gradients: Tensor<3>, side: Side) -> Tensor<2> {
    let [n, rows, cols] = gradients.dims();
    if side.contracts_rows(rows, cols) {
        gradients.reshape([n * rows, cols])
    } else {
        gradients.swap_dims(1, 2).reshape([n * cols, rows])
    }
}
