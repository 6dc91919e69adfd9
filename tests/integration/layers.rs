//! Layers that are not linear: one backward pass per batch gives what one backward pass per sample gives.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv1d, Conv2d};
use burn::nn::{
    Embedding, LayerNorm, LayerNormConfig, Linear, PaddingConfig1d, PaddingConfig2d, RmsNorm, RmsNormConfig,
};
use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use hyperinf::gradients::{Block, Gradients, Tape, Target, Task, gradients, gradients_looped};
use hyperinf_tests::compare::{assert_close, largest, precisions, tensor, values};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

use crate::estimates::check_product_with_itself;
use crate::networks::Make;

const VOCABULARY: usize = 9;
const WIDTH: usize = 4;
const CLASSES: usize = 3;
const CHANNELS: usize = 4;
const HEIGHT: usize = 7;
const BREADTH: usize = 6;

// ---- samples -----------------------------------------------------------------------------------------------------

/// Texts and images; where a text has ended there are tokens and features that must not matter.
struct Batch {
    tokens: Tensor<2, Int>,
    /// 1 is real, 0 padding, `[n, t]`.
    mask: Tensor<2>,
    image: Tensor<4>,
    labels: Tensor<2>,
}

const LENGTHS: [usize; 5] = [3, 5, 1, 4, 2];

fn batch(samples: &[usize], padding: usize, device: &Device, dtype: DType) -> Batch {
    let n = samples.len();
    let token = |i: usize, k: usize| (3 * samples[i] + k * k + 1) % VOCABULARY;
    let ids = (0..n).flat_map(|i| {
        (0..padding).map(move |k| if k < LENGTHS[samples[i]] { token(i, k) } else { (k + n) % VOCABULARY } as i64)
    });
    let mask = Matrix::from_fn(n, padding, |i, k| f64::from(u8::from(k < LENGTHS[samples[i]])));
    let entries = CHANNELS * HEIGHT * BREADTH;
    let images: Vec<Matrix> = samples.iter().map(|&s| Matrix::noise(1, entries, 50 + s as u64)).collect();
    let labels = Matrix::from_fn(n, CLASSES, |i, k| f64::from(u8::from(samples[i] % CLASSES == k)));
    Batch {
        tokens: Tensor::from_data(TensorData::new(ids.collect(), [n, padding]), device),
        mask: tensor(&mask, device, dtype),
        image: tensor(&Matrix::from_fn(n, entries, |i, k| images[i].values[k]), device, dtype)
            .reshape([n, CHANNELS, HEIGHT, BREADTH]),
        labels: tensor(&labels, device, dtype),
    }
}

struct Classify<'a, M, F>(&'a M, F);

impl<M, F: Fn(&M, &Batch, &mut Tape) -> Tensor<2>> Task for Classify<'_, M, F> {
    type Batch = Batch;

    fn forward(&self, batch: &Batch, tape: &mut Tape) -> Tensor<2> {
        (self.1)(self.0, batch, tape)
    }

    fn loss(&self, outputs: Tensor<2>, batch: &Batch) -> Tensor<1> {
        (log_softmax(outputs, 1) * batch.labels.clone()).sum_dim(1).squeeze_dim::<1>(1).neg()
    }
}

fn masked_mean(hidden: Tensor<3>, mask: Tensor<2>) -> Tensor<2> {
    let lengths = mask.clone().sum_dim(1);
    (hidden * mask.unsqueeze_dim(2)).sum_dim(1).squeeze_dim::<2>(1) / lengths
}

fn parameter<const R: usize>(make: &Make, shape: [usize; R], seed: u64) -> Param<Tensor<R>> {
    let noise = Matrix::noise(1, shape.iter().product(), seed);
    Param::from_tensor(tensor(&noise, &make.device, make.dtype).reshape(shape))
}

// ---- the comparison ----------------------------------------------------------------------------------------------

/// The tape's block from the loop's parameters of that path: a weight or gain, and a bias or shift as the last row.
fn expected(looped: &Gradients, block: &Block) -> Vec<f64> {
    let part = |suffix: &str| {
        let at = looped.layout.iter().position(|b| b.name == format!("{}{suffix}", block.name))?;
        Some(looped.blocks[at].clone())
    };
    let weight = [".weight", ".gamma", ""].into_iter().find_map(part).expect("every recorded layer has parameters");
    let ([n, ..], last) = (weight.dims(), [".bias", ".beta"].into_iter().find_map(part));
    let rows = block.rows - usize::from(last.is_some());
    let weight = if block.name.contains("conv") {
        // Burn has the output channels first.
        weight.reshape([n, block.cols, rows]).swap_dims(1, 2)
    } else {
        weight
    };
    let whole = last.map_or(weight.clone(), |bias| Tensor::cat(vec![weight, bias], 1));
    assert_eq!(whole.dims()[1..], [block.rows, block.cols], "shape of {}", block.name);
    values(whole)
}

