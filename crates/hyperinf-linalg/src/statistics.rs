//! Statistics of plain slices of any floating-point type, computed in f64.

use num_traits::Float;

use crate::StatisticsError;

/// The mean; NaN for no values.
pub fn mean<T: Float + Into<f64>>(values: &[T]) -> f64 {
    values.iter().map(|&v| v.into()).sum::<f64>() / values.len() as f64
}

/// The standard error of the mean, `√(Σ (x − mean)² / (m (m − 1)))`; `None` for fewer than two values.
pub fn standard_error<T: Float + Into<f64>>(values: &[T]) -> Option<f64> {
    let (m, mean) = (values.len() as f64, mean(values));
    let squares: f64 = values.iter().map(|&v| (v.into() - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (m * (m - 1.0))).sqrt())
}

/// The value below which a share in [0, 1] of ascending values lies, interpolated linearly between the two nearest.
///
/// # Panics
///
/// If there are no values, or the share is not in [0, 1].
pub fn quantile<T: Float + Into<f64>>(ascending: &[T], share: f64) -> f64 {
    let place = share * (ascending.len() - 1) as f64;
    let (below, rest) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(ascending.len() - 1);
    let (below, above): (f64, f64) = (ascending[below].into(), ascending[above].into());
    below + rest * (above - below)
}

/// The rank of each value, from 1 for the smallest; equal values share the mean of their ranks.
pub fn ranks<T: Float + Into<f64>>(values: &[T]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| Into::<f64>::into(values[a]).total_cmp(&values[b].into()));
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

/// Pearson's correlation of two series, in [−1, 1].
///
/// ```
/// use hyperinf_linalg::pearson;
///
/// let correlation = pearson(&[1.0_f32, 2.0, 3.0], &[5.0_f64, 3.0, 1.0]);
/// assert!(correlation.is_ok_and(|r| (r + 1.0).abs() < 1e-15));
/// ```
///
/// # Errors
///
/// If the lengths differ, a value is NaN, or a series has no variation.
pub fn pearson<T, U>(x: &[T], y: &[U]) -> Result<f64, StatisticsError>
where
    T: Float + Into<f64>,
    U: Float + Into<f64>,
{
    check_pair(x, y)?;
    if is_constant(x) || is_constant(y) {
        return Err(StatisticsError::Constant { count: x.len() });
    }
    let (x, y) = (scaled(x), scaled(y));
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
    if norm > 0.0 { Ok((xy / norm).clamp(-1.0, 1.0)) } else { Err(StatisticsError::Constant { count: x.len() }) }
}

/// Spearman's rank correlation: Pearson's of the [`ranks`], in [−1, 1].
///
/// # Errors
///
/// If the lengths differ, a value is NaN, or a series has no variation.
pub fn spearman<T, U>(x: &[T], y: &[U]) -> Result<f64, StatisticsError>
where
    T: Float + Into<f64>,
    U: Float + Into<f64>,
{
    check_pair(x, y)?;
    pearson(&ranks(x), &ranks(y))
}

/// Checks that two series have one length and no NaN.
///
/// # Errors
///
/// If they differ in length, or a value is NaN.
pub fn check_pair<T: Float, U: Float>(x: &[T], y: &[U]) -> Result<(), StatisticsError> {
    if x.len() != y.len() {
        return Err(StatisticsError::Length { left: x.len(), right: y.len() });
    }
    let nan = x.iter().position(|v| v.is_nan()).or_else(|| y.iter().position(|v| v.is_nan()));
    nan.map_or(Ok(()), |index| Err(StatisticsError::NotANumber { index }))
}

/// Whether all values are equal: their mean may differ from them by rounding, which would then look like variation.
fn is_constant<T: Float>(values: &[T]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

/// The values over a power of two, which loses no digit, so that no square and no sum overflows.
fn scaled<T: Float + Into<f64>>(values: &[T]) -> Vec<f64> {
    let largest = values.iter().fold(f64::MIN_POSITIVE, |largest, &value| largest.max(value.into().abs()));
    let power = largest.log2().floor().exp2();
    values.iter().map(|&value| value.into() / power).collect()
}
