//! Disks that are full: small file systems in memory, where they can be mounted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Folder;
use crate::texts::{bert, completions, model, three_classes};

/// Room for every command, in KiB.
const ROOM: usize = 32 << 10;

/// A small file system, unmounted at the end.
struct Disk(PathBuf);

impl Disk {
    /// `None` where nothing can be mounted.
    fn new(path: &Path, kib: usize) -> Option<Self> {
        fs::create_dir_all(path).expect("the folder can be written");
        let size = format!("size={kib}k");
        let run = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output();
        run.is_ok_and(|run| run.status.success()).then(|| Self(path.to_owned()))
    }

    fn grow(&self, kib: usize) {
        let size = format!("remount,size={kib}k");
        let run = Command::new("mount").args(["-o", &size]).arg(&self.0).output().expect("it was mounted");
        assert!(run.status.success(), "{run:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// All files below a folder with their bytes; configurations name their folder.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.to_string_lossy().ends_with("run.toml") {
                let name = path.strip_prefix(folder).expect("it is below").to_owned();
                found.insert(name, fs::read(path).expect("it is a file"));
            }
        }
    }
    found
}

/// Runs a command on disks from too small to large enough: where it fails it says so, and with room the same command
/// ends with the files of an undisturbed run. `DISK` in the arguments is the disk.
#[track_caller]
fn check(folder: &Folder, command: &str, args: &[&str]) {
    let at = |disk: &str| -> Vec<String> { args.iter().map(|arg| arg.replace("DISK", disk)).collect() };
    let run = |disk: &str| {
        let args = at(disk);
        folder.run(command, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let Some(_whole) = Disk::new(&folder.file("disk-0"), ROOM) else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    let first = run("disk-0");
    assert_eq!(first.code, Some(0), "{first:?}");
    let whole = contents(&folder.file("disk-0"));
    let (mut failed, mut needed) = (0, false);
    for kib in [4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512] {
        let name = format!("disk-{kib}");
        let disk = Disk::new(&folder.file(&name), kib).expect("the first could be mounted");
        let small = run(&name);
        if small.code == Some(0) {
            assert!(contents(&folder.file(&name)) == whole, "{command}, {kib} KiB");
            break;
        }
        failed += 1;
        assert_eq!(small.code, Some(2), "{command}, {kib} KiB: {small:?}");
        for word in ["cannot be written", "No space left on device", &format!("`{name}"), "make room"] {
            assert!(small.stderr.contains(word), "{command}, {kib} KiB: no {word:?} in {}", small.stderr);
        }
        assert!(!small.stderr.contains("panicked"), "{}", small.stderr);
        needed |= small.stderr.contains("more bytes are needed, ");
        assert!(small.stderr.contains("are free"), "{command}, {kib} KiB: {}", small.stderr);
        disk.grow(ROOM);
        let again = run(&name);
        assert_eq!(again.code, Some(0), "{command}, {kib} KiB: {again:?}");
        let found = contents(&folder.file(&name));
        assert_eq!(found.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>(), "{command}, {kib} KiB");
        for (file, bytes) in &whole {
            assert!(found[file] == *bytes, "{command}, {kib} KiB: {} differs", file.display());
        }
    }
    assert!(failed > 0, "{command}: every disk was large enough");
    assert!(needed || !["index", "attribute"].contains(&command), "{command}: no error said what gradients need");
}

fn rows() -> Folder {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &three_classes(48));
    folder.write_rows("query.jsonl", &three_classes(6));
    folder
}

#[track_caller]
fn check_rows(folder: &Folder, command: &str, more: &[&str]) {
    let bert = bert();
    let rows = ["--train", "train.jsonl", "--truncate", "--batch-size", "2"];
    check(folder, command, &[&bert.iter().map(String::as_str).collect::<Vec<_>>(), &rows[..], more].concat());
}

#[test]
fn an_index_goes_on_when_there_is_room() {
    check_rows(&rows(), "index", &["--leaf-batches", "4", "--out", "DISK/index"]);
}

#[test]
fn attribute_goes_on_when_there_is_room() {
    let query = ["--query", "query.jsonl", "--format", "csv", "--out", "DISK/out"];
    check_rows(&rows(), "attribute", &query);
    check_rows(&rows(), "attribute", &[&query[..], &["--keep-gradients"]].concat());
}

#[test]
fn finetune_goes_on_when_there_is_room() {
    let folder = Folder::new();
    folder.write_rows("train.jsonl", &completions(16));
    let llama = model("llama");
    let args = ["--model", &llama, "--train", "train.jsonl", "--epochs", "3", "--batch-size", "4"];
    let resumed = ["--checkpoint-every", "3", "--resume", "--out", "DISK/adapter"];
    check(&folder, "finetune", &[&args[..], &resumed].concat());
}

#[test]
fn outputs_of_queries_and_conversions_name_the_file() {
    let folder = rows();
    let bert = bert();
    let build = ["--train", "train.jsonl", "--truncate", "--out", "index"];
    folder.succeed("index", &bert, &build);
    let convert = ["index", "DISK/all.safetensors"];
    check(&folder, "convert", &convert);
    check(&folder, "convert", &["index", "DISK/all.npy"]);
    for ending in ["safetensors", "parquet", "csv", "jsonl"] {
        let file = format!("DISK/scores.{ending}");
        let ask = ["--index", "index", "--query", "query.jsonl", "--json", "--output", &file];
        check(&folder, "query", &ask);
    }
}
