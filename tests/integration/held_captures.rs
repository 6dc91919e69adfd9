//! Samples that a curvature holds as captures, and captures that are kept from one pass to the next.

use std::cell::Cell;
use std::env::{current_exe, var_os};
use std::process::Command;

use burn::tensor::{DType, Device, Tensor};
use hyperinf::curvature::{Accumulator, Curvature, Samples, Storage};
use hyperinf::gradients::{Block, Capture, Gradients};
use hyperinf::scoring::{
    Batch, CurvatureFrom, Method, Normalisation, Options, QueryMode, ScoreError, Source, attribute, self_influence,
};
use hyperinf::solvers::{Exact, SpectralSolver, solvers};
use hyperinf_tests::compare::{assert_close, matrix, precisions, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

use crate::captured::Captured;
use crate::kronecker::Layer;

/// Batches of one block of 20 × 30 parameters, of these numbers of samples and positions.
fn held(sizes: &[[usize; 2]], device: &Device, dtype: DType) -> (Curvature, Curvature) {
    let mut sum = Accumulator::new(Block::new("layer", 20, 30), Storage::Samples).expect("a valid storage");
    let mut rows = Vec::new();
    for (seed, &[n, t]) in sizes.iter().enumerate() {
        let capture = Layer::noise([n, t, 20, 30], seed as u64).capture(device, dtype);
        rows.push(capture.gradients().flatten::<2>(1, 2));
        sum.add_capture(&capture).expect("it is finite");
    }
    let found = sum.finish().expect("there are samples").curvature;
    (found, Samples { rows: Tensor::cat(rows, 0) }.into())
}

/// Of one position, of few, of so many that gradients are smaller, and mixtures.
const SIZES: [&[[usize; 2]]; 4] = [&[[6, 1]], &[[5, 1], [3, 1]], &[[4, 2], [3, 5]], &[[4, 1], [2, 9], [3, 3]]];

#[test]
fn every_solver_gives_the_same_for_captures_and_for_rows() {
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            for (sizes, q) in SIZES.into_iter().flat_map(|sizes| [(sizes, 1), (sizes, 3), (sizes, 40)]) {
                let (found, expected) = held(sizes, &device, dtype);
                assert!(matches!(found, Curvature::Captured(_)), "{sizes:?} are held as captures");
                let v = tensor(&Matrix::noise(q, 600, 77), &device, dtype);
                let lambda = 0.3 * expected.trace().expect("a device") / 600.0;
                let all = solvers().into_iter().filter(|solver| solver.supports(expected.structure()));
                for solver in all {
                    let what = format!("{}, {sizes:?}, {q} rows, {name}, {dtype:?}", solver.name());
                    let solve = |h: &Curvature| {
                        let inverse = solver.prepare(h, lambda).and_then(|inverse| inverse.apply(v.clone()));
                        inverse.unwrap_or_else(|error| panic!("{what}: {error}"))
                    };
                    let (found, expected) = (solve(&found), solve(&expected));
                    // Those that stop at a residual, or draw, stop elsewhere.
                    let tolerance = match solver.name() {
                        "datainf" | "exact" | "spectral" | "identity" | "auto" => 1e4 * epsilon,
                        _ => 5e-3_f64.max(1e4 * epsilon),
                    };
                    assert_close(&what, &values(found.x), &values(expected.x), tolerance);
                    if let (Some(found), Some(expected)) = (found.products, expected.products) {
                        assert_close(&what, &values(found), &values(expected), tolerance);
                    }
                    // Those of the others are rounding, or near a tolerance.
                    if matches!(solver.name(), "datainf" | "identity") {
                        assert_close(&what, &found.residuals, &expected.residuals, 1e-3);
                    }
                }
            }
        }
    }
}

#[test]
fn captures_are_scaled_as_their_rows() {
    let (_, device) = devices().remove(0);
    for exponent in [-7, 40] {
        let (found, expected) = held(SIZES[3], &device, DType::F32);
        let [found, expected] = [found, expected].map(|h| values(h.scaled(exponent).diagonal()));
        assert_close("diagonal", &found, &expected, 1e-5);
    }
}

#[test]
fn gradients_that_are_smaller_are_held_as_rows() {
    let (_, device) = devices().remove(0);
    let (found, _) = held(&[[3, 9], [2, 30]], &device, DType::F32);
    assert!(matches!(found, Curvature::Samples(_)));
}

