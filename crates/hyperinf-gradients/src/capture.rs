use burn::tensor::{DType, Tensor, assert_shape, s};
use hyperinf_linalg::{ReadError, host_each, leaves_range, precise, precise_type, squared_norms, squares};

use crate::Block;

/// Numbers of a temporary: 32 MiB of f64.
const CHUNK: usize = 1 << 22;
/// The cost of writing and reading a number, in multiplications.
const MEMORY: usize = 8;

/// The inputs and output gradients of a linear layer, for every sample of a batch.
///
/// The per-sample gradient of the block is `g_i = a_iᵀ δ_i`, summed over the `t` positions. Other layers have captures
/// of this form too: see the methods of [`Tape`](crate::Tape).
#[derive(Clone, Debug)]
pub struct Capture {
    /// The block.
    pub block: Block,
    /// `a`: the layer's inputs, `[n, t, rows]`; with a bias the last column is 1.
    pub input: Tensor<3>,
    /// `δ`: the gradient of each sample's loss at the layer's outputs, `[n, t, cols]`.
    pub delta: Tensor<3>,
}

impl Capture {
    /// The number of samples, `n`.
    pub fn samples(&self) -> usize {
        self.input.dims()[0]
    }

    /// The number of positions, `t`.
    pub fn positions(&self) -> usize {
        self.input.dims()[1]
    }

    /// The per-sample gradients of the block, `[n, rows, cols]`.
    pub fn gradients(&self) -> Tensor<3> {
        let transposed = self.input.clone().swap_dims(1, 2);
        if self.positions() == 1 {
            // One position: an outer product, which a broadcast writes at the speed of memory; a product does not.
            transposed * self.delta.clone()
        } else {
            transposed.matmul(self.delta.clone())
        }
    }

    /// `Σ_i g_i`, `[1, rows, cols]`: one product over all samples and positions.
    pub fn sum(&self) -> Tensor<3> {
        let ([n, t, rows], [_, _, cols]) = (self.input.dims(), self.delta.dims());
        let input = self.input.clone().reshape([n * t, rows]).transpose();
        input.matmul(self.delta.clone().reshape([n * t, cols])).unsqueeze_dim(0)
    }

    /// `⟨X_q, g_i⟩ = Σ_t (a_t X_q)·δ_t`, `[q, n]`, for `X` `[q, rows, cols]`, in its type: no gradient is formed.
    ///
    /// Takes `q·n·t·rows·cols` multiplications; gradients take `(t + q)·n·rows·cols` and are written and read.
    ///
    /// # Panics
    ///
    /// If the shapes do not fit, or there are no samples.
    pub fn dots(&self, x: Tensor<3>) -> Tensor<2> {
        let ([q, rows, cols], t) = (x.dims(), self.positions());
        // The shorter side is left, so that less is written.
        let (kept, x) = if rows < cols { (rows, x.swap_dims(1, 2)) } else { (cols, x) };
        let products = self.runs(q * t * kept).map(|run| {
            let n = run.samples();
            let (taken, other) = if rows < cols { (run.delta, run.input) } else { (run.input, run.delta) };
            let taken = taken.cast(x.dtype()).reshape([1, n * t, rows.max(cols)]);
            let other = other.cast(x.dtype()).reshape([1, n, t * kept]);
            let along = taken.matmul(x.clone()).reshape([q, n, t * kept]);
            (along * other).sum_dim(2).reshape([q, n])
        });
        Tensor::cat(products.collect(), 1)
    }

    /// `Σ_i w_qi g_i`, `[q, rows, cols]`, for weights `[q, n]`, in their type: no gradient is formed.
    ///
    /// Takes as many multiplications as [`Capture::dots`].
    ///
    /// # Panics
    ///
    /// If there is not one weight for each sample.
    pub fn combine(&self, weights: Tensor<2>) -> Tensor<3> {
        let (samples, t) = (self.samples(), self.positions());
        assert_shape!(weights, [_, samples]);
        let ([_, _, rows], [_, _, cols]) = (self.input.dims(), self.delta.dims());
        let (q, dtype, device) = (weights.dims()[0], weights.dtype(), weights.device());
        // The shorter side is weighted, so that less is written.
        let (short, long, mut seen) = (rows.min(cols), rows.max(cols), 0);
        let sums = self.runs(q * t * short).map(|run| {
            let n = run.samples();
            let (weighted, other) = if rows < cols { (run.input, run.delta) } else { (run.delta, run.input) };
            let part = weights.clone().slice(s![.., seen..seen + n]).transpose().reshape([n, 1, q, 1]);
            seen += n;
            let weighted = weighted.cast(dtype).reshape([n, t, 1, short]) * part;
            let other = other.cast(dtype).reshape([n * t, long]).transpose();
            other.matmul(weighted.reshape([n * t, q * short]))
        });
        let sum = sums.reduce(|a, b| a + b).unwrap_or_else(|| Tensor::zeros([long, q * short], (&device, dtype)));
        // [long, q, short] to [q, rows, cols].
        sum.reshape([long, q, short]).permute(if rows < cols { [1, 2, 0] } else { [1, 0, 2] })
    }

