//! Segments of a training against matrix functions written out, and recorded states against gradients at them.

use std::ops::ControlFlow;

use burn::tensor::{DType, Device};
use hyperinf::curvature::Storage;
use hyperinf::gradients::{Block, Gradients, Target, gradients};
use hyperinf::models::{
    Encoder, EncoderClassifier, FinetuneConfig, HeadKind, LoraConfig, RecordedLayers, Recording, SampleModel,
    TrainConfig, adapt, without_dropout,
};
use hyperinf::scoring::{Method, Options, ScaledSource, ScoreError, Segment, curvature, through_segments};
use hyperinf::solvers::Exact;
use hyperinf_tests::compare::{assert_close, matrix, precisions, tensor};
use hyperinf_tests::devices;
use hyperinf_tests::oracle::Matrix;

use crate::models::{QUERY_VALUE, SIZES};
use crate::recordings::samples;

const BLOCKS: [(&str, usize, usize); 2] = [("a", 2, 3), ("b", 3, 2)];
const SIZE: usize = 12;

fn gradients_of(all: &Matrix, device: &Device, dtype: DType) -> Gradients {
    let mut from = 0;
    let blocks = BLOCKS.map(|(_, rows, cols)| {
        let part = Matrix::from_fn(all.rows, rows * cols, |i, j| all.at(i, from + j));
        from += rows * cols;
        tensor(&part, device, dtype).reshape([all.rows, rows, cols])
    });
    let layout: Vec<Block> = BLOCKS.iter().map(|&(name, rows, cols)| Block::new(name, rows, cols)).collect();
    Gradients::new(layout, blocks.into()).expect("the layout fits")
}

fn joined(gradients: &Gradients) -> Matrix {
    matrix(gradients.merged().blocks[0].clone())
}

/// `exp(−M)` by its series, of a matrix halved until it is small.
fn exp_minus(m: &Matrix) -> Matrix {
    const HALVINGS: i32 = 12;
    let small = Matrix::from_fn(m.rows, m.cols, |i, j| -m.at(i, j) / f64::from(1 << HALVINGS));
    let (mut sum, mut term) = (Matrix::identity(m.rows), Matrix::identity(m.rows));
    for k in 1..12 {
        let next = term.times(&small);
        term = Matrix::from_fn(m.rows, m.cols, |i, j| next.at(i, j) / f64::from(k));
        sum = sum.plus(1.0, &term);
    }
    (0..HALVINGS).fold(sum, |power, _| power.times(&power))
}

fn diagonal(values: impl Fn(usize) -> f64) -> Matrix {
    Matrix::from_fn(SIZE, SIZE, |i, j| if i == j { values(i) } else { 0.0 })
}

/// A metric, a curvature in it as a segment has them, and the curvature written out.
fn segment(
    storage: Storage,
    duration: f64,
    decay: f64,
    seed: u64,
    place: (&Device, DType),
) -> (Segment, Matrix, Matrix) {
    let (device, dtype) = place;
    let noise = Matrix::noise(1, SIZE, seed);
    let metric = Matrix::from_fn(1, SIZE, |_, j| 0.3 + noise.at(0, j).abs());
    let train = gradients_of(&Matrix::noise(20, SIZE, seed + 1), device, dtype);
    let metric_rows = gradients_of(&metric, device, dtype);
    let factors = metric_rows.blocks.iter().map(|block| block.clone().sqrt().recip()).collect();
    let factors = Gradients::new(metric_rows.layout.clone(), factors).expect("the layout fits");
    let options = Options { method: Method::inverse(storage, Exact), ..Options::default() };
    let found = curvature(&ScaledSource { source: &train, factors: &factors }, &options).expect("it can be computed");
    let mut dense = Matrix::from_fn(SIZE, SIZE, |_, _| 0.0);
    let mut from = 0;
    for block in &found {
        let own = matrix(block.curvature.to_dense());
        for i in 0..own.rows {
            for j in 0..own.cols {
                dense.values[(from + i) * SIZE + from + j] = own.at(i, j);
            }
        }
        from += own.rows;
    }
    let roots = diagonal(|i| metric.at(0, i).sqrt());
    (Segment { duration, decay, metric: Some(metric_rows), curvature: found }, dense, roots)
}

