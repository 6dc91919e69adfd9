use hyperinf_linalg::{mean, standard_error};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

/// Resamples of the bootstrap: the ends of the interval are then known to about a tenth of a standard error.
const RESAMPLES: usize = 2000;

/// Values below which the bootstrap's interval is too narrow: of 5 it covers the mean 83 times of 100.
const FEW: usize = 20;
/// The 97.5 % quantiles of Student's t with 1 to 18 degrees of freedom.
const STUDENT: [f64; FEW - 2] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101,
];

/// A mean with the interval that covers it 95 times of 100.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// The interval's lower end; `None` for a single value.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
}

impl Interval {
    /// The mean of values with its interval: of 20 values or more the percentile bootstrap's (Efron 1979), for which the
    /// values are drawn anew with replacement 2,000 times, by a fixed seed; of fewer Student's `mean ± t √(s²/m)`, which
    /// covers as often as it says for normal values.
    ///
    /// A single value has no interval, and `None` stands for the mean of none. The interval tells how the mean varies
    /// over *these* values (queries, say), not over whatever they have in common. Student's may leave the range that the
    /// values have: see [`Interval::within`].
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        if count < FEW {
            let (mean, error) = mean_and_error(values);
            let half = error.map(|error| STUDENT[count - 2] * error);
            return Some(Self { mean, low: half.map(|half| mean - half), high: half.map(|half| mean + half) });
        }
        let mean = |sum: f64| sum / count as f64;
        let mut rng = StdRng::seed_from_u64(0);
        let mut draw = || mean((0..count).map(|_| values[rng.random_range(0..count)]).sum());
        let mut means: Vec<f64> = (0..RESAMPLES).map(|_| draw()).collect();
        means.sort_by(f64::total_cmp);
        let quantile = |share: f64| means[(share * (RESAMPLES - 1) as f64).round() as usize];
        Some(Self { mean: mean(values.iter().sum()), low: Some(quantile(0.025)), high: Some(quantile(0.975)) })
    }

    /// The same with ends cut to the range that the values have: `[-1, 1]` for correlations, `[0, 1]` for shares. The mean
    /// lies in it, so the interval covers no less often.
    #[must_use]
    pub fn within(self, least: f64, most: f64) -> Self {
        let cut = |end: Option<f64>| end.map(|end| end.max(least).min(most));
        Self { low: cut(self.low), high: cut(self.high), ..self }
    }
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3}", self.mean)?;
        match (self.low, self.high) {
            (Some(low), Some(high)) => write!(f, " [{low:.3}, {high:.3}]"),
            _ => Ok(()),
        }
    }
}

/// The mean and its standard error `√(Σ (x − mean)² / (m (m − 1)))`, which needs two values.
///
/// The mean of no values is NaN.
pub fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    (mean(values), standard_error(values))
}
