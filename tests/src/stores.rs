//! Readers of what runs store, as functions of arbitrary bytes, and a small index to try them on.

use std::fs;
use std::io;
use std::path::Path;

use hyperinf::eval::Bank;
use hyperinf::gradients::Block;
use hyperinf::models::{Checkpoints, Recording};
use hyperinf::store::{
    GradientFile, GradientWriter, IndexError, IndexFolder, IndexWriter, Leaf, Manifest, Precision, RunKey, SourceFile,
    StoredRow,
};
use twox_hash::XxHash3_128;

use crate::one_query::OneQuery;
use crate::readers::shown;

/// Reads gradients in any format.
pub(crate) fn array(path: &Path) -> io::Result<()> {
    shown(GradientFile::open(path).map(|file| read_all(&file)));
    Ok(())
}

/// A journal next to half-made gradients of three samples: the bytes alone, and after a whole journal.
pub(crate) fn journal(scratch: &Path, bytes: &[u8]) -> io::Result<()> {
    let (blocks, key) = ([Block::new("layer", 2, 2)], RunKey::from([("model", "m")]));
    let open = || GradientWriter::open(scratch, "train", &key, 3, &blocks);
    fs::write(scratch.join(".train.journal"), b"")?;
    open()?.write(&[0, 2], &[0.5, 0.25], &[vec![1.0; 8]])?;
    let whole = fs::read(scratch.join(".train.journal"))?;
    for journal in [bytes, &[&whole, bytes].concat()] {
        fs::write(scratch.join(".train.journal"), journal)?;
        shown(open());
    }
    Ok(())
}

/// A recording of a training.
pub(crate) fn recording(scratch: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = scratch.join(Recording::FILE);
    fs::write(&path, bytes)?;
    if let Some(found) = shown(Recording::open(&path)) {
        shown(found.config());
        assert_eq!(found.states().first(), Some(&0), "a recording begins with the training");
    }
    Ok(())
}

/// A checkpoint, and one whose name is a later step's.
pub(crate) fn checkpoint(scratch: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = scratch.join("checkpoints");
    fs::create_dir_all(&folder)?;
    for entry in fs::read_dir(&folder)? {
        fs::remove_file(entry?.path())?;
    }
    for step in [2, 4] {
        fs::write(folder.join(format!("step-{step:08}.safetensors")), bytes)?;
    }
    shown(Checkpoints::new(folder).find());
    Ok(())
}

/// A bank of trainings.
pub(crate) fn bank(scratch: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = scratch.join("bank.jsonl");
    fs::write(&path, bytes)?;
    if let Some(bank) = shown(Bank::open(&path, &OneQuery)) {
        let results = bank.len();
        drop(bank);
        let again = Bank::open(&path, &OneQuery).expect("what was opened once can be opened again");
        assert_eq!(again.len(), results, "no result is lost");
    }
    Ok(())
}

/// Reads an index with one of its files replaced: by the bytes, and by the bytes with right seals, so that its contents
/// count as well.
pub(crate) fn index(scratch: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let (folder, whole) = (scratch.join("index"), scratch.join("whole"));
    if !whole.exists() {
        small_index(&whole)?;
    }
    let right = sealed(bytes);
    let again = (right != bytes).then_some(right.as_slice());
    for bytes in [bytes].into_iter().chain(again) {
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir(&folder)?;
        for entry in fs::read_dir(&whole)? {
            let path = entry?.path();
            fs::copy(&path, folder.join(path.file_name().unwrap_or_default()))?;
        }
        fs::write(folder.join(name), bytes)?;
        if let Some(index) = shown(IndexFolder::open(&folder)) {
            index.verify(&mut |_| {}).iter().for_each(|fault| assert!(!fault.to_string().is_empty()));
            shown(index.gradients().map(|file| read_all(&file)));
            for leaf in 0..index.manifest().leaves.len().min(4) {
                shown(index.rows(leaf));
            }
            let manifest = index.manifest().clone();
            if let Some(mut writer) = shown(IndexWriter::open(&folder)) {
                shown(writer.begin(manifest));
            }
        }
        fs::remove_file(folder.join("manifest.json"))?;
        array(&folder)?;
    }
    Ok(())
}

/// The first numbers of each block, and the hash.
fn read_all(file: &GradientFile) {
    for block in 0..file.blocks().len().min(16) {
        shown(file.read(block, 0..file.samples().min(16), Precision::Single));
    }
    shown(file.fingerprint());
}

/// An index of two leaves of two rows.
///
/// # Errors
///
/// If the folder cannot be written.
pub fn small_index(folder: &Path) -> io::Result<()> {
    let blocks = [Block::new("a", 1, 2), Block::new("b", 2, 2)];
    let mut manifest = Manifest::new(RunKey::from([("model", "m")]), serde_json::Value::Null, &blocks, "f32", 2);
    let (path, xxh3_128) = ("rows.jsonl".to_owned(), "0".repeat(32));
    manifest.sources = vec![SourceFile { path, bytes: 9, xxh3_128: xxh3_128.clone(), total: 4, rows: 4 }];
    manifest.leaves = [0, 2].map(|first| Leaf { source: 0, first, rows: 2, samples: xxh3_128.clone() }).into();
    let failed = |error: IndexError| io::Error::other(error.to_string());
    let mut writer = IndexWriter::open(folder).map_err(failed)?;
    for leaf in writer.begin(manifest).map_err(failed)?.missing {
        let mut gradients = writer.gradients(leaf)?;
        let numbers = |count: usize| (0..count).map(|at| (leaf * 10 + at) as f32).collect::<Vec<f32>>();
        gradients.write(&[0, 1], &[0.5, 0.25], &[numbers(4), numbers(8)])?;
        let row = |place: usize| StoredRow {
            row: leaf * 2 + place,
            id: None,
            text: format!("row {place}"),
            label: None,
            loss_bits: 0.5_f64.to_bits(),
            guess: None,
        };
        writer.finish_leaf(leaf, gradients, &[row(0), row(1)]).map_err(failed)?;
    }
    writer.finish().map(drop).map_err(failed)
}

/// A text, or each of its lines, with the right seal: the hash of the text with 32 zeros in the seal's place.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let field = b"\"seal\":";
    let one = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let place = bytes.windows(field.len()).rposition(|window| window == field).and_then(|at| {
            let from = at + field.len();
            let quote = bytes[from..].iter().position(|byte| *byte == b'"')?;
            (from + quote + 33 < bytes.len()).then_some(from + quote + 1)
        });
        if let Some(at) = place {
            bytes[at..at + 32].fill(b'0');
            let hash = format!("{:032x}", XxHash3_128::oneshot(&bytes));
            bytes[at..at + 32].copy_from_slice(hash.as_bytes());
        }
        bytes
    };
    if bytes.starts_with(b"{\n") {
        one(bytes)
    } else {
        bytes.split_inclusive(|byte| *byte == b'\n').flat_map(one).collect()
    }
}
