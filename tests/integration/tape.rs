//! One backward pass per batch gives what one backward pass per sample gives.

use burn::nn::Linear;
use burn::tensor::{DType, Device, Tensor};
use hyperinf::gradients::{Block, GradientError, Gradients, Tape, Target, Task, capture, gradients, gradients_looped};
use hyperinf_tests::compare::{assert_close, largest, matrix, precisions, tensor, values};
use hyperinf_tests::oracle::{Matrix, per_sample};

use hyperinf_tests::devices;

use crate::networks::{CLASSES, Classify, LowRank, Make, Network, Perceptron, Samples, Sequence, Shared, WIDTH};

/// The oracle: one sample at a time, without padding, through Burn's own layers.
fn looped<N: Network>(device: &Device, dtype: DType, samples: &Samples) -> Gradients {
    let device = device.clone().autodiff();
    let model = N::new(&Make { device: device.clone(), dtype });
    let loss = |model: &N, i: usize| {
        let batch = samples.alone(i).batch(&device, dtype);
        let task = Classify(model.clone());
        let outputs = task.forward(&batch, &mut Tape::off());
        task.loss(outputs, &batch)
    };
    gradients_looped(&model, samples.count(), loss).expect("the loop works for every module")
}

/// The tape's block `name` from the loop's `name.weight` and, if there is one, `name.bias` as its last row.
fn expected(looped: &Gradients, block: &Block) -> Vec<f64> {
    let part = |suffix: &str| {
        let path = format!("{}.{suffix}", block.name);
        let at = looped.layout.iter().position(|b| b.name == path)?;
        Some(looped.blocks[at].clone())
    };
    let weight = part("weight").expect("every recorded layer has a weight");
    let whole = part("bias").map_or(weight.clone(), |bias| Tensor::cat(vec![weight, bias], 1));
    assert_eq!(whole.dims()[1..], [block.rows, block.cols], "shape of {}", block.name);
    values(whole)
}

/// Sums of fewer than 100 terms of either sign, relative to the largest entry, in units of the type's precision.
const TOLERANCE: f64 = 100.0;

/// The tape equals the loop on every device, for a model that trains, a `valid()` one, and one on a plain device.
fn check<N: Network>(samples: &Samples) {
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            let oracle = looped::<N>(&device, dtype, samples);
            let autodiff = device.clone().autodiff();
            let training = N::new(&Make { device: autodiff.clone(), dtype });
            let plain = N::new(&Make { device: device.clone(), dtype });
            let cases = [
                ("training", training.clone(), &autodiff),
                ("valid", training.valid(), &device),
                ("valid, inputs on the autodiff device", training.valid(), &autodiff),
                ("plain", plain, &device),
            ];
            for (kind, model, inputs) in cases {
                let batch = samples.batch(inputs, dtype);
                let found = gradients(&Classify(model), &batch, Target::Loss).expect("the network is well-formed");
                for (block, tensor) in found.layout.iter().zip(&found.blocks) {
                    let what = format!("{name}, {dtype:?}, {kind}: {}", block.name);
                    let expected = expected(&oracle, block);
                    assert!(largest(&expected) > 1e-3, "{what}: these gradients are too small to show anything");
                    assert_close(&what, &values(tensor.clone()), &expected, TOLERANCE * epsilon);
                }
            }
        }
    }
}

/// The gradients of each sample are the same alone, with other mates, in another order and with more padding.
fn check_mates<N: Network>(samples: &Samples) {
    let batches: [(&[usize], usize); 5] =
        [(&[0], 6), (&[5, 4, 3, 2, 1, 0], 6), (&[2, 2, 2, 1], 9), (&[3, 0], 6), (&[4, 1, 5, 0, 3], 17)];
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            let task = Classify(N::new(&Make { device: device.clone(), dtype }));
            let take = |samples: &Samples| {
                gradients(&task, &samples.batch(&device, dtype), Target::Loss).expect("the network is well-formed")
            };
            let all: Vec<Matrix> = take(samples).blocks.into_iter().map(matrix).collect();
            for (places, padding) in batches {
                for (block, found) in take(&samples.select(places, padding)).blocks.into_iter().enumerate() {
                    let expected: Vec<f64> = places.iter().flat_map(|&p| all[block].row(p).to_vec()).collect();
                    let what = format!("{name}, {dtype:?}, samples {places:?}, block {block}");
                    assert_close(&what, &values(found), &expected, TOLERANCE * epsilon);
                }
            }
        }
    }
}

