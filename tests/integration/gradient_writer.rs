use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use hyperinf_gradients::Block;
use hyperinf_store::{GradientFile, GradientWriter};

const NAME: &str = "train.safetensors";

fn open(folder: &tempfile::TempDir) -> GradientWriter {
    let blocks = [Block::new("a", 1, 2), Block::new("b", 1, 1)];
    GradientWriter::open(folder.path(), NAME, "key", 2, &blocks).expect("the folder can be written")
}

#[test]
fn a_file_with_samples_missing_is_not_placed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(NAME);
    let mut writer = open(&folder);
    writer.write(&[1], &[0.5], &[vec![3.0, 4.0], vec![6.0]]).expect("written");
    let error = writer.place(&path).expect_err("sample 0 would read as zeros");
    assert!(error.to_string().contains("1 of 2 samples"), "{error}");
    assert!(!path.exists());

    let mut resumed = open(&folder);
    assert!(resumed.has(1) && !resumed.has(0));
    resumed.write(&[0], &[0.25], &[vec![1.0, 2.0], vec![5.0]]).expect("written");
    resumed.place(&path).expect("it is whole");
    assert_eq!(GradientFile::open(&path).expect("gradients").samples(), 2);
}

#[test]
fn a_sample_too_many_overwrites_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut writer = open(&folder);
    writer.write(&[0, 1], &[0.0; 2], &[vec![1.0; 4], vec![1.0; 2]]).expect("written");
    let before = fs::read(writer.path()).expect("the hidden file");
    for (sample, second) in [(2, vec![9.0]), (0, vec![9.0; 2])] {
        let write = || writer.write(&[sample], &[0.0], &[vec![9.0; 2], second]);
        assert!(catch_unwind(AssertUnwindSafe(write)).is_err(), "sample {sample}");
    }
    assert_eq!(fs::read(writer.path()).expect("the hidden file"), before);
}