/// Each sample's gradients in a padded batch are those of the loop over single samples without padding, for a model
/// that trains, one that is valid and one on a plain device; and the tape changes no output.
fn check<M: Module>(
    what: &str,
    blocks: &[&str],
    new: impl Fn(&Make) -> M,
    run: impl Fn(&M, &Batch, &mut Tape) -> Tensor<2> + Copy,
) {
    const ALL: [usize; 5] = [0, 1, 2, 3, 4];
    for (name, device) in devices() {
        for (dtype, epsilon) in precisions(&device) {
            let autodiff = device.clone().autodiff();
            let training = new(&Make { device: autodiff.clone(), dtype });
            let alone = |model: &M, i: usize| {
                let batch = batch(&[i], LENGTHS[i], &autodiff, dtype);
                let task = Classify(model, run);
                task.loss(task.forward(&batch, &mut Tape::off()), &batch)
            };
            let oracle = gradients_looped(&training, 5, alone).expect("the loop works for every module");
            if dtype == DType::F64 {
                let batch = batch(&ALL, 6, &autodiff, dtype);
                // Burn takes the root mean square in f32 whatever the type.
                let precision = if what == "transformer" { (3e-3, 1e-2) } else { (1e-5, 1e-6) };
                let of = (&Classify(&training, run), &batch);
                check_product_with_itself(what, (&training, &alone), 5, of, expected, precision);
            }
            let plain = new(&Make { device: device.clone(), dtype });
            let cases = [
                ("training", &training, &autodiff),
                ("valid", &training.valid(), &device),
                ("valid, inputs on the autodiff device", &training.valid(), &autodiff),
                ("plain", &plain, &device),
            ];
            for (kind, model, inputs) in cases {
                let what = format!("{what}, {name}, {dtype:?}, {kind}");
                let found = gradients(&Classify(model, run), &batch(&ALL, 6, inputs, dtype), Target::Loss);
                let found = found.expect("the network is well-formed");
                assert_eq!(found.layout.iter().map(|b| b.name.as_str()).collect::<Vec<_>>(), blocks, "{what}");
                for (block, tensor) in found.layout.iter().zip(&found.blocks) {
                    let expected = expected(&oracle, block);
                    assert!(largest(&expected) > 1e-3, "{what}, {}: too small to show anything", block.name);
                    // Burn takes the root mean square in f32 whatever the type.
                    let epsilon = if what.contains("transformer") { f64::from(f32::EPSILON) } else { epsilon };
                    assert_close(
                        &format!("{what}, {}", block.name),
                        &values(tensor.clone()),
                        &expected,
                        100.0 * epsilon,
                    );
                }
            }
        }
    }
}

// ---- transformers ------------------------------------------------------------------------------------------------

/// One block of a transformer, with all that is not a linear weight recorded.
#[derive(Module, Debug)]
struct Transformer {
    table: Embedding,
    before: LayerNorm,
    dense: Linear,
    between: RmsNorm,
    without: LayerNorm,
    head: Linear,
}

impl Transformer {
    fn new(make: &Make) -> Self {
        let mut before = LayerNormConfig::new(WIDTH).init(&make.device);
        before.gamma = parameter(make, [WIDTH], 1);
        before.beta = Some(parameter(make, [WIDTH], 2));
        let mut without = LayerNormConfig::new(WIDTH).with_bias(false).init(&make.device);
        without.gamma = parameter(make, [WIDTH], 3);
        let mut between = RmsNormConfig::new(WIDTH).init(&make.device);
        between.gamma = parameter(make, [WIDTH], 4);
        Self {
            table: Embedding { weight: parameter(make, [VOCABULARY, WIDTH], 5) },
            before,
            dense: make.linear("dense", WIDTH, WIDTH, true),
            between,
            without,
            head: make.linear("head", WIDTH, CLASSES, false),
        }
    }

