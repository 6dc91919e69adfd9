//! Every error of `hyperinf score`: exit code, message, and that no output is left behind.

use std::fs;

use safetensors::Dtype;

use crate::support::{Folder, Tensor, device_names, f32s, hyperinf, whole};

/// Fails unless the run ends with the code, says all of `needles` on standard error and nothing on standard output,
/// and leaves the folder as it was.
fn check(folder: &Folder, args: &[&str], code: i32, needles: &[&str]) {
    let before = folder.files();
    let run = folder.score(args);
    assert_eq!(run.code, Some(code), "{args:?}: {run:?}");
    for needle in needles {
        assert!(run.stderr.contains(needle), "{args:?}: no {needle:?} in\n{}", run.stderr);
    }
    assert_eq!(run.stdout, "", "{args:?}");
    assert_eq!(folder.files(), before, "{args:?}");
}

/// An input file is at fault, with every kind of output.
fn check_input(folder: &Folder, needles: &[&str]) {
    for output in ["scores.safetensors", "scores.parquet", "scores.csv"] {
        check(folder, &["--output", output], 3, needles);
    }
}

fn check_train(tensors: &[Tensor], needles: &[&str]) {
    let folder = Folder::with_gradients();
    folder.write("train.safetensors", tensors);
    check_input(&folder, &[needles, &["training", "train.safetensors"]].concat());
}

fn good(n: usize) -> [Tensor; 2] {
    [f32s("a", &[n, 2, 5], &whole(n * 10, 1)), f32s("b", &[n, 3, 4], &whole(n * 12, 11))]
}

// ---- 2: the arguments --------------------------------------------------------------------------------------------

#[test]
fn unknown_flags_and_missing_arguments() {
    let folder = Folder::with_gradients();
    check(&folder, &["--methd", "exact"], 2, &["--methd", "--method"]);
    check(&folder, &["--query-mode", "median"], 2, &["median", "each", "mean"]);
    check(&folder, &["--gfim-side", "left"], 2, &["left", "short", "rows", "cols"]);
    check(&folder, &["--damping", "much"], 2, &["much", "--damping"]);
    for args in [&["score"][..], &["score", "--train-gradients", "train.safetensors"], &["scor"], &[]] {
        assert_eq!(hyperinf(folder.path(), args).code, Some(2), "{args:?}");
    }
}

#[test]
fn unknown_methods_suggest_the_nearest() {
    let folder = Folder::with_gradients();
    let output = ["--output", "scores.csv"];
    for (typed, nearest) in
        [("hyperinff", "hyperinf"), ("data-inf", "datainf"), ("LiSSA", "lissa"), ("cosin", "cosine")]
    {
        let needles = [&format!("`{typed}`"), &format!("did you mean `{nearest}`"), "hyperinf methods"];
        check(&folder, &[&["--method", typed][..], &output].concat(), 2, &needles);
    }
    check(&folder, &["--method", "zzz"], 2, &["`zzz`", "hyperinf methods"]);
}

#[test]
fn damping_must_be_positive_and_finite() {
    let folder = Folder::with_gradients();
    for value in ["0", "-0.1", "nan", "inf", "-inf"] {
        for flag in ["--damping", "--damping-absolute"] {
            let args = ["--method", "exact", flag, value, "--output", "scores.csv"];
            check(&folder, &args, 2, &[flag, "must be positive and finite"]);
        }
    }
    check(&folder, &["--damping", "0.1", "--damping-absolute", "1"], 2, &["--damping-absolute"]);
}

#[test]
fn devices_that_are_not_there() {
    let folder = Folder::with_gradients();
    let compiled = hyperinf::compiled_devices();
    let output = ["--output", "scores.csv"];
    let mut needles = vec!["`abacus`"];
    needles.extend(&compiled);
    check(&folder, &[&["--device", "abacus"][..], &output].concat(), 2, &needles);
    for name in ["cuda", "rocm", "wgpu", "vulkan", "metal"].into_iter().filter(|name| !compiled.contains(name)) {
        let mut needles = vec!["not compiled in"];
        needles.extend(&compiled);
        check(&folder, &[&["--device", name][..], &output].concat(), 2, &needles);
    }
    for name in device_names() {
        assert_eq!(folder.score(&["--device", &name]).code, Some(0), "{name}");
    }
}

