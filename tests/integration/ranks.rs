//! Ranks: messages, owners, and scores of blocks that travel.

use std::fs;
use std::str::FromStr;
use std::thread::scope;
use std::time::Duration;

use burn::tensor::{DType, Device};
use hyperinf::curvature::Damping;
use hyperinf::data::{Crew, DEADLINE, Run, RunError};
use hyperinf::gradients::{Block, Gradients};
use hyperinf::scoring::{
    BlockScores, CurvatureFrom, MethodSpec, Normalisation, Options, Scorer, Team, TeamError, Threads, attribute, owners,
};
use hyperinf_tests::compare::tensor;
use hyperinf_tests::oracle::Matrix;
use hyperinf_tests::{devices, fixtures};
use proptest::prelude::*;

const SOON: Duration = Duration::from_millis(30);

#[test]
fn messages_arrive_whole_and_in_order() {
    let mut team = Threads::team(3);
    let (two, one, zero) = (team.remove(2), team.remove(1), team.remove(0));
    assert_eq!((zero.rank(), one.rank(), two.rank(), two.size()), (0, 1, 2, 3));
    scope(|scope| {
        scope.spawn(|| {
            for length in [0_usize, 1, 100_000, 7] {
                two.send(0, &vec![7; length]).expect("rank 0 is there");
            }
        });
        for length in [0_usize, 1, 100_000, 7] {
            assert_eq!(zero.receive(2, DEADLINE, "bytes").expect("rank 2 sends"), vec![7; length]);
        }
    });
    assert_eq!(zero.try_receive(2), Ok(None));
    two.send(0, b"here").expect("rank 0 is there");
    assert_eq!(zero.try_receive(2), Ok(Some(b"here".to_vec())));
    zero.broadcast(b"all").expect("both are there");
    assert_eq!(one.receive(0, SOON, "a word").expect("it was sent"), b"all");
    assert_eq!(two.receive(0, SOON, "a word").expect("it was sent"), b"all");
    let late = TeamError::Late { here: 0, rank: 1, what: "the gradients of a batch", seconds: 0 };
    assert_eq!(zero.receive(1, SOON, "the gradients of a batch"), Err(late));
    drop(one);
    assert_eq!(zero.receive(1, DEADLINE, "a word"), Err(TeamError::Gone { rank: 1 }));
    assert_eq!(zero.try_receive(1), Err(TeamError::Gone { rank: 1 }));
    assert_eq!(zero.send(1, b""), Err(TeamError::Gone { rank: 1 }));
}

proptest! {
    /// The heaviest first, each to the least loaded: at most 4/3 of the best split (Graham 1969).
    #[test]
    fn work_is_spread(weights in prop::collection::vec(0.0..1e6_f64, 0..200), ranks in 1_usize..70) {
        let found = owners(&weights, ranks);
        prop_assert_eq!(found.len(), weights.len());
        let mut loads = vec![0.0; ranks];
        found.iter().zip(&weights).for_each(|(&owner, weight)| loads[owner] += weight);
        let (most, total) = (loads.iter().copied().fold(0.0, f64::max), weights.iter().sum::<f64>());
        let heaviest = weights.iter().copied().fold(0.0, f64::max);
        prop_assert!(most <= (total / ranks as f64 + heaviest) * (1.0 + 1e-9));
    }
}

