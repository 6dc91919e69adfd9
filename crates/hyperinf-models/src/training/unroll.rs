//! The exact derivative of a measure through the training that led to it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use burn::tensor::{Tensor, TensorData};
use hyperinf_gradients::Tape;
use hyperinf_gradients::hyperinf_linalg::precise;

use super::backwards::{Adjoints, Backwards, Step, read_values};
use super::checkpoint::Checkpoint;
use super::finetune::{BestState, FinetuneConfig};
use super::optimizer::{Adjoint, Flat, take};
use super::pieces::losses_of;
use super::recording::{Recording, training};
use super::train::{Run, State};
use crate::arch::parameters::visit_parameters;
use crate::files::weights::{Selection, write};
use crate::{ModelError, SampleModel};

/// The derivative of queries' measures through a recorded training, with respect to the weight of every sample's loss.
///
/// With weights `w` in `g_t = (1/|B_t|) Σ_{i∈B_t} w_i ∇ℓ_i(θ_t)`, all 1 in the run, it follows the optimizer's steps backwards
/// (arXiv 2504.16430): exactly those that were taken, with their batches, learning rates, decay, clipping, moments and
/// dropout. Steps between recorded states are taken again and must lead to the recorded numbers, bit for bit.
///
/// `⟨c, ∇ℓ_i⟩` of the samples of a batch come from one pass with a tape, and `H_t c`, which needs second derivatives, from
/// the gradients at parameters displaced along `c`: with one query four times the passes of the training, two more with
/// each further one. Where a trained parameter is not in a block of the tape, `⟨c, ∇ℓ_i⟩` is the difference of the losses
/// at these two places.
pub struct Unroll<'a, M: SampleModel> {
    /// The model that was trained, as it was built: with its dropout, and its trained parameters of any values.
    pub model: &'a M,
    /// The same model without dropout, whose losses are those of queries.
    pub measured: &'a M,
    /// The samples that it was trained on, in their order.
    pub train: &'a [M::Sample],
    /// The samples whose [`measure`](hyperinf_gradients::Task::measure) is differentiated.
    pub queries: &'a [M::Sample],
    /// Whether the mean of the queries' measures is differentiated, or each.
    pub mean: bool,
    /// The training.
    pub recording: &'a Recording,
    /// The norm of the displacement over all trained parameters; `None` for `ε^(1/3) max(1, ‖θ‖)`.
    pub length: Option<f64>,
}

/// Derivatives through a training.
#[derive(Clone, Debug)]
pub struct Unrolled {
    /// Minus the derivative of each query's measure, or of their mean, with respect to each training sample's weight,
    /// `[queries, samples]`: positive = helpful. A sample with weight 0 instead of 1 changes the measure by about its
    /// score.
    pub scores: Vec<Vec<f64>>,
    /// The measure of each query at the end of the training.
    pub measures: Vec<f64>,
    /// An estimate of the relative error, of the differences that stand for second derivatives and of the sums over
    /// samples. Some steps are taken twice, with displacements of twice the length: the root of the mean square of what
    /// that changes in the derivative, times the root of the number of steps. And the mean of the `⟨c, ∇ℓ_i⟩` of a batch
    /// must be the product of `c` with its gradient.
    pub error: f64,
    /// The steps that were followed.
    pub steps: usize,
}

