use hyperinf_models::SampleModel;
use hyperinf_scoring::TeamError;
use serde::{Deserialize, Serialize};

use crate::crew::{Crew, Step};
use crate::crew_batches::{Deal, Given};
use crate::crew_message::{read_json, written};
use crate::crew_orders::Work;
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

/// The predictions for some of the samples, by their numbers, `batch_size` at a time; by all ranks of a crew that know
/// the set by its place.
pub(crate) fn predict<K: Kind>(
    model: &K::Model,
    set: &Samples<K>,
    rows: &[usize],
    batch_size: usize,
    share: Option<(&Crew, usize)>,
    observe: &mut dyn FnMut(Event),
) -> Result<Vec<Prediction>, RunError> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    // The longest first: if memory is too small for them, no work is lost.
    order.sort_by_key(|&place| std::cmp::Reverse(K::Model::length(&set.samples[rows[place]])));
    let mut found = vec![None; rows.len()];
    let (began, mut done, mut tokens) = (std::time::Instant::now(), 0, 0);
    let batches: Vec<Vec<usize>> =
        order.chunks(batch_size).map(|batch| batch.iter().map(|&place| rows[place]).collect()).collect();
    let work = match share {
        Some((crew, set)) => Some(crew.order(&Work::Predictions { set, batches: batches.clone() })?),
        None => None,
    };
    let crew = share.map(|(crew, _)| crew);
    let mut deal = Deal::new(crew, "the predictions of a batch", batches.len());
    let places: Vec<&[usize]> = order.chunks(batch_size).collect();
    while let Some(given) = deal.next()? {
        let (places, batch) = (places[given.number()], &batches[given.number()]);
        let predictions = match (given, crew) {
            (Given::Own(_), None) => of_batch(model, set, batch)?,
            (Given::Own(_), Some(crew)) => crew.computing(|| of_batch(model, set, batch))?,
            (Given::Arrived { rank, bytes, .. }, _) => from_bytes(rank, &bytes, batch.len())?,
        };
        places.iter().zip(predictions).for_each(|(&place, prediction)| found[place] = Some(prediction));
        done += batch.len();
        tokens += batch.iter().map(|&row| K::Model::length(&set.samples[row])).sum::<usize>();
        let detail = Detail::Speed(tokens as f64 / began.elapsed().as_secs_f64().max(1e-9), K::UNIT);
        observe(Event::Progress(Progress { stage: Stage::Evaluation, done, total: rows.len(), detail }));
    }
    work.into_iter().for_each(Step::end);
    Ok(found.into_iter().map(|prediction| prediction.expect("every row is in one batch")).collect())
}

/// The predictions for a batch of samples.
pub(crate) fn of_batch<K: Kind>(
    model: &K::Model,
    set: &Samples<K>,
    batch: &[usize],
) -> Result<Vec<Prediction>, RunError> {
    let samples: Vec<_> = batch.iter().map(|&row| &set.samples[row]).collect();
    let found = K::predict(model, &samples)?;
    if let Some((&row, prediction)) = batch.iter().zip(&found).find(|(_, found)| !found.loss.is_finite()) {
        let (set, row) = (&set.data, set.data.rows[row].row);
        let (path, what, value) = (set.path.clone(), "loss".to_owned(), prediction.loss);
        return Err(RunError::NotFinite { set: set.set, path, row, what, value });
    }
    Ok(found)
}

/// A [`Prediction`] as it is sent: numbers are their bits, which decimal text may round.
#[derive(Serialize, Deserialize)]
struct Sent {
    loss: u64,
    target: SentTarget,
}

#[derive(Serialize, Deserialize)]
enum SentTarget {
    Class { label: usize, class: usize, probability: u64 },
    Tokens(usize),
    Picture,
    Pair { margin: u64 },
}

/// Predictions as a message.
pub(crate) fn to_bytes(found: &[Prediction]) -> Vec<u8> {
    let sent = |found: &Prediction| {
        let target = match found.target {
            Predicted::Class(Guess { label, class, probability }) => {
                SentTarget::Class { label, class, probability: probability.to_bits() }
            }
            Predicted::Tokens(count) => SentTarget::Tokens(count),
            Predicted::Picture => SentTarget::Picture,
            Predicted::Pair { margin } => SentTarget::Pair { margin: margin.to_bits() },
        };
        Sent { loss: found.loss.to_bits(), target }
    };
    written(&found.iter().map(sent).collect::<Vec<_>>())
}

/// From [`to_bytes`] of another rank, for a batch of so many samples.
fn from_bytes(rank: usize, bytes: &[u8], samples: usize) -> Result<Vec<Prediction>, RunError> {
    let found: Vec<Sent> = read_json(rank, bytes)?;
    if found.len() != samples {
        let reason = format!("it has {} predictions, and the batch {samples}", found.len());
        return Err(TeamError::Garbled { rank, reason }.into());
    }
    let prediction = |Sent { loss, target }| {
        let target = match target {
            SentTarget::Class { label, class, probability } => {
                Predicted::Class(Guess { label, class, probability: f64::from_bits(probability) })
            }
            SentTarget::Tokens(count) => Predicted::Tokens(count),
            SentTarget::Picture => Predicted::Picture,
            SentTarget::Pair { margin } => Predicted::Pair { margin: f64::from_bits(margin) },
        };
        Prediction { loss: f64::from_bits(loss), target }
    };
    Ok(found.into_iter().map(prediction).collect())
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
    Ok(Quality::new(&predict(model, set, &rows, batch_size, None, observe)?, labels))
}
