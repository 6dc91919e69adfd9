/// The side of a block that the GFIM sums over (contracts); the factor keeps the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Side {
    /// The shorter side, as the HyperINF paper orients LoRA matrices; the columns if both are equal.
    #[default]
    Short,
    /// The rows (inputs): the factor is `(1/n) Σ gᵀg`, `[cols, cols]`.
    Rows,
    /// The columns (outputs): the factor is `(1/n) Σ g gᵀ`, `[rows, rows]`.
    Cols,
}

impl Side {
    /// Whether a block of `rows × cols` has its rows contracted.
    pub fn contracts_rows(self, rows: usize, cols: usize) -> bool {
        match self {
            Self::Short => rows < cols,
            Self::Rows => true,
            Self::Cols => false,
        }
    }
}

/// How the contracted side enters the GFIM's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scale {
    /// Divide by the length of the contracted side, so that the trace is the Fisher's: `F ≈ I ⊗ R/r` (HyperINF,
    /// section 3).
    #[default]
    Mean,
    /// Leave it out, as the HyperINF authors' program does: the curvature is `r` times larger.
    Sum,
}