const STORAGES: [Storage; 3] =
    [Storage::TwoSided { corrected: true }, Storage::TwoSided { corrected: false }, Storage::Diagonal];

/// Two segments with their own metric and curvature, by matrices.
#[test]
fn segments_are_their_matrix_functions() {
    for (name, device) in devices() {
        for (dtype, _) in precisions(&device) {
            for storage in STORAGES {
                let place = (&device, dtype);
                let (first, second) = (segment(storage, 1.7, 0.02, 3, place), segment(storage, 0.4, 0.1, 8, place));
                let queries = Matrix::noise(3, SIZE, 21);
                let both = [first.0.clone(), second.0.clone()];
                let found = through_segments(&gradients_of(&queries, &device, dtype), &both).expect("they fit");
                let mut v = queries.clone();
                for (segment, dense, roots) in [second, first] {
                    let h = dense.plus(segment.decay, &Matrix::identity(SIZE));
                    let kept = exp_minus(&Matrix::from_fn(SIZE, SIZE, |i, j| segment.duration * h.at(i, j)));
                    let inverse = roots.inverse();
                    let passed = Matrix::identity(SIZE).plus(-1.0, &kept).times(&h.inverse());
                    let x = v.times(&inverse).times(&passed).times(&inverse);
                    let place = usize::from(segment.duration < 1.0);
                    let what = format!("{name}, {dtype:?}, {storage:?}, segment {place}");
                    let tolerance = if dtype == DType::F64 { 1e-9 } else { 2e-5 };
                    assert_close(&what, &joined(&found[place]).values, &x.values, tolerance);
                    v = v.times(&inverse).times(&kept).times(&roots);
                }
            }
        }
    }
}

/// Without curvature a segment is TracIn; a very long one is the inverse; two halves are the whole.
#[test]
fn the_ends_of_a_segment_are_known() {
    let (_, device) = devices().remove(0);
    let (plain, _, _) = segment(Storage::Diagonal, 0.5, 0.0, 5, (&device, DType::F32));
    let queries = gradients_of(&Matrix::noise(2, SIZE, 30), &device, DType::F32);
    let x = |segments: &[Segment]| through_segments(&queries, segments).expect("they fit");
    let free = Segment { curvature: Vec::new(), metric: None, ..plain.clone() };
    let expected: Vec<f64> = joined(&queries).values.iter().map(|value| 0.5 * value).collect();
    assert_close("free", &joined(&x(&[free])[0]).values, &expected, 1e-6);
    let long = Segment { duration: 1e9, ..plain.clone() };
    let metric = joined(plain.metric.as_ref().expect("it has one"));
    let of_blocks: Vec<f64> = plain
        .curvature
        .iter()
        .flat_map(|found| {
            let dense = matrix(found.curvature.to_dense());
            (0..dense.rows).map(|i| dense.at(i, i)).collect::<Vec<_>>()
        })
        .collect();
    let inverse = |(i, value): (usize, &f64)| value / metric.at(0, i % SIZE) / of_blocks[i % SIZE];
    let expected: Vec<f64> = joined(&queries).values.iter().enumerate().map(inverse).collect();
    assert_close("long", &joined(&x(&[long])[0]).values, &expected, 1e-5);
    let half = Segment { duration: 0.25, ..plain.clone() };
    let (halves, whole) = (x(&[half.clone(), half]), x(&[plain]));
    let sum = joined(&halves[0]).plus(1.0, &joined(&halves[1]));
    assert_close("halves", &sum.values, &joined(&whole[0]).values, 1e-5);
}

