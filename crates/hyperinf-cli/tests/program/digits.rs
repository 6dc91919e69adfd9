//! Gradients of a real model through the program: absolute damping, merged blocks and the GFIM's side against the
//! numbers of other programs.

use burn::tensor::{DType, Device};
use hyperinf_tests::compare::{assert_close, values};
use hyperinf_tests::devices;
use hyperinf_tests::digits::{expected, per_sample_gradients};

use crate::support::{Folder, Tensor, f32s};

/// One tensor `[n, in + 1, out]` per layer.
fn tensors(set: &str, device: &Device) -> Vec<Tensor> {
    let gradients = per_sample_gradients(set, device, DType::F32);
    let blocks = gradients.layout.iter().zip(&gradients.blocks).map(|(block, tensor)| {
        let numbers: Vec<f32> = values(tensor.clone()).into_iter().map(|v| v as f32).collect();
        f32s(&block.name, &tensor.dims(), &numbers)
    });
    blocks.collect()
}

/// `hyperinf score` with each of these arguments gives the scores of that name on every device.
fn check(cases: &[(&str, &[&str])]) {
    for (device, opened) in devices() {
        let folder = Folder::new();
        folder.write("train.safetensors", &tensors("train", &opened));
        folder.write("query.safetensors", &tensors("val", &opened));
        for (name, args) in cases {
            let scores = folder.scores(&[args, &["--query-mode", "mean", "--device", &device][..]].concat());
            assert_eq!(scores.len(), 1, "the mean query is one row");
            // What the project promises of f32.
            assert_close(&format!("{name} on {device}"), &scores[0], &expected(name), 1e-4);
        }
    }
}

#[test]
fn digits_without_curvature() {
    check(&[("grad_dot", &["--method", "identity"])]);
}

#[test]
fn digits_exact() {
    check(&[
        ("empfisher", &["--method", "exact", "--structure", "merged", "--damping-absolute", "0.15"]),
        ("empfisher_block_layer", &["--method", "exact", "--structure", "per-block", "--damping-absolute", "0.15"]),
        ("exact_layer_auto", &["--method", "exact", "--damping", "0.1"]),
    ]);
}

#[test]
fn digits_datainf() {
    check(&[
        ("datainf_block_layer_lam", &["--method", "datainf", "--damping-absolute", "0.15"]),
        ("datainf_block_layer_auto", &["--method", "datainf"]),
    ]);
}

#[test]
fn digits_hyperinf() {
    let sum = ["--method", "hyperinf", "--gfim-scale", "sum"];
    check(&[
        ("hyperinf_lam", &[&sum[..], &["--gfim-side", "cols", "--damping-absolute", "0.15"]].concat()),
        ("hyperinf_auto", &[&sum[..], &["--gfim-side", "cols"]].concat()),
        ("hyperinf_auto", &[&sum[..], &["--gfim-side", "short"]].concat()),
        ("hyperinf_auto_plus0_001", &["--method", "hyperinf-authors", "--gfim-side", "cols"]),
    ]);
}
