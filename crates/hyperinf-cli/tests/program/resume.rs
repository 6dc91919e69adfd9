//! Runs that were interrupted: what is there is used if it is of the same run, and only then.

use std::fs;

use serde_json::Value;

use crate::support::Folder;
use crate::texts::{bert, completions, three_classes};

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

/// Changes a file of `found`.
fn change(folder: &Folder, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = folder.file(&format!("found/{GRADIENTS}.{name}"));
    let mut bytes = fs::read(&path).expect("the program left it");
    change(&mut bytes);
    fs::write(&path, bytes).expect("the file can be written");
}

/// The same run again, whose scores must be those of a fresh one, bit for bit. What it says.
#[track_caller]
fn resumed(folder: &Folder, more: &[&str]) -> String {
    let mut args = [&ARGS[..], &["--method", "identity"]].concat();
    if let Some(at) = args.iter().position(|arg| more.contains(arg)) {
        args.drain(at..at + 2);
    }
    args.extend(more);
    folder.succeed("attribute", &bert(), &[&args[..], &["--out", "fresh"]].concat());
    let run = folder.succeed("attribute", &bert(), &[&args[..], &["--out", "found"]].concat());
    let files = ["scores.safetensors", "summary.json", "topk.jsonl"];
    assert_eq!(folder.files_in("found"), files);
    for file in files {
        let [fresh, found] = ["fresh", "found"].map(|name| fs::read(folder.file(&format!("{name}/{file}"))));
        assert!(fresh.expect("written") == found.expect("written"), "{file} differs: {}", run.stderr);
    }
    run.stderr
}

/// What a run says after `damage` to what an interrupted one left.
#[track_caller]
fn check(damage: impl FnOnce(&Folder), more: &[&str], said: &[&str]) {
    let folder = folder();
    interrupt(&folder);
    damage(&folder);
    let stderr = resumed(&folder, more);
    for said in said {
        assert!(stderr.contains(said), "no {said:?} in {stderr}");
    }
}

#[test]
fn an_interrupted_run_goes_on_where_it_stopped() {
    let all = "training gradients: 12 of 12 rows are there from an earlier run";
    check(|_| {}, &[], &[all, "query gradients: 3 of 3 rows are there"]);
    check(|_| {}, &["--method", "datainf"], &[all]);
    // Half of the batches, and a line that was cut off, with what a machine that stops may leave.
    let half = |folder: &Folder| {
        let whole = journal(folder);
        assert_eq!(whole.len(), 5, "a beginning and four batches");
        let cut = format!("{}\n{}\n{}\n{}", whole[0], whole[1], whole[2], &whole[3][..whole[3].len() / 2]);
        folder.write_bytes(&format!("found/{GRADIENTS}.journal"), &[cut.as_bytes(), b"\xff\0"].concat());
    };
    check(half, &[], &["training gradients: 6 of 12 rows are there"]);
}

#[test]
fn damage_is_found_and_computed_again() {
    let damaged = "damaged batches of an earlier run are computed again";
    let flip = |at: fn(&[u8]) -> usize| {
        move |folder: &Folder| {
            change(folder, "part", |bytes| {
                let at = at(bytes);
                bytes[at] ^= 0x40;
            });
        }
    };
    check(flip(|bytes| bytes.len() - 1), &[], &[damaged, "9 of 12 rows are there"]);
    check(flip(|bytes| bytes.len() / 2), &[], &[damaged]);
    check(flip(|_| 9), &[], &["the header of the earlier run's file was damaged", "12 of 12 rows are there"]);
    check(|folder| change(folder, "part", |bytes| bytes.truncate(bytes.len() / 2)), &[], &[damaged]);
    let part = |folder: &Folder| folder.file(&format!("found/{GRADIENTS}.part"));
    check(|folder| fs::remove_file(part(folder)).expect("it is there"), &[], &[damaged]);
    let first = |folder: &Folder| change(folder, "journal", |bytes| bytes[3] ^= 1);
    check(first, &[], &["training gradients of an earlier run are not used"]);
    let claim = |folder: &Folder| {
        // A batch that is not there, claimed by the line of another one.
        let mut lines = journal(folder);
        let last: Value = serde_json::from_str(&lines.pop().expect("a line")).expect("it is JSON");
        let mut other: Value = serde_json::from_str(&lines[1]).expect("it is JSON");
        other["samples"] = last["samples"].clone();
        lines[1] = other.to_string();
        folder.write_bytes(&format!("found/{GRADIENTS}.journal"), format!("{}\n", lines.join("\n")).as_bytes());
    };
    check(claim, &[], &["1 damaged batches", "6 of 12 rows are there"]);
}