fn full() -> Samples {
    Samples::new(&[4; 6], 4)
}

fn padded() -> Samples {
    Samples::new(&[3, 6, 1, 4, 2, 5], 6)
}

#[test]
fn tape_is_loop_with_inputs_of_rank_2() {
    check::<Perceptron>(&full());
}

#[test]
fn tape_is_loop_with_positions() {
    check::<Sequence>(&full());
}

#[test]
fn tape_is_loop_with_padding() {
    check::<Sequence>(&padded());
}

#[test]
fn tape_is_loop_for_low_rank_factors() {
    check::<LowRank>(&full());
    check::<LowRank>(&padded());
}

#[test]
fn tape_is_loop_for_a_shared_layer() {
    check::<Shared>(&full());
    check::<Shared>(&padded());
}

#[test]
fn tape_is_loop_for_one_sample() {
    check::<Sequence>(&Samples::new(&[3], 3));
}

#[test]
fn mates_do_not_matter_with_inputs_of_rank_2() {
    check_mates::<Perceptron>(&padded());
}

#[test]
fn mates_and_padding_do_not_matter_with_positions() {
    check_mates::<Sequence>(&padded());
}

#[test]
fn mates_and_padding_do_not_matter_for_low_rank_factors() {
    check_mates::<LowRank>(&padded());
}

#[test]
fn mates_and_padding_do_not_matter_for_a_shared_layer() {
    check_mates::<Shared>(&padded());
}

#[test]
fn a_tape_that_is_off_changes_nothing_and_recording_keeps_the_outputs() {
    for (name, device) in devices() {
        let make = Make { device: device.clone(), dtype: DType::F32 };
        let (task, batch) = (Classify(Sequence::new(&make)), padded().batch(&device, DType::F32));
        let outputs = task.forward(&batch, &mut Tape::off());
        let losses = values(task.loss(outputs, &batch));
        let captures = capture(&task, &batch, Target::Loss).expect("the network is well-formed");
        assert_close(&name, &values(captures.values), &losses, TOLERANCE * f64::from(f32::EPSILON));
    }
}

// ---- the definition ----------------------------------------------------------------------------------------------

/// One layer with squared error, whose `δ = 2 (output − target)` is known in closed form; outputs keep positions.
struct Regression {
    layer: Linear,
}

impl Task for Regression {
    type Batch = (Tensor<3>, Tensor<3>);

    fn forward(&self, (x, _): &Self::Batch, tape: &mut Tape) -> Tensor<2> {
        tape.linear("layer", &self.layer, x.clone()).flatten(1, 2)
    }

    fn loss(&self, outputs: Tensor<2>, (_, target): &Self::Batch) -> Tensor<1> {
        (outputs - target.clone().flatten(1, 2)).square().sum_dim(1).squeeze_dim(1)
    }

    fn measure(&self, outputs: Tensor<2>, _: &Self::Batch) -> Tensor<1> {
        outputs.sum_dim(1).squeeze_dim(1)
    }
}

#[test]
fn captures_follow_their_definition() {
    const N: usize = 3;
    const T: usize = 4;
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            let layer = Make { device: device.clone(), dtype }.linear("layer", WIDTH, CLASSES, true);
            let (x, y) = (Matrix::noise(N * T, WIDTH, 1), Matrix::noise(N * T, CLASSES, 2));
            let batch = (
                tensor(&x, &device, dtype).reshape([N, T, WIDTH]),
                tensor(&y, &device, dtype).reshape([N, T, CLASSES]),
            );
            let ones = Matrix::from_fn(N * T, WIDTH + 1, |i, j| if j < WIDTH { x.at(i, j) } else { 1.0 });
            let bias = values(layer.bias.clone().expect("it was made with one").val());
            let weight = matrix(layer.weight.val());
            let whole = Matrix::from_fn(WIDTH + 1, CLASSES, |i, j| if i < WIDTH { weight.at(i, j) } else { bias[j] });
            let task = Regression { layer };
            let residual = ones.times(&whole).plus(-1.0, &y);
            let deltas = [
                (Target::Loss, residual.plus(1.0, &residual)),
                (Target::Measure, Matrix::from_fn(N * T, CLASSES, |_, _| 1.0)),
            ];
            for (target, delta) in deltas {
                let found = capture(&task, &batch, target).expect("the task is well-formed");
                let found = &found.blocks[0];
                assert_eq!(found.block, Block::new("layer", WIDTH + 1, CLASSES));
                let what = format!("{name}, {dtype:?}, {target:?}");
                assert_close(&what, &values(found.input.clone()), &ones.values, TOLERANCE * epsilon);
                assert_close(&what, &values(found.delta.clone()), &delta.values, TOLERANCE * epsilon);
                let sample = |i: usize, of: &Matrix| Matrix::from_fn(T, of.cols, |t, j| of.at(i * T + t, j));
                let expected: Vec<f64> =
                    (0..N).flat_map(|i| per_sample(&sample(i, &ones), &sample(i, &delta)).values).collect();
                assert_close(&what, &values(found.gradients()), &expected, TOLERANCE * epsilon);
            }
        }
    }
}

