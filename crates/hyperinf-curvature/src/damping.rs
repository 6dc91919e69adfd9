use crate::CurvatureError;

/// How much of the identity is added to a block's curvature before it is inverted.
///
/// Never zero: an empirical Fisher has at most `n` non-zero eigenvalues.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Damping {
    /// `λ_l = c · mean(diag F_l) = c · (nD)⁻¹ Σ_i ||g_i||²`: scale-free. 0.1 is the heuristic of DataInf (Kwon et
    /// al. 2024, section 4) and HyperINF (Zhou et al. 2024), and equals 0.1 × the mean eigenvalue.
    Relative(f64),
    /// The same `λ` for every block, in units of squared gradients.
    Absolute(f64),
}

impl Default for Damping {
    fn default() -> Self {
        Self::Relative(0.1)
    }
}

impl Damping {
    /// Checks the number.
    ///
    /// # Errors
    ///
    /// If it is not positive and finite.
    pub fn validate(self) -> Result<Self, CurvatureError> {
        let (Self::Relative(value) | Self::Absolute(value)) = self;
        if value > 0.0 && value.is_finite() { Ok(self) } else { Err(CurvatureError::Damping { value }) }
    }

    /// `λ` of a block whose gradient entries have the given mean square, `mean(diag F)`.
    ///
    /// Relative damping of a block without any gradient is 0, which no solver takes. If the gradients are those of the
    /// training samples, the block contributes nothing to any score, and the caller leaves it out.
    pub fn lambda(self, mean_square: f64) -> f64 {
        match self {
            Self::Relative(factor) => factor * mean_square,
            Self::Absolute(value) => value,
        }
    }
}