#[test]
fn outputs_that_cannot_be_written() {
    let folder = Folder::with_gradients();
    for name in ["scores.npy", "scores", "scores.safetensors.gz"] {
        check(&folder, &["--output", name], 2, &[name, ".safetensors, .parquet, .csv or .jsonl"]);
    }
    for name in ["absent/scores.csv", "train.safetensors/scores.parquet"] {
        check(&folder, &["--output", name], 2, &[name, "cannot be written"]);
    }
    fs::create_dir(folder.file("folder.csv")).expect("the folder can be written");
    check(&folder, &["--output", "folder.csv"], 2, &["folder.csv", "it is a folder"]);
    for name in ["train.safetensors", "./query.safetensors"] {
        let before = fs::read(folder.file(name)).expect("the test wrote it");
        check(&folder, &["--output", name], 2, &[name, "is also an input"]);
        assert_eq!(fs::read(folder.file(name)).expect("it is still there"), before);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_no_success() {
    let folder = Folder::with_gradients();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("it can be opened");
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_hyperinf"))
        .args(["score", "--train-gradients", "train.safetensors", "--query-gradients", "query.safetensors"])
        .current_dir(folder.path())
        .stdout(full)
        .stderr(std::process::Stdio::null())
        .status();
    assert_eq!(status.expect("the program was built with the tests").code(), Some(2));
}

/// Arguments are checked first: before files are read, and long before anything is computed.
#[test]
fn usage_comes_before_input() {
    let folder = Folder::with_gradients();
    folder.write_bytes("train.safetensors", b"nothing");
    check(&folder, &["--output", "absent/scores.csv"], 2, &["absent"]);
    check(&folder, &["--method", "nope"], 2, &["nope"]);
    check(&folder, &["--device", "abacus"], 2, &["abacus"]);
}

// ---- 3: an input file -------------------------------------------------------------------------------------------

#[test]
fn files_that_are_not_there_or_no_files() {
    let folder = Folder::with_gradients();
    fs::remove_file(folder.file("train.safetensors")).expect("it is there");
    check_input(&folder, &["training", "train.safetensors"]);
    fs::create_dir(folder.file("train.safetensors")).expect("the name is free");
    check_input(&folder, &["train.safetensors", "not a regular file"]);
    let folder = Folder::with_gradients();
    fs::remove_file(folder.file("query.safetensors")).expect("it is there");
    check_input(&folder, &["query", "query.safetensors"]);
}

#[test]
fn files_that_are_not_safetensors() {
    let folder = Folder::with_gradients();
    let headed = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    for (bytes, needle) in [
        (vec![], "empty"),
        (b"\x05".to_vec(), "1 bytes"),
        (b"query_id,train_id,score\n0,1,2\n".to_vec(), "not a safetensors file"),
        ([&u64::MAX.to_le_bytes()[..], b"{}"].concat(), "not a safetensors file"),
        (headed("[1, 2]"), "an object of tensors"),
        (headed("{\"a\":"), "JSON"),
        (headed("{}"), "no blocks"),
        (headed(r#"{"__metadata__":{"x":"y"}}"#), "no blocks"),
        (headed(r#"{"a":{"dtype":"F31","shape":[1,1],"data_offsets":[0,4]}}"#), "F31"),
        (headed(r#"{"a":{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}}"#), "contradicts itself"),
        (headed(r#"{"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,4]}}"#), "contradicts itself"),
        (headed(r#"{"a":{"dtype":"F32","shape":[1,1],"data_offsets":[4,0]}}"#), "contradicts itself"),
        (
            headed(r#"{"a":{"dtype":"F32","shape":[18446744073709551615,9],"data_offsets":[0,4]}}"#),
            "contradicts itself",
        ),
        (
            headed(
                r#"{"a":{"dtype":"F32","shape":[0,1],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0,1],"data_offsets":[0,0]}}"#,
            ),
            "block `a` is there twice",
        ),
    ] {
        folder.write_bytes("train.safetensors", &bytes);
        check_input(&folder, &["train.safetensors", needle]);
    }
}

#[test]
fn a_file_cut_anywhere_or_too_long_is_refused() {
    let folder = Folder::with_gradients();
    let whole = fs::read(folder.file("train.safetensors")).expect("the test wrote it");
    for length in [1, 7, 8, 9, 60, whole.len() / 2, whole.len() - 1] {
        folder.write_bytes("train.safetensors", &whole[..length]);
        check(&folder, &["--output", "scores.csv"], 3, &["train.safetensors"]);
    }
    folder.write_bytes("train.safetensors", &whole[..whole.len() - 4]);
    let [described, found] = [whole.len(), whole.len() - 4].map(|n| n.to_string());
    check_input(&folder, &["truncated", &described, &found]);
    folder.write_bytes("train.safetensors", &[&whole[..], b"more"].concat());
    let found = (whole.len() + 4).to_string();
    check_input(&folder, &["damaged", &described, &found]);
}

#[test]
fn tensors_that_are_not_gradients() {
    let [a, b] = good(6);
    for (dtype, width) in [(Dtype::I64, 8), (Dtype::I32, 4), (Dtype::U8, 1), (Dtype::BOOL, 1), (Dtype::F8_E4M3, 1)] {
        let labels = Tensor { name: "labels".into(), dtype, shape: vec![6, 1], bytes: vec![0; 6 * width] };
        let needles = ["block `labels`", &dtype.to_string(), "expected F32, F16, BF16 or F64"];
        check_train(&[a.clone(), b.clone(), labels], &needles);
    }
    for shape in [&[6][..], &[], &[1, 2, 3, 1]] {
        let other = f32s("b", shape, &vec![1.0; shape.iter().product()]);
        let shown = format!("{shape:?}");
        check_train(&[a.clone(), other], &["block `b`", &shown, "[samples, rows, cols]"]);
    }
}

#[test]
fn blocks_without_samples_or_parameters() {
    check_train(&[f32s("a", &[0, 2, 5], &[])], &["block `a`", "[0, 2, 5]", "0 samples", "at least 1"]);
    check_train(&[f32s("a", &[6, 0, 5], &[])], &["block `a`", "[6, 0, 5]", "0 parameters", "at least 1"]);
    let folder = Folder::with_gradients();
    folder.write("query.safetensors", &[f32s("a", &[0, 10], &[])]);
    check_input(&folder, &["query.safetensors", "block `a`", "0 samples"]);
}

#[test]
fn blocks_with_different_numbers_of_samples() {
    let ([a, _], [_, b]) = (good(6), good(5));
    check_train(&[a, b], &["block `b` has 5 samples", "expected 6 as in block `a`"]);
}

#[test]
fn files_with_different_blocks() {
    let folder = Folder::with_gradients();
    let [a, b] = good(6);
    folder.write("train.safetensors", &[a.clone(), f32s("c", &[6, 3, 4], &whole(72, 5))]);
    let needles = ["`c` in `train.safetensors` but not in `query.safetensors`", "`b` in `query.safetensors`"];
    check_input(&folder, &needles);
    folder.write("train.safetensors", std::slice::from_ref(&a));
    check_input(&folder, &["`b` in `query.safetensors` but not in `train.safetensors`"]);
    folder.write("train.safetensors", &[a, f32s("b", &[6, 4, 3], &whole(72, 5))]);
    check_input(&folder, &["block `b`", "[6, 4, 3] in `train.safetensors`", "[3, 3, 4] in `query.safetensors`"]);
    folder.write("train.safetensors", &[f32s("a", &[6, 10], &whole(60, 1)), b]);
    check_input(&folder, &["block `a`", "[6, 10]", "[3, 2, 5]"]);
}

#[test]
fn values_that_are_not_finite_are_named_with_their_place() {
    for device in device_names() {
        for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
            for method in ["identity", "cosine", "datainf", "exact", "hyperinf"] {
                for (file, n) in [("train.safetensors", 6), ("query.safetensors", 3)] {
                    for merged in ["per-block", "merged"] {
                        let folder = Folder::with_gradients();
                        let [a, _] = good(n);
                        let mut values = whole(n * 12, 11);
                        // Sample 2, row 1, column 3 of 3 × 4.
                        values[2 * 12 + 4 + 3] = value;
                        folder.write(file, &[a, f32s("b", &[n, 3, 4], &values)]);
                        let mut args = vec!["--method", method, "--device", &device, "--structure", merged];
                        args.extend(["--output", "scores.parquet"]);
                        let place = format!("the value {shown} in block `b`, sample 2, at [1, 3]");
                        check(&folder, &args, 3, &[file, &place, "expected finite numbers"]);
                    }
                }
            }
        }
    }
}

#[test]
fn values_too_large_to_be_squared() {
    let [a, _] = good(6);
    let mut values = whole(72, 11);
    values[4 * 12] = 1e30;
    // Beyond f32 they are summed in f64; beyond f64 nothing is left.
    let folder = Folder::with_gradients();
    folder.write("train.safetensors", &[a.clone(), f32s("b", &[6, 3, 4], &values)]);
    let run = folder.score(&["--output", "scores.safetensors"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let mut wide: Vec<f64> = values.into_iter().map(f64::from).collect();
    wide[4 * 12] = 1e200;
    let bytes = wide.iter().flat_map(|v| v.to_le_bytes()).collect();
    let b = Tensor { name: "b".into(), dtype: Dtype::F64, shape: vec![6, 3, 4], bytes };
    check_train(&[a, b], &["too large in block `b`, sample 4"]);
}

// ---- 4: the numbers ---------------------------------------------------------------------------------------------

#[test]
fn gradients_too_small_to_be_multiplied() {
    let folder = Folder::with_gradients();
    let small: Vec<f32> = whole(60, 1).into_iter().map(|v| v * 1e-20).collect();
    for file in ["train.safetensors", "query.safetensors"] {
        folder.write(file, &[f32s("a", &[6, 2, 5], &small)]);
    }
    // Products of 1e-40 are scores that a file in f32 cannot hold; ratios of small numbers are not small.
    check(&folder, &["--method", "identity", "--output", "scores.csv"], 4, &["query 0", "the smallest that f32 holds"]);
    for method in ["cosine", "datainf", "exact", "hyperinf", "lissa"] {
        let run = folder.score(&["--method", method, "--output", "scores.safetensors"]);
        assert_eq!(run.code, Some(0), "{method}: {run:?}");
    }
    let bytes = whole(60, 1).iter().flat_map(|v| (f64::from(*v) * 1e-150).to_le_bytes()).collect();
    let tiny = Tensor { name: "a".into(), dtype: Dtype::F64, shape: vec![6, 2, 5], bytes };
    folder.write("train.safetensors", &[tiny]);
    for method in ["datainf", "exact", "hyperinf", "lissa"] {
        let args = ["--method", method, "--output", "scores.csv"];
        check(&folder, &args, 4, &["block `a`", "too small for F64", "hint: scale all gradients of both files up"]);
    }
}

#[test]
fn a_solver_that_diverges() {
    let folder = Folder::with_gradients();
    // The authors' start of 5e-5·I diverges for eigenvalues above 4e4.
    let large: Vec<f32> = whole(60, 1).into_iter().map(|v| v * 1e4).collect();
    folder.write("train.safetensors", &[f32s("a", &[6, 2, 5], &large), good(6)[1].clone()]);
    let args = ["--method", "hyperinf-authors", "--output", "scores.csv"];
    check(&folder, &args, 4, &["block `a`", "diverged", "hint"]);
}

#[test]
fn a_matrix_that_cannot_fit() {
    let folder = Folder::new();
    for file in ["train.safetensors", "query.safetensors"] {
        folder.write(file, &[f32s("embedding", &[2, 200_000], &whole(400_000, 1))]);
    }
    let args = ["--method", "hyperinf", "--output", "scores.csv"];
    check(&folder, &args, 4, &["block `embedding`", "200000 × 200000", "GiB of memory", "these fit", "hint"]);
}

#[test]
fn scores_beyond_f32() {
    let folder = Folder::new();
    for file in ["train.safetensors", "query.safetensors"] {
        let bytes = 1e30_f64.to_le_bytes().to_vec();
        folder.write(file, &[Tensor { name: "a".into(), dtype: Dtype::F64, shape: vec![1, 1], bytes }]);
    }
    check(&folder, &["--method", "identity", "--output", "scores.csv"], 4, &["sample 0 for query 0", "1e60"]);
}
