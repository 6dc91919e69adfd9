//! The inverse of a damped matrix `[d, d]` in f32: Cholesky on the host, and every hyperpower order on the device.
//!
//! The matrix is that of `d/4` random samples whose columns decay as `1/√j`, damped to the condition in the name. Before
//! a case is timed its steps, products, certificate and the error reached are printed: `||I − A X||_F / √d`, with the
//! product in f64 where the device has it.
//!
//! `HYPERINF_BENCH_SIZES` names the sizes, `512,1024,2048,4096` if unset, and `HYPERINF_BENCH_CONDITIONS` the conditions,
//! `1e2,1e4,1e6`; the target residual is 1e-5.

use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use faer::linalg::solvers::{DenseSolveCore, Llt};
use faer::{Mat, MatRef, Side};
use hyperinf::curvature::{Curvature, Dense};
use hyperinf::solvers::{Exact, Hyperpower, HyperpowerStart, MatrixInverse, Order, Solver, SpectralSolver};
use hyperinf_benches::device;
use hyperinf_benches::matrices::{Damped, damped, error};

const TOLERANCE: f64 = 1e-5;

fn inverse(c: &mut Criterion) {
    let (name, device) = device();
    let sizes = std::env::var("HYPERINF_BENCH_SIZES").unwrap_or_else(|_| "512,1024,2048,4096".into());
    let conditions = std::env::var("HYPERINF_BENCH_CONDITIONS").unwrap_or_else(|_| "1e2,1e4,1e6".into());
    let number = |text: &str| text.parse::<f64>().expect("HYPERINF_BENCH_CONDITIONS is a list of numbers");
    let conditions: Vec<f64> = conditions.split(',').map(number).collect();
    for d in sizes.split(',').map(|d| d.parse::<usize>().expect("HYPERINF_BENCH_SIZES is a list of numbers")) {
        let mut group = c.benchmark_group(format!("inverse/{name}/{d}"));
        group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(2));
        for &condition in &conditions {
            let problem = damped(d, condition, &device);
            cholesky(&mut group, &problem, condition);
            for order in Order::ALL {
                for start in [HyperpowerStart::Chebyshev, HyperpowerStart::Unscaled] {
                    let solver = Hyperpower { order, start, tolerance: TOLERANCE, ..Hyperpower::default() };
                    hyperpower(&mut group, &problem, condition, &solver);
                }
            }
            hyperpower(&mut group, &problem, condition, &Hyperpower::authors());
            let named: [(&str, &dyn Solver); 2] = [("exact, f64", &Exact), ("spectral, f64", &SpectralSolver)];
            for (label, solver) in named {
                let h = Curvature::from(Dense { matrix: problem.a.clone() });
                let prepare = || solver.prepare(&h, problem.lower).map(drop);
                group.bench_function(BenchmarkId::new(label, format!("{condition:.0e}")), |b| b.iter(prepare));
            }
        }
        group.finish();
    }
    for d in [64, 128, 256, 512] {
        many(c, &name, d, &device);
    }
}

/// Sixteen blocks one by one and together.
fn many(c: &mut Criterion, name: &str, d: usize, device: &Device) {
    let mut group = c.benchmark_group(format!("inverse/{name}/16x{d}"));
    group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(1));
    let problem = damped(d, 1e3, device);
    let blocks: Vec<Curvature> = (0..16).map(|_| Curvature::from(Dense { matrix: problem.a.clone() })).collect();
    let pairs: Vec<(&Curvature, f64)> = blocks.iter().map(|h| (h, problem.lower)).collect();
    let solver = Hyperpower::of_order(Order::Nine);
    let alone = || pairs.iter().map(|(h, lambda)| solver.prepare(h, *lambda).map(drop)).collect::<Vec<_>>();
    group.bench_function("one by one", |b| b.iter(alone));
    group.bench_function("prepare_many", |b| b.iter(|| solver.prepare_many(&pairs).len()));
    group.finish();
}

/// Factorisation and inversion in f32 by faer on the host; for a device with separate memory both transfers are counted.
fn cholesky(group: &mut BenchmarkGroup<'_, WallTime>, problem: &Damped, condition: f64) {
    let (d, device) = (problem.a.dims()[0], problem.a.device());
    let copied = device.memory_pool_usage().is_some();
    let read = || problem.a.to_data().try_into_vec::<f32>().expect("the matrix is of f32");
    let upload = |x: &Mat<f32>| {
        let values: Vec<f32> = x.col_iter().flat_map(|column| column.iter().copied()).collect();
        Tensor::<2>::from_data(TensorData::new(values, [d, d]), &device)
    };
    let values = read();
    let invert = || -> Mat<f32> {
        let again = copied.then(read);
        let matrix = MatRef::from_column_major_slice(again.as_deref().unwrap_or(&values), d, d);
        let x = Llt::new(matrix, Side::Lower).expect("the matrix is positive definite").inverse();
        if copied {
            drop(upload(&x));
            device.sync().expect("the device works");
        }
        x
    };
    eprintln!("cholesky, condition {condition:.0e}: error {:.1e}", error(&problem.a, upload(&invert())));
    group.bench_function(BenchmarkId::new("cholesky", format!("{condition:.0e}")), |b| b.iter(invert));
}

fn hyperpower(group: &mut BenchmarkGroup<'_, WallTime>, problem: &Damped, condition: f64, solver: &Hyperpower) {
    let invert = || solver.invert(problem.a.clone(), problem.lower, problem.upper);
    let label = solver.name();
    match invert() {
        Ok(MatrixInverse { x, steps, products, certificate, .. }) => eprintln!(
            "{label}, condition {condition:.0e}: {steps} steps, {products} products, certificate {certificate:.1e}, error {:.1e}",
            error(&problem.a, x)
        ),
        Err(e) => return eprintln!("{label}, condition {condition:.0e}: {e}"),
    }
    // The iteration reads its last error back, which waits for the device.
    group.bench_function(BenchmarkId::new(label, format!("{condition:.0e}")), |b| b.iter(invert));
}

criterion_group!(benches, inverse);
criterion_main!(benches);
