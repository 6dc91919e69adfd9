//! Scores of gradients that lie in files, by ranks: the bits of one process.

use std::path::{Path, PathBuf};
use std::thread::scope;

use burn::tensor::Device;
use hyperinf::curvature::Damping;
use hyperinf::data::{Crew, DEADLINE, RunError, StoredScoring};
use hyperinf::gradients::Block;
use hyperinf::scoring::{Attribution, MethodSpec, Normalisation, Options, QueryMode, Scores, TeamError, Threads};
use hyperinf::store::{Checkpoint, Directions, GradientFile, GradientPair, ProjectionSpec, tracin};
use hyperinf_tests::compare::assert_close;
use hyperinf_tests::devices;
use proptest::prelude::*;
use proptest::test_runner::Config;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};

use crate::ranks_merged::gradients;

fn options(method: &str) -> Options {
    method.parse::<MethodSpec>().expect("a method").options().expect("its options")
}

fn layout() -> Vec<Block> {
    vec![Block::new("a", 2, 3), Block::new("b", 1, 5), Block::new("c", 4, 4)]
}

/// The files of a scoring.
struct Files {
    /// Of each checkpoint: training gradients and queries.
    moments: Vec<[PathBuf; 2]>,
    curvature: Option<PathBuf>,
    contrast: Option<PathBuf>,
    batch_bytes: usize,
}

impl Files {
    fn new(folder: &Path, samples: usize, queries: usize, moments: u64) -> Self {
        let of = |name: String, samples, seed| gradients(folder, &name, samples, &layout(), seed);
        let moment = |m: u64| [of(format!("train-{m}"), samples, 1 + m), of(format!("query-{m}"), queries, 50 + m)];
        Self { moments: (0..moments).map(moment).collect(), curvature: None, contrast: None, batch_bytes: 1 << 20 }
    }

    fn open(&self) -> Vec<Checkpoint> {
        let several = self.moments.len() > 1;
        let moment = |(place, [train, query]): (usize, &[PathBuf; 2])| {
            let pair = GradientPair::open(train, query).expect("they fit");
            let mut pair = pair.with(self.curvature.as_deref(), self.contrast.as_deref()).expect("they fit");
            pair.batch_bytes = self.batch_bytes;
            Checkpoint { pair, rate: several.then_some(0.5 + place as f64) }
        };
        self.moments.iter().enumerate().map(moment).collect()
    }
}

/// What rank 0 gets with so many ranks, each of which holds so many bytes of finished scores: one result for each
/// projection.
fn by_ranks(
    scoring: &StoredScoring,
    files: &Files,
    (ranks, held): (usize, usize),
    device: &Device,
) -> Vec<Result<Attribution, Box<RunError>>> {
    let crew = |team| Some(Crew::new(Box::new(team), DEADLINE).holding(held));
    let mut crews = Threads::team(ranks).into_iter().map(crew);
    let leader = StoredScoring { crew: crews.next().expect("a rank"), ..scoring.clone() };
    scope(move |scope| {
        for crew in crews {
            let helper = StoredScoring { crew, ..scoring.clone() };
            scope.spawn(move || helper.assist(&files.open(), device).map_err(Box::new).expect("it can help"));
        }
        let mut checkpoints = files.open();
        let mut score = |place| {
            let mut scores = Scores::default();
            let check = |_: &Attribution| Ok::<_, Box<RunError>>(());
            let found = leader.score_in_parts(place, &mut checkpoints, device, check, |more| {
                scores.rows.extend(more.rows);
                Ok(())
            });
            found.map(|found| Attribution { scores, ..found })
        };
        let found = (0..scoring.projections.len()).map(&mut score).collect();
        let crew = leader.crew.as_ref().expect("it has a crew");
        assert_eq!(crew.finish().map_err(Box::new).expect("all report").len(), ranks);
        found
    })
}

