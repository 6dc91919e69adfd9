//! Gradients near the ends of what f32 holds, and samples so alike that subtractions cancel: right, or an error.

use burn::tensor::{DType, Device, Tensor};
use hyperinf::curvature::{CurvatureError, Damping, Structure};
use hyperinf::gradients::{Block, Gradients};
use hyperinf::linalg::squared_norms;
use hyperinf::scoring::{CurvatureFrom, Normalisation, Options, ScoreError, attribute, methods};
use hyperinf::solvers::{DataInf, Solver};
use hyperinf_tests::compare::{assert_close, precisions, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::{Matrix, relative_damping, scores};

use crate::solvers::precise_devices;

/// One block `[n, 1, D]` of these rows in f32, and the rows as they were rounded.
fn stored(rows: &Matrix, device: &Device) -> (Gradients, Matrix) {
    let block = tensor(rows, device, DType::F32);
    let rounded = Matrix { rows: rows.rows, cols: rows.cols, values: values(block.clone()) };
    let layout = [Block::new("w", 1, rows.cols)];
    (Gradients::new(layout, vec![block.reshape([rows.rows, 1, rows.cols])]).expect("one block"), rounded)
}

/// Rows that are `weight` times one common row and noise.
fn alike(n: usize, d: usize, weight: f64, seed: u64) -> Matrix {
    let (common, noise) = (Matrix::noise(1, d, 77), Matrix::noise(n, d, seed));
    Matrix::from_fn(n, d, |i, j| weight * common.at(0, j) + noise.at(i, j))
}

fn options(name: &str) -> Options {
    Options::named(name).expect("a method")
}

/// `V Jᵀ (J Jᵀ/n + λI)⁻¹`: the scores by the inverse of the small matrix.
fn dual(v: &Matrix, j: &Matrix, lambda: f64) -> Vec<f64> {
    let n = j.rows as f64;
    let gram = j.times(&j.transpose());
    let damped = Matrix::from_fn(j.rows, j.rows, |a, b| gram.at(a, b) / n + if a == b { lambda } else { 0.0 });
    scores(v, j).times(&damped.inverse()).values
}

#[test]
fn samples_with_much_in_common_are_scored_by_every_solver() {
    for (name, device) in precise_devices() {
        let (train, j) = stored(&alike(20, 6000, 3.0, 1), &device);
        let (query, v) = stored(&alike(2, 6000, 3.0, 2), &device);
        let expected = dual(&v, &j, 1e-4 * relative_damping(&j));
        for method in ["exact", "cg", "block-cg", "lanczos", "nystrom"] {
            let options = Options { damping: Damping::Relative(1e-5), ..options(method) };
            let found = attribute(&train, &query, CurvatureFrom::Training, &options).expect("good data");
            assert!(found.blocks[0].converged() && found.blocks[0].residual < 1e-5, "{method}, {name}");
            assert_close(&format!("{method}, {name}"), &found.scores.rows.concat(), &expected, 1e-3);
        }
    }
}

/// The scores of DataInf from products of samples alone: `(⟨v, g_i⟩ − Σ_j ⟨v, g_j⟩⟨g_j, g_i⟩ / (n (λ + ||g_j||²))) / λ`.
fn datainf_scores(v: &Matrix, j: &Matrix, lambda: f64) -> Vec<f64> {
    let (n, right, gram) = (j.rows, scores(v, j), j.times(&j.transpose()));
    let weighted = Matrix::from_fn(v.rows, n, |q, i| right.at(q, i) / (n as f64 * (lambda + gram.at(i, i))));
    right.plus(-1.0, &weighted.times(&gram)).values.iter().map(|score| score / lambda).collect()
}

#[test]
fn datainf_of_samples_that_coincide_is_its_definition() {
    for (name, device) in precise_devices() {
        for (n, weight, d) in [(1, 0.0, 100_000), (6, 1e3, 20_000), (40, 3.0, 3000)] {
            let (train, j) = stored(&alike(n, d, weight, 1), &device);
            let queries = alike(2, d, weight, 2);
            // Of one sample: what it has in common with itself, and noise.
            let queries = Matrix::from_fn(2, d, |q, k| queries.at(q, k) + if n == 1 { 3.0 * j.at(0, k) } else { 0.0 });
            let (query, v) = stored(&queries, &device);
            let found = attribute(&train, &query, CurvatureFrom::Training, &options("datainf")).expect("good data");
            let expected = datainf_scores(&v, &j, relative_damping(&j));
            assert_close(&format!("{n} samples, {name}"), &found.scores.rows.concat(), &expected, 1e-4);
        }
        // Its answer is in the type that was asked for, and its residual the true one.
        let h =
            hyperinf::curvature::Curvature::from(hyperinf::curvature::Samples { rows: Tensor::ones([1, 50], &device) });
        let found = DataInf.prepare(&h, 1e-6).and_then(|inverse| inverse.apply(Tensor::ones([1, 50], &device)));
        let found = found.expect("a good problem");
        assert!(found.x.dtype() == DType::F32 && found.residual() < 1e-6, "{name}: {found:?}");
        assert_close(&name, &values(found.x), &[1.0 / (50.0 + 1e-6); 50], 1e-6);
        assert_eq!(h.structure(), Structure::Samples);
    }
}

#[test]
fn squared_norms_do_not_underflow() {
    for (name, device) in devices() {
        let rows = Matrix::noise(5, 300, 3);
        let scales = [1.0, 1e-18, 1e-25, 0.0, 1e-30];
        let rows = Matrix::from_fn(5, 300, |i, j| rows.at(i, j) * scales[i]);
        let (all, rounded) = stored(&rows, &device);
        for found in [
            all.squared_norms().expect("finite"),
            squared_norms(all.blocks[0].clone().flatten(1, 2)).expect("a good device"),
        ] {
            for (i, found) in found.into_iter().enumerate() {
                let expected: f64 = rounded.row(i).iter().map(|v| v * v).sum();
                assert!((found - expected).abs() <= 1e-5 * expected, "{name}, {i}: {found:e} for {expected:e}");
            }
        }
    }
}

#[test]
fn the_size_of_a_sample_is_no_matter_where_it_is_divided_out() {
    for (name, device) in precise_devices() {
        let rows = Matrix::noise(6, 30, 4);
        let scaled = |size: f64| Matrix::from_fn(6, 30, |i, j| rows.at(i, j) * if i == 2 { size } else { 1.0 });
        let (others, query) =
            (stored(&Matrix::noise(9, 30, 5), &device).0, stored(&Matrix::noise(2, 30, 6), &device).0);
        for normalisation in
            [Normalisation::Gradient, Normalisation::Cosine, Normalisation::LossRelatif, Normalisation::ThetaRelatif]
        {
            for method in ["identity", "exact", "hyperinf", "cg"] {
                let options = Options { normalisation, ..options(method) };
                let of = |size: f64, query: &Gradients| {
                    let found =
                        attribute(&stored(&scaled(size), &device).0, query, CurvatureFrom::Source(&others), &options);
                    found.expect("good data").scores.rows.concat()
                };
                let (expected, what) = (of(1.0, &query), format!("{method}, {normalisation:?}, {name}"));
                assert_close(&what, &of(1e-25, &query), &expected, 1e-4);
                if normalisation == Normalisation::Cosine {
                    let mut small = query.clone();
                    small.blocks[0] = small.blocks[0].clone().mul_scalar(1e-24);
                    assert_close(&what, &of(1.0, &small), &expected, 1e-4);
                }
            }
        }
    }
}

#[test]
fn small_gradients_are_scored_by_all_methods() {
    for (name, device) in precise_devices() {
        // Few samples are held; of many the matrix is.
        for n in [5, 60] {
            let (rows, queries) = (Matrix::noise(n, 20, 7), Matrix::noise(2, 20, 8));
            for info in methods().iter().filter(|info| !info.needs_captures() && info.name != "hyperinf-authors") {
                let options = options(info.name);
                for (dtype, size) in precisions(&device).into_iter().flat_map(|(t, _)| [1e-16, 1e-25].map(|s| (t, s))) {
                    let stored = |rows: &Matrix, size: f64| {
                        let rows = Matrix { values: rows.values.iter().map(|g| g * size).collect(), ..rows.clone() };
                        let block = tensor(&rows, &device, dtype).reshape([rows.rows, 4, 5]);
                        Gradients::new([Block::new("w", 4, 5)], vec![block]).expect("one block")
                    };
                    let what = format!("{}, {n} samples of {size:e}, {dtype:?} on {name}", info.name);
                    let scored = |train: f64, query: f64| {
                        let (train, query) = (stored(&rows, train), stored(&queries, query));
                        let found = attribute(&train, &query, CurvatureFrom::Training, &options);
                        found.unwrap_or_else(|e| panic!("{what}: {e}")).scores.rows.concat()
                    };
                    let expected = scored(1.0, 1.0);
                    let factor = match info.name {
                        "identity" => size * size,
                        _ => 1.0,
                    };
                    let found: Vec<f64> = scored(size, size).iter().map(|score| score / factor).collect();
                    assert_close(&what, &found, &expected, 1e-3);
                    // Damping far above the curvature leaves the dot product over it.
                    let absolute = Options { damping: Damping::Absolute(1e-3), ..options.clone() };
                    let (train, query) = (stored(&rows, size), stored(&queries, size));
                    let found = attribute(&train, &query, CurvatureFrom::Training, &absolute);
                    let found = found.unwrap_or_else(|e| panic!("{what}: {e}")).scores.rows.concat();
                    let plain = scores(&queries, &rows).values;
                    if info.has_curvature() {
                        let found: Vec<f64> = found.iter().map(|score| score * 1e-3 / (size * size)).collect();
                        assert_close(&what, &found, &plain, 1e-3);
                    }
                    // Zeros are no small gradients.
                    assert!(scored(0.0, size).iter().all(|score| *score == 0.0), "{what}");
                }
            }
        }
    }
}

#[test]
fn what_underflows_even_in_f64_is_one_error_in_all_methods_with_curvature() {
    for (name, device) in precise_devices() {
        for info in methods().iter().filter(|info| info.has_curvature() && !info.needs_captures()) {
            for n in [5, 60] {
                let stored = |n: usize, seed: u64, size: f64| {
                    let rows = Matrix::noise(n, 20, seed);
                    let rows = Matrix { values: rows.values.iter().map(|g| g * size).collect(), ..rows };
                    let block = tensor(&rows, &device, DType::F64).reshape([n, 4, 5]);
                    Gradients::new([Block::new("w", 4, 5)], vec![block]).expect("one block")
                };
                let found =
                    attribute(&stored(n, 7, 1e-150), &stored(2, 8, 1.0), CurvatureFrom::Training, &options(info.name));
                let error = found.err();
                let Some(ScoreError::Curvature(CurvatureError::TooSmall { block, mean_square, least, .. })) = &error
                else {
                    panic!("{}, {n} samples on {name}: {error:?}", info.name)
                };
                assert!(block == "w" && *mean_square > 0.0 && mean_square < least, "{}: {error:?}", info.name);
            }
        }
    }
}
