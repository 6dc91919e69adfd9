//! `hyperinf evaluate` and the figures of `finetune`, against sums over the predictions and the library's logits.

use std::collections::BTreeMap;

use hyperinf::gradients::{Tape, Task};
use hyperinf::models::{
    Adapter, ClassifierOptions, Limit, LmSample, SampleModel, TextTokenizer, load_causal_lm, load_classifier,
};
use hyperinf_tests::compare::assert_close;
use serde_json::{Value, json};

use crate::support::{Folder, csv_rows, device_names, number};
use crate::texts::{bert, completions, llama, model, three_classes, two_kinds};

/// Rows of two kinds whose labels have nothing to do with the texts: they change after so many rows.
fn random_labels(run: usize) -> Vec<Value> {
    let mut rows = two_kinds(60, 0);
    for (i, row) in rows.iter_mut().enumerate() {
        row["label"] = json!(if (i / run).is_multiple_of(2) { "animal" } else { "water" });
    }
    rows
}

/// Long enough to learn what there is to learn.
const LONG: [&str; 4] = ["--learning-rate", "0.02", "--epochs", "12"];

/// Fine-tunes the tiny encoder; returns the outputs.
fn tune(folder: &Folder, recipe: &[&str], more: &[&str]) -> (String, String) {
    let args = ["--train", "train.jsonl", "--truncate", "--overwrite", "--out", "adapter", "--device", "flex"];
    let all = [&args[..], recipe, &["--batch-size", "12"], more].concat();
    let run = folder.succeed("finetune", &["--model".into(), model("bert")], &all);
    (run.stdout, run.stderr)
}

fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Loss, entropy, accuracy and share of the most frequent label, by their definitions.
fn by_hand(rows: &[BTreeMap<String, String>]) -> [f64; 4] {
    let n = rows.len() as f64;
    let mut counts: BTreeMap<&str, f64> = BTreeMap::new();
    for row in rows {
        *counts.entry(&row["label"]).or_default() += 1.0;
    }
    let right = rows.iter().filter(|row| row["label"] == row["predicted"]).count() as f64;
    let loss: f64 = rows.iter().map(|row| number(row, "loss").expect("a loss")).sum();
    let entropy = counts.values().map(|count| -(count / n) * (count / n).ln()).sum();
    [loss / n, entropy, right / n, counts.values().fold(0.0, |most: f64, count| most.max(count / n))]
}

fn figures(quality: &Value) -> [f64; 4] {
    ["loss", "entropy", "accuracy", "baseline"].map(|name| float(&quality[name]))
}

