//! Labels: names or numbers, from the model, the adapter or the data.

use std::fs;

use hyperinf::data::{Labels, Reason};
use serde_json::{Value, json};

use crate::support::{Folder, read_scores};
use crate::texts::{model, three_classes, two_kinds};

/// The tiny classifier with names for its three classes, in the folder `named`.
fn named(folder: &Folder) -> [String; 4] {
    fs::create_dir(folder.file("named")).expect("the folder can be written");
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(format!("{}/{name}", model("bert")), folder.file(&format!("named/{name}"))).expect("it is there");
    }
    let mut config = folder.json("named/config.json");
    config["id2label"] = json!({ "0": "worst", "1": "good", "2": "best" });
    folder.write_bytes("named/config.json", config.to_string().as_bytes());
    ["--model".into(), "named".into(), "--adapter".into(), model("bert/query_value")]
}

fn relabel(rows: &mut [Value], labels: [Value; 3]) {
    for (i, row) in rows.iter_mut().enumerate() {
        row["label"] = labels[i % 3].clone();
    }
}

#[test]
fn names_of_the_model_and_numbers_mean_the_same() {
    let folder = Folder::new();
    let model = named(&folder);
    let mut rows = three_classes(6);
    let mut scores = |labels: [Value; 3]| {
        relabel(&mut rows, labels);
        folder.write_rows("rows.jsonl", &rows);
        let args = ["--train", "rows.jsonl", "--query", "rows.jsonl", "--truncate", "--format", "safetensors"];
        folder.succeed("attribute", &model, &[&args[..], &["--method", "identity", "--out", "found"]].concat());
        read_scores(&folder.file("found/scores.safetensors"))
    };
    let expected = scores([json!(0), json!(1), json!(2)]);
    for labels in [[json!("worst"), json!("good"), json!("best")], [json!("0"), json!(1.0), json!("best")]] {
        assert_eq!(scores(labels.clone()), expected, "{labels:?}");
    }
    assert_ne!(scores([json!("best"), json!("good"), json!("worst")]), expected);
}

/// The classes of a new head: numbers by their value, names by the alphabet; the adapter's folder keeps them.
#[test]
fn labels_of_the_data_are_kept_with_the_adapter() {
    let folder = Folder::new();
    let base = ["--model".to_owned(), model("bert")];
    let args = ["--train", "rows.jsonl", "--truncate", "--epochs", "1", "--overwrite", "--out", "adapter"];
    for (labels, names) in [
        ([json!(10), json!(9), json!(-1)], json!(["-1", "9", "10"])),
        ([json!("b"), json!("a"), json!("c")], json!(["a", "b", "c"])),
        ([json!(true), json!(false), json!(true)], json!(["false", "true"])),
    ] {
        let mut rows = three_classes(6);
        relabel(&mut rows, labels);
        folder.write_rows("rows.jsonl", &rows);
        let run = folder.succeed("finetune", &base, &args);
        assert!(run.stderr.contains("a new head is trained"), "{}", run.stderr);
        assert_eq!(folder.json("adapter/hyperinf.json")["labels"]["names"], names);
        let adapter = ["--model".into(), model("bert"), "--adapter".into(), "adapter".into()];
        let args = ["--train", "rows.jsonl", "--query", "rows.jsonl", "--truncate", "--out", "found"];
        folder.succeed("attribute", &adapter, &args);
        assert_eq!(folder.json("found/summary.json")["labels"]["names"], names);
        // Labels that training lacked.
        folder.write_rows("rows.jsonl", &two_kinds(2, 0));
        let all: Vec<&str> = adapter.iter().map(String::as_str).chain(args).collect();
        let run = folder.run("attribute", &all);
        assert_eq!(run.code, Some(3), "{run:?}");
        assert!(run.stderr.contains("label `animal` is not one of"), "{}", run.stderr);
    }
}

/// Labels that the model's own head has leave it in its place.
#[test]
fn a_head_that_fits_is_trained_on() {
    let folder = Folder::new();
    let model = named(&folder);
    let mut rows = three_classes(6);
    relabel(&mut rows, [json!("worst"), json!("good"), json!("good")]);
    folder.write_rows("rows.jsonl", &rows);
    let args = ["--train", "rows.jsonl", "--truncate", "--epochs", "1", "--out", "adapter"];
    let run = folder.succeed("finetune", &model[..2], &args);
    assert!(!run.stderr.contains("new head"), "{}", run.stderr);
    assert_eq!(folder.json("adapter/hyperinf.json")["labels"]["names"], json!(["worst", "good", "best"]));
}

fn labels(names: &[&str], numbers: bool) -> Labels {
    let mut labels = Labels::numbered(0);
    (labels.names, labels.numbers) = (names.iter().map(|&name| name.to_owned()).collect(), numbers);
    labels
}

#[test]
fn a_label_is_found_by_name_value_and_number() {
    let find = |names: &[&str], numbers, label: &str| labels(names, numbers).index().class(label).ok();
    assert_eq!(find(&["b", "a"], false, "a"), Some(1));
    assert_eq!(find(&["b", "a"], false, "1"), None);
    assert_eq!(find(&["b", "a"], true, "1"), Some(1));
    assert_eq!(find(&["b", "a"], true, "2"), None);
    assert_eq!(find(&["0", "1"], false, "1.0"), Some(1));
    assert_eq!(find(&["1.0", "1"], false, "1"), Some(1));
    assert_eq!(find(&["1.0", "1.00"], false, "1"), None);
    assert_eq!(find(&["False", "True"], false, "true"), Some(1));
    assert_eq!(find(&["True", "TRUE"], false, "true"), None);
    assert_eq!(find(&["a", "a"], false, "a"), Some(0));
}

/// One after the other, these would be ten thousand million comparisons, and as many copies in the errors.
#[test]
fn many_labels_are_no_more_work() {
    let names: Vec<String> = (0..100_000).map(|class| format!("label {class}")).collect();
    let index = labels(&names.iter().map(String::as_str).collect::<Vec<_>>(), true).index();
    assert!(names.iter().enumerate().all(|(class, name)| index.class(name) == Ok(class)));
    let unknown: Vec<Reason> = names.iter().filter_map(|name| index.class(&format!("no {name}")).err()).collect();
    assert_eq!(unknown.len(), names.len());
    assert!(unknown[0].to_string().contains("`no label 0` is not one of `label 0`"), "{}", unknown[0]);
}
