//! The likelihood of answers.

use hyperinf::burn::tensor::DType;
use hyperinf::burn::tensor::activation::log_softmax;
use hyperinf::gradients::{Tape, Task};
use hyperinf::models::{SampleModel, VisionLanguage};

use crate::Failure;

/// How likely a row's answer is.
pub struct Answer {
    /// The logarithm of its probability.
    pub likelihood: f64,
    /// Whether each of its tokens is the likeliest.
    pub greedy: bool,
}

impl Answer {
    /// Of the answers of some samples.
    pub fn of_batch(
        model: &VisionLanguage,
        samples: &[<VisionLanguage as SampleModel>::Sample],
    ) -> Result<Vec<Self>, Failure> {
        let batch = model.collate(&samples.iter().collect::<Vec<_>>())?;
        let outputs = model.forward(&batch, &mut Tape::off());
        let [_, words] = outputs.dims();
        let read = |e: &dyn std::fmt::Display| -> Failure { e.to_string().into() };
        let of_all = log_softmax(outputs, 1).into_data_dtype(DType::F32).try_into_vec::<f32>();
        let of_all = of_all.map_err(|e| format!("{e:?}"))?;
        let targets = batch.text.targets.clone().try_into_data().map_err(|e| read(&e))?;
        let targets: Vec<usize> = targets.iter::<i64>().map(|token| token as usize).collect();
        let mut tokens = of_all.chunks(words).zip(targets);
        let answer = |&count: &usize| {
            let mut answer = Self { likelihood: 0.0, greedy: true };
            for (of_words, token) in tokens.by_ref().take(count) {
                answer.likelihood += f64::from(of_words[token]);
                answer.greedy &= of_words.iter().all(|other| *other <= of_words[token]);
            }
            answer
        };
        Ok(batch.text.counts.iter().map(answer).collect())
    }
}
