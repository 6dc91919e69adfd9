//! Figures against values worked out by hand and against their definitions.

use hyperinf::eval::{EvalError, auc, detection_rate, pearson, ranks, spearman};
use proptest::prelude::*;

#[test]
fn auc_counts_ties_as_half() {
    let marked = [true, false, true, false];
    assert_eq!(auc(&[4.0, 1.0, 3.0, 2.0], &marked), Ok(1.0));
    assert_eq!(auc(&[1.0, 4.0, 2.0, 3.0], &marked), Ok(0.0));
    assert_eq!(auc(&[1.0; 4], &marked), Ok(0.5));
    // Pairs: 2>1, 2=2 (half), 3>1, 3>2.
    assert_eq!(auc(&[2.0, 1.0, 3.0, 2.0], &marked), Ok(3.5 / 4.0));
}

#[test]
fn detection_rate_is_the_share_of_marked_samples_found() {
    let marked = [true, false, true, false, false, false, false, false, false, false];
    let suspicion = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0];
    assert_eq!(detection_rate(&suspicion, &marked, 0.1), Ok(0.5));
    assert_eq!(detection_rate(&suspicion, &marked, 0.3), Ok(1.0));
    // Without any order, a tenth of the samples holds a tenth of the marked ones.
    let found = detection_rate(&[1.0; 10], &marked, 0.1).expect("two classes");
    assert!((found - 0.1).abs() < 1e-12, "{found}");
}

#[test]
fn correlations_of_small_series() {
    assert_eq!(ranks(&[10.0, 20.0, 10.0, 5.0]), [2.5, 4.0, 2.5, 1.0]);
    let (x, y) = ([1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 16.0]);
    let near = |found: Result<f64, EvalError>, expected: f64| (found.expect("varies") - expected).abs() < 1e-12;
    assert!(near(spearman(&x, &y), 1.0));
    // By hand: 25 / √(5 · 129).
    let expected = 25.0 / (5.0_f64 * 129.0).sqrt();
    assert!(near(pearson(&x, &y), expected));
    let down: Vec<f64> = y.iter().map(|v| -v).collect();
    assert!(near(spearman(&x, &down), -1.0));
    // Three times .1 is not .3: equal all the same.
    for same in [vec![0.1; 3], vec![0.7; 10]] {
        let varying: Vec<f64> = (0..same.len()).map(|i| i as f64).collect();
        assert!(matches!(pearson(&same, &same), Err(EvalError::Constant { .. })), "{same:?}");
        assert!(matches!(pearson(&varying, &same), Err(EvalError::Constant { .. })), "{same:?}");
    }
    // Squares, and a sum, that would over- or underflow.
    let scaled = |s: f64| y.map(|v| v * s);
    for s in [1e-300, 1e-150, 1e150, 1e160, 1e307] {
        assert!((pearson(&x, &scaled(s)).expect("varies") - expected).abs() < 1e-9, "{s}");
    }
}

#[test]
fn figures_that_do_not_exist_are_errors() {
    assert_eq!(auc(&[1.0], &[true, false]), Err(EvalError::Length { left: 1, right: 2 }));
    assert_eq!(auc(&[1.0, f64::NAN], &[true, false]), Err(EvalError::NotANumber { index: 1 }));
    assert_eq!(auc(&[1.0, 2.0], &[true, true]), Err(EvalError::OneClass { positives: 2, total: 2 }));
    assert_eq!(auc(&[], &[]), Err(EvalError::OneClass { positives: 0, total: 0 }));
    assert_eq!(detection_rate(&[1.0, 2.0], &[true, false], 0.0), Err(EvalError::Share { value: 0.0 }));
    assert_eq!(pearson(&[1.0, 1.0], &[1.0, 2.0]), Err(EvalError::Constant { count: 2 }));
    assert_eq!(spearman::<f64, f64>(&[], &[]), Err(EvalError::Constant { count: 0 }));
}

proptest! {
    #[test]
    fn auc_is_the_share_of_pairs_in_order(data in prop::collection::vec((0..6_u8, any::<bool>()), 2..40)) {
        let suspicion: Vec<f64> = data.iter().map(|(s, _)| f64::from(*s)).collect();
        let marked: Vec<bool> = data.iter().map(|(_, m)| *m).collect();
        let pairs: Vec<f64> = (0..data.len())
            .flat_map(|i| (0..data.len()).map(move |j| (i, j)))
            .filter(|&(i, j)| marked[i] && !marked[j])
            .map(|(i, j)| match suspicion[i].total_cmp(&suspicion[j]) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            })
            .collect();
        match auc(&suspicion, &marked) {
            Ok(found) => prop_assert!((found - pairs.iter().sum::<f64>() / pairs.len() as f64).abs() < 1e-12),
            Err(error) => prop_assert!(pairs.is_empty(), "{error}"),
        }
    }

    #[test]
    fn monotone_maps_keep_spearman(x in prop::collection::vec(-5.0..5.0_f64, 3..30), seed in any::<u64>()) {
        let y: Vec<f64> = (0..x.len()).map(|i| ((seed >> (i % 60)) & 7) as f64).collect();
        let mapped: Vec<f64> = x.iter().map(|v| v.exp()).collect();
        prop_assert_eq!(spearman(&x, &y), spearman(&mapped, &y));
    }
}
