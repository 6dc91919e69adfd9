//! The pipeline from gradients to scores and decisions.

use burn::tensor::{DType, Device};
use hyperinf::curvature::{Damping, Side, Storage};
use hyperinf::gradients::{Block, Gradients};
use hyperinf::scoring::{
    Attribution, Batch, CurvatureFrom, Gfim, Method, Options, QueryMode, ScoreError, Scorer, Set, attribute,
    self_influence,
};
use hyperinf::solvers::Exact;
use hyperinf_tests::compare::{assert_close, tensor};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::{Contracted, Matrix, datainf, exact, fisher, gfim, relative_damping, scores};

const SHAPES: [(usize, usize); 2] = [(3, 5), (4, 2)];

/// Gradients of two blocks from a seed, with the plain matrices that they came from.
pub(crate) fn set(n: usize, seed: u64, device: &Device) -> (Gradients, Vec<Matrix>) {
    let parts: Vec<Matrix> =
        SHAPES.iter().enumerate().map(|(l, (r, c))| Matrix::noise(n, r * c, seed + 100 * l as u64)).collect();
    (stored(&parts, device), parts)
}

pub(crate) fn stored(parts: &[Matrix], device: &Device) -> Gradients {
    let layout: Vec<Block> =
        SHAPES.iter().enumerate().map(|(l, (r, c))| Block::new(format!("layer.{l}"), *r, *c)).collect();
    let blocks = parts.iter().zip(SHAPES);
    let blocks = blocks.map(|(m, (r, c))| tensor(m, device, DType::F32).reshape([m.rows, r, c])).collect();
    Gradients::new(layout, blocks).expect("shapes agree")
}

pub(crate) fn options(name: &str) -> Options {
    Options::named(name).expect("a method")
}

pub(crate) fn run(train: &Gradients, query: &Gradients, options: &Options) -> Attribution {
    attribute(train, query, CurvatureFrom::Training, options).unwrap_or_else(|e| panic!("{e}"))
}

fn flat(found: &Attribution) -> Vec<f64> {
    found.scores.rows.concat()
}

/// `X_l J_lᵀ` of each block for preconditioned queries by the definition.
pub(crate) fn parts(name: &str, train: &[Matrix], query: &[Matrix]) -> Vec<Matrix> {
    let parts = train.iter().zip(query).zip(SHAPES).map(|((j, v), (r, c))| {
        let lambda = relative_damping(j);
        let contracted = if r < c { Contracted::Rows } else { Contracted::Cols };
        let x = match name {
            "identity" => v.plus(0.0, v),
            "datainf" => datainf(j, lambda, v),
            "hyperinf" => exact(&gfim(j, r, c, contracted, true), lambda, v),
            _ => exact(&fisher(j), lambda, v),
        };
        scores(&x, j)
    });
    parts.collect()
}

/// The sum over blocks.
fn oracle(name: &str, train: &[Matrix], query: &[Matrix]) -> Vec<f64> {
    parts(name, train, query).into_iter().reduce(|a, b| a.plus(1.0, &b)).expect("two blocks").values
}

#[test]
fn methods_are_their_definitions() {
    for (device_name, device) in devices() {
        let ((train, j), (query, v)) = (set(20, 1, &device), set(3, 2, &device));
        // CG and LiSSA stop at their tolerances, 1e-6 and 1e-3 of the right-hand side, times the conditioning.
        for (name, tolerance) in
            [("identity", 1e-5), ("datainf", 1e-4), ("exact", 1e-5), ("hyperinf", 1e-5), ("cg", 1e-4), ("lissa", 2e-2)]
        {
            let found = run(&train, &query, &options(name));
            assert_close(&format!("{name}, {device_name}"), &flat(&found), &oracle(name, &j, &v), tolerance);
            assert!(found.blocks.iter().all(|b| b.converged()), "{name}: {:?}", found.blocks);
        }
    }
}

