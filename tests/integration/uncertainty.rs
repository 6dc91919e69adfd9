//! Error bars of scores and of their ranking.

use hyperinf::eval::{Bootstrap, EvalError, Spread, Stratum, between, bootstrap, spearman};
use hyperinf_tests::compare::{assert_close, assert_within};
use hyperinf_tests::oracle::Matrix;

fn rows(q: usize, n: usize, seed: u64) -> Vec<Vec<f64>> {
    let noise = Matrix::noise(q, n, seed);
    (0..q).map(|k| noise.row(k).to_vec()).collect()
}

fn one(rows: &[Vec<f64>], settings: &Bootstrap) -> Spread {
    bootstrap(&[Stratum { weight: 1.0, rows }], settings).expect("good scores")
}

/// Mean and variance of the mean of a column, by the definition.
fn column(rows: &[Vec<f64>], i: usize) -> (f64, f64) {
    let q = rows.len() as f64;
    let mean = rows.iter().map(|row| row[i]).sum::<f64>() / q;
    let variance = rows.iter().map(|row| (row[i] - mean).powi(2)).sum::<f64>() / (q - 1.0);
    (mean, variance / q)
}

#[test]
fn the_standard_error_is_that_of_a_mean() {
    let (helped, harmed) = (rows(30, 40, 1), rows(12, 40, 2));
    let found = one(&helped, &Bootstrap::default());
    let of = |i| column(&helped, i);
    assert_close("mean", &found.mean, &(0..40).map(|i| of(i).0).collect::<Vec<_>>(), 1e-12);
    assert_close("error", &found.std, &(0..40).map(|i| of(i).1.sqrt()).collect::<Vec<_>>(), 1e-12);
    let strata = [Stratum { weight: 1.0, rows: &helped }, Stratum { weight: -1.0, rows: &harmed }];
    let found = bootstrap(&strata, &Bootstrap::default()).expect("good scores");
    let both = |i| (of(i), column(&harmed, i));
    let means: Vec<f64> = (0..40).map(|i| both(i).0.0 - both(i).1.0).collect();
    let errors: Vec<f64> = (0..40).map(|i| (both(i).0.1 + both(i).1.1).sqrt()).collect();
    assert_close("contrast", &found.mean, &means, 1e-12);
    assert_close("error of a contrast", &found.std, &errors, 1e-12);
}

/// Of two rows there are four resamples: both times the one, both times the other, and twice their mean.
#[test]
fn the_interval_of_two_queries_is_known() {
    let scores = [vec![1.0, -2.0, 0.5], vec![3.0, 4.0, 0.5]];
    let within = |level| one(&scores, &Bootstrap { level, ..Bootstrap::default() });
    let inner = within(0.4);
    assert_eq!((inner.low, inner.high), (vec![2.0, 1.0, 0.5], vec![2.0, 1.0, 0.5]));
    let outer = within(0.9);
    assert_eq!((outer.low, outer.high), (vec![1.0, -2.0, 0.5], vec![3.0, 4.0, 0.5]));
}

/// For many queries the means are normal: 95 % lie within 1.96 standard errors.
#[test]
fn the_interval_of_many_queries_is_the_normal_one() {
    let scores = rows(100, 20, 3);
    let found = one(&scores, &Bootstrap { resamples: 4000, ..Bootstrap::default() });
    for i in 0..20 {
        let (mean, half) = (found.mean[i], 1.96 * found.std[i]);
        // A quantile of 4000 draws has a standard error of 0.04 of theirs; four of them, and the skew of 100 values.
        assert_within("ends", &[found.low[i], found.high[i]], &[mean - half, mean + half], 0.2 * found.std[i]);
    }
}

/// Scores that are noise have means that resamples share to one half of their variance.
#[test]
fn rankings_of_noise_agree_by_half_and_of_equal_queries_wholly() {
    let noise = one(&rows(40, 1000, 4), &Bootstrap { resamples: 200, top: 100, ..Bootstrap::default() }).stability;
    // Spearman's for normal values of correlation 1/2.
    let expected = 6.0 / std::f64::consts::PI * 0.25_f64.asin();
    assert!(noise.spearman.is_some_and(|found| (found - expected).abs() < 0.05), "{noise:?} for {expected}");
    assert!(noise.top == 100 && noise.overlap > 0.2 && noise.overlap < 0.5, "{noise:?}");
    let row = rows(1, 50, 5).remove(0);
    let same = one(&vec![row.clone(); 7], &Bootstrap::default());
    assert_close("mean", &same.mean, &row, 1e-12);
    assert_within("error", &same.std, &[0.0; 50], 1e-12);
    assert_close("low", &same.low, &row, 1e-12);
    let one_to_one = same.stability.spearman.is_some_and(|found| (found - 1.0).abs() < 1e-12);
    assert!(one_to_one && same.stability.overlap == 1.0, "{:?}", same.stability);
    // Half of three samples, rounded up, is the most that "highest" can mean.
    assert_eq!(one(&rows(5, 3, 6), &Bootstrap::default()).stability.top, 2);
}

