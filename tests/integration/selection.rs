//! Selections: rules, diversity, several targets; against the definitions in f64.

use burn::tensor::{DType, Device};
use hyperinf::gradients::{Block, Gradients};
use hyperinf::scoring::{
    Amount, Budget, CurvatureFrom, Options, Over, Passed, Products, RankBy, Rules, ScoreError, Scores, choose,
    choose_diverse, products,
};
use hyperinf_tests::compare::{assert_close, tensor};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::{Contracted, Matrix, datainf, exact, fisher, gfim, relative_damping, scores};

/// The choice by the score.
fn plain(scores: &[f64], rules: &Rules<'_>) -> Vec<usize> {
    choose(scores, RankBy::Score, rules).expect("the rules fit").order
}

fn rows(count: usize) -> Budget {
    Budget::Samples(Amount::Count(count))
}

#[test]
fn rules_pass_rows_over() {
    let scores = [5.0, 4.0, 3.0, 2.0, 1.0, 0.0];
    let all = Rules::default();
    assert_eq!(plain(&scores, &all), [0, 1, 2, 3, 4, 5]);
    assert_eq!(plain(&scores, &Rules { budget: rows(2), ..all }), [0, 1]);
    assert_eq!(plain(&scores, &Rules { budget: Budget::Samples(Amount::Share(0.5)), ..all }), [0, 1, 2]);
    let lengths = [4, 3, 9, 2, 1, 1];
    let within = |length| plain(&scores, &Rules { budget: Budget::Length(length), lengths: &lengths, ..all });
    assert_eq!(within(9), [0, 1, 3]);
    assert_eq!(within(8), [0, 1, 4], "what does not fit is passed over, and shorter rows after it are taken");
    assert_eq!(within(2), [3]);
    assert_eq!(within(100), [0, 1, 2, 3, 4, 5]);
    let copies = [7, 7, 8, 7, 8, 9];
    assert_eq!(plain(&scores, &Rules { copies: Some(&copies), ..all }), [0, 2, 5]);
    let groups = [1, 1, 1, 0, 0, 2];
    assert_eq!(plain(&scores, &Rules { groups: Some((&groups, 2)), budget: rows(4), ..all }), [0, 1, 3, 4]);
    let both = Rules { groups: Some((&groups, 1)), copies: Some(&copies), ..all };
    let found = choose(&scores, RankBy::Score, &both).expect("the rules fit");
    assert_eq!(found.order, [0, 4, 5]);
    assert_eq!(found.passed, Passed { copies: 2, groups: 1, ..Passed::default() });
    assert_eq!(found.gains, [5.0, 1.0, 0.0]);
    let by_size = choose(&[1.0, -3.0, 2.0], RankBy::Magnitude, &Rules { budget: rows(2), ..all });
    assert_eq!(by_size.expect("the rules fit").order, [1, 2]);
    let error = choose(&scores, RankBy::Score, &Rules { budget: rows(7), ..all }).expect_err("there are six");
    assert!(matches!(error, ScoreError::Amount { .. }), "{error}");
}

#[test]
fn near_rows_are_chosen_once() {
    let cosine = |i: usize, j: usize| {
        if i == j {
            1.0
        } else if i + j == 1 {
            0.95
        } else {
            0.1
        }
    };
    let cosines = matrix_of(4, cosine);
    let scores = [4.0, 3.0, 2.0, 1.0];
    let near = |limit| plain(&scores, &Rules { near: Some((&cosines, limit)), ..Rules::default() });
    assert_eq!(near(0.9), [0, 2, 3]);
    assert_eq!(near(0.96), [0, 1, 2, 3]);
    assert_eq!(near(0.1), [0]);
    // A pool of two rows, of which one is passed over.
    let small = Products::new(&[0, 1], &Scores { rows: vec![vec![1.0, 0.95], vec![0.95, 1.0]] });
    let rules = Rules { near: Some((&small, 0.9)), budget: rows(2), ..Rules::default() };
    let error = choose(&scores, RankBy::Score, &rules).expect_err("the pool ends");
    assert!(matches!(error, ScoreError::Pool { pool: 2, chosen: 1, wanted: 2 }), "{error}");
}

fn matrix_of(m: usize, value: impl Fn(usize, usize) -> f64) -> Products {
    let rows = (0..m).map(|i| (0..m).map(|j| value(i, j)).collect()).collect();
    Products::new(&(0..m).collect::<Vec<_>>(), &Scores { rows })
}

/// The objective by its definition.
fn objective(order: &[usize], s: &[f64], k: &Matrix, step: f64) -> f64 {
    let pairs = order.iter().flat_map(|&i| order.iter().map(move |&j| (i, j)));
    order.iter().map(|&i| s[i]).sum::<f64>() - 0.5 * step * pairs.map(|(i, j)| k.at(i, j)).sum::<f64>()
}

