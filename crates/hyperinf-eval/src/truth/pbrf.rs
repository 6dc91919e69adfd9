use burn::module::Module;
use burn::tensor::{DType, Device};
use hyperinf_curvature::Damping;
use hyperinf_linalg::has_f64_functions;
use hyperinf_scoring::{Options, baselines};
use serde_json::json;

use super::{DampingRule, Proximal, Responses, Truth};
use crate::{Bench, Figure, Findings, Interval, Row, Stage, TruthError, pearson, spearman};

/// Proximal Bregman responses as a ground truth: how the queries' losses respond when the trained model itself moves.
///
/// For each damping factor, λ is the factor times the mean square of all gradients' entries, the same for all blocks:
/// the proximity of the responses and the absolute damping of the scores. Candidates without curvature are compared
/// at every λ. Everything is computed in f64 where the device supports it.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `samples` | 0 to 29 | training images that lose weight, one at a time | at least 2, of the task |
/// | `weight` | 1 | the share of its weight 1/n that an image loses | finite, not 0 |
#[derive(Clone, Debug, PartialEq)]
pub struct PbrfConfig {
    /// The training images.
    pub samples: Vec<usize>,
    /// The share of its weight that an image loses; negative to add weight.
    pub weight: f64,
}

impl Default for PbrfConfig {
    fn default() -> Self {
        Self { samples: (0..30).collect(), weight: 1.0 }
    }
}

impl Truth for PbrfConfig {
    fn name(&self) -> &'static str {
        "pbrf"
    }

    fn figure(&self) -> &'static str {
        "correlation over samples of the scores with the growth of the loss, mean over queries, in [-1, 1]; higher = better"
    }

    fn damping(&self) -> DampingRule {
        let kind = "absolute: factor × mean square of all gradients' entries, the same for all blocks";
        DampingRule { default: 100.0, kind, needed: true }
    }

    fn precision(&self, device: &Device) -> DType {
        let whole = device.supports_dtype(DType::F64) && has_f64_functions(device).unwrap_or(false);
        if whole { DType::F64 } else { DType::F32 }
    }

    fn evaluate(&self, bench: &mut Bench<'_>) -> Result<Findings, TruthError> {
        let models = bench.config().models;
        if models != 1 {
            let expected = "1: the response is one model's".into();
            return Err(TruthError::Setting { name: "models", expected, value: models as f64 });
        }
        let task = bench.config().task.task()?;
        let ensemble = bench.train(&task, [0])?;
        let model = &ensemble.models[0];
        let norms = baselines(model, &ensemble.train)?.gradient_norms;
        let mean_square = norms.iter().map(|norm| norm * norm).sum::<f64>() / (norms.len() * model.num_params()) as f64;

        let dampings = bench.dampings().to_vec();
        let steps = dampings.len() * self.samples.len();
        let mut truths: Vec<(f64, Responses)> = Vec::new();
        for (place, factor) in dampings.iter().enumerate() {
            let proximal = Proximal { weight: self.weight, ..Proximal::new(factor * mean_square) };
            let mut responses =
                Responses { effects: vec![Vec::new(); task.queries.len()], residuals: Vec::new(), steps: Vec::new() };
            for (index, &sample) in self.samples.iter().enumerate() {
                let done = place * self.samples.len() + index;
                bench.report(Stage::Responses, done, steps, &format!("λ {:.1e}", proximal.lambda));
                let one = proximal.responses(model, &ensemble.train, &ensemble.queries, &[sample])?;
                responses.effects.iter_mut().zip(one.effects).for_each(|(all, own)| all.extend(own));
                responses.residuals.extend(one.residuals);
                responses.steps.extend(one.steps);
            }
            truths.push((*factor, responses));
        }

        for candidate in bench.candidates().to_vec() {
            let own = candidate.damping();
            for (factor, truth) in truths.iter().filter(|(factor, _)| own.is_none_or(|own| own == *factor)) {
                let options = Options { damping: Damping::Absolute(factor * mean_square), ..candidate.options.clone() };
                let found = ensemble.score(&candidate, &options)?;
                let figures = self.figures(&found.scores.rows, truth)?;
                bench.add(Row { damping: Some(*factor), ..Row::of(&candidate, &found, figures) });
            }
        }
        let worst = truths.iter().flat_map(|(_, truth)| &truth.residuals).copied().fold(0.0, f64::max);
        let about = format!(
            "Proximal Bregman responses of {} queries to {} of {} training images that lose {} of their weight; \
             correlation over the images, the mean over queries.\nThe minimisations ended at {worst:.1e} of their first \
             gradient or below.",
            task.queries.len(),
            self.samples.len(),
            task.train.len(),
            self.weight,
        );
        let lambdas: Vec<f64> = dampings.iter().map(|factor| factor * mean_square).collect();
        let details = [
            ("samples", json!(self.samples.len())),
            ("weight", json!(self.weight)),
            ("lambda", json!(lambdas)),
            ("largest_residual", json!(worst)),
        ];
        Ok(Findings::new(&task, about, details))
    }
}

impl PbrfConfig {
    /// Mean correlations over the queries, the interval cut to the range of a correlation.
    fn figures(&self, scores: &[Vec<f64>], truth: &Responses) -> Result<Vec<Figure>, TruthError> {
        let (mut ranks, mut linear) = (Vec::new(), Vec::new());
        for (scores, effects) in scores.iter().zip(&truth.effects) {
            let scores: Vec<f64> = self.samples.iter().map(|&sample| scores[sample]).collect();
            ranks.push(spearman(&scores, effects)?);
            linear.push(pearson(&scores, effects)?);
        }
        let [ranks, linear] = [ranks, linear].map(|values| Interval::of(&values).map(|mean| mean.within(-1.0, 1.0)));
        let mut figures = Figure::interval(["spearman", "low", "high"], ranks).to_vec();
        figures.push(Figure::new("pearson", linear.map(|mean| mean.mean)));
        Ok(figures)
    }
}
