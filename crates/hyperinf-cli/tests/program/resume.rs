//! Runs that were interrupted: what is there is used if it is of the same run, and only then.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::support::{Folder, hyperinf, read_scores};
use crate::texts::{bert, completions, model, three_classes};

const ARGS: [&str; 10] = [
    "--train",
    "train.jsonl",
    "--query",
    "query.jsonl",
    "--truncate",
    "--batch-size",
    "3",
    "--format",
    "safetensors",
    "--strict",
];
const GRADIENTS: &str = ".train_gradients.safetensors";

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(12));
    folder.write_rows("query.jsonl", &three_classes(3));
    folder
}

/// Leaves in `found` what a run leaves that ends between gradients and scores: with 1e-9 LiSSA cannot reach its
/// tolerance, which `--strict` makes an error.
fn interrupt(folder: &Folder) {
    let model: Vec<String> = bert();
    let model: Vec<&str> = model.iter().map(String::as_str).collect();
    let failing = ["--method", "lissa", "--damping", "1e-9", "--out", "found"];
    let run = folder.run("attribute", &[&model[..], &ARGS, &failing].concat());
    assert_eq!(run.code, Some(4), "{run:?}");
    let left = [
        ".query_gradients.safetensors.journal",
        ".query_gradients.safetensors.part",
        ".train_gradients.safetensors.journal",
        ".train_gradients.safetensors.part",
    ];
    assert_eq!(folder.files_in("found"), left, "no output after a failure");
}

fn journal(folder: &Folder) -> Vec<String> {
    folder.text(&format!("found/{GRADIENTS}.journal")).lines().map(str::to_owned).collect()
}

/// The scores of a run that goes on, and whether it took the gradients that were there: those of the first batch in
/// the journal are made twice as large before.
fn goes_on(folder: &Folder, more: &[&str]) -> (Vec<Vec<f64>>, bool) {
    let args = [&ARGS[..], &["--method", "identity"], more].concat();
    folder.succeed("attribute", &bert(), &[&args[..], &["--out", "fresh"]].concat());
    folder.succeed("attribute", &bert(), &[&args[..], &["--out", "found"]].concat());
    assert_eq!(folder.files_in("found"), ["scores.safetensors", "summary.json", "topk.jsonl"]);
    let [fresh, found] =
        ["fresh", "found"].map(|name| read_scores(&folder.file(&format!("{name}/scores.safetensors"))));
    let same = fresh == found;
    (found, same)
}

/// Doubles every number of the file that is being written.
fn double(folder: &Folder) {
    let path = folder.file(&format!("found/{GRADIENTS}.part"));
    let mut bytes = fs::read(&path).expect("the program left it");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    for number in bytes[8 + header..].chunks_exact_mut(4) {
        let value = f32::from_le_bytes(number.try_into().expect("four bytes"));
        number.copy_from_slice(&(2.0 * value).to_le_bytes());
    }
    fs::write(&path, bytes).expect("the file can be written");
}

#[test]
fn an_interrupted_run_goes_on_where_it_stopped() {
    let folder = folder();
    interrupt(&folder);
    let whole = journal(&folder);
    assert_eq!(whole.len(), 5, "a beginning and four batches");
    // Half of the batches, and a line that was cut off, with what a machine that stops may leave.
    let cut = format!("{}\n{}\n{}\n{}", whole[0], whole[1], whole[2], &whole[3][..whole[3].len() / 2]);
    folder.write_bytes(&format!("found/{GRADIENTS}.journal"), &[cut.as_bytes(), b"\xff\0"].concat());
    // What the journal says is there is taken as it is, the rest is computed.
    double(&folder);
    let done: Vec<usize> = whole[1..3]
        .iter()
        .flat_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
            let samples = line["samples"].as_array().expect("a list").clone();
            samples.into_iter().filter_map(|sample| sample.as_u64()).map(|sample| sample as usize)
        })
        .collect();
    assert_eq!(done.len(), 6);
    let (found, _) = goes_on(&folder, &[]);
    let fresh = read_scores(&folder.file("fresh/scores.safetensors"));
    for (found, fresh) in found.iter().zip(&fresh) {
        for (sample, (found, fresh)) in found.iter().zip(fresh).enumerate() {
            let expected = if done.contains(&sample) { 2.0 * fresh } else { *fresh };
            assert!((found - expected).abs() <= 1e-6 * expected.abs(), "sample {sample}: {found}, not {expected}");
        }
    }
}

