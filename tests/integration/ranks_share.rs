//! Every step that ranks share, against one process: the same bits, whatever the rows, the batches and the ranks.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::scope;

use burn::tensor::Device;
use hyperinf::data::{
    Crew, DEADLINE, Duplicates, Index, Influence, Prediction, Run, RunError, Select, Selection, TokenScores,
};
use hyperinf::gradients::Estimate;
use hyperinf::scoring::{Amount, MethodSpec, Normalisation, Options, QueryMode, Threads};
use hyperinf_tests::{devices, fixtures};
use proptest::prelude::*;
use proptest::test_runner::Config;

/// Rows of three labels and different lengths.
fn rows(path: &Path, count: usize, first: usize) -> PathBuf {
    const THINGS: [&str; 4] = ["the fox rests", "a small river", "old fox under the tree", "the boat"];
    let row = |i: usize| {
        let text = format!("{} {}", THINGS[i % 4], "and so on ".repeat(i * 7 % 3));
        format!("{{\"text\": \"{text}\", \"label\": {}}}\n", i % 3)
    };
    fs::write(path, (first..first + count).map(row).collect::<String>()).expect("the folder can be written");
    path.to_owned()
}

fn run_in(folder: &Path, train: usize, query: usize) -> Run {
    let model = fixtures::path("transformers/bert");
    Run {
        model: model.display().to_string(),
        adapter: Some(model.join("query_value")),
        train: rows(&folder.join("train.jsonl"), train, 0),
        query: rows(&folder.join("query.jsonl"), query, 1),
        batch_size: 2,
        ..Run::default()
    }
}

/// What rank 0 gets with so many ranks, each of which holds so many bytes of finished scores.
fn by_ranks<T>(
    run: &Run,
    targets: &[PathBuf],
    (ranks, held): (usize, usize),
    device: &Device,
    lead: impl FnOnce(&Run) -> Result<T, Box<RunError>>,
) -> T {
    let with = |team| Run { crew: Some(Crew::new(Box::new(team), DEADLINE).holding(held)), ..run.clone() };
    let mut runs: Vec<Run> = Threads::team(ranks).into_iter().map(with).collect();
    scope(|scope| {
        let leader = runs.remove(0);
        let assist = |run| scope.spawn(move || Run::assist(&[run], targets, device).map_err(Box::new));
        let helpers: Vec<_> = runs.drain(..).map(assist).collect();
        let found = lead(&leader);
        let reports = leader.crew.as_ref().map(|crew| crew.finish().map_err(Box::new));
        drop(leader);
        for helper in helpers {
            helper.join().expect("it does not panic").expect("it can help");
        }
        let found = found.expect("rank 0 has a result");
        assert_eq!(reports.expect("it has a crew").expect("all report").len(), ranks);
        found
    })
}

/// The bits of everything that a run computes.
#[derive(Debug, PartialEq)]
struct Bits {
    scores: Vec<Vec<u64>>,
    blocks: String,
    magnitudes: Vec<u64>,
    predictions: Vec<Prediction>,
    positions: Vec<TokenScores>,
}

fn bits(found: &Influence) -> Bits {
    let Influence { attribution, train, query, positions, .. } = found;
    let of = |row: &Vec<f64>| row.iter().map(|score| score.to_bits()).collect();
    Bits {
        scores: attribution.scores.rows.iter().map(of).collect(),
        blocks: format!("{:?} {:?}", attribution.blocks, attribution.block_scores),
        magnitudes: attribution.magnitudes.iter().map(|(_, magnitude)| magnitude.to_bits()).collect(),
        predictions: [&train.predictions[..], &query.predictions].concat(),
        positions: positions.clone(),
    }
}

fn attributed(run: &Run, device: &Device) -> Result<Bits, Box<RunError>> {
    let found = run.attribute(device, &mut |_| ())?;
    let bits = bits(&found);
    found.discard_gradients()?;
    Ok(bits)
}

fn options(method: &str) -> Options {
    method.parse::<MethodSpec>().expect("a method").options().expect("its options")
}

