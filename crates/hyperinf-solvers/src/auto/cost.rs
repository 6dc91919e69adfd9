//! The estimated seconds of each way to invert: the one place for measured constants.

use burn::tensor::{DType, Device};
use hyperinf_linalg::{epsilon, has_own_memory};

use super::{Estimate, IterationEstimate, Way};

/// Above this product of rounding and condition an iteration runs in f64.
const ROUNDING: f64 = 0.03;
/// Refinement rounds that a right-hand side usually takes after an iteration.
const ROUNDS: f64 = 2.0;

/// Rates of a machine: flop and bytes per second, seconds per launch.
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

/// Measured on two cores of a Zen 4 processor on 22 November 2026 at sizes from 256 to 2048; see
/// `docs/benchmarks.md`, "Inverses".
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

/// A device with separate memory: rates that a card of any recent kind exceeds, not measured. The host's are those
/// of the processor.
const CARD: Machine =
    Machine { product_f32: 5e12, product_f64: 150e9, memory: 300e9, transfer: 5e9, latency: 20e-6, ..PROCESSOR };

impl Machine {
    /// The rates of a device.
    pub(super) fn of(device: &Device) -> Self {
        if has_own_memory(device) { CARD } else { PROCESSOR }
    }
}

/// A hyperpower iteration on one matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Iteration {
    pub(super) products: usize,
    pub(super) condition: f64,
    pub(super) dtype: DType,
}

/// A block to be inverted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workload {
    /// The side of the matrix.
    pub(super) size: usize,
    /// Rows of this length.
    pub(super) right_hand_sides: usize,
    pub(super) dampings: usize,
    /// `None` where there is no matrix to iterate on.
    pub(super) iteration: Option<Iteration>,
}

impl Workload {
    /// Seconds of each way for all dampings and right-hand sides.
    pub(super) fn estimate(self, machine: Machine) -> Estimate {
        let (k, rows, dampings) = (self.size as f64, self.right_hand_sides as f64, self.dampings as f64);
        let square = k * k;
        // The matrix once, right-hand sides to the host and back for every damping.
        let transfers = (4.0 * square + 8.0 * rows * k * dampings) / machine.transfer;
        // Two triangular solves and the residual.
        let solves = rows * 4.0 * square / machine.solve;
        let cholesky = transfers + dampings * (square * k / 3.0 / machine.factor + solves);
        let rotations = rows * 6.0 * square / machine.product_f64;
        let spectral = transfers + 9.0 * square * k / machine.eigen + dampings * rotations;
        let hyperpower = self.iteration.map(|iteration| {
            let long = iteration.dtype == DType::F64 || epsilon(iteration.dtype) * iteration.condition > ROUNDING;
            let rate = if long { machine.product_f64 } else { machine.product_f32 };
            let products = iteration.products as f64;
            // Between two products about four passes over three matrices.
            let passes = products * 4.0 * 12.0 * square / machine.memory;
            let launches = products * 6.0 * machine.latency;
            let refined = rows * (1.0 + ROUNDS) * 4.0 * square / machine.product_f64;
            let seconds = products * 2.0 * square * k / rate + passes + launches + refined;
            IterationEstimate { seconds: dampings * seconds, products: iteration.products }
        });
        Estimate { cholesky, spectral, hyperpower }
    }
}

/// The way with the lowest estimate.
pub(super) fn cheapest(estimate: &Estimate) -> Way {
    let iteration = estimate.hyperpower.map_or(f64::INFINITY, |iteration| iteration.seconds);
    if iteration < estimate.cholesky.min(estimate.spectral) {
        Way::Hyperpower
    } else if estimate.spectral < estimate.cholesky {
        Way::Spectral
    } else {
        Way::Cholesky
    }
}
