use hyperinf_linalg::quantile;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use crate::{EvalError, spearman};

/// How scores for a mean query are resampled.
///
/// | name | default | purpose | range |
/// |---|---|---|---|
/// | `resamples` | 1000 | sets of queries drawn with replacement | 2 to [`Bootstrap::MOST`] |
/// | `level` | 0.95 | the share of resamples within the interval | (0, 1) |
/// | `top` | 10 | highest scores whose overlap is taken; half of the samples if that is less | ≥ 1 |
/// | `seed` | 0 | of the draws | |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Sets of queries that are drawn.
    pub resamples: usize,
    /// The share of resamples within the interval.
    pub level: f64,
    /// The number of highest scores whose overlap is taken.
    pub top: usize,
    /// The seed of the draws.
    pub seed: u64,
}

impl Bootstrap {
    /// The most resamples: the weights of all draws are held at once, and a thousandth as many tell as much.
    pub const MOST: usize = 1_000_000;
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1000, level: 0.95, top: 10, seed: 0 }
    }
}

/// How far each score may be off, and how far the ranking.
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

/// How much two rankings that could as well have been found have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stability {
    /// Spearman's correlation between two of them, the mean over pairs. Pairs without one, because all scores of a ranking
    /// are equal, are left out; `None` if no pair has one.
    pub spearman: Option<f64>,
    /// The number of highest scores whose overlap is taken.
    pub top: usize,
    /// The share of them that two have in common, the mean over pairs; of equal scores the earlier ones are the higher.
    pub overlap: f64,
}

/// Queries whose mean counts with a weight in a score.
#[derive(Clone, Copy, Debug)]
pub struct Stratum<'a> {
    /// 1; of queries that a contrast takes away −1.
    pub weight: f64,
    /// The scores for each query, `[q, n]`.
    pub rows: &'a [Vec<f64>],
}

/// The spread of scores for a mean query over which queries were asked.
///
/// A score is linear in the query's gradient, so the score for a mean query is the mean of the scores for each, exactly,
/// and resampling queries is resampling rows: `score = Σ_s w_s mean_q rows_s`. The standard error is the closed form
/// `√Σ_s w_s² Σ_q (row − mean)² / (q (q − 1))`; the interval holds the middle `level` of the means of `resamples` draws of `q`
/// rows with replacement, each stratum for itself (Efron 1979; percentile intervals). It says nothing of the training: for
/// that score several models and use [`between`].
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
    // Neighbours in the list of resamples are independent of each other.
    let pairs: Vec<Common> = draws
        .par_windows(2)
        .map(|pair| common(&weighted(&pair[0], &rows), &weighted(&pair[1], &rows), top))
        .collect::<Result<_, _>>()?;
    let (low, high) = ends.into_iter().unzip();
    Ok(Spread { mean, std, low, high, stability: stability(&pairs, top.min(n.div_ceil(2))) })
}

/// The spread of scores over several sets of them, `[n]` each: of models trained with other seeds, of projections or
/// sampled labels with other seeds. Ends of the interval are the smallest and the largest score found.
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

/// The length of all rows, which are numbers.
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

/// Spearman's correlation of two sets of scores, if both vary, and the share of their highest that they have in common.
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
