//! Ranks that share a command: results are those of one process, byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::pairs::pairs;
use crate::support::Folder;
use crate::texts::{bert, completions, model, three_classes};

fn rows(train: usize) -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(train));
    folder.write_rows("query.jsonl", &three_classes(5));
    folder.write_rows("more.jsonl", &three_classes(3));
    folder
}

/// The files of a folder and its folders, without those that tell what the ranks did and which devices were asked for.
fn contents(folder: &Folder, out: &str) -> BTreeMap<String, Vec<u8>> {
    let of_run = |name: &str| !["ranks.json", "run.toml"].contains(&name);
    let (mut found, mut folders) = (BTreeMap::new(), vec![String::new()]);
    while let Some(inner) = folders.pop() {
        for entry in fs::read_dir(folder.file(&format!("{out}/{inner}"))).expect("it is a folder") {
            let path = entry.expect("it can be listed").path();
            let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(format!("{inner}{name}/"));
            } else if of_run(&name) {
                found.insert(format!("{inner}{name}"), fs::read(&path).expect("it is a file"));
            }
        }
    }
    found
}

fn devices(ranks: usize) -> String {
    vec!["flex"; ranks].join(",")
}

#[track_caller]
fn check(folder: &Folder, command: &str, more: &[&str], ranks: &[usize]) {
    let args = [&["--train", "train.jsonl", "--truncate", "--batch-size", "2"], more].concat();
    folder.succeed(command, &bert(), &[&args[..], &["--out", "alone"]].concat());
    let alone = contents(folder, "alone");
    for &count in ranks {
        let (out, devices) = (format!("ranks-{count}"), devices(count));
        folder.succeed(command, &bert(), &[&args[..], &["--out", &out, "--device", &devices]].concat());
        let found = contents(folder, &out);
        assert_eq!(found.keys().collect::<Vec<_>>(), alone.keys().collect::<Vec<_>>(), "{command} {more:?}");
        for (name, bytes) in &alone {
            assert!(found[name] == *bytes, "{command} {more:?}: {name} differs with {count} ranks");
        }
        let report: Value =
            serde_json::from_slice(&fs::read(folder.file(&format!("{out}/ranks.json"))).expect("it is there"))
                .expect("it is JSON");
        let ranks = report["ranks"].as_array().expect("a list");
        assert_eq!(ranks.len(), count);
        assert!(ranks.iter().all(|rank| rank["sent_bytes"].as_u64().is_some_and(|bytes| bytes > 0)), "{ranks:?}");
        fs::remove_dir_all(folder.file(&out)).expect("it is there");
    }
    fs::remove_dir_all(folder.file("alone")).expect("it is there");
}

#[test]
fn attribute_by_ranks_is_attribute_alone() {
    let folder = rows(23);
    let query = ["--query", "query.jsonl", "--format", "csv"];
    check(&folder, "attribute", &query, &[2, 3, 5]);
    let methods = ["--method", "hyperinf,datainf,identity,exact,ekfac", "--keep-gradients"];
    check(&folder, "attribute", &[&query[..], &methods].concat(), &[2]);
    for more in [
        &["--method", "kfac,ekfac"][..],
        &["--method", "exact", "--estimate", "gauss-newton"],
        &["--method", "shampoo", "--estimate", "sampled", "--draws", "2", "--blocks", "*query*"],
        &["--method", "ekfac", "--refine", "2", "--query-mode", "mean"],
        &["--method", "hyperinf,shampoo", "--refine", "2", "--refine-sample", "11"],
        &["--method", "ekfac", "--refine", "2", "--refine-sample", "9", "--refine-fresh"],
        &["--structure", "merged"],
        &["--structure", "merged", "--method", "exact,cosine"],
        &["--project", "2", "--query-mode", "mean"],
        &["--project", "2", "--query-mode", "mean", "--uncertainty", "2"],
        &["--normalise", "cosine", "--positions"],
        &["--normalise", "l-relatif"],
        &["--index", "index", "--method", "ekfac,shampoo,hyperinf"],
    ] {
        check(&folder, "attribute", &[&query[..], more].concat(), &[3]);
    }
}

#[test]
fn more_ranks_than_batches_and_blocks() {
    check(&rows(3), "attribute", &["--query", "query.jsonl", "--blocks", "*0*query*"], &[5]);
}

#[test]
fn detect_and_select_by_ranks() {
    let folder = rows(17);
    check(&folder, "detect", &["--validation", "query.jsonl", "--remove", "5"], &[2, 3]);
    let targets = ["--validation", "query.jsonl", "--validation", "more.jsonl", "--keep", "7"];
    check(&folder, "select", &targets, &[2, 3]);
    let diverse = ["--validation", "query.jsonl", "--keep", "7", "--diverse", "--drop-duplicates=0.9"];
    check(&folder, "select", &diverse, &[2, 3]);
}