    /// Whether products with `q` rows, or `q` sums, take less from the capture than from its gradients, which would be
    /// formed for them.
    pub fn is_cheaper_for(&self, q: usize) -> bool {
        q * self.positions() <= q + self.positions() + MEMORY
    }

    /// `‖g_i‖²` of each sample, in f64: `‖a‖²·‖δ‖²` of one position; of several `Σ_{tt'} (a_t·a_t')(δ_t·δ_t')` where that
    /// takes less than the gradients, of which only some are formed at a time.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn squared_norms(&self) -> Result<Vec<f64>, ReadError> {
        Ok(Self::squared_norms_each(std::slice::from_ref(self))?.concat())
    }

    /// [`Capture::squared_norms`] of several blocks of one batch; the device is waited for once.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn squared_norms_each(captures: &[Self]) -> Result<Vec<Vec<f64>>, ReadError> {
        let sums: Vec<Vec<Tensor<2>>> = captures.iter().map(Self::sums_of_squares).collect();
        let mut found = host_each(&sums.concat())?.into_iter();
        let of_capture = |(capture, sums): (&Self, &Vec<Tensor<2>>)| {
            let parts: Vec<Vec<f64>> = found.by_ref().take(sums.len()).collect();
            if capture.has_products() {
                // Rounding may leave a sum of products below 0.
                return Ok(parts.concat().into_iter().map(|sum| if sum < 0.0 { 0.0 } else { sum }).collect());
            }
            if parts.iter().flatten().any(|&square| leaves_range(square)) {
                return capture.rescaled_squares();
            }
            Ok(match &parts[..] {
                [a, delta] if capture.positions() == 1 => a.iter().zip(delta).map(|(a, delta)| a * delta).collect(),
                runs => runs.concat(),
            })
        };
        captures.iter().zip(&sums).map(of_capture).collect()
    }

    /// Whether squares are sums of products of positions, in f64: the terms may cancel, and f64 has digits to spare for
    /// those of f32.
    fn has_products(&self) -> bool {
        let ([_, t, rows], [_, _, cols]) = (self.input.dims(), self.delta.dims());
        let dtype = self.delta.dtype();
        let widens = dtype != DType::F64 && precise_type(&self.delta.device(), dtype) == DType::F64;
        t > 1 && widens && 2 * t * (rows + cols) < rows * cols
    }

    /// On the device, `[1, n]` each: `‖a‖²` and `‖δ‖²` of one position, else `‖g‖²` of one run of samples after another.
    fn sums_of_squares(&self) -> Vec<Tensor<2>> {
        let ([n, t, rows], [_, _, cols]) = (self.input.dims(), self.delta.dims());
        if t == 1 {
            let (a, delta) = (self.input.clone().reshape([n, rows]), self.delta.clone().reshape([n, cols]));
            return vec![squares(a), squares(delta)];
        }
        if self.has_products() {
            let of_run = |run: Self| {
                let n = run.samples();
                (products(run.input) * products(run.delta)).reshape([n, t * t]).sum_dim(1).reshape([1, n])
            };
            return self.runs(t * (rows + cols + 2 * t)).map(of_run).collect();
        }
        self.runs(rows * cols).map(|run| squares(run.gradients().flatten(1, 2))).collect()
    }

    /// The squares, scaled where they leave the range of their type.
    fn rescaled_squares(&self) -> Result<Vec<f64>, ReadError> {
        let ([n, t, rows], [_, _, cols]) = (self.input.dims(), self.delta.dims());
        if t == 1 {
            let (a, delta) = (self.input.clone().reshape([n, rows]), self.delta.clone().reshape([n, cols]));
            let squares = squared_norms(a)?.into_iter().zip(squared_norms(delta)?);
            return Ok(squares.map(|(a, delta)| a * delta).collect());
        }
        let runs = self.runs(rows * cols).map(|run| squared_norms(run.gradients().flatten(1, 2)));
        Ok(runs.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// The samples in runs, for temporaries of `size` numbers per sample; no run without samples.
    pub fn runs(&self, size: usize) -> impl Iterator<Item = Self> {
        self.batches((CHUNK / size.max(1)).max(1))
    }

    /// The samples in batches of at most `most`; none without samples.
    pub fn batches(&self, most: usize) -> impl Iterator<Item = Self> {
        let (n, step) = (self.samples(), most.max(1));
        let whole = n <= step;
        (0..n).step_by(step).map(move |start| {
            if whole {
                return self.clone();
            }
            let batch = start..(start + step).min(n);
            Self {
                block: self.block.clone(),
                input: self.input.clone().slice(s![batch.clone(), .., ..]),
                delta: self.delta.clone().slice(s![batch, .., ..]),
            }
        })
    }

    /// Joins two uses of one layer: the positions of both, one after the other.
    pub(crate) fn join(self, other: Self) -> Self {
        Self {
            block: self.block,
            input: Tensor::cat(vec![self.input, other.input], 1),
            delta: Tensor::cat(vec![self.delta, other.delta], 1),
        }
    }
}

/// The products of each sample's positions with each other, `[n, t, t]`.
fn products(rows: Tensor<3>) -> Tensor<3> {
    let rows = precise(rows);
    rows.clone().matmul(rows.swap_dims(1, 2))
}
