//! `--project`: gradients that are made small before they are scored.

use burn::tensor::{DType, Device, Tensor, TensorData};
use hyperinf::curvature::Damping;
use hyperinf::gradients::{Block, Entries, Gradients, Projection};
use hyperinf::scoring::{CurvatureFrom, Moments, Options, ProjectedSource, attribute, principal};
use hyperinf_tests::compare::assert_close;
use hyperinf_tests::devices;
use serde_json::{Value, json};

use crate::support::{Folder, csv_rows, f32s, number, whole};

/// The gradients of a file of [`Folder::with_gradients`].
fn gradients(n: usize, seed: u32, device: &Device) -> Gradients {
    let block = |rows: usize, cols: usize, seed| -> Tensor<3> {
        Tensor::from_data(TensorData::new(whole(n * rows * cols, seed), [n, rows, cols]), device)
    };
    let layout = [Block::new("a", 2, 5), Block::new("b", 3, 4)];
    Gradients { layout: layout.into(), blocks: vec![block(2, 5, seed), block(3, 4, seed + 10)] }
}

fn json_of(folder: &Folder, args: &[&str]) -> Value {
    let run = folder.score(&[args, &["--json"]].concat());
    assert_eq!(run.code, Some(0), "{args:?}: {run:?}");
    serde_json::from_str(&run.stdout).expect("it is JSON")
}

#[test]
fn scores_are_those_of_projected_gradients() {
    let folder = Folder::with_gradients();
    for (name, device) in devices() {
        let (train, query) = (gradients(6, 1, &device), gradients(3, 2, &device));
        let layout = train.layout.clone();
        let random = Projection::random(layout, 2, Entries::Gaussian, 7, (&device, DType::F32));
        let random = random.expect("there are blocks");
        let leading = principal(&train, Moments::Gradients, 2).expect("the gradients are numbers");
        for (flags, projection) in [(&["--project-seed", "7"][..], random), (&["--project-on", "principal"], leading)] {
            let small = [&train, &query].map(|source| ProjectedSource { source, projection: &projection });
            for (method, merged) in [
                ("identity", false),
                ("hyperinf", false),
                ("exact", false),
                ("exact", true),
                ("datainf", false),
                ("shampoo", false),
                ("diagonal", true),
            ] {
                let options = Options::named(method).expect("the method is known");
                let options = Options { merged, damping: Damping::Relative(0.3), ..options };
                let expected = attribute(&small[0], &small[1], CurvatureFrom::Training, &options)
                    .expect("the gradients are numbers");
                let structure = if merged { "merged" } else { "per-block" };
                let mut args = vec!["--method", method, "--structure", structure, "--device", &name, "--project", "2"];
                if method != "identity" {
                    args.extend(["--damping", "0.3"]);
                }
                let found = folder.scores(&[&args[..], flags].concat());
                for (found, expected) in found.iter().zip(&expected.scores.rows) {
                    assert_close(&format!("{args:?} {flags:?}"), found, expected, 1e-5);
                }
            }
        }
    }
}

#[test]
fn a_projection_on_all_directions_changes_nothing() {
    let folder = Folder::with_gradients();
    for args in [&["--method", "exact"][..], &["--method", "hyperinf", "--structure", "merged"]] {
        let plain = folder.scores(args);
        assert_eq!(folder.scores(&[args, &["--project", "5"]].concat()), plain, "{args:?}");
        assert_ne!(folder.scores(&[args, &["--project", "4"]].concat()), plain, "{args:?}");
    }
}

#[test]
fn a_projection_is_told_with_the_scores() {
    let folder = Folder::with_gradients();
    let told = json_of(&folder, &["--project", "3"]);
    assert_eq!(told["projection"], json!({ "rank": 3, "directions": "random", "seed": 0 }));
    let sides = |block: usize| (&told["blocks"][block]["rows"], &told["blocks"][block]["cols"]);
    assert_eq!((sides(0), sides(1)), ((&json!(2), &json!(3)), (&json!(3), &json!(3))));
    let told = json_of(&folder, &["--project", "3", "--project-on", "principal"]);
    assert_eq!(told["projection"], json!({ "rank": 3, "directions": "principal", "seed": null }));
    assert_eq!(json_of(&folder, &[])["projection"], Value::Null);
    assert!(folder.score(&["--project", "5"]).stderr.contains("--project 5 has no effect"));
    let run = folder.score(&["--project", "3", "--project-seed", "9"]);
    assert!(!run.stderr.contains("no effect"), "{}", run.stderr);
    assert!(run.stdout.contains("projected on 3 random directions of each side, seed 9"), "{}", run.stdout);

    let inputs = ["--train-gradients", "train.safetensors", "--query-gradients", "query.safetensors"];
    let args = [&["compare"][..], &inputs, &["--methods", "identity,exact", "--project", "2"]].concat();
    assert_eq!(crate::support::hyperinf(folder.path(), &args).code, Some(0));
    let rows = csv_rows(&folder.file("hyperinf-compare/pairs.csv"));
    let found = number(&rows[0], "pearson").expect("the scores differ");
    let [dot, exact] = ["identity", "exact"].map(|method| folder.scores(&["--method", method, "--project", "2"]));
    let pairs = dot.iter().zip(&exact).map(|(a, b)| hyperinf::eval::pearson(a, b).expect("the scores differ"));
    assert!((found - pairs.sum::<f64>() / 3.0).abs() < 1e-5, "{found}");
}

