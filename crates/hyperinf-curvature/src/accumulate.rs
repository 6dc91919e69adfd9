use burn::tensor::{Tensor, assert_shape};
use hyperinf_gradients::{Block, Capture};

use crate::product::outer;
use crate::{Curvature, CurvatureError, Scale, Side, scalars};

/// The largest matrix that an accumulator starts, in bytes of f32.
const DENSE_LIMIT: u64 = 16 << 30;

/// How a block's curvature is to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// `[D, D]`, whatever the number of samples.
    Dense,
    /// All samples, `[n, D]`.
    Samples,
    /// The smaller of the two, both exact: samples while `n ≤ D`, the dense matrix from then on.
    Full,
    /// One factor (GFIM).
    OneSided {
        /// The side that is summed over.
        side: Side,
        /// Whether its length is divided out.
        scale: Scale,
    },
    /// The diagonal, `[D]`.
    Diagonal,
}

impl Storage {
    /// Whether it is made of captures, inputs and what came back to a layer, and not of their products alone.
    pub fn needs_captures(self) -> bool {
        false
    }
}

/// The empirical Fisher of one block with what damping and reports need to know about it.
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

/// Sums the empirical Fisher of one block over batches: `F = (1/n) Σ g_i g_iᵀ` in the storage asked for.
///
/// Memory does not grow with `n`, except for [`Storage::Samples`]. Products are taken in the gradients' type,
/// squared norms are summed in f64.
pub struct Accumulator {
    block: Block,
    storage: Storage,
    sum: Sum,
    square_sum: f64,
    samples: usize,
}

/// What has been added so far.
enum Sum {
    Nothing,
    Matrix(Tensor<2>),
    Rows { rows: Vec<Tensor<2>>, collapse: bool },
    Vector(Tensor<1>),
}

impl Accumulator {
    /// An empty sum for a block.
    ///
    /// # Errors
    ///
    /// If a dense matrix or a factor of the block would exceed 16 GiB.
    pub fn new(block: Block, storage: Storage) -> Result<Self, CurvatureError> {
        match storage {
            Storage::Dense => check_size(&block, block.parameters())?,
            Storage::OneSided { side, .. } if side.contracts_rows(block.rows, block.cols) => {
                check_size(&block, block.cols)?;
            }
            Storage::OneSided { .. } => check_size(&block, block.rows)?,
            Storage::Samples | Storage::Full | Storage::Diagonal => {}
        }
        let sum = match storage {
            Storage::Samples => Sum::Rows { rows: Vec::new(), collapse: false },
            Storage::Full => Sum::Rows { rows: Vec::new(), collapse: true },
            Storage::Dense | Storage::OneSided { .. } | Storage::Diagonal => Sum::Nothing,
        };
        Ok(Self { block, storage, sum, square_sum: 0.0, samples: 0 })
    }

    /// Adds a batch of per-sample gradients, `[n, rows, cols]`.
    ///
    /// # Errors
    ///
    /// If a sample's gradient is not finite (the sample's index counts from the first batch), or the dense matrix
    /// that [`Storage::Full`] turns to would exceed 16 GiB.
    ///
    /// # Panics
    ///
    /// If the shape is not the block's.
    pub fn add(&mut self, gradients: Tensor<3>) -> Result<(), CurvatureError> {
        let (rows, cols) = (self.block.rows, self.block.cols);
        assert_shape!(gradients, [_, rows, cols]);
        let n = gradients.dims()[0];
        let flat: Tensor<2> = gradients.clone().flatten(1, 2);
        for (i, value) in scalars(flat.clone(), flat.clone())?.into_iter().enumerate() {
            if !value.is_finite() {
                let (block, sample) = (self.block.name.clone(), self.samples + i);
                return Err(CurvatureError::NonFinite { block, sample, value });
            }
            self.square_sum += value;
        }
        self.samples += n;

        self.sum = match (std::mem::replace(&mut self.sum, Sum::Nothing), self.storage) {
            (Sum::Rows { mut rows, collapse }, _) => {
                rows.push(flat);
                if collapse && self.samples > self.block.parameters() {
                    check_size(&self.block, self.block.parameters())?;
                    let parts = rows.into_iter().map(outer);
                    Sum::Matrix(parts.reduce(|a, b| a + b).expect("the batch was just pushed"))
                } else {
                    Sum::Rows { rows, collapse }
                }
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

    /// The block.
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// Adds a batch as a capture: [`Accumulator::add`] for storages that need gradients only.
    ///
    /// # Errors
    ///
    /// As [`Accumulator::add`].
    ///
    /// # Panics
    ///
    /// If the capture is another block's.
    pub fn add_capture(&mut self, capture: &Capture) -> Result<(), CurvatureError> {
        self.add(capture.gradients())
    }

    /// Ends a pass over the samples; `true` if the same samples must be added once more before
    /// [`Accumulator::finish`].
    ///
    /// # Errors
    ///
    /// If there were no samples, or what the next pass needs cannot be computed.
    pub fn end_pass(&mut self) -> Result<bool, CurvatureError> {
        Ok(false)
    }

    /// The mean over all samples added.
    ///
    /// # Errors
    ///
    /// If there were none.
    pub fn finish(self) -> Result<BlockCurvature, CurvatureError> {
        let Self { block, storage, sum, square_sum, samples } = self;
        let n = samples as f64;
        if samples == 0 {
            return Err(CurvatureError::Empty { block: block.name });
        }
        let mean_square = square_sum / (n * block.parameters() as f64);
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

/// Fails if a matrix of that side would be too large.
fn check_size(block: &Block, side: usize) -> Result<(), CurvatureError> {
    let bytes = (side as u64).saturating_mul(side as u64).saturating_mul(4);
    if bytes <= DENSE_LIMIT {
        return Ok(());
    }
    let gib = |b: u64| b as f64 / f64::from(1 << 30);
    Err(CurvatureError::TooLarge {
        block: block.name.clone(),
        parameters: side,
        gib: gib(bytes),
        limit_gib: gib(DENSE_LIMIT),
    })
}
