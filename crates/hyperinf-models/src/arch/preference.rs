use std::hash::{Hash, Hasher};

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Int, Tensor, TensorData};
use hyperinf_gradients::{Family, Likelihood, Tape, Task};
use hyperinf_ops::cross_entropy;

use super::init::Init;
use crate::error::check;
use crate::{
    Adaptable, AdaptableEmbedding, AdaptableLinear, CausalLm, CheckpointNames, LmBatch, LmSample, ModelError,
    ModelPart, SampleModel,
};

/// The loss of a pair of a chosen and a rejected answer: `−log σ(r_chosen − r_rejected)`, with the reward `r` of an
/// answer `y` to a prompt `x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PairLoss {
    /// `r = β (log π(y|x) − log π₀(y|x))`, where `π₀` is the model without its adapter, and `log π` sums over the
    /// answer's tokens: direct preference optimisation (Rafailov et al. 2023, equation 7).
    Dpo {
        /// `β`, positive: how far the model may move from `π₀`.
        beta: f64,
    },
    /// `r` is a linear layer, without a bias, on the last hidden state of the last token: a reward model (Bradley and
    /// Terry 1952; Ouyang et al. 2022, equation 1).
    Reward,
}

impl PairLoss {
    /// Fails unless `β` is positive and finite.
    ///
    /// # Errors
    ///
    /// [`ModelError::Setting`].
    pub fn validate(self) -> Result<(), ModelError> {
        match self {
            Self::Dpo { beta } => check(beta.is_finite() && beta > 0.0, "beta", beta, "positive and finite"),
            Self::Reward => Ok(()),
        }
    }

    /// `dpo` or `reward`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dpo { .. } => "dpo",
            Self::Reward => "reward",
        }
    }
}

/// A language model on pairs of answers.
///
/// As a [`Task`], its outputs are the rewards of both answers, `[n, 2]`, the chosen one's first; the loss is the
/// cross-entropy of the chosen one. Both answers go through the tape, one after the other: positions of one sample.
#[derive(Module, Debug)]
pub struct PreferenceModel {
    language: CausalLm,
    /// The reward head, `[d, 1]`.
    score: Option<Linear>,
    #[module(skip)]
    loss: PairLoss,
}

/// Two answers to one prompt, each with the prompt as one sequence whose answer is scored.
#[derive(Clone, Debug, PartialEq)]
pub struct PairSample {
    /// The chosen answer.
    pub chosen: LmSample,
    /// The rejected answer.
    pub rejected: LmSample,
    /// `log π₀` of both, by [`PreferenceModel::reference`].
    pub reference: [f32; 2],
}

impl Hash for PairSample {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.chosen, &self.rejected, self.reference.map(f32::to_bits)).hash(state);
    }
}

/// A batch of [`PairSample`]s.
#[derive(Clone, Debug)]
pub struct PairBatch {
    /// The chosen and the rejected answers.
    answers: [LmBatch; 2],
    /// The last token of each answer, as a row of the flattened hidden states `[n · t, d]`.
    ends: [Tensor<1, Int>; 2],
    /// `[n, 2]`, row by row.
    reference: Vec<f32>,
}

/// The name of the reward head's block, as PEFT has it.
const SCORE: &str = "base_model.model.score.weight";

impl PreferenceModel {
    /// A language model on pairs; a reward head that is not given is new, from `seed`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Setting`] for a `β` that is not positive and finite.
    ///
    /// # Panics
    ///
    /// If a head is given whose weight is not `[d, 1]`.
    pub fn new(language: CausalLm, loss: PairLoss, head: Option<Linear>, seed: u64) -> Result<Self, ModelError> {
        loss.validate()?;
        let width = language.decoder().config().width;
        let score = match loss {
            PairLoss::Dpo { .. } => None,
            PairLoss::Reward => {
                let device = language.device();
                Some(head.unwrap_or_else(|| Init::new(seed, &device).linear_without_bias(width, 1)))
            }
        };
        if let Some(score) = &score {
            assert_eq!(score.weight.dims(), [width, 1], "the weight of a reward head");
        }
        Ok(Self { language, score, loss })
    }

    /// The language model.
    pub fn language(&self) -> &CausalLm {
        &self.language
    }

    /// The loss.
    pub fn pair_loss(&self) -> PairLoss {
        self.loss
    }

    /// `log π₀` of both answers, of the model without its adapters; 0 for a reward model, which needs none.
    ///
    /// # Errors
    ///
    /// If an answer does not fit the model, or the device fails.
    pub fn reference(&self, chosen: &LmSample, rejected: &LmSample) -> Result<[f32; 2], ModelError> {
        if self.loss == PairLoss::Reward {
            return Ok([0.0; 2]);
        }
        let base = without_adapters(self.language.clone());
        let of = |sample: &LmSample| {
            let batch = base.collate(&[sample])?;
            let sums = log_probabilities(&base, &batch, &mut Tape::off());
            let data = sums.without_autodiff().try_into_data().map_err(|error| ModelError::Read(error.to_string()))?;
            data.iter::<f32>().next().ok_or(ModelError::Empty { what: "losses in a batch" })
        };
        Ok([of(chosen)?, of(rejected)?])
    }

