//! One matrix of a batch: its bounds, and how far it has come.

use super::interval::Interval;

/// Below `ε·κ` times this a residual is rounding.
const FLOOR: f64 = 0.125;

pub(super) struct Matrix {
    /// Bounds on the eigenvalues of `A X`.
    pub(super) interval: Interval,
    /// A bound on the condition of `A`.
    condition: f64,
    /// The certificate that is enough: the tolerance, or where rounding begins.
    floor: f64,
    /// The error of the `X` before.
    before: f64,
    state: State,
    /// Whether its certificate is enough: `X` stays as it is, whatever the others of the batch need.
    certified: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Running,
    Done,
    Diverged { step: usize, error: f64 },
}

impl Matrix {
    pub(super) fn new(interval: Interval, condition: f64, tolerance: f64, epsilon: f64) -> Self {
        let floor = tolerance.max((FLOOR * epsilon * condition).min(1e-2));
        Self { interval, condition, floor, before: f64::INFINITY, state: State::Running, certified: false }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.certified || self.state != State::Running
    }

    pub(super) fn certify(&mut self) {
        self.certified |= self.interval.certificate() <= self.floor;
    }

    /// A certificate that was enough for a shorter type is not enough for a longer one.
    pub(super) fn resume(&mut self) {
        self.certified = false;
    }

    /// Notes the error of `X` after a number of steps.
    pub(super) fn judge(&mut self, step: usize, error: f64, stops_at_rounding: bool) {
        let grown = self.has_grown(error);
        let before = std::mem::replace(&mut self.before, error);
        if self.state != State::Running {
            return;
        }
        if grown {
            self.state = State::Diverged { step, error };
        } else if stops_at_rounding && error < 1e-2 && error > 0.5 * before {
            // Convergence squares the error; a small one that no longer halves is rounding.
            self.state = State::Done;
        }
    }

    fn has_grown(&self, error: f64) -> bool {
        !error.is_finite() || (error > 2.0 * self.before && error > 1.0)
    }

    /// The step and the error at which it diverged, given those of the last `X`.
    pub(super) fn divergence(&self, step: usize, error: f64) -> Option<(usize, f64)> {
        match self.state {
            State::Diverged { step, error } => Some((step, error)),
            State::Running | State::Done => self.has_grown(error).then_some((step, error)),
        }
    }

    /// The rounding `ε · ||A|| · ||X||` of a type: the largest eigenvalue of `X` belongs to the smallest of `A`.
    pub(super) fn rounding(&self, epsilon: f64) -> f64 {
        epsilon * self.interval.lower * self.condition
    }

    /// Adds the rounding of a type to the interval.
    pub(super) fn widen(&mut self, epsilon: f64) {
        let slack = self.rounding(epsilon).min(0.5);
        let Interval { lower, upper } = self.interval;
        self.interval = Interval { lower: lower * (1.0 - slack), upper: upper + slack };
    }
}
