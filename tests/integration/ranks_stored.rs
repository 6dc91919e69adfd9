//! Scores of gradients that lie in files, by ranks: the bits of one process.

use std::path::{Path, PathBuf};
use std::thread::scope;

use burn::tensor::Device;
use hyperinf::curvature::Damping;
use hyperinf::data::{Crew, DEADLINE, RunError, StoredScoring};
use hyperinf::gradients::Block;
use hyperinf::scoring::{Attribution, MethodSpec, Normalisation, Options, QueryMode, TeamError, Threads};
use hyperinf::store::{Checkpoint, Directions, GradientFile, GradientPair, ProjectionSpec, tracin};
use hyperinf_tests::devices;
use proptest::prelude::*;
use proptest::test_runner::Config;

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
        let score = |place| leader.score(place, &mut checkpoints, device, |_| Ok::<_, Box<RunError>>(()));
        let found = (0..scoring.projections.len()).map(score).collect();
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
