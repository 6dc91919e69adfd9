//! `--metric`: scores in the metric of AdamW's second moments.

use std::collections::BTreeMap;
use std::path::Path;

use hyperinf_tests::compare::assert_close;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::support::{Folder, device_names};
use crate::texts::{model, two_kinds};

const STEPS: i32 = 16;

fn base() -> Vec<String> {
    ["--model".to_owned(), model("bert")].into()
}

const WITH: [&str; 6] = ["--adapter", "adapter", "--train", "train.jsonl", "--query", "query.jsonl"];

/// A folder with rows of two kinds and an adapter whose training was recorded: 16 steps.
fn recorded() -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &two_kinds(24, 0));
    folder.write_rows("query.jsonl", &two_kinds(6, 30));
    let train = ["--train", "train.jsonl", "--out", "adapter", "--epochs", "4", "--batch-size", "6", "--record"];
    folder.succeed("finetune", &base(), &[&train[..], &["--learning-rate", "5e-3"]].concat());
    folder
}

/// The state of an optimizer with these second moments for every parameter of the adapter.
fn write_state(folder: &Folder, name: &str, moment: impl Fn(&str) -> f32, metadata: &[(&str, &str)]) {
    let bytes = std::fs::read(folder.file("adapter/adapter_model.safetensors")).expect("it is there");
    let adapter = SafeTensors::deserialize(&bytes).expect("it is a safetensors file");
    let held: Vec<(String, Vec<usize>, Vec<u8>)> = adapter
        .iter()
        .map(|(name, view)| {
            let values = vec![moment(name); view.shape().iter().product()];
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (format!("{name}.exp_avg_sq"), view.shape().to_vec(), bytes)
        })
        .collect();
    let views = held.iter().map(|(name, shape, bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("the shape fits"))
    });
    let metadata = metadata.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
    let all: BTreeMap<String, TensorView<'_>> = views.collect();
    safetensors::serialize_to_file(all, Some(metadata), Path::new(&folder.file(name))).expect("it can be written");
}

/// `√(v / (1 − .999¹⁶)) + 1e-8`.
fn metric(moment: f64) -> f64 {
    (moment / (1.0 - 0.999f64.powi(STEPS))).sqrt() + 1e-8
}

fn scores(folder: &Folder, out: &str) -> Vec<f64> {
    let lines = folder.lines(&format!("{out}/scores.jsonl"));
    let number = |line: &serde_json::Value, name: &str| line[name].as_u64().unwrap_or(0);
    let of = |line: &serde_json::Value| {
        (number(line, "query_id"), number(line, "train_id"), line["score"].as_f64().expect("a score"))
    };
    let mut all: Vec<(u64, u64, f64)> = lines.iter().map(of).collect();
    all.sort_by_key(|line| (line.0, line.1));
    all.into_iter().map(|line| line.2).collect()
}

fn attribute(folder: &Folder, out: &str, more: &[&str]) -> Vec<f64> {
    folder.succeed("attribute", &base(), &[&WITH[..], &["--format", "jsonl", "--out", out], more].concat());
    scores(folder, out)
}

fn times(factor: f64, scores: &[f64]) -> Vec<f64> {
    scores.iter().map(|score| factor * score).collect()
}

/// A metric that is the same number everywhere divides inner products by it, and leaves scores by an inverse alone,
/// whose damping is relative.
#[test]
fn a_constant_metric_is_a_factor() {
    let folder = recorded();
    write_state(&folder, "state.safetensors", |_| 0.25, &[("step", "16")]);
    let with = ["--metric", "state.safetensors"];
    for (method, factor) in [("identity", 1.0 / metric(0.25)), ("hyperinf", 1.0), ("datainf", 1.0), ("shampoo", 1.0)] {
        let plain = attribute(&folder, "plain", &["--method", method]);
        let found = attribute(&folder, "found", &[&["--method", method], &with[..]].concat());
        assert_close(method, &found, &times(factor, &plain), 1e-4);
    }
    // A curvature that the model is run for.
    let drawn = ["--method", "shampoo@sampled", "--seed", "3"];
    let plain = attribute(&folder, "plain", &drawn);
    let found = attribute(&folder, "found", &[&drawn[..], &with[..]].concat());
    assert_close("shampoo@sampled", &found, &plain, 1e-3);
    let run = folder.succeed("attribute", &base(), &[&WITH[..], &["--out", "said"], &with[..]].concat());
    assert!(run.stdout.contains("metric    AdamW's second moments after 16 steps"), "{}", run.stdout);
    assert_eq!(folder.json("said/summary.json")["metric"]["steps"], 16);
}

