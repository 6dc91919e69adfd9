//! Trainings of an adapter without some of its rows: against trainings by hand, from banks, in parts.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hyperinf::data::{
    AnyMethod, Baseline, Evaluate, Event, Finetune, MethodRun, NamedMethod, Notice, Question, Recipe, Removals,
    Retrained, Retraining, RowMethod, Run, RunError, Stage, Stop,
};
use hyperinf::eval::{Bootstrap, LdsTruth};
use hyperinf::gradients::Estimate;
use hyperinf::models::LoraConfig;
use hyperinf::scoring::{Amount, MethodSpec};
use hyperinf_tests::compare::assert_close;
use hyperinf_tests::{devices, fixtures};
use tempfile::TempDir;

const ROWS: usize = 16;

fn text(row: usize) -> String {
    let subjects = ["the fox", "a river", "old snow", "the hill"];
    let ends = ["is cold.", "runs.", "rests at the end.", "is small and slow.", "was red."];
    let (subject, end) = (subjects[row % 4], ends[(row + row / 4) % 5]);
    format!("{{\"prompt\": \"Where is {subject}?\", \"completion\": \" {subject} {end}\"}}\n")
}

fn write(folder: &Path, name: &str, rows: impl Iterator<Item = usize>) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, rows.map(text).collect::<String>()).expect("writable");
    path
}

fn model() -> String {
    fixtures::path("transformers/llama").to_str().expect("paths of tests are UTF-8").to_owned()
}

fn tuning(train: PathBuf, out: PathBuf, seed: u64) -> Finetune {
    let recipe = Recipe { epochs: Some(3), batch_size: Some(4), learning_rate: Some(1e-2), seed, ..Recipe::default() };
    let lora = LoraConfig { rank: 2, ..LoraConfig::default() };
    Finetune { model: model(), train, out, recipe, lora, record: true, ..Finetune::default() }
}

/// A folder with rows, queries and a recorded adapter.
fn recorded(device: &Device) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let train = write(folder.path(), "train.jsonl", 0..ROWS);
    write(folder.path(), "query.jsonl", 20..25);
    let tuned = tuning(train, folder.path().join("adapter"), 0).run(device, &mut |_| ());
    tuned.unwrap_or_else(|error| panic!("{error}: {:?}", error.source()));
    folder
}

fn run(folder: &TempDir) -> Run {
    let file = |name: &str| folder.path().join(name);
    Run {
        model: model(),
        adapter: Some(file("adapter")),
        train: file("train.jsonl"),
        query: file("query.jsonl"),
        out: file("out"),
        ..Run::default()
    }
}

fn retraining(folder: &TempDir, bank: &str, question: Question) -> Retraining {
    let removals = Removals::Random { subsets: 7, drop: Amount::Share(0.25) };
    Retraining { question, removals, bank: folder.path().join(bank), ..Retraining::default() }
}

fn retrained(run: &Run, retraining: &Retraining, device: &Device) -> Retrained {
    let found = run.retrain(retraining, device, &mut |_| ());
    found.unwrap_or_else(|error| panic!("{error}: {:?}", error.source()))
}

fn refused(run: &Run, retraining: &Retraining, device: &Device) -> String {
    match run.retrain(retraining, device, &mut |_| ()) {
        Ok(_) => panic!("it was not refused"),
        Err(error) => format!("{error}; {:?}", error.source().map(ToString::to_string)),
    }
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("readable").path());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    entries.map(|path| (name(&path), fs::read(&path).expect("readable"))).collect()
}

/// The losses of the queries with an adapter.
fn evaluated(folder: &TempDir, adapter: PathBuf, device: &Device) -> Vec<f64> {
    let rows = folder.path().join("query.jsonl");
    let run = Evaluate { model: model(), adapter: Some(adapter), rows, batch_size: 16, ..Evaluate::default() };
    run.run(device, &mut |_| ()).map_err(Box::new).expect("it evaluates").rows.losses()
}

/// Spearman's correlation from its definition.
fn spearman(x: &[f64], y: &[f64]) -> f64 {
    let ranks = |values: &[f64]| -> Vec<f64> {
        let rank = |value: &f64| {
            let below = values.iter().filter(|other| *other < value).count() as f64;
            let equal = values.iter().filter(|other| *other == value).count() as f64;
            below + (equal + 1.0) / 2.0
        };
        values.iter().map(rank).collect()
    };
    let (x, y) = (ranks(x), ranks(y));
    let mean = (x.len() as f64 + 1.0) / 2.0;
    let sum = |of: &dyn Fn(usize) -> f64| (0..x.len()).map(of).sum::<f64>();
    let both = sum(&|i| (x[i] - mean) * (y[i] - mean));
    let (own, other) = (sum(&|i| (x[i] - mean).powi(2)), sum(&|i| (y[i] - mean).powi(2)));
    if own == 0.0 || other == 0.0 { 0.0 } else { both / (own * other).sqrt() }
}

