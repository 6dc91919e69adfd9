//! The polynomials of one hyperpower step: their coefficients, their residuals, and their evaluation on matrices with
//! the fewest products.

use burn::tensor::Tensor;

use super::elementwise::{sum, weighted};

/// The order `p` of a hyperpower step: an unscaled one takes the residual `E` to `E^p`.
///
/// | order | products per step | growth of the smallest eigenvalues of `A X`, scaled, per product |
/// |---|---|---|
/// | 2 | 2 | 2.00 |
/// | 3 | 3 | 2.08 |
/// | 5 | 4 | 2.24 |
/// | 7 | 5 | 2.18 |
/// | 9 | 5 | 2.41 |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// Schulz's iteration.
    #[default]
    Two,
    /// The order of Chebyshev's iteration.
    Three,
    /// Four products.
    Five,
    /// Five products.
    Seven,
    /// Five products as well: the fewest for a given accuracy.
    Nine,
}

impl Order {
    /// All orders.
    pub const ALL: [Self; 5] = [Self::Two, Self::Three, Self::Five, Self::Seven, Self::Nine];

    /// `p`.
    pub fn power(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Three => 3,
            Self::Five => 5,
            Self::Seven => 7,
            Self::Nine => 9,
        }
    }

    /// Products of two matrices in one step, including `A X`; the first step needs two fewer.
    pub fn products(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Three => 3,
            Self::Five => 4,
            Self::Seven | Self::Nine => 5,
        }
    }

    /// The coefficients of Chebyshev's `T_p`, lowest degree first.
    fn chebyshev(self) -> &'static [f64] {
        match self {
            Self::Two => &[-1.0, 0.0, 2.0],
            Self::Three => &[0.0, -3.0, 0.0, 4.0],
            Self::Five => &[0.0, 5.0, 0.0, -20.0, 0.0, 16.0],
            Self::Seven => &[0.0, -7.0, 0.0, 56.0, 0.0, -112.0, 0.0, 64.0],
            Self::Nine => &[0.0, 9.0, 0.0, -120.0, 0.0, 432.0, 0.0, -576.0, 0.0, 256.0],
        }
    }
}

/// The polynomial `q` of one step for residuals in `[−δ, δ]`:
///
/// ```text
/// T(e) = T_p(e/δ) / T_p(1/δ),   q(e) = (1 − T(e)) / (1 − e)
/// ```
///
/// so that `X q(E)` has the residual `T(E)`, at most `δ' = 1/T_p(1/δ)`. For `δ = 0` this is `1 + e + … + e^(p−1)` with
/// `T(e) = e^p`, the unscaled step.
#[derive(Clone, Debug)]
pub(super) struct Polynomial {
    order: Order,
    /// Of `T`, lowest degree first.
    residual: Vec<f64>,
    /// Of `q`.
    pub(super) coefficients: Vec<f64>,
    /// `δ'`; 0 for the unscaled step.
    pub(super) bound: f64,
}

impl Polynomial {
    pub(super) fn new(order: Order, delta: f64) -> Self {
        let p = order.power();
        // δ^p T_p(e/δ): nothing is divided by a power of δ.
        let terms: Vec<f64> =
            order.chebyshev().iter().enumerate().map(|(k, t)| t * delta.powi((p - k) as i32)).collect();
        let total: f64 = terms.iter().sum();
        // (1 − e^k)/(1 − e) = 1 + e + … + e^(k−1): the coefficient of e^j collects all terms of higher degree.
        let coefficients = (0..p).map(|j| terms[j + 1..].iter().sum::<f64>() / total).collect();
        let residual = terms.iter().map(|t| t / total).collect();
        Self { order, residual, coefficients, bound: delta.powi(p as i32) / total }
    }

    /// `T(e)`: the residual after the step, for an eigenvalue `e` of the residual before it.
    pub(super) fn residual(&self, e: f64) -> f64 {
        self.residual.iter().rev().fold(0.0, |sum, t| sum * e + t)
    }

    /// The coefficients that evaluate a polynomial of degree 8 with three products (J. Sastre 2018, section 3):
    ///
    /// ```text
    /// Y = E² (c₄ E² + c₃ E),   q = (Y + d₂ E² + d₁ E)(Y + e₂ E²) + e₀ Y + q₂ E² + q₁ E + q₀
    /// ```
    ///
    /// They are real for every `δ` in `[0, 1]`: the discriminant grows from 5.5 to 256.
    fn nested(&self) -> [f64; 6] {
        let q = &self.coefficients;
        let c4 = q[8].sqrt();
        let c3 = q[7] / (2.0 * c4);
        let sum = (q[6] - c3 * c3) / c4;
        let d1 = (q[5] - c3 * sum) / c4;
        // e₂² + b e₂ + c = 0, from the coefficients of E⁴ and E³.
        let b = c4 * d1 / c3 - sum;
        let c = q[4] - d1 * c3 - c4 * q[3] / c3;
        let e2 = (-b + (b * b - 4.0 * c).sqrt()) / 2.0;
        [c4, c3, sum - e2, d1, e2, (q[3] - d1 * e2) / c3]
    }
}

/// `q_1 E + … + q_(p−1) E^(p−1)` for a batch `E`, `[b, k, k]`, and one polynomial of the same order for each matrix:
/// all of `q(E)` but its multiple of `I`.
///
/// Paterson and Stockmeyer's scheme, for order 9 the nested form: 0, 1, 2, 3, 3 products for the orders 2, 3, 5, 7, 9.
pub(super) fn correction(
    polynomials: &[Polynomial],
    e: Tensor<3>,
    multiply: impl Fn(Tensor<3>, Tensor<3>) -> Tensor<3>,
) -> Tensor<3> {
    let q = |j: usize| polynomials.iter().map(|p| p.coefficients[j]).collect::<Vec<_>>();
    let one = vec![1.0; polynomials.len()];
    let order = polynomials[0].order;
    if order == Order::Two {
        return weighted(e, &q(1));
    }
    let square = multiply(e.clone(), e.clone());
    match order {
        Order::Two | Order::Three => sum(&[(q(1), &e), (q(2), &square)]),
        Order::Five => {
            let high = multiply(square.clone(), sum(&[(q(3), &e), (q(4), &square)]));
            sum(&[(q(1), &e), (q(2), &square), (one, &high)])
        }
        Order::Seven => {
            let cube = multiply(e.clone(), square.clone());
            let high = multiply(cube.clone(), sum(&[(q(4), &e), (q(5), &square), (q(6), &cube)]));
            sum(&[(q(1), &e), (q(2), &square), (q(3), &cube), (one, &high)])
        }
        Order::Nine => {
            let nested: Vec<[f64; 6]> = polynomials.iter().map(Polynomial::nested).collect();
            let by = |i: usize| nested.iter().map(|n| n[i]).collect::<Vec<_>>();
            let y = multiply(square.clone(), sum(&[(by(0), &square), (by(1), &e)]));
            let left = sum(&[(by(2), &square), (by(3), &e), (one.clone(), &y)]);
            let right = sum(&[(by(4), &square), (one.clone(), &y)]);
            let high = multiply(left, right);
            sum(&[(q(1), &e), (q(2), &square), (by(5), &y), (one, &high)])
        }
    }
}
