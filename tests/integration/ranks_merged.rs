//! Merged blocks that ranks share, batch by batch.

use std::path::{Path, PathBuf};

use burn::tensor::DType;
use hyperinf::curvature::{Accumulator, Storage};
use hyperinf::gradients::Block;
use hyperinf::scoring::{BlockScores, MethodSpec, Normalisation, Options, QueryMode, Scorer};
use hyperinf::store::{GradientPair, GradientWriter, RunKey, curvatures, row_share, score, score_rows, sum_rows};
use hyperinf_tests::compare::tensor;
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;
use proptest::prelude::*;
use proptest::test_runner::Config;

fn options(method: &str) -> Options {
    method.parse::<MethodSpec>().expect("a method").options().expect("its options")
}

/// A file of gradients of some blocks.
pub fn gradients(folder: &Path, name: &str, samples: usize, layout: &[Block], seed: u64) -> PathBuf {
    let mut writer =
        GradientWriter::open(folder, name, &RunKey::default(), samples, layout).expect("it can be written");
    let of = |(place, block): (usize, &Block)| {
        let rows = Matrix::noise(samples, block.parameters(), seed + 7 * place as u64);
        let (_, device) = devices().remove(0);
        let data = tensor(&rows, &device, DType::F32).into_data();
        data.try_into_vec::<f32>().expect("it is f32")
    };
    let values: Vec<Vec<f32>> = layout.iter().enumerate().map(of).collect();
    let all: Vec<usize> = (0..samples).collect();
    writer.write(&all, &vec![0.0; samples], &values).expect("it can be written");
    let path = folder.join(name);
    writer.place(&path).expect("it can be moved");
    path
}

proptest! {
    #![proptest_config(Config::with_cases(24))]

    /// Batches of merged blocks, summed and scored apart and put together in their order: the bits of one process.
    #[test]
    fn merged_batches_are_those_of_one_process(
        n in 1_usize..40,
        batch in 1_usize..12,
        method in prop::sample::select(vec![
            "identity", "cosine", "hyperinf", "exact", "cg", "diagonal", "shampoo", "datainf",
        ]),
        normalisation in prop::sample::select(vec![
            Normalisation::None, Normalisation::Cosine, Normalisation::Gradient, Normalisation::LossRelatif,
            Normalisation::ThetaRelatif,
        ]),
        each in any::<bool>(),
    ) {
        for (name, device) in devices() {
            let folder = tempfile::tempdir().expect("the system has room for tests");
            let layout = [Block::new("a", 2, 3), Block::new("b", 1, 5)];
            let train = gradients(folder.path(), "train", n, &layout, 1);
            let query = gradients(folder.path(), "query", 3, &layout, 2);
            let mut pair = GradientPair::open(&train, &query).expect("they fit");
            pair.batch_bytes = 4 * 11 * batch;
            let query = if each { QueryMode::Each } else { QueryMode::Mean };
            let options = Options { merged: true, normalisation, query, block_scores: true, ..options(method) };
            let Ok(expected) = score(&pair, None, &options, &device) else { continue };
            let Some(share) = row_share(&pair, &options, &device) else { continue };
            prop_assert_eq!(share.batches, n.div_ceil(batch));
            let mut known = curvatures(&pair, &options, &device).expect("there are samples").pop();
            if let Some(storage) = share.sum {
                let mut sum = Accumulator::new(share.block.clone(), storage).expect("it is small");
                for place in 0..share.batches {
                    let mut add = |more| Ok(sum.merge_matrix(more)?);
                    sum_rows(&pair, &share, &options, &device, &[place], &mut add).expect("finite numbers");
                }
                prop_assert!(!sum.end_pass().expect("there are samples"));
                let summed = sum.finish().expect("there are samples");
                prop_assert_eq!(format!("{summed:?}"), format!("{:?}", known.as_ref().expect("a curvature")));
                known = Some(summed);
            }
            let mut whole: Option<BlockScores> = None;
            for place in 0..share.batches {
                let mut add = |more| {
                    match &mut whole {
                        None => whole = Some(more),
                        Some(whole) => whole.append(more),
                    }
                    Ok(())
                };
                score_rows(&pair, known.as_ref(), &options, &device, &[place], &mut add).expect("finite numbers");
            }
            let mut scorer = Scorer::new(Options { merged: false, ..options.clone() }).expect("a positive damping");
            scorer.merge(whole.expect("there are batches")).expect("the first block");
            let found = scorer.finish().expect("there are scores");
            prop_assert!(found.scores == expected.scores, "{} {}", method, name);
            prop_assert_eq!(found.blocks, expected.blocks);
            prop_assert_eq!(found.block_scores, expected.block_scores);
            prop_assert_eq!(found.magnitudes, expected.magnitudes);
        }
    }
}

/// What several ranks can share of merged blocks, and what not.
#[test]
fn merged_blocks_are_shared_where_they_can_be() {
    let (_, device) = devices().remove(0);
    let folder = tempfile::tempdir().expect("the system has room for tests");
    let layout = [Block::new("a", 2, 3), Block::new("b", 1, 5)];
    let train = gradients(folder.path(), "train", 30, &layout, 1);
    let mut pair = GradientPair::open(&train, &train).expect("they fit");
    pair.batch_bytes = 4 * 11 * 7;
    let of = |method: &str| Options { merged: true, ..options(method) };
    let share = |options: &Options| row_share(&pair, options, &device).map(|share| (share.batches, share.sum));
    assert_eq!(share(&of("exact")), Some((5, Some(Storage::Dense))));
    assert_eq!(share(&of("identity")), Some((5, None)));
    assert_eq!(share(&of("diagonal")), Some((5, None)));
    let normalised = Options { normalisation: Normalisation::LossRelatif, ..of("exact") };
    assert_eq!(share(&normalised), Some((5, Some(Storage::Dense))));
    // Samples are held, or the blocks are not merged.
    assert_eq!(share(&of("datainf")), None);
    assert_eq!(share(&options("exact")), None);
}
