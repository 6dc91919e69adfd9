//! Ground truths by retraining, on tasks whose answers are known.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyperinf::eval::{
    Bank, BrittlenessConfig, Interval, LdsConfig, LdsTruth, Outcome, Retrain, SelectionConfig, TruthError, brittleness,
    lds, leave_one_out, mean_and_error, random_scores, random_subsets, selection,
};
use hyperinf_tests::oracle::Matrix;

const SAMPLES: usize = 60;
const QUERIES: usize = 40;

/// A training whose losses are known: `loss_q = 100 − Σ_{i ∈ S} w_qi + noise(seed)`. It counts its trainings.
struct Additive {
    weights: Vec<Vec<f64>>,
    /// The noise of a seed, the same for all subsets; and one of its own for each size of a subset.
    noise: [f64; 2],
    name: &'static str,
    trainings: AtomicUsize,
    steps_per_sample: usize,
}

impl Additive {
    fn new() -> Self {
        let weights = random_scores(QUERIES, SAMPLES, 7);
        Self { weights, noise: [0.0; 2], name: "additive", trainings: AtomicUsize::new(0), steps_per_sample: 0 }
    }

    fn trainings(&self) -> usize {
        self.trainings.load(Ordering::Relaxed)
    }
}

impl Retrain for Additive {
    fn samples(&self) -> usize {
        SAMPLES
    }

    fn queries(&self) -> usize {
        QUERIES
    }

    fn fingerprint(&self) -> String {
        self.name.to_owned()
    }

    fn query_losses(&self, subset: &[usize], seed: u64) -> Result<Vec<f64>, TruthError> {
        self.trainings.fetch_add(1, Ordering::Relaxed);
        let noise = self.noise[0] * seed as f64 + self.noise[1] * ((seed + 1) * subset.len() as u64 % 7) as f64;
        let loss = |w: &Vec<f64>| 100.0 - subset.iter().map(|&i| w[i]).sum::<f64>() + noise;
        Ok(self.weights.iter().map(loss).collect())
    }

    fn outcome(&self, subset: &[usize], seed: u64) -> Result<Outcome, TruthError> {
        let losses = self.query_losses(subset, seed)?;
        let full: Vec<f64> = self.weights.iter().map(|w| 100.0 - w.iter().sum::<f64>()).collect();
        // "Right" as long as the loss has not grown by 5.
        let predictions = losses.iter().zip(full).map(|(loss, full)| usize::from(loss - full > 5.0)).collect();
        Ok(Outcome { losses, predictions: Some(predictions) })
    }

    fn steps(&self, samples: usize) -> Option<usize> {
        Some(if self.steps_per_sample > 0 { self.steps_per_sample * samples } else { 10 })
    }
}

fn quiet(_done: usize, _of: usize) {}

#[test]
fn the_weights_of_an_additive_loss_have_lds_one() {
    let task = Additive { noise: [0.5, 0.0], ..Additive::new() };
    let mut bank = Bank::memory(&task);
    let config = LdsConfig { subsets: 50, seeds: vec![0, 1], ..LdsConfig::default() };
    let score = |scores: &[Vec<f64>], bank: &mut Bank| lds(&task, scores, &config, bank).expect("the task is sound");
    let truth = score(&task.weights, &mut bank);
    assert!(truth.queries.iter().all(|&r| r == 1.0), "{:?}", truth.queries);
    assert_eq!((truth.mean.mean, truth.mean.low, truth.mean.high, truth.constant), (1.0, Some(1.0), Some(1.0), 0));
    assert_eq!(task.trainings(), 100, "50 subsets with two seeds");
    // Positive = helpful: the other sign is wrong throughout.
    let negative: Vec<Vec<f64>> = task.weights.iter().map(|row| row.iter().map(|w| -w).collect()).collect();
    assert_eq!(score(&negative, &mut bank).mean.mean, -1.0);
    let random = score(&random_scores(QUERIES, SAMPLES, 1), &mut bank);
    assert!(
        random.mean.low < Some(0.0) && random.mean.high > Some(0.0) && random.mean.mean.abs() < 0.1,
        "{}",
        random.mean
    );
    // Scores that do not separate subsets are counted as undefined.
    let same = score(&vec![vec![1.0; SAMPLES]; QUERIES], &mut bank);
    assert_eq!((same.mean.mean, same.constant), (0.0, QUERIES));
    assert_eq!(task.trainings(), 100, "all else came from the bank");
    let truth = LdsTruth::retrain(&task, &config, &mut bank, &quiet).expect("the task is sound");
    let agreement = truth.agreement().expect("losses vary").expect("there are two seeds");
    assert!(agreement.mean.mean > 1.0 - 1e-12, "the noise of a seed is the same for all subsets: {}", agreement.mean);
}

