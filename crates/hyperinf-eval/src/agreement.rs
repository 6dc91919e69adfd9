use std::collections::BTreeSet;

use hyperinf_scoring::{Scores, ranking};
use serde::Serialize;

use crate::{EvalError, pearson, ranks};

/// Samples in the overlap of two rankings by default, where there are at least twice as many.
const TOP: usize = 10;

/// The agreement of two sets of scores of the same samples: means over the queries.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Spearman's rank correlation, in [−1, 1]; `None` if no query has scores that vary in both sets.
    pub spearman: Option<f64>,
    /// Pearson's correlation, in [−1, 1].
    pub pearson: Option<f64>,
    /// Its square: the share of the scores' variance that a multiple of the other scores explains, in [0, 1].
    #[serde(skip)]
    pub explained: Option<f64>,
    /// The share of the most helpful samples that both sets have in common, in [0, 1].
    pub overlap: f64,
    /// Queries whose scores vary in both sets, so that they have correlations.
    pub queries: usize,
}

/// The default number of most helpful samples to compare: 10, or half of the samples if that is less, because two
/// rankings of all samples always overlap completely.
pub fn default_top(samples: usize) -> usize {
    (samples / 2).clamp(1, TOP)
}

/// Sums over queries.
#[derive(Clone, Copy, Default)]
struct Sum {
    spearman: f64,
    pearson: f64,
    explained: f64,
    overlap: f64,
    queries: usize,
}

/// The agreement of each set of scores with each, `[sets][sets]`.
///
/// All sets are `[q, n]` for the same queries and samples; `top` is the number of most helpful samples whose overlap is
/// taken. On the diagonal a set agrees with itself, to rounding.
///
/// # Errors
///
/// [`EvalError::NotANumber`] if a score is NaN, [`EvalError::Length`] if the sets have different numbers of queries or
/// samples, [`EvalError::TooFew`] if `top` is 0.
///
/// ```
/// use hyperinf_eval::agreements;
/// use hyperinf_scoring::Scores;
///
/// let exact = Scores { rows: vec![vec![3.0, 1.0, 2.0, 0.0]] };
/// let fast = Scores { rows: vec![vec![9.0, 1.0, 4.0, 0.0]] };
/// let found = agreements(&[&exact, &fast], 2)?;
/// assert!(found[0][1].spearman.is_some_and(|spearman| spearman > 0.999));
/// assert_eq!(found[0][1].overlap, 1.0);
/// # Ok::<(), hyperinf_eval::EvalError>(())
/// ```
pub fn agreements(sets: &[&Scores], top: usize) -> Result<Vec<Vec<Agreement>>, EvalError> {
    if top == 0 {
        return Err(EvalError::TooFew { what: "most helpful samples", found: 0, needed: 1 });
    }
    let queries = sets.first().map_or(0, |scores| scores.queries());
    if let Some(other) = sets.iter().map(|scores| scores.queries()).find(|&other| other != queries) {
        return Err(EvalError::Length { left: queries, right: other });
    }
    let mut sums = vec![vec![Sum::default(); sets.len()]; sets.len()];
    for query in 0..queries {
        let rows: Vec<&[f64]> = sets.iter().map(|scores| scores.rows[query].as_slice()).collect();
        let places: Vec<Vec<f64>> = rows.iter().map(|row| ranks(row)).collect();
        let best: Vec<BTreeSet<usize>> = rows.iter().map(|row| ranking(row).into_iter().take(top).collect()).collect();
        for (i, sums) in sums.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                sum.overlap += best[i].intersection(&best[j]).count() as f64 / top as f64;
                // Ranks are constant exactly if the scores are.
                let (spearman, pearson) = (pearson(&places[i], &places[j]), pearson(rows[i], rows[j]));
                if let (Some(spearman), Some(pearson)) = (defined(spearman)?, defined(pearson)?) {
                    sum.spearman += spearman;
                    sum.pearson += pearson;
                    sum.explained += pearson * pearson;
                    sum.queries += 1;
                }
            }
        }
    }
    let mean = |sum: f64, count: usize| (count > 0).then(|| sum / count as f64);
    let agreement = |sum: Sum| Agreement {
        spearman: mean(sum.spearman, sum.queries),
        pearson: mean(sum.pearson, sum.queries),
        explained: mean(sum.explained, sum.queries),
        overlap: sum.overlap / queries.max(1) as f64,
        queries: sum.queries,
    };
    Ok(sums.into_iter().map(|row| row.into_iter().map(agreement).collect()).collect())
}

/// A correlation, or `None` where a series is constant.
fn defined(correlation: Result<f64, EvalError>) -> Result<Option<f64>, EvalError> {
    match correlation {
        Ok(value) => Ok(Some(value)),
        Err(EvalError::Constant { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
