//! How far rankings agree.

use std::collections::BTreeSet;

use hyperinf::eval::{EvalError, pearson, ranks};
use hyperinf::scoring::{Scores, ranking};
use serde::Serialize;

use crate::error::CliError;

/// The most helpful samples that are compared, if there are twice as many: of all samples two rankings always have all
/// in common.
const TOP: usize = 10;

/// How far two sets of scores of the same samples agree, on average over the queries.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Agreement {
    /// Rank correlation; `null` if no query has scores that differ.
    pub(crate) spearman: Option<f64>,
    /// Correlation of the scores.
    pub(crate) pearson: Option<f64>,
    /// Its square, averaged over the queries: the share of the scores' variance that a multiple of the others explains.
    #[serde(skip)]
    pub(crate) explained: Option<f64>,
    /// The share that the most helpful samples of both have in common.
    pub(crate) overlap: f64,
    /// Queries whose scores differ in both, so that they have correlations.
    pub(crate) queries: usize,
}

/// How many of the most helpful samples are compared.
pub(crate) fn top_k(asked: Option<usize>, samples: usize) -> Result<usize, CliError> {
    match asked {
        None => Ok((samples / 2).clamp(1, TOP)),
        Some(asked) if (1..=samples).contains(&asked) => Ok(asked),
        Some(asked) => Err(CliError::Amount { flag: "--top-k", asked, rows: samples }),
    }
}

/// What has been summed over queries.
#[derive(Clone, Copy, Default)]
struct Sum {
    spearman: f64,
    pearson: f64,
    explained: f64,
    overlap: f64,
    queries: usize,
}

/// The agreement of each set of scores with each, by rows; that of a set with itself is of rounding only.
///
/// `k` is the number of most helpful samples that are compared.
///
/// # Errors
///
/// If a score is NaN.
pub(crate) fn agreements(sets: &[&Scores], k: usize) -> Result<Vec<Vec<Agreement>>, EvalError> {
    let queries = sets.first().map_or(0, |scores| scores.queries());
    let mut sums = vec![vec![Sum::default(); sets.len()]; sets.len()];
    for query in 0..queries {
        let rows: Vec<&[f64]> = sets.iter().map(|scores| scores.rows[query].as_slice()).collect();
        let places: Vec<Vec<f64>> = rows.iter().map(|row| ranks(row)).collect();
        let best: Vec<BTreeSet<usize>> = rows.iter().map(|row| ranking(row).into_iter().take(k).collect()).collect();
        for (i, sums) in sums.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                sum.overlap += best[i].intersection(&best[j]).count() as f64 / k as f64;
                // Ranks have no variation exactly if the scores have none.
                let (spearman, pearson) = (pearson(&places[i], &places[j]), pearson(rows[i], rows[j]));
                if let (Some(spearman), Some(pearson)) = (exists(spearman)?, exists(pearson)?) {
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

/// A correlation, `None` if there is none because nothing varies.
fn exists(found: Result<f64, EvalError>) -> Result<Option<f64>, EvalError> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(EvalError::Constant { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
