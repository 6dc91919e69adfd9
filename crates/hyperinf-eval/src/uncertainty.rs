use hyperinf_linalg::quantile;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use crate::{EvalError, spearman};

/// Settings of the bootstrap over queries.
///
/// | name | default | purpose | range |
/// |---|---|---|---|
/// | `resamples` | 1000 | sets of queries drawn with replacement | 2 to [`Bootstrap::MOST`] |
/// | `level` | 0.95 | share of resamples within the interval | (0, 1) |
/// | `top` | 10 | highest scores whose overlap is taken; at most half of the samples | ≥ 1 |
/// | `seed` | 0 | seed of the draws | |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// The number of resamples.
    pub resamples: usize,
    /// The share of resamples within the interval.
    pub level: f64,
    /// The number of highest scores whose overlap is taken.
    pub top: usize,
    /// The seed of the draws.
    pub seed: u64,
}

impl Bootstrap {
    /// The largest number of resamples: the weights of all draws are held in memory at once.
    pub const MOST: usize = 1_000_000;
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1000, level: 0.95, top: 10, seed: 0 }
    }
}

/// Error bars of scores, and the stability of their ranking.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// The score of each training sample, `[n]`.
    pub mean: Vec<f64>,
    /// Its standard error over queries, or its standard deviation over sets.
    pub std: Vec<f64>,
    /// The interval's lower end.
    pub low: Vec<f64>,
    /// Its upper end.
    pub high: Vec<f64>,
    /// How stable the ranking is.
    pub stability: Stability,
}

/// The agreement of two equally likely rankings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stability {
    /// Spearman's correlation, the mean over pairs of rankings whose scores vary; `None` if there is no such pair.
    pub spearman: Option<f64>,
    /// The number of highest scores whose overlap is taken.
    pub top: usize,
    /// The share of these that both have in common, the mean over pairs; earlier samples win ties.
    pub overlap: f64,
}

/// Queries whose mean enters a score with a weight.
#[derive(Clone, Copy, Debug)]
pub struct Stratum<'a> {
    /// 1, or −1 for queries that a contrast subtracts.
    pub weight: f64,
    /// The scores for each query, `[q, n]`.
    pub rows: &'a [Vec<f64>],
}