/// The reduction at the best step, by its definition.
fn reduction(order: &[usize], s: &[f64], k: &Matrix) -> (f64, f64) {
    let sum: f64 = order.iter().map(|&i| s[i]).sum();
    let pairs: f64 = order.iter().flat_map(|&i| order.iter().map(move |&j| (i, j))).map(|(i, j)| k.at(i, j)).sum();
    (sum / pairs, sum * sum / (2.0 * pairs))
}

/// Greedy maximisation that computes the objective of every candidate from nothing.
fn slow_greedy(count: usize, s: &[f64], k: &Matrix, step: f64) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    for _ in 0..count {
        let with = |j: usize| objective(&[&order[..], &[j]].concat(), s, k, step);
        let left: Vec<usize> = (0..s.len()).filter(|j| !order.contains(j)).collect();
        let best = left.into_iter().reduce(|best, j| if with(j) > with(best) { j } else { best });
        order.push(best.expect("there are enough"));
    }
    order
}

/// The choice by the documented rounds.
fn slow(count: usize, s: &[f64], k: &Matrix) -> (Vec<usize>, f64) {
    let mut best: Vec<usize> = (0..s.len()).collect();
    best.sort_by(|&a, &b| s[b].total_cmp(&s[a]));
    best.truncate(count);
    let mut used = reduction(&best, s, k).0;
    for _ in 0..6 {
        let step = reduction(&best, s, k).0;
        let found = slow_greedy(count, s, k, step);
        if found == best || reduction(&found, s, k).1 <= reduction(&best, s, k).1 {
            break;
        }
        (best, used) = (found, step);
    }
    (best, used)
}

#[test]
fn diverse_choices_are_greedy_by_the_objective() {
    let mut differ = 0;
    for seed in 0..40 {
        let (n, count) = (12, 1 + seed as usize % 6);
        let g = Matrix::noise(n, 4, seed);
        let v = Matrix::noise(1, 4, 1000 + seed);
        let k = g.times(&g.transpose());
        let s: Vec<f64> = v.times(&g.transpose()).values.iter().map(|score| score + 0.5).collect();
        let between = matrix_of(n, |i, j| k.at(i, j));
        let rules = Rules { budget: rows(count), ..Rules::default() };
        let found = choose_diverse(&s, &between, 1.0, &rules).expect("the rules fit");
        let (expected, step) = slow(count, &s, &k);
        assert_eq!(found.order, expected, "seed {seed}");
        assert_close("step", &[found.step.expect("a step")], &[step], 1e-12);
        let gain = |at: usize| objective(&expected[..=at], &s, &k, step) - objective(&expected[..at], &s, &k, step);
        assert_close("gains", &found.gains, &(0..count).map(gain).collect::<Vec<_>>(), 1e-9);
        let top = plain(&s, &rules);
        assert!(reduction(&found.order, &s, &k).1 >= reduction(&top, &s, &k).1);
        differ += usize::from(found.order != top);
        // Neither the scale of the scores nor that of the products matters.
        let scaled: Vec<f64> = s.iter().map(|score| 3e4 * score).collect();
        let again = choose_diverse(&scaled, &matrix_of(n, |i, j| 7e-5 * k.at(i, j)), 1.0, &rules).expect("as before");
        assert_eq!(again.order, found.order, "seed {seed}");
        let none = choose_diverse(&s, &between, 0.0, &rules).expect("the rules fit");
        assert_eq!(none.order, top, "without interaction it is the plain choice");
    }
    assert!(differ > 10, "{differ} of 40 differ from the plain choice");
}

#[test]
fn copies_give_way_to_other_helpful_rows() {
    // Rows 0, 1 and 2 are one direction, 3 and 4 two others, 5 harms.
    let groups = [0, 0, 0, 1, 2, 3];
    let between = matrix_of(6, |i, j| f64::from(u8::from(groups[i] == groups[j])));
    let scores = [1.0, 1.0, 1.0, 0.9, 0.8, -1.0];
    let chosen = |count, rules: Rules<'_>| {
        choose_diverse(&scores, &between, 1.0, &Rules { budget: rows(count), ..rules }).expect("they fit").order
    };
    assert_eq!(chosen(3, Rules::default()), [0, 3, 4]);
    assert_eq!(chosen(2, Rules { groups: Some((&[0, 1, 1, 0, 2, 2], 1)), ..Rules::default() }), [0, 4]);
    // Scores that sum to no good have no step.
    let harmful = scores.map(|score| score - 2.0);
    let found = choose_diverse(&harmful, &between, 1.0, &Rules { budget: rows(3), ..Rules::default() });
    let found = found.expect("they fit");
    assert_eq!((found.order, found.step), (vec![0, 1, 2], Some(0.0)));
    for strength in [-1.0, f64::NAN, f64::INFINITY] {
        let error = choose_diverse(&scores, &between, strength, &Rules::default()).expect_err("out of range");
        assert!(matches!(error, ScoreError::Amount { .. }), "{error}");
    }
    let pool = Products::new(&[0, 3], &Scores { rows: vec![vec![1.0, 0.0], vec![0.0, 1.0]] });
    let error = choose_diverse(&scores, &pool, 1.0, &Rules { budget: rows(3), ..Rules::default() });
    assert!(matches!(error, Err(ScoreError::Pool { pool: 2, chosen: 2, wanted: 3 })), "{error:?}");
}

