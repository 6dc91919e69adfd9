use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients as Backward, Tensor, TensorData};
use hyperinf_gradients::{GradientError, Tape, Task};

use super::lbfgs::minimise;
use crate::TruthError;

/// The proximal Bregman response function: how a trained model changes if one sample loses weight and the model stays
/// as close to itself as possible.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `lambda` | – | λ of the proximity, the *absolute* damping of the scores compared with it | finite, > 0 |
/// | `weight` | 1 | the share of its weight 1/n that the sample loses; negative to add weight | finite, not 0 |
/// | `tolerance` | 1e-6 | norm of the gradient over that at the start at which the minimisation ends | > 0 |
/// | `max_steps` | 1000 | maximum number of steps | ≥ 1 |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proximal {
    /// λ, in units of squared gradients, the same for all parameters.
    pub lambda: f64,
    /// The share of its weight that the sample loses.
    pub weight: f64,
    /// The relative gradient norm at which the minimisation ends.
    pub tolerance: f64,
    /// The maximum number of steps.
    pub max_steps: usize,
}

/// The responses to some samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Responses {
    /// `(measure(θ*) − measure(θ_s)) n / w` for each query and sample, `[q][m]`, where w is the weight lost: on the
    /// scale of an influence score, positive = helpful.
    pub effects: Vec<Vec<f64>>,
    /// For each sample the final norm of the gradient over that at the start; above the tolerance if rounding or the
    /// maximum number of steps stopped the minimisation.
    pub residuals: Vec<f64>,
    /// The steps of each minimisation.
    pub steps: Vec<usize>,
}

impl Proximal {
    /// A response function with this λ, all else at its default.
    pub fn new(lambda: f64) -> Self {
        Self { lambda, weight: 1.0, tolerance: 1e-6, max_steps: 1000 }
    }

    /// The responses of every query to each of some training samples (Bae et al. 2022, section 4): from the trained
    /// `θ_s`,
    ///
    /// ```text
    /// θ* = argmin (1/n) Σ_i D_i(o_i(θ), o_i(θ_s)) − (w/n) L_z(θ) + λ/2 ||θ − θ_s||²
    /// D(o, o_s) = L(o) − L(o_s) − ⟨∇L(o_s), o − o_s⟩
    /// ```
    ///
    /// over all trained parameters. The Bregman distance D of the outputs is 0 at `θ_s`, where its Hessian is the
    /// Gauss-Newton matrix. To first order in `w` the response is therefore the influence with that matrix and damping
    /// λ, whether or not the training has converged.
    ///
    /// `samples` are indices over all batches, in order. Everything is computed in the model's own type: in f32
    /// rounding hides small responses.
    ///
    /// # Errors
    ///
    /// If a setting is out of range, there are no batches, a sample is not in them, no trained parameter reaches the
    /// loss, or a minimisation ends where the gradient is not finite or not smaller than at the start: λ is then too
    /// small to keep the model close.
    pub fn responses<M: Module + Task>(
        &self,
        model: &M,
        train: &[<M as Task>::Batch],
        queries: &[<M as Task>::Batch],
        samples: &[usize],
    ) -> Result<Responses, TruthError> {
        self.validate()?;
        let model = model.clone().train();
        let anchors = train.iter().map(|batch| Anchor::new(&model, batch)).collect::<Result<Vec<_>, _>>()?;
        let n: usize = anchors.iter().map(|anchor| anchor.samples).sum();
        if let Some(index) = samples.iter().position(|&sample| sample >= n) {
            return Err(TruthError::Subset { index, value: samples[index], samples: n });
        }
        let start = read(&model, None)?;
        let before = measures(&model, queries)?;
        let mut found = Responses { effects: vec![Vec::new(); before.len()], residuals: Vec::new(), steps: Vec::new() };
        for &sample in samples {
            let minimum = minimise(start.clone(), self.tolerance, self.max_steps, |point| {
                self.objective(&model, train, &anchors, sample, &start, point)
            })?;
            if minimum.residual.is_nan() || minimum.residual >= 1.0 {
                return Err(TruthError::Diverged { sample, lambda: self.lambda, residual: minimum.residual });
            }
            found.residuals.push(minimum.residual);
            found.steps.push(minimum.steps);
            let after = measures(&write(&model, &minimum.point), queries)?;
            let scale = n as f64 / self.weight;
            for ((effects, after), before) in found.effects.iter_mut().zip(after).zip(&before) {
                effects.push((after - before) * scale);
            }
        }
        Ok(found)
    }

    fn validate(&self) -> Result<(), TruthError> {
        let Self { lambda, weight, tolerance, max_steps } = *self;
        let checks = [
            ("lambda", lambda, lambda > 0.0 && lambda.is_finite(), "positive and finite"),
            ("weight", weight, weight != 0.0 && weight.is_finite(), "finite and not 0"),
            ("tolerance", tolerance, tolerance > 0.0, "positive"),
            ("max_steps", max_steps as f64, max_steps > 0, "at least 1"),
        ];
        match checks.into_iter().find(|(_, _, valid, _)| !valid) {
            None => Ok(()),
            Some((name, value, _, expected)) => Err(TruthError::Setting { name, expected: expected.into(), value }),
        }
    }