/// Everything that is computed, with the bits of the scores.
fn bits(found: &Attribution) -> (Vec<Vec<u64>>, String) {
    let Attribution { scores, blocks, block_scores, magnitudes } = found;
    let row = |row: &Vec<f64>| row.iter().map(|score| score.to_bits()).collect();
    (scores.rows.iter().map(row).collect(), format!("{blocks:?} {block_scores:?} {magnitudes:?}"))
}

proptest! {
    #![proptest_config(Config::with_cases(48))]

    /// Any number of samples, queries and ranks, some of which have nothing to do, of every kind of file.
    #[test]
    fn stored_scores_do_not_depend_on_ranks(
        samples in 1_usize..12,
        queries in 1_usize..4,
        moments in 1_u64..3,
        ranks in 1_usize..=5,
        method in prop::sample::select(vec!["identity", "hyperinf", "datainf", "exact", "diagonal", "shampoo", "cg"]),
        merged in any::<bool>(),
        normalisation in prop::sample::select(vec![
            Normalisation::None, Normalisation::Cosine, Normalisation::Gradient, Normalisation::LossRelatif,
            Normalisation::ThetaRelatif,
        ]),
        each in any::<bool>(),
        (curvature, contrast) in any::<(bool, bool)>(),
        projections in prop::sample::select(vec![0_usize, 1, 2]),
        batch in 1_usize..20,
        held in prop::sample::select(vec![0, 200, 1 << 30]),
    ) {
        let (_, device) = devices().remove(0);
        let folder = tempfile::tempdir().expect("the system has room for tests");
        let mut files = Files::new(folder.path(), samples, queries, moments);
        files.batch_bytes = 4 * 8 * batch;
        files.curvature = curvature.then(|| gradients(folder.path(), "curvature", samples + 3, &layout(), 90));
        files.contrast = contrast.then(|| gradients(folder.path(), "contrast", 2, &layout(), 91));
        let query = if each { QueryMode::Each } else { QueryMode::Mean };
        let options = Options { merged, normalisation, query, block_scores: !merged, ..options(method) };
        let first = ProjectionSpec { rank: 2, directions: Directions::Random { seed: 4 } };
        let projections: Vec<Option<ProjectionSpec>> = match projections {
            0 => vec![None],
            count => [first].into_iter().chain(first.further(count - 1)).map(Some).collect(),
        };
        let alone = |&projection: &Option<ProjectionSpec>| {
            let check = |_: &Attribution| Ok::<_, hyperinf::store::StoreError>(());
            tracin(&mut files.open(), projection, &options, &device, check).map_err(Box::new)
        };
        // Some cannot be scored, alone or together.
        if let Ok(expected) = projections.iter().map(alone).collect::<Result<Vec<_>, _>>() {
            let scoring = StoredScoring { options, projections, ..StoredScoring::default() };
            let found = by_ranks(&scoring, &files, (ranks, held), &device);
            let found: Vec<_> = found.into_iter().map(|found| bits(&found.expect("it can be scored"))).collect();
            prop_assert_eq!(found, expected.iter().map(bits).collect::<Vec<_>>());
        }
    }
}

