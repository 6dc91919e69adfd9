//! Every method over scales, conditions and types, against f64: right, or an error, or told.

use burn::tensor::{DType, Device};
use hyperinf::curvature::{CurvatureError, Damping};
use hyperinf::gradients::{Block, Gradients};
use hyperinf::scoring::{Attribution, CurvatureFrom, Gfim, Normalisation, Options, ScoreError, attribute, methods};
use hyperinf_tests::compare::{tensor, values};
use hyperinf_tests::oracle::{Contracted, Matrix, exact, fisher, gfim, scores};

use crate::solvers::precise_devices;

pub(crate) const ROWS: usize = 3;
pub(crate) const COLS: usize = 4;
const D: usize = ROWS * COLS;
/// An error of this share of the largest score must be told.
const WRONG: f64 = 1e-2;

/// Powers of two near these sizes of the training gradients and of the queries: all values stay normal numbers.
const SCALES: [(f64, f64); 7] =
    [(1.0, 1.0), (1e-30, 1e-30), (1e30, 1e30), (1e15, 1e-15), (1e-30, 1e30), (1e30, 1e-30), (1e-18, 1.0)];
/// Further ones, for f64.
const WIDE: [(f64, f64); 3] = [(1e-100, 1e-100), (1e100, 1e100), (1e-100, 1e100)];
const CONDITIONS: [f64; 5] = [1.0, 1e3, 1e6, 1e9, 1e12];

/// How eigenvalues fall.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spectrum {
    /// Four of size 1, the others 0.
    Few,
    /// Over twelve orders of magnitude.
    Falling,
}

/// Cosines of gradients of these sizes are right, or an error with a size.
#[test]
fn cosines_over_all_sizes_are_right_or_errors() {
    for (_, device) in precise_devices() {
        let (train, query) = (rows(5, 1, Spectrum::Falling), rows(2, 2, Spectrum::Falling));
        let cosines = |train_scale: f64, query_scale: f64| {
            let scaled = |rows: &Matrix, scale| stored(rows, power_near(scale), DType::F64, &device);
            let (train, query) = (scaled(&train, train_scale), scaled(&query, query_scale));
            let cosine = methods().iter().find(|method| method.name == "cosine").expect("a method");
            attribute(&train, &query, CurvatureFrom::Training, &cosine.options(Gfim::default()))
        };
        let expected = cosines(1.0, 1.0).expect("scores").scores;
        for (train, query) in [(1e-140, 1e-140), (1e-140, 1e140), (1e140, 1e140), (1e-100, 1.0)] {
            let found = cosines(train, query).expect("scores").scores;
            for (found, expected) in found.rows.iter().flatten().zip(expected.rows.iter().flatten()) {
                assert!((found - expected).abs() <= 1e-12, "{train:e} {query:e}: {found} {expected}");
            }
        }
        for (train, query) in [(1e-170, 1.0), (1.0, 1e-170), (1e-170, 1e-170)] {
            let error = cosines(train, query).map(drop).expect_err("squares underflow");
            let told = matches!(error, ScoreError::Divisor { value, .. } if value > 0.0);
            assert!(told || train * query < 1e-300, "{error}");
        }
    }
}

pub(crate) fn power_near(size: f64) -> f64 {
    size.log2().round().exp2()
}

/// Rows `[n, D]` of numbers that f32 holds, near 1.
pub(crate) fn rows(n: usize, seed: u64, spectrum: Spectrum) -> Matrix {
    let single = |value: f64| f64::from(value as f32);
    match spectrum {
        Spectrum::Few => {
            let (weights, basis) = (Matrix::noise(n, 4, seed), Matrix::noise(4, D, 99));
            let whole = weights.times(&basis);
            Matrix::from_fn(n, D, |i, j| single(whole.at(i, j)))
        }
        Spectrum::Falling => {
            let noise = Matrix::noise(n, D, seed);
            Matrix::from_fn(n, D, |i, j| single(noise.at(i, j) * 10.0_f64.powf(-0.5 * j as f64)))
        }
    }
}

/// The rows times a power of two, as one block.
pub(crate) fn stored(rows: &Matrix, scale: f64, dtype: DType, device: &Device) -> Gradients {
    let scaled = Matrix::from_fn(rows.rows, D, |i, j| rows.at(i, j) * scale);
    let block = tensor(&scaled, device, dtype).reshape([rows.rows, ROWS, COLS]);
    Gradients::new([Block::new("w", ROWS, COLS)], vec![block]).expect("one block")
}