/// Margins, and the cross-check of scores and losses.
#[test]
fn pairs_by_ranks() {
    let folder = Folder::new();
    folder.write_rows("pairs.jsonl", &pairs(7));
    let base = ["--model".to_owned(), model("llama")];
    let tune = ["--train", "pairs.jsonl", "--pairs", "dpo", "--learning-rate", "0.01", "--out", "adapter"];
    folder.succeed("finetune", &base, &tune);
    // Its loss is among what the ranks agree on.
    let pieces = [&tune[..6], &["--batch-size", "4", "--micro-batch", "2"]].concat();
    folder.succeed("finetune", &base, &[&pieces[..], &["--out", "tuned"]].concat());
    folder.succeed("finetune", &base, &[&pieces[..], &["--out", "tuned-2", "--device", "flex,flex"]].concat());
    assert!(contents(&folder, "tuned-2") == contents(&folder, "tuned"));
    let adapter = [&base[..], &["--adapter".into(), "adapter".into()]].concat();
    let args = ["--train", "pairs.jsonl", "--validation", "pairs.jsonl", "--batch-size", "2", "--pairs", "dpo"];
    for method in ["hyperinf", "exact", "kfac"] {
        let detect = |out: &str, more: &[&str]| {
            folder.succeed("detect", &adapter, &[&args[..], &["--method", method, "--out", out], more].concat());
            contents(&folder, out)
        };
        let alone = detect("alone", &[]);
        assert!(folder.json("alone/summary.json")["cross_check"]["auc_loss"].is_number());
        for count in [2, 3] {
            let out = format!("ranks-{method}-{count}");
            assert!(detect(&out, &["--device", &devices(count)]) == alone, "{method}, {count} ranks");
        }
    }
}

#[test]
fn index_by_ranks_and_by_parts() {
    let folder = rows(29);
    let leaves = ["--leaf-batches", "2"];
    check(&folder, "index", &leaves, &[2, 3]);
    let args = [&["--train", "train.jsonl", "--truncate", "--batch-size", "2"], &leaves[..]].concat();
    let with = |more: &[&'static str]| [&args[..], more].concat();
    folder.succeed("index", &bert(), &with(&["--out", "alone"]));
    for part in ["3/3", "1/3", "2/3"] {
        let run = folder.succeed("index", &bert(), &with(&["--out", "parts", "--part", part]));
        assert!(run.stdout.contains("without --part"), "{run:?}");
    }
    let run = folder.succeed("index", &bert(), &with(&["--out", "parts"]));
    assert!(run.stdout.contains("29 rows in 8 leaves"), "{run:?}");
    assert!(contents(&folder, "parts") == contents(&folder, "alone"));
    // A part that is missing is made by the whole.
    folder.succeed("index", &bert(), &with(&["--out", "half", "--part", "1/2"]));
    folder.succeed("index", &bert(), &with(&["--out", "half"]));
    assert!(contents(&folder, "half") == contents(&folder, "alone"));
    for part in ["0/3", "4/3", "3", "a/b", "1/0"] {
        let run = folder.run("index", &with(&["--model", "m", "--out", "never", "--part", part]));
        assert_eq!(run.code, Some(2), "{run:?}");
    }
}

#[test]
fn finetune_by_ranks() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(22));
    folder.write_rows("query.jsonl", &completions(5));
    let llama = model("llama");
    let args = ["--model", &llama, "--train", "train.jsonl", "--validation", "query.jsonl", "--epochs", "3"];
    let pieces = ["--batch-size", "6", "--micro-batch", "2"];
    let tune = |out: &str, more: &[&str]| folder.run("finetune", &[&args[..], &["--out", out], more].concat());
    let alone = tune("alone", &pieces);
    assert_eq!(alone.code, Some(0), "{alone:?}");
    for count in [2, 3, 4] {
        let (out, devices) = (format!("ranks-{count}"), devices(count));
        let run = tune(&out, &[&pieces[..], &["--device", &devices]].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(contents(&folder, &out) == contents(&folder, "alone"), "{count} ranks");
    }
    let whole = tune("never", &["--device", "flex,flex"]);
    assert!(whole.code == Some(2) && whole.stderr.contains("--micro-batch"), "{whole:?}");
    let dropout = tune("never", &[&pieces[..], &["--device", "flex,flex", "--lora-dropout", "0.1"]].concat());
    assert!(dropout.code == Some(2) && dropout.stderr.contains("dropout"), "{dropout:?}");
}

