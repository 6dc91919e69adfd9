//! Signals, limits and failures: what is finished stays, what is half-written goes, and the program says how to go on.
#![cfg(unix)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::support::{Folder, Run, f32s, whole};
use crate::texts::{bert, completions, model, three_classes};

/// Starts a command and sends it a signal once `ready`. On a busy machine the signal may come too late: it is tried again
/// unless standard error has the words `caught`.
#[track_caller]
fn signalled(folder: &Folder, args: &[&str], signal: &str, caught: &str, ready: impl Fn(&Folder) -> bool) -> Run {
    for _ in 0..20 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hyperinf"))
            .args(args)
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program was built with the tests");
        while !ready(folder) && child.try_wait().expect("it was started").is_none() {
            sleep(Duration::from_millis(1));
        }
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.is_ok(), "there is a program kill");
        let output = child.wait_with_output().expect("it was started");
        assert_eq!(output.status.signal(), None, "the system ended it");
        let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
        let run = Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
        assert!(matches!(run.code, Some(0 | 130 | 143)), "{run:?}");
        if run.stderr.contains(caught) {
            return run;
        }
        assert_eq!(temporaries(folder), [""; 0], "{run:?}");
        for left in ["out", "scores.csv", "scores.csv.json"].map(|name| folder.file(name)) {
            let _ = if left.is_dir() { fs::remove_dir_all(left) } else { fs::remove_file(left) };
        }
    }
    panic!("it always ended before the signal");
}

fn rows(folder: &Folder) -> Vec<String> {
    folder.write_rows("train.jsonl", &three_classes(60));
    folder.write_rows("query.jsonl", &three_classes(6));
    let more = ["--train", "train.jsonl", "--query", "query.jsonl", "--truncate", "--batch-size", "1"];
    bert().into_iter().chain(more.map(str::to_owned)).collect()
}

#[test]
fn an_interrupted_attribute_says_how_to_go_on() {
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let folder = Folder::new();
        let args = rows(&folder);
        let args: Vec<&str> = args.iter().map(String::as_str).chain(["--format", "csv"]).collect();
        let lines = |folder: &Folder| {
            let journal = fs::read(folder.file("out/.train_gradients.safetensors.journal")).unwrap_or_default();
            journal.iter().filter(|&&byte| byte == b'\n').count()
        };
        let all = [&["attribute"], &args[..], &["--out", "out"]].concat();
        let run = signalled(&folder, &all, signal, "of 60 training rows", |folder| lines(folder) > 3);
        assert_eq!(run.code, Some(code), "{run:?}");
        for said in ["stopping after what is in progress", "of 60 training rows", "the same command resumes"] {
            assert!(run.stderr.contains(said), "no {said:?} in {}", run.stderr);
        }
        assert_eq!(folder.files_in("out").len(), 2, "the file and its journal: {:?}", folder.files_in("out"));
        let run = folder.run("attribute", &[&args[..], &["--out", "out"]].concat());
        assert!(run.code == Some(0) && run.stderr.contains("of 60 rows are there"), "{run:?}");
        folder.run("attribute", &[&args[..], &["--out", "fresh"]].concat());
        for name in ["scores.csv", "scores.csv.json", "summary.json", "topk.jsonl"] {
            assert_eq!(folder.text(&format!("out/{name}")), folder.text(&format!("fresh/{name}")), "{name}");
        }
    }
}

#[test]
fn results_of_finished_methods_are_not_denied() {
    let folder = Folder::new();
    let args = rows(&folder);
    let methods = ["--method", "identity,datainf,exact,hyperinf,hyperinf:cols", "--out", "out"];
    let all: Vec<&str> = ["attribute"].into_iter().chain(args.iter().map(String::as_str)).chain(methods).collect();
    let caught = "interrupted after results were written; the same command resumes from finished gradients";
    let run = signalled(&folder, &all, "-TERM", caught, |folder| folder.file("out/identity/summary.json").exists());
    assert_eq!(run.code, Some(143), "{run:?}");
    let run = folder.run("attribute", &all[1..]);
    assert!(run.code == Some(0) && run.stderr.contains("60 of 60 rows are there"), "{run:?}");
}

#[test]
fn an_interrupted_finetune_writes_a_checkpoint() {
    let llama = model("llama");
    let args = ["--model", &llama, "--train", "rows.jsonl", "--epochs", "60", "--batch-size", "4"];
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let folder = Folder::new();
        folder.write_rows("rows.jsonl", &completions(16));
        // No checkpoints were asked for.
        let all = [&["finetune"], &args[..], &["--out", "out"]].concat();
        let ready =
            |folder: &Folder| fs::read(folder.file("out/.training_log.jsonl.part")).is_ok_and(|log| log.len() > 300);
        let run = signalled(&folder, &all, signal, "stopped after", ready);
        assert_eq!(run.code, Some(code), "{run:?}");
        for said in ["stopped after", "of 240 steps", "with --resume continues from", "checkpoints/step-"] {
            assert!(run.stderr.contains(said), "no {said:?} in {}", run.stderr);
        }
        let resumed = folder.run("finetune", &[&args[..], &["--resume", "--out", "out"]].concat());
        assert!(resumed.code == Some(0) && resumed.stderr.contains("training resumes after step"), "{resumed:?}");
        folder.run("finetune", &[&args[..], &["--out", "fresh"]].concat());
        for name in ["adapter_config.json", "adapter_model.safetensors", "hyperinf.json", "training_log.jsonl"] {
            let [out, fresh] = ["out", "fresh"].map(|out| fs::read(folder.file(&format!("{out}/{name}"))));
            assert!(out.expect("written") == fresh.expect("written"), "{name}");
        }
        // Once more: it has ended, and says so.
        let again = folder.run("finetune", &[&args[..], &["--resume", "--out", "out"]].concat());
        assert!(again.code == Some(0) && again.stderr.contains("this training has ended already"), "{again:?}");
        // But another training is another training.
        let other = folder.run("finetune", &[&args[..], &["--resume", "--out", "out", "--seed", "5"]].concat());
        assert!(other.code == Some(2) && other.stderr.contains("has an adapter already"), "{other:?}");
    }
    let folder = Folder::new();
    folder.write_rows("rows.jsonl", &completions(4));
    let fresh = ["--model", &llama, "--train", "rows.jsonl", "--epochs", "1", "--resume", "--out", "out"];
    let run = folder.run("finetune", &fresh);
    assert!(run.code == Some(0) && run.stderr.contains("no checkpoint"), "{run:?}");
    assert!(run.stderr.contains("training starts at step 0"), "{run:?}");
}