// ---- what can go wrong -------------------------------------------------------------------------------------------

/// A forward pass given as a function, with the sum of the outputs as loss.
struct Custom<F>(F);

impl<F: Fn(&Tensor<2>, &mut Tape) -> Tensor<2>> Task for Custom<F> {
    type Batch = Tensor<2>;

    fn forward(&self, batch: &Tensor<2>, tape: &mut Tape) -> Tensor<2> {
        self.0(batch, tape)
    }

    fn loss(&self, outputs: Tensor<2>, _: &Tensor<2>) -> Tensor<1> {
        outputs.sum_dim(1).squeeze_dim(1)
    }
}

/// Runs a forward pass on `[4, WIDTH]` and hands over its error, on every device.
fn check_error(
    forward: impl Fn(&Make, &Tensor<2>, &mut Tape) -> Tensor<2> + Copy,
    is_expected: impl Fn(&GradientError) -> bool,
) {
    for (name, device) in devices() {
        let x = tensor(&Matrix::noise(4, WIDTH, 3), &device, DType::F32);
        let make = Make { device, dtype: DType::F32 };
        let task = Custom(|x: &Tensor<2>, tape: &mut Tape| forward(&make, x, tape));
        let error = gradients(&task, &x, Target::Loss).expect_err(&name);
        assert!(is_expected(&error), "{name}: {error:?}");
    }
}

#[test]
fn a_model_without_tape_calls_is_an_error() {
    check_error(
        |make, x, _| make.linear("first", WIDTH, CLASSES, true).forward(x.clone()),
        |e| matches!(e, GradientError::NothingRecorded),
    );
}

#[test]
fn a_layer_that_does_not_reach_the_loss_is_named() {
    let lost = |make: &Make, x: &Tensor<2>, tape: &mut Tape| {
        let kept = tape.linear("kept", &make.linear("kept", WIDTH, CLASSES, true), x.clone());
        tape.linear("lost", &make.linear("lost", WIDTH, CLASSES, true), x.clone());
        kept
    };
    check_error(lost, |e| matches!(e, GradientError::Unreached { block } if block == "lost"));
}

#[test]
fn a_loss_that_no_layer_reaches_names_the_first() {
    let constant = |make: &Make, x: &Tensor<2>, tape: &mut Tape| {
        tape.linear("lost", &make.linear("lost", WIDTH, CLASSES, true), x.clone());
        x.clone()
    };
    check_error(constant, |e| matches!(e, GradientError::Unreached { block } if block == "lost"));
}

#[test]
fn one_name_for_two_shapes_is_an_error() {
    let twice = |make: &Make, x: &Tensor<2>, tape: &mut Tape| {
        let hidden = tape.linear("layer", &make.linear("first", WIDTH, 4, true), x.clone());
        tape.linear("layer", &make.linear("second", 4, CLASSES, false), hidden)
    };
    check_error(
        twice,
        |e| matches!(e, GradientError::BlockShape { block, first_rows: 6, first_cols: 4, rows: 4, cols: 3 } if block == "layer"),
    );
}

#[test]
fn positions_in_the_place_of_samples_are_an_error() {
    let folded = |make: &Make, x: &Tensor<2>, tape: &mut Tape| {
        let halves = x.clone().narrow(1, 0, 4).reshape([8, 2]);
        let hidden = tape.linear("layer", &make.linear("layer", 2, CLASSES, true), halves);
        hidden.reshape([4, 2 * CLASSES])
    };
    check_error(
        folded,
        |e| matches!(e, GradientError::SampleCount { block, samples: 8, losses: 4 } if block == "layer"),
    );
}
