//! Intervals of the linear datamodelling score over subsets and queries, against draws that are written out.

use hyperinf::eval::{Bootstrap, Interval, LdsTruth, TruthError, spearman};
use hyperinf_tests::oracle::Matrix;

const SAMPLES: usize = 30;
const QUERIES: usize = 6;
const RESAMPLES: usize = 3000;

/// Random thirds that leave, and losses that a linear model with noise would have; equal numbers occur.
fn truth(subsets: usize, noise: f64) -> (LdsTruth, Vec<Vec<f64>>) {
    let draws = Matrix::noise(subsets, SAMPLES, 3);
    let removed: Vec<Vec<usize>> =
        (0..subsets).map(|k| (0..SAMPLES).filter(|&i| draws.at(k, i) > 0.3).collect()).collect();
    let scores = Matrix::noise(QUERIES, SAMPLES, 4);
    let scores: Vec<Vec<f64>> =
        (0..QUERIES).map(|q| scores.row(q).iter().map(|score| (4.0 * score).round() / 4.0).collect()).collect();
    let rest = Matrix::noise(subsets, QUERIES, 5);
    let loss = |k: usize, q: usize| removed[k].iter().map(|&i| scores[q][i]).sum::<f64>() + noise * rest.at(k, q);
    let losses = (0..subsets).map(|k| vec![(0..QUERIES).map(|q| loss(k, q)).collect()]).collect();
    (LdsTruth::of_removals(SAMPLES, &removed, losses).map_err(Box::new).expect("they fit"), scores)
}

/// The ends of the interval from other draws: lists of subsets, each there as often as it was drawn.
fn interval(truth: &LdsTruth, scores: &[Vec<f64>], queries: bool, level: f64) -> (f64, f64) {
    let all = truth.subsets.len();
    let predicted = |q: usize, k: usize| truth.subsets[k].iter().map(|&i| scores[q][i]).sum::<f64>();
    let draws = Matrix::noise(RESAMPLES, all + QUERIES, 9);
    let drawn = |resample: usize, place: usize, of: usize| {
        (((draws.at(resample, place) + 1.0) / 2.0 * of as f64) as usize).min(of - 1)
    };
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|resample| {
            let subsets: Vec<usize> = (0..all).map(|place| drawn(resample, place, all)).collect();
            let of = |q: usize| {
                let x: Vec<f64> = subsets.iter().map(|&k| predicted(q, k)).collect();
                let y: Vec<f64> = subsets.iter().map(|&k| -truth.losses[k][0][q]).collect();
                spearman(&x, &y).unwrap_or(0.0)
            };
            let chosen = |q: usize| if queries { drawn(resample, all + q, QUERIES) } else { q };
            (0..QUERIES).map(|q| of(chosen(q))).sum::<f64>() / QUERIES as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[(share * (RESAMPLES - 1) as f64).round() as usize];
    (at((1.0 - level) / 2.0), at((1.0 + level) / 2.0))
}

#[test]
fn intervals_are_those_of_draws_that_are_written_out() {
    let settings = Bootstrap { resamples: RESAMPLES, seed: 7, level: 0.9, ..Bootstrap::default() };
    for (subsets, noise) in [(25, 1.0), (25, 2.0)] {
        let (truth, scores) = truth(subsets, noise);
        let found = truth.spread(&scores, &settings).map_err(Box::new).expect("it has figures");
        for (queries, Interval { mean, low, high }) in [(true, found.both), (false, found.subsets)] {
            let expected = interval(&truth, &scores, queries, 0.9);
            let ends = (low.expect("an end"), high.expect("an end"));
            // The ends of 3,000 draws are known to about a fortieth of the width; correlations come in steps.
            let near = 0.2 * (expected.1 - expected.0);
            let (below, above) = ((ends.0 - expected.0).abs(), (ends.1 - expected.1).abs());
            assert!(below < near && above < near, "{subsets}, {queries}: {ends:?} and {expected:?}");
            assert!((mean - found.lds.mean.mean).abs() < 1e-12);
        }
    }
}

#[test]
fn more_subsets_narrow_the_interval_as_is_foretold() {
    let settings = Bootstrap { resamples: 400, ..Bootstrap::default() };
    let (few, scores) = truth(40, 3.0);
    let found = few.spread(&scores, &settings).map_err(Box::new).expect("it has figures");
    assert_eq!(found.course.iter().map(|(subsets, _)| *subsets).collect::<Vec<_>>(), [5, 10, 20, 40]);
    let width = |interval: Interval| interval.high.expect("an end") - interval.low.expect("an end");
    let now = found.width(40).expect("it has a width");
    assert!((now - width(found.both)).abs() < 1e-12);
    // One subset more takes a part of what all of them would.
    let next = found.next().expect("it has a width");
    assert!(next > 0.0 && next < now / 40.0, "{next} of {now}");
    let widths = [40, 41, 80, 160, usize::MAX].map(|subsets| found.width(subsets).expect("it has a width"));
    assert!(widths.is_sorted_by(|a, b| a > b) && widths[4] >= 0.0, "{widths:?}");
    // And is right about a truth with four times as many.
    let (many, scores) = truth(160, 3.0);
    let wide = many.spread(&scores, &settings).map_err(Box::new).expect("it has figures");
    let (foretold, found) = (found.width(160).expect("it has a width"), width(wide.both));
    assert!(found < now && (foretold / found - 1.0).abs() < 0.5, "{foretold} and {found}, of {now}");
}

#[test]
fn what_has_no_figure_is_an_error() {
    let (truth, scores) = truth(6, 1.0);
    let spread = |scores: &[Vec<f64>], settings: Bootstrap| {
        truth.spread(scores, &settings).map(drop).map_err(|error| error.to_string()).expect_err("it has no figures")
    };
    let usual = Bootstrap::default;
    assert!(spread(&scores, Bootstrap { resamples: 1, ..usual() }).contains("1 resamples"));
    assert!(spread(&scores, Bootstrap { level: 1.0, ..usual() }).contains("not 1"));
    assert!(spread(&scores[1..], usual()).contains("5 rows of scores where 6"));
    let bad = LdsTruth::of_removals(3, &[vec![1], vec![3]], vec![vec![vec![0.0]]; 2]);
    assert!(matches!(bad, Err(TruthError::Subset { index: 0, value: 3, samples: 3 })));
    let few = LdsTruth::of_removals(3, &[vec![1], vec![2]], vec![vec![vec![0.0]]]);
    assert!(matches!(few, Err(TruthError::Count { found: 1, expected: 2, .. })));
    // Scores that are all the same predict nothing.
    let same = vec![vec![1.0; SAMPLES]; QUERIES];
    let (truth, _) = self::truth(6, 1.0);
    let removed: Vec<Vec<usize>> = (0..6).map(|k| vec![k, k + 6]).collect();
    let equal = LdsTruth::of_removals(SAMPLES, &removed, truth.losses).map_err(Box::new).expect("they fit");
    let found = equal.spread(&same, &usual()).map_err(Box::new).expect("it counts as 0");
    assert_eq!((found.lds.constant, found.both.mean, found.both.low), (QUERIES, 0.0, Some(0.0)));
}