/// LoRA on all linear layers of Llama 2: at 64 ranks no rank has more than 10 % above its share of HyperINF's work.
#[test]
fn blocks_of_real_models_are_spread_evenly() {
    for (layers, width, inner, key_width) in [(32, 4096, 11008, 4096), (40, 5120, 13824, 5120), (80, 8192, 28672, 1024)]
    {
        let linear = [(width, width), (width, key_width), (width, key_width), (width, width)];
        let linear = linear.into_iter().chain([(width, inner), (width, inner), (inner, width)]);
        let rank = 8;
        let layer: Vec<usize> = linear.flat_map(|(from, to)| [from * rank, rank * to]).collect();
        // A block's work is its gradients' products with its short side, of the adapter's rank, and with the queries.
        let weights: Vec<f64> = (0..layers).flat_map(|_| layer.iter().map(|&numbers| numbers as f64)).collect();
        for ranks in [2, 8, 64] {
            let mut loads = vec![0.0; ranks];
            owners(&weights, ranks).into_iter().zip(&weights).for_each(|(owner, weight)| loads[owner] += weight);
            let most = loads.iter().copied().fold(0.0, f64::max);
            let balance = weights.iter().sum::<f64>() / ranks as f64 / most;
            assert!(balance >= 0.9, "{layers} layers, {ranks} ranks: {balance}");
        }
    }
}

/// Of so many samples, in three blocks.
fn gradients(samples: usize, seed: u64, device: &Device) -> Gradients {
    let layout = [Block::new("a", 3, 4), Block::new("b", 5, 2), Block::new("c", 1, 6)];
    let of = |(place, block): (usize, &Block)| {
        let rows = Matrix::noise(samples, block.parameters(), seed + 10 * place as u64);
        tensor(&rows, device, DType::F32).reshape([samples, block.rows, block.cols])
    };
    let blocks = layout.iter().enumerate().map(of).collect();
    Gradients::new(layout, blocks).expect("blocks of their own shape")
}

/// Each block by itself, through bytes, is all blocks together.
#[test]
fn blocks_that_travel_are_those_of_one_process() {
    for (name, device) in devices() {
        let (train, query) = (gradients(7, 1, &device), gradients(3, 2, &device));
        for word in ["identity", "hyperinf", "datainf", "exact", "lissa", "ekfac", "shampoo", "cg"] {
            let spec: MethodSpec = word.parse().expect("a method");
            for normalisation in [Normalisation::None, Normalisation::Cosine, Normalisation::LossRelatif] {
                let options = Options { normalisation, block_scores: true, ..spec.options().expect("its options") };
                let Ok(whole) = attribute(&train, &query, CurvatureFrom::Training, &options) else { continue };
                let mut scorer = Scorer::new(options.clone()).expect("the damping is positive");
                for (place, block) in train.layout.iter().enumerate() {
                    let only = |all: &Gradients| {
                        Gradients::new([block.clone()], vec![all.blocks[place].clone()]).expect("its own shape")
                    };
                    let found = BlockScores::new(&only(&train), &only(&query), CurvatureFrom::Training, &options)
                        .expect("the block alone can be scored");
                    // Pieces of one number, of an odd number of them, and all at once.
                    let most = [1, 40, 1 << 20][place % 3];
                    let pieces: Vec<Vec<u8>> = found.pieces(most).collect();
                    assert_eq!(pieces.iter().map(Vec::len).sum::<usize>(), found.bytes());
                    assert!(pieces.iter().all(|piece| piece.len() <= most.max(8)));
                    let mut arriving = scorer.begin(&found.head(), block).expect("as written");
                    for (number, piece) in pieces.iter().enumerate() {
                        let whole = scorer.take(&mut arriving, piece).expect("as written");
                        assert_eq!(whole, number + 1 == pieces.len());
                    }
                }
                let found = scorer.finish().expect("all blocks");
                assert!(found.scores == whole.scores, "{word}, {normalisation:?}, {name}");
                assert_eq!((found.blocks, found.block_scores), (whole.blocks, whole.block_scores), "{word}, {name}");
            }
        }
    }
}

