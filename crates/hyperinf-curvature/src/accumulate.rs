use burn::tensor::{DType, Tensor, assert_shape};
use hyperinf_gradients::{Block, Capture};
use hyperinf_linalg::{
    host_each, least_square, leaves_range, precise_type, squared_norms, squared_norms_each, squares,
};

use crate::sum::Sum;
use crate::{Curvature, CurvatureError, Storage};

/// The curvature of one block, with the numbers that damping and reports need.
#[derive(Clone, Debug)]
pub struct BlockCurvature {
    /// The block.
    pub block: Block,
    /// Its curvature.
    pub curvature: Curvature,
    /// `mean(diag F) = (nD)⁻¹ Σ_i ||g_i||²`, which relative damping multiplies; the same for every structure.
    pub mean_square: f64,
    /// `n`.
    pub samples: usize,
}

/// The sum of an [`Accumulator`] that is one matrix, for an accumulator elsewhere.
#[derive(Clone, Debug)]
pub struct MatrixSum {
    /// `Σ g gᵀ`, or what one side of the block leaves of it.
    pub matrix: Tensor<2>,
    /// `Σ ||g||²`.
    pub square_sum: f64,
    /// The samples added.
    pub samples: usize,
}

/// Sums the curvature of one block over batches: `F = (1/n) Σ g_i g_iᵀ`, in a [`Storage`].
///
/// Samples are added once; if [`Accumulator::end_pass`] then returns `true`, the same ones again. Memory does not grow
/// with `n`, except for [`Storage::Samples`]. Products and sums are taken in f64 where the device has it, whatever the
/// gradients' type: the error of an entry is f64's, whatever `n`.
#[derive(Clone)]
pub struct Accumulator {
    block: Block,
    storage: Storage,
    sum: Sum,
    square_sum: f64,
    samples: usize,
    /// Of the sums.
    dtype: Option<DType>,
}

impl Accumulator {
    /// An empty sum for a block.
    ///
    /// # Errors
    ///
    /// If a dense matrix of the block would exceed 16 GiB in f32, its larger factor or its sketch 16 GiB in f64, or the
    /// rank is 0.
    pub fn new(block: Block, storage: Storage) -> Result<Self, CurvatureError> {
        storage.check(&block)?;
        Ok(Self { block, storage, sum: Sum::new(storage), square_sum: 0.0, samples: 0, dtype: None })
    }

    /// The block.
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// Adds a batch of per-sample gradients, `[n, rows, cols]`.
    ///
    /// # Errors
    ///
    /// If the storage needs captures, a sample's gradient is not finite (the sample's index counts from the first
    /// batch), the held samples would exceed 64 GiB, or the dense matrix that replaces them in [`Storage::Full`] 16
    /// GiB.
    ///
    /// # Panics
    ///
    /// If the shape is not the block's.
    pub fn add(&mut self, gradients: Tensor<3>) -> Result<(), CurvatureError> {
        Self::add_each(std::slice::from_mut(self), vec![gradients])
    }

    /// [`Accumulator::add`] of a batch's gradients of every block, in the order of the sums; the device is waited for
    /// once, not once for each block.
    ///
    /// # Errors
    ///
    /// As [`Accumulator::add`]; the sums are of no more use then.
    ///
    /// # Panics
    ///
    /// If there are not as many blocks as sums, or a shape is not the block's.
    pub fn add_each(sums: &mut [Self], gradients: Vec<Tensor<3>>) -> Result<(), CurvatureError> {
        assert_eq!(sums.len(), gradients.len(), "one sum for each block");
        // Sizes first: what cannot be held is not to be multiplied.
        sums.iter_mut().zip(&gradients).try_for_each(|(sum, gradients)| sum.begin(gradients))?;
        let mut squares = vec![Vec::new(); sums.len()];
        if sums.iter().any(Self::counts) {
            let rows: Vec<Tensor<2>> = gradients.iter().map(|block| block.clone().flatten(1, 2)).collect();
            squares = squared_norms_each(&rows)?;
        }
        for ((sum, gradients), squares) in sums.iter_mut().zip(gradients).zip(&squares) {
            if gradients.dims()[0] > 0 {
                sum.count(squares)?;
                sum.sum.add(gradients)?;
                sum.sum.collapse(&sum.block, sum.samples)?;
            }
        }
        Ok(())
    }

    /// Whether the squares of samples are summed: the first pass over them.
    fn counts(&self) -> bool {
        !self.sum.is_second_pass()
    }