    fn run(&self, batch: &Batch, tape: &mut Tape) -> Tensor<2> {
        let x = tape.embedding("table", &self.table, batch.tokens.clone());
        let x = tape.layer_norm("before", &self.before, x);
        let hidden: Tensor<3> = batch.mask.clone().sub_scalar(1.0).mul_scalar(1e9).unsqueeze_dim(1);
        let mixed = softmax(x.clone().matmul(x.clone().swap_dims(1, 2)) + hidden, 2).matmul(x.clone());
        let x = tape.rms_norm("between", &self.between, x + mixed);
        let x = tape.bias("dense.bias", self.dense.forward(x)).tanh();
        let x = masked_mean(x, batch.mask.clone());
        self.head.forward(tape.layer_norm("without", &self.without, x))
    }
}

#[test]
fn embeddings_norms_and_biases_are_the_loop() {
    let blocks = ["table", "before", "between", "dense.bias", "without"];
    check("transformer", &blocks, Transformer::new, Transformer::run);
}

/// Features scaled by a gain and summed over positions.
struct Scaled(Tensor<1>);

impl Task for Scaled {
    type Batch = Tensor<3>;

    fn forward(&self, x: &Tensor<3>, tape: &mut Tape) -> Tensor<2> {
        tape.scale("gain", x.clone(), self.0.clone(), None).sum_dim(1).squeeze_dim(1)
    }

    fn loss(&self, outputs: Tensor<2>, _: &Tensor<3>) -> Tensor<1> {
        outputs.sum_dim(1).squeeze_dim(1)
    }
}

#[test]
fn a_batch_without_samples_has_no_gradients_of_a_gain() {
    for (name, device) in devices() {
        for n in [2, 0] {
            let x = Tensor::<3>::ones([n, 3, WIDTH], &device);
            let found = gradients(&Scaled(Tensor::ones([WIDTH], &device)), &x, Target::Loss).expect("one block");
            assert_eq!(found.blocks[0].dims(), [n, 1, WIDTH], "{name}");
        }
    }
}

#[test]
fn rows_of_an_embedding_are_rows_of_its_block() {
    for (name, device) in devices() {
        let model = Transformer::new(&Make { device: device.clone(), dtype: DType::F32 });
        let batch = batch(&[0, 1, 2, 3, 4], 6, &device, DType::F32);
        let head = |model: &Transformer, x: Tensor<3>, batch: &Batch| {
            model.head.forward(masked_mean(x.tanh(), batch.mask.clone()))
        };
        let whole = |model: &Transformer, batch: &Batch, tape: &mut Tape| {
            head(model, tape.embedding("table", &model.table, batch.tokens.clone()), batch)
        };
        let rows = Tensor::<1, Int>::from_data([7, 2, 4], &device);
        let some = |model: &Transformer, batch: &Batch, tape: &mut Tape| {
            head(model, tape.embedding_rows("table", &model.table, batch.tokens.clone(), rows.clone()), batch)
        };
        let whole = gradients(&Classify(&model, whole), &batch, Target::Loss).expect("it is well-formed");
        let some = gradients(&Classify(&model, some), &batch, Target::Loss).expect("it is well-formed");
        assert_eq!(some.layout[..], [Block::new("table", 3, WIDTH)]);
        let expected = values(whole.blocks[0].clone().select(1, rows.clone()));
        assert!(largest(&expected) > 1e-3, "{name}: nothing to compare");
        assert_close(&name, &values(some.blocks[0].clone()), &expected, 1e-6);
    }
}

// ---- convolutions ------------------------------------------------------------------------------------------------

#[derive(Module, Debug)]
struct Images {
    conv: Conv2d,
    head: Linear,
}

/// A convolution of [`CHANNELS`] to `outputs` channels.
#[derive(Clone)]
struct Form {
    outputs: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    padding: PaddingConfig2d,
    groups: usize,
    bias: bool,
}

const PLAIN: Form = Form {
    outputs: 6,
    kernel: [3, 2],
    stride: [1, 1],
    dilation: [1, 1],
    padding: PaddingConfig2d::Valid,
    groups: 1,
    bias: true,
};

fn check_images(what: &str, form: Form) {
    let new = |make: &Make| {
        let Form { outputs, kernel: [height, width], .. } = form;
        let conv = Conv2d {
            weight: parameter(make, [outputs, CHANNELS / form.groups, height, width], 6),
            bias: form.bias.then(|| parameter(make, [outputs], 7)),
            stride: form.stride,
            kernel_size: form.kernel,
            dilation: form.dilation,
            groups: form.groups,
            padding: form.padding.clone(),
        };
        Images { conv, head: make.linear("head", outputs, CLASSES, true) }
    };
    check(what, &["conv"], new, |model, batch, tape| {
        let seen = tape.conv2d("conv", &model.conv, batch.image.clone()).tanh();
        let [n, channels, height, width] = seen.dims();
        model.head.forward(seen.reshape([n, channels, height * width]).mean_dim(2).squeeze_dim(2))
    });
}