/// Large moments of the second factors leave the first ones alone.
#[test]
fn moments_belong_to_their_parameters() {
    let folder = recorded();
    let moment = |name: &str| if name.contains("lora_A") { 4.0 } else { 1e30 };
    write_state(&folder, "state.safetensors", moment, &[("step", "16")]);
    let only = attribute(&folder, "only", &["--method", "identity", "--blocks", "*lora_A*"]);
    let found = attribute(&folder, "found", &["--method", "identity", "--metric", "state.safetensors"]);
    assert_close("lora_A", &found, &times(1.0 / metric(4.0), &only), 1e-4);
}

/// The recording's own moments: another adapter's are refused, and gradients of another metric are not taken for these.
#[test]
fn a_recording_is_a_metric() {
    let folder = recorded();
    let plain = attribute(&folder, "out", &["--method", "identity"]);
    let found = attribute(&folder, "out", &["--method", "identity", "--metric", "adapter"]);
    assert!(plain.iter().zip(&found).any(|(a, b)| (a - b).abs() > 1e-3 * a.abs()));
    let named = attribute(&folder, "other", &["--method", "identity", "--metric", "adapter/recording.safetensors"]);
    assert_eq!(found, named);
    for (command, query) in [("detect", "--validation"), ("select", "--validation")] {
        let rows = ["--adapter", "adapter", "--train", "train.jsonl", query, "query.jsonl", "--metric", "adapter"];
        let more: &[&str] = if command == "select" { &["--out", "kept", "--keep", "50%"] } else { &["--out", "found"] };
        folder.succeed(command, &base(), &[&rows[..], more].concat());
    }
    let train = ["--train", "train.jsonl", "--out", "second", "--epochs", "1", "--batch-size", "6", "--record"];
    folder.succeed("finetune", &base(), &train);
    let run = folder.run("attribute", &words(&[&WITH[..], &["--out", "no", "--metric", "second"]].concat()));
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stderr.contains("records another training"), "{}", run.stderr);
}

fn words<'a>(more: &[&'a str]) -> Vec<&'a str> {
    // The model's folder is read once.
    let base: &'static [String] = Vec::leak(base());
    base.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

#[test]
fn what_is_no_metric_is_refused() {
    let folder = recorded();
    let check = |more: &[&str], code: i32, said: &str| {
        let run = folder.run("attribute", &words(&[&WITH[..], &["--out", "out"], more].concat()));
        assert_eq!(run.code, Some(code), "{more:?}: {run:?}");
        assert!(run.stderr.contains(said), "{more:?}: no {said:?} in {}", run.stderr);
        assert!(!folder.file("out/summary.json").exists(), "{more:?}");
    };
    let metric = |more: &[&'static str]| [&["--metric", "adapter"], more].concat();
    for method in ["kfac", "ekfac"] {
        check(&metric(&["--method", method]), 2, "--metric");
    }
    check(&metric(&["--method", "bm25"]), 2, "--metric");
    check(&metric(&["--method", "unrolled"]), 2, "--metric");
    check(&metric(&["--index", "index"]), 2, "--index");
    check(&metric(&["--refine", "2"]), 2, "--refine");
    check(&["--metric", "nothing.safetensors"], 3, "nothing.safetensors");
    check(&["--metric", "train.jsonl"], 3, "train.jsonl");
    let bad = |moment: f32, metadata: &[(&str, &str)], said: &str| {
        write_state(&folder, "state.safetensors", |_| moment, metadata);
        check(&["--metric", "state.safetensors"], 3, said);
    };
    bad(1.0, &[], "no `step`");
    bad(1.0, &[("step", "0")], "no `step`");
    bad(-1.0, &[("step", "3")], "holds -1");
    bad(f32::NAN, &[("step", "3")], "holds NaN");
    bad(1.0, &[("step", "3"), ("beta2", "1.5")], "beta2 1.5");
    bad(1.0, &[("step", "3"), ("eps", "small")], "`small`, no number");
    // The adapter itself: no moments.
    check(&["--metric", "adapter/adapter_model.safetensors"], 3, "no `step`");
}

/// Two ranks scale each their own batches; methods over recorded states are rank 0's alone.
#[test]
fn ranks_change_no_score() {
    let folder = recorded();
    let all: [&[&str]; 4] = [&["--metric", "adapter"], &["--method", "unrolled"], &["--method", "source"], &[]];
    for more in all {
        let of = |out: &str, device: &str| {
            attribute(&folder, out, &[more, &["--device", device, "--batch-size", "4"]].concat());
            let scores = std::fs::read(folder.file(&format!("{out}/scores.jsonl"))).expect("they are there");
            std::fs::remove_dir_all(folder.file(out)).expect("it is there");
            scores
        };
        let name = &device_names()[0];
        assert!(of("alone", name) == of("ranks", &format!("{name},{name}")), "{more:?}");
    }
}