    /// Checks gradients, and counts their samples in the first pass.
    fn begin(&mut self, gradients: &Tensor<3>) -> Result<(), CurvatureError> {
        let (rows, cols) = (self.block.rows, self.block.cols);
        assert_shape!(gradients, [_, rows, cols]);
        let n = gradients.dims()[0];
        if self.storage.needs_captures() {
            return Err(CurvatureError::NeedsCaptures { block: self.block.name.clone() });
        }
        if n > 0 && self.counts() {
            self.sum.check(&self.block, self.samples + n)?;
            self.dtype = Some(precise_type(&gradients.device(), gradients.dtype()));
            self.samples += n;
        }
        Ok(())
    }

    /// Adds a batch as a capture: as [`Accumulator::add`] of its gradients, which are formed only where the storage needs
    /// them or they take less.
    ///
    /// # Errors
    ///
    /// As [`Accumulator::add`].
    ///
    /// # Panics
    ///
    /// If the shapes are not the block's.
    pub fn add_capture(&mut self, capture: &Capture) -> Result<(), CurvatureError> {
        Self::add_captures(std::slice::from_mut(self), std::slice::from_ref(capture))
    }

    /// [`Accumulator::add_capture`] of a batch's captures of every block, in the order of the sums; the device is waited
    /// for once, or twice if gradients of some blocks are formed.
    ///
    /// # Errors
    ///
    /// As [`Accumulator::add`]; the sums are of no more use then.
    ///
    /// # Panics
    ///
    /// If there are not as many blocks as sums, or the shapes are not the blocks'.
    pub fn add_captures(sums: &mut [Self], captures: &[Capture]) -> Result<(), CurvatureError> {
        assert_eq!(sums.len(), captures.len(), "one sum for each block");
        let pairs = || sums.iter().zip(captures);
        let taken: Vec<bool> = pairs().map(|(s, capture)| s.storage.needs_captures() || s.sum.takes(capture)).collect();
        let counted =
            pairs().zip(&taken).filter(|((sum, capture), taken)| **taken && sum.counts() && capture.samples() > 0);
        let counted: Vec<Capture> = counted.map(|((_, capture), _)| capture.clone()).collect();
        let mut of_captures = Capture::squared_norms_each(&counted)?.into_iter();
        let (mut formed, mut sums_of_squares) = (Vec::new(), Vec::new());
        for (place, ((sum, capture), taken)) in sums.iter_mut().zip(captures).zip(taken).enumerate() {
            if !taken {
                let gradients = capture.gradients();
                sum.begin(&gradients)?;
                if capture.samples() == 0 {
                    continue;
                }
                if sum.counts() {
                    formed.push(place);
                    sums_of_squares.push(squares(gradients.clone().flatten(1, 2)));
                }
                sum.sum.add(gradients)?;
                sum.sum.collapse(&sum.block, sum.samples)?;
                continue;
            }
            let (rows, cols) = (sum.block.rows, sum.block.cols);
            assert_shape!(capture.input, [_, _, rows]);
            assert_shape!(capture.delta, [_, _, cols]);
            if capture.samples() == 0 {
                continue;
            }
            let mut of_block = Vec::new();
            if sum.counts() {
                sum.dtype = Some(precise_type(&capture.delta.device(), capture.delta.dtype()));
                sum.samples += capture.samples();
                of_block = of_captures.next().unwrap_or_default();
                sum.count(&of_block)?;
            }
            sum.sum.add_capture(capture, &of_block)?;
        }
        for (place, mut of_block) in formed.into_iter().zip(host_each(&sums_of_squares)?) {
            if of_block.iter().any(|&square| leaves_range(square)) {
                of_block = squared_norms(captures[place].gradients().flatten(1, 2))?;
            }
            sums[place].count(&of_block)?;
        }
        Ok(())
    }

    /// Adds the squared norms of the samples that were counted last.
    fn count(&mut self, squares: &[f64]) -> Result<(), CurvatureError> {
        if let Some(i) = squares.iter().position(|s| !s.is_finite()) {
            let (block, sample) = (self.block.name.clone(), self.samples - squares.len() + i);
            return Err(CurvatureError::NonFinite { block, sample, value: squares[i] });
        }
        self.square_sum += squares.iter().sum::<f64>();
        Ok(())
    }