/// The scores of a method for numbers near 1, by its definition; `None` for those that are compared with themselves in
/// f64 at the scale 1, whose definitions other tests check.
fn definition(name: &str, j: &Matrix, v: &Matrix, lambda: f64) -> Option<Matrix> {
    let h = match name {
        "identity" => return Some(scores(v, j)),
        "cosine" => {
            let norm = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
            return Some(Matrix::from_fn(v.rows, j.rows, |q, i| {
                scores(v, j).at(q, i) / (norm(v.row(q)) * norm(j.row(i)))
            }));
        }
        "datainf" => {
            let (right, gram) = (scores(v, j), scores(j, j));
            let n = j.rows as f64;
            let weighted = Matrix::from_fn(v.rows, j.rows, |q, i| right.at(q, i) / (n * (lambda + gram.at(i, i))));
            let rest = right.plus(-1.0, &weighted.times(&gram));
            return Some(Matrix { values: rest.values.iter().map(|s| s / lambda).collect(), ..rest });
        }
        "exact" | "cg" | "block-cg" | "lissa" | "lanczos" | "nystrom" => fisher(j),
        "hyperinf" => gfim(j, ROWS, COLS, Contracted::Rows, true),
        "diagonal" => {
            let f = fisher(j);
            Matrix::from_fn(D, D, |a, b| if a == b { f.at(a, a) } else { 0.0 })
        }
        _ => return None,
    };
    Some(scores(&exact(&h, lambda, v), j))
}

fn mean_square(j: &Matrix) -> f64 {
    j.values.iter().map(|g| g * g).sum::<f64>() / j.values.len() as f64
}

/// Whether the result says that its scores may be off.
fn told(found: &Attribution) -> bool {
    !found.converged() || found.blocks.iter().any(|block| !block.is_precise())
}

/// Whether an error says that numbers do not fit or no inverse was found.
fn honest(error: &ScoreError) -> bool {
    matches!(
        error,
        ScoreError::DampingLost { .. }
            | ScoreError::Underflow { .. }
            | ScoreError::Overflow { .. }
            | ScoreError::NonFinite { .. }
            | ScoreError::Divisor { .. }
            | ScoreError::Solve { .. }
            | ScoreError::Curvature(CurvatureError::TooSmall { .. })
    )
}

/// One case: sizes, spectrum, condition and type.
struct Case<'a> {
    n: usize,
    spectrum: Spectrum,
    condition: f64,
    dtype: DType,
    device: &'a Device,
}