#[test]
fn segments_that_cannot_be_are_errors() {
    let (_, device) = devices().remove(0);
    let (plain, _, _) = segment(Storage::Diagonal, 0.5, 0.0, 5, (&device, DType::F32));
    let queries = gradients_of(&Matrix::noise(2, SIZE, 30), &device, DType::F32);
    let error = |segment: Segment| through_segments(&queries, &[segment]).map(|_| ()).expect_err("it is refused");
    let range = |segment: Segment, said: &str| {
        let found = error(segment).to_string();
        assert!(found.contains(said), "{found}");
    };
    range(Segment { duration: 0.0, ..plain.clone() }, "duration");
    range(Segment { duration: f64::NAN, ..plain.clone() }, "duration");
    range(Segment { decay: -1.0, ..plain.clone() }, "decay");
    let zeros = gradients_of(&Matrix::from_fn(1, SIZE, |_, j| j as f64), &device, DType::F32);
    range(Segment { metric: Some(zeros), ..plain.clone() }, "metric");
    let (dense, _, _) = segment(Storage::Dense, 0.5, 0.0, 5, (&device, DType::F32));
    assert!(matches!(error(dense), ScoreError::NoEigenvalues { .. }));
    let fewer = Segment { curvature: plain.curvature[..1].to_vec(), ..plain };
    assert!(matches!(error(fewer), ScoreError::Gradients { .. }));
}

/// With adapters and a head, without dropout.
fn adapted(device: &Device) -> EncoderClassifier {
    let lora = LoraConfig { rank: 2, dropout: 0.0, ..LoraConfig::default() };
    let encoder = Encoder::new(SIZES, 5, device).and_then(|encoder| adapt(encoder, &QUERY_VALUE, &lora, 6));
    let recorded = RecordedLayers::AdaptersAndHead;
    EncoderClassifier::new(encoder.expect("valid sizes"), HeadKind::Mean, 3, recorded, 7).expect("three classes")
}

/// The states, rates and moments of a recording are those of the training loop.
#[test]
fn recorded_states_are_those_of_the_training() {
    for (name, device) in devices() {
        let (model, train) = (adapted(&device), samples(13));
        let schedule = TrainConfig { learning_rate: 1e-2, epochs: 3, batch_size: 5, seed: 1, ..TrainConfig::default() };
        let config = FinetuneConfig { schedule, clip_norm: None, ..FinetuneConfig::default() };
        let go = |_: usize| ControlFlow::Continue(());
        let record = |every, until| Recording::of_training(model.clone(), &train, &config, every, until, go);
        let recording = record(4, None).expect("training works");
        assert_eq!((recording.states(), recording.steps()), (vec![0, 4, 8], 9), "{name}");
        let rate = |step: usize| schedule.learning_rate_at(step, 9);
        let sum = |from: usize, to: usize| (from..to).map(rate).sum::<f64>();
        let found = recording.durations(13).expect("its settings are there");
        assert_close(&name, &found, &[sum(0, 4), sum(4, 8), sum(8, 9)], 1e-12);
        // The state at step 4 is the end of a training of 4 steps.
        let measured = without_dropout(model.clone());
        let shorter = record(4, Some(4)).expect("training works");
        let batch = measured.collate(&train.iter().collect::<Vec<_>>()).expect("the samples fit");
        let of = |model: &EncoderClassifier| {
            let found = gradients(model, &batch, Target::Loss).expect("the model is well-formed");
            joined(&found).values
        };
        let at = recording.model_at(1, measured.clone()).expect("its parameters fit");
        let ended = shorter.apply(measured.clone()).expect("its parameters fit");
        assert_eq!(of(&at), of(&ended), "{name}");
        // AdamW's second moments, from the gradients of the first step: v̂ is their square.
        let single = record(1, Some(2)).expect("training works");
        let start = single.model_at(0, measured.clone()).expect("its parameters fit");
        let metric = single.metric_at(1).expect("it has moments");
        assert_eq!(metric.steps, 1, "{name}");
        let rows = schedule.batches(&train.iter().map(EncoderClassifier::length).collect::<Vec<_>>()).remove(0);
        let first = measured.collate(&rows.iter().map(|&row| &train[row]).collect::<Vec<_>>()).expect("they fit");
        let found = metric.in_blocks(&start, &first).expect("all blocks are trained");
        let mean = gradients(&start, &first, Target::Loss).expect("the model is well-formed").sum();
        let expected: Vec<f64> = joined(&mean).values.iter().map(|g| (g / rows.len() as f64).abs() + 1e-8).collect();
        assert_close(&name, &joined(&found).values, &expected, 1e-4);
        // Before the first step the moments are those of the next state.
        assert_eq!(single.metric_at(0).expect("the next state has some"), metric, "{name}");
        let none = record(100, None).expect("training works");
        assert!(none.metric_at(0).is_err_and(|error| error.to_string().contains("too few steps")), "{name}");
    }
}