/// Scores, self-influence and RelatIF from held captures by the solvers that hold samples.
#[test]
fn held_captures_score_as_their_gradients() {
    let (_, device) = devices().remove(0);
    let sets = |dtype| {
        let set = |sizes: &[[usize; 2]], seed: u64| {
            let batch = |(part, &[n, t]): (usize, &[usize; 2])| {
                vec![Layer::noise([n, t, 20, 30], seed + part as u64).capture(&device, dtype)]
            };
            Captured(sizes.iter().enumerate().map(batch).collect())
        };
        (set(SIZES[3], 40), set(&[[2, 1], [1, 4]], 50))
    };
    let own = |method| Options { method, ..Options::default() };
    let all = [
        Options::named("datainf").expect("a method"),
        own(Method::inverse(Storage::Samples, Exact)),
        own(Method::inverse(Storage::Samples, SpectralSolver)),
    ];
    for (dtype, epsilon) in precisions(&device) {
        let (train, query) = sets(dtype);
        let (j, v) = (train.gradients(), query.gradients());
        for (number, options) in all.iter().enumerate() {
            for (query_mode, normalisation) in [
                (QueryMode::Mean, Normalisation::None),
                (QueryMode::Each, Normalisation::Cosine),
                (QueryMode::Each, Normalisation::Gradient),
                (QueryMode::Mean, Normalisation::LossRelatif),
                (QueryMode::Each, Normalisation::ThetaRelatif),
            ] {
                let options = Options { query: query_mode, normalisation, ..options.clone() };
                let found = attribute(&train, &query, CurvatureFrom::Training, &options).expect("good data");
                let expected = attribute(&j, &v, CurvatureFrom::Training, &options).expect("good data");
                let what = format!("method {number}, {query_mode:?}, {normalisation:?}, {dtype:?}");
                assert_close(&what, &found.scores.rows.concat(), &expected.scores.rows.concat(), 1e4 * epsilon);
            }
            let found = self_influence(&train, CurvatureFrom::Training, options).expect("good data");
            let expected = self_influence(&j, CurvatureFrom::Training, options).expect("good data");
            assert_close("self-influence", &found.values, &expected.values, 1e4 * epsilon);
        }
    }
}

/// `X = (V − Σ c_i u_i/n)/λ` of layers whose gradients, 26 GB, no test holds.
#[test]
fn datainf_of_a_large_layer_needs_no_gradients() {
    const SIDE: usize = 4000;
    const N: usize = 400;
    let (_, device) = devices().remove(0);
    let side = |n, seed| tensor(&Matrix::noise(n, SIDE, seed), &device, DType::F32).reshape([n, 1, SIDE]);
    let capture =
        |n, seed| Capture { block: Block::new("large", SIDE, SIDE), input: side(n, seed), delta: side(n, seed + 1) };
    let (train, query) = (Captured(vec![vec![capture(N, 1)]]), Captured(vec![vec![capture(1, 7)]]));
    let options = Options { query: QueryMode::Mean, ..Options::named("datainf").expect("a method") };
    let found = attribute(&train, &query, CurvatureFrom::Training, &options).expect("good data");
    // K_ij = (a_i·a_j)(δ_i·δ_j), and the same with the query.
    let sides = |capture: &Capture| {
        [&capture.input, &capture.delta].map(|side| matrix(side.clone().reshape([side.dims()[0], SIDE])))
    };
    let ([a, delta], [b, epsilon]) = (sides(&train.0[0][0]), sides(&query.0[0][0]));
    let products = |x: &Matrix, y: &Matrix| x.times(&y.transpose());
    let hadamard = |x: Matrix, y: Matrix| Matrix::from_fn(x.rows, x.cols, |i, j| x.at(i, j) * y.at(i, j));
    let gram = hadamard(products(&a, &a), products(&delta, &delta));
    let dots = hadamard(products(&b, &a), products(&epsilon, &delta));
    let lambda = 0.1 * gram.trace() / (N * SIDE * SIDE) as f64;
    let c: Vec<f64> = (0..N).map(|i| dots.at(0, i) / (lambda + gram.at(i, i)) / N as f64).collect();
    let expected: Vec<f64> =
        (0..N).map(|i| (dots.at(0, i) - (0..N).map(|j| c[j] * gram.at(i, j)).sum::<f64>()) / lambda).collect();
    assert_close("scores", &found.scores.rows[0], &expected, 1e-4);
}