/// Three classes, where the losses do not say which class is the likeliest.
#[test]
fn predictions_are_those_of_the_models_logits() {
    let tokenizer = TextTokenizer::read(model("bert").as_ref()).expect("the fixture has a tokenizer");
    let adapter = Adapter::read(model("bert/query_value").as_ref()).expect("the fixture has an adapter");
    for (name, device) in hyperinf_tests::devices() {
        let options = ClassifierOptions { classes: adapter.classes(), ..ClassifierOptions::default() };
        let classifier = load_classifier(model("bert").as_ref(), &options, &device).expect("a model").model;
        let classifier = adapter.apply(classifier).expect("the adapter fits");
        let folder = Folder::new();
        let rows = three_classes(20);
        folder.write_rows("rows.jsonl", &rows);
        let args = ["--data", "rows.jsonl", "--truncate", "--device", &name, "--batch-size", "7"];
        let run = folder.succeed("evaluate", &bert(), &[&args[..], &["--json", "--output", "rows.csv"]].concat());
        let found = csv_rows(&folder.file("rows.csv"));
        assert_eq!(found.len(), 20);
        let summary: Value = serde_json::from_str(&run.stdout).expect("JSON");
        let limit = Limit::Cut(summary["max_length"].as_u64().expect("a number") as usize);
        for (i, (found, row)) in found.iter().zip(&rows).enumerate() {
            // One by one, in f64 from the logits on.
            let text = row["text"].as_str().expect("a text");
            let sample = tokenizer.classification(text, None, i % 3, limit).expect("a sample").sample;
            let batch = classifier.collate(&[&sample]).expect("a batch");
            let logits = hyperinf::linalg::host(classifier.forward(&batch, &mut Tape::off())).expect("numbers");
            let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
            let class = (0..3).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("three");
            assert_eq!((&found["id"], &found["label"]), (&i.to_string(), &(i % 3).to_string()));
            assert_eq!(found["predicted"], class.to_string());
            let expected = [logits[class].exp() / sum, sum.ln() - logits[i % 3]];
            let numbers = ["probability", "loss"].map(|column| number(found, column).expect("a number"));
            assert_close("probability and loss", &numbers, &expected, 1e-4);
        }
        assert_close("figures", &figures(&summary["quality"]), &by_hand(&found), 1e-9);
        for (class, counts) in summary["quality"]["classes"].as_array().expect("a list").iter().enumerate() {
            let (label, class) = (class.to_string(), class);
            let of = |column: &'static str| found.iter().filter(|row| row[column] == label).count();
            let right = found.iter().filter(|row| row["label"] == label && row["predicted"] == label).count();
            let expected = json!({ "label": label, "rows": of("label"), "predicted": of("predicted"), "right": right });
            assert_eq!(*counts, expected, "class {class}");
        }
        // `detect` says the same of its training rows.
        let args = ["--train", "rows.jsonl", "--validation", "rows.jsonl", "--truncate", "--device", &name];
        folder.succeed("detect", &bert(), &[&args[..], &["--out", "found"]].concat());
        for suspect in csv_rows(&folder.file("found/suspicious.csv")) {
            let evaluated = &found[suspect["id"].parse::<usize>().expect("a number")];
            assert_eq!(suspect["predicted"], evaluated["predicted"]);
            let [one, other] = [&suspect, evaluated].map(|row| [number(row, "probability").expect("a number")]);
            assert_close("probability", &one, &other, 1e-5);
        }
        let quality = &folder.json("found/summary.json")["train_quality"];
        assert_close("figures", &figures(quality), &by_hand(&found), 1e-5);
    }
}

/// Two classes: the loss determines the prediction, which needs no further pass of the model.
#[test]
fn two_classes_are_known_by_their_losses() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &two_kinds(60, 0));
    folder.write_rows("validation.jsonl", &two_kinds(20, 7));
    let (stdout, stderr) = tune(&folder, &LONG, &["--validation", "validation.jsonl"]);
    assert!(!stderr.contains("guessing") && !stderr.contains("learned"), "{stderr}");
    assert!(stdout.contains("on the training rows: accuracy") && stdout.contains("on the validation rows: accuracy"));
    let adapter = ["--model".into(), model("bert"), "--adapter".into(), "adapter".into()];
    let summary = folder.json("adapter/summary.json");
    for (data, quality) in [("train", &summary["quality"]["train"]), ("validation", &summary["quality"]["validation"])]
    {
        let (file, out) = (format!("{data}.jsonl"), format!("{data}.csv"));
        let args = ["--data", &file, "--truncate", "--device", "flex", "--output", &out];
        let run = folder.succeed("evaluate", &adapter, &args);
        assert!(run.stdout.contains("precision") && run.stdout.contains("animal"), "{}", run.stdout);
        let found = csv_rows(&folder.file(&out));
        assert_close("the figures of the training", &figures(quality), &by_hand(&found), 1e-5);
        assert_eq!(quality["verdict"], "learned");
    }
    let found = csv_rows(&folder.file("train.csv"));
    let args = ["--train", "train.jsonl", "--validation", "validation.jsonl", "--truncate", "--device", "flex"];
    let run = folder.succeed("detect", &adapter, &[&args[..], &["--out", "found"]].concat());
    assert!(!run.stderr.contains("guessing") && run.stdout.contains("; model: "), "{run:?}");
    for suspect in csv_rows(&folder.file("found/suspicious.csv")) {
        let evaluated = &found[suspect["id"].parse::<usize>().expect("a number")];
        assert_eq!(suspect["predicted"], evaluated["predicted"]);
        let [one, other] = [&suspect, evaluated].map(|row| [number(row, "probability").expect("a number")]);
        assert_close("probability", &one, &other, 1e-5);
    }
}

