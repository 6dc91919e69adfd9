use burn::tensor::{Tensor, s};
use hyperinf_gradients::{Block, Capture};
use hyperinf_linalg::{EigenDecomposition, host_each, outer_precise, precise, rotate, tensor_from_host};

use crate::from_captures::one_sided;
use crate::sum::Running;
use crate::{CurvatureError, Kronecker};

/// Numbers of a temporary of per-sample matrices: 32 MiB of f64.
const CHUNK: usize = 1 << 22;
/// Batches whose positions are counted on the device before it is waited for.
const UNREAD: usize = 256;

/// The sums of the second moments of both sides of a block.
#[derive(Clone, Default)]
pub(crate) struct Moments {
    /// `[rows, rows]` and `[cols, cols]`.
    left: Running<2>,
    right: Running<2>,
    /// The divisor of the left sum; that of the right one is the number of samples.
    positions: f64,
    /// More of it, `[n, 1]` of each batch that has not been read.
    unread: Vec<Tensor<2>>,
}

impl Moments {
    /// Adds `Σ a aᵀ` and `Σ δ δᵀ` over positions; where samples have several, those with `δ = 0` count for nothing.
    pub(crate) fn add_capture(&mut self, capture: &Capture) -> Result<(), CurvatureError> {
        let ([n, t, rows], [_, _, cols]) = (capture.input.dims(), capture.delta.dims());
        let mut input = capture.input.clone().reshape([n * t, rows]);
        let delta = capture.delta.clone().reshape([n * t, cols]);
        if t == 1 {
            self.positions += n as f64;
        } else {
            let reached = delta.clone().not_equal_elem(0.0).any_dim(1);
            input = input.mask_fill(reached.clone().bool_not().expand([n * t, rows]), 0.0);
            self.unread.push(reached.float().reshape([n, t]).sum_dim(1));
            if self.unread.len() >= UNREAD {
                self.read()?;
            }
        }
        self.left.add(outer_precise(input));
        self.right.add(outer_precise(delta));
        Ok(())
    }

    /// Adds what has not been read.
    fn read(&mut self) -> Result<(), CurvatureError> {
        self.positions += host_each(&std::mem::take(&mut self.unread))?.iter().flatten().sum::<f64>();
        Ok(())
    }

    /// Adds `Σ g gᵀ` and `Σ gᵀ g` of `[n, rows, cols]`.
    pub(crate) fn add_gradients(&mut self, gradients: Tensor<3>) {
        let [n, rows, cols] = gradients.dims();
        self.positions += n as f64;
        let left = gradients.clone().swap_dims(1, 2).reshape([n * cols, rows]);
        self.left.add(outer_precise(left));
        self.right.add(outer_precise(gradients.reshape([n * rows, cols])));
    }

    /// The same from a capture, whose gradients are not formed.
    pub(crate) fn add_products(&mut self, capture: &Capture) {
        self.positions += capture.samples() as f64;
        self.left.add(one_sided(capture, false));
        self.right.add(one_sided(capture, true));
    }

    /// Adds the sums of later samples.
    pub(crate) fn merge(&mut self, later: Self) {
        self.left.merge(later.left);
        self.right.merge(later.right);
        self.positions += later.positions;
        self.unread.extend(later.unread);
    }

    /// The eigenbases, with the eigenvalues `λ_A λ_S`; divided by `tr S` if `shared`, for two factors of which each has
    /// the whole trace.
    pub(crate) fn finish(mut self, block: &Block, samples: usize, shared: bool) -> Result<Kronecker, CurvatureError> {
        self.read()?;
        let (left, right) = (self.left.sum(block)?, self.right.sum(block)?);
        let (device, dtype) = (left.device(), left.dtype());
        let failed = |what| CurvatureError::eigen(block, what);
        let left =
            EigenDecomposition::of(left.div_scalar(self.positions.max(1.0))).map_err(failed("the left factor"))?;
        let right = EigenDecomposition::of(right.div_scalar(samples as f64)).map_err(failed("the right factor"))?;
        let trace: f64 = right.values.iter().sum();
        let scale = if shared && trace > 0.0 { trace } else { 1.0 };
        let products = left.values.iter().flat_map(|a| right.values.iter().map(move |s| a * (s / scale))).collect();
        let eigenvalues = tensor_from_host(products, [block.rows, block.cols], &device, dtype);
        Ok(Kronecker { left: left.basis(&device, dtype), right: right.basis(&device, dtype), eigenvalues })
    }
}

/// Eigenvalues fitted to the samples in given eigenbases: `Λ_ij = mean (Q_Aᵀ g Q_S)_ij²`.
#[derive(Clone)]
pub(crate) struct Fit {
    left: Tensor<2>,
    right: Tensor<2>,
    squares: Running<2>,
    /// Samples added.
    samples: usize,
}

impl Fit {
    /// In the eigenbases of a curvature.
    pub(crate) fn new(bases: Kronecker) -> Self {
        Self { left: bases.left, right: bases.right, squares: Running::default(), samples: 0 }
    }

    /// Adds the sums of later samples, which must be in the same eigenbases.
    pub(crate) fn merge(&mut self, later: Self) {
        self.squares.merge(later.squares);
        self.samples += later.samples;
    }

    /// Adds `(Q_Aᵀ aᵀδ Q_S)²` of each sample, as `(a Q_A)ᵀ (δ Q_S)`.
    pub(crate) fn add_capture(&mut self, capture: &Capture) {
        let ([n, t, rows], [_, _, cols]) = (capture.input.dims(), capture.delta.dims());
        let input = precise(capture.input.clone()).reshape([n * t, rows]).matmul(self.left.clone());
        let delta = precise(capture.delta.clone()).reshape([n * t, cols]).matmul(self.right.clone());
        self.samples += n;
        if t == 1 {
            // The square of a product of two numbers: one product of matrices for all samples.
            return self.squares.add(input.square().transpose().matmul(delta.square()));
        }
        let (input, delta) = (input.reshape([n, t, rows]), delta.reshape([n, t, cols]));
        for part in chunks(n, rows * cols) {
            let input = input.clone().slice(s![part.clone(), .., ..]).swap_dims(1, 2);
            let turned = input.matmul(delta.clone().slice(s![part, .., ..]));
            self.squares.add(turned.square().sum_dim(0).squeeze_dim(0));
        }
    }

    /// Adds `(Q_Lᵀ g Q_R)²` of `[n, rows, cols]`.
    pub(crate) fn add_gradients(&mut self, gradients: Tensor<3>) {
        let [n, rows, cols] = gradients.dims();
        self.samples += n;
        for part in chunks(n, rows * cols) {
            let gradients = precise(gradients.clone().slice(s![part, .., ..])).flatten(1, 2);
            let turned = rotate(gradients, self.left.clone(), self.right.clone());
            self.squares.add(turned.square().sum_dim(0).reshape([rows, cols]));
        }
    }

    /// The mean over the samples added, which must be as many as in the first pass.
    pub(crate) fn finish(self, block: &Block, expected: usize) -> Result<Kronecker, CurvatureError> {
        if self.samples != expected {
            return Err(CurvatureError::SecondPass { block: block.name.clone(), found: self.samples, expected });
        }
        let eigenvalues = self.squares.mean(block, expected)?;
        Ok(Kronecker { left: self.left, right: self.right, eigenvalues })
    }
}

/// `0..n` in runs of samples with `size` numbers each.
fn chunks(n: usize, size: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let step = (CHUNK / size.max(1)).max(1);
    (0..n).step_by(step).map(move |start| start..(start + step).min(n))
}
