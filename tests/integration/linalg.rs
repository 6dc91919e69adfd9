//! Random numbers, the Nyström approximation and statistics on their own.

use burn::tensor::DType;
use hyperinf::linalg::{RandomRows, normals, pearson, quantile, ranks, seeded_normals, spearman, standard_error};
use hyperinf_tests::compare::{assert_close, matrix};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

/// Radius 1 and an angle of a quarter turn: `√(−2 ln e^-½) = 1`.
#[test]
fn a_normal_pair_is_box_and_mullers() {
    let uniform = [1.0 - (-0.5_f64).exp(), 0.25];
    let mut next = uniform.iter().copied().cycle();
    let found = normals(3, || next.next().expect("it repeats"));
    assert_close("one pair and a half", &found, &[0.0, 1.0, 0.0], 1e-15);
}

#[test]
fn seeded_normals_are_normal_and_nested() {
    let many = seeded_normals(20_000, 7);
    assert_eq!(many[..5], seeded_normals(5, 7), "more of a seed begin with the same numbers");
    assert_ne!(many[..5], seeded_normals(5, 8));
    let moment = |power: i32| many.iter().map(|v| v.powi(power)).sum::<f64>() / many.len() as f64;
    assert!(moment(1).abs() < 0.03, "{}", moment(1));
    assert!((moment(2) - 1.0).abs() < 0.05 && (moment(4) - 3.0).abs() < 0.3, "{} {}", moment(2), moment(4));
}

#[test]
fn random_rows_are_orthonormal_and_nested() {
    for (name, device) in devices() {
        let rows = |l| matrix(RandomRows::draw([l, 12], 5).tensor(&device, DType::F32));
        let five = rows(5);
        assert_close(&name, &five.times(&five.transpose()).values, &Matrix::identity(5).values, 1e-6);
        // What three rows span lies in the span of five: projecting onto it changes nothing.
        let three = rows(3);
        let projected = three.times(&five.transpose()).times(&five);
        assert_close(&name, &projected.values, &three.values, 1e-5);
    }
}

#[test]
fn statistics_of_f32_are_those_of_their_values_in_f64() {
    let x: Vec<f32> = Matrix::noise(1, 40, 1).values.iter().map(|v| *v as f32).collect();
    let mut y: Vec<f32> = Matrix::noise(1, 40, 2).values.iter().map(|v| *v as f32).collect();
    y[3] = y[7];
    let wide = |v: &[f32]| -> Vec<f64> { v.iter().map(|v| f64::from(*v)).collect() };
    let (wide_x, wide_y) = (wide(&x), wide(&y));
    assert_eq!(pearson(&x, &y), pearson(&wide_x, &wide_y));
    assert_eq!(pearson(&x, &wide_y), pearson(&wide_x, &wide_y));
    assert_eq!(spearman(&x, &y), spearman(&wide_x, &wide_y));
    assert_eq!(ranks(&y), ranks(&wide_y));
    assert_eq!(standard_error(&x), standard_error(&wide_x));
    assert_eq!(quantile(&[1.0_f32, 2.0, 4.0], 0.75), 3.0);
}
