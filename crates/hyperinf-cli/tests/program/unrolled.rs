//! `finetune --record`, and `--method unrolled`, which follows the recorded training backwards.

use std::fs;

use hyperinf_tests::compare::assert_close;

use crate::support::{Folder, csv_rows, hyperinf, number};
use crate::texts::{completions, model, two_kinds};

const RECORDING: &str = "recording.safetensors";

/// A folder with rows of two kinds, some with the wrong label, and an adapter whose training was recorded.
fn recorded(more: &[&str]) -> Folder {
    let folder = Folder::new();
    let mut rows = two_kinds(24, 0);
    for row in [3, 10, 17] {
        rows[row]["label"] = if rows[row]["label"] == "animal" { "water".into() } else { "animal".into() };
    }
    folder.write_rows("train.jsonl", &rows);
    folder.write_rows("query.jsonl", &two_kinds(6, 30));
    let train = ["--train", "train.jsonl", "--out", "adapter", "--epochs", "4", "--batch-size", "6", "--record"];
    let run = folder.succeed("finetune", &base(), &[&train[..], more].concat());
    let (states, every) = if more.contains(&"--checkpoint-every") { (3, 7) } else { (4, 4) };
    assert!(run.stderr.contains(&format!("the training is recorded: {states} states")), "{every}: {}", run.stderr);
    assert!(run.stdout.contains(&format!("recorded  {states} states")), "{}", run.stdout);
    folder
}

fn base() -> Vec<String> {
    ["--model".to_owned(), model("bert")].into()
}

const WITH: [&str; 6] = ["--adapter", "adapter", "--train", "train.jsonl", "--method", "unrolled"];

#[test]
fn rows_are_scored_through_the_training() {
    // Dropout, pieces of batches and another spacing change nothing of what is said.
    for more in [&[][..], &["--checkpoint-every", "7", "--lora-dropout", "0.2", "--micro-batch", "4"]] {
        let folder = recorded(more);
        let queries = ["--query", "query.jsonl", "--out", "out", "--format", "jsonl"];
        let run = folder.succeed("attribute", &base(), &[&WITH[..], &queries].concat());
        assert!(
            run.stderr.contains("6 derivatives through 16 steps: 224 forward and backward passes"),
            "{}",
            run.stderr
        );
        assert!(run.stdout.contains("followed  16 steps backwards"), "{}", run.stdout);
        let summary = folder.json("out/summary.json");
        assert_eq!(summary["method"], "unrolled");
        assert_eq!(summary["sign"], "positive = helpful");
        let unit = "how the query's loss rises if training ignores the row";
        assert_eq!(summary["unit"], unit);
        assert_eq!(summary["unrolled"]["steps"], 16);
        assert_eq!(summary["unrolled"]["recorded_by"], env!("CARGO_PKG_VERSION"));
        let error = summary["unrolled"]["error"].as_f64().expect("a number");
        assert!(error > 0.0 && error < 0.02, "{error}");
        assert!(summary["adapter"]["xxh3_128"][RECORDING].is_string(), "{summary}");
        assert!(summary["device"].is_string() && summary["unrolled"]["smoothness"].is_null(), "{summary}");
        let metadata = folder.json("out/scores.jsonl.json");
        assert_eq!((&metadata["method"], &metadata["unit"]), (&summary["method"], &summary["unit"]));
        let each = folder.lines("out/scores.jsonl");
        assert_eq!(each.len(), 6 * 24);

        // The mean query's scores are the means, and the file of the earlier command is replaced.
        let mean = [&WITH[..], &queries, &["--query-mode", "mean"]].concat();
        folder.succeed("attribute", &base(), &mean);
        let of_mean: Vec<f64> =
            folder.lines("out/scores.jsonl").iter().map(|line| line["score"].as_f64().expect("a score")).collect();
        let ids: Vec<_> = folder.lines("out/scores.jsonl").iter().map(|l| l["train_id"].clone()).collect();
        let of_each = ids.iter().map(|id| {
            let own = each.iter().filter(|line| line["train_id"] == *id);
            own.map(|line| line["score"].as_f64().expect("a score")).sum::<f64>() / 6.0
        });
        assert_close("the mean", &of_mean, &of_each.collect::<Vec<_>>(), 1e-2);
        // Equal commands write equal files.
        let before = fs::read(folder.file("out/scores.jsonl")).expect("it was written");
        folder.succeed("attribute", &base(), &mean);
        assert!(before == fs::read(folder.file("out/scores.jsonl")).expect("it was written"));
    }
}