/// One block merged is a block of one row, of which the one-sided curvature is the whole matrix.
#[test]
fn one_block_merged_is_merged() {
    let folder = Folder::new();
    for (file, n, seed) in [("train.safetensors", 9, 1), ("query.safetensors", 2, 2)] {
        folder.write(file, &[f32s("a", &[n, 2, 5], &whole(n * 10, seed))]);
    }
    let merged = ["--structure", "merged", "--damping-absolute", "3"];
    for more in [&[][..], &["--project", "3"]] {
        let of = |method| folder.scores(&[&["--method", method][..], &merged, more].concat());
        for (found, expected) in of("hyperinf").iter().zip(of("exact")) {
            assert_close(&format!("{more:?}"), found, &expected, 1e-4);
        }
    }
    assert_eq!(json_of(&folder, &merged)["blocks"][0]["rows"], 1);
}

#[test]
fn a_bad_value_is_found_where_it_is() {
    let folder = Folder::with_gradients();
    let mut values = whole(5 * 10, 8);
    values[27] = f32::NAN;
    folder.write("train.safetensors", &[f32s("a", &[5, 2, 5], &values), f32s("b", &[5, 3, 4], &whole(60, 9))]);
    folder.write("few.safetensors", &[f32s("a", &[1, 2, 5], &whole(10, 3)), f32s("b", &[1, 3, 4], &whole(12, 3))]);
    for more in [&[][..], &["--curvature-gradients", "few.safetensors"]] {
        let run = folder.score(&[&["--project", "2", "--project-on", "principal"][..], more].concat());
        assert_eq!(run.code, Some(3), "{run:?}");
        assert!(run.stderr.contains("training gradients in `train.safetensors`"), "{}", run.stderr);
        assert!(run.stderr.contains("sample 2") && run.stderr.contains("[1, 2]"), "{}", run.stderr);
    }
}

/// The mean over projections, and how far they are apart.
#[test]
fn error_bars_over_projections() {
    let folder = Folder::with_gradients();
    let args = ["--method", "exact", "--query-mode", "mean", "--project", "2", "--project-seed"];
    let alone: Vec<Vec<f64>> =
        ["4", "5", "6"].iter().map(|seed| folder.scores(&[&args[..], &[*seed]].concat()).concat()).collect();
    let over = ["4", "--uncertainty", "3", "--uncertainty-over", "projections"];
    let told = json_of(&folder, &[&args[..], &over].concat());
    let spread = &told["uncertainty"];
    assert_eq!((&spread["over"], &spread["resamples"]), (&json!("random projections"), &json!(3)));
    assert_eq!((&spread["seed"], &spread["level"]), (&json!(4), &Value::Null));
    let found = folder.scores(&[&args[..], &over].concat()).concat();
    let of = |i: usize| alone.iter().map(move |set| set[i]);
    let mean: Vec<f64> = (0..6).map(|i| of(i).sum::<f64>() / 3.0).collect();
    assert_close("the mean over projections", &found, &mean, 1e-5);
    for ranked in told["rankings"][0]["most_helpful"].as_array().expect("a ranking") {
        let i = ranked["train_id"].as_u64().expect("a number") as usize;
        let std = (of(i).map(|score| (score - mean[i]).powi(2)).sum::<f64>() / 2.0).sqrt();
        let expected = [std, of(i).fold(f64::INFINITY, f64::min), of(i).fold(f64::NEG_INFINITY, f64::max)];
        let found = ["score_std", "low", "high"].map(|name| ranked[name].as_f64().expect("a number"));
        assert_close("the spread over projections", &found, &expected, 1e-4);
    }
    // The reported residual is the worst of all projections.
    let iterative = ["--method", "cg", "--query-mode", "mean", "--project", "2", "--project-seed"];
    let residual = |args: &[&str]| json_of(&folder, &[&iterative[..], args].concat())["residual"].as_f64();
    let alone = ["4", "5", "6"].map(|seed| residual(&[seed]).expect("a number"));
    assert_eq!(residual(&over), alone.into_iter().reduce(f64::max));

    let ten = json_of(&folder, &["--project", "2", "--uncertainty", "--uncertainty-over", "projections"]);
    assert_eq!(ten["uncertainty"]["resamples"], 10);
}

#[test]
fn one_seed_is_that_of_everything_drawn() {
    let folder = Folder::with_gradients();
    let projected = |flags: &[&str]| folder.scores(&[&["--project", "2", "--query-mode", "mean"][..], flags].concat());
    assert_eq!(projected(&["--seed", "5"]), projected(&["--project-seed", "5"]));
    assert_ne!(projected(&["--seed", "5"]), projected(&["--seed", "6"]));
    let over = ["--uncertainty", "3", "--uncertainty-over", "projections"];
    assert_eq!(
        projected(&[&over[..], &["--seed", "5"]].concat()),
        projected(&[&over[..], &["--project-seed", "5"]].concat())
    );
    let run = folder.score(&["--project", "2", "--project-on", "principal", "--seed", "1"]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("a run without random choices"), "{}", run.stderr);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let folder = Folder::with_gradients();
    let over = ["--uncertainty", "3", "--uncertainty-over", "projections"];
    for (args, said) in [
        (&["--project", "0"][..], "1.."),
        (&["--project-seed", "1"], "--project <RANK>"),
        (&["--project", "2", "--project-on", "principal", "--project-seed", "1"], "nothing is drawn"),
        (&over, "no random --project"),
        (&[&over[..], &["--project", "2", "--project-on", "principal"]].concat(), "no random --project"),
        (&["--project", "2", "--uncertainty", "1", "--uncertainty-over", "projections"], "at least 2 projections"),
        (&[&over[..], &["--project", "5"]].concat(), "nothing is projected"),
    ] {
        let run = folder.score(args);
        assert_eq!(run.code, Some(2), "{args:?}: {run:?}");
        assert!(run.stderr.contains(said), "{args:?}: {}", run.stderr);
    }
}