/// By hand: correlations 1, 1 and 1/2, a mean of 5/6 with the error 1/6, and 4.303 for three values.
#[test]
fn an_interval_of_correlations_has_correlations_for_ends() {
    let losses = vec![vec![vec![1.0; 3]], vec![vec![2.0; 3]], vec![vec![3.0; 3]]];
    let truth = LdsTruth { samples: 3, subsets: vec![vec![0], vec![1], vec![2]], losses };
    let mean = truth.lds(&[vec![3.0, 2.0, 1.0], vec![3.0, 2.0, 1.0], vec![2.0, 3.0, 1.0]]).expect("losses vary").mean;
    assert_eq!(mean.high, Some(1.0));
    assert!(mean.low.is_some_and(|low| (low - (5.0 - 4.303) / 6.0).abs() < 1e-9), "{mean}");
}

#[test]
fn subsets_are_what_they_are_said_to_be() {
    let subsets = random_subsets(9, 0.5, 200, 3).expect("half of nine");
    assert!(subsets.iter().all(|s| s.len() == 5 && s.windows(2).all(|pair| pair[0] < pair[1]) && s[4] < 9));
    assert_eq!(subsets, random_subsets(9, 0.5, 200, 3).expect("half of nine"), "the draw decides");
    // Every sample is in 5/9 of 200 subsets: 111 ± 7.
    for sample in 0..9 {
        let count = subsets.iter().filter(|s| s.contains(&sample)).count();
        assert!((83..140).contains(&count), "sample {sample} is in {count}");
    }
    for share in [0.0, 0.01, 1.0, f64::NAN] {
        let error = random_subsets(9, share, 2, 0).expect_err("nothing in, or nothing out");
        assert!(matches!(error, TruthError::Setting { name: "share", .. }), "{error}");
    }
}

#[test]
fn leave_one_out_takes_differences_with_the_same_seed() {
    let task = Additive { noise: [3.0, 0.0], ..Additive::new() };
    let mut bank = Bank::memory(&task);
    let left_out = [4, 0, 59];
    let found = leave_one_out(&task, &left_out, &[0, 5, 9], &mut bank, &quiet).expect("the task is sound");
    let errors = found.errors.expect("three seeds have a spread");
    for (query, (effects, errors)) in found.effects.iter().zip(errors).enumerate() {
        for ((effect, error), sample) in effects.iter().zip(errors).zip(left_out) {
            assert!((effect - task.weights[query][sample]).abs() < 1e-9, "query {query}, sample {sample}: {effect}");
            assert!(error < 1e-9, "the noise of a seed cancels: {error}");
        }
    }
    let one = leave_one_out(&task, &left_out, &[5], &mut bank, &quiet).expect("the task is sound");
    assert!(one.errors.is_none(), "one seed has no spread");

    let task = Additive { noise: [0.0, 1.0], ..Additive::new() };
    let found = leave_one_out(&task, &[1], &[0, 1], &mut Bank::memory(&task), &quiet).expect("the task is sound");
    // (s + 1)·59 mod 7 − (s + 1)·60 mod 7: 3 − 4 and 6 − 1.
    let noise = [-1.0, 5.0];
    let (mean, error) = mean_and_error(&noise);
    assert!((found.effects[0][0] - task.weights[0][1] - mean).abs() < 1e-9);
    let errors = found.errors.expect("two seeds have a spread");
    assert!((errors[0][0] - error.expect("two values")).abs() < 1e-9 && (errors[0][0] - 3.0).abs() < 1e-9);
    let error = leave_one_out(&task, &[60], &[0], &mut Bank::memory(&task), &quiet).expect_err("there are 60");
    assert!(matches!(error, TruthError::Subset { index: 0, value: 60, samples: 60 }), "{error}");
}