#[test]
fn convolutions_are_the_loop() {
    check_images("plain", PLAIN);
    check_images("without bias, one by one", Form { kernel: [1, 1], bias: false, ..PLAIN });
    check_images("strides", Form { stride: [2, 3], ..PLAIN });
    check_images("uneven padding", Form { padding: PaddingConfig2d::Explicit(1, 2, 0, 1), stride: [2, 1], ..PLAIN });
    check_images("padding to the same", Form { padding: PaddingConfig2d::Same, kernel: [2, 3], ..PLAIN });
    let same = Form { padding: PaddingConfig2d::Same, stride: [2, 2], dilation: [1, 2], ..PLAIN };
    check_images("padding to the same with strides and dilation", same);
    check_images("dilation", Form { dilation: [2, 3], ..PLAIN });
}

#[test]
fn grouped_convolutions_are_the_loop() {
    check_images("two groups", Form { groups: 2, ..PLAIN });
    check_images("two groups without bias", Form { groups: 2, bias: false, stride: [2, 1], ..PLAIN });
    let depthwise = Form { groups: CHANNELS, outputs: CHANNELS, kernel: [3, 3], ..PLAIN };
    check_images("depthwise", Form { padding: PaddingConfig2d::Same, ..depthwise.clone() });
    check_images("depthwise, two outputs each", Form { outputs: 2 * CHANNELS, dilation: [2, 1], ..depthwise });
}

/// Convolutions over texts, the second of which is used twice.
#[derive(Module, Debug)]
struct Texts {
    table: Embedding,
    conv_in: Conv1d,
    conv_depth: Conv1d,
    head: Linear,
}

impl Texts {
    fn new(make: &Make) -> Self {
        let conv = |inputs: usize, groups, kernel, dilation, bias, seed| Conv1d {
            weight: parameter(make, [6, inputs / groups, kernel], seed),
            bias: if bias { Some(parameter(make, [6], seed + 1)) } else { None },
            stride: 1,
            kernel_size: kernel,
            dilation,
            groups,
            padding: if dilation == 1 { PaddingConfig1d::Same } else { PaddingConfig1d::Explicit(2, 2) },
        };
        Self {
            table: Embedding { weight: parameter(make, [VOCABULARY, WIDTH], 5) },
            conv_in: conv(WIDTH, 1, 4, 1, true, 8),
            conv_depth: conv(6, 6, 3, 2, true, 10),
            head: make.linear("head", 6, CLASSES, true),
        }
    }

    fn run(&self, batch: &Batch, tape: &mut Tape) -> Tensor<2> {
        let mask: Tensor<3> = batch.mask.clone().unsqueeze_dim(1);
        let x = self.table.forward(batch.tokens.clone()).swap_dims(1, 2) * mask.clone();
        let x = tape.conv1d("conv_in", &self.conv_in, x).tanh() * mask.clone();
        let x = tape.conv1d("conv_depth", &self.conv_depth, x).tanh() * mask;
        let x = tape.conv1d("conv_depth", &self.conv_depth, x);
        self.head.forward(masked_mean(x.swap_dims(1, 2), batch.mask.clone()))
    }
}

#[test]
fn convolutions_over_texts_are_the_loop() {
    check("texts", &["conv_in", "conv_depth"], Texts::new, Texts::run);
}

#[test]
fn strided_convolutions_over_one_dimension_are_the_loop() {
    let new = |make: &Make| {
        let conv = Conv1d {
            weight: parameter(make, [6, CHANNELS / 2, 3], 6),
            bias: None,
            stride: 2,
            kernel_size: 3,
            dilation: 1,
            groups: 2,
            padding: PaddingConfig1d::Explicit(0, 1),
        };
        Rows { conv, head: make.linear("head", 6, CLASSES, true) }
    };
    check("rows of images", &["conv"], new, |model: &Rows, batch, tape| {
        let row = batch.image.clone().narrow(2, 1, 1).squeeze_dim::<3>(2);
        model.head.forward(tape.conv1d("conv", &model.conv, row).tanh().mean_dim(2).squeeze_dim(2))
    });
}

#[derive(Module, Debug)]
struct Rows {
    conv: Conv1d,
    head: Linear,
}