proptest! {
    #![proptest_config(Config::with_cases(24))]

    /// Predictions, scores and token scores of any number of rows by any number of ranks, some of which have nothing.
    #[test]
    fn attributions_do_not_depend_on_ranks(
        train in 1_usize..9,
        query in 1_usize..4,
        ranks in 1_usize..=5,
        batch_size in 1_usize..4,
        method in prop::sample::select(vec!["identity", "hyperinf", "datainf", "exact", "diagonal", "shampoo", "cg"]),
        merged in any::<bool>(),
        normalisation in prop::sample::select(vec![
            Normalisation::None, Normalisation::Cosine, Normalisation::Gradient, Normalisation::LossRelatif,
        ]),
        each in any::<bool>(),
        positions in prop::option::of(1_usize..3),
        // Of three numbers of a block, or all of them.
        batch_bytes in prop::sample::select(vec![1, 20_000, 256 << 20]),
        held in prop::sample::select(vec![0, 200, 1 << 30]),
    ) {
        let (_, device) = devices().remove(0);
        let folder = tempfile::tempdir().expect("the system has room for tests");
        let query_mode = if each { QueryMode::Each } else { QueryMode::Mean };
        let options = Options { merged, normalisation, query: query_mode, block_scores: !merged, ..options(method) };
        let run = Run { options, batch_size, positions, batch_bytes, ..run_in(folder.path(), train, query) };
        let alone = Run { out: folder.path().join("alone"), ..run.clone() };
        // Some cannot be scored, alone or together.
        if let Ok(expected) = attributed(&alone, &device) {
            let together = Run { out: folder.path().join("together"), ..run };
            let found = by_ranks(&together, &[], (ranks, held), &device, |run| attributed(run, &device));
            prop_assert_eq!(found, expected);
        }
    }
}

/// The influence of rows on themselves, the products of rows, and the scores for further files.
#[test]
fn detection_and_selection_do_not_depend_on_ranks() {
    for (name, device) in devices() {
        let folder = tempfile::tempdir().expect("the system has room for tests");
        let targets = [rows(&folder.path().join("target.jsonl"), 3, 2)];
        let diverse = Select { diverse: Some(0.5), targets: targets.to_vec(), ..Amount::Count(4).into() };
        let near = Select { duplicates: Duplicates::Near(0.9), ..Amount::Count(4).into() };
        for method in ["identity", "hyperinf", "exact", "ekfac"] {
            let options = options(method);
            let run = Run { options, ..run_in(folder.path(), 11, 3) };
            let detect = |run: &Run| {
                let found = run.detect(Some(Amount::Count(3)), &device, &mut |_| ())?;
                let result = (found.order.clone(), found.self_influence.clone(), found.removed.clone());
                found.influence.discard_gradients()?;
                Ok((result, bits_of_rows(&found.self_influence)))
            };
            let select = |run: &Run, select: &Select| {
                let Selection { influence, picks, pool, targets } = run.select(select, &device, &mut |_| ())?;
                let result = (bits(&influence), picks, pool, targets);
                influence.discard_gradients()?;
                Ok::<_, Box<RunError>>(result)
            };
            let to = |out: &str| Run { out: folder.path().join(out), ..run.clone() };
            let alone = to("alone");
            let expected = detect(&alone).expect("rows can be scored");
            let expected_near = select(&alone, &near).expect("rows can be selected");
            let expected_diverse = select(&alone, &diverse).expect("rows can be selected");
            for ranks in [2, 3, 5] {
                let run = to("together");
                let found = by_ranks(&run, &[], (ranks, 0), &device, detect);
                assert_eq!(found, expected, "{method}, {ranks} ranks, {name}");
                let found = by_ranks(&run, &[], (ranks, 1 << 20), &device, |run| select(run, &near));
                assert_eq!(found, expected_near, "{method}, {ranks} ranks, {name}");
                let found = by_ranks(&run, &targets, (ranks, 1 << 20), &device, |run| select(run, &diverse));
                assert_eq!(found, expected_diverse, "{method}, {ranks} ranks, {name}");
            }
        }
    }
}

