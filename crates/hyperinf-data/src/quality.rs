use std::fmt;

use serde::Serialize;

use crate::{Labels, Predicted, Prediction};

/// The share of the entropy of the labels that the loss of a model must explain to have learned from them.
const EXPLAINED: f64 = 0.05;
/// Standard errors above the baseline from which an accuracy is no chance.
const ERRORS: f64 = 2.0;

/// How well a model predicts some rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Quality {
    /// A classifier.
    Classes(ClassQuality),
    /// A language model.
    Tokens(TokenQuality),
    /// A diffusion model.
    Pictures(PictureQuality),
    /// A model of preferences.
    Pairs(PairQuality),
}

/// How well a model of preferences tells chosen from rejected answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairQuality {
    /// The rows.
    pub rows: usize,
    /// The mean of `−log σ(margin)`; `log 2` for a model that does not know.
    pub loss: f64,
    /// The share of pairs whose chosen answer has the higher reward.
    pub accuracy: f64,
    /// The mean of `r_chosen − r_rejected`.
    pub margin: f64,
}

/// How well a diffusion model predicts the noise of rows' pictures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PictureQuality {
    /// The rows.
    pub rows: usize,
    /// The mean over rows of their weighted mean squared error over the timesteps.
    pub loss: f64,
}

/// How well a classifier predicts the labels of rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassQuality {
    /// The rows.
    pub rows: usize,
    /// The mean cross-entropy of the labels, in nats.
    pub loss: f64,
    /// The entropy of the labels' shares, in nats: the loss of a model that knows these shares and no text.
    pub entropy: f64,
    /// The share of rows whose likeliest class is that of their label.
    pub accuracy: f64,
    /// The share of the most frequent label: the accuracy of a model that knows no text.
    pub baseline: f64,
    /// The share of the labels' entropy that the model explains, `1 − loss / entropy` (McFadden 1974): 1 for a perfect
    /// model, 0 for one that knows the shares of the labels only, negative for one that is wrong and sure. `None` if
    /// all rows have one label.
    pub explained: Option<f64>,
    /// Whether the model has learned; `None` if all rows have one label, which any model could guess.
    ///
    /// An accuracy counts that is more than two standard errors `√(b (1 − b) / n)` above the baseline `b`, and a loss
    /// that explains 5 % of the entropy.
    pub verdict: Option<Verdict>,
    /// The classes.
    pub classes: Vec<ClassCounts>,
}

/// The rows of one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassCounts {
    /// The label.
    pub label: String,
    /// Rows with this label.
    pub rows: usize,
    /// Rows for which it is the likeliest.
    pub predicted: usize,
    /// Rows of which both are true.
    pub right: usize,
}

/// How well a language model predicts the scored tokens of rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenQuality {
    /// The rows.
    pub rows: usize,
    /// Their scored tokens.
    pub tokens: usize,
    /// The mean over rows of their mean loss per token, in nats: what training minimises.
    pub loss: f64,
    /// The mean loss of a token, in nats.
    pub token_loss: f64,
    /// The exponential of it.
    pub perplexity: f64,
}

/// Whether a classifier has learned from the rows' texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Its accuracy or its loss is clearly better than that of a guess.
    Learned,
    /// Its accuracy is, its loss is not: all its probabilities are near the labels' shares.
    Hardly,
    /// Neither is.
    Guessing,
}

impl Quality {
    /// The quality of predictions; `labels` are those of a classifier.
    ///
    /// # Panics
    ///
    /// If there are no predictions, or classes without labels.
    pub fn new(predictions: &[Prediction], labels: Option<&Labels>) -> Self {
        assert!(!predictions.is_empty(), "a quality of no rows");
        match labels {
            Some(labels) => Self::Classes(ClassQuality::new(predictions, labels)),
            None if predictions[0].target == Predicted::Picture => {
                Self::Pictures(PictureQuality { rows: predictions.len(), loss: mean_loss(predictions) })
            }
            None if matches!(predictions[0].target, Predicted::Pair { .. }) => {
                Self::Pairs(PairQuality::new(predictions))
            }
            None => Self::Tokens(TokenQuality::new(predictions)),
        }
    }