#[test]
#[expect(clippy::needless_range_loop, reason = "the numbers index seeds and removals as well")]
fn fresh_trainings_are_those_of_files_without_the_rows() {
    for (name, device) in devices() {
        let folder = recorded(&device);
        let run = run(&folder);
        let fresh = Retraining { repeats: 2, ..retraining(&folder, "bank", Question::Fresh) };
        let found = retrained(&run, &fresh, &device);
        let losses = found.complete().expect("nothing was left to others");
        assert_eq!((found.removed.len(), losses.len(), losses[0].len(), losses[0][0].len()), (7, 7, 2, 5), "{name}");
        assert_eq!((found.trained, found.found, found.missing()), (14, 0, 0), "{name}");
        for subset in 0..3 {
            for repeat in 0..2 {
                let removed = &found.removed[subset];
                assert_eq!(removed.len(), ROWS / 4, "{name}");
                let kept = (0..ROWS).filter(|row| !removed.contains(row));
                let train = write(folder.path(), "kept.jsonl", kept);
                let adapter = folder.path().join(format!("by-hand-{subset}-{repeat}"));
                let tuned = tuning(train, adapter.clone(), found.seeds[subset][repeat]).run(&device, &mut |_| ());
                tuned.map_err(Box::new).expect("it trains");
                let by_hand = evaluated(&folder, adapter, &device);
                assert_close(&name, &losses[subset][repeat], &by_hand, 1e-6);
            }
        }
        // Every training has its own seed.
        let mut seeds: Vec<u64> = found.seeds.concat();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 14, "{name}");
        assert_close(&name, &found.query.losses(), &evaluated(&folder, folder.path().join("adapter"), &device), 1e-6);
    }
}

#[test]
fn scores_from_the_bank_are_those_by_hand() {
    for (name, device) in devices() {
        let folder = recorded(&device);
        let run = run(&folder);
        let same = Retraining { draw: 5, ..retraining(&folder, "bank", Question::Same) };
        let found = retrained(&run, &same, &device);
        let losses = found.complete().expect("nothing was left to others");
        assert!(found.seeds.iter().all(|seeds| seeds == &[0]), "{name}: it is the same training");
        let identity: MethodSpec = "identity".parse().expect("a method");
        let options = Box::new(identity.options().expect("it has options"));
        let gradients = AnyMethod::Gradients { options, estimate: Estimate::Empirical, refine: None };
        let named = |name: &str, method| NamedMethod { name: name.to_owned(), method };
        let methods = [
            named("identity", gradients),
            named("unrolled", AnyMethod::Rows(RowMethod::Unrolled)),
            named("length", AnyMethod::Rows(RowMethod::Baseline(Baseline::Length))),
        ];
        let kept = folder.path().join("kept");
        let scored = |run: &Run, seed, observe: &mut dyn FnMut(Event)| {
            run.scores_by(&methods, seed, Some(&kept), &device, observe).map_err(Box::new).expect("all are computed")
        };
        let all = scored(&run, 0, &mut |_| ());
        assert_eq!(all.iter().map(|run| run.name.as_str()).collect::<Vec<_>>(), ["identity", "unrolled", "length"]);
        assert!(all[0].bytes > 0 && all[1].bytes > all[2].bytes, "{name}");
        assert!(!folder.path().join("out").exists(), "{name}: gradients are gone, and their folder");
        kept_scores_are_taken(&name, &scored, &run, &all, &kept);

        let truth = LdsTruth::of_removals(ROWS, &found.removed, losses.clone()).map_err(Box::new).expect("they fit");
        let settings = Bootstrap { resamples: 50, ..Bootstrap::default() };
        for method in &all {
            let scores = method.scores.as_ref().map_err(|error| error.to_string()).expect("it was computed");
            let by_hand: Vec<f64> = (0..5)
                .map(|query| {
                    // What leaves is the negative of what stays.
                    let gone: Vec<f64> =
                        found.removed.iter().map(|rows| rows.iter().map(|&row| scores[query][row]).sum()).collect();
                    let rise: Vec<f64> = losses.iter().map(|repeats| repeats[0][query]).collect();
                    spearman(&gone, &rise)
                })
                .collect();
            let spread = truth.spread(scores, &settings).map_err(Box::new).expect("it has figures");
            assert_close(&format!("{name}, {}", method.name), &spread.lds.queries, &by_hand, 1e-9);
            let mean = by_hand.iter().sum::<f64>() / 5.0;
            for interval in [spread.lds.mean, spread.both, spread.subsets, spread.course[1].1] {
                assert!((interval.mean - mean).abs() < 1e-9, "{name}: {interval}");
            }
            assert!((spread.course[0].0, spread.course[1].0) == (5, 7), "{name}");
        }
    }
}