#[test]
fn cosine_is_taken_over_all_blocks_together() {
    for (_, device) in devices() {
        let ((train, j), (query, v)) = (set(6, 1, &device), set(2, 2, &device));
        let norm = |parts: &[Matrix], i: usize| parts.iter().flat_map(|m| m.row(i)).map(|g| g * g).sum::<f64>().sqrt();
        let mut expected = oracle("identity", &j, &v);
        expected.iter_mut().enumerate().for_each(|(k, s)| *s /= norm(&v, k / 6) * norm(&j, k % 6));
        assert_close("cosine", &flat(&run(&train, &query, &options("cosine"))), &expected, 1e-5);
        // A zero gradient has no direction: its score is 0, not NaN.
        let zero = Gradients { blocks: train.blocks.iter().map(|b| b.zeros_like()).collect(), ..train.clone() };
        assert!(flat(&run(&zero, &query, &options("cosine"))).iter().all(|s| *s == 0.0));
    }
}

/// The sets cut into batches; the sizes need not divide.
struct Batches(Vec<Gradients>);

impl hyperinf::scoring::Source for Batches {
    fn pass(&self, visit: &mut dyn FnMut(Batch) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.0.iter().try_for_each(|batch| visit(batch.clone().into()))
    }
}

fn cut(all: &Gradients, size: usize) -> Batches {
    let n = all.samples();
    let part = |start: usize| Gradients {
        layout: all.layout.clone(),
        blocks: all.blocks.iter().map(|b| b.clone().slice([start..(start + size).min(n)])).collect(),
    };
    Batches((0..n).step_by(size).map(part).collect())
}

#[test]
fn neither_batches_nor_the_order_of_samples_matter() {
    for (device_name, device) in devices() {
        // More samples than parameters of the second block, so that `Full` turns dense on the way.
        let ((train, j), (query, _)) = (set(30, 1, &device), set(3, 2, &device));
        let order: Vec<usize> = (0..30).map(|i| (i * 7) % 30).collect();
        let shuffled: Vec<Matrix> = j.iter().map(|m| Matrix::from_fn(30, m.cols, |i, k| m.at(order[i], k))).collect();
        for name in ["identity", "cosine", "datainf", "exact", "hyperinf", "cg"] {
            let at_once = flat(&run(&train, &query, &options(name)));
            let batched = attribute(&cut(&train, 7), &cut(&query, 2), CurvatureFrom::Training, &options(name))
                .expect("the same data");
            // Sums in another order differ by rounding, times the conditioning.
            assert_close(&format!("{name} batched, {device_name}"), &flat(&batched), &at_once, 1e-4);
            let permuted = flat(&run(&stored(&shuffled, &device), &query, &options(name)));
            let back: Vec<f64> = (0..3)
                .flat_map(|q| (0..30).map(move |i| (q, i)))
                .map(|(q, i)| permuted[q * 30 + order.iter().position(|o| *o == i).expect("a permutation")])
                .collect();
            assert_close(&format!("{name} permuted, {device_name}"), &back, &at_once, 1e-4);
        }
    }
}

#[test]
fn duplicates_keep_their_own_rows() {
    // docs/methods/pitfalls.md: rows keyed by content collapse.
    for (_, device) in devices() {
        let (_, j) = set(4, 1, &device);
        let twice: Vec<Matrix> = j.iter().map(|m| Matrix::from_fn(8, m.cols, |i, k| m.at(i % 4, k))).collect();
        let (query, _) = set(1, 2, &device);
        let found = flat(&run(&stored(&twice, &device), &query, &options("exact")));
        assert_eq!(found.len(), 8);
        assert_close("second half", &found[4..], &found[..4], 1e-6);
    }
}

#[test]
fn a_mean_query_gives_the_mean_of_the_scores() {
    for (_, device) in devices() {
        let ((train, _), (query, _)) = (set(20, 1, &device), set(5, 2, &device));
        for name in ["identity", "datainf", "exact", "hyperinf"] {
            let each = run(&train, &query, &options(name)).scores;
            let mean: Vec<f64> = (0..20).map(|i| each.rows.iter().map(|row| row[i]).sum::<f64>() / 5.0).collect();
            let found = run(&train, &query, &Options { query: QueryMode::Mean, ..options(name) });
            assert_eq!(found.scores.queries(), 1);
            assert_close(name, &flat(&found), &mean, 1e-4);
        }
    }
}

