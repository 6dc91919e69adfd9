//! What a file of gradients holds, and whether its numbers can be used.

use serde_json::{Value, json};

use crate::support::{Folder, f32s, hyperinf, whole};

#[test]
fn a_file_of_gradients_is_shown() {
    let folder = Folder::with_gradients();
    let run = hyperinf(folder.path(), &["inspect", "train.safetensors", "--numbers", "--json"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let shown: Value = serde_json::from_str(&run.stdout).expect("all of standard output is JSON");
    assert_eq!((&shown["samples"], &shown["parameters"]), (&json!(6), &json!(22)));
    let block =
        |name: &str, rows: usize, cols: usize| json!({"name": name, "rows": rows, "cols": cols, "dtype": "F32"});
    assert_eq!(shown["blocks"], json!([block("a", 2, 5), block("b", 3, 4)]));
    assert_eq!(shown["xxh3_128"].as_str().map(str::len), Some(32), "a fingerprint of 128 bits");

    let run = hyperinf(folder.path(), &["inspect", "train.safetensors"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.starts_with("6 samples, 2 blocks, 22 parameters"), "{}", run.stdout);
    assert!(!run.stdout.contains("finite"), "no number was read: {}", run.stdout);
}

#[test]
fn the_first_number_that_is_not_finite_is_named() {
    let folder = Folder::new();
    let mut values = whole(4 * 6, 3);
    values[2 * 6 + 5] = f32::NAN;
    folder.write("bad.safetensors", &[f32s("a", &[4, 2, 3], &whole(4 * 6, 1)), f32s("b", &[4, 2, 3], &values)]);
    assert_eq!(hyperinf(folder.path(), &["inspect", "bad.safetensors"]).code, Some(0), "the header is good");
    let run = hyperinf(folder.path(), &["inspect", "bad.safetensors", "--numbers"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(3), ""), "{run:?}");
    for word in ["bad.safetensors", "block `b`, sample 2, at [1, 2]: NaN"] {
        assert!(run.stderr.contains(word), "{word} is not in {}", run.stderr);
    }
}

#[test]
fn what_holds_no_gradients_is_refused() {
    let folder = Folder::new();
    folder.write_bytes("short.safetensors", b"short");
    let run = hyperinf(folder.path(), &["inspect", "short.safetensors"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(3), ""), "{run:?}");
    assert!(run.stderr.contains("5 bytes"), "{}", run.stderr);
}

#[test]
fn a_long_name_is_shown() {
    let folder = Folder::new();
    let name = "a".repeat(70_000);
    folder.write("long.safetensors", &[f32s(&name, &[2, 2, 3], &whole(12, 1)), f32s("b", &[2, 2, 3], &whole(12, 2))]);
    let run = hyperinf(folder.path(), &["inspect", "long.safetensors"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains(&name) && run.stdout.len() < 71_000, "{} characters", run.stdout.len());
}
