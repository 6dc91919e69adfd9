//! Sets of per-sample gradients: how they are joined, summed, compared and refused.

use burn::nn::LinearConfig;
use burn::tensor::{DType, Device, Tensor};
use hyperinf::gradients::{Block, GradientError, Gradients, gradients_looped};
use hyperinf_tests::compare::{assert_close, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

/// Two blocks, 2 × 3 and 1 × 4, with `n` samples.
fn set(n: usize, seed: u64, device: &Device) -> Gradients {
    let block = |rows, cols, seed| {
        let values = Matrix::noise(n, rows * cols, seed);
        tensor(&values, device, DType::F32).reshape([n, rows, cols])
    };
    let layout = [Block::new("a", 2, 3), Block::new("b", 1, 4)];
    Gradients::new(layout, vec![block(2, 3, seed), block(1, 4, seed + 1)]).expect("the shapes fit the layout")
}

#[test]
fn joined_sets_are_their_rows_in_order() {
    for (name, device) in devices() {
        let (first, second) = (set(3, 1, &device), set(2, 9, &device));
        let joined = Gradients::concat(vec![first.clone(), second.clone()]).expect("the layouts are the same");
        assert_eq!((joined.samples(), joined.parameters()), (5, 10), "{name}");
        for l in 0..2 {
            let rows = [values(first.blocks[l].clone()), values(second.blocks[l].clone())].concat();
            assert_close(&name, &values(joined.blocks[l].clone()), &rows, 0.0);
        }
    }
}

#[test]
fn the_sum_is_over_samples() {
    for (name, device) in devices() {
        let set = set(7, 1, &device);
        let sum = set.sum();
        assert_eq!((sum.samples(), &sum.layout), (1, &set.layout), "{name}");
        for (block, sum) in set.blocks.into_iter().zip(sum.blocks) {
            let all = values(block);
            let d = all.len() / 7;
            let expected: Vec<f64> = (0..d).map(|j| all.iter().skip(j).step_by(d).sum()).collect();
            assert_close(&name, &values(sum), &expected, 1e-6);
        }
    }
}

#[test]
fn squared_norms_are_over_all_blocks() {
    for (name, device) in devices() {
        let set = set(4, 1, &device);
        let rows: Vec<Vec<f64>> = set.blocks.iter().map(|b| values(b.clone())).collect();
        let square = |all: &[f64], i: usize| {
            let d = all.len() / 4;
            all[i * d..(i + 1) * d].iter().map(|v| v * v).sum::<f64>()
        };
        let expected: Vec<f64> = (0..4).map(|i| rows.iter().map(|all| square(all, i)).sum()).collect();
        assert_close(&name, &set.squared_norms().expect("the values are finite"), &expected, 1e-6);
    }
}

#[test]
fn squared_norms_name_the_block_and_sample_of_a_bad_value() {
    for (name, device) in devices() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut set = set(4, 1, &device);
            set.blocks[1] =
                set.blocks[1].clone().slice_assign([2..3, 0..1, 1..2], Tensor::full([1, 1, 1], bad, &device));
            let error = set.squared_norms().expect_err(&name);
            assert!(
                matches!(&error, GradientError::NonFinite { block, sample: 2, .. } if block == "b"),
                "{name}, {bad}: {error:?}"
            );
        }
    }
}

/// `other` differs from the usual layout in its second block.
fn check_layout(other: Block, found: &str) {
    for (name, device) in devices() {
        let usual = set(1, 1, &device);
        let shape = [1, other.rows, other.cols];
        let blocks = vec![usual.blocks[0].clone(), Tensor::zeros(shape, &device)];
        let other =
            Gradients::new([usual.layout[0].clone(), other.clone()], blocks).expect("the shapes fit the layout");
        let errors = [usual.same_layout(&other), Gradients::concat(vec![usual.clone(), other]).map(|_| ())];
        for error in errors {
            let message = error.expect_err(&name).to_string();
            assert_eq!(message, format!("block 1 is {found} where `b` of 1 × 4 was expected"));
        }
    }
}