#[test]
fn wrong_labels_are_found_and_rows_selected() {
    let folder = recorded(&["--learning-rate", "5e-3"]);
    let all = ["--validation", "query.jsonl", "--out", "found", "--remove", "3", "--smoothness=0.1", "--seed", "4"];
    let run = folder.succeed("detect", &base(), &[&WITH[..], &all].concat());
    assert!(run.stdout.contains("smooth    without 2 rows"), "{}", run.stdout);
    let rows = csv_rows(&folder.file("found/suspicious.csv"));
    assert_eq!(rows.len(), 24);
    let scores: Vec<f64> = rows.iter().map(|row| number(row, "score").expect("a score")).collect();
    assert!(scores.is_sorted(), "{scores:?}");
    assert_eq!(folder.lines("found/cleaned.jsonl").len(), 21);
    let summary = folder.json("found/summary.json");
    let smooth = &summary["unrolled"]["smoothness"];
    assert_eq!((&summary["seed"], &smooth["left_out"]), (&4.into(), &2.into()));
    let [foretold, found] = ["foretold", "found"].map(|name| smooth[name].as_f64().expect("a number"));
    assert!(foretold != 0.0 && found != 0.0, "{smooth}");

    // Next to other methods, with a folder each.
    let keep = ["--validation", "query.jsonl", "--out", "kept", "--keep", "50%"];
    let run = folder.succeed("select", &base(), &[&WITH[..4], &["--method", "identity,unrolled,loss"], &keep].concat());
    assert!(run.stdout.contains("method    unrolled"), "{}", run.stdout);
    assert_eq!(folder.lines("kept/unrolled/selected.jsonl").len(), 12);
    let page = folder.succeed("report", &[], &["found"]);
    assert!(page.stdout.contains("report.html") || folder.file("found/report.html").exists(), "{}", page.stdout);
}

