//! What each way to invert costs, in seconds: the one place for measured constants.

use std::fmt;

use burn::tensor::{DType, Device};
use hyperinf_linalg::{epsilon, has_own_memory};

/// Above this product of rounding and condition an iteration runs in f64.
const ROUNDING: f64 = 0.03;
/// Refinement rounds that a right-hand side usually takes after an iteration.
const ROUNDS: f64 = 2.0;

/// Flop and bytes per second, and seconds per launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// Products of matrices in f32 and f64, on the device.
    product_f32: f64,
    product_f64: f64,
    /// Reading and writing memory, on the device.
    memory: f64,
    /// Cholesky in f64 and its triangular solves with many right-hand sides, on the host.
    factor: f64,
    solve: f64,
    /// A symmetric eigendecomposition, for a count of `9 k³`, on the host.
    eigen: f64,
    /// To the host and back; infinite where the device is the host.
    transfer: f64,
    /// A launch and its way back.
    latency: f64,
}

/// Measured on two cores of a Zen 4 processor on 22 November 2026 at sizes from 256 to 2048; see `docs/benchmarks.md`, "Inverses".
const PROCESSOR: Machine = Machine {
    product_f32: 175e9,
    product_f64: 87e9,
    memory: 10e9,
    factor: 30e9,
    solve: 45e9,
    eigen: 45e9,
    transfer: f64::INFINITY,
    latency: 0.0,
};

/// A device with memory of its own: rates that a card of any recent kind exceeds, not measured. The host's are those
/// of the processor.
const CARD: Machine =
    Machine { product_f32: 5e12, product_f64: 150e9, memory: 300e9, transfer: 5e9, latency: 20e-6, ..PROCESSOR };

impl Machine {
    /// The rates of a device.
    pub(super) fn of(device: &Device) -> Self {
        if has_own_memory(device) { CARD } else { PROCESSOR }
    }
}

/// The iteration that could be taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Iteration {
    pub(super) products: usize,
    pub(super) condition: f64,
    pub(super) dtype: DType,
}

/// Seconds of each way for all dampings and right-hand sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Costs {
    pub(super) cholesky: f64,
    pub(super) spectral: f64,
    /// With its products; none where there is no matrix to iterate on.
    hyperpower: Option<(f64, usize)>,
}

impl Costs {
    /// For a matrix of a size, right-hand sides of its length and a number of dampings.
    pub(super) fn of(
        machine: Machine,
        size: usize,
        rows: usize,
        dampings: usize,
        iteration: Option<Iteration>,
    ) -> Self {
        let (k, rows, dampings) = (size as f64, rows as f64, dampings as f64);
        let square = k * k;
        // The matrix once, right-hand sides there and back for every damping.
        let ways = (4.0 * square + 8.0 * rows * k * dampings) / machine.transfer;
        // Two triangular solves and the residual.
        let solves = rows * 4.0 * square / machine.solve;
        let cholesky = ways + dampings * (square * k / 3.0 / machine.factor + solves);
        let rotations = rows * 6.0 * square / machine.product_f64;
        let spectral = ways + 9.0 * square * k / machine.eigen + dampings * rotations;
        let hyperpower = iteration.map(|iteration| {
            let long = iteration.dtype == DType::F64 || epsilon(iteration.dtype) * iteration.condition > ROUNDING;
            let rate = if long { machine.product_f64 } else { machine.product_f32 };
            let products = iteration.products as f64;
            // Between two products about four passes over three matrices.
            let passes = products * 4.0 * 12.0 * square / machine.memory;
            let launches = products * 6.0 * machine.latency;
            let refined = rows * (1.0 + ROUNDS) * 4.0 * square / machine.product_f64;
            let seconds = products * 2.0 * square * k / rate + passes + launches + refined;
            (dampings * seconds, iteration.products)
        });
        Self { cholesky, spectral, hyperpower }
    }

    /// The name of the cheapest.
    pub(super) fn cheapest(&self) -> &'static str {
        let iteration = self.hyperpower.map_or(f64::INFINITY, |(seconds, _)| seconds);
        if iteration < self.cholesky.min(self.spectral) {
            "hyperpower-9"
        } else if self.spectral < self.cholesky {
            "spectral"
        } else {
            "exact"
        }
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "estimated {:.1e} s by Cholesky, {:.1e} s by eigenvectors", self.cholesky, self.spectral)?;
        match self.hyperpower {
            Some((seconds, products)) => write!(f, ", {seconds:.1e} s by {products} products (hyperpower-9)"),
            None => Ok(()),
        }
    }
}
