//! The reader of gradient files, on files that nobody means to write.

use std::fs;
use std::path::Path;

use hyperinf::store::{GradientFile, Precision};
use hyperinf_tests::strategies::{corrupted, file_bytes, gradients_file};
use proptest::prelude::*;
use safetensors::SafeTensors;
use twox_hash::XxHash3_128;

use crate::support::Folder;

/// Opens a file and, if it can be opened, reads all of it in pieces of every kind.
fn read_all(path: &Path) -> Option<GradientFile> {
    let file = GradientFile::open(path).ok()?;
    for block in 0..file.blocks().len() {
        let parameters = file.blocks()[block].block.parameters();
        for precision in [Precision::Single, Precision::Double] {
            for samples in [0..file.samples(), 0..1, file.samples() - 1..file.samples(), 0..0] {
                let count = samples.len();
                let data = file.read(block, samples, precision).expect("the file is as it was when it was opened");
                assert_eq!(data.num_elements(), count * parameters);
            }
        }
        file.first_bad_value(block, file.samples() - 1).expect("the file is as it was when it was opened");
    }
    Some(file)
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in file_bytes()) {
        let folder = Folder::new();
        folder.write_bytes("file", &bytes);
        read_all(&folder.file("file"));
    }

    #[test]
    fn valid_files_are_read_as_they_are(bytes in gradients_file()) {
        let folder = Folder::new();
        folder.write_bytes("file", &bytes);
        let file = read_all(&folder.file("file")).expect("the file is valid");
        prop_assert_eq!(file.length(), bytes.len() as u64);
        prop_assert_eq!(file.fingerprint().expect("it can be read"), format!("{:032x}", XxHash3_128::oneshot(&bytes)));
        let expected = SafeTensors::deserialize(&bytes).expect("the file is valid");
        prop_assert_eq!(file.blocks().len(), expected.len());
        for (position, stored) in file.blocks().iter().enumerate() {
            let view = expected.tensor(&stored.block.name).expect("the names are the same");
            prop_assert_eq!(&stored.shape[..], view.shape());
            prop_assert_eq!(file.position(&stored.block.name), Some(position));
            let data = file.read(position, 0..file.samples(), Precision::Single).expect("it can be read");
            prop_assert_eq!(&data.bytes()[..], view.data());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_program_survives_damaged_files(train in corrupted(), same in any::<bool>(), query in gradients_file()) {
        let folder = Folder::new();
        folder.write_bytes("train.safetensors", &train);
        folder.write_bytes("query.safetensors", if same { &train } else { &query });
        let run = folder.score(&["--output", "scores.csv"]);
        prop_assert!(matches!(run.code, Some(0 | 3 | 4)), "{:?}", run);
        prop_assert_eq!(folder.file("scores.csv").exists(), run.code == Some(0), "{:?}", run);
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_an_error() {
    let folder = Folder::with_gradients();
    let path = folder.file("train.safetensors");
    let file = GradientFile::open(&path).expect("it is valid");
    fs::OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(file.length() - 4)).expect("it can be cut");
    // The first block is whole, but is it that of the file that was opened?
    for block in 0..2 {
        let error = file.read(block, 0..6, Precision::Single).expect_err("it was cut");
        assert!(error.to_string().contains("it was changed while it was read"), "{error}");
    }
    assert!(file.fingerprint().is_err());
}
