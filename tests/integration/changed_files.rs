//! Files that change while they are read, and runs whose settings allow nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use hyperinf::data::{Run, RunError, Stop};
use hyperinf::gradients::Block;
use hyperinf::models::ModelError;
use hyperinf::store::{FileError, FileStamp, GradientFile, GradientWriter, Precision, RunKey};

/// Longer than a tick of the clock of files.
fn wait() {
    sleep(Duration::from_millis(30));
}

fn write(folder: &Path, name: &str, value: f32) {
    let blocks = [Block::new("a", 1, 4), Block::new("b", 2, 2)];
    let mut writer = GradientWriter::open(folder, name, &RunKey::from([("value", value.to_string())]), 3, &blocks)
        .expect("the folder can be written");
    writer.write(&[0, 1, 2], &[0.0; 3], &[vec![value; 12], vec![value; 12]]).expect("written");
    writer.place(&folder.join(name)).expect("it is whole");
}

fn overwrite(path: &Path) {
    let mut file = OpenOptions::new().write(true).open(path).expect("writable");
    file.seek(SeekFrom::End(-8)).expect("long enough");
    file.write_all(&[1; 8]).expect("writable");
}

type Change = fn(&Path);

const CHANGES: [(&str, Change); 8] = [
    ("overwritten", overwrite),
    ("truncated", |path| OpenOptions::new().write(true).open(path).expect("writable").set_len(150).expect("cut")),
    ("appended", |path| {
        OpenOptions::new().append(true).open(path).expect("writable").write_all(b"more").expect("written");
    }),
    ("emptied", |path| drop(File::create(path).expect("writable"))),
    ("replaced", |path| {
        write(path.parent().expect("a folder"), "other.safetensors", 2.0);
        fs::rename(path.with_file_name("other.safetensors"), path).expect("moved");
    }),
    ("removed", |path| fs::remove_file(path).expect("it is there")),
    ("touched", |path| {
        let file = OpenOptions::new().write(true).open(path).expect("writable");
        file.set_modified(std::time::SystemTime::now()).expect("it can be set");
    }),
    ("overwritten, with its time set back", |path| {
        let before = path.metadata().and_then(|found| found.modified()).expect("a time");
        overwrite(path);
        OpenOptions::new().write(true).open(path).and_then(|file| file.set_modified(before)).expect("it can be set");
    }),
];

#[test]
#[cfg(unix)]
fn gradients_that_change_while_they_are_read_are_an_error() {
    for (name, change) in CHANGES {
        // Between the passes, and before the first.
        for read_before in [false, true] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            write(folder.path(), "g.safetensors", 1.0);
            let path = folder.path().join("g.safetensors");
            let file = GradientFile::open(&path).expect("gradients");
            if read_before {
                file.read(0, 0..3, Precision::Single).expect("nothing changed");
                file.fingerprint().expect("nothing changed");
            }
            wait();
            change(&path);
            for block in [0, 1] {
                let read = file.read(block, 0..3, Precision::Double);
                assert!(matches!(read, Err(FileError::Changed)), "{name}, block {block}: {read:?}");
            }
            let hash = file.fingerprint();
            assert!(matches!(hash, Err(FileError::Changed)), "{name}: {hash:?}");
        }
    }
}

#[test]
#[cfg(unix)]
fn a_stamp_tells_every_change() {
    for (name, change) in CHANGES {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write(folder.path(), "g.safetensors", 1.0);
        let path = folder.path().join("g.safetensors");
        let before = FileStamp::at(&path).expect("it is there");
        fs::read(&path).expect("readable");
        assert_eq!(FileStamp::at(&path).expect("it is there"), before, "reading changes nothing");
        wait();
        change(&path);
        assert_ne!(FileStamp::at(&path).ok(), Some(before), "{name}");
    }
}

#[test]
fn a_batch_of_no_rows_is_an_error() {
    let error = Run { batch_size: 0, ..Run::default() }.validate().expect_err("no rows");
    assert!(matches!(error, RunError::Model(ModelError::Setting { name: "batch_size", .. })), "{error}");
}

#[test]
fn a_request_to_stop_is_shared_by_its_clones() {
    let stop = Stop::default();
    let clone = stop.clone();
    assert!(!clone.is_requested());
    assert!(!stop.request(), "nothing listens");
    assert!(clone.is_requested() && !Stop::default().is_requested());
}
