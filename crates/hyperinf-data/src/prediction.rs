use hyperinf_models::SampleModel;

use crate::event::{Detail, Event, Progress};
use crate::kind::Kind;
use crate::samples::Samples;
use crate::stage::Stage;
use crate::{Labels, Quality, RunError};

/// What a model computes for one row, besides gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// The row's loss in nats: the cross-entropy of its label, or the mean over its scored tokens; of a diffusion model
    /// the weighted mean squared error.
    pub loss: f64,
    /// What is predicted.
    pub target: Predicted,
}

/// What is predicted of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Predicted {
    /// A class.
    Class(Guess),
    /// So many tokens.
    Tokens(usize),
    /// The noise of a picture.
    Picture,
    /// Which answer of a pair is the chosen one.
    Pair {
        /// The difference of the rewards, `r_chosen − r_rejected`; positive: as chosen.
        margin: f64,
    },
}

/// The likeliest class of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guess {
    /// The class of the row's label.
    pub label: usize,
    /// The likeliest class; of equally likely ones the first.
    pub class: usize,
    /// Its probability.
    pub probability: f64,
}

impl Prediction {
    /// The prediction of a classifier, from the logits of a row.
    pub(crate) fn of_class(loss: f64, label: usize, logits: &[f64]) -> Self {
        let class = (1..logits.len()).fold(0, |best, class| if logits[class] > logits[best] { class } else { best });
        let sum: f64 = logits.iter().map(|logit| (logit - logits[class]).exp()).sum();
        Self { loss, target: Predicted::Class(Guess { label, class, probability: 1.0 / sum }) }
    }

    /// The prediction of a classifier of two classes, which the loss determines: the label's probability is `e^−loss`.
    pub(crate) fn of_two_classes(loss: f64, label: usize) -> Self {
        let own = (-loss).exp();
        let (class, probability) = if own > 0.5 { (label, own) } else { (1 - label, 1.0 - own) };
        Self { loss, target: Predicted::Class(Guess { label, class, probability }) }
    }

    /// The difference of the rewards of a pair's answers, of a model of preferences.
    pub fn margin(&self) -> Option<f64> {
        match self.target {
            Predicted::Pair { margin } => Some(margin),
            Predicted::Class(_) | Predicted::Tokens(_) | Predicted::Picture => None,
        }
    }

    /// The likeliest class, of a classifier.
    pub fn guess(&self) -> Option<Guess> {
        match self.target {
            Predicted::Class(guess) => Some(guess),
            Predicted::Tokens(_) | Predicted::Picture | Predicted::Pair { .. } => None,
        }
    }
}

/// The predictions for some of the samples, by their numbers, `batch_size` at a time.
pub(crate) fn predict<K: Kind>(
    model: &K::Model,
    set: &Samples<K>,
    rows: &[usize],
    batch_size: usize,
    observe: &mut dyn FnMut(Event),
) -> Result<Vec<Prediction>, RunError> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    // The longest first: if memory is too small for them, no work is lost.
    order.sort_by_key(|&place| std::cmp::Reverse(K::Model::length(&set.samples[rows[place]])));
    let mut found = vec![None; rows.len()];
    let (began, mut done, mut tokens) = (std::time::Instant::now(), 0, 0);
    for batch in order.chunks(batch_size) {
        let samples: Vec<_> = batch.iter().map(|&place| &set.samples[rows[place]]).collect();
        for (&place, prediction) in batch.iter().zip(K::predict(model, &samples)?) {
            if !prediction.loss.is_finite() {
                let (set, row) = (&set.data, set.data.rows[rows[place]].row);
                let (path, what, value) = (set.path.clone(), "loss".to_owned(), prediction.loss);
                return Err(RunError::NotFinite { set: set.set, path, row, what, value });
            }
            found[place] = Some(prediction);
        }
        done += batch.len();
        tokens += samples.iter().map(|sample| K::Model::length(sample)).sum::<usize>();
        let detail = Detail::Speed(tokens as f64 / began.elapsed().as_secs_f64().max(1e-9), K::UNIT);
        observe(Event::Progress(Progress { stage: Stage::Evaluation, done, total: rows.len(), detail }));
    }
    Ok(found.into_iter().map(|prediction| prediction.expect("every row is in one batch")).collect())
}

/// The quality of a model on at most `most` samples, evenly spread over the set.
pub(crate) fn measure<K: Kind>(
    model: &K::Model,
    set: &Samples<K>,
    labels: Option<&Labels>,
    most: usize,
    batch_size: usize,
    observe: &mut dyn FnMut(Event),
) -> Result<Quality, RunError> {
    let total = set.samples.len();
    let count = total.min(most);
    let rows: Vec<usize> = (0..count).map(|place| place * total / count).collect();
    Ok(Quality::new(&predict(model, set, &rows, batch_size, observe)?, labels))
}
