//! The driver of evaluations, agreement between methods, and advice on damping.

use std::sync::Mutex;

use burn::tensor::DType;
use hyperinf::curvature::{Damping, Storage};
use hyperinf::eval::digits::{DigitsConfig, Length};
use hyperinf::eval::{
    Agreement, Bank, Bench, Candidate, DampingConfig, Ensemble, EvalConfig, EvalError, Evidence, Figure, Findings,
    LdsConfig, LdsTruth, PbrfConfig, Row, Stage, Truth, TruthError, advise, agreements, default_top, evaluate,
    plateaus, study_dampings,
};
use hyperinf::gradients::Estimate;
use hyperinf::scoring::{Attribution, Method, Options, QueryMode, Scores, ranking};
use hyperinf::solvers::Exact;
use hyperinf_tests::compare::assert_close;
use hyperinf_tests::devices;

fn candidate(name: &str, method: Method) -> Candidate {
    let options = Options { method, ..Options::default() };
    Candidate { name: name.into(), options, estimate: Estimate::Empirical, refine: None }
}

/// 60 images, 8 queries, 8 hidden units, 3 epochs: a training takes milliseconds.
fn small() -> EvalConfig {
    let mut task = DigitsConfig { train: 60, queries: 8, hidden: vec![8], ..DigitsConfig::default() };
    task.recipe.length = Length::Epochs(3);
    let candidates =
        vec![candidate("identity", Method::Identity), candidate("exact", Method::inverse(Storage::Full, Exact))];
    EvalConfig { task, candidates, dampings: vec![0.1, 1.0], ..EvalConfig::default() }
}

#[test]
fn rows_are_candidates_at_each_damping_with_the_truths_figures() {
    let truth = LdsConfig { subsets: 6, seeds: vec![0, 1], ..LdsConfig::default() };
    for (_, device) in devices() {
        let stages = Mutex::new(Vec::new());
        let config = small();
        let found = evaluate(&truth, &config, &device, &|progress| {
            stages.lock().expect("no thread panics").push((progress.stage, progress.step.to_owned()));
        })
        .expect("the task is sound");
        let rows: Vec<(&str, Option<f64>)> = found.rows.iter().map(|row| (row.method.as_str(), row.damping)).collect();
        assert_eq!(rows, [("identity", None), ("exact", Some(0.1)), ("exact", Some(1.0))]);
        assert_eq!((found.truth, found.precision), ("lds", "f32"));
        assert_eq!((found.findings.samples, found.findings.queries), (60, 8));
        assert_eq!(found.findings.details["results_found_in_the_bank"], 0);
        let stages = stages.into_inner().expect("no thread panics");
        assert_eq!(stages.iter().filter(|(stage, _)| *stage == Stage::Trainings).count(), 12);
        assert!(stages.contains(&(Stage::Methods, "exact".into())));

        // The same from the driver's parts.
        let task = config.task.task().expect("enough images");
        let mut bank = Bank::memory(&task);
        let retrained = LdsTruth::retrain(&task, &truth, &mut bank, &|_, _| {}).expect("it trains");
        let models = Ensemble::train(&task, [0], &device, DType::F32).expect("it trains");
        for (row, damping) in found.rows.iter().zip([0.1, 0.1, 1.0]) {
            let candidate = config.candidates.iter().find(|candidate| candidate.name == row.method).expect("it is one");
            let options = Options { damping: Damping::Relative(damping), ..candidate.options.clone() };
            let scores = models.score(candidate, &options).expect("it is invertible").scores;
            let lds = retrained.lds(&scores.rows).expect("losses vary");
            assert_eq!(row.figures[0], Figure::new("lds", lds.mean.mean), "{}", row.method);
        }
    }
}