impl Case<'_> {
    fn check(&self, name: &str, (g, v): (f64, f64)) {
        let Self { n, spectrum, condition, dtype, device } = *self;
        let what = format!("{name}, {n} samples {spectrum:?}, κ {condition:e}, {g:e} and {v:e} in {dtype:?}");
        let (j, queries) = (rows(n, 1, spectrum), rows(3, 2, Spectrum::Few));
        let (g, v) = (power_near(g), power_near(v));
        // The largest eigenvalue is at most the trace.
        let factor = D as f64 / condition;
        let options = Options::named(name).expect("a method");
        let options = Options { damping: Damping::Relative(factor), ..options };
        let of = |scale: [f64; 2], dtype| {
            let (train, query) = (stored(&j, scale[0], dtype, device), stored(&queries, scale[1], dtype, device));
            attribute(&train, &query, CurvatureFrom::Training, &options)
        };
        let lambda = factor * mean_square(&j);
        let expected = definition(name, &j, &queries, lambda).unwrap_or_else(|| {
            let found = of([1.0, 1.0], DType::F64).unwrap_or_else(|error| panic!("{what}: {error}"));
            Matrix { rows: 3, cols: n, values: found.scores.rows.concat() }
        });
        let found = match of([g, v], dtype) {
            Ok(found) => found,
            Err(error) => {
                assert!(honest(&error), "{what}: {error}");
                // Nothing here leaves the range of f64: only a diverging iteration of fixed constants may fail.
                assert!(name == "hyperinf-authors" || condition > 1e9, "{what}: {error}");
                return;
            }
        };
        // score = v (H + λI)⁻¹ g with λ ~ g².
        let unit = match name {
            "identity" => v * g,
            "cosine" => 1.0,
            _ => v / g,
        };
        if name == "hyperinf-authors" {
            // Constants of its own: no scale but 1 has these scores.
            assert!(found.scores.rows.iter().flatten().all(|score| score.is_finite()), "{what}");
            return;
        }
        let largest = expected.values.iter().fold(0.0_f64, |most, score| most.max(score.abs()));
        let off =
            found.scores.rows.concat().into_iter().zip(&expected.values).map(|(score, e)| (score / unit - e).abs());
        let off = off.fold(0.0, f64::max);
        assert!(off.is_finite(), "{what}: {off}");
        if off > WRONG * largest {
            assert!(told(&found), "{what}: off by {:.1e} without a word", off / largest);
            // And no further than its residual and rounding admit.
            let block = &found.blocks[0];
            let norm = |m: &Matrix| m.values.iter().map(|x| x * x).sum::<f64>().sqrt();
            let admitted = (block.residual + 100.0 * block.rounding) * norm(&queries) * norm(&j) / lambda;
            assert!(off <= admitted + WRONG * largest, "{what}: off by {off:e}, admitted {admitted:e}");
        }
    }

    fn all(n: usize, spectrum: Spectrum, dtype: DType, device: &Device) {
        let scales = SCALES.iter().chain(if dtype == DType::F64 { &WIDE[..] } else { &[] });
        for &scale in scales {
            for condition in CONDITIONS {
                let case = Case { n, spectrum, condition, dtype, device };
                let named = methods().iter().filter(|method| !method.needs_captures());
                // A thousand steps each: two conditions are enough.
                let named = named.filter(|method| method.name != "lissa" || condition == 1.0 || condition == 1e6);
                named.for_each(|method| case.check(method.name, scale));
            }
        }
    }
}

pub(crate) fn device() -> Device {
    precise_devices().into_iter().next().expect("a device with f64").1
}

#[test]
fn few_samples_in_f32() {
    Case::all(7, Spectrum::Few, DType::F32, &device());
}

#[test]
fn few_samples_in_f64() {
    Case::all(7, Spectrum::Few, DType::F64, &device());
}

#[test]
fn many_samples_in_f32() {
    Case::all(40, Spectrum::Few, DType::F32, &device());
}

#[test]
fn many_samples_in_f64() {
    Case::all(40, Spectrum::Few, DType::F64, &device());
}

#[test]
fn falling_eigenvalues_in_f32() {
    Case::all(40, Spectrum::Falling, DType::F32, &device());
    Case::all(7, Spectrum::Falling, DType::F32, &device());
}

#[test]
fn falling_eigenvalues_in_f64() {
    Case::all(40, Spectrum::Falling, DType::F64, &device());
}

#[test]
fn the_type_of_the_gradients_changes_nothing_that_f32_holds() {
    for (name, device) in precise_devices() {
        for (n, spectrum) in [(40, Spectrum::Few), (7, Spectrum::Falling)] {
            let (j, v) = (rows(n, 3, spectrum), rows(2, 4, Spectrum::Few));
            for info in methods().iter().filter(|info| !info.needs_captures()) {
                let options = Options::named(info.name).expect("a method");
                let options = Options { damping: Damping::Relative(1e-5), ..options };
                let of = |dtype| {
                    let (train, query) = (stored(&j, 1.0, dtype, &device), stored(&v, 1.0, dtype, &device));
                    let found = attribute(&train, &query, CurvatureFrom::Training, &options);
                    found.unwrap_or_else(|error| panic!("{}, {dtype:?} on {name}: {error}", info.name))
                };
                let (single, double) = (of(DType::F32), of(DType::F64));
                let largest = double.scores.rows.iter().flatten().fold(0.0_f64, |most, s| most.max(s.abs()));
                let pairs = single.scores.rows.concat().into_iter().zip(double.scores.rows.concat());
                let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                let what = format!("{}, {n} samples on {name}", info.name);
                assert!(off <= 1e-3 * largest || told(&single), "{what}: off by {:.1e}", off / largest);
            }
        }
    }
}

