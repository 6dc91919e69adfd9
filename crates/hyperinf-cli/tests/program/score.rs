//! `hyperinf score`: the numbers.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};

use half::{bf16, f16};
use hyperinf_tests::compare::assert_close;
use hyperinf_tests::fixtures;
use safetensors::Dtype;

use crate::support::{Folder, Tensor, device_names, f32s, hyperinf, read_scores, whole};

const METHODS: [&str; 8] = ["identity", "cosine", "datainf", "lissa", "cg", "exact", "hyperinf", "hyperinf-authors"];

/// Sums in another order differ by the rounding of f32, amplified by the condition of the damped curvature.
const ROUNDING: f64 = 1e-4;

fn check_golden(method: &str, more: &[&str], expected: &str) {
    for fixture in ["lora_tiny", "lora_small"] {
        let expected = &fixtures::load(&format!("{fixture}/expected.safetensors"))[expected].values;
        let [train, query] = ["train", "query"].map(|name| fixtures::path(&format!("{fixture}/{name}.safetensors")));
        for device in device_names() {
            let folder = Folder::new();
            let output = folder.file("scores.safetensors");
            let mut args = vec!["score", "--method", method, "--query-mode", "mean", "--device", &device];
            args.extend(more);
            for (flag, path) in [("--train-gradients", &train), ("--query-gradients", &query), ("--output", &output)] {
                args.extend([flag, path.to_str().expect("paths of tests are UTF-8")]);
            }
            let run = hyperinf(folder.path(), &args);
            assert_eq!(run.code, Some(0), "{fixture}, {method} on {device}: {run:?}");
            let rows = read_scores(&output);
            assert_eq!(rows.len(), 1, "the mean query is one row");
            assert_close(&format!("{fixture}, {method} on {device}"), &rows[0], expected, 1e-4);
        }
    }
}

#[test]
fn golden_identity() {
    check_golden("identity", &[], "identity");
}

#[test]
fn golden_datainf() {
    check_golden("datainf", &["--damping", "0.1"], "datainf");
}

#[test]
fn golden_exact() {
    check_golden("exact", &[], "exact_block");
}

#[test]
fn golden_hyperinf_unscaled() {
    check_golden("hyperinf", &["--gfim-scale", "sum"], "hyperinf_unscaled");
}

#[test]
fn golden_hyperinf_authors() {
    check_golden("hyperinf-authors", &[], "hyperinf_authors");
}

