//! Conjugate gradients, alone and in blocks, with and without a preconditioner, against the exact dual and LiSSA: one
//! block of `n` held samples with `D` parameters, `q` queries, damping 0.1 relative. Preparation is a part of the time.
//!
//! Before a solver is timed its residual, its steps and the largest difference from the exact rows are printed.

use std::time::Duration;

use burn::tensor::{Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hyperinf::curvature::{Curvature, Damping, Samples};
use hyperinf::linalg::{host, scalars};
use hyperinf::solvers::{BlockCg, Cg, Exact, Lissa, Preconditioner, Solution, Solver};
use hyperinf_benches::{device, random_gradients};

const SIZES: [(usize, usize); 3] = [(200, 1024), (1000, 1024), (1000, 8192)];
const QUERIES: [usize; 3] = [1, 16, 128];
const ROWS: usize = 8;

fn krylov(c: &mut Criterion) {
    let (name, device) = device();
    device.seed(0);
    let preconditioner = Preconditioner::Nystrom { rank: 64, seed: 0 };
    let solvers: [(&str, Box<dyn Solver>); 6] = [
        ("exact", Box::new(Exact)),
        ("cg", Box::new(Cg::default())),
        ("cg, nystrom 64", Box::new(Cg { preconditioner, ..Cg::default() })),
        ("block-cg", Box::new(BlockCg::default())),
        ("block-cg, nystrom 64", Box::new(BlockCg { preconditioner, ..BlockCg::default() })),
        ("lissa", Box::new(Lissa::default())),
    ];
    for (n, d) in SIZES {
        let samples: Tensor<2> = random_gradients(1, n, ROWS, d / ROWS, &device).blocks.remove(0).flatten(1, 2);
        let mean_square = norms(&samples).iter().map(|norm| norm * norm).sum::<f64>() / (n * d) as f64;
        let lambda = Damping::default().lambda(mean_square);
        let h = Curvature::from(Samples { rows: samples });
        for q in QUERIES {
            let v = Tensor::<2>::random([q, d], Distribution::Normal(0.0, 1.0), &device);
            let run = |solver: &dyn Solver| -> Solution {
                let inverse = solver.prepare(&h, lambda).expect("random gradients are good data");
                inverse.apply(v.clone()).expect("random gradients are good data")
            };
            let mut group = c.benchmark_group(format!("krylov/{name}/n={n}/D={d}/q={q}"));
            group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(1));
            let exact = run(&Exact).x;
            for (label, solver) in &solvers {
                let found = run(solver.as_ref());
                let (error, size) = (norms(&(found.x.clone() - exact.clone())), norms(&exact));
                let error = error.iter().zip(size).map(|(error, size)| error / size).fold(0.0, f64::max);
                let (residual, steps) = (found.residual(), found.iterations);
                eprintln!("n={n} D={d} q={q} {label}: residual {residual:.1e}, steps {steps}; from exact {error:.1e}");
                group.bench_function(BenchmarkId::from_parameter(label), |b| {
                    // Reading the answer back waits for the device.
                    b.iter(|| host(run(solver.as_ref()).x).expect("the device works"));
                });
            }
            group.finish();
        }
    }
}

/// The length of each row.
fn norms(rows: &Tensor<2>) -> Vec<f64> {
    let squares = scalars(rows.clone(), rows.clone()).expect("the device works");
    squares.into_iter().map(f64::sqrt).collect()
}

criterion_group!(benches, krylov);
criterion_main!(benches);
