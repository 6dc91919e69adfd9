//! Exponential, normal distribution and sums in f32, free of branches and calls.

/// Independent partial sums, enough to keep a vector unit busy.
const LANES: usize = 32;

/// `eˣ` for `x ≤ 88`, with relative error below 1.2e-7: 0 below −87.7, NaN for NaN, large values or +∞ above 88.
///
/// `x = n ln 2 + r` with an integer `n`; `eʳ` is a minimax polynomial (relative error 3e-9), `2ⁿ` is set in the bits.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// 1.5 · 2²³: adding it rounds to an integer, held in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    /// `ln 2` in two parts; products of the first with integers are exact.
    const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    // These comparisons are false for NaN, which therefore passes through.
    let x = if x < -88.0 { -88.0 } else { x };
    let x = if x > 88.72 { 88.72 } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN2.0 - n * LN2.1;
    let p = 0.001_381_459_9;
    let p = p * r + 0.008_368_717;
    let p = p * r + 0.041_668_39;
    let p = p * r + 0.166_665_21;
    let p = p * r + 0.499_999_94;
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    (p * r * r + r + 1.0) * power
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The normal distribution function Φ(x), absolute error below 8e-8, and `e^(−x²/2)`.
///
/// For `|x| < 1`, `½ + x P(x²)`; beyond, the tail `e^(−x²/2) t Q(t)` with `t = 1/(1 + 0.35 |x|)`. Both polynomials are
/// minimax fits, with relative errors 7e-10 and 3.2e-8.
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    let square = x * x;
    let bell = exp(-0.5 * square);
    let p = -7.654_208e-6;
    let p = p * square + 0.000_113_486_37;
    let p = p * square - 0.001_186_33;
    let p = p * square + 0.009_973_323;
    let p = p * square - 0.066_490_36;
    let p = p * square + 0.398_942_3;
    let middle = 0.5 + x * p;
    let t = 1.0 / (1.0 + 0.35 * x.abs());
    let q = -0.029_157_877;
    let q = q * t + 0.144_030_88;
    let q = q * t - 0.255_838_93;
    let q = q * t + 0.159_319_57;
    let q = q * t - 0.023_212_293;
    let q = q * t + 0.105_552_48;
    let q = q * t + 0.119_821_295;
    let q = q * t + 0.139_863_52;
    let q = q * t + 0.139_621_3;
    let tail = q * t * bell;
    let outside = if x < 0.0 { tail } else { 1.0 - tail };
    (if square < 1.0 { middle } else { outside }, bell)
}

/// `Σ f(x)`.
#[inline(always)]
pub(super) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let parts = x.chunks_exact(LANES);
    let rest = parts.remainder();
    for part in parts {
        for (lane, &x) in lanes.iter_mut().zip(part) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    lanes.iter().sum()
}

/// `Σ f(x, y)`.
#[inline(always)]
pub(super) fn sum_both(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let rest = (xs.remainder(), ys.remainder());
    for (x, y) in xs.zip(ys) {
        for ((lane, &x), &y) in lanes.iter_mut().zip(x).zip(y) {
            *lane += f(x, y);
        }
    }
    for ((lane, &x), &y) in lanes.iter_mut().zip(rest.0).zip(rest.1) {
        *lane += f(x, y);
    }
    lanes.iter().sum()
}

/// The largest value, ignoring NaN; −∞ for an empty slice.
#[inline(always)]
pub(super) fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let parts = x.chunks_exact(LANES);
    let rest = parts.remainder();
    for part in parts {
        for (lane, &x) in lanes.iter_mut().zip(part) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = if x > *lane { x } else { *lane };
    }
    lanes.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}