/// The files of `hyperinf score`, and what the ranks did.
#[test]
fn scores_from_files_by_ranks() {
    let folder = Folder::with_gradients();
    let query = ["--contrast-gradients", "query.safetensors"];
    let moments = ["--checkpoint", "train.safetensors", "query.safetensors", "0.5", "--learning-rate", "0.1"];
    let projections = ["--project", "2", "--uncertainty", "3", "--uncertainty-over", "projections"];
    for more in [
        &[][..],
        &["--method", "datainf", "--normalise", "cosine"],
        &["--method", "exact", "--structure", "merged", "--query-mode", "mean"],
        &["--method", "shampoo", "--normalise", "l-relatif"],
        &["--curvature-gradients", "query.safetensors"],
        &query,
        &moments,
        &projections,
    ] {
        for format in ["csv", "safetensors"] {
            let name = |kind: &str| format!("{kind}.{format}");
            let score = |output: &str, device: &str| {
                let run = folder.score(&[more, &["--output", output, "--device", device]].concat());
                assert_eq!(run.code, Some(0), "{more:?}: {run:?}");
                // Metadata lie next to text.
                let beside = fs::read(folder.file(&format!("{output}.json"))).ok();
                assert_eq!(beside.is_some(), format == "csv");
                (fs::read(folder.file(output)).expect("it was written"), beside)
            };
            let alone = score(&name("alone"), "flex");
            for ranks in [2, 3, 4] {
                let output = name(&format!("ranks-{ranks}"));
                assert!(score(&output, &devices(ranks)) == alone, "{more:?}, {ranks} ranks");
                let report: Value = folder.json(&format!("{output}.ranks.json"));
                assert_eq!(report["ranks"].as_array().map(Vec::len), Some(ranks));
            }
        }
    }
    // Errors are those of one process.
    let strict = ["--method", "lissa", "--damping", "1e-5", "--strict", "--output", "never.csv"];
    for args in [&["--contrast-gradients", "missing.safetensors"][..], &strict] {
        let alone = folder.score(&[args, &["--device", "flex"]].concat());
        let ranks = folder.score(&[args, &["--device", "flex,flex"]].concat());
        assert_ne!(alone.code, Some(0), "{alone:?}");
        assert_eq!((ranks.code, &ranks.stderr), (alone.code, &alone.stderr));
    }
    assert!(!folder.file("never.csv").exists());
}

#[test]
fn baselines_are_those_of_rank_0() {
    let folder = rows(7);
    for methods in ["length,random", "length,identity"] {
        let args = ["--train", "train.jsonl", "--query", "query.jsonl", "--truncate", "--format", "csv"];
        let more = ["--method", methods, "--out"];
        folder.succeed("attribute", &bert(), &[&args[..], &more, &["alone"]].concat());
        folder.succeed("attribute", &bert(), &[&args[..], &more, &["ranks", "--device", "flex,flex"]].concat());
        assert!(contents(&folder, "ranks") == contents(&folder, "alone"), "{methods}");
    }
}

#[test]
fn what_ranks_cannot_share_is_refused() {
    let folder = rows(4);
    let args =
        ["--train", "train.jsonl", "--query", "query.jsonl", "--truncate", "--out", "out", "--device", "flex,flex"];
    let attribute = |more: &[&str]| {
        let bert = bert();
        folder.run(
            "attribute",
            &bert.iter().map(String::as_str).chain(args).chain(more.iter().copied()).collect::<Vec<_>>(),
        )
    };
    let run = attribute(&["--batch-size", "auto"]);
    assert!(run.code == Some(2) && run.stderr.contains("--batch-size auto"), "{run:?}");
    let files = Folder::with_gradients();
    let gradients = ["--train-gradients", "train.safetensors", "--query-gradients", "query.safetensors"];
    let run = files.run("compare", &[&gradients[..], &["--out", "c", "--device", "flex,flex"]].concat());
    assert!(run.code == Some(2) && run.stderr.contains("attribute, detect, select"), "{run:?}");
    // An error that every rank meets is reported once, and no rank is left waiting.
    let run = attribute(&["--text-column", "nothing"]);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert_eq!(run.stderr.matches("nothing").count(), 1, "{run:?}");
}

#[test]
fn processes_of_mpi_are_refused_without_the_feature() {
    if cfg!(feature = "mpi") {
        return;
    }
    let folder = rows(4);
    let run = Command::new(env!("CARGO_BIN_EXE_hyperinf"))
        .arg("attribute")
        .args(bert())
        .args(["--train", "train.jsonl", "--query", "query.jsonl", "--out", "out"])
        .current_dir(folder.path())
        .env("OMPI_COMM_WORLD_SIZE", "2")
        .output()
        .expect("the program was built with the tests");
    let message = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.code() == Some(2) && message.contains("feature `mpi`"), "{message}");
}
