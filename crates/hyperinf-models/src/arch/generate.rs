use burn::tensor::{Int, Tensor, TensorData};
use hyperinf_gradients::Tape;

use crate::{CausalLm, ModelError, SampleModel};

/// Continues a prompt greedily with the most likely token, until a token of `stop` or `limit` new tokens.
///
/// Returns the new tokens, including the one of `stop`. Of equally likely tokens the first is taken. Ends early at the
/// model's longest sequence. Every new token costs a forward pass over the whole sequence: this is for checks, not for
/// serving.
///
/// # Errors
///
/// If the prompt is empty, longer than the model accepts or has a token outside the vocabulary, or if a logit is not
/// finite.
pub fn generate(model: &CausalLm, prompt: &[u32], limit: usize, stop: &[u32]) -> Result<Vec<u32>, ModelError> {
    let config = model.decoder().config();
    let (max_tokens, vocabulary) = (config.max_tokens, config.vocabulary);
    if !(1..=max_tokens).contains(&prompt.len()) {
        return Err(ModelError::Length { sample: 0, tokens: prompt.len(), limit: max_tokens });
    }
    if let Some(&token) = prompt.iter().find(|&&token| token as usize >= vocabulary) {
        return Err(ModelError::Token { sample: 0, token, vocabulary });
    }
    let mut tokens: Vec<u32> = prompt.to_vec();
    while tokens.len() < max_tokens && tokens.len() - prompt.len() < limit {
        let next = likeliest(model, &tokens)?;
        tokens.push(next);
        if stop.contains(&next) {
            break;
        }
    }
    Ok(tokens.split_off(prompt.len()))
}

fn likeliest(model: &CausalLm, tokens: &[u32]) -> Result<u32, ModelError> {
    let t = tokens.len();
    let values: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
    let input = Tensor::<2, Int>::from_data(TensorData::new(values, [1, t]), &model.device());
    let hidden = model.decoder().forward(input, &mut Tape::off());
    let [_, _, d] = hidden.dims();
    let last = hidden.narrow(1, t - 1, 1).reshape([1, d]);
    let logits = model.vocabulary_product(last).without_autodiff();
    let data = logits.try_into_data().map_err(|e| ModelError::Read(e.to_string()))?;
    let mut best = (0, f64::NEG_INFINITY);
    for (token, logit) in data.iter::<f64>().enumerate() {
        if !logit.is_finite() {
            return Err(ModelError::Logit { token, position: t - 1, value: logit });
        }
        if logit > best.1 {
            best = (token as u32, logit);
        }
    }
    Ok(best.0)
}