/// Many steps lead from the inverse of each layer to that of the whole matrix.
#[test]
fn refined_candidates_are_those_of_the_whole_gauss_newton_matrix() {
    let of = |name: &str| Candidate::new(&name.parse().expect("a method"), 4, 0).expect("its options");
    let (whole, start) = (of("exact:merged@gauss-newton"), of("ekfac"));
    assert!(of("cosine").refined(3).is_none());
    let refined = start.refined(60).expect("it has an inverse");
    assert_eq!((refined.name.as_str(), refined.refine), ("ekfac --refine 60", Some(60)));
    for (name, device) in devices() {
        if !device.supports_dtype(DType::F64) {
            continue;
        }
        let task = small().task.task().expect("enough images");
        let models = Ensemble::train(&task, [0, 1], &device, DType::F64).expect("it trains");
        let score = |candidate: &Candidate| {
            let options = Options { damping: Damping::Absolute(0.05), ..candidate.options.clone() };
            models.score(candidate, &options).expect("it is invertible")
        };
        let (expected, found, plain) = (score(&whole).scores.rows, score(&refined), score(&start));
        assert_close(&name, &found.scores.rows.concat(), &expected.concat(), 1e-3);
        assert!(found.residual.is_some_and(|residual| residual < 1e-3), "{name}: {:?}", found.residual);
        let away = |rows: &[Vec<f64>]| -> f64 {
            rows.concat().iter().zip(expected.concat()).map(|(a, b)| (a - b).powi(2)).sum::<f64>()
        };
        assert!(away(&found.scores.rows) < 1e-4 * away(&plain.scores.rows), "{name}: refinement changes nothing");
    }
}

/// A ground truth of a user: do scores prefer samples of the query's class?
struct SameClass;

impl Truth for SameClass {
    fn name(&self) -> &'static str {
        "same-class"
    }

    fn figure(&self) -> &'static str {
        "share of queries whose most helpful sample is of the same class, in [0, 1]; higher = better"
    }

    fn evaluate(&self, bench: &mut Bench<'_>) -> Result<Findings, TruthError> {
        let task = bench.config().task.task()?;
        let ensemble = bench.train(&task, bench.seeds())?;
        bench.add(Row::baseline("chance", vec![Figure::new("share", 0.1)]));
        bench.judge(&ensemble, QueryMode::Each, |_, scores| {
            let best = |row: &Vec<f64>| ranking(row)[0];
            let labels = &task.queries.labels;
            let same = scores.rows.iter().zip(labels).filter(|(row, label)| task.train.labels[best(row)] == **label);
            Ok(vec![Figure::new("share", same.count() as f64 / labels.len() as f64)])
        })?;
        Ok(Findings::new(&task, "Same class.".into(), []))
    }
}

#[test]
fn a_truth_of_ones_own_needs_no_change_of_the_library() {
    for (_, device) in devices() {
        let mut config = small();
        config.task.recipe.length = Length::Epochs(30);
        let found = evaluate(&SameClass, &config, &device, &|_| {}).expect("the task is sound");
        let share = |row: &Row| row.figures[0].value.expect("there is a share");
        assert_eq!(found.rows.len(), 4);
        assert!(found.rows[1..].iter().any(|row| share(row) > 0.5), "{:?}", found.rows);
    }
}

#[test]
fn settings_of_an_evaluation_are_checked() {
    let (_, device) = devices().remove(0);
    let run =
        |truth: &dyn Truth, config: &EvalConfig| evaluate(truth, config, &device, &|_| {}).map(|found| found.rows);
    let lds = LdsConfig { subsets: 2, seeds: vec![0], ..LdsConfig::default() };
    let error = run(&lds, &EvalConfig { dampings: vec![0.0], ..small() }).expect_err("0 damps nothing");
    assert!(matches!(error, TruthError::Score(_)), "{error}");
    let error = run(&lds, &EvalConfig { models: 0, ..small() }).expect_err("there is no model");
    assert!(matches!(error, TruthError::Setting { name: "models", .. }), "{error}");
    let pbrf = PbrfConfig::default();
    let error = run(&pbrf, &EvalConfig { models: 2, ..small() }).expect_err("a response is one model's");
    assert!(matches!(error, TruthError::Setting { name: "models", value: 2.0, .. }), "{error}");
}

fn scores(rows: &[&[f64]]) -> Scores {
    Scores { rows: rows.iter().map(|row| row.to_vec()).collect() }
}

#[test]
fn agreement_is_averaged_over_the_queries_that_have_one() {
    let left = scores(&[&[1.0, 2.0, 3.0, 4.0], &[5.0, 5.0, 5.0, 5.0]]);
    let right = scores(&[&[4.0, 3.0, 2.0, 1.0], &[1.0, 2.0, 3.0, 4.0]]);
    let found = agreements(&[&left, &right], 2).expect("they are numbers");
    let Agreement { spearman, pearson, explained, overlap, queries } = found[0][1];
    let figures = [spearman, pearson, explained].map(|figure| figure.expect("a query has one"));
    assert_close("agreement", &figures, &[-1.0, -1.0, 1.0], 1e-12);
    assert_eq!(queries, 1);
    // Of equal scores the first samples are the best: none in common, twice.
    assert_eq!(overlap, 0.0);
    assert_eq!(found[0][0].overlap, 1.0);
    let constant = scores(&[&[1.0; 4], &[2.0; 4]]);
    assert_eq!(agreements(&[&constant, &left], 2).expect("they are numbers")[0][1].spearman, None);
    assert_eq!([1, 7, 20, 1000].map(default_top), [1, 3, 10, 10]);
    assert_eq!(
        agreements(&[&left, &scores(&[&[1.0; 4]])], 2).expect_err("other queries"),
        EvalError::Length { left: 2, right: 1 }
    );
    assert!(matches!(agreements(&[&left], 0), Err(EvalError::TooFew { .. })));
}