#[test]
fn merged_is_the_full_matrix() {
    for (_, device) in devices() {
        let ((train, j), (query, v)) = (set(20, 1, &device), set(3, 2, &device));
        let join = |parts: &[Matrix]| {
            let width = parts[0].cols;
            Matrix::from_fn(parts[0].rows, width + parts[1].cols, |i, k| {
                if k < width { parts[0].at(i, k) } else { parts[1].at(i, k - width) }
            })
        };
        let (j, v) = (join(&j), join(&v));
        let expected = scores(&exact(&fisher(&j), relative_damping(&j), &v), &j);
        let found = run(&train, &query, &Options { merged: true, ..options("exact") });
        assert_close("merged exact", &flat(&found), &expected.values, 1e-5);
        assert_eq!(found.blocks.len(), 1);
        // With one row to contract, the GFIM of the merged block is the full matrix too.
        let found = run(&train, &query, &Options { merged: true, ..options("hyperinf") });
        assert_close("merged hyperinf", &flat(&found), &expected.values, 1e-4);
    }
}

#[test]
fn blocks_one_at_a_time_are_all_blocks_at_once() {
    for (_, device) in devices() {
        let ((train, _), (query, _)) = (set(20, 1, &device), set(3, 2, &device));
        let one = |all: &Gradients, l: usize| {
            Gradients::new(vec![all.layout[l].clone()], vec![all.blocks[l].clone()]).expect("one block")
        };
        for name in ["identity", "cosine", "exact", "hyperinf"] {
            let mut scorer = Scorer::new(options(name)).expect("good options");
            for l in 0..2 {
                scorer.add(&one(&train, l), &one(&query, l), CurvatureFrom::Training).expect("good data");
            }
            let found = scorer.finish().expect("two blocks");
            assert_close(name, &flat(&found), &flat(&run(&train, &query, &options(name))), 1e-6);
        }
    }
}

#[test]
fn block_scores_sum_to_the_scores() {
    for (_, device) in devices() {
        let ((train, _), (query, _)) = (set(20, 1, &device), set(3, 2, &device));
        for name in ["identity", "exact", "hyperinf"] {
            let found = run(&train, &query, &Options { block_scores: true, ..options(name) });
            let names: Vec<_> = found.block_scores.iter().map(|(block, _)| block.name.as_str()).collect();
            assert_eq!(names, ["layer.0", "layer.1"]);
            let parts: Vec<Vec<f64>> = found.block_scores.iter().map(|(_, s)| s.rows.concat()).collect();
            let sum: Vec<f64> = parts[0].iter().zip(&parts[1]).map(|(a, b)| a + b).collect();
            assert_close(name, &sum, &flat(&found), 1e-9);
            assert!(run(&train, &query, &options(name)).block_scores.is_empty());
        }
    }
}

#[test]
fn self_influence_is_the_diagonal() {
    for (_, device) in devices() {
        let (train, j) = set(20, 1, &device);
        for name in ["identity", "datainf", "exact", "hyperinf", "cg"] {
            let full = oracle(name, &j, &j);
            let diagonal: Vec<f64> = (0..20).map(|i| full[i * 20 + i]).collect();
            let found = self_influence(&train, CurvatureFrom::Training, &options(name)).expect("good data");
            assert_close(name, &found.values, &diagonal, 1e-4);
            let batched = self_influence(&cut(&train, 6), CurvatureFrom::Training, &options(name)).expect("good data");
            assert_close(name, &batched.values, &diagonal, 1e-4);
        }
        // Normalised or not.
        let [cosine, identity] = ["cosine", "identity"]
            .map(|name| self_influence(&train, CurvatureFrom::Training, &options(name)).expect("good data").values);
        assert_eq!(cosine, identity);
    }
}