impl<M: SampleModel> Unroll<'_, M> {
    /// Follows the training backwards; `after` is called after every step that was followed, with their number.
    ///
    /// # Errors
    ///
    /// If there are no queries or a sample does not fit the model; [`ModelError::Replay`] if a step does not lead to what
    /// was recorded; [`ModelError::Unrolled`] if a derivative is not finite; [`ModelError::Stopped`] if `after` breaks
    /// off; and what a damaged recording or a device gives.
    pub fn run(&self, mut after: impl FnMut(usize) -> ControlFlow<()>) -> Result<Unrolled, ModelError> {
        if self.queries.is_empty() {
            return Err(ModelError::Empty { what: "queries" });
        }
        let config = self.recording.config()?;
        let lengths: Vec<usize> = self.train.iter().map(M::length).collect();
        let run = training(&config, &lengths, self.recording.weights());
        let batches: Vec<Vec<usize>> = run.batches().map(|(_, rows)| rows).collect();
        let (mut adjoints, measures) = self.at_the_end(&config)?;
        let mut derivatives = vec![vec![0.0; self.train.len()]; adjoints.len()];
        let (states, steps) = (self.recording.states(), self.recording.steps());
        let mut backwards = Backwards::<M>::new(&run, self.train, self.length, steps);
        let mut done = 0;
        for place in (0..states.len()).rev() {
            let to = states.get(place + 1).map_or(steps, |next| (*next).min(steps));
            let (module, mut taken) = self.replayed(&run, &config, &batches, place, to)?;
            while let Some(step) = taken.pop() {
                let at = states[place] + taken.len();
                backwards.follow(&module, &step, at, &mut adjoints, &mut derivatives)?;
                done += 1;
                if after(done).is_break() {
                    return Err(ModelError::Stopped { step: done, steps, checkpoint: None });
                }
            }
        }
        let scores = derivatives.into_iter().map(|all| all.into_iter().map(|value| -value).collect()).collect();
        Ok(Unrolled { scores, measures, error: backwards.error(), steps })
    }

    /// The measures at the last parameters, and their derivatives with respect to these.
    fn at_the_end(&self, config: &FinetuneConfig) -> Result<(Vec<Adjoints>, Vec<f64>), ModelError> {
        let module = write(self.measured.clone().train(), self.recording.last()?, Selection::Trained)?;
        // What a batch draws in training must not be in a measure.
        let plain = module.valid();
        let piece = if self.mean { config.micro_batch.unwrap_or(config.schedule.batch_size) } else { 1 };
        let (mut measures, mut slopes) = (Vec::new(), Vec::new());
        for samples in self.queries.chunks(piece) {
            let batch = plain.collate(&samples.iter().collect::<Vec<_>>())?;
            let values = module.measure(module.forward(&batch, &mut Tape::off()), &batch);
            if !values.is_tracked() {
                return Err(ModelError::Frozen);
            }
            measures.extend(read_values(values.clone().without_autodiff())?);
            slopes.push(take(&module, &mut values.sum().backward()));
        }
        if let Some(&value) = measures.iter().find(|value| !value.is_finite()) {
            return Err(ModelError::Validation { value });
        }
        let mut zeros = Flat::new();
        visit_parameters(&module, |parameter| {
            if parameter.is_trained() {
                zeros.insert(parameter.path.clone(), precise(parameter.flat()).zeros_like());
            }
        });
        let begin = |slope: Vec<Flat>, share: f64| -> Adjoints {
            let of = |(path, zero): (&String, &Tensor<1>)| {
                let sum = slope.iter().filter_map(|flat| flat.get(path)).map(|found| precise(found.clone()));
                let sum = sum.fold(zero.clone(), |a, b| a + b).mul_scalar(share);
                (path.clone(), Adjoint { parameter: sum, moments: [zero.clone(), zero.clone()] })
            };
            zeros.iter().map(of).collect()
        };
        let adjoints = if self.mean {
            vec![begin(slopes, 1.0 / self.queries.len() as f64)]
        } else {
            slopes.into_iter().map(|slope| begin(vec![slope], 1.0)).collect()
        };
        Ok((adjoints, measures))
    }

    /// Takes the steps from a recorded state to `to` again, and checks where they lead.
    fn replayed(
        &self,
        run: &Run<'_>,
        config: &FinetuneConfig,
        batches: &[Vec<usize>],
        place: usize,
        to: usize,
    ) -> Result<(M, Vec<Step>), ModelError> {
        let fresh = State::new(self.model.clone(), &config.schedule);
        let (mut state, _) = self.recording.state(place)?.into_state(fresh)?;
        let from = state.step;
        let mut losses = |model: &M, rows: &[usize]| losses_of(model, self.train, rows);
        let mut taken = Vec::with_capacity(to - from);
        for (at, rows) in batches.iter().enumerate().take(to).skip(from) {
            let parameters = trained(&state.module);
            let advanced = run.advance(&mut state, rows, &mut losses)?;
            taken.push(Step {
                rows: rows.clone(),
                parameters,
                advanced,
                moments: state.optimizer.states.clone(),
                seed: run.seed(at),
                learning_rate: run.config.learning_rate_at(at, run.steps()),
            });
        }
        let found = Checkpoint::of(&state, &BestState::default())?.tensors;
        let recorded = match self.recording.states().get(place + 1) {
            Some(next) if *next == to => self.recording.state(place + 1)?.tensors,
            _ => self.recording.last()?.into_iter().map(|(path, data)| (format!("parameter/{path}"), data)).collect(),
        };
        same_numbers(from, to, &found, &recorded)?;
        Ok((state.module, taken))
    }
}

/// The trained parameters of a module.
fn trained<M: SampleModel>(module: &M) -> Flat {
    let mut found = Flat::new();
    visit_parameters(module, |parameter| {
        if parameter.is_trained() {
            found.insert(parameter.path.clone(), parameter.flat());
        }
    });
    found
}

/// Fails unless all recorded numbers were found, to the bit.
fn same_numbers(
    from: usize,
    to: usize,
    found: &BTreeMap<String, TensorData>,
    recorded: &BTreeMap<String, TensorData>,
) -> Result<(), ModelError> {
    let names: BTreeSet<&String> = recorded.keys().collect();
    for name in names {
        let expected = &recorded[name];
        let bytes = found.get(name).map(TensorData::as_bytes);
        if bytes == Some(expected.as_bytes()) {
            continue;
        }
        let values = |data: &TensorData| data.clone().convert::<f64>().iter::<f64>().collect::<Vec<f64>>();
        let expected = values(expected);
        let found = found.get(name).map(values).unwrap_or_default();
        let by = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let size = expected.iter().map(|value| value.abs()).fold(0.0, f64::max);
        return Err(ModelError::Replay { from, to, parameter: name.replacen('/', " ", 1), by, size });
    }
    Ok(())
}
