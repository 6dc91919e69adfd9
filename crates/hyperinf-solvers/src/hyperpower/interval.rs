//! Bounds on the eigenvalues of `A X`, step by step: the certificate.

use super::polynomial::{Order, Polynomial};

/// Bounds on the eigenvalues of `A X` in exact arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Interval {
    pub(super) lower: f64,
    pub(super) upper: f64,
}

impl Interval {
    /// `max |1 − m|`: a bound on `||I − A X||₂` for a symmetric `A X`.
    pub(super) fn certificate(self) -> f64 {
        (1.0 - self.lower).max(self.upper - 1.0).max(0.0)
    }

    /// The eigenvalues of `A (factor · X)`.
    pub(super) fn times(self, factor: f64) -> Self {
        Self { lower: self.lower * factor, upper: self.upper * factor }
    }

    /// The factor of `X` that centres the interval on 1, or its part above `cushion · upper`.
    ///
    /// Rounding in a low precision would push small eigenvalues below zero. The cushion keeps them out of the part on
    /// which the polynomial oscillates, at the price of slower growth.
    pub(super) fn centring(self, cushion: f64) -> f64 {
        2.0 / (self.lower.max(cushion * self.upper) + self.upper)
    }

    /// The scaled step of a centred interval.
    pub(super) fn scaled(self, order: Order) -> (Polynomial, Self) {
        let polynomial = Polynomial::new(order, (self.upper - 1.0).max(0.0));
        // Below the polynomial's own interval, T grows towards 1 and never beyond.
        let lowest = 1.0 - polynomial.residual(1.0 - self.lower).max(polynomial.bound);
        let next = Self { lower: lowest, upper: 1.0 + polynomial.bound };
        (polynomial, next)
    }

    /// The unscaled step.
    pub(super) fn unscaled(self, order: Order) -> (Polynomial, Self) {
        let polynomial = Polynomial::new(order, 0.0);
        let ends = [1.0 - self.lower, 1.0 - self.upper].map(|e| polynomial.residual(e));
        // E^p is smallest at 0 for an even order, at an end for an odd one.
        let inside = if self.lower < 1.0 && self.upper > 1.0 { 0.0 } else { ends[0] };
        let [low, high] =
            [ends[0].min(ends[1]).min(inside), ends[0].max(ends[1]).max(inside)].map(|residual| 1.0 - residual);
        (polynomial, Self { lower: high, upper: low })
    }
}