#[test]
fn a_block_without_any_gradient_contributes_nothing() {
    // A LoRA factor A before training: B is zero, so is its gradient.
    for (_, device) in devices() {
        let ((train, j), (query, v)) = (set(20, 1, &device), set(3, 2, &device));
        let zero = |all: &Gradients| {
            let mut all = all.clone();
            all.blocks[1] = all.blocks[1].zeros_like();
            all
        };
        let alone = scores(&exact(&fisher(&j[0]), relative_damping(&j[0]), &v[0]), &j[0]);
        let found = run(&zero(&train), &zero(&query), &options("exact"));
        assert_close("one block", &flat(&found), &alone.values, 1e-5);
        assert_eq!((found.blocks[1].lambda, found.blocks[1].residual), (None, 0.0));
        let nothing = Gradients { blocks: train.blocks.iter().map(|b| b.zeros_like()).collect(), ..train.clone() };
        let found = run(&nothing, &query, &options("hyperinf"));
        assert_eq!(flat(&found), vec![0.0; 60]);
    }
}

#[test]
fn a_curvature_of_zero_leaves_the_damping() {
    for (device_name, device) in devices() {
        let ((train, j), (query, v)) = (set(20, 1, &device), set(3, 2, &device));
        let without = |all: &Gradients| {
            let mut all = all.clone();
            all.blocks[1] = all.blocks[1].zeros_like();
            all
        };
        let other = without(&set(9, 3, &device).0);
        for name in ["exact", "datainf", "hyperinf", "shampoo"] {
            let what = format!("{name} on {device_name}");
            let absolute = Options { damping: Damping::Absolute(0.5), block_scores: true, ..options(name) };
            let found = attribute(&train, &query, CurvatureFrom::Source(&other), &absolute).expect("good data");
            assert_close(
                &what,
                &found.block_scores[1].1.rows.concat(),
                &scores(&v[1].plus(1.0, &v[1]), &j[1]).values,
                1e-5,
            );
            assert_eq!(found.blocks[1].lambda, Some(0.5), "{what}");

            let relative = options(name);
            for error in [
                attribute(&train, &query, CurvatureFrom::Source(&other), &relative).err(),
                self_influence(&train, CurvatureFrom::Source(&other), &relative).err(),
            ] {
                let named = matches!(&error, Some(ScoreError::NoCurvature { block }) if block == "layer.1");
                assert!(named, "{what}: {error:?}");
            }
            // Nothing is missed where the training gradients are zero too.
            let found =
                attribute(&without(&train), &query, CurvatureFrom::Source(&other), &relative).expect("good data");
            assert_eq!(found.blocks[1].lambda, None, "{what}");
        }
    }
}

#[test]
fn damping_scales_with_the_gradients_unless_it_is_absolute() {
    for (_, device) in devices() {
        let ((train, j), (query, v)) = (set(20, 1, &device), set(3, 2, &device));
        let found = run(&train, &query, &options("exact"));
        for (block, j) in found.blocks.iter().zip(&j) {
            let expected = relative_damping(j);
            let lambda = block.lambda.expect("gradients are not zero");
            assert!((lambda - expected).abs() <= 1e-6 * expected, "{lambda} for {expected}");
        }
        let absolute = Options { damping: Damping::Absolute(0.5), ..options("exact") };
        let found = run(&train, &query, &absolute);
        let parts = j.iter().zip(&v).map(|(j, v)| scores(&exact(&fisher(j), 0.5, v), j));
        let expected = parts.reduce(|a, b| a.plus(1.0, &b)).expect("two blocks");
        assert_close("absolute", &flat(&found), &expected.values, 1e-5);
        for bad in [Damping::Relative(0.0), Damping::Absolute(-1.0), Damping::Relative(f64::NAN)] {
            let error =
                attribute(&train, &query, CurvatureFrom::Training, &Options { damping: bad, ..options("exact") }).err();
            assert!(matches!(error, Some(ScoreError::Curvature(_))), "{error:?}");
        }
    }
}