#[test]
fn draws_come_from_the_seed() {
    let scores = rows(10, 30, 7);
    let drawn = |seed| one(&scores, &Bootstrap { seed, resamples: 100, ..Bootstrap::default() });
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1).low, drawn(2).low);
    assert_eq!(drawn(1).std, drawn(2).std);
}

#[test]
fn seeds_are_compared_pair_by_pair() {
    let sets = rows(4, 25, 8);
    let found = between(&sets, 5).expect("four sets");
    let q = 4.0_f64;
    assert_close("std", &found.std, &(0..25).map(|i| (column(&sets, i).1 * q).sqrt()).collect::<Vec<_>>(), 1e-12);
    let ends = |i: usize| sets.iter().map(move |row| row[i]);
    assert_eq!(found.low, (0..25).map(|i| ends(i).reduce(f64::min).expect("four")).collect::<Vec<_>>());
    assert_eq!(found.high, (0..25).map(|i| ends(i).reduce(f64::max).expect("four")).collect::<Vec<_>>());
    let (mut sum, mut overlap) = (0.0, 0.0);
    let best =
        |row: &[f64]| -> Vec<usize> { (0..25).filter(|&i| row.iter().filter(|s| **s > row[i]).count() < 5).collect() };
    for a in 0..4 {
        for b in 0..a {
            sum += spearman(&sets[a], &sets[b]).expect("they vary");
            let other = best(&sets[b]);
            overlap += best(&sets[a]).iter().filter(|i| other.contains(i)).count() as f64 / 5.0;
        }
    }
    let correlation = found.stability.spearman.expect("all sets vary");
    assert_close("stability", &[correlation, found.stability.overlap], &[sum / 6.0, overlap / 6.0], 1e-12);
}

/// Equal scores have no ranking; their other figures exist.
#[test]
fn pairs_without_a_correlation_are_left_out() {
    let varied = rows(2, 20, 10);
    let sets = [vec![0.0; 20], varied[0].clone(), varied[1].clone()];
    let found = between(&sets, 5).expect("three sets");
    assert_eq!(found.stability.spearman, Some(spearman(&varied[0], &varied[1]).expect("they vary")));
    assert_eq!(between(&sets[..2], 5).expect("two sets").stability.spearman, None);

    // Of five queries three say nothing: they alone are drawn once in 13 times.
    let few = [vec![0.0; 20], varied[0].clone(), vec![0.0; 20], vec![0.0; 20], varied[1].clone()];
    let found = one(&few, &Bootstrap::default());
    assert!(found.stability.spearman.is_some_and(|found| found > 0.0), "{:?}", found.stability);
    assert_close("error", &found.std, &(0..20).map(|i| column(&few, i).1.sqrt()).collect::<Vec<_>>(), 1e-12);
    let none = one(&vec![vec![0.0; 20]; 5], &Bootstrap::default());
    assert_eq!((none.stability.spearman, none.high), (None, vec![0.0; 20]));
}

#[test]
fn too_little_to_compare_is_an_error() {
    let scores = rows(5, 6, 9);
    let run = |rows: &[Vec<f64>], settings: Bootstrap| bootstrap(&[Stratum { weight: 1.0, rows }], &settings).err();
    let default = Bootstrap::default();
    let few = |what| move |e: Option<EvalError>| matches!(e, Some(EvalError::TooFew { what: w, .. }) if w == what);
    assert!(few("queries")(run(&scores[..1], default)));
    assert!(few("resamples")(run(&scores, Bootstrap { resamples: 1, ..default })));
    for found in [Bootstrap::MOST + 1, usize::MAX] {
        let expected = EvalError::TooMany { what: "resamples", found, most: Bootstrap::MOST };
        assert_eq!(run(&scores, Bootstrap { resamples: found, ..default }), Some(expected));
    }
    assert!(few("highest scores")(run(&scores, Bootstrap { top: 0, ..default })));
    assert!(few("samples")(run(&rows(5, 1, 1), default)));
    for level in [0.0, 1.0, f64::NAN] {
        assert!(matches!(run(&scores, Bootstrap { level, ..default }), Some(EvalError::Share { .. })));
    }
    let mut bad = scores.clone();
    bad[3][2] = f64::NAN;
    assert_eq!(run(&bad, default), Some(EvalError::NotANumber { index: 2 }));
    bad[3] = vec![0.0; 5];
    assert!(matches!(run(&bad, default), Some(EvalError::Length { .. })));
    assert!(few("sets of scores")(between(&scores[..1], 5).err()));
}