#[test]
fn identity_is_the_dot_product_and_cosine_its_share_of_the_norms() {
    let folder = Folder::with_gradients();
    let rows = |n: usize, seed: u32| -> Vec<Vec<f64>> {
        let (a, b) = (whole(n * 10, seed), whole(n * 12, seed + 10));
        let row = |i: usize| a[i * 10..][..10].iter().chain(&b[i * 12..][..12]).map(|&v| f64::from(v)).collect();
        (0..n).map(row).collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (train, query) = (rows(6, 1), rows(3, 2));
    for device in device_names() {
        let identity = folder.scores(&["--method", "identity", "--device", &device]);
        let cosine = folder.scores(&["--method", "cosine", "--device", &device]);
        assert_eq!((identity.len(), identity[0].len()), (3, 6));
        for (k, v) in query.iter().enumerate() {
            let dots: Vec<f64> = train.iter().map(|g| dot(v, g)).collect();
            assert_eq!(identity[k], dots, "whole numbers have exact dot products");
            let cosines: Vec<f64> = train.iter().map(|g| dot(v, g) / (dot(v, v) * dot(g, g)).sqrt()).collect();
            assert_close("cosine", &cosine[k], &cosines, 1e-6);
        }
    }
}

#[test]
fn the_mean_query_scores_as_the_mean_of_the_scores() {
    let folder = Folder::with_gradients();
    for method in METHODS.iter().filter(|m| **m != "cosine") {
        let args = ["--method", method, "--damping", "0.5"];
        let each = folder.scores(&args);
        let mean = folder.scores(&[&args[..], &["--query-mode", "mean"]].concat());
        let expected: Vec<f64> = (0..6).map(|i| each.iter().map(|row| row[i]).sum::<f64>() / 3.0).collect();
        // LiSSA stops at a relative residual of 1e-3.
        let tolerance = if *method == "lissa" { 1e-2 } else { ROUNDING };
        assert_close(method, &mean[0], &expected, tolerance);
    }
}

#[test]
fn every_float_type_is_read_as_the_numbers_it_holds() {
    let convert = |dtype: Dtype, v: f32| -> Vec<u8> {
        match dtype {
            Dtype::F16 => f16::from_f32(v).to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from_f32(v).to_le_bytes().to_vec(),
            Dtype::F64 => f64::from(v).to_le_bytes().to_vec(),
            _ => v.to_le_bytes().to_vec(),
        }
    };
    for device in device_names() {
        let expected = Folder::with_gradients().scores(&["--method", "identity", "--device", &device]);
        for (train_type, query_type) in [
            (Dtype::F16, Dtype::F16),
            (Dtype::BF16, Dtype::BF16),
            (Dtype::F64, Dtype::F64),
            (Dtype::F16, Dtype::F64),
            (Dtype::F32, Dtype::F64),
            (Dtype::F64, Dtype::BF16),
        ] {
            let folder = Folder::new();
            for (file, n, seed, dtype) in
                [("train.safetensors", 6, 1, train_type), ("query.safetensors", 3, 2, query_type)]
            {
                let tensor = |name: &str, shape: [usize; 3], seed| {
                    let values = whole(shape.iter().product(), seed);
                    let bytes = values.into_iter().flat_map(|v| convert(dtype, v)).collect();
                    Tensor { name: name.into(), dtype, shape: shape.into(), bytes }
                };
                folder.write(file, &[tensor("a", [n, 2, 5], seed), tensor("b", [n, 3, 4], seed + 10)]);
            }
            let found = folder.scores(&["--method", "identity", "--device", &device]);
            assert_eq!(found, expected, "{train_type} and {query_type} on {device}");
            folder.scores(&["--method", "exact", "--device", &device]);
            folder.scores(&["--method", "hyperinf", "--structure", "merged", "--device", &device]);
        }
    }
}

#[test]
fn doubles_are_computed_in_double_precision() {
    for device in device_names() {
        let folder = Folder::new();
        let f64s = |name: &str, values: &[f64]| {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            Tensor { name: name.into(), dtype: Dtype::F64, shape: vec![1, 1, values.len()], bytes }
        };
        // In f32 the small part of 1 + 1e-10 is lost, and the product is 0.
        folder.write("train.safetensors", &[f64s("a", &[1.0 + 1e-10, 1.0])]);
        folder.write("query.safetensors", &[f64s("a", &[1.0, -1.0])]);
        let scores = folder.scores(&["--method", "identity", "--device", &device]);
        assert_close(&device, &scores[0], &[1e-10], 1e-5);
    }
}

#[test]
fn two_dimensions_are_a_block_of_one_row() {
    for device in device_names() {
        let (matrix, flat) = (Folder::new(), Folder::new());
        for (file, n, seed) in [("train.safetensors", 6, 1), ("query.safetensors", 3, 2)] {
            let values = whole(n * 10, seed);
            matrix.write(file, &[f32s("a", &[n, 2, 5], &values)]);
            flat.write(file, &[f32s("a", &[n, 10], &values)]);
        }
        for method in ["identity", "cosine", "datainf", "exact"] {
            let args = ["--method", method, "--device", &device];
            assert_eq!(matrix.scores(&args), flat.scores(&args), "{method} on {device}");
        }
        // One row, contracted: the factor is the whole matrix.
        let hyperinf = flat.scores(&["--method", "hyperinf", "--device", &device]);
        let exact = flat.scores(&["--method", "exact", "--device", &device]);
        for (found, expected) in hyperinf.iter().zip(&exact) {
            assert_close("hyperinf of one row", found, expected, ROUNDING);
        }
    }
}

#[test]
fn merged_blocks_are_one_matrix() {
    for device in device_names() {
        let (two, one) = (Folder::new(), Folder::new());
        for (file, n, seed) in [("train.safetensors", 6, 1), ("query.safetensors", 3, 2)] {
            let (a, b) = (whole(n * 10, seed), whole(n * 12, seed + 10));
            two.write(file, &[f32s("a", &[n, 2, 5], &a), f32s("b", &[n, 3, 4], &b)]);
            let both: Vec<f32> = (0..n).flat_map(|i| [&a[i * 10..][..10], &b[i * 12..][..12]].concat()).collect();
            one.write(file, &[f32s("ab", &[n, 22], &both)]);
        }
        for method in METHODS {
            let args = ["--method", method, "--damping", "0.5", "--device", &device];
            let merged = two.scores(&[&args[..], &["--structure", "merged"]].concat());
            for (found, expected) in merged.iter().zip(one.scores(&args)) {
                assert_close(method, found, &expected, ROUNDING);
            }
        }
        let per_block = two.scores(&["--method", "exact", "--device", &device]);
        let merged = two.scores(&["--method", "exact", "--structure", "merged", "--device", &device]);
        assert_ne!(per_block, merged);
    }
}

#[test]
fn the_order_of_the_blocks_changes_nothing() {
    let folder = Folder::with_gradients();
    let expected = METHODS.map(|method| folder.scores(&["--method", method]));
    // The writer sorts by the type first: with `a` in f64, `a` comes last in the file of training gradients.
    let doubles = whole(60, 1).into_iter().flat_map(|v| f64::from(v).to_le_bytes()).collect();
    let a = Tensor { name: "z".into(), dtype: Dtype::F64, shape: vec![6, 2, 5], bytes: doubles };
    folder.write("train.safetensors", &[a, f32s("b", &[6, 3, 4], &whole(72, 11))]);
    folder.write("query.safetensors", &[f32s("b", &[3, 3, 4], &whole(36, 12)), f32s("z", &[3, 2, 5], &whole(30, 2))]);
    for (method, expected) in METHODS.iter().zip(expected) {
        for (found, expected) in folder.scores(&["--method", method]).iter().zip(&expected) {
            assert_close(method, found, expected, ROUNDING);
        }
    }
}

#[test]
fn damping_is_relative_unless_it_is_said_to_be_absolute() {
    let folder = Folder::with_gradients();
    let mean_square = |values: &[f32]| values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64;
    folder.write("train.safetensors", &[f32s("a", &[6, 2, 5], &whole(60, 1))]);
    folder.write("query.safetensors", &[f32s("a", &[3, 2, 5], &whole(30, 2))]);
    let lambda = (0.25 * mean_square(&whole(60, 1))).to_string();
    let relative = folder.scores(&["--method", "exact", "--damping", "0.25"]);
    let absolute = folder.scores(&["--method", "exact", "--damping-absolute", &lambda]);
    for (found, expected) in absolute.iter().zip(&relative) {
        assert_close("absolute", found, expected, 1e-6);
    }
    assert_ne!(relative, folder.scores(&["--method", "exact"]), "the default is 0.1");
    assert_eq!(folder.scores(&["--method", "exact", "--damping", "0.1"]), folder.scores(&["--method", "exact"]));
}

#[test]
fn the_default_is_hyperinf_for_each_query_over_the_short_side() {
    let folder = Folder::with_gradients();
    let default = folder.scores(&[]);
    assert_eq!(default.len(), 3);
    let spelled = ["--method", "hyperinf", "--query-mode", "each", "--structure", "per-block"];
    let gfim = ["--gfim-side", "short", "--gfim-scale", "mean", "--damping", "0.1"];
    assert_eq!(default, folder.scores(&[&spelled[..], &gfim[..]].concat()));
    // Both blocks have fewer rows than columns.
    assert_eq!(default, folder.scores(&["--gfim-side", "rows"]));
    assert_ne!(default, folder.scores(&["--gfim-side", "cols"]));
    assert_ne!(default, folder.scores(&["--gfim-scale", "sum"]));
}

/// A block larger than what is read at once (256 MiB), mostly a hole in the file.
#[test]
fn blocks_larger_than_a_batch_are_streamed() {
    const N: usize = 300;
    const SIDE: usize = 512;
    let sample_bytes = SIDE * SIDE * 4;
    let rows: Vec<(usize, Vec<f32>)> = [2, 150, 299].into_iter().map(|i| (i, whole(SIDE * SIDE, i as u32))).collect();
    let folder = Folder::new();
    let header =
        format!(r#"{{"a":{{"dtype":"F32","shape":[{N},{SIDE},{SIDE}],"data_offsets":[0,{}]}}}}"#, N * sample_bytes);
    folder.write_bytes("train.safetensors", &[&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat());
    let mut file = OpenOptions::new().write(true).open(folder.file("train.safetensors")).expect("it was just written");
    let begin = (8 + header.len()) as u64;
    file.set_len(begin + (N * sample_bytes) as u64).expect("the system has sparse files or 300 MB");
    for (i, values) in &rows {
        file.seek(SeekFrom::Start(begin + (i * sample_bytes) as u64)).expect("it is a file");
        file.write_all(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).expect("there is room");
    }
    folder.write("query.safetensors", &[f32s("a", &[1, SIDE, SIDE], &whole(SIDE * SIDE, 7))]);

    // Without the samples that are zero, the mean over samples, and with it λ, is N/3 times larger.
    let few = Folder::new();
    let values: Vec<f32> = rows.iter().flat_map(|(_, values)| values.clone()).collect();
    few.write("train.safetensors", &[f32s("a", &[3, SIDE, SIDE], &values)]);
    few.write("query.safetensors", &[f32s("a", &[1, SIDE, SIDE], &whole(SIDE * SIDE, 7))]);
    for (method, factor) in [("identity", 1.0), ("cosine", 1.0), ("hyperinf", N as f64 / 3.0)] {
        let found = folder.scores(&["--method", method]);
        let mut expected = vec![0.0; N];
        for ((i, _), score) in rows.iter().zip(&few.scores(&["--method", method])[0]) {
            expected[*i] = score * factor;
        }
        assert_close(method, &found[0], &expected, ROUNDING);
    }
}