#[test]
fn what_another_run_left_is_not_used() {
    let relabel = |folder: &Folder| {
        let mut rows = three_classes(12);
        rows[0]["label"] = 2.into();
        folder.write_rows("train.jsonl", &rows);
    };
    let unused = "training gradients of an earlier run are not used: ";
    check(|folder| folder.write_rows("train.jsonl", &three_classes(13)), &[], &[unused, "rows was 12, is 13"]);
    check(relabel, &[], &[unused, "rows' content was"]);
    check(|_| {}, &["--max-length", "6"], &[unused, "maximum length was", "is 6"]);
    check(|_| {}, &["--batch-size", "4"], &[unused, "batch size was 3, is 4"]);
    check(|_| {}, &["--blocks", "*lora_B*"], &[unused, "blocks was"]);
}

#[test]
#[cfg(unix)]
fn links_in_the_folder_are_not_followed() {
    let hidden = [
        ".train_gradients.safetensors.part",
        ".train_gradients.safetensors.journal",
        ".query_gradients.safetensors.part",
        ".query_gradients.safetensors.journal",
        ".hyperinf.lock",
    ];
    let model: Vec<String> = bert();
    let model: Vec<&str> = model.iter().map(String::as_str).collect();
    for name in hidden {
        let folder = folder();
        folder.write_bytes("victim", b"precious");
        fs::create_dir(folder.file("found")).expect("the folder can be written");
        std::os::unix::fs::symlink("../victim", folder.file(&format!("found/{name}"))).expect("it can be linked");
        let run = folder.run("attribute", &[&model[..], &ARGS, &["--out", "found"]].concat());
        assert_eq!(folder.text("victim"), "precious", "{name}");
        assert!(run.code == Some(2) && run.stderr.contains("symbolic link"), "{name}: {run:?}");
    }
    let base = ["--model".to_owned(), crate::texts::model("llama")];
    let args = ["--train", "rows.jsonl", "--epochs", "1", "--out", "found", "--checkpoint-every", "1"];
    for name in [".training_log.jsonl.part", "checkpoints", ".hyperinf.lock"] {
        let folder = Folder::new();
        folder.write_rows("rows.jsonl", &completions(4));
        fs::create_dir_all(folder.file("elsewhere")).expect("the folder can be written");
        folder.write_bytes("victim", b"precious");
        fs::create_dir(folder.file("found")).expect("the folder can be written");
        let target = if name == "checkpoints" { "../elsewhere" } else { "../victim" };
        std::os::unix::fs::symlink(target, folder.file(&format!("found/{name}"))).expect("it can be linked");
        let run = folder.run("finetune", &[&[&*base[0], &base[1]][..], &args].concat());
        assert_eq!((folder.text("victim"), folder.files_in("elsewhere")), ("precious".into(), vec![]), "{name}");
        assert!(run.code == Some(2) && run.stderr.contains("symbolic link"), "{name}: {run:?}");
    }
}

