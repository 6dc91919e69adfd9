//! Gradients of other programs, in shards, and converted.

use std::fs;
use std::path::Path;

use hyperinf_store::{Convert, GradientFile, IndexFolder, Precision, StoredType};
use hyperinf_tests::fixtures;
use hyperinf_tests::stores::small_index;

/// The numbers of a block in f64, and its sides.
fn block(file: &GradientFile, name: &str) -> (Vec<f64>, [usize; 2]) {
    let position = file.position(name).unwrap_or_else(|| panic!("no block {name}"));
    let data = file.read(position, 0..file.samples(), Precision::Double).expect("readable");
    let sides = &file.blocks()[position].block;
    (data.as_slice::<f64>().expect("f64").to_vec(), [sides.rows, sides.cols])
}

fn open(path: &Path) -> GradientFile {
    GradientFile::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn numpy(name: &str) -> std::path::PathBuf {
    fixtures::path(&format!("numpy/{name}"))
}

#[track_caller]
fn refused(path: &Path, said: &str) {
    let error = GradientFile::open(path).err().expect("it is refused").to_string();
    assert!(error.contains(said), "no {said:?} in {error}");
}

#[test]
fn arrays_of_numpy_are_gradients() {
    let both = open(&numpy("both.npz"));
    let (a, sides) = block(&both, "a");
    assert_eq!((a.len(), sides, both.samples()), (30, [2, 3], 5));
    assert_eq!(block(&both, "b").1, [1, 4]);
    for (name, of) in [("a.npy", "a"), ("half.npy", "half")] {
        assert_eq!(block(&open(&numpy(name)), of), (a.clone(), sides), "{name}");
    }
    // A part of the samples.
    let some = both.read(0, 2..4, Precision::Single).expect("readable");
    assert_eq!(some.as_slice::<f32>().expect("f32"), a[12..24].iter().map(|v| *v as f32).collect::<Vec<_>>());
    refused(&numpy("columns.npy"), "column by column");
    refused(&numpy("whole.npy"), "`<i8`");
    refused(&numpy("compressed.npz"), "compressed");
}

#[test]
fn an_index_is_what_its_description_says() {
    let written = fixtures::path("index");
    let index = IndexFolder::open(&written).expect("the script wrote it");
    assert_eq!(index.verify(&mut |_| {}), []);
    assert_eq!(block(&open(&written), "a"), (vec![0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0], [1, 2]));
    let folder = tempfile::tempdir().expect("a folder");
    small_index(folder.path()).expect("written");
    for name in ["journal.jsonl", "index.json", "leaf-00000.safetensors", "leaf-00001.rows.jsonl"] {
        let [one, other] = [&written, folder.path()].map(|folder: &Path| fs::read(folder.join(name)).expect("there"));
        assert!(one == other, "{name}");
    }
}

#[test]
fn folders_of_bergson_are_gradients() {
    let file = open(&numpy("bergson"));
    let both = open(&numpy("both.npz"));
    let names: Vec<&str> = file.blocks().iter().map(|stored| stored.block.name.as_str()).collect();
    assert_eq!((names, file.samples()), (vec!["layer.b", "layer.a"], 5));
    assert_eq!(block(&file, "layer.a"), (block(&both, "a").0, [1, 6]));
    assert_eq!(block(&file, "layer.b").0, block(&both, "b").0);
    let one = file.read(1, 3..4, Precision::Double).expect("readable");
    assert_eq!(one.as_slice::<f64>().expect("f64"), &block(&both, "a").0[18..24]);
}

#[test]
fn a_list_of_shards_is_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let convert = |from: &Path, to: &str| {
        let stored = None;
        Convert { from: from.to_owned(), to: at(to), stored }.run().expect("converted")
    };
    convert(&numpy("both.npz"), "one.safetensors");
    convert(&numpy("both.npz"), "two.safetensors");
    let write = |text: &str| fs::write(at("index.json"), text).expect("written");
    let files = r#"["one.safetensors", "two.safetensors"]"#;
    write(&format!(r#"{{"weight_map": {{"a": {files}, "b": {files}}}}}"#));
    let file = open(folder.path());
    let (a, _) = block(&open(&at("one.safetensors")), "a");
    assert_eq!((file.samples(), block(&file, "a").0), (10, [a.clone(), a.clone()].concat()));
    let some = file.read(file.position("a").expect("there"), 4..7, Precision::Double).expect("readable");
    assert_eq!(some.as_slice::<f64>().expect("f64"), [&a[24..], &a[..12]].concat());
    assert_eq!(file.fingerprint().expect("readable").len(), 32);
    // As Hugging Face has it, a block in one file.
    write(r#"{"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}"#);
    let one = open(folder.path());
    // One shard is hashed as several are, not without an end.
    let (hash, whole) = (one.fingerprint().expect("readable"), open(&at("one.safetensors")));
    assert_eq!((one.samples(), hash.len(), one.unhashed()), (5, 32, 0));
    assert_ne!(hash, whole.fingerprint().expect("readable"));
    assert_eq!(one.excerpt().expect("readable"), whole.excerpt().expect("readable"));
    for (text, said) in [
        (r#"{"weight_map": {"a": "one.safetensors"}}"#, "block `b` in `one.safetensors` is not in `index.json`"),
        (r#"{"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "one.safetensors"}}"#, "block `c`"),
        (r#"{"weight_map": {"a": "../one.safetensors"}}"#, "names the shard"),
        (r#"{"weight_map": {"a": "none.safetensors"}}"#, "`none.safetensors` cannot be used"),
        (r#"{"weight_map": {}}"#, "no blocks"),
        (r#"{"weight_map": {"a": []}}"#, "block `a`"),
        ("{}", "no `weight_map`"),
    ] {
        write(text);
        refused(folder.path(), said);
    }
    write(&format!(r#"{{"weight_map": {{"a": {files}, "b": "one.safetensors"}}}}"#));
    refused(folder.path(), "block `b` has 5 samples, expected 10");
}

#[test]
fn gradients_are_converted_and_stay_what_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let whole = open(&numpy("both.npz"));
    let convert = |from: &Path, to: &str, stored| {
        let found = Convert { from: from.to_owned(), to: at(to), stored }.run().expect("converted");
        assert_eq!((found.samples, found.blocks), (5, 2));
        open(&at(to))
    };
    // Small whole numbers, which every type holds exactly.
    for stored in [None, Some(StoredType::F32), Some(StoredType::F16), Some(StoredType::Bf16)] {
        let file = convert(&numpy("both.npz"), "out.safetensors", stored);
        for name in ["a", "b"] {
            assert_eq!(block(&file, name), block(&whole, name), "{stored:?}");
        }
        let wide = convert(&at("out.safetensors"), "out.npy", stored);
        let (a, b) = (block(&whole, "a").0, block(&whole, "b").0);
        let rows: Vec<f64> = a.chunks(6).zip(b.chunks(4)).flat_map(|(a, b)| [a, b].concat()).collect();
        assert_eq!(block(&wide, "out"), (rows, [1, 10]), "{stored:?}");
    }
    let columns: serde_json::Value =
        serde_json::from_slice(&fs::read(at("out.npy.json")).expect("there")).expect("JSON");
    assert_eq!(columns["blocks"][1]["columns"], serde_json::json!([6, 10]));
    let error = Convert { from: numpy("both.npz"), to: at("out.txt"), stored: None }.run().expect_err("an ending");
    assert!(error.to_string().contains(".safetensors or .npy"), "{error}");
    let mut large = b"\x93NUMPY\x01\x00".to_vec();
    let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }\n";
    large.extend_from_slice(&(text.len() as u16).to_le_bytes());
    large.extend_from_slice(text.as_bytes());
    large.extend_from_slice(&1e6_f32.to_le_bytes());
    fs::write(at("large.npy"), large).expect("written");
    let to_half = Convert { from: at("large.npy"), to: at("half.npy"), stored: Some(StoredType::F16) };
    assert!(to_half.run().is_err(), "1e6 does not fit f16");
    assert!(!at("half.npy").exists());
}
