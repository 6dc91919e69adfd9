use std::f64::consts::FRAC_PI_2;

use crate::ModelError;
use crate::error::check;

/// How `β_t` grows from the first timestep to the last, `T` of them; diffusers' `beta_schedule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BetaSchedule {
    /// `linear`: equally spaced from `β_first` to `β_last`.
    Linear,
    /// `scaled_linear`: the roots are equally spaced.
    ScaledLinear,
    /// `squaredcos_cap_v2`: `1 − f((t + 1)/T) / f(t/T)`, at most 0.999, with `f(s) = cos²(π/2 · (s + 0.008)/1.008)`
    /// (Nichol & Dhariwal 2021). Both ends of `β` are ignored.
    SquaredCosine,
}

/// The noise of each timestep, as diffusers' schedulers define it.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `timesteps` | 1000 | `T` | ≥ 1 |
/// | `betas` | `ScaledLinear` | how `β` grows | |
/// | `beta_first` | 0.00085 | `β` of the first timestep | 0 < β < 1 |
/// | `beta_last` | 0.012 | `β` of the last timestep | 0 < β < 1 |
/// | `zero_snr` | false | whether the last timestep is noise alone (Lin et al. 2023, algorithm 1) | |
///
/// The default is Stable Diffusion's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseSchedule {
    /// `T`.
    pub timesteps: usize,
    /// How `β` grows.
    pub betas: BetaSchedule,
    /// `β` of the first timestep.
    pub beta_first: f64,
    /// `β` of the last timestep.
    pub beta_last: f64,
    /// Whether `√ᾱ` is shifted and scaled so that it is 0 at the last timestep.
    pub zero_snr: bool,
}

impl Default for NoiseSchedule {
    fn default() -> Self {
        let betas = BetaSchedule::ScaledLinear;
        Self { timesteps: 1000, betas, beta_first: 0.00085, beta_last: 0.012, zero_snr: false }
    }
}

impl NoiseSchedule {
    /// Fails if a value is outside its range.
    ///
    /// # Errors
    ///
    /// [`ModelError::Setting`] with the first such value.
    pub fn validate(&self) -> Result<(), ModelError> {
        check(self.timesteps >= 1, "timesteps", self.timesteps as f64, "at least 1")?;
        let inside = |beta: f64| beta > 0.0 && beta < 1.0;
        check(inside(self.beta_first), "beta_first", self.beta_first, "between 0 and 1")?;
        check(inside(self.beta_last), "beta_last", self.beta_last, "between 0 and 1")
    }

    /// `ᾱ_t = Π_{s ≤ t} (1 − β_s)` of each timestep, `T` values.
    pub fn signal(&self) -> Vec<f64> {
        let mut product = 1.0;
        let mut signal: Vec<f64> = (0..self.timesteps)
            .map(|t| {
                product *= 1.0 - self.beta(t);
                product
            })
            .collect();
        if let (true, &[first, .., last]) = (self.zero_snr, signal.as_slice()) {
            let (first, last) = (first.sqrt(), last.sqrt());
            for value in &mut signal {
                *value = ((value.sqrt() - last) * first / (first - last)).powi(2);
            }
        }
        signal
    }

    fn beta(&self, t: usize) -> f64 {
        let total = self.timesteps as f64;
        let share = if self.timesteps > 1 { t as f64 / (total - 1.0) } else { 0.0 };
        let between = |first: f64, last: f64| first + (last - first) * share;
        match self.betas {
            BetaSchedule::Linear => between(self.beta_first, self.beta_last),
            BetaSchedule::ScaledLinear => between(self.beta_first.sqrt(), self.beta_last.sqrt()).powi(2),
            BetaSchedule::SquaredCosine => {
                let level = |s: f64| ((s + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
                (1.0 - level((t + 1) as f64 / total) / level(t as f64 / total)).min(0.999)
            }
        }
    }
}