/// Runs a command that must end, whatever it finds: 100 times as long as it takes.
#[cfg(unix)]
fn ends(folder: &Folder, command: &str, args: &[&str]) -> Option<i32> {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_hyperinf"))
        .arg(command)
        .args(args)
        .current_dir(folder.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the program was built with the tests");
    for _ in 0..12_000 {
        if let Some(status) = child.try_wait().expect("it was started") {
            return status.code();
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().expect("it runs");
    child.wait().expect("it was started");
    panic!("{command} {args:?} waits for ever");
}

#[test]
#[cfg(unix)]
fn named_pipes_in_the_folder_are_not_read() {
    let folder = folder();
    folder.write_rows("rows.jsonl", &completions(4));
    folder.write("gradients.safetensors", &[crate::support::f32s("a", &[3, 1, 2], &crate::support::whole(6, 1))]);
    let (bert, llama) = (bert(), crate::texts::model("llama"));
    let bert: Vec<&str> = bert.iter().map(String::as_str).collect();
    let attribute = [&bert[..], &ARGS].concat();
    let finetune = ["--model", &llama, "--train", "rows.jsonl", "--epochs", "1", "--resume"];
    let gradients = ["--train-gradients", "gradients.safetensors", "--query-gradients", "gradients.safetensors"];
    let sweep = [&gradients[..], &["--damping", "0.1,1"]].concat();
    let eval = ["lds", "--methods", "identity", "--subsets", "2", "--seeds", "1"];
    let cases: [(&str, &[&str], &str, i32); 8] = [
        ("attribute", &attribute, "summary.json", 0),
        ("attribute", &attribute, ".train_gradients.safetensors.part", 2),
        ("finetune", &finetune, "summary.json", 0),
        ("finetune", &finetune, ".training_log.jsonl.part", 2),
        ("finetune", &finetune, "checkpoints/step-00000002.safetensors", 0),
        ("sweep", &sweep, "summary.json", 0),
        ("compare", &gradients, "summary.json", 0),
        ("eval", &eval, "bank.jsonl", 2),
    ];
    for (number, (command, args, name, code)) in cases.into_iter().enumerate() {
        let out = format!("out-{number}");
        let pipe = folder.file(&format!("{out}/{name}"));
        fs::create_dir_all(pipe.parent().expect("a folder")).expect("the folder can be written");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there").success());
        assert_eq!(ends(&folder, command, &[args, &["--out", &out]].concat()), Some(code), "{command}: {name}");
    }
}

#[test]
fn two_runs_do_not_write_one_folder() {
    let folder = folder();
    interrupt(&folder);
    let model: Vec<String> = bert();
    let model: Vec<&str> = model.iter().map(String::as_str).collect();
    for held in [".hyperinf.lock", ".train_gradients.safetensors.journal"] {
        let path = folder.file(&format!("found/{held}"));
        let other = fs::OpenOptions::new().append(true).create(true).open(path).expect("the folder can be written");
        other.lock().expect("nobody else has it");
        let run = folder.run("attribute", &[&model[..], &ARGS, &["--out", "found"]].concat());
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.stderr.contains("another run is writing it"), "{}", run.stderr);
    }
    folder.succeed("attribute", &bert(), &[&ARGS[..], &["--out", "found"]].concat());
}

#[test]
fn kept_gradients_are_found_by_every_command() {
    let folder = folder();
    let gradients = ["--train", "train.jsonl", "--truncate", "--keep-gradients", "--out", "found"];
    let rows = [&gradients[..], &["--query", "query.jsonl"]].concat();
    folder.succeed("attribute", &bert(), &[&rows[..], &["--format", "csv"]].concat());
    let kept = fs::read(folder.file("found/train_gradients.safetensors")).expect("it was kept");
    let validation = [&gradients[..], &["--validation", "query.jsonl"]].concat();
    for (command, args) in [("attribute", &rows), ("detect", &validation), ("attribute", &rows)] {
        let more: &[&str] = if command == "attribute" { &["--format", "csv", "--method", "identity"] } else { &[] };
        let run = folder.succeed(command, &bert(), &[&args[..], more].concat());
        assert!(run.stderr.contains("training gradients: 12 of 12 rows are there"), "{command}: {}", run.stderr);
        assert!(run.stderr.contains("query gradients: 3 of 3 rows are there"), "{command}: {}", run.stderr);
    }
    assert!(kept == fs::read(folder.file("found/train_gradients.safetensors")).expect("it stays"));
    // Without the flag they stay, too: they are the user's.
    folder.succeed("detect", &bert(), &[&validation[..3], &["--validation", "query.jsonl", "--out", "found"]].concat());
    assert!(kept == fs::read(folder.file("found/train_gradients.safetensors")).expect("it stays"));
}

#[test]
fn every_command_keeps_its_summary() {
    let folder = folder();
    let shared = ["--train", "train.jsonl", "--truncate", "--out", "found"];
    let runs: [(&str, &[&str]); 5] = [
        ("attribute", &["--query", "query.jsonl"]),
        ("detect", &["--validation", "query.jsonl"]),
        ("select", &["--validation", "query.jsonl", "--keep", "3"]),
        ("detect", &["--validation", "query.jsonl", "--method", "identity"]),
        ("attribute", &["--query", "query.jsonl", "--method", "identity"]),
    ];
    for (command, args) in runs {
        folder.succeed(command, &bert(), &[&shared[..], args].concat());
    }
    for (name, command, method) in [
        ("summary.json", "attribute", "identity"),
        ("detect-summary.json", "detect", "identity"),
        ("select-summary.json", "select", "hyperinf"),
    ] {
        let summary = folder.json(&format!("found/{name}"));
        assert_eq!((&summary["command"], &summary["method"]), (&command.into(), &method.into()), "{name}");
        let outputs = summary["outputs"].as_array().expect("a list");
        assert!(outputs.contains(&name.into()), "{outputs:?}");
    }
    let before = folder.text("found/summary.json");
    let eval: [&str; 9] = ["lds", "--methods", "identity", "--subsets", "2", "--seeds", "1", "--out", "found"];
    let llama = ["--model", &crate::texts::model("bert"), "--train", "train.jsonl", "--truncate", "--out", "found"];
    for (command, args) in [("eval", &eval[..]), ("finetune", &llama), ("demo", &["--out", "found"])] {
        let run = folder.run(command, args);
        assert_eq!(run.code, Some(2), "{command}: {run:?}");
        assert!(run.stderr.contains("is the summary of another command, `attribute`"), "{command}: {}", run.stderr);
        assert_eq!(folder.text("found/summary.json"), before, "{command}");
    }
}