    /// The mean loss of a row.
    pub fn loss(&self) -> f64 {
        match self {
            Self::Classes(quality) => quality.loss,
            Self::Tokens(quality) => quality.loss,
            Self::Pictures(quality) => quality.loss,
            Self::Pairs(quality) => quality.loss,
        }
    }

    /// The rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Classes(quality) => quality.rows,
            Self::Tokens(quality) => quality.rows,
            Self::Pictures(quality) => quality.rows,
            Self::Pairs(quality) => quality.rows,
        }
    }
}

impl ClassQuality {
    fn new(predictions: &[Prediction], labels: &Labels) -> Self {
        let zero = |label: &String| ClassCounts { label: label.clone(), rows: 0, predicted: 0, right: 0 };
        let mut classes: Vec<ClassCounts> = labels.names.iter().map(zero).collect();
        for guess in predictions.iter().filter_map(Prediction::guess) {
            classes[guess.label].rows += 1;
            classes[guess.class].predicted += 1;
            classes[guess.class].right += usize::from(guess.class == guess.label);
        }
        let rows = predictions.len();
        let share = |count: usize| count as f64 / rows as f64;
        let shares = classes.iter().map(|class| share(class.rows));
        let loss = mean_loss(predictions);
        let entropy = shares.clone().filter(|&p| p > 0.0).map(|p| -p * p.ln()).sum::<f64>().max(0.0);
        let accuracy = share(classes.iter().map(|class| class.right).sum());
        let baseline = shares.fold(0.0, f64::max);
        let explained = (entropy > 0.0).then(|| 1.0 - loss / entropy);
        let error = (baseline * (1.0 - baseline) / rows as f64).sqrt();
        let verdict = explained.map(|explained| match (explained >= EXPLAINED, accuracy > baseline + ERRORS * error) {
            (true, _) => Verdict::Learned,
            (false, true) => Verdict::Hardly,
            (false, false) => Verdict::Guessing,
        });
        Self { rows, loss, entropy, accuracy, baseline, explained, verdict, classes }
    }
}

impl PairQuality {
    fn new(predictions: &[Prediction]) -> Self {
        let margins = predictions.iter().filter_map(Prediction::margin);
        let (rows, sum, right) = margins.fold((0, 0.0, 0), |(rows, sum, right), margin| {
            (rows + 1, sum + margin, right + usize::from(margin > 0.0))
        });
        let count = rows as f64;
        Self { rows, loss: mean_loss(predictions), accuracy: right as f64 / count, margin: sum / count }
    }
}

impl TokenQuality {
    fn new(predictions: &[Prediction]) -> Self {
        let counts = predictions.iter().map(|prediction| match prediction.target {
            Predicted::Tokens(count) => (count, prediction.loss * count as f64),
            Predicted::Class(_) | Predicted::Picture | Predicted::Pair { .. } => (1, prediction.loss),
        });
        let (tokens, sum) = counts.fold((0, 0.0), |(n, sum), (count, loss)| (n + count, sum + loss));
        let token_loss = sum / tokens as f64;
        let (rows, loss) = (predictions.len(), mean_loss(predictions));
        Self { rows, tokens, loss, token_loss, perplexity: token_loss.exp() }
    }
}

fn mean_loss(predictions: &[Prediction]) -> f64 {
    predictions.iter().map(|prediction| prediction.loss).sum::<f64>() / predictions.len() as f64
}

/// In words, with the figures of a guess.
impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Classes(quality) => quality.fmt(f),
            Self::Tokens(quality) => quality.fmt(f),
            Self::Pictures(quality) => write!(f, "loss {:.5}", quality.loss),
            Self::Pairs(PairQuality { loss, accuracy, margin, .. }) => {
                write!(
                    f,
                    "accuracy {accuracy:.3} (guessing 0.500), loss {loss:.4} (guessing 0.6931), margin {margin:+.4}"
                )
            }
        }
    }
}

impl fmt::Display for ClassQuality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { loss, entropy, accuracy, baseline, .. } = self;
        write!(f, "accuracy {accuracy:.3} (guessing {baseline:.3}), loss {loss:.4} (guessing {entropy:.4})")
    }
}

impl fmt::Display for TokenQuality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, token_loss, perplexity, .. } = self;
        write!(f, "loss {token_loss:.4} per token, perplexity {perplexity:.4}, {tokens} tokens")
    }
}