/// A batch that is visited several times in a pass, and the passes.
struct Counted {
    batch: Batch,
    times: usize,
    passes: Cell<usize>,
}

impl Source for Counted {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.passes.set(self.passes.get() + 1);
        (0..self.times).try_for_each(|_| visit(self.batch.clone()))
    }
}

#[test]
fn captures_that_fit_are_computed_once() {
    let (_, device) = devices().remove(0);
    // 5 MiB, of which 256 MiB hold 51.
    let layer = Layer::noise([20_000, 1, 1, 64], 3).capture(&device, DType::F32);
    let query = Captured(vec![vec![Layer::noise([1, 1, 1, 64], 4).capture(&device, DType::F32)]]);
    let gradients = Gradients::new([layer.block.clone()], vec![layer.gradients()]).expect("one layout");
    for (method, times, captured, expected) in [
        ("identity", 2, true, 1),
        ("diagonal", 2, true, 1),
        ("diagonal", 60, true, 2),
        ("diagonal", 2, false, 2),
        ("ekfac", 2, true, 1),
        ("ekfac", 60, true, 3),
        ("datainf", 2, true, 1),
    ] {
        let batch = if captured { vec![layer.clone()].into() } else { gradients.clone().into() };
        let train = Counted { batch, times, passes: Cell::new(0) };
        let options = Options::named(method).expect("a method");
        let found = attribute(&train, &query, CurvatureFrom::Training, &options).expect("good data");
        assert_eq!(train.passes.get(), expected, "{method}, {times} batches, captures: {captured}");
        assert_eq!(found.scores.samples(), times * 20_000);
        // Every batch is the same, whichever pass it came from.
        let row = &found.scores.rows[0];
        assert_eq!(row[..20_000], row[row.len() - 20_000..], "{method}");
    }
}

/// The variable with which this test runs itself.
const BITS: &str = "HYPERINF_TEST_BITS";

/// Scores of rows in f32 and of captures have the same bits on any number of threads: products, sums, Gram matrices and
/// Cholesky factors do. Methods with eigenvectors (`shampoo`) are left out: there 1 and 2 threads differ by 1e-15.
#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    if var_os(BITS).is_some() {
        let (_, device) = devices().remove(0);
        let set = |n: usize, seed: u64| {
            let layer = |[t, rows, cols]: [usize; 3]| {
                let capture = Layer::noise([n, t, rows, cols], seed).capture(&device, DType::F32);
                Capture { block: Block::new(format!("{t}x{rows}x{cols}"), rows, cols), ..capture }
            };
            vec![[1, 90, 70], [3, 40, 80], [1, 300, 2]].into_iter().map(layer).collect::<Vec<_>>()
        };
        let (train, query) = (Captured(vec![set(150, 1), set(131, 2)]), Captured(vec![set(3, 3)]));
        let (j, v) = (train.gradients(), query.gradients());
        for name in ["identity", "datainf", "lissa", "exact", "hyperinf", "cg"] {
            for query_mode in [QueryMode::Mean, QueryMode::Each] {
                let options = Options { query: query_mode, ..Options::named(name).expect("a method") };
                let rows = attribute(&j, &v, CurvatureFrom::Training, &options).expect("good data");
                let captures = attribute(&train, &query, CurvatureFrom::Training, &options).expect("good data");
                for found in [rows, captures] {
                    let bits: Vec<u64> = found.scores.rows.concat().into_iter().map(f64::to_bits).collect();
                    println!("bits of {name}, {query_mode:?}: {bits:x?}");
                }
            }
        }
        return;
    }
    let run = |threads: &str| {
        let mut command = Command::new(current_exe().expect("this program has a name"));
        command.args(["held_captures::the_number_of_threads_does_not_change_a_bit", "--exact", "--nocapture"]);
        let output = command.env(BITS, "1").env("RAYON_NUM_THREADS", threads).output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("it prints text");
        text.lines().filter(|line| line.contains("bits of")).map(str::to_owned).collect::<Vec<_>>()
    };
    let expected = run("1");
    assert_eq!(expected.len(), 24);
    for threads in ["2", "3", "7"] {
        for (found, expected) in run(threads).iter().zip(&expected) {
            assert!(found == expected, "{threads} threads: {}", &found[..60]);
        }
    }
}
