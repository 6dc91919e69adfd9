//! The examples of the library, run on fixtures.

#[path = "../../crates/hyperinf/examples/convolution.rs"]
#[allow(dead_code)]
mod convolution;
#[path = "../../crates/hyperinf/examples/from_files.rs"]
#[allow(dead_code)]
mod from_files;
#[path = "../../crates/hyperinf/examples/lora.rs"]
#[allow(dead_code)]
mod lora;
#[path = "../../crates/hyperinf/examples/stream.rs"]
#[allow(dead_code)]
mod stream;
#[path = "../../crates/hyperinf/examples/training.rs"]
#[allow(dead_code)]
mod training;

use std::fs;

use hyperinf::prelude::*;
use hyperinf::store::score;
use hyperinf_tests::{devices, fixtures};

#[test]
fn from_files_to_scores() {
    let folder = tempfile::tempdir().expect("the system has room for tests");
    let rows = |name: &str, rows: &[(&str, u8)]| {
        let line = |(text, label): &(&str, u8)| format!("{{\"text\": \"{text}\", \"label\": {label}}}\n");
        let path = folder.path().join(name);
        fs::write(&path, rows.iter().map(line).collect::<String>()).expect("the folder can be written");
        path.to_str().expect("paths of tests are UTF-8").to_owned()
    };
    let train =
        [("the fox rests", 0), ("a small river", 1), ("old fox", 2), ("the river is cold", 0), ("a red fox", 1)];
    let (train, query) = (rows("train.jsonl", &train), rows("query.jsonl", &[("the fox rests", 0)]));
    let model = |name: &str| fixtures::path(&format!("transformers/{name}")).display().to_string();
    let (model, adapter, out) = (model("bert"), model("bert/query_value"), folder.path().join("out"));
    let out = out.to_str().expect("paths of tests are UTF-8");
    let found = from_files::rank([&model, &adapter, &train, &query, out]).expect("the fixtures are good");
    assert_eq!(found.len(), 6, "{found:?}");
    assert!(found[0].trim_start().starts_with('+') && found[3].trim_start().starts_with('-'), "{found:?}");
    assert_eq!(found[0].trim_start().split_once("  ").map(|(_, row)| row), Some("0 (0): the fox rests"), "{found:?}");
    assert!(
        !fs::exists(out).expect("the folder can be read"),
        "gradients are discarded, and the folder of nothing else"
    );
}

#[test]
fn streamed_files_are_scored() {
    let folder = tempfile::tempdir().expect("the system has room for tests");
    let pair = stream::write(folder.path(), 3, 8, 6).expect("the folder can be written");
    for (name, device) in devices() {
        let found = score(&pair, None, &Options::default(), &device).expect("the gradients are good").scores;
        assert_eq!((found.queries(), found.samples()), (3, 6), "{name}");
        assert!(found.rows.iter().flatten().all(|score| score.is_finite() && *score != 0.0), "{name}: {found:?}");
    }
}

#[test]
fn a_convolution_is_attributed() {
    for (name, device) in devices() {
        let (found, blocks) = convolution::score(&device).expect("the example works");
        assert_eq!((found.scores.queries(), found.scores.samples()), (2, 24), "{name}");
        // 9 weights of the kernel or 4 features, and the bias.
        assert_eq!(blocks, [("conv".to_owned(), 10, 4), ("output".to_owned(), 5, 3)], "{name}");
    }
}

#[test]
fn an_adapter_of_ones_own_is_attributed() {
    for (name, device) in devices() {
        let found = lora::score(&device).expect("the example works");
        let blocks: Vec<_> = found.blocks.iter().map(|report| (report.block.rows, report.block.cols)).collect();
        assert_eq!((found.scores.samples(), blocks), (32, vec![(16, 2), (2, 8)]), "{name}");
        assert!(found.blocks.iter().all(|report| report.lambda.is_some()), "{name}: training moved both factors");
    }
}

#[test]
fn a_training_loop_of_ones_own_finds_its_wrong_labels() {
    for (name, device) in devices() {
        let mut found = training::wrong_labels(&device).expect("the example works");
        found.sort_unstable();
        assert_eq!(found, [0, 1, 40, 41], "{name}");
    }
}
