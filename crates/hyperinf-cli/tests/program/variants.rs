//! `hyperinf score`: normalised scores, other curvature, contrasts, groups and error bars.

use std::fs;

use hyperinf_tests::compare::assert_close;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::support::{Folder, f32s, whole};

/// Two queries more, to be taken away from the others, and five samples for the curvature.
fn folder() -> Folder {
    let folder = Folder::with_gradients();
    for (file, n, seed) in [("contrast.safetensors", 2, 5), ("others.safetensors", 5, 6)] {
        let blocks = [f32s("b", &[n, 3, 4], &whole(n * 12, seed + 10)), f32s("a", &[n, 2, 5], &whole(n * 10, seed))];
        folder.write(file, &blocks);
    }
    folder
}

/// The gradients of a file, whole numbers that f64 adds exactly, one row per sample.
fn gradients(n: usize, seed: u32) -> Vec<Vec<f64>> {
    let (a, b) = (whole(n * 10, seed), whole(n * 12, seed + 10));
    let row = |i: usize| a[i * 10..][..10].iter().chain(&b[i * 12..][..12]).map(|&v| f64::from(v)).collect();
    (0..n).map(row).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A tensor of a file of scores.
fn tensor(folder: &Folder, name: &str) -> Vec<f64> {
    let bytes = fs::read(folder.file("scores.safetensors")).expect("the program wrote it");
    let file = SafeTensors::deserialize(&bytes).expect("it is safetensors");
    let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    view.data().as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
}

/// The output of `--json`, from a run that must succeed.
fn json(folder: &Folder, args: &[&str]) -> Value {
    let run = folder.score(&[args, &["--json"]].concat());
    assert_eq!(run.code, Some(0), "{args:?}: {run:?}");
    serde_json::from_str(&run.stdout).expect("it is JSON")
}

#[test]
fn scores_are_divided_by_what_was_asked_for() {
    let folder = folder();
    let (train, query) = (gradients(6, 1), gradients(3, 2));
    for (name, of_query) in [("none", false), ("l2", false), ("cosine", true), ("l-relatif", false)] {
        let found = folder.scores(&["--method", "identity", "--normalise", name]);
        for (v, row) in query.iter().zip(found) {
            // Without curvature a sample's influence on itself is its squared norm.
            let divisor = |g: &[f64]| match (name, of_query) {
                ("none", _) => 1.0,
                (_, true) => (dot(v, v) * dot(g, g)).sqrt(),
                _ => dot(g, g).sqrt(),
            };
            let expected: Vec<f64> = train.iter().map(|g| dot(v, g) / divisor(g)).collect();
            assert_close(name, &row, &expected, 1e-6);
        }
        assert_eq!(json(&folder, &["--method", "identity", "--normalise", name])["normalisation"], name);
    }
    let cosine = ["--method", "identity", "--normalise", "cosine"];
    assert_eq!(folder.scores(&["--method", "cosine"]), folder.scores(&cosine));
    let plain = folder.scores(&["--method", "exact"]);
    let divided = folder.scores(&["--method", "exact", "--normalise", "theta-relatif"]);
    // The divisor is the sample's alone.
    for i in 0..6 {
        let ratios: Vec<f64> = (0..3).map(|k| divided[k][i] / plain[k][i]).collect();
        assert_close("θ-RelatIF", &ratios, &[ratios[0]; 3], 1e-4);
    }
}

#[test]
fn the_curvature_of_other_samples_can_be_taken() {
    let folder = folder();
    let own = folder.scores(&["--method", "exact"]);
    let again = folder.scores(&["--method", "exact", "--curvature-gradients", "train.safetensors"]);
    // From the preconditioned queries and not from the dual's products: another rounding.
    assert_close("the same samples", &again.concat(), &own.concat(), 1e-5);
    for method in ["exact", "hyperinf", "datainf", "shampoo"] {
        let args = ["--method", method, "--curvature-gradients", "others.safetensors"];
        let others = folder.scores(&args);
        assert_eq!((others.len(), others[0].len()), (3, 6));
        assert_ne!(others, folder.scores(&["--method", method]));
        let told = json(&folder, &args);
        assert_eq!(told["curvature_gradients"]["file"], "others.safetensors");
        assert_eq!(told["curvature_gradients"]["samples"], 5);
        // λ is that of the other samples.
        let squares = whole(50, 6).iter().map(|&v| f64::from(v * v)).sum::<f64>() / 50.0;
        let found = told["blocks"][0]["lambda"].as_f64().expect("a number");
        assert_close("λ", &[found], &[0.1 * squares], 1e-6);
    }
    assert_eq!(json(&folder, &["--method", "exact"])["curvature_gradients"], Value::Null);
}

#[test]
fn a_method_can_have_another_solver() {
    let folder = folder();
    let own = json(&folder, &["--method", "hyperinf"]);
    let expected = folder.scores(&["--method", "hyperinf"]).concat();
    for solver in ["exact", "schulz", "cg", "spectral"] {
        let args = ["--method", "hyperinf", "--solver", solver];
        assert_close(solver, &folder.scores(&args).concat(), &expected, 1e-4);
        let told = json(&folder, &args);
        assert_eq!((&told["solver"], &told["method"]), (&solver.into(), &"hyperinf".into()));
        assert_ne!(told["solver"], own["solver"]);
    }
    let run = folder.score(&["--solver", "gauss"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("`gauss`") && run.stderr.contains("exact, "), "{}", run.stderr);
    let run = folder.score(&["--method", "hyperinf", "--solver", "datainf"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("OneSided"), "{}", run.stderr);
    let run = folder.score(&["--method", "identity", "--solver", "exact"]);
    assert!(run.stderr.contains("--solver has no effect"), "{}", run.stderr);
}

#[test]
fn a_contrast_is_the_difference_of_two_means() {
    let folder = folder();
    let (train, query, contrast) = (gradients(6, 1), gradients(3, 2), gradients(2, 5));
    let mean = |set: &[Vec<f64>], g: &[f64]| set.iter().map(|v| dot(v, g)).sum::<f64>() / set.len() as f64;
    let expected: Vec<f64> = train.iter().map(|g| mean(&query, g) - mean(&contrast, g)).collect();
    let args = ["--method", "identity", "--contrast-gradients", "contrast.safetensors"];
    let found = folder.scores(&args);
    assert_eq!(found.len(), 1, "one row");
    assert_close("contrast", &found[0], &expected, 1e-6);
    let told = json(&folder, &args);
    assert_eq!((&told["query_mode"], &told["contrast_gradients"]["samples"]), (&"mean".into(), &2.into()));
    let unit = |told: &Value| told["unit"].as_str().expect("a text").to_owned();
    let end = "of the mean of the queries minus the mean of the contrast queries";
    assert!(unit(&told).ends_with(end), "{}", unit(&told));
    let told = json(&folder, &["--method", "exact", "--contrast-gradients", "contrast.safetensors"]);
    let needle = "the queries' mean loss minus the contrast queries' mean loss if the sample is left out";
    assert!(unit(&told).contains(needle), "{}", unit(&told));
    // Resampled, it is the same number.
    let sure = folder.scores(&[&args[..], &["--uncertainty"]].concat());
    assert_close("contrast with error bars", &sure[0], &expected, 1e-6);
}

#[test]
fn groups_are_scored_instead_of_samples() {
    let folder = folder();
    folder.write_bytes("groups.txt", b"book\nletter\nbook\nbook\nletter\nnote\n");
    let each = folder.scores(&["--method", "exact"]);
    for (pool, divisors) in [("sum", [1.0; 3]), ("mean", [3.0, 2.0, 1.0])] {
        let args = ["--method", "exact", "--groups", "groups.txt", "--group-scores", pool];
        for (row, found) in each.iter().zip(folder.scores(&args)) {
            let sums = [row[0] + row[2] + row[3], row[1] + row[4], row[5]];
            let expected: Vec<f64> = sums.iter().zip(divisors).map(|(sum, divisor)| sum / divisor).collect();
            assert_close(pool, &found, &expected, 1e-5);
        }
        let told = json(&folder, &args);
        assert_eq!((&told["groups"]["groups"], &told["groups"]["scores"]), (&3.into(), &pool.into()));
        assert_eq!(told["samples"], 6);
        let unit = told["unit"].as_str().expect("a text");
        let needle = if pool == "sum" { "if the whole group is left out" } else { "mean over the group's samples" };
        assert!(unit.contains(needle) && unit.contains("score / samples is the change"), "{unit}");
        let text = folder.score(&args).stdout;
        assert!(text.contains("6 training samples") && text.contains("3 groups") && text.contains(needle), "{text}");
        let ids = ["book", "letter", "note"];
        let best = told["rankings"][0]["most_helpful"][0]["group_id"].as_str().expect("a group's name");
        assert!(ids.contains(&best), "{best}");
        // Three groups fill no two lists: each is shown once for each of the three queries.
        assert_eq!(ids.map(|id| text.matches(id).count()), [3; 3], "{text}");
    }
    let run = folder.score(&["--method", "exact", "--groups", "groups.txt", "--output", "scores.csv"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let text = fs::read_to_string(folder.file("scores.csv")).expect("the program wrote it");
    assert_eq!(text.lines().count(), 1 + 3 * 3);
    assert!(text.starts_with("query_id,group_id,score,rank\n"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("0,book,")), "{text}");
}

#[test]
fn error_bars_are_columns_and_the_ranking_s_stability_is_told() {
    let folder = folder();
    let each = folder.scores(&["--method", "exact"]);
    let args = ["--method", "exact", "--uncertainty", "200", "--seed", "3"];
    let mean = folder.scores(&args);
    assert_eq!(mean.len(), 1);
    let column = |i: usize| each.iter().map(move |row| row[i]);
    let means: Vec<f64> = (0..6).map(|i| column(i).sum::<f64>() / 3.0).collect();
    assert_close("mean", &mean[0], &means, 1e-5);
    let error = |i: usize| (column(i).map(|s| (s - means[i]).powi(2)).sum::<f64>() / 6.0).sqrt();
    assert_close("score_std", &tensor(&folder, "score_std"), &(0..6).map(error).collect::<Vec<_>>(), 1e-5);
    let (low, high) = (tensor(&folder, "low"), tensor(&folder, "high"));
    assert!((0..6).all(|i| low[i] < means[i] && means[i] < high[i]), "{low:?} {high:?}");

    let told = json(&folder, &args);
    let spread = &told["uncertainty"];
    assert_eq!((&spread["resamples"], &spread["seed"], &spread["level"]), (&200.into(), &3.into(), &0.95.into()));
    let between = spread["spearman"].as_f64().expect("a number");
    assert!((-1.0..=1.0).contains(&between));
    assert!(told["rankings"][0]["most_helpful"][0]["score_std"].is_number());
    let text = folder.score(&args).stdout;
    assert!(text.contains("Spearman") && text.contains("200 sets") && text.contains(" ± "), "{text}");

    for (file, count) in [("scores.csv", 7), ("scores.parquet", 7)] {
        let run = folder.score(&[&args[..], &["--output", file]].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        if file.ends_with("csv") {
            let text = fs::read_to_string(folder.file(file)).expect("the program wrote it");
            assert_eq!(text.lines().next(), Some("query_id,train_id,score,rank,score_std,low,high"));
            assert_eq!(text.lines().count(), count);
        }
    }
    // The same draws again, others with another seed; without a number there are a thousand.
    folder.scores(&args);
    assert_eq!(tensor(&folder, "low"), low);
    assert_eq!(json(&folder, &["--uncertainty"])["uncertainty"]["resamples"], 1000);
}

/// TracIn: the sum over moments of the training, each times its learning rate.
#[test]
fn checkpoints_are_summed_with_their_learning_rates() {
    let folder = folder();
    for (file, n, seed) in [("later_train.safetensors", 6, 21), ("later_query.safetensors", 3, 22)] {
        let blocks = [f32s("a", &[n, 2, 5], &whole(n * 10, seed)), f32s("b", &[n, 3, 4], &whole(n * 12, seed + 10))];
        folder.write(file, &blocks);
    }
    let moments =
        ["--learning-rate", "0.5", "--checkpoint", "later_train.safetensors", "later_query.safetensors", "0.25"];
    let found = folder.scores(&[&["--method", "identity"][..], &moments].concat());
    let terms = [(gradients(6, 1), gradients(3, 2), 0.5), (gradients(6, 21), gradients(3, 22), 0.25)];
    for (q, row) in found.iter().enumerate() {
        let of = |i: usize| terms.iter().map(|(train, query, rate)| rate * dot(&query[q], &train[i])).sum::<f64>();
        assert_close("TracIn", row, &(0..6).map(of).collect::<Vec<_>>(), 1e-6);
    }
    // Every moment has a curvature, and groups and error bars are of the sum.
    let own = folder.scores(&["--method", "exact", "--query-mode", "mean"]).concat();
    let exact = folder.scores(&[&["--method", "exact", "--query-mode", "mean"][..], &moments].concat()).concat();
    fs::rename(folder.file("later_train.safetensors"), folder.file("train.safetensors")).expect("the folder is ours");
    fs::rename(folder.file("later_query.safetensors"), folder.file("query.safetensors")).expect("the folder is ours");
    let later = folder.scores(&["--method", "exact", "--query-mode", "mean"]).concat();
    let sum: Vec<f64> = own.iter().zip(&later).map(|(a, b)| 0.5 * a + 0.25 * b).collect();
    assert_close("exact", &exact, &sum, 1e-5);
    let again = ["--learning-rate", "0.5", "--checkpoint", "train.safetensors", "query.safetensors", "0.25"];
    let sure = folder.scores(&[&["--method", "exact", "--uncertainty"][..], &again].concat()).concat();
    assert_close("the mean", &sure, &later.iter().map(|s| 0.75 * s).collect::<Vec<_>>(), 1e-5);
    let told = json(&folder, &again);
    assert_eq!(told["checkpoints"][1]["learning_rate"], 0.25);
    assert_eq!(told["checkpoints"][1]["query_gradients"]["samples"], 3);
    assert!(told["unit"].as_str().expect("a text").starts_with("sum over 2 checkpoints"), "{told}");

    let check = |args: &[&str], code: i32, said: &str| {
        let run = folder.score(args);
        assert_eq!((run.code, run.stderr.contains(said)), (Some(code), true), "{args:?}, {said}: {}", run.stderr);
    };
    check(&again[2..], 2, "--learning-rate");
    check(&again[..2], 2, "--checkpoint");
    check(&["--learning-rate", "-1", "--checkpoint", "train.safetensors", "query.safetensors", "1"], 2, "not -1");
    check(&[&again[..5], &["much"]].concat(), 2, "the RATE of --checkpoint");
    check(&[&again[..], &["--contrast-gradients", "contrast.safetensors"]].concat(), 2, "one moment only");
    check(&[&again[..3], &["contrast.safetensors", "query.safetensors", "1"]].concat(), 3, "of 2 samples");
    check(&[&again[..], &["--output", "train.safetensors"]].concat(), 2, "also an input");
}

#[test]
fn what_cannot_be_is_refused_with_the_numbers() {
    let folder = folder();
    folder.write_bytes("five.txt", b"a\nb\nc\nd\ne\n");
    folder.write_bytes("gap.txt", b"a\nb\n\nd\ne\nf\n");
    folder.write_bytes("bytes.txt", &[0xff, 0xfe, b'\n']);
    let one = [f32s("a", &[1, 2, 5], &whole(10, 2)), f32s("b", &[1, 3, 4], &whole(12, 12))];
    folder.write("one.safetensors", &one);
    folder.write("other.safetensors", &[f32s("c", &[1, 2, 5], &whole(10, 2))]);
    let check = |args: &[&str], code: i32, needles: &[&str]| {
        let run = folder.score(args);
        assert_eq!(run.code, Some(code), "{args:?}: {run:?}");
        needles.iter().for_each(|needle| assert!(run.stderr.contains(needle), "{args:?}, {needle}: {}", run.stderr));
    };
    check(&["--groups", "five.txt"], 3, &["five.txt", "5 lines", "6 training samples"]);
    check(&["--groups", "gap.txt"], 3, &["line 3"]);
    check(&["--groups", "bytes.txt"], 3, &["cannot be read as text"]);
    check(&["--groups", "absent.txt"], 3, &["absent.txt"]);
    check(&["--group-scores", "mean"], 2, &["--groups"]);
    check(&["--seed", "1"], 2, &["--uncertainty"]);
    check(&["--uncertainty", "7"], 2, &["at least 40", "7"]);
    check(&["--uncertainty", "--query-mode", "each"], 2, &["--uncertainty", "--query-mode each"]);
    check(&["--contrast-gradients", "contrast.safetensors", "--query-mode", "each"], 2, &["--contrast-gradients"]);
    check(&["--uncertainty", "--method", "cosine"], 2, &["cosine"]);
    check(&["--method", "cosine", "--normalise", "l2"], 2, &["--method cosine", "--normalise"]);
    check(&["--curvature-gradients", "other.safetensors"], 3, &["the same blocks", "other.safetensors"]);
    check(&["--contrast-gradients", "absent.safetensors"], 3, &["contrast gradients", "absent.safetensors"]);
    check(&["--method", "ekfac"], 2, &["shampoo"]);
    folder.write_bytes("groups.csv", b"a\na\na\na\na\na\n");
    check(&["--output", "groups.csv", "--groups", "groups.csv"], 2, &["groups.csv", "also an input"]);

    // One query has no spread, and NaN is named with its file.
    fs::copy(folder.file("one.safetensors"), folder.file("query.safetensors")).expect("the folder can be written");
    check(&["--uncertainty"], 4, &["1 queries", "at least 2"]);
    let bad = [f32s("a", &[2, 2, 5], &[&whole(19, 2)[..], &[f32::NAN]].concat()), f32s("b", &[2, 3, 4], &[1.0; 24])];
    folder.write("contrast.safetensors", &bad);
    for more in [&[][..], &["--uncertainty"]] {
        let args = [&["--contrast-gradients", "contrast.safetensors"][..], more].concat();
        check(&args, 3, &["contrast gradients in `contrast.safetensors`", "sample 1", "[1, 4]"]);
    }
}

#[test]
fn queries_without_gradients_have_error_bars_too() {
    let folder = folder();
    let zeros = |block: usize, rows: usize| [vec![0.0; 3 * block], whole(rows * block, 2)].concat();
    folder.write("query.safetensors", &[f32s("a", &[5, 2, 5], &zeros(10, 2)), f32s("b", &[5, 3, 4], &zeros(12, 2))]);
    let args = ["--method", "identity", "--uncertainty"];
    let told = json(&folder, &args);
    let between = told["uncertainty"]["spearman"].as_f64().expect("most pairs have one");
    assert!((-1.0..=1.0).contains(&between), "{between}");
    folder.write("query.safetensors", &[f32s("a", &[3, 2, 5], &zeros(10, 0)), f32s("b", &[3, 3, 4], &zeros(12, 0))]);
    let told = json(&folder, &args);
    assert_eq!((&told["uncertainty"]["spearman"], &told["uncertainty"]["resamples"]), (&Value::Null, &1000.into()));
    let text = folder.score(&args).stdout;
    assert!(text.contains("Spearman –, "), "{text}");
    assert_eq!(folder.scores(&args), [vec![0.0; 6]]);
}

#[test]
fn absurdly_many_repetitions_are_refused() {
    let folder = folder();
    for over in [&["queries"][..], &["projections", "--project", "4"]] {
        for count in ["1000001", "18446744073709551615"] {
            let run = folder.score(&[&["--uncertainty", count, "--uncertainty-over"], over].concat());
            assert_eq!(run.code, Some(2), "{run:?}");
            assert!(run.stderr.contains("at most 1000000"), "{}", run.stderr);
        }
    }
}