#[test]
fn targets_count_alike() {
    let (small, large) = (vec![1.0, -1.0, 2.0, 0.0], vec![-100.0, 100.0, 300.0, 50.0]);
    let over = |over: Over| over.combine(&[small.clone(), large.clone()]).expect("they fit");
    let scale = |row: &[f64]| (row.iter().map(|score| score * score).sum::<f64>() / 4.0).sqrt();
    let [a, b] = [&small, &large].map(|row| row.iter().map(|score| score / scale(row)).collect::<Vec<f64>>());
    let each = |of: fn(f64, f64) -> f64| a.iter().zip(&b).map(|(a, b)| of(*a, *b)).collect::<Vec<_>>();
    assert_close("mean", &over(Over::Mean), &each(|a, b| 0.5 * (a + b)), 1e-12);
    assert_close("max", &over(Over::Max), &each(f64::max), 1e-12);
    assert_close("worst", &over(Over::Worst), &each(f64::min), 1e-12);
    assert_eq!(Over::Worst.combine(std::slice::from_ref(&small)).expect("one"), small, "one target stays as it is");
    assert_eq!(Over::Mean.combine(&[vec![0.0, 0.0], vec![1e-200, -1e-200]]).expect("they fit"), [0.5, -0.5]);
    assert!(Over::Mean.combine(&[]).is_err());
    assert!(Over::Mean.combine(&[vec![1.0], vec![1.0, 2.0]]).is_err());
}

const SHAPES: [(usize, usize); 2] = [(3, 5), (4, 2)];

fn stored(parts: &[Matrix], device: &Device) -> Gradients {
    let layout: Vec<Block> =
        SHAPES.iter().enumerate().map(|(l, (r, c))| Block::new(format!("layer.{l}"), *r, *c)).collect();
    let blocks = parts.iter().zip(SHAPES);
    let blocks = blocks.map(|(m, (r, c))| tensor(m, device, DType::F32).reshape([m.rows, r, c])).collect();
    Gradients::new(layout, blocks).expect("shapes agree")
}

/// `g (H + λI)⁻¹ gᵀ` of some rows, summed over the blocks, by the definitions.
fn slow_products(name: &str, train: &[Matrix], picked: &[usize]) -> Matrix {
    let parts = train.iter().zip(SHAPES).map(|(j, (r, c))| {
        let lambda = relative_damping(j);
        let g = Matrix::from_fn(picked.len(), j.cols, |i, k| j.at(picked[i], k));
        let contracted = if r < c { Contracted::Rows } else { Contracted::Cols };
        let x = match name {
            "identity" => g.clone(),
            "datainf" => datainf(j, lambda, &g),
            "hyperinf" => exact(&gfim(j, r, c, contracted, true), lambda, &g),
            _ => exact(&fisher(j), lambda, &g),
        };
        scores(&x, &g)
    });
    parts.reduce(|a, b| a.plus(1.0, &b)).expect("two blocks")
}

#[test]
fn products_use_the_curvature_of_all_rows() {
    let picked = [0, 3, 4, 11, 19];
    let parts: Vec<Matrix> =
        SHAPES.iter().enumerate().map(|(l, (r, c))| Matrix::noise(20, r * c, 5 + l as u64)).collect();
    for (device_name, device) in devices() {
        let train = stored(&parts, &device);
        for name in ["identity", "datainf", "hyperinf", "exact"] {
            let options = Options::named(name).expect("a method");
            let found = products(&train, &picked, CurvatureFrom::Training, &options).expect("they fit");
            let found: Vec<f64> = (0..25).map(|k| found.at(k / 5, k % 5)).collect();
            let expected = slow_products(name, &parts, &picked).values;
            assert_close(&format!("{name}, {device_name}"), &found, &expected, 1e-4);
        }
        let cosine = products(&train, &picked, CurvatureFrom::Training, &Options::named("cosine").expect("a method"));
        let (cosine, k) = (cosine.expect("they fit"), slow_products("identity", &parts, &picked));
        let expected = |i: usize, j: usize| k.at(i, j) / (k.at(i, i) * k.at(j, j)).sqrt();
        let pairs: Vec<(f64, f64)> = (0..25).map(|p| (cosine.at(p / 5, p % 5), expected(p / 5, p % 5))).collect();
        let (found, expected): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        assert_close("cosines", &found, &expected, 1e-5);
    }
}