#[test]
fn removing_the_most_helpful_raises_the_loss_by_their_weights() {
    let task = Additive::new();
    let mut bank = Bank::memory(&task);
    let config = BrittlenessConfig { remove: vec![3, 20], queries: vec![2, 30], seeds: vec![0] };
    let found = brittleness(&task, &task.weights, &config, &mut bank, &quiet).expect("the task is sound");
    for (part, removed) in found.iter().zip([3, 20]) {
        let sums = [2, 30].map(|query: usize| {
            let mut sorted = task.weights[query].clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            sorted[..removed].iter().sum::<f64>()
        });
        assert_eq!(part.removed, removed);
        assert!((part.growth.mean - (sums[0] + sums[1]) / 2.0).abs() < 1e-9, "{}", part.growth);
        let flips = sums.map(|sum| f64::from(u8::from(sum > 5.0)));
        assert_eq!(part.flipped.map(|f| f.mean), Some((flips[0] + flips[1]) / 2.0));
    }
    assert_eq!(found[1].flipped.map(|f| f.mean), Some(1.0), "twenty of the best are more than 5");
    let random = brittleness(&task, &random_scores(QUERIES, SAMPLES, 2), &config, &mut bank, &quiet);
    assert!(random.expect("the task is sound")[1].growth.mean < found[1].growth.mean / 2.0);
    // Of two queries one changes its prediction: the interval is all that a share can be.
    let growth = |query: usize| {
        let mut sorted = task.weights[query].clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        sorted[..6].iter().sum::<f64>()
    };
    let query = |flips: bool| (0..QUERIES).find(|&query| (growth(query) > 5.0) == flips).expect("there are both");
    let both = BrittlenessConfig { remove: vec![6], queries: vec![query(true), query(false)], seeds: vec![0] };
    let found = brittleness(&task, &task.weights, &both, &mut bank, &quiet).expect("the task is sound");
    assert_eq!(found[0].flipped, Some(Interval { mean: 0.5, low: Some(0.0), high: Some(1.0) }));
    let all = BrittlenessConfig { remove: vec![SAMPLES], ..config };
    let error = brittleness(&task, &task.weights, &all, &mut bank, &quiet).expect_err("nothing would be left");
    assert!(error.to_string().contains("60"), "{error}");
}

#[test]
fn selection_keeps_the_best_and_wants_equal_steps() {
    let task = Additive::new();
    let mut bank = Bank::memory(&task);
    let config = SelectionConfig { keep: vec![0.25, 0.5], seeds: vec![0, 1], draws: 20, draw: 0 };
    let found = selection(&task, &task.weights, &config, &mut bank, &quiet).expect("the task is sound");
    let mean: Vec<f64> =
        (0..SAMPLES).map(|i| task.weights.iter().map(|w| w[i]).sum::<f64>() / QUERIES as f64).collect();
    let mut sorted = mean.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    for (part, kept) in found.iter().zip([15, 30]) {
        assert_eq!(part.kept, kept);
        let best = 100.0 - sorted[..kept].iter().sum::<f64>();
        assert!((part.best.mean - best).abs() < 1e-9, "{} is not {best}", part.best);
        assert!((part.full.mean - (100.0 - mean.iter().sum::<f64>())).abs() < 1e-9);
        assert!(
            Some(part.best.mean) < part.random.low,
            "the best are better than chance: {} {}",
            part.best,
            part.random
        );
    }
    let hasty = Additive { steps_per_sample: 2, ..Additive::new() };
    let error = selection(&hasty, &hasty.weights, &config, &mut Bank::memory(&hasty), &quiet).expect_err("fewer steps");
    assert!(matches!(error, TruthError::Steps { samples: 15, steps: 30, full: 120 }), "{error}");
    assert_eq!(hasty.trainings(), 0, "said before any training");
}

fn jobs(count: usize) -> Vec<(Vec<usize>, u64)> {
    (0..count).map(|i| (vec![i, i + 2], i as u64)).collect()
}