/// Computes the scores of a run, or takes kept ones.
type ScoredBy<'a> = dyn Fn(&Run, u64, &mut dyn FnMut(Event)) -> Vec<MethodRun> + 'a;

/// Scores are computed once: asked for again they come from the folder, to the bit and with their cost, but not with other
/// settings, other rows or from a damaged file.
fn kept_scores_are_taken(name: &str, scored: &ScoredBy<'_>, run: &Run, all: &[MethodRun], kept: &Path) {
    let again = |run: &Run, seed| {
        let (mut told, mut steps) = (0, 0);
        let found = scored(run, seed, &mut |event| match event {
            Event::Notice(Notice::Kept { methods, of: 3, .. }) => told = methods,
            Event::Progress(_) => steps += 1,
            _ => {}
        });
        (found, told, steps)
    };
    let (found, told, steps) = again(run, 0);
    assert_eq!((told, steps), (3, 0), "{name}");
    for (found, all) in found.iter().zip(all) {
        let bits = |run: &MethodRun| {
            let rows = run.scores.as_ref().map_err(ToString::to_string).expect("it was computed");
            rows.concat().iter().map(|score| score.to_bits()).collect::<Vec<u64>>()
        };
        assert_eq!(bits(found), bits(all), "{name}, {}", all.name);
        assert_eq!((&found.name, found.seconds, found.bytes), (&all.name, all.seconds, all.bytes), "{name}");
    }
    let files = || fs::read_dir(kept).expect("it is there").map(|entry| entry.expect("it can be read").path());
    assert_eq!(files().count(), 3, "{name}");
    let other = Run { batch_size: run.batch_size + 1, ..run.clone() };
    assert_eq!(again(&other, 0).1, 0, "{name}: another size of batches");
    assert_eq!(again(run, 1).1, 0, "{name}: another seed");
    for path in files() {
        let text = fs::read_to_string(&path).expect("it can be read");
        fs::write(&path, text.replacen('3', "4", 1)).expect("it can be written");
    }
    assert_eq!(again(run, 0).1, 0, "{name}: damaged files");
    let text = fs::read_to_string(&run.query).expect("it can be read");
    fs::write(&run.query, text.clone() + "\n").expect("it can be written");
    assert_eq!(again(run, 0).1, 0, "{name}: another file of rows");
    fs::write(&run.query, text).expect("it can be written");
}

#[test]
fn the_same_training_follows_the_derivative() {
    let (_, device) = devices().swap_remove(0);
    let folder = recorded(&device);
    let run = run(&folder);
    let single = Removals::Single { rows: ROWS };
    let loo = Retraining { removals: single, ..retraining(&folder, "bank", Question::Same) };
    let found = retrained(&run, &loo, &device);
    let mut rows: Vec<usize> = found.removed.concat();
    assert_eq!(rows.len(), ROWS);
    rows.sort_unstable();
    assert_eq!(rows, (0..ROWS).collect::<Vec<_>>());
    let unrolled = run.unrolled(None, &device, &mut |_| ()).map_err(Box::new).expect("it is followed");
    let (base, losses) = (found.query.losses(), found.complete().expect("all are there"));
    for query in 0..5 {
        let scores: Vec<f64> = found.removed.iter().map(|rows| unrolled.scores.rows[query][rows[0]]).collect();
        let rises: Vec<f64> = losses.iter().map(|repeats| repeats[0][query] - base[query]).collect();
        let correlation = spearman(&scores, &rises);
        assert!(correlation > 0.7, "query {query}: {correlation}: {scores:?} and {rises:?}");
    }
}

