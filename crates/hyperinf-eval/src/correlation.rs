use crate::EvalError;
use crate::error::check;

/// Pearson's correlation of two series, in [−1, 1].
///
/// # Errors
///
/// If the lengths differ, a value is NaN, or a series has no variation.
pub fn pearson(x: &[f64], y: &[f64]) -> Result<f64, EvalError> {
    check(x, y.len())?;
    check(y, x.len())?;
    // Their mean may differ from equal values by rounding, which would then be all the variation there is.
    let constant = |values: &[f64]| values.windows(2).all(|pair| pair[0] == pair[1]);
    if constant(x) || constant(y) {
        return Err(EvalError::Constant { count: x.len() });
    }
    // Divided by a power of two, which loses no digit, so that no square and no sum overflows.
    let scaled = |values: &[f64]| -> Vec<f64> {
        let largest = values.iter().fold(f64::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
        let power = largest.log2().floor().exp2();
        values.iter().map(|value| value / power).collect()
    };
    let (x, y) = (scaled(x), scaled(y));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_x, mean_y) = (mean(&x), mean(&y));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(&y) {
        let (dx, dy) = (x - mean_x, y - mean_y);
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    // Products of sums of squares over- and underflow; the roots do not.
    let norm = xx.sqrt() * yy.sqrt();
    if norm > 0.0 { Ok((xy / norm).clamp(-1.0, 1.0)) } else { Err(EvalError::Constant { count: x.len() }) }
}

/// Spearman's rank correlation: Pearson's of the [`ranks`], in [−1, 1].
///
/// # Errors
///
/// If the lengths differ, a value is NaN, or a series has no variation.
pub fn spearman(x: &[f64], y: &[f64]) -> Result<f64, EvalError> {
    check(x, y.len())?;
    check(y, x.len())?;
    pearson(&ranks(x), &ranks(y))
}

/// The rank of each value from 1 for the smallest; equal values share the mean of their ranks.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = before as f64 + (tied.len() as f64 + 1.0) / 2.0;
        for &i in tied {
            ranks[i] = mean;
        }
        before += tied.len();
    }
    ranks
}
