use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;

use super::lds::{Lds, LdsTruth};
use super::retrain::count;
use crate::{Bootstrap, EvalError, Interval, TruthError};

/// How certain a linear datamodelling score is, and what further trainings would add.
#[derive(Clone, Debug, PartialEq)]
pub struct LdsSpread {
    /// The score of each query, and their mean with its interval over the queries.
    pub lds: Lds,
    /// The mean with its interval over subsets and queries: other subsets and other queries of the same kind.
    pub both: Interval,
    /// The mean with its interval over subsets alone: other subsets, these queries.
    pub subsets: Interval,
    /// What there was to see after the first so many subsets, with the interval over subsets and queries; the last is all.
    pub course: Vec<(usize, Interval)>,
}

impl LdsSpread {
    /// The width of the interval over subsets and queries that so many subsets would have: a part that remains and one that
    /// falls with their number, `w² = a + b/k` with `a, b ≥ 0`, fitted to the widths of the course (weights `k²`, since the
    /// error of `w²` is relative) and scaled to that of all subsets. `None` if an interval is missing.
    pub fn width(&self, subsets: usize) -> Option<f64> {
        let of = |interval: &Interval| Some(interval.high? - interval.low?);
        let (all, now) = (self.course.last()?.0 as f64, of(&self.both)?);
        let (mut sum, mut of_x, mut of_xx, mut of_y, mut of_xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (k, interval) in &self.course {
            let (k, y) = (*k as f64, of(interval)?.powi(2));
            let (weight, x) = (k * k, 1.0 / k);
            sum += weight;
            of_x += weight * x;
            of_xx += weight * x * x;
            of_y += weight * y;
            of_xy += weight * x * y;
        }
        let determinant = sum * of_xx - of_x * of_x;
        let (a, b) = ((of_xx * of_y - of_x * of_xy) / determinant, (sum * of_xy - of_x * of_y) / determinant);
        // With one point, or where a part would be negative, all of it falls, or none.
        let (a, b) = match (a.is_finite() && a > 0.0, b > 0.0) {
            (true, true) => (a, b),
            (true, false) => (1.0, 0.0),
            (false, _) => (0.0, 1.0),
        };
        Some(now * ((a + b / subsets as f64) / (a + b / all)).sqrt())
    }

    /// By how much one more subset would narrow the interval.
    pub fn next(&self) -> Option<f64> {
        let (k, _) = self.course.last()?;
        Some(self.width(*k)? - self.width(k + 1)?)
    }
}

impl LdsTruth {
    /// The truth of trainings that each leave out some samples: `removed` are ascending, and `losses` are
    /// `[training][seed][query]`.
    ///
    /// # Errors
    ///
    /// If `losses` and `removed` differ in length, or a removed sample is not below `samples`.
    pub fn of_removals(samples: usize, removed: &[Vec<usize>], losses: Vec<Vec<Vec<f64>>>) -> Result<Self, TruthError> {
        count("trainings with losses", losses.len(), removed.len())?;
        let mut subsets = Vec::with_capacity(removed.len());
        for rows in removed {
            let mut kept = vec![true; samples];
            for (index, &row) in rows.iter().enumerate() {
                match kept.get_mut(row) {
                    Some(kept) => *kept = false,
                    None => return Err(TruthError::Subset { index, value: row, samples }),
                }
            }
            subsets.push((0..samples).filter(|&row| kept[row]).collect());
        }
        Ok(Self { samples, subsets, losses })
    }