/// What makes other scores is refused by name before any work.
#[test]
fn ranks_that_would_score_otherwise_are_refused() {
    let (_, device) = devices().remove(0);
    let folder = tempfile::tempdir().expect("the system has room for tests");
    let other_folder = tempfile::tempdir().expect("the system has room for tests");
    let files = Files::new(folder.path(), 9, 3, 1);
    let mut others = Files::new(other_folder.path(), 9, 3, 1);
    // The same names and shapes, and other numbers in one of the files.
    let other_train = gradients(other_folder.path(), "other", 9, &layout(), 33);
    let scoring = StoredScoring { options: options("hyperinf"), ..StoredScoring::default() };
    let damping = Options { damping: Damping::Relative(0.2), ..scoring.options.clone() };
    let mean = Options { query: QueryMode::Mean, ..scoring.options.clone() };
    let refused = |helper: &StoredScoring, others: &Files| {
        let mut team = Threads::team(2);
        let crew = |team| Some(Crew::new(Box::new(team), DEADLINE));
        let (helper, leader) = (
            StoredScoring { crew: crew(team.remove(1)), ..helper.clone() },
            StoredScoring { crew: crew(team.remove(0)), ..scoring.clone() },
        );
        scope(|scope| {
            let device = &device;
            scope.spawn(move || drop(helper.assist(&others.open(), device)));
            let score = |leader: &StoredScoring| {
                leader.score(0, &mut files.open(), device, |_| Ok::<_, Box<RunError>>(())).err()
            };
            let (found, again) = (score(&leader), score(&leader));
            drop(leader);
            assert!(matches!(again.as_deref(), Some(RunError::Team(TeamError::OutOfStep))), "{again:?}");
            match found.map(|error| *error) {
                Some(RunError::Team(TeamError::Differs { rank: 1, what, .. })) => what,
                other => panic!("{other:?}"),
            }
        })
    };
    let with = |options| StoredScoring { options, ..scoring.clone() };
    assert_eq!(refused(&with(damping), &others), "method and its settings 1");
    assert_eq!(refused(&with(mean), &others), "queries one by one");
    let projected = StoredScoring { projections: vec![Some(ProjectionSpec::default())], ..scoring.clone() };
    assert_eq!(refused(&projected, &others), "method and its settings 1");
    others.moments[0][0] = other_train;
    assert_eq!(refused(&scoring, &others), "content of the training gradients 1");
}

/// An excerpt tells files of other numbers, names and shapes apart.
#[test]
fn excerpts_tell_files_apart() {
    let folder = tempfile::tempdir().expect("the system has room for tests");
    let excerpt = |name: &str, samples, layout: &[Block], seed| {
        let path = gradients(folder.path(), name, samples, layout, seed);
        let file = GradientFile::open(&path).expect("it was written");
        (file.excerpt().expect("it can be read"), file.fingerprint().expect("it can be read"))
    };
    let first = excerpt("first", 9, &layout(), 1);
    // Reading an excerpt does not change the hash of the whole file.
    let file = GradientFile::open(&folder.path().join("first")).expect("it was written");
    assert_eq!(file.fingerprint().expect("it can be read"), first.1);
    assert_eq!(excerpt("same", 9, &layout(), 1), first);
    let renamed = [Block::new("a", 2, 3), Block::new("b", 1, 5), Block::new("d", 4, 4)];
    let turned = [Block::new("a", 3, 2), Block::new("b", 1, 5), Block::new("c", 4, 4)];
    let others = [
        excerpt("seed", 9, &layout(), 2),
        excerpt("renamed", 9, &renamed, 1),
        excerpt("turned", 9, &turned, 1),
        excerpt("longer", 10, &layout(), 1),
        excerpt("single", 1, &layout(), 1),
    ];
    assert!(others.iter().all(|other| other.0 != first.0));
}

