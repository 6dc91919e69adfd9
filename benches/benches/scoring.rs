//! Scores from stored gradients: 24 blocks × 1000 samples × 8 × 1024, one mean query, 786 MB of f32; and 448 blocks ×
//! 100 samples of LoRA of rank 1 and 8 (103 and 826 MB), where a block is small.
//!
//! Before a method is timed its error is printed: Spearman and relative difference with the exact scores of the same
//! structure, and the residual.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hyperinf::curvature::Storage;
use hyperinf::eval::spearman;
use hyperinf::scoring::{CurvatureFrom, Gfim, Method, Options, QueryMode, attribute};
use hyperinf::solvers::{Exact, Hyperpower, Lissa};
use hyperinf_benches::{device, random_gradients};

const BLOCKS: usize = 24;
const SAMPLES: usize = 1000;
const ROWS: usize = 8;
const COLS: usize = 1024;

fn scoring(c: &mut Criterion) {
    let (name, device) = device();
    device.seed(0);
    let train = random_gradients(BLOCKS, SAMPLES, ROWS, COLS, &device);
    let query = random_gradients(BLOCKS, 1, ROWS, COLS, &device);
    let named = |name| (name, Options::named(name).expect("a named method"));
    let ten_steps = Lissa { max_steps: 10, ..Lissa::default() };
    let own = |method| Options { method, ..Options::default() };
    let cases = [
        named("identity"),
        named("cosine"),
        named("datainf"),
        ("lissa, 10 steps", own(Method::inverse(Storage::Samples, ten_steps))),
        named("hyperinf"),
        ("hyperinf by Cholesky", own(Method::inverse(Gfim::default().storage(), Exact))),
        ("hyperinf by Schulz", own(Method::inverse(Gfim::default().storage(), Hyperpower::default()))),
        named("hyperinf-authors"),
        named("exact"),
        named("cg"),
    ];
    let run = |options: &Options| {
        let options = Options { query: QueryMode::Mean, ..options.clone() };
        attribute(&train, &query, CurvatureFrom::Training, &options).expect("random gradients are good data")
    };

    let mut group = c.benchmark_group(format!("scoring/{name}/{BLOCKS}x{SAMPLES}x{ROWS}x{COLS}"));
    group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Bytes((BLOCKS * SAMPLES * ROWS * COLS * 4) as u64));
    let exact = run(&cases.iter().find(|(name, _)| *name == "exact").expect("exact is a case").1);
    for (name, options) in &cases {
        let found = run(options);
        let (found_row, exact_row) = (&found.scores.rows[0], &exact.scores.rows[0]);
        let rank = spearman(found_row, exact_row).expect("scores vary");
        let norm = |row: &[f64]| row.iter().map(|s| s * s).sum::<f64>().sqrt();
        let gap: Vec<f64> = found_row.iter().zip(exact_row).map(|(a, b)| a - b).collect();
        let gap = norm(&gap) / norm(exact_row);
        let steps = found.blocks.iter().map(|b| b.iterations).max().unwrap_or(0);
        let residual = found.residual().map_or("none".into(), |r| format!("{r:.1e}"));
        eprintln!("{name}: residual {residual}, steps {steps}; from exact: Spearman {rank:.3}, relative {gap:.1e}");
        group.bench_function(BenchmarkId::from_parameter(name), |b| b.iter(|| run(options)));
    }
    group.finish();
}

/// Many small blocks: as fast per byte as few large ones, unless a block costs something by itself.
fn small_blocks(c: &mut Criterion) {
    const SAMPLES: usize = 100;
    let (name, device) = device();
    for rank in [1, 8] {
        device.seed(0);
        let train = random_gradients(448, SAMPLES, rank, 576, &device);
        let query = random_gradients(448, 1, rank, 576, &device);
        let mut group = c.benchmark_group(format!("scoring/{name}/448x{SAMPLES}x{rank}x576"));
        group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(2));
        group.throughput(Throughput::Bytes((448 * SAMPLES * rank * 576 * 4) as u64));
        for method in ["identity", "cosine", "datainf", "exact"] {
            let options = Options { query: QueryMode::Mean, ..Options::named(method).expect("a named method") };
            group.bench_function(BenchmarkId::from_parameter(method), |b| {
                b.iter(|| {
                    attribute(&train, &query, CurvatureFrom::Training, &options).expect("good data").scores.rows[0][0]
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, scoring, small_blocks);
criterion_main!(benches);