    /// The reward of each answer, `[n, 1]`, of DPO without the reference and `β`.
    fn rewards(&self, batch: &LmBatch, ends: &Tensor<1, Int>, tape: &mut Tape) -> Tensor<2> {
        let Some(score) = &self.score else {
            return log_probabilities(&self.language, batch, tape).unsqueeze_dim(1);
        };
        let hidden = self.language.decoder().forward(batch.tokens.clone(), tape);
        let [n, t, d] = hidden.dims();
        tape.linear(SCORE, score, hidden.reshape([n * t, d]).select(0, ends.clone()))
    }
}

/// `log π` of each sample's scored tokens, `[n]`.
fn log_probabilities(model: &CausalLm, batch: &LmBatch, tape: &mut Tape) -> Tensor<1> {
    let logits = model.forward(batch, tape);
    batch.sum_per_sample(cross_entropy(logits, batch.targets.clone())).neg()
}

fn without_adapters(mut model: CausalLm) -> CausalLm {
    let mut plain = |_: &str, layer: &mut AdaptableLinear| *layer = AdaptableLinear::Plain(layer.base().clone());
    model.visit_layers(&mut plain);
    model.visit_head(&mut plain);
    if let Some((_, table)) = model.embedding() {
        *table = AdaptableEmbedding::Plain(table.base().clone());
    }
    model
}

impl Task for PreferenceModel {
    type Batch = PairBatch;

    fn forward(&self, batch: &PairBatch, tape: &mut Tape) -> Tensor<2> {
        let sides = batch.answers.iter().zip(&batch.ends).map(|(answers, ends)| self.rewards(answers, ends, tape));
        let rewards = Tensor::cat(sides.collect(), 1);
        let PairLoss::Dpo { beta } = self.loss else { return rewards };
        let reference = TensorData::new(batch.reference.clone(), rewards.dims());
        let reference = Tensor::<2>::from_data(reference, (&rewards.device(), rewards.dtype()));
        (rewards - reference).mul_scalar(beta)
    }

    fn loss(&self, outputs: Tensor<2>, _: &PairBatch) -> Tensor<1> {
        let [n, _] = outputs.dims();
        let chosen = Tensor::<1, Int>::zeros([n], &outputs.device());
        cross_entropy(outputs, chosen)
    }

    fn likelihood(&self, _: &PairBatch) -> Option<Likelihood> {
        Some(Likelihood::new(Family::Softmax))
    }
}

impl SampleModel for PreferenceModel {
    type Sample = PairSample;

    fn collate(&self, samples: &[&PairSample]) -> Result<PairBatch, ModelError> {
        let device = self.device();
        let side = |of: fn(&PairSample) -> &LmSample| -> Result<(LmBatch, Tensor<1, Int>), ModelError> {
            let answers: Vec<&LmSample> = samples.iter().map(|sample| of(sample)).collect();
            let batch = self.language.collate(&answers)?;
            let [n, t] = batch.tokens.dims();
            let ends = answers.iter().enumerate().map(|(row, answer)| (row * t + answer.tokens.len() - 1) as i64);
            Ok((batch, Tensor::from_data(TensorData::new(ends.collect::<Vec<_>>(), [n]), &device)))
        };
        let ((chosen, chosen_ends), (rejected, rejected_ends)) = (side(|s| &s.chosen)?, side(|s| &s.rejected)?);
        let reference = samples.iter().flat_map(|sample| sample.reference).collect();
        Ok(PairBatch { answers: [chosen, rejected], ends: [chosen_ends, rejected_ends], reference })
    }

    fn length(sample: &PairSample) -> usize {
        sample.chosen.tokens.len() + sample.rejected.tokens.len()
    }

    fn device(&self) -> Device {
        self.language.device()
    }
}

/// Layers have the names of a [`CausalLm`]; the reward head is trained with the adapters, as PEFT's `score`.
impl Adaptable for PreferenceModel {
    fn visit_layers(&mut self, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        self.language.visit_layers(visit);
    }

    fn freeze_base(self) -> Self {
        Self { language: self.language.no_grad(), ..self }
    }

    fn visit_head(&mut self, visit: &mut dyn FnMut(&str, &mut AdaptableLinear)) {
        // A reward model has no use for the output layer.
        if self.score.is_none() {
            self.language.visit_head(visit);
        }
    }

    fn embedding(&mut self) -> Option<(&'static str, &mut AdaptableEmbedding)> {
        self.language.embedding()
    }

    fn part(&self, name: &str) -> Option<ModelPart> {
        self.language.part(name)
    }

    fn is_tied(&self) -> bool {
        self.language.is_tied()
    }

    fn untied(self) -> Self {
        Self { language: self.language.untied(), ..self }
    }
}

impl CheckpointNames for PreferenceModel {
    fn checkpoint_name(&self, path: &str) -> String {
        path.strip_prefix("language.").map_or_else(|| path.to_owned(), |rest| self.language.checkpoint_name(rest))
    }
}
