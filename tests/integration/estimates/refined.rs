//! Refined inverses against the Gauss-Newton matrix written out, damped and inverted.

use burn::tensor::{DType, Tensor};
use hyperinf::curvature::{Damping, Storage};
use hyperinf::gradients::{Difference, Estimate, Family, Gradients, Target, Task, gauss_newton_products, gradients};
use hyperinf::scoring::{
    CurvatureFrom, Method, MethodSpec, Normalisation, Options, QueryMode, Refined, Residuals, ScoreError, Set,
    TaskSource, attribute, curvature, query_gradients, refine, refine_stochastic,
};
use hyperinf::solvers::Exact;
use hyperinf_tests::compare::{assert_close, matrix, precisions};
use hyperinf_tests::devices;
use hyperinf_tests::digits::{Digits, arrays, expected, images};
use hyperinf_tests::oracle::{Matrix, exact, scores};

use super::case::{Batch, Data, NetTask, gauss_newton};
use super::{EXACT, each_case};

const PARTS: &[&[usize]] = &[&[0, 1], &[2, 4], &[3]];
/// The samples in the order of the batches.
const ORDER: [usize; 5] = [0, 1, 2, 4, 3];
const LAMBDA: f64 = 0.02;
/// More than there are parameters.
const MANY: usize = 40;

fn options(method: &str) -> Options {
    let spec: MethodSpec = method.parse().expect("a method");
    Options { damping: Damping::Absolute(LAMBDA), ..spec.options().expect("its options") }
}

/// The refined queries, all of the batches, by products with the Gauss-Newton matrix.
fn refined<T: Task>(task: &T, batches: &[T::Batch], options: &Options, estimate: Estimate, steps: usize) -> Refined {
    let of = TaskSource::curvature(task, batches, estimate);
    let queries = query_gradients(&TaskSource::query(task, batches), options.query).expect("there are queries");
    let known = curvature(&of, options).expect("the curvature can be computed");
    let mut products = |directions: &Gradients| {
        let found = gauss_newton_products(task, batches, directions, Difference::default());
        Ok(found.map_err(ScoreError::source)?.rows)
    };
    refine(&queries, known, &mut products, options, steps).expect("it can be refined")
}

fn rows(gradients: &Gradients) -> Matrix {
    matrix(gradients.merged().blocks[0].clone())
}

/// The gradients of all samples in the order of the batches, in f64.
fn samples(task: &NetTask, data: &Data, like: &Tensor<3>) -> Matrix {
    let batch = data.batch(&ORDER, &like.device(), like.dtype());
    rows(&gradients(task, &batch, Target::Loss).expect("the network is well-formed"))
}

