//! Trainings that were interrupted: the same command ends with the same adapter.

use std::fs;

use crate::support::{Folder, hyperinf};
use crate::texts::{completions, model, three_classes};

const FILES: [&str; 7] = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "hyperinf.json",
    "summary.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_log.jsonl",
];

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(12));
    folder.write_rows("query.jsonl", &three_classes(3));
    folder
}

#[test]
fn training_goes_on_from_a_checkpoint_with_the_same_adapter() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(24));
    let base = ["--model".to_owned(), model("llama")];
    let args = ["--train", "train.jsonl", "--epochs", "200", "--batch-size", "8", "--checkpoint-every", "7"];
    folder.succeed("finetune", &base, &[&args[..], &["--out", "whole"]].concat());
    assert_eq!(folder.files_in("whole"), FILES);

    // On a busy machine the training may have ended before it is killed.
    for attempt in 1.. {
        let there = || folder.files_in("parts/checkpoints").iter().any(|name| name.ends_with(".safetensors"));
        folder.kill_once(&[&["finetune", &base[0], &base[1], "--out", "parts"], &args[..]].concat(), there);
        let left = folder.files_in("parts");
        if there() && !left.iter().any(|name| FILES.contains(&name.as_str())) {
            break;
        }
        assert!(attempt < 10, "it always ended before it was killed: {left:?}");
        fs::remove_dir_all(folder.file("parts")).expect("the folder can be written");
    }

    let all = [&["finetune", &base[0], &base[1], "--out", "parts"], &args[..]].concat();
    let run = hyperinf(folder.path(), &all);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("checkpoints of an earlier run") && run.stderr.contains("--resume"), "{}", run.stderr);
    let log = fs::OpenOptions::new().append(true).create(true).open(folder.file("parts/.hyperinf.lock"));
    let log = log.expect("the folder can be written");
    log.lock().expect("nobody else has it");
    let run = hyperinf(folder.path(), &[&all[..], &["--resume"]].concat());
    assert!(run.code == Some(2) && run.stderr.contains("another run is writing it"), "{run:?}");
    drop(log);
    for (other, named) in
        [(&["--lora-alpha", "64"][..], "alpha"), (&["--lora-dropout", "0.5"], "dropout"), (&["--rslora"], "scaling")]
    {
        let run = hyperinf(folder.path(), &[&all[..], &["--resume"], other].concat());
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.stderr.contains("another run") && run.stderr.contains(named), "{other:?}: {}", run.stderr);
    }
    let run = folder.succeed("finetune", &base, &[&args[..], &["--resume", "--out", "parts"]].concat());
    assert!(run.stdout.contains("resumed at step"), "{}", run.stdout);
    let [whole, parts] = ["whole", "parts"]
        .map(|name| fs::read(folder.file(&format!("{name}/adapter_model.safetensors"))).expect("the program wrote it"));
    assert!(whole == parts, "the adapters differ");
    let steps = |name: &str| -> Vec<(Option<u64>, Option<f64>)> {
        let lines = folder.lines(&format!("{name}/training_log.jsonl"));
        lines.iter().map(|line| (line["step"].as_u64(), line["loss"].as_f64())).collect()
    };
    assert_eq!(steps("parts"), steps("whole"));
    assert_eq!(folder.files_in("parts"), FILES);
}

#[test]
fn finetuning_loses_neither_inputs_nor_checkpoints() {
    let folder = folder();
    fs::create_dir_all(folder.file("out/checkpoints")).expect("the folder can be written");
    let rows = folder.text("train.jsonl");
    let base = ["--model", &model("bert"), "--truncate", "--epochs", "1", "--out", "out"];
    let finetune = |args: &[&str]| folder.run("finetune", &[&base[..], args].concat());
    let all = ["--overwrite", "--checkpoint-every", "1"];
    for (input, output) in [
        ("out/training_log.jsonl", "out/training_log.jsonl"),
        ("out/hyperinf.json", "out/hyperinf.json"),
        ("out/checkpoints/train.jsonl", "out/checkpoints"),
    ] {
        folder.write_bytes(input, rows.as_bytes());
        for args in [&["--train", input][..], &["--train", "train.jsonl", "--validation", input]] {
            let run = finetune(&[&all[..], args].concat());
            assert_eq!(run.code, Some(2), "{args:?}: {run:?}");
            let said = format!("`{output}` is also an input");
            assert!(run.stderr.contains(&said), "{args:?}: no {said:?} in {}", run.stderr);
            assert_eq!(folder.text(input), rows, "{args:?}");
        }
        fs::remove_file(folder.file(input)).expect("it is there");
    }

    folder.write_bytes("out/checkpoints/step-00000100.safetensors", b"of hours of work");
    folder.write_bytes("bad.jsonl", b"{}\n");
    for (args, code) in [
        (&["--train", "typo.jsonl"][..], 3),
        (&["--train", "bad.jsonl"], 3),
        (&["--train", "train.jsonl", "--validation", "typo.jsonl"], 3),
        (&["--train", "train.jsonl", "--lora-target", "gate_proj"], 2),
        (&["--train", "train.jsonl", "--micro-batch", "0"], 2),
        (&["--train", "train.jsonl", "--max-length", "25"], 2),
        (&["--train", "train.jsonl", "--tokenizer", "absent"], 3),
    ] {
        let run = finetune(&[&all[..], args].concat());
        assert_eq!(run.code, Some(code), "{args:?}: {run:?}");
        assert_eq!(folder.text("out/checkpoints/step-00000100.safetensors"), "of hours of work", "{args:?}");
    }
    let run = finetune(&[&all[..], &["--train", "train.jsonl"]].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(!folder.file("out/checkpoints").exists());
}