#[test]
fn sums_of_many_squares_have_no_bias() {
    // One after the other in f32 they would be off by more than 1e-5.
    let (n, batch) = (100_000, 5_000);
    let device = device();
    for storage in [
        hyperinf::curvature::Storage::Diagonal,
        hyperinf::curvature::Storage::Isotropic,
        hyperinf::curvature::Storage::Dense,
        hyperinf::curvature::Storage::TwoSided { corrected: true },
        hyperinf::curvature::Storage::OneSided {
            side: hyperinf::curvature::Side::Short,
            scale: hyperinf::curvature::Scale::Mean,
        },
    ] {
        let mut sum = hyperinf::curvature::Accumulator::new(Block::new("w", 1, 3), storage).expect("a small block");
        let mut trace = 0.0;
        for pass in 0..storage.passes() {
            for seed in 0..n / batch {
                let rows = Matrix::noise(batch, 3, seed as u64);
                let typed = tensor(&rows, &device, DType::F32);
                if pass == 0 {
                    trace += values(typed.clone()).iter().map(|g| g * g).sum::<f64>() / n as f64;
                }
                sum.add(typed.reshape([batch, 1, 3])).expect("good gradients");
            }
            assert_eq!(sum.end_pass().expect("good gradients"), pass + 1 < storage.passes());
        }
        let found = sum.finish().expect("good gradients").curvature.trace().expect("a good device");
        assert!((found - trace).abs() < 1e-12 * trace, "{storage:?}: {found} for {trace}");
    }
}

#[test]
fn damping_below_rounding_is_refused() {
    for (name, device) in precise_devices() {
        for (n, lambda) in [(7, 1e-30), (40, 1e-30), (40, 1e-20), (7, f64::MIN_POSITIVE), (40, 5e-324)] {
            let (train, query) = (rows(n, 1, Spectrum::Few), rows(2, 2, Spectrum::Few));
            let (train, query) = (stored(&train, 1.0, DType::F32, &device), stored(&query, 1.0, DType::F32, &device));
            for info in methods().iter().filter(|info| info.has_curvature() && !info.needs_captures()) {
                let options = Options::named(info.name).expect("a method");
                let options = Options { damping: Damping::Absolute(lambda), ..options };
                let found = attribute(&train, &query, CurvatureFrom::Training, &options);
                let lost = matches!(&found, Err(ScoreError::DampingLost { lambda: told, least, .. })
                    if *told == lambda && *least > lambda);
                assert!(lost, "{}, {n} samples, {lambda:e} on {name}: {:?}", info.name, found.map(|f| f.blocks));
            }
        }
    }
}

#[test]
fn normalised_scores_know_no_scale() {
    let device = device();
    for normalisation in [Normalisation::Gradient, Normalisation::Cosine, Normalisation::ThetaRelatif] {
        for name in ["exact", "hyperinf", "diagonal", "identity"] {
            let options = Options { normalisation, ..Options::named(name).expect("a method") };
            let of = |g: f64, v: f64, dtype| {
                let (train, query) = (rows(40, 1, Spectrum::Few), rows(2, 2, Spectrum::Few));
                let (g, v) = (power_near(g), power_near(v));
                let (train, query) = (stored(&train, g, dtype, &device), stored(&query, v, dtype, &device));
                let found = attribute(&train, &query, CurvatureFrom::Training, &options);
                found.unwrap_or_else(|error| panic!("{name}, {normalisation:?}: {error}")).scores.rows.concat()
            };
            let expected = of(1.0, 1.0, DType::F64);
            for (g, v, dtype) in [(1e-18, 1e18, DType::F32), (1e25, 1e-25, DType::F32), (1e-40, 1e40, DType::F64)] {
                let found = of(g, v, dtype);
                // Only the size of the queries is left in them, and without curvature nothing but it.
                let unit = match (normalisation, name) {
                    (Normalisation::Cosine, _) => 1.0,
                    (Normalisation::ThetaRelatif, _) => power_near(v),
                    (_, "identity") => power_near(v),
                    _ => power_near(v) / power_near(g).powi(2),
                };
                let worst = found.iter().zip(&expected).map(|(f, e)| (f / unit - e).abs()).fold(0.0, f64::max);
                let largest = expected.iter().fold(0.0_f64, |most, e| most.max(e.abs()));
                assert!(worst <= 1e-4 * largest, "{name}, {normalisation:?}, {g:e}: {:e}", worst / largest);
            }
        }
    }
}