fn open(path: &Path, task: &Additive) -> Bank {
    Bank::open(path, task).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_bank_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().expect("the system has room for tests");
    let path = folder.path().join("bank.jsonl");
    let task = Additive::new();
    let first = open(&path, &task).outcomes(&task, &jobs(3), &quiet).expect("the task is sound");
    assert_eq!(task.trainings(), 3);
    // A run that was killed in the middle of a line.
    let mut text = fs::read_to_string(&path).expect("the bank wrote it");
    assert_eq!(text.lines().count(), 4, "a header and three results");
    text.push_str("{\"seed\":3,\"subset\":[3,");
    fs::write(&path, text).expect("the folder can be written");

    let mut bank = open(&path, &task);
    assert_eq!(bank.len(), 3);
    let more = jobs(5);
    let twice: Vec<_> = more.iter().chain(&more).cloned().collect();
    let found = bank.outcomes(&task, &twice, &quiet).expect("the task is sound");
    assert_eq!(task.trainings(), 5, "two were missing, and each is done once");
    assert_eq!(found[..5], found[5..], "in the order asked for");
    for (found, first) in found.iter().zip(&first) {
        let pairs = found.losses.iter().zip(&first.losses);
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 1e-12) && found.predictions == first.predictions);
    }
    let again = open(&path, &task).outcomes(&task, &jobs(5), &quiet).expect("the task is sound");
    assert_eq!((task.trainings(), again.len()), (5, 5), "the torn line was cut off and replaced");
}

#[test]
fn a_bank_refuses_what_is_not_its_own() {
    let folder = tempfile::tempdir().expect("the system has room for tests");
    let path = folder.path().join("bank.jsonl");
    let (task, other) = (Additive::new(), Additive { name: "another", ..Additive::new() });
    open(&path, &task).outcomes(&task, &jobs(1), &quiet).expect("the task is sound");
    let refused = |result: Result<Bank, TruthError>| result.err().expect("it must be refused");
    let error = refused(Bank::open(&path, &other)).to_string();
    assert!(error.contains("`additive`") && error.contains("`another`"), "{error}");
    let error = Bank::memory(&task).outcomes(&other, &jobs(1), &quiet).expect_err("a bank belongs to one task");
    assert!(matches!(error, TruthError::OtherTask { .. }), "{error}");

    let text = fs::read_to_string(&path).expect("the bank wrote it");
    for damage in ["no JSON\n", "{\"seed\":0,\"subset\":[1],\"losses\":[1.0]}\n"] {
        fs::write(&path, format!("{text}{damage}")).expect("the folder can be written");
        let error = refused(Bank::open(&path, &task));
        assert!(matches!(error, TruthError::BankLine { line: 3, queries: QUERIES, .. }), "{error}");
    }
    // A changed digit of a loss, a subset or a prediction is still JSON of the right form.
    let result = text.lines().nth(1).expect("a result");
    for place in result.match_indices(|c: char| c.is_ascii_digit()).map(|(place, _)| place).step_by(3) {
        let mut changed = result.to_owned();
        let other = if &result[place..=place] == "1" { "2" } else { "1" };
        changed.replace_range(place..=place, other);
        fs::write(&path, text.replace(result, &changed)).expect("the folder can be written");
        let error = refused(Bank::open(&path, &task));
        assert!(
            matches!(error, TruthError::DamagedLine { line: 2, .. } | TruthError::BankLine { line: 2, .. }),
            "{error}"
        );
    }
    // Lines of other programs have no hash.
    let (plain, _) = result.rsplit_once(",\"hash\"").expect("it has a hash");
    fs::write(&path, text.replace(result, &format!("{plain}}}"))).expect("the folder can be written");
    assert_eq!(open(&path, &task).len(), 1);
    // A refused file stays as it is, even an unterminated last line.
    let header = text.lines().next().expect("a bank has a header");
    let (torn, others) = (format!("{text}{{\"seed\":3,"), format!("{}\n{{\"s", header.replace("additive", "third")));
    for (content, owner) in [
        ("{\"precious\": \"one line\"}", &task),
        ("one\ntwo\nthree", &task),
        (&header[..20], &task),
        (&others, &task),
        (&torn, &other),
        (&format!("{header}\nno JSON\n{{\"seed\":3,"), &task),
    ] {
        fs::write(&path, content).expect("the folder can be written");
        refused(Bank::open(&path, owner));
        assert_eq!(fs::read_to_string(&path).expect("it is there"), content);
    }
    // A header that lacks its end alone gets it.
    fs::write(&path, header).expect("the folder can be written");
    open(&path, &task).outcomes(&task, &jobs(1), &quiet).expect("the task is sound");
    assert_eq!(fs::read_to_string(&path).expect("it is there"), text);
    let error = refused(Bank::open(&folder.path().join("absent/bank.jsonl"), &task));
    assert!(matches!(error, TruthError::Bank { .. }), "{error}");

    for (subset, index) in [(vec![1, 60], 1), (vec![2, 2], 1), (vec![3, 1], 1)] {
        let error = Bank::memory(&task).outcomes(&task, &[(subset, 0)], &quiet).expect_err("no subset");
        assert!(matches!(error, TruthError::Subset { index: i, samples: 60, .. } if i == index), "{error}");
    }
    let diverged = Additive { noise: [f64::INFINITY, 0.0], ..Additive::new() };
    let error = Bank::memory(&diverged).outcomes(&diverged, &[(vec![1], 4)], &quiet).expect_err("an infinite loss");
    assert!(matches!(error, TruthError::Loss { query: 0, samples: 1, seed: 4, .. }), "{error}");
}