    /// Adds another accumulator of the same block and storage: its samples follow these.
    ///
    /// Sums are added in f32 or f64 as they are, so that the result is that of one accumulator up to rounding, and the
    /// same for the same cut of the samples and the same order of merges. A second pass is merged where every part
    /// began as a clone of one accumulator after [`Accumulator::end_pass`]; its first pass is then counted once.
    ///
    /// ```
    /// use burn::tensor::Tensor;
    /// use hyperinf_curvature::{Accumulator, Storage};
    /// use hyperinf_gradients::Block;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (_, device) = hyperinf_tests::devices().remove(0);
    /// let part = |gradients: [[[f32; 2]; 1]; 2]| -> Result<Accumulator, Box<dyn std::error::Error>> {
    ///     let mut sum = Accumulator::new(Block::new("layer", 1, 2), Storage::Dense)?;
    ///     sum.add(Tensor::from_data(gradients, &device))?;
    ///     Ok(sum)
    /// };
    /// let mut all = part([[[1.0, 0.0]], [[0.0, 2.0]]])?;
    /// all.merge(part([[[3.0, 0.0]], [[0.0, 0.0]]])?)?;
    /// let found = all.finish()?;
    /// assert_eq!((found.samples, found.curvature.trace()?), (4, 3.5));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the block, the storage or the pass is another, or what is held would be too large, as in
    /// [`Accumulator::add`].
    pub fn merge(&mut self, later: Self) -> Result<(), CurvatureError> {
        let unlike = |what| CurvatureError::Merge { block: self.block.name.clone(), what };
        if later.block != self.block {
            return Err(unlike("block"));
        }
        if later.storage != self.storage {
            return Err(unlike("storage"));
        }
        let second = self.sum.is_second_pass();
        if later.sum.is_second_pass() != second || second && later.samples != self.samples {
            return Err(unlike("pass"));
        }
        let samples = if second { self.samples } else { self.samples + later.samples };
        self.sum.check(&self.block, samples.saturating_sub(later.sum.captured()))?;
        if !self.sum.merge(later.sum) {
            return Err(unlike("pass"));
        }
        if !second {
            self.samples = samples;
            self.square_sum += later.square_sum;
            self.dtype = self.dtype.or(later.dtype);
        }
        self.sum.collapse(&self.block, self.samples)
    }

    /// The sum so far, if it is one matrix: of [`Storage::Dense`] and [`Storage::OneSided`], once there are samples.
    pub fn into_matrix(self) -> Option<MatrixSum> {
        let Self { sum, square_sum, samples, .. } = self;
        sum.into_matrix().map(|matrix| MatrixSum { matrix, square_sum, samples })
    }

    /// Adds a matrix of [`Accumulator::into_matrix`], as [`Accumulator::merge`] adds the accumulator that it is of:
    /// bit for bit what adding the samples here gives, if they were one batch.
    ///
    /// # Errors
    ///
    /// [`CurvatureError::Merge`] if the sum is no matrix of this size.
    pub fn merge_matrix(&mut self, later: MatrixSum) -> Result<(), CurvatureError> {
        let MatrixSum { matrix, square_sum, samples } = later;
        let dtype = matrix.dtype();
        if !self.sum.add_matrix(matrix, &self.block) {
            return Err(CurvatureError::Merge { block: self.block.name.clone(), what: "storage" });
        }
        self.samples += samples;
        self.square_sum += square_sum;
        self.dtype = self.dtype.or(Some(dtype));
        Ok(())
    }

    /// `mean(diag F)`; 0 if all gradients are zero, and an error if they are not but their products would underflow.
    fn mean_square(&self) -> Result<f64, CurvatureError> {
        let mean_square = self.square_sum / (self.samples * self.block.parameters()) as f64;
        match self.dtype {
            Some(dtype) if self.square_sum > 0.0 && mean_square < least_square(dtype) => {
                let (block, least) = (self.block.name.clone(), least_square(dtype));
                Err(CurvatureError::TooSmall { block, dtype, mean_square, least })
            }
            _ => Ok(mean_square),
        }
    }

    /// Ends a pass over the samples; `true` if the same samples must be added once more before
    /// [`Accumulator::finish`].
    ///
    /// # Errors
    ///
    /// If there were no samples, their gradients are too small for their type, or the eigenvectors that the next pass
    /// needs cannot be computed.
    pub fn end_pass(&mut self) -> Result<bool, CurvatureError> {
        self.mean_square()?;
        self.sum.end_pass(&self.block, self.samples)
    }

    /// The mean over all samples added.
    ///
    /// # Errors
    ///
    /// If there were none, the second pass had another number of them, their gradients are too small for their type, or
    /// eigenvalues cannot be computed.
    pub fn finish(self) -> Result<BlockCurvature, CurvatureError> {
        if self.samples == 0 {
            return Err(CurvatureError::Empty { block: self.block.name });
        }
        let mean_square = self.mean_square()?;
        let curvature = self.sum.finish(&self.block, self.samples)?;
        Ok(BlockCurvature { block: self.block, curvature, mean_square, samples: self.samples })
    }
}