    /// The objective and its gradient at a point.
    fn objective<M: Module + Task>(
        &self,
        model: &M,
        train: &[<M as Task>::Batch],
        anchors: &[Anchor],
        sample: usize,
        start: &[f64],
        point: &[f64],
    ) -> Result<(f64, Vec<f64>), TruthError> {
        let model = write(model, point);
        let n: usize = anchors.iter().map(|anchor| anchor.samples).sum();
        let (mut value, mut gradient, mut seen) = (0.0, vec![0.0; point.len()], 0);
        for (batch, anchor) in train.iter().zip(anchors) {
            let outputs = Task::forward(&model, batch, &mut Tape::off());
            let losses = model.loss(outputs.clone(), batch);
            let change = losses.clone() - anchor.losses.clone();
            let linear = (anchor.slopes.clone() * (outputs - anchor.outputs.clone())).sum();
            let mut total = change.sum() - linear;
            if (seen..seen + anchor.samples).contains(&sample) {
                let own = losses.narrow(0, sample - seen, 1);
                total = total - own.mul_scalar(self.weight);
            }
            seen += anchor.samples;
            let total = total.div_scalar(n as f64);
            value += scalar(total.clone())?;
            let mut backward = total.backward();
            let part = read(&model, Some(&mut backward))?;
            gradient.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        for ((gradient, x), s) in gradient.iter_mut().zip(point).zip(start) {
            *gradient += self.lambda * (x - s);
            value += 0.5 * self.lambda * (x - s).powi(2);
        }
        match value.is_finite() {
            true => Ok((value, gradient)),
            // The step was too long: the line search shortens it.
            false => Ok((f64::INFINITY, gradient)),
        }
    }
}

/// The trained model's outputs for a batch, with the losses and their slopes there.
struct Anchor {
    samples: usize,
    outputs: Tensor<2>,
    losses: Tensor<1>,
    slopes: Tensor<2>,
}

impl Anchor {
    fn new<M: Module + Task>(model: &M, batch: &<M as Task>::Batch) -> Result<Self, TruthError> {
        let outputs = Task::forward(model, batch, &mut Tape::off()).without_autodiff();
        let leaf = outputs.clone().autodiff().require_grad();
        let losses = model.loss(leaf.clone(), batch);
        if !losses.is_tracked() {
            return Err(GradientError::Empty { what: "outputs that reach the loss" }.into());
        }
        let mut backward = losses.clone().sum().backward();
        let slopes =
            leaf.grad_remove(&mut backward).ok_or(GradientError::Empty { what: "outputs that reach the loss" })?;
        let samples = losses.dims()[0];
        Ok(Self { samples, outputs, losses: losses.without_autodiff(), slopes })
    }
}

fn measures<M: Module + Task>(model: &M, queries: &[<M as Task>::Batch]) -> Result<Vec<f64>, TruthError> {
    let mut found = Vec::new();
    for batch in queries {
        let outputs = Task::forward(model, batch, &mut Tape::off()).without_autodiff();
        found.extend(host(model.measure(outputs, batch))?);
    }
    Ok(found)
}

/// All trained parameters, or their gradients, concatenated.
fn read<M: Module>(model: &M, from: Option<&mut Backward>) -> Result<Vec<f64>, TruthError> {
    let mut reader = Reader { from, values: Ok(Vec::new()) };
    model.visit(&mut reader);
    let values = reader.values?;
    if values.is_empty() {
        return Err(GradientError::Empty { what: "parameters that require a gradient" }.into());
    }
    Ok(values)
}

struct Reader<'a> {
    from: Option<&'a mut Backward>,
    values: Result<Vec<f64>, TruthError>,
}

impl ModuleVisitor for Reader<'_> {
    fn visit_float<const R: usize>(&mut self, param: &Param<Tensor<R>>) {
        let value = param.val();
        if !value.is_require_grad() {
            return;
        }
        let wanted = match &mut self.from {
            None => value.without_autodiff(),
            Some(from) => value.grad_remove(from).unwrap_or_else(|| value.without_autodiff().zeros_like()),
        };
        if let Ok(values) = &mut self.values {
            match host(wanted) {
                Ok(more) => values.extend(more),
                Err(error) => self.values = Err(error),
            }
        }
    }
}

/// The model with its trained parameters replaced.
fn write<M: Module>(model: &M, values: &[f64]) -> M {
    model.clone().map(&mut Writer { values })
}

struct Writer<'a> {
    values: &'a [f64],
}

impl ModuleMapper for Writer<'_> {
    fn map_float<const R: usize>(&mut self, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        if !param.val().is_require_grad() {
            return param;
        }
        param.map(|value| {
            let value = value.inner();
            let (own, rest) = self.values.split_at(value.shape().num_elements());
            self.values = rest;
            let data = TensorData::new(own.to_vec(), value.shape());
            Tensor::from_inner(Tensor::from_data(data, (&value.device(), value.dtype()))).require_grad()
        })
    }
}

fn scalar(value: Tensor<1>) -> Result<f64, TruthError> {
    let values = host(value.without_autodiff())?;
    values.first().copied().ok_or_else(|| GradientError::Empty { what: "losses in a batch" }.into())
}

fn host<const R: usize>(value: Tensor<R>) -> Result<Vec<f64>, TruthError> {
    Ok(hyperinf_linalg::host(value).map_err(GradientError::from)?)
}