/// Error bars of scores for a mean query, over the choice of queries.
///
/// A score is linear in the query's gradient, so the score for a mean query is exactly the mean of the scores for each
/// query, and resampling queries means resampling rows: `score = Σ_s w_s mean_q rows_s`. The standard error is
/// `√Σ_s w_s² Σ_q (row − mean)² / (q (q − 1))`.
/// The interval holds the middle `level` of the means of `resamples` draws of `q` rows with replacement, drawn per
/// stratum (Efron 1979; percentile intervals). It does not cover the randomness of training: for that score several
/// models and use [`between`].
///
/// # Errors
///
/// If a setting is out of range, a stratum has fewer than two rows, rows differ in length, or a score is NaN.
pub fn bootstrap(strata: &[Stratum<'_>], settings: &Bootstrap) -> Result<Spread, EvalError> {
    let Bootstrap { resamples, level, top, seed } = *settings;
    if resamples < 2 {
        return Err(EvalError::TooFew { what: "resamples", found: resamples, needed: 2 });
    }
    if resamples > Bootstrap::MOST {
        return Err(EvalError::TooMany { what: "resamples", found: resamples, most: Bootstrap::MOST });
    }
    if !(level > 0.0 && level < 1.0) {
        return Err(EvalError::Share { value: level });
    }
    let rows: Vec<&[f64]> = strata.iter().flat_map(|s| s.rows).map(Vec::as_slice).collect();
    let n = check(&rows, top)?;
    if let Some(few) = strata.iter().map(|s| s.rows.len()).find(|&q| q < 2) {
        return Err(EvalError::TooFew { what: "queries", found: few, needed: 2 });
    }

    let mut rng = StdRng::seed_from_u64(seed);
    let draws: Vec<Vec<f64>> = (0..resamples).map(|_| draw(strata, &mut rng)).collect();
    let once = strata.iter().flat_map(|s| vec![s.weight / s.rows.len() as f64; s.rows.len()]).collect::<Vec<f64>>();
    let mean = weighted(&once, &rows);
    let std = (0..n).into_par_iter().map(|i| standard_error(strata, i)).collect();
    let ends: Vec<(f64, f64)> = (0..n)
        .into_par_iter()
        .map(|i| {
            let column: Vec<f64> = rows.iter().map(|row| row[i]).collect();
            let mut found: Vec<f64> = draws.iter().map(|weights| dot(weights, &column)).collect();
            found.sort_by(f64::total_cmp);
            (quantile(&found, (1.0 - level) / 2.0), quantile(&found, (1.0 + level) / 2.0))
        })
        .collect();
    // Neighbouring resamples are independent of each other.
    let pairs: Vec<Common> = draws
        .par_windows(2)
        .map(|pair| common(&weighted(&pair[0], &rows), &weighted(&pair[1], &rows), top))
        .collect::<Result<_, _>>()?;
    let (low, high) = ends.into_iter().unzip();
    Ok(Spread { mean, std, low, high, stability: stability(&pairs, top.min(n.div_ceil(2))) })
}

/// Error bars from several sets of scores, `[n]` each: from models, projections or sampled labels with other seeds. The
/// interval ends at the smallest and the largest score.
///
/// # Errors
///
/// If there are fewer than two sets, they differ in length, or a score is NaN.
pub fn between(sets: &[Vec<f64>], top: usize) -> Result<Spread, EvalError> {
    if sets.len() < 2 {
        return Err(EvalError::TooFew { what: "sets of scores", found: sets.len(), needed: 2 });
    }
    let rows: Vec<&[f64]> = sets.iter().map(Vec::as_slice).collect();
    let n = check(&rows, top)?;
    let count = sets.len() as f64;
    let mean = weighted(&vec![1.0 / count; sets.len()], &rows);
    let of = |i: usize| rows.iter().map(move |row| row[i]);
    let square = |i: usize| of(i).map(|score| (score - mean[i]).powi(2)).sum::<f64>();
    let std = (0..n).map(|i| (square(i) / (count - 1.0)).sqrt()).collect();
    let low = (0..n).map(|i| of(i).fold(f64::INFINITY, f64::min)).collect();
    let high = (0..n).map(|i| of(i).fold(f64::NEG_INFINITY, f64::max)).collect();
    let pairs = (0..rows.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
    let pairs: Vec<Common> = pairs.map(|(a, b)| common(rows[a], rows[b], top)).collect::<Result<_, _>>()?;
    Ok(Spread { mean, std, low, high, stability: stability(&pairs, top.min(n.div_ceil(2))) })
}

/// The common length of all rows, none of which holds NaN.
fn check(rows: &[&[f64]], top: usize) -> Result<usize, EvalError> {
    if top == 0 {
        return Err(EvalError::TooFew { what: "highest scores", found: 0, needed: 1 });
    }
    let n = rows.first().map_or(0, |row| row.len());
    if n < 2 {
        return Err(EvalError::TooFew { what: "samples", found: n, needed: 2 });
    }
    rows.iter().try_for_each(|row| crate::error::check(row, n))?;
    Ok(n)
}

/// The weight of each row in one resample.
fn draw(strata: &[Stratum<'_>], rng: &mut StdRng) -> Vec<f64> {
    let mut weights = Vec::new();
    for Stratum { weight, rows } in strata {
        let q = rows.len();
        let mut counts = vec![0.0; q];
        (0..q).for_each(|_| counts[rng.random_range(0..q)] += weight / q as f64);
        weights.extend(counts);
    }
    weights
}

fn standard_error(strata: &[Stratum<'_>], sample: usize) -> f64 {
    let variance = |Stratum { weight, rows }: &Stratum<'_>| {
        let q = rows.len() as f64;
        let mean = rows.iter().map(|row| row[sample]).sum::<f64>() / q;
        let square = rows.iter().map(|row| (row[sample] - mean).powi(2)).sum::<f64>();
        weight * weight * square / (q * (q - 1.0))
    };
    strata.iter().map(variance).sum::<f64>().sqrt()
}

/// Spearman's correlation of two sets of scores, if both vary, and the overlap of their highest scores.
type Common = (Option<f64>, f64);

fn common(left: &[f64], right: &[f64], top: usize) -> Result<Common, EvalError> {
    let best = |scores: &[f64]| -> Vec<bool> {
        let n = scores.len();
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let mut marked = vec![false; n];
        order.into_iter().take(top.min(n.div_ceil(2))).for_each(|i| marked[i] = true);
        marked
    };
    let (a, b) = (best(left), best(right));
    let both = a.iter().zip(&b).filter(|(a, b)| **a && **b).count() as f64;
    let correlation = match spearman(left, right) {
        Ok(found) => Some(found),
        Err(EvalError::Constant { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok((correlation, both / top.min(left.len().div_ceil(2)) as f64))
}

fn stability(pairs: &[Common], top: usize) -> Stability {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let correlations: Vec<f64> = pairs.iter().filter_map(|(spearman, _)| *spearman).collect();
    let overlaps: Vec<f64> = pairs.iter().map(|(_, overlap)| *overlap).collect();
    Stability { spearman: (!correlations.is_empty()).then(|| mean(&correlations)), top, overlap: mean(&overlaps) }
}

fn weighted(weights: &[f64], rows: &[&[f64]]) -> Vec<f64> {
    let mut sums = vec![0.0; rows.first().map_or(0, |row| row.len())];
    for (weight, row) in weights.iter().zip(rows).filter(|(weight, _)| **weight != 0.0) {
        sums.iter_mut().zip(*row).for_each(|(sum, score)| *sum += weight * score);
    }
    sums
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(a, b)| a * b).sum()
}