#[test]
fn parts_and_interruptions_make_the_same_bank() {
    let (_, device) = devices().swap_remove(0);
    let folder = recorded(&device);
    for question in [Question::Same, Question::Fresh] {
        let whole = retraining(&folder, &format!("whole-{}", question.name()), question);
        let run = run(&folder);
        let expected = retrained(&run, &whole, &device);

        let parts = retraining(&folder, &format!("parts-{}", question.name()), question);
        let second = retrained(&run, &Retraining { part: Some((2, 2)), ..parts.clone() }, &device);
        assert_eq!((second.trained, second.missing()), (3, 4));
        assert!(second.complete().is_none());
        // It is stopped after two trainings of its four.
        let (stop, done) = (Stop::default(), Cell::new(0));
        let stopping = Run { stop: stop.clone(), ..run.clone() };
        let first = Retraining { part: Some((1, 2)), ..parts.clone() };
        let stopped = stopping.retrain(&first, &device, &mut |event| {
            if let Event::Progress(at) = event
                && at.stage == Stage::Retraining
            {
                done.set(at.done);
                if at.done == 2 {
                    stop.request();
                }
            }
        });
        let stopped = stopped.map(drop).map_err(Box::new).expect_err("it was stopped");
        assert!(matches!(*stopped, RunError::Stopped { stage: Stage::Retraining, done: 2, total: 4, .. }), "{stopped}");
        let found = retrained(&run, &parts, &device);
        assert_eq!((found.found, found.trained, done.get()), (5, 2, 2));
        assert_eq!(found.losses, expected.losses);
        assert!(contents(&whole.bank) == contents(&parts.bank), "the banks are equal to the byte");

        // More subsets begin with those that there are.
        let removals = Removals::Random { subsets: 8, drop: Amount::Share(0.25) };
        let more = retrained(&run, &Retraining { removals, ..whole.clone() }, &device);
        assert_eq!((more.found, more.trained), (7, 1));
        assert_eq!(more.removed[..7], expected.removed);
    }
}

#[test]
fn other_banks_and_choices_are_refused_by_name() {
    let (_, device) = devices().swap_remove(0);
    let folder = recorded(&device);
    let run = run(&folder);
    let same = retraining(&folder, "bank", Question::Same);
    let expected = retrained(&run, &same, &device).losses;
    let check = |run: &Run, retraining: &Retraining, said: &[&str]| {
        let found = refused(run, retraining, &device);
        said.iter().for_each(|said| assert!(found.contains(said), "no {said:?} in {found}"));
    };
    let query = write(folder.path(), "other.jsonl", 30..33);
    check(&Run { query, ..run.clone() }, &same, &["bank", "of other trainings", "queries was 5", "is 3"]);
    let batch = Run { batch_size: 3, ..run.clone() };
    check(&batch, &same, &["rows of a forward pass was 16, is 3"]);

    let adapter = folder.path().join("other");
    let train = folder.path().join("train.jsonl");
    tuning(train.clone(), adapter.clone(), 4).run(&device, &mut |_| ()).map_err(Box::new).expect("it trains");
    check(&Run { adapter: Some(adapter), ..run.clone() }, &same, &["seed was 0, is 4"]);
    let plain = folder.path().join("plain");
    let tuned = Finetune { record: false, ..tuning(train, plain.clone(), 0) }.run(&device, &mut |_| ());
    tuned.map_err(Box::new).expect("it trains");
    check(&Run { adapter: Some(plain), ..run.clone() }, &same, &["no recording"]);
    check(&run, &Retraining { part: Some((3, 2)), ..same.clone() }, &["no part 3 of 2"]);
    check(&run, &Retraining { repeats: 2, ..same.clone() }, &["several trainings", "the same training"]);
    let all = Removals::Random { subsets: 2, drop: Amount::Count(ROWS) };
    check(&run, &Retraining { removals: all, ..same.clone() }, &["16 rows of 15"]);
    let none = Removals::Random { subsets: 2, drop: Amount::Share(0.01) };
    check(&run, &Retraining { removals: none, ..same.clone() }, &["0 rows of 16"]);

    // A changed digit, and the file of another training under its name.
    let names: Vec<String> = contents(&same.bank).into_keys().filter(|name| name.starts_with("same-")).collect();
    assert_eq!(names.len(), 7);
    let [first, second] = [0, 1].map(|place: usize| same.bank.join(&names[place]));
    let text = fs::read_to_string(&first).expect("readable");
    fs::write(&first, text.replacen("\"seed\":0", "\"seed\":1", 1)).expect("writable");
    check(&run, &same, &[&names[0], "is damaged", "hash"]);
    fs::copy(&second, &first).expect("writable");
    check(&run, &same, &[&names[0], "another training than its name says"]);
    fs::remove_file(&first).expect("it is there");
    assert_eq!(retrained(&run, &same, &device).losses, expected);
}