#[test]
fn a_model_that_has_not_learned_is_named() {
    let folder = Folder::new();
    // The recipe that learns two kinds of text finds nothing in such labels.
    folder.write_rows("train.jsonl", &random_labels(2));
    folder.write_rows("validation.jsonl", &random_labels(4));
    let (_, stderr) = tune(&folder, &LONG, &["--validation", "validation.jsonl"]);
    assert!(stderr.contains("no better than guessing"), "{stderr}");
    assert!(!stderr.contains("say little"), "{stderr}");

    // Learnable, but a rate that moves nothing.
    folder.write_rows("train.jsonl", &two_kinds(60, 0));
    let (_, stderr) = tune(&folder, &["--learning-rate", "1e-7", "--epochs", "1"], &[]);
    assert!(stderr.contains("on 60 rows of `train.jsonl`") && stderr.contains("a higher learning rate"), "{stderr}");
    let quality = &folder.json("adapter/summary.json")["quality"]["train"];
    assert_ne!(quality["verdict"], "learned", "{quality}");
    let adapter = ["--model".into(), model("bert"), "--adapter".into(), "adapter".into()];
    let args = ["--train", "train.jsonl", "--truncate", "--out", "found"];
    for (command, query) in [("detect", "--validation"), ("attribute", "--query")] {
        let run = folder.succeed(command, &adapter, &[&args[..], &[query, "validation.jsonl"]].concat());
        assert!(run.stderr.contains("such a model say little"), "{command}: {}", run.stderr);
    }
    let run = folder.succeed("evaluate", &adapter, &["--data", "train.jsonl", "--truncate"]);
    assert!(run.stderr.contains("on 60 rows of `train.jsonl`"), "{}", run.stderr);
    // Rows of one label can be guessed: they say nothing about the model.
    let rows: Vec<Value> = two_kinds(20, 0).into_iter().step_by(2).collect();
    folder.write_rows("one.jsonl", &rows);
    let run = folder.succeed("evaluate", &adapter, &["--data", "one.jsonl", "--truncate", "--json"]);
    let summary: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert!(run.stderr.is_empty() && summary["quality"]["verdict"].is_null(), "{run:?}");
}

/// The mean loss of a row by the library, one row at a time, and the tokens it is over.
fn losses(rows: &[Value], adapter: Option<&str>) -> Vec<(f64, usize)> {
    let (_, device) = hyperinf_tests::devices().swap_remove(0);
    let tokenizer = TextTokenizer::read(model("llama").as_ref()).expect("the fixture has a tokenizer");
    let mut lm = load_causal_lm(model("llama").as_ref(), &device).expect("a model").model;
    if let Some(adapter) = adapter {
        lm = Adapter::read(adapter.as_ref()).and_then(|adapter| adapter.apply(lm)).expect("the adapter fits");
    }
    let loss = |row: &Value| {
        let text = |column: &str| row[column].as_str().expect("a text");
        let found = tokenizer.completion(text("prompt"), text("completion"), Limit::Refuse(64)).expect("a sample");
        let LmSample { tokens, scored } = &found.sample;
        let batch = lm.collate(&[&found.sample]).expect("a batch");
        let logits = hyperinf::linalg::host(lm.logits(batch.tokens, &mut Tape::off())).expect("numbers");
        let vocabulary = logits.len() / tokens.len();
        let places: Vec<usize> = (0..tokens.len()).filter(|&place| scored[place]).collect();
        let of = |&place: &usize| {
            let logits = &logits[(place - 1) * vocabulary..place * vocabulary];
            let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
            sum.ln() - logits[tokens[place] as usize]
        };
        (places.iter().map(of).sum::<f64>() / places.len() as f64, places.len())
    };
    rows.iter().map(loss).collect()
}

