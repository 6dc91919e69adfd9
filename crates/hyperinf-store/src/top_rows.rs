use std::collections::BTreeMap;

use hyperinf_linalg::{Bounded, ByteProbe};
use hyperinf_scoring::{RankBy, Set, ranking};

use crate::sketch::{Known, hash};
use crate::{FileError, GradientFile, Sketches, StoreError};

/// Bytes of rows that are read at once.
const PIECE: usize = 64 << 20;
/// Below one of so many rows it takes less time to read candidates one by one than all rows.
const FEW: usize = 10;
/// Rows that are read one by one in any case.
const LEAST: usize = 64;

/// The ends of a query's ranking: samples with their scores.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ends {
    /// The highest scores, the highest first; equal scores in the order of the samples.
    pub helpful: Vec<(usize, f64)>,
    /// The lowest scores, those below 0, the lowest first; of equal scores the last sample first.
    pub harmful: Vec<(usize, f64)>,
    /// The largest scores of either sign, the largest first; empty unless ranks are by magnitude.
    pub influential: Vec<(usize, f64)>,
}

/// [`Ends`] of several queries.
#[derive(Clone, Debug, PartialEq)]
pub struct TopRows {
    /// One per query.
    pub ends: Vec<Ends>,
    /// The rows that were read in full.
    pub read: usize,
}

impl Ends {
    /// Those of all scores.
    pub fn of(scores: &[f64], top: usize, rank_by: RankBy) -> Self {
        let order = ranking(scores);
        let pair = |&sample: &usize| (sample, scores[sample]);
        let influential = match rank_by {
            RankBy::Score => Vec::new(),
            RankBy::Magnitude => rank_by.ranking(scores).iter().take(top).map(pair).collect(),
        };
        Self {
            helpful: order.iter().take(top).map(pair).collect(),
            harmful: order.iter().rev().take(top).map(pair).filter(|(_, score)| *score < 0.0).collect(),
            influential,
        }
    }

    /// Those of some samples, in their order, which are all that can be at an end.
    fn of_some(samples: &[usize], scores: &[f64], top: usize, rank_by: RankBy) -> Self {
        let named = |pairs: Vec<(usize, f64)>| pairs.into_iter().map(|(at, score)| (samples[at], score)).collect();
        let Self { helpful, harmful, influential } = Self::of(scores, top, rank_by);
        Self { helpful: named(helpful), harmful: named(harmful), influential: named(influential) }
    }
}

/// The rows with the `top` highest and lowest inner products with each query, `[q, D]`, among all rows of an index.
///
/// Sketches give every product up to a bound; only rows that may be at an end are read in full. A row that belongs there
/// is missed with a chance of at most [`MISS`](hyperinf_linalg::MISS), over the random rounding of the sketches. Scores are sums in f64, whichever rows are read: those of [`score`](crate::score) up to their rounding.
///
/// `None` if the bounds leave more rows than are worth reading one by one, or if a score leaves the range of f64:
/// [`score`](crate::score) then answers, or says which row is at fault.
///
/// # Errors
///
/// If gradients cannot be read, or a row is not what its hash says.
///
/// # Panics
///
/// If a query does not have as many numbers as a row.
pub fn top_rows(
    gradients: &GradientFile,
    sketches: &Sketches,
    queries: &[Vec<f64>],
    (top, rank_by): (usize, RankBy),
) -> Result<Option<TopRows>, StoreError> {
    let probes = queries.iter().map(|x| ByteProbe::new(sketches.groups(), x)).collect::<Option<Vec<_>>>();
    let Some(probes) = probes else { return Ok(None) };
    let Some(known) = sketches.products(gradients, &probes)? else { return Ok(None) };
    let n = known.hashes.len();
    let most = (n / FEW).max(LEAST);
    let mut exact = Exact { gradients, queries, known: &known, scores: vec![BTreeMap::new(); queries.len()], read: 0 };

    // The estimates' own ends: their scores are what others must reach.
    let first: Vec<Vec<usize>> = known.products.iter().map(|all| extremes(all, top, rank_by)).collect();
    if !exact.add(first, most)? {
        return Ok(None);
    }
    let further = known.products.iter().zip(&exact.scores).map(|(all, scores)| candidates(all, scores, top, rank_by));
    let further: Vec<Vec<usize>> = further.collect();
    if !exact.add(further, most)? {
        return Ok(None);
    }
    let ends = exact.scores.iter().map(|found| {
        let (samples, scores): (Vec<usize>, Vec<f64>) = found.iter().map(|(&sample, &score)| (sample, score)).unzip();
        Ends::of_some(&samples, &scores, top, rank_by)
    });
    let in_range = |score: &f64| score.is_finite() && (*score == 0.0 || score.abs() >= LEAST_SCORE);
    if !exact.scores.iter().all(|found| found.values().all(in_range)) {
        return Ok(None);
    }
    Ok(Some(TopRows { ends: ends.collect(), read: exact.read }))
}

