use burn::tensor::{DType, Tensor, assert_shape};
use hyperinf_gradients::{Block, Capture};
use hyperinf_linalg::{least_square, outer, squared_norms};

use crate::kronecker::{Correction, Factors, capture_squares};
use crate::low_rank::Sketch;
use crate::storage::{check_matrix, check_samples};
use crate::{Curvature, CurvatureError, Scale, Side, Storage};

/// The curvature of one block with what damping and reports need to know about it.
#[derive(Clone, Debug)]
pub struct BlockCurvature {
    /// The block.
    pub block: Block,
    /// Its curvature.
    pub curvature: Curvature,
    /// `mean(diag F) = (nD)⁻¹ Σ_i ||g_i||²`: what relative damping multiplies, the same for every structure.
    pub mean_square: f64,
    /// `n`.
    pub samples: usize,
}

/// Sums the curvature of one block over batches: `F = (1/n) Σ g_i g_iᵀ` in the storage asked for.
///
/// The samples are added once; where [`Accumulator::end_pass`] then says so, once more. Memory does not grow with
/// `n`, except for [`Storage::Samples`]. Products are taken in the gradients' type, squared norms are summed in f64.
pub struct Accumulator {
    block: Block,
    storage: Storage,
    sum: Sum,
    square_sum: f64,
    samples: usize,
    /// Of the gradients.
    dtype: Option<DType>,
}

/// What has been added so far.
#[allow(clippy::large_enum_variant, reason = "one per block; how large a tensor is depends on the backends")]
enum Sum {
    Nothing,
    Matrix(Tensor<2>),
    Rows {
        rows: Vec<Tensor<2>>,
        collapse: bool,
    },
    Vector(Tensor<1>),
    Factors(Factors),
    Sketch(Sketch),
    /// The second pass.
    Correction(Correction),
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
        let sum = match storage {
            Storage::Samples => Sum::Rows { rows: Vec::new(), collapse: false },
            Storage::Full => Sum::Rows { rows: Vec::new(), collapse: true },
            Storage::Kronecker { .. } | Storage::TwoSided { .. } => Sum::Factors(Factors::default()),
            Storage::Dense | Storage::OneSided { .. } | Storage::Diagonal | Storage::LowRank { .. } => Sum::Nothing,
        };
        Ok(Self { block, storage, sum, square_sum: 0.0, samples: 0, dtype: None })
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
    /// batch), held samples would exceed 64 GiB, or the dense matrix that [`Storage::Full`] turns to 16 GiB.
    ///
    /// # Panics
    ///
    /// If the shape is not the block's.
    pub fn add(&mut self, gradients: Tensor<3>) -> Result<(), CurvatureError> {
        let (rows, cols) = (self.block.rows, self.block.cols);
        assert_shape!(gradients, [_, rows, cols]);
        if self.storage.needs_captures() {
            return Err(CurvatureError::NeedsCaptures { block: self.block.name.clone() });
        }
        if gradients.dims()[0] == 0 {
            return Ok(());
        }
        if let Sum::Correction(correction) = &mut self.sum {
            correction.add_gradients(gradients);
            return Ok(());
        }
        let n = gradients.dims()[0];
        if matches!(self.sum, Sum::Rows { .. }) {
            check_samples(&self.block, self.samples + n)?;
        }
        let flat: Tensor<2> = gradients.clone().flatten(1, 2);
        self.dtype = Some(flat.dtype());
        self.count(squared_norms(flat.clone())?)?;

        self.sum = match (std::mem::replace(&mut self.sum, Sum::Nothing), self.storage) {
            (Sum::Rows { mut rows, collapse }, _) => {
                rows.push(flat);
                if collapse && self.samples > self.block.parameters() {
                    check_matrix(&self.block, self.block.parameters())?;
                    let parts = rows.into_iter().map(outer);
                    Sum::Matrix(parts.reduce(|a, b| a + b).expect("the batch was just pushed"))
                } else {
                    Sum::Rows { rows, collapse }
                }
            }
            (Sum::Factors(mut factors), _) => {
                factors.add_gradients(gradients);
                Sum::Factors(factors)
            }
            (sum, Storage::LowRank { rank, seed }) => {
                let mut sketch = match sum {
                    Sum::Sketch(sketch) => sketch,
                    _ => Sketch::new(rank, seed, &flat)?,
                };
                sketch.add(flat);
                Sum::Sketch(sketch)
            }
            (sum, Storage::Diagonal) => {
                let squares = flat.square().sum_dim(0).squeeze_dim(0);
                Sum::Vector(match sum {
                    Sum::Vector(before) => before + squares,
                    _ => squares,
                })
            }
            (sum, storage) => {
                let product = match storage {
                    Storage::OneSided { side, .. } => outer(contracted(gradients, side)),
                    _ => outer(flat),
                };
                Sum::Matrix(match sum {
                    Sum::Matrix(before) => before + product,
                    _ => product,
                })
            }
        };
        Ok(())
    }