fn norm(row: &[f64]) -> f64 {
    row.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Softmax cases in f64, with the gradients and the matrix of the definition. Empirical Fisher matrices of the Gaussian
/// cases are far from it, so that conjugate gradients from their inverses take many more steps than there are parameters.
fn each_exact(check: impl Fn(&str, &NetTask, &[Batch], &Matrix, &Matrix)) {
    each_case(PARTS, |what, _, data, device, dtype, task, batches| {
        if dtype == DType::F64 && matches!(data.family, Family::Softmax) {
            let like = gradients(task, &batches[0], Target::Loss).expect("the network is well-formed");
            let all = samples(task, data, &like.blocks[0]);
            check(what, task, batches, &all, &gauss_newton(data, device, dtype));
        }
    });
}

const METHODS: [&str; 8] = ["ekfac", "kfac", "shampoo", "hyperinf", "exact", "diagonal", "datainf", "exact:merged"];

#[test]
fn many_steps_lead_to_the_inverse_of_the_whole_matrix() {
    each_exact(|what, task, batches, all, g| {
        let expected = exact(g, LAMBDA, all);
        for method in METHODS {
            let found = refined(task, batches, &options(method), Estimate::Empirical, MANY);
            assert_close(&format!("{what}, {method}"), &rows(&found.rows).values, &expected.values, 1e-7);
            let worst = found.residuals.iter().map(|residuals| residuals.after).fold(0.0, f64::max);
            assert!(worst < 1e-7, "{what}, {method}: {worst}");
        }
    });
}

/// The oracle of the library: the exact estimate, merged and inverted.
#[test]
fn refined_scores_are_those_of_the_exact_merged_gauss_newton_matrix() {
    each_case(PARTS, |what, _, _, _, dtype, task, batches| {
        if dtype != DType::F64 {
            return;
        }
        for query in [QueryMode::Each, QueryMode::Mean] {
            let with = |method| Options { query, ..options(method) };
            let (train, queries) = (TaskSource::train(task, batches), TaskSource::query(task, batches));
            let whole = TaskSource::curvature(task, batches, EXACT);
            let merged = Options { method: Method::inverse(Storage::Dense, Exact), ..with("exact:merged") };
            let expected = attribute(&train, &queries, CurvatureFrom::Source(&whole), &merged).expect("it is inverted");
            let found = refined(task, batches, &with("ekfac"), EXACT, MANY);
            let plain = Options { method: Method::Identity, query: QueryMode::Each, ..Options::default() };
            let found = attribute(&train, &found.rows, CurvatureFrom::Training, &plain).expect("inner products");
            assert_eq!(found.scores.queries(), expected.scores.queries());
            for (found, expected) in found.scores.rows.iter().zip(&expected.scores.rows) {
                assert_close(&format!("{what}, {query:?}"), found, expected, 1e-5);
            }
        }
    });
}

#[test]
fn every_step_lowers_the_error_in_the_norm_of_the_matrix() {
    each_exact(|what, task, batches, all, g| {
        let (solution, a) = (exact(g, LAMBDA, all), g.plus(LAMBDA, &Matrix::identity(g.rows)));
        let mut earlier = [f64::INFINITY; 5];
        for steps in 0..12 {
            let found = refined(task, batches, &options("shampoo"), Estimate::Empirical, steps);
            let x = rows(&found.rows);
            let away = x.plus(-1.0, &solution);
            let (bent, left) = (away.times(&a), all.plus(-1.0, &x.times(&a)));
            for (i, earlier) in earlier.iter_mut().enumerate() {
                let error = away.row(i).iter().zip(bent.row(i)).map(|(u, v)| u * v).sum::<f64>().sqrt();
                // Once it is rounding it rises and falls.
                assert!(error < *earlier * (1.0 - 1e-6) || error < 1e-8, "{what}: {error} after {earlier} at {steps}");
                *earlier = error;
                // What is said of the residual is true.
                let residual = norm(left.row(i)) / norm(all.row(i));
                let Residuals { after, before, steps: taken } = found.residuals[i];
                assert!((after - residual).abs() < 1e-7, "{what}: {after}, not {residual}, after {steps} steps");
                assert!(taken <= steps && (steps > 0 || after == before), "{what}: {taken} of {steps} steps");
            }
        }
        assert!(earlier.iter().all(|error| *error < 0.3), "{what}: {earlier:?}");
    });
}

/// A relative damping is another one in each block, and the preconditioner's.
#[test]
fn the_damping_of_each_block_is_that_of_the_method() {
    each_exact(|what, task, batches, all, g| {
        let options = Options { damping: Damping::Relative(0.3), ..options("ekfac") };
        let (train, queries) = (TaskSource::train(task, batches), TaskSource::query(task, batches));
        let plain = attribute(&train, &queries, CurvatureFrom::Training, &options).expect("it can be inverted");
        let each: Vec<f64> = plain
            .blocks
            .iter()
            .flat_map(|report| {
                let lambda = report.lambda.expect("a damping");
                vec![lambda; report.block.parameters()]
            })
            .collect();
        assert!(each[0] != each[g.rows - 1], "{what}: nothing to tell apart");
        let damped = Matrix::from_fn(g.rows, g.rows, |i, j| g.at(i, j) + if i == j { each[i] } else { 0.0 });
        let found = refined(task, batches, &options, Estimate::Empirical, MANY);
        assert_close(what, &rows(&found.rows).values, &all.times(&damped.inverse()).values, 1e-7);
        // Without a step, the scores are those of the method.
        let start = rows(&refined(task, batches, &options, Estimate::Empirical, 0).rows);
        let scores = scores(&start, all);
        assert_close(what, &scores.values, &plain.scores.rows.concat(), 1e-10);
    });
}

#[test]
fn a_query_of_zeros_stays_zero_and_costs_nothing() {
    each_exact(|what, task, batches, all, g| {
        let options = options("exact");
        let known = curvature(&TaskSource::train(task, batches), &options).expect("it can be computed");
        let queries = query_gradients(&TaskSource::query(task, batches), QueryMode::Each).expect("there are queries");
        let blocks = queries.blocks.iter().map(|block| {
            let zeros = block.clone().narrow(0, 0, 1).zeros_like();
            Tensor::cat(vec![zeros, block.clone().narrow(0, 1, 1)], 0)
        });
        let two = Gradients::new(queries.layout.clone(), blocks.collect()).expect("the layout fits");
        let mut products = |directions: &Gradients| {
            let found = gauss_newton_products(task, batches, directions, Difference::default());
            Ok(found.map_err(ScoreError::source)?.rows)
        };
        let found = refine(&two, known, &mut products, &options, MANY).expect("it can be refined");
        let x = rows(&found.rows);
        assert!(x.row(0).iter().all(|value| *value == 0.0), "{what}");
        assert_eq!(found.residuals[0], Residuals::default(), "{what}");
        let second = Matrix { rows: 1, cols: all.cols, values: all.row(1).to_vec() };
        assert_close(what, x.row(1), &exact(g, LAMBDA, &second).values, 1e-7);
    });
}

#[test]
fn what_cannot_be_refined_is_an_error() {
    each_exact(|what, task, batches, _, _| {
        let queries = query_gradients(&TaskSource::query(task, batches), QueryMode::Each).expect("there are queries");
        let mut none = |_: &Gradients| -> Result<Gradients, ScoreError> { panic!("{what}: nothing is multiplied") };
        let error = |found: Result<Refined, ScoreError>| found.map(|_| ()).expect_err(what);
        let found = error(refine(&queries, Vec::new(), &mut none, &options("identity"), 3));
        assert!(matches!(found, ScoreError::NothingToRefine), "{what}: {found}");
        let relative = Options { normalisation: Normalisation::ThetaRelatif, ..options("exact") };
        let known = curvature(&TaskSource::train(task, batches), &relative).expect("it can be computed");
        let found = error(refine(&queries, known, &mut none, &relative, 3));
        assert!(matches!(found, ScoreError::RefinedDivisor { .. }), "{what}: {found}");
        // The error of a product is that of the refinement, and other blocks are refused.
        let options = options("diagonal");
        let known = || curvature(&TaskSource::train(task, batches), &options).expect("it can be computed");
        let mut failing = |_: &Gradients| Err(ScoreError::NoCheckpoints);
        let found = error(refine(&queries, known(), &mut failing, &options, 3));
        assert!(matches!(found, ScoreError::NoCheckpoints), "{what}: {found}");
        let mut fewer = |directions: &Gradients| {
            Gradients::new(vec![directions.layout[0].clone()], vec![directions.blocks[0].clone()])
                .map_err(ScoreError::source)
        };
        let found = error(refine(&queries, known(), &mut fewer, &options, 3));
        assert!(matches!(found, ScoreError::Gradients { set: Set::Train, .. }), "{what}: {found}");
    });
}

/// With all rows in every sample the stochastic form is steepest descent: it ends at the solution, and what it says of
/// samples and residuals is true.
#[test]
fn stochastic_steps_with_all_rows_lead_to_the_inverse() {
    each_exact(|what, task, batches, all, g| {
        let options = options("ekfac");
        let of = |steps| {
            let queries = query_gradients(&TaskSource::query(task, batches), QueryMode::Each).expect("some queries");
            let known = curvature(&TaskSource::train(task, batches), &options).expect("it can be computed");
            let mut asked = Vec::new();
            let mut products = |sample: usize, directions: &Gradients| {
                asked.push(sample);
                let found = gauss_newton_products(task, batches, directions, Difference::default());
                Ok(found.map_err(ScoreError::source)?.rows)
            };
            let found = refine_stochastic(&queries, known, &mut products, &options, steps).expect("it can be refined");
            (found, asked)
        };
        let (start, asked) = of(0);
        assert_eq!(asked, [0], "{what}");
        let plain = refined(task, batches, &options, Estimate::Empirical, 0);
        assert_eq!(rows(&start.rows).values, rows(&plain.rows).values, "{what}");
        assert_eq!(of(3).1, [0, 1, 1, 2, 2, 3, 3, 0], "{what}");

        let (found, _) = of(200);
        let (solution, x) = (exact(g, LAMBDA, all), rows(&found.rows));
        let (left, away) =
            (all.plus(-1.0, &x.times(&g.plus(LAMBDA, &Matrix::identity(g.rows)))), x.plus(-1.0, &solution));
        for i in 0..5 {
            let error = norm(away.row(i)) / norm(solution.row(i));
            let first = norm(rows(&start.rows).plus(-1.0, &solution).row(i)) / norm(solution.row(i));
            assert!(error < 0.05 * first, "{what}: {error} from {first}");
            let Residuals { before, after, steps } = found.residuals[i];
            let residual = norm(left.row(i)) / norm(all.row(i));
            assert!((after - residual).abs() < 1e-7 && after < before && steps == 200, "{what}: {after}, {residual}");
        }
    });
}

/// Few rows at each step: conjugate gradients on one sample lead away from the solution with all rows, fresh samples
/// towards it.
#[test]
fn fresh_rows_lead_to_the_inverse_of_all_rows_and_one_sample_does_not() {
    let arrays = arrays();
    for (name, device) in devices() {
        if !device.supports_dtype(DType::F64) {
            continue;
        }
        let task = Digits::new(&arrays, "", &device, DType::F64);
        let (train, query) =
            (images(&arrays, "train", &device, DType::F64), images(&arrays, "val", &device, DType::F64));
        let options = Options { query: QueryMode::Mean, ..options("ekfac") };
        let known = || curvature(&TaskSource::curvature(&task, &train, EXACT), &options).expect("it can be computed");
        let queries = query_gradients(&TaskSource::query(&task, &query), QueryMode::Mean).expect("there are queries");
        let difference = Difference { length: Some(1e-6), measured: false };
        let with = |rows: &[_], directions: &Gradients| {
            let found = gauss_newton_products(&task, rows, directions, difference);
            Ok::<_, ScoreError>(found.map_err(ScoreError::source)?.rows)
        };
        // The batches of training images are the samples.
        let of = |sample: usize| &train[sample % train.len()..][..1];
        let mut all = |directions: &Gradients| with(&train, directions);
        let solution = rows(&refine(&queries, known(), &mut all, &options, 60).expect("it can be refined").rows);
        let away = |found: &Refined| norm(rows(&found.rows).plus(-1.0, &solution).row(0)) / norm(solution.row(0));
        let start = away(&refine(&queries, known(), &mut all, &options, 0).expect("it can be refined"));
        let mut one = |directions: &Gradients| with(of(0), directions);
        let one = away(&refine(&queries, known(), &mut one, &options, 30).expect("it can be refined"));
        let mut fresh = |sample: usize, directions: &Gradients| with(of(sample), directions);
        let fresh = away(&refine_stochastic(&queries, known(), &mut fresh, &options, 30).expect("it can be refined"));
        assert!(train.len() > 3, "{name}: {} batches", train.len());
        assert!(
            fresh < start && fresh < one,
            "{name}: {start} at the start, {one} with one sample, {fresh} with fresh"
        );
    }
}

/// Scores of the mean query of the digits by the full Gauss-Newton matrix, from another program.
#[test]
fn digits_by_ekfac_refined() {
    let (arrays, expected) = (arrays(), expected("ggn"));
    for (name, device) in devices() {
        for (dtype, _) in precisions(&device) {
            if dtype != DType::F64 {
                continue;
            }
            let task = Digits::new(&arrays, "", &device, dtype);
            let (train, query) = (images(&arrays, "train", &device, dtype), images(&arrays, "val", &device, dtype));
            let options = Options { damping: Damping::Absolute(0.15), query: QueryMode::Mean, ..options("ekfac") };
            let of = TaskSource::curvature(&task, &train, Estimate::Sampled { draws: 1, seed: 0 });
            let known = curvature(&of, &options).expect("it can be computed");
            let queries =
                query_gradients(&TaskSource::query(&task, &query), QueryMode::Mean).expect("there are queries");
            // Shorter than usual: a displacement crosses fewer of the kinks of ReLU.
            let difference = Difference { length: Some(1e-6), measured: false };
            let mut products = |directions: &Gradients| {
                let found = gauss_newton_products(&task, &train, directions, difference);
                Ok(found.map_err(ScoreError::source)?.rows)
            };
            let found = refine(&queries, known, &mut products, &options, 25).expect("it can be refined");
            let Residuals { before, after, .. } = found.residuals[0];
            assert!(before > 1e-2 && after < 1e-5, "{name}: {before} to {after}");
            let plain = Options { method: Method::Identity, query: QueryMode::Each, ..Options::default() };
            let train = TaskSource::train(&task, &train);
            let found = attribute(&train, &found.rows, CurvatureFrom::Training, &plain).expect("inner products");
            assert_close(&name, &found.scores.rows[0], &expected, 1e-4);
        }
    }
}