#[test]
fn other_names_shapes_and_orientations_are_other_layouts() {
    check_layout(Block::new("c", 1, 4), "`c` of 1 × 4");
    check_layout(Block::new("b", 1, 5), "`b` of 1 × 5");
    check_layout(Block::new("b", 2, 2), "`b` of 2 × 2");
}

#[test]
fn a_missing_block_is_another_layout() {
    for (_, device) in devices() {
        let whole = set(1, 1, &device);
        let part = Gradients::new([whole.layout[0].clone()], vec![whole.blocks[0].clone()]).expect("the shapes fit");
        let message = whole.same_layout(&part).expect_err("a block is missing").to_string();
        assert_eq!(message, "block 1 is absent where `b` of 1 × 4 was expected");
        let message = part.same_layout(&whole).expect_err("there is one too many").to_string();
        assert_eq!(message, "block 1 is `b` of 1 × 4 where absent was expected");
    }
}

#[test]
fn tensors_must_fit_their_layout_and_each_other() {
    for (name, device) in devices() {
        let zeros = |n, rows, cols| Tensor::<3>::zeros([n, rows, cols], &device);
        let layout = || [Block::new("a", 2, 3), Block::new("b", 1, 4)];
        let fails = |blocks: Vec<Tensor<3>>, index: usize| {
            let error = Gradients::new(layout(), blocks).expect_err(&name);
            assert!(matches!(error, GradientError::LayoutMismatch { index: i, .. } if i == index), "{name}: {error:?}");
        };
        fails(vec![zeros(5, 2, 3), zeros(5, 4, 1)], 1);
        fails(vec![zeros(5, 3, 2), zeros(5, 1, 4)], 0);
        fails(vec![zeros(5, 2, 3), zeros(6, 1, 4)], 1);
        fails(vec![zeros(5, 2, 3)], 1);
        fails(vec![zeros(5, 2, 3), zeros(5, 1, 4), zeros(5, 1, 1)], 2);
        let none = Gradients::new(Vec::new(), Vec::new()).expect_err(&name);
        assert!(matches!(none, GradientError::Empty { .. }), "{name}: {none:?}");
        let none = Gradients::concat(Vec::new()).expect_err(&name);
        assert!(matches!(none, GradientError::Empty { .. }), "{name}: {none:?}");
    }
}

#[test]
fn the_loop_refuses_what_it_cannot_differentiate() {
    for (name, device) in devices() {
        let training = LinearConfig::new(2, 2).init(&device.clone().autodiff());
        let plain = LinearConfig::new(2, 2).init(&device);
        let frozen = burn::module::Module::no_grad(training.clone());
        let loss = |layer: &burn::nn::Linear, _: usize| layer.weight.val().sum();
        for (layer, samples) in [(&training, 0), (&plain, 2), (&frozen, 2)] {
            let error = gradients_looped(layer, samples, loss).expect_err(&name);
            assert!(matches!(error, GradientError::Empty { .. }), "{name}: {error:?}");
        }
        let without = gradients_looped(&training, 3, |_, _| Tensor::zeros([1], &device)).expect_err(&name);
        assert!(matches!(without, GradientError::Empty { .. }), "{name}: {without:?}");
    }
}

/// A parameter that a sample does not use has a zero gradient there.
#[test]
fn the_loop_gives_zero_where_a_parameter_is_not_used() {
    for (name, device) in devices() {
        let layer = LinearConfig::new(2, 3).init(&device.clone().autodiff());
        let loss = |layer: &burn::nn::Linear, i: usize| match i {
            0 => layer.weight.val().sum(),
            _ => layer.bias.as_ref().expect("it was made with one").val().sum().mul_scalar(2.0),
        };
        let found = gradients_looped(&layer, 2, loss).expect("both samples use a parameter");
        let names: Vec<&str> = found.layout.iter().map(|b| b.name.as_str()).collect();
        assert_eq!(names, ["weight", "bias"]);
        let weight: Vec<f64> = (0..12).map(|k| f64::from(u8::from(k < 6))).collect();
        assert_close(&name, &values(found.blocks[0].clone()), &weight, 0.0);
        assert_close(&name, &values(found.blocks[1].clone()), &[0.0, 0.0, 0.0, 2.0, 2.0, 2.0], 0.0);
    }
}
