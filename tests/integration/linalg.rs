//! Random numbers, the Nyström approximation and statistics on their own.

use burn::tensor::DType;
use hyperinf::linalg::{
    Cholesky, RandomRows, combine_precise, dots_precise, gram_precise, normals, outer_precise, pearson, quantile,
    ranks, seeded_normals, spearman, standard_error, symmetric_eigen,
};
use hyperinf_tests::compare::{assert_close, assert_within, matrix, tensor, values};
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

/// Columns fall from 1 to 1e-4, so that the Gram matrix has a condition of 1e8 and more: what is lost is lost of the
/// large numbers, and must not reach the small ones. Sums of products of f32 in f64 are off by f64's rounding alone.
#[test]
fn products_of_f32_have_the_digits_of_f64() {
    for (name, device) in devices().into_iter().filter(|(_, device)| device.supports_dtype(DType::F64)) {
        for [n, d] in [[1, 1], [3, 200], [200, 3], [67, 300], [300, 67], [130, 20_000], [5000, 65]] {
            let noise = Matrix::noise(n, d, 9);
            let fallen = Matrix::from_fn(n, d, |i, j| noise.at(i, j) * 1e-4_f64.powf(j as f64 / d as f64));
            let rows = tensor(&fallen, &device, DType::F32);
            // As the rows were rounded.
            let exact = matrix(rows.clone().cast(DType::F64));
            let squares =
                |m: &Matrix| -> Vec<f64> { (0..m.rows).map(|i| m.row(i).iter().map(|v| v * v).sum()).collect() };
            // The oracle adds up its terms one after the other.
            let rounding = (20.0 + 2.0 * (n.max(d) as f64).sqrt()) * f64::EPSILON;
            let check = |what: &str, found: &Matrix, expected: &Matrix, left: &[f64], right: &[f64]| {
                assert_eq!((found.rows, found.cols), (expected.rows, expected.cols), "{what}");
                for (i, left) in left.iter().enumerate() {
                    for (j, right) in right.iter().enumerate() {
                        // Cauchy and Schwarz bound the sum of the magnitudes.
                        let bound = rounding * (left * right).sqrt();
                        let what = format!("{what} of {n} × {d} at {i}, {j}, {name}");
                        assert_within(&what, &[found.at(i, j)], &[expected.at(i, j)], bound);
                    }
                }
            };
            let (of_rows, of_cols) = (squares(&exact), squares(&exact.transpose()));
            if n <= 300 {
                let gram = exact.times(&exact.transpose());
                check("gram", &matrix(gram_precise(rows.clone())), &gram, &of_rows, &of_rows);
            }
            if d <= 300 {
                let outer = exact.transpose().times(&exact);
                check("outer", &matrix(outer_precise(rows.clone())), &outer, &of_cols, &of_cols);
            }
            for q in [1, 2, 7] {
                let (x, c) = (Matrix::noise(q, d, 4), Matrix::noise(q, n, 5));
                let on = |m: &Matrix| tensor(m, &device, DType::F64);
                let products = matrix(dots_precise(on(&x), rows.clone()));
                check("products", &products, &x.times(&exact.transpose()), &squares(&x), &of_rows);
                let sums = matrix(combine_precise(on(&c), rows.clone()));
                check("sums", &sums, &c.times(&exact), &squares(&c), &of_cols);
            }
        }
        let none = tensor(&Matrix::noise(0, 70, 1), &device, DType::F32);
        assert_eq!(values(outer_precise(none.clone())), vec![0.0; 70 * 70], "{name}");
        assert_eq!(gram_precise(none).dims(), [0, 0], "{name}");
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

/// faer splits some sums into as many parts as there are threads; ours into as many on every machine.
#[test]
fn the_number_of_threads_changes_no_decomposition() {
    let square = |size: usize| {
        let rows = Matrix::noise(size, 3, 1);
        let mut matrix = rows.times(&rows.transpose());
        (0..size).for_each(|i| matrix.values[i * size + i] += 0.1);
        matrix.values
    };
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let (large, medium) = (square(600), square(450));
    let product = Matrix::noise(64, 1000, 2).values;
    let found = || {
        let cholesky = Cholesky::new(large.clone(), 600, 0.0).expect("it is positive definite");
        let one = seeded_normals(600, 3);
        let mut solved = one.clone();
        cholesky.solve(&mut solved);
        let (values, vectors) = symmetric_eigen(&medium, 450).expect("it is finite");
        let vectors: Vec<f64> = (0..450).flat_map(|j| vectors.col_as_slice(j).to_vec()).collect();
        let random = RandomRows::draw([64, 1000], 5);
        // Ω H for a diagonal H.
        let diagonal: Vec<f64> = product[..1000].iter().map(|value| value * value + 1e-3).collect();
        let rows = values_of(&random);
        let rows: Vec<f64> = rows.iter().enumerate().map(|(at, value)| value * diagonal[at % 1000]).collect();
        let pairs = random.nystrom(&rows, 8, [1e-10, 1e-2]).expect("it is positive semi-definite");
        [cholesky.residual(&solved, &one), solved, values, vectors, rows, pairs.values, pairs.vectors].map(|v| bits(&v))
    };
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
        pool.install(found)
    };
    let expected = with(1);
    for threads in [2, 3, 7] {
        assert!(with(threads) == expected, "{threads} threads");
    }
}

fn values_of(rows: &RandomRows) -> Vec<f64> {
    let (_, device) = devices().remove(0);
    matrix(rows.tensor(&device, DType::F64)).values
}