/// Messages that were cut, or are those of other sizes, are refused.
#[test]
fn damaged_scores_are_refused() {
    let (_, device) = devices().remove(0);
    let options = MethodSpec::from_str("cosine").expect("a method").options().expect("its options");
    let block = Block::new("a", 3, 4);
    let of = |samples: usize| {
        let only = |samples, seed| {
            let all = gradients(samples, seed, &device);
            Gradients::new([block.clone()], vec![all.blocks[0].clone()]).expect("its own shape")
        };
        BlockScores::new(&only(samples, 1), &only(2, 2), CurvatureFrom::Training, &options).expect("it can be scored")
    };
    let scores = of(5);
    let whole = scores.pieces(1 << 20).next().expect("one piece");
    let begin = || Scorer::new(options.clone()).expect("the damping is positive");
    for damaged in [&scores.head()[..3], &[]] {
        assert!(begin().begin(damaged, &block).is_err());
    }
    for damaged in [&whole[..whole.len() - 1], &[], &[&whole[..], &[0; 8]].concat()] {
        let mut scorer = begin();
        let mut arriving = scorer.begin(&scores.head(), &block).expect("as written");
        assert!(scorer.take(&mut arriving, damaged).is_err());
    }
    let mut scorer = begin();
    scorer.merge(scores).expect("the first block");
    assert!(scorer.begin(&of(6).head(), &block).is_err());
}

/// Ranks that would score by other settings, or other rows, are refused before any work, by name.
#[test]
fn ranks_that_differ_are_refused() {
    let (_, device) = devices().remove(0);
    let folder = tempfile::tempdir().expect("the system has room for tests");
    let write = |name: &str, texts: [&str; 3]| {
        let rows = texts.iter().enumerate().map(|(i, text)| format!("{{\"text\": \"{text}\", \"label\": {i}}}\n"));
        let path = folder.path().join(name);
        fs::write(&path, rows.collect::<String>()).expect("the folder can be written");
        path
    };
    let train = write("train.jsonl", ["the fox rests", "a small river", "old fox"]);
    let other = write("other.jsonl", ["the fox rests", "a small river", "old river"]);
    let model = fixtures::path("transformers/bert");
    let run = Run {
        model: model.display().to_string(),
        adapter: Some(model.join("query_value")),
        train: train.clone(),
        query: train,
        out: folder.path().join("out"),
        ..Run::default()
    };
    let damping = Options { damping: Damping::Relative(0.2), ..run.options.clone() };
    let merged = Options { merged: true, ..run.options.clone() };
    let cases = [
        (Run { options: damping, ..run.clone() }, "method and its settings"),
        (Run { options: merged, ..run.clone() }, "method and its settings"),
        (Run { batch_size: 2, ..run.clone() }, "batch size"),
        (Run { train: other, ..run.clone() }, "content of training rows"),
    ];
    for (differing, expected) in cases {
        let mut team = Threads::team(2);
        let (helper, leader) = (team.remove(1), team.remove(0));
        let with = |run: &Run, team| Run { crew: Some(Crew::new(Box::new(team), DEADLINE)), ..run.clone() };
        let (leader, helper) = (with(&run, leader), with(&differing, helper));
        let found = scope(|scope| {
            let device = &device;
            scope.spawn(move || drop(Run::assist(&[helper], &[], device)));
            let found = leader.attribute(device, &mut |_| ()).err().map(Box::new);
            drop(leader);
            found
        });
        match found.as_deref() {
            Some(RunError::Team(TeamError::Differs { rank: 1, what, .. })) => assert_eq!(what, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

/// A crew whose helper never answers, or is gone.
#[test]
fn nobody_waits_for_ever() {
    let (_, device) = devices().remove(0);
    let mut team = Threads::team(2);
    let (helper, leader) = (team.remove(1), team.remove(0));
    let run = Run { crew: Some(Crew::new(Box::new(helper), SOON)), ..Run::default() };
    // A model that is not there fails before any waiting.
    assert!(Run::assist(&[run], &[], &device).is_err());
    let crew = Crew::new(Box::new(leader), SOON);
    assert!(matches!(crew.finish(), Err(RunError::Team(TeamError::Gone { rank: 1 }))));
}
