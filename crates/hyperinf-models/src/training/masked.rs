use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use hyperinf_gradients::Tape;
use hyperinf_ops::cross_entropy;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::{Encoder, ModelError, Progress, TokenBatch, TrainConfig, train};

/// An encoder with an output layer that predicts hidden tokens: the shared embedding and a bias per token.
#[derive(Module, Debug)]
struct MaskedModel {
    encoder: Encoder,
    bias: Param<Tensor<1>>,
}

/// Sequences with a share of their tokens hidden, and the hidden tokens.
struct MaskedBatch {
    tokens: TokenBatch,
    /// Their positions, as rows of the flattened hidden states `[n · t, d]`: `[m]`.
    places: Tensor<1, Int>,
    /// The hidden tokens, `[m]`.
    targets: Tensor<1, Int>,
}

/// The share of tokens hidden in each sequence.
const HIDDEN_SHARE: f64 = 0.15;

/// Trains an encoder without labels, by masked language modelling (Devlin et al. 2019): 15 % of the tokens of each
/// sequence, at least one, are hidden and predicted from the rest.
///
/// As in BERT, 80 % of the hidden tokens become `mask_token`, 10 % a random token, and 10 % stay. The output layer
/// shares its weights with the token embedding and is dropped at the end. The reported loss is cross-entropy in nats.
///
/// # Errors
///
/// As [`train`], and if a sequence does not fit the encoder or `mask_token` is not in the vocabulary.
pub fn pretrain_masked(
    encoder: Encoder,
    sequences: &[Vec<u32>],
    mask_token: u32,
    config: &TrainConfig,
    progress: impl FnMut(&Progress),
) -> Result<Encoder, ModelError> {
    let device = encoder.device();
    let vocabulary = encoder.config().vocabulary;
    if mask_token as usize >= vocabulary {
        return Err(ModelError::Setting {
            name: "mask_token",
            value: f64::from(mask_token),
            expected: "a token of the vocabulary",
        });
    }
    let model = MaskedModel { encoder, bias: Param::from_tensor(Tensor::zeros([vocabulary], &device)) };
    let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
    let mut rng = StdRng::seed_from_u64(config.seed);
    let losses = |model: &MaskedModel, rows: &[usize]| {
        let chosen: Vec<&[u32]> = rows.iter().map(|&row| sequences[row].as_slice()).collect();
        Ok(model.losses(&model.hide(&chosen, mask_token, &mut rng)?))
    };
    Ok(train(model, &lengths, config, losses, progress)?.encoder)
}

impl MaskedModel {
    fn hide(&self, sequences: &[&[u32]], mask_token: u32, rng: &mut StdRng) -> Result<MaskedBatch, ModelError> {
        let config = self.encoder.config();
        let longest = sequences.iter().map(|s| s.len()).max().unwrap_or(0);
        let (mut changed, mut places, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for (row, sequence) in sequences.iter().enumerate() {
            let mut copy = sequence.to_vec();
            let mut order: Vec<usize> = (0..copy.len()).collect();
            let hidden = ((copy.len() as f64 * HIDDEN_SHARE).round() as usize).max(1).min(copy.len());
            let (first, _) = order.partial_shuffle(rng, hidden);
            for &mut place in first {
                places.push((row * longest + place) as i64);
                targets.push(i64::from(copy[place]));
                let draw: f64 = rng.random();
                if draw < 0.8 {
                    copy[place] = mask_token;
                } else if draw < 0.9 {
                    copy[place] = rng.random_range(0..config.vocabulary as u32);
                }
            }
            changed.push(copy);
        }
        let device = self.encoder.device();
        let changed: Vec<&[u32]> = changed.iter().map(Vec::as_slice).collect();
        let m = places.len();
        Ok(MaskedBatch {
            tokens: TokenBatch::new(&changed, config, &device)?,
            places: Tensor::from_data(TensorData::new(places, [m]), &device),
            targets: Tensor::from_data(TensorData::new(targets, [m]), &device),
        })
    }

    /// The cross-entropy of each hidden token, `[m]`.
    fn losses(&self, batch: &MaskedBatch) -> Tensor<1> {
        let hidden = self.encoder.forward(&batch.tokens, &mut Tape::off());
        let [n, t, d] = hidden.dims();
        let places = hidden.reshape([n * t, d]).select(0, batch.places.clone());
        let logits = places.matmul(self.encoder.embedding().val().transpose()) + self.bias.val().unsqueeze();
        cross_entropy(logits, batch.targets.clone())
    }
}
