use hyperinf_curvature::Damping;
use hyperinf_scoring::{CurvatureFrom, EstimateKind, Options, QueryMode, TaskSource, baselines, self_influence};
use serde_json::json;

use super::{DampingRule, Truth};
use crate::{Bench, Ensemble, Figure, Findings, MethodScores, Row, TruthError, auc, detection_rate, mean_and_error};

/// The shares of the most suspicious images that are inspected.
const SHARES: [(&str, f64); 3] = [("found_10", 0.1), ("found_20", 0.2), ("found_30", 0.3)];
/// Baselines without damping; the self-influence at each damping comes after them.
const BASELINES: [&str; 2] = ["training-loss", "gradient-norm"];

/// AUC, and the share of the wrong labels found at each of [`SHARES`].
type Detection = [f64; 1 + SHARES.len()];

/// Wrong labels as a ground truth: do the most negative scores find them?
///
/// Baselines are the training loss, the gradient's norm and the self-influence of the exact method at each damping.
///
/// | field | default | purpose | range |
/// |---|---|---|---|
/// | `noise` | 0.2 | share of the training images that get a wrong label | at least one image, not all |
/// | `seeds` | 0 to 2 | repetitions with other wrong labels and other models | at least one |
#[derive(Clone, Debug, PartialEq)]
pub struct MislabelConfig {
    /// The share of the training images that get a wrong label.
    pub noise: f64,
    /// The seeds of the wrong labels and, times the number of models, of the trainings.
    pub seeds: Vec<u64>,
}

impl Default for MislabelConfig {
    fn default() -> Self {
        Self { noise: 0.2, seeds: (0..3).collect() }
    }
}

impl MislabelConfig {
    /// Fails unless the noise gives some of the images a wrong label, and not all.
    ///
    /// # Errors
    ///
    /// [`TruthError::Setting`] with the noise.
    pub fn validate(&self, images: usize) -> Result<(), TruthError> {
        let wrong = (self.noise * images as f64).round();
        if wrong >= 1.0 && wrong < images as f64 {
            return Ok(());
        }
        let expected = "a share that gives some images a wrong label and not all".into();
        Err(TruthError::Setting { name: "noise", expected, value: self.noise })
    }
}

impl Truth for MislabelConfig {
    fn name(&self) -> &'static str {
        "mislabel"
    }

    fn figure(&self) -> &'static str {
        "AUC of the negative score, in [0, 1], by chance 0.5, and shares found, in [0, 1]; higher = better; auc_error: standard error over seeds"
    }

    fn damping(&self) -> DampingRule {
        DampingRule { needed: true, ..DampingRule::default() }
    }

    fn evaluate(&self, bench: &mut Bench<'_>) -> Result<Findings, TruthError> {
        let clean = bench.config().task.task()?;
        self.validate(clean.train.len())?;
        super::retrain::some("seeds", self.seeds.len())?;
        let (dampings, candidates) = (bench.dampings().to_vec(), bench.candidates().to_vec());
        let undamped = BASELINES.iter().map(|name| (*name, None));
        let baselines: Vec<_> =
            undamped.chain(dampings.iter().map(|&factor| ("self-influence", Some(factor)))).collect();
        // One value per seed.
        let mut of_baselines: Vec<Vec<Detection>> = vec![Vec::new(); baselines.len()];
        let mut of_candidates: Vec<Vec<Detection>> = vec![Vec::new(); candidates.len()];
        let mut scores: Vec<Option<MethodScores>> = candidates.iter().map(|_| None).collect();
        for &seed in &self.seeds {
            let mut noisy = clean.clone();
            let flipped = noisy.train.mislabel(self.noise, seed)?;
            let models = bench.config().models as u64;
            let ensemble = bench.train(&noisy, (0..models).map(|model| seed * models + model))?;
            for (series, suspicion) in of_baselines.iter_mut().zip(suspicions(&ensemble, &dampings)?) {
                series.push(detection(&suspicion, &flipped)?);
            }
            for (place, candidate) in candidates.iter().enumerate() {
                let options = Options { query: QueryMode::Mean, ..candidate.options.clone() };
                let found = ensemble.score(candidate, &options)?;
                let suspicion: Vec<f64> = found.scores.rows[0].iter().map(|score| -score).collect();
                of_candidates[place].push(detection(&suspicion, &flipped)?);
                scores[place] = Some(match scores[place].take() {
                    Some(before) => before.with_cost_of(&found),
                    None => found,
                });
            }
        }
        for ((name, damping), series) in baselines.into_iter().zip(&of_baselines) {
            let estimate = damping.map(|_| EstimateKind::Empirical);
            bench.add(Row { damping, estimate, ..Row::baseline(name, figures(series)) });
        }
        for ((candidate, series), scores) in candidates.iter().zip(&of_candidates).zip(&scores) {
            if let Some(scores) = scores {
                bench.add(Row::of(candidate, scores, figures(series)));
            }
        }
        let about = format!(
            "Wrong labels: {:.0} % of {} training images, {} seeds; scores for the mean of {} queries. AUC and the share \
             of the wrong labels among the most suspicious images.",
            100.0 * self.noise,
            clean.train.len(),
            self.seeds.len(),
            clean.queries.len(),
        );
        let details = [("noise", json!(self.noise)), ("seeds", json!(self.seeds.len()))];
        Ok(Findings::new(&clean, about, details))
    }
}

/// The suspicion of each image by each baseline, summed over the models.
fn suspicions(ensemble: &Ensemble, dampings: &[f64]) -> Result<Vec<Vec<f64>>, TruthError> {
    let mut sums: Vec<Vec<f64>> = vec![Vec::new(); BASELINES.len() + dampings.len()];
    for model in &ensemble.models {
        let found = baselines(model, &ensemble.train)?;
        let exact = Options::named("exact").expect("the registry has the exact method");
        let mut series = vec![found.losses, found.gradient_norms];
        for &factor in dampings {
            let options = Options { damping: Damping::Relative(factor), ..exact.clone() };
            let train = TaskSource::train(model, &ensemble.train);
            series.push(self_influence(&train, CurvatureFrom::Training, &options)?.values);
        }
        for (sum, values) in sums.iter_mut().zip(series) {
            sum.resize(values.len(), 0.0);
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
    }
    Ok(sums)
}

fn detection(suspicion: &[f64], flipped: &[bool]) -> Result<Detection, TruthError> {
    let mut found = [auc(suspicion, flipped)?, 0.0, 0.0, 0.0];
    for (figure, (_, share)) in found[1..].iter_mut().zip(SHARES) {
        *figure = detection_rate(suspicion, flipped, share)?;
    }
    Ok(found)
}

fn figures(series: &[Detection]) -> Vec<Figure> {
    let of = |place: usize| mean_and_error(&series.iter().map(|found| found[place]).collect::<Vec<_>>());
    let (area, error) = of(0);
    let mut figures = vec![Figure::new("auc", area), Figure::new("auc_error", error)];
    figures.extend(SHARES.iter().enumerate().map(|(place, (name, _))| Figure::new(*name, of(place + 1).0)));
    figures
}