/// Parts of the queries give the scores of all at once, by one rank and by several, with the reports of all of them.
#[test]
fn scores_in_parts_are_those_of_all_at_once() {
    let (_, device) = devices().remove(0);
    for (method, normalisation, moments) in [
        ("identity", Normalisation::None, 1),
        ("hyperinf", Normalisation::Cosine, 2),
        ("datainf", Normalisation::Gradient, 1),
        ("exact", Normalisation::None, 2),
        ("shampoo", Normalisation::LossRelatif, 1),
        ("exact:merged", Normalisation::None, 1),
    ] {
        let folder = tempfile::tempdir().expect("the system has room for tests");
        let files = Files::new(folder.path(), 9, 7, moments);
        let options = Options { normalisation, query: QueryMode::Each, ..options(method) };
        let whole = StoredScoring { options, ..StoredScoring::default() };
        let expected = by_ranks(&whole, &files, (1, 1 << 20), &device).remove(0).expect("it can be scored");
        assert_eq!((expected.scores.queries(), expected.scores.samples()), (7, 9));
        for at_once in [1, 9, 20, 40] {
            let parts = StoredScoring { at_once, ..whole.clone() };
            for ranks in [1, 3] {
                let found = by_ranks(&parts, &files, (ranks, 1 << 20), &device).remove(0).expect("it can be scored");
                let what = format!("{method}, {at_once} at once, {ranks} ranks");
                assert_close(&what, &found.scores.rows.concat(), &expected.scores.rows.concat(), 1e-9);
                let shares = |found: &Attribution| found.shares().iter().map(|(_, share)| *share).collect::<Vec<_>>();
                assert_close(&what, &shares(&found), &shares(&expected), 1e-9);
                assert_eq!(found.blocks.len(), expected.blocks.len(), "{what}");
                for (found, expected) in found.blocks.iter().zip(&expected.blocks) {
                    assert_eq!((&found.block, found.lambda), (&expected.block, expected.lambda), "{what}");
                    assert_eq!(found.converged(), expected.converged(), "{what}");
                }
            }
        }
        let mut sizes = Vec::new();
        let mut checkpoints = files.open();
        let parts = StoredScoring { at_once: 20, ..whole };
        let found = parts.score_in_parts(
            0,
            &mut checkpoints,
            &device,
            |_| Ok::<_, Box<RunError>>(()),
            |more| {
                sizes.push((more.queries(), more.samples()));
                Ok(())
            },
        );
        assert_eq!(found.expect("it can be scored").scores.queries(), 0);
        assert_eq!(sizes, [(2, 9), (2, 9), (2, 9), (1, 9)], "{method}");
        assert!(checkpoints.iter().all(|checkpoint| checkpoint.pair.asked().is_none()));
        // A choice of the caller is one of parts, too, and stays; so it does after an error.
        checkpoints.iter_mut().for_each(|checkpoint| checkpoint.pair.ask_some(Some(2..7)));
        let mut rows = Vec::new();
        let check = |_: &Attribution| Ok::<_, Box<RunError>>(());
        let found = parts.score_in_parts(0, &mut checkpoints, &device, check, |more| {
            rows.extend(more.rows);
            Ok(())
        });
        assert_eq!(found.expect("it can be scored").blocks.len(), expected.blocks.len());
        assert_close(method, &rows.concat(), &expected.scores.rows[2..].concat(), 1e-9);
        let stop = |_: Scores| Err(Box::new(RunError::from(TeamError::OutOfStep)));
        assert!(parts.score_in_parts(0, &mut checkpoints, &device, check, stop).is_err());
        assert!(checkpoints.iter().all(|checkpoint| checkpoint.pair.asked() == Some(2..7)), "{method}");
    }
}

/// A query is named by its place in the file, whatever part it is in.
#[test]
fn a_bad_query_of_a_part_is_named() {
    let (_, device) = devices().remove(0);
    let folder = tempfile::tempdir().expect("the system has room for tests");
    let layout = [Block::new("a", 1, 2)];
    let train = gradients(folder.path(), "train", 3, &layout, 1);
    let rows = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [f32::NAN, 1.0], [0.0, 1.0]];
    let query = folder.path().join("bad.safetensors");
    let bytes: Vec<u8> = rows.iter().flatten().flat_map(|value: &f32| value.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![5, 1, 2], &bytes).expect("the shape fits");
    serialize_to_file([("a", view)], None, &query).expect("it can be written");
    let mut checkpoints = vec![Checkpoint { pair: GradientPair::open(&train, &query).expect("they fit"), rate: None }];
    let scoring = StoredScoring { options: options("identity"), at_once: 6, ..StoredScoring::default() };
    let check = |_: &Attribution| Ok::<_, Box<RunError>>(());
    let error = scoring.score_in_parts(0, &mut checkpoints, &device, check, |_| Ok(())).expect_err("NaN");
    let text = error.to_string();
    assert!(text.contains("sample 3") && text.contains("bad.safetensors"), "{text}");
}