/// Scores of 700 queries for 1000 samples, which take a while to write.
fn gradients() -> Folder {
    let folder = Folder::new();
    for (file, n) in [("train.safetensors", 1000), ("query.safetensors", 700)] {
        folder.write(file, &[f32s("a", &[n, 1, 2], &whole(2 * n, 1))]);
    }
    folder
}

const SCORE: [&str; 9] = [
    "score",
    "--train-gradients",
    "train.safetensors",
    "--query-gradients",
    "query.safetensors",
    "--method",
    "identity",
    "--output",
    "scores.csv",
];

fn temporaries(folder: &Folder) -> Vec<String> {
    folder.files().into_iter().filter(|name| name.starts_with(".hyperinf")).collect()
}

#[test]
fn no_temporary_file_stays() {
    for signal in ["-TERM", "-INT"] {
        let folder = gradients();
        let caught = "interrupted: no results were written";
        let run = signalled(&folder, &SCORE, signal, caught, |folder| !temporaries(folder).is_empty());
        assert!(matches!(run.code, Some(143 | 130)), "{run:?}");
        assert_eq!(folder.files(), ["query.safetensors", "train.safetensors"]);
    }
    // What a killed run leaves, the next one removes.
    let folder = gradients();
    for _ in 0..5 {
        folder.kill_once(&SCORE, || !temporaries(&folder).is_empty());
    }
    assert_eq!(folder.score(&SCORE[5..]).code, Some(0));
    assert_eq!(folder.files(), ["query.safetensors", "scores.csv", "scores.csv.json", "train.safetensors"]);
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error() {
    let limited = |folder: &Folder, args: &[&str]| {
        let output = Command::new("sh")
            .args(["-c", "ulimit -f 8; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_hyperinf")])
            .args(args)
            .current_dir(folder.path())
            .output()
            .expect("there is a shell");
        let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
        Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    };
    let folder = gradients();
    for format in ["scores.csv", "scores.safetensors", "scores.parquet", "scores.jsonl"] {
        folder.write_bytes(format, b"earlier");
        let run = limited(&folder, &[&SCORE[..8], &[format]].concat());
        assert!(run.code == Some(2) && run.stderr.contains("File too large"), "{format}: {run:?}");
        assert_eq!((folder.text(format), temporaries(&folder)), ("earlier".into(), vec![]), "{format}");
    }
    let folder = Folder::new();
    let args = rows(&folder);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let run = limited(&folder, &[&["attribute"], &args[..], &["--out", "out"]].concat());
    assert!(run.code == Some(2) && run.stderr.contains("File too large"), "{run:?}");
    folder.write_rows("rows.jsonl", &completions(4));
    let llama = model("llama");
    let tune = ["finetune", "--model", &llama, "--train", "rows.jsonl", "--epochs", "1", "--lora-target", "all-linear"];
    let run = limited(&folder, &[&tune[..], &["--out", "tuned"]].concat());
    assert!(run.code == Some(2) && run.stderr.contains("File too large"), "{run:?}");
    assert!(!folder.file("tuned").exists(), "{:?}", folder.files_in("tuned"));
}

#[test]
fn a_failed_run_leaves_no_empty_folder() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(6));
    folder.write_bytes("bad.jsonl", b"{}\n");
    let [bert, tuned] = [bert(), vec!["--model".to_owned(), model("bert")]];
    let cases: [(&str, &[String], &[&str]); 7] = [
        ("attribute", &bert, &["--train", "absent.jsonl", "--query", "train.jsonl"]),
        ("attribute", &bert, &["--train", "train.jsonl", "--query", "bad.jsonl"]),
        ("detect", &bert, &["--train", "bad.jsonl", "--validation", "train.jsonl"]),
        ("select", &bert, &["--train", "train.jsonl", "--validation", "absent.jsonl", "--keep", "2"]),
        ("finetune", &tuned, &["--train", "bad.jsonl"]),
        ("finetune", &tuned, &["--train", "train.jsonl", "--truncate", "--lora-target", "nothing"]),
        ("attribute", &tuned, &["--train", "train.jsonl", "--query", "train.jsonl", "--truncate"]),
    ];
    for (command, model, args) in cases {
        let model: Vec<&str> = model.iter().map(String::as_str).collect();
        let run = folder.run(command, &[&model[..], args, &["--out", "new/inner"]].concat());
        assert!(matches!(run.code, Some(2 | 3)), "{command} {args:?}: {run:?}");
        assert_eq!(folder.files(), ["bad.jsonl", "train.jsonl"], "{command} {args:?}");
    }
}
