//! Each block's share of the scores.

use hyperinf::gradients::Gradients;
use hyperinf::scoring::{Attribution, Checkpoint, CurvatureFrom, Normalisation, Options, Scorer, sweep, tracin};
use hyperinf_tests::compare::assert_close;
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

use crate::scoring::{options, parts, run, set, stored};

fn one(all: &Gradients, block: usize) -> Gradients {
    Gradients::new(vec![all.layout[block].clone()], vec![all.blocks[block].clone()]).expect("a block")
}

#[test]
fn shares_of_blocks_are_those_of_their_absolute_scores() {
    for (_, device) in devices() {
        let ((train, j), (query, v)) = (set(20, 1, &device), set(3, 2, &device));
        for name in ["identity", "datainf", "exact", "hyperinf"] {
            let sizes: Vec<f64> =
                parts(name, &j, &v).iter().map(|part| part.values.iter().map(|score| score.abs()).sum()).collect();
            let expected: Vec<f64> = sizes.iter().map(|size| size / sizes.iter().sum::<f64>()).collect();
            let check = |found: &Attribution, what: &str| {
                let names: Vec<&str> = found.shares().iter().map(|(block, _)| block.name.as_str()).collect();
                assert_eq!(names, ["layer.0", "layer.1"], "{what}");
                let found: Vec<f64> = found.shares().iter().map(|(_, share)| *share).collect();
                assert_close(what, &found, &expected, 1e-4);
            };
            check(&run(&train, &query, &options(name)), name);
            // They are taken before any divisor.
            let cosine = Options { normalisation: Normalisation::Cosine, ..options(name) };
            check(&run(&train, &query, &cosine), &format!("cosine of {name}"));
            for found in sweep(&train, &query, CurvatureFrom::Training, &options(name), &[options(name).damping; 2])
                .expect("two dampings")
            {
                check(&found, &format!("sweep of {name}"));
            }
            // Over checkpoints, and block by block.
            let at = |learning_rate| Checkpoint {
                learning_rate,
                train: &train,
                query: &query,
                curvature: CurvatureFrom::Training,
            };
            let found = tracin(&[at(0.5), at(0.25)], &options(name)).expect("two checkpoints");
            check(&found, &format!("checkpoints of {name}"));
            assert_close(name, &[found.magnitudes[1].1], &[0.75 * sizes[1]], 1e-4);
            let mut scorer = Scorer::new(options(name)).expect("good options");
            for block in 0..2 {
                let (train, query) = (one(&train, block), one(&query, block));
                scorer.add(&train, &query, CurvatureFrom::Training).expect("good data");
            }
            check(&scorer.finish().expect("two blocks"), &format!("blocks of {name}"));
        }
        let zero = stored(&j.iter().map(|j| Matrix::from_fn(j.rows, j.cols, |_, _| 0.0)).collect::<Vec<_>>(), &device);
        let found = run(&zero, &query, &options("hyperinf"));
        assert!(found.shares().iter().all(|(_, share)| *share == 0.0), "{:?}", found.shares());
    }
}