#[test]
fn scores_of_another_shape_are_refused() {
    let task = Additive::new();
    let mut bank = Bank::memory(&task);
    let config = LdsConfig { subsets: 3, seeds: vec![0], ..LdsConfig::default() };
    for scores in [random_scores(QUERIES, SAMPLES - 1, 0), random_scores(QUERIES + 1, SAMPLES, 0)] {
        let error = lds(&task, &scores, &config, &mut bank).expect_err("another shape");
        assert!(matches!(error, TruthError::Count { .. }), "{error}");
    }
    let error = lds(&task, &vec![vec![f64::NAN; SAMPLES]; QUERIES], &config, &mut bank).expect_err("NaN");
    assert!(matches!(error, TruthError::Query { query: 0, .. }), "{error}");
}

#[test]
fn intervals_cover_what_they_should() {
    let interval = Interval::of(&[2.0; 9]).expect("there are values");
    assert_eq!((interval.mean, interval.low, interval.high), (2.0, Some(2.0), Some(2.0)));
    let one = Interval::of(&[2.0]).expect("there is a value");
    assert_eq!((one.mean, one.low, one.high), (2.0, None, None));
    assert!(Interval::of(&[]).is_none());
    // For many values the bootstrap's interval is the normal one, ±1.96 standard errors.
    let values = &random_scores(1, 400, 5)[0];
    let (mean, error) = mean_and_error(values);
    let error = error.expect("400 values");
    let found = Interval::of(values).expect("there are values");
    assert!((found.mean - mean).abs() < 1e-12);
    for (end, side) in [(found.low, -1.96), (found.high, 1.96)] {
        let end = end.expect("400 values have an interval");
        assert!((end - mean - side * error).abs() < 0.2 * error, "{found} is not {mean} ± {error}");
    }
    // Of few normal values too: the standard error of 95 % of 2,000 is half a percent.
    for (count, tolerance) in [(2, 0.02), (5, 0.02), (19, 0.02), (20, 0.035)] {
        // Sums of six uniform values are nearly normal.
        let noise = Matrix::noise(2000, 6 * count, 7);
        let covers = |set: usize| {
            let values: Vec<f64> = noise.row(set).chunks(6).map(|part| part.iter().sum()).collect();
            let found = Interval::of(&values).expect("there are values");
            found.low <= Some(0.0) && Some(0.0) <= found.high
        };
        let share = (0..2000).filter(|&set| covers(set)).count() as f64 / 2000.0;
        assert!((share - 0.95).abs() < tolerance, "{share} of the intervals of {count} values cover the mean");
    }
    // By hand: mean 2, squares 1 + 0 + 1, √(2 / (3 · 2)).
    assert_eq!(mean_and_error(&[1.0, 2.0, 3.0]), (2.0, Some((1.0_f64 / 3.0).sqrt())));
    assert_eq!(mean_and_error(&[1.0]), (1.0, None));
}