#[test]
fn a_language_model_before_and_after_its_training() {
    let folder = Folder::new();
    let rows = completions(24);
    folder.write_rows("train.jsonl", &rows);
    let base = ["--model".to_owned(), model("llama")];
    let args = ["--train", "train.jsonl", "--epochs", "4", "--batch-size", "8", "--learning-rate", "0.02"];
    let run = folder.succeed("finetune", &base, &[&args[..], &["--out", "adapter"]].concat());
    assert!(run.stdout.contains("before    loss") && run.stdout.contains("perplexity"), "{}", run.stdout);
    assert!(!run.stderr.contains("did not lower"), "{}", run.stderr);
    let summary = folder.json("adapter/summary.json");
    let tuned = [&base[..], &["--adapter".into(), "adapter".into()]].concat();
    let adapter = folder.file("adapter");
    let adapter = adapter.to_str().expect("paths of tests are UTF-8");
    for (model, adapter, quality) in
        [(&base[..], None, &summary["quality"]["train_before"]), (&tuned, Some(adapter), &summary["quality"]["train"])]
    {
        folder.succeed("evaluate", model, &["--data", "train.jsonl", "--output", "rows.jsonl"]);
        let (found, expected) = (folder.lines("rows.jsonl"), losses(&rows, adapter));
        let each: Vec<f64> = found.iter().map(|row| float(&row["loss"])).collect();
        assert_close("losses", &each, &expected.iter().map(|row| row.0).collect::<Vec<_>>(), 1e-4);
        let tokens: usize = expected.iter().map(|row| row.1).sum();
        let sum: f64 = expected.iter().map(|&(loss, count)| loss * count as f64).sum();
        assert_eq!(quality["tokens"], tokens);
        let figures = ["loss", "token_loss", "perplexity"].map(|name| float(&quality[name]));
        let per_token = sum / tokens as f64;
        let mean = each.iter().sum::<f64>() / 24.0;
        assert_close("figures", &figures, &[mean, per_token, per_token.exp()], 1e-4);
    }
    let more = ["--learning-rate", "1e-30", "--weight-decay", "0", "--out", "still"];
    let run = folder.succeed("finetune", &base, &[&["--train", "train.jsonl", "--epochs", "1"][..], &more].concat());
    assert!(run.stderr.contains("did not lower the loss on 24 rows"), "{}", run.stderr);
}

/// Without values of the user a classifier and a language model train with those of their kinds.
#[test]
fn each_kind_has_its_own_recipe() {
    let folder = Folder::new();
    folder.write_rows("classes.jsonl", &two_kinds(20, 0));
    folder.write_rows("passages.jsonl", &completions(20));
    for (base, data, rate, batch, steps) in
        [("bert", "classes.jsonl", 2e-3, 16, 6), ("llama", "passages.jsonl", 2e-4, 32, 3)]
    {
        let base = ["--model".to_owned(), model(base)];
        folder.succeed("finetune", &base, &["--train", data, "--truncate", "--overwrite", "--out", "adapter"]);
        let summary = folder.json("adapter/summary.json");
        let training = &summary["training"];
        assert_eq!((&training["learning_rate"], &training["batch_size"]), (&json!(rate), &json!(batch)));
        assert_eq!((&training["epochs"], &summary["steps"]), (&json!(3), &json!(steps)));
    }
}

#[test]
fn what_evaluate_refuses() {
    let folder = Folder::new();
    folder.write_rows("rows.jsonl", &three_classes(6));
    let mut strange = three_classes(6);
    strange[4]["label"] = json!(7);
    folder.write_rows("strange.jsonl", &strange);
    for (args, code, said) in [
        (&["--data", "rows.jsonl", "--output", "rows.txt"][..], 2, ".csv, .jsonl or .parquet"),
        (&["--data", "rows.jsonl", "--output", "rows.jsonl"], 2, "also an input"),
        (&["--data", "strange.jsonl"], 3, "7"),
        (&["--data", "missing.jsonl"], 3, "missing.jsonl"),
        (&["--data", "rows.jsonl", "--batch-size", "0"], 2, "batch-size"),
    ] {
        let args: Vec<String> =
            [bert(), args.iter().map(|a| (*a).to_owned()).collect(), vec!["--truncate".into()]].concat();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let run = folder.run("evaluate", &args);
        assert_eq!(run.code, Some(code), "{args:?}: {run:?}");
        assert!(run.stderr.contains(said), "{args:?}: {}", run.stderr);
    }
    assert_eq!(folder.files(), ["rows.jsonl", "strange.jsonl"]);
    // A model of its own classes needs no adapter; a decoder's rows have no labels.
    let run =
        folder.succeed("evaluate", &bert()[..2], &["--data", "rows.jsonl", "--truncate", "--output", "a.parquet"]);
    assert!(run.stdout.contains("guessing 0.333"), "{}", run.stdout);
    folder.write_rows("passages.jsonl", &completions(3));
    for device in device_names() {
        let args = ["--data", "passages.jsonl", "--device", &device];
        let run = folder.succeed("evaluate", &llama(), &args);
        assert!(run.stdout.contains("per token"), "{}", run.stdout);
    }
}
