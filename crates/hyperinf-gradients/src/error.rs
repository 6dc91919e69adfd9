use hyperinf_linalg::ReadError;

/// Why gradients could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GradientError {
    /// The forward pass called no tape method, so there is nothing to differentiate.
    #[error("the model recorded no layer: its forward pass must send its linear layers through the tape")]
    NothingRecorded,
    /// One name stands for layers of different shapes.
    #[error(
        "block `{block}` was recorded as {first_rows} × {first_cols} and again as {rows} × {cols}: give the two layers different names"
    )]
    BlockShape {
        /// The name used twice.
        block: String,
        /// Rows at the first use.
        first_rows: usize,
        /// Columns at the first use.
        first_cols: usize,
        /// Rows at the later use.
        rows: usize,
        /// Columns at the later use.
        cols: usize,
    },
    /// A layer was applied to another number of samples than there are losses.
    #[error("block `{block}` was recorded with {samples} samples, but the batch has {losses} losses")]
    SampleCount {
        /// The layer's name.
        block: String,
        /// Samples in the layer's input.
        samples: usize,
        /// Per-sample losses of the batch.
        losses: usize,
    },
    /// A layer's output does not reach the loss.
    #[error("block `{block}` does not influence the loss: it has no output gradient")]
    Unreached {
        /// The layer's name.
        block: String,
    },
    /// A gradient is NaN or infinite, or so large that its squared norm overflows.
    #[error(
        "the gradient of sample {sample} in block `{block}` is not finite or too large (its squared norm is {value})"
    )]
    NonFinite {
        /// The layer's name.
        block: String,
        /// The sample's index in the order given.
        sample: usize,
        /// The squared norm found.
        value: f64,
    },
    /// Two sets of gradients have different blocks.
    #[error("block {index} is {found} where {expected} was expected")]
    LayoutMismatch {
        /// Position of the block.
        index: usize,
        /// The block found, with its shape.
        found: String,
        /// The block expected, with its shape.
        expected: String,
    },
    /// There are no samples or no blocks.
    #[error("there are no {what}")]
    Empty {
        /// What is missing.
        what: &'static str,
    },
    /// The estimate needs the likelihood of a task that has none.
    #[error("the task has no likelihood: only the empirical Fisher is available")]
    NoLikelihood,
    /// The likelihood was made for another number of output rows.
    #[error("the likelihood has {found} {what}, but there are {rows} output rows")]
    OutputRows {
        /// What the likelihood has too few or too many of.
        what: &'static str,
        /// Their number.
        found: usize,
        /// The number of output rows.
        rows: usize,
    },
    /// The weight of an output row is negative or not finite.
    #[error("the likelihood gives output row {row} the weight {weight}")]
    Weight {
        /// The row's index.
        row: usize,
        /// Its weight.
        weight: f64,
    },
    /// A projection does not have one pair of matrices per block.
    #[error("the projection has {pairs} pairs of matrices for {blocks} blocks")]
    ProjectionBlocks {
        /// Blocks.
        blocks: usize,
        /// Pairs.
        pairs: usize,
    },
    /// A matrix of a projection does not fit its block, or keeps nothing.
    #[error(
        "block `{block}`: a matrix of its projection is {found} × {kept} where {expected} rows and at least one column were expected"
    )]
    ProjectionShape {
        /// The block's name.
        block: String,
        /// The matrix's rows.
        found: usize,
        /// Its columns.
        kept: usize,
        /// The length of the block's side.
        expected: usize,
    },
    /// The model computes in f64 on a device whose exponentials and logarithms are wrong in f64.
    #[error(
        "the model computes in f64, but {device} has exponentials and logarithms in f32 only: cast the model to f32, or \
         use a processor or CUDA"
    )]
    NoF64Functions {
        /// The device.
        device: String,
    },
    /// The parts of a layer's positions are kept apart, so that its block is larger than its parameters.
    #[error(
        "block `{block}` keeps the gradients of its positions apart, so that its entries are not the layer's \
         parameters: products with a Hessian need the sum over positions"
    )]
    Stacked {
        /// The layer's name.
        block: String,
    },
    /// A product with a Hessian is not finite.
    #[error(
        "the product of direction {direction} is not finite in block `{block}` (its sum is {value}): a shorter step \
         than {step:e} may help"
    )]
    Product {
        /// The direction's row.
        direction: usize,
        /// The layer's name.
        block: String,
        /// The sum of the product's entries.
        value: f64,
        /// The length of the displacement.
        step: f64,
    },
    /// The length of a displacement is not a positive number.
    #[error("the length of the displacement is {length}, but must be positive and finite")]
    Length {
        /// The length.
        length: f64,
    },
    /// A device failed while values were read back.
    #[error(transparent)]
    Read(#[from] ReadError),
}