#[test]
fn what_another_run_left_is_not_used() {
    type Change = (&'static str, fn(&Folder), &'static [&'static str]);
    let change: [Change; 5] = [
        ("other rows", |folder| folder.write_rows("train.jsonl", &three_classes(13)), &[]),
        (
            "other labels",
            |folder| {
                let mut rows = three_classes(12);
                rows[0]["label"] = 2.into();
                folder.write_rows("train.jsonl", &rows);
            },
            &[],
        ),
        ("other lengths", |_| {}, &["--max-length", "6"]),
        ("other blocks", |_| {}, &["--blocks", "*lora_B*"]),
        (
            "a damaged file",
            |folder| {
                let path = folder.file(&format!("found/{GRADIENTS}.part"));
                let bytes = fs::read(&path).expect("the program left it");
                fs::write(&path, &bytes[..bytes.len() / 2]).expect("the file can be written");
            },
            &[],
        ),
    ];
    for (name, change, more) in change {
        let folder = folder();
        interrupt(&folder);
        double(&folder);
        change(&folder);
        let (_, same) = goes_on(&folder, more);
        assert!(same, "{name}: gradients of another run were used");
    }
    // The same run but for how it scores uses them.
    let folder = folder();
    interrupt(&folder);
    double(&folder);
    assert!(!goes_on(&folder, &[]).1, "the gradients were taken again");
}

#[test]
fn two_runs_do_not_write_one_file() {
    let folder = folder();
    interrupt(&folder);
    let other = fs::File::open(folder.file(&format!("found/{GRADIENTS}.journal"))).expect("the program left it");
    other.lock().expect("nobody else has it");
    let model: Vec<String> = bert();
    let model: Vec<&str> = model.iter().map(String::as_str).collect();
    let run = folder.run("attribute", &[&model[..], &ARGS, &["--out", "found"]].concat());
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("another run is writing it"), "{}", run.stderr);
    drop(other);
    folder.succeed("attribute", &bert(), &[&ARGS[..], &["--out", "found"]].concat());
}

#[test]
fn training_goes_on_from_a_checkpoint_with_the_same_adapter() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(24));
    let base = ["--model".to_owned(), model("llama")];
    let args = ["--train", "train.jsonl", "--epochs", "200", "--batch-size", "8", "--checkpoint-every", "7"];
    folder.succeed("finetune", &base, &[&args[..], &["--out", "whole"]].concat());
    let files = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "hyperinf.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "training_log.jsonl",
    ];
    assert_eq!(folder.files_in("whole"), files);

    let mut child = Command::new(env!("CARGO_BIN_EXE_hyperinf"))
        .args(["finetune", &base[0], &base[1], "--out", "parts"])
        .args(args)
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program was built with the tests");
    while !folder.files_in("parts/checkpoints").iter().any(|name| name.ends_with(".safetensors")) {
        assert_eq!(child.try_wait().expect("it was started"), None, "it ended without a checkpoint");
        sleep(Duration::from_millis(2));
    }
    child.kill().expect("it runs");
    child.wait().expect("it was started");
    let left = folder.files_in("parts");
    assert!(!left.iter().any(|name| files.contains(&name.as_str())), "no adapter yet: {left:?}");

    let all = [&["finetune", &base[0], &base[1], "--out", "parts"], &args[..]].concat();
    let run = hyperinf(folder.path(), &all);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("checkpoints of an earlier run") && run.stderr.contains("--resume"), "{}", run.stderr);
    let log = fs::File::open(folder.file("parts/.training_log.jsonl.part")).expect("the program left it");
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
    assert_eq!(folder.files_in("parts"), files);
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