/// Smaller scores have lost digits.
const LEAST_SCORE: f64 = 1e-290;

/// The samples with the highest and the lowest estimates, and with the largest.
fn extremes(all: &[Bounded], top: usize, rank_by: RankBy) -> Vec<usize> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    let mut found = Vec::new();
    let mut take = |value: &dyn Fn(&Bounded) -> f64| {
        if top > 0 && top < order.len() {
            order.select_nth_unstable_by(top - 1, |&a, &b| value(&all[b]).total_cmp(&value(&all[a])));
        }
        found.extend(order.iter().take(top));
    };
    take(&|known| known.value);
    take(&|known| -known.value);
    if rank_by == RankBy::Magnitude {
        take(&|known| known.value.abs());
    }
    found
}

/// The samples that may be at an end, given the scores of some.
fn candidates(all: &[Bounded], scores: &BTreeMap<usize, f64>, top: usize, rank_by: RankBy) -> Vec<usize> {
    if top == 0 {
        return Vec::new();
    }
    // The `top`-th best of some scores is at most that of all.
    let reached = |value: &dyn Fn(f64) -> f64| {
        let mut values: Vec<f64> = scores.values().map(|&score| value(score)).collect();
        values.sort_unstable_by(|a, b| b.total_cmp(a));
        values.get(top - 1).copied().unwrap_or(f64::NEG_INFINITY)
    };
    let (high, low) = (reached(&|score| score), reached(&|score| -score));
    let large = (rank_by == RankBy::Magnitude).then(|| reached(&f64::abs));
    let may = |&sample: &usize| {
        let Bounded { value, bound } = all[sample];
        // Comparisons with NaN are false: then the row is read.
        let is_out = value + bound < high
            && (bound - value < low || value - bound >= 0.0)
            && large.is_none_or(|large| value.abs() + bound < large);
        !is_out && !scores.contains_key(&sample)
    };
    (0..all.len()).filter(may).collect()
}

/// Scores of rows that are read in full.
struct Exact<'a> {
    gradients: &'a GradientFile,
    queries: &'a [Vec<f64>],
    known: &'a Known,
    /// Of each query.
    scores: Vec<BTreeMap<usize, f64>>,
    read: usize,
}

impl Exact<'_> {
    /// Reads the rows that each query wants; `false` if they are too many.
    fn add(&mut self, wanted: Vec<Vec<usize>>, most: usize) -> Result<bool, StoreError> {
        let mut of_row: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (query, samples) in wanted.into_iter().enumerate() {
            for sample in samples {
                let queries = of_row.entry(sample).or_default();
                if queries.last() != Some(&query) {
                    queries.push(query);
                }
            }
        }
        if self.read + of_row.len() > most {
            return Ok(false);
        }
        self.read += of_row.len();
        let samples: Vec<usize> = of_row.keys().copied().collect();
        let lengths: Vec<usize> = self.gradients.blocks().iter().map(|stored| stored.block.parameters()).collect();
        let width: usize = lengths.iter().sum();
        let step = (PIECE / (width * size_of::<f32>())).max(1);
        let failed = |source| StoreError::File { set: Set::Train, path: self.gradients.path().to_owned(), source };
        for samples in samples.chunks(step) {
            let rows = self.gradients.rows(samples).map_err(failed)?;
            for (&sample, row) in samples.iter().zip(rows.chunks(width)) {
                if hash(row) != self.known.hashes[sample] {
                    return Err(failed(FileError::DamagedRow { sample }));
                }
                for &query in &of_row[&sample] {
                    self.scores[query].insert(sample, product(&lengths, &self.queries[query], row));
                }
            }
        }
        Ok(true)
    }
}

/// `x · g` in f64, block by block.
fn product(lengths: &[usize], x: &[f64], row: &[f32]) -> f64 {
    assert_eq!(x.len(), row.len(), "a query as wide as a row");
    let (mut total, mut at) = (0.0, 0);
    for &length in lengths {
        let (x, row) = (&x[at..at + length], &row[at..at + length]);
        total += x.iter().zip(row).map(|(x, &g)| x * f64::from(g)).sum::<f64>();
        at += length;
    }
    total
}