    /// Adds a batch as a capture; for storages that need gradients only, as [`Accumulator::add`].
    ///
    /// # Errors
    ///
    /// As [`Accumulator::add`].
    ///
    /// # Panics
    ///
    /// If the capture is another block's.
    pub fn add_capture(&mut self, capture: &Capture) -> Result<(), CurvatureError> {
        if !self.storage.needs_captures() {
            return self.add(capture.gradients());
        }
        let (rows, cols) = (self.block.rows, self.block.cols);
        assert_shape!(capture.input, [_, _, rows]);
        assert_shape!(capture.delta, [_, _, cols]);
        if capture.input.dims()[0] == 0 {
            return Ok(());
        }
        if let Sum::Correction(correction) = &mut self.sum {
            correction.add_capture(capture);
            return Ok(());
        }
        self.dtype = Some(capture.delta.dtype());
        self.count(capture_squares(capture)?)?;
        if let Sum::Factors(factors) = &mut self.sum {
            factors.add_capture(capture)?;
        }
        Ok(())
    }

    /// Adds the squared norms of a batch's samples.
    fn count(&mut self, squares: Vec<f64>) -> Result<(), CurvatureError> {
        if let Some(i) = squares.iter().position(|s| !s.is_finite()) {
            let (block, sample) = (self.block.name.clone(), self.samples + i);
            return Err(CurvatureError::NonFinite { block, sample, value: squares[i] });
        }
        self.samples += squares.len();
        self.square_sum += squares.iter().sum::<f64>();
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
        let (Storage::Kronecker { corrected: true } | Storage::TwoSided { corrected: true }) = self.storage else {
            return Ok(false);
        };
        match std::mem::replace(&mut self.sum, Sum::Nothing) {
            Sum::Factors(factors) => {
                let bases = factors.finish(&self.block, self.samples, false)?;
                self.sum = Correction::of(&bases).map_or(Sum::Nothing, Sum::Correction);
                Ok(true)
            }
            done => {
                self.sum = done;
                Ok(false)
            }
        }
    }

    /// The mean over all samples added.
    ///
    /// # Errors
    ///
    /// If there were none, the second pass that [`Accumulator::end_pass`] asked for had another number of them, their
    /// gradients are too small for their type, or eigenvalues cannot be computed.
    pub fn finish(self) -> Result<BlockCurvature, CurvatureError> {
        if self.samples == 0 {
            return Err(CurvatureError::Empty { block: self.block.name });
        }
        let mean_square = self.mean_square()?;
        let Self { block, storage, sum, samples, .. } = self;
        let n = samples as f64;
        let second_pass = |found| CurvatureError::SecondPass { block: block.name.clone(), found, expected: samples };
        let curvature = match (sum, storage) {
            (Sum::Rows { rows, .. }, _) => {
                Curvature::Samples(if rows.len() == 1 { rows[0].clone() } else { Tensor::cat(rows, 0) })
            }
            (Sum::Matrix(sum), Storage::OneSided { side, scale }) => {
                let Block { rows, cols, .. } = block;
                let rows_contracted = side.contracts_rows(rows, cols);
                let length = match scale {
                    Scale::Mean if rows_contracted => rows,
                    Scale::Mean => cols,
                    Scale::Sum => 1,
                };
                Curvature::OneSided { factor: sum.div_scalar(n * length as f64), rows, cols, rows_contracted }
            }
            (Sum::Matrix(sum), _) => Curvature::Dense(sum.div_scalar(n)),
            (Sum::Vector(sum), _) => Curvature::Diagonal(sum.div_scalar(n)),
            (Sum::Factors(_), Storage::Kronecker { corrected: true } | Storage::TwoSided { corrected: true }) => {
                return Err(second_pass(0));
            }
            (Sum::Factors(factors), Storage::TwoSided { .. }) => factors.finish(&block, samples, true)?,
            (Sum::Factors(factors), _) => factors.finish(&block, samples, false)?,
            (Sum::Correction(correction), _) if correction.samples != samples => {
                return Err(second_pass(correction.samples));
            }
            (Sum::Correction(correction), _) => correction.finish(&block)?,
            (Sum::Sketch(sketch), _) => sketch.finish(&block, samples)?,
            (Sum::Nothing, _) => return Err(CurvatureError::Empty { block: block.name }),
        };
        Ok(BlockCurvature { block, curvature, mean_square, samples })
    }
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
