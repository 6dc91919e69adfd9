use std::path::Path;

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use serde_json::json;

use super::decoder_config::decoder_config;
use super::load::{Family, check_layers, family, is_gguf, is_llama2c, settings};
use super::shards::Shards;
use super::sizes;
use super::tensors::{IgnoredTensors, check, pull};
use crate::{CausalLm, LmHead, LoadError, LoadReport, LoadedModel, PairLoss, PreferenceModel, load_causal_lm};

/// The weight of a reward head.
const SCORE: &str = "score.weight";

/// Loads a language model for pairs of answers, and whether its own reward head was used: of a folder of the form
/// `…ForSequenceClassification` with one label the tensor `score.weight`. Without one the head is new, from `seed`.
///
/// # Errors
///
/// As [`load_causal_lm`], or for a head of several labels.
pub fn load_preference(
    path: &Path,
    loss: PairLoss,
    seed: u64,
    device: &Device,
) -> Result<(LoadedModel<PreferenceModel>, bool), LoadError> {
    if loss != PairLoss::Reward || is_gguf(path) || is_llama2c(path) {
        let LoadedModel { model, report } = load_causal_lm(path, device)?;
        return Ok((LoadedModel { model: PreferenceModel::new(model, loss, None, seed)?, report }, false));
    }
    let fields = settings(path)?;
    let Family::Decoder(family) = family(path, &fields)? else {
        // It says which models there are.
        let LoadedModel { model, report } = load_causal_lm(path, device)?;
        return Ok((LoadedModel { model: PreferenceModel::new(model, loss, None, seed)?, report }, false));
    };
    let (config, _) = decoder_config(&fields, family)?;
    let mut shards = Shards::of_folder(path)?;
    check_layers(&fields, config.layers, &shards)?;
    let own = shards.shape(SCORE).map(<[usize]>::to_vec);
    if let Some(shape) = own.as_deref().filter(|shape| *shape != [1, config.width]) {
        return Err(fields.refuse("num_labels", &json!(shape.first()), "1: a reward head"));
    }
    // The output layer predicts tokens, which nobody asks for here.
    let ignored = IgnoredTensors { prefixes: &["lm_head."], suffixes: &["rotary_emb.inv_freq"] };
    let mut expected = sizes::of_decoder(&config, LmHead::Tied);
    if own.is_some() {
        expected.push(sizes::of_score(config.width));
    }
    check(&shards, path, &expected, &ignored)?;
    let mut report = LoadReport::default();
    let width = config.width;
    let model = pull(&mut shards, path, &ignored, &mut report, |weights| {
        let language = CausalLm::from_weights(config, LmHead::Tied, device, &mut *weights)?;
        let head = match own {
            Some(_) => {
                let weight = Tensor::from_data(weights(SCORE, &[width, 1])?, device);
                Some(Linear { weight: Param::from_tensor(weight), bias: None })
            }
            None => None,
        };
        PreferenceModel::new(language, loss, head, seed)
    })?;
    Ok((LoadedModel { model, report }, own.is_some()))
}