fn bits_of_rows(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Curvature that ranks have computed is kept in an index as one process keeps it, and taken from there.
#[test]
fn curvature_is_kept_by_ranks() {
    let (_, device) = devices().remove(0);
    let sampled = Estimate::Sampled { seed: 3, draws: 2 };
    for (method, estimate) in [
        ("hyperinf", Estimate::Empirical),
        ("shampoo", Estimate::Empirical),
        ("diagonal", Estimate::Empirical),
        ("kfac", Estimate::Empirical),
        ("ekfac", sampled),
        ("hyperinf", sampled),
    ] {
        let folder = tempfile::tempdir().expect("the system has room for tests");
        let run = |name: &str| Run {
            options: options(method),
            estimate,
            index: Some(folder.path().join(format!("index-{name}"))),
            out: folder.path().join(name),
            ..run_in(folder.path(), 9, 3)
        };
        let kept = |run: &Run| {
            let index = run.index.as_ref().expect("it was given");
            let entries = fs::read_dir(index).expect("it is a folder").flatten().map(|entry| entry.path());
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut all: Vec<(String, Vec<u8>)> = entries
                .filter(|path| name(path).starts_with("factors-"))
                .map(|path| (name(&path), fs::read(&path).expect("it is a file")))
                .collect();
            all.sort();
            all
        };
        let alone = run("alone");
        let expected = attributed(&alone, &device).expect("rows can be scored");
        assert_eq!(kept(&alone).len(), 1, "{method}");
        let together = run("together");
        for ranks in [3, 2, 1] {
            let found = by_ranks(&together, &[], (ranks, 0), &device, |run| attributed(run, &device));
            assert_eq!(found, expected, "{method}, {ranks} ranks");
            assert!(kept(&together) == kept(&alone), "{method}, {ranks} ranks");
        }
        // What is kept is used: with other curvature in its place the scores would differ.
        assert_eq!(attributed(&together, &device).expect("rows can be scored"), expected);
    }
}

/// Recorded batches that ranks check together: damaged ones are found, and computed again.
#[test]
fn damage_is_found_by_ranks() {
    let (_, device) = devices().remove(0);
    let folder = tempfile::tempdir().expect("the system has room for tests");
    let run = run_in(folder.path(), 9, 3);
    let file = |out: &str| folder.path().join(out).join(hyperinf::data::GRADIENT_FILES[0]);
    let keep = |run: &Run| {
        let found = run.attribute(&device, &mut |_| ())?;
        let bits = bits(&found);
        found.keep_gradients(&run.out)?;
        Ok::<_, Box<RunError>>(bits)
    };
    let to = |out: &str| Run { out: folder.path().join(out), ..run.clone() };
    let expected = keep(&to("alone")).expect("rows can be scored");
    let whole = fs::read(file("alone")).expect("it was kept");
    keep(&to("together")).expect("rows can be scored");
    for ranks in [1, 2, 4] {
        for damage in [None, Some(whole.len() - 1), Some(whole.len() / 2)] {
            let mut bytes = whole.clone();
            if let Some(at) = damage {
                bytes[at] ^= 1;
            }
            fs::write(file("together"), &bytes).expect("the folder can be written");
            let mut earlier = None;
            let found = by_ranks(&to("together"), &[], (ranks, 0), &device, |run| {
                let found = run.attribute(&device, &mut |event| {
                    let text = event.to_string();
                    earlier = earlier.take().or_else(|| text.contains("training").then_some(text));
                })?;
                let bits = bits(&found);
                found.keep_gradients(&run.out)?;
                Ok(bits)
            });
            assert_eq!(found, expected, "{ranks} ranks, {damage:?}: {earlier:?}");
            assert!(fs::read(file("together")).expect("it was kept") == whole, "{ranks} ranks, {damage:?}");
        }
    }
}

/// An index that parts have begun, checked and finished by ranks, is that of one process.
#[test]
fn parts_are_finished_by_ranks() {
    let (_, device) = devices().remove(0);
    let folder = tempfile::tempdir().expect("the system has room for tests");
    let run = run_in(folder.path(), 11, 1);
    let index = |name: &str, crew| Index {
        folder: folder.path().join(name),
        model: run.model.clone(),
        adapter: run.adapter.clone(),
        train: run.train.clone(),
        batch_size: 2,
        leaf_batches: 2,
        crew,
        ..Index::default()
    };
    let files = |name: &str| {
        let entries = fs::read_dir(folder.path().join(name)).expect("it is a folder").flatten();
        let mut all: Vec<_> =
            entries.map(|entry| (entry.file_name(), fs::read(entry.path()).expect("it is a file"))).collect();
        all.sort();
        all
    };
    index("alone", None).build(&device, &mut |_| ()).map_err(Box::new).expect("rows can be indexed");
    index("parts", None).take_part(1, 2, &device, &mut |_| ()).map_err(Box::new).expect("rows can be indexed");
    scope(|scope| {
        let mut team = Threads::team(3).into_iter().map(|team| Some(Crew::new(Box::new(team), DEADLINE)));
        let leader = index("parts", team.next().expect("three ranks"));
        let (index, device) = (&index, &device);
        team.for_each(|crew| {
            scope.spawn(move || index("parts", crew).assist(device).map_err(Box::new).expect("it can help"));
        });
        leader.build(device, &mut |_| ()).map_err(Box::new).expect("rows can be indexed");
        leader.crew.as_ref().expect("it has a crew").finish().map_err(Box::new).expect("all report");
    });
    assert!(files("alone") == files("parts"));
}