#[test]
fn what_cannot_be_followed_is_refused() {
    let folder = recorded(&[]);
    let attribute = ["--query", "query.jsonl", "--out", "out"];
    let check = |args: &[&str], code: i32, said: &[&str]| {
        let mut all: Vec<String> = base();
        all.extend(args.iter().map(|&word| word.to_owned()));
        let run = folder.run("attribute", &all.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(run.code, Some(code), "{args:?}: {run:?}");
        said.iter().for_each(|said| assert!(run.stderr.contains(said), "{args:?}: no {said:?} in {}", run.stderr));
        assert!(!folder.file("out/summary.json").exists(), "{args:?}");
    };
    let with = |more: &[&'static str]| [&WITH[..], &attribute, more].concat();
    check(&with(&["--index", "index"]), 2, &["--method unrolled", "--index"]);
    check(&with(&["--blocks", "*lora_B*"]), 2, &["--blocks", "all blocks together"]);
    check(&with(&["--positions"]), 2, &["--positions", "weights belong to rows"]);
    check(&with(&["--project", "2"]), 2, &["--project"]);
    check(&with(&["--normalise", "cosine"]), 2, &["--normalise"]);
    check(&with(&["--rank-by", "magnitude"]), 2, &["--rank-by magnitude"]);
    check(&with(&["--smoothness=1"]), 2, &["above 0 and below 1"]);
    let identity = ["--adapter", "adapter", "--train", "train.jsonl", "--method", "identity", "--smoothness"];
    check(&[&identity[..], &attribute].concat(), 2, &["--smoothness", "--method unrolled"]);
    let no_adapter = ["--train", "train.jsonl", "--method", "unrolled"];
    check(&[&no_adapter[..], &attribute].concat(), 2, &["no adapters"]);
    let of_peft =
        ["--adapter", &model("bert/query_value"), "--train", "train.jsonl", "--method", "unrolled"].map(str::to_owned);
    let of_peft: Vec<&str> = of_peft.iter().map(String::as_str).collect();
    check(&[&of_peft[..], &attribute].concat(), 2, &["no recording", "--record"]);

    // Other rows, another adapter in the file, and a damaged recording.
    folder.write_rows("train.jsonl", &two_kinds(24, 0));
    check(&with(&[]), 3, &["records another training", "training samples"]);
    let run = folder.run("score", &["--train-gradients", "x", "--query-gradients", "y", "--method", "unrolled"]);
    assert!(run.code == Some(2) && run.stderr.contains("attribute, detect and select"), "{run:?}");
    let folder = recorded(&[]);
    let check = |code: i32, said: &str| {
        let base = base();
        let all = [&base.iter().map(String::as_str).collect::<Vec<_>>()[..], &WITH, &attribute].concat();
        let run = folder.run("attribute", &all);
        assert_eq!(run.code, Some(code), "{run:?}");
        assert!(run.stderr.contains(said), "no {said:?} in {}", run.stderr);
    };
    let weights = folder.file("adapter/adapter_model.safetensors");
    let whole = fs::read(&weights).expect("it was written");
    let mut changed = whole.clone();
    *changed.last_mut().expect("bytes") ^= 1;
    fs::write(&weights, changed).expect("writable");
    check(3, "what the recorded training ended with");
    fs::write(&weights, whole).expect("writable");
    let recording = folder.file(&format!("adapter/{RECORDING}"));
    let whole = fs::read(&recording).expect("it was written");
    let mut changed = whole.clone();
    *changed.last_mut().expect("bytes") ^= 1;
    fs::write(&recording, changed).expect("writable");
    check(3, "not those that were written");
    fs::write(&recording, &whole[..whole.len() / 2]).expect("writable");
    check(3, "it ends before");
}

#[test]
fn a_recording_does_not_outlive_its_adapter() {
    let folder = recorded(&[]);
    let train = ["--train", "train.jsonl", "--out", "adapter", "--epochs", "1"];
    let run = folder.run("finetune", &[&["--model", &model("bert")], &train[..]].concat());
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(folder.file(&format!("adapter/{RECORDING}")).exists());
    folder.succeed("finetune", &base(), &[&train[..], &["--overwrite"]].concat());
    assert!(!folder.file(&format!("adapter/{RECORDING}")).exists());
    // An adapter without a recording is not that of a run that records.
    let resumed =
        folder.run("finetune", &[&["--model", &model("bert")], &train[..], &["--record", "--resume"]].concat());
    assert!(resumed.code == Some(2) && resumed.stderr.contains("an adapter already"), "{resumed:?}");
}

#[test]
fn a_killed_recording_goes_on_to_the_same_bytes() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(24));
    let base = ["--model".to_owned(), model("llama")];
    let args = ["--train", "train.jsonl", "--epochs", "60", "--batch-size", "8", "--record", "--lora-dropout", "0.1"];
    folder.succeed("finetune", &base, &[&args[..], &["--out", "whole"]].concat());
    let names = folder.files_in("whole");
    assert!(names.iter().any(|name| name == RECORDING), "{names:?}");
    // On a busy machine the training may have ended before it is killed.
    for attempt in 1.. {
        let states = || folder.files_in("parts/checkpoints").iter().filter(|n| n.ends_with(".safetensors")).count();
        folder.kill_once(&[&["finetune", &base[0], &base[1], "--out", "parts"], &args[..]].concat(), || states() >= 3);
        if states() >= 3 && !folder.file("parts/adapter_config.json").exists() {
            break;
        }
        assert!(attempt < 10, "it always ended before it was killed");
        fs::remove_dir_all(folder.file("parts")).expect("the folder can be written");
    }
    assert!(!folder.file(&format!("parts/{RECORDING}")).exists());
    let all = [&["finetune", &base[0], &base[1], "--out", "parts", "--resume"], &args[..]].concat();
    let run = hyperinf(folder.path(), &all);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(folder.files_in("parts"), names);
    for name in [RECORDING, "adapter_model.safetensors"] {
        let [whole, parts] = ["whole", "parts"].map(|of| fs::read(folder.file(&format!("{of}/{name}"))).expect(name));
        assert!(whole == parts, "{name} differs");
    }
    // Repeating the command finds everything in place.
    let run = hyperinf(folder.path(), &all);
    assert!(run.code == Some(0) && run.stderr.contains("has ended already"), "{run:?}");
}