fn at(damping: f64, next: Option<f64>) -> Evidence {
    Evidence { damping, converged: true, dot: Some(0.5), next, auc: None }
}

#[test]
fn advice_follows_its_rules() {
    let rule = |all: &[Evidence]| advise(all).map(|advice| (advice.damping, advice.at_edge));
    let unknown = [at(0.01, Some(0.5)), at(0.1, Some(0.96)), at(1.0, Some(0.97)), at(10.0, Some(0.4)), at(100.0, None)];
    // A plateau says where the ranking stays, not whether it is right.
    assert_eq!(rule(&unknown), None);
    assert_eq!(plateaus(&unknown, 0.95), [(1, 3)]);
    assert_eq!(plateaus(&unknown, 0.3), [(0, 4)]);
    assert_eq!(plateaus(&unknown, 0.99), []);
    let known = |aucs: [f64; 5]| -> Vec<Evidence> {
        unknown.iter().zip(aucs).map(|(e, auc)| Evidence { auc: Some(auc), ..*e }).collect()
    };
    assert_eq!(rule(&known([0.6, 0.9, 0.9, 0.7, 0.6])), Some((1.0, false)));
    for (aucs, damping, words) in
        [([0.9, 0.8, 0.7, 0.6, 0.5], 0.01, "smaller"), ([0.5, 0.6, 0.7, 0.8, 0.9], 100.0, "larger")]
    {
        let advice = advise(&known(aucs)).expect("samples are known");
        assert_eq!((advice.damping, advice.at_edge), (damping, true));
        assert!(advice.reason.contains(words), "{}", advice.reason);
    }
    let mut failed = known([0.6, 0.9, 0.9, 0.7, 0.6]);
    failed.iter_mut().for_each(|evidence| evidence.converged = false);
    assert_eq!(rule(&failed), None);
    assert_eq!(plateaus(&failed, 0.3), []);
    failed[3].converged = true;
    assert_eq!(rule(&failed), Some((10.0, false)));
}

#[test]
fn a_correlation_that_is_no_correlation_is_refused() {
    let dot = scores(&[&[1.0, 2.0, 3.0]]);
    let found = || Attribution { scores: dot.clone(), ..Attribution::default() };
    let study = |stable| {
        let config = DampingConfig { top: 1, stable, ..DampingConfig::default() };
        study_dampings(&[0.1, 1.0], &[found(), found()], &dot, &config)
    };
    for wrong in [f64::NAN, 0.0, -0.5, 1.01, f64::INFINITY] {
        assert!(matches!(study(wrong), Err(EvalError::Share { value }) if value.to_bits() == wrong.to_bits()));
    }
    assert_eq!(study(0.99).expect("a correlation").plateaus, [(0, 1)]);
}

#[test]
fn a_study_of_dampings_needs_scores_for_each() {
    let dot = scores(&[&[1.0, 2.0, 3.0, 4.0]]);
    let found = |rows| Attribution { scores: scores(rows), ..Attribution::default() };
    let all = [found(&[&[1.0, 2.0, 4.0, 3.0]]), found(&[&[1.0, 2.0, 3.0, 4.0]])];
    let bad = [true, false, false, false];
    let config = DampingConfig { top: 2, bad: Some(&bad), ..DampingConfig::default() };
    let study = study_dampings(&[0.1, 1.0], &all, &dot, &config).expect("they are numbers");
    assert_eq!(study.auc, [Some(1.0), Some(1.0)]);
    assert_eq!(study.next[0].and_then(|next| next.spearman), study.dot[0].spearman);
    assert_eq!(study.advice.map(|advice| advice.place), Some(1));
    let error = study_dampings(&[0.1], &all, &dot, &config).expect_err("there are two");
    assert_eq!(error, EvalError::Length { left: 2, right: 1 });
}