    /// [`LdsTruth::lds`] with percentile intervals of the bootstrap over subsets, and over subsets and queries (Efron
    /// 1979): of `settings` the draws, the level and the seed are used. In a draw in which a query's losses or predictions
    /// are all the same, it counts as 0.
    ///
    /// # Errors
    ///
    /// As [`LdsTruth::lds`]; [`EvalError::TooFew`] for fewer than 2 resamples, [`EvalError::Share`] for a level outside
    /// (0, 1).
    pub fn spread(&self, scores: &[Vec<f64>], settings: &Bootstrap) -> Result<LdsSpread, TruthError> {
        let Bootstrap { resamples, level, .. } = *settings;
        if resamples < 2 {
            return Err(EvalError::TooFew { what: "resamples", found: resamples, needed: 2 }.into());
        }
        if !(level > 0.0 && level < 1.0) {
            return Err(EvalError::Share { value: level }.into());
        }
        let lds = self.lds(scores)?;
        let (predictions, truth) = (self.predictions(scores)?, self.truth(0, 1));
        let of_first = |subsets: usize| {
            let pairs: Vec<[Sorted; 2]> = predictions
                .iter()
                .zip(&truth)
                .map(|(predicted, truth)| [Sorted::new(&predicted[..subsets]), Sorted::new(&truth[..subsets])])
                .collect();
            let interval = |queries: bool| resampled(&pairs, subsets, queries, settings);
            let mean = pairs.iter().map(|pair| correlation(pair, &vec![1; subsets])).sum::<f64>() / pairs.len() as f64;
            let [both, own] = [true, false].map(|queries| {
                let (low, high) = interval(queries);
                Interval { mean, low: Some(low), high: Some(high) }.within(-1.0, 1.0)
            });
            (both, own)
        };
        let all = self.subsets.len();
        let mut course: Vec<(usize, Interval)> =
            stops(all).into_iter().map(|subsets| (subsets, of_first(subsets).0)).collect();
        let (both, subsets) = of_first(all);
        course.push((all, both));
        Ok(LdsSpread { lds, both, subsets, course })
    }
}

/// Numbers of subsets below all of them, at which the course is shown.
fn stops(all: usize) -> Vec<usize> {
    const FIRST: usize = 5;
    std::iter::successors(Some(FIRST), |&stop| Some(if stop < 40 { 2 * stop } else { stop + 20 }))
        .take_while(|&stop| stop < all)
        .collect()
}

/// The ends of the interval of the mean over queries, when subsets, and if asked for queries, are drawn again.
fn resampled(pairs: &[[Sorted; 2]], subsets: usize, queries: bool, settings: &Bootstrap) -> (f64, f64) {
    let Bootstrap { resamples, level, seed, .. } = *settings;
    let draw = |resample: usize| {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(resample as u64));
        let mut counts = vec![0_u32; subsets];
        (0..subsets).for_each(|_| counts[random.random_range(0..subsets)] += 1);
        let of = |query: usize| correlation(&pairs[query], &counts);
        let sum: f64 = match queries {
            false => (0..pairs.len()).map(of).sum(),
            true => (0..pairs.len()).map(|_| of(random.random_range(0..pairs.len()))).sum(),
        };
        sum / pairs.len() as f64
    };
    let mut means: Vec<f64> = (0..resamples).into_par_iter().map(draw).collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[(share * (resamples - 1) as f64).round() as usize];
    (at((1.0 - level) / 2.0), at((1.0 + level) / 2.0))
}

/// Values in ascending order, by their places.
struct Sorted {
    order: Vec<usize>,
    /// Whether each is equal to the one before it.
    equal: Vec<bool>,
}

impl Sorted {
    fn new(values: &[f64]) -> Self {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
        let equal = (0..order.len()).map(|at| at > 0 && values[order[at]] == values[order[at - 1]]).collect();
        Self { order, equal }
    }

    /// The rank of each value, from which the mean rank is subtracted, where each value counts so many times; equal ones
    /// share the mean of theirs.
    fn ranks(&self, counts: &[u32]) -> Vec<f64> {
        let mut ranks = vec![0.0; counts.len()];
        let total: u32 = counts.iter().sum();
        let middle = (f64::from(total) + 1.0) / 2.0;
        let (mut at, mut before) = (0, 0);
        while at < self.order.len() {
            let end = (at + 1..self.order.len()).find(|&next| !self.equal[next]).unwrap_or(self.order.len());
            let here: u32 = self.order[at..end].iter().map(|&place| counts[place]).sum();
            let rank = f64::from(before) + (f64::from(here) + 1.0) / 2.0 - middle;
            self.order[at..end].iter().for_each(|&place| ranks[place] = rank);
            (at, before) = (end, before + here);
        }
        ranks
    }
}

/// Spearman's correlation of two series whose values count so many times; 0 where one does not vary.
fn correlation([left, right]: &[Sorted; 2], counts: &[u32]) -> f64 {
    let (left, right) = (left.ranks(counts), right.ranks(counts));
    let (mut both, mut of_left, mut of_right) = (0.0, 0.0, 0.0);
    for ((l, r), &count) in left.iter().zip(&right).zip(counts) {
        let count = f64::from(count);
        both += count * l * r;
        of_left += count * l * l;
        of_right += count * r * r;
    }
    if of_left > 0.0 && of_right > 0.0 { (both / (of_left * of_right).sqrt()).clamp(-1.0, 1.0) } else { 0.0 }
}