#[test]
fn bad_gradients_are_named() {
    for (_, device) in devices() {
        let ((train, j), (query, v)) = (set(9, 1, &device), set(3, 2, &device));
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let spoil = |parts: &[Matrix], sample: usize| {
                let mut parts: Vec<Matrix> = parts.iter().map(|m| m.plus(0.0, m)).collect();
                let cols = parts[1].cols;
                parts[1].values[sample * cols + 3] = bad;
                stored(&parts, &device)
            };
            for name in ["identity", "cosine", "datainf", "exact", "hyperinf"] {
                let check = |train: &Gradients, query: &Gradients, which, at| match attribute(
                    &cut(train, 4),
                    &cut(query, 2),
                    CurvatureFrom::Training,
                    &options(name),
                )
                .err()
                {
                    Some(ScoreError::NonFinite { set, block, sample, .. }) => {
                        assert_eq!((set, block.as_str(), sample), (which, "layer.1", at), "{name}");
                    }
                    other => panic!("{name} with {bad}: {other:?}"),
                };
                check(&spoil(&j, 6), &query, Set::Train, 6);
                check(&train, &spoil(&v, 2), Set::Query, 2);
            }
        }
    }
}

#[test]
fn sets_that_do_not_fit_are_errors() {
    for (_, device) in devices() {
        let ((train, _), (query, _)) = (set(9, 1, &device), set(3, 2, &device));
        for name in ["identity", "exact"] {
            let empty = attribute(&Batches(Vec::new()), &query, CurvatureFrom::Training, &options(name)).err();
            assert!(matches!(empty, Some(ScoreError::Empty { set: Set::Train, .. })), "{empty:?}");
            let empty = attribute(&train, &Batches(Vec::new()), CurvatureFrom::Training, &options(name)).err();
            assert!(matches!(empty, Some(ScoreError::Empty { set: Set::Query, .. })), "{empty:?}");
            let mut renamed = query.clone();
            renamed.layout = vec![Block::new("layer.0", 3, 5), Block::new("other", 4, 2)].into();
            let error = attribute(&train, &renamed, CurvatureFrom::Training, &options(name)).err();
            assert!(matches!(error, Some(ScoreError::Gradients { .. })), "{error:?}");
        }
        let mut scorer = Scorer::new(options("identity")).expect("good options");
        scorer.add(&train, &query, CurvatureFrom::Training).expect("good data");
        let error = scorer.add(&cut(&train, 9).0[0].clone(), &set(2, 5, &device).0, CurvatureFrom::Training).err();
        assert!(matches!(error, Some(ScoreError::SampleCount { set: Set::Query, found: 2, expected: 3 })), "{error:?}");
        assert!(matches!(Scorer::new(options("exact")).expect("good").finish(), Err(ScoreError::Empty { .. })));
    }
}

#[test]
fn both_sides_of_the_gfim_can_be_had() {
    for (_, device) in devices() {
        let ((train, j), (query, v)) = (set(20, 1, &device), set(3, 2, &device));
        for (side, contracted) in [(Side::Rows, Contracted::Rows), (Side::Cols, Contracted::Cols)] {
            let storage = Gfim { side, ..Gfim::default() }.storage();
            let options = Options { method: Method::inverse(storage, Exact), ..Options::default() };
            let parts =
                j.iter().zip(&v).zip(SHAPES).map(|((j, v), (r, c))| {
                    scores(&exact(&gfim(j, r, c, contracted, true), relative_damping(j), v), j)
                });
            let expected = parts.reduce(|a, b| a.plus(1.0, &b)).expect("two blocks");
            assert_close(&format!("{side:?}"), &flat(&run(&train, &query, &options)), &expected.values, 1e-5);
        }
        assert!(matches!(Gfim::default().storage(), Storage::OneSided { side: Side::Short, .. }));
    }
}
