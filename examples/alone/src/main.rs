//! Curvature and solvers à la carte: no front door, no model, and neither Burn nor another crate in the manifest.
//! `cargo run --release -p alone`.
//!
//! Everything that signatures need is re-exported by the crate that has them.

use std::error::Error;

use hyperinf_curvature::burn::tensor::{Device, Distribution, Tensor};
use hyperinf_curvature::hyperinf_gradients::Block;
use hyperinf_curvature::{Accumulator, Damping, Scale, Side, Storage};
use hyperinf_solvers::hyperinf_linalg::ReadError;
use hyperinf_solvers::{Cg, Solver, largest_eigenvalue, solver, spectral_bound};

/// The largest eigenvalue of a block's curvature with its bound, and the residuals of two solvers.
fn solve(device: &Device) -> Result<(f64, f64, Vec<f64>), Box<dyn Error>> {
    device.seed(1);
    let normal = |shape: [usize; 3]| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), device);

    // Gradients of 64 samples of a layer of 6 inputs and 4 outputs, in two batches.
    let block = Block::new("layer", 6, 4);
    let mut sum = Accumulator::new(block, Storage::OneSided { side: Side::Short, scale: Scale::Mean })?;
    sum.add(normal([32, 6, 4]))?;
    sum.add(normal([32, 6, 4]))?;
    let found = sum.finish()?;
    let lambda = Damping::default().lambda(found.mean_square);

    let queries: Tensor<2> = normal([3, 6, 4]).flatten(1, 2);
    let bounds = || -> Result<_, ReadError> {
        Ok((largest_eigenvalue(&found.curvature, &queries, 100)?, spectral_bound(&found.curvature, &queries)?))
    };
    let (largest, bound) = bounds()?;
    let named = solver("exact").expect("it is in the registry");
    let mut residuals = Vec::new();
    for solver in [&Cg::default() as &dyn Solver, named.as_ref()] {
        residuals.push(solver.prepare(&found.curvature, lambda)?.apply(queries.clone())?.residual());
    }
    Ok((largest, bound, residuals))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (largest, bound, residuals) = solve(&Device::flex())?;
    println!("largest eigenvalue {largest:.3}, at most {bound:.3}; residuals {residuals:.1?}");
    Ok(())
}

#[test]
fn two_crates_are_enough() {
    let (largest, bound, residuals) = solve(&Device::flex()).expect("the numbers are good");
    assert!(0.0 < largest && largest <= bound, "{largest} and {bound}");
    assert!(residuals.len() == 2 && residuals.iter().all(|residual| *residual < 1e-4), "{residuals:?}");
}
