//! What is computed from captures is what their gradients give: products, norms, sums, curvatures and scores.

use burn::tensor::{DType, Device, Tensor};
use hyperinf::curvature::{Accumulator, BlockCurvature, Scale, Side, Storage};
use hyperinf::gradients::{Block, Capture, Gradients};
use hyperinf::scoring::{
    Batch, CurvatureFrom, Method, Normalisation, Options, QueryMode, ScoreError, Set, Source, attribute, methods,
    self_influence,
};
use hyperinf_tests::compare::{assert_close, matrix, precisions, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;
use proptest::prelude::*;

use crate::kronecker::{CORRECTED, Layer, TWO_SIDED};

const STORAGES: [Storage; 9] = [
    Storage::Samples,
    Storage::OneSided { side: Side::Rows, scale: Scale::Mean },
    Storage::OneSided { side: Side::Cols, scale: Scale::Sum },
    Storage::Diagonal,
    Storage::Isotropic,
    TWO_SIDED,
    CORRECTED,
    Storage::Dense,
    Storage::LowRank { rank: 3, seed: 1 },
];

/// Every storage adds up to the same from captures and from gradients.
fn curvatures(layer: &Layer, device: &Device, dtype: DType, tolerance: f64) -> Result<(), TestCaseError> {
    let capture = layer.capture(device, dtype);
    let sum = |storage: Storage, captured: bool| -> BlockCurvature {
        let mut sum = Accumulator::new(layer.block(), storage).expect("a valid storage");
        loop {
            if captured { sum.add_capture(&capture) } else { sum.add(capture.gradients()) }.expect("it is finite");
            if !sum.end_pass().expect("there are samples") {
                break sum.finish().expect("there are samples");
            }
        }
    };
    for storage in STORAGES {
        let (found, expected) = (sum(storage, true), sum(storage, false));
        prop_assert_eq!(found.samples, expected.samples);
        assert_close("mean square", &[found.mean_square], &[expected.mean_square], tolerance);
        let dense = |of: &BlockCurvature| values(of.curvature.to_dense());
        assert_close(&format!("{storage:?}"), &dense(&found), &dense(&expected), tolerance);
        let diagonal = |of: &BlockCurvature| values(of.curvature.diagonal());
        assert_close(&format!("{storage:?}"), &diagonal(&found), &diagonal(&expected), tolerance);
        let trace = |of: &BlockCurvature| [of.curvature.trace().expect("a device")];
        assert_close(&format!("{storage:?}"), &trace(&found), &trace(&expected), tolerance);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn products_norms_and_sums_are_those_of_the_gradients(
        sizes in (1..6usize, 1..8usize, 1..40usize, 1..40usize), q in 1..4usize, seed in 0..1000u64,
    ) {
        let (n, t, rows, cols) = sizes;
        let layer = Layer::noise([n, t, rows, cols], seed);
        let x = Matrix::noise(q, rows * cols, seed + 1);
        for (_, device) in devices() {
            for (dtype, epsilon) in precisions(&device) {
                let (capture, tolerance) = (layer.capture(&device, dtype), 100.0 * epsilon);
                let g = matrix(layer.capture(&device, DType::F64).gradients().flatten::<2>(1, 2));
                let dots = capture.dots(tensor(&x, &device, dtype).reshape([q, rows, cols]));
                assert_close("products", &values(dots), &x.times(&g.transpose()).values, tolerance);
                let weights = Matrix::noise(q, n, seed + 2);
                let sums = capture.combine(tensor(&weights, &device, dtype)).flatten::<2>(1, 2);
                assert_close("sums", &values(sums), &weights.times(&g).values, tolerance);
                let squares: Vec<f64> = (0..n).map(|i| g.row(i).iter().map(|v| v * v).sum()).collect();
                assert_close("norms", &capture.squared_norms().expect("a device"), &squares, tolerance);
                let sum: Vec<f64> = (0..rows * cols).map(|j| (0..n).map(|i| g.at(i, j)).sum()).collect();
                assert_close("sum", &values(capture.sum()), &sum, tolerance);
            }
        }
    }

    #[test]
    fn curvatures_are_those_of_the_gradients(
        sizes in (1..6usize, 1..6usize, 1..9usize, 1..9usize), seed in 0..1000u64,
    ) {
        let layer = Layer::noise([sizes.0, sizes.1, sizes.2, sizes.3], seed);
        for (_, device) in devices() {
            for (dtype, epsilon) in precisions(&device) {
                curvatures(&layer, &device, dtype, 100.0 * epsilon)?;
            }
        }
    }
}

#[test]
fn long_runs_are_cut_and_joined() {
    let layer = Layer::noise([900, 2, 60, 90], 5);
    let x = Matrix::noise(40, 60 * 90, 6);
    let (_, device) = devices().remove(0);
    let capture = layer.capture(&device, DType::F32);
    // 4.3 million numbers: 60 per query, position and sample; and 4.9 million of gradients.
    assert!(capture.runs(40 * 2 * 60).count() > 1 && capture.runs(60 * 90).count() > 1);
    let g = matrix(layer.capture(&device, DType::F64).gradients().flatten::<2>(1, 2));
    let dots = capture.dots(tensor(&x, &device, DType::F32).reshape([40, 60, 90]));
    assert_close("products", &values(dots), &x.times(&g.transpose()).values, 1e-5);
    let weights = Matrix::noise(40, 900, 7);
    let sums = capture.combine(tensor(&weights, &device, DType::F32)).flatten::<2>(1, 2);
    assert_close("sums", &values(sums), &weights.times(&g).values, 1e-5);
    let squares: Vec<f64> = (0..900).map(|i| g.row(i).iter().map(|v| v * v).sum()).collect();
    assert_close("norms", &capture.squared_norms().expect("a device"), &squares, 1e-5);
}

/// Captures in two batches, the second smaller.
pub(crate) struct Captured(pub(crate) Vec<Vec<Capture>>);

impl Source for Captured {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.0.iter().try_for_each(|captures| visit(captures.clone().into()))
    }
}

impl Captured {
    fn noise(sizes: [usize; 2], seed: u64, device: &Device, dtype: DType) -> Self {
        // One layer behind pooling, one of few and one of many positions.
        let shapes = [[1, 7, 4], [2, 30, 40], [5, 6, 3]];
        let batch = |(part, n): (usize, usize)| {
            let layer = |(l, [t, rows, cols]): (usize, [usize; 3])| {
                let capture =
                    Layer::noise([n, t, rows, cols], seed + 10 * part as u64 + l as u64).capture(device, dtype);
                Capture { block: Block::new(format!("layer{l}"), rows, cols), ..capture }
            };
            shapes.into_iter().enumerate().map(layer).collect()
        };
        Self(sizes.into_iter().enumerate().map(batch).collect())
    }

    pub(crate) fn gradients(&self) -> Gradients {
        let sets = self.0.iter().map(|captures| Batch::from(captures.clone()).into_gradients());
        Gradients::concat(sets.collect()).expect("one layout")
    }
}

#[test]
fn every_method_scores_captures_as_their_gradients() {
    let (_, device) = devices().remove(0);
    let normalisations =
        [Normalisation::None, Normalisation::Cosine, Normalisation::Gradient, Normalisation::LossRelatif];
    for (dtype, epsilon) in precisions(&device) {
        let (train, query) =
            (Captured::noise([6, 3], 100, &device, dtype), Captured::noise([2, 1], 200, &device, dtype));
        let (j, v) = (train.gradients(), query.gradients());
        for name in methods().iter().map(|method| method.name) {
            let options = Options::named(name).expect("a method");
            let captured = matches!(options.method, Method::Inverse { storage, .. } if storage.needs_captures());
            if captured {
                continue;
            }
            for (query_mode, normalisation) in
                [QueryMode::Each, QueryMode::Mean].into_iter().flat_map(|mode| normalisations.map(|n| (mode, n)))
            {
                let options = Options { query: query_mode, normalisation, ..options.clone() };
                let found = attribute(&train, &query, CurvatureFrom::Training, &options).expect("good data");
                let expected = attribute(&j, &v, CurvatureFrom::Training, &options).expect("good data");
                let what = format!("{name}, {query_mode:?}, {normalisation:?}, {dtype:?}");
                let (found, expected) = (found.scores.rows.concat(), expected.scores.rows.concat());
                // Fifteen steps from a fixed start, which diverge, double each rounding.
                let factor = if name == "hyperinf-authors" { 1e6 } else { 1e3 };
                assert_close(&what, &found, &expected, factor * epsilon);
            }
        }
    }
}

#[test]
fn layers_whose_gradients_no_memory_holds_are_scored() {
    const SIDE: usize = 4000;
    let (_, device) = devices().remove(0);
    let side = |n, seed| tensor(&Matrix::noise(n, SIDE, seed), &device, DType::F32).reshape([n, 1, SIDE]);
    let capture =
        |n, seed| Capture { block: Block::new("large", SIDE, SIDE), input: side(n, seed), delta: side(n, seed + 1) };
    // 128 GB of gradients.
    let (train, query) = (Captured(vec![vec![capture(2000, 1)]]), Captured(vec![vec![capture(3, 7)]]));
    let options = Options {
        query: QueryMode::Mean,
        normalisation: Normalisation::Cosine,
        ..Options::named("identity").expect("a method")
    };
    let found = attribute(&train, &query, CurvatureFrom::Training, &options).expect("good data");
    let own = self_influence(&train, CurvatureFrom::Training, &options).expect("good data");
    // ⟨mean_j b_j ε_jᵀ, a δᵀ⟩ = mean_j (a·b_j)(δ·ε_j).
    let of = |capture: &Capture| {
        let side = |of: &Tensor<3>| matrix(of.clone().reshape([of.dims()[0], SIDE]));
        (side(&capture.input), side(&capture.delta))
    };
    let ((a, delta), (b, epsilon)) = (of(&train.0[0][0]), of(&query.0[0][0]));
    let products = |x: &Matrix, y: &Matrix| x.times(&y.transpose());
    let squares = |x: &Matrix, i: usize| x.row(i).iter().map(|v| v * v).sum::<f64>();
    let (left, right) = (products(&a, &b), products(&delta, &epsilon));
    let among = products(&b, &b);
    let others = products(&epsilon, &epsilon);
    let of_query: f64 = (0..9).map(|k| among.values[k] * others.values[k]).sum::<f64>() / 9.0;
    let expected: Vec<f64> = (0..2000)
        .map(|i| {
            let dot = (0..3).map(|k| left.at(i, k) * right.at(i, k)).sum::<f64>() / 3.0;
            dot / (of_query * squares(&a, i) * squares(&delta, i)).sqrt()
        })
        .collect();
    assert_close("cosines", &found.scores.rows[0], &expected, 1e-4);
    let norms: Vec<f64> = (0..2000).map(|i| squares(&a, i) * squares(&delta, i)).collect();
    assert_close("norms", &own.values, &norms, 1e-5);
}

#[test]
fn a_bad_sample_is_named() {
    let (_, device) = devices().remove(0);
    let good = Captured::noise([4, 3], 1, &device, DType::F32);
    let mut bad = Captured::noise([4, 3], 1, &device, DType::F32);
    let delta = &mut bad.0[1][1].delta;
    *delta = delta.clone().slice_fill([1..2, 0..1, 2..3], f32::INFINITY);
    for name in ["identity", "hyperinf", "diagonal", "datainf"] {
        let options = Options::named(name).expect("a method");
        for (train, query, set, sample) in [(&bad, &good, Set::Train, 5), (&good, &bad, Set::Query, 5)] {
            let error = attribute(train, query, CurvatureFrom::Training, &options).err();
            let found = match &error {
                Some(ScoreError::NonFinite { set, sample, .. }) => Some((*set, *sample)),
                _ => None,
            };
            assert_eq!(found, Some((set, sample)), "{name}: {error:?}");
        }
    }
    let (empty, options) = (Captured(Vec::new()), Options::named("hyperinf").expect("a method"));
    let error = attribute(&empty, &good, CurvatureFrom::Training, &options).err();
    assert!(matches!(error, Some(ScoreError::Empty { set: Set::Train, .. })), "{error:?}");
    let none = |capture: &Capture| Capture {
        block: capture.block.clone(),
        input: capture.input.clone().slice([0..0]),
        delta: capture.delta.clone().slice([0..0]),
    };
    let none = Captured(vec![good.0[0].iter().map(none).collect()]);
    let error = attribute(&none, &good, CurvatureFrom::Training, &options).err();
    assert!(matches!(error, Some(ScoreError::Empty { set: Set::Train, .. })), "{error:?}");
}
